//! `swarmgate get MAGNET [DIR]`: downloads what a link or a key points to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::timeout;

use super::reach::Reach;
use super::standalone::Standalone;
use super::{Failure, output};
use crate::bridge::{Download, Progress};
use crate::dht::Mode;
use crate::wire::id::{InfoHash, PublicKey};
use crate::wire::magnet::Magnet;
use crate::wire::pointer;

#[derive(Debug, Args)]
pub(super) struct Get {
    /// A magnet link (xt=urn:btih or xs=urn:btpk), a public key, or an info hash.
    target: String,
    /// Where to put it.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Give up when nothing has arrived for this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u64,
    #[command(flatten)]
    reach: Reach,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Got {
    ok: bool,
    ih: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    name: String,
    bytes: u64,
    path: PathBuf,
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let magnet = target(&self.target)?;
        let (info_hash, seq) = self.resolve(&magnet).await?;
        let mut config = self.reach.config.load()?;
        config.dht = self.reach.dht_settings(&config);
        // A command's cache of its own: the server on this machine, if any, uses the configured one.
        let scratch = std::env::temp_dir().join(format!("swarmgate-get-{}", std::process::id()));
        config.data_dir = scratch.clone();
        let result = self.fetch(&config, info_hash, &magnet).await;
        let _ = std::fs::remove_dir_all(&scratch);
        let last = result?;
        let metainfo = last.metainfo.expect("a finished download has its metainfo");
        let got = Got {
            ok: true,
            ih: info_hash.to_hex(),
            seq,
            name: metainfo.name().to_owned(),
            bytes: metainfo.total_length(),
            path: self.dir.join(metainfo.name()),
        };
        if self.json {
            return output::json(&got);
        }
        output::text(&format!("{} ({} bytes)", got.path.display(), got.bytes))
    }

    /// Which torrent: the newest record's, if the link names a key, else the one it names.
    async fn resolve(&self, magnet: &Magnet) -> Result<(InfoHash, Option<i64>), Failure> {
        let Some(key) = magnet.key else {
            return Ok((magnet.info_hash.expect("a magnet link names one of the two"), None));
        };
        output::remark("looking for the record…");
        match (self.reach.get(key, &magnet.salt).await?, magnet.info_hash) {
            (Some(found), _) => match pointer::info_hash(found.item.v()) {
                Some(info_hash) => Ok((info_hash, Some(found.item.seq()))),
                None => Err(Failure::NotFound(format!("the record of {key} does not point to a torrent"))),
            },
            (None, Some(info_hash)) => {
                output::remark("no record was found; taking the version that the link names");
                Ok((info_hash, None))
            }
            (None, None) => Err(Failure::NotFound(format!("no record of {key} was found"))),
        }
    }

    async fn fetch(
        &self,
        config: &crate::config::Config,
        info_hash: InfoHash,
        magnet: &Magnet,
    ) -> Result<Progress, Failure> {
        let node = Standalone::start(config, Mode::Client).await?;
        let peers: Vec<SocketAddr> = magnet.peers.iter().filter_map(|peer| peer.parse().ok()).collect();
        let result = async {
            let dir = create(&self.dir)?;
            let download = node.bridge.download(info_hash, peers, dir).await.map_err(Failure::failed)?;
            finish(&download, Duration::from_secs(self.patience)).await
        };
        let result = tokio::select! {
            result = result => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::Failed("interrupted".into())),
        };
        node.stop().await;
        result
    }
}

/// A link, a bare key or a bare info hash.
pub(super) fn target(text: &str) -> Result<Magnet, Failure> {
    if let Ok(key) = PublicKey::from_hex(text) {
        return Ok(Magnet { key: Some(key), ..Magnet::default() });
    }
    if let Ok(info_hash) = InfoHash::from_hex(text) {
        return Ok(Magnet { info_hash: Some(info_hash), ..Magnet::default() });
    }
    Magnet::parse(text).map_err(Failure::usage)
}

fn create(dir: &Path) -> Result<PathBuf, Failure> {
    let made = std::fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    made.map_err(|error| Failure::Failed(format!("cannot write to {}: {error}", dir.display())))
}

/// Follows a download to its end, saying how far it is; gives up when `patience` passes without news.
async fn finish(download: &Download, patience: Duration) -> Result<Progress, Failure> {
    let mut progress = download.progress();
    let mut said = String::new();
    loop {
        let now = progress.borrow_and_update().clone();
        if let Some(error) = now.failed {
            return Err(Failure::failed(error));
        }
        if now.finished {
            return Ok(now);
        }
        let line = match &now.metainfo {
            None => format!("looking for peers ({} connected)…", now.peer_count()),
            Some(metainfo) => format!("{}: {} of {} pieces", metainfo.name(), now.pieces, metainfo.pieces()),
        };
        if line != said {
            output::remark(&line);
            said = line;
        }
        match timeout(patience, progress.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Failure::Failed("the download was abandoned".into())),
            Err(_) if now.pieces == 0 => return Err(Failure::NotFound("no peer has it".into())),
            Err(_) => return Err(Failure::Failed("the peers stopped sending".into())),
        }
    }
}
