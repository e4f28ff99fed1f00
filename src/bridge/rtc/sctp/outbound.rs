//! What is sent: messages cut into chunks, when each may leave, and which were lost. Pure; time is handed in.
//!
//! What is lost is found as in QUIC (RFC 9002 §6, after RFC 8985) and not by counting reports of each missing chunk
//! (RFC 9260 §7.2.4): a chunk is lost when one sent sufficiently later has arrived, and that holds for what is sent a second
//! and a third time. So a whole burst is repaired in one round trip, whatever of it was lost, and a lost repair takes one
//! more. How much may be under way is [`Window`]'s to say, which goes by what arrives and not by what does not.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::window::{Leave, Window};
use super::packet::{DATA_HEADER, Data, Flags, Sack};

/// A chunk is lost when one of so many packets later has arrived (RFC 9002 §6.1.1), or one that was sent so much later, in
/// eighths of a round trip (§6.1.2).
const REORDERED: u64 = 3;
const LATE_EIGHTHS: u32 = 9;

/// Timers are no finer.
const GRANULARITY: Duration = Duration::from_millis(1);

/// How long a peer may take to acknowledge what wants it at once, beyond the round trip.
const ACKNOWLEDGE_DELAY: Duration = Duration::from_millis(25);

/// What a round trip is taken for until one is known.
const ROUND_TRIP: Duration = Duration::from_millis(333);

/// The longest time between two probes.
const PROBE_MOST: Duration = Duration::from_secs(4);

/// Probes without an answer, and time, after which all that is under way counts as lost: the path was away. A browser that
/// is busy is silent for some 100 ms.
const PROBES: u32 = 3;
const AWAY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    /// To be sent again.
    Lost,
    Arrived,
}

#[derive(Debug)]
struct Sent {
    data: Data,
    state: State,
    at: Instant,
    /// The packet it was last in, counted from the beginning.
    packet: u64,
    repeated: bool,
}

#[derive(Debug)]
struct Message {
    protocol: u32,
    rest: Bytes,
    begun: bool,
}

/// The sending half of an association, for the messages of one stream.
#[derive(Debug)]
pub(super) struct Outbound {
    stream: u16,
    ssn: u16,
    /// Not yet sent.
    queue: VecDeque<Message>,
    queued: usize,
    next: u32,
    /// Sent, and the first of it has not arrived.
    sent: VecDeque<Sent>,
    /// Packet and chunk, in the order of sending; of those sent again the last entry counts.
    order: VecDeque<(u64, u32)>,
    /// To be sent again, unless they arrive before.
    lost: VecDeque<u32>,
    /// Bytes sent of which it is not known that they have arrived, and of these, that they are lost.
    outstanding: usize,
    under_way: usize,
    /// Bytes that the peer takes.
    peer_window: usize,
    window: Window,
    packet: u64,
    /// Of what has arrived, the one that was sent last.
    newest: Option<(u64, Instant)>,
    /// Smoothed round trip and its variation (RFC 6298).
    round_trip: Option<(Duration, Duration)>,
    /// When what waits for its turn counts as lost, and when the silence is probed.
    loss_at: Option<Instant>,
    probe_at: Option<Instant>,
    probes: u32,
    /// A probe leaves whatever window and pace say.
    probe_due: bool,
    /// Why the last chunk that was wanted did not leave.
    held: Leave,
}

impl Outbound {
    /// `next` is the number of the first chunk.
    pub(super) fn new(next: u32) -> Self {
        Self {
            stream: 0,
            ssn: 0,
            queue: VecDeque::new(),
            queued: 0,
            next,
            sent: VecDeque::new(),
            order: VecDeque::new(),
            lost: VecDeque::new(),
            outstanding: 0,
            under_way: 0,
            peer_window: 0,
            window: Window::new(),
            packet: 0,
            newest: None,
            round_trip: None,
            loss_at: None,
            probe_at: None,
            probes: 0,
            probe_due: false,
            held: Leave::Now,
        }
    }

    /// The peer takes so many bytes.
    pub(super) fn peer_takes(&mut self, window: u32) {
        self.peer_window = window as usize;
    }

