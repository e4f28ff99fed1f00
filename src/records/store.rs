//! The book on disk: one SQLite file, owned by one task that commits in batches.
//!
//! What is promised: when [`Slot::write_durably`] resolves, its changes and all that were queued before them survive a
//! crash of the program and a loss of power (write-ahead log, `synchronous = FULL`: each commit is synced). Changes
//! queued by [`Slot::write`] are committed with the next batch; a crash loses at most the [`QUEUE`] that wait. Those are
//! versions seen in the DHT, which still has them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row, params};
use tokio::sync::{mpsc, oneshot};

use super::book::{Change, Entry};
use crate::tasks::Tasks;
use crate::wire::id::{PublicKey, Signature, Target};
use crate::wire::item::{Salt, SignedItem};

/// Name of the file in the data directory.
pub(super) const FILE: &str = "records.sqlite";

/// Marks the file as ours ("SwRc").
const APPLICATION_ID: i64 = 0x5377_5263;

/// Layout of the tables; a file of a later layout is left alone.
const SCHEMA_VERSION: i64 = 2;

const SCHEMA: &str = "
    CREATE TABLE record (
        target BLOB PRIMARY KEY,
        k BLOB NOT NULL, salt BLOB NOT NULL, seq INTEGER NOT NULL, v BLOB NOT NULL, sig BLOB NOT NULL,
        conflict INTEGER NOT NULL, put_here INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

/// What layout 2 adds: the numbers of records that are no longer kept, in the order in which they went (`rowid`).
const FLOORS: &str = "CREATE TABLE floor (target BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT;";

/// How long another process (a backup, somebody looking inside) may hold the file before a commit fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows verified together at start: enough to keep all processors busy for a while.
const READ_BATCH: usize = 2048;

/// Batches that may wait for the disk. Past that, writers wait too.
const QUEUE: usize = 256;

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

/// Why changes did not reach the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own words: the disk is full, the file is locked.
    #[error("the record could not be written to disk: {0}")]
    Failed(String),
    /// The node stops.
    #[error("the server is shutting down")]
    Stopping,
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
        _ => StartError::Database { path: path.clone(), error },
    };
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
        (APPLICATION_ID, 1, _) => add_floors(&mut connection).map_err(failed)?,
        (APPLICATION_ID, found, _) => return Err(StartError::TooNew { path, found }),
        _ => return Err(StartError::Foreign { path }),
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    let damaged = read(&connection, load).map_err(failed)?;
    Ok((connection, damaged))
}

/// All or nothing: a file that was left half made is empty, and made again.
fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(FLOORS)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn add_floors(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(FLOORS)?;
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

/// Writes changes in the order in which slots are used.
#[derive(Debug, Clone)]
pub(super) struct Store {
    queue: mpsc::Sender<Batch>,
}

#[derive(Debug)]
struct Batch {
    changes: Vec<Change>,
    done: Option<oneshot::Sender<Result<(), StoreError>>>,
}

/// A place in the queue. Waiting for it comes first, so that using it can be part of one step with the book.
#[derive(Debug)]
pub(super) struct Slot {
    permit: mpsc::OwnedPermit<Batch>,
}

impl Store {
    /// Starts the task that owns `connection`. When the node stops it writes what is queued and closes the file.
    pub(super) fn start(connection: Connection, tasks: &Tasks) -> Self {
        let (queue, batches) = mpsc::channel(QUEUE);
        tasks.spawn(own(connection, batches, tasks.clone()));
        Self { queue }
    }

    /// Waits for a place in the queue.
    pub(super) async fn reserve(&self) -> Result<Slot, StoreError> {
        match self.queue.clone().reserve_owned().await {
            Ok(permit) => Ok(Slot { permit }),
            Err(_) => Err(StoreError::Stopping),
        }
    }
}

impl Slot {
    /// Queues the changes, if there are any.
    pub(super) fn write(self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.permit.send(Batch { changes, done: None });
        }
    }

    /// Queues the changes; the future resolves once they are on disk.
    pub(super) fn write_durably(self, changes: Vec<Change>) -> impl Future<Output = Result<(), StoreError>> {
        let (done, written) = oneshot::channel();
        self.permit.send(Batch { changes, done: Some(done) });
        async move { written.await.unwrap_or(Err(StoreError::Stopping)) }
    }
}

