//! Queries under way: transaction ids, pacing, and what happens when no answer comes.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::lookup::Asked;
use super::pace::Pace;
use crate::wire::id::NodeId;
use crate::wire::krpc::{Body, Contact, Message, Query};

/// Four bytes: `mainline` nodes ignore transaction ids of any other length.
pub(super) type TransactionId = [u8; 4];

/// Names an operation (a lookup and what follows it) within a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct OperationId(pub(super) u64);

/// How long a query may wait for its turn. Past that the node is left alone. A ping is not worth a turn.
const PATIENCE: Duration = Duration::from_secs(5);
const PING_PATIENCE: Duration = Duration::ZERO;

/// Queries waiting for their turn from which on no new operations are started. In the wide network queries hardly ever
/// wait; in one of ten nodes, a hundred lookups at once have to be done one after the other.
const CONGESTED: usize = 32;

/// A node is slow when nearly all others would have answered: on loopback answers take a millisecond, over the world half
/// a second, and a busy machine adds a tenth of a second of its own. Somebody else is asked then.
const SLOW_AT_FIRST: Duration = Duration::from_millis(400);
const SLOW_AT_LEAST: Duration = Duration::from_millis(200);
const SLOW_AT_MOST: Duration = Duration::from_millis(1000);

/// A query is given up when it could have been answered twice, and not before a machine that was busy for a moment could
/// have answered. Until then its answer counts, late as it may be.
const GIVEN_UP_AT_LEAST: Duration = Duration::from_millis(1500);

/// What a query is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To see if a node is there.
    Ping(Option<NodeId>),
    /// A step of a lookup.
    Lookup(OperationId, Asked),
    /// A put or an announcement, after the lookup.
    Store(OperationId, Contact),
}

impl Purpose {
    /// The id the answerer should have, if it is known.
    pub(super) fn expected_id(&self) -> Option<NodeId> {
        match self {
            Self::Ping(id) => *id,
            Self::Lookup(_, asked) => asked.id,
            Self::Store(_, contact) => Some(contact.id),
        }
    }

    fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Ping(_) => None,
            Self::Lookup(operation, _) | Self::Store(operation, _) => Some(*operation),
        }
    }
}

/// What time brought about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send this now.
    Send(SocketAddr, Vec<u8>),
    /// No answer yet. The query may be repeated with [`Queries::repeat`].
    Slow(TransactionId, Purpose),
    /// No answer any more.
    Failed(Failed),
}

/// A query that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    /// Whether it was sent twice: a single datagram may just have been lost.
    pub(super) repeated: bool,
}

#[derive(Debug)]
pub(super) struct Queries {
    under_way: HashMap<TransactionId, UnderWay>,
    timers: BTreeSet<(Instant, TransactionId)>,
    /// How many have not been sent yet.
    waiting: usize,
    pace: Pace,
    answer_time: AnswerTime,
}

#[derive(Debug)]
struct UnderWay {
    to: SocketAddr,
    purpose: Purpose,
    stage: Stage,
    next: Instant,
}

#[derive(Debug)]
enum Stage {
    Waiting { datagram: Vec<u8> },
    Sent { at: Instant, datagram: Vec<u8> },
    Slow { at: Instant, datagram: Vec<u8> },
    Repeated { first: Instant, second: Instant },
}

