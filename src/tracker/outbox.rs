//! What waits to be written to one WebSocket.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::counters::Counters;
use super::frames::{Frames, Late, Queued};
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

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("queued", &self.shared.queue().messages.len()).finish_non_exhaustive()
    }
}

struct Shared {
    // A std mutex: it is held while a frame is put in or frames are taken out, never across an await. A channel would
    // keep a block of places for every idle socket; this keeps none.
    queue: Mutex<Queue>,
    /// Looks since the client was last heard; see [`Outbox::look`].
    silent_looks: AtomicU8,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Queued>,
    /// Why the session must end, if somebody else says so.
    end: Option<Forced>,
    /// The session is gone.
    closed: bool,
    /// The session waits to be woken.
    asleep: bool,
    session: Option<Waker>,
}

/// Why a session ends that would have gone on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forced {
    /// A message has found no place.
    Overflowed,
    /// The client does not answer to pings.
    Silent,
    /// The node stops.
    Stopping,
}

/// The session's end of an [`Outbox`].
pub(super) struct Inbox {
    shared: Arc<Shared>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Queues one text message. `false` when the socket is closed, or is now being closed because it reads too slowly.
    pub fn send(&self, message: impl AsRef<str>) -> bool {
        self.send_frame(websocket::text(message.as_ref()))
    }

    /// Queues a place for a message that is made when its turn comes. Who queues it again before that takes another place.
    pub fn send_late(&self, late: Arc<dyn Late>) -> bool {
        self.push(Queued::Late(late))
    }

    /// Queues a message of the tracker's own, and counts what it is.
    pub(super) fn send_message(&self, message: &Message<'_>) -> bool {
        let counters = &self.shared.counters;
        match message {
            Message::Announced { .. } => counters.announces.inc(),
            Message::Scraped(_) => counters.scrapes.inc(),
            Message::Failure(_) => counters.errors.inc(),
            Message::Offer { .. } | Message::Answer { .. } => {}
        }
        self.send_frame(websocket::text_with(message.size_hint(), |text| message.write_to(text)))
    }

    /// Queues an offer if there is plenty of room, and drops it otherwise.
    pub(super) fn send_offer(&self, offer: &Message<'_>) -> bool {
        if CAPACITY - self.shared.queue().messages.len() < RESERVED_FOR_REPLIES {
            self.shared.counters.busy_reader.inc();
            return false;
        }
        self.send_message(offer)
    }

    /// Counts an answer of the resident's that was passed on.
    pub(super) fn count_resident_answer(&self) {
        self.shared.counters.resident_answers.inc();
    }

    /// Looks whether the client is still there; to be called at regular times. Whatever it sends counts as a sign of
    /// life, so a busy socket is never pinged.
    pub(super) fn look(&self) {
        let looks = self.shared.silent_looks.fetch_add(1, Ordering::Relaxed) + 1;
        match Pulse::after(looks) {
            Pulse::Lively => {}
            Pulse::Quiet => {
                self.send_frame(websocket::ping());
            }
            Pulse::Gone => self.end(Forced::Silent),
        }
    }

    /// Ends the session.
    pub(super) fn end(&self, why: Forced) {
        let mut queue = self.shared.queue();
        queue.end.get_or_insert(why);
        queue.wake();
    }

    /// Answers a ping.
    pub(super) fn pong(&self, payload: &[u8]) {
        self.send_frame(websocket::pong(payload));
    }

    fn send_frame(&self, frame: Vec<u8>) -> bool {
        self.push(Queued::Frame(frame))
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
            queue.end.get_or_insert(Forced::Overflowed);
            self.shared.counters.slow_reader.inc();
        }
        queue.wake();
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

    fn wake(&mut self) {
        if std::mem::take(&mut self.asleep)
            && let Some(session) = &self.session
        {
            session.wake_by_ref();
        }
    }
}

impl Inbox {
    /// The inbox of a new session.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        let (queue, silent_looks) = (Mutex::default(), AtomicU8::new(0));
        Self { shared: Arc::new(Shared { queue, silent_looks, counters }) }
    }

    /// The other end.
    pub(super) fn outbox(&self) -> Outbox {
        Outbox { shared: self.shared.clone() }
    }

    /// Takes some of the messages that are there, or none.
    pub(super) fn take(&self) -> Result<Frames, Forced> {
        let mut queue = self.shared.queue();
        // Whoever takes is awake.
        queue.asleep = false;
        match queue.end {
            Some(end) => Err(end),
            None => {
                let taken = queue.take();
                drop(queue);
                Ok(Frames::of(taken))
            }
        }
    }

    /// Ready when there is something to take. Otherwise the session sleeps, and the next message wakes it.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.shared.queue();
        if queue.end.is_some() || !queue.messages.is_empty() {
            return Poll::Ready(());
        }
        queue.sleep(cx);
        Poll::Pending
    }

    /// Ready when the session must end, whatever it does.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Forced> {
        let mut queue = self.shared.queue();
        match queue.end {
            Some(end) => Poll::Ready(end),
            None => {
                queue.sleep(cx);
                Poll::Pending
            }
        }
    }

    /// Whether it had better be emptied before it is given more.
    pub(super) fn is_filling(&self) -> bool {
        self.shared.queue().messages.len() >= CAPACITY / 4
    }

    /// The client has sent something.
    pub(super) fn heard(&self) {
        self.shared.silent_looks.store(0, Ordering::Relaxed);
    }
}

