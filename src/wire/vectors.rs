//! Reads the test vectors of `spec/`, which the TypeScript tests read too, and checks every case.

use std::fmt::Debug;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::id::{PublicKey, Signature, Target};
use super::item::{ItemError, Salt, SignedItem, VerifiedItem, check_value, immutable_target, mutable_target, signable};
use super::magnet::{Magnet, MagnetError};
use super::record_exchange::{self, ExchangeMessage, Summary};
use super::record_messages::{
    AnswerError, Call, Failure, Known, Mode, Record, Refused, Reply, Request, Source, announce_frame, update_frame,
};
use super::tracker::Counts;
use super::tracker_ws::{self, Announce};
use super::{hex, pointer};

/// What all cases have. `expected` goes with valid ones, `code` or `error` with the others.
#[derive(Deserialize)]
struct Case {
    comment: String,
    flags: Vec<String>,
    input: Value,
    result: Verdict,
    #[serde(default)]
    expected: Value,
    code: Option<i64>,
    error: Option<String>,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Valid,
    Invalid,
}

impl Case {
    fn input<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.input.clone()).unwrap_or_else(|e| panic!("{}: {e}", self.comment))
    }

    fn expected<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.expected.clone()).unwrap_or_else(|e| panic!("{}: {e}", self.comment))
    }

    /// Compares what came out with what the case says: `Err` holds the error code.
    fn check<T: PartialEq + Debug>(&self, result: Result<T, i64>, expected: impl FnOnce() -> T) {
        match self.result {
            Verdict::Valid => assert_eq!(result, Ok(expected()), "{}", self.comment),
            Verdict::Invalid => assert_eq!(result.err(), self.code, "{}", self.comment),
        }
    }
}

fn group(file: &str, name: &str) -> Vec<Case> {
    let file: Value = serde_json::from_str(file).unwrap();
    let cases: Vec<Case> = serde_json::from_value(file[name].clone()).unwrap();
    assert!(!cases.is_empty(), "{name}");
    cases
}

const ITEMS: &str = include_str!("../../spec/vectors/items.json");
const MAGNETS: &str = include_str!("../../spec/vectors/magnets.json");
const MESSAGES: &str = include_str!("../../spec/vectors/messages.json");
const EXCHANGE: &str = include_str!("../../spec/vectors/exchange.json");

#[derive(Deserialize)]
struct ItemInput {
    k: Option<String>,
    salt: Option<String>,
    seq: Option<i64>,
    v: String,
    sig: Option<String>,
}

#[derive(Deserialize, PartialEq, Debug)]
struct ItemExpected {
    target: String,
    signable: Option<String>,
    ih: Option<String>,
}

#[test]
fn items() {
    for case in group(ITEMS, "items") {
        let result = read_item(case.input()).map_err(ItemError::code);
        case.check(result, || case.expected());
    }
}

fn read_item(input: ItemInput) -> Result<ItemExpected, ItemError> {
    let v = hex::decode(&input.v).unwrap();
    let ih = pointer::info_hash(&v).map(|ih| ih.to_hex());
    let Some(k) = input.k else {
        check_value(&v)?;
        return Ok(ItemExpected { target: immutable_target(&v).to_hex(), signable: None, ih });
    };
    let salt = Salt::new(hex::decode(&input.salt.unwrap_or_default()).unwrap())?;
    let sig = Signature::from_hex(&input.sig.unwrap()).unwrap();
    let item = SignedItem { key: PublicKey::from_hex(&k).unwrap(), salt, seq: input.seq.unwrap(), v, sig }.verify()?;
    let signed = signable(item.salt(), item.seq(), item.v());
    Ok(ItemExpected { target: item.target().to_hex(), signable: Some(hex::encode(&signed)), ih })
}

#[test]
fn targets() {
    for case in group(ITEMS, "targets") {
        let key = PublicKey::from_hex(case.input["k"].as_str().unwrap()).unwrap();
        let salt = Salt::new(hex::decode(case.input["salt"].as_str().unwrap_or_default()).unwrap()).unwrap();
        assert_eq!(mutable_target(&key, &salt).to_hex(), case.expected["target"], "{}", case.comment);
    }
}

