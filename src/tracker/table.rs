//! The swarms of one shard. No I/O, clock or randomness: time and chance are arguments, what must be sent is returned.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use rand::{Rng, RngExt};

use super::Stats;
use super::completed::Downloads;
use super::swarm::{Member, Swarm};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::{Counts, NativeAnnounce, Progress};
use crate::wire::tracker_ws::{Announce, Failure, Intent, Message, Offer, Reason};

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
fn lifetime(interval: Duration) -> Duration {
    interval * 5 / 2
}

#[derive(Debug)]
pub(super) struct Table {
    intervals: Intervals,
    swarms: IndexMap<InfoHash, Swarm>,
    /// Swarms from here on have been looked at in this round of [`Table::expire`].
    swept: usize,
    /// Swarms looked at in one call of it.
    stride: usize,
    /// What each socket brought, so that it goes when the socket does.
    sockets: HashMap<SocketId, HashSet<(InfoHash, PeerId)>>,
    stats: Stats,
    /// How often swarms that are empty now have been completed.
    completed: IndexMap<InfoHash, usize>,
    max_completed: usize,
    /// Where [`Self::remember`] last looked for a count to forget.
    forgotten: usize,
    /// Swarms completed once more since [`Self::take_completions`] was last asked.
    completions: Vec<Downloads>,
}

/// Something that happened on a WebSocket.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Announce {
        socket: SocketId,
        announce: Announce,
        /// Whether the resident wants an offer of this swarm.
        resident: bool,
        /// Whether a peer may be added. Known peers are always welcome.
        room: bool,
    },
    Closed {
        socket: SocketId,
    },
}

/// What must be done about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Send(SocketId, Message),
    /// An offer, the one kind of message that may be lost on the way.
    Offer {
        to: Member,
        message: Message,
    },
    /// This offer goes to the resident.
    Resident {
        info_hash: InfoHash,
        peer_id: PeerId,
        offer: Offer,
    },
    /// An answer led nowhere: late, or to an offer that was never made, or not to this peer.
    AnswerDropped,
}

#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects(pub(super) Vec<Effect>);

/// An announce of a native peer, and what to answer.
#[derive(Debug, Clone)]
pub(super) struct NativeQuestion {
    /// Where it came from.
    pub(super) ip: IpAddr,
    pub(super) announce: NativeAnnounce,
    /// How many peers to name.
    pub(super) wanted: usize,
    /// Of both address families, or the asker's only.
    pub(super) both: bool,
}

/// The reply to a native announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NativeReply {
    pub(super) counts: Counts,
    pub(super) peers: Vec<(SocketAddr, PeerId)>,
}

