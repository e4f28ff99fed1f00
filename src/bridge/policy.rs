//! Which swarms the bridge joins: decided from numbers, with no I/O.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, BridgePolicy};
use crate::wire::metainfo::Metainfo;

/// Why a swarm or a peer is turned away; the label of `bridge_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The policy does not cover the torrent.
    #[error("the bridge's policy does not cover this torrent")]
    Policy,
    /// The operator's list says so.
    #[error("the operator does not want this torrent")]
    Denied,
    /// The bytes of the day are used up.
    #[error("as many bytes were bridged today as the configuration allows")]
    DayFull,
    /// As many torrents as the configuration allows.
    #[error("as many torrents are bridged as the configuration allows")]
    TorrentsFull,
    /// As many peers as the configuration allows.
    #[error("as many peers are connected as the configuration allows")]
    PeersFull,
    /// It failed a moment ago.
    #[error("the torrent failed a moment ago")]
    CoolingDown,
    /// Larger than the configuration allows.
    #[error("the torrent is larger than the configuration allows")]
    TorrentTooLarge,
    /// More files, or folders, than the configuration allows.
    #[error("the torrent has more files or folders than the configuration allows")]
    TooManyFiles,
    /// The cache has no room that could be made.
    #[error("the cache has no room for the torrent")]
    CacheFull,
    /// This peer is connected, or about to be.
    #[error("the peer is connected already")]
    Duplicate,
    /// As many peers of one address as the configuration allows.
    #[error("as many peers of this address are connected as the configuration allows")]
    AddressFull,
    /// A peer of this address lied.
    #[error("a peer of this address lied")]
    Banned,
    /// The peer has everything and so have we.
    #[error("neither side needs the other")]
    Sated,
}

impl Refusal {
    /// The metric's label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Denied => "denied",
            Self::DayFull => "day_full",
            Self::TorrentsFull => "torrents_full",
            Self::PeersFull => "peers_full",
            Self::CoolingDown => "cooling_down",
            Self::TorrentTooLarge => "torrent_too_large",
            Self::TooManyFiles => "too_many_files",
            Self::CacheFull => "cache_full",
            Self::AddressFull => "address_full",
            Self::Banned => "banned",
            Self::Duplicate => "duplicate",
            Self::Sated => "sated",
        }
    }
}

/// How full the bridge is when a web peer asks for a swarm.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    /// The swarm is joined already.
    pub joined: bool,
    /// It failed a moment ago.
    pub cooling_down: bool,
    /// Torrents bridged: joined for web peers.
    pub torrents: usize,
    /// Places left for peers.
    pub free_peers: usize,
    /// The operator's list names the torrent.
    pub denied: bool,
    /// The bytes of the day are used up.
    pub day_full: bool,
    /// It is there whatever web peers want: a pin, a seed, a topic.
    pub ours: bool,
}

/// Whether a web peer's swarm is joined. `pointed_to` tells whether a verified record names the torrent; it is asked last,
/// being the dearest question.
pub(super) fn admit(settings: &config::Bridge, load: Load, pointed_to: impl FnOnce() -> bool) -> Result<(), Refusal> {
    let covered = match settings.policy {
        BridgePolicy::Off => false,
        BridgePolicy::Open => true,
        // Pinned torrents are joined by whoever pins them, not by the announce of a web peer.
        BridgePolicy::Pinned => load.joined,
        BridgePolicy::Sites => load.joined || pointed_to(),
    };
    let refusals = [
        (load.denied, Refusal::Denied),
        (!covered, Refusal::Policy),
        (load.day_full && !load.ours, Refusal::DayFull),
        (load.cooling_down, Refusal::CoolingDown),
        (load.free_peers == 0, Refusal::PeersFull),
        (!load.joined && load.torrents >= settings.max_torrents, Refusal::TorrentsFull),
    ];
    refusals.into_iter().find(|(refused, _)| *refused).map_or(Ok(()), |(_, refusal)| Err(refusal))
}

/// Names in the paths of a torrent's files, for each file it may have: most files lie two or three folders deep.
const NAMES_PER_FILE: usize = 5;

/// Whether a torrent is kept in the cache, now that its metadata tells its size. Files and folders cost inodes and memory,
/// however short they are.
pub(super) fn admit_size(settings: &config::Bridge, metainfo: &Metainfo) -> Result<(), Refusal> {
    let names: usize = metainfo.files().iter().map(|file| file.path.len()).sum();
    let most = settings.max_torrent_files;
    if metainfo.total_length() > settings.max_torrent_size.as_u64() {
        return Err(Refusal::TorrentTooLarge);
    }
    if metainfo.files().len() > most || names > most.saturating_mul(NAMES_PER_FILE) {
        return Err(Refusal::TooManyFiles);
    }
    Ok(())
}

