//! What is known of a torrent's pieces, kept beside its files, so that a restart need not read everything again.
//!
//! The record is believed as far as nothing else can have happened to the files since it was written:
//!
//! - *settled* (nothing was being written, and all of it was on the disk): while every file has the length and the
//!   modification time that it had then;
//! - *unsettled* (written while pieces came; what came in the last moments is missing from it): while the machine has not
//!   been started anew, since what a killed process wrote is in the system's cache, and no file is shorter than it was.
//!
//! Whatever is believed, the engine still reads a piece of each file, and everything if that one is damaged.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::pieces::PieceSet;
use crate::wire::hex;
use crate::wire::metainfo::Metainfo;

/// How long pieces are gathered before they are noted: what a killed process may have to fetch again.
const NOTE_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The bitfield in hexadecimal.
    pieces: String,
    settled: bool,
    /// The start of the machine in which it was written; empty where the system does not tell.
    boot: String,
    /// Length and modification time (nanoseconds since 1970) of each file that is stored; nothing for one that is not there.
    files: Vec<Option<(u64, u64)>>,
}

/// A torrent's record and the files that it is about.
#[derive(Debug, Clone)]
pub(super) struct Resume {
    record: PathBuf,
    files: Vec<PathBuf>,
    pieces: usize,
    order: Order,
}

/// Keeps a record that was begun earlier from being written over one that was begun later, whoever is slower. Shared by all
/// who write the same record. A std mutex: held by whoever writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    begun: Arc<AtomicU64>,
    written: Arc<Mutex<u64>>,
}

impl Resume {
    /// The record lies in `folder`, the content below `root`.
    pub(super) fn new(folder: &Path, root: &Path, metainfo: &Metainfo, order: Order) -> Self {
        let stored = metainfo.files().iter().filter(|file| !file.virtual_file);
        let files = stored.map(|file| file.path.iter().fold(root.to_owned(), |path, name| path.join(name))).collect();
        Self { record: folder.join("resume"), files, pieces: metainfo.pieces(), order }
    }

    /// The pieces that need not be checked; `None` when the record is not to be believed.
    pub(super) async fn load(&self) -> Option<PieceSet> {
        let resume = self.clone();
        spawn_blocking(move || resume.load_now(&boot())).await.ok().flatten()
    }

    fn load_now(&self, boot: &str) -> Option<PieceSet> {
        let record: Record = serde_json::from_slice(&fs::read(&self.record).ok()?).ok()?;
        let now = self.files();
        let believed = match record.settled {
            true => now == record.files,
            false => record.boot == boot && !boot.is_empty() && none_is_shorter(&record.files, &now),
        };
        let bits = hex::decode(&record.pieces)?;
        PieceSet::from_bitfield(&bits, self.pieces).filter(|_| believed)
    }

    /// Writes the record. Where it is settled, the files are made sure to be on the disk first.
    pub(super) async fn save(&self, have: PieceSet, settled: bool) -> io::Result<()> {
        let resume = self.clone();
        let turn = self.order.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let saved = spawn_blocking(move || {
            let mut written = resume.order.written.lock().unwrap_or_else(PoisonError::into_inner);
            if *written > turn {
                return Ok(());
            }
            *written = turn;
            resume.save_now(&have, settled, boot())
        });
        saved.await.map_err(io::Error::other)?
    }

    fn save_now(&self, have: &PieceSet, settled: bool, boot: String) -> io::Result<()> {
        if settled {
            for file in &self.files {
                match File::open(file) {
                    Ok(file) => file.sync_all()?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let record = Record { pieces: hex::encode(have.as_bitfield()), settled, boot, files: self.files() };
        let unfinished = self.record.with_extension("new");
        fs::write(&unfinished, serde_json::to_vec(&record)?)?;
        fs::rename(&unfinished, &self.record)
    }

    fn files(&self) -> Vec<Option<(u64, u64)>> {
        let seen = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            let changed = found.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some((found.len(), u64::try_from(changed.as_nanos()).ok()?))
        };
        self.files.iter().map(seen).collect()
    }

    /// Writes the record whenever pieces have come, for as long as it is polled. Ends when the engine let the torrent go.
    pub(super) async fn keep(&self, mut have: watch::Receiver<PieceSet>) {
        loop {
            let now = have.borrow_and_update().clone();
            let settled = now.is_complete();
            if let Err(error) = self.save(now, settled).await {
                tracing::warn!(record = %self.record.display(), %error, "cannot note which pieces are here");
            }
            if have.changed().await.is_err() {
                return;
            }
            sleep(NOTE_EVERY).await;
        }
    }
}

fn none_is_shorter(before: &[Option<(u64, u64)>], now: &[Option<(u64, u64)>]) -> bool {
    let length = |file: &Option<(u64, u64)>| file.map_or(0, |(length, _)| length);
    before.len() == now.len() && before.iter().zip(now).all(|(before, now)| length(before) <= length(now))
}

/// Differs from one start of the machine to the next; empty where the system does not tell.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_believed_while_nothing_can_have_happened() {
        // settled, what happens then, the boot, believed
        type Happens = fn(&Path);
        let nothing: Happens = |_| {};
        let touched: Happens =
            |file| File::options().append(true).open(file).unwrap().set_modified(SystemTime::now()).unwrap();
        let shorter: Happens = |file| File::options().write(true).open(file).unwrap().set_len(3).unwrap();
        let longer: Happens = |file| fs::write(file, "longer").unwrap();
        let gone: Happens = |file| fs::remove_file(file).unwrap();
        let broken: Happens = |file| fs::write(file.with_file_name("resume"), "{").unwrap();
        let table = [
            (true, nothing, "a", true),
            (true, nothing, "b", true),
            (true, touched, "a", false),
            (true, longer, "a", false),
            (true, gone, "a", false),
            (false, nothing, "a", true),
            (false, touched, "a", true),
            (false, longer, "a", true),
            (false, shorter, "a", false),
            (false, gone, "a", false),
            (false, nothing, "b", false),
            (true, broken, "a", false),
        ];
        let metainfo = Metainfo::build("x", &[(vec!["file".into()], 40_000)], 1 << 14, &[[0; 20]; 3]).unwrap();
        let have = PieceSet::from_bitfield(&[0xa0], 3).unwrap();
        for (row, (settled, happens, boot, believed)) in table.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("file");
            fs::write(&file, "data").unwrap();
            File::options().append(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let resume = Resume::new(dir.path(), dir.path(), &metainfo, Order::default());
            assert_eq!(resume.load_now(boot), None, "there is none");
            resume.save_now(&have, settled, "a".to_owned()).unwrap();
            happens(&file);
            assert_eq!(resume.load_now(boot), believed.then(|| have.clone()), "row {row}");
        }
    }
}