#[derive(Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MagnetFields {
    ih: Option<String>,
    k: Option<String>,
    salt: String,
    name: Option<String>,
    trackers: Vec<String>,
    web_seeds: Vec<String>,
    peers: Vec<String>,
}

impl From<Magnet> for MagnetFields {
    fn from(magnet: Magnet) -> Self {
        Self {
            ih: magnet.info_hash.map(|ih| ih.to_hex()),
            k: magnet.key.map(|k| k.to_hex()),
            salt: hex::encode(magnet.salt.as_bytes()),
            name: magnet.name,
            trackers: magnet.trackers,
            web_seeds: magnet.web_seeds,
            peers: magnet.peers,
        }
    }
}

#[test]
fn magnets() {
    for case in group(MAGNETS, "magnets") {
        let link: String = case.input();
        match (case.result, Magnet::parse(&link)) {
            (Verdict::Valid, read) => {
                let read = read.unwrap_or_else(|error| panic!("{}: {error}", case.comment));
                assert_eq!(Magnet::parse(&read.to_string()).as_ref(), Ok(&read), "{}: written and read", case.comment);
                assert_eq!(MagnetFields::from(read), case.expected(), "{}", case.comment);
            }
            (Verdict::Invalid, read) => {
                let error = match read.unwrap_err() {
                    MagnetError::NotAMagnet => "NotAMagnet",
                    MagnetError::TooLong => "TooLong",
                    MagnetError::Malformed(_) => "Malformed",
                    MagnetError::Ambiguous(_) => "Ambiguous",
                    MagnetError::V2Only => "V2Only",
                    MagnetError::NoTarget => "NoTarget",
                };
                assert_eq!(Some(error), case.error.as_deref(), "{}", case.comment);
            }
        }
    }
}

#[test]
fn requests() {
    for case in group(MESSAGES, "requests") {
        let read = Request::parse(&case.input::<String>());
        if let Err(Refused { action, id, .. }) = &read {
            let sent: Value = serde_json::from_str(&case.input::<String>()).unwrap();
            assert_eq!(sent["action"], action.as_str(), "{}", case.comment);
            let id_is_bad = case.flags.iter().any(|flag| flag == "Id");
            assert_eq!(id.is_none(), id_is_bad, "{}", case.comment);
        }
        case.check(read.map_err(|refused| refused.error.code()).and_then(understood), || case.expected::<Value>());
    }
}

/// The request written again from what was read. A put is valid when its item is, too.
fn understood(request: Request) -> Result<Value, i64> {
    let mut fields = match &request.call {
        Call::Info => serde_json::json!({}),
        Call::Get { key, salt, known_seq, max_age, min_seq, mode } => serde_json::json!({
            "k": key.to_hex(),
            "salt": salt_field(salt),
            "seq": known_seq,
            "max_age": max_age,
            "min_seq": min_seq,
            "mode": (*mode != Mode::default()).then_some(mode),
        }),
        Call::Subscribe { key, salt, known_seq } => {
            serde_json::json!({"k": key.to_hex(), "salt": salt_field(salt), "seq": known_seq})
        }
        Call::Unsubscribe { key, salt } => serde_json::json!({"k": key.to_hex(), "salt": salt_field(salt)}),
        Call::GetValue { target } => serde_json::json!({"target": target.to_hex()}),
        Call::Put { item, cas } => {
            let item = item.as_ref().clone().verify().map_err(ItemError::code)?;
            let mut fields = serde_json::json!(Record::from(&item));
            fields["cas"] = (*cas).into();
            fields
        }
        Call::PutValue { v } => serde_json::json!({"v": hex::encode(v)}),
    };
    fields["action"] = request.call.action().into();
    fields["id"] = request.id.into();
    fields.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    Ok(fields)
}

fn salt_field(salt: &Salt) -> Option<String> {
    (!salt.is_empty()).then(|| hex::encode(salt.as_bytes()))
}

