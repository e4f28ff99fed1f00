//! How much of the DHT each address may use. Pure: time is an argument.
//!
//! A bucket for each address: one that has not asked for a while has a full one, and is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::host;
use crate::rate::{Bucket, Rate};

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

/// A bucket for each address.
#[derive(Debug)]
pub(super) struct Quota {
    rate: Rate,
    buckets: HashMap<IpAddr, Bucket>,
    swept: Option<Instant>,
}

impl Quota {
    /// `per_minute` in the long run, `burst` at once, one at least. `per_minute` 0 for no limit.
    pub(super) fn new(per_minute: u32, burst: u32) -> Self {
        let rate = Rate::in_the_time(per_minute, Duration::from_secs(60), burst.max(1));
        Self { rate, buckets: HashMap::new(), swept: None }
    }

    /// Takes one out of the asker's bucket, if there is one.
    pub(super) fn take(&mut self, asker: Asker, now: Instant) -> bool {
        let Some(address) = asker.counted() else { return true };
        if self.rate == Rate::UNLIMITED {
            return true;
        }
        if !self.buckets.contains_key(&address) && !self.has_room(now) {
            return false;
        }
        self.buckets.entry(address).or_default().take(self.rate, now).is_ok()
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let may_sweep = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        if self.buckets.len() >= CAPACITY && may_sweep {
            self.swept = Some(now);
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        self.buckets.len() < CAPACITY
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
    fn zero_a_minute_is_no_limit() {
        let (mut quota, start) = (Quota::new(0, 3), Instant::now());
        assert!((0..10_000).all(|_| quota.take(asker("192.0.2.1"), start)));
        assert!(quota.buckets.is_empty(), "nobody is counted");
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
        assert_eq!(quota.buckets.len(), 1);
    }
}
