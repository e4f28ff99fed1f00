//! Hundreds of sockets that come, announce, answer, stop and vanish at random, held against a small model of the swarms.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const SEED: u64 = 7;
const SWARMS: u8 = 8;
const SOCKETS: u16 = 200;
const STEPS: usize = 1_000;

/// Half of how long an offer may be answered: what is answered sooner must arrive, also on a machine that stumbles.
const SURE: Duration = Duration::from_secs(25);

/// An offer, as its maker remembers it.
#[derive(Debug, Clone, Copy)]
struct Made {
    socket: u16,
    hash: u8,
    at: Instant,
    /// Its maker's connection has ended; one that is opened later is somebody else's.
    orphaned: bool,
}

struct Churn {
    server: Server,
    rng: SmallRng,
    pages: HashMap<u16, Page>,
    /// Who is in which swarm, and whether it is a seeder. Each socket has one peer, whose id says which socket it is.
    swarms: BTreeMap<u8, BTreeMap<u16, bool>>,
    /// Every offer, by its number.
    made: Vec<Made>,
    /// Offers that have been heard, each at most once.
    heard: BTreeSet<usize>,
    /// Offers whose answers must reach their makers.
    awaited: BTreeSet<usize>,
    answers: usize,
}

fn peer_id(socket: u16) -> Value {
    let mut bytes = [b'p'; 20];
    bytes[..2].copy_from_slice(&socket.to_be_bytes());
    Value::String(to_latin1(&bytes))
}

fn offer_id(number: usize) -> Value {
    let mut bytes = [b'o'; 20];
    bytes[..4].copy_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
    Value::String(to_latin1(&bytes))
}

/// The number that an id begins with.
fn number<const BYTES: usize>(id: &Value) -> usize {
    id.as_str().unwrap().chars().take(BYTES).fold(0, |number, c| number << 8 | c as usize)
}

impl Churn {
    async fn step(&mut self) {
        let socket = self.rng.random_range(0..SOCKETS);
        if !self.pages.contains_key(&socket) {
            self.pages.insert(socket, self.server.page().await);
        }
        // What came meanwhile comes first, so that a peer answers before it leaves.
        self.listen(socket).await;
        let hash = self.rng.random_range(1..=SWARMS);
        match self.rng.random_range(0..12) {
            0 => self.vanish(socket).await,
            1 => self.stop(socket, hash).await,
            _ => self.announce(socket, hash).await,
        }
    }

    async fn announce(&mut self, socket: u16, hash: u8) {
        let made = Made { socket, hash, at: Instant::now(), orphaned: false };
        let offers: Vec<usize> = (self.made.len()..).take(self.rng.random_range(0..4)).collect();
        self.made.extend(offers.iter().map(|_| made));
        let seeder = self.rng.random();
        self.swarms.entry(hash).or_default().insert(socket, seeder);
        let offer = |n: &usize| json!({"offer": {"sdp": format!("offer {n}")}, "offer_id": offer_id(*n)});
        let mut request = announcement(hash, 0, &[]);
        request["left"] = json!(i32::from(!seeder));
        request["offers"] = offers.iter().map(offer).collect();
        self.ask(socket, request, hash).await;
    }

    async fn stop(&mut self, socket: u16, hash: u8) {
        self.swarms.entry(hash).or_default().remove(&socket);
        let mut request = announcement(hash, 0, &[]);
        request["event"] = json!("stopped");
        self.ask(socket, request, hash).await;
        // Answers to what it offered lead nowhere now.
        self.awaited.retain(|n| (self.made[*n].socket, self.made[*n].hash) != (socket, hash));
    }

    /// Goes without a word; what the others do next must not depend on who is faster, so its end is waited for.
    async fn vanish(&mut self, socket: u16) {
        self.pages.remove(&socket);
        for peers in self.swarms.values_mut() {
            peers.remove(&socket);
        }
        self.awaited.retain(|n| self.made[*n].socket != socket);
        for made in self.made.iter_mut().filter(|made| made.socket == socket) {
            made.orphaned = true;
        }
        self.server.until_there_are(self.swarms.values().map(BTreeMap::len).sum()).await;
    }

