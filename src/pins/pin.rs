//! What a pin is: whom it is for, what it keeps, how far it is. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::ids::{PinId, Unix, Who};
use crate::net::is_public;
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem, mutable_target};

/// Longest name of a pin, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// Most entries of a pin's metadata, and how long each key and value may be, in bytes.
pub(super) const MAX_META: usize = 32;
/// See [`MAX_META`].
pub(super) const MAX_META_KEY: usize = 64;
/// See [`MAX_META`].
pub(super) const MAX_META_VALUE: usize = 1024;

/// Most addresses of peers that somebody names with a pin.
pub(super) const MAX_ORIGINS: usize = 20;

/// Most older versions that a pin may keep.
pub(super) const MAX_VERSIONS: u32 = 100;

/// Longest time an older version may be kept, in days: ten years.
pub(super) const MAX_DAYS: u32 = 3650;

/// What is to be kept online.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// One torrent.
    Torrent(InfoHash),
    /// Whatever the newest record of a key points to (BEP 46).
    Site(PublicKey, Salt),
}

impl Subject {
    /// Where a site's record lives.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Torrent(_) => None,
            Self::Site(key, salt) => Some(mutable_target(key, salt)),
        }
    }
}

/// What its owner may change about a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For people.
    pub name: String,
    /// Whether newer versions of a site are fetched.
    pub follow: bool,
    /// How many versions are kept besides the current one ...
    pub keep_versions: u32,
    /// ... and for how many days after they were replaced.
    pub keep_days: u32,
    /// Who goes first when not all can be fetched at once: the higher.
    pub priority: i8,
    /// When the pin ends by itself.
    pub expires: Option<Unix>,
    /// Whatever its owner wants to remember.
    pub meta: BTreeMap<String, String>,
    /// Peers that may have it.
    pub origins: Vec<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: String::new(),
            follow: true,
            keep_versions: 3,
            keep_days: 30,
            priority: 0,
            expires: None,
            meta: BTreeMap::new(),
            origins: Vec::new(),
        }
    }
}

/// A setting past its bounds: one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSetting(String);

impl Settings {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that is passed.
    pub fn check(&self, now: Unix) -> Result<(), InvalidSetting> {
        let fits =
            |(key, value): (&String, &String)| (1..=MAX_META_KEY).contains(&key.len()) && value.len() <= MAX_META_VALUE;
        let rules = [
            (self.name.len() <= MAX_NAME, format!("name is longer than {MAX_NAME} bytes")),
            (!self.name.chars().any(char::is_control), "name has control characters".to_owned()),
            (self.keep_versions <= MAX_VERSIONS, format!("keep.versions is more than {MAX_VERSIONS}")),
            (self.keep_days <= MAX_DAYS, format!("keep.days is more than {MAX_DAYS}")),
            (self.expires.is_none_or(|expires| expires > now), "expires is in the past".to_owned()),
            (self.meta.len() <= MAX_META, format!("meta has more than {MAX_META} entries")),
            (
                self.meta.iter().all(fits),
                format!("keys of meta have 1 to {MAX_META_KEY} bytes, its values at most {MAX_META_VALUE}"),
            ),
            (self.origins.len() <= MAX_ORIGINS, format!("there are more than {MAX_ORIGINS} origins")),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, sentence)| Err(InvalidSetting(sentence)))
    }
}

/// How much a torrent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files.
    pub files: u32,
    /// Pieces.
    pub pieces: u32,
}

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionState {
    /// Its bytes are being fetched, or wait for their turn.
    Wanted,
    /// Its bytes are here.
    Kept,
    /// It was here; its bytes are no longer kept for this pin.
    Released,
}

/// One torrent that a pin keeps, or kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The record's sequence number; 0 for a pinned torrent.
    pub seq: i64,
    /// The torrent.
    pub info_hash: InfoHash,
    /// What the author signed; none for a pinned torrent.
    pub record: Option<VerifiedItem>,
    /// Known from its metadata on.
    pub size: Option<Size>,
    /// Where it stands.
    pub state: VersionState,
    /// Its owner asked for this one: it is kept whatever its age.
    pub held: bool,
    /// When all of it was here first.
    pub fetched: Option<Unix>,
    /// When a newer one took its place.
    pub replaced: Option<Unix>,
    /// When its bytes were last read back from disk and found right.
    pub verified: Option<Unix>,
}

impl Version {
    /// One that is to be fetched.
    #[must_use]
    pub fn wanted(seq: i64, info_hash: InfoHash, record: Option<VerifiedItem>) -> Self {
        Self {
            seq,
            info_hash,
            record,
            size: None,
            state: VersionState::Wanted,
            held: false,
            fetched: None,
            replaced: None,
            verified: None,
        }
    }
}

/// Why a pin is not what it should be. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No record of the key was found.
    RecordNotFound,
    /// The newest record names no torrent.
    RecordNamesNoTorrent,
    /// Nobody has it.
    NoPeers,
    /// Those who have it stopped sending.
    Stalled,
    /// It would take more bytes than the token may use.
    OverQuota,
    /// It is larger than one pin of this token, or of this server, may be.
    TooLarge,
    /// There is no space left on the server's disk.
    DiskFull,
    /// Bytes on disk are no longer what they were; they are fetched again.
    Damaged,
    /// What peers have under this info hash is no torrent that can be kept.
    NotATorrent,
    /// Something else; the sentence says what.
    Failed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::RecordNotFound,
        Self::RecordNamesNoTorrent,
        Self::NoPeers,
        Self::Stalled,
        Self::OverQuota,
        Self::TooLarge,
        Self::DiskFull,
        Self::Damaged,
        Self::NotATorrent,
        Self::Failed,
    ];

    /// The name in the API.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::RecordNotFound => "record_not_found",
            Self::RecordNamesNoTorrent => "record_names_no_torrent",
            Self::NoPeers => "no_peers",
            Self::Stalled => "stalled",
            Self::OverQuota => "over_quota",
            Self::TooLarge => "too_large",
            Self::DiskFull => "disk_full",
            Self::Damaged => "damaged",
            Self::NotATorrent => "not_a_torrent",
            Self::Failed => "failed",
        }
    }
}

