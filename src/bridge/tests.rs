//! Whole bridges in one process, with loopback between them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sha1::{Digest, Sha1};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::config::BridgePolicy;
use crate::dht::Mode;

const DEADLINE: Duration = Duration::from_secs(30);

/// A bridge, its folder, and what ends its tasks.
struct Node {
    bridge: Bridge,
    dir: TempDir,
    tasks: Tasks,
}

impl Node {
    async fn start(policy: BridgePolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, tasks) = Self::start_in(policy, dir.path()).await;
        Self { bridge, dir, tasks }
    }

    async fn start_in(policy: BridgePolicy, dir: &Path) -> (Bridge, Tasks) {
        let tasks = Tasks::new();
        let localhost = "127.0.0.1:0".parse().unwrap();
        let dht = config::Dht { listen: localhost, bootstrap: Vec::new(), ..config::Dht::default() };
        let dht = Dht::start(&dht, Mode::Client, None, metrics::Dht::detached(), &tasks).await.unwrap();
        let settings = Settings {
            bridge: config::Bridge { policy, ..config::Bridge::default() },
            bittorrent: config::BitTorrent { listen: localhost },
            webrtc: config::WebRtc { listen: localhost, ..config::WebRtc::default() },
        };
        let metrics = metrics::Bridge::detached();
        let none: Allowed = Arc::new(|_| false);
        let bridge = Bridge::start(settings, dir.to_owned(), dht, None, none, metrics, &tasks).await.unwrap();
        (bridge, tasks)
    }

    async fn stop(self) {
        assert_eq!(self.tasks.stop(Duration::from_secs(5)).await, 0, "every task ends");
    }
}

/// A folder with a few files and its metainfo.
fn site(dir: &Path, seed: u8) -> (Metainfo, Vec<u8>) {
    let sizes = [("index.md", 3_000), ("img/a.png", 700_001), ("img/empty", 0), ("z.bin", 150_000)];
    let mut files = Vec::new();
    let mut content = Vec::new();
    for (name, size) in sizes {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect();
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        files.push((name.split('/').map(str::to_owned).collect(), u64::from(size)));
        content.extend(bytes);
    }
    let hashes: Vec<[u8; 20]> = content.chunks(1 << 15).map(|piece| Sha1::digest(piece).into()).collect();
    (Metainfo::build("site", &files, 1 << 15, &hashes).unwrap(), content)
}

fn read_back(metainfo: &Metainfo, dir: &Path) -> Vec<u8> {
    let paths = metainfo.files().iter().map(|file| file.path.iter().collect::<std::path::PathBuf>());
    paths.flat_map(|path| fs::read(dir.join(path)).unwrap()).collect()
}

async fn finished(download: &Download) -> Progress {
    let mut progress = download.progress();
    let last = timeout(DEADLINE, progress.wait_for(|now| now.finished || now.failed.is_some())).await;
    last.expect("it finishes in time").expect("it has news").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bridge_downloads_what_another_seeds() {
    let (seeder, leecher) = (Node::start(BridgePolicy::Off).await, Node::start(BridgePolicy::Off).await);
    let (metainfo, content) = site(&seeder.dir.path().join("mine"), 1);
    let seed = seeder.bridge.seed(metainfo.clone(), seeder.dir.path().join("mine")).await.unwrap();
    let peers = vec![seeder.bridge.bittorrent_addr()];
    let target = leecher.dir.path().join("got");
    let download = leecher.bridge.download(seed.info_hash(), peers, target.clone()).await.unwrap();
    let last = finished(&download).await;
    assert_eq!(last.metainfo.as_deref(), Some(&metainfo));
    assert!(read_back(&metainfo, &target.join("site")) == content);
    assert!(matches!(leecher.bridge.download(seed.info_hash(), vec![], target).await, Err(TorrentError::InUse)));
    drop((seed, download));
    seeder.stop().await;
    leecher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn originals_that_changed_are_not_seeded_and_not_touched() {
    let node = Node::start(BridgePolicy::Off).await;
    let dir = node.dir.path().join("mine");
    let (metainfo, _) = site(&dir, 1);
    let mut edited = fs::read(dir.join("z.bin")).unwrap();
    edited[77] ^= 1;
    fs::write(dir.join("z.bin"), &edited).unwrap();
    let error = node.bridge.seed(metainfo.clone(), dir.clone()).await.err().unwrap();
    assert_eq!(error.to_string(), "the files do not match the torrent: 1 of 27 pieces differ");
    assert_eq!(fs::read(dir.join("z.bin")).unwrap(), edited);
    fs::remove_file(dir.join("index.md")).unwrap();
    assert!(matches!(node.bridge.seed(metainfo, dir.clone()).await, Err(TorrentError::Mismatch(_))));
    assert!(!dir.join("index.md").exists());
    node.stop().await;
}
