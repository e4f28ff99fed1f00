//! A network in which nodes come and go, some lie, and datagrams are lost: are items found there, how soon, and at what
//! price?

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use rand::RngExt;

use super::{Network, Terrain, Ticket};
use crate::dht::join::FEW_NODES;
use crate::dht::operation::{Outcome, Request};
use crate::dht::{GetOutcome, Mode};
use crate::wire::id::InfoHash;
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::pointer;

/// BEP 44: items "SHOULD be re-announced once an hour"; a tenth more or less, as our publisher does.
const REPUBLISH: Duration = Duration::from_secs(3600);

const MINUTE: Duration = Duration::from_secs(60);

/// How finely nodes go and gets start.
const STEP: Duration = Duration::from_millis(500);

/// What is tried.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// The part of the datagrams that is lost.
    pub(crate) loss: f64,
    /// The part of the nodes that lie.
    pub(crate) liars: f64,
    /// The part of the nodes that is replaced within an hour. Publishers stay.
    pub(crate) churn: f64,
    pub(crate) items: usize,
    pub(crate) gets: usize,
    /// How long it takes until everything was published once.
    pub(crate) publishing: Duration,
    /// How long gets go on after that.
    pub(crate) time: Duration,
    /// Tells how much memory the process uses.
    pub(crate) memory: fn() -> usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) gets: usize,
    /// Gets that found the newest version.
    pub(crate) newest: usize,
    /// What is to be known of the others.
    pub(crate) lost: Vec<Lost>,
    /// Gets that returned what the author never signed. One is too many.
    pub(crate) lies: usize,
    /// Milliseconds until the first item of a get, and until its end; sorted.
    pub(crate) first: Vec<u64>,
    pub(crate) took: Vec<u64>,
    /// Queries of a get; sorted.
    pub(crate) queries: Vec<u64>,
    /// Copies that each put made.
    pub(crate) copies: f64,
    /// Datagrams that a node sends in a second, all in all.
    pub(crate) datagrams: f64,
    /// Nodes that went away.
    pub(crate) replaced: usize,
    /// Bytes of memory that the network took in the end, for each node: its share of the simulator included.
    pub(crate) memory: usize,
    /// Nodes that take themselves for unreachable in the end. All can be reached.
    pub(crate) read_only: usize,
    /// Hours that passed in the network.
    pub(crate) fake_hours: f64,
}

/// A get that did not find the newest version, and where the copies were, as somebody sees it who sees everything.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The number of the version found, which its author has replaced.
    pub(crate) found: Option<i64>,
    /// Since it was published.
    pub(crate) age: Duration,
    /// Honest nodes that held the newest version: all but who published it, and those among the nearest.
    pub(crate) holders: usize,
    pub(crate) among_8: usize,
    pub(crate) among_20: usize,
    /// Nodes asked by the get, and how many of them answered.
    pub(crate) asked: usize,
    pub(crate) answered: usize,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, age, holders, among_8, among_20, asked, answered } = self;
        match found {
            Some(seq) => write!(f, "lost: version {seq} was found")?,
            None => write!(f, "lost: nothing was found")?,
        }
        write!(f, ", {} s after the put; {answered} of {asked} nodes asked had answered; ", age.as_secs())?;
        write!(f, "{holders} hold it, {among_8} of them among the nearest 8, {among_20} among 20")
    }
}

