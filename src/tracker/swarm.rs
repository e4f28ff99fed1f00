//! One swarm: its web peers, its native peers, and the offers that wait for an answer. No I/O, clock or randomness.
//!
//! Entries are small, since there are many: time is in whole seconds, an address takes the bytes it has, and what few
//! peers have (offers they have not answered) is kept apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use rand::seq::index;

use super::dense::{Dense, Keyed};
use super::table::SocketId;
use crate::net;
use crate::wire::id::PeerId;
use crate::wire::tracker::{Counts, Progress};
use crate::wire::tracker_ws::OfferId;

/// How long an offer may be answered. Clients give up on theirs after 50 s (bittorrent-tracker's `OFFER_TIMEOUT`).
pub(super) const OFFER_LIFETIME: Duration = Duration::from_secs(50);

/// Offers that may wait for one receiver's answer; past it the oldest can no longer be answered. With five to ten offers
/// an announce and an announce every two minutes, an honest peer has two to five.
pub(super) const MAX_OUTSTANDING: usize = 128;

/// A web peer is who it says it is on the socket it came by: a peer id that shows up on another socket is another peer,
/// so nobody can answer for, replace or remove somebody else's.
pub(super) type Member = (PeerId, SocketId);

/// A moment, in seconds since its table was made: 4 bytes where `Instant` has 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Second(pub(super) u32);

impl Second {
    /// Parts of a second count as a whole one.
    pub(super) fn after(self, time: Duration) -> Self {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        Self(self.0.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)))
    }
}

/// `S` is the way to a socket.
#[derive(Debug)]
pub(super) struct Swarm<S> {
    web: Dense<WebPeer<S>>,
    /// A native peer is known by where it listens.
    native_v4: Dense<NativePeer<Ipv4Addr>>,
    native_v6: Dense<NativePeer<Ipv6Addr>>,
    seeders: u32,
    downloaded: u32,
}

#[derive(Debug)]
struct WebPeer<S> {
    peer_id: PeerId,
    seeder: bool,
    /// It has made offers.
    offers: bool,
    id: SocketId,
    socket: S,
    /// Offers sent to this peer that it has not answered, oldest first. Expiry takes the memory back, and not the last
    /// answer: the next offers come soon.
    offered: Vec<Outstanding>,
    expires: Second,
}

#[derive(Debug)]
struct Outstanding {
    offerer: Member,
    id: OfferId,
    expires: Second,
}

#[derive(Debug)]
struct NativePeer<I> {
    ip: I,
    port: u16,
    seeder: bool,
    peer_id: PeerId,
    expires: Second,
}

impl<S> Keyed for WebPeer<S> {
    type Key = Member;

    fn key(&self) -> Member {
        (self.peer_id, self.id)
    }
}

impl<I: Ip> Keyed for NativePeer<I> {
    type Key = (I, u16);

    fn key(&self) -> (I, u16) {
        (self.ip, self.port)
    }
}

impl<S: Clone> Swarm<S> {
    /// An empty swarm that has been completed before.
    pub(super) fn completed(downloaded: u32) -> Self {
        let (web, native_v4, native_v6) = Default::default();
        Self { web, native_v4, native_v6, seeders: 0, downloaded }
    }

    pub(super) fn downloaded(&self) -> u32 {
        self.downloaded
    }

    pub(super) fn counts(&self) -> Counts {
        let seeders = self.seeders as usize;
        let incomplete = self.peers() - seeders;
        Counts { complete: seeders, incomplete, downloaded: self.downloaded as usize }
    }

    pub(super) fn web_peers(&self) -> usize {
        self.web.len()
    }

    pub(super) fn native_peers(&self) -> usize {
        self.native_v4.len() + self.native_v6.len()
    }

    pub(super) fn peers(&self) -> usize {
        self.web_peers() + self.native_peers()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers() == 0
    }

    pub(super) fn has_web(&self, member: &Member) -> bool {
        self.web.place(member).is_some()
    }

    pub(super) fn has_native(&self, addr: &SocketAddr) -> bool {
        match addr {
            SocketAddr::V4(addr) => self.native_v4.place(&(*addr.ip(), addr.port())).is_some(),
            SocketAddr::V6(addr) => self.native_v6.place(&(*addr.ip(), addr.port())).is_some(),
        }
    }

    /// Adds a web peer, or notes that it is still there. Whether it has ever made offers.
    pub(super) fn join_web(
        &mut self,
        member: Member,
        socket: &S,
        (progress, offers): (Progress, bool),
        expires: Second,
    ) -> bool {
        let place = self.web.place(&member).unwrap_or_else(|| {
            let ((peer_id, id), socket) = (member, socket.clone());
            self.web.push(WebPeer { peer_id, seeder: false, offers, id, socket, offered: Vec::new(), expires })
        });
        let peer = self.web.at_mut(place);
        peer.expires = expires;
        peer.offers |= offers;
        advance(&mut peer.seeder, progress, &mut self.seeders, &mut self.downloaded);
        peer.offers
    }

