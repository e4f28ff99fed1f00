//! Targets that nobody had a moment ago, so that a popular missing record does not cost a lookup per request.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::wire::id::Target;

/// Longest time that an absence is believed. Somebody may publish at any moment, and readers wait for that.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Most absences remembered; the oldest go first. Some 100 bytes each.
const CAPACITY: usize = 10_000;

/// Since all live equally long, the order of arrival is the order of expiry.
#[derive(Debug, Default)]
pub(super) struct NegativeCache {
    since: HashMap<Target, Instant>,
    order: VecDeque<(Instant, Target)>,
}

impl NegativeCache {
    /// Whether the target was found to be absent at most `max_age` ago.
    pub(super) fn contains(&self, target: &Target, max_age: Duration, now: Instant) -> bool {
        let limit = max_age.min(MAX_AGE);
        self.since.get(target).is_some_and(|since| now.saturating_duration_since(*since) <= limit)
    }

    /// Notes that nobody has the target now.
    pub(super) fn insert(&mut self, target: Target, now: Instant) {
        self.since.insert(target, now);
        self.order.push_back((now, target));
        while let Some(&(since, target)) = self.order.front() {
            if self.order.len() <= CAPACITY && now.saturating_duration_since(since) <= MAX_AGE {
                break;
            }
            self.order.pop_front();
            // It may have been found absent again since; then the later note stays.
            if self.since.get(&target) == Some(&since) {
                self.since.remove(&target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absences_are_believed_for_a_moment_and_bounded() {
        let (mut absences, start) = (NegativeCache::default(), Instant::now());
        let target = |n: usize| Target(std::array::from_fn(|i| (n >> (8 * (i % 4))) as u8));
        absences.insert(target(0), start);
        let hour = Duration::from_secs(3600);
        assert!(absences.contains(&target(0), hour, start + MAX_AGE));
        assert!(!absences.contains(&target(0), hour, start + MAX_AGE + Duration::from_millis(1)));
        assert!(!absences.contains(&target(0), Duration::from_secs(1), start + Duration::from_secs(2)));

        absences.insert(target(0), start + Duration::from_secs(4));
        absences.insert(target(1), start + Duration::from_secs(6));
        assert!(absences.contains(&target(0), hour, start + Duration::from_secs(8)), "the later note counts");

        for n in 0..2 * CAPACITY {
            absences.insert(target(n), start);
        }
        assert_eq!((absences.order.len(), absences.since.len()), (CAPACITY, CAPACITY));
    }
}
