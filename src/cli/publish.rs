//! `swarmgate publish DIR`: hash, sign, put, seed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ed25519_dalek::SigningKey;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::reach::{Reach, salt_argument};
use super::standalone::Standalone;
use super::{Failure, folder, key, output};
use crate::config::Config;
use crate::dht::{Dht, Mode};
use crate::wire::id::{PublicKey, Signature};
use crate::wire::item::{Salt, SignedItem, VerifiedItem};
use crate::wire::magnet::Magnet;
use crate::wire::metainfo::Metainfo;
use crate::wire::{hex, pointer};

/// BEP 44: "it's recommended that items are re-published once an hour".
const REPUBLISH_EVERY: Duration = Duration::from_secs(3600);

/// How soon a put that no node took is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The folder: Markdown pages (the first is index.md), images, anything.
    dir: PathBuf,
    /// The site's key; made if it does not exist. Default: DIR.key beside the folder.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A salt in hexadecimal, for a second site of the same key.
    #[arg(long, value_name = "HEX", value_parser = salt_argument)]
    salt: Option<Salt>,
    /// The site's name; default: the folder's.
    #[arg(long)]
    name: Option<String>,
    /// Enter the DHT here; may be repeated. Default: the configured entry points, and a server on this machine.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap: Vec<String>,
    #[command(flatten)]
    config: super::ConfigArgs,
    /// One line of JSON once the site is online.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Published {
    event: &'static str,
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    salt: String,
    seq: i64,
    ih: String,
    magnet: String,
    /// Nodes of the DHT that stored the record.
    stored: usize,
    /// Nodes of the DHT that know us as a seed.
    announced: usize,
}

impl Publish {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let reach = Reach { server: None, bootstrap: self.bootstrap.clone(), config: self.config.clone() };
        let mut config = self.config.load()?;
        config.dht = reach.dht_settings(&config);
        let dir = self.dir.canonicalize();
        let dir = dir.map_err(|error| Failure::Failed(format!("cannot read {}: {error}", self.dir.display())))?;
        let key = self.site_key(&dir)?;
        let salt = self.salt.clone().unwrap_or_default();

        output::remark("hashing…");
        let site = self.copy_of(&dir, &config, &key)?;
        let last = LastRecord::of(&config, &key, &salt);
        let node = Standalone::start(&config, Mode::Server).await?;
        let result = tokio::select! {
            result = online(&node, &key, salt, site, &last, self.json) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
            () = terminated() => Ok(()),
        };
        node.stop().await;
        result
    }

    /// The key file beside the folder, never in it: what is in it is published.
    fn site_key(&self, dir: &Path) -> Result<SigningKey, Failure> {
        let file = self.key.clone().unwrap_or_else(|| dir.with_added_extension("key"));
        if file.parent().and_then(|parent| parent.canonicalize().ok()).is_some_and(|parent| parent.starts_with(dir)) {
            return Err(Failure::Usage("the key file lies in the folder and would be published with it".into()));
        }
        if file.exists() {
            return key::read(&file);
        }
        let made = key::create(&file)?;
        output::remark(&format!("made a new key: {} (keep a copy: it is the site)", file.display()));
        Ok(made)
    }

    /// A copy of the folder under the data directory, named by its info hash; publishing the same again reuses it.
    fn copy_of(&self, dir: &Path, config: &Config, key: &SigningKey) -> Result<(Metainfo, PathBuf), Failure> {
        let name = self.name.clone().or_else(|| Some(dir.file_name()?.to_str()?.to_owned()));
        let name = name.unwrap_or_else(|| "site".into());
        let all = published_dir(config, &key::public(key));
        let unusable =
            |error| Failure::Failed(format!("cannot use the data directory {}: {error}", config.data_dir.display()));
        std::fs::create_dir_all(&all).map_err(unusable)?;
        let unfinished = all.join(format!("unfinished-{}", std::process::id()));
        let metainfo = folder::snapshot(dir, &name, &unfinished);
        let metainfo = metainfo.inspect_err(|_| drop(std::fs::remove_dir_all(&unfinished))).map_err(Failure::failed)?;
        let copy = all.join(metainfo.info_hash().to_hex());
        if copy.exists() {
            std::fs::remove_dir_all(&unfinished).map_err(unusable)?;
        } else {
            std::fs::rename(&unfinished, &copy).map_err(unusable)?;
        }
        Ok((metainfo, copy))
    }
}

