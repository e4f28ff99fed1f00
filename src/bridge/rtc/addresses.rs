//! The addresses by which others reach the shared port: what our descriptions list as candidates.

use std::net::{IpAddr, SocketAddr};

/// Most addresses listed. A browser checks each one against each of its own.
const MAX_ADDRESSES: usize = 8;

/// What to list for a socket bound to `local`, best first.
///
/// `public` replaces the machine's own addresses: they are what a NAT in front of it forwards. A socket bound to one
/// address has that one; a socket bound to all has those of `interfaces`, with loopback last, for browsers on this machine.
pub(super) fn reachable(local: SocketAddr, public: &[IpAddr], interfaces: &[IpAddr]) -> Vec<SocketAddr> {
    let mut found: Vec<IpAddr> = if !public.is_empty() {
        public.to_vec()
    } else if !local.ip().is_unspecified() {
        vec![local.ip()]
    } else {
        // The IPv6 wildcard takes IPv4 as well (`mux::bind`).
        let mut usable: Vec<_> = interfaces
            .iter()
            .copied()
            .filter(|ip| local.is_ipv6() || ip.is_ipv4())
            .filter(|ip| rank(ip).is_some())
            .collect();
        usable.sort_by_key(|ip| (rank(ip), *ip));
        usable
    };
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found.into_iter().map(|ip| SocketAddr::new(ip, local.port())).collect()
}

/// The machine's own addresses now; none if they cannot be listed.
pub(super) fn interfaces() -> Vec<IpAddr> {
    let listed = rtc_shared::ifaces::ifaces().unwrap_or_default();
    listed.into_iter().filter_map(|interface| interface.addr).map(|address| address.ip()).collect()
}

/// The order in which kinds of addresses are preferred; `None` for those that mean nothing to others: link-local ones
/// need a scope that candidates do not carry.
fn rank(ip: &IpAddr) -> Option<u8> {
    match ip {
        _ if ip.is_unspecified() || ip.is_multicast() => None,
        IpAddr::V4(v4) if v4.is_link_local() => None,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        _ if ip.is_loopback() => Some(2),
        IpAddr::V4(v4) if v4.is_private() => Some(1),
        IpAddr::V6(v6) if v6.is_unique_local() => Some(1),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_others_can_reach() {
        let machine = "127.0.0.1 10.1.2.3 169.254.7.7 198.51.100.7 ::1 fe80::1 fd00::1 2001:db8::7";
        for (bound, public, interfaces, expected) in [
            ("192.0.2.1:7", "", machine, "192.0.2.1:7"),
            ("127.0.0.1:7", "", machine, "127.0.0.1:7"),
            ("0.0.0.0:7", "", machine, "198.51.100.7:7 10.1.2.3:7 127.0.0.1:7"),
            ("0.0.0.0:7", "", "127.0.0.1", "127.0.0.1:7"),
            ("[::]:7", "", machine, "198.51.100.7:7 [2001:db8::7]:7 10.1.2.3:7 [fd00::1]:7 127.0.0.1:7 [::1]:7"),
            ("0.0.0.0:7", "203.0.113.1 2001:db8::1", machine, "203.0.113.1:7 [2001:db8::1]:7"),
            ("10.1.2.3:7", "203.0.113.1", machine, "203.0.113.1:7"),
            ("0.0.0.0:7", "", "", ""),
        ] {
            let parse = |text: &str| text.split_whitespace().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
            let found = reachable(bound.parse().unwrap(), &parse(public), &parse(interfaces));
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "bound to {bound}, public {public:?}");
        }
    }

    #[test]
    fn the_list_is_bounded() {
        let many: Vec<IpAddr> = (0..100).map(|i| IpAddr::from([10, 0, 0, i])).collect();
        assert_eq!(reachable("0.0.0.0:7".parse().unwrap(), &[], &many).len(), MAX_ADDRESSES);
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        assert!(interfaces().iter().any(IpAddr::is_loopback));
    }
}
