//! The HTTP tracker protocol: queries of `GET /announce` and `GET /scrape`, and their bencoded replies.
//!
//! BEP 3 (announce), BEP 7 (`peers6`), BEP 23 (compact peer lists), BEP 24 (`external ip`), BEP 48 (scrape).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use percent_encoding::percent_decode_str;

use super::id::{InfoHash, PeerId};
use super::tracker::{Counts, NativeAnnounce, Progress, Refusal};
use super::{bencode, compact};

/// Swarms one scrape may ask for.
pub const MAX_SCRAPED: usize = 200;

/// An announce, and how its reply is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// What is announced.
    pub announce: NativeAnnounce,
    /// How peers are to be listed.
    pub list: PeerList,
}

/// The two ways to list peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerList {
    /// BEP 23 and BEP 7: 6 or 18 bytes each. Asked for with `compact=1`.
    Compact,
    /// BEP 3: a dictionary each; what a client gets that does not ask for the other.
    Dictionaries {
        /// Whether each tells its peer id; not with `no_peer_id=1`.
        peer_ids: bool,
    },
}

/// The reply to an announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The swarm's counts.
    pub counts: Counts,
    /// Seconds until the next announce is expected.
    pub interval: u64,
    /// Seconds before which the client should not announce again.
    pub min_interval: u64,
    /// The address the announce came from (BEP 24).
    pub external_ip: IpAddr,
    /// Other peers.
    pub peers: Vec<(SocketAddr, PeerId)>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each sentence documents its variant")]
pub enum Reason {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} must be 20 bytes, percent-encoded, and has {got}")]
    NotTwenty { field: &'static str, got: usize },
    #[error("port must be a number from 1 to 65535")]
    BadPort,
    #[error("the scrape names no info_hash, and this tracker does not list all its swarms")]
    NothingToScrape,
    #[error("one scrape may name at most {MAX_SCRAPED} info hashes")]
    TooManyScraped,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Reads the query of an announce.
///
/// # Errors
/// An info hash, peer id or port that is missing or malformed. Other parameters that make no sense count as absent.
pub fn parse_announce(query: &str) -> Result<Announce, Reason> {
    let parameter = |name| parameters(query).find(|(n, _)| *n == name).map(|(_, value)| value);
    let info_hash = InfoHash(twenty_bytes("info_hash", parameter("info_hash"))?);
    let peer_id = PeerId(twenty_bytes("peer_id", parameter("peer_id"))?);
    let port = parameter("port").ok_or(Reason::Missing("port"))?;
    let port: NonZeroU16 = port.parse().map_err(|_| Reason::BadPort)?;
    let progress = match (parameter("event"), parameter("left").and_then(|left| left.parse::<u64>().ok())) {
        (Some("stopped"), _) => None,
        (Some("completed"), _) => Some(Progress::Completed),
        (_, Some(0)) => Some(Progress::Seeding),
        (_, Some(_)) => Some(Progress::Leeching),
        (_, None) => Some(Progress::Unsaid),
    };
    let numwant = parameter("numwant").and_then(|n| n.parse().ok());
    let list = match (parameter("compact"), parameter("no_peer_id")) {
        (Some("1"), _) => PeerList::Compact,
        (_, no_peer_id) => PeerList::Dictionaries { peer_ids: no_peer_id != Some("1") },
    };
    Ok(Announce { announce: NativeAnnounce { info_hash, peer_id, port, progress, numwant }, list })
}

/// Reads the query of a scrape.
///
/// # Errors
/// No info hash, too many, or a malformed one.
pub fn parse_scrape(query: &str) -> Result<Vec<InfoHash>, Reason> {
    let named = || parameters(query).filter(|(name, _)| *name == "info_hash");
    match named().count() {
        0 => Err(Reason::NothingToScrape),
        1..=MAX_SCRAPED => named().map(|(_, value)| Ok(InfoHash(twenty_bytes("info_hash", Some(value))?))).collect(),
        _ => Err(Reason::TooManyScraped),
    }
}

/// The name and the raw value of each parameter.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn twenty_bytes(field: &'static str, value: Option<&str>) -> Result<[u8; 20], Reason> {
    let bytes: Vec<u8> = percent_decode_str(value.ok_or(Reason::Missing(field))?).collect();
    bytes.as_slice().try_into().map_err(|_| Reason::NotTwenty { field, got: bytes.len() })
}

