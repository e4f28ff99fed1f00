//! Bridged torrents on disk: bounded by bytes, the least recently used go first, and what is there is found again after a
//! restart.
//!
//! ```text
//! cache/<info hash>/torrent     the metainfo; its modification time is the last use
//! cache/<info hash>/files/…     the content
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::task::spawn_blocking;

use super::policy::Refusal;
use crate::wire::id::InfoHash;
use crate::wire::metainfo::Metainfo;

/// Why a torrent is not taken into the cache.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    /// There is no room, even with everything unused gone.
    #[error(transparent)]
    Full(#[from] Refusal),
    /// The disk.
    #[error("cannot use the cache: {0}")]
    Io(#[from] io::Error),
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    limit: u64,
    /// Torrents in use and their full lengths, which is what they may grow to. A std mutex: held for a look-up.
    in_use: Mutex<HashMap<InfoHash, u64>>,
    /// One at a time makes room, or two would count on the same.
    making_room: tokio::sync::Mutex<()>,
    metrics: crate::metrics::Bridge,
}

/// A torrent that is not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unused {
    info_hash: InfoHash,
    bytes: u64,
    last_used: SystemTime,
}

impl Cache {
    /// Makes the folder, if it is not there.
    pub(super) fn open(root: PathBuf, limit: u64, metrics: crate::metrics::Bridge) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&root)?;
        let (in_use, making_room) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { root, limit, in_use, making_room, metrics }))
    }

    /// Whether a torrent was here before.
    pub(super) fn contains(&self, info_hash: &InfoHash) -> bool {
        self.torrent_file(info_hash).exists()
    }

    /// The metainfo of a torrent that was here before. It is read as if a stranger had sent it.
    pub(super) async fn metainfo(&self, info_hash: InfoHash) -> Option<Metainfo> {
        let torrent = tokio::fs::read(self.torrent_file(&info_hash)).await.ok()?;
        Metainfo::from_torrent(&torrent).ok().filter(|metainfo| metainfo.info_hash() == info_hash)
    }

    /// Makes room for a torrent, at the cost of those unused for longest, and keeps it from being removed while it is
    /// in use.
    pub(super) async fn take_in(self: &Arc<Self>, metainfo: &Metainfo) -> Result<Kept, CacheError> {
        let _only_one = self.making_room.lock().await;
        let (cache, torrent, info_hash) = (self.clone(), metainfo.to_torrent(), metainfo.info_hash());
        let need = metainfo.total_length();
        spawn_blocking(move || cache.take_in_now(info_hash, need, &torrent)).await.map_err(io::Error::other)?
    }

    fn take_in_now(self: Arc<Self>, info_hash: InfoHash, need: u64, torrent: &[u8]) -> Result<Kept, CacheError> {
        let mut unused = self.unused()?;
        unused.retain(|entry| entry.info_hash != info_hash);
        let in_use: u64 = self.lock().values().sum();
        let (evicted, bytes) = plan(unused, in_use.saturating_add(need), self.limit).ok_or(Refusal::CacheFull)?;
        for info_hash in evicted {
            tracing::info!(%info_hash, "removing a torrent from the cache to make room");
            fs::remove_dir_all(self.folder(&info_hash))?;
        }
        fs::create_dir_all(self.folder(&info_hash))?;
        // Written beside and renamed, so that a crash leaves no half of it.
        let unfinished = self.folder(&info_hash).join("torrent.new");
        fs::write(&unfinished, torrent)?;
        fs::rename(&unfinished, self.torrent_file(&info_hash))?;
        self.lock().insert(info_hash, need);
        self.metrics.cache.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(Kept { cache: self, info_hash })
    }

    /// What is on disk and not in use. Folders that are not ours are left alone.
    fn unused(&self) -> io::Result<Vec<Unused>> {
        let mut unused = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(info_hash) = name.to_str().and_then(|name| InfoHash::from_hex(name).ok()) else { continue };
            if self.lock().contains_key(&info_hash) {
                continue;
            }
            let last_used = fs::metadata(self.torrent_file(&info_hash)).and_then(|file| file.modified());
            let last_used = last_used.unwrap_or(SystemTime::UNIX_EPOCH);
            unused.push(Unused { info_hash, bytes: disk_usage(&entry.path())?, last_used });
        }
        Ok(unused)
    }

    fn folder(&self, info_hash: &InfoHash) -> PathBuf {
        self.root.join(info_hash.to_hex())
    }

    fn torrent_file(&self, info_hash: &InfoHash) -> PathBuf {
        self.folder(info_hash).join("torrent")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<InfoHash, u64>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A torrent of the cache in use; it may be removed when this is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    cache: Arc<Cache>,
    info_hash: InfoHash,
}

