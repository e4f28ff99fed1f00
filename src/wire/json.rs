//! JSON text (RFC 8259) taken apart in one pass: where its values begin and end, and nothing more.
//!
//! A tracker reads megabytes of session descriptions only to pass them on as they are. A deserializer walks such a text
//! once for each level it is nested in; this walks it once. What it accepts is JSON, so that whoever is passed a part of
//! it gets JSON: it takes exactly what serde_json takes as a raw value.

use std::borrow::Cow;

/// The text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A place in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning of a text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The first byte of what comes next, past white space: for a value it tells the kind.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes a value of any kind; its text.
    pub(super) fn value(&mut self) -> Result<&'a str, Malformed> {
        self.peek();
        let start = self.at;
        let mut open = Nesting::default();
        loop {
            match self.next()? {
                b'{' if self.peek() == Some(b'}') => self.at += 1,
                b'[' if self.peek() == Some(b']') => self.at += 1,
                b'{' => {
                    open.push(true);
                    self.key()?;
                    continue;
                }
                b'[' => {
                    open.push(false);
                    continue;
                }
                b'"' => self.rest_of_string()?,
                b't' => self.literal("rue")?,
                b'f' => self.literal("alse")?,
                b'n' => self.literal("ull")?,
                first @ (b'-' | b'0'..=b'9') => self.rest_of_number(first)?,
                _ => return Err(Malformed),
            }
            // A value has ended; whatever it was the last of has, too.
            loop {
                let Some(in_object) = open.innermost() else { return Ok(&self.text[start..self.at]) };
                match (self.next()?, in_object) {
                    (b',', true) => {
                        self.key()?;
                        break;
                    }
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => open.pop(),
                    _ => return Err(Malformed),
                }
            }
        }
    }

    /// Walks an object, at whose `{` this is. `member` is called with each key, its quotes still on, and must pass the
    /// value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a str) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.key()?;
            member(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Ok(()),
                _ => return Err(Malformed),
            }
        }
    }

    /// Walks an array, at whose `[` this is. `item` must pass the value.
    pub(super) fn array(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        self.expect(b'[')?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.next()? {
                b',' => {}
                b']' => return Ok(()),
                _ => return Err(Malformed),
            }
        }
    }

    /// What is passed from here on by `pass`, as text.
    pub(super) fn text_of(
        &mut self,
        pass: impl FnOnce(&mut Self) -> Result<(), Malformed>,
    ) -> Result<&'a str, Malformed> {
        self.peek();
        let start = self.at;
        pass(self)?;
        Ok(&self.text[start..self.at])
    }

    /// Nothing but white space is left.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        if self.peek().is_none() { Ok(()) } else { Err(Malformed) }
    }

    /// Passes a key and its colon; the key, with its quotes.
    fn key(&mut self) -> Result<&'a str, Malformed> {
        self.expect(b'"')?;
        let start = self.at - 1;
        self.rest_of_string()?;
        let key = &self.text[start..self.at];
        self.expect(b':')?;
        Ok(key)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.next()? == byte { Ok(()) } else { Err(Malformed) }
    }

    /// The next byte that is not white space.
    fn next(&mut self) -> Result<u8, Malformed> {
        let byte = self.peek().ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn literal(&mut self, rest: &str) -> Result<(), Malformed> {
        let found = self.text.as_bytes()[self.at..].starts_with(rest.as_bytes());
        self.at += if found { rest.len() } else { 0 };
        if found { Ok(()) } else { Err(Malformed) }
    }

    /// RFC 8259 §6, after the first byte.
    fn rest_of_number(&mut self, first: u8) -> Result<(), Malformed> {
        let first = if first == b'-' { self.byte().ok_or(Malformed)? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => drop(self.digits()),
            _ => return Err(Malformed),
        }
        if self.at_byte(b".") {
            self.digits().ok_or(Malformed)?;
        }
        if self.at_byte(b"eE") {
            self.at_byte(b"+-");
            self.digits().ok_or(Malformed)?;
        }
        Ok(())
    }

    /// Passes digits; none if there are none.
    fn digits(&mut self) -> Option<()> {
        let digits = self.text.as_bytes()[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }

    /// Passes the next byte if it is one of these.
    fn at_byte(&mut self, bytes: &[u8]) -> bool {
        let found = self.text.as_bytes().get(self.at).is_some_and(|byte| bytes.contains(byte));
        self.at += usize::from(found);
        found
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    /// RFC 8259 §7, after the opening quote.
    fn rest_of_string(&mut self) -> Result<(), Malformed> {
        loop {
            self.at += plain(&self.text.as_bytes()[self.at..]);
            match self.byte().ok_or(Malformed)? {
                b'"' => return Ok(()),
                b'\\' => match self.byte().ok_or(Malformed)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or(Malformed)?;
                        if !digits.iter().all(u8::is_ascii_hexdigit) {
                            return Err(Malformed);
                        }
                        self.at += 4;
                    }
                    _ => return Err(Malformed),
                },
                // A control character.
                _ => return Err(Malformed),
            }
        }
    }
}

