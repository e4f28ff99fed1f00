//! Compact addresses: 6 bytes for IPv4 (BEP 5, BEP 23), 18 for IPv6 (BEP 7, BEP 32), ports in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::id::NodeId;

/// Appends `addr` in its family's compact form. An IPv4-mapped IPv6 address is written as IPv4.
pub fn write_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => out.extend(ip.octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
    out.extend(addr.port().to_be_bytes());
}

/// The compact form of one address.
#[must_use]
pub fn addr(addr: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(18);
    write_addr(&mut out, addr);
    out
}

/// Reads one address of 6 or 18 bytes; `None` for any other length.
#[must_use]
pub fn read_addr(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let ip = match ip.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// The addresses in a run of 6-byte entries; a trailing fragment is ignored, as every client does.
pub fn read_v4(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> + '_ {
    bytes.chunks_exact(6).filter_map(read_addr)
}

/// The addresses in a run of 18-byte entries.
pub fn read_v6(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> + '_ {
    bytes.chunks_exact(18).filter_map(read_addr)
}

/// Appends a DHT node in compact form: 20-byte id, then its address.
pub fn write_node(out: &mut Vec<u8>, id: &NodeId, addr: SocketAddr) {
    out.extend(id.0);
    write_addr(out, addr);
}

/// The nodes in a KRPC `nodes` string (26 bytes each, BEP 5).
pub fn read_nodes_v4(bytes: &[u8]) -> impl Iterator<Item = (NodeId, SocketAddr)> + '_ {
    read_nodes(bytes, 26)
}

/// The nodes in a KRPC `nodes6` string (38 bytes each, BEP 32).
pub fn read_nodes_v6(bytes: &[u8]) -> impl Iterator<Item = (NodeId, SocketAddr)> + '_ {
    read_nodes(bytes, 38)
}

fn read_nodes(bytes: &[u8], entry: usize) -> impl Iterator<Item = (NodeId, SocketAddr)> + '_ {
    bytes.chunks_exact(entry).filter_map(|chunk| {
        let (id, addr) = chunk.split_first_chunk::<20>()?;
        Some((NodeId(*id), read_addr(addr)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_in_their_family() {
        for text in ["1.2.3.4:6881", "[2001:db8::1]:51413", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(read_addr(&addr(address)), Some(address));
        }
        let mapped: SocketAddr = "[::ffff:1.2.3.4]:80".parse().unwrap();
        assert_eq!(addr(mapped), [1, 2, 3, 4, 0, 80]);
        for len in [0, 1, 2, 5, 7, 17, 19] {
            assert_eq!(read_addr(&vec![0; len]), None, "{len} bytes");
        }
    }

    #[test]
    fn a_trailing_fragment_is_ignored() {
        let mut bytes = addr("1.2.3.4:1".parse().unwrap());
        bytes.extend([9, 9, 9]);
        assert_eq!(read_v4(&bytes).count(), 1);
        let mut nodes = Vec::new();
        write_node(&mut nodes, &NodeId([7; 20]), "1.2.3.4:1".parse().unwrap());
        nodes.pop();
        assert_eq!(read_nodes_v4(&nodes).count(), 0);
    }
}
