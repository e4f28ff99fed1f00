//! What servers answer and push, as text frames.
//!
//! Frames are written as text at once: most requests are gets of records that the server keeps, and for those writing the
//! answer is most of the work.

use std::fmt::{Display, Write as _};

use super::{ACTIONS, FieldError, MAX_SUBSCRIPTIONS, Source, VERSION};
use crate::wire::hex;
use crate::wire::id::Target;
use crate::wire::item::{MAX_SALT, MAX_SEQ, MAX_VALUE, VerifiedItem};

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `dht_info`.
    Info {
        /// Good nodes known.
        nodes: usize,
        /// The first search for nodes is over.
        ready: bool,
        /// Where on the server web seeds (BEP 19) are, by info hash; `None` when it offers none.
        web_seeds: Option<&'static str>,
    },
    /// The newest version of a mutable item.
    Found {
        /// The item.
        item: Box<VerifiedItem>,
        /// Where it came from.
        source: Source,
        /// Two values with this sequence number were seen.
        conflict: bool,
    },
    /// The newest version is not newer than the one the client has.
    Unchanged {
        /// Where the item lives.
        target: Target,
        /// The newest version's number.
        seq: i64,
    },
    /// An immutable item.
    FoundValue {
        /// Where it lives.
        target: Target,
        /// The raw bencoded value.
        v: Vec<u8>,
    },
    /// Nobody asked has it.
    NotFound {
        /// Where it would live.
        target: Target,
    },
    /// A subscription is over.
    Unsubscribed {
        /// Where the item lives.
        target: Target,
    },
    /// A put was done.
    Stored {
        /// Where the item lives.
        target: Target,
        /// Of a mutable item.
        seq: Option<i64>,
        /// DHT nodes that took it.
        stored: usize,
        /// Two values with this sequence number were seen.
        conflict: bool,
    },
    /// It could not be done.
    Failed(Failure),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub code: i64,
    /// For people: one sentence.
    pub sentence: String,
    /// With 301 and 302, the version that won.
    pub current: Option<Box<VerifiedItem>>,
}

impl From<FieldError> for Failure {
    fn from(error: FieldError) -> Self {
        Self { code: error.code(), sentence: error.to_string(), current: None }
    }
}

