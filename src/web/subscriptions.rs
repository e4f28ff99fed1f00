//! What one socket follows. However fast a record changes and however slowly the client reads, at most one update of each
//! record waits for it, and that is the newest: it is made when it can be written.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use super::places::{Place, Places};
use crate::records::{Follower, Following, News, Records, Subject, TooMany};
use crate::tracker::{Late, Outbox};
use crate::wire::id::{InfoHash, Target};
use crate::wire::record_messages::{MAX_SUBSCRIPTIONS, announce_frame, update_frame};
use crate::wire::tracker::Counts;

/// How many records each host follows, over all its connections and doors.
pub(super) type Followed = Places<IpAddr>;

/// Nobody follows anything yet.
pub(super) fn followed(records: &Records) -> Arc<Followed> {
    // In all, the records are bounded by their room.
    Places::new(usize::MAX, records.max_subscriptions_per_address())
}

/// One socket's subscriptions.
pub(super) struct Subscriptions {
    // A std mutex: it is held for a few synchronous lines. Below it are the topics' and then each subscription's.
    open: Mutex<Open>,
}

struct Open {
    /// One taken for each subscription.
    places: Place<IpAddr>,
    /// A list, since most sockets follow one record, of which a map would take as much as of four.
    subscriptions: Vec<Subscription>,
}

/// How a client asked. It may do so in both ways, and then hears in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Subscribed,
    Announced,
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

struct Subscription {
    listener: Arc<Listener>,
    /// Held for its end.
    following: Following,
}

/// Interval and counts of the last reply to an announce: pushes repeat them.
type AnnounceReply = (u64, Counts);

/// Turns news into frames. Small, since there may be hundreds of thousands.
struct Listener {
    kind: Kind,
    outbox: Outbox,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What waits to be written; its place in the outbox is taken.
    pending: Option<Arc<News>>,
    /// For announces.
    reply: Option<Box<AnnounceReply>>,
}

impl Subscriptions {
    /// None yet, of a client that takes these places.
    pub(super) fn new(places: Place<IpAddr>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::new(Open { places, subscriptions: Vec::new() }) })
    }

    /// Begins a subscription, which is to be kept once all went well.
    pub(super) fn begin(
        self: &Arc<Self>,
        records: &Records,
        target: Target,
        subject: Subject,
        out: &Outbox,
    ) -> Result<Begun, SubscribeError> {
        self.follow(records, (target, Kind::Subscribed), Some(subject), None, out)
    }

    /// Begins what an announce asks for, in the same way, or renews it.
    pub(super) fn begin_announced(
        self: &Arc<Self>,
        records: &Records,
        target: Target,
        subject: Option<Subject>,
        reply: AnnounceReply,
        out: &Outbox,
    ) -> Result<Begun, SubscribeError> {
        self.follow(records, (target, Kind::Announced), subject, Some(reply), out)
    }

    pub(super) fn end(&self, target: &Target) {
        self.remove(target, Kind::Subscribed);
    }

    pub(super) fn end_announced(&self, target: &Target) {
        self.remove(target, Kind::Announced);
    }

    fn remove(&self, target: &Target, kind: Kind) {
        let mut open = self.open();
        if let Some(at) = open.subscriptions.iter().position(|known| known.is(target, kind)) {
            open.subscriptions.swap_remove(at);
            open.places.free_one();
        }
    }

    fn follow(
        self: &Arc<Self>,
        records: &Records,
        what: (Target, Kind),
        subject: Option<Subject>,
        reply: Option<AnnounceReply>,
        out: &Outbox,
    ) -> Result<Begun, SubscribeError> {
        let mut open = self.open();
        let Open { places, subscriptions } = &mut *open;
        let reply = reply.map(Box::new);
        let (target, kind) = what;
        if let Some(known) = subscriptions.iter().find(|known| known.is(&target, kind)) {
            known.listener.state().reply = reply;
            return Ok(Begun { of: self.clone(), target, kind, is_new: false, subject });
        }
        if subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(SubscribeError::Connection);
        }
        if !places.take_one() {
            return Err(SubscribeError::Address);
        }
        let listener =
            Arc::new(Listener { kind, outbox: out.clone(), state: Mutex::new(State { pending: None, reply }) });
        let following = records.follow_target(target, subject, listener.clone()).inspect_err(|_| places.free_one())?;
        if subscriptions.is_empty() {
            subscriptions.reserve_exact(1);
        }
        subscriptions.push(Subscription { listener, following });
        Ok(Begun { of: self.clone(), target, kind, is_new: true, subject: None })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics while holding it")
    }
}

impl Subscription {
    fn is(&self, target: &Target, kind: Kind) -> bool {
        self.following.target() == target && self.listener.kind == kind
    }
}

/// A subscription whose request is not answered yet. Dropped, it ends again, unless it was there before.
#[must_use]
pub(super) struct Begun {
    of: Arc<Subscriptions>,
    target: Target,
    kind: Kind,
    is_new: bool,
    /// Of one that was there before and perhaps does not know it.
    subject: Option<Subject>,
}

impl Begun {
    pub(super) fn keep(mut self) {
        self.is_new = false;
        if let Some(subject) = self.subject.take() {
            let open = self.of.open();
            if let Some(known) = open.subscriptions.iter().find(|known| known.is(&self.target, self.kind)) {
                known.following.name(subject);
            }
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.is_new {
            self.of.remove(&self.target, self.kind);
        }
    }
}

impl Listener {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }
}

impl Follower for Listener {
    fn newer(self: Arc<Self>, news: &Arc<News>) {
        let waits = self.state().pending.replace(news.clone()).is_some();
        if !waits {
            // A full outbox closes the socket, and with it goes the subscription.
            self.outbox.clone().send_late(self);
        }
    }
}

impl Late for Listener {
    fn message(&self) -> Option<String> {
        let mut state = self.state();
        let news = state.pending.take()?;
        match state.reply.as_deref() {
            None => {
                let frame = news.frame(|news| update_frame(&news.item, news.conflict));
                Some(String::from_utf8(frame.into()).expect("JSON is UTF-8"))
            }
            Some(&(interval, counts)) => {
                let info_hash = InfoHash(news.item.target().0);
                Some(announce_frame(info_hash, interval, counts, &news.item))
            }
        }
    }
}
