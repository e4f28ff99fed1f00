//! What clients ask.

use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::{Failure, FieldError, MAX_ID, Reply, salt_from_hex, value_from_hex};
use crate::wire::hex;
use crate::wire::id::{PublicKey, Signature, Target};
use crate::wire::item::{Salt, SignedItem, check_value};

/// Whether a frame with this action is one of this message set, known or not.
#[must_use]
pub fn handles(action: &str) -> bool {
    action.starts_with("dht_")
}

/// A request as read from a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Joins the reply to it.
    pub id: String,
    /// What is asked.
    pub call: Call,
}

/// Where the answer to a get may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// From what the server keeps, if that is young enough; else from the DHT.
    #[default]
    CacheFirst,
    /// Only from what the server keeps.
    CacheOnly,
    /// Only after the DHT was asked.
    Network,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `dht_info`
    Info,
    /// `dht_get` of a mutable item.
    Get {
        /// The author.
        key: PublicKey,
        /// Empty for none.
        salt: Salt,
        /// The newest version the client has.
        known_seq: Option<i64>,
        /// Seconds: an answer checked this recently will do.
        max_age: Option<u64>,
        /// A version below this one will not do.
        min_seq: Option<i64>,
        /// Whether the DHT is to be asked.
        mode: Mode,
    },
    /// `dht_subscribe`
    Subscribe {
        /// The author.
        key: PublicKey,
        /// Empty for none.
        salt: Salt,
        /// The newest version the client has.
        known_seq: Option<i64>,
    },
    /// `dht_unsubscribe`
    Unsubscribe {
        /// The author.
        key: PublicKey,
        /// Empty for none.
        salt: Salt,
    },
    /// `dht_get` of an immutable item.
    GetValue {
        /// Where it lives.
        target: Target,
    },
    /// `dht_put` of a mutable item. Its signature is not checked yet.
    Put {
        /// The item.
        item: Box<SignedItem>,
        /// Store only over this version.
        cas: Option<i64>,
    },
    /// `dht_put` of an immutable item, whose value is checked.
    PutValue {
        /// The raw bencoded value.
        v: Vec<u8>,
    },
}

impl Call {
    /// The action that replies repeat.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Info => "dht_info",
            Self::Get { .. } | Self::GetValue { .. } => "dht_get",
            Self::Put { .. } | Self::PutValue { .. } => "dht_put",
            Self::Subscribe { .. } => "dht_subscribe",
            Self::Unsubscribe { .. } => "dht_unsubscribe",
        }
    }
}

/// A frame that is not a request, with what is needed to say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// As sent, cut to a sensible length; empty when there was none.
    pub action: String,
    /// As sent, when it can be read.
    pub id: Option<String>,
    /// What is wrong.
    pub error: FieldError,
}

impl Refused {
    /// The reply that says so.
    #[must_use]
    pub fn to_frame(&self) -> String {
        Reply::Failed(Failure::from(self.error.clone())).to_frame(&self.action, self.id.as_deref())
    }
}

impl Request {
    /// Reads a frame.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(frame: &str) -> Result<Self, Refused> {
        let fields = Fields::parse(frame).map_err(|error| Refused { action: String::new(), id: None, error })?;
        let action = fields.text("action").ok().flatten().unwrap_or_default();
        let id = fields.id();
        let call = match &id {
            Ok(_) => fields.call(action),
            Err(error) => Err(error.clone()),
        };
        match (id, call) {
            (Ok(id), Ok(call)) => Ok(Self { id: id.to_owned(), call }),
            (id, call) => {
                let error = call.expect_err("a bad id makes the call an error");
                Err(Refused { action: echo(action), id: id.ok().map(str::to_owned), error })
            }
        }
    }
}

/// An unknown action is repeated as sent, but not at any length.
fn echo(action: &str) -> String {
    action.chars().take(MAX_ID).collect()
}

