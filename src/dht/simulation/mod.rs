//! Many nodes in one process, in fake time, over a network that delays and loses datagrams. They run the code that the
//! server runs; only the sockets and the clock are made up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::join::FEW_NODES;
use super::node::{Done, Effects, Limits, Node};
use super::operation::Request;
use super::queries::OperationId;
use super::{FoundPeer, Mode, node_id};

mod liars;
pub(crate) mod scale;
#[cfg(test)]
mod tests;

use liars::Liars;

/// How a network is made.
#[derive(Debug, Clone)]
pub(super) struct Terrain {
    pub(super) seed: u64,
    /// The part of the datagrams that is lost.
    pub(super) loss: f64,
    /// Whether nodes are spread over the internet, each on an address of its own, or share one host.
    pub(super) public: bool,
    /// The shortest and the longest way from a node to the middle of the network; most are near the shortest.
    pub(super) ways: (Duration, Duration),
    /// One datagram in this many is followed by something hostile.
    pub(super) hostility: Option<u32>,
    /// Whether every step is checked. That is slow.
    pub(super) checked: bool,
}

/// A node, or what is left of it.
struct Host {
    addr: SocketAddr,
    /// `None` once it is gone.
    node: Option<Box<Node>>,
    /// How long a datagram takes between it and the middle of the network.
    way: Duration,
    /// The earliest wake-up in the queue.
    wake: Instant,
    is_liar: bool,
    /// Behind a firewall: whom it sent something, and when.
    sent_to: Option<HashMap<SocketAddr, Instant>>,
}

/// How long a firewall lets somebody in who was sent something (RFC 4787).
const PINHOLE: Duration = Duration::from_secs(120);

/// Something that will happen.
struct Event {
    at: Instant,
    /// Keeps equal times in order.
    serial: u64,
    what: What,
}

enum What {
    Arrival { from: SocketAddr, to: SocketAddr, datagram: Vec<u8> },
    Wake(usize),
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}

/// An operation of a node.
pub(super) type Ticket = (usize, OperationId);

pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) rng: StdRng,
    terrain: Terrain,
    hosts: Vec<Host>,
    by_addr: HashMap<SocketAddr, usize>,
    events: BinaryHeap<Reverse<Event>>,
    serial: u64,
    /// Datagrams sent.
    pub(super) sent: u64,
    /// Operations whose end is of interest.
    awaited: HashSet<Ticket>,
    /// Those of them that are over.
    pub(super) done: HashMap<Ticket, Done>,
    /// When the first item came.
    pub(super) first_items: HashMap<Ticket, Instant>,
    pub(super) found: Vec<FoundPeer>,
    liars: Liars,
}

/// The address of node `n` when all share one host.
fn host(n: usize) -> SocketAddr {
    ([127, 0, 0, 1], 10_000 + u16::try_from(n).expect("as many as there are ports")).into()
}

/// The address of node `n` in public, no two of them in one network.
fn public_host(n: usize) -> SocketAddr {
    let n = u32::try_from(n).expect("fewer nodes than addresses");
    // An odd factor gives each number another address.
    let [a, b, c, d] = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
    ([11 + a % 80, b, c, d], 6881 + u16::from(a / 80)).into()
}

impl Network {
    pub(super) fn new(terrain: Terrain) -> Self {
        Self {
            now: Instant::now(),
            rng: StdRng::seed_from_u64(terrain.seed),
            terrain,
            hosts: Vec::new(),
            by_addr: HashMap::new(),
            events: BinaryHeap::new(),
            serial: 0,
            sent: 0,
            awaited: HashSet::new(),
            done: HashMap::new(),
            first_items: HashMap::new(),
            found: Vec::new(),
            liars: Liars::default(),
        }
    }

