//! The newest version of every record known here. Pure: time is an argument, and what must reach the disk is returned.
//!
//! A record's sequence number never goes back: the entry itself is the floor. Memory is bounded: past the capacity the
//! least recently used goes, records that were put here only after all that were merely seen, and those that a pin keeps
//! alive never: their number is bounded by the pins. Of an evicted entry the number stays, in a table that is bounded too.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::floors::Floors;
use super::negative_cache::NegativeCache;
use crate::wire::id::{InfoHash, Target};
use crate::wire::item::VerifiedItem;
use crate::wire::pointer;

/// What is kept of a record, in memory and on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The newest version.
    pub(super) item: VerifiedItem,
    /// Another value with the same sequence number was seen.
    pub(super) conflict: bool,
    /// A client of this server put it; it is published again every hour.
    pub(super) put_here: bool,
}

/// What must reach the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Write this entry over the one of the same target.
    Save(Entry),
    /// Remove the entry of this target.
    Delete(Target),
    /// Write that the target's number does not go below this.
    Floor(Target, i64),
    /// Remove that.
    ForgetFloor(Target),
    /// Write down what is put with `cas` and not decided yet: a disk that takes this takes the version, too.
    Intend(VerifiedItem),
    /// Remove that.
    Decided(Target),
}

/// The outcome of a step, and the changes that the caller must write.
#[derive(Debug)]
#[must_use]
pub(super) struct Step<T> {
    pub(super) outcome: T,
    pub(super) changes: Vec<Change>,
}

/// Why a put is refused, with the version that stands in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// BEP 44 error 301: "the CAS hash mismatched, re-read value and try again".
    CasMismatch(Box<VerifiedItem>),
    /// BEP 44 error 302: "sequence number less than current"; here also equal, with a smaller value.
    Stale(Box<VerifiedItem>),
    /// The same, when of the newer version only its number is still known.
    BelowFloor(i64),
}

/// Floors kept for each record that may be kept.
const FLOORS_PER_RECORD: usize = 4;

/// Who goes first when room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Somebody asked for it.
    Seen,
    /// A client put it here.
    PutHere,
    /// A pin keeps it alive: it stays.
    Adopted,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// When the DHT was last asked.
    checked: Option<Instant>,
    /// Its place in `by_use`.
    place: (Rank, u64),
}

/// The book.
#[derive(Debug)]
pub(super) struct Book {
    capacity: usize,
    slots: HashMap<Target, Slot>,
    /// By rank, then the least recently used.
    by_use: BTreeMap<(Rank, u64), Target>,
    /// What pins keep alive, with the number it was adopted with last.
    adopted: HashMap<Target, i64>,
    uses: u64,
    /// How often anything was written.
    writes: u64,
    /// How many records point to each torrent (BEP 46).
    pointers: HashMap<InfoHash, usize>,
    negative_cache: NegativeCache,
    floors: Floors,
}