/// Puts the site online and keeps it there; ends only by failing.
async fn online(
    node: &Standalone,
    key: &SigningKey,
    salt: Salt,
    (metainfo, copy): (Metainfo, PathBuf),
    last: &LastRecord,
    json: bool,
) -> Result<(), Failure> {
    let dht = &node.dht;
    let _seed = node.bridge.seed(metainfo.clone(), copy).await.map_err(Failure::failed)?;
    output::remark("signing…");
    let current = newest(dht, key, &salt, last).await;
    let (item, cas) = next_record(key, salt, &metainfo, current)?;
    last.keep(&item)?;
    output::remark("putting the record in the DHT…");
    let outcome = dht.put(item.clone(), cas).await;
    if let Some(newer) = outcome.newer {
        return Err(Failure::Conflict(format!(
            "another device published this site in the meantime (record {}); look at it, then publish again",
            newer.seq()
        )));
    }
    let announced = dht.announce(metainfo.info_hash(), node.bridge.bittorrent_addr().port()).await;
    say(&item, &metainfo, outcome.stored, announced, json)?;
    keep_published(dht, &item).await
}

/// The newest record known: what the network has, or what was published from here if the network has forgotten it.
async fn newest(dht: &Dht, key: &SigningKey, salt: &Salt, last: &LastRecord) -> Option<VerifiedItem> {
    let found = dht.get(key::public(key), salt.clone(), None).await.item;
    match (found, last.read()) {
        (Some(found), Some(ours)) => Some(if ours.replaces(&found) { ours } else { found }),
        (found, ours) => found.or(ours),
    }
}

/// The record to put, and the number it must follow. A folder that has not changed keeps its record.
fn next_record(
    key: &SigningKey,
    salt: Salt,
    metainfo: &Metainfo,
    current: Option<VerifiedItem>,
) -> Result<(VerifiedItem, Option<i64>), Failure> {
    if let Some(current) = &current
        && pointer::info_hash(current.v()) == Some(metainfo.info_hash())
    {
        return Ok((current.clone(), None));
    }
    let cas = current.map(|item| item.seq());
    let seq = cas.map_or(1, |seq| seq.saturating_add(1));
    let item = VerifiedItem::sign(key, salt, seq, pointer::value(&metainfo.info_hash())).map_err(Failure::failed)?;
    Ok((item, cas))
}

fn say(item: &VerifiedItem, metainfo: &Metainfo, stored: usize, announced: usize, json: bool) -> Result<(), Failure> {
    let magnet = Magnet {
        key: Some(*item.key()),
        salt: item.salt().clone(),
        info_hash: Some(metainfo.info_hash()),
        name: Some(metainfo.name().to_owned()),
        ..Magnet::default()
    };
    if json {
        return output::json(&Published {
            event: "published",
            key: item.key().to_hex(),
            salt: hex::encode(item.salt().as_bytes()),
            seq: item.seq(),
            ih: metainfo.info_hash().to_hex(),
            magnet: magnet.to_string(),
            stored,
            announced,
        });
    }
    if stored == 0 {
        output::remark("warning: no node of the DHT took the record yet; it will be tried again");
    }
    output::text(&format!("published record {} (on {stored} nodes of the DHT)\n{magnet}", item.seq()))?;
    output::remark("seeding; stop with Ctrl-C");
    Ok(())
}

