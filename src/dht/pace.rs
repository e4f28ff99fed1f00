//! How many packets one address may get from us, and have answered by us.
//!
//! Both are the same bucket (GCRA): a number at once, then a steady rate. Public nodes are told apart by IP address, as
//! libtorrent does it, or by IPv6 /64; on loopback and private networks, where many nodes share one, by socket address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::net::{host, is_public};

/// Addresses remembered at once. An entry lives for seconds, so this many are there only in an attack.
const MAX_ADDRESSES: usize = 20_000;

/// Addresses below which it is not worth looking for those that have paid.
const FEW_ADDRESSES: usize = 64;

/// A limit per address.
#[derive(Debug)]
pub(super) struct Pace {
    /// Time between packets at the steady rate.
    interval: Duration,
    /// How far ahead of the steady rate an address may be.
    tolerance: Duration,
    /// When each address will have paid for everything it had.
    paid: HashMap<SocketAddr, Instant>,
    pruned: Instant,
    /// The number of addresses at which to look again for those that have paid.
    prune_at: usize,
}

impl Pace {
    /// What we send to one node. libtorrent bans for 300 s whoever sends 50 packets within 10 s (`dht_block_ratelimit`,
    /// 5 a second). 12 at once and 3 a second after that are 42.
    pub(super) fn outgoing(now: Instant) -> Self {
        Self::new(now, 12, 3)
    }

    /// What we answer to one node: well above what an honest one asks, and too little to be worth reflecting off us.
    pub(super) fn incoming(now: Instant) -> Self {
        Self::new(now, 60, 20)
    }

    fn new(now: Instant, at_once: u32, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self {
            interval,
            tolerance: interval * (at_once - 1),
            paid: HashMap::new(),
            pruned: now,
            prune_at: FEW_ADDRESSES,
        }
    }

    /// Whether a packet may pass now; it is counted if so.
    pub(super) fn admit(&mut self, now: Instant, addr: SocketAddr) -> bool {
        self.reserve(now, addr, Duration::ZERO).is_some()
    }

    /// When the next packet may pass, unless that is more than `patience` away; it is counted then.
    pub(super) fn reserve(&mut self, now: Instant, addr: SocketAddr, patience: Duration) -> Option<Instant> {
        let addr = party(addr);
        if !self.has_room(now, &addr) {
            return None;
        }
        let paid = self.paid.get(&addr).map_or(now, |paid| *paid.max(&now));
        let at = now.max(now + paid.saturating_duration_since(now + self.tolerance));
        if at - now > patience {
            return None;
        }
        self.paid.insert(addr, paid + self.interval);
        Some(at)
    }

    /// Whether a packet would have to wait.
    pub(super) fn is_busy(&self, now: Instant, addr: SocketAddr) -> bool {
        self.paid.get(&party(addr)).is_some_and(|paid| *paid > now + self.tolerance)
    }

    /// Takes back what was reserved and not used.
    pub(super) fn refund(&mut self, addr: SocketAddr) {
        if let Some(paid) = self.paid.get_mut(&party(addr)) {
            *paid -= self.interval;
        }
    }

    /// Counts a packet that passes whatever the limit says. Such packets take the burst, but do not run up a debt: one
    /// packet of the other kind is never further away than the steady rate has it.
    pub(super) fn charge(&mut self, now: Instant, addr: SocketAddr) {
        if let Some(paid) = self.paid.get_mut(&party(addr)) {
            let most = (*paid).max(now + self.tolerance + self.interval);
            *paid = ((*paid).max(now) + self.interval).min(most);
        } else if self.has_room(now, &party(addr)) {
            self.paid.insert(party(addr), now + self.interval);
        }
    }

    /// Whether `addr` is known or can be added. Forgets who has paid whenever there are twice as many addresses as were
    /// left the last time, and when there are too many, once a second.
    fn has_room(&mut self, now: Instant, addr: &SocketAddr) -> bool {
        if self.paid.len() < self.prune_at || self.paid.contains_key(addr) {
            return true;
        }
        if self.paid.len() < MAX_ADDRESSES || now.duration_since(self.pruned) >= Duration::from_secs(1) {
            self.pruned = now;
            self.paid.retain(|_, paid| *paid > now);
            self.prune_at = (2 * self.paid.len()).clamp(FEW_ADDRESSES, MAX_ADDRESSES);
            self.paid.shrink_to(self.prune_at);
        }
        self.paid.len() < MAX_ADDRESSES
    }
}

