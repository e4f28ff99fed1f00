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

/// A node is slow after this multiple of what answers take, and given up after twice that, within these bounds: on
/// loopback answers take a millisecond, over the world half a second, and a busy machine adds its own.
const SLOW_AT_LEAST: Duration = Duration::from_millis(400);
const SLOW_AT_MOST: Duration = Duration::from_millis(1500);
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
}

/// What time brought about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send this now.
    Send(SocketAddr, Vec<u8>),
    /// No answer yet.
    Slow(Purpose),
    /// No answer any more.
    Failed(SocketAddr, Purpose),
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
    Sent { at: Instant, again: Option<Vec<u8>> },
    Slow { sent: Instant },
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
            let stage = Stage::Sent { at: now, again: again(&purpose, &datagram) };
            (stage, now + self.answer_time.slow(), Some(datagram))
        } else {
            self.waiting += 1;
            (Stage::Waiting { datagram }, at, None)
        };
        self.timers.insert((next, transaction));
        self.under_way.insert(transaction, UnderWay { to, purpose, stage, next });
        Ok(send)
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
            Stage::Sent { at, .. } | Stage::Slow { sent: at } => self.answer_time.observe(now.duration_since(at)),
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
        let (stage, next, due) = match &mut query.stage {
            Stage::Waiting { datagram } => {
                self.waiting -= 1;
                let datagram = std::mem::take(datagram);
                let stage = Stage::Sent { at: now, again: again(&query.purpose, &datagram) };
                (stage, now + slow, Due::Send(query.to, datagram))
            }
            Stage::Sent { at: sent, again } => {
                let due = match again.take() {
                    Some(datagram) if self.pace.admit(now, query.to) => Due::Send(query.to, datagram),
                    _ => Due::Slow(query.purpose),
                };
                let next = (*sent + GIVEN_UP_AT_LEAST.max(2 * slow)).max(now);
                (Stage::Slow { sent: *sent }, next, due)
            }
            Stage::Slow { .. } => {
                let failed = Due::Failed(query.to, query.purpose);
                self.under_way.remove(&transaction);
                return Some(failed);
            }
        };
        query.stage = stage;
        query.next = next;
        self.timers.insert((next, transaction));
        Some(due)
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

/// Some queries are sent a second time when the answer is slow: a lost store would cost a copy, and storing twice does no
/// harm; a lost first contact might be all there is. Elsewhere a lookup just asks others.
fn again(purpose: &Purpose, datagram: &[u8]) -> Option<Vec<u8>> {
    let matters = match purpose {
        Purpose::Store(..) => true,
        Purpose::Lookup(_, asked) => asked.id.is_none(),
        Purpose::Ping(_) => false,
    };
    matters.then(|| datagram.to_vec())
}

/// How long answers take: mean and deviation, smoothed as TCP does it (RFC 6298).
#[derive(Debug)]
struct AnswerTime {
    mean: Duration,
    deviation: Duration,
}

impl Default for AnswerTime {
    fn default() -> Self {
        Self { mean: Duration::from_millis(300), deviation: Duration::from_millis(150) }
    }
}

impl AnswerTime {
    fn observe(&mut self, took: Duration) {
        self.deviation = (self.deviation * 3 + self.mean.abs_diff(took)) / 4;
        self.mean = (self.mean * 7 + took) / 8;
    }

    fn slow(&self) -> Duration {
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
        assert_eq!(bench.due(850), []);
        assert_eq!(bench.due(900), [Due::Slow(Purpose::Ping(None))]);
        assert_eq!(bench.due(1799), []);
        assert_eq!(bench.due(1800), [Due::Failed(addr(1), Purpose::Ping(None))]);
        assert_eq!(bench.due(60_000), []);
    }

    #[test]
    fn a_store_is_sent_twice() {
        let mut bench = Bench::new();
        let contact = Contact { id: NodeId([2; 20]), addr: addr(1) };
        let datagram = bench.ask(Purpose::Store(OperationId(1), contact)).unwrap().unwrap();
        assert_eq!(bench.due(900), [Due::Send(addr(1), datagram)]);
        assert_eq!(bench.due(1800), [Due::Failed(addr(1), Purpose::Store(OperationId(1), contact))]);
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
        (0..100).for_each(|_| time.observe(Duration::from_secs(60)));
        assert_eq!(time.slow(), SLOW_AT_MOST);
    }
}
