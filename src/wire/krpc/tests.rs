use proptest::prelude::*;

use super::*;

fn query(id: &[u8; 20], method: Method) -> Message {
    let body = Body::Query(Query { id: NodeId(*id), read_only: false, want: None, method });
    Message { transaction: b"aa".to_vec(), version: None, ip: None, body }
}

fn response(response: Response) -> Message {
    Message { transaction: b"aa".to_vec(), version: None, ip: None, body: Body::Response(response) }
}

const ASKER: &[u8; 20] = b"abcdefghij0123456789";
const ANSWERER: NodeId = NodeId(*b"mnopqrstuvwxyz123456");

/// The example packets of BEP 5, and those of BEP 44 with the values of its test vectors filled in.
#[test]
fn the_examples_of_the_beps() {
    let target = Target(*b"mnopqrstuvwxyz123456");
    let info_hash = InfoHash(target.0);
    let bare = Response::new(ANSWERER);
    let values = Some(vec!["97.120.106.101:11893".parse().unwrap(), "105.100.104.116:28269".parse().unwrap()]);
    let token = || Some(b"aoeusnth".to_vec());
    let key = PublicKey([b'K'; 32]);
    let sig = Signature([b'S'; 64]);
    let (k, s) = ("K".repeat(32), "S".repeat(64));
    let item = SignedItem { key, salt: Salt::new(b"foobar").unwrap(), seq: 1, v: b"12:Hello World!".to_vec(), sig };
    let error = ErrorReply::new(201, "A Generic Error Ocurred");
    let table: Vec<(String, Message)> = vec![
        (
            "d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee".into(),
            Message { transaction: b"aa".to_vec(), version: None, ip: None, body: Body::Error(error) },
        ),
        ("d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe".into(), query(ASKER, Method::Ping)),
        ("d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re".into(), response(bare.clone())),
        (
            "d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe".into(),
            query(ASKER, Method::FindNode { target }),
        ),
        (
            "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe".into(),
            query(ASKER, Method::GetPeers { info_hash }),
        ),
        (
            "d1:rd2:id20:mnopqrstuvwxyz1234565:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re".into(),
            response(Response { token: token(), values, ..bare.clone() }),
        ),
        (
            "d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e\
             5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe"
                .into(),
            query(ASKER, Method::AnnouncePeer { info_hash, port: 6881, implied_port: true, token: token().unwrap() }),
        ),
        (
            "d1:ad2:id20:abcdefghij01234567893:seqi4e6:target20:mnopqrstuvwxyz123456e1:q3:get1:t2:aa1:y1:qe".into(),
            query(ASKER, Method::Get { target, seq: Some(4) }),
        ),
        (
            format!(
                "d1:rd2:id20:mnopqrstuvwxyz1234561:k32:{k}5:nodes26:ABCDEFGHIJKLMNOPQRSTaxje.u3:seqi1e3:sig64:{s}\
                 5:token8:aoeusnth1:v12:Hello World!e1:t2:aa1:y1:re"
            ),
            response(Response {
                nodes: Some(vec![Contact {
                    id: NodeId(*b"ABCDEFGHIJKLMNOPQRST"),
                    addr: "97.120.106.101:11893".parse().unwrap(),
                }]),
                token: token(),
                held: Some(Held::Mutable { key, seq: 1, sig, v: item.v.clone() }),
                ..bare
            }),
        ),
        (
            "d1:ad2:id20:abcdefghij01234567895:token8:aoeusnth1:v12:Hello World!e1:q3:put1:t2:aa1:y1:qe".into(),
            query(
                ASKER,
                Method::Put {
                    token: token().unwrap(),
                    target: None,
                    item: PutItem::Immutable(b"12:Hello World!".to_vec()),
                },
            ),
        ),
        (
            format!(
                "d1:ad3:casi0e2:id20:abcdefghij01234567891:k32:{k}4:salt6:foobar3:seqi1e3:sig64:{s}\
                 6:target20:mnopqrstuvwxyz1234565:token8:aoeusnth1:v12:Hello World!e1:q3:put1:t2:aa1:y1:qe"
            ),
            query(
                ASKER,
                Method::Put {
                    token: token().unwrap(),
                    target: Some(target),
                    item: PutItem::Mutable { item, cas: Some(0) },
                },
            ),
        ),
    ];
    for (text, message) in table {
        assert_eq!(Message::decode(text.as_bytes()).as_ref(), Ok(&message), "{text}");
        assert_eq!(String::from_utf8_lossy(&message.encode()), text);
    }
}

