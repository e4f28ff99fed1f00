//! What `publish` keeps of a site under the data directory: copies of its versions, and its last record.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::{Failure, folder, key};
use crate::wire::hex;
use crate::wire::id::{PublicKey, Signature};
use crate::wire::item::{Salt, SignedItem, VerifiedItem};
use crate::wire::metainfo::Metainfo;

/// Versions of a site whose copies are kept. Another `publish` may still be seeding the one before.
const COPIES: usize = 3;

/// The copies and the last record of one key.
pub(super) struct Archive {
    dir: PathBuf,
    key: PublicKey,
}

/// How the record is written: the fields of a record as the HTTP API has them.
#[derive(Serialize, Deserialize)]
struct RecordFile {
    seq: i64,
    v: String,
    sig: String,
}

impl Archive {
    /// Opens the archive of a key, making it if need be.
    ///
    /// # Errors
    /// The data directory cannot be used.
    pub(super) fn open(data_dir: &Path, key: &SigningKey) -> Result<Self, Failure> {
        let key = key::public(key);
        let archive = Self { dir: data_dir.join("published").join(key.to_hex()), key };
        std::fs::create_dir_all(&archive.dir).map_err(|error| archive.unusable(&error))?;
        Ok(archive)
    }

    /// Copies a folder, to a place named by its info hash; publishing the same again reuses the copy.
    ///
    /// # Errors
    /// The folder cannot be read, or the copy not written.
    pub(super) fn copy(&self, folder: &Path, name: &str) -> Result<(Metainfo, PathBuf), Failure> {
        let unfinished = self.dir.join(format!("unfinished-{}", std::process::id()));
        let metainfo = folder::snapshot(folder, name, &unfinished);
        let metainfo = metainfo.inspect_err(|_| drop(std::fs::remove_dir_all(&unfinished))).map_err(Failure::failed)?;
        let copy = self.dir.join(metainfo.info_hash().to_hex());
        // What is there may have been cut short or changed; the new copy is the one that was hashed.
        let replaced = if copy.exists() { std::fs::remove_dir_all(&copy) } else { Ok(()) };
        replaced.and_then(|()| std::fs::rename(&unfinished, &copy)).map_err(|error| self.unusable(&error))?;
        self.prune();
        Ok((metainfo, copy))
    }

    /// Removes all copies but the newest few. What cannot be removed stays: it only takes room.
    fn prune(&self) {
        let copies = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut copies: Vec<(SystemTime, PathBuf)> = copies
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        copies.sort();
        for (_, path) in copies.iter().rev().skip(COPIES) {
            let _ = std::fs::remove_dir_all(path);
        }
    }

    /// The record last published from here: the network forgets an item in two hours.
    pub(super) fn last_record(&self, salt: &Salt) -> Option<VerifiedItem> {
        let text = std::fs::read_to_string(self.record_file(salt)).ok()?;
        let record: RecordFile = serde_json::from_str(&text).ok()?;
        let item = SignedItem {
            key: self.key,
            salt: salt.clone(),
            seq: record.seq,
            v: hex::decode(&record.v)?,
            sig: Signature::from_hex(&record.sig).ok()?,
        };
        item.verify().ok()
    }

    /// Remembers a record. To be done before the put: a number that may have been used is never used again for
    /// something else.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn keep(&self, item: &VerifiedItem) -> Result<(), Failure> {
        let record = RecordFile { seq: item.seq(), v: hex::encode(item.v()), sig: item.sig().to_hex() };
        let text = serde_json::to_string(&record).map_err(Failure::failed)?;
        let file = self.record_file(item.salt());
        let unfinished = file.with_added_extension("new");
        let written = std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &file));
        written.map_err(|error| self.unusable(&error))
    }

    fn record_file(&self, salt: &Salt) -> PathBuf {
        let salt = if salt.is_empty() { String::new() } else { format!("-{}", hex::encode(salt.as_bytes())) };
        self.dir.join(format!("record{salt}.json"))
    }

    fn unusable(&self, error: &std::io::Error) -> Failure {
        Failure::Failed(format!("cannot write to {}: {error}", self.dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_is_remembered_and_checked_when_read() {
        let (dir, key) = (tempfile::tempdir().unwrap(), SigningKey::from_bytes(&[1; 32]));
        let archive = Archive::open(dir.path(), &key).unwrap();
        let (plain, salt) = (Salt::default(), Salt::new(b"n").unwrap());
        assert_eq!(archive.last_record(&plain), None);
        let item = VerifiedItem::sign(&key, plain.clone(), 7, b"1:x".to_vec()).unwrap();
        archive.keep(&item).unwrap();
        assert_eq!(archive.last_record(&plain), Some(item));
        assert_eq!(archive.last_record(&salt), None, "each salt has its own");
        let file = archive.record_file(&plain);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"seq\":7", "\"seq\":8")).unwrap();
        assert_eq!(archive.last_record(&plain), None, "a record that does not verify is none");
    }

    #[test]
    fn the_newest_copies_are_kept() {
        let (dir, site, key) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), SigningKey::from_bytes(&[1; 32]));
        let archive = Archive::open(dir.path(), &key).unwrap();
        let copies: Vec<PathBuf> = (0..COPIES + 2)
            .map(|version| {
                std::fs::write(site.path().join("index.md"), format!("# {version}\n")).unwrap();
                archive.copy(site.path(), "site").unwrap().1
            })
            .collect();
        let kept = copies.iter().filter(|copy| copy.join("index.md").exists()).count();
        assert_eq!(kept, COPIES);
        assert!(copies.last().unwrap().exists());
    }
}
