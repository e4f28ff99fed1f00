use proptest::prelude::*;

use super::*;

/// Between two messages to one peer that has always something to be told.
const MINUTE: Duration = EVERY.saturating_add(GATHERED);

fn hello(exchanges: u8, port: u16) -> ExtendedHandshake {
    let extensions = [(peer_exchange::NAME.to_owned(), exchanges)].into();
    ExtendedHandshake { extensions, port: Some(port), ..Default::default() }
}

/// A peer that came by itself and says that it listens on port 1.
fn come(table: &mut Contacts, ip: &str) -> Key {
    let key = table.joined(SocketAddr::new(ip.parse().unwrap(), 40_000), Transport::Tcp, false);
    table.greeted(key, &hello(7, 1));
    key
}

/// What follows for a peer when what is news now has been gathered.
fn gathered(table: &mut Contacts, key: Key, now: Instant) -> Next {
    match table.next(key, now) {
        Next::Wait(Some(at)) if at == now + GATHERED => table.next(key, at),
        next => next,
    }
}

/// The addresses that a peer is told of now, and those it is told are gone.
fn told(table: &mut Contacts, key: Key, now: Instant) -> (Vec<String>, Vec<String>) {
    match gathered(table, key, now) {
        Next::Send(id, PeerExchange { added, dropped }) => {
            assert_eq!(id, 7);
            (
                added.iter().map(|told| told.addr.to_string()).collect(),
                dropped.iter().map(SocketAddr::to_string).collect(),
            )
        }
        Next::Wait(_) => (vec![], vec![]),
        Next::Introduce(..) => panic!("nobody asked"),
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn peers_are_told_of_each_other_once_and_once_a_minute() {
    let (mut table, start) = (Contacts::default(), Instant::now());
    let first = come(&mut table, "1.1.1.1");
    assert_eq!(table.next(first, start), Next::Wait(None), "there is nobody else");
    let second = come(&mut table, "2.2.2.2");
    assert_eq!(told(&mut table, first, start), (owned(&["2.2.2.2:1"]), vec![]));
    assert_eq!(told(&mut table, second, start), (owned(&["1.1.1.1:1"]), vec![]));
    let third = come(&mut table, "3.3.3.3");
    assert_eq!(table.next(first, start + MINUTE / 2), Next::Wait(Some(start + MINUTE)));
    assert_eq!(told(&mut table, third, start).0, owned(&["1.1.1.1:1", "2.2.2.2:1"]));
    table.left(second);
    // It was there and is gone; whom nobody was told of is not said to be gone.
    let brief = come(&mut table, "4.4.4.4");
    table.left(brief);
    assert_eq!(told(&mut table, first, start + MINUTE), (owned(&["3.3.3.3:1"]), owned(&["2.2.2.2:1"])));
    assert_eq!(told(&mut table, third, start + MINUTE), (vec![], owned(&["2.2.2.2:1"])));
    assert_eq!(table.next(third, start + MINUTE * 2), Next::Wait(None), "nothing is new");
}

#[test]
fn who_comes_with_others_is_told_of_all_of_them_together() {
    let (mut table, start) = (Contacts::default(), Instant::now());
    let first = come(&mut table, "1.1.1.1");
    let second = come(&mut table, "2.2.2.2");
    let due = Next::Wait(Some(start + GATHERED));
    assert_eq!([first, second].map(|key| table.next(key, start)), [due, Next::Wait(Some(start + GATHERED))]);
    let brief = come(&mut table, "4.4.4.4");
    come(&mut table, "3.3.3.3");
    table.left(brief);
    let later = start + GATHERED / 2;
    assert_eq!(table.next(first, later), Next::Wait(Some(start + GATHERED)), "more news moves nothing");
    for (key, other) in [(first, "2.2.2.2:1"), (second, "1.1.1.1:1")] {
        let Next::Send(7, PeerExchange { added, dropped }) = table.next(key, start + GATHERED) else { panic!("due") };
        let added: Vec<_> = added.iter().map(|told| told.addr.to_string()).collect();
        assert_eq!((added, dropped), (owned(&[other, "3.3.3.3:1"]), vec![]));
    }
    // News that is none any more when it is due is not waited for twice.
    let alone = come(&mut table, "5.5.5.5");
    assert_eq!(told(&mut table, alone, start).0.len(), 3);
    let brief = come(&mut table, "6.6.6.6");
    let again = start + MINUTE;
    assert_eq!(table.next(alone, again), Next::Wait(Some(again + GATHERED)));
    table.left(brief);
    assert_eq!(table.next(alone, again + GATHERED), Next::Wait(None));
}

#[test]
fn who_came_back_is_not_gone() {
    let (mut table, now) = (Contacts::default(), Instant::now());
    let (first, second) = (come(&mut table, "1.1.1.1"), come(&mut table, "2.2.2.2"));
    assert_eq!(told(&mut table, first, now).0.len(), 1);
    table.left(second);
    come(&mut table, "2.2.2.2");
    assert_eq!(told(&mut table, first, now + MINUTE), (owned(&["2.2.2.2:1"]), vec![]));
}

#[test]
fn only_who_takes_connections_is_told_of_and_only_who_asks_is_told() {
    let (mut table, now) = (Contacts::default(), Instant::now());
    let asks = come(&mut table, "1.1.1.1");
    let dialled = table.joined("2.2.2.2:51413".parse().unwrap(), Transport::Utp, true);
    let _silent = table.joined("3.3.3.3:40000".parse().unwrap(), Transport::Tcp, false);
    table.is_seed(dialled);
    // Where it was reached is believed rather than what it says.
    table.greeted(dialled, &hello(0, 9));
    let Next::Send(7, PeerExchange { added, .. }) = gathered(&mut table, asks, now) else { panic!("there is news") };
    let flags = Flags::UTP.and(Flags::SEED).and(Flags::REACHABLE);
    assert_eq!(added, [Told { addr: "2.2.2.2:51413".parse().unwrap(), flags }]);
    assert_eq!(table.next(dialled, now), Next::Wait(None), "id 0 switches it off");
    assert!(table.has("2.2.2.2:51413".parse().unwrap()) && !table.has("3.3.3.3:40000".parse().unwrap()));
}

/// "Peer exchange filtered of every address a stranger must not learn".
#[test]
fn nobody_learns_an_address_that_means_nothing_to_it() {
    let everybody = ["9.9.9.9", "10.0.0.9", "192.168.0.9", "127.0.0.9", "169.254.0.9", "2a00::9", "fd00::9", "fe80::9"];
    // Where it is → whom it is told of.
    let table = [
        ("8.8.8.8", vec!["9.9.9.9", "2a00::9"]),
        ("2a00::8", vec!["9.9.9.9", "2a00::9"]),
        ("10.0.0.8", vec!["9.9.9.9", "10.0.0.9", "2a00::9"]),
        ("192.168.0.8", vec!["9.9.9.9", "192.168.0.9", "2a00::9"]),
        ("169.254.0.8", vec!["9.9.9.9", "169.254.0.9", "2a00::9", "fe80::9"]),
        ("fd00::8", vec!["9.9.9.9", "2a00::9", "fd00::9"]),
        ("127.0.0.8", everybody.to_vec()),
        ("::1", everybody.to_vec()),
    ];
    for (here, expected) in table {
        let mut contacts = Contacts::default();
        for ip in everybody {
            come(&mut contacts, ip);
        }
        let receiver = come(&mut contacts, here);
        let (told, _) = told(&mut contacts, receiver, Instant::now());
        let expected: Vec<_> =
            expected.into_iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 1).to_string()).collect();
        assert_eq!(told, expected, "told to {here}");
    }
}

