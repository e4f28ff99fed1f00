//! What callers hold of the torrents that they have joined: seeds, downloads and pins. Dropping a handle leaves the
//! torrent; files stay where they are.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::watch;

use super::joined::Torrent;
use super::torrent::{Admit, Purpose};
use super::{Bridge, Content, Progress, TorrentError};
use crate::wire::id::InfoHash;
use crate::wire::metainfo::Metainfo;

/// A torrent that is seeded until this is dropped.
pub struct Seed {
    torrent: Torrent,
}

impl Seed {
    /// Its info hash.
    #[must_use]
    pub fn info_hash(&self) -> InfoHash {
        self.torrent.swarm.info_hash
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.torrent.swarm.token.cancel();
    }
}

/// A download that goes on until this is dropped; then it goes on being served until then, too.
pub struct Download {
    torrent: Torrent,
    progress: watch::Receiver<Progress>,
}

impl Download {
    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.torrent.swarm.token.cancel();
    }
}

/// What is to be pinned.
#[derive(Clone, Default)]
pub struct Pinning {
    /// Spares asking peers for it; it must have the info hash that is pinned.
    pub metainfo: Option<Metainfo>,
    /// Where peers may be, beside those that the DHT, the tracker and peers name. They are dialled whatever network they
    /// are on, so a stranger must not choose them.
    pub peers: Vec<SocketAddr>,
    /// Asked when the metadata is known, before anything is downloaded: quotas, for example.
    pub admit: Option<Admit>,
}

/// A torrent that is kept: downloaded, seeded to web and native peers whatever the bridge's policy, announced, and never
/// evicted. It lies in `DATA_DIR/pinned/INFOHASH/files`.
///
/// Dropping this leaves the swarm and keeps the files, so that the next [`Bridge::pin`] of the same torrent finds them.
/// [`Bridge::release`] then gives them up.
pub struct Pin {
    torrent: Torrent,
    progress: watch::Receiver<Progress>,
}

impl Pin {
    /// Its info hash.
    #[must_use]
    pub fn info_hash(&self) -> InfoHash {
        self.torrent.swarm.info_hash
    }

    /// How far it is; changes are told at most five times a second. Rates and peers as they are this moment, also while
    /// nothing changes, are in [`Bridge::progress`].
    ///
    /// When [`Progress::failed`] is set, the torrent was left, and what is to be done is to pin it again: `Refused` by
    /// [`Pinning::admit`] or because the metadata is no good, `Failed` by the disk, `Stopping` when the node stops.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Its files, once the metadata is here and what is on disk was checked.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        self.torrent.swarm.stage.borrow().live().cloned().map(Content::new)
    }

    /// Reads every piece that should be on disk and compares it with the torrent. What is damaged is then fetched from
    /// the swarm again; meanwhile [`Progress::state`] leaves `Complete`.
    ///
    /// # Errors
    /// [`TorrentError::Failed`] when the torrent is not past its first check.
    pub async fn verify(&self) -> Result<Verified, TorrentError> {
        let verified = self.torrent.verify().await;
        verified.ok_or_else(|| TorrentError::Failed("the torrent is not checked yet".to_owned()))
    }

    /// Leaves the swarm, and returns when the files are no longer in use.
    pub async fn stop(self) {
        let torrent = self.torrent.clone();
        drop(self);
        torrent.ended().await;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.torrent.swarm.token.cancel();
    }
}

impl Torrent {
    /// `None` while it is not past its first check.
    async fn verify(&self) -> Option<Verified> {
        let content = self.swarm.stage.borrow().live().cloned().map(Content::new)?;
        let verified = content.verify().await;
        if !verified.damaged.is_empty() {
            self.swarm.check_again();
        }
        Some(verified)
    }
}

/// What reading everything from disk has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Pieces that were there and whole.
    pub good: usize,
    /// Pieces that are not what they were, by index.
    pub damaged: Vec<usize>,
}

impl Bridge {
    /// Seeds files that are on disk, at their paths below `dir` (a single file: `dir/name`). They are checked first,
    /// only read, never evicted, and announced to the DHT until the handle is dropped.
    ///
    /// # Errors
    /// See [`TorrentError`].
    pub async fn seed(&self, metainfo: Metainfo, dir: PathBuf) -> Result<Seed, TorrentError> {
        let info_hash = metainfo.info_hash();
        let torrent = self.take_over(info_hash, Purpose::Seed { metainfo, dir }).await?;
        // From here on dropping the seed ends it.
        let seed = Seed { torrent };
        let mut stages = seed.torrent.swarm.stage.subscribe();
        tokio::select! {
            error = seed.torrent.ended() => Err(error),
            live = stages.wait_for(|stage| stage.live().is_some()) => {
                live.map(drop).map(|()| seed).map_err(|_| TorrentError::Stopping)
            }
        }
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
        let (sender, progress) = watch::channel(Progress::default());
        let torrent = self.take_over(info_hash, Purpose::Download { dir, peers, progress: sender }).await?;
        Ok(Download { torrent, progress })
    }

    /// Keeps a torrent; see [`Pin`]. Returns at once: what becomes of it is told by [`Pin::progress`]. What the cache or an
    /// earlier pin has of it is used.
    ///
    /// # Errors
    /// [`TorrentError::InUse`] when it is pinned, seeded or downloaded already, [`TorrentError::Refused`] when the metainfo is
    /// another torrent's.
    pub async fn pin(&self, info_hash: InfoHash, pinning: Pinning) -> Result<Pin, TorrentError> {
        let Pinning { metainfo, peers, admit } = pinning;
        if metainfo.as_ref().is_some_and(|metainfo| metainfo.info_hash() != info_hash) {
            return Err(TorrentError::Refused("the metainfo is another torrent's".to_owned()));
        }
        let (sender, progress) = watch::channel(Progress::default());
        let torrent = self.take_over(info_hash, Purpose::Pin { metainfo, admit, peers, progress: sender }).await?;
        Ok(Pin { torrent, progress })
    }

    /// As [`Pin::verify`], of any torrent that is joined; `None` while it is not, or not past its first check.
    pub async fn verify(&self, info_hash: &InfoHash) -> Option<Verified> {
        self.inner.joined.find(info_hash)?.verify().await
    }

    /// The torrents that have files in `DATA_DIR/pinned`, whether they are pinned now or not: for finding those that a
    /// crash has left behind.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn pinned_on_disk(&self) -> io::Result<Vec<InfoHash>> {
        self.inner.cache.pinned()
    }

    /// Gives up the files of a torrent whose [`Pin`] was stopped: they become part of the cache, which keeps them for as
    /// long as it has room.
    ///
    /// # Errors
    /// [`TorrentError::InUse`] while it is joined, [`TorrentError::Failed`] when it was not pinned or the disk fails.
    pub async fn release(&self, info_hash: InfoHash) -> Result<(), TorrentError> {
        if self.inner.joined.find(&info_hash).is_some() {
            return Err(TorrentError::InUse);
        }
        self.inner.cache.release(info_hash).await.map_err(|error| TorrentError::Failed(error.to_string()))
    }
}
