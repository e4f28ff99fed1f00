//! What a node does unasked: it ends what takes too long, looks after its table, and forgets what is too old.

use std::time::{Duration, Instant};

use rand::Rng;

use super::operations::OPERATION_TIME;
use super::{Node, Turn};
use crate::dht::Mode;
use crate::dht::operation::Request;
use crate::dht::queries::Purpose;
use crate::wire::id::Target;
use crate::wire::krpc::{Contact, Method};

/// Pings under way at once to nodes that might enter the table.
pub(super) const MAX_PINGS: usize = 32;

/// Time between two looks after itself when there is work left.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// Time between two looks for what has expired; tokens are good for half a minute more or less.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// Longest time between two looks after itself, and shortest between two searches for new nodes.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// When the node looks after itself, and when it did.
#[derive(Debug)]
pub(super) struct Maintenance {
    pub(super) next: Instant,
    refreshed: Instant,
    expired: Instant,
}

impl Maintenance {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + BUSY, refreshed: now, expired: now }
    }
}

impl Node {
    pub(super) fn maintain(&mut self, turn: &mut Turn<'_, impl Rng>) {
        self.hurry_late(turn);
        if self.mode == Mode::Server {
            self.reachability.conclude(turn.now);
            self.look_after_table(turn);
            if turn.now.duration_since(self.maintenance.expired) >= EXPIRE_EVERY {
                self.maintenance.expired = turn.now;
                self.responder.expire(turn.now, turn.rng);
            }
        }
        let deadline = self.operations.values().map(|running| running.deadline).min();
        let table = self.table.next_due(turn.now).filter(|_| self.mode == Mode::Server);
        let next = deadline.into_iter().chain(table).fold(turn.now + LOOK_EVERY, Instant::min);
        self.maintenance.next = next.max(turn.now + BUSY);
    }

    /// Something is to be looked at by then.
    pub(super) fn look_in_by(&mut self, at: Instant) {
        self.maintenance.next = self.maintenance.next.min(at);
    }

    fn hurry_late(&mut self, turn: &mut Turn<'_, impl Rng>) {
        let late = self.operations.iter().filter(|(_, running)| running.deadline <= turn.now).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            if let Some(running) = self.operations.get_mut(&id) {
                running.deadline = turn.now + OPERATION_TIME;
                let steps = running.operation.hurry();
                self.perform(turn, id, steps);
                self.advance(turn, id);
            }
        }
    }

    fn look_after_table(&mut self, turn: &mut Turn<'_, impl Rng>) {
        if let Some(contact) = self.table.questionable(turn.now) {
            self.ping(turn, contact);
        }
        if turn.now.duration_since(self.maintenance.refreshed) >= LOOK_EVERY
            && !self.is_refreshing()
            && let Some(point) = self.table.stale_point(turn.now, turn.rng)
        {
            self.maintenance.refreshed = turn.now;
            self.look_around(turn, point);
        }
    }

    pub(super) fn is_refreshing(&self) -> bool {
        self.refresh.is_some_and(|id| self.operations.contains_key(&id))
    }

    pub(super) fn look_around(&mut self, turn: &mut Turn<'_, impl Rng>, point: Target) {
        self.refresh = Some(self.begin(turn, Request::Nodes(point), Vec::new()));
    }

    pub(super) fn ping(&mut self, turn: &mut Turn<'_, impl Rng>, contact: Contact) {
        let Contact { id, addr } = contact;
        if self.pinging.len() < MAX_PINGS
            && !self.pinging.contains(&addr)
            && self.ask(turn, addr, Purpose::Ping(Some(id)), Method::Ping).is_ok()
        {
            self.pinging.insert(addr);
        }
    }
}
