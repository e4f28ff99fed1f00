//! `swarmgate resolve KEY|MAGNET`: what a key points to now.

use clap::Args;
use serde::Serialize;

use super::reach::{Reach, salt_argument};
use super::{Failure, output};
use crate::wire::id::PublicKey;
use crate::wire::item::Salt;
use crate::wire::magnet::Magnet;
use crate::wire::{hex, pointer};

#[derive(Debug, Args)]
pub(super) struct Resolve {
    /// A public key (64 hexadecimal digits) or a magnet link with one.
    target: String,
    /// The salt, in hexadecimal.
    #[arg(long, value_name = "HEX", value_parser = salt_argument)]
    salt: Option<Salt>,
    #[command(flatten)]
    reach: Reach,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Default)]
struct Resolved {
    found: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    v: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
    ih: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Resolve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (key, salt) = target(&self.target, self.salt)?;
        let Some(found) = self.reach.get(key, &salt).await? else {
            if self.json {
                output::json(&Resolved::default())?;
                return Err(Failure::Said(3));
            }
            return Err(Failure::NotFound(format!("no record of {key} was found")));
        };
        let item = &found.item;
        let info_hash = pointer::info_hash(item.v()).map(|hash| hash.to_hex());
        if self.json {
            return output::json(&Resolved {
                found: true,
                seq: Some(item.seq()),
                v: Some(hex::encode(item.v())),
                sig: Some(item.sig().to_hex()),
                ih: info_hash,
                source: Some(found.source),
            });
        }
        let points_to = info_hash.unwrap_or_else(|| format!("no torrent: {}", item.v().escape_ascii()));
        output::text(&format!("seq       {}\npoints to {points_to}\nfound in  {}", item.seq(), found.source))
    }
}

/// The key and salt that a command line names.
pub(super) fn target(text: &str, salt: Option<Salt>) -> Result<(PublicKey, Salt), Failure> {
    if let Ok(key) = PublicKey::from_hex(text) {
        return Ok((key, salt.unwrap_or_default()));
    }
    if !text.contains(':') {
        return Err(Failure::Usage(format!(
            "{text:?} is neither a public key (64 hexadecimal digits) nor a magnet link"
        )));
    }
    let magnet = Magnet::parse(text).map_err(Failure::usage)?;
    let key = magnet.key.ok_or_else(|| Failure::Usage("the magnet link names no public key (xs=urn:btpk)".into()))?;
    Ok((key, salt.unwrap_or(magnet.salt)))
}