    pub(super) fn leave_web(&mut self, member: &Member) {
        let gone = self.web.remove(member);
        self.seeders -= u32::from(gone.is_some_and(|peer| peer.seeder));
    }

    /// Adds a native peer, or notes that it is still there.
    pub(super) fn join_native(&mut self, addr: SocketAddr, peer_id: PeerId, progress: Progress, expires: Second) {
        let port = addr.port();
        let seeder = match addr.ip() {
            IpAddr::V4(ip) => join(&mut self.native_v4, NativePeer { ip, port, seeder: false, peer_id, expires }),
            IpAddr::V6(ip) => join(&mut self.native_v6, NativePeer { ip, port, seeder: false, peer_id, expires }),
        };
        advance(seeder, progress, &mut self.seeders, &mut self.downloaded);
    }

    pub(super) fn leave_native(&mut self, addr: &SocketAddr) {
        let seeder = match addr {
            SocketAddr::V4(addr) => self.native_v4.remove(&(*addr.ip(), addr.port())).map(|peer| peer.seeder),
            SocketAddr::V6(addr) => self.native_v6.remove(&(*addr.ip(), addr.port())).map(|peer| peer.seeder),
        };
        self.seeders -= u32::from(seeder == Some(true));
    }

    /// Up to `wanted` web peers that are not `member`, each as likely as any other, in random order.
    pub(super) fn others(&self, rng: &mut impl Rng, member: &Member, wanted: usize) -> Vec<Member> {
        let draw = |rng: &mut _, amount: usize| -> Vec<Member> {
            let drawn = index::sample(rng, self.web.len(), amount).into_iter();
            let members = drawn.map(|place| self.web.at(place).key());
            // The same peer id on another socket is the same page, connected twice or reconnected.
            members.filter(|other| other.0 != member.0).take(wanted).collect()
        };
        // One more than wanted, because the member itself may be drawn. That falls short only when its peer id is there
        // more than once; then all are drawn.
        let amount = self.web.len().min(wanted + 1);
        let others = draw(rng, amount);
        if others.len() == wanted || amount == self.web.len() { others } else { draw(rng, self.web.len()) }
    }

    /// Notes that an offer is sent to `receiver`, which may answer it; the way to it.
    pub(super) fn offered(&mut self, now: Second, receiver: &Member, offerer: Member, id: OfferId) -> Option<S> {
        let peer = self.web.get_mut(receiver)?;
        let offered = &mut peer.offered;
        let late = offered.iter().take_while(|first| first.expires <= now).count();
        let gone = late.max((offered.len() + 1).saturating_sub(MAX_OUTSTANDING));
        offered.drain(..gone);
        offered.push(Outstanding { offerer, id, expires: now.after(OFFER_LIFETIME) });
        Some(peer.socket.clone())
    }

    /// The way to who made the offer that `answerer` answers, if that offer was sent to this peer, is outstanding, and
    /// its maker is still here. It is not outstanding afterwards.
    pub(super) fn answered(&mut self, now: Second, answerer: &Member, to: PeerId, id: OfferId) -> Option<S> {
        let peer = self.web.get_mut(answerer)?;
        let is_it = |offer: &Outstanding| offer.id == id && offer.offerer.0 == to && offer.expires > now;
        let at = peer.offered.iter().position(is_it)?;
        let offer = peer.offered.remove(at);
        self.web.get(&offer.offerer).map(|offerer| offerer.socket.clone())
    }

    /// Tells `found` of up to `wanted` native peers of the asker's address family, then of the other if `both`, chosen
    /// at random; never of the asker itself.
    pub(super) fn natives(
        &self,
        rng: &mut impl Rng,
        asker: SocketAddr,
        wanted: usize,
        both: bool,
        found: &mut impl FnMut(SocketAddr, PeerId),
    ) {
        let mut left = wanted;
        let families = if asker.is_ipv4() { [true, false] } else { [false, true] };
        for v4 in families.into_iter().take(if both { 2 } else { 1 }) {
            left -= match v4 {
                true => tell(&self.native_v4, rng, asker, left, found),
                false => tell(&self.native_v6, rng, asker, left, found),
            };
        }
    }

