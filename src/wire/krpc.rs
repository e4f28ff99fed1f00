//! KRPC, the messages of the DHT: BEP 5, with BEP 32 (`nodes6`, `want`), BEP 42 (`ip`), BEP 43 (`ro`) and BEP 44
//! (`get`, `put`).
//!
//! Reading is lenient where deployed nodes are — dictionary keys in any order, transaction ids of any length, fields we
//! do not know — and strict on lengths: an id of 19 bytes is no id. A query that can be understood far enough to be
//! answered but not obeyed becomes [`DecodeError::Refused`], which carries the answer; so does one that is no bencode,
//! such as a `put` of a half-written value, when its transaction id can still be read.

use std::net::SocketAddr;

use super::bencode::{self, DictWriter, Node};
use super::compact;
use super::id::{InfoHash, NodeId, PublicKey, Signature, Target};
use super::item::{ItemError, Salt, SignedItem};

mod decode;
mod salvage;

/// BEP 5: "203 Protocol Error, such as a malformed packet, invalid arguments, or bad token".
pub const PROTOCOL_ERROR: i64 = 203;
/// BEP 5: "204 Method Unknown".
pub const METHOD_UNKNOWN: i64 = 204;
/// BEP 5: "202 Server Error".
pub const SERVER_ERROR: i64 = 202;
/// BEP 44: "301 the CAS hash mismatched, re-read value and try again".
pub const CAS_MISMATCH: i64 = 301;
/// BEP 44: "302 sequence number less than current".
pub const SEQ_TOO_LOW: i64 = 302;

/// One datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// `t`: chosen by the asker, echoed in the answer. Any length: most nodes use two bytes, some four.
    pub transaction: Vec<u8>,
    /// `v`: the sender's software, raw bencode because nodes put odd things there. Informative only.
    pub version: Option<Vec<u8>>,
    /// `ip`: in answers, the asker's address as the answerer sees it (BEP 42).
    pub ip: Option<SocketAddr>,
    /// `y` and what goes with it.
    pub body: Body,
}

/// `y`: "q" for query, "r" for response, or "e" for error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// `y` = `q`.
    Query(Query),
    /// `y` = `r`.
    Response(Response),
    /// `y` = `e`.
    Error(ErrorReply),
}

/// `q` and `a`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// The asker.
    pub id: NodeId,
    /// `ro` (BEP 43): the asker answers no queries and must not be put into routing tables.
    pub read_only: bool,
    /// `want` (BEP 32): which families of nodes the asker wants; `None` means that of the packet.
    pub want: Option<Want>,
    /// `q` and its own arguments.
    pub method: Method,
}

/// BEP 32: `want` "is a list of strings, where each string is either n4 or n6".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Want {
    /// `n4`
    pub v4: bool,
    /// `n6`
    pub v6: bool,
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    /// Are you there?
    Ping,
    /// Which nodes do you know that are closest to this point?
    FindNode {
        /// The point.
        target: Target,
    },
    /// Which peers of this torrent do you know?
    GetPeers {
        /// The torrent.
        info_hash: InfoHash,
    },
    /// I am a peer of this torrent.
    AnnouncePeer {
        /// The torrent.
        info_hash: InfoHash,
        /// The peer's port.
        port: u16,
        /// BEP 5: if set, "the port argument should be ignored and the source port of the UDP packet should be used".
        implied_port: bool,
        /// From an earlier answer to `get_peers`.
        token: Vec<u8>,
    },
    /// Which item do you hold at this target (BEP 44)?
    Get {
        /// The target.
        target: Target,
        /// BEP 44: "an item's value should only be sent if its sequence number is greater than the given value".
        seq: Option<i64>,
    },
    /// Hold this item (BEP 44).
    Put {
        /// From an earlier answer to `get`.
        token: Vec<u8>,
        /// Not in BEP 44, since it follows from the item, but `mainline` nodes ignore a put without it.
        target: Option<Target>,
        /// The item. A mutable one is a claim: nothing about it has been checked.
        item: PutItem,
    },
}

