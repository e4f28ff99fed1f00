//! When each record is to be published again. Pure.
//!
//! BEP 44: items "MAY expire in 2 hours" and "SHOULD be re-announced once an hour". That needs no private key: the signed
//! item is put again as it is.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::book::Change;
use crate::wire::id::Target;

/// At least this far apart, whatever the configuration says: a put takes seconds.
const SHORTEST: Duration = Duration::from_secs(1);

/// After a put that no node took. The server may just have started, or lost its network.
const RETRY: Duration = Duration::from_secs(60);

/// Due times, one for each target.
#[derive(Debug)]
pub(super) struct Schedule {
    /// BEP 44's hour.
    interval: Duration,
    due: BTreeSet<(Instant, Target)>,
    at: HashMap<Target, Instant>,
    /// When each that is scheduled was published last, and how many nodes took it.
    last: HashMap<Target, (Instant, usize)>,
}

impl Schedule {
    /// Nothing is due; what will be is published every `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        let interval = interval.max(SHORTEST);
        Self { interval, due: BTreeSet::new(), at: HashMap::new(), last: HashMap::new() }
    }

    /// After a start nobody knows when the records were published last: they come due spread over the interval.
    pub(super) fn loaded(&mut self, target: Target, now: Instant, rng: &mut impl Rng) {
        self.set(target, now + self.interval.mul_f64(rng.random_range(0.0..1.0)));
    }

    /// After a put that `stored` nodes took: in about an interval (a tenth more or less, so that what was published together
    /// drifts apart), or soon if there were none.
    pub(super) fn published(&mut self, target: Target, stored: usize, now: Instant, rng: &mut impl Rng) {
        self.last.insert(target, (now, stored));
        let interval = if stored == 0 { RETRY.min(self.interval) } else { self.interval };
        self.set(target, now + interval.mul_f64(rng.random_range(0.9..1.1)));
    }

    /// At once.
    pub(super) fn set_soon(&mut self, target: Target, now: Instant) {
        self.set(target, now);
    }

    /// Whether the target is scheduled.
    pub(super) fn has(&self, target: &Target) -> bool {
        self.at.contains_key(target)
    }

    /// When it was published last, to how many nodes, and when it is due.
    pub(super) fn of(&self, target: &Target) -> (Option<(Instant, usize)>, Option<Instant>) {
        (self.last.get(target).copied(), self.at.get(target).copied())
    }

    /// How many nodes took it when it was published last, if any did and that was within the hour.
    pub(super) fn holders(&self, target: &Target, now: Instant) -> Option<usize> {
        let (at, stored) = *self.last.get(target)?;
        (stored > 0 && now.saturating_duration_since(at) <= self.interval).then_some(stored)
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, target: &Target) {
        self.last.remove(target);
        if let Some(at) = self.at.remove(target) {
            self.due.remove(&(at, *target));
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Target> {
        let (at, target) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, target));
        self.at.remove(&target);
        Some(target)
    }

    /// Leaves out what had to make room in the book.
    pub(super) fn cancel_deleted(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Delete(target) = change {
                self.remove(target);
            }
        }
    }

    fn set(&mut self, target: Target, at: Instant) {
        if let Some(before) = self.at.insert(target, at) {
            self.due.remove(&(before, target));
        }
        self.due.insert((at, target));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn hourly_spread_and_soon_after_a_failure() {
        let (mut schedule, mut rng, start) =
            (Schedule::new(Duration::from_secs(3600)), StdRng::seed_from_u64(1), Instant::now());
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        for n in 0..100 {
            schedule.loaded(Target([n; 20]), start, &mut rng);
        }
        let mut early = 0;
        while schedule.pop(minutes(30)).is_some() {
            early += 1;
        }
        assert!((30..70).contains(&early), "{early} of 100 in the first half hour");
        while schedule.pop(minutes(60)).is_some() {}
        assert_eq!(schedule.next(), None);

        let target = Target([1; 20]);
        schedule.published(target, 0, start, &mut rng);
        assert!(schedule.next().unwrap() < minutes(2));
        schedule.published(target, 8, start, &mut rng);
        assert!(schedule.next().unwrap() > minutes(53) && schedule.next().unwrap() < minutes(67));
        assert_eq!(schedule.pop(minutes(53)), None);
        assert_eq!(schedule.pop(minutes(67)), Some(target));
        assert_eq!(schedule.next(), None, "a target is due once");
        schedule.published(target, 8, start, &mut rng);
        schedule.cancel_deleted(&[Change::Floor(target, 1)]);
        assert!(schedule.next().is_some());
        schedule.cancel_deleted(&[Change::Delete(target)]);
        assert_eq!((schedule.next(), schedule.of(&target)), (None, (None, None)));
        assert_eq!((schedule.at.len(), schedule.last.len()), (0, 0), "nothing is left");
    }
}
