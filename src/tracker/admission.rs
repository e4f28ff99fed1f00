//! What one address may do: how many WebSockets it may open, how many peers they may bring, how often it may announce.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::table::lifetime;
use crate::net::host;
use crate::rate::{Bucket, Rate};
use crate::{config, metrics};

/// Addresses remembered before those are looked for that need not be. Some 200 bytes each.
const SWEEP_AT_LEAST: usize = 4_096;

#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    // A std mutex: it is held for a map look-up, and now and then for a sweep of the map.
    state: Mutex<State>,
    metrics: Arc<metrics::Tracker>,
}

#[derive(Debug)]
struct Limits {
    sockets: usize,
    sockets_per_address: usize,
    peers_per_address: usize,
    announces: Rate,
    offers: Rate,
    natives: Rate,
}

#[derive(Debug, Default)]
struct State {
    sockets: usize,
    addresses: HashMap<IpAddr, Address>,
    /// How many addresses there may be before the next sweep: twice what was left after the last, so that sweeping costs
    /// each newcomer the same.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Address {
    sockets: usize,
    /// Web peers that its sockets bring.
    peers: usize,
    announces: Bucket,
    offers: Bucket,
    /// Native peers that it may still add.
    natives: Bucket,
}

impl Admission {
    pub(super) fn new(settings: &config::Tracker, metrics: Arc<metrics::Tracker>) -> Self {
        let limits = Limits {
            sockets: settings.max_sockets,
            sockets_per_address: settings.max_sockets_per_address,
            peers_per_address: settings.max_peers_per_address,
            announces: per_second(settings.max_announces_per_second),
            offers: per_second(settings.max_offers_per_second),
            natives: anew_in(lifetime(settings.native_interval), settings.max_peers_per_address),
        };
        Self { limits, state: Mutex::default(), metrics }
    }

