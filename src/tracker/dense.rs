//! A set of entries that know their own key: entries side by side in one allocation, found by key, drawn at random, and
//! gone through bit by bit. Most swarms have a handful of peers, so a small set has no index: it is read through.
//!
//! What a general map pays for (a hash kept with each entry, an index from the first one on, room for twice as many) is
//! most of the memory of a table of small swarms; `make bench-table` has the figures.

use std::fmt::Debug;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;
use rand::{Rng, RngExt};

/// Entries up to which a set is read through: a few cache lines, no slower than hashing the key.
const READ_THROUGH: usize = 16;

/// An indexed set loses its index when it has this few entries again. Below [`READ_THROUGH`], so that one peer that
/// comes and goes does not have it built each time.
const INDEX_DROPPED: usize = READ_THROUGH / 2;

/// Neighbours that [`Dense::draw`] takes together: some cache lines in a row cost little more than one.
const RUN: usize = 8;

/// An entry of a [`Dense`] set.
pub(super) trait Keyed {
    type Key: Eq + Hash + Copy + Debug;

    /// What it is found by; never changes.
    fn key(&self) -> Self::Key;
}

#[derive(Debug)]
pub(super) struct Dense<T> {
    entries: Vec<T>,
    index: Option<Box<Index>>,
}

/// Where each entry is, by the hash of its key. The hash is keyed by chance, since strangers choose what is hashed.
#[derive(Debug, Default)]
struct Index {
    places: HashTable<u32>,
    hasher: RandomState,
}

impl<T> Default for Dense<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), index: None }
    }
}

impl<T: Keyed> Dense<T> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry at a place, which is good until an entry is removed.
    pub(super) fn at(&self, place: usize) -> &T {
        &self.entries[place]
    }

    pub(super) fn at_mut(&mut self, place: usize) -> &mut T {
        &mut self.entries[place]
    }

    /// Where the entry with this key is.
    pub(super) fn place(&self, key: &T::Key) -> Option<usize> {
        match &self.index {
            None => self.entries.iter().position(|entry| entry.key() == *key),
            Some(index) => index.find(&self.entries, index.hasher.hash_one(key), key),
        }
    }

    pub(super) fn get(&self, key: &T::Key) -> Option<&T> {
        self.place(key).map(|place| &self.entries[place])
    }

    pub(super) fn get_mut(&mut self, key: &T::Key) -> Option<&mut T> {
        self.place(key).map(|place| &mut self.entries[place])
    }

    /// Adds an entry whose key is not there yet; returns its place.
    pub(super) fn push(&mut self, entry: T) -> usize {
        debug_assert!(self.get(&entry.key()).is_none(), "each key once");
        let place = self.entries.len();
        if place == self.entries.capacity() {
            // By half, where Vec would double: most sets stay small, and there are many.
            self.entries.reserve_exact((place / 2).max(1));
        }
        self.entries.push(entry);
        match &mut self.index {
            Some(index) => index.add(&self.entries, place),
            None if place >= READ_THROUGH => {
                let mut index = Box::new(Index::default());
                (0..=place).for_each(|place| index.add(&self.entries, place));
                self.index = Some(index);
            }
            None => {}
        }
        place
    }

    pub(super) fn remove(&mut self, key: &T::Key) -> Option<T> {
        self.place(key).map(|place| self.remove_at(place))
    }

    /// Takes out the entry at `place`; the last one moves there.
    pub(super) fn remove_at(&mut self, place: usize) -> T {
        let last = self.entries.len() - 1;
        if last <= INDEX_DROPPED {
            self.index = None;
        }
        if let Some(index) = &mut self.index {
            index.remove(&self.entries, place);
            index.moved(&self.entries, last, place);
        }
        let removed = self.entries.swap_remove(place);
        self.give_back();
        removed
    }

    /// Frees memory of what has gone; rarely, so that each removal pays for little of it.
    fn give_back(&mut self) {
        let len = self.entries.len();
        if len < self.entries.capacity() / 4 {
            self.entries.shrink_to(2 * len);
        }
        if let Some(index) = &mut self.index
            && len < index.places.capacity() / 8
        {
            let Index { places, hasher } = &mut **index;
            places.shrink_to(2 * len, |place| hasher.hash_one(self.entries[*place as usize].key()));
        }
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.entries.iter()
    }

    /// Up to `amount` entries, each as likely as any other, in no order that means anything. Neighbours come together:
    /// it takes a few runs, each from a random place of its own part of the set. So it costs the same in a set of any
    /// size, and touches little memory.
    pub(super) fn draw(&self, rng: &mut impl Rng, amount: usize) -> impl Iterator<Item = &T> {
        let len = self.entries.len();
        let amount = amount.min(len);
        // Turned by chance, since the ends of a part are drawn less often than its middle.
        let turn = if len == 0 { 0 } else { rng.random_range(0..len) };
        let runs = if amount == len { 1 } else { amount.div_ceil(RUN) };
        // Each part has its share of what is drawn, and of what is not.
        let share = move |of: usize, run: usize| of * run / runs.max(1);
        (0..runs).flat_map(move |run| {
            let (drawn, skipped) = (share(amount, run), share(len - amount, run));
            let take = share(amount, run + 1) - drawn;
            let jitter = rng.random_range(0..=share(len - amount, run + 1) - skipped);
            let first = (turn + drawn + skipped + jitter) % len.max(1);
            // A run may go past the end and on from the beginning.
            let before_end = take.min(len - first);
            self.entries[first..first + before_end].iter().chain(&self.entries[..take - before_end])
        })
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        for (place, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.place(&entry.key()), Some(place), "each key once, and found");
        }
        match &self.index {
            None => assert!(self.len() <= READ_THROUGH),
            Some(index) => assert_eq!((index.places.len(), self.len() > INDEX_DROPPED), (self.len(), true)),
        }
    }
}

