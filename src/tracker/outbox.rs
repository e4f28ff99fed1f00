//! What waits to be written to one WebSocket.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::metrics;
use crate::wire::tracker_ws::Message;
use crate::wire::websocket;

/// Messages that may wait for one socket. A page with a hundred torrents gets a hundred replies at once, and an offer or
/// two with each; what cannot be taken after that belongs to a reader that does not read.
const CAPACITY: usize = 512;

/// Free places below which offers are no longer queued: they are the bulk of the traffic and the one thing the network
/// can do without, since the offerer has made several.
const RESERVED_FOR_REPLIES: usize = CAPACITY / 4;

/// Messages taken out at once. Few, because a [`Late`] one is made when it is taken.
const BATCH: usize = 64;

/// Sends to one WebSocket. Clones send to the same one.
///
/// A full outbox means a slow reader, and its socket is closed: a client that reconnects and announces again is better
/// off than one that silently lost an answer.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

/// A message that is made only when it can be written, so that what waits for a slow reader is never out of date.
pub trait Late: Send + Sync + 'static {
    /// The message, if there still is something to say. From now on it is no longer queued.
    fn message(&self) -> Option<String>;
}

enum Queued {
    Frame(Box<[u8]>),
    Late(Arc<dyn Late>),
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("queued", &self.shared.queue().messages.len()).finish_non_exhaustive()
    }
}

struct Shared {
    // A std mutex: it is held while a frame is put in or frames are taken out, never across an await. A channel would
    // keep a block of places for every idle socket; this keeps none.
    queue: Mutex<Queue>,
    metrics: Arc<metrics::Tracker>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Queued>,
    overflowed: bool,
    /// The session is gone.
    closed: bool,
    /// The session, while it waits.
    session: Option<Waker>,
}

/// A message has found no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflowed;

/// The session's end of an [`Outbox`].
pub(super) struct Inbox {
    shared: Arc<Shared>,
}

pub(super) fn channel(metrics: Arc<metrics::Tracker>) -> (Outbox, Inbox) {
    let shared = Arc::new(Shared { queue: Mutex::default(), metrics });
    (Outbox { shared: shared.clone() }, Inbox { shared })
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Queues one text message. `false` when the socket is closed, or is now being closed because it reads too slowly.
    pub fn send(&self, message: impl AsRef<str>) -> bool {
        self.push(Queued::Frame(websocket::text(message.as_ref())))
    }

    /// Queues a place for a message that is made when its turn comes. Who queues it again before that takes another place.
    pub fn send_late(&self, late: Arc<dyn Late>) -> bool {
        self.push(Queued::Late(late))
    }

    /// Queues a message of the tracker's own, and counts what it is.
    pub(super) fn send_message(&self, message: &Message) -> bool {
        let metrics = &self.shared.metrics;
        match message {
            Message::Announced { .. } => metrics.announces.with_label_values(&["ws"]).inc(),
            Message::Scraped(_) => metrics.scrapes.with_label_values(&["ws"]).inc(),
            Message::Failure(_) => metrics.errors.with_label_values(&["ws"]).inc(),
            Message::Offer { .. } | Message::Answer { .. } => {}
        }
        self.send(message.encode())
    }

    /// Queues an offer if there is plenty of room, and drops it otherwise.
    pub(super) fn send_offer(&self, offer: &Message) -> bool {
        if CAPACITY - self.shared.queue().messages.len() < RESERVED_FOR_REPLIES {
            self.shared.metrics.dropped.with_label_values(&["busy_reader"]).inc();
            return false;
        }
        self.send_message(offer)
    }

    /// Counts an offer or answer that was passed on.
    pub(super) fn count_relayed(&self, kind: &str) {
        self.shared.metrics.relayed.with_label_values(&[kind]).inc();
    }

    fn push(&self, message: Queued) -> bool {
        let mut queue = self.shared.queue();
        if queue.closed {
            return false;
        }
        let sent = queue.messages.len() < CAPACITY;
        if sent {
            queue.messages.push_back(message);
        } else {
            queue.overflowed = true;
        }
        let session = queue.session.take();
        drop(queue);
        if !sent {
            self.shared.metrics.dropped.with_label_values(&["slow_reader"]).inc();
        }
        if let Some(session) = session {
            session.wake();
        }
        sent
    }
}

impl Queue {
    fn take(&mut self) -> VecDeque<Queued> {
        if self.messages.len() <= BATCH {
            return std::mem::take(&mut self.messages);
        }
        self.messages.drain(..BATCH).collect()
    }
}

