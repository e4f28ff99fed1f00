//! Random operations, on the table and on a model simple enough to be believed: two lists.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Announce {
        socket: u64,
        hash: u8,
        peer: u8,
        progress: Progress,
        offers: u8,
        resident: bool,
        room: bool,
    },
    Stop {
        socket: u64,
        hash: u8,
        peer: u8,
    },
    /// Answers one of the outstanding offers, or one that may not be there.
    Answer {
        known: Option<prop::sample::Index>,
        socket: u64,
        hash: u8,
        peer: u8,
        to: u8,
        offer: u8,
    },
    Close {
        socket: u64,
    },
    Native {
        hash: u8,
        port: u16,
        progress: Option<Progress>,
        room: bool,
    },
    Wait {
        seconds: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (socket, hash, peer) = (0u64..4, 0u8..2, 0u8..4);
    let progress =
        prop::sample::select(vec![Progress::Completed, Progress::Seeding, Progress::Leeching, Progress::Unsaid]);
    let room = prop::bool::weighted(0.9);
    prop_oneof![
        6 => (socket.clone(), hash.clone(), peer.clone(), progress.clone(), 0u8..5, any::<bool>(), room).prop_map(
            |(socket, hash, peer, progress, offers, resident, room)| {
                Op::Announce { socket, hash, peer, progress, offers, resident, room }
            }
        ),
        1 => (socket.clone(), hash.clone(), peer.clone()).prop_map(|(socket, hash, peer)| Op::Stop { socket, hash, peer }),
        4 => (any::<Option<prop::sample::Index>>(), socket.clone(), hash.clone(), peer.clone(), peer, any::<u8>()).prop_map(
            |(known, socket, hash, peer, to, offer)| Op::Answer { known, socket, hash, peer, to, offer }
        ),
        1 => socket.prop_map(|socket| Op::Close { socket }),
        2 => (hash, 1u16..4, prop::option::weighted(0.8, progress), room).prop_map(
            |(hash, port, progress, room)| Op::Native { hash, port, progress, room }
        ),
        2 => (1u64..400).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Web { socket: u64, peer: u8 },
    Native { port: u16 },
}

#[derive(Debug)]
struct Peer {
    hash: u8,
    who: Who,
    seeder: bool,
    /// It has made offers.
    offers: bool,
    expires: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    hash: u8,
    from: (u64, u8),
    to: (u64, u8),
    id: OfferId,
    expires: Instant,
}

#[derive(Debug, Default)]
struct Model {
    peers: Vec<Peer>,
    sent: Vec<Sent>,
    downloaded: [usize; 2],
    offers_made: u64,
}

impl Model {
    fn has(&self, hash: u8, who: Who) -> bool {
        self.peers.iter().any(|peer| peer.hash == hash && peer.who == who)
    }

    fn present(&mut self, now: Instant, hash: u8, who: Who, progress: Progress, interval: Duration) {
        if !self.has(hash, who) {
            self.peers.push(Peer { hash, who, seeder: false, offers: false, expires: now });
        }
        let peer = self.peers.iter_mut().find(|peer| peer.hash == hash && peer.who == who).unwrap();
        peer.expires = now + interval * 5 / 2;
        match progress {
            Progress::Completed => {
                self.downloaded[usize::from(hash)] += usize::from(!peer.seeder);
                peer.seeder = true;
            }
            Progress::Seeding => peer.seeder = true,
            Progress::Leeching => peer.seeder = false,
            Progress::Unsaid => {}
        }
    }

    fn remove(&mut self, goes: impl Fn(&Peer) -> bool) {
        self.peers.retain(|peer| !goes(peer));
        // An answer needs both ends still there: offers to a peer that left are gone even if it comes back.
        let peers = &self.peers;
        let there = |hash, (socket, peer)| peers.iter().any(|p| p.hash == hash && p.who == Who::Web { socket, peer });
        self.sent.retain(|sent| there(sent.hash, sent.to));
    }

    fn counts(&self, hash: u8) -> Counts {
        let here = || self.peers.iter().filter(|peer| peer.hash == hash);
        let complete = here().filter(|peer| peer.seeder).count();
        Counts { complete, incomplete: here().count() - complete, downloaded: self.downloaded[usize::from(hash)] }
    }

    fn next_offer(&mut self) -> Offer<'static> {
        self.offers_made += 1;
        let mut id = [0; 20];
        id[..8].copy_from_slice(&self.offers_made.to_be_bytes());
        Offer { id: OfferId(id), description: Description::answer("v=0") }
    }
}

