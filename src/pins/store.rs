//! The ledger on disk: one SQLite file, owned by one task that commits in batches.
//!
//! What is promised: when [`Slot::write`]'s future resolves, its changes and all that were queued before them survive a
//! crash of the program and a loss of power (write-ahead log, `synchronous = FULL`). A change of layout is made on a file
//! of which a copy was put beside it first.

mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::events::{Event, MAX_EVENTS};
use super::ledger::Change;
use super::pin::Pin;
use super::token::Token;
use crate::tasks::Tasks;

/// Name of the file in the data directory.
pub const FILE: &str = "pins.sqlite";

/// Marks the file as ours ("SwPn").
const APPLICATION_ID: i64 = 0x5377_506e;

/// Each makes the next layout out of the one before; layout 0 is an empty file.
const LAYOUTS: &[&str] = &[
    "
    CREATE TABLE token (
        id BLOB PRIMARY KEY, hash BLOB NOT NULL, name TEXT NOT NULL, scope TEXT NOT NULL,
        max_bytes INTEGER, max_pins INTEGER, max_pin_bytes INTEGER, created INTEGER NOT NULL, expires INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE pin (
        id BLOB PRIMARY KEY, owner BLOB, info_hash BLOB, k BLOB, salt BLOB,
        name TEXT NOT NULL, follow INTEGER NOT NULL, keep_versions INTEGER NOT NULL, keep_days INTEGER NOT NULL,
        priority INTEGER NOT NULL, expires INTEGER, meta TEXT NOT NULL, origins TEXT NOT NULL,
        made_by TEXT, created INTEGER NOT NULL, updated INTEGER NOT NULL, revision INTEGER NOT NULL,
        newest_seq INTEGER, newest_v BLOB, newest_sig BLOB, current INTEGER, wanted INTEGER,
        reason TEXT, sentence TEXT, retry INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE version (
        pin BLOB NOT NULL, seq INTEGER NOT NULL, info_hash BLOB NOT NULL, v BLOB, sig BLOB,
        bytes INTEGER, files INTEGER, pieces INTEGER, state TEXT NOT NULL, held INTEGER NOT NULL,
        fetched INTEGER, replaced INTEGER, verified INTEGER,
        PRIMARY KEY (pin, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE event (
        number INTEGER PRIMARY KEY, at INTEGER NOT NULL, owner BLOB, pin BLOB NOT NULL, kind TEXT NOT NULL,
        status TEXT, reason TEXT, seq INTEGER, info_hash BLOB
    ) STRICT;",
    "ALTER TABLE token ADD COLUMN revoked INTEGER",
];

/// How long another process (a backup, somebody looking inside) may hold the file before a commit fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Batches that may wait for the disk. Past that, writers wait too.
const QUEUE: usize = 256;

/// How long after a failure what is left is tried again, when nothing new comes before.
const RETRY: Duration = Duration::from_secs(5);

/// Events are thinned out when this many more than [`MAX_EVENTS`] have come.
const EVENT_SLACK: u64 = 1_000;

/// Why the pins cannot be had from disk: one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be opened, read or written.
    #[error("the pin store {} cannot be used: {error}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: rusqlite::Error,
    },
    /// The file is a database of something else.
    #[error("{} is not a pin store of swarmgate; move it away to start with an empty one", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a later version of this program.
    #[error("the pin store {} was written by a later version of swarmgate (layout {found})", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: usize,
    },
}

/// Why changes did not reach the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own words: the disk is full, the file is locked.
    #[error("this could not be written to disk: {0}")]
    Failed(String),
    /// The node stops.
    #[error("the server is shutting down")]
    Stopping,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) tokens: Vec<Token>,
    pub(super) pins: Vec<Pin>,
    pub(super) events: Vec<Event>,
    /// Rows that make no sense. They are left where they are.
    pub(super) damaged: usize,
}

/// Opens the file in `directory` and reads what it holds.
pub(super) fn open(directory: &Path) -> Result<(Connection, Contents), StartError> {
    let path = directory.join(FILE);
    let mut connection = prepare(&path, LAYOUTS)?;
    let contents = rows::read(&mut connection).map_err(|error| StartError::Database { path, error })?;
    Ok((connection, contents))
}

