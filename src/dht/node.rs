//! One DHT node as pure state: datagrams, commands and the passing of time go in, effects come out. It is in one DHT, that
//! of IPv4 or that of IPv6: BEP 32 has them apart.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::Rng;

use super::Mode;
use super::answer::Responder;
use super::join::FEW_NODES;
use super::node_id::Votes;
use super::operation::Request;
use super::pace::Pace;
use super::queries::{Due, Failed, OperationId, Queries};
use super::reachability::Reachability;
use super::recent::Recent;
use super::table::Table;
use super::unresponsive::Unresponsive;
use crate::wire::id::NodeId;
use crate::wire::krpc::{Body, Contact, DecodeError, Message};

mod effects;
mod incoming;
mod maintenance;
mod operations;

use effects::Turn;
pub(super) use effects::{Done, Effects};
use incoming::of_family;
use maintenance::{BUSY, Maintenance};
use operations::Running;

/// Operations under way at once.
const MAX_OPERATIONS: usize = 512;

/// Operations that wait for their first answer at once: those after them start from what these will have learnt, where all
/// would begin with the same few nodes of the table.
const MAX_AT_FIRST: usize = 16;

/// What a node may hold and do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) mode: Mode,
    pub(super) max_items: usize,
    pub(super) max_peers: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    mode: Mode,
    table: Table,
    responder: Responder,
    queries: Queries,
    unresponsive: Unresponsive,
    recent: Recent,
    reachability: Reachability,
    incoming: Pace,
    operations: HashMap<OperationId, Running>,
    operations_started: u64,
    /// Addresses to begin with while the table is empty.
    contacts: Vec<SocketAddr>,
    /// When they were last asked.
    contacted: Option<Instant>,
    votes: Votes,
    /// Nodes being pinged.
    pinging: HashSet<SocketAddr>,
    maintenance: Maintenance,
    refresh: Option<OperationId>,
    /// What is known of the other family's DHT.
    other: Other,
}

/// What a node knows of the DHT of the other family.
#[derive(Debug, Clone, Default)]
pub(super) struct Other {
    /// Nodes in it, to be named to those who want them.
    pub(super) nodes: Arc<[Contact]>,
    /// We are in it and know hardly anybody there: whom we ask is asked for its nodes too.
    pub(super) is_wanted: bool,
}

impl Node {
    pub(super) fn new(now: Instant, rng: &mut impl Rng, id: NodeId, limits: Limits) -> Self {
        Self {
            mode: limits.mode,
            table: Table::new(id),
            responder: Responder::new(now, rng, id, limits.max_items, limits.max_peers),
            queries: Queries::new(now),
            unresponsive: Unresponsive::default(),
            recent: Recent::default(),
            reachability: Reachability::new(now),
            incoming: Pace::incoming(now),
            operations: HashMap::new(),
            operations_started: 0,
            contacts: Vec::new(),
            contacted: None,
            votes: Votes::default(),
            pinging: HashSet::new(),
            maintenance: Maintenance::new(now),
            refresh: None,
            other: Other::default(),
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.table.own_id()
    }

    pub(super) fn good_nodes(&self, now: Instant) -> usize {
        self.table.good_count(now)
    }

    /// Nodes to be remembered over a restart.
    pub(super) fn nodes(&self) -> Vec<Contact> {
        self.table.contacts()
    }

    pub(super) fn stored_items(&self) -> usize {
        self.responder.storage.len()
    }

    /// Tells what is known of the other family's DHT.
    pub(super) fn set_other(&mut self, other: Other) {
        self.other = other;
    }

    /// Whether another operation may be started, or should wait for those under way.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let at_first = self.operations.values().filter(|running| running.is_at_first(now)).count();
        self.operations.len() < MAX_OPERATIONS && at_first < MAX_AT_FIRST && !self.queries.is_congested()
    }

    /// When [`Node::tick`] has something to do.
    pub(super) fn next_wake(&self) -> Instant {
        self.queries.next_due().map_or(self.maintenance.next, |due| due.min(self.maintenance.next))
    }

    /// Joins the network through `contacts`, which also serve whenever the table is empty.
    pub(super) fn join(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        contacts: Vec<SocketAddr>,
    ) -> (OperationId, Effects) {
        let mut turn = Turn::new(now, rng);
        let seeds = contacts.clone();
        self.contacts = contacts;
        self.contacted = Some(now);
        let id = self.begin(&mut turn, Request::Nodes(self.id().into()), seeds);
        (id, turn.effects)
    }

