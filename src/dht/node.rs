//! One DHT node as pure state: datagrams, commands and the passing of time go in, effects come out. It is in one DHT, that
//! of IPv4 or that of IPv6: BEP 32 has them apart.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;

use super::answer::{Known, Shelf};
use super::join::FEW_NODES;
use super::lookup::{Lookup, Question};
use super::node_id::{self, Votes};
use super::operation::{Operation, Outcome, Request, Step};
use super::pace::Pace;
use super::queries::{Busy, Due, Failed, OperationId, Purpose, Queries, TransactionId};
use super::scope::may_name;
use super::silent::Silent;
use super::table::Table;
use super::{FoundPeer, Mode, VERSION};
use crate::wire::id::{NodeId, Target};
use crate::wire::item::VerifiedItem;
use crate::wire::krpc::{Body, Contact, DecodeError, Message, Method, Query, Response, Want};

/// Nodes of our own table a lookup starts from. More than K, so that a few dead ones cost no time.
const START_NODES: usize = 16;

/// How long a lookup may take, and storing after it. Both are over in a second or two unless most of the network is gone.
const OPERATION_TIME: Duration = Duration::from_secs(20);

/// Operations under way at once.
const MAX_OPERATIONS: usize = 512;

/// When nobody has answered, how long not to try again for each new operation.
const ALONE_FOR: Duration = Duration::from_secs(10);

/// Pings under way at once to nodes that might enter the table.
const MAX_PINGS: usize = 32;

/// Nodes of the other family's DHT taken from one answer: honest ones name K.
const MAX_HEARD: usize = 8;

/// How often the node looks after itself, and after how many such times it does what is needed less often.
const UPKEEP: Duration = Duration::from_secs(1);
const REFRESH_EVERY: u64 = 10;
const TIDY_EVERY: u64 = 60;

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
    shelf: Shelf,
    queries: Queries,
    silent: Silent,
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
    next_upkeep: Instant,
    upkeeps: u64,
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

#[derive(Debug)]
struct Running {
    operation: Operation,
    started: Instant,
    deadline: Instant,
    /// Queries sent, repeated ones and those that store included.
    sent: usize,
}

/// An operation that is over.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: OperationId,
    /// Names it in the metrics.
    pub(super) kind: &'static str,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    /// Queries sent for it.
    pub(super) sent: usize,
}

/// What is to be done outside.
#[must_use]
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Datagrams to send.
    pub(super) send: Vec<(SocketAddr, Vec<u8>)>,
    /// Peers found by lookups that go on.
    pub(super) found: Vec<(OperationId, FoundPeer)>,
    /// Items found by gets that go on, each newer than the one before.
    pub(super) items: Vec<(OperationId, VerifiedItem)>,
    /// Operations that are over.
    pub(super) done: Vec<Done>,
    /// The query that was answered.
    pub(super) answered: Option<&'static str>,
    /// Nodes of the other family's DHT that were named to us.
    pub(super) heard: Vec<SocketAddr>,
    /// Why the datagram was not handled.
    pub(super) dropped: Option<&'static str>,
}

/// One step of the node: what it is given, and what it wants done.
struct Turn<'r, R> {
    now: Instant,
    rng: &'r mut R,
    effects: Effects,
}

impl<'r, R: Rng> Turn<'r, R> {
    fn new(now: Instant, rng: &'r mut R) -> Self {
        Self { now, rng, effects: Effects::default() }
    }
}

