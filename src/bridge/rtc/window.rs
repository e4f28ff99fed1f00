//! When the next message to one peer may be sent: a pace that follows the path, and a window on bytes sent and not
//! acknowledged. Pure; time is handed in.
//!
//! Who waits for losses to learn how much a path carries fills whatever queue is on the way, and takes a lossy path for a slow
//! one. Here packets leave at the rate at which they arrive, and the window is what the path carries in its shortest round
//! trip and a little more, so that no queue can grow for long.
//!
//! What the path carries is the best rate of the last rounds at which bytes were acknowledged, as in BBR
//! (draft-ietf-ccwg-bbr). Delay alone would not do: a busy machine at either end looks like a queue on the way, and
//! would have the window shrink, and with it the rate.
//!
//! On a short path there is no pace, as nothing waits there but for the two machines.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Where it begins, in bytes: what 20 Mbit/s carry in 50 ms.
const START: usize = 128 << 10;

/// What is sent in a round trip at the start, in bytes, before the path has shown that it carries more.
const START_PACE: f64 = 65_536.0;

/// Its least, with which three messages of 16 KiB are under way, and its most, which is 80 MB/s at 50 ms.
const LEAST: usize = 40 << 10;
pub(super) const MOST: usize = 4 << 20;

/// Its least on a path so short that what waits there mostly waits for a busy machine, at either end, to get around to
/// it: less under way would only make that worse.
const LEAST_NEAR: usize = 256 << 10;

/// Round trips below this are within a machine or a building.
const NEAR: Duration = Duration::from_millis(5);

/// By how much the window is larger than what the path carries in its shortest round trip: the pauses of both ends, which
/// are no reason to send less, and the longest that others on the link may be made to wait.
const SLACK: Duration = Duration::from_millis(30);
const SLACK_NEAR: Duration = Duration::from_millis(4);

/// What is sent of what the path carries while no queue is seen, and while one is: the path is always full, and what waits
/// there stays around [`QUEUE`].
const HOLD_PACE: f64 = 1.0;
const RELIEF_PACE: f64 = 0.9;

/// What was not sent in time is made up for, so much of it: a busy machine takes that long to get around to a task. What
/// is not made up for would come to be taken for what the path carries.
const LATE: Duration = Duration::from_millis(8);

/// A round is no shorter.
const ROUND_LEAST: Duration = Duration::from_millis(4);

/// By how much more is sent in a round, to try whether it arrives: what is too much then waits for a fifth of a round
/// trip, and most queues have room for that.
const STEP: f64 = 1.2;

/// Rounds that a try takes: in the first one more is sent, in the second it is seen whether it arrives.
const TRY: u32 = 2;

/// Where a round trip takes so much longer than the shortest, and no more arrives, there is a queue.
const QUEUE: Duration = Duration::from_millis(5);

/// What is sent, of what the path carries, in the round after a try that failed: what was too much leaves the queue.
const RELIEF: f64 = 0.75;

/// More than this, as a part, is growth and no accident.
const GROWTH: f64 = 1.05;

/// Tries without growth after which the start is over.
const PATIENCE: u32 = 2;

/// Rounds whose best rate counts, and after how many more is tried. A path that became slower is noticed after the
/// former.
const RATES: usize = 10;
const HOLD: u32 = 6;

/// The shortest round trip is measured anew this often, while the queue is let run dry for two rounds: paths change, and
/// what waits on the way must not come to be taken for the way.
const MEMORY: Duration = Duration::from_secs(15);
const DRAIN: u32 = 2;

/// What fits into one packet.
const PACKET: usize = 1_200;

/// Bytes between two marks, each of which measures one round trip.
const MARK_EVERY: u64 = 8 << 10;

/// Marks that wait for their acknowledgement: those of the largest window.
const MAX_MARKS: usize = MOST / MARK_EVERY as usize;

/// Room, in bytes, that there must be again once the window was full.
const BURST: usize = 8 * PACKET;

/// What would leave so soon leaves now: timers are no finer.
const EARLY: Duration = Duration::from_micros(500);

/// Whether more may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Now,
    /// Later, at [`Window::paced`].
    Paced,
    /// Once something has arrived.
    Full,
}

