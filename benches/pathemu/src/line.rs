//! Loss, queue and rate of one direction. Pure; time and chance are handed in.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

#[derive(Debug)]
pub struct Line {
    /// Bytes a second; 0 for no limit.
    rate: f64,
    /// Bytes that may wait.
    queue: usize,
    /// Of 1.
    loss: f64,
    /// When all that was taken so far has left.
    free: Option<Instant>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// Its last bit leaves then.
    Leaves(Instant),
    /// By chance.
    Lost,
    /// The queue was full.
    Dropped,
}

impl Line {
    pub fn new(rate: f64, queue: usize, loss: f64) -> Self {
        Self { rate, queue, loss, free: None }
    }

    /// Takes a packet of `length` bytes; returns how long the queue was then, in time, and what becomes of the packet.
    pub fn take(&mut self, length: usize, now: Instant, rng: &mut impl Rng) -> (Duration, Fate) {
        let free = self.free.map_or(now, |free| free.max(now));
        let waits = free - now;
        if rng.random_bool(self.loss) {
            return (waits, Fate::Lost);
        }
        if self.rate == 0.0 {
            return (waits, Fate::Leaves(now));
        }
        if waits.as_secs_f64() * self.rate + length as f64 > self.queue as f64 {
            return (waits, Fate::Dropped);
        }
        let leaves = free + Duration::from_secs_f64(length as f64 / self.rate);
        self.free = Some(leaves);
        (waits, Fate::Leaves(leaves))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn packets_leave_at_the_rate_and_a_full_queue_drops() {
        let (mut rng, now) = (StdRng::seed_from_u64(1), Instant::now());
        let mut line = Line::new(1e6, 3_000, 0.0);
        let fates: Vec<_> = (0..5).map(|_| line.take(1_000, now, &mut rng).1).collect();
        let at = |ms| Fate::Leaves(now + Duration::from_millis(ms));
        assert_eq!(fates, [at(1), at(2), at(3), Fate::Dropped, Fate::Dropped]);
        let later = now + Duration::from_millis(2);
        assert_eq!(line.take(1_000, later, &mut rng), (Duration::from_millis(1), at(4)));
    }

    #[test]
    fn losses_come_by_chance_and_take_no_time() {
        let (mut rng, now) = (StdRng::seed_from_u64(1), Instant::now());
        let mut line = Line::new(0.0, 0, 0.02);
        let lost = (0..100_000).filter(|_| line.take(1_000, now, &mut rng).1 == Fate::Lost).count();
        assert!((1_800..2_200).contains(&lost), "{lost}");
    }
}