impl Queue {
    fn sleep(&mut self, cx: &mut Context<'_>) {
        self.asleep = true;
        match &mut self.session {
            Some(session) => session.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
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

/// What looks that found no sign of life mean.
#[derive(Debug, PartialEq, Eq)]
enum Pulse {
    Lively,
    /// Nothing came since the last look: ping it.
    Quiet,
    /// Two pings have gone unanswered.
    Gone,
}

impl Pulse {
    fn after(silent_looks: u8) -> Self {
        match silent_looks {
            0 | 1 => Self::Lively,
            2 | 3 => Self::Quiet,
            _ => Self::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;
    use crate::metrics;
    use crate::wire::id::{InfoHash, PeerId};
    use crate::wire::tracker_ws::{Description, Offer, OfferId};

    /// Says how often it was asked, and nothing the second time.
    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicUsize);

    impl Late for Count {
        fn frame(&self) -> Option<Arc<[u8]>> {
            let asked = self.0.fetch_add(1, Ordering::SeqCst);
            (asked != 1).then(|| websocket::text(&asked.to_string()).into())
        }
    }

    fn inbox() -> (Outbox, Inbox, metrics::Tracker) {
        let metrics = metrics::Tracker::detached();
        let inbox = Inbox::new(Arc::new(Counters::new(&metrics)));
        (inbox.outbox(), inbox, metrics)
    }

    /// What is there, byte for byte.
    fn taken(inbox: &Inbox) -> Result<Vec<u8>, Forced> {
        inbox.take().map(|frames| frames.bytes())
    }

    fn is_ready(inbox: &Inbox) -> bool {
        poll_fn(|cx| inbox.poll_ready(cx)).now_or_never().is_some()
    }

    #[test]
    fn late_messages_are_made_when_they_are_read() {
        let (outbox, inbox, _) = inbox();
        let late = Arc::new(Count::default());
        for _ in 0..3 {
            assert!(outbox.send_late(late.clone()));
        }
        assert_eq!(late.0.load(Ordering::SeqCst), 0);
        let expected = [websocket::text("0"), websocket::text("2")].concat();
        assert_eq!(taken(&inbox), Ok(expected), "the second has nothing to say");
    }

    #[test]
    fn offers_leave_room_for_replies_and_replies_overflow() {
        let (outbox, inbox, metrics) = inbox();
        let dropped = |reason| metrics.dropped.with_label_values(&[reason]).get();
        let offer = Message::Offer {
            info_hash: InfoHash([0; 20]),
            peer_id: PeerId([0; 20]),
            offer: Offer { id: OfferId([0; 20]), description: Description::answer("") },
        };
        let queued = (0..CAPACITY).filter(|_| outbox.send_offer(&offer)).count();
        assert_eq!(queued, CAPACITY - RESERVED_FOR_REPLIES + 1);
        assert_eq!(dropped("busy_reader") as usize, CAPACITY - queued);
        let end = || poll_fn(|cx| inbox.poll_end(cx)).now_or_never();
        assert_eq!(end(), None);

        assert_eq!((queued..CAPACITY).filter(|_| outbox.send("reply")).count(), CAPACITY - queued);
        assert!(!outbox.send("one too many"));
        assert_eq!(dropped("slow_reader"), 1);
        assert_eq!(end(), Some(Forced::Overflowed));
        assert_eq!(taken(&inbox), Err(Forced::Overflowed));
        outbox.end(Forced::Stopping);
        assert_eq!(end(), Some(Forced::Overflowed), "the first reason is the reason");
    }

    #[test]
    fn frames_come_out_in_order_and_leave_nothing() {
        let (outbox, inbox, _) = inbox();
        assert!(!is_ready(&inbox));
        assert!(outbox.send("one") && outbox.send("two"));
        assert!(is_ready(&inbox));
        assert_eq!(taken(&inbox), Ok([websocket::text("one"), websocket::text("two")].concat()));
        assert!(!is_ready(&inbox));
        assert_eq!(inbox.shared.queue().messages.capacity(), 0);

        drop(inbox);
        assert!(!outbox.send("nobody reads"));
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_session_is_woken_once_when_it_sleeps() {
        let (outbox, inbox, _) = inbox();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        for round in 0..3 {
            outbox.send("to somebody awake");
            assert_eq!(woken.0.load(Ordering::SeqCst), round);
            assert_eq!(inbox.poll_ready(&mut cx), Poll::Ready(()), "it does not fall asleep on a message");
            inbox.take().unwrap();
            assert_eq!(inbox.poll_ready(&mut cx), Poll::Pending);
            outbox.send("to somebody asleep");
            outbox.send("to somebody waking up");
            assert_eq!(woken.0.load(Ordering::SeqCst), round + 1);
            inbox.take().unwrap();
        }
    }

    #[test]
    fn a_quiet_socket_is_pinged_and_a_silent_one_given_up() {
        let (outbox, inbox, _) = inbox();
        for _ in 0..2 {
            let looks = [(); 4].map(|()| {
                outbox.look();
                taken(&inbox)
            });
            assert_eq!(looks, [Ok(vec![]), Ok(websocket::ping()), Ok(websocket::ping()), Err(Forced::Silent)]);
            inbox.shared.queue().end = None;
            inbox.heard();
        }
    }
}
