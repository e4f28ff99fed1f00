//! What an address means: where it can be reached, who may name it to us, and what limits by host count as one.
//!
//! A stranger must not be able to aim this server at its own host or network. So an address that only means something on a
//! network (loopback, private, link-local) is used only when the one who named it is on that network itself: a LAN, or a
//! network of many ports on loopback, works with nothing configured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where an address means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everywhere.
    Public,
    /// On this machine.
    Loopback,
    /// Inside one organisation: RFC 1918 (by its three blocks), RFC 6598, RFC 4193.
    Private(u8),
    /// On one wire: RFC 3927, RFC 4291 §2.5.6.
    LinkLocal,
}

/// The scope of a host's address; `None` for one at which no host can be.
#[must_use]
pub fn scope(ip: IpAddr) -> Option<Scope> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => scope_v4(ip),
        IpAddr::V6(ip) => scope_v6(ip),
    }
}

fn scope_v4(ip: Ipv4Addr) -> Option<Scope> {
    Some(match ip.octets() {
        [127, ..] => Scope::Loopback,
        [10, ..] => Scope::Private(10),
        [172, 16..=31, ..] => Scope::Private(172),
        [192, 168, ..] => Scope::Private(192),
        [100, 64..=127, ..] => Scope::Private(100),
        [169, 254, ..] => Scope::LinkLocal,
        // "This network", multicast, reserved and broadcast (RFC 6890), protocol assignments, and what is for
        // documentation (RFC 5737).
        [0 | 224..=255, ..] | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => return None,
        _ => Scope::Public,
    })
}

fn scope_v6(ip: Ipv6Addr) -> Option<Scope> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Scope::Loopback),
        [0xfc00..=0xfdff, ..] => Some(Scope::Private(6)),
        [0xfe80..=0xfebf, ..] => Some(Scope::LinkLocal),
        // 64:ff9b::/96 and 2002::/16 hide an IPv4 address (RFC 6052, RFC 3056); it is judged in their stead.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            scope_v4(Ipv4Addr::new(a, b, c, d))
        }
        [0x2001, 0xdb8, ..] => None,
        // RFC 4291 §2.4: all other global unicast is, so far, below 2000::/3.
        [0x2000..=0x3fff, ..] => Some(Scope::Public),
        _ => None,
    }
}

/// Whether `named` may be used when `from` is who named it.
#[must_use]
pub fn may_name(from: IpAddr, named: SocketAddr) -> bool {
    named.port() != 0 && means_something(scope(from), scope(named.ip()))
}

/// Whether an address in the second scope means something to who is in the first.
#[must_use]
pub fn means_something(here: Option<Scope>, there: Option<Scope>) -> bool {
    match (here, there) {
        (_, None) => false,
        (_, Some(Scope::Public)) => true,
        // This machine knows every network it is on.
        (Some(Scope::Loopback), _) => true,
        (here, there) => here == there,
    }
}

/// Whether an address means the same everywhere. On loopback and private networks many nodes may share one; in public, those
/// who run many on one address are mostly trying to surround somebody.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    scope(ip) == Some(Scope::Public)
}

/// What limits by host count as one: an IPv4 address, or an IPv6 /64, which is the least that a site is given (RFC 6177): whoever has one of its addresses
/// has all. IPv4 written as IPv6 is IPv4.
#[must_use]
pub fn host(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_aim_us_inward() {
        let table = [
            // address, who named it, dialled
            ("8.8.8.8:1", "1.1.1.1", true),
            ("8.8.8.8:0", "1.1.1.1", false),
            ("8.8.8.8:1", "127.0.0.1", true),
            ("127.0.0.1:1", "1.1.1.1", false),
            ("127.0.0.1:1", "10.0.0.1", false),
            ("127.0.0.1:1", "127.3.2.1", true),
            ("127.0.0.1:1", "::1", true),
            ("[::1]:1", "127.0.0.1", true),
            ("[::ffff:127.0.0.1]:1", "1.1.1.1", false),
            ("10.1.2.3:1", "1.1.1.1", false),
            ("10.1.2.3:1", "10.9.9.9", true),
            ("10.1.2.3:1", "192.168.0.1", false),
            ("10.1.2.3:1", "127.0.0.1", true),
            ("172.16.0.1:1", "172.31.0.1", true),
            ("172.32.0.1:1", "1.1.1.1", true),
            ("192.168.0.1:1", "::ffff:192.168.7.7", true),
            ("100.64.0.1:1", "1.1.1.1", false),
            ("169.254.1.1:1", "1.1.1.1", false),
            ("169.254.1.1:1", "169.254.9.9", true),
            ("0.0.0.0:1", "127.0.0.1", false),
            ("255.255.255.255:1", "127.0.0.1", false),
            ("224.0.0.1:1", "127.0.0.1", false),
            ("203.0.113.5:1", "127.0.0.1", false),
            ("[2a00::1]:1", "1.1.1.1", true),
            ("[2001:db8::1]:1", "1.1.1.1", false),
            ("[fd00::1]:1", "1.1.1.1", false),
            ("[fd00::1]:1", "fc00::1", true),
            ("[fe80::1]:1", "2a00::1", false),
            ("[fe80::1]:1", "fe80::2", true),
            ("[ff02::1]:1", "::1", false),
            ("[::]:1", "::1", false),
            ("[64:ff9b::7f00:1]:1", "1.1.1.1", false),
            ("[2002:a00:1::1]:1", "1.1.1.1", false),
            ("[2002:7f00:1::1]:1", "1.1.1.1", false),
            ("[2002:7f00:1::1]:1", "2002:7f00:1::2", true),
            ("[2002:808:808::1]:1", "1.1.1.1", true),
            ("1.1.1.1:1", "192.168.1.2", true),
            ("169.254.1.1:1", "192.168.1.2", false),
            ("127.0.0.1:1", "192.168.1.2", false),
            ("[::1]:1", "8.8.8.8", false),
            ("127.0.0.1:1", "0.0.0.0", false),
            ("8.8.8.8:1", "224.0.0.1", true),
        ];
        for (addr, source, expected) in table {
            assert_eq!(may_name(source.parse().unwrap(), addr.parse().unwrap()), expected, "{addr} named by {source}");
        }
    }

    #[test]
    fn what_is_public_means_the_same_everywhere() {
        let table = [
            ("1.1.1.1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("192.0.2.1", false),
            ("2606:4700::1", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("::ffff:127.0.0.1", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::1", false),
            ("64:ff9b::a00:1", false),
        ];
        for (ip, public) in table {
            assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
        }
    }

    #[test]
    fn a_host_is_an_ipv4_address_or_an_ipv6_network() {
        let table = [
            ("1.2.3.4", "1.2.3.4"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::1", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ];
        for (ip, expected) in table {
            assert_eq!(host(ip.parse().unwrap()).to_string(), expected, "{ip}");
        }
    }
}
