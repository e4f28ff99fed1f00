//! Local service discovery (BEP 14): who on this network is in which swarm. One datagram of HTTP-like text.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::id::InfoHash;

/// "A LSD announce is a multicast message sent to […] 239.192.152.143:6771 (org-local)".
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 192, 152, 143);

/// "[ff15::efc0:988f]:6771 (site-local)".
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f);

/// The port of both.
pub const PORT: u16 = 6771;

/// "However, a single packet should not be larger than 1400 bytes".
pub const MAX_LEN: usize = 1400;

/// Info hashes of one announce: what fits, whatever cookie and host are. Each takes 52 bytes.
pub const MAX_INFO_HASHES: usize = 24;

/// Longest cookie kept, in bytes.
const MAX_COOKIE: usize = 64;

/// An announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAnnounce {
    /// "The port of the sender on which the client listens for BitTorrent connections".
    pub port: u16,
    /// The swarms it is in.
    pub info_hashes: Vec<InfoHash>,
    /// "An opaque value, allowing the sending client to filter out its own announces if it receives them via multicast
    /// loopback."
    pub cookie: Option<String>,
}

impl LocalAnnounce {
    /// The datagram, for a `host` such as `239.192.152.143:6771`.
    #[must_use]
    pub fn encode(&self, host: &str) -> Vec<u8> {
        let mut out = format!("BT-SEARCH * HTTP/1.1\r\nHost: {host}\r\nPort: {}\r\n", self.port);
        for info_hash in self.info_hashes.iter().take(MAX_INFO_HASHES) {
            out += &format!("Infohash: {info_hash}\r\n");
        }
        if let Some(cookie) = &self.cookie {
            out += &format!("cookie: {cookie}\r\n");
        }
        // "\r\n\r\n" after the headers, as BEP 14 prints it.
        out += "\r\n\r\n";
        out.into_bytes()
    }

    /// Reads a datagram. Names of headers are of any case, as in HTTP; unknown headers and malformed info hashes are
    /// skipped. `None` if it announces nothing.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram.get(..datagram.len().min(MAX_LEN))?).ok()?;
        let mut lines = text.split("\r\n");
        if lines.next()? != "BT-SEARCH * HTTP/1.1" {
            return None;
        }
        let mut read = Self { port: 0, info_hashes: Vec::new(), cookie: None };
        for (name, value) in lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "port" => read.port = value.parse().ok()?,
                "infohash" if read.info_hashes.len() < MAX_INFO_HASHES => {
                    read.info_hashes.extend(value.parse::<InfoHash>())
                }
                "cookie" if value.len() <= MAX_COOKIE => read.cookie = Some(value.to_owned()),
                _ => {}
            }
        }
        (read.port != 0 && !read.info_hashes.is_empty()).then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_announce_is_written_as_the_bep_prints_it() {
        let announce =
            LocalAnnounce { port: 6881, info_hashes: vec![InfoHash([0xab; 20])], cookie: Some("a1b2".to_owned()) };
        let text = "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n\
                    Infohash: abababababababababababababababababababab\r\ncookie: a1b2\r\n\r\n\r\n";
        assert_eq!(announce.encode("239.192.152.143:6771"), text.as_bytes());
        assert_eq!(LocalAnnounce::decode(text.as_bytes()), Some(announce));
    }

    #[test]
    fn what_others_write_is_read() {
        let read = |text: &str| LocalAnnounce::decode(text.as_bytes()).map(|read| (read.port, read.info_hashes.len()));
        let hash = "AB".repeat(20);
        let table = [
            // libtorrent: upper-case hash, no space after the colon in some versions.
            (
                format!(
                    "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 1\r\nInfohash:{hash}\r\ncookie: 0\r\n\r\n\r\n"
                ),
                Some((1, 1)),
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPORT: 2\r\nINFOHASH: {hash}\r\nInfohash: {hash}\r\nX: y\r\n\r\n"),
                Some((2, 2)),
            ),
            (format!("BT-SEARCH * HTTP/1.1\r\nPort: 2\r\nInfohash: 12\r\nInfohash: {hash}\r\n"), Some((2, 1))),
            (format!("BT-SEARCH * HTTP/1.1\r\nPort: 2\r\n\r\nInfohash: {hash}\r\n"), None),
            (format!("BT-SEARCH * HTTP/1.1\r\nInfohash: {hash}\r\n\r\n"), None),
            (format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {hash}\r\n\r\n"), None),
            (format!("BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: {hash}\r\n\r\n"), None),
            (format!("GET / HTTP/1.1\r\nPort: 2\r\nInfohash: {hash}\r\n\r\n"), None),
            (String::new(), None),
        ];
        for (text, expected) in table {
            assert_eq!(read(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_largest_announce_fits() {
        let cookie = Some("c".repeat(16));
        let announce = LocalAnnounce { port: 65535, info_hashes: vec![InfoHash([1; 20]); 30], cookie };
        let datagram = announce.encode("[ff15::efc0:988f]:6771");
        assert!(datagram.len() <= MAX_LEN);
        assert_eq!(LocalAnnounce::decode(&datagram).unwrap().info_hashes.len(), MAX_INFO_HASHES);
    }

    proptest! {
        #[test]
        fn announces_round_trip(port in 1_u16.., hashes in prop::collection::vec(any::<[u8; 20]>(), 1..MAX_INFO_HASHES), cookie in "[a-z0-9]{1,16}") {
            let info_hashes = hashes.into_iter().map(InfoHash).collect();
            let announce = LocalAnnounce { port, info_hashes, cookie: Some(cookie) };
            prop_assert_eq!(LocalAnnounce::decode(&announce.encode("x")), Some(announce));
        }

        #[test]
        fn perturbed_announces_do_no_harm(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let announce = LocalAnnounce { port: 6881, info_hashes: vec![InfoHash([1; 20]); 3], cookie: None };
            let mut datagram = announce.encode("h");
            let at = at.index(datagram.len());
            datagram[at] = byte;
            let _ = LocalAnnounce::decode(&datagram);
            let _ = LocalAnnounce::decode(&datagram[..cut.index(datagram.len())]);
        }
    }
}
