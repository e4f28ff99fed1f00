//! What one socket follows. However fast a record changes and however slowly the client reads, at most one update of each
//! record waits for it, and that is the newest: it is made when it can be written.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use super::places::{Place, Places};
use crate::records::{Follower, Followings, News, Records, Subject, TooMany};
use crate::tracker::{Late, Outbox};
use crate::wire::id::{InfoHash, Target};
use crate::wire::record_messages::{MAX_SUBSCRIPTIONS, announce_frame, update_frame};
use crate::wire::tracker::Counts;
use crate::wire::websocket;

/// How many records each host follows, over all its connections and doors.
pub(super) type Followed = Places<IpAddr>;

/// Nobody follows anything yet.
pub(super) fn followed(records: &Records) -> Arc<Followed> {
    // In all, the records are bounded by their room.
    Places::new(usize::MAX, records.max_subscriptions_per_address())
}

/// How a client asked. It may do so in both ways, and then hears in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Subscribed,
    Announced,
}

/// One socket's subscriptions. Small, since every socket has them, also those of pages that follow nothing.
pub(super) struct Subscriptions {
    records: Records,
    // A std mutex: it is held for a few synchronous lines. Below it are a listener's followings, the topics, and a
    // listener's state, in this order.
    open: Mutex<Open>,
}

struct Open {
    /// One taken for each subscription.
    places: Place<IpAddr>,
    /// By kind, from the first subscription on.
    listeners: [Option<Arc<Listener>>; 2],
}

/// Why a subscription is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubscribeError {
    #[error("this connection follows {MAX_SUBSCRIPTIONS} records already")]
    Connection,
    #[error("this address follows as many records as it may")]
    Address,
    #[error(transparent)]
    Server(#[from] TooMany),
}

/// Interval and counts of the last reply to an announce: pushes repeat them.
type AnnounceReply = (u64, Counts);

/// Turns news into frames, of all records that the socket follows in one way. A subscription takes 24 bytes here, in a
/// list: most sockets follow one record, and none many.
struct Listener {
    outbox: Outbox,
    followings: Mutex<Followings>,
    state: Mutex<State>,
}

struct State {
    /// What waits to be written, one of each record; each has a place in the outbox.
    pending: Vec<Arc<News>>,
    /// Of announces, the reply to the last of each. Boxed, since subscriptions have none.
    replies: Option<Box<Replies>>,
}

#[derive(Default)]
struct Replies(Vec<(Target, AnnounceReply)>);

impl Subscriptions {
    /// None yet, of a client that takes these places.
    pub(super) fn new(records: Records, places: Place<IpAddr>) -> Arc<Self> {
        Arc::new(Self { records, open: Mutex::new(Open { places, listeners: [None, None] }) })
    }

    /// Whose records are followed.
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Begins a subscription, which is to be kept once all went well.
    pub(super) fn begin(
        self: &Arc<Self>,
        target: Target,
        subject: Subject,
        out: &Outbox,
    ) -> Result<Begun, SubscribeError> {
        let is_new = self.open().follow(&self.records, (target, Kind::Subscribed), Some(&subject), None, out)?;
        Ok(Begun { of: self.clone(), target, kind: Kind::Subscribed, is_new, subject: Some(subject) })
    }

    /// Begins what an announce asks for, in the same way, or renews it.
    pub(super) fn begin_announced(
        self: &Arc<Self>,
        target: Target,
        subject: Option<Subject>,
        reply: AnnounceReply,
        out: &Outbox,
    ) -> Result<Begun, SubscribeError> {
        let is_new =
            self.open().follow(&self.records, (target, Kind::Announced), subject.as_ref(), Some(reply), out)?;
        Ok(Begun { of: self.clone(), target, kind: Kind::Announced, is_new, subject })
    }

    pub(super) fn end(&self, target: &Target) {
        self.open().end(&self.records, target, Kind::Subscribed);
    }

    pub(super) fn end_announced(&self, target: &Target) {
        self.open().end(&self.records, target, Kind::Announced);
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics while holding it")
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for listener in self.open().listeners.iter().flatten() {
            self.records.end_all(&mut listener.followings());
        }
    }
}