fn info_hash(n: u8) -> InfoHash {
    InfoHash([n; 20])
}

/// Runs one operation on both and compares what came out.
fn step(t: &mut Fixture, model: &mut Model, op: Op) {
    match op {
        Op::Wait { seconds } => {
            t.wait(Duration::from_secs(seconds));
            t.expire();
            let now = t.now;
            model.remove(|peer| peer.expires <= now);
        }
        Op::Close { socket } => {
            t.close(socket);
            model.remove(|peer| matches!(peer.who, Who::Web { socket: s, .. } if s == socket));
        }
        Op::Native { hash, port, progress, room } => native(t, model, hash, port, progress, room),
        Op::Stop { socket, hash, peer } => {
            let effects = web(t, socket, hash, peer, Intent::Stop, false, true);
            model.remove(|p| p.hash == hash && p.who == Who::Web { socket, peer });
            assert_eq!(effects, [announced(model, socket, hash)]);
        }
        Op::Answer { known, socket, hash, peer, to, offer } => {
            let guess = Sent { hash, from: (0, to), to: (socket, peer), id: OfferId([offer; 20]), expires: t.now };
            let sent = known.filter(|_| !model.sent.is_empty()).map_or(guess, |index| *index.get(&model.sent));
            answer(t, model, sent);
        }
        Op::Announce { socket, hash, peer, progress, offers, resident, room } => {
            let offers: Vec<Offer<'static>> = (0..offers).map(|_| model.next_offer()).collect();
            let intent = match offers.clone() {
                offers if offers.is_empty() => Intent::Update { progress },
                offers => Intent::Offers { progress, offers },
            };
            let effects = web(t, socket, hash, peer, intent, resident, room);
            let who = Who::Web { socket, peer };
            if !room && !model.has(hash, who) {
                let failure = Failure::of_announce(&info_hash(hash), Reason::TrackerFull);
                assert_eq!(effects, [Effect::Send(SocketId(socket), Message::Failure(failure))]);
                return;
            }
            model.present(t.now, hash, who, progress, INTERVALS.web);
            assert_eq!(effects[0], announced(model, socket, hash));
            let page = model.peers.iter_mut().find(|peer| peer.hash == hash && peer.who == who).unwrap();
            page.offers |= !offers.is_empty();
            if resident && !page.offers {
                let (info_hash, peer_id, socket) = (info_hash(hash), peer_id(peer), SocketId(socket));
                return assert_eq!(effects[1..], [Effect::Silent { info_hash, peer_id, socket }]);
            }
            offered(t, model, (socket, peer), hash, &offers, resident, &effects[1..]);
        }
    }
    t.table.check_invariants();
}

fn web(
    t: &mut Fixture,
    socket: u64,
    hash: u8,
    peer: u8,
    intent: Intent<'static>,
    resident: bool,
    room: bool,
) -> Vec<Effect> {
    let announce = Announce { info_hash: info_hash(hash), peer_id: peer_id(peer), intent };
    t.web(socket, announce, resident, room)
}

fn announced(model: &Model, socket: u64, hash: u8) -> Effect {
    let counts = model.counts(hash);
    Effect::Send(SocketId(socket), Message::Announced { info_hash: info_hash(hash), interval: 120, counts })
}

fn native(t: &mut Fixture, model: &mut Model, hash: u8, port: u16, progress: Option<Progress>, room: bool) {
    let who = Who::Native { port };
    let reply = t.native_of(info_hash(hash), SocketAddr::from(([9, 9, 9, 9], port)), progress, 50, room);
    match progress {
        Some(_) if !room && !model.has(hash, who) => return assert_eq!(reply, Err(Full)),
        Some(progress) => model.present(t.now, hash, who, progress, INTERVALS.native),
        None => model.remove(|peer| peer.hash == hash && peer.who == who),
    }
    let mut expected: Vec<u16> = Vec::new();
    for peer in model.peers.iter().filter(|peer| peer.hash == hash && peer.who != who) {
        if let Who::Native { port } = peer.who
            && progress.is_some()
        {
            expected.push(port);
        }
    }
    let (counts, peers) = reply.unwrap();
    let mut ports: Vec<u16> = peers.iter().map(SocketAddr::port).collect();
    expected.sort_unstable();
    ports.sort_unstable();
    assert_eq!((counts, ports), (model.counts(hash), expected));
}

