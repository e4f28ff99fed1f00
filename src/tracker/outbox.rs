//! What waits to be written to one WebSocket.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use tokio::sync::{Notify, mpsc};

use crate::metrics;
use crate::wire::tracker_ws::Message;

/// Messages that may wait for one socket. A page with a hundred torrents gets a hundred replies at once, and an offer or
/// two with each; what cannot be taken after that belongs to a reader that does not read.
const CAPACITY: usize = 512;

/// Free places below which offers are no longer queued: they are the bulk of the traffic and the one thing the network
/// can do without, since the offerer has made several.
const RESERVED_FOR_REPLIES: usize = CAPACITY / 4;

/// Sends to one WebSocket. Clones send to the same one.
///
/// A full outbox means a slow reader, and its socket is closed: a client that reconnects and announces again is better
/// off than one that silently lost an answer.
#[derive(Debug, Clone)]
pub struct Outbox {
    sender: mpsc::Sender<Queued>,
    shared: Arc<Shared>,
}

/// A message that is made only when it can be written, so that what waits for a slow reader is never out of date.
pub trait Late: Send + Sync + 'static {
    /// The frame, if there still is something to say. From now on the message is no longer queued.
    fn frame(&self) -> Option<Utf8Bytes>;
}

enum Queued {
    Frame(Utf8Bytes),
    Late(Arc<dyn Late>),
}

#[derive(Debug)]
struct Shared {
    overflowed: Notify,
    metrics: Arc<metrics::Tracker>,
}

/// The session's end of an [`Outbox`].
#[derive(Debug)]
pub(super) struct Inbox {
    messages: mpsc::Receiver<Queued>,
    shared: Arc<Shared>,
}

pub(super) fn channel(metrics: Arc<metrics::Tracker>) -> (Outbox, Inbox) {
    let (sender, messages) = mpsc::channel(CAPACITY);
    let shared = Arc::new(Shared { overflowed: Notify::new(), metrics });
    (Outbox { sender, shared: shared.clone() }, Inbox { messages, shared })
}

impl Outbox {
    /// Queues one text frame. `false` when the socket is closed, or is now being closed because it reads too slowly.
    pub fn send(&self, frame: impl Into<Utf8Bytes>) -> bool {
        self.queue(Queued::Frame(frame.into()))
    }

    /// Queues a place for a message that is made when its turn comes. Who queues it again before that takes another place.
    pub fn send_late(&self, late: Arc<dyn Late>) -> bool {
        self.queue(Queued::Late(late))
    }

    fn queue(&self, message: Queued) -> bool {
        match self.sender.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.shared.metrics.dropped.with_label_values(&["slow_reader"]).inc();
                self.shared.overflowed.notify_one();
                false
            }
        }
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
        if self.sender.capacity() < RESERVED_FOR_REPLIES {
            self.shared.metrics.dropped.with_label_values(&["busy_reader"]).inc();
            return false;
        }
        self.send_message(offer)
    }

    /// Counts an offer or answer that was passed on.
    pub(super) fn count_relayed(&self, kind: &str) {
        self.shared.metrics.relayed.with_label_values(&[kind]).inc();
    }
}

impl Queued {
    fn frame(self) -> Option<Utf8Bytes> {
        match self {
            Self::Frame(frame) => Some(frame),
            Self::Late(late) => late.frame(),
        }
    }
}

impl Inbox {
    /// The next message. The session holds an [`Outbox`] of its own, so there is always one to come.
    pub(super) async fn next(&mut self) -> Utf8Bytes {
        loop {
            let queued = self.messages.recv().await.expect("the session holds a sender");
            if let Some(frame) = queued.frame() {
                return frame;
            }
        }
    }

    /// The next message, if one waits already.
    pub(super) fn try_next(&mut self) -> Option<Utf8Bytes> {
        std::iter::from_fn(|| self.messages.try_recv().ok()).find_map(Queued::frame)
    }

    /// Resolves once a message has found no place.
    pub(super) fn overflowed(&self) -> impl Future<Output = ()> + use<> {
        let shared = self.shared.clone();
        async move { shared.overflowed.notified().await }
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
        fn frame(&self) -> Option<Utf8Bytes> {
            let asked = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            (asked != 1).then(|| asked.to_string().into())
        }
    }

    #[test]
    fn late_messages_are_made_when_they_are_read() {
        let (outbox, mut inbox) = channel(Arc::new(metrics::Tracker::detached()));
        let late = Arc::new(Count::default());
        for _ in 0..3 {
            assert!(outbox.send_late(late.clone()));
        }
        assert_eq!(late.0.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert_eq!(inbox.try_next().as_deref(), Some("0"));
        assert_eq!(inbox.next().now_or_never().as_deref(), Some("2"), "the second has nothing to say");
    }

    #[test]
    fn offers_leave_room_for_replies_and_replies_overflow() {
        let metrics = Arc::new(metrics::Tracker::detached());
        let (outbox, mut inbox) = channel(metrics.clone());
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
        assert!(inbox.overflowed().now_or_never().is_some());

        assert!(inbox.try_next().is_some());
        assert!(outbox.send("there is room again"));
        drop(inbox);
        assert!(!outbox.send("nobody reads"));
    }
}
