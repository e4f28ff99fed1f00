//! Room on the disk. Downloads write sparse files, so what is free now is also what others that are under way still need.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::wire::id::InfoHash;
use crate::wire::metainfo::Metainfo;

/// Bytes free at a path.
type Free = fn(&Path) -> io::Result<u64>;

/// The disk that pins are kept on.
#[derive(Debug)]
pub(super) struct Room {
    data_dir: PathBuf,
    keep_free: u64,
    free: Free,
    // A std mutex: held while the files of what is under way are looked at.
    promised: Mutex<HashMap<InfoHash, Vec<Stored>>>,
}

/// A file that a torrent has, or will have.
#[derive(Debug)]
struct Stored {
    path: PathBuf,
    length: u64,
}

/// Room for one torrent, until it is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    room: Arc<Room>,
    info_hash: InfoHash,
}

impl Room {
    pub(super) fn new(data_dir: PathBuf, keep_free: u64) -> Arc<Self> {
        Self::measured_by(data_dir, keep_free, free_space)
    }

    fn measured_by(data_dir: PathBuf, keep_free: u64, free: Free) -> Arc<Self> {
        Arc::new(Self { data_dir, keep_free, free, promised: Mutex::default() })
    }

    /// Promises nothing yet: a torrent whose metadata is still to come.
    pub(super) fn open(self: &Arc<Self>, info_hash: InfoHash) -> Promise {
        Promise { room: self.clone(), info_hash }
    }

    /// Sets aside what the torrent lacks, if that is there beside what others were promised.
    ///
    /// # Errors
    /// It is not: a sentence with the numbers.
    pub(super) fn promise(&self, metainfo: &Metainfo) -> Result<(), String> {
        let info_hash = metainfo.info_hash();
        let folder = self.data_dir.join("pinned").join(info_hash.to_hex()).join("files");
        let files = metainfo.files().iter().filter(|file| !file.virtual_file);
        let files: Vec<Stored> = files
            .map(|file| Stored {
                path: file.path.iter().fold(folder.clone(), |path, name| path.join(name)),
                length: file.length,
            })
            .collect();
        let needed = missing(&files);
        let mut promised = self.promised();
        let others: u64 =
            promised.iter().filter(|(other, _)| **other != info_hash).map(|(_, files)| missing(files)).sum();
        // A disk that cannot be asked is found out by writing to it.
        let free = (self.free)(&self.data_dir).unwrap_or(u64::MAX);
        let keep_free = self.keep_free;
        if needed > 0 && free < needed.saturating_add(others).saturating_add(keep_free) {
            return Err(format!(
                "{needed} bytes are needed on disk, and of the {free} that are free {others} are for other downloads \
                 (pins.keep_free = {keep_free})"
            ));
        }
        promised.insert(info_hash, files);
        Ok(())
    }

    fn promised(&self) -> MutexGuard<'_, HashMap<InfoHash, Vec<Stored>>> {
        self.promised.lock().expect("nothing panics while holding it")
    }
}

impl Promise {
    /// The torrent is whole, and needs no more.
    pub(super) fn kept(&self) {
        self.room.promised().remove(&self.info_hash);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.kept();
    }
}

/// Bytes that are not on disk yet. Files that are not whole are sparse, so their blocks are counted.
fn missing(files: &[Stored]) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let here = |file: &Stored| std::fs::metadata(&file.path).map_or(0, |found| found.blocks() * 512);
    files.iter().map(|file| file.length.saturating_sub(here(file))).sum()
}

fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_still_need_is_not_free() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::measured_by(directory.path().to_owned(), 1_000, |_| Ok(100_000));
        let torrent = |n: u8, length: u64| {
            let hashes = vec![[n; 20]; usize::try_from(length).unwrap().div_ceil(16_384)];
            Metainfo::build("site", &[(vec!["large".to_owned()], length)], 16_384, &hashes).unwrap()
        };
        let (a, b, small) = (torrent(1, 60_000), torrent(2, 60_000), torrent(3, 39_000));
        let of_a = room.open(a.info_hash());
        room.promise(&a).unwrap();
        room.promise(&a).expect("it is its own");
        let refused = room.promise(&b).unwrap_err();
        assert!(
            refused.starts_with("60000 bytes are needed on disk, and of the 100000 that are free 60000"),
            "{refused}"
        );
        room.promise(&small).expect("beside the other there is room for it");
        room.open(small.info_hash()).kept();
        of_a.kept();
        room.promise(&b).unwrap();
        drop(room.open(b.info_hash()));
        room.promise(&a).expect("whoever gave up keeps nothing");
        assert!(room.promise(&torrent(4, 99_500)).is_err(), "so much stays free");
    }
}
