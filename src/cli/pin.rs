//! `swarmgate pin …`: what a running server keeps online.

mod show;

use std::time::Duration;

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::api::{Api, Client};
use super::reach::salt_argument;
use super::{Failure, output};
use crate::wire::hex;
use crate::wire::item::Salt;
use show::Meter;

/// How often a pin that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Pin {
    /// Keep something online: a magnet link, a public key or an info hash.
    Add(Add),
    /// List what is pinned.
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show one pin.
    Status(One),
    /// Stop keeping something.
    Rm(Remove),
    /// Read a pin's bytes back from disk and compare them; damaged ones are fetched again.
    Verify(One),
    /// List the versions that are kept of a pin, and those that were.
    Versions(Named),
    /// Keep the bytes of an older version again, for good. Only the author can roll the site itself back.
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// A magnet link (xt=urn:btih or xs=urn:btpk), a public key, or an info hash.
    target: String,
    /// The record's salt, in hexadecimal.
    #[arg(long, value_name = "HEX", value_parser = salt_argument)]
    salt: Option<Salt>,
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    /// Do not fetch newer versions of a site.
    #[arg(long)]
    no_follow: bool,
    /// Older versions kept besides the current one [default: 3].
    #[arg(long, value_name = "N")]
    keep_versions: Option<u32>,
    /// How many days after they were replaced [default: 30].
    #[arg(long, value_name = "DAYS")]
    keep_days: Option<u32>,
    /// Who goes first when not all can be fetched at once: the higher, from -128 to 127.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i8>,
    /// When the pin ends by itself: in 30d, or at 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = when)]
    expires: Option<String>,
    /// Something to remember with it; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::key_value)]
    meta: Vec<(String, String)>,
    /// A peer that may have it, as ADDRESS:PORT; may be given several times.
    #[arg(long = "origin", value_name = "ADDRESS:PORT")]
    origins: Vec<std::net::SocketAddr>,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    common: Common,
}

/// What every command has.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    api: Api,
    /// JSON: one line for each result.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Wait {
    /// Wait until it is done; give up after so many seconds (600 if none are given).
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "600")]
    wait: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only those of this status: queued, resolving, downloading, pinned, degraded or failed; several with commas.
    #[arg(long)]
    status: Option<String>,
    /// Only those with this in their name.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The pin's id, or the key, info hash or link that is pinned.
    pin: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The pin's id, or the key, info hash or link that is pinned.
    pin: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The pins' ids, or the keys, info hashes or links that are pinned.
    #[arg(required = true)]
    pins: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The pin's id, or the key or link that is pinned.
    pin: String,
    /// The version's sequence number.
    seq: i64,
    #[command(flatten)]
    common: Common,
}

impl Pin {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run().await,
            Self::Ls(list) => list.run().await,
            Self::Status(one) => {
                let client = one.common.api.client()?;
                let pin = client.pin(&one.pin).await?;
                finish(&client, pin, one.wait.wait, is_settled, one.common.json).await
            }
            Self::Verify(one) => one.verify().await,
            Self::Rm(remove) => remove.run().await,
            Self::Versions(named) => named.versions().await,
            Self::Restore(restore) => {
                let client = restore.common.api.client()?;
                let id = id_of(&client.pin(&restore.pin).await?);
                let path = format!("/v1/pins/{id}/versions/{}/restore", restore.seq);
                let pin = client.post(&path, None).await?;
                finish(&client, pin, None, is_settled, restore.common.json).await
            }
        }
    }
}

