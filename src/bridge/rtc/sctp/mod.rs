//! SCTP (RFC 9260) as far as a data channel needs it (RFC 8831): one association over DTLS, which carries messages on
//! streams, in order and without loss. Pure: packets go in and out, and time is handed in.
//!
//! **Why not a crate's.** The association of the stack beneath repairs one lost packet in each round trip and halves its
//! window for every group of them, so that over a long path, or to a browser whose socket drops a few datagrams of a burst,
//! a half of what the path carries was lost (0.53 to 0.66 of TCP's rate, where no queue was full). None lets its congestion
//! control be replaced.
//!
//! What is left out, because nobody who is offered it by this side may use it: unordered and partially reliable messages
//! that skip (RFC 3758), interleaving (RFC 8260), several addresses, and checks whether the peer is there, which ICE makes.

mod inbound;
mod outbound;
mod packet;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use inbound::{Due, Inbound, WINDOW};
use outbound::Outbound;
pub(super) use packet::Data;
use packet::{Chunk, DATA_HEADER, HEADER, Init, RESET_IN_PROGRESS, RESET_PERFORMED, Reset, Sack, Writer};

/// Longest packet sent, in bytes: with what DTLS adds it makes datagrams of 1200 bytes at most, which all paths carry.
pub(super) const PACKET: usize = 1160;

/// Most bytes of one message in one packet.
pub(super) const PAYLOAD: usize = PACKET - HEADER - DATA_HEADER;

/// RFC 8831 §6.2: as many streams as there can be; what matters is that there is one.
const STREAMS: u16 = u16::MAX;

/// How long a packet may wait for another before both are acknowledged. RFC 9260 §6.2 allows 500 ms.
const ACKNOWLEDGE: Duration = Duration::from_millis(20);

/// The first and the longest time until a part of a handshake is sent again.
const REPEAT: Duration = Duration::from_millis(500);
const REPEAT_MOST: Duration = Duration::from_secs(4);

/// Answers that wait to be sent. A peer that asks for more does not get them.
const MAX_CONTROL: usize = 16;

/// Length of the cookie, in bytes. It need not be one that only we can make, as DTLS has shown who sends it.
const COOKIE: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// INIT was sent.
    CookieWait,
    CookieEchoed(Bytes),
    Established,
    /// By either side's word.
    Closed,
}

/// A request to close our direction of the stream (RFC 6525), and whether the peer has agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Once all that was written has arrived.
    Wanted,
    Requested,
    Done,
}

/// One association.
#[derive(Debug)]
pub(super) struct Association {
    state: State,
    port: u16,
    peer_port: u16,
    us: Init,
    peer: Option<Init>,
    cookie: Bytes,
    inbound: Inbound,
    outbound: Outbound,
    acknowledge_at: Option<Instant>,
    /// To be sent, each in a packet of its own and with this tag.
    alone: VecDeque<(u32, Chunk)>,
    /// To be sent along with other chunks.
    control: VecDeque<Chunk>,
    /// When what was asked for is asked for again, and when it was asked first.
    repeat_at: Option<Instant>,
    repeats: u32,
    asked: Instant,
    stream: u16,
    closing: Closing,
    /// The number of the peer's last request to close its direction, if all that it sent before has not arrived yet.
    peer_closes: Option<(u32, u32)>,
    /// The number of its last one that was performed.
    peer_closed: Option<u32>,
}

impl Association {
    /// Begins an association between the two ports; either side or both may. `seed` is random.
    pub(super) fn new((port, peer_port): (u16, u16), seed: [u8; 24], now: Instant) -> Self {
        let number = |at: usize| u32::from_be_bytes([seed[at], seed[at + 1], seed[at + 2], seed[at + 3]]);
        // §5.3.1: a tag is not zero.
        let us =
            Init { tag: number(0).max(1), window: WINDOW as u32, outbound: STREAMS, inbound: STREAMS, tsn: number(4) };
        Self {
            state: State::CookieWait,
            port,
            peer_port,
            us,
            peer: None,
            cookie: Bytes::copy_from_slice(&seed[8..8 + COOKIE]),
            inbound: Inbound::new(0),
            outbound: Outbound::new(us.tsn),
            acknowledge_at: None,
            alone: VecDeque::from([(0, Chunk::Init(us))]),
            control: VecDeque::new(),
            repeat_at: Some(now + REPEAT),
            repeats: 0,
            asked: now,
            stream: 0,
            closing: Closing::No,
            peer_closes: None,
            peer_closed: None,
        }
    }

    pub(super) fn is_established(&self) -> bool {
        self.state == State::Established
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether the peer will send nothing more, and all that it sent can be taken.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        self.peer_closed.is_some()
    }

    /// Whether the peer knows that nothing more comes.
    pub(super) fn has_closed(&self) -> bool {
        self.closing == Closing::Done
    }

    /// The stream on which messages are sent.
    pub(super) fn on_stream(&mut self, stream: u16) {
        self.stream = stream;
        self.outbound.on_stream(stream);
    }

