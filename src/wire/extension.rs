//! The extension protocol (BEP 10) and metadata exchange (BEP 9).

use std::collections::BTreeMap;

use super::bencode::{self, Node};

/// The extended message id of the extension handshake.
pub const HANDSHAKE_ID: u8 = 0;

/// BEP 9: "The metadata is handled in blocks of 16KiB (16384 Bytes)."
pub const METADATA_PIECE_LEN: usize = 1 << 14;

/// Extensions a peer may name. Real clients name about ten; the rest of a longer list is ignored.
const MAX_EXTENSIONS: usize = 64;

/// Longest client name kept, in bytes.
const MAX_CLIENT: usize = 64;

/// Why a payload is not an extension message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// Not bencode.
    #[error(transparent)]
    Bencode(#[from] bencode::Error),
    /// Bencode that lacks what the message needs.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// The extension handshake. BEP 10: "It is allowed to send the handshake message more than once during the lifetime of
/// a connection": each names only what changes, so every field is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtendedHandshake {
    /// `m`: "Dictionary of supported extension messages which maps names of extensions to an extended message ID for
    /// each extension message". Zero switches an extension off.
    pub extensions: BTreeMap<String, u8>,
    /// `metadata_size` (BEP 9): "an integer value specifying the number of bytes of the metadata".
    pub metadata_size: Option<usize>,
    /// `p`: "Local TCP listen port. Allows each side to learn about the TCP port number of the other side."
    pub port: Option<u16>,
    /// `reqq`: "the number of outstanding request messages this client supports without dropping any".
    pub requests: Option<u32>,
    /// `v`: "Client name and version (as an utf-8 string)."
    pub client: Option<String>,
}

impl ExtendedHandshake {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        bencode::dict(|d| {
            d.dict(b"m", |m| {
                for (name, id) in &self.extensions {
                    m.int(name.as_bytes(), i64::from(*id));
                }
            });
            if let Some(size) = self.metadata_size {
                d.int(b"metadata_size", i64::try_from(size).expect("metadata fits memory"));
            }
            if let Some(port) = self.port {
                d.int(b"p", i64::from(port));
            }
            if let Some(requests) = self.requests {
                d.int(b"reqq", i64::from(requests));
            }
            if let Some(client) = &self.client {
                d.bytes(b"v", client.as_bytes());
            }
        })
    }

    /// Reads a payload. Fields of the wrong type or range are taken as absent: a stranger's odd client name is no
    /// reason to lose a peer.
    ///
    /// # Errors
    /// Anything but a bencoded dictionary, perhaps with data after it, which some clients pad.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtensionError> {
        let (node, _) = bencode::decode_prefix(payload)?;
        node.entries().ok_or(ExtensionError::Malformed("extension handshake"))?;
        let named = node.get(b"m").and_then(Node::entries).unwrap_or_default();
        let named = named
            .iter()
            .take(MAX_EXTENSIONS)
            .filter_map(|(name, id)| Some((String::from_utf8(name.to_vec()).ok()?, u8::try_from(id.int()?).ok()?)));
        let client = node.get(b"v").and_then(Node::bytes).map(|v| &v[..v.len().min(MAX_CLIENT)]);
        Ok(Self {
            extensions: named.collect(),
            metadata_size: int(&node, b"metadata_size").filter(|size| *size > 0),
            port: int(&node, b"p").filter(|port| *port > 0),
            requests: int(&node, b"reqq"),
            client: client.map(|v| String::from_utf8_lossy(v).into_owned()),
        })
    }
}

fn int<T: TryFrom<i64>>(node: &Node<'_>, key: &[u8]) -> Option<T> {
    T::try_from(node.get(key)?.int()?).ok()
}

/// A `ut_metadata` message (BEP 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataMessage<'a> {
    /// Asks for a piece of the metadata.
    Request {
        /// Its index.
        piece: usize,
    },
    /// Brings one: "the metadata piece is appended after the bencoded dictionary".
    Data {
        /// Its index.
        piece: usize,
        /// Length of the whole metadata, where the sender says so.
        total_size: Option<usize>,
        /// Its bytes.
        data: &'a [u8],
    },
    /// "indicates that the peer doesn't have the piece of metadata that was requested".
    Reject {
        /// Its index.
        piece: usize,
    },
    /// BEP 9: "In order to support future extendability, an unrecognized message ID MUST be ignored."
    Unknown,
}

