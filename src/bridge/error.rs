//! What the bridge's callers are told when it will not do as they ask.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the bridge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen for {what} on {addr}: {source}")]
    Listen {
        /// Which peers.
        what: &'static str,
        /// The address configured.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use {path}: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The torrent engine does not start.
    #[error("cannot start the torrent engine: {0}")]
    Engine(String),
}

/// Why a torrent is not joined, or was left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TorrentError {
    /// It is joined already, for another purpose or with another folder.
    #[error("the torrent is in use already")]
    InUse,
    /// What is on disk is not what the torrent says.
    #[error("the files do not match the torrent: {0}")]
    Mismatch(String),
    /// Too large, or no room.
    #[error("{0}")]
    Refused(String),
    /// The engine or the disk failed.
    #[error("{0}")]
    Failed(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl TorrentError {
    /// Whether trying again at once would end the same.
    pub(super) fn is_lasting(&self) -> bool {
        !matches!(self, Self::Stopping | Self::InUse)
    }
}