    /// Announces; the reply has the counts of the model.
    async fn ask(&mut self, socket: u16, mut request: Value, hash: u8) {
        request["peer_id"] = peer_id(socket);
        self.page(socket).send(request.to_string()).await;
        let reply = self.page(socket).receive().await;
        let peers = &self.swarms[&hash];
        let seeders = peers.values().filter(|seeder| **seeder).count();
        assert_eq!(reply, announced(hash, seeders, peers.len() - seeders));
    }

    /// Hears what has come to a socket, and answers offers, until nothing more comes. A scrape passes through all shards,
    /// so its reply comes after everything they had for this socket.
    async fn listen(&mut self, socket: u16) {
        let everything: Vec<Value> = (1..=SWARMS).map(id).collect();
        let mut answered = true;
        while answered {
            answered = false;
            self.page(socket).send(json!({"action": "scrape", "info_hash": everything}).to_string()).await;
            loop {
                let message = self.page(socket).receive().await;
                if message["action"] == "scrape" {
                    break;
                }
                answered |= self.hear(socket, &message).await;
            }
        }
    }

    /// Takes an offer or an answer; whether it was an offer.
    async fn hear(&mut self, socket: u16, message: &Value) -> bool {
        let (hash, n) = (message["info_hash"].clone(), number::<4>(&message["offer_id"]));
        let made = self.made[n];
        assert_eq!(hash, id(made.hash), "nothing crosses from one swarm to another");
        if message.get("answer").is_some() {
            assert_eq!((socket, &message["answer"]["sdp"]), (made.socket, &json!(format!("answer {n}"))));
            assert_ne!(number::<2>(&message["peer_id"]), usize::from(socket));
            self.awaited.remove(&n);
            self.answers += 1;
            return false;
        }
        assert_eq!(
            (&message["peer_id"], &message["offer"]["sdp"]),
            (&peer_id(made.socket), &json!(format!("offer {n}")))
        );
        assert!(made.socket != socket && self.heard.insert(n), "to one other");
        let here = |socket| self.swarms.get(&made.hash).is_some_and(|peers| peers.contains_key(socket));
        assert!(here(&socket), "to a peer of the swarm");
        if here(&made.socket) && !made.orphaned && made.at.elapsed() < SURE {
            self.awaited.insert(n);
        }
        let answer = json!({
            "action": "announce", "info_hash": hash, "peer_id": peer_id(socket), "to_peer_id": peer_id(made.socket),
            "offer_id": offer_id(n), "answer": {"sdp": format!("answer {n}")},
        });
        self.page(socket).send(answer.to_string()).await;
        true
    }

    fn page(&mut self, socket: u16) -> &mut Page {
        self.pages.get_mut(&socket).expect("it is open")
    }
}

#[tokio::test]
async fn churn() {
    let mut churn = Churn {
        server: Server::start().await,
        rng: SmallRng::seed_from_u64(SEED),
        pages: HashMap::new(),
        swarms: BTreeMap::new(),
        made: Vec::new(),
        heard: BTreeSet::new(),
        awaited: BTreeSet::new(),
        answers: 0,
    };
    for _ in 0..STEPS {
        churn.step().await;
    }
    let open: Vec<u16> = churn.pages.keys().copied().collect();
    // Once for the offers, once for the answers to them.
    for socket in open.iter().chain(&open) {
        churn.listen(*socket).await;
    }
    assert_eq!(churn.awaited, BTreeSet::new(), "every answer reaches its offerer");
    assert!(churn.answers > STEPS / 2, "{} answers: this test no longer tests much", churn.answers);
    churn.pages.clear();
    churn.server.until_there_are(0).await;
    assert_eq!(churn.server.tracker.stats(), Stats::default());
    assert_eq!(churn.server.metrics.sockets.get(), 0);
}
