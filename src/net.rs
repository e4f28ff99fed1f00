//! What limits by host count as one.

use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address, or an IPv6 /64, which is the least that a site is given (RFC 6177): whoever has one of its addresses
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
