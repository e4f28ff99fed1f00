//! A bound on how often something is done: some at once, then one in every interval. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// This many at once.
    pub(super) burst: u32,
    /// Then one in this time.
    pub(super) every: Duration,
}

/// How much of a [`Rate`] is used up: the moment at which none of it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    free_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, or tells when there will be one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Instant> {
        let free_at = self.free_at.map_or(now, |at| at.max(now));
        let earliest = free_at.checked_sub(rate.every * (rate.burst - 1)).unwrap_or(now);
        if earliest > now {
            return Err(earliest);
        }
        self.free_at = Some(free_at + rate.every);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_then_one_in_every_interval() {
        let rate = Rate { burst: 3, every: Duration::from_secs(5) };
        let start = Instant::now() + Duration::from_secs(1000);
        let mut bucket = Bucket::default();
        // seconds → taken, or how long to wait
        let table =
            [(0, Ok(())), (0, Ok(())), (0, Ok(())), (0, Err(5)), (4, Err(1)), (5, Ok(())), (5, Err(5)), (100, Ok(()))];
        for (seconds, expected) in table {
            let now = start + Duration::from_secs(seconds);
            let expected = expected.map_err(|wait| now + Duration::from_secs(wait));
            assert_eq!(bucket.take(rate, now), expected, "after {seconds} s");
        }
    }
}