#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// What it is at least: more at first, when the rates are those of the little there was to send.
    least: usize,
    /// Bytes a second, and when what was sent so far would have left at that pace.
    pace: Option<f64>,
    left: Option<Instant>,
    phase: Phase,
    /// Bytes sent since the beginning.
    sent: u64,
    /// Places in the stream, and when each was sent.
    marks: VecDeque<(u64, Instant)>,
    /// The shortest round trip, and when it was measured.
    shortest: Option<(Duration, Instant)>,
    /// Bytes a second in the last rounds, and the best of them when the last try began.
    rates: VecDeque<f64>,
    before: f64,
    /// It was full when last asked.
    full: bool,
    /// Of the round of measurements that goes on.
    round: Option<Round>,
}

/// Each with the rounds it has taken so far.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Trying whether more arrives when more is sent, until so many tries have failed.
    Try { rounds: u32, patience: u32 },
    /// At what the path carries.
    Hold { rounds: u32 },
    /// Letting the queue run dry.
    Drain { rounds: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    /// What had arrived by then, and been sent: the round ends when something sent later has arrived.
    arrived: u64,
    sent: u64,
    shortest: Duration,
    last: Duration,
    /// More could have been sent at some time, so that window or pace is what limits.
    full: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            size: START,
            least: START,
            pace: None,
            left: None,
            phase: Phase::Try { rounds: 0, patience: PATIENCE },
            before: 0.0,
            sent: 0,
            marks: VecDeque::new(),
            shortest: None,
            rates: VecDeque::with_capacity(RATES),
            full: false,
            round: None,
        }
    }

    /// Counts bytes that leave for the first time.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        // At the first bytes: when the last ones leave is up to the path.
        let place = self.sent + bytes.min(PACKET) as u64;
        self.sent += bytes as u64;
        self.resent(bytes, now);
        let is_due = self.marks.back().is_none_or(|(last, _)| place >= last + MARK_EVERY);
        if is_due && self.marks.len() < MAX_MARKS {
            self.marks.push_back((place, now));
        }
    }

    /// Counts bytes that are sent again, for the pace alone.
    pub(super) fn resent(&mut self, bytes: usize, now: Instant) {
        self.left = self.pace.map(|pace| {
            let begins = self.left.map_or(now, |left| left.max(now - LATE));
            begins + Duration::from_secs_f64(bytes as f64 / pace)
        });
    }

    /// Whether `next` bytes may leave when `under_way` are, which counts neither what has arrived nor what was lost.
    pub(super) fn leave(&mut self, under_way: usize, next: usize, now: Instant) -> Leave {
        // What was full stays so until there is room for several packets, which then leave together: each acknowledgement
        // would otherwise be answered with one or two.
        let room = if self.full { BURST } else { next };
        let fits = under_way + room <= self.size || under_way == 0;
        self.full = !fits;
        let early = self.left.is_some_and(|left| left > now + EARLY);
        if fits && !early {
            return Leave::Now;
        }
        if let Some(round) = &mut self.round {
            round.full = true;
        }
        if fits { Leave::Paced } else { Leave::Full }
    }

    /// When what is held back by the pace may leave.
    pub(super) fn paced(&self) -> Option<Instant> {
        self.left
    }

    /// A round trip is known before anything was sent: what is sent first has a pace already.
    pub(super) fn expect(&mut self, round_trip: Duration) {
        if round_trip >= NEAR && self.pace.is_none() {
            self.pace = Some(START_PACE / round_trip.as_secs_f64());
        }
    }

    /// Nothing has arrived for long: what was known of the path is not worth anything any more.
    pub(super) fn collapse(&mut self) {
        *self = Self { size: LEAST, least: LEAST, sent: self.sent, ..Self::new() };
    }

    /// Learns that of all that was sent, `outstanding` bytes have not arrived.
    pub(super) fn learn(&mut self, outstanding: usize, now: Instant) {
        let arrived = self.sent.saturating_sub(outstanding as u64);
        let mut newest = None;
        while self.marks.front().is_some_and(|(place, _)| *place <= arrived) {
            newest = self.marks.pop_front().map(|(place, at)| (place, now.saturating_duration_since(at))).or(newest);
        }
        let Some((place, round_trip)) = newest else { return };
        if self.shortest.is_none_or(|(shortest, _)| round_trip <= shortest) {
            self.shortest = Some((round_trip, now));
        }
        let new = Round { began: now, arrived, sent: self.sent, shortest: round_trip, last: round_trip, full: false };
        let Some(round) = &mut self.round else {
            self.round = Some(new);
            return;
        };
        round.shortest = round.shortest.min(round_trip);
        round.last = round_trip;
        let round = *round;
        let took = now.saturating_duration_since(round.began);
        if place > round.sent && took >= ROUND_LEAST {
            self.judge(round, (arrived - round.arrived) as f64 / took.as_secs_f64(), now);
            self.round = Some(new);
        }
    }

    /// Draws the conclusion of one round, in which bytes arrived at `rate`.
    fn judge(&mut self, round: Round, rate: f64, now: Instant) {
        let Some((shortest, measured)) = self.shortest else { return };
        // Where there was not enough to send, and where less was wanted, the rate says nothing of the path.
        let counts = round.full && !matches!(self.phase, Phase::Drain { .. });
        if counts || rate > self.best_rate() {
            self.rates.truncate(RATES - 1);
            self.rates.push_front(rate);
        }
        let best = self.best_rate();
        let waits = round.last > shortest + QUEUE;
        let stale = now.saturating_duration_since(measured) > MEMORY;
        self.phase = match self.phase {
            Phase::Try { .. } | Phase::Hold { .. } if stale => {
                self.shortest = Some((round.shortest, now));
                Phase::Drain { rounds: 0 }
            }
            Phase::Try { rounds, patience } if rounds + 1 < TRY => Phase::Try { rounds: rounds + 1, patience },
            Phase::Try { patience, .. } if best > self.before * GROWTH || !round.full => self.attempt(patience),
            Phase::Try { patience, .. } if patience > 1 && !waits => self.attempt(patience - 1),
            Phase::Try { .. } => {
                self.least = LEAST;
                Phase::Drain { rounds: DRAIN - 1 }
            }
            Phase::Hold { rounds } if rounds + 1 < HOLD => Phase::Hold { rounds: rounds + 1 },
            Phase::Hold { rounds } if !round.full => Phase::Hold { rounds },
            Phase::Hold { .. } => self.attempt(1),
            Phase::Drain { rounds } if rounds + 1 < DRAIN => Phase::Drain { rounds: rounds + 1 },
            Phase::Drain { .. } => Phase::Hold { rounds: 0 },
        };
        let near = shortest < NEAR;
        // At the start rates are those of the little that there was to send.
        let starts = self.least == START;
        let at_least = if starts { START_PACE / shortest.as_secs_f64() } else { 0.0 };
        let pace = best.max(at_least)
            * match self.phase {
                Phase::Try { rounds: 0, .. } => STEP,
                Phase::Try { .. } | Phase::Hold { .. } if round.shortest > shortest + QUEUE => RELIEF_PACE,
                Phase::Try { .. } | Phase::Hold { .. } => HOLD_PACE,
                Phase::Drain { .. } => RELIEF,
            };
        self.pace = (!near && pace > 0.0).then_some(pace);
        let carries = best * (shortest + if near { SLACK_NEAR } else { SLACK }).as_secs_f64();
        self.size = (carries as usize).clamp(if near { LEAST_NEAR } else { self.least }, MOST);
        tracing::trace!(phase = ?self.phase, rate, best, pace, size = self.size, ?shortest, ?round, "a round ended");
    }

    /// Begins a try.
    fn attempt(&mut self, patience: u32) -> Phase {
        self.before = self.best_rate();
        Phase::Try { rounds: 0, patience }
    }

    fn best_rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with one queue.
    #[derive(Clone, Copy)]
    struct Path {
        /// Bytes a second.
        rate: f64,
        /// A round trip when the queue is empty.
        delay: Duration,
        /// How long the queue may be, in time.
        queue: Duration,
        /// Every so often an end is busy with something else for so long: acknowledgements come only then.
        pauses: Option<(Duration, Duration)>,
        /// Bytes a second in the second half.
        later: Option<f64>,
    }

    impl Path {
        fn new(rate: f64, delay_ms: u64, queue_ms: u64) -> Self {
            let (delay, queue) = (Duration::from_millis(delay_ms), Duration::from_millis(queue_ms));
            Self { rate, delay, queue, pauses: None, later: None }
        }

        /// When what arrives then is heard of.
        fn heard(&self, since: Duration) -> Duration {
            let Some((every, pause)) = self.pauses else { return since };
            let into = Duration::from_nanos((since.as_nanos() % every.as_nanos()) as u64);
            if into < pause { since + (pause - into) } else { since }
        }
    }

    /// What became of a long transfer.
    #[derive(Debug)]
    struct Outcome {
        /// Bytes a second in all, and in the second half.
        rate: f64,
        later: f64,
        /// The longest queue in the second half, and in the last tenth.
        queue: Duration,
        ends: Duration,
        /// Packets that found it full.
        dropped: usize,
    }

    /// Sends for `seconds`, always as much as may leave.
    fn run(mut path: Path, seconds: u64) -> Outcome {
        let start = Instant::now();
        let (end, half) = (start + Duration::from_secs(seconds), start + Duration::from_secs(seconds) / 2);
        let (mut now, mut free) = (start, start);
        let mut window = Window::new();
        window.expect(path.delay);
        let (mut sent, mut arrived) = (0_usize, 0_usize);
        let mut acknowledgements = VecDeque::new();
        let (mut at_half, mut queue, mut ends, mut dropped) = (0, Duration::ZERO, Duration::ZERO, 0);
        while now < end {
            while acknowledgements.front().is_some_and(|at| *at <= now) {
                acknowledgements.pop_front();
                arrived += PACKET;
                window.learn(sent - arrived, now);
            }
            let mut leave;
            loop {
                leave = window.leave(sent - arrived, PACKET, now);
                if leave != Leave::Now {
                    break;
                }
                sent += PACKET;
                window.sent(PACKET, now);
                let waits = free.saturating_duration_since(now);
                if now > half {
                    path.rate = path.later.unwrap_or(path.rate);
                    queue = queue.max(waits);
                }
                if now + (end - half) / 5 > end {
                    ends = ends.max(waits);
                }
                // A lost packet is sent again: here it only takes its time twice.
                dropped += usize::from(waits > path.queue);
                free = free.max(now) + Duration::from_secs_f64(PACKET as f64 / path.rate);
                acknowledgements.push_back(start + path.heard(free + path.delay - start));
            }
            if now < half {
                at_half = arrived;
            }
            // Timers fire a millisecond late.
            let paced = window.paced().filter(|_| leave == Leave::Paced).map(|at| at + Duration::from_millis(1));
            let next = acknowledgements.front().copied().into_iter().chain(paced).min().unwrap_or(end);
            now = next.max(now + Duration::from_micros(10));
        }
        let seconds = seconds as f64;
        let later = (arrived - at_half) as f64 / (seconds / 2.0);
        Outcome { rate: arrived as f64 / seconds, later, queue, ends, dropped }
    }

    #[test]
    fn it_fills_the_path_and_no_queue() {
        // bytes a second, round trip in ms, longest queue in ms
        for (rate, delay, queue) in [
            (2.5e6, 50, 400),
            (2.5e6, 50, 20),
            (12.5e6, 50, 400),
            (12.5e6, 50, 15),
            (1.25e6, 10, 100),
            (2.5e6, 150, 100),
            (25e6, 1, 50),
            (60e6, 0, 50),
        ] {
            let outcome = run(Path::new(rate, delay, queue), 20);
            let of = format!("of {rate} B/s at {delay} ms: {outcome:?}");
            assert!(outcome.later > 0.9 * rate && outcome.rate > 0.8 * rate, "too little {of}");
            assert!(outcome.queue < Duration::from_millis(40), "too much waits {of}");
            assert_eq!(outcome.dropped, 0, "{of}");
        }
    }

    #[test]
    fn busy_ends_are_no_reason_to_send_less() {
        for (delay, every, pause) in [(50, 200, 40), (50, 70, 20), (50, 100, 10), (0, 50, 20)] {
            let mut path = Path::new(12.5e6, delay, 400);
            path.pauses = Some((Duration::from_millis(every), Duration::from_millis(pause)));
            let outcome = run(path, 20);
            assert!(outcome.later > 0.9 * path.rate, "{delay} ms, {pause} of {every} ms: {outcome:?}");
        }
    }

    #[test]
    fn a_path_that_changes_is_followed() {
        for (before, after) in [(12.5e6, 2.5e6), (2.5e6, 12.5e6)] {
            let mut path = Path::new(before, 50, 1_000);
            path.later = Some(after);
            let outcome = run(path, 40);
            assert!(outcome.later > 0.8 * after, "{outcome:?}");
            assert!(outcome.ends < Duration::from_millis(40), "{outcome:?}");
        }
    }

    #[test]
    fn a_short_path_has_a_small_window() {
        let (mut window, mut now) = (Window::new(), Instant::now());
        for _ in 0..10_000 {
            // 25 MB/s: 16 KiB each 0.65 ms, acknowledged at once.
            window.sent(16_384, now);
            now += Duration::from_micros(650);
            assert_eq!(window.leave(0, 16_384, now), Leave::Now);
        }
        assert!(window.size <= LEAST_NEAR, "it was never full");
    }
}
