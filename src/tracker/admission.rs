//! How many WebSockets may be open: in all, and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{config, metrics};

#[derive(Debug)]
pub(super) struct Admission {
    max: usize,
    max_per_address: usize,
    // A std mutex: it is held for a map lookup, when a socket opens and when it closes.
    open: Mutex<Open>,
    metrics: Arc<metrics::Tracker>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The right to one open socket, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

impl Admission {
    pub(super) fn new(settings: &config::Tracker, metrics: Arc<metrics::Tracker>) -> Arc<Self> {
        Arc::new(Self {
            max: settings.max_sockets,
            max_per_address: settings.max_sockets_per_address,
            open: Mutex::default(),
            metrics,
        })
    }

    /// Lets a socket from `ip` in, if there is room.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Option<Permit> {
        let address = counted_address(ip);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let from_here = address.and_then(|address| open.by_address.get(&address)).copied().unwrap_or(0);
        let limit = match () {
            () if open.all >= self.max => "total",
            () if from_here >= self.max_per_address => "address",
            () => {
                open.all += 1;
                if let Some(address) = address {
                    open.by_address.insert(address, from_here + 1);
                }
                self.metrics.sockets.inc();
                return Some(Permit { admission: self.clone(), address });
            }
        };
        self.metrics.refused.with_label_values(&[limit]).inc();
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
        self.admission.metrics.sockets.dec();
    }
}

/// The address that sockets are counted by: an IPv6 host has a whole /64 to itself (RFC 6177), and loopback, which is a
/// proxy of the operator's own, is not counted.
fn counted_address(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        ip if ip.is_loopback() => None,
        IpAddr::V4(_) => Some(ip),
        IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into()),
    }
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
            let permit = admission.admit(ip.parse().unwrap());
            assert_eq!(permit.is_some(), admitted, "{ip}");
            held.extend(permit);
        }
        assert_eq!(metrics.sockets.get(), 5);
        let refused = |limit| metrics.refused.with_label_values(&[limit]).get();
        assert_eq!((refused("address"), refused("total")), (2, 1));

        held.clear();
        assert_eq!(metrics.sockets.get(), 0);
        assert!(admission.open.lock().unwrap().by_address.is_empty());
        let loopback: Vec<_> = (0..5).filter_map(|_| admission.admit("::1".parse().unwrap())).collect();
        assert_eq!(loopback.len(), 5, "a proxy on this machine is not one client");
    }
}
