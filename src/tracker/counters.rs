//! The metrics that move with every message of a WebSocket, found once: a look-up by label each time would cost as much
//! as the message's own way through the table.

use prometheus::IntCounter;

use crate::metrics;

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) announces: IntCounter,
    pub(super) scrapes: IntCounter,
    pub(super) errors: IntCounter,
    pub(super) offers: IntCounter,
    pub(super) answers: IntCounter,
    pub(super) resident_offers: IntCounter,
    pub(super) resident_answers: IntCounter,
    pub(super) unexpected_answer: IntCounter,
    pub(super) slow_reader: IntCounter,
    pub(super) busy_reader: IntCounter,
    pub(super) offer_pace: IntCounter,
}

impl Counters {
    pub(super) fn new(metrics: &metrics::Tracker) -> Self {
        let relayed = |kind| metrics.relayed.with_label_values(&[kind]);
        let dropped = |reason| metrics.dropped.with_label_values(&[reason]);
        Self {
            announces: metrics.announces.with_label_values(&["ws"]),
            scrapes: metrics.scrapes.with_label_values(&["ws"]),
            errors: metrics.errors.with_label_values(&["ws"]),
            offers: relayed("offer"),
            answers: relayed("answer"),
            resident_offers: relayed("resident_offer"),
            resident_answers: relayed("resident_answer"),
            unexpected_answer: dropped("unexpected_answer"),
            slow_reader: dropped("slow_reader"),
            busy_reader: dropped("busy_reader"),
            offer_pace: dropped("offer_pace"),
        }
    }
}