    /// A round trip was measured by something else than data.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        self.learn_round_trip(round_trip);
        self.window.expect(round_trip);
    }

    /// The stream that all messages are on.
    pub(super) fn on_stream(&mut self, stream: u16) {
        self.stream = stream;
    }

    /// Takes a message, which must not be empty.
    pub(super) fn write(&mut self, protocol: u32, message: Bytes) {
        self.queued += message.len();
        self.queue.push_back(Message { protocol, rest: message, begun: false });
    }

    /// Bytes not yet sent.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes sent and not acknowledged.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The number of the last chunk sent.
    pub(super) fn last(&self) -> u32 {
        self.next.wrapping_sub(1)
    }

    /// What is sent from now on is in another packet.
    pub(super) fn next_packet(&mut self) {
        self.packet += 1;
    }

    /// The next chunk, if one may leave now that fits into `room` bytes; no chunk has a payload of more than `most`.
    pub(super) fn transmit(&mut self, room: usize, most: usize, now: Instant) -> Option<Data> {
        self.held = Leave::Now;
        let data = match self.next_lost() {
            Some(tsn) => self.repeat(tsn, room, now)?,
            None => self.begin(room, most, now)?,
        };
        self.order.push_back((self.packet, data.tsn));
        self.under_way += data.payload.len();
        self.probe_due = false;
        if self.probe_at.is_none() {
            self.probe_at = Some(now + self.probe_delay());
        }
        Some(data)
    }

    fn next_lost(&mut self) -> Option<u32> {
        while let Some(tsn) = self.lost.front().copied() {
            if self.chunk(tsn).is_some_and(|sent| sent.state == State::Lost) {
                return Some(tsn);
            }
            self.lost.pop_front();
        }
        None
    }

    fn repeat(&mut self, tsn: u32, room: usize, now: Instant) -> Option<Data> {
        let length = self.chunk(tsn)?.data.payload.len();
        if length + DATA_HEADER > room || !self.may_leave(length, now) {
            return None;
        }
        self.lost.pop_front();
        self.window.resent(length, now);
        let packet = self.packet;
        let sent = self.chunk(tsn)?;
        (sent.state, sent.at, sent.packet, sent.repeated) = (State::UnderWay, now, packet, true);
        sent.data.flags.immediate = true;
        Some(sent.data.clone())
    }

    fn begin(&mut self, room: usize, most: usize, now: Instant) -> Option<Data> {
        let message = self.queue.front()?;
        let length = message.rest.len().min(most);
        // Into a window that is closed one chunk is sent, whose acknowledgement tells when it opens.
        let taken = self.outstanding + length <= self.peer_window || self.outstanding == 0;
        if length + DATA_HEADER > room || !taken || !self.may_leave(length, now) {
            return None;
        }
        let message = self.queue.front_mut()?;
        let (begins, protocol) = (!message.begun, message.protocol);
        let payload = message.rest.split_to(length);
        message.begun = true;
        let ends = message.rest.is_empty();
        let ssn = self.ssn;
        if ends {
            self.queue.pop_front();
            self.ssn = self.ssn.wrapping_add(1);
        }
        self.queued -= length;
        let flags = Flags { immediate: self.queue.is_empty(), unordered: false, begins, ends };
        let data = Data { tsn: self.next, stream: self.stream, ssn, protocol, flags, payload };
        self.next = self.next.wrapping_add(1);
        self.outstanding += length;
        self.window.sent(length, now);
        let (state, packet) = (State::UnderWay, self.packet);
        self.sent.push_back(Sent { data: data.clone(), state, at: now, packet, repeated: false });
        Some(data)
    }

    fn may_leave(&mut self, length: usize, now: Instant) -> bool {
        self.held = if self.probe_due { Leave::Now } else { self.window.leave(self.under_way, length, now) };
        self.held == Leave::Now
    }

    fn chunk(&mut self, tsn: u32) -> Option<&mut Sent> {
        let first = self.sent.front()?.data.tsn;
        self.sent.get_mut(tsn.wrapping_sub(first) as usize)
    }

    /// Learns what has arrived.
    pub(super) fn acknowledged(&mut self, sack: &Sack, now: Instant) {
        let first = self.next.wrapping_sub(self.sent.len() as u32);
        let whole = sack.cumulative.wrapping_sub(first).wrapping_add(1) as usize;
        // An older one that was overtaken, or nonsense.
        if whole > self.sent.len() {
            return;
        }
        let (mut arrived, mut latest) = (false, None);
        for index in 0..whole {
            arrived |= self.arrive(index, &mut latest);
        }
        self.sent.drain(..whole);
        for (from, to) in &sack.gaps {
            let last = usize::from(*to).min(self.sent.len());
            for index in usize::from(*from).max(2) - 1..last {
                arrived |= self.arrive(index, &mut latest);
            }
        }
        if self.sent.front().is_some_and(|sent| sent.state == State::Arrived) {
            self.reneged();
        }
        self.peer_window = sack.window as usize;
        if let Some(at) = latest {
            self.learn_round_trip(now.saturating_duration_since(at));
        }
        if arrived {
            self.probes = 0;
            self.probe_due = false;
            self.probe_at = (self.outstanding > 0).then(|| now + self.probe_delay());
        }
        self.find_lost(now);
        self.window.learn(self.outstanding, now);
    }

    /// Counts a chunk as arrived, unless it is already; `latest` becomes the time of the last one sent just once.
    fn arrive(&mut self, index: usize, latest: &mut Option<Instant>) -> bool {
        let Some(sent) = self.sent.get_mut(index) else { return false };
        let before = std::mem::replace(&mut sent.state, State::Arrived);
        if before == State::Arrived {
            return false;
        }
        let length = sent.data.payload.len();
        self.outstanding -= length;
        if before == State::UnderWay {
            self.under_way -= length;
        }
        // When it is not known which of two has arrived, neither the round trip nor what was overtaken is.
        if !sent.repeated {
            *latest = (*latest).max(Some(sent.at));
        }
        if self.newest.is_none_or(|(packet, _)| sent.packet > packet) && before == State::UnderWay {
            self.newest = Some((sent.packet, sent.at));
        }
        true
    }

    /// §6.2.1: the peer has dropped again what it had said to have, which it may.
    fn reneged(&mut self) {
        for sent in &mut self.sent {
            if sent.state == State::Arrived {
                sent.state = State::Lost;
                self.outstanding += sent.data.payload.len();
                self.lost.push_back(sent.data.tsn);
            }
        }
        self.sort_lost();
    }

    fn find_lost(&mut self, now: Instant) {
        self.loss_at = None;
        let Some((newest, _)) = self.newest else { return };
        let round_trip = self.round_trip.map_or(ROUND_TRIP, |(smoothed, _)| smoothed);
        let patience = (round_trip * LATE_EIGHTHS / 8).max(GRANULARITY);
        let before = self.lost.len();
        while let Some((packet, tsn)) = self.order.front().copied() {
            let first = self.sent.front().map_or(self.next, |sent| sent.data.tsn);
            let index = tsn.wrapping_sub(first) as usize;
            if let Some(sent) = self.sent.get_mut(index)
                && sent.state == State::UnderWay
                && sent.packet == packet
            {
                let due = sent.at + patience;
                if packet >= newest {
                    break;
                }
                if packet + REORDERED > newest && due > now {
                    self.loss_at = Some(due);
                    break;
                }
                sent.state = State::Lost;
                self.under_way -= sent.data.payload.len();
                self.lost.push_back(tsn);
            }
            self.order.pop_front();
        }
        if self.lost.len() > before {
            self.sort_lost();
        }
    }

    /// What holds back most is sent first.
    fn sort_lost(&mut self) {
        let first = self.sent.front().map_or(self.next, |sent| sent.data.tsn);
        self.lost.make_contiguous().sort_unstable_by_key(|tsn| tsn.wrapping_sub(first));
    }

    /// RFC 6298 §2.
    fn learn_round_trip(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => {
                ((smoothed * 7 + sample) / 8, (variation * 3 + smoothed.abs_diff(sample)) / 4)
            }
        });
    }

    /// RFC 9002 §6.2.1.
    fn probe_delay(&self) -> Duration {
        let (smoothed, variation) = self.round_trip.unwrap_or((ROUND_TRIP, ROUND_TRIP / 2));
        let delay = smoothed + (variation * 4).max(GRANULARITY) + ACKNOWLEDGE_DELAY;
        (delay * (1 << self.probes.min(10))).min(PROBE_MOST)
    }

    /// When [`Self::on_timeout`] is wanted, and when pace lets more leave.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let paced = if self.held == Leave::Paced { self.window.paced() } else { None };
        [self.loss_at, self.probe_at, paced].into_iter().flatten().min()
    }

    /// What is due by now.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.loss_at.is_some_and(|at| at <= now) {
            self.find_lost(now);
        }
        if self.probe_at.is_none_or(|at| at > now) {
            return;
        }
        self.probes += 1;
        self.probe_at = (self.outstanding > 0).then(|| now + self.probe_delay());
        let away = self.round_trip.map_or(AWAY, |(smoothed, _)| AWAY.max(smoothed * 4));
        if self.probes >= PROBES && self.sent.front().is_some_and(|sent| sent.at + away <= now) {
            self.window.collapse();
            self.lose(usize::MAX);
        } else {
            self.lose(1);
        }
        self.probe_due = !self.lost.is_empty();
    }

    /// Counts the first `most` chunks under way as lost.
    fn lose(&mut self, most: usize) {
        for sent in self.sent.iter_mut().filter(|sent| sent.state == State::UnderWay).take(most) {
            sent.state = State::Lost;
            self.under_way -= sent.data.payload.len();
            self.lost.push_back(sent.data.tsn);
        }
        self.sort_lost();
    }
}
