//! `GET /v1/events`: what happens to one's pins, as server-sent events (WHATWG HTML §9.2). `id` is the event's number, so a
//! client that comes back with `Last-Event-ID` is sent what it missed, also over a restart of the server.
//!
//! A stream keeps no queue: what the client has not taken stays in the ledger, which remembers the last ten thousand. A
//! client that missed more is told so (`missed`), and asks for what there is.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::auth::{Holder, presented_in};
use super::model::EventBody;
use super::problem::Problem;
use crate::pins::{Pins, Presented, TokenId, Who};
use crate::web::places::{Place, Places};

/// A comment is sent after this much silence, so that proxies do not cut the connection and a client that is gone is
/// noticed.
const HEARTBEAT: Duration = Duration::from_secs(25);

/// A stream ends after this long: clients come back by themselves, and one that somebody forgot does not stay for ever.
const LIFE: Duration = Duration::from_secs(3600);

/// Most streams of one listener.
const MAX_STREAMS: usize = 1024;

/// Events sent in one piece.
const BATCH: usize = 100;

/// Most streams of one token: a few programs on a few machines.
const MAX_STREAMS_PER_TOKEN: usize = 16;

/// The streams of one listener, by token.
pub(super) type Streams = Places<TokenId>;

pub(super) fn streams() -> Arc<Streams> {
    Places::new(MAX_STREAMS, MAX_STREAMS_PER_TOKEN)
}

pub(super) async fn follow(
    State(pins): State<Pins>,
    Extension(streams): Extension<Arc<Streams>>,
    Holder(who): Holder,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let token = match who {
        Who::Token(token) => Some(token),
        Who::Operator => None,
    };
    let place = streams.take(token);
    let place = place.ok_or_else(|| Problem::unavailable("there are as many streams open as there may be"))?;
    let presented = headers.get(AUTHORIZATION).and_then(presented_in);
    let news = pins.events();
    let seen = match headers.get("last-event-id") {
        None => *news.borrow(),
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.parse().ok());
            id.ok_or_else(|| Problem::bad_request("Last-Event-ID is the number of an event"))?
        }
    };
    let feed = Feed { pins, who, presented, news, seen, opened: false, end: Instant::now() + LIFE, _place: place };
    let body = Body::from_stream(stream::unfold(feed, |mut feed| async move {
        let piece = feed.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), feed))
    }));
    Ok(([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")], body).into_response())
}

struct Feed {
    pins: Pins,
    who: Who,
    /// The token by which this was opened. The operator's own streams need none.
    presented: Option<Presented>,
    news: watch::Receiver<u64>,
    /// The number of the last event sent, or passed over.
    seen: u64,
    opened: bool,
    end: Instant,
    _place: Place<TokenId>,
}

impl Feed {
    /// The next events, or a sign of life; `None` at the end, which a token's is too.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.opened, true) {
            // At once, so that the client knows that it is heard from here on.
            let missed = self.seen + 1 < self.pins.first_event();
            return Some(if missed { "event: missed\ndata: {}\n\n".into() } else { ":\n\n".into() });
        }
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            if self.presented.as_ref().is_some_and(|presented| self.pins.admit(presented).is_none()) {
                return None;
            }
            self.news.mark_unchanged();
            let (events, until) = self.pins.events_after(self.who, self.seen, BATCH);
            self.seen = until.max(self.seen);
            if !events.is_empty() {
                let text = events.iter().map(|event| {
                    let json = serde_json::to_string(&EventBody::new(event)).expect("strings and numbers are JSON");
                    format!("id: {}\nevent: {}\ndata: {json}\n\n", event.number, event.kind.name())
                });
                return Some(text.collect::<String>().into());
            }
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                () = sleep_until(heartbeat) => return Some(Bytes::from_static(b":\n\n")),
                () = sleep_until(self.end) => return None,
                () = self.pins.stopping() => return None,
            }
        }
    }
}
