//! `GET /v1/records/{key}/events`: a record as server-sent events (WHATWG HTML §9.2): the newest version first, then each
//! newer one. `id` is the sequence number, so a client that reconnects with `Last-Event-ID` is sent only what it missed.
//!
//! A stream keeps no queue: what the client has not taken is replaced by what is newer.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
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
use super::extension::is_news;
use super::places::{Place, Places};
use super::record_api::{Address, ApiError, Found};
use super::subscriptions::Followed;
use crate::records::{Follower, Following, GetError, GetOptions, News};
use crate::tasks::Tasks;

/// A comment is sent after this much silence, so that proxies do not cut the connection (nginx: after a minute), and a
/// client that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(25);

/// A stream ends after this long: browsers reconnect by themselves, and one that somebody forgot does not stay for ever.
const LIFE: Duration = Duration::from_secs(3600);

/// Most streams of one listener: half of the connections it serves, so that they never keep requests out.
const MAX_STREAMS: usize = 4096;

/// Most streams of one address (IPv6: one /64). A browser opens six to one server. Loopback is a proxy of one's own, and exempt.
const MAX_STREAMS_PER_ADDRESS: usize = 32;

/// What is counted of one listener's streams, by host.
#[derive(Clone)]
pub(super) struct Streams {
    open: Arc<Places<IpAddr>>,
    followed: Arc<Followed>,
}

impl Streams {
    /// None yet. `followed` counts them with what follows records by other doors.
    pub(super) fn new(followed: Arc<Followed>) -> Self {
        Self { open: Places::new(MAX_STREAMS, MAX_STREAMS_PER_ADDRESS), followed }
    }
}

pub(super) async fn follow(
    State(rooms): State<Rooms>,
    Extension(streams): Extension<Streams>,
    CountsFor(asker): CountsFor,
    address: Address,
    request: HeaderMap,
) -> Result<Response, ApiError> {
    let (key, salt) = (address.key, address.salt());
    let host = asker.counted();
    let Some(places) = streams.open.take(host).zip(streams.followed.take(host)) else {
        let error = ApiError::plain(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open");
        return Err(error.too_many_if(true));
    };
    let listener = Arc::new(Listener::default());
    let following = rooms.records.follow((key, salt.clone()), listener.clone())?;
    let first = match rooms.records.get(key, salt, GetOptions::following(asker)).await {
        Ok(got) => got.item.map(|item| Arc::new(News::new(item, got.conflict))),
        // The stream begins empty, and a poll asks the DHT again soon.
        Err(GetError::TimedOut) => None,
        Err(error) => return Err(error.into()),
    };
    let sent = request.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let feed =
        Feed { listener, first, sent, end: Instant::now() + LIFE, tasks: rooms.tasks, _held: (following, places) };
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
    _held: (Following, (Place<IpAddr>, Place<IpAddr>)),
}

impl Feed {
    /// The next event, or a sign of life; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(news) = self.first.take()
            && is_news(&news.item, news.conflict, self.sent)
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
