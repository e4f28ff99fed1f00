//! The header that a proxy of streams writes before the client's bytes: PROXY protocol, version 2
//! (haproxy `doc/proxy-protocol.txt`, §2.2).

use std::net::{IpAddr, SocketAddr};

/// "\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A"
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes before the addresses: the signature, version and command, family, length.
pub const FIXED: usize = 16;

/// Longest rest that is read: two IPv6 addresses are 36 bytes, and what may follow (TLVs, such as the name in a TLS
/// handshake) has room.
pub const MAX_REST: usize = 1024;

/// Why a connection does not begin as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each sentence documents its variant")]
pub enum Error {
    #[error("the connection does not begin with the PROXY protocol, version 2")]
    NotProxy,
    #[error("the PROXY header is longer than {MAX_REST} bytes")]
    TooLong,
    #[error("the PROXY header has no room for its addresses")]
    TooShort,
}

/// The fixed part of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes that follow.
    pub rest: usize,
    /// "\x1: PROXY", that is, on behalf of a client; otherwise "\x0: LOCAL", the proxy's own affair (a health check).
    proxied: bool,
    /// "\x11: TCP over IPv4", "\x21: TCP over IPv6"; others exist.
    family: u8,
}

/// Reads the fixed part.
///
/// # Errors
/// Bytes that are not of this protocol, or announce too many.
pub fn read_head(bytes: [u8; FIXED]) -> Result<Head, Error> {
    let [signature @ .., command, family, high, low] = bytes;
    let rest = usize::from(u16::from_be_bytes([high, low]));
    match (signature == SIGNATURE, command) {
        (true, 0x20 | 0x21) if rest > MAX_REST => Err(Error::TooLong),
        (true, 0x20 | 0x21) => Ok(Head { rest, proxied: command == 0x21, family }),
        // "any other value must be dropped"
        _ => Err(Error::NotProxy),
    }
}

impl Head {
    /// The client's address, from the bytes after the head. `None` when the connection is the proxy's own, or its client
    /// has no internet address: "the receiver should … use the real connection endpoints".
    ///
    /// # Errors
    /// Too few bytes for the family.
    pub fn source(&self, rest: &[u8]) -> Result<Option<SocketAddr>, Error> {
        // Source address, destination address, source port, destination port.
        match (self.proxied, self.family >> 4) {
            (true, 1) => addr::<4, 12>(rest).map(Some),
            (true, 2) => addr::<16, 36>(rest).map(Some),
            _ => Ok(None),
        }
    }
}

/// The source among `ALL` bytes with addresses of `IP` bytes.
fn addr<const IP: usize, const ALL: usize>(rest: &[u8]) -> Result<SocketAddr, Error>
where
    IpAddr: From<[u8; IP]>,
{
    let all = rest.first_chunk::<ALL>().ok_or(Error::TooShort)?;
    let (ip, port) = (all.first_chunk::<IP>(), all[2 * IP..].first_chunk::<2>());
    let (Some(ip), Some(port)) = (ip, port) else { return Err(Error::TooShort) };
    Ok(SocketAddr::new(IpAddr::from(*ip).to_canonical(), u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    /// Reads a whole header.
    fn read(bytes: &[u8]) -> Result<Option<SocketAddr>, Error> {
        let (head, rest) = bytes.split_first_chunk::<FIXED>().ok_or(Error::NotProxy)?;
        let head = read_head(*head)?;
        head.source(&rest[..head.rest.min(rest.len())])
    }

    #[test]
    fn headers_as_proxies_write_them() {
        let signature = hex::encode(&SIGNATURE);
        let v6 = "20010db8000000000000000000000001";
        let table = [
            ("2111000c c0000201 7f000001 d431 1f90", Ok(Some("192.0.2.1:54321"))),
            // TLVs after the addresses: 0x03 is CRC32C.
            ("21110013 c0000201 7f000001 d431 1f90 03000400000000", Ok(Some("192.0.2.1:54321"))),
            (&format!("21210024 {v6} {v6} d431 1f90"), Ok(Some("[2001:db8::1]:54321"))),
            // An IPv4 client of an IPv6 proxy.
            (&format!("21210024 00000000000000000000ffffc0000201 {v6} d431 1f90"), Ok(Some("192.0.2.1:54321"))),
            ("20000000", Ok(None)),
            ("2011000c c0000201 7f000001 d431 1f90", Ok(None)),
            ("21310000", Ok(None)),
            ("2111000b c0000201 7f000001 d431 1f", Err(Error::TooShort)),
            ("21210000", Err(Error::TooShort)),
            ("21110401", Err(Error::TooLong)),
            ("22110000", Err(Error::NotProxy)),
            ("11110000", Err(Error::NotProxy)),
        ];
        for (header, expected) in table {
            let bytes = hex::decode(&format!("{signature}{}", header.replace(' ', ""))).unwrap();
            assert_eq!(read(&bytes), expected.map(|addr| addr.map(|addr| addr.parse().unwrap())), "{header}");
        }
        assert_eq!(read(b"PROXY TCP4 192.0.2.1 127.0.0.1 54321 8080\r\n"), Err(Error::NotProxy));
        assert_eq!(read(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"), Err(Error::NotProxy));
    }

    proptest! {
        #[test]
        fn no_header_panics(command: u8, family: u8, rest: Vec<u8>) {
            let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
            let _ = read(&[SIGNATURE.as_slice(), &[command, family], &length, &rest].concat());
        }
    }
}
