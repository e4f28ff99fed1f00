//! `swarmgate usage`: what a token uses, and may use.

use bytesize::ByteSize;
use clap::Args;
use serde_json::Value;

use super::api::Api;
use super::{Failure, output};

#[derive(Debug, Args)]
pub(super) struct Usage {
    #[command(flatten)]
    api: Api,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

impl Usage {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let usage = self.api.client()?.get("/v1/usage").await?;
        if self.json {
            return output::json(&usage);
        }
        output::text(&describe(&usage))
    }
}

/// For people.
pub(super) fn describe(usage: &Value) -> String {
    let limits = &usage["limits"];
    let of = |limit: &Value, show: fn(u64) -> String| limit.as_u64().map(|limit| format!(" of {}", show(limit)));
    let number = |n: u64| n.to_string();
    let bytes = |n: u64| ByteSize(n).to_string();
    format!(
        "{}{} pins, {}{}",
        usage["pins"],
        of(&limits["pins"], number).unwrap_or_default(),
        bytes(usage["bytes"].as_u64().unwrap_or(0)),
        of(&limits["bytes"], bytes).unwrap_or_default(),
    )
}