impl Queries {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            under_way: HashMap::new(),
            timers: BTreeSet::new(),
            waiting: 0,
            pace: Pace::outgoing(now),
            answer_time: AnswerTime::default(),
        }
    }

    /// Registers a query. Returns the datagram if it may be sent at once, nothing if it has to wait for its turn, and an
    /// error if that would take too long.
    pub(super) fn start(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        to: SocketAddr,
        purpose: Purpose,
        query: Query,
    ) -> Result<Option<Vec<u8>>, Busy> {
        let patience = if let Purpose::Ping(_) = purpose { PING_PATIENCE } else { PATIENCE };
        let at = self.pace.reserve(now, to, patience).ok_or(Busy)?;
        let transaction = self.unused_transaction(rng);
        let message = Message {
            transaction: transaction.to_vec(),
            version: Some(super::VERSION.to_vec()),
            ip: None,
            body: Body::Query(query),
        };
        let datagram = message.encode();
        let (stage, next, send) = if at <= now {
            let stage = Stage::Sent { at: now, datagram: datagram.clone() };
            (stage, now + self.answer_time.slow(), Some(datagram))
        } else {
            self.waiting += 1;
            (Stage::Waiting { datagram }, at, None)
        };
        self.timers.insert((next, transaction));
        self.under_way.insert(transaction, UnderWay { to, purpose, stage, next });
        Ok(send)
    }

    /// Whether a query to `addr` would have to wait for its turn.
    pub(super) fn is_busy(&self, now: Instant, addr: SocketAddr) -> bool {
        self.pace.is_busy(now, addr)
    }

    /// Whether so many queries wait for their turn that new work had better wait too.
    pub(super) fn is_congested(&self) -> bool {
        self.waiting >= CONGESTED
    }

    /// Counts an answer of ours to a node: libtorrent counts all that we send.
    pub(super) fn charge(&mut self, now: Instant, to: SocketAddr) {
        self.pace.charge(now, to);
    }

    /// Finds the query that a datagram from `from` answers.
    pub(super) fn answered(&mut self, now: Instant, from: SocketAddr, transaction: &[u8]) -> Option<Purpose> {
        let transaction: TransactionId = transaction.try_into().ok()?;
        if self.under_way.get(&transaction)?.to != from {
            return None;
        }
        let answered = self.under_way.remove(&transaction)?;
        self.timers.remove(&(answered.next, transaction));
        match answered.stage {
            Stage::Sent { at, .. } | Stage::Slow { at, .. } => self.answer_time.observe(now.duration_since(at)),
            Stage::Repeated { first, second } => self.answer_time.observe_one_of(now, first, second),
            Stage::Waiting { .. } => self.waiting -= 1,
        }
        Some(answered.purpose)
    }

    /// When [`Queries::due`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What has become due; to be called until there is nothing.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let (at, transaction) = *self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        let query = self.under_way.get_mut(&transaction).expect("every timer has its query");
        let slow = self.answer_time.slow();
        let given_up = GIVEN_UP_AT_LEAST.max(slow * 5 / 2);
        let (next, due) = match std::mem::replace(&mut query.stage, Stage::Repeated { first: now, second: now }) {
            Stage::Waiting { datagram } => {
                self.waiting -= 1;
                query.stage = Stage::Sent { at: now, datagram: datagram.clone() };
                (now + slow, Due::Send(query.to, datagram))
            }
            Stage::Sent { at: sent, datagram } => {
                query.stage = Stage::Slow { at: sent, datagram };
                ((sent + given_up).max(now), Due::Slow(transaction, query.purpose))
            }
            stage @ (Stage::Slow { .. } | Stage::Repeated { .. }) => {
                let repeated = matches!(stage, Stage::Repeated { .. });
                let failed = Failed { to: query.to, purpose: query.purpose, repeated };
                self.under_way.remove(&transaction);
                return Some(Due::Failed(failed));
            }
        };
        query.next = next;
        self.timers.insert((next, transaction));
        Some(due)
    }

    /// Sends a slow query once more, if the pace allows.
    pub(super) fn repeat(&mut self, now: Instant, transaction: TransactionId) -> Option<(SocketAddr, Vec<u8>)> {
        let query = self.under_way.get_mut(&transaction)?;
        let Stage::Slow { at, datagram } = &mut query.stage else { return None };
        if !self.pace.admit(now, query.to) {
            return None;
        }
        let (first, datagram) = (*at, std::mem::take(datagram));
        query.stage = Stage::Repeated { first, second: now };
        Some((query.to, datagram))
    }

    /// Drops those queries of an operation that still wait for their turn. Answers to the others are welcome.
    pub(super) fn forget_waiting(&mut self, operation: OperationId) {
        if self.waiting == 0 {
            return;
        }
        let Self { under_way, timers, waiting, pace, .. } = self;
        under_way.retain(|transaction, query| {
            let is_dropped =
                query.purpose.operation() == Some(operation) && matches!(query.stage, Stage::Waiting { .. });
            if is_dropped {
                timers.remove(&(query.next, *transaction));
                *waiting -= 1;
                pace.refund(query.to);
            }
            !is_dropped
        });
    }

    /// What must hold after every step.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.timers.len(), self.under_way.len());
        let waiting = self.under_way.values().filter(|query| matches!(query.stage, Stage::Waiting { .. })).count();
        assert_eq!(self.waiting, waiting);
    }

    fn unused_transaction(&self, rng: &mut impl Rng) -> TransactionId {
        loop {
            let transaction = rng.random();
            if !self.under_way.contains_key(&transaction) {
                return transaction;
            }
        }
    }
}

