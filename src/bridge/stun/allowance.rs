//! How many answers an address may draw. Pure: time is an argument.
//!
//! Anybody can forge the source of a datagram, so what is sent to an address that has proved nothing is bounded, whatever
//! seems to come from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::host;

/// In the long run, one answer in this time: some kilobyte a second at most.
const INTERVAL: Duration = Duration::from_millis(50);

/// How many may come at once. A page makes five to ten connections at a time, and asks from each network of its machine.
const BURST: u32 = 200;

/// Addresses (IPv6: /64 networks) remembered. With more at once nobody new is answered: that is an attack.
const MAX_ADDRESSES: usize = 20_000;

/// What each address has left, by the generic cell rate algorithm: the time at which it will have all again.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    full_at: HashMap<IpAddr, Instant>,
}

impl Allowance {
    /// Takes one answer off what `ip` may have; whether there was one.
    pub(super) fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
        let ip = host(ip);
        if self.full_at.len() >= MAX_ADDRESSES && !self.full_at.contains_key(&ip) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let full_at = self.full_at.get(&ip).copied().unwrap_or(now).max(now) + INTERVAL;
        let fits = full_at <= now + INTERVAL * BURST;
        if fits {
            self.full_at.insert(ip, full_at);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(allowance: &mut Allowance, ip: &str, now: Instant, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(allowance.take(ip.parse().unwrap(), now))).sum()
    }

    #[test]
    fn bursts_are_answered_and_floods_are_not() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        assert_eq!(answered(&mut allowance, "192.0.2.1", start, 1000), BURST);
        assert_eq!(answered(&mut allowance, "192.0.2.2", start, 3), 3, "others have their own");
        assert_eq!(answered(&mut allowance, "192.0.2.1", start + INTERVAL * 7, 1000), 7);
        assert_eq!(answered(&mut allowance, "2001:db8::1", start, 1000), BURST);
        assert_eq!(answered(&mut allowance, "2001:db8::2", start, 1000), 0, "one network");
        assert_eq!(answered(&mut allowance, "2001:db8:0:1::2", start, 1), 1);
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        for n in 0..MAX_ADDRESSES as u32 {
            assert!(allowance.take(IpAddr::from(n.to_be_bytes()), start));
        }
        assert!(!allowance.take("192.0.2.1".parse().unwrap(), start));
        assert!(allowance.take("192.0.2.1".parse().unwrap(), start + INTERVAL));
        assert_eq!(allowance.full_at.len(), 1);
    }
}
