//! Everything that is pinned, for whom, and how far it is. Pure: time is an argument, and what must reach the disk or the
//! network is returned.
//!
//! `requests` is what owners ask for, `news` what records and swarms bring, `keeping` which version is fetched, served and
//! let go. Here is what they stand on: the tables, and how a step ends ([`Ledger::finish`]): every pin that was touched
//! is looked at once more, and if it stands differently than was last said, that is written down and told.

mod keeping;
mod news;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

pub use requests::{Create, RequestError};

use super::accounts::{Accounts, Usage};
use super::events::{Event, EventKind, Events};
use super::ids::{PinId, TokenId, Unix, Who};
use super::pin::{Pin, Reason, Status, Trouble};
use super::token::{Presented, Quota, Token};
use super::torrents::{Phase, Torrents};
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem};

/// What must reach the disk, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Write this pin over the one of the same id.
    Save(Box<Pin>),
    /// Remove it.
    Delete(PinId),
    /// Write this token.
    SaveToken(Token),
    /// Remove it.
    DeleteToken(TokenId),
    /// Write that this happened.
    Happened(Event),
}

/// What must reach the network, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Look a record up, and hear of newer ones from now on.
    Follow(PublicKey, Salt),
    /// Look it up once more.
    LookUp(PublicKey, Salt),
    /// Nobody follows it any more.
    Unfollow(Target),
    /// Keep this record alive in the DHT.
    Adopt(VerifiedItem),
    /// Join the swarm: fetch what is missing, and serve. These peers may have it.
    Join(InfoHash, Vec<SocketAddr>),
    /// Leave the swarm. If nobody keeps the torrent any more, its bytes go too.
    Leave {
        /// The swarm.
        info_hash: InfoHash,
        /// Whether the bytes go.
        forget: bool,
    },
}

/// The outcome of a step, and what the caller must do.
#[derive(Debug)]
#[must_use]
pub(super) struct Step<T> {
    pub(super) outcome: T,
    pub(super) changes: Vec<Change>,
    pub(super) effects: Vec<Effect>,
}

/// What bounds the whole server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Torrents fetched at once.
    pub(super) fetches: usize,
    /// Pins of all owners.
    pub(super) pins: usize,
    /// The largest torrent that is pinned, in bytes.
    pub(super) pin_bytes: u64,
    /// Files of one, at most.
    pub(super) pin_files: u32,
}

/// A pin with what was last said of it.
#[derive(Debug)]
struct Entry {
    pin: Pin,
    said: (Status, Option<Reason>),
}

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    tokens: HashMap<TokenId, Token>,
    pins: HashMap<PinId, Entry>,
    /// By age, for lists: all pins, and each owner's.
    by_age: BTreeSet<(Unix, PinId)>,
    by_owner: BTreeSet<(Who, Unix, PinId)>,
    by_subject: HashMap<(Who, super::pin::Subject), PinId>,
    by_idempotency_key: HashMap<(Who, String), PinId>,
    followed: HashMap<Target, BTreeSet<PinId>>,
    statuses: HashMap<Status, usize>,
    torrents: Torrents,
    accounts: Accounts,
    events: Events,
    /// Of the step under way.
    changes: Vec<Change>,
    effects: Vec<Effect>,
    changed: BTreeSet<PinId>,
    looked_at: BTreeSet<PinId>,
    freed: BTreeSet<Who>,
}

