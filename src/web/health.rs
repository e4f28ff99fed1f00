//! Is it alive, is it ready, how much is in it.

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;

use super::Rooms;

pub(super) fn routes() -> Router<Rooms> {
    Router::new().route("/livez", get(live)).route("/readyz", get(ready))
}

/// The process answers.
async fn live() -> &'static str {
    "ok\n"
}

/// New clients are welcome. A server that stops says no, so that whoever balances load sends them elsewhere. The DHT is
/// no condition: it is joined in the background, and a network of one's own may consist of this node.
async fn ready(State(rooms): State<Rooms>) -> impl IntoResponse {
    if rooms.tasks.is_stopping() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

pub(super) async fn stats(State(rooms): State<Rooms>) -> impl IntoResponse {
    let (tracker, dht) = (rooms.tracker.stats(), rooms.dht.info());
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "swarms": tracker.swarms,
        "peers": {"web": tracker.web_peers, "native": tracker.native_peers},
        "records": rooms.records.count(),
        "dht": {"nodes": dht.good_nodes, "ready": dht.ready},
    }))
}

pub(super) async fn metrics(State(rooms): State<Rooms>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], rooms.metrics.text())
}
