//! Random operations on a node and on its routing table, each beside a simple model of what it must hold and accept.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::node::{Limits, Node};
use super::operation::Request;
use super::table::Table;
use super::{Mode, node_id};
use crate::wire::id::{Distance, NodeId, Target};
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::krpc::{Body, Contact, Held, Message, Method, PutItem, Query, Response};

const OWN: NodeId = NodeId([0x55; 20]);
const LIFETIME: Duration = Duration::from_secs(2 * 3600);
const ROOM: usize = 2;

/// Versions of three records, one more than there is room for; the last digit of the number is that of the value.
static VERSIONS: LazyLock<Vec<VerifiedItem>> = LazyLock::new(|| {
    let key = SigningKey::from_bytes(&[1; 32]);
    let sign = |n: usize| {
        let (salt, seq, v) = (n % 3, n / 6, n / 3 % 2);
        let salt = Salt::new([salt as u8]).expect("a short salt");
        VerifiedItem::sign(&key, salt, seq as i64, format!("1:{v}").into_bytes()).expect("a small value")
    };
    (0..24).map(sign).collect()
});

#[derive(Debug, Clone)]
enum Op {
    /// Somebody asks for the record of a version, and gets a token.
    Get {
        who: u8,
        version: usize,
    },
    /// Somebody puts a version with the token it got last, or one it made up.
    Put {
        who: u8,
        version: usize,
        cas: Option<i64>,
        forged: bool,
    },
    Wait {
        seconds: u64,
    },
    /// Anything at all arrives.
    Junk {
        who: u8,
        bytes: Vec<u8>,
    },
    /// Something well formed that nobody waits for.
    Answer {
        who: u8,
        id: u8,
    },
    Lookup {
        target: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..4_u8;
    prop_oneof![
        4 => (who.clone(), 0..24_usize).prop_map(|(who, version)| Op::Get { who, version }),
        6 => (who.clone(), 0..24_usize, proptest::option::weighted(0.3, 0..5_i64), proptest::bool::weighted(0.1))
            .prop_map(|(who, version, cas, forged)| Op::Put { who, version, cas, forged }),
        2 => prop_oneof![1..120_u64, 100..10_000_u64].prop_map(|seconds| Op::Wait { seconds }),
        1 => (who.clone(), proptest::collection::vec(any::<u8>(), 0..80)).prop_map(|(who, bytes)| Op::Junk { who, bytes }),
        1 => (who, any::<u8>()).prop_map(|(who, id)| Op::Answer { who, id }),
        1 => any::<u8>().prop_map(|target| Op::Lookup { target }),
    ]
}

/// What the node should hold and accept.
#[derive(Default)]
struct Model {
    held: BTreeMap<Distance, (VerifiedItem, Instant)>,
    tokens: BTreeMap<u8, (Vec<u8>, Instant)>,
}

impl Model {
    fn current(&self, now: Instant, target: &Target) -> Option<&VerifiedItem> {
        self.held.get(&OWN.distance(target)).filter(|(_, until)| *until > now).map(|(item, _)| item)
    }

    /// The error code to expect.
    fn put(&mut self, now: Instant, item: &VerifiedItem, cas: Option<i64>) -> Option<i64> {
        if let Some(current) = self.current(now, &item.target()) {
            if cas.is_some_and(|cas| cas != current.seq()) {
                return Some(301);
            }
            if (item.seq(), item.v()) < (current.seq(), current.v()) {
                return Some(302);
            }
        }
        let distance = OWN.distance(&item.target());
        self.held.insert(distance, (item.clone(), now + LIFETIME));
        if self.held.len() <= ROOM {
            return None;
        }
        self.held.pop_last().filter(|(farthest, _)| *farthest == distance).map(|_| 202)
    }
}

struct Bench {
    node: Node,
    model: Model,
    now: Instant,
    rng: StdRng,
}

fn address(who: u8) -> SocketAddr {
    ([8, 8, 4, who], 6881).into()
}

impl Bench {
    /// Sends a query and returns the answer.
    fn ask(&mut self, who: u8, method: Method) -> Body {
        // Nobody here asks more often than a node answers.
        self.pass(Duration::from_millis(200));
        let query = Query { id: NodeId([who; 20]), read_only: true, want: None, method };
        let message = Message { transaction: vec![who, 1], version: None, ip: None, body: Body::Query(query) };
        let effects = self.node.handle(self.now, &mut self.rng, address(who), &message.encode());
        let answer = effects.send.iter().find(|(to, _)| *to == address(who)).expect("every query is answered");
        let answer = Message::decode(&answer.1).expect("the answer is KRPC");
        assert_eq!(answer.transaction, [who, 1]);
        answer.body
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.node.next_wake() <= until {
            self.now = self.now.max(self.node.next_wake());
            let _ = self.node.tick(self.now, &mut self.rng);
        }
        self.now = until;
        self.model.held.retain(|_, (_, until)| *until > self.now);
    }

