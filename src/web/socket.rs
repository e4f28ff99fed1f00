//! WebSockets, which all are the tracker's, whatever the path.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{ORIGIN, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::client_address::ClientAddress;
use super::client_stream::ClientStream;
use super::extension::DhtExtensions;
use super::subscriptions::Followed;
use super::{Rooms, content};
use crate::config;
use crate::pins::Pins;
use crate::tasks::Tasks;
use crate::tracker::{Extensions, Tracker};

/// Where sockets go.
#[derive(Clone)]
pub(super) struct Door {
    tracker: Tracker,
    extensions: Arc<dyn Extensions>,
    tasks: Tasks,
    /// Whose pages may come; all where it is empty.
    origins: Arc<[String]>,
}

impl Door {
    pub(super) fn new(rooms: &Rooms, settings: &config::Web, followed: Arc<Followed>) -> Self {
        let Rooms { tracker, records, dht, tasks, pins, .. } = rooms.clone();
        let web_seeds = pins.filter(Pins::content_door).map(|_| content::WEB_SEEDS);
        let extensions = Arc::new(DhtExtensions { records, dht, web_seeds, followed });
        Self { tracker, extensions, tasks, origins: settings.allowed_origins.as_slice().into() }
    }

    /// RFC 6455 §10.2: "Servers that … only intend to process inputs from certain sites SHOULD verify the |Origin|
    /// field". Only browsers send one, and only theirs can be believed.
    fn welcomes(&self, headers: &HeaderMap) -> bool {
        let allowed = |origin: &HeaderValue| {
            self.origins.iter().any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
        };
        self.origins.is_empty() || headers.get(ORIGIN).is_none_or(allowed)
    }
}

/// Takes requests for a WebSocket and lets all others pass.
pub(super) async fn upgrade(State(door): State<Door>, request: Request, next: Next) -> Response {
    if !asks_for_socket(request.headers()) {
        return next.run(request).await;
    }
    if door.tasks.is_stopping() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if !door.welcomes(request.headers()) {
        return (StatusCode::FORBIDDEN, "pages of this origin may not use this tracker\n").into_response();
    }
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    if !door.tracker.admits(path, query) {
        return (StatusCode::FORBIDDEN, "this tracker is private: its address needs a valid passkey\n").into_response();
    }
    let (parts, body) = request.into_parts();
    let ClientAddress(from) = ClientAddress::of(&parts);
    door.tracker.upgrade::<ClientStream>(Request::from_parts(parts, body), from, door.extensions)
}

/// RFC 6455 §4.2.1: "An |Upgrade| header field containing the value "websocket", treated as an ASCII case-insensitive
/// value".
fn asks_for_socket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
