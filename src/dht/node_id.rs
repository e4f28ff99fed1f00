//! Node ids bound to the external address (BEP 42), and finding that address out.

use std::collections::HashMap;
use std::net::IpAddr;

use rand::{Rng, RngExt};

use crate::net::{host, is_public};
use crate::wire::id::NodeId;

/// Voters whose words are kept. One node is one voter, whatever it says how often.
const MAX_VOTERS: usize = 32;

/// Voters that must agree. One wrong or hostile node must not make us change our id.
const QUORUM: usize = 8;

/// A random id.
pub(super) fn random(rng: &mut impl Rng) -> NodeId {
    NodeId(rng.random())
}

/// A random id that fits `ip`: BEP 42 fixes its first 21 bits by the address and three bits of its last byte.
pub(super) fn for_address(ip: IpAddr, rng: &mut impl Rng) -> NodeId {
    let mut id: [u8; 20] = rng.random();
    let prefix = prefix(ip, id[19]);
    id[0] = prefix[0];
    id[1] = prefix[1];
    id[2] = prefix[2] & 0xf8 | id[2] & 0x07;
    NodeId(id)
}

/// Whether `id` fits `ip`. BEP 42: "Any peer on a local network address is exempt from this node ID verification."
pub(super) fn fits(id: &NodeId, ip: IpAddr) -> bool {
    let expected = prefix(ip, id.0[19]);
    !is_public(ip) || (id.0[..2] == expected[..2] && id.0[2] & 0xf8 == expected[2] & 0xf8)
}

/// BEP 42: "crc32c((ip & 0x030f3fff) | (r << 29))" for IPv4, and the same over the masked upper half for IPv6.
fn prefix(ip: IpAddr, last_byte: u8) -> [u8; 3] {
    let mut octets = match ip.to_canonical() {
        IpAddr::V4(ip) => masked(&ip.octets(), &[0x03, 0x0f, 0x3f, 0xff]),
        IpAddr::V6(ip) => masked(&ip.octets(), &[0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff]),
    };
    octets[0] |= (last_byte & 0x07) << 5;
    let [a, b, c, _] = crc32c(&octets).to_be_bytes();
    [a, b, c]
}

fn masked(octets: &[u8], mask: &[u8]) -> Vec<u8> {
    octets.iter().zip(mask).map(|(octet, mask)| octet & mask).collect()
}

/// CRC-32C (Castagnoli) bit by bit: four to eight bytes a call are not worth a table.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// What answering nodes say our address is.
#[derive(Debug, Default)]
pub(super) struct Votes(HashMap<IpAddr, IpAddr>);

impl Votes {
    /// Counts one node's word and returns the address most agree on, once enough do.
    pub(super) fn count(&mut self, voter: IpAddr, ours: IpAddr) -> Option<IpAddr> {
        if !is_public(voter) || !is_public(ours) {
            return None;
        }
        let voter = host(voter);
        if self.0.len() >= MAX_VOTERS && !self.0.contains_key(&voter) {
            // Old words go, so that a new address (a new lease) is noticed.
            self.0.clear();
        }
        self.0.insert(voter, ours);
        let agreeing = self.0.values().filter(|ip| **ip == ours).count();
        (agreeing >= QUORUM && agreeing * 2 > self.0.len()).then_some(ours)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// The vectors of BEP 42.
    #[test]
    fn bep_42_vectors() {
        let table = [
            ("124.31.75.21", "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
            ("21.75.31.124", "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
            ("65.23.51.170", "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
            ("84.124.73.14", "1b0321dd1bb1fe518101ceef99462b947a01ff41"),
            ("43.213.53.83", "e56f6cbf5b7c4be0237986d5243b87aa6d51305a"),
        ];
        for (ip, id) in table {
            let id = NodeId::from_hex(id).unwrap();
            assert!(fits(&id, ip.parse().unwrap()), "{ip}");
            assert!(!fits(&id, "1.2.3.4".parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_made_id_fits_and_local_addresses_take_any() {
        let mut rng = StdRng::seed_from_u64(1);
        for ip in ["124.31.75.21", "2a00::1"] {
            assert!(fits(&for_address(ip.parse().unwrap(), &mut rng), ip.parse().unwrap()));
        }
        for ip in ["127.0.0.1", "10.1.2.3", "::1"] {
            assert!(fits(&random(&mut rng), ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn an_address_needs_a_quorum_of_voters() {
        let ours: IpAddr = "1.2.3.4".parse().unwrap();
        let voter = |n: u8| IpAddr::from([8, 8, 8, n]);
        let mut votes = Votes::default();
        for _ in 0..100 {
            assert_eq!(votes.count(voter(0), ours), None, "one voter counts once");
        }
        for n in 1..7 {
            assert_eq!(votes.count(voter(n), ours), None);
        }
        assert_eq!(votes.count(voter(7), ours), Some(ours));
        assert_eq!(Votes::default().count(voter(1), "10.0.0.1".parse().unwrap()), None);
    }
}
