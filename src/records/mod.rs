//! Records: the BEP 44 items that clients of this server get and put, and that BEP 46 links point with.
//!
//! A get is answered from the book when the DHT was asked recently enough, else by one lookup for all who ask. A put is
//! verified, compared with the newest version known, written to disk and then sent to the DHT. The book (`book`) is pure
//! and in memory; `store` and `writer` keep it on disk; the service ([`Records`]) joins both with the DHT for `gets` and `puts`.
//!
//! Who follows a record is told of each newer version, however it came: put here, found by the poll of the DHT that all its
//! followers share (`topics` is pure, `poller` does it), or handed in by peers ([`Records::learn`]).
//!
//! The room knows nothing of who asks: WebSocket and HTTP are `web`'s. It knows the DHT as the trait `network::Network`.

use std::time::Duration;

use crate::wire::id::Target;
use crate::wire::item::{ItemError, VerifiedItem};
use crate::wire::record_messages::SERVER_ERROR;

pub use crate::wire::record_messages::{Mode, Source};
pub use adopted::Publication;
pub use following::{Following, Followings};
pub use quota::Asker;
pub use service::Records;
pub use store::{FILE, StartError};
pub use topics::{Follower, News, Subject, TooMany};
pub use writer::StoreError;

mod adopted;
mod book;
mod floors;
mod following;
mod gets;
#[cfg(test)]
pub(crate) mod memory_dht;
mod negative_cache;
pub(crate) mod network;
mod poller;
mod publisher;
mod puts;
mod quota;
mod schedule;
mod service;
mod single_flight;
mod store;
mod target_locks;
#[cfg(test)]
mod tests;
mod topics;
mod values;
mod writer;

/// How a get is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GetOptions {
    /// Whether the DHT is to be asked.
    pub mode: Mode,
    /// An answer checked with the DHT this recently will do; `None` leaves it to the configuration.
    pub max_age: Option<Duration>,
    /// A version below this one will not do.
    pub min_seq: Option<i64>,
    /// The first version found that is not below this one will do: who asks follows the record, and is told of newer ones.
    pub first_from: Option<i64>,
    /// Whose quota a lookup counts for.
    pub asker: Asker,
}

impl GetOptions {
    /// For who follows the record: the first version that is found, whichever it is.
    #[must_use]
    pub fn following(asker: Asker) -> Self {
        Self { first_from: Some(0), asker, ..Self::default() }
    }

    /// The version that ends the wait for a lookup. Who wants an answer of the network waits for its end; who would take
    /// one that is kept takes the first that would have done.
    fn enough(&self) -> Option<i64> {
        match self.mode {
            Mode::Network => None,
            Mode::CacheFirst | Mode::CacheOnly => self.min_seq.max(self.first_from),
        }
    }
}

/// How a put is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// Store only over the version of this number.
    pub cas: Option<i64>,
    /// Whose quota it counts for.
    pub asker: Asker,
}

/// The answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// The newest version known, if any is.
    pub item: Option<VerifiedItem>,
    /// Whether the DHT was asked for this answer and holds it.
    pub source: Source,
    /// Two values with this sequence number were seen.
    pub conflict: bool,
}

/// Why a get has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// Too many lookups are under way.
    #[error("the server is busy with other lookups; try again later")]
    Busy,
    /// The asker has used up its lookups.
    #[error("this address has made too many lookups; try again later")]
    OverQuota,
    /// The lookup did not end in time, and nothing is known here.
    #[error("the DHT did not answer in time")]
    TimedOut,
    /// The node stops.
    #[error("the server is shutting down")]
    Stopping,
}

impl GetError {
    /// The error code of `spec/dht-proxy.md`.
    #[must_use]
    pub fn code(self) -> i64 {
        SERVER_ERROR
    }
}

/// A put that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOk {
    /// Where the item lives.
    pub target: Target,
    /// DHT nodes that took it. The item is kept and served here also when there were none.
    pub stored: usize,
    /// Two values with this sequence number were seen.
    pub conflict: bool,
}

/// Why a put was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The item is not valid.
    #[error("{0}")]
    Invalid(#[from] ItemError),
    /// `cas` is not the newest version's number.
    #[error("the newest version has sequence number {}, which is not the one expected (cas)", .0.seq())]
    CasMismatch(Box<VerifiedItem>),
    /// A newer version is known.
    #[error("the newest version has sequence number {}, which this one does not replace", .0.seq())]
    Stale(Box<VerifiedItem>),
    /// A newer version is known by its number alone.
    #[error("the newest version has sequence number {0}, which this one does not replace")]
    BelowFloor(i64),
    /// The asker has used up its puts.
    #[error("this address has made too many puts; try again later")]
    OverQuota,
    /// The newest version could not be made sure of.
    #[error("the newest version is not known: {0}")]
    Unsure(GetError),
    /// The item could not be kept.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl PutError {
    /// The error code of `spec/dht-proxy.md`.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Self::Invalid(error) => error.code(),
            Self::CasMismatch(_) => 301,
            Self::Stale(_) | Self::BelowFloor(_) => 302,
            Self::OverQuota | Self::Unsure(_) | Self::Store(_) => SERVER_ERROR,
        }
    }

    /// The version that won, with 301 and 302, if it is still kept.
    #[must_use]
    pub fn current(&self) -> Option<&VerifiedItem> {
        match self {
            Self::CasMismatch(item) | Self::Stale(item) => Some(item),
            _ => None,
        }
    }
}
