//! The sequence numbers of records that had to make room for others, so that none of them goes back either. Pure.

use std::collections::{HashMap, VecDeque};

use crate::wire::id::Target;

/// The table. Some 80 bytes each, of which the oldest go first.
#[derive(Debug)]
pub(super) struct Floors {
    capacity: usize,
    seqs: HashMap<Target, i64>,
    order: VecDeque<Target>,
}

impl Floors {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, seqs: HashMap::new(), order: VecDeque::new() }
    }

    /// The highest number that was seen of a record which is no longer kept.
    pub(super) fn get(&self, target: &Target) -> Option<i64> {
        self.seqs.get(target).copied()
    }

    /// Notes a number, and returns the target that is forgotten for it, if one is.
    pub(super) fn set(&mut self, target: Target, seq: i64) -> Option<Target> {
        if let Some(known) = self.seqs.get_mut(&target) {
            *known = seq.max(*known);
            return None;
        }
        self.seqs.insert(target, seq);
        self.order.push_back(target);
        let forgotten = (self.order.len() > self.capacity).then(|| self.order.pop_front()).flatten()?;
        self.seqs.remove(&forgotten);
        Some(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_kept_and_the_oldest_forgotten() {
        let mut floors = Floors::new(2);
        let target = |n| Target([n; 20]);
        assert_eq!((floors.set(target(1), 5), floors.set(target(2), 1)), (None, None));
        assert_eq!(floors.set(target(1), 4), None);
        assert_eq!(floors.get(&target(1)), Some(5));
        assert_eq!(floors.set(target(3), 9), Some(target(1)));
        assert_eq!((floors.get(&target(1)), floors.get(&target(2))), (None, Some(1)));
    }
}
