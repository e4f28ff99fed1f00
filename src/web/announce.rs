//! The tracker over HTTP (BEP 3, BEP 48). Failures are bencoded answers too, so the status is always 200.

use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;

use super::Rooms;
use super::client_address::ClientAddress;

pub(super) async fn announce(
    State(rooms): State<Rooms>,
    ClientAddress(from): ClientAddress,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    bencoded(rooms.tracker.http_announce(&query.unwrap_or_default(), from).await)
}

pub(super) async fn scrape(State(rooms): State<Rooms>, RawQuery(query): RawQuery) -> impl IntoResponse {
    bencoded(rooms.tracker.http_scrape(&query.unwrap_or_default()).await)
}

/// BEP 3: the answer is "a text/plain document consisting of a bencoded dictionary".
fn bencoded(body: Vec<u8>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain"), (CACHE_CONTROL, "no-store")], body)
}
