//! Which addresses are dialled, by who named them.
//!
//! A stranger must not aim this server at the operator's own network. So an address that only means something on a
//! network (loopback, private, link-local) is dialled only when the source that named it is on that network itself; a
//! LAN, or a test on loopback, works with nothing configured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where an address means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Everywhere.
    Public,
    /// On this machine.
    Loopback,
    /// Inside one organisation: RFC 1918 (by its three blocks), RFC 6598, RFC 4193.
    Private(u8),
    /// On one wire: RFC 3927, RFC 4291 §2.5.6.
    LinkLocal,
    /// Nowhere one could connect to.
    Nowhere,
}

/// Whether an address named by `source` may be dialled.
pub(super) fn may_dial(addr: SocketAddr, source: IpAddr) -> bool {
    if addr.port() == 0 {
        return false;
    }
    match (scope(addr.ip()), scope(source)) {
        (Scope::Public, _) => true,
        (Scope::Nowhere, _) => false,
        // This machine knows every network it is on.
        (_, Scope::Loopback) => true,
        (there, here) => there == here,
    }
}

fn scope(ip: IpAddr) -> Scope {
    match ip.to_canonical() {
        IpAddr::V4(ip) => scope_v4(ip),
        IpAddr::V6(ip) => scope_v6(ip),
    }
}

fn scope_v4(ip: Ipv4Addr) -> Scope {
    match ip.octets() {
        [127, ..] => Scope::Loopback,
        [10, ..] => Scope::Private(10),
        [172, 16..=31, ..] => Scope::Private(172),
        [192, 168, ..] => Scope::Private(192),
        [100, 64..=127, ..] => Scope::Private(100),
        [169, 254, ..] => Scope::LinkLocal,
        // "This network", multicast, reserved and broadcast (RFC 6890), and the blocks for documentation (RFC 5737).
        [0 | 224..=255, ..] | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Scope::Nowhere,
        _ => Scope::Public,
    }
}

fn scope_v6(ip: Ipv6Addr) -> Scope {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Scope::Loopback,
        [0xfc00..=0xfdff, ..] => Scope::Private(6),
        [0xfe80..=0xfebf, ..] => Scope::LinkLocal,
        // 64:ff9b::/96 and 2002::/16 hide an IPv4 address (RFC 6052, RFC 3056); it is judged in their stead.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            scope_v4(Ipv4Addr::new(a, b, c, d))
        }
        [0x2001, 0xdb8, ..] => Scope::Nowhere,
        // RFC 4291 §2.4: all other global unicast is, so far, below 2000::/3.
        [0x2000..=0x3fff, ..] => Scope::Public,
        _ => Scope::Nowhere,
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
            ("[2002:808:808::1]:1", "1.1.1.1", true),
        ];
        for (addr, source, expected) in table {
            assert_eq!(may_dial(addr.parse().unwrap(), source.parse().unwrap()), expected, "{addr} by {source}");
        }
    }
}
