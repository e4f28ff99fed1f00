//! One swarm: its web peers, its native peers, and the offers that wait for an answer. No I/O, clock or randomness.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use rand::Rng;
use rand::seq::index;

use super::table::SocketId;
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

#[derive(Debug, Default)]
pub(super) struct Swarm {
    web: IndexMap<Member, WebPeer>,
    /// A native peer is known by where it listens.
    native_v4: IndexMap<SocketAddr, NativePeer>,
    native_v6: IndexMap<SocketAddr, NativePeer>,
    seeders: usize,
    downloaded: usize,
}

#[derive(Debug)]
struct WebPeer {
    seeder: bool,
    expires: Instant,
    /// Offers sent to this peer that it has not answered, oldest first.
    offered: VecDeque<Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    offerer: Member,
    id: OfferId,
    expires: Instant,
}

#[derive(Debug)]
struct NativePeer {
    peer_id: PeerId,
    seeder: bool,
    expires: Instant,
}

impl Swarm {
    /// An empty swarm that has been completed before.
    pub(super) fn completed(downloaded: usize) -> Self {
        Self { downloaded, ..Self::default() }
    }

    pub(super) fn downloaded(&self) -> usize {
        self.downloaded
    }

    pub(super) fn counts(&self) -> Counts {
        let peers = self.web_peers() + self.native_peers();
        Counts { complete: self.seeders, incomplete: peers - self.seeders, downloaded: self.downloaded }
    }

    pub(super) fn web_peers(&self) -> usize {
        self.web.len()
    }

    pub(super) fn native_peers(&self) -> usize {
        self.native_v4.len() + self.native_v6.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.web_peers() + self.native_peers() == 0
    }

    pub(super) fn has_web(&self, member: &Member) -> bool {
        self.web.contains_key(member)
    }

    pub(super) fn has_native(&self, addr: &SocketAddr) -> bool {
        self.native(addr.ip()).contains_key(addr)
    }

    /// Adds a web peer, or notes that it is still there.
    pub(super) fn join_web(&mut self, member: Member, progress: Progress, expires: Instant) {
        let peer = self.web.entry(member).or_insert(WebPeer { seeder: false, expires, offered: VecDeque::new() });
        peer.expires = expires;
        advance(&mut peer.seeder, progress, &mut self.seeders, &mut self.downloaded);
    }

    pub(super) fn leave_web(&mut self, member: &Member) -> bool {
        let Some(peer) = self.web.swap_remove(member) else { return false };
        self.seeders -= usize::from(peer.seeder);
        true
    }

    /// Adds a native peer, or notes that it is still there.
    pub(super) fn join_native(&mut self, addr: SocketAddr, peer_id: PeerId, progress: Progress, expires: Instant) {
        let natives = if addr.is_ipv4() { &mut self.native_v4 } else { &mut self.native_v6 };
        let peer = natives.entry(addr).or_insert(NativePeer { peer_id, seeder: false, expires });
        (peer.peer_id, peer.expires) = (peer_id, expires);
        advance(&mut peer.seeder, progress, &mut self.seeders, &mut self.downloaded);
    }

    pub(super) fn leave_native(&mut self, addr: &SocketAddr) -> bool {
        let natives = if addr.is_ipv4() { &mut self.native_v4 } else { &mut self.native_v6 };
        let Some(peer) = natives.swap_remove(addr) else { return false };
        self.seeders -= usize::from(peer.seeder);
        true
    }

    /// Up to `wanted` web peers that are not `member`, each as likely as any other, in random order.
    pub(super) fn others(&self, rng: &mut impl Rng, member: &Member, wanted: usize) -> Vec<Member> {
        let draw = |rng: &mut _, amount: usize| -> Vec<Member> {
            let drawn = index::sample(rng, self.web.len(), amount).into_iter();
            let members = drawn.map(|i| *self.web.get_index(i).expect("drawn below the length").0);
            // The same peer id on another socket is the same page, connected twice or reconnected.
            members.filter(|other| other.0 != member.0).take(wanted).collect()
        };
        // One more than wanted, because the member itself may be drawn. That falls short only when its peer id is there
        // more than once; then all are drawn.
        let amount = self.web.len().min(wanted + 1);
        let others = draw(rng, amount);
        if others.len() == wanted || amount == self.web.len() { others } else { draw(rng, self.web.len()) }
    }

    /// Notes that an offer was sent to `receiver`, which may answer it.
    pub(super) fn offered(&mut self, now: Instant, receiver: &Member, offerer: Member, id: OfferId) {
        let Some(peer) = self.web.get_mut(receiver) else { return };
        while peer.offered.len() >= MAX_OUTSTANDING || peer.offered.front().is_some_and(|first| first.expires <= now) {
            peer.offered.pop_front();
        }
        peer.offered.push_back(Outstanding { offerer, id, expires: now + OFFER_LIFETIME });
    }

