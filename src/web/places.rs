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

/// The places of one holder: one, or as many as it takes. Dropping it frees them.
#[derive(Debug)]
pub(super) struct Place<K: Copy + Eq + Hash> {
    places: Arc<Places<K>>,
    holder: Option<K>,
    held: u32,
}

impl<K: Copy + Eq + Hash> Places<K> {
    pub(super) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        let taken = Taken { all: 0, by_holder: HashMap::new() };
        Arc::new(Self { most, most_of_one, taken: Mutex::new(taken) })
    }

    /// A place for `holder`; for nobody in particular only the whole number counts. `None` when there is none left.
    pub(super) fn take(self: &Arc<Self>, holder: Option<K>) -> Option<Place<K>> {
        let mut place = self.none_yet(holder);
        place.take_one().then_some(place)
    }

    /// For a holder that takes places [one by one](Place::take_one).
    pub(super) fn none_yet(self: &Arc<Self>, holder: Option<K>) -> Place<K> {
        Place { places: self.clone(), holder, held: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().expect("nothing panics while holding it")
    }
}

impl<K: Copy + Eq + Hash> Place<K> {
    /// Takes one more, if there is one.
    #[must_use]
    pub(super) fn take_one(&mut self) -> bool {
        let mut taken = self.places.taken();
        if taken.all >= self.places.most {
            return false;
        }
        if let Some(holder) = self.holder {
            let held = taken.by_holder.get(&holder).copied().unwrap_or(0);
            if held >= self.places.most_of_one {
                return false;
            }
            taken.by_holder.insert(holder, held + 1);
        }
        taken.all += 1;
        self.held += 1;
        true
    }

    /// Frees one of those taken.
    pub(super) fn free_one(&mut self) {
        self.free(1);
    }

    fn free(&mut self, places: u32) {
        if places == 0 {
            return;
        }
        self.held -= places;
        let mut taken = self.places.taken();
        taken.all -= places as usize;
        if let Some(holder) = self.holder
            && let Some(held) = taken.by_holder.get_mut(&holder)
        {
            *held -= places as usize;
            if *held == 0 {
                taken.by_holder.remove(&holder);
            }
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.free(self.held);
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
        let (mut one, mut other) = (places.none_yet(Some('a')), places.none_yet(Some('a')));
        assert!(one.take_one() && one.take_one() && !other.take_one(), "of one holder, whichever way it takes them");
        one.free_one();
        assert!(other.take_one() && !one.take_one());
        drop((one, other));
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_holder.len()), (0, 0));
    }
}
