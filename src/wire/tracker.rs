//! What the three tracker protocols (WebSocket, HTTP, UDP) have in common.

use std::num::NonZeroU16;

use super::id::{InfoHash, PeerId};

/// How far the announcing peer says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has just become complete: a seeder, and one more download counted.
    Completed,
    /// Nothing is left: a seeder.
    Seeding,
    /// Something is left: a leecher, even if it was a seeder before.
    Leeching,
    /// It does not say (a page that opened a magnet does not know yet): what it was before, at first a leecher.
    Unsaid,
}

/// The counts of one swarm, as announces and scrapes give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Seeders.
    pub complete: usize,
    /// Leechers.
    pub incomplete: usize,
    /// Completed downloads ever reported, as far as that is remembered.
    pub downloaded: usize,
}

/// Why a request is refused in which nothing is wrong. The sentences are those of the HTTP tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each sentence documents its variant")]
pub enum Refusal {
    #[error("this tracker does not serve this torrent")]
    NotServed,
    #[error("this tracker is private: its address needs a valid passkey")]
    NoPasskey,
    #[error("this address announces too often")]
    TooOften,
    #[error("the tracker is full")]
    TrackerFull,
    #[error("this address has announced as many peers as it may; those that are gone make room in time")]
    AddressFull,
}

/// An announce over HTTP or UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeAnnounce {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The announcer.
    pub peer_id: PeerId,
    /// Where it listens, at the address the request came from. Addresses in the request itself (BEP 3 `ip`, BEP 7
    /// `ipv4` and `ipv6`, BEP 15's IP address) are not believed: they would let anyone aim peers at anyone. A client with
    /// both families announces over both. Nor is `key` used, which is for clients whose address changes: a native peer is
    /// known by its address and port, so the old entry expires and nobody can take over another's.
    pub port: NonZeroU16,
    /// How far it is; `None` when it leaves the swarm.
    pub progress: Option<Progress>,
    /// How many peers it asks for, if it says.
    pub numwant: Option<usize>,
}
