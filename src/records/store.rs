//! The book on disk: one SQLite file, and how it is opened and read. `writer` has the task that writes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row};

use super::book::Entry;
use crate::wire::id::{PublicKey, Signature, Target};
use crate::wire::item::{Salt, SignedItem};

/// Name of the file in the data directory.
pub const FILE: &str = "records.sqlite";

/// Marks the file as ours ("SwRc").
const APPLICATION_ID: i64 = 0x5377_5263;

/// Layout of the tables; a file of a later layout is left alone.
const SCHEMA_VERSION: i64 = 3;

const SCHEMA: &str = "
    CREATE TABLE record (
        target BLOB PRIMARY KEY,
        k BLOB NOT NULL, salt BLOB NOT NULL, seq INTEGER NOT NULL, v BLOB NOT NULL, sig BLOB NOT NULL,
        conflict INTEGER NOT NULL, put_here INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

/// What layout 2 adds: the numbers of records that are no longer kept, in the order in which they went (`rowid`).
const FLOORS: &str = "CREATE TABLE floor (target BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT;";

/// What layout 3 adds: what is being decided ([`Change::Intend`](super::book::Change)). Nobody was told that it is stored,
/// so what a killed process left there is of no use.
const INTENTS: &str = "CREATE TABLE intent (target BLOB PRIMARY KEY, v BLOB NOT NULL) STRICT, WITHOUT ROWID;";

/// Bytes of a page: SQLite's default since 2016, and what our files were made with.
const PAGE: u64 = 4096;

/// How long another process (a backup, somebody looking inside) may hold the file before a commit fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows verified together at start: enough to keep all processors busy for a while.
const READ_BATCH: usize = 2048;

/// Why the service cannot start: one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("the data directory {} cannot be created: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The file cannot be opened, read or written.
    #[error("the record store {} cannot be used: {error}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: rusqlite::Error,
    },
    /// The file was cut short or written over.
    #[error("the record store {} is damaged ({fault}): put a backup in its place, or move it away to start with an empty one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found first.
        fault: String,
    },
    /// The file is a database of something else.
    #[error("{} is not a record store of swarmgate; move it away to start with an empty one", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a later version of this program.
    #[error("the record store {} was written by a later version of swarmgate (layout {found})", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
    },
}

