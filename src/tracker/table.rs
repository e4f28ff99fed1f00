//! The swarms of one shard. No I/O, clock or randomness: time and chance are arguments, what must be sent is returned.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use rand::{Rng, RngExt};

use super::WebAnswer;
use super::dense::{Dense, Keyed};
use super::swarm::{Member, Second, Swarm};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::{Counts, NativeAnnounce};
use crate::wire::tracker_ws::{Announce, Failure, Intent, Message, Offer, Reason};

/// How much there is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Swarms with at least one peer.
    pub swarms: usize,
    /// Memberships of web peers.
    pub web_peers: usize,
    /// Memberships of native peers.
    pub native_peers: usize,
}

/// A swarm and how often it has been completed.
pub(super) type Downloads = (InfoHash, u32);

/// Names one WebSocket of this process, for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SocketId(pub(super) u64);

/// How often peers announce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intervals {
    pub(super) web: Duration,
    pub(super) native: Duration,
}

/// How long after its last announce a peer is forgotten: it has missed two, and half an interval is grace.
pub(super) fn lifetime(interval: Duration) -> Duration {
    interval * 5 / 2
}

/// `S` is the way to a socket: what the table was given with an announce is what its effects are addressed to.
#[derive(Debug)]
pub(super) struct Table<S> {
    intervals: Intervals,
    /// When it was made. Seconds in it count from here.
    start: Instant,
    swarms: Dense<Entry<S>>,
    sweep: Sweep,
    stats: Stats,
    /// How often swarms that are empty now have been completed.
    completed: IndexMap<InfoHash, u32>,
    max_completed: usize,
    /// Where [`Self::remember`] last looked for a count to forget.
    forgotten: usize,
    /// Swarms completed once more since [`Self::take_completions`] was last asked.
    completions: Vec<Downloads>,
}

#[derive(Debug)]
struct Entry<S> {
    info_hash: InfoHash,
    swarm: Swarm<S>,
}

impl<S> Keyed for Entry<S> {
    type Key = InfoHash;

    fn key(&self) -> InfoHash {
        self.info_hash
    }
}

/// How far a round of [`Table::expire`] has come. It goes downwards, since what is removed is replaced by what is last.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    /// Swarms from here on have been gone through.
    swarm: usize,
    /// In the one before, so have its peers from here on.
    peer: usize,
}

impl Sweep {
    const START: Self = Self { swarm: usize::MAX, peer: usize::MAX };
}

/// An announce over a WebSocket.
#[derive(Debug, Clone)]
pub(super) struct WebAnnounce<'a, S> {
    pub(super) id: SocketId,
    pub(super) socket: S,
    pub(super) announce: Announce<'a>,
    /// Whether the resident wants to meet pages of this swarm.
    pub(super) resident: bool,
    /// Whether a peer may be added. Known peers are always welcome.
    pub(super) room: bool,
}

/// What must be done about an announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect<'a, S> {
    Send(S, Message<'a>),
    /// An offer, the one kind of message that may be lost on the way.
    Offer {
        to: S,
        message: Message<'a>,
    },
    /// This offer goes to the resident.
    Resident {
        info_hash: InfoHash,
        peer_id: PeerId,
        offer: Offer<'a>,
    },
    /// The resident may make this page an offer, since the page makes none.
    Silent {
        info_hash: InfoHash,
        peer_id: PeerId,
        socket: S,
    },
    /// An answer that no web peer waits for: to the resident, or late, or to an offer that was never made, or not to this
    /// peer.
    Unexpected(WebAnswer<'a>),
}

#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Effects<'a, S>(pub(super) Vec<Effect<'a, S>>);

/// An announce of a native peer.
#[derive(Debug, Clone)]
pub(super) struct NativeQuestion<'a> {
    /// Where it came from.
    pub(super) ip: IpAddr,
    pub(super) announce: &'a NativeAnnounce,
    /// How many peers to name.
    pub(super) wanted: usize,
    /// Of both address families, or the asker's only.
    pub(super) both: bool,
}