#[test]
fn a_message_a_minute_is_taken() {
    let (mut table, start) = (Contacts::default(), Instant::now());
    let key = come(&mut table, "1.1.1.1");
    let taken = [0, 0, 1, 30, 59, 60, 61, 90, 119, 120].map(|s| table.may_tell(key, start + Duration::from_secs(s)));
    assert_eq!(taken, [true, true, false, false, false, true, false, false, false, true]);
    assert!(!table.may_tell(key + 1, start));
}

/// A peer that takes introductions, and the table that knows it.
fn punches(table: &mut Contacts, remote: &str, transport: Transport) -> Key {
    let key = table.joined(remote.parse().unwrap(), transport, false);
    let extensions = [(holepunch::NAME.to_owned(), 9)].into();
    table.greeted(key, &ExtendedHandshake { extensions, port: Some(1), ..Default::default() });
    key
}

/// What is written to a peer of introductions.
fn introductions(table: &mut Contacts, key: Key, now: Instant) -> Vec<Holepunch> {
    let mut all = Vec::new();
    while let Next::Introduce(id, introduction) = table.next(key, now) {
        assert_eq!(id, 9);
        all.push(introduction);
    }
    all
}

#[test]
fn two_that_a_relay_knows_are_introduced_by_where_they_take_utp() {
    let (mut table, now) = (Contacts::default(), Instant::now());
    let over_utp = punches(&mut table, "1.1.1.1:5000", Transport::Utp);
    let over_tcp = punches(&mut table, "2.2.2.2:40000", Transport::Tcp);
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
    // Told of by the port that it takes connections at, or seen at another.
    for target in [addr("1.1.1.1:1"), addr("1.1.1.1:5000")] {
        assert_eq!(table.punch(over_tcp, Holepunch::Rendezvous(target), now), Punched::Relayed);
        assert_eq!(introductions(&mut table, over_tcp, now), [Holepunch::Connect(target)]);
        assert_eq!(introductions(&mut table, over_utp, now), [Holepunch::Connect(addr("2.2.2.2:1"))]);
    }
    assert_eq!(table.punch(over_utp, Holepunch::Rendezvous(addr("2.2.2.2:1")), now), Punched::Relayed);
    assert_eq!(introductions(&mut table, over_tcp, now), [Holepunch::Connect(addr("1.1.1.1:5000"))]);
}

