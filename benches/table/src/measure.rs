//! What a table costs. One JSON line is printed; `benches/table.mjs` explains the figures.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::table::{Effects, Intervals, NativeQuestion, SocketId, Stats, Table, WebAnnounce};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::{NativeAnnounce, Progress};
use crate::wire::tracker_ws::{Announce, Description, Intent, Offer, OfferId};

/// The server's.
const INTERVALS: Intervals = Intervals { web: Duration::from_secs(120), native: Duration::from_secs(1800) };

/// Rounds of expiry in an interval: the server's.
const EXPIRY_ROUNDS: f64 = 4.0;

/// Looks of expiry at a time: fewer than the server's, so that two thousand announces have their share of them.
const EXPIRY_SLICE: usize = 64;

/// Which peers a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    V4,
    V6,
    Web,
    /// Half of them web peers, of the others two thirds IPv4.
    Mixed,
}

impl Kind {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "v4" => Self::V4,
            "v6" => Self::V6,
            "web" => Self::Web,
            "mixed" => Self::Mixed,
            _ => return None,
        })
    }

    fn of(self, peer: usize) -> Self {
        match self {
            Self::Mixed => [Self::Web, Self::V4, Self::Web, Self::V4, Self::Web, Self::V6][peer % 6],
            kind => kind,
        }
    }
}

/// A table of `swarms`, and the announces of its peers.
struct Measured {
    table: Table<SocketId>,
    now: Instant,
    rng: SmallRng,
    kind: Kind,
    swarms: usize,
    offers: Vec<Offer<'static>>,
    /// Peers and swarms that expiry has not looked at yet, but should have by now.
    unseen: f64,
}

impl Measured {
    fn new(kind: Kind, swarms: usize) -> Self {
        let now = Instant::now();
        let offer = |n| Offer { id: OfferId([n; 20]), description: Description::answer("v=0") };
        Self {
            table: Table::new(INTERVALS, 100_000, now),
            now,
            rng: SmallRng::seed_from_u64(1),
            kind,
            swarms,
            offers: (0..5).map(offer).collect(),
            unseen: 0.0,
        }
    }

    /// Lets the time pass that is between two announces when each of so many peers announces once in an interval. What web
    /// peers were offered is forgotten meanwhile, as on the server: the next offers need memory again.
    fn pass_time(&mut self, peers: usize) {
        if self.kind != Kind::Web {
            return;
        }
        self.now += INTERVALS.web / peers as u32;
        self.unseen += EXPIRY_ROUNDS * (peers + self.swarms) as f64 / peers as f64;
        if self.unseen >= EXPIRY_SLICE as f64 {
            self.unseen -= EXPIRY_SLICE as f64;
            self.table.expire(self.now, EXPIRY_SLICE);
        }
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
            Kind::V6 => Ipv6Addr::from_bits((0x2a00 << 112) + n as u128).into(),
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
        let port = NonZeroU16::new(6881).expect("a port");
        let progress = Some(Progress::Leeching);
        let announce = NativeAnnounce { info_hash, peer_id, port, progress, numwant: None };
        let question = NativeQuestion { ip, announce: &announce, wanted: 50, both: false };
        let mut told = 0;
        let admit = || Ok::<_, std::convert::Infallible>(());
        let Ok(counts) = self.table.native(self.now, &mut self.rng, &question, admit, &mut |_, _| told += 1);
        assert!(counts.incomplete > told);
        told
    }
}

/// Numbers without a pattern, as info hashes are.
fn spread(n: usize) -> u64 {
    (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn resident_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// Announces of peers that are there already, each once in an interval, in random order: the time of one, and how many
/// others it was told of. Apart from those, the time of the first announce of each.
pub fn announces(kind: Kind, swarms: usize, peers: usize, each: usize, rounds: usize) {
    let mut measured = Measured::new(kind, swarms);
    let start = Instant::now();
    for n in 0..peers {
        measured.announce(n, true);
        measured.pass_time(peers);
    }
    let joining = start.elapsed().as_nanos() / peers as u128;
    let mut order: Vec<usize> = (0..peers).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(2));
    let mut turns = order.into_iter().cycle();
    let (mut times, mut told) = (Vec::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        told = 0;
        for n in turns.by_ref().take(each) {
            told += measured.announce(n, true);
            measured.pass_time(peers);
        }
        times.push(start.elapsed().as_nanos() as f64 / each.max(1) as f64);
    }
    assert_eq!(measured.table.stats().web_peers + measured.table.stats().native_peers, peers);
    times.sort_by(f64::total_cmp);
    println!(
        "{{\"swarms\":{swarms},\"peers\":{peers},\"ns\":{:.0},\"best\":{:.0},\"joining\":{joining},\"told\":{:.1}}}",
        times[rounds / 2],
        times[0],
        told as f64 / each.max(1) as f64
    );
}

/// Memory of a table, and how long anybody had to wait for it while it was filled and while all of it expired.
pub fn memory_and_pauses(kind: Kind, swarms: usize, peers: usize) {
    /// As many as the server looks at in one go.
    const SLICE: usize = 4_096;
    let before = resident_memory();
    let mut measured = Measured::new(kind, swarms);
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