/// The node has too many queries waiting already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// How long answers take: mean and deviation, smoothed as TCP does it (RFC 6298).
#[derive(Debug, Default)]
struct AnswerTime {
    /// Zero before the first answer.
    mean: Duration,
    deviation: Duration,
}

impl AnswerTime {
    fn observe(&mut self, took: Duration) {
        if self.mean.is_zero() {
            (self.mean, self.deviation) = (took, took / 2);
        }
        self.deviation = (self.deviation * 3 + self.mean.abs_diff(took)) / 4;
        self.mean = (self.mean * 7 + took) / 8;
    }

    /// Takes an answer to a query that was sent twice. RFC 6298 takes none of them (Karn's algorithm), since nobody knows
    /// which sending it answers; here one that comes right after the second is taken for an answer to the first, so
    /// that a network that becomes slower is noticed.
    fn observe_one_of(&mut self, now: Instant, first: Instant, second: Instant) {
        let since_second = now.duration_since(second);
        self.observe(if since_second < self.mean / 2 { now.duration_since(first) } else { since_second });
    }

    fn slow(&self) -> Duration {
        if self.mean.is_zero() {
            return SLOW_AT_FIRST;
        }
        (self.mean + 4 * self.deviation).clamp(SLOW_AT_LEAST, SLOW_AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::wire::krpc::Method;

    struct Bench {
        queries: Queries,
        rng: StdRng,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            Self { queries: Queries::new(start), rng: StdRng::seed_from_u64(1), start }
        }

        fn ask(&mut self, purpose: Purpose) -> Result<Option<Vec<u8>>, Busy> {
            let query = Query { id: NodeId([1; 20]), read_only: false, want: None, method: Method::Ping };
            self.queries.start(self.start, &mut self.rng, addr(1), purpose, query)
        }

        fn due(&mut self, millis: u64) -> Vec<Due> {
            let now = self.start + Duration::from_millis(millis);
            std::iter::from_fn(|| self.queries.due(now)).collect()
        }
    }

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn transaction(datagram: &[u8]) -> Vec<u8> {
        Message::decode(datagram).unwrap().transaction
    }

    #[test]
    fn an_answer_needs_the_transaction_and_the_address() {
        let mut bench = Bench::new();
        let datagram = bench.ask(Purpose::Ping(None)).unwrap().unwrap();
        let id = transaction(&datagram);
        assert_eq!(id.len(), 4);
        let start = bench.start;
        assert_eq!(bench.queries.answered(start, addr(2), &id), None);
        assert_eq!(bench.queries.answered(start, addr(1), &id[..2]), None);
        assert_eq!(bench.queries.answered(start, addr(1), &id), Some(Purpose::Ping(None)));
        assert_eq!(bench.queries.answered(start, addr(1), &id), None, "once");
        assert_eq!(bench.queries.next_due(), None);
    }

    #[test]
    fn a_query_turns_slow_and_is_given_up() {
        let mut bench = Bench::new();
        bench.ask(Purpose::Ping(None)).unwrap();
        assert_eq!(bench.due(399), []);
        assert!(matches!(bench.due(400)[..], [Due::Slow(_, Purpose::Ping(None))]));
        assert_eq!(bench.due(1499), []);
        let failed = Failed { to: addr(1), purpose: Purpose::Ping(None), repeated: false };
        assert_eq!(bench.due(1500), [Due::Failed(failed)]);
        assert_eq!(bench.due(60_000), []);
    }

    #[test]
    fn a_slow_query_is_repeated_once() {
        let mut bench = Bench::new();
        let datagram = bench.ask(Purpose::Ping(None)).unwrap().unwrap();
        let id: TransactionId = transaction(&datagram).try_into().unwrap();
        let now = bench.start + Duration::from_millis(400);
        assert_eq!(bench.queries.repeat(bench.start, id), None, "not yet");
        assert_eq!(bench.due(400).len(), 1);
        assert_eq!(bench.queries.repeat(now, id), Some((addr(1), datagram)));
        assert_eq!(bench.queries.repeat(now, id), None);
        assert_eq!(bench.queries.answered(now, addr(1), &id), Some(Purpose::Ping(None)));
    }

    #[test]
    fn what_an_operation_no_longer_wants_gives_its_turn_back() {
        let mut bench = Bench::new();
        let asked = Asked { addr: addr(1), id: None, again: false };
        let mut wanted = |operation| bench.ask(Purpose::Lookup(OperationId(operation), asked)).unwrap().is_some();
        assert_eq!((0..15).filter(|_| wanted(1)).count(), 12);
        assert!(!wanted(2));
        bench.queries.forget_waiting(OperationId(1));
        bench.queries.check_invariants();
        assert_eq!(bench.queries.waiting, 1);
        assert_eq!(bench.ask(Purpose::Lookup(OperationId(3), asked)), Ok(None));
        let sent = bench.due(700).into_iter().filter(|due| matches!(due, Due::Send(..))).count();
        assert_eq!(sent, 1, "the third would have been the fifth in line");
    }

    #[test]
    fn queries_wait_for_their_turn_until_it_would_take_too_long() {
        let mut bench = Bench::new();
        let asked = Asked { addr: addr(1), id: Some(NodeId([2; 20])), again: false };
        let results: Vec<_> = (0..40).map(|_| bench.ask(Purpose::Lookup(OperationId(1), asked))).collect();
        let sent = results.iter().filter(|r| matches!(r, Ok(Some(_)))).count();
        let waiting = results.iter().filter(|r| matches!(r, Ok(None))).count();
        assert_eq!((sent, waiting), (12, 15), "12 at once, then 3 a second for 5 seconds");
        assert_eq!(results.last(), Some(&Err(Busy)));
        assert_eq!(bench.ask(Purpose::Ping(None)), Err(Busy));
        let sent = |due: Vec<Due>| due.iter().filter(|due| matches!(due, Due::Send(..))).count();
        assert_eq!([sent(bench.due(1001)), sent(bench.due(2001))], [3, 3]);
    }

    #[test]
    fn timeouts_follow_how_long_answers_take() {
        let mut time = AnswerTime::default();
        (0..100).for_each(|_| time.observe(Duration::from_millis(1)));
        assert_eq!(time.slow(), SLOW_AT_LEAST);
        (0..100).for_each(|_| time.observe(Duration::from_millis(900)));
        assert!(time.slow() >= Duration::from_millis(900));
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        (0..100).for_each(|_| time.observe_one_of(at(950), start, at(900)));
        assert!(time.slow() >= Duration::from_millis(900), "the first sending was answered");
        (0..100).for_each(|_| time.observe_one_of(at(1000), start, at(400)));
        assert!(time.slow() < Duration::from_millis(800), "the second was");
        (0..100).for_each(|_| time.observe(Duration::from_secs(60)));
        assert_eq!(time.slow(), SLOW_AT_MOST);
    }
}
