//! The torrents behind the pins: each once, however many pins keep it. Who is fetched next, and when what failed is tried
//! again. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::ids::{PinId, Unix};
use super::pin::{Reason, Size, Trouble};
use crate::wire::id::InfoHash;

/// The wait after a first failure; it doubles with each ...
const FIRST_RETRY: Duration = Duration::from_secs(10);

/// ... up to this. A swarm that was empty for a day is looked at once an hour.
const LAST_RETRY: Duration = Duration::from_secs(3600);

/// Space comes back at any moment, and looking costs one system call.
const DISK_RETRY: Duration = Duration::from_secs(15);

/// Swarms that nothing comes from hold no place, but are as many at most for each place: they cost sockets and lookups.
const STILL_FOR_EACH: usize = 8;

/// How long one of these may stay while others wait: time for a lookup in the DHT, some connections and an answer.
const TURN: Duration = Duration::from_secs(30);

/// Where a torrent stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits for a place.
    Queued,
    /// It is joined and being fetched.
    Active,
    /// It is joined, and nothing has come of it since this moment or a little before: it holds no place.
    Still(Unix),
    /// All of it was here once, and some of it is fetched again.
    Repairing(Trouble),
    /// All of it is here.
    Complete,
    /// It waits until it is tried again.
    Failing(Trouble),
}

/// One torrent.
#[derive(Debug, Clone)]
pub(super) struct Torrent {
    /// The pins that keep it or want it, with their priorities.
    pub(super) users: BTreeMap<PinId, i8>,
    pub(super) phase: Phase,
    pub(super) size: Option<Size>,
    failures: u32,
    /// Its place in the queue.
    place: (i16, u64),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Torrents {
    most_active: usize,
    active: usize,
    still: BTreeSet<(Unix, InfoHash)>,
    table: HashMap<InfoHash, Torrent>,
    queue: BTreeSet<((i16, u64), InfoHash)>,
    retries: BTreeSet<(Unix, InfoHash)>,
    /// Of those that are complete.
    bytes: u64,
    joined: u64,
}

impl Torrents {
    /// At most `most_active` are fetched at once, beside those that stand still.
    pub(super) fn new(most_active: usize) -> Self {
        Self {
            most_active: most_active.max(1),
            active: 0,
            still: BTreeSet::new(),
            table: HashMap::new(),
            queue: BTreeSet::new(),
            retries: BTreeSet::new(),
            bytes: 0,
            joined: 0,
        }
    }

    pub(super) fn get(&self, info_hash: &InfoHash) -> Option<&Torrent> {
        self.table.get(info_hash)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&InfoHash, &Torrent)> {
        self.table.iter()
    }

    /// Notes that a pin keeps or wants it. `here` is what the pin knows of it: that all of it is on disk.
    pub(super) fn add(&mut self, info_hash: InfoHash, pin: PinId, priority: i8, here: Option<Size>) {
        self.joined += 1;
        let place = (i16::from(priority).saturating_neg(), self.joined);
        let torrent = self.table.entry(info_hash).or_insert_with(|| Torrent {
            users: BTreeMap::new(),
            phase: Phase::Queued,
            size: None,
            failures: 0,
            place,
        });
        torrent.users.insert(pin, priority);
        if here.is_some() {
            if torrent.phase != Phase::Complete {
                torrent.size = here;
            }
            self.enter(&info_hash, Phase::Complete);
        } else {
            self.requeue(&info_hash);
        }
    }

    /// Notes that a pin has no use for it any more; whether it was the last one, and the torrent is forgotten.
    pub(super) fn remove(&mut self, info_hash: &InfoHash, pin: &PinId) -> bool {
        let Some(torrent) = self.table.get_mut(info_hash) else { return false };
        torrent.users.remove(pin);
        if !torrent.users.is_empty() {
            self.requeue(info_hash);
            return false;
        }
        self.enter(info_hash, Phase::Complete);
        let gone = self.table.remove(info_hash).and_then(|torrent| torrent.size);
        self.bytes -= gone.map_or(0, |size| size.bytes);
        true
    }

    /// The next that is to be fetched, if there is a place; it is active now.
    pub(super) fn start_next(&mut self) -> Option<InfoHash> {
        if self.active >= self.most_active || self.still.len() >= self.most_still() {
            return None;
        }
        let (_, info_hash) = *self.queue.first()?;
        self.enter(&info_hash, Phase::Active);
        Some(info_hash)
    }

    /// Notes that nothing came of an active one lately: others may begin beside it.
    pub(super) fn stands_still(&mut self, info_hash: &InfoHash, now: Unix) {
        if self.get(info_hash).is_some_and(|torrent| torrent.phase == Phase::Active) {
            self.enter(info_hash, Phase::Still(now));
        }
    }

