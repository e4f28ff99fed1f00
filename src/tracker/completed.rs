//! Completed downloads, kept over restarts: one SQLite file, written by one task.
//!
//! A count that was told more than [`BATCH`] ago survives a crash; an orderly stop loses none that came before it. The file has at most
//! `tracker.max_completed` rows; those whose last completion is longest ago go first.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::sync::mpsc;

use super::table::Downloads;
use crate::tasks::Tasks;
use crate::wire::id::InfoHash;

/// Name of the file in the data directory.
pub const FILE: &str = "tracker.sqlite";

/// A row that is replaced gets a new number, so that numbers tell which completed last.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS completed (
        number INTEGER PRIMARY KEY, info_hash BLOB NOT NULL UNIQUE, downloads INTEGER NOT NULL
    ) STRICT;";

/// How long changes are gathered before they are written together.
const BATCH: Duration = Duration::from_secs(5);

/// Changes that may wait for the writer. One that finds no place is made up for by the swarm's next completion, since
/// each tells the whole count.
const QUEUE: usize = 65_536;

/// Takes counts to the writer; nowhere, if nothing is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Recorder {
    changes: Option<mpsc::Sender<Downloads>>,
}

impl Recorder {
    pub(super) fn record(&self, downloads: Downloads) {
        if let Some(changes) = &self.changes {
            // Full or gone: see QUEUE.
            let _ = changes.try_send(downloads);
        }
    }
}

/// Opens the file and starts its writer, which ends when the node stops or the last [`Recorder`] is dropped. Returns what
/// the file holds.
pub(super) fn open(data_dir: &Path, max: usize, tasks: &Tasks) -> rusqlite::Result<(Vec<Downloads>, Recorder)> {
    let connection = Connection::open(data_dir.join(FILE))?;
    connection.execute_batch(SCHEMA)?;
    let kept = read(&connection)?;
    let (changes, queue) = mpsc::channel(QUEUE);
    tasks.spawn(write_all(connection, queue, max, tasks.clone()));
    Ok((kept, Recorder { changes: Some(changes) }))
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Downloads>> {
    let mut rows = connection.prepare("SELECT info_hash, downloads FROM completed ORDER BY number")?;
    let rows = rows.query_map([], |row| Ok((InfoHash(row.get(0)?), row.get(1)?)))?;
    rows.collect()
}

async fn write_all(mut connection: Connection, mut changes: mpsc::Receiver<Downloads>, max: usize, tasks: Tasks) {
    while let Some((info_hash, downloads)) = next(&mut changes, &tasks).await {
        // Asleep and not waiting for the next change: thousands of them must not wake this task one by one.
        tokio::select! {
            () = tokio::time::sleep(BATCH) => {}
            () = tasks.stopping() => {}
        }
        let mut batch = HashMap::from([(info_hash, downloads)]);
        while let Ok((info_hash, downloads)) = changes.try_recv() {
            batch.insert(info_hash, downloads);
        }
        let written = tokio::task::spawn_blocking(move || (write(&mut connection, &batch, max), connection)).await;
        let (result, back) = written.expect("writing does not panic");
        connection = back;
        if let Err(error) = result {
            tracing::warn!("completed downloads could not be kept: {error}");
        }
    }
}

/// The next change; when the node stops, those that wait and then none.
async fn next(changes: &mut mpsc::Receiver<Downloads>, tasks: &Tasks) -> Option<Downloads> {
    tokio::select! {
        biased;
        change = changes.recv() => change,
        () = tasks.stopping() => {
            changes.close();
            changes.recv().await
        }
    }
}

fn write(connection: &mut Connection, batch: &HashMap<InfoHash, u32>, max: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (info_hash, downloads) in batch {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO completed (info_hash, downloads) VALUES (?1, ?2)")?
            .execute(params![info_hash.0, downloads])?;
    }
    transaction.execute(
        "DELETE FROM completed WHERE number <= (SELECT number FROM completed ORDER BY number DESC LIMIT 1 OFFSET ?1)",
        [i64::try_from(max).unwrap_or(i64::MAX)],
    )?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> InfoHash {
        InfoHash([n; 20])
    }

    #[tokio::test]
    async fn counts_outlive_the_tracker_and_the_oldest_go_first() {
        let directory = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let (kept, recorder) = open(directory.path(), 3, &tasks).unwrap();
        assert_eq!(kept, []);
        recorder.record((hash(1), 1));
        recorder.record((hash(1), 2));
        drop(recorder);
        assert_eq!(tasks.stop(Duration::from_secs(20)).await, 0);

        for round in 2..6 {
            let tasks = Tasks::new();
            let (_, recorder) = open(directory.path(), 3, &tasks).unwrap();
            recorder.record((hash(round), round.into()));
            drop(recorder);
            assert_eq!(tasks.stop(Duration::from_secs(20)).await, 0);
        }
        let (kept, _) = open(directory.path(), 3, &Tasks::new()).unwrap();
        assert_eq!(kept, [(hash(3), 3), (hash(4), 4), (hash(5), 5)]);
    }
}