impl<S: Clone> Table<S> {
    pub(super) fn new(intervals: Intervals, max_completed: usize, start: Instant) -> Self {
        Self {
            intervals,
            start,
            swarms: Dense::default(),
            sweep: Sweep::START,
            stats: Stats::default(),
            completed: IndexMap::new(),
            max_completed,
            forgotten: 0,
            completions: Vec::new(),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    pub(super) fn scrape(&self, info_hash: &InfoHash) -> Counts {
        match self.swarms.get(info_hash) {
            Some(entry) => entry.swarm.counts(),
            None => {
                let downloaded = self.completed.get(info_hash).copied().unwrap_or(0);
                Counts { downloaded: downloaded as usize, ..Counts::default() }
            }
        }
    }

    /// Remembers how often a swarm that is empty has been completed. Past the limit the least of a few others is
    /// forgotten, so that whoever makes swarms up pushes out other made-up ones before the popular.
    pub(super) fn remember(&mut self, (info_hash, downloaded): Downloads) {
        const LOOKED_AT: usize = 8;
        self.completed.insert(info_hash, downloaded);
        if self.completed.len() > self.max_completed {
            let all = self.completed.len();
            let looked_at = (self.forgotten..self.forgotten + LOOKED_AT.min(all)).map(|i| i % all);
            if let Some(least) = looked_at.min_by_key(|i| self.completed[*i]) {
                self.completed.swap_remove_index(least);
            }
            self.forgotten = (self.forgotten + LOOKED_AT) % all;
        }
    }

    /// What must be kept of what has happened since the last call.
    pub(super) fn take_completions(&mut self) -> std::vec::Drain<'_, Downloads> {
        self.completions.drain(..)
    }

    pub(super) fn web<'a>(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        announced: WebAnnounce<'a, S>,
    ) -> Effects<'a, S> {
        let WebAnnounce { id, socket, announce, resident, room } = announced;
        let Announce { info_hash, peer_id, intent } = announce;
        let member = (peer_id, id);
        let now = self.second(now);
        // Of offers that were made the pace may have left none.
        let (progress, makes_offers, offers) = match intent {
            Intent::Offers { progress, offers } => (progress, true, offers),
            Intent::Update { progress } => (progress, false, Vec::new()),
            Intent::Stop => {
                self.leave(info_hash, member);
                return Effects(vec![self.announced(info_hash, self.scrape(&info_hash), socket)]);
            }
            Intent::Answer { to, offer_id, answer } => {
                let entry = self.swarms.get_mut(&info_hash);
                let offerer = entry.and_then(|entry| entry.swarm.answered(now, &member, to, offer_id));
                return Effects(vec![match offerer {
                    Some(to) => Effect::Send(to, Message::Answer { info_hash, peer_id, offer_id, answer }),
                    None => Effect::Unexpected(WebAnswer { info_hash, peer_id, offer_id, answer }),
                }]);
            }
        };
        let known = |place: &usize| self.swarms.at(*place).swarm.has_web(&member);
        if !room && !self.swarms.place(&info_hash).as_ref().is_some_and(known) {
            let failure = Failure::of_announce(&info_hash, Reason::TrackerFull);
            return Effects(vec![Effect::Send(socket, Message::Failure(failure))]);
        }
        let expires = now.after(lifetime(self.intervals.web));
        let place = self.enter(info_hash);
        let meets_others =
            self.change(place, |swarm| swarm.join_web(member, &socket, (progress, makes_offers), expires));
        let counts = self.swarms.at(place).swarm.counts();
        let mut effects = Vec::with_capacity(1 + offers.len());
        let silent = (resident && !meets_others).then(|| Effect::Silent { info_hash, peer_id, socket: socket.clone() });
        effects.push(self.announced(info_hash, counts, socket));
        effects.extend(silent);
        if !offers.is_empty() {
            self.offer(now, rng, place, member, offers, resident, &mut effects);
        }
        Effects(effects)
    }

    /// A peer leaves a swarm, if it is there.
    pub(super) fn leave(&mut self, info_hash: InfoHash, member: Member) {
        if let Some(place) = self.swarms.place(&info_hash) {
            self.change(place, |swarm| swarm.leave_web(&member));
            self.prune(place);
        }
    }

    /// An announce over HTTP or UDP. Tells `found` of other peers. A peer that is not in the swarm yet is added if
    /// `admit` lets it.
    pub(super) fn native<E>(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        question: &NativeQuestion<'_>,
        admit: impl FnOnce() -> Result<(), E>,
        found: &mut impl FnMut(SocketAddr, PeerId),
    ) -> Result<Counts, E> {
        let NativeQuestion { ip, announce, wanted, both } = question;
        let NativeAnnounce { info_hash, peer_id, port, progress, .. } = announce;
        let addr = SocketAddr::new(*ip, port.get());
        let place = self.swarms.place(info_hash);
        let Some(progress) = progress else {
            if let Some(place) = place {
                self.change(place, |swarm| swarm.leave_native(&addr));
                self.prune(place);
            }
            return Ok(self.scrape(info_hash));
        };
        if !place.is_some_and(|place| self.swarms.at(place).swarm.has_native(&addr)) {
            admit()?;
        }
        let place = place.unwrap_or_else(|| self.enter(*info_hash));
        let expires = self.second(now).after(lifetime(self.intervals.native));
        self.change(place, |swarm| swarm.join_native(addr, *peer_id, *progress, expires));
        let swarm = &self.swarms.at(place).swarm;
        swarm.natives(rng, addr, *wanted, *both, found);
        Ok(swarm.counts())
    }

    /// Addresses of native peers, for somebody inside this process.
    pub(super) fn native_peers(&self, rng: &mut impl Rng, info_hash: &InfoHash, max: usize) -> Vec<SocketAddr> {
        // Asked from this machine, which may learn of every peer.
        const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
        let mut peers = Vec::new();
        if let Some(entry) = self.swarms.get(info_hash) {
            entry.swarm.natives(rng, INSIDE, max, true, &mut |addr, _| peers.push(addr));
        }
        peers
    }

    /// Forgets peers that stopped announcing. Looks at no more than `budget` peers and swarms, and goes on there at the
    /// next call, so that a large table never stops for long. Whether that was the end of a round through all of it.
    pub(super) fn expire(&mut self, now: Instant, budget: usize) -> bool {
        let now = self.second(now);
        let mut left = budget;
        while left > 0 {
            let Some(place) = self.sweep.swarm.min(self.swarms.len()).checked_sub(1) else {
                self.sweep = Sweep::START;
                return true;
            };
            let from = self.sweep.peer.min(self.swarms.at(place).swarm.peers());
            let next = self.change(place, |swarm| swarm.expire(now, from, left));
            left = left.saturating_sub(from - next + 1);
            self.sweep = match next {
                0 => Sweep { swarm: place, peer: usize::MAX },
                _ => Sweep { swarm: place + 1, peer: next },
            };
            self.prune(place);
        }
        false
    }

    /// Passes offers on: each to another peer, and one to the resident if it wants one. A spare one, if not all find a
    /// web peer; if all do, the resident takes the place of one. Only an offer without siblings is left to chance, or a
    /// page that makes one at a time would never meet other pages.
    #[allow(clippy::too_many_arguments, reason = "a part of `web`, which has them all at hand")]
    fn offer<'a>(
        &mut self,
        now: Second,
        rng: &mut impl Rng,
        place: usize,
        member: Member,
        offers: Vec<Offer<'a>>,
        resident: bool,
        effects: &mut Vec<Effect<'a, S>>,
    ) {
        let (peer_id, _) = member;
        let Entry { info_hash, swarm } = self.swarms.at_mut(place);
        let info_hash = *info_hash;
        let mut receivers = swarm.others(rng, &member, offers.len());
        if resident && receivers.len() == offers.len() && (offers.len() > 1 || rng.random()) {
            receivers.pop();
        }
        let mut offers = offers.into_iter();
        for (receiver, offer) in receivers.iter().zip(offers.by_ref()) {
            if let Some(to) = swarm.offered(now, receiver, member, offer.id) {
                effects.push(Effect::Offer { to, message: Message::Offer { info_hash, peer_id, offer } });
            }
        }
        if resident && let Some(offer) = offers.next() {
            effects.push(Effect::Resident { info_hash, peer_id, offer });
        }
    }

    fn announced<'a>(&self, info_hash: InfoHash, counts: Counts, socket: S) -> Effect<'a, S> {
        // Clients obey it with no floor of their own: zero would have them announce without a pause.
        let interval = self.intervals.web.as_secs().max(1);
        Effect::Send(socket, Message::Announced { info_hash, interval, counts })
    }

    fn second(&self, now: Instant) -> Second {
        let seconds = now.saturating_duration_since(self.start).as_secs();
        Second(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// The place of a swarm, which is made if need be. Somebody must join it then.
    fn enter(&mut self, info_hash: InfoHash) -> usize {
        self.swarms.place(&info_hash).unwrap_or_else(|| {
            self.stats.swarms += 1;
            let completed = self.completed.swap_remove(&info_hash).unwrap_or(0);
            self.swarms.push(Entry { info_hash, swarm: Swarm::completed(completed) })
        })
    }

    /// Every change of a swarm goes through here, and the totals follow.
    fn change<T>(&mut self, place: usize, change: impl FnOnce(&mut Swarm<S>) -> T) -> T {
        let Entry { info_hash, swarm } = self.swarms.at_mut(place);
        let (downloaded, web, native) = (swarm.downloaded(), swarm.web_peers(), swarm.native_peers());
        let result = change(swarm);
        self.stats.web_peers = self.stats.web_peers + swarm.web_peers() - web;
        self.stats.native_peers = self.stats.native_peers + swarm.native_peers() - native;
        if swarm.downloaded() > downloaded {
            self.completions.push((*info_hash, swarm.downloaded()));
        }
        result
    }

    /// Every change after which a swarm may be empty is followed by this.
    fn prune(&mut self, place: usize) {
        if self.swarms.at(place).swarm.is_empty() {
            let Entry { info_hash, swarm } = self.swarms.remove_at(place);
            self.stats.swarms -= 1;
            if swarm.downloaded() > 0 {
                self.remember((info_hash, swarm.downloaded()));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        self.swarms.check_invariants();
        self.swarms.iter().for_each(|entry| entry.swarm.check_invariants());
        let sum = |of: fn(&Swarm<S>) -> usize| self.swarms.iter().map(|entry| of(&entry.swarm)).sum();
        let stats = Stats {
            swarms: self.swarms.len(),
            web_peers: sum(Swarm::web_peers),
            native_peers: sum(Swarm::native_peers),
        };
        assert_eq!(self.stats, stats);
        assert!(self.completed.len() <= self.max_completed);
        assert!(self.completed.keys().all(|info_hash| self.swarms.get(info_hash).is_none()));
    }

    /// Which peers of a swarm may answer which offers.
    #[cfg(test)]
    pub(super) fn outstanding(&self, info_hash: &InfoHash) -> Vec<(Member, OfferId)> {
        self.swarms.get(info_hash).map(|entry| entry.swarm.outstanding().collect()).unwrap_or_default()
    }

    /// What a socket has in the table, as its session knows it.
    #[cfg(test)]
    pub(super) fn brought(&self, socket: SocketId) -> Vec<(InfoHash, Member)> {
        let all =
            self.swarms.iter().flat_map(|entry| entry.swarm.web_members().map(|member| (entry.info_hash, member)));
        all.filter(|(_, member)| member.1 == socket).collect()
    }
}

#[cfg(test)]
use crate::wire::tracker_ws::OfferId;

#[cfg(test)]
mod tests;
