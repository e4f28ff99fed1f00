//! WebTorrent's tracker protocol over WebSocket: JSON in text frames.
//!
//! There is no BEP for it; this is what deployed clients and trackers do. Twenty-byte ids are strings with one character
//! per byte, U+0000 to U+00FF, as `JSON.stringify` writes them. Session descriptions are relayed as the raw JSON text
//! they came in, never decoded and encoded again.
//!
//! Reading is forgiving where clients differ (a missing `left`, an unknown `event`, a malformed offer among good ones)
//! and exact where a mistake would cross peers (ids). Every refusal is a [`Failure`], which names the action and the
//! info hash whenever the message did: a page has all its torrents on one socket and could not tell them apart otherwise.

mod encode;
mod parse;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::id::{InfoHash, PeerId};
use super::tracker::{Counts, Progress};

pub use parse::parse;

/// Offers looked at in one announce; clients make five to ten.
pub const MAX_OFFERS: usize = 20;

/// Swarms one scrape may ask for.
pub const MAX_SCRAPED: usize = 200;

/// The name an offerer gives an offer; its answer repeats it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OfferId(pub [u8; 20]);

/// A WebRTC session description, `{"type":…,"sdp":"…"}`, as the JSON text it came in: a part of the frame that brought it,
/// so that passing it on copies it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description<'a>(Cow<'a, str>);

/// One offer of an announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Its name.
    pub id: OfferId,
    /// What is offered.
    pub description: Description<'a>,
}

/// A message from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// `"action":"announce"`
    Announce(Announce<'a>),
    /// An announce with a field `bep46`, which is not the tracker's (`spec/dht-proxy.md`, *In announces*).
    AnnounceWith {
        /// The announce.
        announce: Announce<'a>,
        /// The field, as JSON text.
        bep46: &'a str,
    },
    /// `"action":"scrape"`. Without info hashes it asks for every swarm there is.
    Scrape(Vec<InfoHash>),
    /// Any other action.
    Other(Other),
}

/// What an announce says, about one peer in one swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce<'a> {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The peer that speaks.
    pub peer_id: PeerId,
    /// What it wants.
    pub intent: Intent<'a>,
}

/// The three things one `announce` can mean, and its opposite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent<'a> {
    /// It is in the swarm and offers connections to others. Malformed offers are left out already, and never more are
    /// here than it wants peers (`numwant`).
    Offers {
        /// How far it is.
        progress: Progress,
        /// At least one, at most [`MAX_OFFERS`].
        offers: Vec<Offer<'a>>,
    },
    /// It is in the swarm: a sign of life, or news of its progress.
    Update {
        /// How far it is.
        progress: Progress,
    },
    /// It accepts another peer's offer.
    Answer {
        /// Who made the offer.
        to: PeerId,
        /// Which one.
        offer_id: OfferId,
        /// The answer.
        answer: Description<'a>,
    },
    /// It leaves the swarm.
    Stop,
}

/// A message whose action is not the tracker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The action.
    pub action: String,
    /// The request's `id`, as JSON text, to be echoed in a failure.
    pub id: Option<Box<str>>,
}

/// A message to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// The reply to an announce.
    Announced {
        /// The swarm.
        info_hash: InfoHash,
        /// Seconds until the next announce is expected.
        interval: u64,
        /// The swarm's counts, the announcer included.
        counts: Counts,
    },
    /// An offer of another peer.
    Offer {
        /// The swarm.
        info_hash: InfoHash,
        /// The offerer.
        peer_id: PeerId,
        /// What it offers.
        offer: Offer<'a>,
    },
    /// An answer to an offer of the receiver's.
    Answer {
        /// The swarm.
        info_hash: InfoHash,
        /// The answerer.
        peer_id: PeerId,
        /// The offer it answers.
        offer_id: OfferId,
        /// The answer.
        answer: Description<'a>,
    },
    /// The reply to a scrape: every swarm asked for, zeros for unknown ones (clients complain about an empty reply).
    Scraped(Vec<(InfoHash, Counts)>),
    /// A refusal.
    Failure(Failure),
}

/// Why a message was refused, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The refused message's action, if it is known.
    pub action: Option<String>,
    /// Its info hash, as JSON text, if it named one: also when it is malformed.
    pub info_hash: Option<Box<str>>,
    /// Its `id`, as JSON text, if it had one.
    pub id: Option<Box<str>>,
    /// Why.
    pub reason: Reason,
}

/// Everything that a WebSocket client may be refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each sentence documents its variant")]
pub enum Reason {
    #[error("the message is not a JSON object")]
    NotAnObject,
    #[error("the message has no action (\"announce\" or \"scrape\")")]
    NoAction,
    #[error("this server does not know the action")]
    UnknownAction,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} must be a string of 20 characters from U+0000 to U+00FF, one for each byte, and has {got}")]
    NotTwenty { field: &'static str, got: usize },
    #[error("{0} must be a string of 20 characters from U+0000 to U+00FF, one for each byte")]
    NotAnId(&'static str),
    #[error("answer must be an object with a string sdp")]
    BadAnswer,
    #[error("one scrape may name at most {MAX_SCRAPED} info hashes")]
    TooManyScraped,
    #[error("the scrape names no info hash, and this connection is in no swarm")]
    NothingToScrape,
    #[error("this connection brings as many peers as one connection may")]
    SocketFull,
    #[error("this tracker does not serve this torrent")]
    NotServed,
    #[error("this address announces too often")]
    TooOften,
    #[error("this address brings as many peers as one address may")]
    AddressFull,
    #[error("the tracker is full")]
    TrackerFull,
    #[error("too many requests of this connection are in progress")]
    TooManyInFlight,
}

impl Reason {
    /// The code for programs, of the one reason that concerns messages which are not the tracker's: BEP 5's 202, "Server
    /// Error". `spec/dht-proxy.md`: a refusal without code means that the server has no DHT proxy at all.
    fn code(self) -> Option<i64> {
        (self == Self::TooManyInFlight).then_some(202)
    }
}

impl Description<'_> {
    /// The offer with this session description.
    #[must_use]
    pub fn offer(sdp: &str) -> Self {
        Self::of("offer", sdp)
    }

    /// The answer with this session description.
    #[must_use]
    pub fn answer(sdp: &str) -> Self {
        Self::of("answer", sdp)
    }

    fn of(r#type: &'static str, sdp: &str) -> Self {
        #[derive(Serialize)]
        struct Session<'a> {
            r#type: &'static str,
            sdp: &'a str,
        }
        let json = serde_json::to_string(&Session { r#type, sdp }).expect("strings are JSON");
        Self(json.into())
    }

    /// The session description, decoded.
    #[must_use]
    pub fn sdp(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Sdp {
            sdp: String,
        }
        serde_json::from_str(&self.0).ok().map(|Sdp { sdp }| sdp)
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { action: None, info_hash: None, id: None, reason }
    }
}

impl Failure {
    /// A refused announce.
    #[must_use]
    pub fn of_announce(info_hash: &InfoHash, reason: Reason) -> Self {
        Self {
            action: Some("announce".into()),
            info_hash: Some(encode::string_of(&info_hash.0).into()),
            id: None,
            reason,
        }
    }

    /// A refused message of another action.
    #[must_use]
    pub fn of_other(message: Other, reason: Reason) -> Self {
        Self { action: Some(message.action), info_hash: None, id: message.id, reason }
    }
}

#[cfg(test)]
mod tests;
