//! How far an address reaches, and who may name it to us.
//!
//! A stranger must not be able to aim our packets at this host or its network: an address is used only when the one who
//! named it is on that network itself. So a LAN, and a network of many ports on loopback, work with nothing configured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How far an address reaches, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This host.
    Loopback,
    /// This network: private (RFC 1918, RFC 4193), shared (RFC 6598) and link-local addresses.
    Private,
    /// The internet.
    Public,
}

/// The scope of a unicast address; `None` for one that is no host's.
#[must_use]
pub fn scope(ip: IpAddr) -> Option<Scope> {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_loopback() => Some(Scope::Loopback),
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || is_shared(ip) => Some(Scope::Private),
        // 0/8 is "this network", 224/4 multicast, 240/4 reserved and broadcast.
        IpAddr::V4(ip) if ip.octets()[0] == 0 || ip.octets()[0] >= 224 => None,
        IpAddr::V6(ip) if ip.is_loopback() => Some(Scope::Loopback),
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Some(Scope::Private),
        IpAddr::V6(ip) if ip.is_unspecified() || ip.is_multicast() => None,
        _ => Some(Scope::Public),
    }
}

/// Whether `named` may be used when `from` is who named it.
#[must_use]
pub fn may_name(from: IpAddr, named: SocketAddr) -> bool {
    named.port() != 0
        && scope(from).zip(scope(named.ip())).is_some_and(|(from_scope, named_scope)| from_scope <= named_scope)
}

/// Whether many nodes may share this address: on loopback and private networks they do; in public, those who run many
/// on one address are mostly trying to surround somebody.
#[must_use]
pub(super) fn is_public(ip: IpAddr) -> bool {
    scope(ip) == Some(Scope::Public)
}

fn is_shared(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [100, 64..=127, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_from_its_own_network_or_a_nearer_one() {
        let (host, lan, net) = ("127.0.0.1", "192.168.1.2", "8.8.8.8");
        let table = [
            (host, "127.0.0.2:1", true),
            (host, "10.0.0.1:1", true),
            (host, "1.1.1.1:1", true),
            (lan, "127.0.0.1:1", false),
            (lan, "169.254.1.1:1", true),
            (lan, "100.64.0.1:1", true),
            (lan, "1.1.1.1:1", true),
            (net, "127.0.0.1:1", false),
            (net, "[::1]:1", false),
            (net, "[::ffff:127.0.0.1]:1", false),
            (net, "10.0.0.1:1", false),
            (net, "172.16.0.1:1", false),
            (net, "[fe80::1]:1", false),
            (net, "[fd00::1]:1", false),
            (net, "1.1.1.1:1", true),
            (net, "[2001:db8::1]:1", true),
            (net, "1.1.1.1:0", false),
            (host, "0.0.0.0:1", false),
            (host, "224.0.0.1:1", false),
            (host, "255.255.255.255:1", false),
            (host, "[::]:1", false),
        ];
        for (from, named, expected) in table {
            assert_eq!(may_name(from.parse().unwrap(), named.parse().unwrap()), expected, "{from} names {named}");
        }
    }
}
