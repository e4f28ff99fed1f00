//! What one torrent's peers have sent and taken: sums since it was joined, and rates of the last seconds. Pure; time is
//! handed in.

use tokio::time::Instant;

/// Rates are averages over this many whole seconds: long enough to be read, short enough to show a stall.
const WINDOW: usize = 5;

/// Payload bytes of one direction.
#[derive(Debug)]
pub(super) struct Meter {
    total: u64,
    /// Bytes of the seconds `now - WINDOW ..= now`, by second modulo the length.
    seconds: [u64; WINDOW + 1],
    /// The second that was last written to, counted from `since`.
    second: u64,
    since: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self { total: 0, seconds: [0; WINDOW + 1], second: 0, since: now }
    }

    /// Counts bytes.
    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.advance(now);
        self.total += bytes;
        self.seconds[self.slot(self.second)] += bytes;
    }

    /// All bytes so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes a second.
    pub(super) fn rate(&mut self, now: Instant) -> u64 {
        self.advance(now);
        let whole = self.seconds.iter().sum::<u64>() - self.seconds[self.slot(self.second)];
        // In its first seconds a torrent has no window to look back on.
        match self.second.min(WINDOW as u64) {
            0 => self.total * 1000 / u64::try_from((now - self.since).as_millis().max(100)).unwrap_or(u64::MAX),
            seconds => whole / seconds,
        }
    }

    fn advance(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.since).as_secs();
        let silent = second.saturating_sub(self.second).min(self.seconds.len() as u64);
        for gone in 0..silent {
            let slot = self.slot(second - gone);
            self.seconds[slot] = 0;
        }
        self.second = self.second.max(second);
    }

    fn slot(&self, second: u64) -> usize {
        usize::try_from(second % self.seconds.len() as u64).expect("less than the length")
    }
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Traffic {
    /// From peers.
    pub(super) received: Meter,
    /// To peers.
    pub(super) sent: Meter,
}

impl Traffic {
    pub(super) fn new(now: Instant) -> Self {
        Self { received: Meter::new(now), sent: Meter::new(now) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_follow_the_last_seconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut meter = Meter::new(start);
        meter.add(500, at(0));
        assert_eq!(meter.rate(at(500)), 1_000, "half a second tells what it can");
        meter.add(500, at(900));
        for second in 1..10 {
            meter.add(1_000, at(second * 1_000));
        }
        assert_eq!((meter.rate(at(9_999)), meter.total()), (1_000, 10_000));
        assert_eq!(meter.rate(at(12_000)), 600, "two silent seconds of five");
        assert_eq!(meter.rate(at(20_000)), 0);
        assert_eq!(meter.rate(at(2_000_000)), 0);
        meter.add(5_000, at(2_000_500));
        assert_eq!((meter.rate(at(2_001_000)), meter.total()), (1_000, 15_000));
    }
}
