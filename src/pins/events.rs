//! What happened to pins, numbered, so that somebody who was away can ask for what he missed. Pure.

use std::collections::VecDeque;

use super::ids::{PinId, Unix, Who};
use super::pin::{Reason, Status};
use crate::wire::id::InfoHash;

/// Events remembered, in memory and on disk; some 200 bytes each.
pub const MAX_EVENTS: usize = 10_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The pin was made.
    Created,
    /// Its owner changed it.
    Changed,
    /// It stands differently.
    Status {
        /// Where.
        status: Status,
        /// What is wrong, if anything is.
        reason: Option<Reason>,
    },
    /// Another version is served.
    Current {
        /// Its number.
        seq: i64,
        /// Its torrent.
        info_hash: InfoHash,
    },
    /// Its owner deleted it.
    Deleted,
    /// Its time was over.
    Expired,
}

impl EventKind {
    /// The name in the API.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Status { .. } => "status",
            Self::Current { .. } => "current",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
        }
    }
}

/// Something that happened to a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Grows by one with each, also over restarts.
    pub number: u64,
    /// When.
    pub at: Unix,
    /// Whose pin it is.
    pub owner: Who,
    /// The pin.
    pub pin: PinId,
    /// What.
    pub kind: EventKind,
}

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Events {
    last: u64,
    kept: VecDeque<Event>,
}

impl Events {
    /// What was read from disk, oldest first.
    pub(super) fn loaded(events: Vec<Event>) -> Self {
        Self { last: events.last().map_or(0, |event| event.number), kept: events.into() }
    }

    pub(super) fn push(&mut self, pin: PinId, owner: Who, kind: EventKind, at: Unix) -> Event {
        self.last += 1;
        let event = Event { number: self.last, at, owner, pin, kind };
        if self.kept.len() >= MAX_EVENTS {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        event
    }

    /// The number of the newest.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The number below which events are no longer kept.
    pub(super) fn first(&self) -> u64 {
        self.kept.front().map_or(self.last + 1, |event| event.number)
    }

    /// Those past `number` that `who` may see, oldest first.
    pub(super) fn after(&self, who: Who, number: u64) -> impl Iterator<Item = &Event> {
        let from = self.kept.partition_point(|event| event.number <= number);
        let seen = move |event: &&Event| who == Who::Operator || event.owner == who;
        self.kept.range(from..).filter(seen)
    }
}