/// What bridged torrents have passed on today.
#[derive(Debug)]
pub(super) struct Day {
    /// Zero for no limit.
    limit: u64,
    /// Days since 1970, and bytes since that one began.
    today: Mutex<(u64, u64)>,
}

impl Day {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, today: Mutex::new((0, 0)) }
    }

    /// Counts bytes; whether the day is full. `now` is the time since 1970.
    pub(super) fn add(&self, bytes: u64, now: Duration) -> bool {
        if self.limit == 0 {
            return false;
        }
        let day = now.as_secs() / (24 * 3600);
        // A std mutex: held for an addition.
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.0 != day {
            *today = (day, 0);
        }
        today.1 = today.1.saturating_add(bytes);
        today.1 > self.limit
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    #[test]
    fn policies() {
        let joined = Load { joined: true, torrents: 1, free_peers: 1, ..Load::default() };
        let free = Load { joined: false, ..joined };
        // policy, load, a record points to it → joined
        let table = [
            (BridgePolicy::Off, free, true, Err(Refusal::Policy)),
            (BridgePolicy::Off, joined, true, Err(Refusal::Policy)),
            (BridgePolicy::Pinned, free, true, Err(Refusal::Policy)),
            (BridgePolicy::Pinned, joined, false, Ok(())),
            (BridgePolicy::Sites, free, false, Err(Refusal::Policy)),
            (BridgePolicy::Sites, free, true, Ok(())),
            (BridgePolicy::Sites, joined, false, Ok(())),
            (BridgePolicy::Open, free, false, Ok(())),
            (BridgePolicy::Open, Load { torrents: 2, ..free }, false, Err(Refusal::TorrentsFull)),
            (BridgePolicy::Open, Load { torrents: 2, ..joined }, false, Ok(())),
            (BridgePolicy::Open, Load { free_peers: 0, ..joined }, false, Err(Refusal::PeersFull)),
            (BridgePolicy::Open, Load { cooling_down: true, ..free }, false, Err(Refusal::CoolingDown)),
            (BridgePolicy::Open, Load { denied: true, ..joined }, true, Err(Refusal::Denied)),
            (BridgePolicy::Open, Load { day_full: true, ..joined }, true, Err(Refusal::DayFull)),
            (BridgePolicy::Open, Load { day_full: true, ours: true, ..joined }, true, Ok(())),
        ];
        for (policy, load, pointed_to, expected) in table {
            let settings = config::Bridge { policy, max_torrents: 2, ..config::Bridge::default() };
            assert_eq!(admit(&settings, load, || pointed_to), expected, "{policy:?} {load:?} {pointed_to}");
        }
    }

    #[test]
    fn a_day_is_full_until_the_next() {
        let hour = |hours: u64| Duration::from_secs(hours * 3600);
        let day = Day::new(100);
        assert!(!day.add(100, hour(30)) && day.add(1, hour(47)) && day.add(0, hour(47)));
        assert!(!day.add(0, hour(48)) && !day.add(100, hour(49)));
        assert!(!Day::new(0).add(u64::MAX, hour(1)));
    }

    #[test]
    fn files_and_folders_are_bounded() {
        let torrent = |files: usize, depth: usize| {
            let path = |n: usize| (0..depth).map(|level| format!("{n}.{level}")).collect::<Vec<_>>();
            let files: Vec<_> = (0..files).map(|n| (path(n), u64::from(n == 0))).collect();
            Metainfo::build("x", &files, 1 << 14, &[[0; 20]]).unwrap()
        };
        let settings = config::Bridge { max_torrent_files: 10, ..config::Bridge::default() };
        let refused = Err(Refusal::TooManyFiles);
        for (files, depth, expected) in
            [(10, 1, Ok(())), (11, 1, refused), (10, 5, Ok(())), (10, 6, refused), (1, 50, Ok(()))]
        {
            assert_eq!(admit_size(&settings, &torrent(files, depth)), expected, "{files} files, {depth} names each");
        }
    }

    #[test]
    fn size_is_bounded() {
        let files = [(vec!["a".to_owned()], 1000)];
        let metainfo = Metainfo::build("x", &files, 1 << 14, &[[0; 20]]).unwrap();
        for (max, fits) in [(999, false), (1000, true)] {
            let settings = config::Bridge { max_torrent_size: ByteSize(max), ..config::Bridge::default() };
            assert_eq!(admit_size(&settings, &metainfo).is_ok(), fits);
        }
    }
}
