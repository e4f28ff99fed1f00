//! How much may be under way to one peer: a window on bytes sent and not acknowledged, that follows the path. Pure; time
//! is handed in.
//!
//! The stack's own congestion control fills whatever queue is on the way, and recovers from the loss that follows one
//! packet in each round trip. So it must not come to that: the window grows while what is sent arrives without waiting
//! anywhere, and shrinks to what the path carries when it waits, as TCP Vegas and LEDBAT (RFC 6817) do.
//!
//! On a short path a small window also spares work: the stack walks over all that is under way at each acknowledgement.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Where it begins, in bytes: four times the initial window of TCP (RFC 6928), which the stack's own slow start fills in
/// a few round trips.
const START: usize = 64 << 10;

/// Its least, with which three messages of 16 KiB are under way, and its most, which is 80 MB/s at 50 ms.
const LEAST: usize = 40 << 10;
pub(super) const MOST: usize = 4 << 20;

/// Its least on a path so short that what waits there mostly waits for a busy machine, at either end, to get around to
/// it: less under way would only make that worse.
const LEAST_NEAR: usize = 256 << 10;

/// Round trips below this are within a machine or a building.
const NEAR: Duration = Duration::from_millis(5);

/// The least round trip is one of the last so many seconds: paths change.
const MEMORY: Duration = Duration::from_secs(20);

/// Waiting on the way that is worth having, as part of the round trip: it keeps a link busy over the pauses of both ends.
const WORTH: u32 = 4;

/// Its bounds. The lower one is what a machine takes to get around to a task, the upper what others on the link may be
/// made to wait.
const WORTH_LEAST: Duration = Duration::from_millis(4);
const WORTH_MOST: Duration = Duration::from_millis(12);

/// Bytes between two marks, each of which measures one round trip.
const MARK_EVERY: u64 = 8 << 10;

/// Marks that wait for their acknowledgement: those of the largest window.
const MAX_MARKS: usize = MOST / MARK_EVERY as usize;

#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Bytes sent since the beginning.
    sent: u64,
    /// Places in the stream, and when each was sent.
    marks: VecDeque<(u64, Instant)>,
    /// The least round trip, and when it was measured.
    least: Option<(Duration, Instant)>,
    /// Of the round of measurements that goes on: its beginning, what had arrived by then, its least round trip.
    round: Option<Round>,
    /// Whether nothing ever waited so far: then it doubles instead of growing by a part.
    starting: bool,
}

