//! Messages → frames for clients.

use std::fmt::Write as _;

use super::{Description, Failure, Message, Offer, OfferId};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::Counts;

impl Message {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(self.size_hint());
        self.write_to(&mut out);
        out
    }

    /// Appends the text.
    pub fn write_to(&self, out: &mut String) {
        match self {
            Self::Announced { info_hash, interval, counts } => {
                let _ = write!(out, r#"{{"action":"announce","interval":{interval},"info_hash":"#);
                push_bytes(out, &info_hash.0);
                let Counts { complete, incomplete, .. } = counts;
                let _ = write!(out, r#","complete":{complete},"incomplete":{incomplete}}}"#);
            }
            Self::Offer { info_hash, peer_id, offer } => {
                push_relayed(out, "offer", &offer.description, &offer.id, peer_id, info_hash);
            }
            Self::Answer { info_hash, peer_id, offer_id, answer } => {
                push_relayed(out, "answer", answer, offer_id, peer_id, info_hash);
            }
            Self::Scraped(files) => {
                out.push_str(r#"{"action":"scrape","files":{"#);
                for (i, (info_hash, counts)) in files.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    push_bytes(out, &info_hash.0);
                    let Counts { complete, incomplete, downloaded } = counts;
                    let _ = write!(
                        out,
                        r#":{{"complete":{complete},"incomplete":{incomplete},"downloaded":{downloaded}}}"#
                    );
                }
                out.push_str("}}");
            }
            Self::Failure(failure) => out.push_str(&failure.encode()),
        }
    }

    /// How many bytes the text has, or some more.
    #[must_use]
    pub fn size_hint(&self) -> usize {
        // Twenty bytes that are random take some 42 with their escapes and quotes.
        match self {
            Self::Offer { offer: Offer { description: Description(sdp), .. }, .. }
            | Self::Answer { answer: Description(sdp), .. } => sdp.len() + 256,
            Self::Scraped(files) => 32 + 120 * files.len(),
            Self::Announced { .. } | Self::Failure(_) => 176,
        }
    }
}

impl Failure {
    fn encode(&self) -> String {
        let mut out = String::from("{");
        if let Some(action) = &self.action {
            let _ = write!(out, r#""action":{},"#, json_string(action));
        }
        if let Some(info_hash) = &self.info_hash {
            let _ = write!(out, r#""info_hash":{info_hash},"#);
        }
        if let Some(id) = &self.id {
            let _ = write!(out, r#""id":{id},"#);
        }
        let _ = write!(out, r#""failure reason":{}"#, json_string(&self.reason.to_string()));
        if let Some(code) = self.reason.code() {
            let _ = write!(out, r#","code":{code}"#);
        }
        out.push('}');
        out
    }
}

fn push_relayed(
    out: &mut String,
    kind: &str,
    Description(sdp): &Description,
    offer_id: &OfferId,
    peer_id: &PeerId,
    info_hash: &InfoHash,
) {
    for part in [r#"{"action":"announce",""#, kind, "\":", sdp, r#","offer_id":"#] {
        out.push_str(part);
    }
    push_bytes(out, &offer_id.0);
    out.push_str(r#","peer_id":"#);
    push_bytes(out, &peer_id.0);
    out.push_str(r#","info_hash":"#);
    push_bytes(out, &info_hash.0);
    out.push('}');
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("strings are JSON")
}

/// Binary as a JSON string of its own.
pub(super) fn bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len() + 2);
    push_bytes(&mut out, bytes);
    out
}

/// Binary as a JSON string, one character per byte, escaped as `JSON.stringify` does: clients compare decoded text, but
/// there is no reason to differ.
fn push_bytes(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for &byte in bytes {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0c => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            0x00..=0x1f => {
                out.push_str(if byte < 0x10 { "\\u000" } else { "\\u001" });
                out.push(char::from(b"0123456789abcdef"[usize::from(byte & 0x0f)]));
            }
            _ => out.push(char::from(byte)),
        }
    }
    out.push('"');
}