/// The two kinds of item of a `put`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutItem {
    /// A bencoded value that is found by its hash.
    Immutable(Vec<u8>),
    /// A signed item.
    Mutable {
        /// The claim.
        item: SignedItem,
        /// BEP 44: store only if the sequence number of what is stored now equals this one.
        cas: Option<i64>,
    },
}

impl Method {
    /// The name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::FindNode { .. } => "find_node",
            Self::GetPeers { .. } => "get_peers",
            Self::AnnouncePeer { .. } => "announce_peer",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
        }
    }
}

/// A node as `nodes` and `nodes6` name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Contact {
    /// Its id.
    pub id: NodeId,
    /// Its address.
    pub addr: SocketAddr,
}

/// `r`. A response does not say which method it answers, so each field is there or not; the asker knows which to expect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The answerer.
    pub id: NodeId,
    /// IPv4 nodes. Absent and empty differ: `mainline` takes an answer to `find_node` without the field for a pong.
    pub nodes: Option<Vec<Contact>>,
    /// IPv6 nodes (BEP 32).
    pub nodes6: Option<Vec<Contact>>,
    /// Peers of the torrent asked for, either family.
    pub values: Option<Vec<SocketAddr>>,
    /// Must be shown to announce or put here.
    pub token: Option<Vec<u8>>,
    /// The item held at the target asked for.
    pub held: Option<Held>,
}

impl Response {
    /// A bare response, which is also the pong.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self { id, nodes: None, nodes6: None, values: None, token: None, held: None }
    }
}

/// What an answer to `get` says about the item held. Nothing about it has been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// `v` alone.
    Immutable(Vec<u8>),
    /// `k`, `seq`, `sig` and `v`. The salt is not repeated: the asker knows it.
    Mutable {
        /// The author.
        key: PublicKey,
        /// The item's number.
        seq: i64,
        /// Over salt, number and value.
        sig: Signature,
        /// The raw bencoded value.
        v: Vec<u8>,
    },
    /// `seq` alone: an item is held, but not above the number asked for.
    Unchanged {
        /// The item's number.
        seq: i64,
    },
}

/// `e`: a code and a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReply {
    /// BEP 5's and BEP 44's codes.
    pub code: i64,
    /// For people.
    pub message: String,
}

impl ErrorReply {
    /// An error with its sentence.
    #[must_use]
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ItemError> for ErrorReply {
    fn from(error: ItemError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Why a datagram is no usable message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not bencode.
    #[error(transparent)]
    Bencode(#[from] bencode::Error),
    /// Bencode, but no KRPC message that could be answered or matched.
    #[error("not a KRPC message: {0}")]
    NotKrpc(&'static str),
    /// A query that is to be answered with this error.
    #[error("refused with {}: {}", error.code, error.message)]
    Refused {
        /// `t` of the query.
        transaction: Vec<u8>,
        /// The answer.
        error: ErrorReply,
    },
}

impl Message {
    /// Reads one datagram.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        match bencode::decode(datagram) {
            Ok(node) => decode::message(&node),
            Err(error) => Err(match salvage::transaction(datagram) {
                Some(transaction) => {
                    DecodeError::Refused { transaction, error: ErrorReply::new(PROTOCOL_ERROR, error.to_string()) }
                }
                None => error.into(),
            }),
        }
    }

    /// Writes one datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        bencode::dict(|d| {
            if let Body::Query(query) = &self.body {
                d.dict(b"a", |a| write_arguments(a, query));
            }
            if let Body::Error(error) = &self.body {
                d.list(b"e", |e| {
                    e.int(error.code);
                    e.bytes(error.message.as_bytes());
                });
            }
            if let Some(ip) = self.ip {
                d.bytes(b"ip", &compact::addr(ip));
            }
            match &self.body {
                Body::Query(query) => {
                    d.bytes(b"q", query.method.name().as_bytes());
                    if query.read_only {
                        d.int(b"ro", 1);
                    }
                }
                Body::Response(response) => {
                    d.dict(b"r", |r| write_response(r, response));
                }
                Body::Error(_) => {}
            }
            d.bytes(b"t", &self.transaction);
            if let Some(version) = &self.version {
                d.raw(b"v", version);
            }
            let kind = match self.body {
                Body::Query(_) => b"q",
                Body::Response(_) => b"r",
                Body::Error(_) => b"e",
            };
            d.bytes(b"y", kind);
        })
    }
}