/// What deployed nodes send besides the letter of the BEPs.
#[test]
fn deployed_nodes_are_understood() {
    let pong = |text: &[u8]| match Message::decode(text).unwrap() {
        Message { body: Body::Response(response), .. } => response.id,
        other => panic!("{other:?}"),
    };
    let id = NodeId(*b"mnopqrstuvwxyz123456");
    // Keys in any order; transaction ids of no byte and of seven; an unknown field; an odd version.
    assert_eq!(pong(b"d1:y1:r1:t2:aa1:rd2:id20:mnopqrstuvwxyz123456ee"), id);
    assert_eq!(pong(b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t0:1:y1:re"), id);
    assert_eq!(pong(b"d1:rd2:id20:mnopqrstuvwxyz1234561:pi9ee1:t7:aaaaaaa1:vi7e1:y1:re"), id);

    let error = |text: &[u8]| match Message::decode(text).unwrap().body {
        Body::Error(error) => (error.code, error.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(error(b"d1:e3:bad1:t2:aa1:y1:ee"), (0, String::new()));
    assert_eq!(error(b"d1:eli302ee1:t2:aa1:y1:ee"), (302, String::new()));

    let read_only = Message::decode(b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping2:roi1e1:t2:aa1:y1:qe").unwrap();
    assert!(matches!(read_only.body, Body::Query(Query { read_only: true, .. })));
}

#[test]
fn a_query_that_cannot_be_obeyed_is_refused_with_its_code() {
    let signed = |salt: usize, sig: usize| {
        format!(
            "d1:ad2:id20:abcdefghij01234567891:k32:{k}4:salt{salt}:{s}3:seqi1e3:sig{sig}:{g}5:token1:t1:v1:xe\
             1:q3:put1:t2:aa1:y1:qe",
            k = "K".repeat(32),
            s = "s".repeat(salt),
            g = "S".repeat(sig)
        )
    };
    let table: Vec<(String, i64)> = vec![
        ("d1:ad2:id19:abcdefghij012345678e1:q4:ping1:t2:aa1:y1:qe".into(), 203),
        ("d1:ade1:q4:ping1:t2:aa1:y1:qe".into(), 203),
        ("d1:q4:ping1:t2:aa1:y1:qe".into(), 203),
        ("d1:ad2:id20:abcdefghij0123456789e1:t2:aa1:y1:qe".into(), 203),
        ("d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t2:aa1:y1:qe".into(), 203),
        ("d1:ad2:id20:abcdefghij01234567896:target3:abce1:q3:get1:t2:aa1:y1:qe".into(), 203),
        ("d1:ad2:id20:abcdefghij01234567895:token1:te1:q3:put1:t2:aa1:y1:qe".into(), 203),
        ("d1:ad2:id20:abcdefghij0123456789e1:q4:vote1:t2:aa1:y1:qe".into(), 204),
        (signed(65, 64), 207),
        (signed(64, 63), 206),
    ];
    for (text, code) in table {
        match Message::decode(text.as_bytes()) {
            Err(DecodeError::Refused { transaction, error }) => {
                assert_eq!((transaction.as_slice(), error.code), (b"aa".as_slice(), code), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(Message::decode(signed(64, 64).as_bytes()).is_ok());
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![v4(), v6()]
}

fn v4() -> impl Strategy<Value = SocketAddr> {
    (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into())
}

/// IPv6 proper: a mapped address is written as the IPv4 address it stands for.
fn v6() -> impl Strategy<Value = SocketAddr> {
    (any::<[u8; 16]>(), any::<u16>()).prop_map(|(mut ip, port)| {
        ip[0] |= 0x20;
        (ip, port).into()
    })
}

fn contacts(address: impl Strategy<Value = SocketAddr>) -> impl Strategy<Value = Vec<Contact>> {
    let contact = (any::<[u8; 20]>(), address).prop_map(|(id, addr)| Contact { id: NodeId(id), addr });
    prop::collection::vec(contact, 0..9)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(|bytes| bencode::bytes(&bytes)),
        any::<[u8; 20]>().prop_map(|hash| crate::wire::pointer::value(&InfoHash(hash))),
    ]
}

fn signed() -> impl Strategy<Value = SignedItem> {
    (any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 0..65), any::<i64>(), value(), any::<[u8; 64]>()).prop_map(
        |(key, salt, seq, v, sig)| SignedItem {
            key: PublicKey(key),
            salt: Salt::new(salt).unwrap(),
            seq,
            v,
            sig: Signature(sig),
        },
    )
}

fn method() -> impl Strategy<Value = Method> {
    let target = || any::<[u8; 20]>().prop_map(Target);
    let info_hash = || any::<[u8; 20]>().prop_map(InfoHash);
    let item = prop_oneof![
        value().prop_map(PutItem::Immutable),
        (signed(), any::<Option<i64>>()).prop_map(|(item, cas)| PutItem::Mutable { item, cas }),
    ];
    prop_oneof![
        Just(Method::Ping),
        target().prop_map(|target| Method::FindNode { target }),
        info_hash().prop_map(|info_hash| Method::GetPeers { info_hash }),
        (info_hash(), 1u16.., any::<bool>(), any::<Vec<u8>>()).prop_map(|(info_hash, port, implied_port, token)| {
            Method::AnnouncePeer { info_hash, port, implied_port, token }
        }),
        (target(), any::<Option<i64>>()).prop_map(|(target, seq)| Method::Get { target, seq }),
        (any::<Vec<u8>>(), prop::option::of(target()), item).prop_map(|(token, target, item)| Method::Put {
            token,
            target,
            item
        }),
    ]
}

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![
        value().prop_map(Held::Immutable),
        signed().prop_map(|i| Held::Mutable { key: i.key, seq: i.seq, sig: i.sig, v: i.v }),
        any::<i64>().prop_map(|seq| Held::Unchanged { seq }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let want = (any::<bool>(), any::<bool>()).prop_map(|(v4, v6)| Want { v4, v6 });
    let query = (any::<[u8; 20]>(), any::<bool>(), prop::option::of(want), method())
        .prop_map(|(id, read_only, want, method)| Body::Query(Query { id: NodeId(id), read_only, want, method }));
    let response = (
        any::<[u8; 20]>(),
        prop::option::of(contacts(v4())),
        prop::option::of(contacts(v6())),
        prop::option::of(prop::collection::vec(address(), 0..9)),
        any::<Option<Vec<u8>>>(),
        prop::option::of(held()),
    )
        .prop_map(|(id, nodes, nodes6, values, token, held)| {
            Body::Response(Response { id: NodeId(id), nodes, nodes6, values, token, held })
        });
    let error = (any::<i64>(), any::<String>()).prop_map(|(code, text)| Body::Error(ErrorReply::new(code, text)));
    prop_oneof![query, response, error]
}

fn message() -> impl Strategy<Value = Message> {
    (any::<Vec<u8>>(), prop::option::of(value()), prop::option::of(address()), body())
        .prop_map(|(transaction, version, ip, body)| Message { transaction, version, ip, body })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn junk_is_no_message(junk in any::<Vec<u8>>()) {
        prop_assert!(Message::decode(&junk).is_err());
    }

    /// Truncated, flipped and extended datagrams are read or refused, and what is read can be written and read again.
    #[test]
    fn damage_is_survived(message in message(), cut in any::<prop::sample::Index>(), flip in any::<u8>(), more in any::<Vec<u8>>()) {
        let whole = message.encode();
        let at = cut.index(whole.len());
        prop_assert!(Message::decode(&whole[..at]).is_err());
        let mut flipped = whole.clone();
        flipped[at] ^= flip;
        if let Ok(read) = Message::decode(&flipped) {
            prop_assert_eq!(Message::decode(&read.encode()), Ok(read));
        }
        let extended = [whole, more.clone()].concat();
        prop_assert_eq!(Message::decode(&extended).is_ok(), more.is_empty());
    }
}