/// The value below which a part of the sorted values lies.
pub(crate) fn quantile(sorted: &[u64], part: f64) -> u64 {
    let at = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

struct Published {
    key: SigningKey,
    publisher: usize,
    versions: Vec<VerifiedItem>,
    /// The number that was stored last: no get that starts later has an excuse for less.
    stored: i64,
    due: Instant,
    stored_at: Instant,
}

/// A get under way.
struct Get {
    item: usize,
    started: Instant,
    expected: i64,
}

struct Run {
    trial: Trial,
    network: Network,
    start: Instant,
    /// Who is there, publishers first.
    alive: Vec<usize>,
    publishers: usize,
    items: Vec<Published>,
    puts: HashMap<Ticket, usize>,
    gets: HashMap<Ticket, Get>,
    copies: Vec<u64>,
    report: Report,
}

/// Builds the network, publishes, lets nodes come and go, and counts.
pub(crate) fn run(trial: Trial) -> Report {
    let terrain = Terrain {
        seed: trial.seed,
        loss: trial.loss,
        public: true,
        ways: (Duration::from_millis(5), Duration::from_millis(150)),
        hostility: None,
        checked: false,
    };
    let (network, memory) = (Network::new(terrain), (trial.memory)());
    let mut run = Run {
        start: network.now,
        network,
        alive: Vec::new(),
        publishers: (trial.nodes / 50).max(2),
        items: Vec::new(),
        puts: HashMap::new(),
        gets: HashMap::new(),
        copies: Vec::new(),
        report: Report { memory, ..Report::default() },
        trial,
    };
    run.settle();
    run.live();
    run.finish()
}

impl Run {
    /// Nodes come one after the other, and have a quarter of an hour to find each other.
    fn settle(&mut self) {
        let pause = Duration::from_secs(600) / u32::try_from(self.trial.nodes).expect("a number of nodes");
        for n in 0..self.trial.nodes {
            let is_liar = n >= self.publishers && self.network.rng.random_bool(self.trial.liars);
            self.newcomer(is_liar);
            self.network.run(pause);
        }
        for _ in 0..15 {
            self.look_after();
            self.network.run(MINUTE);
        }
    }

    /// Everything is published at some moment, and then asked for.
    fn live(&mut self) {
        for n in 0..self.trial.items {
            let key = SigningKey::from_bytes(&self.network.rng.random());
            let due = self.network.now + self.trial.publishing.mul_f64(n as f64 / self.trial.items as f64);
            let publisher = n % self.publishers;
            self.items.push(Published { key, publisher, versions: Vec::new(), stored: 0, due, stored_at: due });
        }
        let asked_from = self.network.now + self.trial.publishing + MINUTE;
        let end = asked_from + self.trial.time;
        let mut look_after = self.network.now;
        let (mut asked, mut sent) = (0, 0);
        while self.network.now < end {
            if self.network.now >= look_after {
                look_after += MINUTE;
                self.look_after();
            }
            self.churn();
            self.publish();
            let due = self.network.now.saturating_duration_since(asked_from).as_secs_f64();
            if due == 0.0 {
                sent = self.network.sent;
            }
            while (asked as f64) < self.trial.gets as f64 * due / self.trial.time.as_secs_f64() {
                asked += 1;
                self.get();
            }
            self.network.run(STEP);
            self.collect();
        }
        let seconds = self.trial.time.as_secs_f64();
        self.report.datagrams = (self.network.sent - sent) as f64 / seconds / self.trial.nodes as f64;
        self.network.run(MINUTE);
        self.collect();
    }

    fn newcomer(&mut self, is_liar: bool) {
        let n = self.network.add(Mode::Server);
        self.network.hosts[n].is_liar = is_liar;
        let through = self.anybody();
        self.network.join(n, &through);
        self.alive.push(n);
    }

    /// Two nodes, as a list of well-known ones would give.
    fn anybody(&mut self) -> Vec<usize> {
        let Self { network, alive, .. } = self;
        let mut pick = || alive[network.rng.random_range(0..alive.len())];
        if alive.is_empty() { Vec::new() } else { vec![pick(), pick()] }
    }

    /// Nodes that know hardly anybody try again, as the driver has them do.
    fn look_after(&mut self) {
        for n in self.alive.clone() {
            let through = self.anybody();
            self.network.join_if_lost(n, &through);
        }
    }

    /// Each node has the same chance to go at each moment; another comes in its place.
    fn churn(&mut self) {
        let share = 1.0 - (1.0 - self.trial.churn).powf(STEP.as_secs_f64() / 3600.0);
        let expected = share * (self.alive.len() - self.publishers) as f64;
        let gone = expected as usize + usize::from(self.network.rng.random_bool(expected.fract()));
        for _ in 0..gone {
            let at = self.network.rng.random_range(self.publishers..self.alive.len());
            let n = self.alive.swap_remove(at);
            let is_liar = self.network.hosts[n].is_liar;
            self.network.kill(n);
            self.gets.retain(|(asker, _), _| *asker != n);
            self.newcomer(is_liar);
            self.report.replaced += 1;
        }
    }

    /// Puts what is due: every other time a new version, else the same once more.
    fn publish(&mut self) {
        let now = self.network.now;
        for (n, item) in self.items.iter_mut().enumerate().filter(|(_, item)| item.due <= now) {
            item.due = now + REPUBLISH.mul_f64(self.network.rng.random_range(0.9..1.1));
            if self.copies.len().is_multiple_of(2) || item.versions.is_empty() {
                let seq = item.versions.len() as i64 + 1;
                let v = pointer::value(&InfoHash(self.network.rng.random()));
                let version = VerifiedItem::sign(&item.key, Salt::default(), seq, v).expect("a small value");
                self.network.liars.learn(version.clone());
                item.versions.push(version);
            }
            let newest = item.versions.last().expect("there is one now").clone();
            let ticket = self.network.start(item.publisher, Request::Put { item: newest, cas: None });
            self.puts.insert(ticket, n);
        }
    }

    fn get(&mut self) {
        let rng = &mut self.network.rng;
        let (item, asker) = (rng.random_range(0..self.items.len()), rng.random_range(0..self.alive.len()));
        let (published, asker) = (&self.items[item], self.alive[asker]);
        let is_ready = self.network.node(asker).good_nodes(self.network.now) >= FEW_NODES;
        // Liars ask as others do, but nobody is interested in what they find.
        if is_ready && !self.network.hosts[asker].is_liar && published.stored > 0 {
            let key = *published.versions[0].key();
            let expected = published.stored;
            let request = Request::Get { key, salt: Salt::default(), known_seq: None };
            let ticket = self.network.start(asker, request);
            self.gets.insert(ticket, Get { item, started: self.network.now, expected });
        }
    }

    fn collect(&mut self) {
        for (ticket, done) in std::mem::take(&mut self.network.done) {
            match done.outcome {
                Outcome::Put(outcome) => {
                    let Some(n) = self.puts.remove(&ticket) else { continue };
                    self.copies.push(outcome.stored as u64);
                    self.items[n].stored = self.items[n].versions.len() as i64;
                    self.items[n].stored_at = self.network.now;
                }
                Outcome::Get(outcome) => {
                    let first = self.network.first_items.remove(&ticket);
                    let Some(get) = self.gets.remove(&ticket) else { continue };
                    self.report.gets += 1;
                    self.report.took.push(millis(done.took));
                    self.report.queries.push(done.sent as u64);
                    self.report.first.extend(first.map(|at| millis(at - get.started)));
                    let is_newest = outcome.item.as_ref().map(VerifiedItem::seq) >= Some(get.expected);
                    if !is_newest {
                        let lost = self.autopsy(&get, ticket.0, &outcome);
                        self.report.lost.push(lost);
                    }
                    let Some(item) = outcome.item else { continue };
                    self.report.newest += usize::from(is_newest);
                    self.report.lies += usize::from(!self.items[get.item].versions.contains(&item));
                }
                _ => {}
            }
        }
    }

    fn autopsy(&self, get: &Get, asker: usize, outcome: &GetOutcome) -> Lost {
        let item = &self.items[get.item];
        let target = item.versions[0].target();
        let mut nearest: Vec<usize> =
            self.alive.iter().copied().filter(|n| ![asker, item.publisher].contains(n)).collect();
        nearest.sort_by_key(|n| self.network.node(*n).id().distance(&target));
        let holds = |n: &&usize| {
            let kept = self.network.node(**n).kept(self.network.now, &target);
            !self.network.hosts[**n].is_liar && kept >= Some(get.expected)
        };
        let among = |count: usize| nearest.iter().take(count).filter(holds).count();
        Lost {
            found: outcome.item.as_ref().map(VerifiedItem::seq),
            age: self.network.now - item.stored_at,
            holders: among(usize::MAX),
            among_8: among(8),
            among_20: among(20),
            asked: outcome.asked,
            answered: outcome.answered,
        }
    }

    fn finish(mut self) -> Report {
        let report = &mut self.report;
        for values in [&mut report.first, &mut report.took, &mut report.queries] {
            values.sort_unstable();
        }
        report.copies = self.copies.iter().sum::<u64>() as f64 / self.copies.len().max(1) as f64;
        let used = (self.trial.memory)().saturating_sub(report.memory);
        report.memory = used / self.trial.nodes;
        report.read_only = self.alive.iter().filter(|n| self.network.node(**n).is_read_only()).count();
        report.fake_hours = self.network.now.duration_since(self.start).as_secs_f64() / 3600.0;
        self.report
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