/// Reads the body of `PUT /v1/records/{key}?salt=…`: a record and `cas`. `k` and `salt` may be left out, since the
/// address has them; when both places name one they must agree.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse_put_body(body: &str, key: PublicKey, salt: Option<Salt>) -> Result<(SignedItem, Option<i64>), FieldError> {
    let fields = Fields::parse(body)?;
    let mut item = fields.item(key)?;
    if fields.text("k")?.map(PublicKey::from_hex).transpose()?.is_some_and(|k| k != key) {
        return Err(FieldError::NotAsAddressed("key"));
    }
    match salt {
        Some(salt) if !fields.has("salt") => item.salt = salt,
        Some(salt) if salt != item.salt => return Err(FieldError::NotAsAddressed("salt")),
        _ => {}
    }
    Ok((item, fields.number("cas")?))
}

/// What the fields say of records.
impl Fields<'_> {
    fn required(&self, name: &'static str) -> Result<&str, FieldError> {
        self.text(name)?.ok_or(FieldError::Missing(name))
    }

    pub(super) fn salt(&self) -> Result<Salt, FieldError> {
        salt_from_hex(self.text("salt")?.unwrap_or_default())
    }

    fn none_of(&self, names: &[&'static str]) -> Result<(), FieldError> {
        match names.iter().find(|name| self.has(name)) {
            Some(name) => Err(FieldError::Unexpected(name)),
            None => Ok(()),
        }
    }

    fn id(&self) -> Result<&str, FieldError> {
        let id = self.required("id")?;
        if id.len() > MAX_ID { Err(FieldError::IdTooLong) } else { Ok(id) }
    }

    fn call(&self, action: &str) -> Result<Call, FieldError> {
        match action {
            "dht_info" => Ok(Call::Info),
            "dht_get" => self.get_call(),
            "dht_put" => self.put_call(),
            "dht_subscribe" => {
                let (key, salt) = self.subject()?;
                Ok(Call::Subscribe { key, salt, known_seq: self.number("seq")? })
            }
            "dht_unsubscribe" => self.subject().map(|(key, salt)| Call::Unsubscribe { key, salt }),
            _ => Err(FieldError::UnknownAction),
        }
    }

    fn get_call(&self) -> Result<Call, FieldError> {
        if let Some(target) = self.text("target")? {
            self.none_of(&["k", "salt", "seq", "min_seq", "mode"])?;
            return Ok(Call::GetValue { target: Target::from_hex(target)? });
        }
        let (key, salt) = self.subject()?;
        Ok(Call::Get {
            key,
            salt,
            known_seq: self.number("seq")?,
            max_age: self.number("max_age")?.map(i64::unsigned_abs),
            min_seq: self.number("min_seq")?,
            mode: self.mode()?,
        })
    }

    /// Which mutable item it is about.
    fn subject(&self) -> Result<(PublicKey, Salt), FieldError> {
        Ok((PublicKey::from_hex(self.required("k")?)?, self.salt()?))
    }

    fn mode(&self) -> Result<Mode, FieldError> {
        let text = self.text("mode").map_err(|_| FieldError::NotAMode)?;
        let read = |word: &str| {
            let word: StrDeserializer<'_, serde::de::value::Error> = word.into_deserializer();
            Mode::deserialize(word).map_err(|_| FieldError::NotAMode)
        };
        Ok(text.map(read).transpose()?.unwrap_or_default())
    }

    fn put_call(&self) -> Result<Call, FieldError> {
        let mutable = ["k", "sig", "seq"].iter().any(|name| self.has(name));
        if !mutable {
            let v = value_from_hex(self.required("v")?)?;
            self.none_of(&["salt", "cas"])?;
            check_value(&v)?;
            return Ok(Call::PutValue { v });
        }
        let item = self.item(PublicKey::from_hex(self.required("k")?)?)?;
        Ok(Call::Put { item: Box::new(item), cas: self.number("cas")? })
    }

    /// The record, which is `key`'s.
    fn item(&self, key: PublicKey) -> Result<SignedItem, FieldError> {
        Ok(SignedItem {
            key,
            salt: self.salt()?,
            seq: self.number("seq")?.ok_or(FieldError::Missing("seq"))?,
            v: hex::decode(self.required("v")?).ok_or(FieldError::NotHex("v"))?,
            sig: Signature::from_hex(self.required("sig")?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn each_fault_has_its_sentence() {
        let key = "ab".repeat(32);
        let put = |change: &str| format!(r#"{{"action":"dht_put","id":"1","k":"{key}",{change}}}"#);
        let table = [
            ("junk".to_owned(), "the message is not a JSON object"),
            (r#"{"action":"dht_dance","id":"1"}"#.to_owned(), "the action is not known; \"dht_info\" tells which are"),
            (r#"{"action":"dht_info"}"#.to_owned(), "the field \"id\" is missing"),
            (format!(r#"{{"action":"dht_info","id":"{key}{key}"}}"#), "the field \"id\" is longer than 64 bytes"),
            (r#"{"action":"dht_get","id":"1","k":7}"#.to_owned(), "the field \"k\" must be a string"),
            (
                r#"{"action":"dht_get","id":"1","k":"abcd"}"#.to_owned(),
                "a public key must be 32 bytes (64 hexadecimal digits)",
            ),
            (put(r#""seq":-1"#), "the field \"seq\" must be an integer between 0 and 2^53-1"),
            (put(r#""seq":1,"v":"0""#), "the field \"v\" must be hexadecimal, two digits a byte"),
            (put(&format!(r#""salt":"{key}{key}{key}""#)), "the salt is larger than 64 bytes"),
            (put(r#""seq":1,"v":"00","sig":"00""#), "a signature must be 64 bytes (128 hexadecimal digits)"),
            (
                r#"{"action":"dht_put","id":"1","v":"30","cas":1}"#.to_owned(),
                "the field \"cas\" does not belong in this request",
            ),
        ];
        for (frame, sentence) in table {
            assert_eq!(Request::parse(&frame).unwrap_err().error.to_string(), sentence, "{frame}");
        }
    }

    #[test]
    fn an_unknown_action_is_not_repeated_at_any_length() {
        let refused = Request::parse(&format!(r#"{{"action":"dht_{}","id":"1"}}"#, "x".repeat(10_000))).unwrap_err();
        assert!(refused.to_frame().len() < 300, "{}", refused.to_frame());
    }

    #[test]
    fn a_put_body_belongs_to_its_address() {
        let key = PublicKey([1; 32]);
        let sig = "00".repeat(64);
        let read = |extra: &str, salt: &str| {
            let body = format!(r#"{{"seq":1,"v":"30","sig":"{sig}"{extra}}}"#);
            let salt = (!salt.is_empty()).then(|| salt_from_hex(salt).unwrap());
            parse_put_body(&body, key, salt).map(|(item, cas)| (hex::encode(item.salt.as_bytes()), cas))
        };
        assert_eq!(read("", ""), Ok((String::new(), None)));
        assert_eq!(read(r#","cas":3"#, "6e"), Ok(("6e".to_owned(), Some(3))));
        assert_eq!(read(r#","salt":"6e""#, ""), Ok(("6e".to_owned(), None)));
        assert_eq!(read(r#","salt":"6e""#, "6e"), Ok(("6e".to_owned(), None)));
        assert_eq!(read(&format!(r#","k":"{key}""#), ""), Ok((String::new(), None)));
        assert_eq!(read(r#","salt":"6d""#, "6e"), Err(FieldError::NotAsAddressed("salt")));
        let other = PublicKey([2; 32]);
        assert_eq!(read(&format!(r#","k":"{other}""#), ""), Err(FieldError::NotAsAddressed("key")));
    }

    proptest! {
        /// Any text is read or refused, and the refusal is itself a JSON frame.
        #[test]
        fn junk_is_refused_in_json(text in ".{0,80}", value in "(null|-?[0-9]{1,20}|\"[0-9a-f]{0,70}\"|\\[\\]|1\\.5)") {
            let frame = format!(r#"{{"action":"dht_put","id":"1","k":{value},"seq":{value},"v":{value},"sig":{value}}}"#);
            for frame in [text.as_str(), &frame, &frame[..frame.len() / 2]] {
                if let Err(refused) = Request::parse(frame) {
                    prop_assert!(serde_json::from_str::<Value>(&refused.to_frame()).is_ok());
                }
            }
        }
    }
}
