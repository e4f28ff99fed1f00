//! The record exchange extension of the peer wire: `spec/record-exchange.md`.

use super::bencode::{self, Node};
use super::id::{PublicKey, Signature, Target};
use super::item::{MAX_SEQ, Salt, SignedItem, VerifiedItem, immutable_target, mutable_target};

/// The extension's name in the extension handshake (BEP 10).
pub const NAME: &str = "sg_record";

/// *Limits*: "payload: 4096 bytes".
pub const MAX_PAYLOAD: usize = 4096;

/// *Limits*: "records of one connection: 16".
pub const MAX_RECORDS: usize = 16;

/// Why a payload is not a message of the extension. All of them are ignored alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Longer than [`MAX_PAYLOAD`].
    #[error("longer than {MAX_PAYLOAD} bytes")]
    TooLong,
    /// Not bencode.
    #[error(transparent)]
    Bencode(#[from] bencode::Error),
    /// Bencode that lacks what the message needs, or has it in another type or length.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// One version of a record, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// Its sequence number.
    pub seq: i64,
    /// The SHA-1 of its value.
    pub hash: Target,
}

impl Version {
    /// The version of `item`.
    #[must_use]
    pub fn of(item: &VerifiedItem) -> Self {
        Self { seq: item.seq(), hash: immutable_target(item.v()) }
    }
}

/// A record's name, and the newest version its sender has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The author.
    pub key: PublicKey,
    /// Tells several records of one author apart.
    pub salt: Salt,
    /// `None` when the sender has none and wants one.
    pub version: Option<Version>,
}

impl Summary {
    /// The target of the record.
    #[must_use]
    pub fn target(&self) -> Target {
        mutable_target(&self.key, &self.salt)
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExchangeMessage {
    /// "What the sender has, and that it wants to be told of newer versions from now on."
    Have(Vec<Summary>),
    /// "A version." Not verified yet.
    Record(SignedItem),
    /// Of a later version of the extension.
    Unknown,
}

impl ExchangeMessage {
    /// Reads a payload.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub fn decode(payload: &[u8]) -> Result<Self, ExchangeError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(ExchangeError::TooLong);
        }
        let node = bencode::decode(payload)?;
        match node.get(b"msg_type").and_then(Node::int).ok_or(ExchangeError::Malformed("msg_type"))? {
            0 => {
                let records =
                    node.get(b"r").and_then(Node::items).ok_or(ExchangeError::Malformed("list of records"))?;
                records.iter().take(MAX_RECORDS).map(summary).collect::<Option<_>>().map(Self::Have)
            }
            1 => record(&node).map(Self::Record),
            _ => return Ok(Self::Unknown),
        }
        .ok_or(ExchangeError::Malformed("record"))
    }
}

fn summary(node: &Node<'_>) -> Option<Summary> {
    let (key, salt) = name(node)?;
    let version = match (node.get(b"seq"), node.get(b"h")) {
        (None, None) => None,
        (seq, hash) => {
            let seq = seq?.int().filter(|seq| (0..=MAX_SEQ).contains(seq))?;
            Some(Version { seq, hash: Target::from_slice(hash?.bytes()?).ok()? })
        }
    };
    Some(Summary { key, salt, version })
}

fn record(node: &Node<'_>) -> Option<SignedItem> {
    let (key, salt) = name(node)?;
    let seq = node.get(b"seq")?.int()?;
    let sig = Signature::from_slice(node.get(b"sig")?.bytes()?).ok()?;
    Some(SignedItem { key, salt, seq, v: node.get(b"v")?.bytes()?.to_vec(), sig })
}

fn name(node: &Node<'_>) -> Option<(PublicKey, Salt)> {
    let key = PublicKey::from_slice(node.get(b"k")?.bytes()?).ok()?;
    let salt = node.get(b"salt").map_or(Some(&[][..]), Node::bytes)?;
    Some((key, Salt::new(salt).ok()?))
}