impl Book {
    /// An empty book that keeps at most `capacity` records.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            slots: HashMap::new(),
            by_use: BTreeMap::new(),
            adopted: HashMap::new(),
            uses: 0,
            writes: 0,
            pointers: HashMap::new(),
            negative_cache: NegativeCache::default(),
            floors: Floors::new(capacity.max(1) * FLOORS_PER_RECORD),
        }
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The newest version, which counts as a use.
    pub(super) fn find(&mut self, target: &Target) -> Option<Entry> {
        self.touch(target);
        self.slots.get(target).map(|slot| slot.entry.clone())
    }

    /// The newest version, for the server's own upkeep: no use.
    pub(super) fn peek(&self, target: &Target) -> Option<Entry> {
        self.slots.get(target).map(|slot| slot.entry.clone())
    }

    /// The newest versions, by rank: the last used first.
    pub(super) fn recent(&self, max: usize) -> Vec<VerifiedItem> {
        let targets = self.by_use.values().rev().take(max);
        targets.filter_map(|target| Some(self.slots.get(target)?.entry.item.clone())).collect()
    }

    /// Stays the same as long as no entry is written.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// The newest sequence number.
    pub(super) fn seq(&self, target: &Target) -> Option<i64> {
        self.slots.get(target).map(|slot| slot.entry.item.seq())
    }

    /// Whether the DHT was asked at most `max_age` ago. That nobody had the record is remembered for a shorter time.
    pub(super) fn is_fresh(&self, target: &Target, max_age: Duration, now: Instant) -> bool {
        match self.slots.get(target) {
            Some(slot) => slot.checked.is_some_and(|checked| now.saturating_duration_since(checked) <= max_age),
            None => self.negative_cache.contains(target, max_age, now),
        }
    }

    /// Notes that the DHT was asked just now.
    pub(super) fn checked(&mut self, target: Target, now: Instant) {
        match self.slots.get_mut(&target) {
            Some(slot) => slot.checked = Some(now),
            None => self.negative_cache.insert(target, now),
        }
    }

    /// Whether a record points to this torrent.
    pub(super) fn points_to(&self, info_hash: &InfoHash) -> bool {
        self.pointers.contains_key(info_hash)
    }

    /// Keeps whatever is the newest version of this record, until [`Book::abandon`]. The number it was adopted with before.
    pub(super) fn adopt(&mut self, target: Target, seq: i64) -> Option<i64> {
        let before = self.adopted.insert(target, seq);
        self.touch(&target);
        before
    }

    /// Leaves the record to make room again when its turn comes.
    pub(super) fn abandon(&mut self, target: &Target) {
        self.adopted.remove(target);
        self.touch(target);
    }

    /// The version that is to be published, if anybody wants that here: its author or a pin.
    pub(super) fn to_publish(&self, target: &Target) -> Option<VerifiedItem> {
        let slot = self.slots.get(target).filter(|slot| slot.place.0 > Rank::Seen)?;
        Some(slot.entry.item.clone())
    }

    /// Takes an entry read from disk, where it stays unless there is no room.
    pub(super) fn load(&mut self, entry: Entry) -> Vec<Change> {
        let target = entry.item.target();
        self.write(target, entry);
        self.evict(&target)
    }

    /// Takes a floor read from disk.
    pub(super) fn load_floor(&mut self, target: Target, seq: i64) -> Vec<Change> {
        self.floors.set(target, seq).map(Change::ForgetFloor).into_iter().collect()
    }

    /// Takes a version that others had. The newest wins; of two values with the same number the bytewise larger. Tells
    /// whether it is the newest now, and was not known.
    pub(super) fn learn(&mut self, item: VerifiedItem) -> Step<bool> {
        let target = item.target();
        let newer = match self.slots.get(&target) {
            None => self.floors.get(&target).is_none_or(|floor| item.seq() >= floor),
            Some(slot) => item.replaces(&slot.entry.item),
        };
        let changes = match self.slots.get(&target).map(|slot| &slot.entry) {
            None if !newer => Vec::new(),
            None => self.store(target, Entry { item, conflict: false, put_here: false }),
            Some(known) => {
                let conflict = item.conflicts_with(&known.item);
                let (known_conflict, put_here) = (known.conflict, known.put_here);
                if newer {
                    self.store(target, Entry { item, conflict, put_here })
                } else if conflict && !known_conflict {
                    self.store(target, Entry { conflict, ..known.clone() })
                } else {
                    Vec::new()
                }
            }
        };
        Step { outcome: newer, changes }
    }

    /// Whether a put of this version would be refused whatever its `cas`: a newer one is known.
    pub(super) fn refuses(&self, item: &VerifiedItem) -> bool {
        let target = item.target();
        match self.slots.get(&target) {
            Some(slot) => slot.entry.item.replaces(item),
            None => self.floors.get(&target).is_some_and(|floor| item.seq() < floor),
        }
    }

    /// Takes a version that a client puts, if it is newer than what is known and `cas` is the number of that. The very
    /// version that is known is always taken: it is a client that repeats itself because it got no reply.
    pub(super) fn put(&mut self, item: VerifiedItem, cas: Option<i64>) -> Step<Result<Entry, Refusal>> {
        match self.judge(&item, cas) {
            Ok(entry) => {
                let changes = self.store(item.target(), entry.clone());
                Step { outcome: Ok(entry), changes }
            }
            Err(refusal) => {
                // It may be another value with a known number, which is to be remembered of that.
                let changes = match &refusal {
                    Refusal::Stale(_) => self.learn(item).changes,
                    _ => Vec::new(),
                };
                Step { outcome: Err(refusal), changes }
            }
        }
    }

    /// What a put would come to: the entry that it would make. Changes nothing.
    pub(super) fn judge(&self, item: &VerifiedItem, cas: Option<i64>) -> Result<Entry, Refusal> {
        let target = item.target();
        let Some(known) = self.slots.get(&target).map(|slot| &slot.entry) else {
            return match self.floors.get(&target).filter(|floor| item.seq() < *floor) {
                Some(floor) => Err(Refusal::BelowFloor(floor)),
                None => Ok(Entry { item: item.clone(), conflict: false, put_here: true }),
            };
        };
        let is_known = !item.replaces(&known.item) && !known.item.replaces(item);
        if cas.is_some_and(|cas| cas != known.item.seq()) && !is_known {
            return Err(Refusal::CasMismatch(Box::new(known.item.clone())));
        }
        if known.item.replaces(item) {
            return Err(Refusal::Stale(Box::new(known.item.clone())));
        }
        let conflict = item.conflicts_with(&known.item) || (is_known && known.conflict);
        Ok(Entry { item: item.clone(), conflict, put_here: true })
    }

    /// Makes room for an entry of `target`, if there is none of it yet.
    pub(super) fn make_room(&mut self, target: &Target) -> Vec<Change> {
        let taken = usize::from(!self.slots.contains_key(target));
        self.evict_to(self.capacity - taken, target)
    }

    /// Writes an entry and makes room for it.
    fn store(&mut self, target: Target, entry: Entry) -> Vec<Change> {
        let mut changes = vec![Change::Save(entry.clone())];
        self.write(target, entry);
        changes.extend(self.evict(&target));
        changes
    }

    fn write(&mut self, target: Target, entry: Entry) {
        self.writes += 1;
        let checked = self.remove(&target).and_then(|slot| slot.checked);
        if let Some(info_hash) = pointer::info_hash(entry.item.v()) {
            *self.pointers.entry(info_hash).or_default() += 1;
        }
        let place = self.next_place(&target, &entry);
        self.by_use.insert(place, target);
        self.slots.insert(target, Slot { entry, checked, place });
    }

    fn remove(&mut self, target: &Target) -> Option<Slot> {
        let slot = self.slots.remove(target)?;
        self.by_use.remove(&slot.place);
        if let Some(info_hash) = pointer::info_hash(slot.entry.item.v())
            && let Some(count) = self.pointers.get_mut(&info_hash)
        {
            *count -= 1;
            if *count == 0 {
                self.pointers.remove(&info_hash);
            }
        }
        Some(slot)
    }

    fn touch(&mut self, target: &Target) {
        if let Some(mut slot) = self.slots.remove(target) {
            self.by_use.remove(&slot.place);
            slot.place = self.next_place(target, &slot.entry);
            self.by_use.insert(slot.place, *target);
            self.slots.insert(*target, slot);
        }
    }

    /// The place of what is used now.
    fn next_place(&mut self, target: &Target, entry: &Entry) -> (Rank, u64) {
        self.uses += 1;
        let rank = match (self.adopted.contains_key(target), entry.put_here) {
            (true, _) => Rank::Adopted,
            (false, true) => Rank::PutHere,
            (false, false) => Rank::Seen,
        };
        (rank, self.uses)
    }

    /// Removes entries past the capacity, never `kept`, which somebody is waiting for, and never what is adopted.
    fn evict(&mut self, kept: &Target) -> Vec<Change> {
        self.evict_to(self.capacity, kept)
    }

    fn evict_to(&mut self, most: usize, kept: &Target) -> Vec<Change> {
        let mut changes = Vec::new();
        while self.slots.len() > most {
            let mut removable = self.by_use.range(..(Rank::Adopted, 0)).map(|(_, target)| *target);
            let Some(oldest) = removable.find(|target| target != kept) else { break };
            let slot = self.remove(&oldest).expect("every place in `by_use` is a slot's");
            let seq = slot.entry.item.seq();
            changes.extend([Change::Delete(oldest), Change::Floor(oldest, seq)]);
            changes.extend(self.floors.set(oldest, seq).map(Change::ForgetFloor));
        }
        changes
    }
}

#[cfg(test)]
mod tests;