/// The arguments in the order of their keys, whichever of them the method has.
fn write_arguments(a: &mut DictWriter<'_>, query: &Query) {
    let signed = match &query.method {
        Method::Put { item: PutItem::Mutable { item, cas }, .. } => Some((item, *cas)),
        _ => None,
    };
    if let Some((_, Some(cas))) = signed {
        a.int(b"cas", cas);
    }
    a.bytes(b"id", &query.id.0);
    match &query.method {
        Method::AnnouncePeer { info_hash, implied_port, .. } => {
            a.int(b"implied_port", (*implied_port).into());
            a.bytes(b"info_hash", &info_hash.0);
        }
        Method::GetPeers { info_hash } => {
            a.bytes(b"info_hash", &info_hash.0);
        }
        _ => {}
    }
    if let Some((item, _)) = signed {
        a.bytes(b"k", &item.key.0);
    }
    if let Method::AnnouncePeer { port, .. } = query.method {
        a.int(b"port", port.into());
    }
    if let Some((item, _)) = signed {
        if !item.salt.is_empty() {
            a.bytes(b"salt", item.salt.as_bytes());
        }
        a.int(b"seq", item.seq);
        a.bytes(b"sig", &item.sig.0);
    }
    match &query.method {
        Method::Get { target, seq } => {
            if let Some(seq) = seq {
                a.int(b"seq", *seq);
            }
            a.bytes(b"target", &target.0);
        }
        Method::FindNode { target } | Method::Put { target: Some(target), .. } => {
            a.bytes(b"target", &target.0);
        }
        _ => {}
    }
    match &query.method {
        Method::AnnouncePeer { token, .. } => {
            a.bytes(b"token", token);
        }
        Method::Put { token, item, .. } => {
            a.bytes(b"token", token);
            a.raw(
                b"v",
                match item {
                    PutItem::Immutable(v) => v,
                    PutItem::Mutable { item, .. } => &item.v,
                },
            );
        }
        _ => {}
    }
    if let Some(want) = query.want {
        a.list(b"want", |list| {
            for (wanted, name) in [(want.v4, b"n4"), (want.v6, b"n6")] {
                if wanted {
                    list.bytes(name);
                }
            }
        });
    }
}

fn write_response(r: &mut DictWriter<'_>, response: &Response) {
    r.bytes(b"id", &response.id.0);
    if let Some(Held::Mutable { key, .. }) = &response.held {
        r.bytes(b"k", &key.0);
    }
    if let Some(nodes) = &response.nodes {
        r.bytes(b"nodes", &compact_nodes(nodes, SocketAddr::is_ipv4));
    }
    if let Some(nodes) = &response.nodes6 {
        r.bytes(b"nodes6", &compact_nodes(nodes, SocketAddr::is_ipv6));
    }
    if let Some(Held::Mutable { seq, .. } | Held::Unchanged { seq }) = &response.held {
        r.int(b"seq", *seq);
    }
    if let Some(Held::Mutable { sig, .. }) = &response.held {
        r.bytes(b"sig", &sig.0);
    }
    if let Some(token) = &response.token {
        r.bytes(b"token", token);
    }
    if let Some(Held::Mutable { v, .. } | Held::Immutable(v)) = &response.held {
        r.raw(b"v", v);
    }
    if let Some(values) = &response.values {
        r.list(b"values", |list| values.iter().for_each(|peer| list.bytes(&compact::addr(*peer))));
    }
}

fn compact_nodes(nodes: &[Contact], of_family: impl Fn(&SocketAddr) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(nodes.len() * 38);
    for node in nodes.iter().filter(|node| of_family(&node.addr)) {
        compact::write_node(&mut out, &node.id, node.addr);
    }
    out
}

#[cfg(test)]
mod tests;