/// Valid replies are what this server writes. Of the others, those with a record are what [`Record::verify_for`] is
/// for; the rest concern clients over the WebSocket, of which this program has none.
#[test]
fn replies() {
    for case in group(MESSAGES, "replies").into_iter().chain(group(MESSAGES, "subscriptions")) {
        let request: Value = case.input["request"].clone();
        let text = case.input["reply"].as_str().unwrap();
        match case.result {
            Verdict::Valid => {
                let mut reply: Value = serde_json::from_str(text).unwrap();
                reply.as_object_mut().unwrap().remove("later");
                let action = request["action"].as_str().unwrap();
                let written = reply_of(&request, &case.expected).to_frame(action, request["id"].as_str());
                assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), reply, "{}", case.comment);
            }
            Verdict::Invalid => {
                let reply: Value = serde_json::from_str(text).unwrap_or_default();
                let record = reply.get("current").unwrap_or(&reply).clone();
                if let Ok(record) = serde_json::from_value::<Record>(record) {
                    assert_eq!(Some(client_error(&request, &record)), case.error.as_deref(), "{}", case.comment);
                }
            }
        }
    }
}

/// What this server pushes. Those that a client must discard are for clients to try.
#[test]
fn updates() {
    for case in group(MESSAGES, "updates").into_iter().filter(|case| case.result == Verdict::Valid) {
        let pushed: Value = serde_json::from_str(case.input["update"].as_str().unwrap()).unwrap();
        let record: Record = serde_json::from_value(case.expected["record"].clone()).unwrap();
        let item = record.to_item().unwrap().verify().unwrap();
        let written = update_frame(&item, case.expected["conflict"] == true);
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), pushed, "{}", case.comment);
    }
}

/// Records in announces: what the server reads, and what it answers.
#[test]
fn announces() {
    for case in group(MESSAGES, "announces") {
        let announce = case.input["announce"].as_str().unwrap();
        let Ok(tracker_ws::Request::AnnounceWith { announce: Announce { info_hash, .. }, bep46 }) =
            tracker_ws::parse(announce)
        else {
            panic!("{}: not an announce with bep46", case.comment)
        };
        case.check(Known::parse(bep46, &info_hash).map(|known| known.seq).map_err(|error| error.code()), || {
            case.expected["seq"].as_i64()
        });
        let Some(reply) = case.input["reply"].as_str() else { continue };
        let reply: Value = serde_json::from_str(reply).unwrap();
        let item = serde_json::from_value::<Record>(reply["bep46"].clone()).unwrap().to_item().unwrap();
        let counts = Counts { complete: 0, incomplete: 1, downloaded: 0 };
        let written = announce_frame(info_hash, 120, counts, &item.verify().unwrap());
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), reply, "{}", case.comment);
    }
}

/// The reply that says what the case expects a client to read.
fn reply_of(request: &Value, expected: &Value) -> Reply {
    let item = |record: &Value| -> Box<VerifiedItem> {
        let record: Record = serde_json::from_value(record.clone()).unwrap();
        Box::new(record.to_item().unwrap().verify().unwrap())
    };
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap_or_default()).unwrap();
    let target = || match (request["k"].as_str(), request["target"].as_str()) {
        (Some(k), _) => mutable_target(&PublicKey::from_hex(k).unwrap(), &Salt::new(bytes(&request["salt"])).unwrap()),
        (None, Some(target)) => Target::from_hex(target).unwrap(),
        (None, None) => immutable_target(&bytes(&request["v"])),
    };
    let conflict = expected["conflict"] == true;
    match expected["kind"].as_str().unwrap() {
        "info" => Reply::Info {
            nodes: expected["nodes"].as_u64().unwrap() as usize,
            ready: expected["ready"].as_bool().unwrap(),
            web_seeds: None,
        },
        "record" => {
            let source: Source = serde_json::from_value(expected["source"].clone()).unwrap();
            Reply::Found { item: item(&expected["record"]), source, conflict }
        }
        "unchanged" => Reply::Unchanged { target: target(), seq: expected["seq"].as_i64().unwrap() },
        "absent" => Reply::NotFound { target: target() },
        "value" => Reply::FoundValue { target: target(), v: bytes(&expected["v"]) },
        "stored" => {
            let stored = expected["stored"].as_u64().unwrap() as usize;
            Reply::Stored { target: target(), seq: request["seq"].as_i64(), stored, conflict }
        }
        "unsubscribed" => Reply::Unsubscribed { target: target() },
        "failure" => Reply::Failed(Failure {
            code: expected["code"].as_i64().unwrap(),
            sentence: "a sentence".to_owned(),
            current: expected.get("current").map(item),
        }),
        kind => panic!("unknown kind {kind}"),
    }
}

