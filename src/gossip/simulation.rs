//! Tens of peers in fake time, honest ones and liars, with the real state in every honest one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::state::{Claim, Interest, Next, PeerKey, State};
use crate::wire::id::InfoHash;
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::record_exchange::{self, ExchangeMessage};

const HONEST: usize = 40;
const LIARS: usize = 10;
const LINKS_EACH: usize = 4;

/// The end of a link, as its host knows it.
#[derive(Debug, Clone, Copy)]
struct Link {
    to: usize,
    /// This link in the other host's numbering.
    there: PeerKey,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives { host: usize, link: PeerKey, payload: Vec<u8> },
    Wakes { host: usize },
    Lies { liar: usize },
}

struct World {
    now: Instant,
    states: Vec<State>,
    links: Vec<HashMap<PeerKey, Link>>,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    events: u64,
    rng: StdRng,
    records_sent: usize,
    key: SigningKey,
}

impl World {
    /// A ring of honest hosts, so that they are connected whatever liars do; chords between them; and liars at random.
    fn new(seed: u64) -> Self {
        let key = SigningKey::from_bytes(&[9; 32]);
        let hosts = HONEST + LIARS;
        let mut world = Self {
            now: Instant::now() + Duration::from_secs(1000),
            states: (0..hosts).map(|_| State::new(4)).collect(),
            links: vec![HashMap::new(); hosts],
            queue: BinaryHeap::new(),
            events: 0,
            rng: StdRng::seed_from_u64(seed),
            records_sent: 0,
            key,
        };
        let public = *world.version(0).key();
        for state in &mut world.states {
            let _ = state.follow(public, Salt::default(), Interest::Asked, world.now);
        }
        for host in 0..HONEST {
            world.connect(host, (host + 1) % HONEST);
            for _ in 2..LINKS_EACH {
                let other = world.rng.random_range(0..HONEST);
                world.connect(host, other);
            }
        }
        for liar in HONEST..hosts {
            for _ in 0..LINKS_EACH {
                let victim = world.rng.random_range(0..HONEST);
                world.connect(liar, victim);
            }
            world.after(Duration::from_millis(50), Event::Lies { liar });
        }
        world
    }

    fn version(&self, seq: i64) -> VerifiedItem {
        VerifiedItem::sign(&self.key, Salt::default(), seq, format!("i{seq}e").into_bytes()).unwrap()
    }

    fn connect(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        let swarm = InfoHash::from(self.version(0).target());
        self.events += 1;
        let (at_a, at_b) = (self.events * 2, self.events * 2 + 1);
        self.links[a].insert(at_a, Link { to: b, there: at_b });
        self.links[b].insert(at_b, Link { to: a, there: at_a });
        for (host, link) in [(a, at_a), (b, at_b)] {
            self.states[host].joined(link, swarm);
            let _ = self.states[host].offered(link);
            let _ = self.states[host].greeted(link, 1);
            self.after(Duration::ZERO, Event::Wakes { host });
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.events += 1;
        self.queue.push(Reverse((self.now + delay, self.events, event)));
    }

    fn send(&mut self, link: Link, payload: Vec<u8>) {
        let latency = Duration::from_millis(self.rng.random_range(10..200));
        self.after(latency, Event::Arrives { host: link.to, link: link.there, payload });
    }

    /// The host says what it has to say.
    fn pump(&mut self, host: usize) {
        if host >= HONEST {
            return;
        }
        let links: Vec<_> = self.links[host].iter().map(|(key, link)| (*key, *link)).collect();
        for (key, link) in links {
            loop {
                match self.states[host].next(key, self.now) {
                    Next::Send { kind, payload, .. } => {
                        self.records_sent += usize::from(kind == "record");
                        self.send(link, payload);
                    }
                    Next::Wait(Some(at)) => break self.after(at - self.now, Event::Wakes { host }),
                    Next::Wait(None) => break,
                }
            }
        }
    }

    fn arrives(&mut self, host: usize, link: PeerKey, payload: &[u8]) {
        let Some(back) = self.links[host].get(&link).copied() else { return };
        if host >= HONEST {
            return;
        }
        match ExchangeMessage::decode(payload) {
            Ok(ExchangeMessage::Have(summaries)) => {
                let _ = self.states[host].have(link, &summaries, self.now);
            }
            Ok(ExchangeMessage::Record(item)) => match self.states[host].claim(link, &item, self.now) {
                Claim::Verify => match item.verify() {
                    Ok(item) => drop(self.states[host].learn(&item, Some(link))),
                    Err(_) => self.disconnect(host, link, back),
                },
                Claim::Stale | Claim::Unwanted | Claim::Throttled => {}
            },
            Ok(ExchangeMessage::Unknown) | Err(_) => {}
        }
        self.pump(host);
    }

    fn disconnect(&mut self, host: usize, link: PeerKey, back: Link) {
        assert!(back.to >= HONEST, "an honest host is never taken for a liar");
        self.links[host].remove(&link);
        self.links[back.to].remove(&back.there);
        self.states[host].left(link);
    }

    /// Forgeries, replays, claims to have nothing, junk; from time to time to everybody it knows.
    fn lies(&mut self, liar: usize) {
        let links: Vec<_> = self.links[liar].values().copied().collect();
        for link in links {
            let (kind, seq) = (self.rng.random_range(0..100), self.rng.random_range(0..30));
            let old = self.version(seq);
            let mut forged = old.as_signed().clone();
            forged.seq += 1000;
            let nothing = record_exchange::Summary { key: *old.key(), salt: Salt::default(), version: None };
            let payload = match kind {
                0 => record_exchange::bring(&forged),
                1..=40 => record_exchange::bring(self.version(0).as_signed()),
                41..=80 => record_exchange::have([&nothing]),
                _ => b"d8:msg_typei1ee".to_vec(),
            };
            self.send(link, payload);
        }
        self.after(Duration::from_millis(200), Event::Lies { liar });
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Reverse((at, _, event)) = self.queue.pop().expect("it was there");
            self.now = at;
            match event {
                Event::Arrives { host, link, payload } => self.arrives(host, link, &payload),
                Event::Wakes { host } => self.pump(host),
                Event::Lies { liar } => self.lies(liar),
            }
        }
        self.now = end;
    }

