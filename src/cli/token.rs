//! `swarmgate token …`: who may pin, over the admin listener of a running server.

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::Api;
use super::{Failure, output, pin, usage};

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token. It is shown once, and kept by the server only as its hash.
    New(New),
    /// List the tokens.
    #[command(visible_alias = "list")]
    Ls(List),
    /// End a token.
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// A name for people: whose it is.
    #[arg(long)]
    name: Option<String>,
    /// It may look, and change nothing.
    #[arg(long)]
    read_only: bool,
    /// Bytes over all its pins, as 10GiB.
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<ByteSize>,
    /// Pins.
    #[arg(long, value_name = "N")]
    max_pins: Option<u64>,
    /// Bytes of one pin, as 1GiB.
    #[arg(long, value_name = "SIZE")]
    max_pin_bytes: Option<ByteSize>,
    /// When it stops working: in 90d, or at 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = pin::when)]
    expires: Option<String>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    api: Api,
    /// JSON: one line for each token.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The token's id: the digits between the first two underscores.
    id: String,
    /// Delete its pins too. Without this they stay, within its quota, and it is listed until the last one is gone.
    #[arg(long)]
    with_pins: bool,
    #[command(flatten)]
    list: List,
}

impl Token {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::New(new) => new.run().await,
            Self::Ls(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl New {
    async fn run(self) -> Result<(), Failure> {
        let bytes = |size: Option<ByteSize>| size.map(|size| size.as_u64());
        let limits = json!({
            "bytes": bytes(self.max_bytes), "pins": self.max_pins, "pin_bytes": bytes(self.max_pin_bytes),
        });
        let body = json!({
            "name": self.name.unwrap_or_default(), "read_only": self.read_only, "expires": self.expires,
            "limits": limits,
        });
        let made = self.list.api.client()?.post("/v1/tokens", Some(body)).await?;
        if self.list.json {
            return output::json(&made);
        }
        output::remark("keep it well; it is not shown again:");
        output::text(made["token"].as_str().unwrap_or_default())
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let answer = self.api.client()?.get("/v1/tokens").await?;
        let tokens = answer["tokens"].as_array().cloned().unwrap_or_default();
        if self.json {
            return tokens.iter().try_for_each(output::json);
        }
        let lines: Vec<String> = tokens.iter().map(describe).collect();
        output::text(&lines.join("\n"))
    }
}

impl Revoke {
    async fn run(self) -> Result<(), Failure> {
        let with_pins = if self.with_pins { "?with_pins=true" } else { "" };
        self.list.api.client()?.delete(&format!("/v1/tokens/{}{with_pins}", self.id)).await?;
        if self.list.json { output::json(&json!({ "revoked": self.id })) } else { output::text("revoked") }
    }
}

fn describe(token: &Value) -> String {
    let text = |name: &str| token[name].as_str().unwrap_or("-").to_owned();
    let ends = |name: &str, word: &str| token[name].as_str().map(|at| format!(", {word} {at}")).unwrap_or_default();
    let ends = ends("expires", "until") + &ends("revoked", "revoked");
    format!("{}  {:<5}  {}{ends}  {}", text("id"), text("scope"), usage::describe(&token["usage"]), text("name"))
}