async fn own(mut connection: Connection, mut batches: mpsc::Receiver<Batch>, tasks: Tasks) {
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = tasks.stopping(), if !batches.is_closed() => batches.close(),
            received = batches.recv_many(&mut waiting, QUEUE) => if received == 0 { break },
        }
        if waiting.is_empty() {
            continue;
        }
        let taken = std::mem::take(&mut waiting);
        let committed = tokio::task::spawn_blocking(move || {
            let result = commit(&mut connection, &taken).map_err(|error| StoreError::Failed(error.to_string()));
            (connection, taken, result)
        });
        let Ok((returned, taken, result)) = committed.await else { return };
        connection = returned;
        if let Err(error) = &result {
            tracing::error!("{error}");
        }
        for done in taken.into_iter().filter_map(|batch| batch.done) {
            let _ = done.send(result.clone());
        }
    }
}

fn commit(connection: &mut Connection, batches: &[Batch]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut save = transaction.prepare_cached(
            "INSERT OR REPLACE INTO record (target, k, salt, seq, v, sig, conflict, put_here)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let mut delete = transaction.prepare_cached("DELETE FROM record WHERE target = ?")?;
        let mut floor = transaction.prepare_cached(
            "INSERT INTO floor (target, seq) VALUES (?, ?) ON CONFLICT (target) DO UPDATE SET seq = max(seq, excluded.seq)",
        )?;
        let mut forget = transaction.prepare_cached("DELETE FROM floor WHERE target = ?")?;
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            match change {
                Change::Save(Entry { item, conflict, put_here }) => {
                    let (salt, sig) = (item.salt().as_bytes(), item.sig().as_bytes());
                    let target = item.target();
                    save.execute(params![
                        target.as_bytes(),
                        item.key().as_bytes(),
                        salt,
                        item.seq(),
                        item.v(),
                        sig,
                        conflict,
                        put_here
                    ])?;
                }
                Change::Delete(target) => {
                    delete.execute([target.as_bytes()])?;
                }
                Change::Floor(target, seq) => {
                    floor.execute(params![target.as_bytes(), seq])?;
                }
                Change::ForgetFloor(target) => {
                    forget.execute([target.as_bytes()])?;
                }
            }
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::wire::item::VerifiedItem;

    fn entry(author: u8, salt: &[u8], seq: i64) -> Entry {
        let key = SigningKey::from_bytes(&[author; 32]);
        let item = VerifiedItem::sign(&key, Salt::new(salt).unwrap(), seq, b"le".to_vec()).unwrap();
        Entry { item, conflict: seq % 2 == 0, put_here: author == 1 }
    }

    fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.sort_by_key(|entry| entry.item.target());
        entries
    }

    /// What is in the file, and how many rows are not records.
    fn contents(directory: &Path) -> (Vec<Entry>, usize) {
        let mut entries = Vec::new();
        let (_, damaged) = open(directory, |entry| entries.push(entry)).unwrap();
        (sorted(entries), damaged)
    }

    fn connect(directory: &Path) -> Connection {
        open(directory, |_| {}).unwrap().0
    }

    /// The task and its runtime are dropped without a word, as a killed process would: what was acknowledged is there.
    #[test]
    fn what_was_acknowledged_survives_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let kept = vec![entry(1, b"", 5), entry(1, b"n", 2), entry(2, b"", 7)];
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            assert_eq!(contents(directory.path()), (vec![], 0));
            let store = Store::start(connect(directory.path()), &Tasks::new());
            store.reserve().await.unwrap().write(vec![Change::Save(entry(1, b"", 4))]);
            store.reserve().await.unwrap().write(vec![Change::Save(entry(3, b"", 1))]);
            store.reserve().await.unwrap().write(vec![Change::Delete(entry(3, b"", 1).item.target())]);
            let changes = kept.iter().cloned().map(Change::Save).collect();
            store.reserve().await.unwrap().write_durably(changes).await.unwrap();
        });
        runtime.shutdown_background();
        assert_eq!(contents(directory.path()), (sorted(kept), 0));
    }

    #[test]
    fn floors_are_kept_also_in_a_store_of_the_first_layout() {
        let directory = tempfile::tempdir().unwrap();
        let connection = connect(directory.path());
        connection.execute_batch("DROP TABLE floor; PRAGMA user_version = 1;").unwrap();
        drop(connection);
        let mut connection = connect(directory.path());
        let target = |n| Target([n; 20]);
        let changes = vec![
            Change::Floor(target(2), 5),
            Change::Floor(target(1), 7),
            Change::Floor(target(2), 4),
            Change::Floor(target(3), 1),
            Change::ForgetFloor(target(3)),
        ];
        commit(&mut connection, &[Batch { changes, done: None }]).unwrap();
        let floors = read_floors(&connect(directory.path()), directory.path()).unwrap();
        assert_eq!(floors, [(target(2), 5), (target(1), 7)]);
    }

    #[tokio::test]
    async fn stopping_writes_what_is_queued_and_refuses_more() {
        let directory = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let store = Store::start(connect(directory.path()), &tasks);
        store.reserve().await.unwrap().write(vec![Change::Save(entry(1, b"", 1))]);
        assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
        assert_eq!(store.reserve().await.unwrap_err(), StoreError::Stopping);
        assert_eq!(contents(directory.path()), (vec![entry(1, b"", 1)], 0));
    }

    #[test]
    fn damaged_rows_are_not_records() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = connect(directory.path());
        let batch = Batch { changes: (1..5).map(|n| Change::Save(entry(n, b"", 1))).collect(), done: None };
        commit(&mut connection, &[batch]).unwrap();
        let damage = "UPDATE record SET seq = 2 WHERE k = ?1; ";
        connection.execute(damage, [entry(1, b"", 1).item.key().as_bytes()]).unwrap();
        connection
            .execute("UPDATE record SET k = x'00' WHERE k = ?", [entry(2, b"", 1).item.key().as_bytes()])
            .unwrap();
        drop(connection);
        assert_eq!(contents(directory.path()), (sorted(vec![entry(3, b"", 1), entry(4, b"", 1)]), 2));
    }

    #[test]
    fn a_file_that_cannot_be_used_gets_one_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let inside = |name: &str| directory.path().join(name);
        let sentence = |directory: PathBuf| open(&directory, |_| {}).unwrap_err().to_string();

        std::fs::write(inside("file"), b"").unwrap();
        let path = inside("file").join("data");
        assert!(
            sentence(path.clone()).starts_with(&format!("the data directory {} cannot be created: ", path.display()))
        );

        std::fs::create_dir_all(inside("occupied").join(FILE)).unwrap();
        assert!(sentence(inside("occupied")).contains("cannot be used: "));

        std::fs::create_dir(inside("junk")).unwrap();
        std::fs::write(inside("junk").join(FILE), "not a database, and longer than its header".repeat(10)).unwrap();
        assert!(sentence(inside("junk")).ends_with("move it away to start with an empty one"));

        std::fs::create_dir(inside("foreign")).unwrap();
        Connection::open(inside("foreign").join(FILE)).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        assert!(sentence(inside("foreign")).contains("is not a record store of swarmgate"));

        connect(&inside("later")).pragma_update(None, "user_version", 3).unwrap();
        assert!(sentence(inside("later")).ends_with("was written by a later version of swarmgate (layout 3)"));
    }
}