    /// Notes that something comes of it again.
    pub(super) fn moves(&mut self, info_hash: &InfoHash) {
        if self.get(info_hash).is_some_and(|torrent| matches!(torrent.phase, Phase::Still(_))) {
            self.enter(info_hash, Phase::Active);
        }
    }

    /// The one that stood still for longest, when it is in the way of others and had its turn.
    pub(super) fn in_the_way(&self, now: Unix) -> Option<InfoHash> {
        let (since, info_hash) = self.still.first()?;
        (self.full_of_still() && since.after(TURN) <= now).then_some(*info_hash)
    }

    /// When there is one next, if nothing else happens until then.
    pub(super) fn next_in_the_way(&self) -> Option<Unix> {
        let (since, _) = self.still.first().filter(|_| self.full_of_still())?;
        Some(since.after(TURN))
    }

    /// Whether others wait, and there would be places if not so many stood still.
    fn full_of_still(&self) -> bool {
        !self.queue.is_empty() && self.active < self.most_active && self.still.len() >= self.most_still()
    }

    fn most_still(&self) -> usize {
        self.most_active.saturating_mul(STILL_FOR_EACH)
    }

    /// When the next failed one is tried again.
    pub(super) fn next_retry(&self) -> Option<Unix> {
        self.retries.first().map(|(at, _)| *at)
    }

    /// Takes those that are due back into the queue.
    pub(super) fn retry(&mut self, now: Unix) -> Vec<InfoHash> {
        let mut due = Vec::new();
        while let Some((_, info_hash)) = self.retries.first().copied().filter(|(at, _)| *at <= now) {
            self.enter(&info_hash, Phase::Queued);
            due.push(info_hash);
        }
        due
    }

    /// Has a failed one tried again now. Whether there was something to try.
    pub(super) fn retry_now(&mut self, info_hash: &InfoHash) -> bool {
        let failing = self.table.get(info_hash).is_some_and(|torrent| matches!(torrent.phase, Phase::Failing(_)));
        if failing {
            self.enter(info_hash, Phase::Queued);
        }
        failing
    }

    pub(super) fn measured(&mut self, info_hash: &InfoHash, size: Size) {
        if let Some(torrent) = self.table.get_mut(info_hash).filter(|torrent| torrent.phase != Phase::Complete) {
            torrent.size = Some(size);
        }
    }

    pub(super) fn completed(&mut self, info_hash: &InfoHash) {
        if let Some(torrent) = self.table.get_mut(info_hash) {
            torrent.failures = 0;
            self.enter(info_hash, Phase::Complete);
        }
    }

    pub(super) fn repairing(&mut self, info_hash: &InfoHash, sentence: String) {
        let trouble = Trouble { reason: Reason::Damaged, sentence, retry: None };
        self.enter(info_hash, Phase::Repairing(trouble));
    }

    /// It failed; when it is tried again is decided here.
    pub(super) fn failed(&mut self, info_hash: &InfoHash, reason: Reason, sentence: String, now: Unix) {
        let Some(torrent) = self.table.get_mut(info_hash) else { return };
        torrent.failures = torrent.failures.saturating_add(1);
        let doubled = FIRST_RETRY.saturating_mul(1 << (torrent.failures - 1).min(16));
        let wait = if reason == Reason::DiskFull { DISK_RETRY } else { doubled.min(LAST_RETRY) };
        self.enter(info_hash, Phase::Failing(Trouble { reason, sentence, retry: Some(now.after(wait)) }));
    }

    /// Bytes of those that are complete.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many are being fetched, wait for their turn, and wait after a failure.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.active + self.still.len(), self.queue.len(), self.retries.len())
    }

    fn enter(&mut self, info_hash: &InfoHash, phase: Phase) {
        let Some(torrent) = self.table.get_mut(info_hash) else { return };
        match &torrent.phase {
            Phase::Queued => drop(self.queue.remove(&(torrent.place, *info_hash))),
            Phase::Active => self.active -= 1,
            Phase::Still(since) => drop(self.still.remove(&(*since, *info_hash))),
            Phase::Failing(Trouble { retry: Some(at), .. }) => drop(self.retries.remove(&(*at, *info_hash))),
            Phase::Complete => self.bytes -= torrent.size.map_or(0, |size| size.bytes),
            Phase::Failing(_) | Phase::Repairing(_) => {}
        }
        match &phase {
            Phase::Queued => drop(self.queue.insert((torrent.place, *info_hash))),
            Phase::Active => self.active += 1,
            Phase::Still(since) => drop(self.still.insert((*since, *info_hash))),
            Phase::Failing(Trouble { retry: Some(at), .. }) => drop(self.retries.insert((*at, *info_hash))),
            Phase::Complete => self.bytes += torrent.size.map_or(0, |size| size.bytes),
            Phase::Failing(_) | Phase::Repairing(_) => {}
        }
        torrent.phase = phase;
    }