/// How many bytes come before the first that means something in a string: a quote, a backslash, or a control character,
/// which must not stand there.
fn plain(bytes: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at once: the high bit of each byte that is below `limit`, exact up to and including the first such
    // byte, which is the only one looked for. (Bytes from 0x80 on are not.)
    let below = |word: u64, limit: u64| word.wrapping_sub(LOW * limit) & !word & HIGH;
    let (words, rest) = bytes.as_chunks();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (LOW * u64::from(b'"')), 1);
        let backslash = below(word ^ (LOW * u64::from(b'\\')), 1);
        let found = below(word, 0x20) | quote | backslash;
        if found != 0 {
            return 8 * i + (found.trailing_zeros() / 8) as usize;
        }
    }
    let before = rest.iter().take_while(|byte| !matches!(byte, ..0x20 | b'"' | b'\\')).count();
    bytes.len() - rest.len() + before
}

/// The arrays and objects that are open, as bits: however deep they are, they cost no stack.
#[derive(Default)]
struct Nesting {
    /// The innermost 63, below a one that marks where they begin.
    near: u64,
    far: Vec<u64>,
}

impl Nesting {
    fn push(&mut self, object: bool) {
        match self.near {
            0 => self.near = 1,
            full if full >> 63 == 1 => {
                self.far.push(full);
                self.near = 1;
            }
            _ => {}
        }
        self.near = self.near << 1 | u64::from(object);
    }

    fn pop(&mut self) {
        self.near >>= 1;
        if self.near <= 1 {
            self.near = self.far.pop().unwrap_or(0);
        }
    }

    /// Whether the innermost is an object.
    fn innermost(&self) -> Option<bool> {
        (self.near > 1).then_some(self.near & 1 == 1)
    }
}

/// The text that a string stands for; none if this is no string, or stands for none (half of a surrogate pair).
pub(super) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// The bytes that a string stands for, one a character; none if it does not have exactly so many, or a character is no
/// byte, or this is no string.
pub(super) fn latin1<const N: usize>(raw: &str) -> Option<[u8; N]> {
    let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut bytes = [0; N];
    for byte in &mut bytes {
        let (&first, after) = rest.split_first()?;
        if first == b'\\' {
            (*byte, rest) = unescaped(after)?;
            continue;
        }
        // RFC 3629: below U+0080 a character is one byte, up to U+00FF two, of which the first has the upper two bits.
        // Ids are random, so that a processor would guess wrong every other time if this branched.
        let wide = first >= 0x80;
        let second = after.first().copied().unwrap_or_default();
        *byte = if wide { first << 6 | second & 0x3f } else { first };
        if wide & (first & 0xfe != 0xc2) {
            return None;
        }
        rest = after.get(usize::from(wide)..)?;
    }
    rest.is_empty().then_some(bytes)
}

