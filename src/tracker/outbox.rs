//! What waits to be written to one WebSocket.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use tokio::sync::{Notify, mpsc};

use crate::metrics;

/// Messages that may wait for one socket. A page with a hundred torrents gets a hundred replies at once, and an offer or
/// two with each; what cannot be taken after that belongs to a reader that does not read.
const CAPACITY: usize = 512;

/// Free places below which offers are no longer queued: they are the bulk of the traffic and the one thing the
/// network can do without, since the offerer has made several.
const RESERVED_FOR_REPLIES: usize = CAPACITY / 4;

/// Sends to one WebSocket. Clones send to the same one.
///
/// A full outbox means a slow reader, and its socket is closed: a client that reconnects and announces again is better
/// off than one that silently lost an answer.
#[derive(Debug, Clone)]
pub struct Outbox {
    sender: mpsc::Sender<Utf8Bytes>,
    overflowed: Arc<Notify>,
    metrics: metrics::Tracker,
}

/// The session's end of an [`Outbox`].
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) messages: mpsc::Receiver<Utf8Bytes>,
    /// Notified once a message found no place.
    pub(super) overflowed: Arc<Notify>,
}

pub(super) fn channel(metrics: metrics::Tracker) -> (Outbox, Inbox) {
    let (sender, messages) = mpsc::channel(CAPACITY);
    let overflowed = Arc::new(Notify::new());
    (Outbox { sender, overflowed: overflowed.clone(), metrics }, Inbox { messages, overflowed })
}

impl Outbox {
    /// Queues one message. `false` when the socket is closed, or is now being closed because it reads too slowly.
    pub fn send(&self, message: impl Into<Utf8Bytes>) -> bool {
        match self.sender.try_send(message.into()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.metrics.dropped.with_label_values(&["slow_reader"]).inc();
                self.overflowed.notify_one();
                false
            }
        }
    }

    /// Queues an offer if there is plenty of room, and drops it otherwise.
    pub(super) fn send_offer(&self, message: impl Into<Utf8Bytes>) -> bool {
        if self.sender.capacity() < RESERVED_FOR_REPLIES {
            self.metrics.dropped.with_label_values(&["busy_reader"]).inc();
            return false;
        }
        self.send(message)
    }
}
