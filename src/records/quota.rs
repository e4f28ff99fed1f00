//! How much of the DHT each address may use. Pure: time is an argument.
//!
//! A token bucket per address, kept as the one moment at which it will be full again: an address that has not asked for a
//! while costs nothing, and is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::host;

/// Most addresses remembered, some 60 bytes each. Those whose bucket is full again make room; if there are none, newcomers
/// are refused.
const CAPACITY: usize = 65_536;

/// How often room may be made: it goes through the whole table.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asker {
    /// This server itself, or its operator: no quota.
    #[default]
    Us,
    /// Somebody at this address. Loopback is a proxy of one's own, and has no quota either.
    Address(IpAddr),
}

impl Asker {
    /// The address that limits count for (IPv6: the /64); `None` for whoever has no limits.
    #[must_use]
    pub fn counted(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) if !address.is_loopback() => Some(host(address)),
            Self::Us | Self::Address(_) => None,
        }
    }
}

/// Buckets that hold `burst` and gain one every `refill`.
#[derive(Debug)]
pub(super) struct Quota {
    refill: Duration,
    burst: u32,
    full_at: HashMap<IpAddr, Instant>,
    swept: Option<Instant>,
}

impl Quota {
    /// `per_minute` in the long run, `burst` at once.
    pub(super) fn new(per_minute: u32, burst: u32) -> Self {
        let refill = Duration::from_secs(60) / per_minute.max(1);
        Self { refill, burst: burst.max(1), full_at: HashMap::new(), swept: None }
    }

    /// Takes one out of the asker's bucket, if there is one.
    pub(super) fn take(&mut self, asker: Asker, now: Instant) -> bool {
        let Some(address) = asker.counted() else { return true };
        if !self.full_at.contains_key(&address) && !self.has_room(now) {
            return false;
        }
        let full_at = self.full_at.get(&address).copied().unwrap_or(now).max(now) + self.refill;
        if full_at > now + self.refill * self.burst {
            return false;
        }
        self.full_at.insert(address, full_at);
        true
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let may_sweep = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if self.full_at.len() >= CAPACITY && may_sweep {
            self.swept = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < CAPACITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(text: &str) -> Asker {
        Asker::Address(text.parse().unwrap())
    }

    #[test]
    fn a_burst_then_a_steady_trickle_for_each_address() {
        let (mut quota, start) = (Quota::new(60, 3), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let takes = |quota: &mut Quota, who, ms| (0..10).filter(|_| quota.take(asker(who), at(ms))).count();
        assert_eq!(takes(&mut quota, "192.0.2.1", 0), 3);
        assert_eq!(takes(&mut quota, "192.0.2.2", 0), 3, "each has its own");
        assert_eq!(takes(&mut quota, "2001:db8::1", 0), 3);
        assert_eq!(takes(&mut quota, "2001:db8::2", 0), 0, "of one household");
        assert_eq!(takes(&mut quota, "192.0.2.1", 900), 0);
        assert_eq!(takes(&mut quota, "192.0.2.1", 1000), 1);
        assert_eq!(takes(&mut quota, "192.0.2.1", 60_000), 3, "never more than the burst");
        assert_eq!(takes(&mut quota, "127.0.0.1", 0), 10);
        assert!((0..10).all(|_| quota.take(Asker::Us, start)));
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut quota, start) = (Quota::new(60, 3), Instant::now());
        let address = |n: usize| Asker::Address(IpAddr::from((n as u32 + (11 << 24)).to_be_bytes()));
        assert!((0..CAPACITY).all(|n| quota.take(address(n), start)));
        assert!(!quota.take(address(CAPACITY), start));
        assert!(!quota.take(address(CAPACITY), start + Duration::from_millis(500)));
        assert!(
            quota.take(address(CAPACITY), start + Duration::from_millis(1500)),
            "the others' buckets are full again"
        );
        assert_eq!(quota.full_at.len(), 1);
    }
}
