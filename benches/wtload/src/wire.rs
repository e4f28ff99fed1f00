//! The tracker protocol and client frames, as bytes.

use memchr::memmem;
use std::io::Write;

use crate::deflate::{self, Deflate};

/// bytes -> JSON string as JSON.stringify(binary string) would write it
pub fn jstr(b: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &c in b {
        match c {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            8 => out.extend_from_slice(b"\\b"),
            9 => out.extend_from_slice(b"\\t"),
            10 => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            13 => out.extend_from_slice(b"\\r"),
            c if c < 0x20 => {
                let _ = write!(out, "\\u00{:02x}", c);
            }
            c if c < 0x80 => out.push(c),
            c => {
                out.push(0xc0 | (c >> 6));
                out.push(0x80 | (c & 0x3f));
            }
        }
    }
    out.push(b'"');
}
/// Appends a masked text frame; how many bytes it has.
pub fn frame(payload: &[u8], key: [u8; 4], deflate: &mut Option<Deflate>, out: &mut Vec<u8>) -> u64 {
    let start = out.len();
    let (payload, compressed) = match deflate {
        Some(deflate) => (deflate.compress(payload), deflate::COMPRESSED),
        None => (payload, 0),
    };
    out.push(0x81 | compressed);
    let n = payload.len();
    if n < 126 {
        out.push(0x80 | n as u8)
    } else if n < 65536 {
        out.push(0x80 | 126);
        out.extend_from_slice(&(n as u16).to_be_bytes())
    } else {
        out.push(0x80 | 127);
        out.extend_from_slice(&(n as u64).to_be_bytes())
    }
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    (out.len() - start) as u64
}

pub fn field<'a>(m: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let i = memmem::find(m, key)? + key.len();
    if m.get(i) != Some(&b'"') {
        return None;
    }
    let mut j = i + 1;
    while j < m.len() {
        match m[j] {
            b'\\' => j += 2,
            b'"' => return Some(&m[i..=j]),
            _ => j += 1,
        }
    }
    None
}
pub fn ts(m: &[u8], f: &memmem::Finder) -> Option<u64> {
    let i = f.find(m)? + 5;
    std::str::from_utf8(m.get(i..i + 16)?).ok()?.parse().ok()
}