    /// Adds a node that knows nobody yet. Returns its number.
    pub(super) fn add(&mut self, mode: Mode) -> usize {
        let n = self.hosts.len();
        let addr = if self.terrain.public { public_host(n) } else { host(n) };
        let limits = Limits { mode, max_items: 1000, max_peers: 1000 };
        let id = node_id::random(&mut self.rng);
        let node = Some(Box::new(Node::new(self.now, &mut self.rng, id, limits)));
        let (near, far) = self.terrain.ways;
        let way = near + (far - near).mul_f64(self.rng.random_range(0.0_f64..1.0).powi(3));
        self.hosts.push(Host { addr, node, way, wake: self.now, is_liar: false, sent_to: None });
        self.by_addr.insert(addr, n);
        self.push(self.now, What::Wake(n));
        n
    }

    /// Lets node `n` join through others.
    pub(super) fn join(&mut self, n: usize, through: &[usize]) -> Ticket {
        let contacts = through.iter().map(|contact| self.hosts[*contact].addr).collect();
        self.begin(n, |node, now, rng| node.join(now, rng, contacts))
    }

    /// As the driver does while a node knows few others.
    pub(super) fn join_if_lost(&mut self, n: usize, through: &[usize]) {
        if self.node(n).good_nodes(self.now) < FEW_NODES {
            self.join(n, through);
        }
    }

    /// Node `n` goes away without a word.
    pub(super) fn kill(&mut self, n: usize) {
        self.hosts[n].node = None;
        self.by_addr.remove(&self.hosts[n].addr);
    }

    /// Puts a firewall before node `n`, or takes it away.
    #[cfg(test)]
    pub(super) fn set_firewall(&mut self, n: usize, is_there: bool) {
        self.hosts[n].sent_to = is_there.then(HashMap::new);
    }

    pub(super) fn node(&self, n: usize) -> &Node {
        self.hosts[n].node.as_ref().expect("the node is alive")
    }

    /// Starts an operation whose end is to be kept in `done`.
    pub(super) fn start(&mut self, n: usize, request: Request) -> Ticket {
        self.begin(n, |node, now, rng| node.start(now, rng, request))
    }

    /// Runs an operation on node `n` until it is over.
    #[cfg(test)]
    pub(super) fn ask(&mut self, n: usize, request: Request) -> Done {
        let ticket = self.start(n, request);
        self.finish(ticket)
    }

    /// Lets time pass until an operation is over.
    #[cfg(test)]
    pub(super) fn finish(&mut self, ticket: Ticket) -> Done {
        let started = self.now;
        while !self.done.contains_key(&ticket) {
            assert!(self.now - started < Duration::from_secs(60), "the operation never ends");
            self.run(Duration::from_millis(10));
        }
        self.done.remove(&ticket).expect("the loop ended with it")
    }

    fn begin(
        &mut self,
        n: usize,
        begin: impl FnOnce(&mut Node, Instant, &mut StdRng) -> (OperationId, Effects),
    ) -> Ticket {
        let mut ticket = None;
        let effects = self.step_quietly(n, |node, now, rng| {
            let (id, effects) = begin(node, now, rng);
            ticket = Some((n, id));
            effects
        });
        let ticket = ticket.expect("the node is alive");
        self.awaited.insert(ticket);
        self.perform(n, effects);
        ticket
    }