fn answer(t: &mut Fixture, model: &mut Model, sent: Sent) {
    let intent = Intent::Answer { to: peer_id(sent.from.1), offer_id: sent.id, answer: Description::answer("v=0") };
    let effects = web(t, sent.to.0, sent.hash, sent.to.1, intent, false, true);
    let at = model.sent.iter().position(|s| s.id == sent.id && s.to == sent.to && s.expires > t.now);
    let goes_to = at.map(|at| model.sent.remove(at)).filter(|sent| {
        let (socket, peer) = sent.from;
        model.has(sent.hash, Who::Web { socket, peer })
    });
    let expected = match goes_to {
        Some(Sent { from, .. }) => Effect::Send(
            SocketId(from.0),
            Message::Answer {
                info_hash: info_hash(sent.hash),
                peer_id: peer_id(sent.to.1),
                offer_id: sent.id,
                answer: Description::answer("v=0"),
            },
        ),
        None => Effect::Unexpected(WebAnswer {
            info_hash: info_hash(sent.hash),
            peer_id: peer_id(sent.to.1),
            offer_id: sent.id,
            answer: Description::answer("v=0"),
        }),
    };
    assert_eq!(effects, [expected]);
}

/// The peer that may answer an offer.
fn receiver_of(t: &Fixture, hash: u8, id: OfferId) -> (u64, u8) {
    let outstanding = t.table.outstanding(&info_hash(hash));
    let (member, _) =
        outstanding.iter().find(|(_, offer)| *offer == id).expect("an offer that was sent may be answered");
    (member.1.0, member.0.0[0])
}

/// Whom the offers went to is up to chance; how many, to whom at all, and which, is not.
fn offered(
    t: &Fixture,
    model: &mut Model,
    from: (u64, u8),
    hash: u8,
    offers: &[Offer],
    resident: bool,
    effects: &[Effect],
) {
    let mut free: Vec<(u64, u8)> = model
        .peers
        .iter()
        .filter(|peer| peer.hash == hash)
        .filter_map(|peer| match peer.who {
            Who::Web { socket, peer } if peer != from.1 => Some((socket, peer)),
            _ => None,
        })
        .collect();
    // A single offer goes to the resident or to another peer; for the model, as it fell.
    let chance = offers.len() == 1 && !free.is_empty();
    let given = effects.iter().any(|effect| matches!(effect, Effect::Resident { .. }));
    let resident = resident && !offers.is_empty() && (given || !chance);
    let to_web = free.len().min(offers.len() - usize::from(resident));
    assert_eq!(effects.len(), to_web + usize::from(resident));
    for (effect, offer) in effects.iter().zip(offers) {
        match effect {
            Effect::Offer { to, message: Message::Offer { info_hash: hash_sent, peer_id: sender, offer: sent } } => {
                assert_eq!((*hash_sent, *sender, sent), (info_hash(hash), peer_id(from.1), offer));
                // Of two peers on that socket it may be either.
                let receiver = receiver_of(t, hash, sent.id);
                let at = free.iter().position(|other| *other == receiver).expect("sent to another web peer, once");
                let receiver = free.remove(at);
                assert_eq!(receiver.0, to.0);
                model.sent.push(Sent { hash, from, to: receiver, id: offer.id, expires: t.now + OFFER_LIFETIME });
            }
            Effect::Resident { info_hash: hash_given, peer_id: page, offer: given } => {
                assert_eq!((*hash_given, *page, given), (info_hash(hash), peer_id(from.1), offer));
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn the_table_does_what_the_model_does(ops in prop::collection::vec(op(), 1..80), seed: u64) {
        let mut t = Fixture { rng: SmallRng::seed_from_u64(seed), ..Fixture::new() };
        let mut model = Model::default();
        for op in ops {
            step(&mut t, &mut model, op);
        }
        for socket in 0..4 {
            step(&mut t, &mut model, Op::Close { socket });
        }
        step(&mut t, &mut model, Op::Wait { seconds: 10_000 });
        assert_eq!(t.table.stats(), Stats::default());
    }
}
