//! Operations under way in a node: they are begun, told what came of their queries, and do what they want next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use super::{Done, Node, Turn};
use crate::dht::lookup::{Lookup, Question};
use crate::dht::operation::{Operation, Request, Step};
use crate::dht::queries::{Busy, OperationId, Purpose};
use crate::dht::unresponsive::Standing;
use crate::dht::{FoundPeer, Mode};
use crate::wire::krpc::{Method, Query, Want};

/// Nodes of our own table a lookup starts from, and nodes heard of lately. More than K, so that a few dead ones cost no
/// time.
const START_NODES: usize = 16;

/// How long a lookup may take, and storing after it. Both are over in a second or two unless most of the network is gone.
pub(super) const OPERATION_TIME: Duration = Duration::from_secs(20);

/// When the first answer to an operation is due, on most networks.
const FIRST_ANSWER: Duration = Duration::from_millis(200);

/// When nobody has answered, how long not to try again for each new operation.
const ALONE_FOR: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Running {
    pub(super) operation: Operation,
    started: Instant,
    pub(super) deadline: Instant,
    /// Queries sent, repeated ones and those that store included.
    pub(super) sent: usize,
}

impl Running {
    /// Whether the first answer to it may still come any moment.
    pub(super) fn is_at_first(&self, now: Instant) -> bool {
        now.duration_since(self.started) < FIRST_ANSWER && !self.operation.is_heard()
    }
}

impl Node {
    pub(super) fn begin(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        request: Request,
        mut seeds: Vec<SocketAddr>,
    ) -> OperationId {
        self.operations_started += 1;
        let id = OperationId(self.operations_started);
        let target = request.target();
        let mut nodes = self.table.closest(&target, START_NODES, |_| true);
        nodes.extend(self.recent.closest(turn.now, &target, START_NODES));
        if nodes.is_empty() && self.contacted.is_none_or(|at| turn.now.duration_since(at) > ALONE_FOR) {
            // Alone, or cut off: whoever was or should be there may be back.
            self.contacted = Some(turn.now);
            seeds.extend(self.contacts.iter().copied().chain(self.table.addresses()));
        }
        seeds.sort_unstable();
        seeds.dedup();
        let mut own_item = None;
        if self.mode == Mode::Server {
            if let Question::Item(_) = request.question() {
                own_item = self.responder.storage.get(turn.now, &target).cloned();
            }
            if let Request::GetPeers(info_hash) = &request {
                let peers = self.responder.peers.sample(turn.now, info_hash, turn.rng);
                // Each of them announced itself, so it is itself who named it.
                turn.effects.found.extend(peers.into_iter().map(|addr| (id, FoundPeer { addr, from: addr })));
            }
        }
        let lookup = Lookup::new(self.id(), target, request.question(), nodes, seeds);
        let mut operation = Operation::new(request, lookup, own_item);
        turn.effects.items.extend(operation.news().map(|item| (id, item)));
        self.look_in_by(turn.now + OPERATION_TIME);
        let running = Running { operation, started: turn.now, deadline: turn.now + OPERATION_TIME, sent: 0 };
        self.operations.insert(id, running);
        self.advance(turn, id);
        id
    }

    /// Tells an operation something and does what it wants next.
    pub(super) fn with_operation(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        id: OperationId,
        tell: impl FnOnce(&mut Operation),
    ) {
        if let Some(running) = self.operations.get_mut(&id) {
            tell(&mut running.operation);
            self.advance(turn, id);
        }
    }

    pub(super) fn advance(&mut self, turn: &mut Turn<'_, impl Rng>, id: OperationId) {
        while let Some(running) = self.operations.get_mut(&id) {
            let steps = running.operation.next(&|addr| match self.unresponsive.standing(turn.now, addr) {
                Standing::Fine if self.queries.is_busy(turn.now, addr) => Standing::Busy,
                standing => standing,
            });
            if steps.is_empty() {
                break;
            }
            self.perform(turn, id, steps);
        }
    }

    pub(super) fn perform(&mut self, turn: &mut Turn<'_, impl Rng>, id: OperationId, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Ask(asked, method) => {
                    let sent = self.ask(turn, asked.addr, Purpose::Lookup(id, asked), method);
                    let Some(running) = self.operations.get_mut(&id) else { continue };
                    match sent {
                        Ok(true) => running.sent += 1,
                        Ok(false) => running.operation.put_off(asked),
                        Err(Busy) => running.operation.failed(asked),
                    }
                }
                Step::Store(contact, method) => {
                    let sent = self.ask(turn, contact.addr, Purpose::Store(id, contact), method);
                    let Some(running) = self.operations.get_mut(&id) else { continue };
                    match sent {
                        Ok(_) => running.sent += 1,
                        Err(Busy) => running.operation.stored(&contact, Err(None)),
                    }
                }
                Step::Keep(item) => {
                    if self.mode == Mode::Server {
                        // A full storage may refuse it: then others are nearer to it than we are.
                        let _ = self.responder.storage.keep_own(turn.now, item);
                    }
                }
                Step::Decide(item, cas) => {
                    let result = self.responder.storage.put_mutable(turn.now, item, Some(cas));
                    let Some(running) = self.operations.get_mut(&id) else { continue };
                    running.operation.decided(result.map_err(|error| error.code));
                }
                Step::Done(outcome) => {
                    if let Some(Running { operation, started, sent, .. }) = self.operations.remove(&id) {
                        self.queries.forget_waiting(id);
                        let took = turn.now.duration_since(started);
                        turn.effects.done.push(Done { id, kind: operation.kind(), outcome, took, sent });
                    }
                }
            }
        }
    }

    /// Sends a query: `true` now, `false` in its turn.
    pub(super) fn ask(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        to: SocketAddr,
        purpose: Purpose,
        method: Method,
    ) -> Result<bool, Busy> {
        let want = self.other.is_wanted.then_some(Want { v4: true, v6: true });
        let query = Query { id: self.id(), read_only: self.is_read_only(), want, method };
        self.reachability.sent(turn.now, to);
        let datagram = self.queries.start(turn.now, turn.rng, to, purpose, query)?;
        let is_sent = datagram.is_some();
        turn.effects.send.extend(datagram.map(|datagram| (to, datagram)));
        Ok(is_sent)
    }
}