impl Node {
    pub(super) fn new(now: Instant, rng: &mut impl Rng, id: NodeId, limits: Limits) -> Self {
        Self {
            mode: limits.mode,
            table: Table::new(id),
            shelf: Shelf::new(now, rng, id, limits.max_items, limits.max_peers),
            queries: Queries::new(now),
            silent: Silent::default(),
            incoming: Pace::incoming(now),
            operations: HashMap::new(),
            operations_started: 0,
            contacts: Vec::new(),
            contacted: None,
            votes: Votes::default(),
            pinging: HashSet::new(),
            next_upkeep: now + UPKEEP,
            upkeeps: 0,
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
        self.shelf.storage.len()
    }

    /// Tells what is known of the other family's DHT.
    pub(super) fn set_other(&mut self, other: Other) {
        self.other = other;
    }

    /// Whether another operation may be started, or should wait for those under way.
    pub(super) fn has_room(&self) -> bool {
        self.operations.len() < MAX_OPERATIONS && !self.queries.is_congested()
    }

    /// When [`Node::tick`] has something to do.
    pub(super) fn next_wake(&self) -> Instant {
        self.queries.next_due().map_or(self.next_upkeep, |due| due.min(self.next_upkeep))
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
                        self.silent.heard(from);
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
                    self.silent.failed(now, to, repeated);
                    if let Some(id) = purpose.expected_id() {
                        self.table.failed(&Contact { id, addr: to }, repeated);
                    }
                    self.unanswered(&mut turn, to, purpose, None);
                }
            }
        }
        if now >= self.next_upkeep {
            self.next_upkeep = now + UPKEEP;
            self.upkeep(&mut turn);
        }
        turn.effects
    }

    /// Whether it keeps something at `target` for others.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn keeps(&self, now: Instant, target: &Target) -> bool {
        self.shelf.storage.get(now, target).is_some()
    }

    /// What must hold after every step.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        self.table.check_invariants();
        self.queries.check_invariants();
        assert!(self.pinging.len() <= MAX_PINGS);
    }

    fn begin(&mut self, turn: &mut Turn<'_, impl Rng>, request: Request, mut seeds: Vec<SocketAddr>) -> OperationId {
        self.operations_started += 1;
        let id = OperationId(self.operations_started);
        let target = request.target();
        let nodes = self.table.closest(&target, START_NODES);
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
                own_item = self.shelf.storage.get(turn.now, &target).cloned();
            }
            if let Request::GetPeers(info_hash) = &request {
                let peers = self.shelf.peers.sample(turn.now, info_hash, turn.rng);
                // Each of them announced itself, so it is itself who named it.
                turn.effects.found.extend(peers.into_iter().map(|addr| (id, FoundPeer { addr, from: addr })));
            }
        }
        let lookup = Lookup::new(self.id(), target, request.question(), nodes, seeds);
        let mut operation = Operation::new(request, lookup, own_item);
        turn.effects.items.extend(operation.news().map(|item| (id, item)));
        let running = Running { operation, started: turn.now, deadline: turn.now + OPERATION_TIME, sent: 0 };
        self.operations.insert(id, running);
        self.advance(turn, id);
        id
    }

    fn query(&mut self, turn: &mut Turn<'_, impl Rng>, from: SocketAddr, transaction: Vec<u8>, query: &Query) {
        if !self.may_answer(turn, from) {
            return;
        }
        self.silent.heard(from);
        turn.effects.answered = Some(query.method.name());
        let known = Known { table: &self.table, others: &self.other.nodes };
        let body = match self.shelf.answer(turn.now, turn.rng, known, from, query) {
            Ok(response) => Body::Response(response),
            Err(error) => Body::Error(error),
        };
        self.reply(turn, from, transaction, body);
        let contact = Contact { id: query.id, addr: from };
        // BEP 43: nodes that say they are read-only must not be put into routing tables.
        if !query.read_only && self.table.queried(turn.now, contact) {
            self.ping(turn, contact);
        }
    }

    fn response(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        from: SocketAddr,
        transaction: &[u8],
        our_address: Option<SocketAddr>,
        response: &Response,
        others: Vec<Contact>,
    ) {
        let Some(purpose) = self.queries.answered(turn.now, from, transaction) else {
            turn.effects.dropped = Some("unexpected");
            return;
        };
        self.silent.heard(from);
        let heard = others.into_iter().map(|contact| contact.addr).filter(|addr| may_name(from.ip(), *addr));
        turn.effects.heard.extend(heard.take(MAX_HEARD));
        if let Some(other) = purpose.expected_id().filter(|id| *id != response.id) {
            self.table.failed(&Contact { id: other, addr: from }, true);
        }
        if let Some(doubtful) = self.table.answered(turn.now, Contact { id: response.id, addr: from }) {
            self.ping(turn, doubtful);
        }
        match purpose {
            Purpose::Ping(_) => {
                self.pinging.remove(&from);
            }
            Purpose::Lookup(id, asked) => {
                let (mut found, mut news) = (Vec::new(), None);
                self.with_operation(turn, id, |operation| {
                    found = operation.answered(asked, response);
                    news = operation.news();
                });
                turn.effects.found.extend(found.into_iter().map(|peer| (id, peer)));
                turn.effects.items.extend(news.map(|item| (id, item)));
            }
            Purpose::Store(id, contact) => {
                self.with_operation(turn, id, |operation| operation.stored(&contact, Ok(())));
            }
        }
        if let Some(ip) = our_address.and_then(|ours| self.votes.count(from.ip(), ours.ip()))
            && !node_id::fits(&self.id(), ip)
        {
            let id = node_id::for_address(ip, turn.rng);
            self.table.rehome(id);
            self.shelf.storage.rehome(id);
            self.look_around(turn, id.into());
        }
    }

    /// A query got no answer, or an error with a code.
    fn unanswered(&mut self, turn: &mut Turn<'_, impl Rng>, addr: SocketAddr, purpose: Purpose, code: Option<i64>) {
        match purpose {
            Purpose::Ping(_) => {
                self.pinging.remove(&addr);
            }
            Purpose::Lookup(id, asked) => self.with_operation(turn, id, |operation| operation.failed(asked)),
            Purpose::Store(id, contact) => {
                self.with_operation(turn, id, |operation| operation.stored(&contact, Err(code)));
            }
        }
    }

    /// A query got no answer yet. A store is repeated, since a lost one would cost a copy and storing twice does no harm,
    /// and so is a ping, or nodes would be thrown out for a lost datagram.
    fn slow(&mut self, turn: &mut Turn<'_, impl Rng>, transaction: TransactionId, purpose: Purpose) {
        let (operation, again) = match purpose {
            Purpose::Ping(_) => (None, true),
            Purpose::Store(id, _) => (Some(id), true),
            Purpose::Lookup(id, asked) => {
                (Some(id), self.operations.get_mut(&id).is_some_and(|running| running.operation.slow(asked)))
            }
        };
        if again && let Some(repeated) = self.queries.repeat(turn.now, transaction) {
            turn.effects.send.push(repeated);
            if let Some(running) = operation.and_then(|id| self.operations.get_mut(&id)) {
                running.sent += 1;
            }
        }
        if let Some(id) = operation {
            self.advance(turn, id);
        }
    }

    fn upkeep(&mut self, turn: &mut Turn<'_, impl Rng>) {
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

    fn is_refreshing(&self) -> bool {
        self.refresh.is_some_and(|id| self.operations.contains_key(&id))
    }

    fn look_around(&mut self, turn: &mut Turn<'_, impl Rng>, point: Target) {
        self.refresh = Some(self.begin(turn, Request::Nodes(point), Vec::new()));
    }

    fn ping(&mut self, turn: &mut Turn<'_, impl Rng>, contact: Contact) {
        let Contact { id, addr } = contact;
        if self.pinging.len() < MAX_PINGS
            && !self.pinging.contains(&addr)
            && self.ask(turn, addr, Purpose::Ping(Some(id)), Method::Ping).is_ok()
        {
            self.pinging.insert(addr);
        }
    }

    /// Whether a query is to be answered at all.
    fn may_answer(&mut self, turn: &mut Turn<'_, impl Rng>, from: SocketAddr) -> bool {
        turn.effects.dropped = match self.mode {
            Mode::Client => Some("read_only"),
            Mode::Server if from.port() == 0 || !self.incoming.admit(turn.now, from) => Some("rate"),
            Mode::Server => None,
        };
        turn.effects.dropped.is_none()
    }

    fn reply(&mut self, turn: &mut Turn<'_, impl Rng>, to: SocketAddr, transaction: Vec<u8>, body: Body) {
        self.queries.charge(turn.now, to);
        let message = Message { transaction, version: Some(VERSION.to_vec()), ip: Some(to), body };
        turn.effects.send.push((to, message.encode()));
    }

    /// Tells an operation something and does what it wants next.
    fn with_operation(&mut self, turn: &mut Turn<'_, impl Rng>, id: OperationId, tell: impl FnOnce(&mut Operation)) {
        if let Some(running) = self.operations.get_mut(&id) {
            tell(&mut running.operation);
            self.advance(turn, id);
        }
    }

    fn advance(&mut self, turn: &mut Turn<'_, impl Rng>, id: OperationId) {
        while let Some(running) = self.operations.get_mut(&id) {
            let steps = running.operation.next(&|addr| self.silent.standing(turn.now, addr));
            if steps.is_empty() {
                break;
            }
            self.perform(turn, id, steps);
        }
    }

    fn perform(&mut self, turn: &mut Turn<'_, impl Rng>, id: OperationId, steps: Vec<Step>) {
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
                        let _ = self.shelf.storage.keep_own(turn.now, item);
                    }
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
    fn ask(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        to: SocketAddr,
        purpose: Purpose,
        method: Method,
    ) -> Result<bool, Busy> {
        let want = self.other.is_wanted.then_some(Want { v4: true, v6: true });
        let query = Query { id: self.id(), read_only: self.mode == Mode::Client, want, method };
        let datagram = self.queries.start(turn.now, turn.rng, to, purpose, query)?;
        let is_sent = datagram.is_some();
        turn.effects.send.extend(datagram.map(|datagram| (to, datagram)));
        Ok(is_sent)
    }
}

/// A response with the nodes of the family that it came over where lookups look for them, and the nodes of the other one.
fn of_family(from: SocketAddr, response: Response) -> (Response, Vec<Contact>) {
    let Response { nodes, nodes6, .. } = response;
    let (ours, others) = if from.is_ipv4() { (nodes, nodes6) } else { (nodes6, nodes) };
    (Response { nodes: ours, nodes6: None, ..response }, others.unwrap_or_default())
}
