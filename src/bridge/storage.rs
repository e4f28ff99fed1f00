//! The engine's files, kept by us: at the paths our own parser checked, never written when they are the user's, and with
//! a bound on how many are open.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use librqbit::storage::filesystem::FilesystemStorageFactory;
use librqbit::storage::{BoxStorageFactory, StorageFactory, StorageFactoryExt, TorrentStorage};
use librqbit::{ManagedTorrentShared, TorrentMetadata};
use librqbit_core::lengths::ValidPieceIndex;
use tokio::sync::{Notify, Semaphore};

use super::pieces::Have;
use crate::wire::metainfo::Metainfo;

/// Files open at once over all torrents. The usual limit of a process is 1,024 descriptors, and peers need them too.
const MAX_OPEN_FILES: usize = 256;

/// Reads for peers at once over all torrents. Each takes a thread while it lasts.
const MAX_READS: usize = 16;

/// Whether a torrent's files may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// They are somebody's originals: never written, created or resized.
    ReadOnly,
    /// They are made by downloading.
    ReadWrite,
}

/// The files of one torrent below one folder.
#[derive(Clone)]
pub(super) struct Folder(Arc<Inner>);

struct Inner {
    id: u64,
    root: PathBuf,
    /// In the order of the torrent; `None` for files that are not stored.
    files: Vec<Option<(PathBuf, u64)>>,
    /// Where each begins in the torrent, and where the last one ends.
    starts: Vec<u64>,
    access: Access,
    have: Have,
    open: OpenFiles,
    /// The disk refused something.
    trouble: Arc<Notify>,
}

impl Folder {
    pub(super) fn new(metainfo: &Metainfo, root: PathBuf, access: Access, have: Have, open: OpenFiles) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let stored = metainfo.files().iter().map(|file| {
            let path = file.path.iter().fold(root.clone(), |path, name| path.join(name));
            (!file.virtual_file).then_some((path, file.length))
        });
        let files = stored.collect();
        let ends = metainfo.files().iter().scan(0, |end, file| {
            *end += file.length;
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends).collect();
        Self(Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            root,
            files,
            starts,
            access,
            have,
            open,
            trouble: Arc::default(),
        }))
    }

    /// Told when the disk refuses something.
    pub(super) fn trouble(&self) -> Arc<Notify> {
        self.0.trouble.clone()
    }

    /// One of the reads that may go on at once.
    pub(super) fn reads(&self) -> Arc<Semaphore> {
        self.0.open.reads.clone()
    }

    /// Fills `buffer` with what is at `position` of the torrent. Padding is zeros (BEP 47) and not stored.
    ///
    /// # Errors
    /// The disk's; the end of the torrent.
    pub(super) fn read(&self, mut position: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            // The last that begins here or before: empty files begin where the next one does.
            let file = self.0.starts.partition_point(|start| *start <= position) - 1;
            let end = self.0.starts.get(file + 1).ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            let (part, rest) = buffer.split_at_mut(length);
            match self.0.files[file] {
                None => part.fill(0),
                Some(_) => {
                    let opened = self.file(file).map_err(io::Error::other)?;
                    opened.read_exact_at(part, position - self.0.starts[file])?;
                }
            }
            (position, buffer) = (position + length as u64, rest);
        }
        Ok(())
    }

    /// Makes folders and empty files, or, where nothing may be made, checks that all is there.
    fn prepare(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0.root)
            .or_else(|error| if self.0.access == Access::ReadOnly { Ok(()) } else { Err(error) })?;
        for (path, length) in self.0.files.iter().flatten() {
            match self.0.access {
                Access::ReadOnly => {
                    let found = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
                    if found.len() != *length {
                        bail!("{} has {} bytes instead of {length}", path.display(), found.len());
                    }
                }
                Access::ReadWrite => {
                    fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
                    OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(path)
                        .with_context(|| path.display().to_string())?;
                }
            }
        }
        Ok(())
    }

    fn file(&self, index: usize) -> anyhow::Result<Arc<File>> {
        let (path, _) = self.0.files.get(index).and_then(Option::as_ref).context("the file is not stored")?;
        self.0.open.get((self.0.id, index), path, self.0.access)
    }

    fn writable(&self, index: usize) -> anyhow::Result<Arc<File>> {
        if self.0.access == Access::ReadOnly {
            bail!("the files are not what the torrent says, and not ours to change");
        }
        self.file(index)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.open.forget(self.id);
    }
}

impl StorageFactory for Folder {
    type Storage = Self;

    fn create(&self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<Self> {
        Ok(self.clone())
    }

    /// The engine keeps bitfields only for what says it is this. Nothing else depends on it.
    fn is_type_id(&self, id: TypeId) -> bool {
        id == TypeId::of::<FilesystemStorageFactory>()
    }

    fn clone_box(&self) -> BoxStorageFactory {
        self.clone().boxed()
    }
}

impl TorrentStorage for Folder {
    fn init(&mut self, _: &ManagedTorrentShared, _: &TorrentMetadata) -> anyhow::Result<()> {
        self.prepare()
    }

    fn pread_exact(&self, file: usize, offset: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
        Ok(self.file(file)?.read_exact_at(buffer, offset)?)
    }

