//! `swarmgate publish DIR`: hash, sign, put, seed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ed25519_dalek::SigningKey;
use rand::RngExt;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::archive::Archive;
use super::reach::{Reach, salt_argument};
use super::standalone::Standalone;
use super::{Failure, key, output};
use crate::dht::{Dht, Mode};
use crate::gossip::Interest;
use crate::wire::item::{Salt, VerifiedItem};
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
        let archive = Archive::open(&config.data_dir, &key)?;
        let name = self.name.clone().or_else(|| Some(dir.file_name()?.to_str()?.to_owned()));
        let site = archive.copy(&dir, name.as_deref().unwrap_or("site"))?;
        let node = Standalone::start(&config, Mode::Server).await?;
        let result = tokio::select! {
            result = online(&node, &key, salt, site, &archive, self.json) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
            () = terminated() => Ok(()),
        };
        node.stop().await;
        result
    }

    /// The key file beside the folder, never in it: what is in it is published.
    fn site_key(&self, dir: &Path) -> Result<SigningKey, Failure> {
        let file = self.key.clone().unwrap_or_else(|| dir.with_added_extension("key"));
        let parent = std::path::absolute(&file).ok().and_then(|file| file.parent()?.canonicalize().ok());
        if parent.is_some_and(|parent| parent.starts_with(dir)) {
            return Err(Failure::Usage("the key file lies in the folder and would be published with it".into()));
        }
        if file.exists() {
            return key::read(&file);
        }
        let made = key::create(&file)?;
        output::remark(&format!("made a new key: {} (keep a copy: it is the site)", file.display()));
        Ok(made)
    }
}

/// Puts the site online and keeps it there; ends only by failing.
async fn online(
    node: &Standalone,
    key: &SigningKey,
    salt: Salt,
    (metainfo, copy): (Metainfo, PathBuf),
    archive: &Archive,
    json: bool,
) -> Result<(), Failure> {
    let dht = &node.dht;
    let _seed = node.bridge.seed(metainfo.clone(), copy).await.map_err(Failure::failed)?;
    output::remark("signing…");
    let found = dht.get(key::public(key), salt.clone(), None).await.item;
    let cas = found.as_ref().map(VerifiedItem::seq);
    // The network forgets an item in two hours; what was published from here counts too.
    let current = newest(found, archive.last_record(&salt));
    let item = next_record(key, salt, &metainfo, current)?;
    archive.keep(&item)?;
    // Peers that follow the site hear of it at once, whatever the DHT does.
    node.gossip.follow(*item.key(), item.salt().clone(), Some(&item), Interest::Pinned);
    output::remark("putting the record in the DHT…");
    let outcome = dht.put(item.clone(), cas).await;
    if let Some(newer) = outcome.newer {
        // Nothing was sent, so the number is not ours: the next attempt starts from the one that won.
        archive.keep(&newer)?;
        return Err(Failure::Conflict(format!(
            "another device published this site in the meantime (record {}); look at it, then publish again",
            newer.seq()
        )));
    }
    let announced = dht.announce(metainfo.info_hash(), node.bridge.bittorrent_addr().port()).await;
    say(&item, &metainfo, outcome.stored, announced, json)?;
    keep_published(dht, &item).await
}

fn newest(a: Option<VerifiedItem>, b: Option<VerifiedItem>) -> Option<VerifiedItem> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.replaces(&a) { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// The record to put after `current`. A folder that has not changed keeps its record.
fn next_record(
    key: &SigningKey,
    salt: Salt,
    metainfo: &Metainfo,
    current: Option<VerifiedItem>,
) -> Result<VerifiedItem, Failure> {
    match current {
        Some(current) if pointer::info_hash(current.v()) == Some(metainfo.info_hash()) => Ok(current),
        current => {
            let seq = current.map_or(1, |current| current.seq().saturating_add(1));
            let value = pointer::value(&metainfo.info_hash());
            VerifiedItem::sign(key, salt, seq, value).map_err(Failure::failed)
        }
    }
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
        let first = next(1, None);
        assert_eq!(first.seq(), 1);
        assert_eq!(next(2, Some(first.clone())).seq(), 2);
        assert_eq!(next(1, Some(first.clone())), first, "unchanged content keeps its record");
        let last = VerifiedItem::sign(&key, Salt::default(), MAX_SEQ, b"1:x".to_vec()).unwrap();
        assert!(next_record(&key, Salt::default(), &site(1), Some(last)).is_err(), "the numbers are used up");
    }

    #[test]
    fn the_key_is_never_published() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap().join("site");
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        let publish = |key: Option<&str>| {
            let args = ["x", "site"].into_iter().chain(key.iter().flat_map(|key| ["--key", *key]));
            <Arguments as clap::Parser>::try_parse_from(args).unwrap().publish.site_key(&folder)
        };
        let inside = folder.join("deep/my.key");
        assert!(matches!(publish(inside.to_str()), Err(Failure::Usage(_))));
        let made = publish(None).unwrap();
        assert!(folder.with_added_extension("key").exists());
        assert_eq!(publish(None).unwrap(), made, "the second time it is read");
    }

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        publish: Publish,
    }
}