#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    arrived: u64,
    least: Option<Duration>,
    /// The window was full at some time, so that its size is what limits.
    full: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { size: START, sent: 0, marks: VecDeque::new(), least: None, round: None, starting: true }
    }

    /// Counts bytes handed to the stack.
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        self.sent += bytes as u64;
        let last = self.marks.back().map_or(0, |(place, _)| *place);
        if self.sent - last >= MARK_EVERY && self.marks.len() < MAX_MARKS {
            self.marks.push_back((self.sent, now));
        }
    }

    /// How long to wait before looking again, when `outstanding` bytes are not acknowledged; `None` when more may be sent.
    pub(super) fn wait(&mut self, outstanding: usize, now: Instant) -> Option<Duration> {
        self.learn(outstanding, now);
        if outstanding < self.size {
            return None;
        }
        if let Some(round) = &mut self.round {
            round.full = true;
        }
        // Until a quarter has arrived, at the pace of the last round trips.
        let round_trip = self.least.map_or(WORTH_LEAST, |(least, _)| least + self.worth());
        Some((round_trip / 4).clamp(Duration::from_millis(1), Duration::from_millis(10)))
    }

    fn learn(&mut self, outstanding: usize, now: Instant) {
        let arrived = self.sent.saturating_sub(outstanding as u64);
        let mut newest = None;
        while self.marks.front().is_some_and(|(place, _)| *place <= arrived) {
            newest = self.marks.pop_front().map(|(_, at)| now.saturating_duration_since(at)).or(newest);
        }
        let Some(round_trip) = newest else { return };
        if self.least.is_none_or(|(least, at)| round_trip <= least || now.saturating_duration_since(at) > MEMORY) {
            self.least = Some((round_trip, now));
        }
        let round = self.round.get_or_insert(Round { began: now, arrived, least: None, full: false });
        round.least = Some(round.least.map_or(round_trip, |least| least.min(round_trip)));
        let round = *round;
        let took = now.saturating_duration_since(round.began);
        if took >= round_trip.max(WORTH_LEAST) {
            self.judge(round, arrived, took);
            self.round = None;
        }
    }

    /// Draws the conclusion of one round.
    fn judge(&mut self, round: Round, arrived: u64, took: Duration) {
        let (Some((least, _)), Some(seen)) = (self.least, round.least) else { return };
        // The shortest of the round: what waits always waits, not only behind a burst of one's own.
        let waiting = seen.saturating_sub(least);
        let worth = self.worth();
        let rate = (arrived - round.arrived) as f64 / took.as_secs_f64();
        if waiting > worth * 2 {
            self.starting = false;
            self.size = (rate * (least + worth).as_secs_f64()) as usize;
        } else if waiting > worth {
            self.starting = false;
        } else if round.full {
            self.size += if self.starting { self.size } else { self.size / 8 };
        }
        self.size = self.size.clamp(if least < NEAR { LEAST_NEAR } else { LEAST }, MOST);
    }

    /// Waiting on the way that is worth having.
    fn worth(&self) -> Duration {
        let least = self.least.map_or(Duration::ZERO, |(least, _)| least);
        (least / WORTH).clamp(WORTH_LEAST, WORTH_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with one queue: `rate` bytes a second, a round trip of `delay` when the queue is empty.
    struct Path {
        rate: f64,
        delay: Duration,
        /// Places in the stream and when they are acknowledged.
        acknowledgements: VecDeque<(u64, Instant)>,
        free: Instant,
    }

    /// Bytes a second that arrive in the second half of `seconds`, and the longest that any of it waited in the queue.
    fn run(rate: f64, delay: u64, seconds: u64) -> (f64, Duration) {
        let start = Instant::now();
        let mut now = start;
        let delay = Duration::from_millis(delay);
        let mut path = Path { rate, delay, acknowledgements: VecDeque::new(), free: now };
        let (mut window, mut sent, mut arrived) = (Window::new(), 0_u64, 0_u64);
        let (mut half, mut longest) = (0, Duration::ZERO);
        while now < start + Duration::from_secs(seconds) {
            while path.acknowledgements.front().is_some_and(|(_, at)| *at <= now) {
                arrived = path.acknowledgements.pop_front().unwrap().0;
            }
            let second_half = now >= start + Duration::from_secs(seconds) / 2;
            if !second_half {
                half = arrived;
            }
            match window.wait((sent - arrived) as usize, now) {
                Some(wait) => now += wait,
                None => {
                    sent += 16_384;
                    window.sent(16_384, now);
                    let leaves = path.free.max(now) + Duration::from_secs_f64(16_384.0 / path.rate);
                    if second_half {
                        longest = longest.max(path.free.saturating_duration_since(now));
                    }
                    path.free = leaves;
                    path.acknowledgements.push_back((sent, leaves + path.delay));
                    now += Duration::from_micros(20);
                }
            }
        }
        ((arrived - half) as f64 / (seconds as f64 / 2.0), longest)
    }

    #[test]
    fn it_fills_the_path_and_no_queue() {
        // bytes a second, round trip in ms
        for (rate, delay) in [(2.5e6, 50), (12.5e6, 50), (1.25e6, 10), (2.5e6, 150), (25e6, 1), (60e6, 0)] {
            let (reached, longest) = run(rate, delay, 20);
            assert!(reached > 0.9 * rate, "{reached} of {rate} B/s at {delay} ms");
            assert!(longest < Duration::from_millis(40), "{longest:?} in the queue of {rate} B/s at {delay} ms");
        }
    }

    #[test]
    fn a_busy_machine_is_no_reason_to_send_less() {
        let (mut window, mut now) = (Window::new(), Instant::now());
        window.sent(16_384, now);
        now += Duration::from_millis(1);
        window.wait(0, now);
        for _ in 0..100 {
            window.sent(16_384, now);
            now += Duration::from_millis(40);
            window.wait(0, now);
        }
        assert_eq!(window.size, LEAST_NEAR);
    }

    #[test]
    fn a_short_path_has_a_small_window() {
        let mut window = Window::new();
        let mut now = Instant::now();
        for _ in 0..10_000 {
            // 25 MB/s: 16 KiB each 0.65 ms, acknowledged at once.
            window.sent(16_384, now);
            now += Duration::from_micros(650);
            assert_eq!(window.wait(0, now), None);
        }
        assert!(window.size <= LEAST_NEAR, "it was never full");
    }
}