impl Announced {
    /// The body of the reply.
    #[must_use]
    pub fn encode(&self, list: PeerList) -> Vec<u8> {
        let Self { counts, interval, min_interval, external_ip, peers } = self;
        bencode::dict(|d| {
            d.int(b"complete", number(counts.complete));
            // BEP 24: "The value is a 4 byte or 16 byte string … in network byte order."
            match external_ip {
                IpAddr::V4(ip) => d.bytes(b"external ip", &ip.octets()),
                IpAddr::V6(ip) => d.bytes(b"external ip", &ip.octets()),
            };
            d.int(b"incomplete", number(counts.incomplete));
            d.int(b"interval", number(*interval));
            d.int(b"min interval", number(*min_interval));
            match list {
                PeerList::Compact => {
                    let of = |v4: bool| peers.iter().map(|(addr, _)| *addr).filter(move |addr| addr.is_ipv4() == v4);
                    d.bytes(b"peers", &compact_list(of(true)));
                    // BEP 7: "The new key is peers6".
                    let v6 = compact_list(of(false));
                    if !v6.is_empty() {
                        d.bytes(b"peers6", &v6);
                    }
                }
                PeerList::Dictionaries { peer_ids } => {
                    d.list(b"peers", |list| {
                        for (addr, peer_id) in peers {
                            list.dict(|d| {
                                d.bytes(b"ip", addr.ip().to_string().as_bytes());
                                if peer_ids {
                                    d.bytes(b"peer id", &peer_id.0);
                                }
                                d.int(b"port", addr.port().into());
                            });
                        }
                    });
                }
            }
        })
    }
}

/// The body of the reply to a scrape.
#[must_use]
pub fn encode_scraped(files: impl IntoIterator<Item = (InfoHash, Counts)>) -> Vec<u8> {
    // Sorted, and each once, as a dictionary must be.
    let files: BTreeMap<InfoHash, Counts> = files.into_iter().collect();
    bencode::dict(|d| {
        d.dict(b"files", |d| {
            for (info_hash, counts) in &files {
                d.dict(&info_hash.0, |d| {
                    d.int(b"complete", number(counts.complete));
                    d.int(b"downloaded", number(counts.downloaded));
                    d.int(b"incomplete", number(counts.incomplete));
                });
            }
        });
    })
}

/// The body of a refusal. BEP 3: "if a tracker response has a key failure reason, then that maps to a human readable
/// string which explains why the query failed".
#[must_use]
pub fn encode_failure(reason: Reason) -> Vec<u8> {
    bencode::dict(|d| {
        d.bytes(b"failure reason", reason.to_string().as_bytes());
    })
}

fn compact_list(addrs: impl Iterator<Item = SocketAddr>) -> Vec<u8> {
    let mut out = Vec::new();
    addrs.for_each(|addr| compact::write_addr(&mut out, addr));
    out
}

