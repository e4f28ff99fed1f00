//! Many nodes in one test, in fake time, over a network that delays and loses datagrams.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::join::FEW_NODES;
use super::node::{Effects, Limits, Node};
use super::operation::{Outcome, Request};
use super::queries::OperationId;
use super::{FoundPeer, GetOutcome, Mode, PutOutcome, node_id};
use crate::wire::id::InfoHash;
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::pointer;

/// A datagram on its way: when it arrives, a number that keeps equal times in order, from, to, and what.
type InTransit = Reverse<(Instant, u64, SocketAddr, SocketAddr, Vec<u8>)>;

struct Network {
    now: Instant,
    rng: StdRng,
    nodes: HashMap<SocketAddr, Node>,
    dead: HashSet<SocketAddr>,
    in_transit: BinaryHeap<InTransit>,
    sent: u64,
    /// One datagram in this many is lost.
    loss: Option<u32>,
    /// One datagram in this many is followed by something hostile.
    hostility: Option<u32>,
    done: HashMap<(SocketAddr, OperationId), Outcome>,
    found: Vec<FoundPeer>,
}

fn host(n: usize) -> SocketAddr {
    ([127, 0, 0, 1], 10_000 + u16::try_from(n).unwrap()).into()
}

impl Network {
    /// `size` nodes that joined one after the other, each through a node that was there before.
    fn joined(seed: u64, size: usize, loss: Option<u32>) -> Self {
        let mut network = Self {
            now: Instant::now(),
            rng: StdRng::seed_from_u64(seed),
            nodes: HashMap::new(),
            dead: HashSet::new(),
            in_transit: BinaryHeap::new(),
            sent: 0,
            loss,
            hostility: None,
            done: HashMap::new(),
            found: Vec::new(),
        };
        for n in 0..size {
            network.add(n, Mode::Server);
            network.run(Duration::from_millis(300));
        }
        network.run(Duration::from_secs(30));
        // As the driver does while it knows few nodes.
        for n in 1..size {
            if network.nodes[&host(n)].good_nodes(network.now) < FEW_NODES {
                network.join(n);
            }
        }
        network.run(Duration::from_secs(10));
        network
    }

    fn add(&mut self, n: usize, mode: Mode) {
        let limits = Limits { mode, max_items: 1000, max_peers: 1000 };
        let id = node_id::random(&mut self.rng);
        self.nodes.insert(host(n), Node::new(self.now, &mut self.rng, id, limits));
        self.join(n);
    }

    fn join(&mut self, n: usize) {
        let contacts = if n == 0 { vec![] } else { vec![host(self.rng.random_range(0..n.min(50)))] };
        let node = self.nodes.get_mut(&host(n)).unwrap();
        let (_, effects) = node.join(self.now, &mut self.rng, contacts);
        self.perform(host(n), effects);
    }

    /// Runs an operation on node `n` until it is over. Returns the outcome and how long it took.
    fn ask(&mut self, n: usize, request: Request) -> (Outcome, Duration) {
        let started = self.now;
        let node = self.nodes.get_mut(&host(n)).unwrap();
        let (id, effects) = node.start(self.now, &mut self.rng, request);
        self.perform(host(n), effects);
        while !self.done.contains_key(&(host(n), id)) {
            assert!(self.now - started < Duration::from_secs(60), "the operation never ends");
            self.run(Duration::from_millis(10));
        }
        (self.done.remove(&(host(n), id)).unwrap(), self.now - started)
    }

