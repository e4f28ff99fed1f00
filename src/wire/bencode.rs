//! Bencode (BEP 3) that keeps what it read.
//!
//! Every decoded [`Node`] borrows the input and remembers the exact bytes it came from ([`Node::raw`]), because a
//! BEP 44 value is signed and hashed as sent: re-encoding it could change it. Depth and size are bounded before
//! anything is allocated.
//!
//! [`decode`] accepts dictionaries whose keys are out of order, since deployed nodes send them; [`Node::is_canonical`]
//! tells whether the text is the one and only bencoding of its value, which is what may be signed and stored.

use std::fmt;

/// Nesting allowed in a document. Real messages nest to four or five; the limit only keeps the stack bounded.
pub const MAX_DEPTH: usize = 48;

/// Nodes allowed in a document. The largest honest document is a metainfo file with some tens of thousands of files.
pub const MAX_NODES: usize = 1_000_000;

/// Why a text is not bencode, and where it stopped being it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid bencode at byte {offset}: {reason}")]
pub struct Error {
    /// Offset of the first byte that does not fit.
    pub offset: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

/// A decoded value together with the bytes it was decoded from.
#[derive(Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// The exact bytes of this value in the input.
    pub raw: &'a [u8],
    /// What they say.
    pub kind: Kind<'a>,
}

/// The four types of bencode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind<'a> {
    /// An integer; `None` when it is well formed but does not fit 64 bits (bencode sets no limit).
    Int(Option<i64>),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Node<'a>>),
    /// A dictionary in the order it was written; keys are unique.
    Dict(Vec<(&'a [u8], Node<'a>)>),
}

impl<'a> Node<'a> {
    /// The value under `key`, if this is a dictionary that has it.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Node<'a>> {
        self.entries()?.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The entries, if this is a dictionary.
    #[must_use]
    pub fn entries(&self) -> Option<&[(&'a [u8], Node<'a>)]> {
        match &self.kind {
            Kind::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items, if this is a list.
    #[must_use]
    pub fn items(&self) -> Option<&[Node<'a>]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    /// The bytes, if this is a byte string.
    #[must_use]
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text, if this is a byte string of valid UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The number, if this is an integer that fits.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self.kind {
            Kind::Int(n) => n,
            _ => None,
        }
    }

    /// Whether the text is the only bencoding of its value: dictionary keys sorted as raw strings at every level
    /// (BEP 3: "Keys must be strings and appear in sorted order (sorted as raw strings, not alphanumerics)").
    /// Numbers and duplicates need no look: a text that has them wrong is not decoded at all.
    #[must_use]
    pub fn is_canonical(&self) -> bool {
        match &self.kind {
            Kind::Int(_) | Kind::Bytes(_) => true,
            Kind::List(items) => items.iter().all(Node::is_canonical),
            Kind::Dict(entries) => {
                entries.is_sorted_by(|a, b| a.0 < b.0) && entries.iter().all(|(_, v)| v.is_canonical())
            }
        }
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bencode({})", self.raw.escape_ascii())
    }
}

/// Decodes a whole document.
///
/// # Errors
/// Anything that is not exactly one bencoded value, or nests or counts past the limits.
pub fn decode(input: &[u8]) -> Result<Node<'_>, Error> {
    let (node, rest) = decode_prefix(input)?;
    if rest.is_empty() {
        Ok(node)
    } else {
        Err(Error { offset: input.len() - rest.len(), reason: "data after the end" })
    }
}

/// Decodes the value at the start of `input` and returns what follows it, as BEP 9 messages need it: "the metadata
/// piece is appended after the bencoded dictionary".
///
/// # Errors
/// As [`decode`], except that data after the value is no error.
pub fn decode_prefix(input: &[u8]) -> Result<(Node<'_>, &[u8]), Error> {
    let mut parser = Parser { input, at: 0, nodes: 0 };
    let node = parser.value(0)?;
    Ok((node, &input[parser.at..]))
}

/// The entries of a dictionary as far as it can be read. What is no dictionary has none.
#[must_use]
pub fn entries_before_fault(input: &[u8]) -> Vec<(&[u8], Node<'_>)> {
    let mut parser = Parser { input, at: 0, nodes: 0 };
    let mut entries = Vec::new();
    if parser.peek() == Ok(b'd') {
        parser.at += 1;
        while let Ok(b'0'..=b'9') = parser.peek()
            && let Ok(key) = parser.string()
            && let Ok(value) = parser.value(1)
        {
            entries.push((key, value));
        }
    }
    entries
}

struct Parser<'a> {
    input: &'a [u8],
    at: usize,
    nodes: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Error> {
        let start = self.at;
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error("too many values"));
        }
        let kind = match self.peek()? {
            b'i' => self.int()?,
            b'l' => self.list(depth)?,
            b'd' => self.dict(depth)?,
            b'0'..=b'9' => Kind::Bytes(self.string()?),
            _ => return Err(self.error("expected a value")),
        };
        Ok(Node { raw: &self.input[start..self.at], kind })
    }

    fn int(&mut self) -> Result<Kind<'a>, Error> {
        self.at += 1;
        let text = self.until(b'e')?;
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let canonical = match digits {
            [] => false,
            // BEP 3: "i-0e is invalid. All encodings with a leading zero, such as i03e, are invalid, other than i0e".
            [b'0'] => digits.len() == text.len(),
            [first, ..] => *first != b'0' && digits.iter().all(u8::is_ascii_digit),
        };
        if !canonical {
            return Err(self.error("not an integer"));
        }
        Ok(Kind::Int(std::str::from_utf8(text).ok().and_then(|t| t.parse().ok())))
    }

    fn string(&mut self) -> Result<&'a [u8], Error> {
        let text = self.until(b':')?;
        let length_is_canonical = text == b"0" || (text.first() != Some(&b'0') && text.iter().all(u8::is_ascii_digit));
        let length =
            std::str::from_utf8(text).ok().filter(|_| length_is_canonical).and_then(|t| t.parse::<usize>().ok());
        let bytes = length.and_then(|n| self.input.get(self.at..self.at.checked_add(n)?));
        let bytes = bytes.ok_or_else(|| self.error("string length does not fit"))?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn list(&mut self, depth: usize) -> Result<Kind<'a>, Error> {
        self.at += 1;
        let mut items = Vec::new();
        while self.peek()? != b'e' {
            items.push(self.value(depth + 1)?);
        }
        self.at += 1;
        Ok(Kind::List(items))
    }

    fn dict(&mut self, depth: usize) -> Result<Kind<'a>, Error> {
        self.at += 1;
        let mut entries: Vec<(&[u8], Node<'_>)> = Vec::new();
        let mut sorted = true;
        while self.peek()? != b'e' {
            if !self.peek()?.is_ascii_digit() {
                return Err(self.error("dictionary keys are strings"));
            }
            let key = self.string()?;
            if let Some((last, _)) = entries.last() {
                if *last == key {
                    return Err(self.error("duplicate key"));
                }
                sorted &= *last < key;
            }
            entries.push((key, self.value(depth + 1)?));
        }
        self.at += 1;
        if !sorted {
            let mut keys: Vec<&[u8]> = entries.iter().map(|(k, _)| *k).collect();
            keys.sort_unstable();
            if keys.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(self.error("duplicate key"));
            }
        }
        Ok(Kind::Dict(entries))
    }

    fn peek(&self) -> Result<u8, Error> {
        self.input.get(self.at).copied().ok_or_else(|| self.error("unexpected end"))
    }

    /// The text up to `end`, which is consumed too. Numbers are short, so the search is.
    fn until(&mut self, end: u8) -> Result<&'a [u8], Error> {
        const LONGEST_NUMBER: usize = 1024;
        let rest = &self.input[self.at..];
        let length = rest.iter().take(LONGEST_NUMBER).position(|&b| b == end);
        let length = length.ok_or_else(|| self.error("unterminated number"))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn error(&self, reason: &'static str) -> Error {
        Error { offset: self.at, reason }
    }
}

