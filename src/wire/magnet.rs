//! Magnet links: `urn:btih` (BEP 9) and `urn:btpk` (BEP 46).
//!
//! `magnet:?xs=urn:btpk:<64 hex>[&s=<salt, hex>]` names a mutable torrent by its author's key;
//! `magnet:?xt=urn:btih:<40 hex or 32 base32>` names one torrent. A link may carry both: the key, and the version that was
//! current when it was shared.

use std::fmt::Write as _;

use data_encoding::BASE32;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::hex;
use super::id::{InfoHash, PublicKey};
use super::item::Salt;

/// Longest link read. Links are typed by strangers and shown to people; real ones stay well below.
pub const MAX_LENGTH: usize = 16 * 1024;

/// Most trackers, web seeds or peers kept of one link.
pub const MAX_LIST: usize = 64;

/// Why a text is not a usable magnet link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MagnetError {
    /// It does not start with `magnet:?`.
    #[error("not a magnet link (it must start with \"magnet:?\")")]
    NotAMagnet,
    /// Longer than [`MAX_LENGTH`].
    #[error("the magnet link is longer than {MAX_LENGTH} characters")]
    TooLong,
    /// A parameter that names the torrent is malformed.
    #[error("the magnet link's {0} is malformed")]
    Malformed(&'static str),
    /// Two different torrents, keys or salts.
    #[error("the magnet link names two different {0}")]
    Ambiguous(&'static str),
    /// Only a v2 info hash (BEP 52).
    #[error("the magnet link names a v2-only torrent, which is not supported")]
    V2Only,
    /// Neither an info hash nor a key.
    #[error("the magnet link names no torrent (it has neither xt=urn:btih nor xs=urn:btpk)")]
    NoTarget,
}

/// A parsed magnet link: at least one of `info_hash` and `key` is present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Magnet {
    /// `xt=urn:btih:…`
    pub info_hash: Option<InfoHash>,
    /// `xs=urn:btpk:…`
    pub key: Option<PublicKey>,
    /// `s=…`, hexadecimal; empty for none.
    pub salt: Salt,
    /// `dn=…`: a suggestion, to be shown as text only.
    pub name: Option<String>,
    /// `tr=…`
    pub trackers: Vec<String>,
    /// `ws=…` (BEP 19)
    pub web_seeds: Vec<String>,
    /// `x.pe=…`: `host:port` of peers, unresolved.
    pub peers: Vec<String>,
}

impl Magnet {
    /// Reads a link.
    ///
    /// # Errors
    /// See [`MagnetError`]. Parameters that are unknown are ignored.
    pub fn parse(link: &str) -> Result<Self, MagnetError> {
        if link.len() > MAX_LENGTH {
            return Err(MagnetError::TooLong);
        }
        let (scheme, query) = link.trim().split_once(":?").ok_or(MagnetError::NotAMagnet)?;
        if !scheme.eq_ignore_ascii_case("magnet") {
            return Err(MagnetError::NotAMagnet);
        }
        let mut magnet = Self::default();
        let mut v2 = false;
        let mut salt = None;
        for pair in query.split('&') {
            let (name, written) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(written).decode_utf8_lossy().into_owned();
            // "xt.1", "tr.2": the numbered form some clients write for repeated parameters.
            let name = match name.split_once('.') {
                Some((base, n)) if n.bytes().all(|b| b.is_ascii_digit()) => base,
                _ => name,
            };
            match name {
                "xt" if has_prefix(&value, "urn:btmh:") => v2 = true,
                "xt" => {
                    if let Some(hash) = strip_prefix(&value, "urn:btih:") {
                        let hash = parse_info_hash(hash).ok_or(MagnetError::Malformed("info hash"))?;
                        set(&mut magnet.info_hash, hash, "info hashes")?;
                    }
                }
                "xs" => {
                    if let Some(key) = strip_prefix(&value, "urn:btpk:") {
                        let key = PublicKey::from_hex(key).map_err(|_| MagnetError::Malformed("public key"))?;
                        set(&mut magnet.key, key, "public keys")?;
                    }
                }
                "s" => {
                    let bytes = hex::decode(&value).and_then(|bytes| Salt::new(bytes).ok());
                    set(&mut salt, bytes.ok_or(MagnetError::Malformed("salt"))?, "salts")?;
                }
                // Forms write a space as a plus sign, and a plus sign as %2B.
                "dn" if magnet.name.is_none() => {
                    let name = written.replace('+', " ");
                    magnet.name = Some(percent_decode_str(&name).decode_utf8_lossy().into_owned());
                }
                "tr" => push(&mut magnet.trackers, value),
                "ws" => push(&mut magnet.web_seeds, value),
                "x.pe" => push(&mut magnet.peers, value),
                _ => {}
            }
        }
        magnet.salt = salt.unwrap_or_default();
        match (&magnet.info_hash, &magnet.key) {
            (None, None) if v2 => Err(MagnetError::V2Only),
            (None, None) => Err(MagnetError::NoTarget),
            _ => Ok(magnet),
        }
    }
}

impl std::fmt::Display for Magnet {
    /// The link, key first, as every reader of `btpk` links expects it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut link = String::from("magnet:?");
        let mut separator = "";
        let mut push = |name: &str, value: &str| {
            let _ = write!(link, "{separator}{name}={value}");
            separator = "&";
        };
        if let Some(key) = &self.key {
            push("xs", &format!("urn:btpk:{key}"));
            if !self.salt.is_empty() {
                push("s", &hex::encode(self.salt.as_bytes()));
            }
        }
        if let Some(hash) = &self.info_hash {
            push("xt", &format!("urn:btih:{hash}"));
        }
        if let Some(name) = &self.name {
            push("dn", &escape(name));
        }
        for (name, list) in [("tr", &self.trackers), ("ws", &self.web_seeds), ("x.pe", &self.peers)] {
            for value in list {
                push(name, &escape(value));
            }
        }
        f.write_str(&link)
    }
}