    fn get(&mut self, n: usize, item: &VerifiedItem) -> GetOutcome {
        let request = Request::Get { key: *item.key(), salt: item.salt().clone(), known_seq: None };
        match self.ask(n, request).0 {
            Outcome::Get(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, n: usize, item: &VerifiedItem, cas: Option<i64>) -> PutOutcome {
        match self.ask(n, Request::Put { item: item.clone(), cas }).0 {
            Outcome::Put(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass: everything that arrives or becomes due by then happens, in order.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.in_transit.peek().map(|Reverse((at, ..))| *at);
            let alive = self.nodes.iter().filter(|(addr, _)| !self.dead.contains(addr));
            let wake = alive.map(|(addr, node)| (node.next_wake(), *addr)).min();
            match (arrival, wake) {
                (Some(at), wake) if at <= end && wake.is_none_or(|(wake, _)| at <= wake) => self.deliver(),
                (_, Some((at, addr))) if at <= end => {
                    self.now = self.now.max(at);
                    let effects = self.nodes.get_mut(&addr).unwrap().tick(self.now, &mut self.rng);
                    self.perform(addr, effects);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        let Some(Reverse((at, _, from, to, datagram))) = self.in_transit.pop() else { return };
        self.now = self.now.max(at);
        if let Some(node) = self.nodes.get_mut(&to).filter(|_| !self.dead.contains(&to)) {
            let effects = node.handle(self.now, &mut self.rng, from, &datagram);
            self.perform(to, effects);
        }
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
        let anybody = host(self.rng.random_range(0..self.nodes.len()));
        let (from, to) = match self.rng.random_range(0..4) {
            0 => (anybody, to),
            1 => (from, anybody),
            2 => (([8, 8, 8, 8], 0).into(), to),
            _ => (from, to),
        };
        let at = self.now + Duration::from_millis(self.rng.random_range(1..500));
        self.in_transit.push(Reverse((at, self.sent, from, to, datagram)));
    }

    fn perform(&mut self, addr: SocketAddr, effects: Effects) {
        self.nodes[&addr].check_invariants();
        for (to, datagram) in effects.send {
            if self.hostility.is_some_and(|one_in| self.rng.random_range(0..one_in) == 0) {
                self.attack(addr, to, &datagram);
            }
            assert!(datagram.len() < 1500, "a datagram that would be fragmented");
            self.sent += 1;
            if self.loss.is_none_or(|one_in| self.rng.random_range(0..one_in) != 0) {
                let at = self.now + Duration::from_millis(self.rng.random_range(5..120));
                self.in_transit.push(Reverse((at, self.sent, addr, to, datagram)));
            }
        }
        self.done.extend(effects.done.into_iter().map(|(id, _, outcome)| ((addr, id), outcome)));
        self.found.extend(effects.found.into_iter().map(|(_, peer)| peer));
    }
}

fn pointer_to(seq: i64, n: u8) -> VerifiedItem {
    let salt = Salt::new(vec![n]).unwrap();
    VerifiedItem::sign(&SigningKey::from_bytes(&[n; 32]), salt, seq, pointer::value(&InfoHash([seq as u8; 20])))
        .unwrap()
}

#[test]
fn what_is_put_is_found_from_everywhere() {
    let mut network = Network::joined(1, 150, None);
    for n in 0..10 {
        let item = pointer_to(1, n);
        assert_eq!(network.put(usize::from(n), &item, None).stored, 8);
        for asker in [20, 70, 149] {
            let outcome = network.get(asker, &item);
            assert_eq!(outcome.item.as_ref(), Some(&item), "{outcome:?}");
            assert!((7..=9).contains(&outcome.holders), "eight, the one who put, but never the asker: {outcome:?}");
        }
    }
}

#[test]
fn an_update_reaches_the_nodes_that_hold_the_old_one() {
    let mut network = Network::joined(2, 60, None);
    assert_eq!(network.put(1, &pointer_to(1, 1), None).stored, 8);
    assert_eq!(network.put(2, &pointer_to(2, 1), Some(1)).stored, 8);
    assert_eq!(network.get(50, &pointer_to(1, 1)).item, Some(pointer_to(2, 1)));
    let late = network.put(3, &pointer_to(3, 1), Some(1));
    assert_eq!((late.stored, late.rejected[0].0, late.newer), (0, 301, Some(pointer_to(2, 1))));
    let old = network.put(4, &pointer_to(1, 1), None);
    assert_eq!((old.stored, old.rejected[0].0, old.newer), (0, 302, Some(pointer_to(2, 1))));
    assert_eq!(network.put(5, &pointer_to(2, 1), None).stored, 8, "keeping it alive");
}

#[test]
fn losing_every_tenth_datagram_does_no_harm() {
    let mut network = Network::joined(3, 100, Some(10));
    for n in 0..20 {
        let item = pointer_to(1, n);
        let stored = network.put(usize::from(n), &item, None).stored;
        assert!(stored >= 5, "{stored} copies");
        let outcome = network.get(99 - usize::from(n), &item);
        let known = network.nodes[&host(99 - usize::from(n))].good_nodes(network.now);
        assert_eq!(outcome.item.as_ref(), Some(&item), "{outcome:?} knowing {known} nodes");
    }
}

#[test]
fn a_third_of_the_nodes_dying_costs_seconds_but_no_items() {
    let mut network = Network::joined(4, 120, None);
    let items: Vec<VerifiedItem> = (0..10).map(|n| pointer_to(1, n)).collect();
    for item in &items {
        assert_eq!(network.put(1, item, None).stored, 8);
    }
    network.dead = (0..40).map(|n| host(3 * n + 2)).collect();
    for item in &items {
        let request = Request::Get { key: *item.key(), salt: item.salt().clone(), known_seq: None };
        let (outcome, took) = network.ask(100, request);
        assert!(matches!(&outcome, Outcome::Get(GetOutcome { item: Some(found), .. }) if found == item), "{outcome:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
}

#[test]
fn a_network_of_one_answers_at_once() {
    let mut network = Network::joined(5, 1, None);
    let item = pointer_to(1, 1);
    assert_eq!(network.get(0, &item), GetOutcome::default());
    assert_eq!(network.put(0, &item, None), PutOutcome::default());
    assert_eq!(network.get(0, &item).item, Some(item.clone()), "from its own storage");
    assert!(network.ask(0, Request::Get { key: *item.key(), salt: Salt::default(), known_seq: None }).1.is_zero());
    // The next node to come finds what was put before there was a network.
    network.add(1, Mode::Server);
    network.run(Duration::from_secs(2));
    assert_eq!(network.get(1, &item).item, Some(item));
}

#[test]
fn a_read_only_node_uses_the_network_and_is_not_part_of_it() {
    let mut network = Network::joined(6, 20, None);
    network.add(20, Mode::Client);
    network.run(Duration::from_secs(5));
    let item = pointer_to(1, 1);
    assert_eq!(network.put(20, &item, None).stored, 8);
    assert_eq!(network.get(20, &item).item, Some(item.clone()));
    assert_eq!(network.nodes[&host(20)].stored_items(), 0);
    let id = network.nodes[&host(20)].id();
    let known = network.nodes.values().flat_map(Node::nodes).any(|contact| contact.id == id);
    assert!(!known, "nobody has it in its table");
}

#[test]
fn announced_peers_are_found() {
    let mut network = Network::joined(7, 50, None);
    let info_hash = InfoHash([9; 20]);
    for n in [10, 11] {
        let (outcome, _) = network.ask(n, Request::Announce { info_hash, port: 5000 + n as u16 });
        assert_eq!(outcome, Outcome::Announced(8));
    }
    let _ = network.ask(40, Request::GetPeers(info_hash));
    let ports: HashSet<u16> = network.found.iter().map(|peer| peer.addr.port()).collect();
    assert_eq!(ports, HashSet::from([5010, 5011]));
    assert!(network.found.iter().all(|peer| peer.from.port() >= 10_000), "named by nodes");
}

#[test]
fn damaged_repeated_and_forged_datagrams_do_no_harm() {
    let mut network = Network::joined(10, 60, Some(50));
    network.hostility = Some(3);
    network.run(Duration::from_secs(300));
    for n in 0..20 {
        let item = pointer_to(1, n);
        let outcome = network.put(usize::from(n), &item, None);
        assert!(outcome.stored >= 5, "{outcome:?}");
        assert_eq!(network.get(59 - usize::from(n), &item).item, Some(item));
    }
}

/// Items outlive an hour without their author when they are put again, and go away two hours after the last time.
#[test]
fn items_expire_and_the_network_stays_together() {
    let mut network = Network::joined(8, 12, None);
    let item = pointer_to(1, 1);
    network.put(1, &item, None);
    network.run(Duration::from_secs(3600));
    assert_eq!(network.put(2, &item, None).stored, 8);
    network.run(Duration::from_secs(5400));
    assert_eq!(network.get(11, &item).item, Some(item.clone()));
    network.run(Duration::from_secs(1860));
    let outcome = network.get(11, &item);
    assert_eq!((outcome.item, outcome.holders), (None, 0));
    assert!(outcome.answered >= 8);
    for node in network.nodes.values() {
        assert!(node.good_nodes(network.now) >= 8, "{}", node.good_nodes(network.now));
    }
}

/// Hundreds of lookups at once from one node: each finds its item, and no node gets more than its pace.
#[test]
fn many_lookups_at_once_all_succeed() {
    let mut network = Network::joined(9, 100, None);
    let items: Vec<VerifiedItem> = (0..100).map(|n| pointer_to(1, n)).collect();
    for (n, item) in items.iter().enumerate() {
        assert!(network.put(n % 100, item, None).stored >= 7);
    }
    network.run(Duration::from_secs(60));
    let mut asked = Vec::new();
    for item in &items {
        let request = Request::Get { key: *item.key(), salt: item.salt().clone(), known_seq: None };
        let node = network.nodes.get_mut(&host(0)).unwrap();
        let (id, effects) = node.start(network.now, &mut network.rng, request);
        network.perform(host(0), effects);
        asked.push(id);
    }
    network.run(Duration::from_secs(20));
    for (id, item) in asked.into_iter().zip(&items) {
        match network.done.get(&(host(0), id)) {
            Some(Outcome::Get(outcome)) => assert_eq!(outcome.item.as_ref(), Some(item), "{outcome:?}"),
            other => panic!("{other:?}"),
        }
    }
}
