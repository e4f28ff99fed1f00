//! The transaction id of a query that is not bencode as a whole.
//!
//! Dictionaries are written in the order of their keys: arguments first (`a`), then what names the query (`q`, `t`, `y`).
//! A value that cannot be read spoils the former and leaves the latter as the end of the datagram. Some write `t` first:
//! then it is read before the fault.

use crate::wire::bencode::{self, Node};

/// How far from the end the transaction id is looked for, in bytes. What follows the arguments takes some fifty; the limit
/// keeps the work small whatever is sent.
const TAIL: usize = 512;

/// The transaction id, if the datagram says at its beginning or at its end what it is, and that it is a query. Responses
/// and errors are never answered, so that two nodes do not tell each other of errors for ever.
pub(super) fn transaction(datagram: &[u8]) -> Option<Vec<u8>> {
    let beginning = || of_query(&bencode::entries_before_fault(datagram));
    let tail = &datagram[datagram.len().saturating_sub(TAIL)..];
    let at_end = || {
        let mut ends = tail.windows(3).enumerate().filter(|(_, window)| *window == b"1:t");
        ends.find_map(|(at, _)| {
            let rest = [b"d", &tail[at..]].concat();
            of_query(bencode::decode(&rest).ok()?.entries()?)
        })
    };
    beginning().or_else(at_end)
}

fn of_query(entries: &[(&[u8], Node<'_>)]) -> Option<Vec<u8>> {
    let bytes = |key: &[u8]| entries.iter().find(|(name, _)| *name == key).and_then(|(_, value)| value.bytes());
    bytes(b"y").filter(|kind| *kind == b"q")?;
    bytes(b"t").map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is, the datagram, the transaction id.
    type Case<'a> = (&'a str, &'a [u8], Option<&'a [u8]>);

    #[test]
    fn the_transaction_of_a_spoilt_query_is_read() {
        let long_id = [b"1:a".as_slice(), &[0; 100]].concat();
        let long = [b"d1:ad1:vi01ee1:q3:put1:t103:", long_id.as_slice(), b"1:y1:qe"].concat();
        let tricky = b"1:t2:zz1:y1:qe";
        let nested = [b"d1:ad1:v15:", tricky.as_slice(), b"e1:q3:put1:t14:", tricky, b"1:y1:qe"].concat();
        let table: &[Case<'_>] = &[
            ("a leading zero", b"d1:ad1:vi01ee1:q3:put1:t2:aa1:y1:qe", Some(b"aa")),
            ("half a value", b"d1:ad1:v5:halfe1:q3:put1:t4:abcd1:y1:qe", Some(b"abcd")),
            ("two values", b"d1:ad1:vi1ei2ee1:q3:put1:t1:a1:y1:qe", Some(b"a")),
            ("no value", b"d1:ad1:ve1:q3:put1:t0:1:y1:qe", Some(b"")),
            ("a length that reaches past the end", b"d1:ad1:v99999:xe1:q3:put1:t2:aa1:v4:SG011:y1:qe", Some(b"aa")),
            ("a long id", &long, Some(&long_id)),
            ("a query inside a value and inside the id", &nested, Some(tricky)),
            ("named first", b"d1:t2:aa1:y1:q1:q3:put1:ad1:vi01eee", Some(b"aa")),
            ("data after the end", b"d1:ad2:id0:e1:q4:ping1:t2:aa1:y1:qexyz", Some(b"aa")),
            ("a response", b"d1:rd1:vi01ee1:t2:aa1:y1:re", None),
            ("an error", b"d1:eli0201e1:xe1:t2:aa1:y1:ee", None),
            ("cut short", b"d1:ad1:vi01ee1:q3:put1:t2:aa1:y1:q", None),
            ("a number for an id", b"d1:ad1:vi01ee1:q3:put1:ti5e1:y1:qe", None),
            ("no query", b"GET / HTTP/1.1\r\n\r\n", None),
            ("nothing", b"", None),
        ];
        for (what, datagram, expected) in table {
            assert!(bencode::decode(datagram).is_err(), "{what}: nothing to salvage");
            assert_eq!(transaction(datagram).as_deref(), *expected, "{what}");
        }
    }
}
