//! What waits to be written to one WebSocket.
//!
//! A message for a socket whose session sleeps is written by whoever has it: see [`Outbox::deliver`]. Waking the session
//! up to do that costs as much as the message itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::connection::Wire;
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
    wire: Arc<Wire>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Queued>,
    /// What somebody else has begun to write, and the system did not take.
    begun: Option<Box<Frames>>,
    /// Why the session must end, if somebody else says so.
    end: Option<Forced>,
    /// The session is gone.
    closed: bool,
    state: State,
    session: Option<Waker>,
}

/// What the session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// It runs, or will soon; before it sleeps it takes what is queued.
    #[default]
    Awake,
    /// It sleeps until there is something to read or to write.
    Idle,
    /// It sleeps until the client takes more of what is being sent; then it takes what is queued.
    Slow,
    /// It sleeps, and somebody else writes what was queued.
    Lent,
    /// The same, and it has woken up meanwhile and waits for that.
    Awaited,
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
        let sent = self.post(message);
        self.shared.queue().wake();
        sent
    }

    /// As [`Self::send_message`], but nobody is woken up: the caller will soon [deliver](Self::deliver), or is the session.
    pub(super) fn post(&self, message: &Message<'_>) -> bool {
        let counters = &self.shared.counters;
        match message {
            Message::Announced { .. } => counters.announces.inc(),
            Message::Scraped(_) => counters.scrapes.inc(),
            Message::Failure(_) => counters.errors.inc(),
            Message::Offer { .. } | Message::Answer { .. } => {}
        }
        let frame = websocket::text_with(message.size_hint(), |text| message.write_to(text));
        self.shared.queue().put(Queued::Frame(frame), counters)
    }

    /// [Posts](Self::post) an offer if there is plenty of room, and drops it otherwise.
    pub(super) fn post_offer(&self, offer: &Message<'_>) -> bool {
        if CAPACITY - self.shared.queue().messages.len() < RESERVED_FOR_REPLIES {
            self.shared.counters.busy_reader.inc();
            return false;
        }
        self.post(offer)
    }

    /// Writes what is queued if the session sleeps, in its stead. What the system does not take at once is left to the
    /// session, and so is everything when it is awake or has a slow client.
    pub(super) fn deliver(&self) {
        let messages = {
            let mut queue = self.shared.queue();
            if queue.state != State::Idle || queue.end.is_some() {
                return queue.wake();
            }
            if queue.messages.is_empty() {
                return;
            }
            queue.state = State::Lent;
            queue.take()
        };
        let mut frames = Frames::of(messages);
        self.shared.wire.prepare(&mut frames);
        // Whatever is wrong with the connection, the session will see.
        let all = self.shared.wire.try_write(&mut frames).is_ok();
        let mut queue = self.shared.queue();
        queue.begun = (!all).then(|| Box::new(frames));
        let awaited = queue.state == State::Awaited;
        queue.state = State::Idle;
        if awaited || !queue.is_empty() {
            queue.wake();
        }
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
        let sent = queue.put(message, &self.shared.counters);
        queue.wake();
        sent
    }
}

impl Queue {
    /// Whether the message has found a place.
    fn put(&mut self, message: Queued, counters: &Counters) -> bool {
        if self.closed {
            return false;
        }
        let room = self.messages.len() < CAPACITY;
        if room {
            self.messages.push_back(message);
        } else {
            self.end.get_or_insert(Forced::Overflowed);
            counters.slow_reader.inc();
        }
        room
    }

    /// Whether there is nothing for the session to do.
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.begun.is_none() && self.end.is_none()
    }

    fn take(&mut self) -> VecDeque<Queued> {
        if self.messages.len() <= BATCH {
            return std::mem::take(&mut self.messages);
        }
        self.messages.drain(..BATCH).collect()
    }

    /// Wakes the session up if it sleeps and there is, or was, something for it to do. With a slow client that is only its
    /// end.
    fn wake(&mut self) {
        let sleeps = match self.state {
            State::Idle => true,
            State::Slow => self.end.is_some(),
            State::Awake | State::Lent | State::Awaited => false,
        };
        if sleeps {
            self.state = State::Awake;
            if let Some(session) = &self.session {
                session.wake_by_ref();
            }
        }
    }
}

impl Inbox {
    /// The inbox of a new session, and where it writes to.
    pub(super) fn new(counters: Arc<Counters>, wire: Arc<Wire>) -> Self {
        let (queue, silent_looks) = (Mutex::default(), AtomicU8::new(0));
        Self { shared: Arc::new(Shared { queue, silent_looks, counters, wire }) }
    }

    /// The other end.
    pub(super) fn outbox(&self) -> Outbox {
        Outbox { shared: self.shared.clone() }
    }

