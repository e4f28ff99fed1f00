//! WebSockets, which all are the tracker's, whatever the path.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::UPGRADE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Rooms;
use super::client_address::ClientAddress;
use super::extension::DhtActions;
use crate::tasks::Tasks;
use crate::tracker::{Extension, Tracker};

/// Where sockets go.
#[derive(Clone)]
pub(super) struct Door {
    tracker: Tracker,
    extension: Arc<dyn Extension>,
    tasks: Tasks,
}

impl Door {
    pub(super) fn new(rooms: &Rooms) -> Self {
        let extension = Arc::new(DhtActions::new(rooms.records.clone(), rooms.dht.clone()));
        Self { tracker: rooms.tracker.clone(), extension, tasks: rooms.tasks.clone() }
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
    let (mut parts, _) = request.into_parts();
    let ClientAddress(from) = ClientAddress::of(&parts);
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => door.tracker.prepare(upgrade).on_upgrade(async move |socket| {
            // The framework runs this in a task that nobody owns, so it only starts the one that somebody does.
            let tasks = door.tasks.clone();
            tasks.spawn(async move { door.tracker.serve_socket(socket, from, door.extension).await });
        }),
        Err(rejection) => rejection.into_response(),
    }
}

/// RFC 6455 §4.2.1: "An |Upgrade| header field containing the value "websocket", treated as an ASCII case-insensitive
/// value".
fn asks_for_socket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
