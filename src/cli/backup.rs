//! `swarmgate backup DIR` and `swarmgate restore DIR`: the databases of a server: its pins with their records and versions,
//! the records put here, the tracker's counts; and its lists. The bytes of torrents are not among them; what is pinned and not on disk is
//! fetched again.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use clap::Args;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use super::{ConfigArgs, Failure, output};
use crate::tracker::List;

/// Every database of a data directory.
const DATABASES: [&str; 3] = [crate::pins::FILE, crate::records::FILE, crate::tracker::FILE];

/// What the operator denied and allowed over the API.
const LISTS: [&str; 2] = [List::Denied.file_name(), List::Allowed.file_name()];

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// Where to put the copies; a folder that is made, or is empty.
    dir: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// What `backup` made.
    dir: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

impl Backup {
    /// Copies each database as it is at one moment. The server goes on meanwhile.
    pub(super) fn run(self) -> Result<(), Failure> {
        let data_dir = self.config.load()?.data_dir;
        fs::create_dir_all(&self.dir).map_err(|error| cannot("make", &self.dir, &error))?;
        let mut copied = Vec::new();
        for name in DATABASES.into_iter().chain(LISTS) {
            let (from, to) = (data_dir.join(name), self.dir.join(name));
            if !from.exists() {
                continue;
            }
            if to.exists() {
                return Err(Failure::Usage(format!("{} is there already; a backup overwrites nothing", to.display())));
            }
            // Beside and renamed, so that a backup that was broken off is not taken for one.
            let unfinished = self.dir.join(format!("{name}.new"));
            let _ = fs::remove_file(&unfinished);
            if LISTS.contains(&name) {
                fs::copy(&from, &unfinished).map_err(|error| cannot("copy", &from, &error))?;
            } else {
                let copy = open(&from)?.execute("VACUUM INTO ?", [unfinished.to_string_lossy()]);
                copy.map_err(|error| Failure::Failed(format!("cannot copy {}: {error}", from.display())))?;
                check(&unfinished)?;
            }
            let synced = File::open(&unfinished).and_then(|file| file.sync_all());
            synced.and_then(|()| fs::rename(&unfinished, &to)).map_err(|error| cannot("write", &to, &error))?;
            copied.push(name);
        }
        if copied.is_empty() {
            return Err(Failure::NotFound(format!("there is no database in {}", data_dir.display())));
        }
        say(self.json, "copied", &copied)
    }
}

impl Restore {
    /// Puts the copies in the place of what is there, which stays beside them as `….before-restore`.
    pub(super) fn run(self) -> Result<(), Failure> {
        let data_dir = self.config.load()?.data_dir;
        let all = DATABASES.into_iter().chain(LISTS);
        let names: Vec<&str> = all.filter(|name| self.dir.join(name).exists()).collect();
        if names.is_empty() {
            return Err(Failure::NotFound(format!("there is no backup in {}", self.dir.display())));
        }
        // All are looked at before any is moved.
        names.iter().filter(|name| DATABASES.contains(name)).try_for_each(|name| check(&self.dir.join(name)))?;
        fs::create_dir_all(&data_dir).map_err(|error| cannot("make", &data_dir, &error))?;
        let lock = File::create(data_dir.join("lock")).map_err(|error| cannot("lock", &data_dir, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let dir = data_dir.display();
                return Err(Failure::Failed(format!("a server is using {dir}; stop it, restore, and start it again")));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &data_dir, &error)),
        }
        for name in &names {
            let (from, to) = (self.dir.join(name), data_dir.join(name));
            let unfinished = data_dir.join(format!("{name}.new"));
            fs::copy(&from, &unfinished).map_err(|error| cannot("write", &unfinished, &error))?;
            // What is in the log beside the old file belongs to the old file, and moves with it.
            for suffix in ["", "-wal", "-shm"] {
                let (old, aside) = (format!("{name}{suffix}"), format!("{name}.before-restore{suffix}"));
                let _ = fs::remove_file(data_dir.join(&aside));
                if data_dir.join(&old).exists() {
                    let moved = fs::rename(data_dir.join(&old), data_dir.join(&aside));
                    moved.map_err(|error| cannot("move", &data_dir.join(&old), &error))?;
                }
            }
            let synced = File::open(&unfinished).and_then(|file| file.sync_all());
            synced.and_then(|()| fs::rename(&unfinished, &to)).map_err(|error| cannot("write", &to, &error))?;
        }
        say(self.json, "restored", &names)
    }
}

fn open(path: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let opened = opened.and_then(|connection| {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(connection)
    });
    opened.map_err(|error| Failure::Failed(format!("cannot open {}: {error}", path.display())))
}

/// That a file is a whole database.
fn check(path: &Path) -> Result<(), Failure> {
    let said = open(path)?.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    match said {
        Ok(said) if said == "ok" => Ok(()),
        Ok(said) => Err(Failure::Failed(format!("{} is damaged: {said}", path.display()))),
        Err(error) => Err(Failure::Failed(format!("{} is no database: {error}", path.display()))),
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot {what} {}: {error}", path.display()))
}

fn say(json: bool, what: &str, names: &[&str]) -> Result<(), Failure> {
    if json { output::json(&json!({ what: names })) } else { output::text(&format!("{what} {}", names.join(", "))) }
}
