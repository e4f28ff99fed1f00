//! Holepunch, `ut_holepunch` (BEP 55): a peer connected to two others, the relay, has them connect to each other at the same
//! moment, by which each opens its own NAT or firewall to the other.

use std::net::{IpAddr, SocketAddr};

use super::compact;

/// The extension's name in the extension handshake (BEP 10).
pub const NAME: &str = "ut_holepunch";

/// Why a relay does not introduce two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PunchError {
    /// 0x01: "The target endpoint is invalid."
    NoSuchPeer,
    /// 0x02: "The relaying peer is not connected to the target peer."
    NotConnected,
    /// 0x03: "The target peer does not support the holepunch extension."
    NoSupport,
    /// 0x04: "The target endpoint belongs to the relaying peer."
    NoSelf,
    /// Of a later version of the extension.
    Unknown,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holepunch {
    /// To a relay: "Send connect messages to both the initiating peer and target peer."
    Rendezvous(SocketAddr),
    /// From a relay: "Initiate a uTP connection with the peer at the given endpoint."
    Connect(SocketAddr),
    /// From a relay: the rendezvous with this peer will not be.
    Error(SocketAddr, PunchError),
}

impl Holepunch {
    /// The payload: "msg_type", "addr_type", "addr", "port", "err_code".
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let (kind, addr, code): (u8, _, u32) = match self {
            Self::Rendezvous(addr) => (0, addr, 0),
            Self::Connect(addr) => (1, addr, 0),
            Self::Error(addr, error) => (2, addr, error.code()),
        };
        let is_v6 = matches!(addr.ip().to_canonical(), IpAddr::V6(_));
        let mut out = vec![kind, u8::from(is_v6)];
        compact::write_addr(&mut out, addr);
        out.extend(code.to_be_bytes());
        out
    }

    /// Reads a payload; `None` for what is no message of this extension. Where the error does not matter it may be left out,
    /// as libtorrent does.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (&[kind, family], rest) = payload.split_first_chunk()?;
        let length = match family {
            0 => 6,
            1 => 18,
            _ => return None,
        };
        let (addr, code) = rest.split_at_checked(length)?;
        let addr = compact::read_addr(addr)?;
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        match kind {
            0 => Some(Self::Rendezvous(addr)),
            1 => Some(Self::Connect(addr)),
            2 => {
                let code = code.first_chunk().map(|code| u32::from_be_bytes(*code));
                Some(Self::Error(addr, PunchError::of(code?)))
            }
            _ => None,
        }
    }
}

impl PunchError {
    fn code(self) -> u32 {
        match self {
            Self::NoSuchPeer => 1,
            Self::NotConnected => 2,
            Self::NoSupport => 3,
            Self::NoSelf => 4,
            Self::Unknown => u32::MAX,
        }
    }

    fn of(code: u32) -> Self {
        match code {
            1 => Self::NoSuchPeer,
            2 => Self::NotConnected,
            3 => Self::NoSupport,
            4 => Self::NoSelf,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_as_the_bep_has_them() {
        let (v4, v6) = ("1.2.3.4:6881".parse().unwrap(), "[2a00::1]:80".parse().unwrap());
        let long = b"\x01\x01\x2a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0P\0\0\0\0";
        let table: [(&[u8], Holepunch); 5] = [
            (b"\0\0\x01\x02\x03\x04\x1a\xe1\0\0\0\0", Holepunch::Rendezvous(v4)),
            (long, Holepunch::Connect(v6)),
            (b"\x02\0\x01\x02\x03\x04\x1a\xe1\0\0\0\x02", Holepunch::Error(v4, PunchError::NotConnected)),
            (b"\x02\0\x01\x02\x03\x04\x1a\xe1\0\0\0\x04", Holepunch::Error(v4, PunchError::NoSelf)),
            (b"\x02\0\x01\x02\x03\x04\x1a\xe1\xff\xff\xff\xff", Holepunch::Error(v4, PunchError::Unknown)),
        ];
        for (payload, message) in table {
            assert_eq!(Holepunch::decode(payload), Some(message));
            assert_eq!(message.encode(), payload);
        }
        assert_eq!(Holepunch::decode(b"\x01\0\x01\x02\x03\x04\x1a\xe1"), Some(Holepunch::Connect(v4)));
        let bad: [&[u8]; 6] =
            [b"", b"\0", b"\x03\0\x01\x02\x03\x04\x1a\xe1", b"\0\x02abcdefgh", b"\0\x01abcdef", b"\x02\0abcdef"];
        for bad in bad {
            assert_eq!(Holepunch::decode(bad), None, "{}", bad.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_read_is_what_is_said(payload in prop::collection::vec(any::<u8>(), 0..30), kind in 0_u8..4, family in 0_u8..3) {
            let payload = [&[kind, family], &payload[..]].concat();
            if let Some(message) = Holepunch::decode(&payload) {
                prop_assert_eq!(Holepunch::decode(&message.encode()), Some(message));
            }
        }
    }
}