/// Opens the file, making it and its directory if need be, and hands every record in it to `load`. Blocks.
///
/// Signatures are checked again, on all processors: nothing but [`SignedItem::verify`] makes a record, also one from a
/// damaged disk. It costs some 50 µs each, so five seconds of processor time for a full store of a hundred thousand.
/// Returns how many rows were not records.
pub(super) fn open(directory: &Path, load: impl FnMut(Entry)) -> Result<(Connection, usize), StartError> {
    std::fs::create_dir_all(directory).map_err(|error| StartError::Directory { path: directory.to_owned(), error })?;
    let path = directory.join(FILE);
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => StartError::Foreign { path: path.clone() },
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => damage(&path, error.to_string()),
        _ => StartError::Database { path: path.clone(), error },
    };
    look_at_length(&path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, schema) = (number("application_id").map_err(failed)?, number("user_version").map_err(failed)?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    match (application, schema, tables) {
        (0, 0, 0) => create(&mut connection).map_err(failed)?,
        (APPLICATION_ID, SCHEMA_VERSION, _) => {}
        (APPLICATION_ID, 1, _) => extend(&mut connection, &[FLOORS, INTENTS]).map_err(failed)?,
        (APPLICATION_ID, 2, _) => extend(&mut connection, &[INTENTS]).map_err(failed)?,
        (APPLICATION_ID, found, _) => return Err(StartError::TooNew { path, found }),
        _ => return Err(StartError::Foreign { path }),
    }
    // Reading the records would not notice that a page of something else is gone. "ok" is SQLite's word for no fault.
    let fault: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if fault != "ok" {
        return Err(damage(&path, fault));
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // A full disk may refuse even that. Then they stay until another start.
    if let Err(error) = connection.execute("DELETE FROM intent", []) {
        tracing::warn!("what was left undecided stays in the record store: {error}");
    }
    let damaged = read(&connection, load).map_err(failed)?;
    Ok((connection, damaged))
}

/// SQLite takes the missing end of a last page for zeros, and an empty file for a new one.
fn look_at_length(path: &Path) -> Result<(), StartError> {
    // After a crash the log tells what is true of the file.
    let logged = path.with_file_name(format!("{FILE}-wal")).metadata().is_ok_and(|log| log.len() > 0);
    match path.metadata().map(|file| file.len()) {
        Ok(0) if !logged => {
            tracing::warn!("the record store {} is an empty file; a new one is made", path.display());
            Ok(())
        }
        Ok(length) if !logged && length % PAGE != 0 => {
            Err(damage(path, format!("{length} bytes are no whole number of pages")))
        }
        _ => Ok(()),
    }
}

fn damage(path: &Path, fault: String) -> StartError {
    StartError::Damaged { path: path.to_owned(), fault }
}

/// All or nothing: a file that was left half made is empty, and made again.
fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for tables in [SCHEMA, FLOORS, INTENTS] {
        transaction.execute_batch(tables)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// A file of an earlier layout gets what it lacks.
fn extend(connection: &mut Connection, lacks: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for tables in lacks {
        transaction.execute_batch(tables)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// The numbers below which records that are no longer kept do not go, oldest first.
pub(super) fn read_floors(connection: &Connection, directory: &Path) -> Result<Vec<(Target, i64)>, StartError> {
    let read = || -> rusqlite::Result<Vec<(Target, i64)>> {
        let mut statement = connection.prepare("SELECT target, seq FROM floor ORDER BY rowid")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(rows.into_iter().filter_map(|(target, seq)| Some((Target::from_slice(&target).ok()?, seq))).collect())
    };
    read().map_err(|error| StartError::Database { path: directory.join(FILE), error })
}

fn read(connection: &Connection, mut load: impl FnMut(Entry)) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare("SELECT k, salt, seq, v, sig, conflict, put_here FROM record")?;
    let mut rows = statement.query_map([], read_row)?;
    let mut damaged = 0;
    loop {
        let batch = rows.by_ref().take(READ_BATCH).collect::<rusqlite::Result<Vec<_>>>()?;
        if batch.is_empty() {
            return Ok(damaged);
        }
        let read = batch.len();
        let entries = verify_all(batch);
        damaged += read - entries.len();
        entries.into_iter().for_each(&mut load);
    }
}

/// An item with its two flags, as read; `None` when the fields are not even of the right length.
type Unverified = Option<(SignedItem, bool, bool)>;

fn read_row(row: &Row<'_>) -> rusqlite::Result<Unverified> {
    let (k, salt, sig): (Vec<u8>, Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(4)?);
    let (Ok(key), Ok(salt), Ok(sig)) = (PublicKey::from_slice(&k), Salt::new(salt), Signature::from_slice(&sig)) else {
        return Ok(None);
    };
    let item = SignedItem { key, salt, seq: row.get(2)?, v: row.get(3)?, sig };
    Ok(Some((item, row.get(5)?, row.get(6)?)))
}

fn verify_all(rows: Vec<Unverified>) -> Vec<Entry> {
    let verify = |row: Unverified| {
        let (item, conflict, put_here) = row?;
        item.verify().ok().map(|item| Entry { item, conflict, put_here })
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.len().div_ceil(threads);
    let mut rows = rows.into_iter();
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        while rows.len() > 0 {
            let rows: Vec<Unverified> = rows.by_ref().take(share).collect();
            workers.push(scope.spawn(move || rows.into_iter().filter_map(verify).collect::<Vec<Entry>>()));
        }
        workers.into_iter().flat_map(|worker| worker.join().expect("verifying does not panic")).collect()
    })
}

#[cfg(test)]
pub(super) mod tests;