/// The payload of a `have`. Past [`MAX_RECORDS`] nobody reads on.
#[must_use]
pub fn have<'a>(records: impl IntoIterator<Item = &'a Summary>) -> Vec<u8> {
    bencode::dict(|d| {
        d.int(b"msg_type", 0);
        d.list(b"r", |list| {
            for record in records.into_iter().take(MAX_RECORDS) {
                list.dict(|d| {
                    if let Some(version) = &record.version {
                        d.bytes(b"h", &version.hash.0);
                    }
                    d.bytes(b"k", &record.key.0);
                    if !record.salt.is_empty() {
                        d.bytes(b"salt", record.salt.as_bytes());
                    }
                    if let Some(version) = &record.version {
                        d.int(b"seq", version.seq);
                    }
                });
            }
        });
    })
}

/// The payload of a `record`. "`v` is a byte string whose content is the raw bencoded value": nothing on the way encodes
/// it again.
#[must_use]
pub fn bring(item: &SignedItem) -> Vec<u8> {
    bencode::dict(|d| {
        d.bytes(b"k", &item.key.0).int(b"msg_type", 1);
        if !item.salt.is_empty() {
            d.bytes(b"salt", item.salt.as_bytes());
        }
        d.int(b"seq", item.seq).bytes(b"sig", &item.sig.0).bytes(b"v", &item.v);
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summaries() -> impl Strategy<Value = Vec<Summary>> {
        let version = prop::option::of((0..=MAX_SEQ, any::<[u8; 20]>()));
        let one = (any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 0..=64), version);
        let one = one.prop_map(|(key, salt, version)| Summary {
            key: PublicKey(key),
            salt: Salt::new(salt).unwrap(),
            version: version.map(|(seq, hash)| Version { seq, hash: Target(hash) }),
        });
        prop::collection::vec(one, 0..=MAX_RECORDS)
    }

    fn item() -> impl Strategy<Value = SignedItem> {
        let bytes = |max| prop::collection::vec(any::<u8>(), 0..=max);
        (any::<[u8; 32]>(), bytes(64), any::<i64>(), bytes(1000), any::<[u8; 64]>()).prop_map(
            |(key, salt, seq, v, sig)| SignedItem {
                key: PublicKey(key),
                salt: Salt::new(salt).unwrap(),
                seq,
                v,
                sig: Signature(sig),
            },
        )
    }

    proptest! {
        #[test]
        fn have_round_trips(summaries in summaries()) {
            let payload = have(&summaries);
            prop_assert!(payload.len() <= MAX_PAYLOAD && bencode::decode(&payload).unwrap().is_canonical());
            prop_assert_eq!(ExchangeMessage::decode(&payload), Ok(ExchangeMessage::Have(summaries)));
        }

        #[test]
        fn records_round_trip(item in item()) {
            let payload = bring(&item);
            prop_assert!(payload.len() <= MAX_PAYLOAD && bencode::decode(&payload).unwrap().is_canonical());
            prop_assert_eq!(ExchangeMessage::decode(&payload), Ok(ExchangeMessage::Record(item)));
        }

        /// Truncated, extended or with a byte changed, a payload is another message or an error, and no version that
        /// comes out of it is out of range.
        #[test]
        fn perturbed_payloads_do_no_harm(item in item(), summaries in summaries(), at: prop::sample::Index, byte: u8) {
            for payload in [bring(&item), have(&summaries)] {
                let at = at.index(payload.len());
                let mut flipped = payload.clone();
                flipped[at] = byte;
                prop_assert!(ExchangeMessage::decode(&payload[..at]).is_err());
                prop_assert!(ExchangeMessage::decode(&[&payload[..], &[byte]].concat()).is_err());
                if let Ok(ExchangeMessage::Have(read)) = ExchangeMessage::decode(&flipped) {
                    let versions = read.iter().filter_map(|summary| summary.version);
                    prop_assert!(versions.into_iter().all(|version| (0..=MAX_SEQ).contains(&version.seq)));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            let _ = ExchangeMessage::decode(&bytes);
        }
    }
}
