//! What was acknowledged is there again; what is no pin store is left alone.

use ed25519_dalek::SigningKey;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rusqlite::params;

use super::*;
use crate::pins::events::EventKind;
use crate::pins::ids::{PinId, Unix, Who};
use crate::pins::pin::{Reason, Settings, Size, Status, Subject, Trouble, Version, VersionState};
use crate::pins::token::{Quota, Scope};
use crate::wire::id::{InfoHash, PublicKey};
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::pointer;

fn token(n: u64) -> Token {
    let mut rng = StdRng::seed_from_u64(n);
    let quota = Quota { bytes: Some(n), pins: None, pin_bytes: Some(u64::MAX >> 1) };
    Token::new(format!("token {n}"), Scope::Write, quota, Some(Unix(99)), Unix(3), &mut rng).0
}

fn pin(n: u8) -> Pin {
    let key = SigningKey::from_bytes(&[n; 32]);
    let salt = Salt::new([n]).unwrap();
    let item = |seq| VerifiedItem::sign(&key, salt.clone(), seq, pointer::value(&InfoHash([n; 20]))).unwrap();
    let version = |seq, state| Version {
        size: Some(Size { bytes: 1 << 40, files: 3, pieces: 7 }),
        state,
        held: seq == 1,
        fetched: Some(Unix(4)),
        ..Version::wanted(seq, InfoHash([n; 20]), Some(item(seq)))
    };
    Pin {
        id: PinId([n; 16]),
        owner: if n == 1 { Who::Operator } else { Who::Token(token(7).id) },
        subject: Subject::Site(PublicKey(key.verifying_key().to_bytes()), salt.clone()),
        settings: Settings {
            name: "ünï".into(),
            meta: [("k".to_owned(), "\"v\"".to_owned())].into(),
            origins: vec!["[2001:db8::1]:6881".parse().unwrap()],
            expires: Some(Unix(1000)),
            priority: -3,
            ..Settings::default()
        },
        made_by: Some("key".into()),
        created: Unix(1),
        updated: Unix(2),
        revision: 5,
        newest: Some(item(3)),
        versions: vec![
            version(1, VersionState::Kept),
            version(2, VersionState::Released),
            Version::wanted(3, InfoHash([9; 20]), Some(item(3))),
        ],
        current: Some(1),
        wanted: Some(3),
        trouble: Some(Trouble { reason: Reason::OverQuota, sentence: "no room".into(), retry: Some(Unix(8)) }),
    }
}

fn event(number: u64, kind: EventKind) -> Event {
    Event { number, at: Unix(5), owner: Who::Operator, pin: PinId([1; 16]), kind }
}

/// The task and its runtime are dropped without a word, as a killed process would: what was acknowledged is there.
#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let torrent = Pin {
        subject: Subject::Torrent(InfoHash([4; 20])),
        newest: None,
        versions: Vec::new(),
        current: None,
        wanted: None,
        ..pin(4)
    };
    let events = vec![
        event(1, EventKind::Created),
        event(2, EventKind::Status { status: Status::Degraded, reason: Some(Reason::DiskFull) }),
        event(3, EventKind::Current { seq: 5, info_hash: InfoHash([3; 20]) }),
        event(4, EventKind::Expired),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::start(open(directory.path()).unwrap().0, &Tasks::new());
        let write = async |changes| store.reserve().await.unwrap().write(changes).await.unwrap();
        write(vec![Change::SaveToken(token(7)), Change::SaveToken(token(8))]).await;
        write(vec![Change::Save(Box::new(pin(1))), Change::Save(Box::new(pin(2))), Change::DeleteToken(token(8).id)])
            .await;
        let mut changes =
            vec![Change::Delete(pin(1).id), Change::Save(Box::new(pin(2))), Change::Save(Box::new(torrent.clone()))];
        changes.extend(events.iter().cloned().map(Change::Happened));
        write(changes).await;
    });
    runtime.shutdown_background();
    let (_, contents) = open(directory.path()).unwrap();
    assert_eq!(contents, Contents { tokens: vec![token(7)], pins: vec![pin(2), torrent], events, damaged: 0 });
}

