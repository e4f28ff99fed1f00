//! What a step of the node wants done outside.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::dht::FoundPeer;
use crate::dht::operation::Outcome;
use crate::dht::queries::OperationId;
use crate::wire::item::VerifiedItem;

/// An operation that is over.
#[derive(Debug)]
pub(in crate::dht) struct Done {
    pub(in crate::dht) id: OperationId,
    /// Names it in the metrics.
    pub(in crate::dht) kind: &'static str,
    pub(in crate::dht) outcome: Outcome,
    pub(in crate::dht) took: Duration,
    /// Queries sent for it.
    pub(in crate::dht) sent: usize,
}

/// What is to be done outside.
#[must_use]
#[derive(Debug, Default)]
pub(in crate::dht) struct Effects {
    /// Datagrams to send.
    pub(in crate::dht) send: Vec<(SocketAddr, Vec<u8>)>,
    /// Peers found by lookups that go on.
    pub(in crate::dht) found: Vec<(OperationId, FoundPeer)>,
    /// Items found by gets that go on, each newer than the one before.
    pub(in crate::dht) items: Vec<(OperationId, VerifiedItem)>,
    /// Operations that are over.
    pub(in crate::dht) done: Vec<Done>,
    /// The query that was answered.
    pub(in crate::dht) answered: Option<&'static str>,
    /// Nodes of the other family's DHT that were named to us.
    pub(in crate::dht) heard: Vec<SocketAddr>,
    /// Why the datagram was not handled.
    pub(in crate::dht) dropped: Option<&'static str>,
}

/// One step of the node: what it is given, and what it wants done.
pub(super) struct Turn<'r, R> {
    pub(super) now: Instant,
    pub(super) rng: &'r mut R,
    pub(super) effects: Effects,
}

impl<'r, R: Rng> Turn<'r, R> {
    pub(super) fn new(now: Instant, rng: &'r mut R) -> Self {
        Self { now, rng, effects: Effects::default() }
    }
}
