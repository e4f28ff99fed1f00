//! Messages → frames for clients.

use std::io::Write as _;

use super::{Description, Failure, Message, Offer, OfferId};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::Counts;

impl Message<'_> {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = Vec::with_capacity(self.size_hint());
        self.write_to(&mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    /// Appends the text.
    pub fn write_to(&self, out: &mut Vec<u8>) {
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
                out.extend_from_slice(br#"{"action":"scrape","files":{"#);
                for (i, (info_hash, counts)) in files.iter().enumerate() {
                    out.extend_from_slice(if i == 0 { b"" } else { b"," });
                    push_bytes(out, &info_hash.0);
                    let Counts { complete, incomplete, downloaded } = counts;
                    let _ = write!(
                        out,
                        r#":{{"complete":{complete},"incomplete":{incomplete},"downloaded":{downloaded}}}"#
                    );
                }
                out.extend_from_slice(b"}}");
            }
            Self::Failure(failure) => out.extend_from_slice(failure.encode().as_bytes()),
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
        use std::fmt::Write as _;
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
    out: &mut Vec<u8>,
    kind: &str,
    Description(sdp): &Description<'_>,
    offer_id: &OfferId,
    peer_id: &PeerId,
    info_hash: &InfoHash,
) {
    for part in [r#"{"action":"announce",""#, kind, "\":", sdp, r#","offer_id":"#] {
        out.extend_from_slice(part.as_bytes());
    }
    push_bytes(out, &offer_id.0);
    out.extend_from_slice(br#","peer_id":"#);
    push_bytes(out, &peer_id.0);
    out.extend_from_slice(br#","info_hash":"#);
    push_bytes(out, &info_hash.0);
    out.push(b'}');
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("strings are JSON")
}

/// Binary as a JSON string of its own.
pub(super) fn string_of(bytes: &[u8; 20]) -> String {
    let mut out = Vec::new();
    push_bytes(&mut out, bytes);
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// Binary as a JSON string, one character per byte, escaped as `JSON.stringify` does: clients compare decoded text, but
/// there is no reason to differ.
fn push_bytes(out: &mut Vec<u8>, bytes: &[u8; 20]) {
    // Twenty characters of the longest escape.
    let (mut text, mut length) = ([0; 20 * LONGEST], 0);
    for &byte in bytes {
        if let Some((escape, taken)) = escape(byte) {
            text[length..length + LONGEST].copy_from_slice(&escape);
            length += taken;
        } else {
            // One byte of UTF-8, or two; without a branch, which could only be guessed.
            let wide = byte >> 7;
            text[length] = if wide == 1 { 0xc0 | byte >> 6 } else { byte };
            text[length + 1] = 0x80 | byte & 0x3f;
            length += 1 + usize::from(wide);
        }
    }
    out.push(b'"');
    out.extend_from_slice(&text[..length]);
    out.push(b'"');
}

/// Bytes of `\u00ff`.
const LONGEST: usize = 6;

/// How a byte is written that does not stand for itself, and how many bytes of that count.
fn escape(byte: u8) -> Option<([u8; LONGEST], usize)> {
    let short = |letter| Some(([b'\\', letter, 0, 0, 0, 0], 2));
    match byte {
        b'"' | b'\\' => short(byte),
        0x08 => short(b'b'),
        b'\t' => short(b't'),
        b'\n' => short(b'n'),
        0x0c => short(b'f'),
        b'\r' => short(b'r'),
        0x00..=0x1f => {
            let [high, low] = [byte >> 4, byte & 0x0f].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
            Some(([b'\\', b'u', b'0', b'0', high, low], LONGEST))
        }
        _ => None,
    }
}
