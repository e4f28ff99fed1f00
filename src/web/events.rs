//! `GET /v1/records/{key}/events`: a record as server-sent events (WHATWG HTML §9.2): the newest version first, then each
//! newer one. `id` is the sequence number, so a client that reconnects with `Last-Event-ID` is sent only what it missed.
//!
//! A stream keeps no queue: what the client has not taken is replaced by what is newer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Rooms;
use super::counts_for::CountsFor;
use super::record_api::{Address, ApiError, Found};
use crate::records::{Asker, Follower, Following, GetError, GetOptions, News};
use crate::tasks::Tasks;

/// A comment is sent after this much silence, so that proxies do not cut the connection (nginx: after a minute), and a
/// client that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(25);

/// A stream ends after this long: browsers reconnect by themselves, and one that somebody forgot does not stay for ever.
const LIFE: Duration = Duration::from_secs(3600);

/// Most streams of one listener: half of the connections it serves, so that they never keep requests out.
const MAX_STREAMS: usize = 4096;

/// Most streams of one address. A browser opens six to one server. Loopback is a proxy of one's own, and exempt.
const MAX_STREAMS_PER_ADDRESS: usize = 32;

/// The streams of one listener, counted.
#[derive(Debug, Default)]
pub(super) struct Streams {
    // A std mutex: it is held for a few synchronous lines.
    open: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// A stream's place; dropping it frees it.
struct Place {
    streams: Arc<Streams>,
    address: Option<IpAddr>,
}

impl Streams {
    fn take(self: Arc<Self>, asker: Asker) -> Option<Place> {
        let address = match asker {
            Asker::Address(address) if !address.is_loopback() => Some(address),
            _ => None,
        };
        let mut open = self.open();
        let (all, by_address) = &mut *open;
        let of_address = address.and_then(|address| by_address.get(&address)).copied().unwrap_or(0);
        if *all >= MAX_STREAMS || of_address >= MAX_STREAMS_PER_ADDRESS {
            return None;
        }
        *all += 1;
        by_address.extend(address.map(|address| (address, of_address + 1)));
        drop(open);
        Some(Place { streams: self, address })
    }

    fn open(&self) -> MutexGuard<'_, (usize, HashMap<IpAddr, usize>)> {
        self.open.lock().expect("nothing panics while holding it")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        let (all, by_address) = &mut *open;
        *all -= 1;
        if let Some(address) = self.address
            && let Some(count) = by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

pub(super) async fn follow(
    State(rooms): State<Rooms>,
    Extension(streams): Extension<Arc<Streams>>,
    CountsFor(asker): CountsFor,
    address: Address,
    request: HeaderMap,
) -> Result<Response, ApiError> {
    let (key, salt) = (address.key, address.salt());
    let Some(place) = streams.take(asker) else {
        let error = ApiError::plain(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open");
        return Err(error.too_many_if(true));
    };
    let listener = Arc::new(Listener::default());
    let following = rooms.records.follow((key, salt.clone()), listener.clone())?;
    let first = match rooms.records.get(key, salt, GetOptions { asker, ..GetOptions::default() }).await {
        Ok(got) => got.item.map(|item| Arc::new(News::new(item, got.conflict))),
        // The stream begins empty, and a poll asks the DHT again soon.
        Err(GetError::TimedOut) => None,
        Err(error) => return Err(error.into()),
    };
    let sent = request.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let feed =
        Feed { listener, first, sent, end: Instant::now() + LIFE, tasks: rooms.tasks, _held: (following, place) };
    let body = Body::from_stream(stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok::<_, std::convert::Infallible>(event), feed))
    }));
    Ok(([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")], body).into_response())
}

/// What the client has not taken yet.
#[derive(Default)]
struct Listener {
    pending: Mutex<Option<Arc<News>>>,
    changed: Notify,
}

impl Follower for Listener {
    fn newer(self: Arc<Self>, news: &Arc<News>) {
        *self.pending.lock().expect("nothing panics while holding it") = Some(news.clone());
        self.changed.notify_one();
    }
}

/// One open stream.
struct Feed {
    listener: Arc<Listener>,
    first: Option<Arc<News>>,
    /// The newest number that the client has.
    sent: Option<i64>,
    end: Instant,
    tasks: Tasks,
    _held: (Following, Place),
}

impl Feed {
    /// The next event, or a sign of life; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(news) = self.first.take()
            && Some(news.item.seq()) > self.sent
        {
            return Some(self.event(&news));
        }
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let pending = self.listener.pending.lock().expect("nothing panics while holding it").take();
            // Of two values with one number the larger follows the smaller.
            if let Some(news) = pending.filter(|news| Some(news.item.seq()) >= self.sent) {
                return Some(self.event(&news));
            }
            tokio::select! {
                () = self.listener.changed.notified() => {}
                () = sleep_until(heartbeat) => return Some(Bytes::from_static(b":\n\n")),
                () = sleep_until(self.end) => return None,
                () = self.tasks.stopping() => return None,
            }
        }
    }

    fn event(&mut self, news: &News) -> Bytes {
        self.sent = Some(news.item.seq());
        let found = Found::new(&news.item, None, news.conflict);
        let json = serde_json::to_string(&found).expect("strings and numbers are JSON");
        format!("id: {}\ndata: {json}\n\n", news.item.seq()).into()
    }
}
