//! What a table costs: `make bench-table` runs these, each in a process of its own, and explains the figures. They print
//! one JSON line each and judge nothing.

#![allow(clippy::print_stdout, reason = "figures are what these are for")]

use std::net::{Ipv4Addr, Ipv6Addr};

use rand::seq::SliceRandom;

use super::*;

/// What is measured, as the environment says.
fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Which peers a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    V4,
    V6,
    Web,
    /// Half of them web peers, of the others two thirds IPv4.
    Mixed,
}

impl Kind {
    fn from_environment() -> Self {
        match std::env::var("TABLE_KIND").as_deref() {
            Ok("v6") => Self::V6,
            Ok("web") => Self::Web,
            Ok("mixed") => Self::Mixed,
            _ => Self::V4,
        }
    }

    fn of(self, peer: usize) -> Self {
        match self {
            Self::Mixed => [Self::Web, Self::V4, Self::Web, Self::V4, Self::Web, Self::V6][peer % 6],
            kind => kind,
        }
    }
}

/// A table of `swarms` with `peers` in all, and the announces of its peers.
struct Measured {
    table: Table<SocketId>,
    now: Instant,
    rng: SmallRng,
    kind: Kind,
    swarms: usize,
    offers: Vec<Offer>,
}

impl Measured {
    fn new(kind: Kind, swarms: usize) -> Self {
        let now = Instant::now();
        let table = Table::new(INTERVALS, 100_000, now);
        Self { table, now, rng: SmallRng::seed_from_u64(1), kind, swarms, offers: (0..5).map(offer).collect() }
    }

    /// Announces the `n`-th peer; a web peer as pages do, with five offers, which nobody answers.
    fn announce(&mut self, n: usize, offers: bool) -> usize {
        let hash = spread(n % self.swarms);
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&hash.to_be_bytes());
        bytes[12..].copy_from_slice(&hash.to_le_bytes());
        let info_hash = InfoHash(bytes);
        bytes[..8].copy_from_slice(&spread(n).to_be_bytes());
        let peer_id = PeerId(bytes);
        let ip = match self.kind.of(n) {
            Kind::V4 => Ipv4Addr::from_bits(0x2000_0000 + n as u32).into(),
            Kind::V6 => Ipv6Addr::from_bits((0x2001_0db8 << 96) + n as u128).into(),
            _ => {
                let offers = if offers { self.offers.clone() } else { Vec::new() };
                let intent = Intent::Offers { progress: Progress::Leeching, offers };
                let announce = Announce { info_hash, peer_id, intent };
                let id = SocketId(n as u64);
                let announced = WebAnnounce { id, socket: id, announce, resident: false, room: true };
                let Effects(effects) = self.table.web(self.now, &mut self.rng, announced);
                return effects.len();
            }
        };
        let port = NonZeroU16::new(6881).unwrap();
        let progress = Some(Progress::Leeching);
        let announce = NativeAnnounce { info_hash, peer_id, port, progress, numwant: None };
        let question = NativeQuestion { ip, announce: &announce, wanted: 50, both: false };
        let mut told = 0;
        let counts = self.table.native(self.now, &mut self.rng, &question, || Ok::<_, ()>(()), &mut |_, _| told += 1);
        assert!(counts.unwrap().incomplete > told);
        told
    }
}

/// Numbers without a pattern, as info hashes are.
fn spread(n: usize) -> u64 {
    (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn resident_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Announces of peers that are there already, in random order: the time of one, and how many others it was told of.
#[test]
#[ignore = "a measurement"]
fn announces() {
    let (swarms, peers) = (number("TABLE_SWARMS", 1), number("TABLE_PEERS", 100));
    let mut measured = Measured::new(Kind::from_environment(), swarms);
    for n in 0..peers {
        measured.announce(n, false);
    }
    let rounds = number("TABLE_ROUNDS", 9);
    let each = number("TABLE_ANNOUNCES", 100_000);
    let mut order: Vec<usize> = (0..peers.max(each)).map(|n| n % peers).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(2));
    let (mut times, mut told) = (Vec::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        told = order[..each].iter().map(|n| measured.announce(*n, true)).sum::<usize>();
        times.push(start.elapsed().as_nanos() as f64 / each.max(1) as f64);
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(rounds / 2).copied().unwrap_or_default();
    println!(
        "{{\"swarms\":{swarms},\"peers\":{peers},\"ns\":{median:.0},\"best\":{:.0},\"told\":{:.1}}}",
        times.first().copied().unwrap_or_default(),
        told as f64 / each.max(1) as f64
    );
}

/// Memory of a table, and how long anybody had to wait for it while it was filled and while all of it expired.
#[test]
#[ignore = "a measurement"]
fn memory_and_pauses() {
    const SLICE: usize = 4_096;
    let (swarms, peers) = (number("TABLE_SWARMS", 200_000), number("TABLE_PEERS", 1_000_000));
    let before = resident_memory();
    let mut measured = Measured::new(Kind::from_environment(), swarms);
    let mut filling = Duration::ZERO;
    for n in 0..peers {
        let start = Instant::now();
        measured.announce(n, false);
        filling = filling.max(start.elapsed());
    }
    let memory = resident_memory() - before;
    let stats = measured.table.stats();
    assert_eq!((stats.swarms, stats.web_peers + stats.native_peers), (swarms, peers));

    let (mut slices, mut done) = (Vec::new(), false);
    let later = measured.now + INTERVALS.native * 3;
    while !done {
        let start = Instant::now();
        done = measured.table.expire(later, SLICE);
        slices.push(start.elapsed());
    }
    assert_eq!(measured.table.stats(), Stats::default());
    slices.sort_unstable();
    println!(
        "{{\"swarms\":{swarms},\"peers\":{peers},\"bytes\":{memory},\"left\":{},\"filling_us\":{},\"slices\":{},\"slice_us\":{},\"longest_us\":{}}}",
        resident_memory().saturating_sub(before),
        filling.as_micros(),
        slices.len(),
        slices[slices.len() / 2].as_micros(),
        slices[slices.len() - 1].as_micros()
    );
}
