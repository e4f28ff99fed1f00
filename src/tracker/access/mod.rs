//! Which torrents are served, and to whom: lists that the operator keeps in files and over the admin API.

mod rules;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::time::MissedTickBehavior;

pub use self::rules::{LineError, List, Origin};
use self::rules::{Rules, read_info_hashes, read_passkeys, write_info_hashes};
use crate::config;
use crate::tasks::Tasks;
use crate::wire::id::InfoHash;
use crate::wire::tracker::Refusal;

/// How often the files are looked at for a change: soon enough for somebody who has just saved one.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Most info hashes on one list by way of the API. Each change writes them all: 40 MB would be too much, 4 is not.
const MAX_BY_API: usize = 100_000;

/// The lists as they are now. Clones are the same ones.
#[derive(Debug, Clone)]
pub(super) struct Access {
    files: Arc<Files>,
    // A std lock: readers hold it for a look-up, and writers come by when an operator changes something.
    rules: Arc<RwLock<Rules>>,
    /// Held while the API's lists are changed, so that disk and memory change in the same order.
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// Where the lists come from.
#[derive(Debug, Default)]
struct Files {
    denied: Option<PathBuf>,
    allowed: Option<PathBuf>,
    passkeys: Option<PathBuf>,
    only_allowed: bool,
    /// Where what was added over the API is kept; nowhere in tests of other things.
    own: Option<PathBuf>,
}

/// A list that cannot be read: one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The system says no.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line is wrong. None of the file counts then: half a list would be no list.
    #[error("{}, {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, and why.
        source: LineError,
    },
}

/// Why a list could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It is not there to be removed.
    #[error("this info hash is not on the list")]
    NotListed,
    /// It is there by the operator's own hand.
    #[error("the operator's file has this info hash; take it out there")]
    InFile,
    /// There is no room for more.
    #[error("the list has as many entries as the API may make; use a file")]
    Full,
    /// It could not be written, and has not been changed.
    #[error("cannot keep the list: {0}")]
    NotKept(#[from] io::Error),
}

impl Access {
    /// Lists that are not kept.
    pub(super) fn in_memory() -> Self {
        Self { files: Arc::default(), rules: Arc::default(), changing: Arc::default() }
    }

    /// Reads all lists; what is added later is kept in `own`.
    pub(super) fn open(settings: &config::Tracker, own: PathBuf) -> Result<Self, ListError> {
        let named = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        let files = Files {
            denied: named(&settings.denied_file),
            allowed: named(&settings.allowed_file),
            passkeys: named(&settings.passkeys_file),
            only_allowed: settings.only_allowed,
            own: Some(own),
        };
        let rules = Arc::new(RwLock::new(files.read()?));
        Ok(Self { files: Arc::new(files), rules, changing: Arc::default() })
    }

    /// Reads the files again whenever one has changed, until the node stops.
    pub(super) fn watch(&self, tasks: &Tasks) {
        if self.files.named().next().is_none() {
            return;
        }
        let access = self.clone();
        tasks.spawn_cancellable(async move {
            let mut look = tokio::time::interval(LOOK_EVERY);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut seen = access.files.stamps();
            loop {
                look.tick().await;
                let now = access.files.stamps();
                if now != seen {
                    seen = now;
                    // A file that makes no sense has been logged, and is looked at again when it changes.
                    let _ = access.reload().await;
                }
            }
        });
    }

    /// Reads the files again. If one cannot be read all lists stay as they are.
    pub(super) async fn reload(&self) -> Result<(), ListError> {
        let _changing = self.changing.lock().await;
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || files.read()).await.expect("reading does not panic");
        match read {
            Ok(rules) => {
                let counts = (rules.denied.file.len(), rules.allowed.file.len());
                tracing::info!(denied = counts.0, allowed = counts.1, "read the lists of info hashes");
                *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
                Ok(())
            }
            Err(error) => {
                tracing::warn!("the lists stay as they were: {error}");
                Err(error)
            }
        }
    }

    /// Whether announces of this torrent are taken.
    pub(super) fn torrent(&self, info_hash: &InfoHash) -> Result<(), Refusal> {
        self.read(|rules| rules.torrent(info_hash))
    }

    /// Whether the one who came by this address may announce.
    pub(super) fn client(&self, path: &str, query: &str) -> Result<(), Refusal> {
        self.read(|rules| rules.client(path, query))
    }

    /// Everything on a list, sorted, and who put it there.
    pub(super) fn entries(&self, list: List) -> Vec<(InfoHash, Origin)> {
        self.read(|rules| {
            let entries = rules.list(list);
            let all: BTreeSet<InfoHash> = entries.file.iter().chain(&entries.api).copied().collect();
            all.into_iter().filter_map(|info_hash| Some((info_hash, entries.origin(&info_hash)?))).collect()
        })
    }

    pub(super) fn origin(&self, list: List, info_hash: &InfoHash) -> Option<Origin> {
        self.read(|rules| rules.list(list).origin(info_hash))
    }

    /// Puts an info hash on a list. On disk when this returns.
    pub(super) async fn add(&self, list: List, info_hash: InfoHash) -> Result<(), ChangeError> {
        self.change(list, |api| {
            if api.len() >= MAX_BY_API && !api.contains(&info_hash) {
                return Err(ChangeError::Full);
            }
            api.insert(info_hash);
            Ok(())
        })
        .await
    }

    /// Takes an info hash off a list. On disk when this returns.
    pub(super) async fn remove(&self, list: List, info_hash: InfoHash) -> Result<(), ChangeError> {
        if self.origin(list, &info_hash) == Some(Origin::File) {
            return Err(ChangeError::InFile);
        }
        self.change(list, |api| if api.remove(&info_hash) { Ok(()) } else { Err(ChangeError::NotListed) }).await
    }

    async fn change(
        &self,
        list: List,
        change: impl FnOnce(&mut BTreeSet<InfoHash>) -> Result<(), ChangeError>,
    ) -> Result<(), ChangeError> {
        let _changing = self.changing.lock().await;
        let mut api = self.read(|rules| rules.list(list).api.clone());
        change(&mut api)?;
        if let Some(own) = &self.files.own {
            let (directory, text) = (own.clone(), write_info_hashes(&api));
            let written = tokio::task::spawn_blocking(move || write(&directory, list.file_name(), &text));
            written.await.expect("writing does not panic")?;
        }
        self.rules.write().unwrap_or_else(PoisonError::into_inner).list_mut(list).api = api;
        Ok(())
    }

    fn read<T>(&self, look: impl FnOnce(&Rules) -> T) -> T {
        look(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl List {
    /// The file, in the data directory, of what was added over the API.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Denied => "denied-infohashes",
            Self::Allowed => "allowed-infohashes",
        }
    }
}