/// What this program's own client makes of a record it must not use.
fn client_error(request: &Value, record: &Record) -> &'static str {
    let Some(k) = request["k"].as_str() else { return "NotAsked" };
    let key = PublicKey::from_hex(k).unwrap();
    let salt = Salt::new(hex::decode(request["salt"].as_str().unwrap_or_default()).unwrap()).unwrap();
    match record.verify_for(&key, &salt, request["seq"].as_i64()).unwrap_err() {
        AnswerError::Malformed(_) => "Malformed",
        AnswerError::Invalid(_) => "BadSignature",
        AnswerError::NotAsked => "NotAsked",
        AnswerError::Rollback { .. } => "Rollback",
    }
}

/// The files are what their generator writes, so nobody edits a case without its neighbours.
#[test]
fn exchange_messages() {
    for case in group(EXCHANGE, "messages") {
        let payload = hex::decode(&case.input::<String>()).unwrap();
        let read = ExchangeMessage::decode(&payload);
        match case.result {
            Verdict::Valid => assert_eq!(exchanged(&read.unwrap()), case.expected, "{}", case.comment),
            Verdict::Invalid => assert!(read.is_err(), "{}", case.comment),
        }
    }
}

fn exchanged(message: &ExchangeMessage) -> Value {
    let named = |key: &PublicKey, salt: &Salt| match salt.is_empty() {
        true => json!({"k": key.to_hex()}),
        false => json!({"k": key.to_hex(), "salt": hex::encode(salt.as_bytes())}),
    };
    let summary = |summary: &Summary| {
        let mut out = named(&summary.key, &summary.salt);
        if let Some(version) = summary.version {
            out["seq"] = version.seq.into();
            out["h"] = version.hash.to_hex().into();
        }
        out
    };
    match message {
        ExchangeMessage::Have(records) => {
            let records: Vec<_> = records.iter().map(summary).collect();
            json!({"kind": "have", "records": records})
        }
        ExchangeMessage::Record(item) => {
            let mut record = named(&item.key, &item.salt);
            record["seq"] = item.seq.into();
            record["v"] = hex::encode(&item.v).into();
            record["sig"] = item.sig.to_hex().into();
            json!({"kind": "record", "record": record})
        }
        ExchangeMessage::Unknown => json!({"kind": "unknown"}),
    }
}

#[test]
fn exchanged_records() {
    for case in group(EXCHANGE, "records") {
        let payload = hex::decode(&case.input::<String>()).unwrap();
        let Ok(ExchangeMessage::Record(item)) = ExchangeMessage::decode(&payload) else { panic!("{}", case.comment) };
        assert_eq!(record_exchange::bring(&item), payload, "{}", case.comment);
        let verified = item.verify().map(|item| json!({"target": item.target().to_hex()}));
        case.check(verified.map_err(ItemError::code), || case.expected.clone());
    }
}

#[test]
fn exchange_order() {
    for case in group(EXCHANGE, "order") {
        let item = |which: &str| -> VerifiedItem {
            let record = &case.input[which];
            let text = |field: &str| record[field].as_str().unwrap();
            let (key, sig) = (PublicKey::from_hex(text("k")).unwrap(), Signature::from_hex(text("sig")).unwrap());
            let (seq, v) = (record["seq"].as_i64().unwrap(), hex::decode(text("v")).unwrap());
            SignedItem { key, salt: Salt::default(), seq, v, sig }.verify().unwrap()
        };
        let (offered, known) = (item("offered"), item("known"));
        let told = json!({"replaces": offered.replaces(&known), "conflict": offered.conflicts_with(&known)});
        assert_eq!(told, case.expected, "{}", case.comment);
    }
}

#[test]
fn the_files_are_up_to_date() {
    let generator = concat!(env!("CARGO_MANIFEST_DIR"), "/spec/vectors/generate.mjs");
    let output = std::process::Command::new("node").args([generator, "--check"]).output().expect("node runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