/// The byte that an escape stands for, and what comes after it; none if that is no byte.
fn unescaped(after_backslash: &[u8]) -> Option<(u8, &[u8])> {
    let (&kind, after) = after_backslash.split_first()?;
    let byte = match kind {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let (digits, after) = after.split_first_chunk::<4>()?;
            let code = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            return Some((u8::try_from(code).ok()?, after));
        }
        itself => itself,
    };
    Some((byte, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// Whether the whole text is one value, here and to serde_json.
    fn check(text: &str) -> bool {
        let mut reader = Reader::new(text);
        let read = reader.value().and_then(|value| reader.end().map(|()| value));
        let expected = serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get);
        assert_eq!(read.ok(), expected, "{text}");
        expected.is_some()
    }

    #[test]
    fn what_is_json() {
        let good = [
            "null",
            " true ",
            "\t\r\n false",
            "0",
            "-0",
            "-0.0e-0",
            "12.5E+3",
            "1e999",
            r#""""#,
            r#""\"\\\/\b\f\n\r\t\u00fF\ud800""#,
            "\"ÿ€😀\u{7f}\u{80}\"",
            "[]",
            "[ ]",
            "{}",
            "{ }",
            r#"[1,[2,{"a":[3]}],"]"]"#,
            r#" { "a" : 1 , "a" : { } , "" : [ null ] } "#,
            r#"{"seven b":"0123456","eight by":"01234567","nine byte":"012345678\n0123456\""}"#,
        ];
        let bad = [
            "",
            " ",
            "nul",
            "nulll",
            "truE",
            "-",
            "+1",
            "01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x1",
            "NaN",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u123\"",
            "\"\\u",
            "\"a\nb\"",
            "\"0123456\u{1f}\"",
            "\"\0\"",
            "'a'",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "{",
            "{1:2}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":1]"#,
            "1 2",
            "{}{}",
            "\u{a0}1",
        ];
        for text in good {
            assert!(check(text), "{text}");
        }
        for text in bad {
            assert!(!check(text), "{text}");
        }
    }

    #[test]
    fn any_depth() {
        for depth in [1, 62, 63, 64, 65, 126, 127, 200, 100_000] {
            assert!(check(&("[".repeat(depth) + &"]".repeat(depth))));
            assert!(check(&(r#"{"a":["#.repeat(depth) + &"]}".repeat(depth))));
            assert!(!check(&("[".repeat(depth) + &"]".repeat(depth + 1))));
            assert!(!check(&("[".repeat(depth) + &"]".repeat(depth - 1))));
            assert!(!check(&("[".repeat(depth) + "}" + &"]".repeat(depth - 1))));
        }
    }

    #[test]
    fn strings() {
        let table = [
            (r#""a""#, Some("a")),
            (r#""\u0061ÿ""#, Some("aÿ")),
            (r#""""#, Some("")),
            (r#""\ud800""#, None),
            ("5", None),
            ("null", None),
        ];
        for (raw, expected) in table {
            assert_eq!(string(raw).as_deref(), expected, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_strings(bytes: [u8; 8], other: String, escaped: bool) {
            let text = crate::wire::id::to_latin1(&bytes);
            let raw = if escaped {
                format!("\"{}\"", bytes.map(|byte| format!("\\u{byte:04X}")).concat())
            } else {
                serde_json::to_string(&text).unwrap()
            };
            prop_assert_eq!(latin1(&raw), Some(bytes));
            prop_assert_eq!(latin1::<7>(&raw), None);
            prop_assert_eq!(latin1::<9>(&raw), None);
            for text in [other, "\\\"\u{8}\u{c}\n\r\t/".into(), "0123456\u{100}".into()] {
                let raw = serde_json::to_string(&text).unwrap();
                let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
                prop_assert_eq!(latin1::<8>(&raw), bytes.and_then(|bytes| bytes.try_into().ok()));
            }
        }

        #[test]
        fn pieces_of_json(pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"a\"", "\"", "\\", "\\n", "\\u0041", "1", "-", "0", ".5", "e9", "null",
                "true", "fals", " ", "\n", "ÿ", "v=0", "\u{1}", "\"a\":", "[]", "{}", "0123456789abcdef",
            ]),
            0..24,
        )) {
            check(&pieces.concat());
        }

        #[test]
        fn any_text(text: String, quoted: String) {
            check(&text);
            check(&format!("\"{quoted}\""));
            check(&serde_json::to_string(&[&quoted, &text]).unwrap());
        }

        #[test]
        fn plain_stretches(bytes: Vec<u8>) {
            let expected = bytes.iter().position(|byte| matches!(byte, ..0x20 | b'"' | b'\\'));
            prop_assert_eq!(plain(&bytes), expected.unwrap_or(bytes.len()));
        }
    }
}
