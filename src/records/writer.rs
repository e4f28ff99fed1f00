//! The task that owns the record store, and commits in batches.
//!
//! What is promised: when [`Slot::write_durably`] resolves, its changes and all that were queued before them survive a
//! crash of the program and a loss of power (write-ahead log, `synchronous = FULL`: each commit is synced). Changes
//! queued by [`Slot::write`] are committed with the next batch; a crash loses at most the [`QUEUE`] that wait. Those are
//! versions seen in the DHT, which still has them.
//!
//! When the disk takes no more, those who wait are told so, and their record is theirs to put again. Everything else that
//! was to be written is kept, and tried again until there is room.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::IntCounter;
use rusqlite::{Connection, Transaction, params};
use tokio::sync::{mpsc, oneshot};

use super::book::{Change, Entry};
use crate::tasks::Tasks;
use crate::wire::id::Target;

/// Batches that may wait for the disk. Past that, writers wait too.
const QUEUE: usize = 256;

/// How long after a failure what is left is tried again, when nothing new comes before.
const RETRY: Duration = Duration::from_secs(5);

/// Rows that may wait for the disk to have room: some five megabytes. Later ones are lost to the disk, not to memory.
const MAX_UNWRITTEN: usize = 8192;

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
    pub(super) fn start(connection: Connection, failures: IntCounter, tasks: &Tasks) -> Self {
        let (queue, batches) = mpsc::channel(QUEUE);
        let writer = Writer { connection: Some(connection), unwritten: Unwritten::default(), failures };
        tasks.spawn(own(writer, batches, tasks.clone()));
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
    unwritten: Unwritten,
    failures: IntCounter,
}

impl Writer {
    /// Commits what could not be written before and these batches, all or nothing, and tells those who wait.
    async fn write(&mut self, batches: Vec<Batch>) {
        if batches.is_empty() && self.unwritten.is_empty() {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        let unwritten = std::mem::take(&mut self.unwritten);
        let committed = tokio::task::spawn_blocking(move || {
            let changes = unwritten.rows().chain(batches.iter().flat_map(|batch| &batch.changes));
            let result = commit(&mut connection, changes).map_err(|error| StoreError::Failed(error.to_string()));
            (connection, unwritten, batches, result)
        });
        let Ok((connection, unwritten, batches, result)) = committed.await else { return };
        self.connection = Some(connection);
        if let Err(error) = &result {
            tracing::error!("{error}");
            self.failures.inc();
            self.unwritten = unwritten;
            for batch in &batches {
                self.unwritten.keep(batch);
            }
        }
        for done in batches.into_iter().filter_map(|batch| batch.done) {
            let _ = done.send(result.clone());
        }
    }
}

/// What the disk did not take. Of each row the last change counts. Pure.
#[derive(Debug, Default)]
struct Unwritten {
    rows: HashMap<(Table, Target), Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Table {
    Record,
    Floor,
    Intent,
}

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn rows(&self) -> impl Iterator<Item = &Change> {
        self.rows.values()
    }

    /// Keeps the changes of a batch that failed; where somebody was told so, without what that was about: the record is
    /// as it was before.
    fn keep(&mut self, batch: &Batch) {
        for change in &batch.changes {
            let row = match change {
                Change::Save(_) | Change::Intend(_) if batch.done.is_some() => continue,
                Change::Save(entry) => (Table::Record, entry.item.target()),
                Change::Delete(target) => (Table::Record, *target),
                Change::Floor(target, _) | Change::ForgetFloor(target) => (Table::Floor, *target),
                Change::Intend(item) => (Table::Intent, item.target()),
                Change::Decided(target) => (Table::Intent, *target),
            };
            if self.rows.len() < MAX_UNWRITTEN || self.rows.contains_key(&row) {
                self.rows.insert(row, change.clone());
            } else {
                tracing::error!(target = %row.1, "too much waits for the disk; a change will be missing after a restart");
            }
        }
    }
}

pub(super) fn commit<'a>(
    connection: &mut Connection,
    changes: impl Iterator<Item = &'a Change>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        write(&transaction, change)?;
    }
    transaction.commit()
}

fn write(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    let run = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<()> {
        transaction.prepare_cached(sql)?.execute(parameters).map(drop)
    };
    match change {
        Change::Save(Entry { item, conflict, put_here }) => run(
            "INSERT OR REPLACE INTO record (target, k, salt, seq, v, sig, conflict, put_here)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                item.target().as_bytes(),
                item.key().as_bytes(),
                item.salt().as_bytes(),
                item.seq(),
                item.v(),
                item.sig().as_bytes(),
                conflict,
                put_here
            ],
        ),
        Change::Delete(target) => run("DELETE FROM record WHERE target = ?", params![target.as_bytes()]),
        Change::Floor(target, seq) => run(
            "INSERT INTO floor (target, seq) VALUES (?, ?)
             ON CONFLICT (target) DO UPDATE SET seq = max(seq, excluded.seq)",
            params![target.as_bytes(), seq],
        ),
        Change::ForgetFloor(target) => run("DELETE FROM floor WHERE target = ?", params![target.as_bytes()]),
        Change::Intend(item) => {
            run("INSERT OR REPLACE INTO intent (target, v) VALUES (?, ?)", params![item.target().as_bytes(), item.v()])
        }
        Change::Decided(target) => run("DELETE FROM intent WHERE target = ?", params![target.as_bytes()]),
    }
}

#[cfg(test)]
mod tests;
