//! The fixed-length identifiers of the field: info hashes, peer ids, DHT node ids, DHT targets and public keys.

use std::fmt;

use super::hex;

/// Why a text or a byte string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be {expected} bytes ({} hexadecimal digits)", expected * 2)]
pub struct IdError {
    name: &'static str,
    expected: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $len:literal, $title:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            const ERROR: IdError = IdError { name: $title, expected: $len };

            /// Takes exactly [`Self::LEN`] bytes.
            ///
            /// # Errors
            /// Any other length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| Self::ERROR)
            }

            /// Reads hexadecimal of either case.
            ///
            /// # Errors
            /// Anything but `2 × LEN` hexadecimal digits.
            pub fn from_hex(text: &str) -> Result<Self, IdError> {
                hex::decode_array(text).map(Self).ok_or(Self::ERROR)
            }

            /// The raw bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Lower-case hexadecimal.
            #[must_use]
            pub fn to_hex(&self) -> String {
                hex::encode(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::from_hex(text)
            }
        }
    };
}

identifier!(
    /// The SHA-1 of a torrent's `info` dictionary (BEP 3); it names a swarm.
    InfoHash, 20, "an info hash"
);
identifier!(
    /// The name a peer gives itself in a swarm (BEP 20).
    PeerId, 20, "a peer id"
);
identifier!(
    /// A node of the DHT (BEP 5).
    NodeId, 20, "a node id"
);
identifier!(
    /// Where an item lives in the DHT (BEP 44): SHA-1 of the value, or of key and salt.
    Target, 20, "a target"
);
identifier!(
    /// An ed25519 public key (BEP 44 `k`); it names a mutable torrent (BEP 46).
    PublicKey, 32, "a public key"
);
identifier!(
    /// An ed25519 signature (BEP 44 `sig`).
    Signature, 64, "a signature"
);

/// XOR distance between two points of the 160-bit key space (BEP 5: "distance(A,B) = |A xor B|").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Distance(pub [u8; 20]);

impl NodeId {
    /// The distance from this node to `point`.
    #[must_use]
    pub fn distance(&self, point: &Target) -> Distance {
        Distance(std::array::from_fn(|i| self.0[i] ^ point.0[i]))
    }
}

impl Distance {
    /// How many leading bits are zero: 160 for distance zero.
    #[must_use]
    pub fn leading_zeros(&self) -> u32 {
        let mut zeros = 0;
        for byte in self.0 {
            zeros += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        zeros
    }
}

// One 160-bit key space holds all three; the conversions are spelled out so that none happens by accident.
impl From<NodeId> for Target {
    fn from(id: NodeId) -> Self {
        Self(id.0)
    }
}
impl From<InfoHash> for Target {
    fn from(id: InfoHash) -> Self {
        Self(id.0)
    }
}
/// The topic swarm of a mutable item is the swarm whose info hash is the item's target.
impl From<Target> for InfoHash {
    fn from(target: Target) -> Self {
        Self(target.0)
    }
}

/// WebTorrent's tracker JSON writes binary as a string with one character per byte, U+0000 to U+00FF.
///
/// # Errors
/// A character past U+00FF, or any length but `N` characters.
pub fn latin1_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    for c in text.chars() {
        *bytes.get_mut(filled)? = u8::try_from(u32::from(c)).ok()?;
        filled += 1;
    }
    (filled == N).then_some(bytes)
}

/// The text WebTorrent's tracker JSON uses for these bytes, before JSON escaping.
#[must_use]
pub fn to_latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_bytes_means_exactly_twenty() {
        assert!(InfoHash::from_slice(&[0; 20]).is_ok());
        for len in [0, 1, 19, 21, 40] {
            let error = InfoHash::from_slice(&vec![0; len]).unwrap_err();
            assert_eq!(error.to_string(), "an info hash must be 20 bytes (40 hexadecimal digits)");
        }
        assert!(InfoHash::from_hex(&"ab".repeat(19)).is_err());
        assert!(InfoHash::from_hex(&"xy".repeat(20)).is_err());
        assert_eq!(InfoHash::from_hex(&"AB".repeat(20)).unwrap().to_hex(), "ab".repeat(20));
    }

    #[test]
    fn latin1_takes_every_byte_and_nothing_else() {
        let all: [u8; 256] = std::array::from_fn(|i| i as u8);
        assert_eq!(latin1_array::<256>(&to_latin1(&all)), Some(all));
        assert_eq!(latin1_array::<1>("\u{100}"), None);
        assert_eq!(latin1_array::<2>("a"), None);
        assert_eq!(latin1_array::<2>("abc"), None);
    }

    #[test]
    fn distance_counts_leading_zeros() {
        let here = NodeId([0; 20]);
        assert_eq!(here.distance(&Target([0; 20])).leading_zeros(), 160);
        let mut far = [0; 20];
        far[1] = 0x10;
        assert_eq!(here.distance(&Target(far)).leading_zeros(), 11);
    }
}