fn party(addr: SocketAddr) -> SocketAddr {
    if is_public(addr.ip()) { SocketAddr::new(host(addr.ip()), 0) } else { addr }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_the_steady_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 4, 2);
        let node = addr("1.2.3.4:1");
        let passed = (0..10).filter(|_| !pace.is_busy(start, node) && pace.admit(start, node)).count();
        assert_eq!(passed, 4);
        assert!(pace.is_busy(start + SECOND / 2 - SECOND / 100, node) && !pace.is_busy(start + SECOND / 2, node));
        let later = (0..100).filter(|tenth| pace.admit(start + SECOND * *tenth / 10, node)).count();
        assert_eq!(later, 19, "two a second over ten seconds");
    }

    /// What libtorrent counts: packets within ten seconds of the first.
    #[test]
    fn no_node_of_libtorrent_bans_us() {
        let start = Instant::now();
        let mut pace = Pace::outgoing(start);
        let sent = (0..10_000).filter(|ms| pace.admit(start + Duration::from_millis(*ms), addr("1.2.3.4:1"))).count();
        assert!((40..50).contains(&sent), "{sent}");
    }

    #[test]
    fn waiting_is_in_line_and_bounded() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 1, 1);
        let at = |pace: &mut Pace| pace.reserve(start, addr("1.2.3.4:1"), 2 * SECOND).map(|at| at - start);
        assert_eq!(at(&mut pace), Some(Duration::ZERO));
        assert_eq!(at(&mut pace), Some(SECOND));
        assert_eq!(at(&mut pace), Some(2 * SECOND));
        assert_eq!(at(&mut pace), None);
    }

    #[test]
    fn a_place_given_back_can_be_taken() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 1, 1);
        let node = addr("1.2.3.4:1");
        assert!(pace.admit(start, node) && !pace.admit(start, node));
        assert_eq!(pace.reserve(start, node, 2 * SECOND), Some(start + SECOND));
        pace.refund(node);
        assert_eq!(pace.reserve(start, node, 2 * SECOND), Some(start + SECOND));
    }

    #[test]
    fn charges_take_the_burst_and_leave_the_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 4, 1);
        (0..100).for_each(|_| pace.charge(start, addr("1.2.3.4:1")));
        assert!(!pace.admit(start, addr("1.2.3.4:1")));
        assert!(pace.admit(start + SECOND, addr("1.2.3.4:1")));
    }

    #[test]
    fn public_nodes_are_told_apart_by_address_and_local_ones_by_port() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 1, 1);
        assert!(pace.admit(start, addr("1.2.3.4:1")) && !pace.admit(start, addr("1.2.3.4:2")));
        assert!(pace.admit(start, addr("[2a00::1]:1")) && !pace.admit(start, addr("[2a00::2]:1")));
        assert!(pace.admit(start, addr("[2a00:0:0:1::1]:1")), "another network");
        assert!(pace.admit(start, addr("[::1]:1")) && pace.admit(start, addr("[::1]:2")));
        assert!(pace.admit(start, addr("127.0.0.1:1")) && pace.admit(start, addr("127.0.0.1:2")));
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 2, 1);
        let everybody = |n: u32| SocketAddr::from(((0x0800_0000 + n).to_be_bytes(), 1));
        let passed = (0..MAX_ADDRESSES as u32 + 10).filter(|n| pace.admit(start, everybody(*n))).count();
        assert_eq!(passed, MAX_ADDRESSES);
        assert!(pace.admit(start + 2 * SECOND, everybody(u32::MAX - 0x0900_0000)), "room again once they have paid");
        assert_eq!(pace.paid.len(), 1);
        for second in 0..1000 {
            assert!(pace.admit(start + (3 + second) * SECOND, everybody(second)));
        }
        assert!(pace.paid.len() <= FEW_ADDRESSES, "those of long ago are forgotten long before the limit");
    }
}
