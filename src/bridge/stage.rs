//! Where a joined torrent stands, from an info hash to files on disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::cache::Kept;
use super::engine::Running;
use super::pieces::PieceSet;
use super::storage::Folder;
use crate::wire::metainfo::Metainfo;

/// Where a joined torrent stands.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// There is no torrent, only a record (`spec/record-exchange.md`); it stays so.
    Topic,
    /// Only the info hash is known.
    Metadata,
    /// The engine checks what is on disk.
    Checking(Arc<Metainfo>),
    /// Peers may be spliced.
    Live(Live),
}

/// A torrent that the engine runs.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) metainfo: Arc<Metainfo>,
    /// Where the engine takes peers.
    pub(super) engine: SocketAddr,
    /// The pieces on disk.
    pub(super) have: watch::Receiver<PieceSet>,
    /// Where the files lie.
    pub(super) root: PathBuf,
    /// The same, for reading blocks.
    pub(super) files: Folder,
    /// Keeps them from being evicted; absent where they are the user's own.
    pub(super) kept: Option<Arc<Kept>>,
    /// The engine's own handle, for those who want a part before others.
    pub(super) running: Option<Running>,
}

impl Stage {
    pub(super) fn metainfo(&self) -> Option<&Arc<Metainfo>> {
        match self {
            Self::Topic | Self::Metadata => None,
            Self::Checking(metainfo) | Self::Live(Live { metainfo, .. }) => Some(metainfo),
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Topic | Self::Metadata | Self::Checking(_) => None,
        }
    }

    /// Whether peers may be told things that are for everybody: of a private torrent they may not, "and so not before it
    /// knows the torrent's metadata" (`spec/record-exchange.md`; BEP 27).
    pub(super) fn is_known_public(&self) -> bool {
        matches!(self, Self::Topic) || self.metainfo().is_some_and(|metainfo| !metainfo.is_private())
    }

    /// Whether every piece is here.
    pub(super) fn is_complete(&self) -> bool {
        self.live().is_some_and(|live| live.have.borrow().is_complete())
    }

    /// The metrics' label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Metadata => "metadata",
            Self::Checking(_) => "checking",
            Self::Live(_) => "live",
        }
    }
}
