//! Records of authors that exist only here, and the messages about them.

use anyhow::{Context, Result, ensure};
use data_encoding::{Encoding, HEXLOWER, Specification};
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier};
use serde_json::{Value, json};

/// One author and record. The same number is the same author in every run.
pub struct Author {
    key: SigningKey,
    pub public: String,
}

impl Author {
    pub fn new(number: u32) -> Self {
        let mut seed = *b"recordload, author number ......";
        seed[26..30].copy_from_slice(&number.to_be_bytes());
        let key = SigningKey::from_bytes(&seed);
        let public = HEXLOWER.encode(key.verifying_key().as_bytes());
        Self { key, public }
    }

    /// A pointer as BEP 46 has it, padded to about `size` bytes.
    pub fn value(&self, seq: i64, size: usize) -> Vec<u8> {
        let mut v = b"d2:ih20:".to_vec();
        v.extend(&self.key.verifying_key().as_bytes()[..12]);
        v.extend(seq.to_be_bytes());
        // Keys are in order: "pad" comes after "ih".
        let pad = size.saturating_sub(v.len() + 10);
        if pad > 0 {
            v.extend(format!("3:pad{pad}:").as_bytes());
            v.resize(v.len() + pad, b'x');
        }
        v.push(b'e');
        v
    }

    pub fn put(&self, seq: i64, v: &[u8]) -> String {
        let sig = HEXLOWER.encode(&self.key.sign(&signable(seq, v)).to_bytes());
        let v = HEXLOWER.encode(v);
        json!({"action": "dht_put", "id": "put", "k": self.public, "seq": seq, "v": v, "sig": sig}).to_string()
    }

    /// A get that the server's own copy may answer.
    pub fn get(&self) -> String {
        json!({"action": "dht_get", "id": "get", "k": self.public}).to_string()
    }

    pub fn subscribe(&self) -> String {
        json!({"action": "dht_subscribe", "id": "sub", "k": self.public}).to_string()
    }

    /// That this is a record of ours whose signature verifies. Its number.
    pub fn check(&self, record: &Value) -> Result<i64> {
        let bytes = |name: &str| -> Result<Vec<u8>> {
            Ok(HEXLOWER.decode(record[name].as_str().with_context(|| format!("no {name}: {record}"))?.as_bytes())?)
        };
        ensure!(record["k"] == self.public.as_str(), "somebody else's record: {record}");
        let seq = record["seq"].as_i64().context("no seq")?;
        let signature = Signature::from_slice(&bytes("sig")?)?;
        self.key.verifying_key().verify(&signable(seq, &bytes("v")?), &signature)?;
        Ok(seq)
    }

    /// The key as Pkarr writes it.
    pub fn zbase32(&self) -> String {
        zbase32().encode(self.key.verifying_key().as_bytes())
    }

    /// The body of a put to a Pkarr relay: signature, timestamp, and a DNS packet with one TXT record.
    pub fn pkarr(&self, timestamp: u64) -> Vec<u8> {
        let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        for label in ["_site", &self.zbase32()] {
            packet.push(label.len() as u8);
            packet.extend(label.as_bytes());
        }
        let text = format!("ih={}", HEXLOWER.encode(&self.key.verifying_key().as_bytes()[..20]));
        packet.extend([0, 0, 16, 0, 1]);
        packet.extend(3600u32.to_be_bytes());
        packet.extend((text.len() as u16 + 1).to_be_bytes());
        packet.push(text.len() as u8);
        packet.extend(text.as_bytes());
        let v = [format!("{}:", packet.len()).as_bytes(), &packet].concat();
        let signature = self.key.sign(&signable(timestamp as i64, &v)).to_bytes();
        [&signature[..], &timestamp.to_be_bytes(), &packet].concat()
    }
}

/// What BEP 44 has signed.
fn signable(seq: i64, v: &[u8]) -> Vec<u8> {
    [format!("3:seqi{seq}e1:v").as_bytes(), v].concat()
}

fn zbase32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("ybndrfg8ejkmcpqxot1uwisza345h769");
    specification.encoding().expect("thirty-two different letters")
}