impl Kept {
    /// Where its content lies.
    pub(super) fn files(&self) -> PathBuf {
        self.cache.folder(&self.info_hash).join("files")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Failing to note the time only makes the torrent look older than it is.
        let file = File::options().append(true).open(self.cache.torrent_file(&self.info_hash));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
        self.cache.lock().remove(&self.info_hash);
    }
}

/// Which unused torrents go so that `needed` bytes and the rest fit the limit, and how many bytes are then taken.
fn plan(mut unused: Vec<Unused>, needed: u64, limit: u64) -> Option<(Vec<InfoHash>, u64)> {
    unused.sort_by_key(|entry| entry.last_used);
    let mut taken = unused.iter().fold(needed, |sum, entry| sum.saturating_add(entry.bytes));
    let mut evicted = Vec::new();
    for entry in unused {
        if taken <= limit {
            break;
        }
        taken -= entry.bytes;
        evicted.push(entry.info_hash);
    }
    (taken <= limit).then_some((evicted, taken))
}

/// Bytes that a folder takes on disk; files not yet whole are sparse.
fn disk_usage(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    // POSIX leaves the unit open; every system that runs this counts in 512 bytes.
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += disk_usage(&entry?.path())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics;

    fn hash(n: u8) -> InfoHash {
        InfoHash([n; 20])
    }

    #[test]
    fn the_oldest_unused_go_first_and_no_more_than_needed() {
        let entry = |n: u8, bytes| Unused {
            info_hash: hash(n),
            bytes,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(n)),
        };
        let unused = || vec![entry(3, 30), entry(1, 10), entry(2, 20)];
        let table = [
            (40, Some((vec![], 100))),
            (41, Some((vec![hash(1)], 91))),
            (51, Some((vec![hash(1), hash(2)], 81))),
            (100, Some((vec![hash(1), hash(2), hash(3)], 100))),
            (101, None),
        ];
        for (needed, expected) in table {
            assert_eq!(plan(unused(), needed, 100), expected, "{needed}");
        }
    }

    fn torrent(n: u8, length: u64) -> Metainfo {
        Metainfo::build("x", &[(vec!["file".to_owned()], length)], 1 << 20, &[[n; 20]]).unwrap()
    }

    async fn fill(cache: &Arc<Cache>, metainfo: &Metainfo, age: u64) {
        let kept = cache.take_in(metainfo).await.unwrap();
        fs::create_dir_all(kept.files()).unwrap();
        fs::write(kept.files().join("file"), vec![7; metainfo.total_length() as usize]).unwrap();
        drop(kept);
        let file = File::options().append(true).open(cache.torrent_file(&metainfo.info_hash())).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    #[tokio::test]
    async fn what_is_in_use_stays_and_what_was_there_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Cache::open(dir.path().join("cache"), 1_000_000, metrics::Bridge::detached()).unwrap();
        let (old, new, big) = (torrent(1, 300_000), torrent(2, 300_000), torrent(3, 600_000));
        let cache = open();
        fill(&cache, &old, 20).await;
        fill(&cache, &new, 10).await;
        fs::create_dir(dir.path().join("cache/not ours")).unwrap();

        let cache = open();
        assert_eq!(cache.metainfo(old.info_hash()).await.as_ref(), Some(&old));
        let kept = cache.take_in(&big).await.unwrap();
        assert!(!cache.contains(&old.info_hash()) && cache.contains(&new.info_hash()));
        assert!(matches!(cache.take_in(&torrent(4, 500_000)).await, Err(CacheError::Full(Refusal::CacheFull))));
        assert!(cache.contains(&big.info_hash()), "it is in use");
        drop(kept);
        cache.take_in(&torrent(4, 1_000_000)).await.unwrap();
        assert!(!cache.contains(&big.info_hash()) && dir.path().join("cache/not ours").exists());
    }
}