    fn get(&mut self, who: u8, item: &VerifiedItem) {
        let body = self.ask(who, Method::Get { target: item.target(), seq: None });
        let Body::Response(Response { held, token: Some(token), .. }) = body else { panic!("{body:?}") };
        let expected = self.model.current(self.now, &item.target()).map(|item| Held::Mutable {
            key: *item.key(),
            seq: item.seq(),
            sig: *item.sig(),
            v: item.v().to_vec(),
        });
        assert_eq!(held, expected);
        self.model.tokens.insert(who, (token, self.now));
    }

    fn put(&mut self, who: u8, item: &VerifiedItem, cas: Option<i64>, forged: bool) {
        let known = self.model.tokens.get(&who).filter(|_| !forged).cloned();
        let (token, age) = known.map_or((vec![7; 8], None), |(token, at)| (token, Some(self.now - at)));
        let put = PutItem::Mutable { item: item.as_signed().clone(), cas };
        let code = match self.ask(who, Method::Put { token, target: None, item: put }) {
            Body::Response(_) => None,
            Body::Error(error) => Some(error.code),
            other @ Body::Query(_) => panic!("{other:?}"),
        };
        // BEP 5: tokens "up to ten minutes old are accepted"; the secret changes within a minute of when it should.
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        match code {
            Some(203) => assert!(age.is_none() || age >= minutes(5), "a good token is refused after {age:?}"),
            _ => {
                assert!(age.is_some() && age <= minutes(12), "a bad token is taken after {age:?}");
                assert_eq!(code, self.model.put(self.now, item, cas));
            }
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Get { who, version } => self.get(who, &VERSIONS[version]),
            Op::Put { who, version, cas, forged } => self.put(who, &VERSIONS[version], cas, forged),
            Op::Wait { seconds } => self.pass(Duration::from_secs(seconds)),
            Op::Junk { who, bytes } => {
                self.pass(Duration::from_millis(200));
                let _ = self.node.handle(self.now, &mut self.rng, address(who), &bytes);
            }
            Op::Answer { who, id } => {
                let body = Body::Response(Response::new(NodeId([id; 20])));
                let message = Message { transaction: vec![id; 4], version: None, ip: Some(address(id)), body };
                let _ = self.node.handle(self.now, &mut self.rng, address(who), &message.encode());
            }
            Op::Lookup { target } => {
                let request = Request::Nodes(Target([target; 20]));
                let _ = self.node.start(self.now, &mut self.rng, request);
            }
        }
        self.node.check_invariants();
        assert!(self.node.stored_items() <= ROOM);
    }
}

/// A routing table beside what it was told: who answered last under which id and address.
struct TableBench {
    table: Table,
    now: Instant,
    answered: HashSet<Contact>,
}

#[derive(Debug, Clone)]
enum TableOp {
    Answered(Contact),
    Queried(Contact),
    Failed(Contact, bool),
    Wait(u64),
    Rehome(NodeId),
}

/// Few ids and few addresses, so that they meet: in the farthest bucket and in some of the nearer ones, in public and not.
fn contact() -> impl Strategy<Value = Contact> {
    (0..8_usize, 0..6_u8, any::<bool>(), 0..24_u8, 1..3_u16).prop_map(|(shared, last, public, host, port)| {
        let mut id = OWN.0;
        id[0] ^= 0x80 >> shared;
        id[19] = last;
        let ip = if public { [8, 8, 8, host] } else { [127, 0, 0, host + 1] };
        Contact { id: NodeId(id), addr: (ip, port).into() }
    })
}

fn table_op() -> impl Strategy<Value = TableOp> {
    prop_oneof![
        8 => contact().prop_map(TableOp::Answered),
        3 => contact().prop_map(TableOp::Queried),
        4 => (contact(), any::<bool>()).prop_map(|(contact, sure)| TableOp::Failed(contact, sure)),
        2 => (1..1000_u64).prop_map(TableOp::Wait),
        1 => any::<u8>().prop_map(|byte| TableOp::Rehome(NodeId([byte; 20]))),
    ]
}

impl TableBench {
    fn step(&mut self, op: TableOp) {
        let before = self.table.contacts();
        match op {
            TableOp::Answered(contact) => {
                let good = self.table.good(self.now);
                let pinged = self.table.answered(self.now, contact);
                assert!(pinged.is_none_or(|pinged| !good.contains(&pinged)), "a good node is not doubted");
                self.answered.insert(contact);
                let after = self.table.contacts();
                let fits = |contact: &Contact| node_id::fits(&contact.id, contact.addr.ip());
                for lost in good.iter().filter(|contact| !after.contains(contact)) {
                    // Only by coming back under another id, or to one whose id is right (BEP 42).
                    assert!(lost.addr == contact.addr || (fits(&contact) && !fits(lost)), "{lost:?} for {contact:?}");
                }
            }
            TableOp::Queried(contact) => {
                let _ = self.table.queried(self.now, contact);
                assert_eq!(self.table.contacts(), before, "asking lets nobody in");
            }
            TableOp::Failed(contact, sure) => {
                self.table.failed(&contact, sure);
                if !sure {
                    assert_eq!(self.table.contacts(), before, "a lost datagram throws nobody out");
                }
            }
            TableOp::Wait(seconds) => self.now += Duration::from_secs(seconds),
            TableOp::Rehome(id) => self.table.rehome(id),
        }
        self.check();
    }