/// Re-publishes until the process is stopped: soon while the network has not taken the record, then hourly.
async fn keep_published(dht: &Dht, item: &VerifiedItem) -> Result<(), Failure> {
    let mut stored = 0;
    loop {
        // Jitter, so that the authors of a network do not all put at the same moment.
        let pause = if stored == 0 { RETRY_AFTER } else { REPUBLISH_EVERY };
        tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.9..1.1))).await;
        let outcome = dht.put(item.clone(), None).await;
        stored = outcome.stored;
        if let Some(newer) = outcome.newer {
            output::remark(&format!("record {} was published elsewhere; this version is seeded on", newer.seq()));
            return std::future::pending().await;
        }
    }
}

/// The record last published from here, kept beside the copies: the network forgets an item in two hours.
struct LastRecord {
    file: PathBuf,
    key: PublicKey,
    salt: Salt,
}

/// How it is written: the fields of a record as the HTTP API has them.
#[derive(Serialize, Deserialize)]
struct LastRecordFile {
    seq: i64,
    v: String,
    sig: String,
}

impl LastRecord {
    fn of(config: &Config, key: &SigningKey, salt: &Salt) -> Self {
        let key = key::public(key);
        let name = format!("record{}.json", hex::encode(salt.as_bytes()));
        Self { file: published_dir(config, &key).join(name), key, salt: salt.clone() }
    }

    fn read(&self) -> Option<VerifiedItem> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        let record: LastRecordFile = serde_json::from_str(&text).ok()?;
        let item = SignedItem {
            key: self.key,
            salt: self.salt.clone(),
            seq: record.seq,
            v: hex::decode(&record.v)?,
            sig: Signature::from_hex(&record.sig).ok()?,
        };
        item.verify().ok()
    }

    /// Written before the put: a number that may have been used is never used again for something else.
    fn keep(&self, item: &VerifiedItem) -> Result<(), Failure> {
        let record = LastRecordFile { seq: item.seq(), v: hex::encode(item.v()), sig: item.sig().to_hex() };
        let text = serde_json::to_string(&record).map_err(Failure::failed)?;
        let unfinished = self.file.with_added_extension("new");
        let written = std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &self.file));
        written.map_err(|error| Failure::Failed(format!("cannot write {}: {error}", self.file.display())))
    }
}

fn published_dir(config: &Config, key: &PublicKey) -> PathBuf {
    config.data_dir.join("published").join(key.to_hex())
}

async fn terminated() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => drop(terminate.recv().await),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::item::MAX_SEQ;

    fn site(byte: u8) -> Metainfo {
        Metainfo::build("site", &[(vec!["index.md".into()], 5)], 1 << 14, &[[byte; 20]]).unwrap()
    }

    #[test]
    fn numbers_go_up_by_one_and_only_for_something_new() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let next = |byte, current| next_record(&key, Salt::default(), &site(byte), current).unwrap();
        let (first, cas) = next(1, None);
        assert_eq!((first.seq(), cas), (1, None));
        let (second, cas) = next(2, Some(first.clone()));
        assert_eq!((second.seq(), cas), (2, Some(1)));
        assert_eq!(next(1, Some(first.clone())), (first, None), "unchanged content keeps its record");
        let last = VerifiedItem::sign(&key, Salt::default(), MAX_SEQ, b"1:x".to_vec()).unwrap();
        assert!(next_record(&key, Salt::default(), &site(1), Some(last)).is_err(), "the numbers are used up");
    }

    #[test]
    fn the_last_record_is_remembered_and_checked_when_read() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        let key = SigningKey::from_bytes(&[1; 32]);
        let last = LastRecord::of(&config, &key, &Salt::default());
        std::fs::create_dir_all(last.file.parent().unwrap()).unwrap();
        assert_eq!(last.read(), None);
        let (item, _) = next_record(&key, Salt::default(), &site(1), None).unwrap();
        last.keep(&item).unwrap();
        assert_eq!(last.read(), Some(item));
        let text = std::fs::read_to_string(&last.file).unwrap();
        std::fs::write(&last.file, text.replace("\"seq\":1", "\"seq\":2")).unwrap();
        assert_eq!(last.read(), None, "a record that does not verify is none");
    }
}
