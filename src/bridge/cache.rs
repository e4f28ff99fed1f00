//! Torrents on disk: bridged ones, bounded by bytes, of which the least recently used go first, and pinned ones, which
//! never go by themselves. What is there is found again after a restart.
//!
//! ```text
//! cache/<info hash>/torrent      the metainfo; its modification time is the last use
//! cache/<info hash>/files/…      the content
//! cache/<info hash>/resume       which pieces of it are here
//! cache/<info hash>/joined       it is joined now, or was when the last process ended
//! pinned/<info hash>/…           the same
//! ```
//!
//! A torrent lies in one of the two. It changes sides by being renamed, so that no byte is copied and a crash loses
//! nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::task::spawn_blocking;

use super::policy::Refusal;
use super::resume::{Order, Resume};
use crate::wire::id::InfoHash;
use crate::wire::metainfo::Metainfo;

/// What a file or folder counts beside its bytes: its inode, its name, and what its last block has too much. File systems
/// have few inodes: ext4 one for 16 KiB.
const ENTRY: u64 = 4096;

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

/// The cache, and the pinned torrents beside it.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    pinned: PathBuf,
    limit: u64,
    /// Torrents in use. A std mutex: held for a look-up.
    in_use: Mutex<HashMap<InfoHash, Use>>,
    /// Bytes of torrents that were not in use when they were last measured; whoever takes one into use forgets its entry. A
    /// std mutex: held for a look-up.
    measured: Mutex<HashMap<InfoHash, u64>>,
    /// One at a time makes room, or two would count on the same.
    making_room: tokio::sync::Mutex<()>,
    metrics: crate::metrics::Bridge,
}

/// Of a torrent in use.
#[derive(Debug)]
struct Use {
    /// What it counts against the limit: what it may grow to. Pinned torrents count nothing.
    bytes: u64,
    /// How many hold it.
    holders: usize,
}

/// A torrent that is not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unused {
    info_hash: InfoHash,
    bytes: u64,
    last_used: SystemTime,
}