    fn check(&self) {
        self.table.check_invariants();
        let all = self.table.contacts();
        assert!(all.iter().all(|contact| self.answered.contains(contact)), "who never answered is in the table");
        assert!(all.iter().all(|contact| contact.id != self.table.own_id()));
        for target in [OWN.0, [0; 20], [0xff; 20], [0x5a; 20]].map(Target) {
            let mut nearest: Vec<Contact> = all.iter().copied().filter(|contact| contact.addr.port() == 1).collect();
            nearest.sort_by_key(|contact| contact.id.distance(&target));
            for count in [1, 8, 1000] {
                let found = self.table.closest(&target, count, |contact| contact.addr.port() == 1);
                assert_eq!(found, nearest[..count.min(nearest.len())]);
            }
        }
        let is_due = self.table.next_due(self.now).is_some_and(|at| at <= self.now);
        assert!(is_due || self.table.questionable(self.now).is_none(), "a node to be pinged is slept over");
    }
}

proptest! {
    // A quarter of the usual number, since each case is a long one; PROPTEST_CASES counts four times as many.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(4), ..ProptestConfig::default() })]

    #[test]
    fn a_table_holds_who_answered_and_names_the_nearest(ops in proptest::collection::vec(table_op(), 1..200)) {
        let mut bench = TableBench { table: Table::new(OWN), now: Instant::now(), answered: HashSet::new() };
        ops.into_iter().for_each(|op| bench.step(op));
    }

    #[test]
    fn a_node_stores_as_the_model_does(ops in proptest::collection::vec(op(), 1..60)) {
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let limits = Limits { mode: Mode::Server, max_items: ROOM, max_peers: 10 };
        let node = Node::new(now, &mut rng, OWN, limits);
        let mut bench = Bench { node, model: Model::default(), now, rng };
        ops.into_iter().for_each(|op| bench.step(op));
    }
}
