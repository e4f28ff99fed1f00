//! `swarmgate put`: puts a record that was signed elsewhere.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::reach::{PutAnswer, Reach, Server, salt_argument};
use super::{Failure, output};
use crate::tasks::Tasks;
use crate::wire::hex;
use crate::wire::id::{PublicKey, Signature};
use crate::wire::item::{Salt, SignedItem, VerifiedItem};

#[derive(Debug, Args)]
pub(super) struct Put {
    /// The public key, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    key: PublicKey,
    /// The salt, in hexadecimal.
    #[arg(long, value_name = "HEX", value_parser = salt_argument)]
    salt: Option<Salt>,
    /// The sequence number.
    #[arg(long, value_name = "N")]
    seq: i64,
    /// The signature, 128 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    sig: Signature,
    /// The bencoded value, in hexadecimal.
    #[arg(long, value_name = "HEX")]
    v: String,
    /// Put only if the newest record has this sequence number.
    #[arg(long, value_name = "N")]
    cas: Option<i64>,
    #[command(flatten)]
    reach: Reach,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Outcome {
    ok: bool,
    code: Option<i64>,
    stored: usize,
}

impl Put {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let v = hex::decode(&self.v).ok_or_else(|| Failure::Usage("--v is not hexadecimal".into()))?;
        let salt = self.salt.clone().unwrap_or_default();
        let item = SignedItem { key: self.key, salt, seq: self.seq, v, sig: self.sig };
        // Checked here too, so that nothing the network would refuse is ever sent.
        let answer = match item.clone().verify() {
            Err(error) => PutAnswer { code: Some(error.code()), error: Some(error.to_string()), stored: 0 },
            Ok(verified) => match &self.reach.server {
                Some(server) => Server::new(server)?.put(&item, self.cas).await?,
                None => put_in_dht(&self.reach, verified, self.cas).await?,
            },
        };
        let ok = answer.error.is_none();
        if self.json {
            output::json(&Outcome { ok, code: answer.code, stored: answer.stored })?;
        }
        match (answer.error, answer.code) {
            (None, _) if self.json => Ok(()),
            (None, _) => output::text(&format!("stored on {} nodes", answer.stored)),
            (Some(_), code) if self.json => Err(Failure::Said(if is_conflict(code) { 4 } else { 1 })),
            (Some(why), code) if is_conflict(code) => Err(Failure::Conflict(why)),
            (Some(why), _) => Err(Failure::Failed(why)),
        }
    }
}

/// BEP 44: 301 "the CAS hash mismatched", 302 "sequence number less than current".
fn is_conflict(code: Option<i64>) -> bool {
    matches!(code, Some(301 | 302))
}

async fn put_in_dht(reach: &Reach, item: VerifiedItem, cas: Option<i64>) -> Result<PutAnswer, Failure> {
    let tasks = Tasks::new();
    let outcome = reach.dht_client(&tasks).await?.put(item, cas).await;
    tasks.stop(Duration::from_secs(2)).await;
    if let Some(newer) = outcome.newer {
        let code = if cas.is_some_and(|cas| cas != newer.seq()) { 301 } else { 302 };
        return Ok(PutAnswer { code: Some(code), error: Some(reason(code)), stored: 0 });
    }
    // With nothing stored, the reason most nodes gave is the answer.
    let most = outcome.rejected.iter().max_by_key(|(_, nodes)| *nodes).map(|(code, _)| *code);
    Ok(match (outcome.stored, most) {
        (0, None) => PutAnswer { error: Some("no node of the DHT answered".into()), ..PutAnswer::default() },
        (0, Some(code)) => PutAnswer { code: Some(code), error: Some(reason(code)), stored: 0 },
        (stored, _) => PutAnswer { stored, ..PutAnswer::default() },
    })
}

fn reason(code: i64) -> String {
    match code {
        301 => "the newest record is not the one --cas names".into(),
        302 => "the network has a record that is newer".into(),
        code => format!("the nodes refused the record with error {code}"),
    }
}
