//! Reading KRPC messages out of decoded bencode.

use super::{
    Body, Contact, DecodeError, ErrorReply, Held, InfoHash, ItemError, METHOD_UNKNOWN, Message, Method, Node, NodeId,
    PROTOCOL_ERROR, PublicKey, PutItem, Query, Response, Salt, Signature, SignedItem, SocketAddr, Target, Want,
    compact,
};

pub(super) fn message(node: &Node<'_>) -> Result<Message, DecodeError> {
    let transaction = bytes(node, b"t").ok_or(DecodeError::NotKrpc("no transaction id"))?.to_vec();
    let body = match bytes(node, b"y") {
        Some(b"q") => match query(node) {
            Ok(query) => Body::Query(query),
            Err(error) => return Err(DecodeError::Refused { transaction, error }),
        },
        Some(b"r") => Body::Response(response(node)?),
        Some(b"e") => Body::Error(error_reply(node)),
        _ => return Err(DecodeError::NotKrpc("neither query, response nor error")),
    };
    Ok(Message {
        transaction,
        version: node.get(b"v").map(|v| v.raw.to_vec()),
        ip: bytes(node, b"ip").and_then(compact::read_addr),
        body,
    })
}

fn query(node: &Node<'_>) -> Result<Query, ErrorReply> {
    let name = bytes(node, b"q").ok_or_else(|| missing("q"))?;
    let a = node.get(b"a").ok_or_else(|| missing("a"))?;
    let id = argument(a, "id", NodeId::from_slice)?;
    let target = |name| argument(a, name, Target::from_slice);
    let info_hash = || argument(a, "info_hash", InfoHash::from_slice);
    let method = match name {
        b"ping" => Method::Ping,
        b"find_node" => Method::FindNode { target: target("target")? },
        b"get_peers" => Method::GetPeers { info_hash: info_hash()? },
        b"announce_peer" => announce(a, info_hash()?)?,
        b"get" => Method::Get { target: target("target")?, seq: int(a, b"seq") },
        b"put" => put(a)?,
        _ => return Err(ErrorReply::new(METHOD_UNKNOWN, "method unknown")),
    };
    Ok(Query { id, read_only: int(node, b"ro") == Some(1), want: want(a), method })
}

fn announce(a: &Node<'_>, info_hash: InfoHash) -> Result<Method, ErrorReply> {
    let implied_port = int(a, b"implied_port").is_some_and(|n| n != 0);
    let port = int(a, b"port").and_then(|n| u16::try_from(n).ok());
    let port = match port {
        Some(port) if port != 0 || implied_port => port,
        None if implied_port => 0,
        _ => return Err(missing("port")),
    };
    Ok(Method::AnnouncePeer { info_hash, port, implied_port, token: token(a)? })
}

/// BEP 44: a put is mutable when it has a key. The sizes that have error codes of their own are told apart here, because
/// a type with a salt of 65 bytes could not be made.
fn put(a: &Node<'_>) -> Result<Method, ErrorReply> {
    let token = token(a)?;
    let target = match a.get(b"target") {
        Some(_) => Some(argument(a, "target", Target::from_slice)?),
        None => None,
    };
    let v = a.get(b"v").ok_or_else(|| missing("v"))?.raw.to_vec();
    let item = if a.get(b"k").is_none() && a.get(b"sig").is_none() {
        PutItem::Immutable(v)
    } else {
        let signed = SignedItem {
            key: argument(a, "k", PublicKey::from_slice)?,
            salt: Salt::new(bytes(a, b"salt").unwrap_or_default())?,
            seq: int(a, b"seq").ok_or_else(|| missing("seq"))?,
            v,
            sig: argument(a, "sig", |raw| Signature::from_slice(raw).map_err(|_| ItemError::BadSignature))?,
        };
        PutItem::Mutable { item: signed, cas: int(a, b"cas") }
    };
    Ok(Method::Put { token, target, item })
}