    /// Lets a socket from `ip` in, if there is room. What is let in must be [released](Self::release).
    pub(super) fn admit(&self, ip: IpAddr) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let all = state.sockets;
        let address = self.address(&mut state, now, ip);
        let limit = match address.as_ref().map_or(0, |address| address.sockets) {
            _ if all >= self.limits.sockets => "total",
            here if here >= self.limits.sockets_per_address => "address",
            _ => {
                if let Some(address) = address {
                    address.sockets += 1;
                }
                state.sockets += 1;
                self.metrics.sockets.inc();
                return true;
            }
        };
        self.metrics.refused.with_label_values(&[limit]).inc();
        false
    }

    /// A socket from `ip` that was let in is closed.
    pub(super) fn release(&self, ip: IpAddr) {
        let mut state = self.state();
        state.sockets -= 1;
        if let Some(address) = counted_address(ip).and_then(|key| state.addresses.get_mut(&key)) {
            address.sockets -= 1;
        }
        self.metrics.sockets.dec();
    }

    /// Whether `ip` may announce again already.
    pub(super) fn announce(&self, now: Instant, ip: IpAddr) -> bool {
        let mut state = self.state();
        let address = self.address(&mut state, now, ip);
        address.is_none_or(|address| address.announces.take(self.limits.announces, now).is_ok())
    }

    /// How many of so many offers `ip` may make now.
    pub(super) fn offers(&self, now: Instant, ip: IpAddr, wanted: usize) -> usize {
        let mut state = self.state();
        let address = self.address(&mut state, now, ip);
        address.map_or(wanted, |address| address.offers.take_up_to(wanted, self.limits.offers, now))
    }

    /// Counts one more web peer from `ip`, if it may bring one.
    pub(super) fn bring(&self, now: Instant, ip: IpAddr) -> bool {
        let mut state = self.state();
        let Some(address) = self.address(&mut state, now, ip) else { return true };
        let room = address.peers < self.limits.peers_per_address;
        address.peers += usize::from(room);
        room
    }

    /// Whether `ip` may add a native peer now: as many at once as web peers, and as many again in the time in which those
    /// are forgotten if they are not announced again. So no more than twice the limit are ever there, and nobody need
    /// count those that go.
    pub(super) fn bring_native(&self, now: Instant, ip: IpAddr) -> bool {
        let mut state = self.state();
        let address = self.address(&mut state, now, ip);
        address.is_none_or(|address| address.natives.take(self.limits.natives, now).is_ok())
    }

    /// Web peers from `ip` are gone.
    pub(super) fn take_back(&self, ip: IpAddr, peers: usize) {
        let mut state = self.state();
        if let Some(address) = counted_address(ip).and_then(|key| state.addresses.get_mut(&key)) {
            address.peers -= peers;
        }
    }

    /// What is known of an address; nothing of those that are not counted.
    fn address<'a>(&self, state: &'a mut State, now: Instant, ip: IpAddr) -> Option<&'a mut Address> {
        let key = counted_address(ip)?;
        if state.addresses.len() >= state.sweep_at.max(SWEEP_AT_LEAST) && !state.addresses.contains_key(&key) {
            state.addresses.retain(|_, address| {
                address.sockets + address.peers > 0
                    || !address.announces.is_full(now)
                    || !address.offers.is_full(now)
                    || !address.natives.is_full(now)
            });
            state.sweep_at = 2 * state.addresses.len();
        }
        Some(state.addresses.entry(key).or_default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds' worth that may pass at once: a page with a hundred torrents announces them all when it is opened.
const BURST_SECONDS: u32 = 20;

/// Zero for no limit.
fn per_second(amount: u32) -> Rate {
    Rate::in_the_time(amount, Duration::from_secs(1), amount.saturating_mul(BURST_SECONDS))
}

/// So many at once, and as many again in the course of `time`.
fn anew_in(time: Duration, amount: usize) -> Rate {
    let burst = u32::try_from(amount).unwrap_or(u32::MAX);
    Rate { burst, every: time / burst.max(1) }
}

/// The address that limits count by: each host's own, and loopback, which is a proxy of
/// the operator's own, is not counted.
fn counted_address(ip: IpAddr) -> Option<IpAddr> {
    (!ip.is_loopback()).then(|| host(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_by_address_and_in_all() {
        let settings = config::Tracker { max_sockets: 5, max_sockets_per_address: 2, ..config::Tracker::default() };
        let metrics = Arc::new(metrics::Tracker::detached());
        let admission = Admission::new(&settings, metrics.clone());
        let mut held = Vec::new();
        let table = [
            ("1.1.1.1", true),
            ("1.1.1.1", true),
            ("1.1.1.1", false),
            ("2001:db8::1", true),
            ("2001:db8::ffff:1", true),
            ("2001:db8::2", false),
            ("127.0.0.1", true),
            ("2.2.2.2", false),
        ];
        for (ip, admitted) in table {
            let ip = ip.parse().unwrap();
            assert_eq!(admission.admit(ip), admitted, "{ip}");
            held.extend(admitted.then_some(ip));
        }
        assert_eq!(metrics.sockets.get(), 5);
        let refused = |limit| metrics.refused.with_label_values(&[limit]).get();
        assert_eq!((refused("address"), refused("total")), (2, 1));

        held.into_iter().for_each(|ip| admission.release(ip));
        assert_eq!(metrics.sockets.get(), 0);
        assert!(admission.state().addresses.values().all(|address| address.sockets == 0));
        let loopback = (0..5).filter(|_| admission.admit("::1".parse().unwrap()));
        assert_eq!(loopback.count(), 5, "a proxy on this machine is not one client");
    }

    #[test]
    fn what_an_address_may_do() {
        let settings = config::Tracker {
            max_peers_per_address: 2,
            max_announces_per_second: 1,
            max_offers_per_second: 5,
            ..config::Tracker::default()
        };
        let admission = Admission::new(&settings, Arc::new(metrics::Tracker::detached()));
        let now = Instant::now();
        let [a, b, own] = ["1.1.1.1", "2.2.2.2", "127.0.0.1"].map(|ip| ip.parse().unwrap());
        assert_eq!((0..30).filter(|_| admission.announce(now, a)).count(), 20);
        assert!(admission.announce(now, b) && admission.announce(now + Duration::from_secs(1), a));
        assert_eq!([60, 60, 60].map(|wanted| admission.offers(now, a, wanted)), [60, 40, 0]);
        assert_eq!([a, a, a, b].map(|ip| admission.bring(now, ip)), [true, true, false, true]);
        assert_eq!([a, a, a, b].map(|ip| admission.bring_native(now, ip)), [true, true, false, true]);
        let half = lifetime(settings.native_interval) / 2;
        assert_eq!([a, a].map(|ip| admission.bring_native(now + half, ip)), [true, false]);
        admission.take_back(a, 2);
        assert!(admission.bring(now, a));
        assert!((0..1_000).all(|_| admission.announce(now, own) && admission.bring_native(now, own)));
    }

    #[test]
    fn zero_is_no_limit_for_what_is_counted_by_the_second() {
        let settings =
            config::Tracker { max_announces_per_second: 0, max_offers_per_second: 0, ..config::Tracker::default() };
        let admission = Admission::new(&settings, Arc::new(metrics::Tracker::detached()));
        let (now, ip) = (Instant::now(), "1.1.1.1".parse().unwrap());
        assert!((0..10_000).all(|_| admission.announce(now, ip)));
        assert_eq!(admission.offers(now, ip, 1_000_000), 1_000_000);
    }

    #[test]
    fn addresses_are_forgotten_when_nothing_is_known_of_them() {
        let admission = Admission::new(&config::Tracker::default(), Arc::new(metrics::Tracker::detached()));
        let now = Instant::now();
        assert!(admission.admit("9.9.9.9".parse().unwrap()));
        for round in 0..4_u32 {
            for n in 0..SWEEP_AT_LEAST as u32 {
                let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + round * 0x1_0000 + n);
                assert!(admission.announce(now + Duration::from_secs(60) * round, ip.into()));
            }
        }
        let state = admission.state();
        assert!(state.addresses.len() <= 2 * SWEEP_AT_LEAST, "{}", state.addresses.len());
        assert!(state.addresses.contains_key(&"9.9.9.9".parse::<IpAddr>().unwrap()), "it has a socket open");
    }
}
