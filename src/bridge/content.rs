//! A torrent's files, read by byte range as they are on disk. Only verified pieces are given; a reader that is ahead of
//! the download waits, and what it waits for is fetched first.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha1::{Digest, Sha1};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::engine::Preference;
use super::handles::Verified;
use super::pieces::PieceSet;
use super::stage::Live;
use crate::wire::metainfo::Metainfo;

/// Longest part given at once.
const CHUNK: u64 = 256 << 10;

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such file, or one that is not stored (padding, a link).
    #[error("the torrent has no such file")]
    NoSuchFile,
    /// The range is not inside the file.
    #[error("the file has only {0} bytes")]
    OutOfRange(u64),
    /// The pieces are not here and did not come in time.
    #[error("this part of the file is not here yet")]
    NotHere,
    /// The torrent was left, or the disk failed.
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
}

/// The files of a joined torrent. What it holds is not evicted from the cache while this lives.
#[derive(Debug, Clone)]
pub struct Content {
    live: Live,
}

impl Content {
    pub(super) fn new(live: Live) -> Self {
        Self { live }
    }

    /// What the torrent is; files are named by their index in [`Metainfo::files`].
    #[must_use]
    pub fn metainfo(&self) -> &Arc<Metainfo> {
        &self.live.metainfo
    }

    /// Whether all of a file's bytes are here.
    #[must_use]
    pub fn has(&self, file: usize) -> bool {
        let Some(found) = self.live.metainfo.files().get(file) else { return false };
        let have = self.live.have.borrow();
        self.pieces(file, 0..found.length).all(|piece| have.contains(piece))
    }

    /// Whether all of the torrent is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.live.have.borrow().is_complete()
    }

    /// Reads a range of bytes of a file. `patience` is how long a part may take to come from the swarm; zero for giving
    /// only what is here.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, file: usize, range: Range<u64>, patience: Duration) -> Result<Reading, ReadError> {
        let found = self.live.metainfo.files().get(file).filter(|found| !found.virtual_file);
        let found = found.ok_or(ReadError::NoSuchFile)?;
        if range.start > range.end || range.end > found.length {
            return Err(ReadError::OutOfRange(found.length));
        }
        let path = found.path.iter().fold(self.live.root.clone(), |path, name| path.join(name));
        let opened = spawn_blocking(move || File::open(path)).await.map_err(io::Error::other)??;
        let missing = self.pieces(file, range.clone()).any(|piece| !self.live.have.borrow().contains(piece));
        let preference = match &self.live.running {
            Some(engine) if missing && !patience.is_zero() => engine.prefer(file).await,
            Some(_) | None => None,
        };
        let have = self.live.have.clone();
        Ok(Reading { content: self.clone(), file, opened: Arc::new(opened), range, patience, have, preference })
    }

    /// Reads every piece that is here and compares it with the torrent.
    pub(super) async fn verify(&self) -> Verified {
        let (live, have) = (self.live.clone(), self.live.have.borrow().clone());
        let checked = spawn_blocking(move || {
            let (good, damaged) = (0..live.metainfo.pieces())
                .filter(|piece| have.contains(*piece))
                .partition::<Vec<_>, _>(|piece| read_whole(&live, *piece).is_some());
            Verified { good: good.len(), damaged }
        });
        // The task only fails by panicking, and then nothing is known to be whole.
        checked.await.unwrap_or_default()
    }

    /// The pieces that a range of a file lies in.
    fn pieces(&self, file: usize, range: Range<u64>) -> Range<usize> {
        let metainfo = &self.live.metainfo;
        let before = metainfo.files()[file].offset;
        let piece =
            |offset: u64| usize::try_from((before + offset) / u64::from(metainfo.piece_length())).unwrap_or(usize::MAX);
        if range.is_empty() { 0..0 } else { piece(range.start)..piece(range.end - 1) + 1 }
    }
}

/// A range of a file on its way.
#[derive(Debug)]
pub struct Reading {
    content: Content,
    file: usize,
    opened: Arc<File>,
    /// What is still to be given.
    range: Range<u64>,
    patience: Duration,
    have: watch::Receiver<PieceSet>,
    preference: Option<Preference>,
}

impl Reading {
    /// The next part, in order; `None` at the end of the range.
    ///
    /// # Errors
    /// See [`ReadError`]. After one there is no more to read.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        if self.range.is_empty() {
            return None;
        }
        let part = self.part().await;
        match &part {
            Ok(bytes) => self.range.start += bytes.len() as u64,
            Err(_) => self.range.start = self.range.end,
        }
        Some(part)
    }

    async fn part(&mut self) -> Result<Bytes, ReadError> {
        let start = self.range.start;
        let first = self.content.pieces(self.file, start..start + 1);
        if let Some(preference) = &mut self.preference {
            preference.at(start);
        }
        let here = self.have.wait_for(|have| have.contains(first.start));
        match timeout(self.patience, here).await {
            // Checked before the deadline is: with no patience at all, what is here is given.
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(io::Error::other("the torrent was left").into()),
            Err(_) => return Err(ReadError::NotHere),
        }
        let end = self.range.end.min(start + CHUNK);
        let end = {
            let have = self.have.borrow();
            let mut end = end;
            // Up to the first piece that is missing.
            while end > start + 1 && !self.content.pieces(self.file, start..end).all(|piece| have.contains(piece)) {
                end = self.piece_start(self.content.pieces(self.file, start..end).end - 1).clamp(start + 1, end - 1);
            }
            end
        };
        let file = self.opened.clone();
        let read = spawn_blocking(move || {
            let mut buffer = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut buffer, start).map(|()| buffer)
        });
        Ok(read.await.map_err(io::Error::other)??.into())
    }

    /// Where a piece begins in the file.
    fn piece_start(&self, piece: usize) -> u64 {
        let metainfo = &self.content.live.metainfo;
        let before = metainfo.files()[self.file].offset;
        (piece as u64 * u64::from(metainfo.piece_length())).saturating_sub(before)
    }
}

/// A piece that is on disk as the torrent says.
pub(super) fn read_whole(live: &Live, piece: usize) -> Option<Vec<u8>> {
    let bytes = read_piece(live, piece).ok()?;
    (live.metainfo.piece_hash(piece) == Some(Sha1::digest(&bytes).into())).then_some(bytes)
}

/// A piece as it is on disk. Padding is zeros (BEP 47) and not stored.
fn read_piece(live: &Live, piece: usize) -> io::Result<Vec<u8>> {
    let (metainfo, start) = (&live.metainfo, piece as u64 * u64::from(live.metainfo.piece_length()));
    let end = (start + u64::from(metainfo.piece_length())).min(metainfo.total_length());
    let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
    let first = metainfo.files().partition_point(|file| file.offset + file.length <= start);
    for file in metainfo.files()[first..].iter().take_while(|file| file.offset < end) {
        let (from, to) = (start.max(file.offset), end.min(file.offset + file.length));
        if from < to && !file.virtual_file {
            let path = file.path.iter().fold(live.root.clone(), |path, name| path.join(name));
            let at = |position: u64| usize::try_from(position - start).unwrap_or(usize::MAX);
            File::open(path)?.read_exact_at(&mut bytes[at(from)..at(to)], from - file.offset)?;
        }
    }
    Ok(bytes)
}
