//! Random operations on one state, held against what the specification promises.

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::wire::record_exchange::ExchangeMessage;

const AUTHORS: u8 = 5;
const TOPICS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Follow { author: u8, why: Interest },
    Join { peer: u64, swarm: usize },
    Leave { peer: u64 },
    Greet { peer: u64, id: u8 },
    Have { peer: u64, author: u8, seq: Option<i64> },
    Bring { peer: u64, author: u8, seq: i64, value: u8 },
    Learn { author: u8, seq: i64, value: u8 },
    Tell { peer: u64 },
    Pass { seconds: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (peer, author, seq) = (0_u64..6, 0..AUTHORS, 0_i64..6);
    let interest = prop_oneof![6 => Just(Interest::Asked), 3 => Just(Interest::Put), 1 => Just(Interest::Pinned)];
    prop_oneof![
        2 => (author.clone(), interest).prop_map(|(author, why)| Op::Follow { author, why }),
        2 => (peer.clone(), 0_usize..8).prop_map(|(peer, swarm)| Op::Join { peer, swarm }),
        1 => peer.clone().prop_map(|peer| Op::Leave { peer }),
        2 => (peer.clone(), 0_u8..4).prop_map(|(peer, id)| Op::Greet { peer, id }),
        3 => (peer.clone(), author.clone(), prop::option::of(seq.clone()))
            .prop_map(|(peer, author, seq)| Op::Have { peer, author, seq }),
        3 => (peer.clone(), author.clone(), seq.clone(), 0_u8..3)
            .prop_map(|(peer, author, seq, value)| Op::Bring { peer, author, seq, value }),
        2 => (author, seq, 0_u8..3).prop_map(|(author, seq, value)| Op::Learn { author, seq, value }),
        5 => peer.prop_map(|peer| Op::Tell { peer }),
        1 => (0_u64..20).prop_map(|seconds| Op::Pass { seconds }),
    ]
}

/// A version: its value is one of two torrents, or none.
fn item(author: u8, seq: i64, value: u8) -> VerifiedItem {
    let v = match value {
        0 => b"i0e".to_vec(),
        n => pointer::value(&InfoHash([n; 20])),
    };
    VerifiedItem::sign(&SigningKey::from_bytes(&[author + 1; 32]), Salt::default(), seq, v).unwrap()
}

/// The authors' topics, then torrents.
fn swarm(n: usize) -> InfoHash {
    match u8::try_from(n).unwrap() {
        author if author < AUTHORS => item(author, 0, 0).target().into(),
        other => InfoHash([other - AUTHORS + 1; 20]),
    }
}

fn check_invariants(state: &State) {
    assert!(state.topics.len() <= TOPICS);
    let unpinned: BTreeMap<_, _> = state
        .topics
        .iter()
        .filter(|(_, topic)| !topic.pinned)
        .map(|(target, topic)| (topic.place(), *target))
        .collect();
    assert_eq!(state.by_use, unpinned);
    for (swarm, targets) in &state.swarms {
        assert!(!targets.is_empty() && targets.len() <= MAX_RECORDS);
        for target in targets {
            assert!(state.swarms_of(target).contains(swarm) && state.topics.contains_key(target));
        }
    }
    let mut present = 0;
    for (swarm, peers) in &state.present {
        assert!(!peers.is_empty());
        present += peers.len();
        for key in peers {
            let peer = &state.peers[key];
            let belonging = state.swarms.get(swarm).cloned().unwrap_or_default();
            assert_eq!(peer.swarm, *swarm);
            assert!(
                peer.unmentioned.is_subset(&belonging) && peer.wants.keys().all(|target| belonging.contains(target))
            );
        }
    }
    assert_eq!(present, state.peers.len());
    assert!(state.topics.values().all(|topic| topic.pointed.len() <= POINTED));
}

proptest! {
    #[test]
    fn whatever_happens(ops in prop::collection::vec(op(), 0..200)) {
        let mut now = Instant::now();
        let mut state = State::new(TOPICS);
        let mut newest: HashMap<Target, VerifiedItem> = HashMap::new();
        let mut changed = false;
        for op in ops {
            let effects = match op {
                Op::Follow { author, why } => {
                    let key = *item(author, 0, 0).key();
                    state.follow(key, Salt::default(), why, now)
                }
                Op::Join { peer, swarm: n } => {
                    state.left(peer);
                    state.joined(peer, swarm(n));
                    state.offered(peer)
                }
                Op::Leave { peer } => {
                    state.left(peer);
                    Effects::default()
                }
                Op::Greet { peer, id } => state.greeted(peer, id),
                Op::Have { peer, author, seq } => {
                    let known = item(author, seq.unwrap_or(0), 0);
                    let version = seq.map(|_| Version::of(&known));
                    state.have(peer, &[Summary { key: *known.key(), salt: Salt::default(), version }], now)
                }
                Op::Bring { peer, author, seq, value } => {
                    let item = item(author, seq, value);
                    match state.claim(peer, item.as_signed(), now) {
                        Claim::Verify => state.learn(&item, Some(peer)).1,
                        _ => Effects::default(),
                    }
                }
                Op::Learn { author, seq, value } => state.learn(&item(author, seq, value), None).1,
                Op::Tell { peer } => {
                    let told = state.next(peer, now);
                    if let Next::Send { id, payload, .. } = &told {
                        prop_assert_eq!(Some(*id), state.peers.get(&peer).filter(|peer| peer.is_open()).map(|peer| peer.id));
                        match ExchangeMessage::decode(payload).unwrap() {
                            ExchangeMessage::Record(item) => {
                                let item = item.verify().unwrap();
                                prop_assert_eq!(state.newest(&item.target()), Some(&item), "only the newest is told");
                                prop_assert!(state.swarms[&state.peers[&peer].swarm].contains(&item.target()));
                            }
                            ExchangeMessage::Have(told) => {
                                prop_assert!(told.iter().all(|told| state.topics.contains_key(&told.target())));
                            }
                            ExchangeMessage::Unknown => prop_assert!(false, "nobody writes that"),
                        }
                    }
                    Effects::default()
                }
                Op::Pass { seconds } => {
                    now += Duration::from_secs(seconds);
                    Effects::default()
                }
            };
            changed |= effects.topics_changed;
            prop_assert!(effects.wake.iter().all(|key| state.peers.contains_key(key)));
            prop_assert!(changed || state.topics.is_empty());
            check_invariants(&state);
            // While a record is followed its newest version never goes back.
            newest.retain(|target, _| state.topics.contains_key(target));
            for target in state.topics.keys() {
                let Some(item) = state.newest(target) else { continue };
                let before = newest.insert(*target, item.clone());
                prop_assert!(before.is_none_or(|before| before == *item || item.replaces(&before)));
            }
        }
    }
}