impl Add {
    async fn run(self) -> Result<(), Failure> {
        let client = self.common.api.client()?;
        // A mistyped target is told before anything is sent.
        super::get::target(&self.target)?;
        let mut body = json!({ "target": self.target });
        let fields = body.as_object_mut().expect("it was just made");
        let mut set = |name: &str, value: Option<Value>| value.map(|value| fields.insert(name.to_owned(), value));
        set("salt", self.salt.map(|salt| hex::encode(salt.as_bytes()).into()));
        set("name", self.name.map(Value::from));
        set("follow", self.no_follow.then(|| false.into()));
        set("priority", self.priority.map(Value::from));
        set("expires", self.expires.map(Value::from));
        let keep: serde_json::Map<String, Value> = [("versions", self.keep_versions), ("days", self.keep_days)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
            .collect();
        set("keep", (!keep.is_empty()).then(|| keep.into()));
        let meta: serde_json::Map<String, Value> =
            self.meta.into_iter().map(|(key, value)| (key, value.into())).collect();
        set("meta", (!meta.is_empty()).then(|| meta.into()));
        set("origins", (!self.origins.is_empty()).then(|| json!(self.origins)));
        let pin = client.post("/v1/pins", Some(body)).await?;
        finish(&client, pin, self.wait.wait, is_settled, self.common.json).await
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let filters = [("status", self.status), ("name", self.name)].into_iter();
        let filters = filters.filter_map(|(name, value)| Some(format!("&{name}={}", encoded(&value?))));
        let pins = self.common.api.client()?.pins(&filters.collect::<String>()).await?;
        if self.common.json {
            return pins.iter().try_for_each(output::json);
        }
        output::text(&show::table(&pins))
    }
}

impl One {
    async fn verify(self) -> Result<(), Failure> {
        let client = self.common.api.client()?;
        let pin = client.pin(&self.pin).await?;
        let before = pin["current"]["verified"].clone();
        let pin = client.post(&format!("/v1/pins/{}/verify", id_of(&pin)), None).await?;
        // Every look has a later second than the one before.
        let looked = move |pin: &Value| pin["current"]["verified"] != before && is_settled(pin);
        finish(&client, pin, self.wait.wait, looked, self.common.json).await
    }
}

impl Remove {
    async fn run(self) -> Result<(), Failure> {
        let client = self.common.api.client()?;
        for named in &self.pins {
            let id = id_of(&client.pin(named).await?);
            client.delete(&format!("/v1/pins/{id}")).await?;
            if self.common.json {
                output::json(&json!({ "removed": id }))?;
            } else {
                output::text(&format!("removed {id}"))?;
            }
        }
        Ok(())
    }
}

impl Named {
    async fn versions(self) -> Result<(), Failure> {
        let client = self.common.api.client()?;
        let id = id_of(&client.pin(&self.pin).await?);
        let answer = client.get(&format!("/v1/pins/{id}/versions")).await?;
        let versions = answer["versions"].as_array().cloned().unwrap_or_default();
        if self.common.json {
            return versions.iter().try_for_each(output::json);
        }
        output::text(&show::versions(&versions))
    }
}

fn id_of(pin: &Value) -> String {
    pin["id"].as_str().unwrap_or_default().to_owned()
}

fn is_settled(pin: &Value) -> bool {
    pin["status"] == "pinned"
}

/// Whether nothing but somebody's doing would help.
fn is_hopeless(pin: &Value) -> bool {
    let reason = pin["trouble"]["reason"].as_str().unwrap_or_default();
    matches!(reason, "over_quota" | "too_large" | "not_a_torrent" | "record_names_no_torrent")
}

/// Shows the pin, after waiting for it if that is wanted.
async fn finish(
    client: &Client,
    mut pin: Value,
    wait: Option<u64>,
    done: impl Fn(&Value) -> bool,
    json: bool,
) -> Result<(), Failure> {
    let id = id_of(&pin);
    if let Some(seconds) = wait {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let meter = Meter::new(json);
        while !done(&pin) && !is_hopeless(&pin) && Instant::now() < deadline {
            meter.show(&pin);
            sleep(LOOK_EVERY).await;
            pin = client.get(&format!("/v1/pins/{id}")).await?;
        }
        meter.end();
    }
    if json {
        output::json(&pin)?;
    } else {
        output::text(&show::pin(&pin))?;
    }
    if wait.is_none() || done(&pin) {
        return Ok(());
    }
    if json {
        return Err(Failure::Said(1));
    }
    let why = pin["trouble"]["detail"].as_str().unwrap_or("it took too long");
    Err(Failure::Failed(format!("it is {}: {why}", pin["status"].as_str().unwrap_or("unknown"))))
}

/// A moment as people say it: from now, or by the calendar.
pub(super) fn when(text: &str) -> Result<String, String> {
    use crate::pins::Unix;
    if let Ok(moment) = text.parse::<Unix>() {
        return Ok(moment.to_string());
    }
    let from_now = humantime::parse_duration(text);
    from_now
        .map(|duration| Unix::now().after(duration).to_string())
        .map_err(|_| "a time is written as 30d, 12h or 2027-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pins::Unix;

    #[test]
    fn moments_are_from_now_or_by_the_calendar() {
        assert_eq!(when("2027-01-31T12:00:00Z").unwrap(), "2027-01-31T12:00:00Z");
        let month: Unix = when("30d").unwrap().parse().unwrap();
        let days = month.since(Unix::now()).as_secs_f64() / 86_400.0;
        assert!((29.9..=30.0).contains(&days), "{days}");
        assert!(when("soon").is_err() && when("").is_err());
    }
}