impl Reply {
    /// The text frame that answers a request of this `action` and `id`.
    #[must_use]
    pub fn to_frame(&self, action: &str, id: Option<&str>) -> String {
        let mut frame = Object::new(self.size());
        frame.text("action", action);
        if let Some(id) = id {
            frame.text("id", id);
        }
        match self {
            Self::Info { nodes, ready, web_seeds } => {
                frame.value("version", VERSION);
                frame.value("actions", serde_json::json!(ACTIONS));
                frame.value(
                    "limits",
                    format_args!(
                        r#"{{"v":{MAX_VALUE},"salt":{MAX_SALT},"seq":{MAX_SEQ},"subscriptions":{MAX_SUBSCRIPTIONS}}}"#
                    ),
                );
                frame.value("dht", format_args!(r#"{{"nodes":{nodes},"ready":{ready}}}"#));
                if let Some(path) = web_seeds {
                    frame.text("web_seeds", path);
                }
            }
            Self::Found { item, source, conflict } => {
                frame.value("found", true);
                frame.text("source", source.word());
                frame.hex("target", item.target().as_bytes());
                frame.record(item);
                frame.conflict(*conflict);
            }
            Self::Unchanged { target, seq } => {
                frame.value("found", true);
                frame.value("unchanged", true);
                frame.hex("target", target.as_bytes());
                frame.value("seq", seq);
            }
            Self::FoundValue { target, v } => {
                frame.value("found", true);
                frame.hex("target", target.as_bytes());
                frame.hex("v", v);
            }
            Self::NotFound { target } => {
                frame.value("found", false);
                frame.hex("target", target.as_bytes());
            }
            Self::Unsubscribed { target } => frame.hex("target", target.as_bytes()),
            Self::Stored { target, seq, stored, conflict } => {
                frame.hex("target", target.as_bytes());
                if let Some(seq) = seq {
                    frame.value("seq", seq);
                }
                frame.value("stored", stored);
                frame.conflict(*conflict);
            }
            Self::Failed(Failure { code, sentence, current }) => {
                frame.text("failure reason", sentence);
                frame.value("code", code);
                if let Some(item) = current {
                    frame.value("current", record_json(item));
                }
            }
        }
        frame.end()
    }

    /// Bytes that the frame takes, roughly.
    fn size(&self) -> usize {
        match self {
            Self::Found { item, .. } | Self::Failed(Failure { current: Some(item), .. }) => size(item),
            Self::FoundValue { v, .. } => ENVELOPE + 2 * v.len(),
            _ => ENVELOPE,
        }
    }
}

impl Source {
    fn word(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Dht => "dht",
        }
    }
}

/// The frame that tells a subscriber of a newer version. It names no request, so all subscribers get the same one.
#[must_use]
pub fn update_frame(item: &VerifiedItem, conflict: bool) -> String {
    let mut frame = Object::new(size(item));
    frame.text("action", "dht_update");
    frame.hex("target", item.target().as_bytes());
    frame.record(item);
    frame.conflict(conflict);
    frame.end()
}

/// A record as [`super::Record`] says.
pub(super) fn record_json(item: &VerifiedItem) -> String {
    let mut record = Object::new(size(item));
    record.record(item);
    record.end()
}

/// What a frame takes beside a record's binary fields.
const ENVELOPE: usize = 224;

fn size(item: &VerifiedItem) -> usize {
    ENVELOPE + 2 * (32 + 64 + item.salt().as_bytes().len() + item.v().len())
}

/// A JSON object while it is written. The names of fields are ours, and need no escapes.
struct Object(String);

impl Object {
    fn new(size: usize) -> Self {
        let mut out = String::with_capacity(size);
        out.push('{');
        Self(out)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    /// A value that is JSON when it is displayed.
    fn value(&mut self, name: &str, value: impl Display) {
        self.name(name);
        let _ = write!(self.0, "{value}");
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.0.push_str(&serde_json::to_string(text).expect("text is JSON"));
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.0.push('"');
        hex::append(bytes, &mut self.0);
        self.0.push('"');
    }

    fn record(&mut self, item: &VerifiedItem) {
        self.hex("k", item.key().as_bytes());
        if !item.salt().is_empty() {
            self.hex("salt", item.salt().as_bytes());
        }
        self.value("seq", item.seq());
        self.hex("v", item.v());
        self.hex("sig", item.sig().as_bytes());
    }

    fn conflict(&mut self, conflict: bool) {
        if conflict {
            self.value("conflict", true);
        }
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use serde_json::{Value, json};

    use super::super::Record;
    use super::*;
    use crate::wire::item::Salt;

    /// The vectors hold the frames of well-behaved clients; this, that an `id` of any other does not get out of its string.
    #[test]
    fn whatever_a_client_calls_its_request_the_reply_is_json() {
        let target = Target([1; 20]);
        for id in ["", "\"", "\\", "\u{0}\n", "\u{2028}é", "\",\"found\":true"] {
            let frame = Reply::NotFound { target }.to_frame("dht_get", Some(id));
            let frame: Value = serde_json::from_str(&frame).unwrap();
            assert_eq!((&frame["id"], &frame["found"]), (&json!(id), &json!(false)));
        }
    }

    #[test]
    fn a_record_is_written_as_it_is_read() {
        let key = SigningKey::from_bytes(&[1; 32]);
        for (salt, v) in [(&b""[..], &b"le"[..]), (b"n", &[b"990:".as_slice(), &[0xfe; 990]].concat())] {
            let item = VerifiedItem::sign(&key, Salt::new(salt).unwrap(), 1 << 52, v.to_vec()).unwrap();
            let json = record_json(&item);
            assert!(json.len() <= size(&item));
            let record: Record = serde_json::from_str(&json).unwrap();
            assert_eq!(record, Record::from(&item));
            assert_eq!(record.to_item().as_ref(), Ok(item.as_signed()));
        }
    }
}