/// What is wrong, for programs and for people, and when it will be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// For programs.
    pub reason: Reason,
    /// For people: one sentence.
    pub sentence: String,
    /// When it is tried again by itself; `None` while it is being tried, or when only a change would help.
    pub retry: Option<Unix>,
}

/// How far a pin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// It waits for its turn.
    Queued,
    /// The record or the metadata is looked for.
    Resolving,
    /// The bytes are on their way. If there is a current version, it is served meanwhile.
    Downloading,
    /// The newest version known is here, whole and verified.
    Pinned,
    /// Something is served, but not what should be.
    Degraded,
    /// Nothing is served.
    Failed,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Resolving, Self::Downloading, Self::Pinned, Self::Degraded, Self::Failed];

    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Resolving => "resolving",
            Self::Downloading => "downloading",
            Self::Pinned => "pinned",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its name in the API.
    pub id: PinId,
    /// Whose it is.
    pub owner: Who,
    /// What it keeps.
    pub subject: Subject,
    /// What its owner chose.
    pub settings: Settings,
    /// The `Idempotency-Key` it was made with.
    pub made_by: Option<String>,
    /// When it was made.
    pub created: Unix,
    /// When anything of it changed last.
    pub updated: Unix,
    /// Grows with each change: its entity tag.
    pub revision: u64,
    /// The newest record seen; it may not be fetched yet.
    pub newest: Option<VerifiedItem>,
    /// By sequence number, each once.
    pub versions: Vec<Version>,
    /// The version that is served.
    pub current: Option<i64>,
    /// The version that is to be current next.
    pub wanted: Option<i64>,
    /// What is wrong with the record, or with fetching for this owner; what is wrong with a torrent is the torrent's.
    pub trouble: Option<Trouble>,
}

impl Pin {
    /// The version of this number.
    #[must_use]
    pub fn version(&self, seq: i64) -> Option<&Version> {
        self.versions.iter().find(|version| version.seq == seq)
    }

    pub(super) fn version_mut(&mut self, seq: i64) -> Option<&mut Version> {
        self.versions.iter_mut().find(|version| version.seq == seq)
    }

    /// Whether there is no room for the version that is wanted. It is then nobody's torrent, and not charged for.
    pub(super) fn is_blocked(&self) -> bool {
        let reason = self.trouble.as_ref().map(|trouble| trouble.reason);
        self.wanted.is_some() && matches!(reason, Some(Reason::OverQuota | Reason::TooLarge))
    }

    /// Whether its owner is charged for a version, once its size is known.
    pub(super) fn is_charged(&self, version: &Version) -> bool {
        version.state != VersionState::Released && !(self.is_blocked() && self.wanted == Some(version.seq))
    }

    /// The peers its owner named that are dialled. An address that only means something on some network is dialled on the
    /// operator's word alone: nobody else may aim this server inward.
    pub(super) fn origins(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let origins = self.settings.origins.iter().copied();
        origins.filter(|origin| self.owner == Who::Operator || is_public(origin.ip()))
    }

    /// The version that is served.
    #[must_use]
    pub fn current(&self) -> Option<&Version> {
        self.version(self.current?)
    }

    /// The version on its way.
    #[must_use]
    pub fn wanted(&self) -> Option<&Version> {
        self.version(self.wanted?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_bounds_and_each_has_a_sentence() {
        let change = |change: &dyn Fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check(Unix(100)).map_err(|error| error.to_string())
        };
        assert_eq!(change(&|_| {}), Ok(()));
        let origin: SocketAddr = "192.0.2.1:6881".parse().unwrap();
        type Setting<'a> = dyn Fn(&mut Settings) + 'a;
        let table: [(&Setting<'_>, &str); 9] = [
            (&|s| s.name = "x".repeat(256), "name is longer than 255 bytes"),
            (&|s| s.name = "a\nb".into(), "name has control characters"),
            (&|s| s.keep_versions = 101, "keep.versions is more than 100"),
            (&|s| s.keep_days = 3651, "keep.days is more than 3650"),
            (&|s| s.expires = Some(Unix(100)), "expires is in the past"),
            (&|s| s.meta = (0..33).map(|n| (n.to_string(), String::new())).collect(), "meta has more than 32 entries"),
            (
                &|s| s.meta = [(String::new(), String::new())].into(),
                "keys of meta have 1 to 64 bytes, its values at most 1024",
            ),
            (
                &|s| s.meta = [("k".into(), "v".repeat(1025))].into(),
                "keys of meta have 1 to 64 bytes, its values at most 1024",
            ),
            (&|s| s.origins = vec![origin; 21], "there are more than 20 origins"),
        ];
        for (setting, sentence) in table {
            assert_eq!(change(setting), Err(sentence.to_owned()));
        }
    }
}
