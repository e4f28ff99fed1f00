//! Byte ranges of HTTP (RFC 9110 §14).

use std::ops::Range;

/// What a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// All of it: the header is absent, malformed, of another unit, or asks for several parts. RFC 9110 §14.2: "A server
    /// MAY ignore the Range header field."
    All,
    /// One part.
    Part(Range<u64>),
    /// A part that is not there (416).
    Unsatisfiable,
}

/// Reads a `Range` header for something of `length` bytes.
#[must_use]
pub fn parse(header: Option<&str>, length: u64) -> Asked {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Asked::All };
    let Some((first, last)) = spec.trim().split_once('-') else { return Asked::All };
    let number = |text: &str| match text.trim() {
        "" => Some(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(Some(digits.parse().unwrap_or(u64::MAX))),
        _ => None,
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(Some(last))) if first > last => Asked::All,
        (Some(Some(first)), Some(last)) if first < length => {
            Asked::Part(first..last.map_or(length, |last: u64| last.saturating_add(1).min(length)))
        }
        (Some(Some(_)), Some(_)) => Asked::Unsatisfiable,
        // "-n": the last n bytes.
        (Some(None), Some(Some(0))) => Asked::Unsatisfiable,
        (Some(None), Some(Some(_))) if length == 0 => Asked::Unsatisfiable,
        (Some(None), Some(Some(suffix))) => Asked::Part(length.saturating_sub(suffix)..length),
        _ => Asked::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        use Asked::{All, Part, Unsatisfiable};
        let table = [
            (None, 10, All),
            (Some("bytes=0-4"), 10, Part(0..5)),
            (Some("bytes=3-"), 10, Part(3..10)),
            (Some("bytes=9-9"), 10, Part(9..10)),
            (Some("bytes=5-99"), 10, Part(5..10)),
            (Some("bytes=-3"), 10, Part(7..10)),
            (Some("bytes=-30"), 10, Part(0..10)),
            (Some(" bytes= 1 - 2 "), 10, Part(1..3)),
            (Some("bytes=10-"), 10, Unsatisfiable),
            (Some("bytes=10-20"), 10, Unsatisfiable),
            (Some("bytes=99999999999999999999-"), 10, Unsatisfiable),
            (Some("bytes=0-99999999999999999999"), 10, Part(0..10)),
            (Some("bytes=-0"), 10, Unsatisfiable),
            (Some("bytes=0-"), 0, Unsatisfiable),
            (Some("bytes=-1"), 0, Unsatisfiable),
            (Some("bytes=4-3"), 10, All),
            (Some("bytes=0-1,3-4"), 10, All),
            (Some("bytes=a-b"), 10, All),
            (Some("bytes=+1-2"), 10, All),
            (Some("bytes=-"), 10, All),
            (Some("bytes="), 10, All),
            (Some("lines=0-1"), 10, All),
        ];
        for (header, length, expected) in table {
            assert_eq!(parse(header, length), expected, "{header:?} of {length}");
        }
    }
}