    /// The place in the queue follows the highest priority of those who want it.
    fn requeue(&mut self, info_hash: &InfoHash) {
        let Some(torrent) = self.table.get_mut(info_hash) else { return };
        let highest = torrent.users.values().max().copied().unwrap_or(0);
        let place = (i16::from(highest).saturating_neg(), torrent.place.1);
        if torrent.phase == Phase::Queued {
            self.queue.remove(&(torrent.place, *info_hash));
            self.queue.insert((place, *info_hash));
        }
        torrent.place = place;
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        let of = |want: fn(&Phase) -> bool| self.table.values().filter(|torrent| want(&torrent.phase)).count();
        assert_eq!(self.active, of(|phase| *phase == Phase::Active));
        assert_eq!(self.still.len(), of(|phase| matches!(phase, Phase::Still(_))));
        assert!(self.still.len() <= self.most_still() + self.most_active);
        assert_eq!(self.queue.len(), of(|phase| *phase == Phase::Queued));
        assert_eq!(self.retries.len(), of(|phase| matches!(phase, Phase::Failing(_))));
        let complete = self.table.values().filter(|torrent| torrent.phase == Phase::Complete);
        assert_eq!(self.bytes, complete.filter_map(|torrent| torrent.size).map(|size| size.bytes).sum::<u64>());
        assert!(self.table.values().all(|torrent| !torrent.users.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> InfoHash {
        InfoHash([n; 20])
    }

    fn pin(n: u8) -> PinId {
        PinId([n; 16])
    }

    #[test]
    fn the_higher_priority_goes_first_then_the_longest_wait() {
        let mut torrents = Torrents::new(2);
        for (n, priority) in [(1, 0), (2, 0), (3, 5), (4, -5)] {
            torrents.add(hash(n), pin(n), priority, None);
        }
        torrents.add(hash(4), pin(9), 7, None);
        let mut order = Vec::new();
        while let Some(next) = torrents.start_next() {
            order.push(next);
        }
        assert_eq!(order, [hash(4), hash(3)], "two at once");
        torrents.completed(&hash(4));
        assert_eq!(torrents.start_next(), Some(hash(1)));
        assert!(torrents.remove(&hash(3), &pin(3)) && !torrents.remove(&hash(4), &pin(4)));
        assert_eq!(torrents.start_next(), Some(hash(2)));
        torrents.check();
    }

    #[test]
    fn those_that_stand_still_hold_no_place_and_give_way_when_they_are_many() {
        let mut torrents = Torrents::new(1);
        for n in 0..12 {
            torrents.add(hash(n), pin(n), 0, None);
        }
        for n in 0..8 {
            assert_eq!(torrents.start_next(), Some(hash(n)));
            assert_eq!(torrents.start_next(), None, "one place");
            torrents.stands_still(&hash(n), Unix(i64::from(n)));
        }
        assert_eq!(torrents.start_next(), None, "eight stand still");
        assert_eq!((torrents.in_the_way(Unix(29)), torrents.next_in_the_way()), (None, Some(Unix(30))));
        torrents.moves(&hash(0));
        assert_eq!((torrents.in_the_way(Unix(60)), torrents.next_in_the_way()), (None, None), "the place is taken");
        torrents.completed(&hash(0));
        assert_eq!(torrents.start_next(), Some(hash(8)));
        torrents.stands_still(&hash(8), Unix(20));
        assert_eq!(torrents.in_the_way(Unix(31)), Some(hash(1)));
        torrents.failed(&hash(1), Reason::NoPeers, String::new(), Unix(31));
        for n in 9..12 {
            assert_eq!(torrents.start_next(), Some(hash(n)));
            torrents.completed(&hash(n));
        }
        assert_eq!(torrents.in_the_way(Unix(1000)), None, "nobody waits");
        torrents.check();
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_a_full_disk_often() {
        let mut torrents = Torrents::new(1);
        torrents.add(hash(1), pin(1), 0, None);
        let mut waits = Vec::new();
        for _ in 0..11 {
            assert_eq!(torrents.start_next(), Some(hash(1)));
            torrents.failed(&hash(1), Reason::NoPeers, String::new(), Unix(0));
            let at = torrents.next_retry().unwrap();
            assert_eq!(torrents.retry(Unix(at.0 - 1)), []);
            assert_eq!(torrents.retry(at), [hash(1)]);
            waits.push(at.0);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        torrents.start_next();
        torrents.failed(&hash(1), Reason::DiskFull, String::new(), Unix(0));
        assert_eq!(torrents.next_retry(), Some(Unix(15)));
        assert!(torrents.retry_now(&hash(1)) && !torrents.retry_now(&hash(1)));
        torrents.check();
    }
}
