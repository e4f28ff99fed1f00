//! The task that writes: what is on disk when it says so, and what it does when the disk takes no more.

use std::path::Path;

use super::super::store::read_floors;
use super::super::store::tests::{connect, contents, entry, sorted};
use super::*;

fn start(connection: Connection, tasks: &Tasks) -> (Store, IntCounter) {
    let failures = IntCounter::new("failures", "Failures.").unwrap();
    (Store::start(connection, failures.clone(), tasks), failures)
}

/// The task and its runtime are dropped without a word, as a killed process would: what was acknowledged is there.
#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let kept = vec![entry(1, b"", 5), entry(1, b"n", 2), entry(2, b"", 7)];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        assert_eq!(contents(directory.path()), (vec![], 0));
        let (store, _) = start(connect(directory.path()), &Tasks::new());
        store.reserve().await.unwrap().write(vec![Change::Save(entry(1, b"", 4))]);
        store.reserve().await.unwrap().write(vec![Change::Save(entry(3, b"", 1))]);
        store.reserve().await.unwrap().write(vec![Change::Delete(entry(3, b"", 1).item.target())]);
        let changes = kept.iter().cloned().map(Change::Save).collect();
        store.reserve().await.unwrap().write_durably(changes).await.unwrap();
    });
    runtime.shutdown_background();
    assert_eq!(contents(directory.path()), (sorted(kept), 0));
}

#[tokio::test]
async fn stopping_writes_what_is_queued_and_refuses_more() {
    let directory = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let (store, _) = start(connect(directory.path()), &tasks);
    store.reserve().await.unwrap().write(vec![Change::Save(entry(1, b"", 1))]);
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
    assert_eq!(store.reserve().await.unwrap_err(), StoreError::Stopping);
    assert_eq!(contents(directory.path()), (vec![entry(1, b"", 1)], 0));
}

/// Another writer holds the file, so that nothing can be written; to this task that is as good as a full disk.
fn start_locked(path: &Path, tasks: &Tasks) -> (Store, IntCounter, Connection) {
    let connection = connect(path);
    connection.busy_timeout(Duration::ZERO).unwrap();
    let (store, failures) = start(connection, tasks);
    let other = connect(path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    (store, failures, other)
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_does_not_take_is_refused_or_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, tasks) = (directory.path(), Tasks::new());
    let (store, failures, other) = start_locked(path, &tasks);

    let (seen, newer) = (entry(3, b"", 1), entry(3, b"", 2));
    store.reserve().await.unwrap().write(vec![Change::Save(seen)]);
    store.reserve().await.unwrap().write(vec![Change::Save(newer.clone()), Change::Floor(Target([7; 20]), 3)]);
    let put = vec![Change::Save(entry(1, b"", 1)), Change::Delete(Target([8; 20]))];
    let refused = store.reserve().await.unwrap().write_durably(put).await.unwrap_err();
    assert_eq!(refused.to_string(), "the record could not be written to disk: database is locked");
    assert!(failures.get() > 0);

    other.execute_batch("ROLLBACK").unwrap();
    let last = entry(2, b"", 1);
    store.reserve().await.unwrap().write_durably(vec![Change::Save(last.clone())]).await.unwrap();
    assert_eq!(contents(path).0, sorted(vec![newer, last]), "what was refused is not there, and all else is");
    assert_eq!(read_floors(&other, path).unwrap(), [(Target([7; 20]), 3)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_written_is_tried_again_without_being_asked() {
    let directory = tempfile::tempdir().unwrap();
    let (path, tasks) = (directory.path(), Tasks::new());
    let (store, failures, other) = start_locked(path, &tasks);
    store.reserve().await.unwrap().write(vec![Change::Save(entry(3, b"", 1))]);
    for _ in 0..10 {
        tokio::time::sleep(RETRY).await;
    }
    assert!(failures.get() > 1, "it goes on trying");
    other.execute_batch("ROLLBACK").unwrap();
    tokio::time::sleep(2 * RETRY).await;
    assert_eq!(contents(path).0, [entry(3, b"", 1)]);
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
}

#[test]
fn what_waits_for_the_disk_is_bounded() {
    let mut unwritten = Unwritten::default();
    let floor = |n: usize, seq| Change::Floor(Target(std::array::from_fn(|i| (n >> (8 * (i % 4))) as u8)), seq);
    let changes = (0..MAX_UNWRITTEN + 10).map(|n| floor(n, 1)).chain([floor(0, 2)]).collect();
    unwritten.keep(&Batch { changes, done: None });
    assert_eq!(unwritten.rows.len(), MAX_UNWRITTEN);
    assert!(unwritten.rows().any(|change| *change == floor(0, 2)), "what waits already is kept up to date");
}
