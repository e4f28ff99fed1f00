//! Which records are followed, what each peer has of them, and what it is to be told. Pure; time is handed in.
//!
//! Nothing is queued for a peer: what it is to be told is found when it can take it ([`State::next`]). So a slow reader
//! costs nothing and sees only the newest version.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::rate::{Bucket, Rate};
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{Salt, SignedItem, VerifiedItem, mutable_target};
use crate::wire::pointer;
use crate::wire::record_exchange::{self, MAX_RECORDS, Summary, Version};

/// *Limits*: "`record` messages sent for one record on one connection: 4 at once, then one in 5 seconds".
const SENDS: Rate = Rate { burst: 4, every: Duration::from_secs(5) };

/// *Limits*: "signatures checked for one connection: 20 at once, then one a second".
const CHECKS: Rate = Rate { burst: 20, every: Duration::from_secs(1) };

/// *Limits*: "`have` messages taken from one connection: 8 at once, then one in 10 seconds".
const HAVES: Rate = Rate { burst: 8, every: Duration::from_secs(10) };

/// Records that strangers make us follow by asking for them: each costs a DHT lookup and an announce. Those that they put
/// are bounded by what a put costs.
const FOLLOWS: Rate = Rate { burst: 64, every: Duration::from_secs(2) };

/// Torrents that a record is remembered to have pointed to. Readers of an older version than that ask in the topic swarm.
const POINTED: usize = 4;

/// A connection.
pub(super) type PeerKey = u64;

/// Why a record is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// A client asked for it.
    Asked,
    /// A client put it here.
    Put,
    /// It is kept for good.
    Pinned,
}

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    max_topics: usize,
    topics: HashMap<Target, Topic>,
    /// Who goes first when room is needed, of those that are not pinned: records of which no version is known, since
    /// anybody can ask for some that do not exist, then the least recently used.
    by_use: BTreeMap<(bool, u64), Target>,
    uses: u64,
    follows: Bucket,
    /// The records that belong to a swarm: at most [`MAX_RECORDS`] each.
    swarms: HashMap<InfoHash, BTreeSet<Target>>,
    peers: HashMap<PeerKey, Peer>,
    /// Who is in which swarm.
    present: HashMap<InfoHash, BTreeSet<PeerKey>>,
}

/// A record that is followed.
#[derive(Debug)]
struct Topic {
    key: PublicKey,
    salt: Salt,
    newest: Option<(Version, VerifiedItem)>,
    conflict: bool,
    pinned: bool,
    used: u64,
    /// The torrents it pointed to, newest last.
    pointed: VecDeque<InfoHash>,
}

#[derive(Debug)]
struct Peer {
    swarm: InfoHash,
    /// We offered the extension.
    offered: bool,
    /// The id it wants on our messages; 0 while it has not offered the extension.
    id: u8,
    /// What our next `have` mentions.
    unmentioned: BTreeSet<Target>,
    /// The records it asked to be told of.
    wants: BTreeMap<Target, Theirs>,
    haves: Bucket,
    checks: Bucket,
}

/// What a peer has of a record, as far as known.
#[derive(Debug, Default)]
struct Theirs {
    version: Option<Version>,
    sends: Bucket,
}

/// What a step asks of the caller.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct Effects {
    /// Peers for whom [`State::next`] may have something now.
    pub(super) wake: Vec<PeerKey>,
    /// The topics are others than before.
    pub(super) topics_changed: bool,
}

/// What a peer is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This, under this extended message id.
    Send { id: u8, kind: &'static str, payload: Vec<u8> },
    /// Nothing before then.
    Wait(Option<Instant>),
}

/// What becomes of a record that a peer sent, before its signature is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It may be news: verify it, then [`State::learn`] it.
    Verify,
    /// Not newer than what is known.
    Stale,
    /// Of no record that belongs to this swarm.
    Unwanted,
    /// More than this peer may have checked now.
    Throttled,
}

/// What a verified version was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learnt {
    /// It is the newest now.
    New,
    /// It lost against another value with its number.
    Conflict,
    /// Known, or older.
    Old,
    /// Of a record that is not followed.
    NotFollowed,
}

impl State {
    pub(super) fn new(max_topics: usize) -> Self {
        Self {
            max_topics: max_topics.max(1),
            topics: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            follows: Bucket::default(),
            swarms: HashMap::new(),
            peers: HashMap::new(),
            present: HashMap::new(),
        }
    }