fn want(a: &Node<'_>) -> Option<Want> {
    let names = a.get(b"want")?.items()?;
    let has = |name: &[u8]| names.iter().any(|n| n.bytes().is_some_and(|b| b.eq_ignore_ascii_case(name)));
    Some(Want { v4: has(b"n4"), v6: has(b"n6") })
}

fn response(node: &Node<'_>) -> Result<Response, DecodeError> {
    let r = node.get(b"r").ok_or(DecodeError::NotKrpc("response without r"))?;
    let id = bytes(r, b"id").and_then(|id| NodeId::from_slice(id).ok());
    let contact = |(id, addr)| Contact { id, addr };
    Ok(Response {
        id: id.ok_or(DecodeError::NotKrpc("response without a node id"))?,
        nodes: bytes(r, b"nodes").map(|n| compact::read_nodes_v4(n).map(contact).collect()),
        nodes6: bytes(r, b"nodes6").map(|n| compact::read_nodes_v6(n).map(contact).collect()),
        values: r.get(b"values").and_then(Node::items).map(peers),
        token: bytes(r, b"token").map(<[u8]>::to_vec),
        held: held(r),
    })
}

fn peers(values: &[Node<'_>]) -> Vec<SocketAddr> {
    values.iter().filter_map(|v| compact::read_addr(v.bytes()?)).collect()
}

/// A value that comes with some but not all of the fields of a mutable item is nothing.
fn held(r: &Node<'_>) -> Option<Held> {
    let v = r.get(b"v").map(|v| v.raw.to_vec());
    let seq = int(r, b"seq");
    match (v, r.get(b"k"), r.get(b"sig")) {
        (Some(v), None, None) => Some(Held::Immutable(v)),
        (Some(v), Some(key), Some(sig)) => Some(Held::Mutable {
            key: PublicKey::from_slice(key.bytes()?).ok()?,
            seq: seq?,
            sig: Signature::from_slice(sig.bytes()?).ok()?,
            v,
        }),
        (None, _, _) => seq.map(|seq| Held::Unchanged { seq }),
        (Some(_), _, _) => None,
    }
}

/// Nodes send lists of one, bare strings, and no list at all. Whatever it says, it is an error.
fn error_reply(node: &Node<'_>) -> ErrorReply {
    let items = node.get(b"e").and_then(Node::items).unwrap_or_default();
    let message = items.iter().find_map(Node::bytes).map(String::from_utf8_lossy).unwrap_or_default();
    ErrorReply { code: items.iter().find_map(Node::int).unwrap_or(0), message: message.into_owned() }
}

fn token(a: &Node<'_>) -> Result<Vec<u8>, ErrorReply> {
    bytes(a, b"token").map(<[u8]>::to_vec).ok_or_else(|| missing("token"))
}

/// An argument that must be there and read; what is wrong with it is the answer.
fn argument<T, E: Into<Refusal>>(
    a: &Node<'_>,
    name: &'static str,
    read: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<T, ErrorReply> {
    let raw = bytes(a, name.as_bytes()).ok_or_else(|| missing(name))?;
    read(raw).map_err(|error| error.into().0)
}

/// Errors of the types above, as answers.
struct Refusal(ErrorReply);

impl From<super::super::id::IdError> for Refusal {
    fn from(error: super::super::id::IdError) -> Self {
        Self(ErrorReply::new(PROTOCOL_ERROR, error.to_string()))
    }
}

impl From<ItemError> for Refusal {
    fn from(error: ItemError) -> Self {
        Self(error.into())
    }
}

fn missing(name: &str) -> ErrorReply {
    ErrorReply::new(PROTOCOL_ERROR, format!("{name} is missing or not what it should be"))
}

fn bytes<'a>(node: &Node<'a>, key: &[u8]) -> Option<&'a [u8]> {
    node.get(key)?.bytes()
}

fn int(node: &Node<'_>, key: &[u8]) -> Option<i64> {
    node.get(key)?.int()
}