impl Cache {
    /// Makes the folders in `data_dir`, if they are not there.
    pub(super) fn open(data_dir: &Path, limit: u64, metrics: crate::metrics::Bridge) -> io::Result<Arc<Self>> {
        let (root, pinned) = (data_dir.join("cache"), data_dir.join("pinned"));
        fs::create_dir_all(&root)?;
        fs::create_dir_all(&pinned)?;
        let (in_use, measured, making_room) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { root, pinned, limit, in_use, measured, making_room, metrics }))
    }

    /// Whether a torrent was here before.
    pub(super) fn contains(&self, info_hash: &InfoHash) -> bool {
        torrent_in(&self.folder(info_hash)).exists() || torrent_in(&self.pinned_folder(info_hash)).exists()
    }

    /// The torrents that were here before.
    pub(super) fn torrents(&self) -> Vec<InfoHash> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| InfoHash::from_hex(entry.file_name().to_str()?).ok()).collect()
    }

    /// The metainfo of a torrent that was here before. It is read as if a stranger had sent it.
    pub(super) async fn metainfo(&self, info_hash: InfoHash) -> Option<Metainfo> {
        for folder in [self.pinned_folder(&info_hash), self.folder(&info_hash)] {
            let Ok(torrent) = tokio::fs::read(torrent_in(&folder)).await else { continue };
            let metainfo = Metainfo::from_torrent(&torrent).ok();
            if let Some(metainfo) = metainfo.filter(|metainfo| metainfo.info_hash() == info_hash) {
                return Some(metainfo);
            }
        }
        None
    }

    /// The torrents of the cache that were joined when the last process ended.
    pub(super) fn joined_before(&self) -> io::Result<Vec<InfoHash>> {
        let mut joined = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let info_hash = entry.file_name().to_str().and_then(|name| InfoHash::from_hex(name).ok());
            joined.extend(info_hash.filter(|_| joined_in(&entry.path()).exists()));
        }
        Ok(joined)
    }

    /// The torrents that are pinned on disk.
    pub(super) fn pinned(&self) -> io::Result<Vec<InfoHash>> {
        let names = fs::read_dir(&self.pinned)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        Ok(names.iter().filter_map(|name| InfoHash::from_hex(name.to_str()?).ok()).collect())
    }

    /// Keeps a torrent for good, until [`Cache::release`]. What the cache has of it is kept.
    pub(super) async fn keep(self: &Arc<Self>, metainfo: &Metainfo) -> Result<Kept, CacheError> {
        let _only_one = self.making_room.lock().await;
        let (cache, torrent, info_hash) = (self.clone(), metainfo.to_torrent(), metainfo.info_hash());
        spawn_blocking(move || {
            let (cached, pinned) = (cache.folder(&info_hash), cache.pinned_folder(&info_hash));
            if !pinned.exists() && cached.exists() {
                fs::rename(cached, &pinned)?;
            }
            write_torrent(&pinned, &torrent)?;
            Ok(cache.hold(info_hash, pinned, 0))
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Puts a pinned torrent that is not in use into the cache, of which the oldest may have to go.
    pub(super) async fn release(self: &Arc<Self>, info_hash: InfoHash) -> Result<(), CacheError> {
        let _only_one = self.making_room.lock().await;
        let cache = self.clone();
        spawn_blocking(move || {
            let (cached, pinned) = (cache.folder(&info_hash), cache.pinned_folder(&info_hash));
            cache.measured().remove(&info_hash);
            if cached.exists() {
                fs::remove_dir_all(&pinned)?;
            } else {
                fs::rename(pinned, &cached)?;
                touch(&cached);
            }
            let (evicted, bytes) = plan(cache.unused()?, cache.bytes_in_use(), cache.limit);
            cache.evict(&evicted, bytes)
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Makes room for a torrent, at the cost of those unused for longest, and keeps it from being removed while it is
    /// in use.
    pub(super) async fn take_in(self: &Arc<Self>, metainfo: &Metainfo) -> Result<Kept, CacheError> {
        let _only_one = self.making_room.lock().await;
        let (cache, torrent, info_hash) = (self.clone(), metainfo.to_torrent(), metainfo.info_hash());
        let need = may_grow_to(metainfo);
        spawn_blocking(move || cache.take_in_now(info_hash, need, &torrent)).await.map_err(io::Error::other)?
    }

    fn take_in_now(self: Arc<Self>, info_hash: InfoHash, need: u64, torrent: &[u8]) -> Result<Kept, CacheError> {
        let mut unused = self.unused()?;
        unused.retain(|entry| entry.info_hash != info_hash);
        let (evicted, bytes) = plan(unused, self.bytes_in_use().saturating_add(need), self.limit);
        if bytes > self.limit {
            return Err(Refusal::CacheFull.into());
        }
        self.evict(&evicted, bytes)?;
        let folder = self.folder(&info_hash);
        write_torrent(&folder, torrent)?;
        File::create(joined_in(&folder))?;
        Ok(self.hold(info_hash, folder, need))
    }

    fn evict(&self, evicted: &[InfoHash], bytes_left: u64) -> Result<(), CacheError> {
        for info_hash in evicted {
            tracing::info!(%info_hash, "removing a torrent from the cache to make room");
            fs::remove_dir_all(self.folder(info_hash))?;
            self.measured().remove(info_hash);
        }
        self.metrics.evicted.inc_by(evicted.len() as u64);
        self.metrics.cache.set(i64::try_from(bytes_left).unwrap_or(i64::MAX));
        Ok(())
    }

    fn hold(self: Arc<Self>, info_hash: InfoHash, folder: PathBuf, bytes: u64) -> Kept {
        self.lock().entry(info_hash).or_insert(Use { bytes, holders: 0 }).holders += 1;
        self.measured().remove(&info_hash);
        Kept { cache: self, info_hash, folder, order: Order::default() }
    }

    fn bytes_in_use(&self) -> u64 {
        self.lock().values().map(|held| held.bytes).sum()
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
            let last_used = fs::metadata(torrent_in(&entry.path())).and_then(|file| file.modified());
            let last_used = last_used.unwrap_or(SystemTime::UNIX_EPOCH);
            unused.push(Unused { info_hash, bytes: self.measure(info_hash, &entry.path())?, last_used });
        }
        Ok(unused)
    }

    /// The bytes of a torrent that is not in use. Read once: a look at each of its files is too dear for each torrent that
    /// comes.
    fn measure(&self, info_hash: InfoHash, folder: &Path) -> io::Result<u64> {
        let known = self.measured().get(&info_hash).copied();
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let bytes = disk_usage(folder)?;
        self.measured().insert(info_hash, bytes);
        Ok(bytes)
    }

    fn folder(&self, info_hash: &InfoHash) -> PathBuf {
        self.root.join(info_hash.to_hex())
    }

    fn pinned_folder(&self, info_hash: &InfoHash) -> PathBuf {
        self.pinned.join(info_hash.to_hex())
    }

    fn measured(&self) -> std::sync::MutexGuard<'_, HashMap<InfoHash, u64>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<InfoHash, Use>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A torrent in use; if it is in the cache, it may be removed when this and its like are dropped.
#[derive(Debug)]
pub(super) struct Kept {
    cache: Arc<Cache>,
    info_hash: InfoHash,
    folder: PathBuf,
    order: Order,
}

impl Kept {
    /// It need not be joined again when the process starts anew.
    pub(super) fn forget(&self) {
        // A pinned torrent has no such note, and one that stays by mistake costs a useless visit to the swarm.
        let _ = fs::remove_file(joined_in(&self.folder));
    }

    /// What is known of its pieces.
    pub(super) fn resume(&self, metainfo: &Metainfo) -> Resume {
        Resume::new(&self.folder, &self.files(), metainfo, self.order.clone())
    }

    /// Where its content lies.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        touch(&self.folder);
        let mut in_use = self.cache.lock();
        if let Some(held) = in_use.get_mut(&self.info_hash) {
            held.holders -= 1;
            if held.holders == 0 {
                in_use.remove(&self.info_hash);
            }
        }
    }
}

fn torrent_in(folder: &Path) -> PathBuf {
    folder.join("torrent")
}

fn joined_in(folder: &Path) -> PathBuf {
    folder.join("joined")
}

/// Notes that a torrent was used. Failing to only makes it look older than it is.
fn touch(folder: &Path) {
    let file = File::options().append(true).open(torrent_in(folder));
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
}

/// Written beside and renamed, so that a crash leaves no half of it.
fn write_torrent(folder: &Path, torrent: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let unfinished = folder.join("torrent.new");
    fs::write(&unfinished, torrent)?;
    fs::rename(&unfinished, torrent_in(folder))
}

/// Which unused torrents go so that `needed` bytes and the rest fit the limit, and how many bytes are then taken; more
/// than the limit if `needed` alone are.
fn plan(mut unused: Vec<Unused>, needed: u64, limit: u64) -> (Vec<InfoHash>, u64) {
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
    (evicted, taken)
}

/// What a torrent takes on disk when all of it is there.
fn may_grow_to(metainfo: &Metainfo) -> u64 {
    let stored = metainfo.files().iter().filter(|file| !file.virtual_file).count() as u64;
    metainfo.total_length().saturating_add(stored * ENTRY)
}

/// Bytes that a folder takes on disk; files not yet whole are sparse.
fn disk_usage(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    // POSIX leaves the unit open; every system that runs this counts in 512 bytes.
    let mut bytes = metadata.blocks() * 512 + ENTRY;
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
            (40, (vec![], 100)),
            (41, (vec![hash(1)], 91)),
            (51, (vec![hash(1), hash(2)], 81)),
            (100, (vec![hash(1), hash(2), hash(3)], 100)),
            (101, (vec![hash(1), hash(2), hash(3)], 101)),
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
        let file = File::options().append(true).open(torrent_in(&cache.folder(&metainfo.info_hash()))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    #[tokio::test]
    async fn what_is_in_use_stays_and_what_was_there_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Cache::open(dir.path(), 1_000_000, metrics::Bridge::detached()).unwrap();
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
        cache.take_in(&torrent(4, 990_000)).await.unwrap();
        assert!(!cache.contains(&big.info_hash()) && dir.path().join("cache/not ours").exists());
    }

    #[tokio::test]
    async fn a_pin_takes_over_what_was_cached_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 1_000_000, metrics::Bridge::detached()).unwrap();
        let (small, large) = (torrent(1, 300_000), torrent(2, 900_000));
        fill(&cache, &small, 10).await;
        let first = cache.keep(&small).await.unwrap();
        assert_eq!(fs::read(first.files().join("file")).unwrap().len(), 300_000);
        assert_eq!(cache.pinned().unwrap(), [small.info_hash()]);
        fill(&cache, &large, 5).await;
        drop(first);
        assert!(cache.contains(&small.info_hash()), "a pin counts nothing and is not evicted");
        cache.release(small.info_hash()).await.unwrap();
        assert_eq!((cache.pinned().unwrap(), cache.contains(&small.info_hash())), (vec![], true));
        assert!(!cache.contains(&large.info_hash()), "it was the oldest, and both do not fit");
    }
    #[tokio::test]
    async fn empty_files_count_and_nothing_is_measured_twice() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 1_000_000, metrics::Bridge::detached()).unwrap();
        let files = |files: usize| {
            let files: Vec<_> = (0..files).map(|n| (vec![n.to_string()], u64::from(n == 0))).collect();
            Metainfo::build("x", &files, 1 << 14, &[[0; 20]]).unwrap()
        };
        let (many, more) = (files(200), files(300));
        assert!(matches!(cache.take_in(&more).await, Err(CacheError::Full(Refusal::CacheFull))));
        let kept = cache.take_in(&many).await.unwrap();
        fs::create_dir_all(kept.files()).unwrap();
        (0..200).for_each(|n| drop(File::create(kept.files().join(n.to_string())).unwrap()));
        drop(kept);
        let bytes = cache.unused().unwrap()[0].bytes;
        assert!(bytes >= 200 * ENTRY);
        // Nobody changes what is not in use.
        fs::remove_dir_all(cache.folder(&many.info_hash()).join("files")).unwrap();
        assert_eq!(cache.unused().unwrap()[0].bytes, bytes, "it was remembered");
        drop(cache.take_in(&many).await.unwrap());
        assert!(cache.unused().unwrap()[0].bytes < bytes, "it was in use since");
    }
}
