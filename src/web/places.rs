//! A bounded number of places, in all and for each who takes them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

/// Places, counted by who holds them.
#[derive(Debug)]
pub(super) struct Places<K> {
    most: usize,
    most_of_one: usize,
    // A std mutex: it is held for a few synchronous lines.
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    by_holder: HashMap<K, usize>,
}

/// A place; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place<K: Copy + Eq + Hash> {
    places: Arc<Places<K>>,
    holder: Option<K>,
}

impl<K: Copy + Eq + Hash> Places<K> {
    pub(super) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        let taken = Taken { all: 0, by_holder: HashMap::new() };
        Arc::new(Self { most, most_of_one, taken: Mutex::new(taken) })
    }

    /// A place for `holder`; for nobody in particular only the whole number counts. `None` when there is none left.
    pub(super) fn take(self: &Arc<Self>, holder: Option<K>) -> Option<Place<K>> {
        let mut taken = self.taken();
        if taken.all >= self.most {
            return None;
        }
        if let Some(holder) = holder {
            let held = taken.by_holder.get(&holder).copied().unwrap_or(0);
            if held >= self.most_of_one {
                return None;
            }
            taken.by_holder.insert(holder, held + 1);
        }
        taken.all += 1;
        Some(Place { places: self.clone(), holder })
    }

    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().expect("nothing panics while holding it")
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(holder) = self.holder
            && let Some(held) = taken.by_holder.get_mut(&holder)
        {
            *held -= 1;
            if *held == 0 {
                taken.by_holder.remove(&holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_run_out_for_one_and_for_all_and_come_back() {
        let places = Places::new(4, 2);
        let (a, _b) = (places.take(Some('a')).unwrap(), places.take(Some('a')).unwrap());
        assert!(places.take(Some('a')).is_none(), "two are all that one gets");
        let (_c, _d) = (places.take(Some('c')).unwrap(), places.take(None).unwrap());
        assert!(places.take(Some('c')).is_none() && places.take(None).is_none(), "four are all there are");
        drop(a);
        assert!(places.take(Some('a')).is_some());
        drop((_b, _c, _d));
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_holder.len()), (0, 0));
    }
}
