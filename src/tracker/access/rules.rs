//! What the operator's lists say, and how they are written. No I/O.

use std::collections::{BTreeSet, HashSet};

use crate::wire::id::InfoHash;
use crate::wire::tracker::Refusal;

/// The two lists of info hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Never served.
    Denied,
    /// Served, where `tracker.only_allowed` is set.
    Allowed,
}

/// Who put an info hash on a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The operator's file, which only the operator changes.
    File,
    /// The admin API.
    Api,
}

/// One list: what its file says, and what was added over the API.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) file: HashSet<InfoHash>,
    /// Sorted, because it is written and shown.
    pub(super) api: BTreeSet<InfoHash>,
}

impl Entries {
    pub(super) fn origin(&self, info_hash: &InfoHash) -> Option<Origin> {
        match () {
            () if self.file.contains(info_hash) => Some(Origin::File),
            () if self.api.contains(info_hash) => Some(Origin::Api),
            () => None,
        }
    }
}

/// Everything that decides whether an announce is taken.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) denied: Entries,
    pub(super) allowed: Entries,
    pub(super) only_allowed: bool,
    /// `None` where everybody may announce.
    pub(super) passkeys: Option<HashSet<String>>,
}

impl Rules {
    /// A torrent that is on both lists is denied.
    pub(super) fn torrent(&self, info_hash: &InfoHash) -> Result<(), Refusal> {
        let denied = self.denied.origin(info_hash).is_some();
        let missing = self.only_allowed && self.allowed.origin(info_hash).is_none();
        if denied || missing { Err(Refusal::NotServed) } else { Ok(()) }
    }

    pub(super) fn client(&self, path: &str, query: &str) -> Result<(), Refusal> {
        match &self.passkeys {
            None => Ok(()),
            Some(passkeys) => {
                let holds = passkey(path, query).is_some_and(|passkey| passkeys.contains(passkey));
                if holds { Ok(()) } else { Err(Refusal::NoPasskey) }
            }
        }
    }

    pub(super) fn list(&self, list: List) -> &Entries {
        match list {
            List::Denied => &self.denied,
            List::Allowed => &self.allowed,
        }
    }

    pub(super) fn list_mut(&mut self, list: List) -> &mut Entries {
        match list {
            List::Denied => &mut self.denied,
            List::Allowed => &mut self.allowed,
        }
    }
}

/// The passkey in a tracker address: `?passkey=KEY`, or the last part of the path before `announce` or `scrape`.
fn passkey<'a>(path: &'a str, query: &'a str) -> Option<&'a str> {
    let named = query.split('&').find_map(|pair| pair.strip_prefix("passkey="));
    let mut parts = path.split('/').filter(|part| !part.is_empty()).rev().peekable();
    parts.next_if(|part| matches!(*part, "announce" | "scrape"));
    named.or_else(|| parts.next())
}

/// A line of a list that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LineError {
    line: usize,
    what: &'static str,
}

/// One info hash a line, in hexadecimal; `#` begins a comment.
pub(super) fn read_info_hashes<T: FromIterator<InfoHash>>(text: &str) -> Result<T, LineError> {
    let what = "an info hash is 40 hexadecimal digits";
    entries(text).map(|(line, entry)| InfoHash::from_hex(entry).map_err(|_| LineError { line, what })).collect()
}

/// One passkey a line. They stand in addresses, so they are made of what needs no escaping there, and long enough that
/// guessing one is hopeless.
pub(super) fn read_passkeys(text: &str) -> Result<HashSet<String>, LineError> {
    let what = "a passkey is 16 to 64 letters, digits, - and _";
    let fits = |entry: &str| {
        (16..=64).contains(&entry.len()) && entry.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    entries(text)
        .map(|(line, entry)| if fits(entry) { Ok(entry.to_owned()) } else { Err(LineError { line, what }) })
        .collect()
}

/// The lines that say something, with their numbers.
fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let bare = |line: &'_ str| line.split('#').next().unwrap_or_default().len();
    let lines = text.lines().enumerate().map(move |(i, line)| (i + 1, line[..bare(line)].trim()));
    lines.filter(|(_, entry)| !entry.is_empty())
}

/// What [`read_info_hashes`] reads.
pub(super) fn write_info_hashes<'a>(info_hashes: impl IntoIterator<Item = &'a InfoHash>) -> String {
    let mut out = String::from("# Kept by swarmgate: change it through the admin API.\n");
    for info_hash in info_hashes {
        out += &info_hash.to_hex();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    fn hash(n: u8) -> InfoHash {
        InfoHash([n; 20])
    }

    #[test]
    fn denied_wins_and_allowed_counts_where_it_must() {
        let rules = |only_allowed| Rules {
            denied: Entries { file: [hash(1)].into(), api: [hash(2)].into() },
            allowed: Entries { file: [hash(1), hash(3)].into(), api: [hash(4)].into() },
            only_allowed,
            passkeys: None,
        };
        for (n, open, listed) in
            [(1, false, false), (2, false, false), (3, true, true), (4, true, true), (5, true, false)]
        {
            assert_eq!(rules(false).torrent(&hash(n)).is_ok(), open, "{n}");
            assert_eq!(rules(true).torrent(&hash(n)).is_ok(), listed, "{n}");
        }
    }

    #[test]
    fn passkeys_in_addresses() {
        let private = Rules { passkeys: Some([KEY.to_owned()].into()), ..Rules::default() };
        let table = [
            (format!("/{KEY}/announce"), String::new(), true),
            (format!("/{KEY}/scrape"), String::new(), true),
            (format!("/{KEY}"), String::new(), true),
            (format!("/{KEY}/"), String::new(), true),
            (format!("/tracker/{KEY}/announce"), String::new(), true),
            ("/announce".into(), format!("a=1&passkey={KEY}"), true),
            ("/announce".into(), format!("passkey={KEY}&passkey=x"), true),
            (format!("/{KEY}/announce"), "passkey=x".into(), false),
            ("/announce".into(), String::new(), false),
            ("/announce".into(), "passkey=".into(), false),
            (format!("/announce/{KEY}/x"), String::new(), false),
            (String::new(), String::new(), false),
            (format!("/{}/announce", &KEY[1..]), String::new(), false),
        ];
        for (path, query, held) in table {
            assert_eq!(private.client(&path, &query).is_ok(), held, "{path}?{query}");
            assert_eq!(Rules::default().client(&path, &query), Ok(()));
        }
    }

    #[test]
    fn files_have_comments_and_their_mistakes_have_lines() {
        let hex = hash(0xab).to_hex();
        let text = format!("# what we do not serve\n\n  {hex}  # by order\r\n{}\n", hash(2));
        assert_eq!(read_info_hashes(&text), Ok(HashSet::from([hash(0xab), hash(2)])));
        let wrong = read_info_hashes::<HashSet<_>>(&format!("{text}{}\n", &hex[1..])).unwrap_err();
        assert_eq!(wrong.to_string(), "line 5: an info hash is 40 hexadecimal digits");

        let written = write_info_hashes(&[hash(1), hash(2)]);
        assert_eq!(read_info_hashes(&written), Ok(BTreeSet::from([hash(1), hash(2)])));

        assert_eq!(read_passkeys(&format!("{KEY} # alice\n")), Ok(HashSet::from([KEY.to_owned()])));
        for wrong in ["short", "has/slash/in/the/middle", &"x".repeat(65)] {
            assert_eq!(read_passkeys(wrong).unwrap_err().line, 1, "{wrong}");
        }
    }
}