    /// Lets time pass: everything that arrives or becomes due by then happens, in order.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.events.peek().is_some_and(|Reverse(event)| event.at <= end) {
            let Some(Reverse(Event { at, what, .. })) = self.events.pop() else { break };
            self.now = self.now.max(at);
            match what {
                What::Arrival { from, to, datagram } => self.deliver(from, to, &datagram),
                What::Wake(n) => self.wake(n, at),
            }
        }
        self.now = end;
    }

    fn wake(&mut self, n: usize, at: Instant) {
        // An earlier one took its place, or the node is gone.
        if self.hosts[n].wake != at {
            return;
        }
        let Some(node) = &self.hosts[n].node else { return };
        let due = node.next_wake();
        // Something else may have happened in the meantime that put it off.
        if due <= self.now { self.step(n, Node::tick) } else { self.wake_at(n, due) }
    }

    fn wake_at(&mut self, n: usize, at: Instant) {
        self.hosts[n].wake = at;
        self.push(at, What::Wake(n));
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let Some(&n) = self.by_addr.get(&to) else { return };
        if let Some(sent_to) = &self.hosts[n].sent_to
            && sent_to.get(&from).is_none_or(|at| self.now - *at > PINHOLE)
        {
            return;
        }
        if self.hosts[n].is_liar
            && let Some(node) = &self.hosts[n].node
            && let Some(lie) = self.liars.answer(node.id(), from, datagram, &mut self.rng)
        {
            self.send(n, from, lie);
            return;
        }
        self.step(n, |node, now, rng| node.handle(now, rng, from, datagram));
    }

    fn step(&mut self, n: usize, step: impl FnOnce(&mut Node, Instant, &mut StdRng) -> Effects) {
        let effects = self.step_quietly(n, step);
        self.perform(n, effects);
    }

    fn step_quietly(&mut self, n: usize, step: impl FnOnce(&mut Node, Instant, &mut StdRng) -> Effects) -> Effects {
        let Some(node) = &mut self.hosts[n].node else { return Effects::default() };
        let effects = step(node, self.now, &mut self.rng);
        #[cfg(test)]
        if self.terrain.checked {
            node.check_invariants();
        }
        let due = node.next_wake();
        if due < self.hosts[n].wake || self.hosts[n].wake <= self.now {
            self.wake_at(n, due);
        }
        effects
    }

    fn perform(&mut self, n: usize, effects: Effects) {
        for (to, datagram) in effects.send {
            if self.terrain.hostility.is_some_and(|one_in| self.rng.random_range(0..one_in) == 0) {
                self.attack(self.hosts[n].addr, to, &datagram);
            }
            self.send(n, to, datagram);
        }
        for (id, _) in effects.items {
            self.first_items.entry((n, id)).or_insert(self.now);
        }
        for done in effects.done {
            if self.awaited.remove(&(n, done.id)) {
                self.done.insert((n, done.id), done);
            }
        }
        self.found.extend(effects.found.into_iter().map(|(_, peer)| peer));
    }

    fn send(&mut self, n: usize, to: SocketAddr, datagram: Vec<u8>) {
        assert!(datagram.len() < 1500, "a datagram that would be fragmented");
        self.sent += 1;
        let now = self.now;
        if let Some(sent_to) = &mut self.hosts[n].sent_to {
            sent_to.insert(to, now);
        }
        let Some(there) = self.by_addr.get(&to) else { return };
        if self.terrain.loss > 0.0 && self.rng.random_bool(self.terrain.loss) {
            return;
        }
        let (from, way) = (self.hosts[n].addr, self.hosts[n].way);
        // Queues on the way add something to every datagram, and seldom much.
        let queues = (way + self.hosts[*there].way).mul_f64(0.5 * self.rng.random_range(0.0_f64..1.0).powi(4));
        self.push(self.now + way + self.hosts[*there].way + queues, What::Arrival { from, to, datagram });
    }

    /// A datagram damaged, repeated, from somebody else's address, or to the wrong node.
    fn attack(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let mut datagram = datagram.to_vec();
        let at = self.rng.random_range(0..datagram.len());
        match self.rng.random_range(0..5) {
            0 => datagram.truncate(at),
            1 => datagram[at] ^= self.rng.random_range(1..=255),
            2 => datagram = self.rng.random::<[u8; 32]>().to_vec(),
            _ => {}
        }
        let anybody = self.hosts[self.rng.random_range(0..self.hosts.len())].addr;
        let (from, to) = match self.rng.random_range(0..4) {
            0 => (anybody, to),
            1 => (from, anybody),
            2 => (([8, 8, 8, 8], 0).into(), to),
            _ => (from, to),
        };
        let at = self.now + Duration::from_millis(self.rng.random_range(1..500));
        self.push(at, What::Arrival { from, to, datagram });
    }

    fn push(&mut self, at: Instant, what: What) {
        self.serial += 1;
        self.events.push(Reverse(Event { at, serial: self.serial, what }));
    }
}