impl Open {
    /// Whether it is a new one; of one that there is already the reply is renewed.
    fn follow(
        &mut self,
        records: &Records,
        (target, kind): (Target, Kind),
        subject: Option<&Subject>,
        reply: Option<AnnounceReply>,
        out: &Outbox,
    ) -> Result<bool, SubscribeError> {
        let count: usize = self.listeners.iter().flatten().map(|listener| listener.followings().len()).sum();
        let listener = self.listeners[kind as usize].get_or_insert_with(|| Listener::new(out.clone())).clone();
        let mut followings = listener.followings();
        let is_new = !followings.has(&target);
        if is_new && count >= MAX_SUBSCRIPTIONS {
            return Err(SubscribeError::Connection);
        }
        if is_new && !self.places.take_one() {
            return Err(SubscribeError::Address);
        }
        if let Some(reply) = reply {
            listener.state().replies.get_or_insert_default().set(target, reply);
        }
        if is_new && let Err(error) = records.follow_too(&mut followings, target, subject.cloned(), listener.clone()) {
            self.places.free_one();
            listener.state().forget(&target);
            return Err(error.into());
        }
        Ok(is_new)
    }

    fn end(&mut self, records: &Records, target: &Target, kind: Kind) {
        let Some(listener) = &self.listeners[kind as usize] else { return };
        if records.end(&mut listener.followings(), target) {
            listener.state().forget(target);
            self.places.free_one();
        }
    }
}

/// A subscription whose request is not answered yet. Dropped, it ends again, unless it was there before.
#[must_use]
pub(super) struct Begun {
    of: Arc<Subscriptions>,
    target: Target,
    kind: Kind,
    is_new: bool,
    subject: Option<Subject>,
}

impl Begun {
    pub(super) fn keep(mut self) {
        let was_there = !std::mem::take(&mut self.is_new);
        if was_there && let Some(subject) = self.subject.take() {
            // Perhaps by an announce that named no key.
            self.of.records.name(self.target, subject);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.is_new {
            self.of.open().end(&self.of.records, &self.target, self.kind);
        }
    }
}

impl Listener {
    fn new(outbox: Outbox) -> Arc<Self> {
        let (followings, state) = (Mutex::default(), Mutex::new(State { pending: Vec::new(), replies: None }));
        Arc::new(Self { outbox, followings, state })
    }

    fn followings(&self) -> MutexGuard<'_, Followings> {
        self.followings.lock().expect("nothing panics while holding it")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }
}

impl State {
    /// Whether it takes a place in the outbox: a former version that still waits has one.
    fn wait(&mut self, news: &Arc<News>) -> bool {
        match self.pending.iter_mut().find(|waiting| waiting.target() == news.target()) {
            Some(waiting) => {
                *waiting = news.clone();
                false
            }
            None => {
                self.pending.push(news.clone());
                true
            }
        }
    }

    /// What comes first, and the reply that an announce of it had.
    fn next(&mut self) -> Option<(Arc<News>, Option<AnnounceReply>)> {
        if self.pending.is_empty() {
            return None;
        }
        let news = self.pending.remove(0);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        let reply = match &self.replies {
            Some(replies) => Some(replies.of(news.target())?),
            None => None,
        };
        Some((news, reply))
    }

    fn forget(&mut self, target: &Target) {
        self.pending.retain(|waiting| waiting.target() != target);
        if let Some(Replies(replies)) = self.replies.as_deref_mut() {
            replies.retain(|(of, _)| of != target);
        }
    }
}

impl Replies {
    fn of(&self, target: &Target) -> Option<AnnounceReply> {
        self.0.iter().find(|(of, _)| of == target).map(|(_, reply)| *reply)
    }

    fn set(&mut self, target: Target, reply: AnnounceReply) {
        match self.0.iter_mut().find(|(of, _)| *of == target) {
            Some((_, known)) => *known = reply,
            None => self.0.push((target, reply)),
        }
    }
}

impl Follower for Listener {
    fn newer(self: Arc<Self>, news: &Arc<News>) {
        let is_first = self.state().wait(news);
        if is_first {
            // A full outbox closes the socket, and with it go the subscriptions.
            self.outbox.clone().send_late(self);
        }
    }
}

impl Late for Listener {
    fn frame(&self) -> Option<Arc<[u8]>> {
        let (news, reply) = self.state().next()?;
        Some(match reply {
            None => news.frame(|news| websocket::text(&update_frame(&news.item, news.conflict))),
            Some((interval, counts)) => {
                let info_hash = InfoHash(news.target().0);
                websocket::text(&announce_frame(info_hash, interval, counts, &news.item)).into()
            }
        })
    }
}
