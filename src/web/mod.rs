//! The HTTP doors: the app, the tracker's socket and its HTTP form, the record API, health and metrics.
//!
//! The room holds no state of its own. Each file is one door to another room; what they all share is here: which routes
//! the public reaches ([`public`]) and which only the operator ([`admin`]), and how connections are served ([`serve`]).

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;

use self::client_address::Trust;
use crate::config;
use crate::dht::Dht;
use crate::metrics::Metrics;
use crate::pins::Pins;
use crate::records::Records;
use crate::tasks::Tasks;
use crate::tracker::Tracker;

pub use ice::Ice;
pub use listener::{Clients, serve};

mod announce;
mod app;
mod client_address;
mod client_stream;
mod content;
mod counts_for;
mod events;
mod extension;
mod headers;
mod health;
mod ice;
mod list_api;
mod listener;
mod pins;
mod places;
mod proxy_protocol;
mod rebinding;
mod record_api;
mod socket;
mod stats_page;
mod subscriptions;
#[cfg(test)]
mod tests;

/// What the doors lead to.
#[derive(Clone)]
#[allow(missing_docs, reason = "each is documented in its room")]
pub struct Rooms {
    pub tracker: Tracker,
    pub records: Records,
    pub dht: Dht,
    pub ice: Ice,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
    /// Absent in trials of the other doors, which have no bridge to pin with.
    pub pins: Option<Pins>,
}

/// Everything that the public reaches.
///
/// A WebSocket is accepted at any path: clients are given tracker addresses with any path, or none.
pub fn public(rooms: Rooms, settings: &config::Web) -> Router {
    let followed = subscriptions::followed(&rooms.records);
    let mut api = record_api::routes(followed.clone()).layer(from_fn(headers::cross_origin)).merge(ice::routes());
    if let Some(pins) = &rooms.pins {
        api = api.merge(pins::public(pins.clone()));
        if pins.content_door() {
            api = api.merge(content::routes(pins.clone()));
        }
    }
    Router::new()
        .route("/announce", get(announce::announce))
        .route("/scrape", get(announce::scrape))
        // A private tracker's addresses; with no passkeys configured any will do.
        .route("/{passkey}/announce", get(announce::announce))
        .route("/{passkey}/scrape", get(announce::scrape))
        .nest("/v1", api)
        .merge(health::routes())
        .route("/stats", get(stats_page::page))
        .route("/stats.css", get(stats_page::style))
        .route("/stats.json", get(health::stats))
        .fallback(app::file)
        .layer(from_fn_with_state(socket::Door::new(&rooms, settings, followed), socket::upgrade))
        .layer(from_fn_with_state(Trust::new(settings), client_address::note))
        .layer(from_fn(headers::safe))
        .with_state(rooms)
}

/// Everything that only the operator reaches.
pub fn admin(rooms: Rooms) -> Router {
    let followed = subscriptions::followed(&rooms.records);
    let mut api = record_api::routes(followed).merge(list_api::routes());
    if let Some(pins) = &rooms.pins {
        api = api.merge(pins::admin(pins.clone()));
    }
    // Pages of other origins are not let in: no answer here allows them.
    Router::new()
        .nest("/v1", api.layer(from_fn(rebinding::refuse)))
        .merge(health::routes())
        .route("/stats.json", get(health::stats))
        .route("/metrics", get(health::metrics))
        .layer(from_fn(counts_for::nobody))
        .layer(from_fn(headers::safe))
        .with_state(rooms)
}