    fn pwrite_all(&self, file: usize, offset: u64, buffer: &[u8]) -> anyhow::Result<()> {
        let written = self.writable(file)?.write_all_at(buffer, offset);
        written.inspect_err(|_| self.0.trouble.notify_one()).context("cannot write")
    }

    /// The folder is removed as a whole by the cache; the engine is never asked to.
    fn remove_file(&self, _: usize, _: &Path) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove_directory_if_empty(&self, _: &Path) -> anyhow::Result<()> {
        Ok(())
    }

    fn ensure_file_length(&self, file: usize, length: u64) -> anyhow::Result<()> {
        match self.0.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => {
                let file = self.writable(file)?;
                // Setting the length that it has would change the time of its last change, by which `resume` knows it.
                if file.metadata()?.len() != length {
                    file.set_len(length)?;
                }
                Ok(())
            }
        }
    }

    fn take(&self) -> anyhow::Result<Box<dyn TorrentStorage>> {
        Ok(Box::new(self.clone()))
    }

    /// The engine calls this when the piece may be uploaded, which is what peers are told from.
    fn on_piece_completed(&self, piece: ValidPieceIndex) -> anyhow::Result<()> {
        self.0.have.send_if_modified(|have| have.insert(piece.get_usize()));
        Ok(())
    }
}

/// Descriptors, shared by all torrents; the least recently used is closed.
#[derive(Clone)]
pub(super) struct OpenFiles {
    /// A std mutex: the engine's threads hold it for one look-up, and for opening a file that is not open.
    table: Arc<Mutex<OpenTable>>,
    reads: Arc<Semaphore>,
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self { table: Arc::default(), reads: Arc::new(Semaphore::new(MAX_READS)) }
    }
}

#[derive(Default)]
struct OpenTable {
    uses: u64,
    files: HashMap<(u64, usize), (u64, Arc<File>)>,
}

impl OpenFiles {
    fn get(&self, key: (u64, usize), path: &Path, access: Access) -> anyhow::Result<Arc<File>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.uses += 1;
        let now = table.uses;
        if let Some((used, file)) = table.files.get_mut(&key) {
            *used = now;
            return Ok(file.clone());
        }
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path);
        let file = Arc::new(file.with_context(|| format!("cannot open {}", path.display()))?);
        if table.files.len() >= MAX_OPEN_FILES {
            let oldest = table.files.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.map(|key| table.files.remove(&key));
        }
        table.files.insert(key, (now, file.clone()));
        Ok(file)
    }

    fn forget(&self, id: u64) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.files.retain(|(owner, _), _| *owner != id);
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("root", &self.0.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::bridge::pieces::PieceSet;

    fn folder(root: &Path, access: Access, open: &OpenFiles, files: usize) -> Folder {
        let names: Vec<_> = (0..files).map(|n| (vec!["sub".to_owned(), n.to_string()], 4)).collect();
        let metainfo = Metainfo::build("x", &names, 1 << 20, &[[0; 20]]).unwrap();
        let have = Arc::new(watch::channel(PieceSet::none(1)).0);
        Folder::new(&metainfo, root.to_owned(), access, have, open.clone())
    }

    #[test]
    fn downloads_are_written_and_originals_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = OpenFiles::default();
        let originals = folder(dir.path(), Access::ReadOnly, &open, 1);
        assert!(originals.prepare().is_err(), "nothing is there");
        let download = folder(dir.path(), Access::ReadWrite, &open, 1);
        download.prepare().unwrap();
        download.pwrite_all(0, 0, b"data").unwrap();
        download.prepare().unwrap();
        originals.prepare().unwrap();
        let mut read = [0; 4];
        originals.pread_exact(0, 0, &mut read).unwrap();
        assert_eq!(&read, b"data");
        assert!(originals.pwrite_all(0, 0, b"evil").is_err());
        originals.ensure_file_length(0, 0).unwrap();
        assert_eq!(fs::read(dir.path().join("sub/0")).unwrap(), b"data");
        fs::write(dir.path().join("sub/0"), b"longer").unwrap();
        assert!(originals.prepare().is_err(), "the length differs");
    }

    #[test]
    fn what_is_read_may_lie_in_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let several = folder(dir.path(), Access::ReadWrite, &OpenFiles::default(), 3);
        several.prepare().unwrap();
        for (file, content) in [b"0123", b"4567", b"89ab"].into_iter().enumerate() {
            several.pwrite_all(file, 0, content).unwrap();
        }
        for (position, expected) in [(0, "0123456789ab"), (3, "3456789"), (4, "4567"), (11, "b"), (12, "")] {
            let mut read = vec![0; expected.len()];
            several.read(position, &mut read).unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), expected, "at {position}");
        }
        assert!(several.read(10, &mut [0; 3]).is_err(), "past the end");
    }

    #[test]
    fn open_files_are_bounded_and_closed_with_their_torrent() {
        let dir = tempfile::tempdir().unwrap();
        let open = OpenFiles::default();
        let many = folder(dir.path(), Access::ReadWrite, &open, MAX_OPEN_FILES + 10);
        many.prepare().unwrap();
        for file in 0..MAX_OPEN_FILES + 10 {
            many.pwrite_all(file, 0, b"data").unwrap();
        }
        assert_eq!(open.table.lock().unwrap().files.len(), MAX_OPEN_FILES);
        drop(many);
        assert_eq!(open.table.lock().unwrap().files.len(), 0);
    }
}
