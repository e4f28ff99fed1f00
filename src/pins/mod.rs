//! Pins: torrents and mutable sites that are kept online, for their owners, whoever else has them.
//!
//! ```text
//!  web, cli ── requests ──► service ──► ledger ──► changes ──► store (SQLite)
//!                             ▲           │
//!  records ── newer records ──┤           └──────► effects ──► driver ──► records, bridge
//!  bridge ── how far it is ───┘                                verifier ──► disk
//! ```
//!
//! The `ledger` is pure: who pinned what, which version is fetched, served and let go, what it costs whom. The `store` has
//! it on disk before anything is acknowledged; the `driver` joins swarms and follows records as the ledger says, and tells it
//! what comes of that; the `verifier` reads bytes back from disk.
//!
//! The room knows records and the bridge. It does not know who asks: HTTP, tokens in headers and the command line are
//! `web`'s and `cli`'s.

mod accounts;
mod driver;
mod events;
mod fetch;
mod ids;
mod ledger;
mod pin;
mod room;
mod service;
mod store;
mod token;
mod torrents;
mod verifier;

pub use accounts::Usage;
pub use events::{Event, EventKind, MAX_EVENTS};
pub use ids::{NotATime, PinId, TokenId, Unix, Who};
pub use ledger::{Create, RequestError};
pub use pin::{InvalidSetting, Pin, Reason, Settings, Size, Status, Subject, Trouble, Version, VersionState};
pub use service::{NewToken, PinError, Pins, View};
pub use store::{FILE, StartError, StoreError};
pub use token::{MAX_TOKEN_NAME, Presented, Quota, Scope, Token};