    /// Looks at peers for such as have expired: at most `budget` of them, downwards from the `from`-th. Returns where to
    /// go on; nothing is left to be looked at when that is 0.
    pub(super) fn expire(&mut self, now: Second, from: usize, budget: usize) -> usize {
        let mut next = from.min(self.peers());
        let end = next.saturating_sub(budget);
        // Downwards, because a removal moves the last of its set, which has been looked at, into the place.
        while next > end {
            next -= 1;
            let (web, v4) = (self.web.len(), self.native_v4.len());
            let seeder = match next {
                n if n < web => expire_web(&mut self.web, now, n),
                n if n < web + v4 => expire_native(&mut self.native_v4, now, n - web),
                n => expire_native(&mut self.native_v6, now, n - web - v4),
            };
            self.seeders -= u32::from(seeder);
        }
        next
    }

    #[cfg(test)]
    pub(super) fn web_members(&self) -> impl Iterator<Item = Member> {
        self.web.iter().map(WebPeer::key)
    }

    #[cfg(test)]
    pub(super) fn outstanding(&self) -> impl Iterator<Item = (Member, OfferId)> {
        let offered = self.web.iter().map(|peer| (peer.key(), &peer.offered));
        offered.flat_map(|(member, offered)| offered.iter().map(move |offer| (member, offer.id)))
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        self.web.check_invariants();
        self.native_v4.check_invariants();
        self.native_v6.check_invariants();
        let natives =
            self.native_v4.iter().map(|peer| peer.seeder).chain(self.native_v6.iter().map(|peer| peer.seeder));
        let seeders = self.web.iter().map(|peer| peer.seeder).chain(natives).filter(|seeder| *seeder).count();
        assert_eq!(self.seeders as usize, seeders);
        for peer in self.web.iter() {
            let offered = &peer.offered;
            assert!(offered.len() <= MAX_OUTSTANDING);
            assert!(offered.iter().is_sorted_by_key(|offer| offer.expires));
            assert!(offered.iter().all(|offer| offer.offerer.0 != peer.peer_id), "nobody is sent its own offer");
        }
        assert!(!self.is_empty(), "empty swarms are pruned");
    }
}

/// An address of one family, as wide as that family's are.
trait Ip: Copy + Eq + std::hash::Hash + std::fmt::Debug + Into<IpAddr> {}

impl Ip for Ipv4Addr {}
impl Ip for Ipv6Addr {}

/// Adds a native peer, or renews the one that is there; whether it was a seeder.
fn join<I: Ip>(natives: &mut Dense<NativePeer<I>>, new: NativePeer<I>) -> &mut bool {
    let place = match natives.place(&new.key()) {
        Some(place) => {
            let peer = natives.at_mut(place);
            (peer.peer_id, peer.expires) = (new.peer_id, new.expires);
            place
        }
        None => natives.push(new),
    };
    &mut natives.at_mut(place).seeder
}

/// Tells `found` of up to `wanted` native peers of one family; how many it was told of.
fn tell<I: Ip>(
    natives: &Dense<NativePeer<I>>,
    rng: &mut impl Rng,
    asker: SocketAddr,
    wanted: usize,
    found: &mut impl FnMut(SocketAddr, PeerId),
) -> usize {
    if wanted == 0 {
        return 0;
    }
    let (mut told, here) = (0, net::scope(asker.ip()));
    // One more than wanted, because the asker itself may be drawn.
    for peer in natives.draw(rng, wanted + 1) {
        let addr = SocketAddr::new(peer.ip.into(), peer.port);
        // Addresses of a local network mean nothing outside of it, or worse, somebody else's machine.
        if told < wanted && addr != asker && net::means_something(here, net::scope(addr.ip())) {
            found(addr, peer.peer_id);
            told += 1;
        }
    }
    told
}

/// Forgets a web peer that has expired, or offers to it that have; whether a seeder has gone.
fn expire_web<S>(web: &mut Dense<WebPeer<S>>, now: Second, place: usize) -> bool {
    let peer = web.at_mut(place);
    if peer.expires <= now {
        return web.remove_at(place).seeder;
    }
    if peer.offered.last().is_none_or(|newest| newest.expires <= now) {
        peer.offered = Vec::new();
    }
    false
}

fn expire_native<I: Ip>(natives: &mut Dense<NativePeer<I>>, now: Second, place: usize) -> bool {
    natives.at(place).expires <= now && natives.remove_at(place).seeder
}

/// Applies what a peer says of its progress to its state and its swarm's counts.
fn advance(seeder: &mut bool, progress: Progress, seeders: &mut u32, downloaded: &mut u32) {
    let is_seeder = match progress {
        Progress::Completed | Progress::Seeding => true,
        Progress::Leeching => false,
        Progress::Unsaid => *seeder,
    };
    *downloaded = downloaded.saturating_add(u32::from(progress == Progress::Completed && !*seeder));
    *seeders = *seeders + u32::from(is_seeder) - u32::from(*seeder);
    *seeder = is_seeder;
}