#[test]
fn a_write_that_fails_is_made_up_for_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (connection, _) = open(directory.path()).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        let store = Store::start(connection, &Tasks::new());
        let other = Connection::open(directory.path().join(FILE)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        for n in [1, 2] {
            let failed = store.reserve().await.unwrap().write(vec![Change::Save(Box::new(pin(n)))]).await;
            assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
        }
        other.execute_batch("ROLLBACK").unwrap();
        store.reserve().await.unwrap().write(vec![Change::Delete(pin(1).id)]).await.unwrap();
    });
    runtime.shutdown_background();
    assert_eq!(open(directory.path()).unwrap().1.pins, [pin(2)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_while_what_was_before_it_waits_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (connection, _) = open(directory.path()).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    let tasks = Tasks::new();
    let store = Store::start(connection, &tasks);
    let write = async |changes: Vec<Change>| store.reserve().await.unwrap().write(changes).await;
    let other = Connection::open(directory.path().join(FILE)).unwrap();
    let kept = || other.query_row("SELECT count(*) FROM pin", [], |row| row.get::<_, i64>(0)).unwrap();

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(write(vec![Change::Save(Box::new(pin(1)))]).await.is_err());
    assert!(write(Vec::new()).await.is_err(), "who asks again is not told that it is kept");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(kept(), 0);
    assert_eq!(write(Vec::new()).await, Ok(()));
    assert_eq!(kept(), 1);

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(write(vec![Change::Save(Box::new(pin(2)))]).await.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    let deadline = tokio::time::Instant::now() + 2 * RETRY;
    while kept() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "it is tried again by itself");
        tokio::time::sleep(RETRY / 5).await;
    }

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(write(vec![Change::Save(Box::new(pin(3)))]).await.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
    assert_eq!(kept(), 3, "and a last time when the node stops");
}

#[test]
fn damaged_rows_are_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut connection, _) = open(directory.path()).unwrap();
    let pins = (1..5).map(|n| Change::Save(Box::new(pin(n))));
    commit(&mut connection, &pins.collect::<Vec<_>>()).unwrap();
    for (sql, n) in [
        ("UPDATE pin SET k = x'00' WHERE id = ?", 1),
        ("UPDATE pin SET newest_v = x'00' WHERE id = ?", 2),
        ("UPDATE version SET sig = zeroblob(64) WHERE pin = ? AND seq = 1", 3),
    ] {
        assert_eq!(connection.execute(sql, [pin(n).id.0]).unwrap(), 1);
    }
    drop(connection);
    let contents = open(directory.path()).unwrap().1;
    let expected = [
        Pin { newest: None, ..pin(2) },
        Pin { versions: pin(3).versions[1..].to_vec(), current: None, ..pin(3) },
        pin(4),
    ];
    assert_eq!((contents.pins, contents.damaged), (expected.to_vec(), 2));
}

#[test]
fn a_new_layout_is_made_of_the_old_one_and_a_copy_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let first = ["CREATE TABLE a (n INTEGER)"];
    prepare(&path, &first).unwrap().execute("INSERT INTO a VALUES (1)", []).unwrap();
    let second = [first[0], "CREATE TABLE b (n INTEGER); INSERT INTO b SELECT n + 1 FROM a"];
    let connection = prepare(&path, &second).unwrap();
    let n: i64 = connection.query_row("SELECT n FROM b", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 2);
    let copy = Connection::open(copy_of(&path, 1)).unwrap();
    let n: i64 = copy.query_row("SELECT n FROM a", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 1);
    drop(connection);
    let broken = [first[0], second[1], "CREATE TABLE c (n INTEGER); NONSENSE"];
    assert!(prepare(&path, &broken).is_err());
    let connection = prepare(&path, &second).unwrap();
    assert!(connection.query_row("SELECT count(*) FROM c", [], |_| Ok(())).is_err(), "nothing of it was made");
}

#[test]
fn a_store_of_the_first_layout_is_taken_along() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let Token { id, hash, name, scope, quota, created, expires, .. } = token(7);
    let (bytes, pin_bytes) = (quota.bytes.map(|n| n as i64), quota.pin_bytes.map(|n| n as i64));
    let row = params![id.0, hash, name, scope.name(), bytes, None::<i64>, pin_bytes, created.0, expires.map(|at| at.0)];
    let old = prepare(&path, &LAYOUTS[..1]).unwrap();
    old.execute("INSERT INTO token VALUES (?,?,?,?,?,?,?,?,?)", row).unwrap();
    drop(old);
    let (_, contents) = open(directory.path()).unwrap();
    assert_eq!((contents.tokens, contents.damaged), (vec![token(7)], 0));
    assert!(copy_of(&path, 1).exists());
}

#[test]
fn a_file_that_cannot_be_used_gets_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let inside = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let sentence = |directory: PathBuf| open(&directory).unwrap_err().to_string();
    assert!(sentence(directory.path().join("nowhere")).contains("cannot be used: "));
    std::fs::write(inside("junk").join(FILE), "not a database, and longer than its header".repeat(10)).unwrap();
    assert!(sentence(inside("junk")).ends_with("move it away to start with an empty one"));
    Connection::open(inside("foreign").join(FILE)).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(sentence(inside("foreign")).contains("is not a pin store of swarmgate"));
    open(&inside("later")).unwrap().0.pragma_update(None, "user_version", 9).unwrap();
    assert!(sentence(inside("later")).ends_with("was written by a later version of swarmgate (layout 9)"));
}
