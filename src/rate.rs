//! Token buckets: some may pass at once, then one in every interval. Pure: time is an argument.
//!
//! A bucket is kept as the one moment at which it will be full again (the generic cell rate algorithm), so one that has
//! been left alone for a while need not be remembered.

use std::time::{Duration, Instant};

/// How much may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once; nothing at all where it is 0.
    pub burst: u32,
    /// Then one in this time.
    pub every: Duration,
}

impl Rate {
    /// As much as anybody wants.
    pub const UNLIMITED: Self = Self { burst: u32::MAX, every: Duration::ZERO };

    /// `amount` in the course of `time` and `burst` at once. An amount of 0 is no limit.
    #[must_use]
    pub fn in_the_time(amount: u32, time: Duration, burst: u32) -> Self {
        match amount {
            0 => Self::UNLIMITED,
            _ => Self { burst, every: time / amount },
        }
    }
}

/// How much of a [`Rate`] is used up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, or tells when there will be one.
    ///
    /// # Errors
    /// There is none now; from this moment on there is.
    pub fn take(&mut self, rate: Rate, now: impl Into<Instant>) -> Result<(), Instant> {
        let now = now.into();
        let full_at = self.full_at(now);
        let missing = full_at - now;
        let most_missing = rate.every * rate.burst.saturating_sub(1);
        if rate.burst == 0 || missing > most_missing {
            return Err(full_at - most_missing);
        }
        self.full_at = Some(full_at + rate.every);
        Ok(())
    }

    /// Takes up to `wanted`; how many there were.
    pub fn take_up_to(&mut self, wanted: usize, rate: Rate, now: Instant) -> usize {
        let full_at = self.full_at(now);
        let missing = match rate.every.as_nanos() {
            0 => 0,
            every => (full_at - now).as_nanos().div_ceil(every),
        };
        let left = u128::from(rate.burst).saturating_sub(missing);
        let taken = u32::try_from(left.min(wanted as u128)).expect("no more than the burst");
        self.full_at = Some(full_at + rate.every * taken);
        taken as usize
    }

    /// Whether nothing is missing: then it need not be remembered.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at(now) == now
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_then_one_in_every_interval() {
        let rate = Rate { burst: 3, every: Duration::from_secs(5) };
        let start = Instant::now();
        let mut bucket = Bucket::default();
        // seconds → taken, or how long to wait
        let table =
            [(0, Ok(())), (0, Ok(())), (0, Ok(())), (0, Err(5)), (4, Err(1)), (5, Ok(())), (5, Err(5)), (100, Ok(()))];
        for (seconds, expected) in table {
            let now = start + Duration::from_secs(seconds);
            let expected = expected.map_err(|wait| now + Duration::from_secs(wait));
            assert_eq!(bucket.take(rate, now), expected, "after {seconds} s");
        }
        assert!(!bucket.is_full(start + Duration::from_secs(104)) && bucket.is_full(start + Duration::from_secs(105)));
    }

    #[test]
    fn several_at_a_time() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut bucket = Bucket::default();
        let rate = Rate::in_the_time(10, Duration::from_secs(1), 200);
        // Milliseconds since the start, wanted, passed.
        let table = [(0, 150, 150), (0, 100, 50), (0, 1, 0), (50, 1, 0), (100, 1, 1), (1_100, 100, 10), (500, 1, 0)];
        for (millis, wanted, passed) in table {
            assert_eq!(bucket.take_up_to(wanted, rate, after(millis)), passed, "{millis} ms, {wanted}");
        }
        assert!(!bucket.is_full(after(20_000)) && bucket.is_full(after(30_000)));
        assert_eq!(bucket.take_up_to(1_000, rate, after(1_000_000)), 200, "it does not overflow");

        let rate = Rate::in_the_time(60, Duration::from_secs(120), 60);
        let mut bucket = Bucket::default();
        assert_eq!([0, 0, 4_000, 200_000].map(|millis| bucket.take_up_to(61, rate, after(millis))), [60, 0, 2, 60]);
    }

    #[test]
    fn no_limit_and_nothing() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let unlimited = Rate::in_the_time(0, Duration::from_secs(60), 0);
        assert_eq!(bucket.take_up_to(1_000_000, unlimited, now), 1_000_000);
        assert!((0..1_000).all(|_| bucket.take(unlimited, now).is_ok()) && bucket.is_full(now));
        let nothing = Rate { burst: 0, every: Duration::from_secs(1) };
        assert!(bucket.take(nothing, now).is_err());
        assert_eq!(bucket.take_up_to(1, nothing, now), 0);
    }
}