/// Everything but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn escape(value: &str) -> String {
    utf8_percent_encode(value, RESERVED).to_string()
}

fn has_prefix(value: &str, prefix: &str) -> bool {
    strip_prefix(value, prefix).is_some()
}

/// URN namespaces are case-insensitive (RFC 8141 §3.1).
fn strip_prefix<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    let head = value.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &value[prefix.len()..])
}

/// BEP 9: "the info-hash hex encoded, for a total of 40 characters. For compatability with existing links in the wild,
/// clients should also support the 32 character base32 encoded info-hash".
fn parse_info_hash(text: &str) -> Option<InfoHash> {
    match text.len() {
        40 => InfoHash::from_hex(text).ok(),
        32 => InfoHash::from_slice(&BASE32.decode(text.to_ascii_uppercase().as_bytes()).ok()?).ok(),
        _ => None,
    }
}

fn set<T: PartialEq>(slot: &mut Option<T>, value: T, what: &'static str) -> Result<(), MagnetError> {
    match slot {
        Some(existing) if *existing != value => Err(MagnetError::Ambiguous(what)),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn push(list: &mut Vec<String>, value: String) {
    if !value.is_empty() && list.len() < MAX_LIST && !list.contains(&value) {
        list.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "c9e15763f722f23e98a29decdfae341b98d53056";
    const KEY: &str = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";

    #[test]
    fn names_are_read_as_forms_write_them_and_as_addresses_do() {
        for (written, name) in [("C%2B%2B", "C++"), ("a+b", "a b"), ("a%20b", "a b"), ("C%2B%2B+notes", "C++ notes")] {
            let magnet = Magnet::parse(&format!("magnet:?xt=urn:btih:{HASH}&dn={written}")).unwrap();
            assert_eq!(magnet.name.as_deref(), Some(name), "{written}");
        }
    }

    #[test]
    fn both_kinds_of_link() {
        let magnet = Magnet::parse(&format!("magnet:?xs=urn:btpk:{KEY}")).unwrap();
        assert_eq!(magnet.key.unwrap().to_hex(), KEY);
        assert!(magnet.info_hash.is_none() && magnet.salt.is_empty());

        let link = format!(
            "magnet:?xs=urn:btpk:{KEY}&s=6e&xt=urn:btih:{HASH}&dn=A%20b&tr=wss%3A%2F%2Fh%2Fannounce&x.pe=1.2.3.4%3A5"
        );
        let magnet = Magnet::parse(&link).unwrap();
        assert_eq!(magnet.salt.as_bytes(), b"n");
        assert_eq!(magnet.info_hash.unwrap().to_hex(), HASH);
        assert_eq!(magnet.name.as_deref(), Some("A b"));
        assert_eq!(magnet.trackers, ["wss://h/announce"]);
        assert_eq!(magnet.peers, ["1.2.3.4:5"]);
        assert_eq!(magnet.to_string(), link);
    }

    #[test]
    fn what_clients_really_write() {
        for link in [
            format!("magnet:?xt=urn:btih:{}", HASH.to_uppercase()),
            format!("MAGNET:?XT=x&xt=URN:BTIH:{HASH}"),
            "magnet:?xt=urn:btih:ZHQVOY7XELZD5GFCTXWN7LRUDOMNKMCW".to_owned(),
            format!("magnet:?xt.1=urn:btih:{HASH}&tr.1=udp://a&tr.2=udp://b"),
            format!("  magnet:?dn=x&&xt=urn:btih:{HASH}&xt=urn:btmh:1220{}\n", "ab".repeat(32)),
        ] {
            assert_eq!(Magnet::parse(&link).unwrap().info_hash.unwrap().to_hex(), HASH, "{link}");
        }
    }

    #[test]
    fn nonsense_gets_one_clear_sentence() {
        let table = [
            ("", "not a magnet link (it must start with \"magnet:?\")"),
            ("http://example.org/?xt=urn:btih:00", "not a magnet link (it must start with \"magnet:?\")"),
            ("magnet:?", "the magnet link names no torrent (it has neither xt=urn:btih nor xs=urn:btpk)"),
            ("magnet:?xt=urn:btih:1234", "the magnet link's info hash is malformed"),
            ("magnet:?xs=urn:btpk:1234", "the magnet link's public key is malformed"),
            (&format!("magnet:?xs=urn:btpk:{KEY}&s=xyz"), "the magnet link's salt is malformed"),
            (&format!("magnet:?xs=urn:btpk:{KEY}&s={}", "00".repeat(65)), "the magnet link's salt is malformed"),
            (
                &format!("magnet:?xt=urn:btih:{HASH}&xt=urn:btih:{}", "0".repeat(40)),
                "the magnet link names two different info hashes",
            ),
            (
                &format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32)),
                "the magnet link names a v2-only torrent, which is not supported",
            ),
            (&format!("magnet:?{}", "x".repeat(MAX_LENGTH)), "the magnet link is longer than 16384 characters"),
        ];
        for (link, sentence) in table {
            assert_eq!(Magnet::parse(link).unwrap_err().to_string(), sentence, "{link}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_back(text in ".{0,200}") {
            let link = format!("magnet:?xs=urn:btpk:{KEY}&{text}");
            if let Ok(magnet) = Magnet::parse(&link) {
                proptest::prop_assert_eq!(&Magnet::parse(&magnet.to_string()).unwrap(), &magnet);
            }
        }
    }
}
