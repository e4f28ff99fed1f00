//! The `dht_*` messages of `spec/dht-proxy.md`: BEP 44 items over the tracker's WebSocket, and the same records over HTTP.
//!
//! [`Request`] is what a server reads and [`Reply`] what it writes. [`Record::verify_for`] is for whoever asked: it checks
//! that a record answers the question and that its signature verifies.

mod announce;
mod fields;
mod reply;
mod request;

use serde::{Deserialize, Serialize};

use super::hex;
use super::id::{IdError, PublicKey, Signature};
use super::item::{ItemError, Salt, SignedItem, VerifiedItem};

pub use announce::{Known, announce_frame};
pub use reply::{Failure, Reply, update_frame};
pub use request::{Call, Mode, Refused, Request, handles, parse_put_body};

/// The version of the message set this file speaks.
pub const VERSION: u32 = 1;

/// The actions it knows.
pub const ACTIONS: [&str; 5] = ["dht_info", "dht_get", "dht_put", "dht_subscribe", "dht_unsubscribe"];

/// Most records that one connection may follow: a page shows a few sites, a feed reader some dozens.
pub const MAX_SUBSCRIPTIONS: usize = 256;

/// Longest `id` of a request, in bytes: it is kept while the request is under way.
pub const MAX_ID: usize = 64;

/// BEP 5: "202 Server Error": it cannot be done now.
pub const SERVER_ERROR: i64 = 202;

/// BEP 5: "203 Protocol Error, such as a malformed packet, invalid arguments, or bad token".
pub const PROTOCOL_ERROR: i64 = 203;

/// BEP 5: "204 Method Unknown".
pub const METHOD_UNKNOWN: i64 = 204;

/// A record as JSON: the fields of a mutable item, binary ones in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The author's public key.
    pub k: String,
    /// Left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// The sequence number.
    pub seq: i64,
    /// The raw bencoded value.
    pub v: String,
    /// The signature.
    pub sig: String,
}

impl From<&VerifiedItem> for Record {
    fn from(item: &VerifiedItem) -> Self {
        Self::from(item.as_signed())
    }
}

impl From<&SignedItem> for Record {
    fn from(item: &SignedItem) -> Self {
        Self {
            k: item.key.to_hex(),
            salt: (!item.salt.is_empty()).then(|| hex::encode(item.salt.as_bytes())),
            seq: item.seq,
            v: hex::encode(&item.v),
            sig: item.sig.to_hex(),
        }
    }
}

impl Record {
    /// Reads the fields. The signature is not checked yet: that is [`SignedItem::verify`].
    ///
    /// # Errors
    /// A field that is not hexadecimal or of the wrong length.
    pub fn to_item(&self) -> Result<SignedItem, FieldError> {
        Ok(SignedItem {
            key: PublicKey::from_hex(&self.k)?,
            salt: salt_from_hex(self.salt.as_deref().unwrap_or_default())?,
            seq: self.seq,
            v: value_from_hex(&self.v)?,
            sig: Signature::from_hex(&self.sig)?,
        })
    }

    /// Checks a server's answer to a get of `key` and `salt` by somebody who has seen version `floor` already: the
    /// server is not trusted.
    ///
    /// # Errors
    /// The record is malformed, forged, somebody else's, or older than `floor`.
    pub fn verify_for(&self, key: &PublicKey, salt: &Salt, floor: Option<i64>) -> Result<VerifiedItem, AnswerError> {
        let item = self.to_item().map_err(AnswerError::Malformed)?;
        if (&item.key, &item.salt) != (key, salt) {
            return Err(AnswerError::NotAsked);
        }
        let item = item.verify().map_err(AnswerError::Invalid)?;
        match floor {
            Some(floor) if item.seq() < floor => Err(AnswerError::Rollback { floor }),
            _ => Ok(item),
        }
    }
}

/// Why a server's answer is not to be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not a record.
    #[error("the server's record is malformed: {0}")]
    Malformed(FieldError),
    /// A record that no honest server gives out.
    #[error("the server's record is not valid: {0}")]
    Invalid(ItemError),
    /// A good record of another key or salt.
    #[error("the server answered with the record of another key or salt")]
    NotAsked,
    /// A good record that is older than one seen before.
    #[error("the server answered with a version older than number {floor}, which was seen before")]
    Rollback {
        /// The newest number seen before.
        floor: i64,
    },
}

/// Why a field of a message is not what it must be: one sentence, with its code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The text is not a JSON object.
    #[error("the message is not a JSON object")]
    NotAnObject,
    /// It must be there.
    #[error("the field \"{0}\" is missing")]
    Missing(&'static str),
    /// It must not be there.
    #[error("the field \"{0}\" does not belong in this request")]
    Unexpected(&'static str),
    /// It must be a string.
    #[error("the field \"{0}\" must be a string")]
    NotText(&'static str),
    /// It must be a number.
    #[error("the field \"{0}\" must be an integer between 0 and 2^53-1")]
    NotANumber(&'static str),
    /// Hexadecimal of any length was expected.
    #[error("the field \"{0}\" must be hexadecimal, two digits a byte")]
    NotHex(&'static str),
    /// Not a word that `mode` may be.
    #[error("the field \"mode\" must be \"cache_first\", \"cache_only\" or \"network\"")]
    NotAMode,
    /// The key and salt in an announce do not make its info hash.
    #[error("the key and salt do not belong to this info hash")]
    NotItsTarget,
    /// `id` is longer than [`MAX_ID`].
    #[error("the field \"id\" is longer than {MAX_ID} bytes")]
    IdTooLong,
    /// An action that begins with `dht_` and that nobody knows.
    #[error("the action is not known; \"dht_info\" tells which are")]
    UnknownAction,
    /// The record is not the one that the address names.
    #[error("the record's {0} is not the one in the address")]
    NotAsAddressed(&'static str),
    /// Not `2 × n` hexadecimal digits.
    #[error("{0}")]
    Id(#[from] IdError),
    /// An item that nobody may store.
    #[error("{0}")]
    Item(#[from] ItemError),
}

impl FieldError {
    /// The error code of `spec/dht-proxy.md`.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Self::Item(error) => error.code(),
            Self::UnknownAction => METHOD_UNKNOWN,
            _ => PROTOCOL_ERROR,
        }
    }
}

/// Reads a salt; the empty text is no salt.
///
/// # Errors
/// Not hexadecimal, or too long.
pub fn salt_from_hex(text: &str) -> Result<Salt, FieldError> {
    Ok(Salt::new(hex::decode(text).ok_or(FieldError::NotHex("salt"))?)?)
}

fn value_from_hex(text: &str) -> Result<Vec<u8>, FieldError> {
    hex::decode(text).ok_or(FieldError::NotHex("v"))
}

/// Where a record in a reply came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// From what the server keeps.
    Cache,
    /// The DHT was asked for this reply, and holds it.
    Dht,
}
