//! Peer exchange, `ut_pex` (BEP 11): a peer tells whom else it is connected to, and to whom no longer.

use std::net::SocketAddr;

use super::bencode::{self, Node};
use super::compact;
use super::extension::ExtensionError;

/// The extension's name in the extension handshake (BEP 10).
pub const NAME: &str = "ut_pex";

/// BEP 11: "Except for the initial PEX message the combined amount of added v4/v6 contacts should not exceed 50 entries.
/// The same applies to dropped entries." We keep to it in the first one too, and read no more of any.
pub const MAX_ENTRIES: usize = 50;

/// What is told of a peer beside its address: a byte of `added.f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// 0x02: "seed/upload_only".
    pub const SEED: Self = Self(0x02);
    /// 0x04: "supports uTP".
    pub const UTP: Self = Self(0x04);
    /// 0x08: "peer indicated ut_holepunch support in extension handshake".
    pub const HOLEPUNCH: Self = Self(0x08);
    /// 0x10: "outgoing connection, peer is reachable".
    pub const REACHABLE: Self = Self(0x10);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flag, if `condition` holds.
    #[must_use]
    pub const fn only_if(self, condition: bool) -> Self {
        if condition { self } else { Self(0) }
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A peer that is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Where it takes connections.
    pub addr: SocketAddr,
    /// What is known of it.
    pub flags: Flags,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerExchange {
    /// Peers that the sender has come to be connected to.
    pub added: Vec<Told>,
    /// Those that it is no longer connected to.
    pub dropped: Vec<SocketAddr>,
}

impl PeerExchange {
    /// Whether it says nothing. Such a message is not sent: some clients take it for a fault.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.dropped.is_empty()
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let is_v4 = |addr: SocketAddr| addr.ip().to_canonical().is_ipv4();
        let compact = |addrs: &mut dyn Iterator<Item = SocketAddr>| {
            let mut out = Vec::new();
            addrs.for_each(|addr| compact::write_addr(&mut out, addr));
            out
        };
        let families: [(bool, [&[u8]; 3]); 2] =
            [(true, [b"added", b"added.f", b"dropped"]), (false, [b"added6", b"added6.f", b"dropped6"])];
        bencode::dict(|d| {
            for (v4, [added, flags, _]) in families {
                let of_family = || self.added.iter().filter(|told| is_v4(told.addr) == v4);
                if of_family().next().is_some() {
                    d.bytes(added, &compact(&mut of_family().map(|told| told.addr)));
                    d.bytes(flags, &of_family().map(|told| told.flags.0).collect::<Vec<_>>());
                }
            }
            for (v4, [.., dropped]) in families {
                let gone = compact(&mut self.dropped.iter().copied().filter(|addr| is_v4(*addr) == v4));
                if !gone.is_empty() {
                    d.bytes(dropped, &gone);
                }
            }
        })
    }

    /// Reads a payload: at most [`MAX_ENTRIES`] of each kind, whatever it holds. A peer of which no flags are given has
    /// none; IPv4 written as IPv6 is IPv4.
    ///
    /// # Errors
    /// Anything but a bencoded dictionary.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtensionError> {
        let (node, _) = bencode::decode_prefix(payload)?;
        node.entries().ok_or(ExtensionError::Malformed("ut_pex message"))?;
        let text = |key: &[u8]| node.get(key).and_then(Node::bytes).unwrap_or_default();
        let flags = |key| text(key).iter().copied().chain(std::iter::repeat(0)).map(Flags);
        let added = compact::read_v4(text(b"added")).zip(flags(b"added.f"));
        let added6 = compact::read_v6(text(b"added6")).zip(flags(b"added6.f"));
        let dropped = compact::read_v4(text(b"dropped")).chain(compact::read_v6(text(b"dropped6")));
        let plain = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let added = added.chain(added6).map(|(addr, flags)| Told { addr: plain(addr), flags });
        Ok(Self { added: added.take(MAX_ENTRIES).collect(), dropped: dropped.map(plain).take(MAX_ENTRIES).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(addr: &str, flags: Flags) -> Told {
        Told { addr: addr.parse().unwrap(), flags }
    }

    #[test]
    fn messages_as_clients_write_them() {
        let seed = Flags::SEED.and(Flags::REACHABLE);
        let both = PeerExchange {
            added: vec![told("1.2.3.4:6881", seed), told("[2a00::1]:80", Flags::UTP)],
            dropped: vec!["9.9.9.9:1".parse().unwrap(), "[2a00::2]:2".parse().unwrap()],
        };
        let one = PeerExchange { added: vec![told("1.2.3.4:6881", Flags::default())], dropped: vec![] };
        let mapped = b"d6:added618:\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04\x1a\xe1e";
        let table: [(&[u8], &PeerExchange, bool); 6] = [
            (
                b"d5:added6:\x01\x02\x03\x04\x1a\xe17:added.f1:\x126:added618:\x2a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0P8:added6.f1:\x047:dropped6:\x09\x09\x09\x09\0\x018:dropped618:\x2a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\x02e",
                &both,
                true,
            ),
            (b"d5:added6:\x01\x02\x03\x04\x1a\xe17:added.f1:\0e", &one, true),
            // No flags, a fragment at the end, fields nobody knows, and IPv4 in the other family's guise.
            (b"d5:added9:\x01\x02\x03\x04\x1a\xe1\x01\x02\x03e", &one, false),
            (b"d5:added6:\x01\x02\x03\x04\x1a\xe17:dropped0:7:unknownlee", &one, false),
            (mapped, &one, false),
            (b"d5:addedi7ee", &PeerExchange::default(), false),
        ];
        for (payload, message, is_how_we_write) in table {
            assert_eq!(PeerExchange::decode(payload).as_ref(), Ok(message), "{}", payload.escape_ascii());
            assert_eq!(message.encode() == payload, is_how_we_write, "{}", payload.escape_ascii());
        }
        assert!(PeerExchange::default().is_empty() && !both.is_empty());
        for bad in [b"".as_slice(), b"le", b"d5:added6:\x01", b"i1e"] {
            assert!(PeerExchange::decode(bad).is_err());
        }
    }

    #[test]
    fn a_message_is_read_no_further_than_it_may_be_long() {
        let many = |n| (0..n).map(|n: u32| SocketAddr::from((n.to_be_bytes(), 1))).collect::<Vec<_>>();
        let added = many(4_000).into_iter().map(|addr| Told { addr, flags: Flags(9) }).collect();
        let read = PeerExchange::decode(&PeerExchange { added, dropped: many(70) }.encode()).unwrap();
        assert_eq!((read.added.len(), read.dropped.len()), (MAX_ENTRIES, MAX_ENTRIES));
        assert!(read.added.iter().all(|told| told.flags == Flags(9)));
    }

    proptest! {
        #[test]
        fn messages_round_trip(v4: Vec<([u8; 4], u16, u8)>, v6 in prop::collection::vec((1_u16.., any::<u16>(), any::<u8>()), 0..20)) {
            let v4 = v4.into_iter().take(20).map(|(ip, port, flags)| (SocketAddr::from((ip, port)), flags));
            let v6 = v6.into_iter().map(|(n, port, flags)| (SocketAddr::from(([0x2a00, n, 0, 0, 0, 0, 0, 1], port)), flags));
            let all: Vec<_> = v4.chain(v6).collect();
            let added = all.iter().map(|(addr, flags)| Told { addr: *addr, flags: Flags(*flags) }).collect();
            let message = PeerExchange { added, dropped: all.iter().map(|(addr, _)| *addr).collect() };
            prop_assert_eq!(PeerExchange::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn no_bytes_panic(payload: Vec<u8>, at in 0_usize..39, bit in 0_u8..8) {
            let _ = PeerExchange::decode(&payload);
            let mut near = b"d5:added6:\x01\x02\x03\x04\x1a\xe17:added.f1:\x126:added60:e".to_vec();
            near[at] ^= 1 << bit;
            let _ = PeerExchange::decode(&near);
            let _ = PeerExchange::decode(&near[..at]);
        }
    }
}
