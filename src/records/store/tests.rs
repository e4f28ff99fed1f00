//! The file: what is in it after a kill, and what is said of one that cannot be used.

use ed25519_dalek::SigningKey;

use super::*;
use crate::records::book::Change;
use crate::records::writer::commit;
use crate::wire::id::Target;
use crate::wire::item::VerifiedItem;

pub(in crate::records) fn entry(author: u8, salt: &[u8], seq: i64) -> Entry {
    let key = SigningKey::from_bytes(&[author; 32]);
    let item = VerifiedItem::sign(&key, Salt::new(salt).unwrap(), seq, b"le".to_vec()).unwrap();
    Entry { item, conflict: seq % 2 == 0, put_here: author == 1 }
}

pub(in crate::records) fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| entry.item.target());
    entries
}

/// What is in the file, and how many rows are not records.
pub(in crate::records) fn contents(directory: &Path) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let (_, damaged) = open(directory, |entry| entries.push(entry)).unwrap();
    (sorted(entries), damaged)
}

pub(in crate::records) fn connect(directory: &Path) -> Connection {
    open(directory, |_| {}).unwrap().0
}

#[test]
fn floors_are_kept_also_in_a_store_of_the_first_layout() {
    let directory = tempfile::tempdir().unwrap();
    let connection = connect(directory.path());
    connection.execute_batch("DROP TABLE floor; DROP TABLE intent; PRAGMA user_version = 1;").unwrap();
    drop(connection);
    let mut connection = connect(directory.path());
    let target = |n| Target([n; 20]);
    let changes = [
        Change::Floor(target(2), 5),
        Change::Floor(target(1), 7),
        Change::Floor(target(2), 4),
        Change::Floor(target(3), 1),
        Change::ForgetFloor(target(3)),
    ];
    commit(&mut connection, changes.iter()).unwrap();
    let floors = read_floors(&connect(directory.path()), directory.path()).unwrap();
    assert_eq!(floors, [(target(2), 5), (target(1), 7)]);
}

/// What is being decided is no record; a store of the second layout learns to keep it.
#[test]
fn what_a_kill_left_undecided_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let connection = connect(directory.path());
    connection.execute_batch("DROP TABLE intent; PRAGMA user_version = 2;").unwrap();
    drop(connection);
    let mut connection = connect(directory.path());
    let (known, put) = (entry(1, b"", 1), entry(1, b"", 2));
    commit(&mut connection, [Change::Save(known.clone()), Change::Intend(put.item)].iter()).unwrap();
    let undecided = |connection: &Connection| -> i64 {
        connection.query_row("SELECT count(*) FROM intent", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(undecided(&connection), 1);
    drop(connection);
    assert_eq!(contents(directory.path()), (vec![known], 0));
    assert_eq!(undecided(&connect(directory.path())), 0);
}

#[test]
fn damaged_rows_are_not_records() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = connect(directory.path());
    let changes: Vec<Change> = (1..5).map(|n| Change::Save(entry(n, b"", 1))).collect();
    commit(&mut connection, changes.iter()).unwrap();
    let damage = "UPDATE record SET seq = 2 WHERE k = ?1; ";
    connection.execute(damage, [entry(1, b"", 1).item.key().as_bytes()]).unwrap();
    connection.execute("UPDATE record SET k = x'00' WHERE k = ?", [entry(2, b"", 1).item.key().as_bytes()]).unwrap();
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
    assert!(sentence(path.clone()).starts_with(&format!("the data directory {} cannot be created: ", path.display())));

    std::fs::create_dir_all(inside("occupied").join(FILE)).unwrap();
    assert!(sentence(inside("occupied")).contains("cannot be used: "));

    std::fs::create_dir(inside("junk")).unwrap();
    std::fs::write(inside("junk").join(FILE), "not a database, and longer than its header".repeat(10)).unwrap();
    assert!(sentence(inside("junk")).ends_with("move it away to start with an empty one"));

    std::fs::create_dir(inside("foreign")).unwrap();
    Connection::open(inside("foreign").join(FILE)).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(sentence(inside("foreign")).contains("is not a record store of swarmgate"));

    connect(&inside("later")).pragma_update(None, "user_version", 4).unwrap();
    assert!(sentence(inside("later")).ends_with("was written by a later version of swarmgate (layout 4)"));
}

/// What a copy that broke off, or a disk that lost pages, leaves behind: never a store that merely has less in it.
#[test]
fn a_file_that_was_cut_short_is_damaged_and_not_empty() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = connect(directory.path());
    let saved = (0..200u8).map(|n| Change::Save(entry(n, &[n; 64], 1)));
    let floors = (0..200u8).map(|n| Change::Floor(Target([n; 20]), 1));
    commit(&mut connection, saved.chain(floors).collect::<Vec<_>>().iter()).unwrap();
    drop(connection);
    let file = directory.path().join(FILE);
    let whole = std::fs::read(&file).unwrap();
    assert!(whole.len() > 12 * 4096, "{} bytes", whole.len());
    for length in [whole.len() - 1, whole.len() - 4096, whole.len() / 2, 3 * 4096, 4096, 1000] {
        std::fs::write(&file, &whole[..length]).unwrap();
        let error = open(directory.path(), |_| {}).unwrap_err();
        assert!(matches!(error, StartError::Damaged { .. }), "{length} bytes: {error}");
        assert!(error.to_string().contains("is damaged ("), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), whole[..length], "it is left as it was");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(contents(directory.path()).0.len(), 200);
}