impl<'a> MetadataMessage<'a> {
    /// The payload. WebTorrent finds the end of the dictionary by the first `ee` in the payload: so the last entry is
    /// an integer, and no earlier value ends in `ee`, which holds for the three integers of every message.
    ///
    /// # Panics
    /// [`MetadataMessage::Unknown`] has no bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let number = |n: usize| i64::try_from(n).expect("metadata fits memory");
        let (kind, piece, total_size, data): (_, _, _, &[u8]) = match self {
            Self::Request { piece } => (0, piece, None, &[]),
            Self::Data { piece, total_size, data } => (1, piece, *total_size, data),
            Self::Reject { piece } => (2, piece, None, &[]),
            Self::Unknown => unreachable!("nobody sends an unknown message"),
        };
        let mut out = bencode::dict(|d| {
            d.int(b"msg_type", kind).int(b"piece", number(*piece));
            if let Some(size) = total_size {
                d.int(b"total_size", number(size));
            }
        });
        out.extend(data);
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// Anything but a dictionary with `msg_type` and `piece`.
    pub fn decode(payload: &'a [u8]) -> Result<Self, ExtensionError> {
        let (node, data) = bencode::decode_prefix(payload)?;
        let malformed = ExtensionError::Malformed("ut_metadata message");
        let kind: i64 = int(&node, b"msg_type").ok_or(malformed)?;
        if !(0..=2).contains(&kind) {
            return Ok(Self::Unknown);
        }
        let piece = int(&node, b"piece").ok_or(malformed)?;
        Ok(match kind {
            0 => Self::Request { piece },
            1 => Self::Data { piece, total_size: int(&node, b"total_size"), data },
            _ => Self::Reject { piece },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// BEP 10's example, with the length of its second name put right.
    #[test]
    fn the_handshake_of_bep_10() {
        let payload =
            b"d1:md11:LT_metadatai1e7:\xc2\xb5T_PEXi2ee1:pi6881e13:metadata_sizei31235e1:v13:\xc2\xb5Torrent 1.2e";
        let hello = ExtendedHandshake::decode(payload).unwrap();
        assert_eq!(hello.extensions["LT_metadata"], 1);
        assert_eq!(hello.extensions["µT_PEX"], 2);
        assert_eq!((hello.port, hello.metadata_size, hello.requests), (Some(6881), Some(31235), None));
        assert_eq!(hello.client.as_deref(), Some("µTorrent 1.2"));
    }

    #[test]
    fn what_does_not_fit_is_absent() {
        let payload = b"d1:md1:ai256e1:bi-1e1:c1:x1:di3ee13:metadata_sizei-5e1:pi70000e4:reqqi-1e1:vi1ee";
        let hello = ExtendedHandshake::decode(payload).unwrap();
        assert_eq!(hello.extensions, BTreeMap::from([("d".to_owned(), 3)]));
        assert_eq!(ExtendedHandshake { extensions: BTreeMap::new(), ..hello }, ExtendedHandshake::default());
        for bad in [b"".as_slice(), b"le", b"i1e", b"d"] {
            assert!(ExtendedHandshake::decode(bad).is_err());
        }
    }

    #[test]
    fn the_messages_of_bep_9() {
        let table = [
            (MetadataMessage::Request { piece: 0 }, b"d8:msg_typei0e5:piecei0ee".as_slice()),
            (
                MetadataMessage::Data { piece: 0, total_size: Some(3425), data: b"xxxxxxxx" },
                b"d8:msg_typei1e5:piecei0e10:total_sizei3425eexxxxxxxx",
            ),
            (MetadataMessage::Reject { piece: 0 }, b"d8:msg_typei2e5:piecei0ee"),
        ];
        for (message, payload) in table {
            assert_eq!(message.encode(), payload);
            assert_eq!(MetadataMessage::decode(payload), Ok(message));
            // How WebTorrent finds the end of the dictionary.
            let end = payload.windows(2).position(|pair| pair == b"ee").unwrap() + 2;
            assert!(bencode::decode(&payload[..end]).is_ok());
        }
        assert_eq!(MetadataMessage::decode(b"d8:msg_typei9ee"), Ok(MetadataMessage::Unknown));
        for bad in [b"".as_slice(), b"de", b"d8:msg_typei0ee", b"d8:msg_typei0e5:piecei-1ee", b"d5:piecei0ee"] {
            assert!(MetadataMessage::decode(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn handshakes_round_trip(
            extensions in prop::collection::btree_map("[a-z_]{1,12}", any::<u8>(), 0..8),
            metadata_size in prop::option::of(1_usize..1 << 40),
            port in prop::option::of(1_u16..),
            requests: Option<u32>,
            client in prop::option::of("[ -~]{0,64}"),
        ) {
            let hello = ExtendedHandshake { extensions, metadata_size, port, requests, client };
            prop_assert_eq!(ExtendedHandshake::decode(&hello.encode()).unwrap(), hello);
        }

        #[test]
        fn no_bytes_panic(payload: Vec<u8>, flip in 0_usize..60, bit in 0_u8..8) {
            let _ = ExtendedHandshake::decode(&payload);
            let _ = MetadataMessage::decode(&payload);
            let mut near = MetadataMessage::Data { piece: 3, total_size: Some(77_777), data: b"abcdefgh" }.encode();
            let at = flip % near.len();
            near[at] ^= 1 << bit;
            let _ = MetadataMessage::decode(&near);
            let _ = MetadataMessage::decode(&near[..at]);
        }
    }
}
