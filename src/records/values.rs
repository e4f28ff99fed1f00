//! Immutable items that were got or put lately. A value is its own proof, so there is nothing to keep newest or to ask
//! again; memory only, since whoever put one has it, and the DHT has it too.

use std::collections::{HashMap, VecDeque};

use crate::wire::id::Target;
use crate::wire::item::immutable_target;

/// Most values kept: at most a thousand bytes each, so some four megabytes. The oldest go first.
const CAPACITY: usize = 4096;

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Values {
    values: HashMap<Target, Vec<u8>>,
    order: VecDeque<Target>,
}

impl Values {
    /// The value of this target.
    pub(super) fn get(&self, target: &Target) -> Option<Vec<u8>> {
        self.values.get(target).cloned()
    }

    /// Keeps a value and returns its target.
    pub(super) fn insert(&mut self, v: Vec<u8>) -> Target {
        let target = immutable_target(&v);
        if self.values.insert(target, v).is_none() {
            self.order.push_back(target);
        }
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let mut values = Values::default();
        let targets: Vec<Target> = (0..CAPACITY + 2).map(|n| values.insert(format!("i{n}e").into_bytes())).collect();
        values.insert(b"i5e".to_vec());
        assert_eq!((values.values.len(), values.order.len()), (CAPACITY, CAPACITY));
        assert_eq!(values.get(&targets[1]), None);
        assert_eq!(values.get(&targets[2]), Some(b"i2e".to_vec()));
    }
}
