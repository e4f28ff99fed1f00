//! How many peers one address has sent, how many pages there are being connected to, and which addresses may send none,
//! because a peer there lied. Pure; time is handed in.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::door::Ending;
use super::policy::Refusal;
use crate::metrics;
use crate::net::host;

/// How long an address is shut out. Most are lent for longer, and a broken disk at the other end takes a day to notice.
const BAN: Duration = Duration::from_secs(3600);

/// Addresses shut out at once. Past it the one that is shut out for longest goes free.
const MAX_BANS: usize = 10_000;

/// Connections to pages of one address that may be opened at once: an eighth of all, so that no address takes them from
/// the others. One takes half a second with a page that means it, and [`super::rtc::OPEN_LIMIT`] with one that does not.
const MAX_ATTEMPTS: usize = 16;

/// The table. A std mutex: held for a look-up.
#[derive(Debug)]
pub(super) struct Visitors {
    max_per_address: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    present: HashMap<IpAddr, usize>,
    attempts: HashMap<IpAddr, usize>,
    banned: HashMap<IpAddr, Instant>,
}

impl Visitors {
    pub(super) fn new(max_per_address: usize) -> Arc<Self> {
        Arc::new(Self { max_per_address, table: Mutex::default() })
    }

    /// Lets in a peer that came by itself; it is counted until the presence is dropped.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr, now: Instant) -> Result<Presence, Refusal> {
        if self.is_banned(ip, now) {
            return Err(Refusal::Banned);
        }
        self.count(ip, Counted::Present, self.max_per_address)
    }

    /// Lets a connection to a page be opened, whose offer came from `from`; it is counted until the presence is dropped.
    /// Offers from loopback are not counted: they come through a proxy of the operator's own.
    pub(super) fn attempt(self: &Arc<Self>, from: IpAddr) -> Result<Presence, Refusal> {
        let most = if from.to_canonical().is_loopback() { usize::MAX } else { MAX_ATTEMPTS };
        self.count(from, Counted::Attempt, most)
    }

    fn count(self: &Arc<Self>, ip: IpAddr, counted: Counted, most: usize) -> Result<Presence, Refusal> {
        let ip = host(ip);
        let mut table = self.table();
        let count = table.counts(counted).entry(ip).or_default();
        if *count >= most {
            return Err(Refusal::AddressFull);
        }
        *count += 1;
        drop(table);
        Ok(Presence { visitors: self.clone(), ip, counted })
    }

    /// Whether a peer there lied.
    pub(super) fn is_banned(&self, ip: IpAddr, now: Instant) -> bool {
        self.table().banned.get(&host(ip)).is_some_and(|until| *until > now)
    }

    /// Draws the conclusion from how a peer's connection ended.
    pub(super) fn judge(&self, ip: IpAddr, ending: &Ending, metrics: &metrics::Bridge) {
        if ending.is_lie() {
            self.shut_out(ip, ending, metrics);
        }
    }

    /// Shuts an address out, if it is not yet. Who is in stays.
    pub(super) fn shut_out(&self, ip: IpAddr, reason: impl fmt::Display, metrics: &metrics::Bridge) {
        let now = Instant::now();
        if !self.is_banned(ip, now) {
            tracing::info!(%reason, "shutting out an address");
            metrics.banned.inc();
            self.ban(ip, now);
        }
    }

    fn ban(&self, ip: IpAddr, now: Instant) {
        let mut table = self.table();
        table.banned.retain(|_, until| *until > now);
        if table.banned.len() >= MAX_BANS {
            let oldest = table.banned.iter().min_by_key(|(_, until)| **until).map(|(ip, _)| *ip);
            oldest.map(|ip| table.banned.remove(&ip));
        }
        table.banned.insert(host(ip), now + BAN);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn counts(&mut self, counted: Counted) -> &mut HashMap<IpAddr, usize> {
        match counted {
            Counted::Present => &mut self.present,
            Counted::Attempt => &mut self.attempts,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Counted {
    Present,
    Attempt,
}

/// One peer that came by itself, or is about to.
#[derive(Debug)]
pub(super) struct Presence {
    visitors: Arc<Visitors>,
    ip: IpAddr,
    counted: Counted,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut table = self.visitors.table();
        let counts = table.counts(self.counted);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_bounded_and_liars_shut_out() {
        let visitors = Visitors::new(2);
        let now = Instant::now();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = visitors.enter(ip("2a00::1"), now).unwrap();
        let second = visitors.enter(ip("2a00::ffff"), now).unwrap();
        assert_eq!(visitors.enter(ip("2a00::2"), now).err(), Some(Refusal::AddressFull));
        assert!(visitors.enter(ip("2a00:0:0:1::2"), now).is_ok());
        drop(first);
        let third = visitors.enter(ip("2a00::1"), now).unwrap();
        visitors.ban(ip("::ffff:192.0.2.1"), now);
        assert_eq!(visitors.enter(ip("192.0.2.1"), now).err(), Some(Refusal::Banned));
        assert!(visitors.enter(ip("192.0.2.1"), now + BAN).is_ok());
        drop((second, third));
        let attempts = |from: &str| (0..100).map_while(|_| visitors.attempt(ip(from)).ok()).collect::<Vec<_>>();
        let held = attempts("2a00::1");
        assert_eq!((held.len(), attempts("2a00::2").len(), attempts("2a00:0:0:1::1").len()), (MAX_ATTEMPTS, 0, 16));
        assert_eq!(attempts("::ffff:127.0.0.1").len(), 100, "a proxy on this machine is not one client");
        drop(held);
        assert!(visitors.table().present.is_empty() && visitors.table().attempts.is_empty());
        for n in 0..MAX_BANS as u32 + 1 {
            visitors.ban(IpAddr::from((n + (10 << 24)).to_be_bytes()), now + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(visitors.table().banned.len(), MAX_BANS);
    }
}
