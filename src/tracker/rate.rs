//! Token buckets. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How much may pass in the long run, and how much at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    per_second: f64,
    burst: f64,
}

/// What one address has left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rate {
    /// So much at once, and as much again in the course of `time`.
    pub(super) fn in_the_time(amount: usize, time: Duration) -> Self {
        let burst = amount as f64;
        Self { per_second: burst / time.as_secs_f64().max(1.0), burst }
    }

    /// Seconds' worth that may pass at once: a page with a hundred torrents announces them all when it is opened.
    const BURST_SECONDS: f64 = 20.0;

    /// Zero for no limit.
    pub(super) fn per_second(per_second: u32) -> Self {
        let per_second = if per_second == 0 { f64::INFINITY } else { f64::from(per_second) };
        Self { per_second, burst: per_second * Self::BURST_SECONDS }
    }
}

impl Bucket {
    pub(super) fn full(now: Instant, rate: Rate) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    /// Takes up to `wanted`; how much there was.
    pub(super) fn take(&mut self, now: Instant, rate: Rate, wanted: usize) -> usize {
        self.fill(now, rate);
        let taken = (self.tokens as usize).min(wanted);
        self.tokens -= taken as f64;
        taken
    }

    /// Whether nothing is missing: then it need not be remembered.
    pub(super) fn is_full(&mut self, now: Instant, rate: Rate) -> bool {
        self.fill(now, rate);
        self.tokens >= rate.burst
    }

    fn fill(&mut self, now: Instant, rate: Rate) {
        if rate.burst.is_finite() {
            let passed = now.saturating_duration_since(self.at).as_secs_f64();
            self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        }
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let rate = Rate::per_second(10);
        let mut bucket = Bucket::full(start, rate);
        // Milliseconds since the start, wanted, passed.
        let table = [(0, 150, 150), (0, 100, 50), (0, 1, 0), (50, 1, 0), (100, 1, 1), (1_100, 100, 10), (500, 1, 0)];
        for (millis, wanted, passed) in table {
            assert_eq!(bucket.take(after(millis), rate, wanted), passed, "{millis} ms, {wanted}");
        }
        assert!(!bucket.is_full(after(20_000), rate));
        assert!(bucket.is_full(after(30_000), rate));
        assert_eq!(bucket.take(after(1_000_000), rate, 1_000), 200, "it does not overflow");

        let rate = Rate::in_the_time(60, Duration::from_secs(120));
        let mut bucket = Bucket::full(start, rate);
        assert_eq!([0, 0, 4_000, 200_000].map(|millis| bucket.take(after(millis), rate, 61)), [60, 0, 2, 60]);

        let rate = Rate::per_second(0);
        let mut bucket = Bucket::full(start, rate);
        assert_eq!(bucket.take(start, rate, 1_000_000), 1_000_000);
        assert!(bucket.is_full(start, rate));
    }
}
