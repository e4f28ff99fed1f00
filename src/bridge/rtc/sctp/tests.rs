//! Two associations over a path that delays, drops, doubles and turns around.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::packet::{Flags, parse};
use super::*;

/// Parts of a packet that is lost, doubled, or overtaken, of a thousand; and one way's delay.
#[derive(Debug, Clone, Copy, Default)]
struct Path {
    lost: u32,
    doubled: u32,
    late: u32,
    delay: Duration,
}

struct Sides {
    path: Path,
    now: Instant,
    start: Instant,
    rng: StdRng,
    sides: [Association; 2],
    under_way: BTreeMap<(Instant, u64), (usize, Bytes)>,
    count: u64,
    read: [Vec<u8>; 2],
    sent: [usize; 2],
}

impl Sides {
    fn new(path: Path, seed: u64) -> Self {
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(seed));
        let mut side = || Association::new((5000, 5000), rng.random(), now);
        let sides = [side(), side()];
        let (read, sent) = (Default::default(), [0; 2]);
        Self { path, now, start: now, rng, sides, under_way: BTreeMap::new(), count: 0, read, sent }
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        self.rng.random_range(0..1000) < of_thousand
    }

    fn put(&mut self, to: usize, packet: Bytes) {
        let late = self.chance(self.path.late);
        let at = self.now + self.path.delay + if late { self.path.delay / 2 } else { Duration::ZERO };
        self.count += 1;
        self.under_way.insert((at, self.count), (to, packet));
    }

    /// Lets time pass until `done`, for a minute at most; whether it came to that.
    fn run(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + Duration::from_secs(60);
        loop {
            let mut packet = Vec::new();
            for side in 0..2 {
                while self.sides[side].transmit(&mut packet, self.now) {
                    assert!(packet.len() <= PACKET, "{}", packet.len());
                    self.sent[side] += 1;
                    if self.chance(self.path.lost) {
                        continue;
                    }
                    let packet = Bytes::copy_from_slice(&packet);
                    if self.chance(self.path.doubled) {
                        self.put(1 - side, packet.clone());
                    }
                    self.put(1 - side, packet);
                }
            }
            if done(self) {
                return true;
            }
            let timers = self.sides.iter().filter_map(Association::timeout).min();
            let arrives = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = [timers, arrives].into_iter().flatten().min() else { return false };
            if next > end {
                return false;
            }
            // A timer of the real kind is no finer than that.
            self.now = next.max(self.now + Duration::from_micros(1));
            while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, packet) = entry.remove();
                self.sides[to].receive(packet, self.now);
            }
            for side in 0..2 {
                self.sides[side].on_timeout(self.now);
                while let Some(data) = self.sides[side].take() {
                    self.read[side].extend_from_slice(&data.payload);
                }
            }
        }
    }

    fn establish(&mut self) {
        assert!(self.run(|all| all.sides.iter().all(Association::is_established)), "both know of each other");
    }
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn everything_arrives_in_order_whatever_the_path_does() {
    for (seed, lost, doubled, late) in
        [(1, 0, 0, 0), (2, 10, 0, 0), (3, 100, 50, 0), (4, 0, 0, 200), (5, 300, 100, 100)]
    {
        let path = Path { lost, doubled, late, delay: Duration::from_millis(20) };
        let mut all = Sides::new(path, seed);
        all.establish();
        let bytes = pattern(300_000);
        for message in bytes.chunks(16_000) {
            all.sides[0].write(53, Bytes::copy_from_slice(message));
            all.sides[1].write(53, Bytes::copy_from_slice(message));
        }
        all.sides[0].close();
        assert!(all.run(|all| all.sides[0].has_closed() && all.read[0].len() >= 300_000), "{path:?}");
        assert!(all.read.iter().all(|read| *read == bytes), "{path:?}");
        assert!(all.sides[1].is_closed_by_peer() && !all.sides[0].is_closed_by_peer());
    }
}

/// What the association of the stack beneath took 11 s for: a burst of losses is repaired in a round trip or two.
#[test]
fn a_burst_of_losses_costs_two_round_trips() {
    let mut all = Sides::new(Path { delay: Duration::from_millis(25), ..Path::default() }, 1);
    all.establish();
    let bytes = pattern(4 << 20);
    all.sides[0].write(53, bytes.clone());
    assert!(all.run(|all| all.read[1].len() > 1 << 20));
    // Sixty packets in a row do not arrive.
    let lost: Vec<_> = all.under_way.iter().filter(|(_, (to, _))| *to == 1).map(|(key, _)| *key).take(60).collect();
    assert_eq!(lost.len(), 60);
    let read = all.read[1].len();
    lost.iter().for_each(|key| drop(all.under_way.remove(key)));
    let begun = all.now;
    assert!(all.run(|all| all.read[1].len() > read + 60 * PAYLOAD));
    assert!(all.now - begun < Duration::from_millis(150), "{:?}", all.now - begun);
    assert!(all.run(|all| all.read[1].len() == bytes.len()) && all.read[1] == bytes);
}

#[test]
fn random_losses_do_not_slow_it_down() {
    let took = |lost| {
        let mut all = Sides::new(Path { lost, delay: Duration::from_millis(25), ..Path::default() }, 7);
        all.establish();
        all.sides[0].write(53, pattern(4 << 20));
        assert!(all.run(|all| all.read[1].len() == 4 << 20), "{lost}");
        (all.now - all.start, all.sent[0])
    };
    let ((clean, _), (lossy, sent)) = (took(0), took(30));
    assert!(lossy < clean * 2, "{lossy:?} beside {clean:?}");
    assert!(sent < (4 << 20) / PAYLOAD * 108 / 100, "{sent} packets: little is sent twice for nothing");
}