    /// Takes contacts that were named elsewhere: while few nodes are known, they are asked for more.
    pub(super) fn hear(&mut self, now: Instant, rng: &mut impl Rng, contacts: Vec<SocketAddr>) -> Effects {
        let mut turn = Turn::new(now, rng);
        if self.good_nodes(now) < FEW_NODES && !self.is_refreshing() {
            let own = self.id().into();
            self.refresh = Some(self.begin(&mut turn, Request::Nodes(own), contacts));
        }
        turn.effects
    }

    /// Starts an operation.
    pub(super) fn start(&mut self, now: Instant, rng: &mut impl Rng, request: Request) -> (OperationId, Effects) {
        let mut turn = Turn::new(now, rng);
        let id = self.begin(&mut turn, request, Vec::new());
        (id, turn.effects)
    }

    /// Forgets an operation; answers to its queries are still good for the table.
    pub(super) fn cancel(&mut self, id: OperationId) {
        self.operations.remove(&id);
        self.queries.forget_waiting(id);
    }

    /// Takes a datagram.
    pub(super) fn handle(&mut self, now: Instant, rng: &mut impl Rng, from: SocketAddr, datagram: &[u8]) -> Effects {
        let mut turn = Turn::new(now, rng);
        match Message::decode(datagram) {
            Ok(Message { transaction, body: Body::Query(query), .. }) => {
                self.query(&mut turn, from, transaction, &query);
            }
            Ok(Message { transaction, ip, body: Body::Response(response), .. }) => {
                let (response, others) = of_family(from, response);
                self.response(&mut turn, from, &transaction, ip, &response, others);
            }
            // An error is an answer too: the node is there, it just does not do what was asked.
            Ok(Message { transaction, body: Body::Error(error), .. }) => {
                match self.queries.answered(now, from, &transaction) {
                    Some(purpose) => {
                        self.unresponsive.heard(from);
                        self.unanswered(&mut turn, from, purpose, Some(error.code));
                    }
                    None => turn.effects.dropped = Some("unexpected"),
                }
            }
            Err(DecodeError::Refused { transaction, error }) => {
                if self.may_answer(&mut turn, from) {
                    self.reply(&mut turn, from, transaction, Body::Error(error));
                }
            }
            Err(DecodeError::Bencode(_) | DecodeError::NotKrpc(_)) => turn.effects.dropped = Some("malformed"),
        }
        turn.effects
    }

    /// Does what has become due.
    pub(super) fn tick(&mut self, now: Instant, rng: &mut impl Rng) -> Effects {
        let mut turn = Turn::new(now, rng);
        while let Some(due) = self.queries.due(now) {
            match due {
                Due::Send(to, datagram) => turn.effects.send.push((to, datagram)),
                Due::Slow(transaction, purpose) => self.slow(&mut turn, transaction, purpose),
                Due::Failed(Failed { to, purpose, repeated }) => {
                    self.unresponsive.failed(now, to, repeated);
                    self.recent.failed(to);
                    self.look_in_by(now + BUSY);
                    if let Some(id) = purpose.expected_id() {
                        self.table.failed(&Contact { id, addr: to }, repeated);
                    }
                    self.unanswered(&mut turn, to, purpose, None);
                }
            }
        }
        if now >= self.maintenance.next {
            self.maintain(&mut turn);
        }
        turn.effects
    }

    /// Whether it tells others to leave it out of their tables (BEP 43).
    pub(super) fn is_read_only(&self) -> bool {
        self.mode == Mode::Client || self.reachability.is_read_only()
    }

    /// The number of the item that it keeps at `target` for others.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn kept(&self, now: Instant, target: &crate::wire::id::Target) -> Option<i64> {
        match self.responder.storage.get(now, target)? {
            super::storage::Item::Mutable(item) => Some(item.seq()),
            super::storage::Item::Immutable(_) => None,
        }
    }

    /// What must hold after every step.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        self.table.check_invariants();
        self.queries.check_invariants();
        assert!(self.pinging.len() <= maintenance::MAX_PINGS);
    }
}

#[cfg(test)]
mod tests;