/// Called without the queue: a late message may be queued again while it is made.
fn frames(messages: VecDeque<Queued>) -> VecDeque<Box<[u8]>> {
    let frame = |queued| match queued {
        Queued::Frame(frame) => Some(frame),
        Queued::Late(late) => late.message().map(|message| websocket::text(&message)),
    };
    messages.into_iter().filter_map(frame).collect()
}

impl Inbox {
    /// Waits for messages, and takes some: as frames, for which there may be none when there was nothing to say.
    pub(super) async fn take(&self) -> Result<VecDeque<Box<[u8]>>, Overflowed> {
        let taken = poll_fn(|cx| match self.poll_overflowed(cx) {
            (Poll::Ready(overflowed), _) => Poll::Ready(Err(overflowed)),
            (Poll::Pending, queue) if queue.messages.is_empty() => Poll::Pending,
            (Poll::Pending, mut queue) => Poll::Ready(Ok(queue.take())),
        });
        taken.await.map(frames)
    }

    /// Whether it had better be emptied before it is given more.
    pub(super) fn is_filling(&self) -> bool {
        self.shared.queue().messages.len() >= CAPACITY / 4
    }

    /// As [`Self::take`], of what is there now.
    pub(super) fn take_now(&self) -> VecDeque<Box<[u8]>> {
        let taken = self.shared.queue().take();
        frames(taken)
    }

    /// Resolves once a message has found no place.
    pub(super) async fn overflowed(&self) -> Overflowed {
        poll_fn(|cx| self.poll_overflowed(cx).0).await
    }

    fn poll_overflowed(&self, cx: &mut Context<'_>) -> (Poll<Overflowed>, MutexGuard<'_, Queue>) {
        let mut queue = self.shared.queue();
        if queue.overflowed {
            return (Poll::Ready(Overflowed), queue);
        }
        match &mut queue.session {
            Some(session) => session.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        (Poll::Pending, queue)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        queue.session = None;
        let unread = std::mem::take(&mut queue.messages);
        // A late message may hold the last of something that sends here.
        drop(queue);
        drop(unread);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::wire::id::{InfoHash, PeerId};
    use crate::wire::tracker_ws::{Description, Offer, OfferId};

    /// Says how often it was asked, and nothing the second time.
    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicUsize);

    impl Late for Count {
        fn message(&self) -> Option<String> {
            let asked = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            (asked != 1).then(|| asked.to_string())
        }
    }

    #[test]
    fn late_messages_are_made_when_they_are_read() {
        let (outbox, inbox) = channel(Arc::new(metrics::Tracker::detached()));
        let late = Arc::new(Count::default());
        for _ in 0..3 {
            assert!(outbox.send_late(late.clone()));
        }
        assert_eq!(late.0.load(std::sync::atomic::Ordering::SeqCst), 0);
        let taken = inbox.take().now_or_never().unwrap().unwrap();
        assert_eq!(taken, [websocket::text("0"), websocket::text("2")], "the second has nothing to say");
    }

    #[test]
    fn offers_leave_room_for_replies_and_replies_overflow() {
        let metrics = Arc::new(metrics::Tracker::detached());
        let (outbox, inbox) = channel(metrics.clone());
        let dropped = |reason| metrics.dropped.with_label_values(&[reason]).get();
        let offer = Message::Offer {
            info_hash: InfoHash([0; 20]),
            peer_id: PeerId([0; 20]),
            offer: Offer { id: OfferId([0; 20]), description: Description::answer("") },
        };
        let queued = (0..CAPACITY).filter(|_| outbox.send_offer(&offer)).count();
        assert_eq!(queued, CAPACITY - RESERVED_FOR_REPLIES + 1);
        assert_eq!(dropped("busy_reader") as usize, CAPACITY - queued);
        assert!(inbox.overflowed().now_or_never().is_none());

        assert_eq!((queued..CAPACITY).filter(|_| outbox.send("reply")).count(), CAPACITY - queued);
        assert!(!outbox.send("one too many"));
        assert_eq!(dropped("slow_reader"), 1);
        assert_eq!(inbox.overflowed().now_or_never(), Some(Overflowed));
        assert_eq!(inbox.take().now_or_never(), Some(Err(Overflowed)));
    }

    #[test]
    fn frames_come_out_in_order_and_leave_nothing() {
        let (outbox, inbox) = channel(Arc::new(metrics::Tracker::detached()));
        assert!(inbox.take().now_or_never().is_none());
        assert!(outbox.send("one") && outbox.send("two"));
        let taken = inbox.take().now_or_never().unwrap().unwrap();
        assert_eq!(taken, [websocket::text("one"), websocket::text("two")]);
        assert_eq!(inbox.shared.queue().messages.capacity(), 0);

        outbox.send("three");
        assert_eq!(inbox.take_now().len(), 1);
        drop(inbox);
        assert!(!outbox.send("nobody reads"));
    }
}