impl Ledger {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            tokens: HashMap::new(),
            pins: HashMap::new(),
            by_age: BTreeSet::new(),
            by_owner: BTreeSet::new(),
            by_subject: HashMap::new(),
            by_idempotency_key: HashMap::new(),
            followed: HashMap::new(),
            statuses: HashMap::new(),
            torrents: Torrents::new(limits.fetches),
            accounts: Accounts::default(),
            events: Events::default(),
            changes: Vec::new(),
            effects: Vec::new(),
            changed: BTreeSet::new(),
            looked_at: BTreeSet::new(),
            freed: BTreeSet::new(),
        }
    }

    /// Takes up what was read from disk.
    pub(super) fn load(&mut self, tokens: Vec<Token>, pins: Vec<Pin>, events: Vec<Event>, now: Unix) -> Step<()> {
        self.tokens = tokens.into_iter().map(|token| (token.id, token)).collect();
        self.events = Events::loaded(events);
        for pin in pins {
            let id = pin.id;
            self.index(&pin);
            self.insert(pin);
            self.take_up(id);
            let standing = self.standing_of(id);
            self.said(id, standing);
        }
        self.start_fetches();
        self.finish((), now)
    }

    /// A pin that `who` may see.
    pub(super) fn find(&self, who: Who, id: &PinId) -> Option<&Pin> {
        self.pins.get(id).map(|entry| &entry.pin).filter(|pin| who == Who::Operator || pin.owner == who)
    }

    /// Those that `who` may see, oldest first, past `after`.
    pub(super) fn list(&self, who: Who, after: Option<(Unix, PinId)>) -> Box<dyn Iterator<Item = &Pin> + '_> {
        let from = after.unwrap_or((Unix(i64::MIN), PinId([0; 16])));
        let beyond = move |place: (Unix, PinId)| Some(place) != after;
        match who {
            Who::Operator => {
                let ids = self.by_age.range(from..).filter(move |place| beyond(**place));
                Box::new(ids.map(|(_, id)| &self.pins[id].pin))
            }
            Who::Token(_) => {
                let ids = self.by_owner.range((who, from.0, from.1)..).take_while(move |(owner, ..)| *owner == who);
                let ids = ids.filter(move |(_, at, id)| beyond((*at, *id)));
                Box::new(ids.map(|(_, _, id)| &self.pins[id].pin))
            }
        }
    }

    /// How far a pin is, and what is wrong.
    pub(super) fn standing(&self, pin: &Pin) -> (Status, Option<Trouble>) {
        let bad = |trouble: &Trouble| {
            (if pin.current.is_some() { Status::Degraded } else { Status::Failed }, Some(trouble.clone()))
        };
        if let Some(trouble) = &pin.trouble {
            return bad(trouble);
        }
        let phase = |info_hash: &InfoHash| self.torrents.get(info_hash);
        if let Some(torrent) = pin.wanted().and_then(|version| phase(&version.info_hash)) {
            return match &torrent.phase {
                Phase::Queued => (Status::Queued, None),
                Phase::Active | Phase::Still(_) if torrent.size.is_none() => (Status::Resolving, None),
                Phase::Active | Phase::Still(_) | Phase::Repairing(_) | Phase::Complete => (Status::Downloading, None),
                Phase::Failing(trouble) => bad(trouble),
            };
        }
        match pin.current().and_then(|version| phase(&version.info_hash)).map(|torrent| &torrent.phase) {
            Some(Phase::Complete) => (Status::Pinned, None),
            Some(Phase::Repairing(trouble) | Phase::Failing(trouble)) => bad(trouble),
            Some(Phase::Queued | Phase::Active | Phase::Still(_)) => (Status::Downloading, None),
            None => (Status::Resolving, None),
        }
    }

    /// Who holds a token that works.
    pub(super) fn admit(&self, presented: &Presented, now: Unix) -> Option<&Token> {
        self.tokens.get(&presented.id).filter(|token| token.admits(presented, now))
    }

    /// All tokens, oldest first.
    pub(super) fn tokens(&self) -> Vec<&Token> {
        let mut tokens: Vec<&Token> = self.tokens.values().collect();
        tokens.sort_by_key(|token| (token.created, token.id));
        tokens
    }

    pub(super) fn usage(&self, who: Who) -> (Usage, Quota) {
        (self.accounts.usage(who), self.quota(who))
    }

    pub(super) fn torrents(&self) -> &Torrents {
        &self.torrents
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn len(&self) -> usize {
        self.pins.len()
    }

    /// The pins of a site, over all owners.
    pub(super) fn of_site(&self, target: &Target) -> impl Iterator<Item = &Pin> {
        self.followed.get(target).into_iter().flatten().map(|id| &self.pins[id].pin)
    }

    /// How many pins stand where.
    pub(super) fn statuses(&self) -> &HashMap<Status, usize> {
        &self.statuses
    }

    fn quota(&self, who: Who) -> Quota {
        match who {
            Who::Operator => Quota::default(),
            Who::Token(id) => self.tokens.get(&id).map(|token| token.quota).unwrap_or_default(),
        }
    }

    fn pin(&self, id: PinId) -> &Pin {
        &self.pins[&id].pin
    }

    fn pin_mut(&mut self, id: PinId) -> &mut Pin {
        self.changed.insert(id);
        &mut self.pins.get_mut(&id).expect("the steps name pins that are there").pin
    }

    fn index(&mut self, pin: &Pin) {
        self.by_age.insert((pin.created, pin.id));
        self.by_owner.insert((pin.owner, pin.created, pin.id));
        self.by_subject.insert((pin.owner, pin.subject.clone()), pin.id);
        if let Some(key) = &pin.made_by {
            self.by_idempotency_key.insert((pin.owner, key.clone()), pin.id);
        }
        self.accounts.pin_made(pin.owner);
    }

    fn unindex(&mut self, pin: &Pin) {
        self.by_age.remove(&(pin.created, pin.id));
        self.by_owner.remove(&(pin.owner, pin.created, pin.id));
        self.by_subject.remove(&(pin.owner, pin.subject.clone()));
        if let Some(key) = &pin.made_by {
            self.by_idempotency_key.remove(&(pin.owner, key.clone()));
        }
        self.accounts.pin_gone(pin.owner);
    }

    fn happened(&mut self, pin: PinId, owner: Who, kind: EventKind, now: Unix) {
        let event = self.events.push(pin, owner, kind, now);
        self.changes.push(Change::Happened(event));
    }

    fn standing_of(&self, id: PinId) -> (Status, Option<Reason>) {
        let (status, trouble) = self.standing(self.pin(id));
        (status, trouble.map(|trouble| trouble.reason))
    }

    fn said(&mut self, id: PinId, standing: (Status, Option<Reason>)) {
        if let Some(entry) = self.pins.get_mut(&id) {
            *self.statuses.entry(entry.said.0).or_default() -= 1;
            *self.statuses.entry(standing.0).or_default() += 1;
            entry.said = standing;
        }
    }

    fn insert(&mut self, pin: Pin) {
        *self.statuses.entry(Status::Queued).or_default() += 1;
        self.pins.insert(pin.id, Entry { pin, said: (Status::Queued, None) });
    }

    /// Has everybody who uses a torrent looked at again.
    fn look_at_users(&mut self, info_hash: &InfoHash) {
        if let Some(torrent) = self.torrents.get(info_hash) {
            self.looked_at.extend(torrent.users.keys().copied());
        }
    }

    fn start_fetches(&mut self) {
        while let Some(info_hash) = self.torrents.start_next() {
            let users: Vec<PinId> = self
                .torrents
                .get(&info_hash)
                .map(|torrent| torrent.users.keys().copied().collect())
                .unwrap_or_default();
            let origins = users.iter().flat_map(|id| self.pin(*id).origins()).collect();
            self.looked_at.extend(users);
            self.effects.push(Effect::Join(info_hash, origins));
        }
    }

    /// Has those that stood still for long tried again later, as far as others wait for their places.
    fn make_way(&mut self, now: Unix) {
        self.start_fetches();
        while let Some(info_hash) = self.torrents.in_the_way(now) {
            let (reason, nothing) = match self.torrents.get(&info_hash).and_then(|torrent| torrent.size) {
                None => (Reason::NoPeers, "no peer that has its metadata was found"),
                Some(_) => (Reason::Stalled, "nothing came of it lately"),
            };
            self.fail(&info_hash, reason, format!("{nothing}, and others wait for their turn"), now);
            self.start_fetches();
        }
    }

    /// Ends a step.
    fn finish<T>(&mut self, outcome: T, now: Unix) -> Step<T> {
        self.make_way(now);
        // Room that came free may be what another pin of the same owner waits for.
        while let Some(who) = self.freed.pop_first() {
            self.try_blocked(who);
        }
        self.start_fetches();
        let changed = std::mem::take(&mut self.changed);
        let looked_at = std::mem::take(&mut self.looked_at);
        for id in changed.union(&looked_at) {
            let Some(entry) = self.pins.get(id) else { continue };
            let (before, owner, standing) = (entry.said, entry.pin.owner, self.standing_of(*id));
            if before == standing && !changed.contains(id) {
                continue;
            }
            self.said(*id, standing);
            let pin = self.pin_mut(*id);
            pin.revision += 1;
            pin.updated = now;
            let saved = Box::new(pin.clone());
            self.changes.push(Change::Save(saved));
            if before != standing {
                let (status, reason) = standing;
                self.happened(*id, owner, EventKind::Status { status, reason }, now);
            }
        }
        self.changed.clear();
        Step { outcome, changes: std::mem::take(&mut self.changes), effects: std::mem::take(&mut self.effects) }
    }

    /// When [`Ledger::tick`] has something to do next, at the latest, if it was called at `last`: retries and turns
    /// have their moment, all else is looked at in turns.
    pub(super) fn next_tick(&self, last: Unix) -> Unix {
        let sweep = last.after(SWEEP);
        [self.torrents.next_retry(), self.torrents.next_in_the_way()].into_iter().flatten().fold(sweep, Unix::min)
    }
}

/// How often all pins are looked at for what ends by itself: expiry, the age of versions, lookups that found nothing.
const SWEEP: Duration = Duration::from_secs(15);