    /// Takes some of the messages that are there, or none; once nobody else writes.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Frames, Forced>> {
        let mut queue = self.shared.queue();
        if matches!(queue.state, State::Lent | State::Awaited) {
            queue.sleep(State::Awaited, cx);
            return Poll::Pending;
        }
        queue.state = State::Awake;
        if let Some(end) = queue.end {
            return Poll::Ready(Err(end));
        }
        if let Some(begun) = queue.begun.take() {
            return Poll::Ready(Ok(*begun));
        }
        let taken = queue.take();
        drop(queue);
        Poll::Ready(Ok(Frames::of(taken)))
    }

    /// Ready when there is something to take. Otherwise the session sleeps until the next message, or somebody writes that
    /// in its stead.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.shared.queue();
        if !queue.is_empty() {
            return Poll::Ready(());
        }
        queue.sleep(State::Idle, cx);
        Poll::Pending
    }

    /// Ready when the session must end although its client has not taken everything.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Forced> {
        let mut queue = self.shared.queue();
        match queue.end {
            Some(end) => Poll::Ready(end),
            None => {
                queue.sleep(State::Slow, cx);
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
    fn sleep(&mut self, state: State, cx: &mut Context<'_>) {
        self.state = state;
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
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::metrics;
    use crate::tracker::connection::Terms;
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

    /// An inbox, and its client.
    async fn inbox() -> (Outbox, Inbox, metrics::Tracker, TcpStream) {
        let metrics = metrics::Tracker::detached();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let wire = Arc::new(Wire::new(server, Terms { max_message: 1, deflate: false }));
        let inbox = Inbox::new(Arc::new(Counters::new(&metrics)), wire);
        (inbox.outbox(), inbox, metrics, client)
    }

    /// What is there, byte for byte.
    fn taken(inbox: &Inbox) -> Result<Vec<u8>, Forced> {
        let taken = poll_fn(|cx| inbox.poll_take(cx)).now_or_never();
        taken.expect("nobody writes").map(|frames| frames.bytes())
    }

    fn is_ready(inbox: &Inbox) -> bool {
        poll_fn(|cx| inbox.poll_ready(cx)).now_or_never().is_some()
    }

    #[tokio::test]
    async fn late_messages_are_made_when_they_are_read() {
        let (outbox, inbox, ..) = inbox().await;
        let late = Arc::new(Count::default());
        for _ in 0..3 {
            assert!(outbox.send_late(late.clone()));
        }
        assert_eq!(late.0.load(Ordering::SeqCst), 0);
        let expected = [websocket::text("0"), websocket::text("2")].concat();
        assert_eq!(taken(&inbox), Ok(expected), "the second has nothing to say");
    }

    #[tokio::test]
    async fn offers_leave_room_for_replies_and_replies_overflow() {
        let (outbox, inbox, metrics, _client) = inbox().await;
        let dropped = |reason| metrics.dropped.with_label_values(&[reason]).get();
        let offer = Message::Offer {
            info_hash: InfoHash([0; 20]),
            peer_id: PeerId([0; 20]),
            offer: Offer { id: OfferId([0; 20]), description: Description::answer("") },
        };
        let queued = (0..CAPACITY).filter(|_| outbox.post_offer(&offer)).count();
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

    #[tokio::test]
    async fn frames_come_out_in_order_and_leave_nothing() {
        let (outbox, inbox, ..) = inbox().await;
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

    #[tokio::test]
    async fn a_session_is_woken_once_when_it_sleeps() {
        let (outbox, inbox, ..) = inbox().await;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        for round in 0..3 {
            outbox.send("to somebody awake");
            assert_eq!(woken.0.load(Ordering::SeqCst), round);
            assert_eq!(inbox.poll_ready(&mut cx), Poll::Ready(()), "it does not fall asleep on a message");
            taken(&inbox).unwrap();
            assert_eq!(inbox.poll_ready(&mut cx), Poll::Pending);
            outbox.send("to somebody asleep");
            outbox.send("to somebody waking up");
            assert_eq!(woken.0.load(Ordering::SeqCst), round + 1);
            taken(&inbox).unwrap();
        }
    }

    #[tokio::test]
    async fn a_message_for_a_session_that_sleeps_is_written_in_its_stead() {
        let (outbox, inbox, _, mut client) = inbox().await;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let times_woken = || woken.0.load(Ordering::SeqCst);
        let post = |text: &str| {
            let sdp = Description::answer(text);
            let (peer_id, offer_id) = (PeerId([0; 20]), OfferId([0; 20]));
            let message = Message::Answer { info_hash: InfoHash([0; 20]), peer_id, offer_id, answer: sdp };
            assert!(outbox.post(&message));
            websocket::text(&message.encode())
        };

        // One that is awake will take it before it sleeps.
        let mut expected = post("one");
        outbox.deliver();
        assert_eq!(taken(&inbox).as_ref(), Ok(&expected));
        assert_eq!(inbox.poll_ready(&mut cx), Poll::Pending);
        expected = [post("two"), post("three")].concat();
        outbox.deliver();
        outbox.deliver();
        let mut read = vec![0; expected.len()];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!((read, times_woken()), (expected, 0));
        assert_eq!(taken(&inbox), Ok(Vec::new()), "none is left");

        // While a slow client takes what the session sends, all that comes waits behind it.
        assert_eq!(inbox.poll_end(&mut cx), Poll::Pending);
        expected = post("four");
        outbox.deliver();
        assert_eq!((taken(&inbox), times_woken()), (Ok(expected), 0));

        // What the client does not take in one go is the session's, the part of a frame first.
        assert_eq!(inbox.poll_ready(&mut cx), Poll::Pending);
        let long = "x".repeat(30_000);
        let mut sent = Vec::new();
        while times_woken() == 0 {
            sent.extend(post(&long));
            outbox.deliver();
        }
        sent.extend(post("after it"));
        outbox.deliver();
        let rest = [taken(&inbox).unwrap(), taken(&inbox).unwrap()].concat();
        let mut read = vec![0; sent.len() - rest.len()];
        client.read_exact(&mut read).await.unwrap();
        assert!([read, rest].concat() == sent, "every byte once, in order");
    }

    #[tokio::test]
    async fn a_quiet_socket_is_pinged_and_a_silent_one_given_up() {
        let (outbox, inbox, ..) = inbox().await;
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