fn prepare(path: &Path, layouts: &[&str]) -> Result<Connection, StartError> {
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => StartError::Foreign { path: path.to_owned() },
        _ => StartError::Database { path: path.to_owned(), error },
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(failed);
    let (application, found) =
        (number("application_id")?, usize::try_from(number("user_version")?).unwrap_or(usize::MAX));
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    match (application, tables) {
        (APPLICATION_ID, _) | (0, 0) => {}
        _ => return Err(StartError::Foreign { path: path.to_owned() }),
    }
    if found > layouts.len() {
        return Err(StartError::TooNew { path: path.to_owned(), found });
    }
    if found < layouts.len() {
        if found > 0 {
            copy(&connection, &copy_of(path, found)).map_err(failed)?;
        }
        // All or nothing: a file that was left half made is still of its old layout.
        let transaction = connection.transaction().map_err(failed)?;
        for layout in &layouts[found..] {
            transaction.execute_batch(layout).map_err(failed)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.pragma_update(None, "user_version", layouts.len() as i64).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    Ok(connection)
}

/// The name of the copy that is made of a file of an older layout.
fn copy_of(path: &Path, layout: usize) -> PathBuf {
    path.with_extension(format!("layout-{layout}.sqlite"))
}

/// Copies a database that may be in use to a file, which must not be there yet or goes.
fn copy(connection: &Connection, to: &Path) -> rusqlite::Result<()> {
    let _ = std::fs::remove_file(to);
    connection.execute("VACUUM INTO ?", [to.to_string_lossy()]).map(drop)
}

/// Writes changes in the order in which slots are used.
#[derive(Debug, Clone)]
pub(super) struct Store {
    queue: mpsc::Sender<Batch>,
}

#[derive(Debug)]
struct Batch {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A place in the queue. Waiting for it comes first, so that using it can be part of one step with the ledger.
#[derive(Debug)]
pub(super) struct Slot {
    permit: mpsc::OwnedPermit<Batch>,
}

impl Store {
    /// Starts the task that owns `connection`. When the node stops it writes what is queued and closes the file.
    pub(super) fn start(connection: Connection, tasks: &Tasks) -> Self {
        let (queue, batches) = mpsc::channel(QUEUE);
        let writer = Writer { connection: Some(connection), unwritten: Vec::new() };
        tasks.spawn(own(writer, batches, tasks.clone()));
        Self { queue }
    }

    /// Waits for a place in the queue.
    pub(super) async fn reserve(&self) -> Result<Slot, StoreError> {
        self.queue.clone().reserve_owned().await.map(|permit| Slot { permit }).map_err(|_| StoreError::Stopping)
    }
}

impl Slot {
    /// Queues the changes, of which there may be none; the future resolves once they, and all before them, are on disk.
    pub(super) fn write(self, changes: Vec<Change>) -> impl Future<Output = Result<(), StoreError>> {
        let (done, written) = oneshot::channel();
        self.permit.send(Batch { changes, done });
        async move { written.await.unwrap_or(Err(StoreError::Stopping)) }
    }
}

async fn own(mut writer: Writer, mut batches: mpsc::Receiver<Batch>, tasks: Tasks) {
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = tasks.stopping(), if !batches.is_closed() => batches.close(),
            received = batches.recv_many(&mut waiting, QUEUE) => if received == 0 { break },
            () = tokio::time::sleep(RETRY), if !writer.unwritten.is_empty() => {}
        }
        writer.write(std::mem::take(&mut waiting)).await;
    }
    writer.write(Vec::new()).await;
}

struct Writer {
    /// Lent to the thread that commits.
    connection: Option<Connection>,
    /// What could not be written waits here, and goes before what comes later: the file never skips a change.
    unwritten: Vec<Change>,
}

impl Writer {
    /// Commits what could not be written before and these batches, all or nothing, and tells those who wait.
    async fn write(&mut self, batches: Vec<Batch>) {
        let mut changes = std::mem::take(&mut self.unwritten);
        let mut waiting = Vec::with_capacity(batches.len());
        for batch in batches {
            changes.extend(batch.changes);
            waiting.push(batch.done);
        }
        let result = if changes.is_empty() { Ok(()) } else { self.commit(changes).await };
        for done in waiting {
            let _ = done.send(result.clone());
        }
    }

    async fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut connection = self.connection.take().ok_or(StoreError::Stopping)?;
        let committed = tokio::task::spawn_blocking(move || {
            let result = commit(&mut connection, &changes).map_err(|error| StoreError::Failed(error.to_string()));
            (connection, changes, result)
        });
        // It panics only where the program is wrong; then nothing is promised any more.
        let (connection, changes, result) = committed.await.map_err(|_| StoreError::Stopping)?;
        self.connection = Some(connection);
        if let Err(error) = &result {
            tracing::error!("pins: {error}");
            self.unwritten = condensed(changes);
        }
        result
    }
}

/// Of several writes of one row the last is enough, so what waits for the disk is bounded by what there is.
fn condensed(changes: Vec<Change>) -> Vec<Change> {
    let mut seen = std::collections::HashSet::new();
    let mut events = 0;
    let mut kept: Vec<Change> = changes
        .into_iter()
        .rev()
        .filter(|change| match change {
            Change::Save(pin) => seen.insert((0, pin.id.0.to_vec())),
            Change::Delete(id) => seen.insert((0, id.0.to_vec())),
            Change::SaveToken(token) => seen.insert((1, token.id.0.to_vec())),
            Change::DeleteToken(id) => seen.insert((1, id.0.to_vec())),
            Change::Happened(_) => {
                events += 1;
                events <= MAX_EVENTS
            }
        })
        .collect();
    kept.reverse();
    kept
}

fn commit(connection: &mut Connection, changes: &[Change]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        match change {
            Change::Save(pin) => rows::save_pin(&transaction, pin)?,
            Change::Delete(id) => rows::delete_pin(&transaction, id)?,
            Change::SaveToken(token) => rows::save_token(&transaction, token)?,
            Change::DeleteToken(id) => {
                transaction.execute("DELETE FROM token WHERE id = ?", [id.0])?;
            }
            Change::Happened(event) => {
                rows::save_event(&transaction, event)?;
                if event.number.is_multiple_of(EVENT_SLACK) {
                    let oldest = event.number.saturating_sub(MAX_EVENTS as u64) as i64;
                    transaction.execute("DELETE FROM event WHERE number <= ?", [oldest])?;
                }
            }
        }
    }
    transaction.commit()
}