fn number(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A";
    const PEER: &str = "peer_id=-TR2940-k8hj0wgej6ch";

    fn announce(more: &str) -> Result<Announce, Reason> {
        parse_announce(&format!("{HASH}&{PEER}&port=51413{more}"))
    }

    #[test]
    fn an_announce_as_transmission_writes_it() {
        let read = announce(
            "&uploaded=0&downloaded=0&left=1000&numwant=80&key=41eb2d20&compact=1&supportcrypto=1&event=started",
        );
        let announce = NativeAnnounce {
            info_hash: InfoHash::from_hex("123456789abcdef123456789abcdef123456789a").unwrap(),
            peer_id: PeerId(*b"-TR2940-k8hj0wgej6ch"),
            port: NonZeroU16::new(51413).unwrap(),
            progress: Some(Progress::Leeching),
            numwant: Some(80),
        };
        assert_eq!(read, Ok(Announce { announce, list: PeerList::Compact }));
    }

    #[test]
    fn optional_parameters() {
        let read = |more: &str| announce(more).unwrap();
        let table = [
            ("", Some(Progress::Unsaid)),
            ("&left=0", Some(Progress::Seeding)),
            ("&left=1", Some(Progress::Leeching)),
            ("&left=-1", Some(Progress::Unsaid)),
            ("&left=0&event=completed", Some(Progress::Completed)),
            ("&left=5&event=paused", Some(Progress::Leeching)),
            ("&left=5&event=", Some(Progress::Leeching)),
            ("&left=5&event=stopped", None),
        ];
        for (more, progress) in table {
            assert_eq!(read(more).announce.progress, progress, "{more}");
        }
        let table = [
            ("", PeerList::Dictionaries { peer_ids: true }),
            ("&compact=0", PeerList::Dictionaries { peer_ids: true }),
            ("&compact=0&no_peer_id=1", PeerList::Dictionaries { peer_ids: false }),
            ("&compact=1&no_peer_id=1", PeerList::Compact),
        ];
        for (more, list) in table {
            assert_eq!(read(more).list, list, "{more}");
        }
        for (more, numwant) in [("", None), ("&numwant=0", Some(0)), ("&numwant=-1", None), ("&numwant=x", None)] {
            assert_eq!(read(more).announce.numwant, numwant, "{more}");
        }
    }

    #[test]
    fn refusals() {
        let table = [
            (String::new(), "info_hash is missing"),
            ("info_hash=abc".into(), "info_hash must be 20 bytes, percent-encoded, and has 3"),
            (format!("info_hash={}", "a".repeat(19)), "info_hash must be 20 bytes, percent-encoded, and has 19"),
            (format!("info_hash={}", "ab".repeat(20)), "info_hash must be 20 bytes, percent-encoded, and has 40"),
            (format!("{HASH}%zz"), "info_hash must be 20 bytes, percent-encoded, and has 23"),
            (HASH.into(), "peer_id is missing"),
            (format!("{HASH}&peer_id"), "peer_id must be 20 bytes, percent-encoded, and has 0"),
            (format!("{HASH}&{PEER}"), "port is missing"),
            (format!("{HASH}&{PEER}&port=0"), "port must be a number from 1 to 65535"),
            (format!("{HASH}&{PEER}&port=65536"), "port must be a number from 1 to 65535"),
            (format!("{HASH}&{PEER}&port=x"), "port must be a number from 1 to 65535"),
        ];
        for (query, sentence) in table {
            assert_eq!(parse_announce(&query).unwrap_err().to_string(), sentence, "{query}");
        }
        assert_eq!(encode_failure(Reason::BadPort), b"d14:failure reason37:port must be a number from 1 to 65535e");
    }

    #[test]
    fn scrapes() {
        assert_eq!(parse_scrape(&format!("{HASH}&{HASH}&x=1")).unwrap().len(), 2);
        assert_eq!(parse_scrape("x=1"), Err(Reason::NothingToScrape));
        assert_eq!(parse_scrape("info_hash=a"), Err(Reason::NotTwenty { field: "info_hash", got: 1 }));
        assert!(parse_scrape(&[HASH; MAX_SCRAPED].join("&")).is_ok());
        assert_eq!(parse_scrape(&[HASH; MAX_SCRAPED + 1].join("&")), Err(Reason::TooManyScraped));

        let counts = Counts { complete: 5, incomplete: 10, downloaded: 50 };
        let files =
            [(InfoHash([b'b'; 20]), Counts::default()), (InfoHash([b'a'; 20]), counts), (InfoHash([b'a'; 20]), counts)];
        assert_eq!(
            encode_scraped(files).escape_ascii().to_string(),
            "d5:filesd\
             20:aaaaaaaaaaaaaaaaaaaad8:completei5e10:downloadedi50e10:incompletei10ee\
             20:bbbbbbbbbbbbbbbbbbbbd8:completei0e10:downloadedi0e10:incompletei0ee\
             ee"
        );
    }

    #[test]
    fn replies_in_every_form() {
        let announced = Announced {
            counts: Counts { complete: 1, incomplete: 2, downloaded: 9 },
            interval: 1800,
            min_interval: 60,
            external_ip: "1.2.3.4".parse().unwrap(),
            peers: vec![
                ("65.66.67.68:16705".parse().unwrap(), PeerId([b'p'; 20])),
                ("[4142:4344:4546:4748:494a:4b4c:4d4e:4f50]:16705".parse().unwrap(), PeerId([b'q'; 20])),
            ],
        };
        let encode = |list| announced.encode(list).escape_ascii().to_string();
        let head =
            "d8:completei1e11:external ip4:\\x01\\x02\\x03\\x0410:incompletei2e8:intervali1800e12:min intervali60e";
        assert_eq!(encode(PeerList::Compact), format!("{head}5:peers6:ABCDAA6:peers618:ABCDEFGHIJKLMNOPAAe"));
        let v6 = "39:4142:4344:4546:4748:494a:4b4c:4d4e:4f50";
        assert_eq!(
            encode(PeerList::Dictionaries { peer_ids: true }),
            format!(
                "{head}5:peersl\
                 d2:ip11:65.66.67.687:peer id20:pppppppppppppppppppp4:porti16705ee\
                 d2:ip{v6}7:peer id20:qqqqqqqqqqqqqqqqqqqq4:porti16705ee\
                 ee"
            )
        );
        assert_eq!(
            encode(PeerList::Dictionaries { peer_ids: false }),
            format!("{head}5:peersld2:ip11:65.66.67.684:porti16705eed2:ip{v6}4:porti16705eeee")
        );
    }

    proptest! {
        #[test]
        fn any_twenty_bytes_survive_the_query(hash: [u8; 20], peer: [u8; 20]) {
            let escape = |bytes: &[u8]| percent_encode(bytes, NON_ALPHANUMERIC).to_string();
            let read = parse_announce(&format!("info_hash={}&peer_id={}&port=1", escape(&hash), escape(&peer)));
            let announce = read.unwrap().announce;
            prop_assert_eq!((announce.info_hash.0, announce.peer_id.0), (hash, peer));
        }

        #[test]
        fn no_query_panics(query in "(info_hash|peer_id|port|left|event|&|=|%|%4|[a-z0-9]|\\PC){0,60}") {
            let _ = parse_announce(&query);
            let _ = parse_scrape(&query);
        }
    }
}
