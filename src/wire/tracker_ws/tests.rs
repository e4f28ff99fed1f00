use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::wire::id::to_latin1;

const HASH: InfoHash = InfoHash([0xaa; 20]);
const PEER: PeerId = PeerId(*b"-WW0200-abcdefghijkl");
const OTHER: PeerId = PeerId([b'o'; 20]);

/// An id as it stands in JSON.
fn id(bytes: &[u8]) -> Value {
    Value::String(to_latin1(bytes))
}

/// An announce with more fields, or other ones.
fn announce(more: Value) -> String {
    let mut frame = json!({"action": "announce", "info_hash": id(&HASH.0), "peer_id": id(&PEER.0)});
    for (key, value) in more.as_object().unwrap() {
        frame[key] = value.clone();
    }
    frame.to_string()
}

fn offer(n: u8) -> Value {
    json!({"offer": {"type": "offer", "sdp": format!("v=0\r\n{n}")}, "offer_id": id(&[n; 20])})
}

fn intent(frame: &str) -> Intent<'_> {
    match parse(frame).unwrap() {
        Request::Announce(Announce { info_hash: HASH, peer_id: PEER, intent }) => intent,
        other => panic!("{other:?}"),
    }
}

fn offer_ids(frame: &str) -> Vec<u8> {
    match intent(frame) {
        Intent::Offers { offers, .. } => offers.iter().map(|offer| offer.id.0[0]).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn an_announce_as_the_stock_client_writes_it() {
    let frame = r#"{"numwant":5,"uploaded":0,"downloaded":0,"left":null,"event":"started","action":"announce","info_hash":"ªªªªªªªªªªªªªªªªªªªª","peer_id":"-WW0200-abcdefghijkl","offers":[{"offer":{"type":"offer","sdp":"v=0\r\no=- 1"},"offer_id":"\u0000\u00011234567890abcdefÿ\""}]}"#;
    let Intent::Offers { progress: Progress::Unsaid, offers } = intent(frame) else { panic!("offers") };
    assert_eq!(offers.len(), 1);
    assert_eq!(&offers[0].id.0, b"\x00\x011234567890abcdef\xff\"");
    assert_eq!(offers[0].description.sdp().unwrap(), "v=0\r\no=- 1");

    let message = Message::Offer { info_hash: HASH, peer_id: PEER, offer: offers[0].clone() };
    assert_eq!(
        message.encode(),
        r#"{"action":"announce","offer":{"type":"offer","sdp":"v=0\r\no=- 1"},"offer_id":"\u0000\u00011234567890abcdefÿ\"","peer_id":"-WW0200-abcdefghijkl","info_hash":"ªªªªªªªªªªªªªªªªªªªª"}"#
    );
}

#[test]
fn session_descriptions_keep_their_text() {
    // Escapes, spaces and further members that an encoder of ours would write differently.
    let raw = r#"{ "type":"offer", "sdp":"v=0\u000d\u000a\/", "x":[1.0e3,{"sdp":5}] }"#;
    let frame = format!(
        r#"{{"action":"announce","info_hash":"{0}","peer_id":"{0}","offers":[{{"offer":{raw},"offer_id":"{0}"}}]}}"#,
        "a".repeat(20)
    );
    let Ok(Request::Announce(Announce { intent: Intent::Offers { offers, .. }, info_hash, peer_id })) = parse(&frame)
    else {
        panic!("offers")
    };
    let relayed = Message::Offer { info_hash, peer_id, offer: offers[0].clone() }.encode();
    assert!(relayed.contains(raw), "{relayed}");
    assert_eq!(offers[0].description.sdp().unwrap(), "v=0\r\n/");
}

#[test]
fn progress() {
    let table = [
        (json!({}), Progress::Unsaid),
        (json!({"left": null}), Progress::Unsaid),
        (json!({"left": "0"}), Progress::Unsaid),
        (json!({"left": 0}), Progress::Seeding),
        (json!({"left": 0.0}), Progress::Seeding),
        (json!({"left": 1}), Progress::Leeching),
        (json!({"left": 1e300}), Progress::Leeching),
        (json!({"left": 5, "event": "started"}), Progress::Leeching),
        (json!({"left": 0, "event": "completed"}), Progress::Completed),
        (json!({"event": "completed"}), Progress::Completed),
        (json!({"event": "update"}), Progress::Unsaid),
        (json!({"event": ""}), Progress::Unsaid),
        (json!({"event": 5, "left": 0}), Progress::Seeding),
        (json!({"event": "paused", "left": 3}), Progress::Leeching),
    ];
    for (fields, expected) in table {
        assert_eq!(intent(&announce(fields.clone())), Intent::Update { progress: expected }, "{fields}");
    }
}

#[test]
fn intents() {
    assert_eq!(intent(&announce(json!({"event": "stopped", "left": 0}))), Intent::Stop);
    assert_eq!(intent(&announce(json!({"event": "stopped", "offers": [offer(1)]}))), Intent::Stop);
    let answer =
        json!({"answer": {"type": "answer", "sdp": "v=0"}, "to_peer_id": id(&OTHER.0), "offer_id": id(&[7; 20])});
    let frame = announce(answer);
    let Intent::Answer { to: OTHER, offer_id: OfferId([7, ..]), answer } = intent(&frame) else { panic!("an answer") };
    assert_eq!(answer.sdp().unwrap(), "v=0");
    assert!(matches!(intent(&announce(json!({"answer": null, "offers": []}))), Intent::Update { .. }));
}

#[test]
fn malformed_offers_are_skipped_and_the_rest_counts() {
    let sdp = json!({"type": "offer", "sdp": "v=0"});
    let table = [
        (json!({"offers": [null, offer(1), 5, "x", [], {}, offer(2)]}), vec![1, 2]),
        (json!({"offers": [{"offer": null, "offer_id": id(&[3; 20])}, offer(1)]}), vec![1]),
        (json!({"offers": [{"offer": {"type": "offer"}, "offer_id": id(&[3; 20])}, offer(1)]}), vec![1]),
        (json!({"offers": [{"offer": {"sdp": 5}, "offer_id": id(&[3; 20])}, offer(1)]}), vec![1]),
        (json!({"offers": [{"offer": ["offer", "v=0"], "offer_id": id(&[3; 20])}, offer(1)]}), vec![1]),
        (json!({"offers": [{"offer": sdp, "offer_id": id(&[3; 19])}, offer(1)]}), vec![1]),
        (json!({"offers": [{"offer": sdp, "offer_id": "\u{100}".repeat(20)}, offer(1)]}), vec![1]),
        (json!({"offers": [{"offer": sdp}, offer(1)]}), vec![1]),
        (json!({"offers": [[sdp, id(&[3; 20])], offer(1)]}), vec![1]),
        (json!({"offers": [null]}), vec![]),
        (json!({"offers": []}), vec![]),
        (json!({"offers": null}), vec![]),
        (json!({"offers": 5}), vec![]),
        (json!({"offers": {"0": offer(1)}}), vec![]),
        (json!({"offers": "x"}), vec![]),
    ];
    for (fields, expected) in table {
        assert_eq!(offer_ids(&announce(fields.clone())), expected, "{fields}");
    }
}

#[test]
fn the_number_of_offers_is_bounded_by_us_and_by_numwant() {
    let offers: Vec<Value> = (0..30).map(offer).collect();
    let table = [
        (json!(null), MAX_OFFERS),
        (json!(3), 3),
        (json!(2.9), 2),
        (json!(0), MAX_OFFERS),
        (json!(-1), MAX_OFFERS),
        (json!("5"), MAX_OFFERS),
        (json!(1e300), MAX_OFFERS),
    ];
    for (numwant, expected) in table {
        let frame = announce(json!({"offers": offers, "numwant": numwant}));
        assert_eq!(offer_ids(&frame).len(), expected, "{numwant}");
    }
    // A list far longer than any honest one is walked, not stored.
    assert!(offer_ids(&announce(json!({"offers": vec![0; 100_000]}))).is_empty());
}

#[test]
fn scrapes() {
    let scrape = |info_hash: Value| {
        let frame = json!({"action": "scrape", "info_hash": info_hash}).to_string();
        parse(&frame).map(|request| match request {
            Request::Scrape(info_hashes) => info_hashes,
            other => panic!("{other:?}"),
        })
    };
    let other = InfoHash([0; 20]);
    assert_eq!(scrape(id(&HASH.0)), Ok(vec![HASH]));
    assert_eq!(scrape(json!([id(&HASH.0), id(&other.0)])), Ok(vec![HASH, other]));
    assert_eq!(scrape(json!([])), Ok(vec![]));
    assert_eq!(parse(r#"{"action":"scrape"}"#), Ok(Request::Scrape(vec![])));
    assert!(scrape(json!(vec![id(&HASH.0); MAX_SCRAPED])).is_ok());
    assert_eq!(scrape(json!(vec![id(&HASH.0); MAX_SCRAPED + 1])).unwrap_err().reason, Reason::TooManyScraped);
}

#[test]
fn other_actions_are_somebody_elses() {
    let Ok(Request::Other(other)) = parse(r#"{"action":"dht_get","id":"7","k":"00","offers":5}"#) else { panic!() };
    assert_eq!((other.action.as_str(), other.id.as_deref()), ("dht_get", Some(r#""7""#)));
    assert_eq!(
        Message::Failure(Failure::of_other(other.clone(), Reason::UnknownAction)).encode(),
        r#"{"action":"dht_get","id":"7","failure reason":"this server does not know the action"}"#
    );
    assert_eq!(
        Message::Failure(Failure::of_other(other, Reason::TooManyInFlight)).encode(),
        r#"{"action":"dht_get","id":"7","failure reason":"too many requests of this connection are in progress","code":202}"#
    );
}

#[test]
fn every_refusal_is_one_sentence_and_names_what_it_can() {
    let (nineteen, twenty) = ("a".repeat(19), "a".repeat(20));
    let table = [
        ("null".into(), r#"{"failure reason":"the message is not a JSON object"}"#.to_owned()),
        ("5".into(), r#"{"failure reason":"the message is not a JSON object"}"#.into()),
        ("".into(), r#"{"failure reason":"the message is not a JSON object"}"#.into()),
        ("[]".into(), r#"{"failure reason":"the message is not a JSON object"}"#.into()),
        (r#"["announce"]"#.into(), r#"{"failure reason":"the message is not a JSON object"}"#.into()),
        (r#"{"action":"announce""#.into(), r#"{"failure reason":"the message is not a JSON object"}"#.into()),
        ("{}".into(), r#"{"failure reason":"the message has no action (\"announce\" or \"scrape\")"}"#.into()),
        (
            format!(r#"{{"action":null,"info_hash":"{twenty}"}}"#),
            format!(
                r#"{{"info_hash":"{twenty}","failure reason":"the message has no action (\"announce\" or \"scrape\")"}}"#
            ),
        ),
        (
            r#"{"action":"scrape","info_hash":5}"#.into(),
            r#"{"action":"scrape","failure reason":"info_hash must be a string of 20 characters from U+0000 to U+00FF, one for each byte"}"#.into(),
        ),
        (
            r#"{"action":"scrape","info_hash":[null]}"#.into(),
            r#"{"action":"scrape","failure reason":"info_hash must be a string of 20 characters from U+0000 to U+00FF, one for each byte"}"#.into(),
        ),
        (
            format!(r#"{{"action":"announce","info_hash":"{nineteen}","peer_id":"{twenty}"}}"#),
            format!(r#"{{"action":"announce","info_hash":"{nineteen}","failure reason":"info_hash must be a string of 20 characters from U+0000 to U+00FF, one for each byte, and has 19"}}"#),
        ),
        (
            format!(r#"{{"action":"announce","info_hash":"{}","peer_id":"{twenty}"}}"#, "€".repeat(20)),
            format!(r#"{{"action":"announce","info_hash":"{}","failure reason":"info_hash must be a string of 20 characters from U+0000 to U+00FF, one for each byte"}}"#, "€".repeat(20)),
        ),
        (
            format!(r#"{{"action":"announce","info_hash":"{}","peer_id":"{twenty}"}}"#, "a".repeat(1000)),
            r#"{"action":"announce","failure reason":"info_hash must be a string of 20 characters from U+0000 to U+00FF, one for each byte, and has 1000"}"#.into(),
        ),
        (
            format!(r#"{{"action":"announce","info_hash":"{twenty}"}}"#),
            format!(r#"{{"action":"announce","info_hash":"{twenty}","failure reason":"peer_id is missing"}}"#),
        ),
        (
            format!(r#"{{"action":"announce","info_hash":"{twenty}","peer_id":"{twenty}","answer":5,"to_peer_id":"{twenty}","offer_id":"{twenty}"}}"#),
            format!(r#"{{"action":"announce","info_hash":"{twenty}","failure reason":"answer must be an object with a string sdp"}}"#),
        ),
        (
            format!(r#"{{"action":"announce","info_hash":"{twenty}","peer_id":"{twenty}","answer":{{"sdp":""}},"offer_id":"{twenty}"}}"#),
            format!(r#"{{"action":"announce","info_hash":"{twenty}","failure reason":"to_peer_id is missing"}}"#),
        ),
        (
            format!(r#"{{"action":"{}"}}"#, "x".repeat(1000)),
            r#"{"failure reason":"this server does not know the action"}"#.into(),
        ),
    ];
    for (frame, reply) in table {
        assert_eq!(Message::Failure(parse(&frame).unwrap_err()).encode(), reply, "{frame}");
    }
}

#[test]
fn depth_costs_nothing() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let frame = format!(r#"{{"action":"announce","info_hash":"{0}","peer_id":"{0}","offers":{deep}}}"#, "a".repeat(20));
    assert!(parse(&frame).is_ok());
    assert!(parse(&deep).is_err());
}

#[test]
fn replies_are_what_clients_read() {
    let counts = Counts { complete: 3, incomplete: 4, downloaded: 5 };
    let value = |message: Message| serde_json::from_str::<Value>(&message.encode()).unwrap();
    assert_eq!(
        value(Message::Announced { info_hash: HASH, interval: 120, counts }),
        json!({"action": "announce", "interval": 120, "info_hash": id(&HASH.0), "complete": 3, "incomplete": 4})
    );
    assert_eq!(
        value(Message::Scraped(vec![(HASH, counts), (InfoHash([0; 20]), Counts::default())])),
        json!({"action": "scrape", "files": {
            to_latin1(&HASH.0): {"complete": 3, "incomplete": 4, "downloaded": 5},
            to_latin1(&[0; 20]): {"complete": 0, "incomplete": 0, "downloaded": 0},
        }})
    );
    let answer = Message::Answer {
        info_hash: HASH,
        peer_id: PEER,
        offer_id: OfferId([1; 20]),
        answer: Description::answer("v=0\r\n\"ü\""),
    };
    assert_eq!(
        value(answer),
        json!({
            "action": "announce", "answer": {"type": "answer", "sdp": "v=0\r\n\"ü\""}, "offer_id": id(&[1; 20]),
            "peer_id": id(&PEER.0), "info_hash": id(&HASH.0),
        })
    );
    assert_eq!(
        value(Message::Failure(Failure::of_announce(&HASH, Reason::TrackerFull))),
        json!({"action": "announce", "info_hash": id(&HASH.0), "failure reason": "the tracker is full"})
    );
}

proptest! {
    #[test]
    fn ids_are_written_as_json_stringify_does(bytes: [u8; 20]) {
        let info_hash = InfoHash(bytes);
        let frame = Message::Scraped(vec![(info_hash, Counts::default())]).encode();
        let stringified = serde_json::to_string(&to_latin1(&bytes)).unwrap();
        prop_assert!(frame.contains(&stringified), "{frame}");
    }

    #[test]
    fn what_is_offered_arrives(hash: [u8; 20], peer: [u8; 20], offer_id: [u8; 20], sdp in ".*") {
        let frame = json!({
            "action": "announce", "info_hash": id(&hash), "peer_id": id(&peer),
            "offers": [{"offer": {"type": "offer", "sdp": sdp}, "offer_id": id(&offer_id)}],
        });
        let frame = frame.to_string();
        let Ok(Request::Announce(read)) = parse(&frame) else { panic!("an announce") };
        let Intent::Offers { offers, .. } = read.intent else { panic!("offers") };
        prop_assert_eq!(offers[0].description.sdp(), Some(sdp.clone()));
        let sent = Message::Offer { info_hash: read.info_hash, peer_id: read.peer_id, offer: offers[0].clone() };
        prop_assert_eq!(
            serde_json::from_str::<Value>(&sent.encode()).unwrap(),
            json!({
                "action": "announce", "info_hash": id(&hash), "peer_id": id(&peer), "offer_id": id(&offer_id),
                "offer": {"type": "offer", "sdp": sdp},
            })
        );
    }

    /// Cut, flipped or doubled, a frame is read or refused, and a refusal is always JSON.
    #[test]
    fn damage_is_refused_cleanly(at in 0usize..400, with: u8, cut: bool) {
        let mut bytes = announce(json!({"offers": [offer(1), offer(2)], "left": 5, "event": "started"})).into_bytes();
        if cut {
            bytes.truncate(at);
        } else if let Some(byte) = bytes.get_mut(at) {
            *byte = with;
        }
        if let Ok(text) = String::from_utf8(bytes) {
            match parse(&text) {
                Err(failure) => prop_assert!(serde_json::from_str::<Value>(&Message::Failure(failure).encode()).is_ok()),
                Ok(Request::Announce(Announce { intent: Intent::Offers { offers, .. }, info_hash, peer_id })) => {
                    for offer in offers {
                        let sent = Message::Offer { info_hash, peer_id, offer }.encode();
                        prop_assert!(serde_json::from_str::<Value>(&sent).is_ok());
                    }
                }
                Ok(_) => {}
            }
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*", fields in prop::collection::vec(("(action|info_hash|offers|answer|event|left)", "(5|null|\"announce\"|\"scrape\"|\\[\\]|\\{\\}|\"\\\\ud800\")"), 0..6)) {
        let _ = parse(&text);
        let object: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let _ = parse(&format!("{{{}}}", object.join(",")));
    }
}