impl Index {
    fn find<T: Keyed>(&self, entries: &[T], hash: u64, key: &T::Key) -> Option<usize> {
        self.places.find(hash, |place| entries[*place as usize].key() == *key).map(|place| *place as usize)
    }

    fn add<T: Keyed>(&mut self, entries: &[T], place: usize) {
        let Self { places, hasher } = self;
        let hash = |place: &u32| hasher.hash_one(entries[*place as usize].key());
        let place = u32::try_from(place).expect("memory ends before four thousand million entries");
        places.insert_unique(hash(&place), place, hash);
    }

    fn remove<T: Keyed>(&mut self, entries: &[T], place: usize) {
        let hash = self.hasher.hash_one(entries[place].key());
        let found = self.places.find_entry(hash, |other| *other as usize == place);
        found.expect("every entry is in the index").remove();
    }

    /// The entry that was at one place is about to be at another.
    fn moved<T: Keyed>(&mut self, entries: &[T], from: usize, to: usize) {
        if from != to {
            let hash = self.hasher.hash_one(entries[from].key());
            let place = self.places.find_mut(hash, |other| *other as usize == from);
            *place.expect("every entry is in the index") = to as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    impl Keyed for u16 {
        type Key = u16;

        fn key(&self) -> u16 {
            *self
        }
    }

    fn of(entries: u16) -> Dense<u16> {
        let mut set = Dense::default();
        for n in 0..entries {
            assert_eq!(set.push(n), usize::from(n));
        }
        set
    }

    #[test]
    fn draws_have_the_wanted_size_and_no_entry_twice() {
        let mut rng = SmallRng::seed_from_u64(1);
        for len in [0, 1, 2, 7, 8, 9, 16, 17, 50, 51, 52, 63, 64, 100, 1_000] {
            let set = of(len);
            for amount in [0, 1, 2, 5, 8, 9, 15, 16, 17, 49, 50, 51, 52, 200, 2_000] {
                let drawn: Vec<u16> = set.draw(&mut rng, amount).copied().collect();
                assert_eq!(drawn.len(), amount.min(len.into()), "{amount} of {len}");
                assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len(), "{amount} of {len}");
            }
        }
    }

    #[test]
    fn every_entry_is_as_likely_as_any_other() {
        let mut rng = SmallRng::seed_from_u64(2);
        const ROUNDS: u32 = 20_000;
        for (len, amount) in [(10_u16, 3), (60, 50), (100, 9), (101, 17)] {
            let set = of(len);
            let mut times = vec![0_u32; len.into()];
            for _ in 0..ROUNDS {
                set.draw(&mut rng, amount).for_each(|n| times[usize::from(*n)] += 1);
            }
            let share = amount as f64 / f64::from(len);
            let expected = f64::from(ROUNDS) * share;
            let deviation = (f64::from(ROUNDS) * share * (1.0 - share)).sqrt();
            for (n, times) in times.into_iter().enumerate() {
                let off = (f64::from(times) - expected).abs() / deviation;
                assert!(off < 5.0, "{n} of {len}: {times} times, {expected} expected, {off} standard deviations");
            }
        }
    }

    #[test]
    fn memory_is_given_back() {
        let mut set = of(10_000);
        for n in 0..9_990 {
            assert_eq!(set.remove(&n), Some(n));
        }
        set.check_invariants();
        assert!(set.entries.capacity() <= 64, "{}", set.entries.capacity());
        assert!(set.index.as_ref().is_none_or(|index| index.places.capacity() < 200));
    }

    proptest! {
        #[test]
        fn it_does_what_a_set_does(steps in prop::collection::vec((any::<bool>(), 0_u16..60), 0..400)) {
            let (mut set, mut model) = (Dense::default(), BTreeSet::new());
            for (add, n) in steps {
                if add {
                    if model.insert(n) {
                        set.push(n);
                    }
                } else {
                    prop_assert_eq!(set.remove(&n).is_some(), model.remove(&n));
                }
                set.check_invariants();
                prop_assert_eq!(set.iter().copied().collect::<BTreeSet<_>>(), model.clone());
                prop_assert_eq!(set.get(&n).is_some(), model.contains(&n));
            }
        }
    }
}