    /// The info hashes of the topic swarms.
    pub(super) fn topics(&self) -> impl Iterator<Item = InfoHash> + '_ {
        self.topics.keys().map(|target| InfoHash::from(*target))
    }

    pub(super) fn is_topic(&self, info_hash: &InfoHash) -> bool {
        self.topics.contains_key(&Target::from(*info_hash))
    }

    /// Follows a record. Pinned ones stay; of the others the least recently used goes when there is no room.
    pub(super) fn follow(&mut self, key: PublicKey, salt: Salt, why: Interest, now: Instant) -> Effects {
        let (target, pinned) = (mutable_target(&key, &salt), why == Interest::Pinned);
        self.uses += 1;
        if let Some(topic) = self.topics.get_mut(&target) {
            self.by_use.remove(&topic.place());
            topic.used = self.uses;
            topic.pinned |= pinned;
            if !topic.pinned {
                self.by_use.insert(topic.place(), target);
            }
            return Effects::default();
        }
        if why == Interest::Asked && self.follows.take(FOLLOWS, now).is_err() {
            return Effects::default();
        }
        while self.topics.len() >= self.max_topics {
            let Some((_, oldest)) = self.by_use.pop_first() else { return Effects::default() };
            self.forget(&oldest);
        }
        let topic =
            Topic { key, salt, newest: None, conflict: false, pinned, used: self.uses, pointed: VecDeque::new() };
        if !pinned {
            self.by_use.insert(topic.place(), target);
        }
        self.topics.insert(target, topic);
        Effects { wake: self.bind(target.into(), target), topics_changed: true }
    }

    /// Takes a verified version, of whatever origin; `from` is the peer that brought it.
    pub(super) fn learn(&mut self, item: &VerifiedItem, from: Option<PeerKey>) -> (Learnt, Effects) {
        let (target, version) = (item.target(), Version::of(item));
        let Some(topic) = self.topics.get_mut(&target) else { return (Learnt::NotFollowed, Effects::default()) };
        let known = topic.newest.as_ref().map(|(_, known)| known);
        let conflict = known.is_some_and(|known| item.conflicts_with(known));
        if known.is_some_and(|known| !item.replaces(known)) {
            topic.conflict |= conflict;
            return (if conflict { Learnt::Conflict } else { Learnt::Old }, Effects::default());
        }
        topic.conflict = conflict;
        let is_listed = self.by_use.remove(&topic.place()).is_some();
        topic.newest = Some((version, item.clone()));
        if is_listed {
            self.by_use.insert(topic.place(), target);
        }
        let mut wake = Vec::new();
        if let Some(info_hash) = pointer::info_hash(item.v())
            && !topic.pointed.contains(&info_hash)
        {
            topic.pointed.push_back(info_hash);
            let left = (topic.pointed.len() > POINTED).then(|| topic.pointed.pop_front()).flatten();
            if let Some(left) = left {
                self.unbind(left, target);
            }
            wake = self.bind(info_hash, target);
        }
        if let Some(theirs) = from.and_then(|from| self.peers.get_mut(&from)?.wants.get_mut(&target)) {
            theirs.version = Some(version);
        }
        let swarms = self.swarms_of(&target);
        let present = swarms.iter().filter_map(|swarm| self.present.get(swarm)).flatten();
        wake.extend(present.filter(|key| self.peers.get(*key).is_some_and(|peer| peer.wants.contains_key(&target))));
        (Learnt::New, Effects { wake, topics_changed: false })
    }

    /// A peer was greeted in `swarm`.
    pub(super) fn joined(&mut self, key: PeerKey, swarm: InfoHash) {
        self.present.entry(swarm).or_default().insert(key);
        let peer = Peer {
            swarm,
            offered: false,
            id: 0,
            unmentioned: self.swarms.get(&swarm).cloned().unwrap_or_default(),
            wants: BTreeMap::new(),
            haves: Bucket::default(),
            checks: Bucket::default(),
        };
        self.peers.insert(key, peer);
    }

    /// The peer is gone.
    pub(super) fn left(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        if let Some(present) = self.present.get_mut(&peer.swarm) {
            present.remove(&key);
            if present.is_empty() {
                self.present.remove(&peer.swarm);
            }
        }
    }

    /// We offered the extension to the peer.
    pub(super) fn offered(&mut self, key: PeerKey) -> Effects {
        self.negotiate(key, |peer| peer.offered = true)
    }

    /// The peer offered the extension under `id`, or withdrew it with 0.
    pub(super) fn greeted(&mut self, key: PeerKey, id: u8) -> Effects {
        self.negotiate(key, |peer| peer.id = id)
    }

    fn negotiate(&mut self, key: PeerKey, change: impl FnOnce(&mut Peer)) -> Effects {
        let Some(peer) = self.peers.get_mut(&key) else { return Effects::default() };
        change(peer);
        let wake = if peer.is_open() { vec![key] } else { Vec::new() };
        Effects { wake, topics_changed: false }
    }

    /// Takes a peer's `have`.
    pub(super) fn have(&mut self, key: PeerKey, summaries: &[Summary], now: Instant) -> Effects {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.is_open()) else { return Effects::default() };
        if peer.haves.take(HAVES, now).is_err() {
            return Effects::default();
        }
        let belonging = self.swarms.get(&peer.swarm);
        for summary in summaries {
            let target = summary.target();
            if belonging.is_some_and(|belonging| belonging.contains(&target)) {
                peer.wants.entry(target).or_default().version = summary.version;
            }
        }
        Effects { wake: vec![key], topics_changed: false }
    }

    /// Judges a record that a peer sent: "compared with the newest version known here before its signature is checked".
    pub(super) fn claim(&mut self, key: PeerKey, item: &SignedItem, now: Instant) -> Claim {
        let target = mutable_target(&item.key, &item.salt);
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.is_open()) else { return Claim::Unwanted };
        if !self.swarms.get(&peer.swarm).is_some_and(|belonging| belonging.contains(&target)) {
            return Claim::Unwanted;
        }
        let Some(topic) = self.topics.get(&target) else { return Claim::Unwanted };
        if let Some((version, known)) = &topic.newest {
            let same_number = item.seq == version.seq;
            let larger = item.v.as_slice() > known.v();
            if item.seq < version.seq || (same_number && (item.v == known.v() || (topic.conflict && !larger))) {
                return Claim::Stale;
            }
        }
        if peer.checks.take(CHECKS, now).is_err() { Claim::Throttled } else { Claim::Verify }
    }

    /// What the peer is to be told now. What is returned counts as told.
    pub(super) fn next(&mut self, key: PeerKey, now: Instant) -> Next {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.is_open()) else { return Next::Wait(None) };
        let id = peer.id;
        if !peer.unmentioned.is_empty() {
            let mentioned = std::mem::take(&mut peer.unmentioned);
            let topics = mentioned.iter().filter_map(|target| self.topics.get(target));
            let summaries: Vec<_> = topics.map(Topic::summary).collect();
            return Next::Send { id, kind: "have", payload: record_exchange::have(&summaries) };
        }
        let mut wait: Option<Instant> = None;
        for (target, theirs) in &mut peer.wants {
            let Some((version, item)) = self.topics.get(target).and_then(|topic| topic.newest.as_ref()) else {
                continue;
            };
            if !is_news(version, theirs.version.as_ref()) {
                continue;
            }
            match theirs.sends.take(SENDS, now) {
                Ok(()) => {
                    theirs.version = Some(*version);
                    return Next::Send { id, kind: "record", payload: record_exchange::bring(item.as_signed()) };
                }
                Err(at) => wait = Some(wait.map_or(at.into(), |wait| wait.min(at.into()))),
            }
        }
        Next::Wait(wait)
    }

    #[cfg(test)]
    pub(super) fn newest(&self, target: &Target) -> Option<&VerifiedItem> {
        self.topics.get(target)?.newest.as_ref().map(|(_, item)| item)
    }

    /// Lets a record belong to a swarm. Returns the peers that are to hear of it.
    fn bind(&mut self, swarm: InfoHash, target: Target) -> Vec<PeerKey> {
        let belonging = self.swarms.entry(swarm).or_default();
        // A topic swarm has its own record, whatever others claim to point to it.
        let own = swarm == InfoHash::from(target);
        if (!own && belonging.len() >= MAX_RECORDS - 1) || !belonging.insert(target) {
            return Vec::new();
        }
        let mut wake = Vec::new();
        for key in self.present.get(&swarm).into_iter().flatten() {
            let peer = self.peers.get_mut(key).expect("who is present is a peer");
            peer.unmentioned.insert(target);
            wake.extend(peer.is_open().then_some(*key));
        }
        wake
    }

    fn unbind(&mut self, swarm: InfoHash, target: Target) {
        if let Some(belonging) = self.swarms.get_mut(&swarm) {
            belonging.remove(&target);
            if belonging.is_empty() {
                self.swarms.remove(&swarm);
            }
        }
        for key in self.present.get(&swarm).into_iter().flatten() {
            let peer = self.peers.get_mut(key).expect("who is present is a peer");
            peer.unmentioned.remove(&target);
            peer.wants.remove(&target);
        }
    }

    fn swarms_of(&self, target: &Target) -> Vec<InfoHash> {
        let pointed = self.topics.get(target).into_iter().flat_map(|topic| topic.pointed.iter().copied());
        pointed.chain([InfoHash::from(*target)]).collect()
    }

    fn forget(&mut self, target: &Target) {
        for swarm in self.swarms_of(target) {
            self.unbind(swarm, *target);
        }
        self.topics.remove(target);
    }
}

impl Topic {
    /// Its place in `by_use`, if it is there.
    fn place(&self) -> (bool, u64) {
        (self.newest.is_some(), self.used)
    }

    fn summary(&self) -> Summary {
        let version = self.newest.as_ref().map(|(version, _)| *version);
        Summary { key: self.key, salt: self.salt.clone(), version }
    }
}

impl Peer {
    /// "Neither side sends a message of this extension before it has both offered it and been offered it."
    fn is_open(&self) -> bool {
        self.offered && self.id != 0
    }
}

/// Whether a peer that has `theirs` is to be sent `ours`.
fn is_news(ours: &Version, theirs: Option<&Version>) -> bool {
    theirs.is_none_or(|theirs| ours.seq > theirs.seq || (ours.seq == theirs.seq && ours.hash != theirs.hash))
}

#[cfg(test)]
mod tests;
