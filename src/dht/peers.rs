//! Peers that announced themselves to us (BEP 5 `announce_peer`), bounded and forgotten in time. All are of one family.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::net::{host, is_public};
use crate::wire::id::InfoHash;

/// How long an announcement counts. BEP 5 names no time; clients announce again every 15 to 30 minutes.
const LIFETIME: Duration = Duration::from_secs(45 * 60);

/// Peers kept of one swarm. More than any answer holds, so that samples differ.
const MAX_PER_SWARM: usize = 500;

/// Ports of one public host in one swarm, and peers that it may announce over all swarms: a few clients may share an
/// address, but nobody is to crowd the others out.
const MAX_PORTS: usize = 8;
const MAX_PER_HOST: usize = 500;

/// Peers in one answer: with nodes, token and ids beside them the datagram stays below 1,000 bytes. IPv6 peers take three
/// times the room; below 1,232 bytes nothing is cut in pieces on the way (RFC 8200: 1,280 with headers).
const MAX_IN_ANSWER: usize = 60;
const MAX_IN_ANSWER_V6: usize = 25;

#[derive(Debug)]
pub(super) struct Peers {
    swarms: HashMap<InfoHash, Vec<Peer>>,
    /// Peers of each public host.
    hosts: HashMap<IpAddr, usize>,
    count: usize,
    max: usize,
}

#[derive(Debug)]
struct Peer {
    addr: SocketAddr,
    until: Instant,
}

impl Peers {
    pub(super) fn new(max: usize) -> Self {
        Self { swarms: HashMap::new(), hosts: HashMap::new(), count: 0, max }
    }

    /// Keeps a peer. In a swarm that has enough of its host, or is full, it takes the place of the one among those that
    /// announced longest ago; `false` when the whole table is full, or has enough of its host.
    pub(super) fn announce(&mut self, now: Instant, info_hash: InfoHash, addr: SocketAddr) -> bool {
        let until = now + LIFETIME;
        if let Some(swarm) = self.swarms.get_mut(&info_hash) {
            if let Some(peer) = swarm.iter_mut().find(|peer| peer.addr == addr) {
                peer.until = until;
                return true;
            }
            let same_host = |peer: &&mut Peer| counted(peer.addr).is_some_and(|host| counted(addr) == Some(host));
            if swarm.iter_mut().filter(same_host).count() >= MAX_PORTS {
                let oldest = swarm.iter_mut().filter(same_host).min_by_key(|peer| peer.until);
                *oldest.expect("there are as many") = Peer { addr, until };
                return true;
            }
        }
        let of_host = counted(addr).and_then(|host| self.hosts.get(&host)).copied().unwrap_or_default();
        if of_host >= MAX_PER_HOST {
            return false;
        }
        let swarm = self.swarms.get_mut(&info_hash).filter(|swarm| swarm.len() >= MAX_PER_SWARM);
        if let Some(swarm) = swarm {
            let oldest = swarm.iter_mut().min_by_key(|peer| peer.until).expect("a full swarm has peers");
            let replaced = std::mem::replace(oldest, Peer { addr, until });
            self.uncount(replaced.addr);
        } else if self.count >= self.max {
            return false;
        } else {
            self.count += 1;
            self.swarms.entry(info_hash).or_default().push(Peer { addr, until });
        }
        if let Some(host) = counted(addr) {
            *self.hosts.entry(host).or_default() += 1;
        }
        true
    }

    fn uncount(&mut self, addr: SocketAddr) {
        let Some(host) = counted(addr) else { return };
        if let Some(peers) = self.hosts.get_mut(&host) {
            *peers -= 1;
            if *peers == 0 {
                self.hosts.remove(&host);
            }
        }
    }

    /// Some peers of a swarm, chosen at random.
    pub(super) fn sample(&self, now: Instant, info_hash: &InfoHash, rng: &mut impl Rng) -> Vec<SocketAddr> {
        let swarm = self.swarms.get(info_hash).map_or([].as_slice(), Vec::as_slice);
        let is_v6 = swarm.first().is_some_and(|peer| peer.addr.is_ipv6());
        let most = if is_v6 { MAX_IN_ANSWER_V6 } else { MAX_IN_ANSWER };
        swarm.sample(rng, most).filter(|peer| peer.until > now).map(|peer| peer.addr).collect()
    }