impl Files {
    fn read(&self) -> Result<Rules, ListError> {
        let mut rules = Rules { only_allowed: self.only_allowed, ..Rules::default() };
        for (list, file) in [(List::Denied, &self.denied), (List::Allowed, &self.allowed)] {
            let entries = rules.list_mut(list);
            if let Some(path) = file {
                entries.file = parse(path, read_info_hashes)?;
            }
            if let Some(path) = self.own.as_ref().map(|own| own.join(list.file_name())).filter(|path| path.exists()) {
                entries.api = parse(&path, read_info_hashes)?;
            }
        }
        if let Some(path) = &self.passkeys {
            rules.passkeys = Some(parse(path, read_passkeys)?);
        }
        Ok(rules)
    }

    /// The files that the operator keeps.
    fn named(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.denied, &self.allowed, &self.passkeys].into_iter().flatten()
    }

    /// What is different about a file that has changed.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &PathBuf| {
            let about = path.metadata().ok()?;
            Some((about.modified().ok()?, about.len()))
        };
        self.named().map(stamp).collect()
    }
}

fn parse<T>(path: &Path, read: impl FnOnce(&str) -> Result<T, LineError>) -> Result<T, ListError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ListError::Unreadable { path: path.to_owned(), source })?;
    read(&text).map_err(|source| ListError::Line { path: path.to_owned(), source })
}

/// Replaces the file whole, so that a crash leaves the old one or the new one.
fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, directory.join(name))?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = InfoHash([0xab; 20]);

    fn settings(directory: &Path) -> config::Tracker {
        let file = directory.join("list");
        std::fs::write(&file, "# nothing yet\n").unwrap();
        config::Tracker { denied_file: file, ..config::Tracker::default() }
    }

    #[tokio::test]
    async fn what_the_api_lists_is_kept_and_what_the_file_lists_is_the_operators() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let open = || Access::open(&settings, directory.path().to_owned()).unwrap();
        let access = open();
        assert_eq!(access.torrent(&HASH), Ok(()));
        access.add(List::Denied, HASH).await.unwrap();
        assert_eq!(access.torrent(&HASH), Err(Refusal::NotServed));
        assert_eq!(open().entries(List::Denied), [(HASH, Origin::Api)], "also after a restart");
        access.remove(List::Denied, HASH).await.unwrap();
        assert_eq!(open().torrent(&HASH), Ok(()));
        assert!(matches!(access.remove(List::Denied, HASH).await, Err(ChangeError::NotListed)));

        std::fs::write(&settings.denied_file, HASH.to_hex()).unwrap();
        access.reload().await.unwrap();
        assert_eq!(access.torrent(&HASH), Err(Refusal::NotServed));
        assert!(matches!(access.remove(List::Denied, HASH).await, Err(ChangeError::InFile)));

        std::fs::write(&settings.denied_file, "not a hash").unwrap();
        let error = access.reload().await.unwrap_err().to_string();
        assert!(error.ends_with("list, line 1: an info hash is 40 hexadecimal digits"), "{error}");
        assert_eq!(access.torrent(&HASH), Err(Refusal::NotServed), "the old list counts until the new one makes sense");
        assert!(Access::open(&settings, directory.path().to_owned()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again_without_being_asked() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let (access, tasks) = (Access::open(&settings, directory.path().to_owned()).unwrap(), Tasks::new());
        access.watch(&tasks);
        tokio::time::sleep(LOOK_EVERY).await;
        std::fs::write(&settings.denied_file, HASH.to_hex()).unwrap();
        let noticed = async {
            while access.torrent(&HASH).is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(50 * LOOK_EVERY, noticed).await.expect("the change is noticed");
        assert_eq!(tasks.stop(LOOK_EVERY).await, 0);
    }
}