    /// Who made the offer that `answerer` answers, if that offer was sent to this peer, is outstanding, and its maker is
    /// still here. It is not outstanding afterwards.
    pub(super) fn answered(&mut self, now: Instant, answerer: &Member, to: PeerId, id: OfferId) -> Option<SocketId> {
        let peer = self.web.get_mut(answerer)?;
        let is_it = |offer: &Outstanding| offer.id == id && offer.offerer.0 == to && offer.expires > now;
        let at = peer.offered.iter().position(is_it)?;
        let offer = peer.offered.remove(at).expect("just found");
        self.web.contains_key(&offer.offerer).then_some(offer.offerer.1)
    }

    /// Up to `wanted` native peers of the asker's address family, then of the other if `both`, chosen at random; never
    /// the asker itself.
    pub(super) fn natives(
        &self,
        rng: &mut impl Rng,
        asker: SocketAddr,
        wanted: usize,
        both: bool,
    ) -> Vec<(SocketAddr, PeerId)> {
        let (same, other) = match asker {
            SocketAddr::V4(_) => (&self.native_v4, &self.native_v6),
            SocketAddr::V6(_) => (&self.native_v6, &self.native_v4),
        };
        let mut found = Vec::new();
        for natives in [Some(same), both.then_some(other)].into_iter().flatten() {
            let amount = natives.len().min(wanted - found.len() + 1);
            let drawn = index::sample(rng, natives.len(), amount).into_iter();
            let peers = drawn.map(|i| natives.get_index(i).expect("drawn below the length"));
            let useful = peers.filter(|(addr, _)| **addr != asker && may_learn(asker.ip(), addr.ip()));
            let room = wanted - found.len();
            found.extend(useful.map(|(addr, peer)| (*addr, peer.peer_id)).take(room));
        }
        found
    }

    /// Removes what has expired; returns the web peers among it.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Member> {
        let mut gone = Vec::new();
        self.web.retain(|member, peer| {
            let stays = peer.expires > now;
            if !stays {
                gone.push(*member);
                self.seeders -= usize::from(peer.seeder);
            }
            stays
        });
        for natives in [&mut self.native_v4, &mut self.native_v6] {
            natives.retain(|_, peer| {
                let stays = peer.expires > now;
                self.seeders -= usize::from(!stays && peer.seeder);
                stays
            });
            natives.shrink_to(2 * natives.len());
        }
        self.web.shrink_to(2 * self.web.len());
        gone
    }

    #[cfg(test)]
    pub(super) fn web_members(&self) -> impl Iterator<Item = &Member> {
        self.web.keys()
    }

    fn native(&self, ip: IpAddr) -> &IndexMap<SocketAddr, NativePeer> {
        if ip.is_ipv4() { &self.native_v4 } else { &self.native_v6 }
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let natives = || self.native_v4.values().chain(self.native_v6.values());
        let web_seeders = self.web.values().filter(|peer| peer.seeder).count();
        assert_eq!(self.seeders, web_seeders + natives().filter(|peer| peer.seeder).count());
        assert!(self.native_v4.keys().all(SocketAddr::is_ipv4) && self.native_v6.keys().all(SocketAddr::is_ipv6));
        for (member, peer) in &self.web {
            assert!(peer.offered.len() <= MAX_OUTSTANDING);
            assert!(peer.offered.iter().is_sorted_by_key(|offer| offer.expires));
            assert!(peer.offered.iter().all(|offer| offer.offerer.0 != member.0), "nobody is sent its own offer");
        }
        assert!(!self.is_empty(), "empty swarms are pruned");
    }
}

/// Applies what a peer says of its progress to its state and its swarm's counts.
fn advance(seeder: &mut bool, progress: Progress, seeders: &mut usize, downloaded: &mut usize) {
    let is_seeder = match progress {
        Progress::Completed | Progress::Seeding => true,
        Progress::Leeching => false,
        Progress::Unsaid => *seeder,
    };
    *downloaded += usize::from(progress == Progress::Completed && !*seeder);
    *seeders = *seeders + usize::from(is_seeder) - usize::from(*seeder);
    *seeder = is_seeder;
}

/// Whether `asker` is told of a peer at `ip`. Addresses of a local network mean nothing outside of it, or worse, somebody
/// else's machine.
fn may_learn(asker: IpAddr, ip: IpAddr) -> bool {
    !is_local(ip) || is_local(asker)
}

fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}