/// Writes bencode in one pass. Dictionary keys must be given in sorted order; a debug build panics otherwise, and the
/// round-trip tests of every format run in debug.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An integer.
    pub fn int(&mut self, n: i64) {
        self.out.extend(format!("i{n}e").as_bytes());
    }

    /// A byte string.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend(format!("{}:", bytes.len()).as_bytes());
        self.out.extend(bytes);
    }

    /// A value that is bencoded already.
    pub fn raw(&mut self, bencoded: &[u8]) {
        self.out.extend(bencoded);
    }

    /// A list; `fill` writes its items.
    pub fn list(&mut self, fill: impl FnOnce(&mut Writer)) {
        self.out.push(b'l');
        fill(self);
        self.out.push(b'e');
    }

    /// A dictionary; `fill` writes its entries.
    pub fn dict(&mut self, fill: impl FnOnce(&mut DictWriter<'_>)) {
        self.out.push(b'd');
        fill(&mut DictWriter { writer: self, last: Vec::new() });
        self.out.push(b'e');
    }

    /// The bencoding.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Writes the entries of one dictionary.
#[derive(Debug)]
pub struct DictWriter<'w> {
    writer: &'w mut Writer,
    last: Vec<u8>,
}

impl DictWriter<'_> {
    fn key(&mut self, key: &[u8]) -> &mut Writer {
        if cfg!(debug_assertions) {
            assert!(self.last.is_empty() || self.last.as_slice() < key, "keys out of order: {}", key.escape_ascii());
            self.last = key.to_vec();
        }
        self.writer.bytes(key);
        self.writer
    }

    /// An integer entry.
    pub fn int(&mut self, key: &[u8], n: i64) -> &mut Self {
        self.key(key).int(n);
        self
    }

    /// A byte string entry.
    pub fn bytes(&mut self, key: &[u8], bytes: &[u8]) -> &mut Self {
        self.key(key).bytes(bytes);
        self
    }

    /// An entry whose value is bencoded already.
    pub fn raw(&mut self, key: &[u8], bencoded: &[u8]) -> &mut Self {
        self.key(key).raw(bencoded);
        self
    }

    /// A list entry.
    pub fn list(&mut self, key: &[u8], fill: impl FnOnce(&mut Writer)) -> &mut Self {
        self.key(key).list(fill);
        self
    }

    /// A dictionary entry.
    pub fn dict(&mut self, key: &[u8], fill: impl FnOnce(&mut DictWriter<'_>)) -> &mut Self {
        self.key(key).dict(fill);
        self
    }
}

/// The bencoding of a dictionary.
#[must_use]
pub fn dict(fill: impl FnOnce(&mut DictWriter<'_>)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.dict(fill);
    writer.finish()
}

/// The bencoding of a byte string.
#[must_use]
pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(bytes);
    writer.finish()
}

#[cfg(test)]
mod tests;
