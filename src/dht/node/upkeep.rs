//! What a node does unasked: it ends what takes too long, looks after its table, and forgets what is too old.

use std::time::Duration;

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

/// How often the node looks after itself, and after how many such times it does what is needed less often.
pub(super) const UPKEEP: Duration = Duration::from_secs(1);
const REFRESH_EVERY: u64 = 10;
const TIDY_EVERY: u64 = 60;

impl Node {
    pub(super) fn upkeep(&mut self, turn: &mut Turn<'_, impl Rng>) {
        self.upkeeps += 1;
        let late = self.operations.iter().filter(|(_, running)| running.deadline <= turn.now).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            if let Some(running) = self.operations.get_mut(&id) {
                running.deadline = turn.now + OPERATION_TIME;
                let steps = running.operation.hurry();
                self.perform(turn, id, steps);
                self.advance(turn, id);
            }
        }
        if self.mode == Mode::Client {
            return;
        }
        if let Some(contact) = self.table.questionable(turn.now) {
            self.ping(turn, contact);
        }
        if self.upkeeps.is_multiple_of(REFRESH_EVERY)
            && !self.is_refreshing()
            && let Some(point) = self.table.stale_point(turn.now, turn.rng)
        {
            self.look_around(turn, point);
        }
        if self.upkeeps.is_multiple_of(TIDY_EVERY) {
            self.shelf.tidy(turn.now, turn.rng);
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