#[test]
fn who_cannot_be_introduced_is_told_why() {
    let now = Instant::now();
    let table = [
        ("9.9.9.9:1", PunchError::NotConnected),
        // It asks for itself.
        ("1.1.1.1:1", PunchError::NotConnected),
        ("3.3.3.3:1", PunchError::NoSupport),
        // It must not learn who is inside, nor those who are inside of it.
        ("10.0.0.4:1", PunchError::NotConnected),
    ];
    for (target, error) in table {
        let mut contacts = Contacts::default();
        let asks = punches(&mut contacts, "1.1.1.1:40000", Transport::Tcp);
        come(&mut contacts, "3.3.3.3");
        punches(&mut contacts, "10.0.0.4:40000", Transport::Tcp);
        let target = target.parse().unwrap();
        assert_eq!(contacts.punch(asks, Holepunch::Rendezvous(target), now), Punched::Refused);
        assert_eq!(introductions(&mut contacts, asks, now), [Holepunch::Error(target, error)]);
    }
}

#[test]
fn we_ask_only_who_answers_and_obey_only_so_often() {
    let (mut table, now) = (Contacts::default(), Instant::now());
    let addr = "9.9.9.9:1".parse().unwrap();
    let (mute, relay) = (come(&mut table, "3.3.3.3"), punches(&mut table, "1.1.1.1:40000", Transport::Tcp));
    assert!(!table.ask(mute, addr) && !table.ask(999, addr));
    assert_eq!(table.punch(mute, Holepunch::Connect(addr), now), Punched::Ignored);
    assert_eq!((0..99).filter(|_| table.ask(relay, addr)).count(), MAX_INTRODUCTIONS);
    assert_eq!(introductions(&mut table, relay, now), [Holepunch::Rendezvous(addr); MAX_INTRODUCTIONS]);
    let dialled = |table: &mut Contacts, now| {
        (0..99).filter(|_| table.punch(relay, Holepunch::Connect(addr), now) == Punched::Dial(addr)).count()
    };
    assert_eq!((dialled(&mut table, now), dialled(&mut table, now + INTRODUCED.every)), (10, 1));
}

#[test]
fn a_crowd_is_told_of_in_turns() {
    let (mut table, mut now) = (Contacts::default(), Instant::now());
    let receiver = come(&mut table, "1.1.1.1");
    let keys: Vec<_> = (1..=120).map(|n| come(&mut table, &format!("2.2.2.{n}"))).collect();
    let mut sizes = Vec::new();
    for _ in 0..4 {
        sizes.push(told(&mut table, receiver, now).0.len());
        now += MINUTE;
    }
    assert_eq!(sizes, [50, 50, 20, 0]);
    keys.into_iter().for_each(|key| table.left(key));
    let gone: Vec<_> = (0..4).map(|n| told(&mut table, receiver, now + MINUTE * n).1.len()).collect();
    assert_eq!(gone, [50, 50, 20, 0]);
}

proptest! {
    /// Whatever happens: who is told of all in the end believes in exactly those that are here, and nothing grows.
    #[test]
    fn in_the_end_everybody_knows_who_is_here(events in prop::collection::vec((0_u8..3, 0_u8..8), 0..120)) {
        let (mut table, mut now) = (Contacts::default(), Instant::now());
        let receiver = come(&mut table, "1.1.1.1");
        let (mut here, mut believes) = (BTreeMap::new(), std::collections::BTreeSet::new());
        let mut listen = |table: &mut Contacts, now| {
            let (added, dropped) = told(table, receiver, now);
            for gone in dropped {
                assert!(believes.remove(&gone), "{gone} was never told of");
            }
            believes.extend(added);
            believes.clone()
        };
        for (what, n) in events {
            match what {
                0 => {
                    here.entry(n).or_insert_with(|| come(&mut table, &format!("2.2.2.{n}")));
                }
                1 => here.remove(&n).into_iter().for_each(|key| table.left(key)),
                _ => {
                    now += MINUTE;
                    listen(&mut table, now);
                }
            }
            prop_assert!(table.gone.len() <= MAX_GONE && table.peers.len() <= 9);
        }
        let believes = listen(&mut table, now + MINUTE);
        prop_assert_eq!(believes, here.keys().map(|n| format!("2.2.2.{n}:1")).collect());
    }
}