#[test]
fn a_path_that_was_away_is_taken_up_again() {
    let mut all = Sides::new(Path { delay: Duration::from_millis(5), ..Path::default() }, 1);
    all.establish();
    all.sides[0].write(53, pattern(2 << 20));
    assert!(all.run(|all| all.read[1].len() > 1 << 20));
    all.path.lost = 1000;
    let away = all.now + Duration::from_secs(8);
    all.run(|all| all.now > away);
    all.path.lost = 0;
    let back = all.now;
    assert!(all.run(|all| all.read[1].len() == 2 << 20));
    assert!(all.now - back < Duration::from_secs(6), "{:?}", all.now - back);
}

#[test]
fn what_is_not_taken_is_not_sent() {
    let mut all = Sides::new(Path { delay: Duration::from_millis(5), ..Path::default() }, 1);
    all.establish();
    all.sides[0].write(53, pattern(3 * WINDOW));
    let mut packet = Vec::new();
    for _ in 0..100_000 {
        all.now += Duration::from_micros(100);
        for side in 0..2 {
            while all.sides[side].transmit(&mut packet, all.now) {
                all.sides[1 - side].receive(Bytes::copy_from_slice(&packet), all.now);
            }
            all.sides[side].on_timeout(all.now);
        }
    }
    let sent = 3 * WINDOW - all.sides[0].queued();
    assert!(sent <= WINDOW + PACKET, "{sent}");
    assert!(all.run(|all| all.read[1].len() == 3 * WINDOW), "and it goes on");
}

#[test]
fn the_end_is_told_of() {
    let mut all = Sides::new(Path::default(), 1);
    all.establish();
    all.sides[0].abort();
    assert!(all.run(|all| all.sides[1].is_closed()));
}

fn chunks() -> impl Strategy<Value = Chunk> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..40).prop_map(Bytes::from);
    let init = any::<(u32, u32, u16, u16, u32)>().prop_map(|(tag, window, outbound, inbound, tsn)| Init {
        tag,
        window,
        outbound,
        inbound,
        tsn,
    });
    let flags = any::<[bool; 4]>().prop_map(|[immediate, unordered, begins, ends]| Flags {
        immediate,
        unordered,
        begins,
        ends,
    });
    let data = (any::<(u32, u16, u16, u32)>(), flags, bytes())
        .prop_map(|((tsn, stream, ssn, protocol), flags, payload)| Data { tsn, stream, ssn, protocol, flags, payload });
    let gaps = prop::collection::vec(any::<(u16, u16)>(), 0..9);
    let reset = prop_oneof![
        (any::<(u32, u32)>(), prop::collection::vec(any::<u16>(), 0..4))
            .prop_map(|((number, last), streams)| Reset::Request { number, last, streams }),
        any::<(u32, u32)>().prop_map(|(number, result)| Reset::Response { number, result }),
    ];
    prop_oneof![
        data.prop_map(Chunk::Data),
        init.clone().prop_map(Chunk::Init),
        (init, bytes()).prop_map(|(init, cookie)| Chunk::InitAck(init, cookie)),
        (any::<(u32, u32)>(), gaps).prop_map(|((cumulative, window), gaps)| Chunk::Sack(Sack {
            cumulative,
            window,
            gaps
        })),
        bytes().prop_map(Chunk::Heartbeat),
        bytes().prop_map(Chunk::CookieEcho),
        Just(Chunk::CookieAck),
        Just(Chunk::Abort),
        Just(Chunk::ShutdownAck),
        prop::collection::vec(reset, 0..3).prop_map(Chunk::ReConfig),
    ]
}

proptest! {
    #[test]
    fn packets_are_read_as_they_were_written(tag: u32, written in prop::collection::vec(chunks(), 0..4)) {
        let mut packet = Vec::new();
        let mut writer = Writer::new(&mut packet, 1, 2, tag);
        written.iter().for_each(|chunk| writer.control(chunk));
        writer.finish();
        prop_assert_eq!(packet.len() % 4, 0);
        prop_assert_eq!(parse(Bytes::from(packet)), Some((tag, written)));
    }

    /// With a right sum, whatever the rest is.
    #[test]
    fn nonsense_harms_nobody(seed: u64, packets in prop::collection::vec(
        (any::<bool>(), prop::collection::vec(chunks(), 1..4), prop::option::of((12usize..60, any::<u8>()))), 0..60,
    )) {
        let mut all = Sides::new(Path::default(), seed);
        all.establish();
        let tag = all.sides[0].us.tag;
        let mut packet = Vec::new();
        for (known, chunks, damage) in packets {
            let mut writer = Writer::new(&mut packet, 1, 2, if known { tag } else { 0 });
            chunks.iter().for_each(|chunk| writer.control(chunk));
            if let Some((at, byte)) = damage {
                let length = writer.len();
                packet[at % length] = byte;
                let mut damaged = packet.clone();
                damaged[8..12].fill(0);
                let sum = crc32c::crc32c(&damaged);
                packet[8..12].copy_from_slice(&sum.to_le_bytes());
            } else {
                writer.finish();
            }
            all.now += Duration::from_millis(3);
            all.sides[0].receive(Bytes::copy_from_slice(&packet), all.now);
            all.sides[0].on_timeout(all.now);
            let mut sent = 0;
            while all.sides[0].transmit(&mut packet, all.now) {
                sent += 1;
                prop_assert!(sent < 100);
            }
            prop_assert!(all.sides[0].control.len() <= MAX_CONTROL && all.sides[0].alone.len() <= MAX_CONTROL + 2);
        }
    }
}