    /// Forgets who has not announced again in time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.swarms.retain(|_, swarm| {
            swarm.retain(|peer| peer.until > now);
            !swarm.is_empty()
        });
        self.count = self.swarms.values().map(Vec::len).sum();
        self.hosts.clear();
        for host in self.swarms.values().flatten().filter_map(|peer| counted(peer.addr)) {
            *self.hosts.entry(host).or_default() += 1;
        }
    }
}

/// The host that a peer is counted for: on loopback and private networks many may share an address.
fn counted(addr: SocketAddr) -> Option<IpAddr> {
    is_public(addr.ip()).then(|| host(addr.ip()))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const SWARM: InfoHash = InfoHash([7; 20]);

    /// Each on a host of its own.
    fn peer(n: u16) -> SocketAddr {
        let [high, low] = n.to_be_bytes();
        ([1, 2, high, low], 6881).into()
    }

    #[test]
    fn peers_are_found_until_they_expire() {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut peers = Peers::new(10);
        assert!(peers.announce(start, SWARM, peer(1)));
        assert!(peers.announce(start + LIFETIME / 2, SWARM, peer(2)));
        assert_eq!(peers.sample(start, &SWARM, &mut rng).len(), 2);
        assert!(peers.sample(start, &InfoHash([8; 20]), &mut rng).is_empty());
        assert_eq!(peers.sample(start + LIFETIME, &SWARM, &mut rng), [peer(2)]);
        peers.expire(start + LIFETIME);
        assert_eq!(peers.count, 1);
        peers.expire(start + 2 * LIFETIME);
        assert_eq!((peers.count, peers.swarms.len()), (0, 0));
    }

    #[test]
    fn the_table_and_each_swarm_are_bounded() {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut peers = Peers::new(MAX_PER_SWARM + 1);
        for n in 1..=MAX_PER_SWARM as u16 + 5 {
            assert!(peers.announce(start + Duration::from_secs(n.into()), SWARM, peer(n)));
        }
        assert_eq!(peers.count, MAX_PER_SWARM);
        assert!(!peers.swarms[&SWARM].iter().any(|p| p.addr == peer(1)), "the oldest made room");
        assert!(peers.announce(start, InfoHash([1; 20]), peer(1)));
        assert!(!peers.announce(start, InfoHash([2; 20]), peer(1)), "the table is full");
        assert!(peers.announce(start, InfoHash([1; 20]), peer(1)), "but who is in it can announce again");
        assert_eq!(peers.sample(start, &SWARM, &mut rng).len(), MAX_IN_ANSWER);
    }
    #[test]
    fn one_host_crowds_nobody_out() {
        let start = Instant::now();
        let mut peers = Peers::new(10 * MAX_PER_HOST);
        assert!(peers.announce(start, SWARM, peer(1)));
        let port = |n: u16| SocketAddr::from(([9, 9, 9, 9], n));
        for n in 1..=1000 {
            assert!(peers.announce(start + Duration::from_secs(n.into()), SWARM, port(n)));
        }
        assert_eq!(peers.swarms[&SWARM].len(), 1 + MAX_PORTS);
        assert!(peers.swarms[&SWARM].iter().any(|known| known.addr == peer(1)));
        assert!(peers.swarms[&SWARM].iter().any(|known| known.addr == port(1000)), "its newest stay");
        let swarm = |n: u16| InfoHash([n.to_be_bytes().as_slice(), &[0; 18]].concat().try_into().unwrap());
        let others = (1..=1000).filter(|n| peers.announce(start, swarm(*n), port(1)));
        assert_eq!(others.count(), MAX_PER_HOST - MAX_PORTS);
        assert!(peers.announce(start, swarm(1001), peer(2)));
        assert_eq!(peers.hosts.values().sum::<usize>(), peers.count);
        let local = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        assert!(
            (1..=100).all(|n| peers.announce(start, swarm(2000), local(n))) && peers.swarms[&swarm(2000)].len() == 100
        );
        peers.expire(start + 2 * LIFETIME);
        assert_eq!((peers.count, peers.hosts.len()), (0, 0));
    }
}
