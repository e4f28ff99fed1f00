//! Records in announces (`spec/dht-proxy.md`, *In announces*): for pages whose WebTorrent client is as it always was.
//!
//! A page announces itself to the swarm whose info hash is a record's target, with a field `bep46` that stock clients and
//! trackers ignore. What it gets is the ordinary reply with the record in the same field.

use super::FieldError;
use super::fields::Fields;
use super::reply::record_json;
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem, mutable_target};
use crate::wire::tracker::Counts;
use crate::wire::tracker_ws::Message;

/// What the `bep46` field of an announce says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The newest version the page has.
    pub seq: Option<i64>,
    /// Whose record it is, which the info hash alone does not tell: needed to ask the DHT.
    pub subject: Option<(PublicKey, Salt)>,
}

impl Known {
    /// Reads the field of an announce to `info_hash`.
    ///
    /// # Errors
    /// It is malformed, or its key and salt are another target's.
    pub fn parse(json: &str, info_hash: &InfoHash) -> Result<Self, FieldError> {
        let fields = Fields::parse(json)?;
        let seq = fields.number("seq")?;
        let Some(key) = fields.text("k")? else { return Ok(Self { seq, subject: None }) };
        let (key, salt) = (PublicKey::from_hex(key)?, fields.salt()?);
        if mutable_target(&key, &salt) != Target(info_hash.0) {
            return Err(FieldError::NotItsTarget);
        }
        Ok(Self { seq, subject: Some((key, salt)) })
    }
}

/// The reply to an announce, with the record.
#[must_use]
pub fn announce_frame(info_hash: InfoHash, interval: u64, counts: Counts, item: &VerifiedItem) -> String {
    let mut frame = Message::Announced { info_hash, interval, counts }.encode();
    let closing = frame.pop();
    debug_assert_eq!(closing, Some('}'), "a message is a JSON object");
    frame.push_str(",\"bep46\":");
    frame.push_str(&record_json(item));
    frame.push('}');
    frame
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use serde_json::{Value, json};

    use super::super::Record;
    use super::*;

    fn item() -> VerifiedItem {
        VerifiedItem::sign(&SigningKey::from_bytes(&[1; 32]), Salt::new(b"n").unwrap(), 4, b"le".to_vec()).unwrap()
    }

    #[test]
    fn what_an_announce_knows() {
        let item = item();
        let (hash, k) = (InfoHash(item.target().0), item.key().to_hex());
        let subject = Some((*item.key(), item.salt().clone()));
        let table = [
            (json!({}), Ok(Known { seq: None, subject: None })),
            (json!({"seq": 3, "later": 1}), Ok(Known { seq: Some(3), subject: None })),
            (json!({"k": k, "salt": "6e"}), Ok(Known { seq: None, subject })),
            (json!({"k": k}), Err(FieldError::NotItsTarget)),
            (json!({"seq": -1}), Err(FieldError::NotANumber("seq"))),
            (json!(4), Err(FieldError::NotAnObject)),
        ];
        for (field, expected) in table {
            assert_eq!(Known::parse(&field.to_string(), &hash), expected, "{field}");
        }
    }

    #[test]
    fn the_reply_is_an_announce_reply_that_carries_the_record() {
        let item = item();
        let counts = Counts { complete: 1, incomplete: 2, downloaded: 0 };
        let frame = announce_frame(InfoHash(item.target().0), 120, counts, &item);
        let frame: Value = serde_json::from_str(&frame).unwrap();
        assert_eq!((&frame["action"], &frame["complete"]), (&json!("announce"), &json!(1)));
        assert_eq!(frame["bep46"], json!(Record::from(&item)));
    }
}
