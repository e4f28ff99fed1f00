//! From a folder to a torrent: a copy that is hashed while it is made, so that what is seeded is what was hashed,
//! whatever happens to the folder afterwards.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use crate::wire::metainfo::{self, Metainfo, MetainfoError};

/// Folders nested deeper than this are refused: a loop of mounts would never end.
const MAX_DEPTH: usize = 64;

/// Why a folder cannot be published.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} has nothing to publish (files whose name starts with a dot do not count)", .0.display())]
    Empty(PathBuf),
    #[error("the name of {} is not UTF-8", .0.display())]
    Name(PathBuf),
    #[error("{} is nested too deeply", .0.display())]
    TooDeep(PathBuf),
    #[error("{} changed while it was read; publish again", .0.display())]
    Changed(PathBuf),
    #[error("the folder cannot be made a torrent: {0}")]
    Metainfo(#[from] MetainfoError),
}

/// A file of the folder: the components of its path, and its length in bytes.
type Entry = (Vec<String>, u64);

/// Copies `folder` to `copy` and describes the copy. Hidden files, links and other special files are left out.
///
/// # Errors
/// See [`FolderError`]. The copy may be left incomplete then.
pub(super) fn snapshot(folder: &Path, name: &str, copy: &Path) -> Result<Metainfo, FolderError> {
    let files = list(folder)?;
    let total = files.iter().map(|(_, length)| length).sum();
    let piece_length = metainfo::piece_length_for(total);
    let mut pieces = Pieces::new(piece_length);
    for (path, length) in &files {
        let relative: PathBuf = path.iter().collect();
        copy_file(&folder.join(&relative), &copy.join(&relative), *length, &mut pieces)?;
    }
    Ok(Metainfo::build(name, &files, piece_length, &pieces.finish())?)
}

fn list(folder: &Path) -> Result<Vec<Entry>, FolderError> {
    if !folder.is_dir() {
        return Err(FolderError::NotAFolder(folder.to_owned()));
    }
    let mut found = Vec::new();
    let mut pending = vec![(folder.to_owned(), Vec::new())];
    while let Some((dir, path)) = pending.pop() {
        if path.len() > MAX_DEPTH {
            return Err(FolderError::TooDeep(dir));
        }
        let read = |source| FolderError::Read { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(read)? {
            let entry = entry.map_err(read)?;
            let kind = entry.file_type().map_err(read)?;
            let name = entry.file_name().into_string().map_err(|_| FolderError::Name(entry.path()))?;
            if name.starts_with('.') {
                continue;
            }
            let path = [path.as_slice(), &[name]].concat();
            if kind.is_dir() {
                pending.push((entry.path(), path));
            } else if kind.is_file() {
                found.push((path, entry.metadata().map_err(read)?.len()));
            }
        }
    }
    if found.iter().all(|(_, length)| *length == 0) {
        return Err(FolderError::Empty(folder.to_owned()));
    }
    Ok(metainfo::sorted(found))
}

fn copy_file(from: &Path, to: &Path, length: u64, pieces: &mut Pieces) -> Result<(), FolderError> {
    let read = |source| FolderError::Read { path: from.to_owned(), source };
    let write = |source| FolderError::Write { path: to.to_owned(), source };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(write)?;
    }
    let mut source = File::open(from).map_err(read)?.take(length);
    let mut copy = File::create(to).map_err(write)?;
    let mut buffer = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        let n = source.read(&mut buffer).map_err(read)?;
        if n == 0 {
            break;
        }
        pieces.update(&buffer[..n]);
        copy.write_all(&buffer[..n]).map_err(write)?;
        copied += n as u64;
    }
    if copied == length { Ok(()) } else { Err(FolderError::Changed(from.to_owned())) }
}

/// Hashes the files, laid end to end, in pieces (BEP 3: "the files […] concatenated in the order they appear").
struct Pieces {
    piece_length: usize,
    filled: usize,
    hash: Sha1,
    done: Vec<[u8; 20]>,
}

impl Pieces {
    fn new(piece_length: u32) -> Self {
        Self { piece_length: piece_length as usize, filled: 0, hash: Sha1::new(), done: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(self.piece_length - self.filled));
            self.hash.update(now);
            self.filled += now.len();
            if self.filled == self.piece_length {
                self.close();
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        self.done.push(std::mem::take(&mut self.hash).finalize().into());
        self.filled = 0;
    }

    fn finish(mut self) -> Vec<[u8; 20]> {
        if self.filled > 0 {
            self.close();
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn the_same_content_makes_the_same_torrent_and_the_copy_holds_it() {
        let files: &[(&str, &[u8])] =
            &[("index.md", b"# Hi\n"), ("img/a.png", &[7; 40_000]), (".git/config", b"secret")];
        let (a, b, copy) = (folder(files), folder(files), tempfile::tempdir().unwrap());
        let first = snapshot(a.path(), "site", &copy.path().join("1")).unwrap();
        let second = snapshot(b.path(), "site", &copy.path().join("2")).unwrap();
        assert_eq!(first.info_hash(), second.info_hash());
        let names: Vec<_> = first.files().iter().map(|file| file.path.join("/")).collect();
        assert_eq!(names, ["img/a.png", "index.md"]);
        assert_eq!(fs::read(copy.path().join("1/index.md")).unwrap(), b"# Hi\n");
        assert!(!copy.path().join("1/.git").exists());
    }

    #[test]
    fn pieces_cross_files_and_the_last_may_be_short() {
        let mut pieces = Pieces::new(4);
        for part in [b"ab".as_slice(), b"", b"cdefg", b"hi"] {
            pieces.update(part);
        }
        let expected: Vec<[u8; 20]> = [b"abcd".as_slice(), b"efgh", b"i"].map(|p| Sha1::digest(p).into()).into();
        assert_eq!(pieces.finish(), expected);
    }

    #[test]
    fn what_cannot_be_published_is_said() {
        let (empty, copy) = (folder(&[(".hidden", b"x")]), tempfile::tempdir().unwrap());
        let error = |path: &Path| snapshot(path, "site", copy.path()).unwrap_err().to_string();
        assert!(error(empty.path()).contains("has nothing to publish"));
        assert!(error(&empty.path().join(".hidden")).ends_with("is not a folder"));
        assert!(error(Path::new("/nonexistent")).ends_with("is not a folder"));
    }
}