    fn publish(&mut self, host: usize, seq: i64) {
        let item = self.version(seq);
        let _ = self.states[host].learn(&item, None);
        self.pump(host);
    }

    fn everybody_has(&self, seq: i64) -> bool {
        let newest = self.version(seq);
        self.states[..HONEST].iter().all(|state| state.newest(&newest.target()) == Some(&newest))
    }

    /// Links between honest hosts.
    fn honest_links(&self) -> usize {
        let ends = self.links[..HONEST].iter().flat_map(|links| links.values());
        ends.filter(|link| link.to < HONEST).count() / 2
    }
}

#[test]
fn every_honest_peer_has_the_newest_within_seconds() {
    for seed in 0..5 {
        let mut world = World::new(seed);
        world.run_for(Duration::from_secs(2));
        for seq in 1..=5 {
            let publisher = world.rng.random_range(0..HONEST);
            world.publish(publisher, seq);
            world.run_for(Duration::from_secs(20));
            assert!(world.everybody_has(seq), "version {seq} of seed {seed}");
        }
    }
}

#[test]
fn an_update_costs_about_a_message_for_each_link() {
    let mut world = World::new(7);
    // Without liars, who ask for more.
    for liar in HONEST..HONEST + LIARS {
        let links: Vec<_> = world.links[liar].drain().collect();
        for (_, link) in links {
            world.links[link.to].remove(&link.there);
            world.states[link.to].left(link.there);
        }
    }
    world.run_for(Duration::from_secs(2));
    world.publish(0, 1);
    world.run_for(Duration::from_secs(60));
    assert!(world.everybody_has(1));
    let (sent, links) = (world.records_sent, world.honest_links());
    assert!(sent >= HONEST - 1 && sent <= 2 * links, "{sent} messages over {links} links");
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.records_sent, sent, "then there is silence");
}

#[test]
fn who_was_away_catches_up_when_it_connects() {
    let mut world = World::new(3);
    let late = 5;
    let links: Vec<_> = world.links[late].drain().collect();
    for (key, link) in links {
        world.states[late].left(key);
        world.links[link.to].remove(&link.there);
        world.states[link.to].left(link.there);
    }
    world.publish(0, 1);
    world.run_for(Duration::from_secs(10));
    world.publish(20, 2);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.states[late].newest(&world.version(0).target()), None);
    world.connect(late, 6);
    world.run_for(Duration::from_secs(2));
    assert!(world.everybody_has(2));
}