/// The table takes no more peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Table {
    pub(super) fn new(intervals: Intervals, max_completed: usize) -> Self {
        Self {
            completed: IndexMap::new(),
            max_completed,
            forgotten: 0,
            completions: Vec::new(),
            intervals,
            swarms: IndexMap::new(),
            swept: 0,
            stride: 0,
            sockets: HashMap::new(),
            stats: Stats::default(),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    pub(super) fn scrape(&self, info_hash: &InfoHash) -> Counts {
        self.swarms.get(info_hash).map_or_else(
            || Counts { downloaded: self.completed.get(info_hash).copied().unwrap_or(0), ..Counts::default() },
            Swarm::counts,
        )
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

    pub(super) fn handle(&mut self, now: Instant, rng: &mut impl Rng, event: Event) -> Effects {
        match event {
            Event::Closed { socket } => {
                self.close(socket);
                Effects::default()
            }
            Event::Announce { socket, announce: Announce { info_hash, peer_id, intent }, resident, room } => {
                let member = (peer_id, socket);
                match intent {
                    Intent::Offers { progress, offers } => {
                        let mut effects = self.present(now, info_hash, member, progress, room);
                        if self.swarms.get(&info_hash).is_some_and(|swarm| swarm.has_web(&member)) {
                            effects.0.extend(self.offer(now, rng, info_hash, member, offers, resident));
                        }
                        effects
                    }
                    Intent::Update { progress } => self.present(now, info_hash, member, progress, room),
                    Intent::Stop => {
                        self.leave(info_hash, member);
                        Effects(vec![self.announced(info_hash, socket)])
                    }
                    Intent::Answer { to, offer_id, answer } => {
                        let swarm = self.swarms.get_mut(&info_hash);
                        let offerer = swarm.and_then(|swarm| swarm.answered(now, &member, to, offer_id));
                        Effects(vec![match offerer {
                            Some(offerer) => {
                                Effect::Send(offerer, Message::Answer { info_hash, peer_id, offer_id, answer })
                            }
                            None => Effect::AnswerDropped,
                        }])
                    }
                }
            }
        }
    }

    /// An announce over HTTP or UDP. `room` is as in [`Event::Announce`].
    pub(super) fn native(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        question: &NativeQuestion,
        room: bool,
    ) -> Result<NativeReply, Full> {
        let NativeQuestion { ip, announce, wanted, both } = question;
        let NativeAnnounce { info_hash, peer_id, port, progress, .. } = announce;
        let addr = SocketAddr::new(*ip, port.get());
        let Some(progress) = progress else {
            self.update(*info_hash, |swarm| swarm.leave_native(&addr));
            return Ok(NativeReply { counts: self.scrape(info_hash), peers: Vec::new() });
        };
        if !room && !self.swarms.get(info_hash).is_some_and(|swarm| swarm.has_native(&addr)) {
            return Err(Full);
        }
        let expires = now + lifetime(self.intervals.native);
        self.update(*info_hash, |swarm| swarm.join_native(addr, *peer_id, *progress, expires));
        let swarm = &self.swarms[info_hash];
        Ok(NativeReply { counts: swarm.counts(), peers: swarm.natives(rng, addr, *wanted, *both) })
    }

    /// Addresses of native peers, for somebody inside this process.
    pub(super) fn native_peers(&self, rng: &mut impl Rng, info_hash: &InfoHash, max: usize) -> Vec<SocketAddr> {
        // Asked from the unspecified address, which is local: this process may learn of every peer.
        const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        let swarm = self.swarms.get(info_hash);
        let peers = swarm.map(|swarm| swarm.natives(rng, INSIDE, max, true)).unwrap_or_default();
        peers.into_iter().map(|(addr, _)| addr).collect()
    }

    /// Forgets peers that stopped announcing: looks at one swarm in `share`, and at all of them in `share` calls, so
    /// that a large table never stops for long.
    pub(super) fn expire(&mut self, now: Instant, share: usize) {
        if self.swept == 0 {
            (self.swept, self.stride) = (self.swarms.len(), self.swarms.len().div_ceil(share));
        }
        // Downwards, because removing a swarm moves the last one into its place: one that has been looked at.
        let end = self.swept.min(self.swarms.len());
        let start = end.saturating_sub(self.stride);
        for i in (start..end).rev() {
            let info_hash = *self.swarms.get_index(i).expect("below the length").0;
            for member in self.update(info_hash, |swarm| swarm.expire(now)) {
                self.forget(info_hash, member);
            }
        }
        self.swept = start;
    }

    /// A web peer is in the swarm.
    fn present(
        &mut self,
        now: Instant,
        info_hash: InfoHash,
        member: Member,
        progress: Progress,
        room: bool,
    ) -> Effects {
        let (peer_id, socket) = member;
        if !room && !self.swarms.get(&info_hash).is_some_and(|swarm| swarm.has_web(&member)) {
            let failure = Failure::of_announce(&info_hash, Reason::TrackerFull);
            return Effects(vec![Effect::Send(socket, Message::Failure(failure))]);
        }
        let expires = now + lifetime(self.intervals.web);
        self.update(info_hash, |swarm| swarm.join_web(member, progress, expires));
        self.sockets.entry(socket).or_default().insert((info_hash, peer_id));
        Effects(vec![self.announced(info_hash, socket)])
    }

    /// Passes offers on: each to another peer, and one to the resident if it wants one. A spare one, if not all find a
    /// web peer; if all do, the resident takes the place of one. Only an offer without siblings is left to chance, or a
    /// page that makes one at a time would never meet other pages.
    fn offer(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        info_hash: InfoHash,
        member: Member,
        offers: Vec<Offer>,
        resident: bool,
    ) -> Vec<Effect> {
        let (peer_id, _) = member;
        let Some(swarm) = self.swarms.get_mut(&info_hash) else { return Vec::new() };
        let mut receivers = swarm.others(rng, &member, offers.len());
        if resident && receivers.len() == offers.len() && (offers.len() > 1 || rng.random()) {
            receivers.pop();
        }
        let mut offers = offers.into_iter();
        let mut effects = Vec::with_capacity(receivers.len() + 1);
        for (receiver, offer) in receivers.iter().zip(offers.by_ref()) {
            swarm.offered(now, receiver, member, offer.id);
            effects.push(Effect::Offer { to: *receiver, message: Message::Offer { info_hash, peer_id, offer } });
        }
        if resident && let Some(offer) = offers.next() {
            effects.push(Effect::Resident { info_hash, peer_id, offer });
        }
        effects
    }

    fn announced(&self, info_hash: InfoHash, socket: SocketId) -> Effect {
        // Clients obey it with no floor of their own: zero would have them announce without a pause.
        let (interval, counts) = (self.intervals.web.as_secs().max(1), self.scrape(&info_hash));
        Effect::Send(socket, Message::Announced { info_hash, interval, counts })
    }

    fn close(&mut self, socket: SocketId) {
        for (info_hash, peer_id) in self.sockets.remove(&socket).unwrap_or_default() {
            self.update(info_hash, |swarm| swarm.leave_web(&(peer_id, socket)));
        }
    }

    fn leave(&mut self, info_hash: InfoHash, member: Member) {
        if self.update(info_hash, |swarm| swarm.leave_web(&member)) {
            self.forget(info_hash, member);
        }
    }

    /// Drops a peer from the list of what its socket brought.
    fn forget(&mut self, info_hash: InfoHash, (peer_id, socket): Member) {
        if let Some(brought) = self.sockets.get_mut(&socket) {
            brought.remove(&(info_hash, peer_id));
            if brought.is_empty() {
                self.sockets.remove(&socket);
            }
        }
    }

    /// Every change of a swarm goes through here: it is made if need be, pruned if empty, and the totals follow.
    fn update<T>(&mut self, info_hash: InfoHash, change: impl FnOnce(&mut Swarm) -> T) -> T {
        let swarm = self
            .swarms
            .entry(info_hash)
            .or_insert_with(|| Swarm::completed(self.completed.swap_remove(&info_hash).unwrap_or(0)));
        let downloaded = swarm.downloaded();
        let (web, native, new) = (swarm.web_peers(), swarm.native_peers(), swarm.is_empty());
        let result = change(swarm);
        self.stats.web_peers = self.stats.web_peers + swarm.web_peers() - web;
        self.stats.native_peers = self.stats.native_peers + swarm.native_peers() - native;
        self.stats.swarms += usize::from(new);
        let downloads = (info_hash, swarm.downloaded());
        if downloads.1 > downloaded {
            self.completions.push(downloads);
        }
        if swarm.is_empty() {
            self.swarms.swap_remove(&info_hash);
            self.stats.swarms -= 1;
            if downloads.1 > 0 {
                self.remember(downloads);
            }
        }
        result
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        for swarm in self.swarms.values() {
            swarm.check_invariants();
        }
        let brought: HashSet<(InfoHash, Member)> = self
            .sockets
            .iter()
            .flat_map(|(socket, brought)| brought.iter().map(|(hash, peer)| (*hash, (*peer, *socket))))
            .collect();
        let present: HashSet<(InfoHash, Member)> =
            self.swarms.iter().flat_map(|(hash, swarm)| swarm.web_members().map(|member| (*hash, *member))).collect();
        assert_eq!(brought, present, "a socket is known to have brought exactly the peers it has");
        assert!(self.sockets.values().all(|brought| !brought.is_empty()));
        let stats = Stats {
            swarms: self.swarms.len(),
            web_peers: present.len(),
            native_peers: self.swarms.values().map(Swarm::native_peers).sum(),
        };
        assert_eq!(self.stats, stats);
        assert!(self.completed.len() <= self.max_completed);
        assert!(self.completed.keys().all(|info_hash| !self.swarms.contains_key(info_hash)));
    }
}

#[cfg(test)]
mod tests;
