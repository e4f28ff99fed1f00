//! Peers that announced themselves to us (BEP 5 `announce_peer`), bounded and forgotten in time. All are of one family.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::wire::id::InfoHash;

/// How long an announcement counts. BEP 5 names no time; clients announce again every 15 to 30 minutes.
const LIFETIME: Duration = Duration::from_secs(45 * 60);

/// Peers kept of one swarm. More than any answer holds, so that samples differ.
const MAX_PER_SWARM: usize = 500;

/// Peers in one answer: with nodes, token and ids beside them the datagram stays below 1,000 bytes. IPv6 peers take three
/// times the room; below 1,232 bytes nothing is cut in pieces on the way (RFC 8200: 1,280 with headers).
const MAX_IN_ANSWER: usize = 60;
const MAX_IN_ANSWER_V6: usize = 25;

#[derive(Debug)]
pub(super) struct Peers {
    swarms: HashMap<InfoHash, Vec<Peer>>,
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
        Self { swarms: HashMap::new(), count: 0, max }
    }

    /// Keeps a peer. In a full swarm it takes the place of the one that announced longest ago; `false` when the whole
    /// table is full.
    pub(super) fn announce(&mut self, now: Instant, info_hash: InfoHash, addr: SocketAddr) -> bool {
        let until = now + LIFETIME;
        if let Some(swarm) = self.swarms.get_mut(&info_hash) {
            if let Some(peer) = swarm.iter_mut().find(|peer| peer.addr == addr) {
                peer.until = until;
                return true;
            }
            if swarm.len() >= MAX_PER_SWARM {
                let oldest = swarm.iter_mut().min_by_key(|peer| peer.until).expect("a full swarm has peers");
                *oldest = Peer { addr, until };
                return true;
            }
        }
        if self.count >= self.max {
            return false;
        }
        self.count += 1;
        self.swarms.entry(info_hash).or_default().push(Peer { addr, until });
        true
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
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const SWARM: InfoHash = InfoHash([7; 20]);

    fn peer(n: u16) -> SocketAddr {
        ([1, 2, 3, 4], n).into()
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
}