    /// Takes a message, which must not be empty, to be sent. What bounds them is their owner's to say, by
    /// [`Self::queued`].
    pub(super) fn write(&mut self, protocol: u32, message: Bytes) {
        self.outbound.write(protocol, message);
    }

    /// Bytes written and not yet sent.
    pub(super) fn queued(&self) -> usize {
        self.outbound.queued()
    }

    /// Bytes written that are not acknowledged.
    pub(super) fn outstanding(&self) -> usize {
        self.outbound.queued() + self.outbound.outstanding()
    }

    /// Nothing more will be written: the peer hears of it after the last message.
    pub(super) fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Wanted;
        }
    }

    /// Ends the association at once.
    pub(super) fn abort(&mut self) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.alone.extend(self.peer.map(|peer| (peer.tag, Chunk::Abort)));
        }
    }

    /// The next chunk that arrived, in order.
    pub(super) fn take(&mut self) -> Option<Data> {
        self.inbound.take()
    }

    /// Whether what has arrived is to be acknowledged at once.
    pub(super) fn acknowledges(&self) -> bool {
        self.inbound.due() == Due::Now
    }

    /// Takes a packet that arrived.
    pub(super) fn receive(&mut self, packet: Bytes, now: Instant) {
        let Some((tag, chunks)) = packet::parse(packet) else { return };
        tracing::trace!(tag, ?chunks, state = ?self.state, "SCTP");
        for chunk in chunks {
            // §8.5: INIT has no tag, since there is none yet; who ends the association may have had only the other one.
            let expected = match chunk {
                Chunk::Init(_) => tag == 0,
                Chunk::Abort | Chunk::ShutdownComplete => {
                    tag == self.us.tag || self.peer.is_some_and(|peer| tag == peer.tag)
                }
                _ => tag == self.us.tag,
            };
            if expected && self.state != State::Closed {
                self.handle(chunk, now);
            }
        }
        self.perform_close();
    }

    fn handle(&mut self, chunk: Chunk, now: Instant) {
        match chunk {
            Chunk::Init(init) => self.on_init(init),
            Chunk::InitAck(init, cookie) => self.on_init_ack(init, cookie, now),
            Chunk::CookieEcho(cookie) if cookie == self.cookie => {
                self.answer(Chunk::CookieAck);
                self.establish(None);
            }
            Chunk::CookieAck => {
                let measured = (self.repeats == 0).then(|| now.saturating_duration_since(self.asked));
                if matches!(self.state, State::CookieEchoed(_)) {
                    self.establish(measured);
                }
            }
            Chunk::Abort | Chunk::ShutdownComplete => self.state = State::Closed,
            Chunk::Heartbeat(body) => self.answer(Chunk::HeartbeatAck(body)),
            // Nothing else means anything before both sides know of each other.
            _ if self.state != State::Established => {}
            Chunk::Data(data) => {
                self.inbound.insert(data);
                if self.inbound.due() == Due::Soon && self.acknowledge_at.is_none() {
                    self.acknowledge_at = Some(now + ACKNOWLEDGE);
                }
            }
            Chunk::Sack(sack) => self.on_sack(&sack, now),
            Chunk::ReConfig(resets) => resets.into_iter().for_each(|reset| self.on_reset(reset)),
            // §9.2, as far as it goes without waiting for what is still under way: nobody who shuts down reads it.
            Chunk::Shutdown => {
                self.peer_closed = Some(0);
                self.answer(Chunk::ShutdownAck);
            }
            Chunk::ShutdownAck => self.alone.extend(self.peer.map(|peer| (peer.tag, Chunk::ShutdownComplete))),
            Chunk::CookieEcho(_) | Chunk::HeartbeatAck(_) => {}
        }
    }

    /// §5.2.1, §5.2.2: both sides may begin at once; each answers the other with what it has said itself.
    fn on_init(&mut self, init: Init) {
        if init.tag == 0 || init.inbound == 0 || init.outbound == 0 {
            return;
        }
        let known = self.peer.is_some_and(|peer| peer.tag == init.tag);
        // Who begins anew has forgotten everything; there is nothing to go on with.
        if self.state == State::Established && !known {
            return;
        }
        self.peer = Some(init);
        if self.alone.len() < MAX_CONTROL {
            self.alone.push_back((init.tag, Chunk::InitAck(self.us, self.cookie.clone())));
        }
    }

    fn on_init_ack(&mut self, init: Init, cookie: Bytes, now: Instant) {
        if self.state != State::CookieWait || init.tag == 0 || cookie.len() > PAYLOAD {
            return;
        }
        if self.repeats == 0 {
            self.outbound.measured(now.saturating_duration_since(self.asked));
        }
        self.peer = Some(init);
        self.alone.push_back((init.tag, Chunk::CookieEcho(cookie.clone())));
        self.state = State::CookieEchoed(cookie);
        (self.repeats, self.repeat_at, self.asked) = (0, Some(now + REPEAT), now);
    }

    fn establish(&mut self, measured: Option<Duration>) {
        let Some(peer) = self.peer else { return };
        if self.state == State::Established {
            return;
        }
        self.state = State::Established;
        (self.repeats, self.repeat_at) = (0, None);
        self.inbound = Inbound::new(peer.tsn);
        self.outbound.peer_takes(peer.window);
        if let Some(round_trip) = measured {
            self.outbound.measured(round_trip);
        }
    }

    fn answer(&mut self, chunk: Chunk) {
        if self.control.len() < MAX_CONTROL {
            self.control.push_back(chunk);
        }
    }

    fn on_sack(&mut self, sack: &Sack, now: Instant) {
        self.outbound.acknowledged(sack, now);
    }

    fn on_reset(&mut self, reset: Reset) {
        match reset {
            Reset::Request { number, last, streams } => {
                if self.peer_closed == Some(number) {
                    self.answer(Chunk::ReConfig(vec![Reset::Response { number, result: RESET_PERFORMED }]));
                } else if streams.is_empty() || streams.contains(&self.stream) {
                    if self.peer_closes.is_some() || last.wrapping_sub(self.inbound.cumulative()) as i32 > 0 {
                        self.answer(Chunk::ReConfig(vec![Reset::Response { number, result: RESET_IN_PROGRESS }]));
                    }
                    self.peer_closes = Some((number, last));
                } else {
                    self.answer(Chunk::ReConfig(vec![Reset::Response { number, result: RESET_PERFORMED }]));
                }
            }
            Reset::Response { number, result } if number == self.us.tsn && self.closing == Closing::Requested => {
                // Anything but "later" is final.
                if result != RESET_IN_PROGRESS {
                    (self.closing, self.repeat_at) = (Closing::Done, None);
                }
            }
            Reset::Response { .. } => {}
        }
    }

    /// The peer closes its direction once everything that it sent has arrived.
    fn perform_close(&mut self) {
        if let Some((number, last)) = self.peer_closes
            && last.wrapping_sub(self.inbound.cumulative()) as i32 <= 0
        {
            (self.peer_closes, self.peer_closed) = (None, Some(number));
            self.answer(Chunk::ReConfig(vec![Reset::Response { number, result: RESET_PERFORMED }]));
        }
    }

    /// Writes the next packet that may leave now to `out`; whether there is one.
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>, now: Instant) -> bool {
        if let Some((tag, chunk)) = self.alone.pop_front() {
            let mut writer = Writer::new(out, self.port, self.peer_port, tag);
            writer.control(&chunk);
            writer.finish();
            return true;
        }
        let Some(peer) = self.peer.filter(|_| self.state == State::Established) else { return false };
        self.request_close(now);
        let mut writer = Writer::new(out, self.port, self.peer_port, peer.tag);
        // The longest of them is a heartbeat's answer, whose length the peer chose: it has a packet of its own then.
        while let Some(chunk) = self.control.pop_front() {
            writer.control(&chunk);
            if writer.len() > PACKET / 2 {
                writer.finish();
                return true;
            }
        }
        self.outbound.next_packet();
        let mut due = self.inbound.due();
        if due == Due::Now {
            self.acknowledge(&mut writer);
        }
        while let Some(data) = self.outbound.transmit(PACKET.saturating_sub(writer.len()), PAYLOAD, now) {
            due = self.inbound.due();
            if due == Due::Soon && writer.len() + DATA_HEADER * 2 + data.payload.len() <= PACKET {
                self.acknowledge(&mut writer);
            }
            writer.data(&data);
        }
        let wrote = !writer.is_empty();
        writer.finish();
        wrote
    }

    fn acknowledge(&mut self, writer: &mut Writer<'_>) {
        writer.control(&Chunk::Sack(self.inbound.acknowledge()));
        self.acknowledge_at = None;
    }

    fn request_close(&mut self, now: Instant) {
        if self.closing == Closing::Wanted && self.outstanding() == 0 {
            self.closing = Closing::Requested;
            self.ask_to_close();
            (self.repeats, self.repeat_at) = (0, Some(now + REPEAT));
        }
    }

    fn ask_to_close(&mut self) {
        let (number, last) = (self.us.tsn, self.outbound.last());
        self.answer(Chunk::ReConfig(vec![Reset::Request { number, last, streams: vec![self.stream] }]));
    }

    /// When [`Self::on_timeout`] is wanted.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let data = if self.state == State::Established { self.outbound.timeout() } else { None };
        [self.repeat_at, self.acknowledge_at, data].into_iter().flatten().min()
    }

    /// Does what is due by now; packets may have to be sent after it.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.acknowledge_at.is_some_and(|at| at <= now) {
            self.acknowledge_at = None;
            self.inbound.overdue();
        }
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.repeats += 1;
            self.repeat_at = Some(now + (REPEAT * (1 << self.repeats.min(8))).min(REPEAT_MOST));
            match &self.state {
                State::CookieWait => self.alone.push_back((0, Chunk::Init(self.us))),
                State::CookieEchoed(cookie) => {
                    let cookie = cookie.clone();
                    self.alone.extend(self.peer.map(|peer| (peer.tag, Chunk::CookieEcho(cookie))));
                }
                State::Established if self.closing == Closing::Requested => self.ask_to_close(),
                State::Established | State::Closed => self.repeat_at = None,
            }
        }
        if self.state == State::Established {
            self.outbound.on_timeout(now);
        }
    }
}
