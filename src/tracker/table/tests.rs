use std::num::NonZeroU16;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::tracker::swarm::{MAX_OUTSTANDING, OFFER_LIFETIME};
use crate::wire::tracker::Progress;
use crate::wire::tracker_ws::{Description, OfferId};

mod model;

/// Of messages that are made here, and borrow from no frame.
type Effect = super::Effect<'static, SocketId>;

const INTERVALS: Intervals = Intervals { web: Duration::from_secs(120), native: Duration::from_secs(1800) };
const HASH: InfoHash = InfoHash([0xaa; 20]);

/// A table with its clock and dice.
struct Fixture {
    table: Table<SocketId>,
    now: Instant,
    rng: SmallRng,
}

impl Fixture {
    fn new() -> Self {
        let now = Instant::now();
        Self { table: Table::new(INTERVALS, 100, now), now, rng: SmallRng::seed_from_u64(7) }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn web(&mut self, socket: u64, announce: Announce<'static>, resident: bool, room: bool) -> Vec<Effect> {
        let id = SocketId(socket);
        let announced = WebAnnounce { id, socket: id, announce, resident, room };
        let Effects(effects) = self.table.web(self.now, &mut self.rng, announced);
        self.table.check_invariants();
        effects
    }

    fn announce(&mut self, socket: u64, peer: u8, intent: Intent<'static>, resident: bool) -> Vec<Effect> {
        self.web(socket, Announce { info_hash: HASH, peer_id: peer_id(peer), intent }, resident, true)
    }

    fn close(&mut self, socket: u64) {
        for (info_hash, member) in self.table.brought(SocketId(socket)) {
            self.table.leave(info_hash, member);
            self.table.check_invariants();
        }
    }

    /// Goes through all of the table, in slices as small as they can be.
    fn expire(&mut self) {
        while !self.table.expire(self.now, 1) {
            self.table.check_invariants();
        }
        self.table.check_invariants();
    }

    fn update(&mut self, socket: u64, peer: u8, progress: Progress) -> (usize, usize) {
        match self.announce(socket, peer, Intent::Update { progress }, false).as_slice() {
            [Effect::Send(SocketId(to), Message::Announced { counts, interval: 120, info_hash: HASH })]
                if *to == socket =>
            {
                (counts.complete, counts.incomplete)
            }
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, socket: u64, peer: u8) {
        self.update(socket, peer, Progress::Unsaid);
    }

    /// Where the offers go (socket, first byte of the offer id), and what the resident gets.
    fn offers(&mut self, socket: u64, peer: u8, offers: &[u8], resident: bool) -> (Vec<(u64, u8)>, Option<u8>) {
        let intent = Intent::Offers { progress: Progress::Unsaid, offers: offers.iter().map(|n| offer(*n)).collect() };
        let (mut sent, mut to_resident) = (Vec::new(), None);
        for effect in self.announce(socket, peer, intent, resident) {
            match effect {
                Effect::Offer { to, message: Message::Offer { info_hash: HASH, peer_id: from, offer } } => {
                    assert_eq!(from, peer_id(peer));
                    sent.push((to.0, offer.id.0[0]));
                }
                Effect::Send(to, Message::Announced { .. }) => assert_eq!(to, SocketId(socket)),
                Effect::Resident { info_hash: HASH, peer_id: page, offer } => {
                    assert_eq!(page, peer_id(peer));
                    assert_eq!(to_resident.replace(offer.id.0[0]), None, "one offer at most");
                }
                other => panic!("{other:?}"),
            }
        }
        sent.sort_unstable();
        (sent, to_resident)
    }

    /// The socket that gets the answer, if any.
    fn answer(&mut self, socket: u64, peer: u8, to: u8, offer: u8) -> Option<u64> {
        let answer = Description::answer("v=0");
        let intent = Intent::Answer { to: peer_id(to), offer_id: OfferId([offer; 20]), answer };
        match self.announce(socket, peer, intent, false).as_slice() {
            [Effect::Send(to, Message::Answer { peer_id: from, .. })] if *from == peer_id(peer) => Some(to.0),
            [Effect::Unexpected(answer)] if answer.peer_id == peer_id(peer) => None,
            other => panic!("{other:?}"),
        }
    }

    fn native(&mut self, addr: &str, progress: Option<Progress>, wanted: usize) -> (usize, usize, Vec<String>) {
        let addr: SocketAddr = addr.parse().unwrap();
        let (counts, peers) = self.native_of(HASH, addr, progress, wanted, true).unwrap();
        let mut peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
        peers.sort_unstable();
        (counts.complete, counts.incomplete, peers)
    }

    fn native_of(
        &mut self,
        info_hash: InfoHash,
        addr: SocketAddr,
        progress: Option<Progress>,
        wanted: usize,
        room: bool,
    ) -> Result<(Counts, Vec<SocketAddr>), Full> {
        let port = NonZeroU16::new(addr.port()).unwrap();
        let announce = NativeAnnounce { info_hash, peer_id: peer_id(99), port, progress, numwant: None };
        let question = NativeQuestion { ip: addr.ip(), announce: &announce, wanted, both: true };
        let mut peers = Vec::new();
        let mut found = |addr, peer| {
            assert_eq!(peer, peer_id(99));
            peers.push(addr);
        };
        let admit = || room.then_some(()).ok_or(Full);
        let counts = self.table.native(self.now, &mut self.rng, &question, admit, &mut found);
        self.table.check_invariants();
        Ok((counts?, peers))
    }

    fn counts(&self) -> (usize, usize, usize) {
        let Counts { complete, incomplete, downloaded } = self.table.scrape(&HASH);
        (complete, incomplete, downloaded)
    }
}

fn peer_id(n: u8) -> PeerId {
    PeerId([n; 20])
}

fn offer(n: u8) -> Offer<'static> {
    Offer { id: OfferId([n; 20]), description: Description::answer("v=0") }
}

/// What a peer that may not be added is told.
#[derive(Debug, PartialEq, Eq)]
struct Full;

#[test]
fn web_and_native_peers_are_counted_together() {
    let mut t = Fixture::new();
    assert_eq!(t.update(1, 1, Progress::Leeching), (0, 1));
    assert_eq!(t.native("1.2.3.4:6881", Some(Progress::Seeding), 50), (1, 1, vec![]));
    assert_eq!(t.update(2, 2, Progress::Seeding), (2, 1));
    assert_eq!(t.native("1.2.3.4:6881", None, 50), (1, 1, vec![]));
    assert_eq!(t.table.stats(), Stats { swarms: 1, web_peers: 2, native_peers: 0 });
}

#[test]
fn progress_moves_a_peer_between_seeders_and_leechers() {
    let mut t = Fixture::new();
    let table = [
        (Progress::Unsaid, (0, 1, 0)),
        (Progress::Completed, (1, 0, 1)),
        (Progress::Completed, (1, 0, 1)),
        (Progress::Unsaid, (1, 0, 1)),
        (Progress::Leeching, (0, 1, 1)),
        (Progress::Seeding, (1, 0, 1)),
        (Progress::Leeching, (0, 1, 1)),
        (Progress::Completed, (1, 0, 2)),
    ];
    for (i, (progress, counts)) in table.into_iter().enumerate() {
        t.update(1, 1, progress);
        assert_eq!(t.counts(), counts, "step {i}");
    }
}

#[test]
fn completed_downloads_are_remembered_when_a_swarm_is_empty_and_the_popular_longest() {
    let hash = |n: u8| InfoHash([n; 20]);
    let mut t = Fixture::new();
    t.update(1, 1, Progress::Completed);
    assert_eq!(t.table.take_completions().collect::<Vec<_>>(), [(HASH, 1)]);
    t.close(1);
    assert_eq!(t.counts(), (0, 0, 1));
    t.update(1, 1, Progress::Completed);
    assert_eq!(t.counts(), (1, 0, 2), "it goes on where it was");
    assert_eq!(t.table.take_completions().collect::<Vec<_>>(), [(HASH, 2)]);

    let mut table = Table::<SocketId>::new(INTERVALS, 8, t.now);
    table.remember((hash(0), 1_000));
    (1..100).for_each(|n| table.remember((hash(n), 1)));
    table.check_invariants();
    assert_eq!((table.completed.len(), table.scrape(&hash(0)).downloaded), (8, 1_000));
}

#[test]
fn offers_go_to_others_once_each_and_never_back() {
    let mut t = Fixture::new();
    assert_eq!(t.offers(1, 1, &[1, 2, 3], false), (vec![], None));
    for n in 2..=4 {
        t.join(n, n as u8);
    }
    let (sent, _) = t.offers(1, 1, &[1, 2, 3, 4, 5], false);
    assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3, 4]);
    let (sent, _) = t.offers(1, 1, &[1, 2], false);
    assert_eq!(sent.len(), 2);
}

#[test]
fn every_other_peer_is_equally_likely() {
    let mut t = Fixture::new();
    for n in 1..=10 {
        t.join(n, n as u8);
    }
    let mut received = [0u32; 11];
    const ROUNDS: u32 = 9_000;
    for _ in 0..ROUNDS {
        for (to, _) in t.offers(5, 5, &[1, 2, 3], false).0 {
            received[to as usize] += 1;
        }
    }
    assert_eq!(received[5], 0);
    // Each of nine should have a third of the rounds: 3,000, give or take five standard deviations of 45.
    for n in (1..=10).filter(|n| *n != 5) {
        assert!(received[n].abs_diff(ROUNDS / 3) < 225, "{received:?}");
    }
}

#[test]
fn the_resident_gets_a_spare_offer_or_else_one_of_the_others() {
    // (web peers besides the offerer, offers) → (offers to web peers, whether the resident gets one)
    let table = [(0, 1, 0), (0, 5, 0), (1, 2, 1), (3, 2, 1), (3, 5, 3), (9, 5, 4)];
    for (others, offers, to_web) in table {
        let mut t = Fixture::new();
        for n in 0..others {
            t.join(100 + n, 100 + n as u8);
        }
        let ids: Vec<u8> = (1..=offers).collect();
        let (sent, resident) = t.offers(1, 1, &ids, true);
        assert_eq!(sent.len(), to_web, "{others} others, {offers} offers");
        let resident = resident.unwrap();
        assert!(sent.iter().all(|(_, id)| *id != resident), "no offer is given twice");
    }
}

#[test]
fn a_page_that_makes_one_offer_at_a_time_meets_the_resident_and_others() {
    let mut t = Fixture::new();
    t.join(2, 2);
    let (mut to_web, mut to_resident) = (0, 0);
    for _ in 0..100 {
        let (sent, resident) = t.offers(1, 1, &[7], true);
        to_web += sent.len();
        to_resident += usize::from(resident.is_some());
    }
    assert_eq!(to_web + to_resident, 100);
    assert!(to_web > 20 && to_resident > 20, "{to_web} {to_resident}");
}

#[test]
fn an_answer_goes_to_the_offerer_once() {
    let mut t = Fixture::new();
    t.join(2, 2);
    t.offers(1, 1, &[7], false);
    assert_eq!(t.answer(2, 2, 1, 7), Some(1));
    assert_eq!(t.answer(2, 2, 1, 7), None, "answered already");
}

#[test]
fn answers_that_lead_nowhere() {
    let mut t = Fixture::new();
    t.join(2, 2);
    t.join(3, 3);
    let (sent, _) = t.offers(1, 1, &[7], false);
    let (to, not_to) = if sent[0].0 == 2 { (2, 3) } else { (3, 2) };
    assert_eq!(t.answer(not_to, not_to as u8, 1, 7), None, "the offer was sent to another peer");
    assert_eq!(t.answer(not_to, to as u8, 1, 7), None, "the right peer id on the wrong socket");
    assert_eq!(t.answer(to, to as u8, 1, 8), None, "no such offer");
    assert_eq!(t.answer(to, to as u8, not_to as u8, 7), None, "not that peer's offer");
    assert_eq!(t.answer(to, to as u8, 1, 7), Some(1));

    t.offers(1, 1, &[7, 8], false);
    t.wait(OFFER_LIFETIME);
    assert_eq!((t.answer(2, 2, 1, 7), t.answer(2, 2, 1, 8)), (None, None), "too late");

    t.offers(1, 1, &[7, 8], false);
    t.announce(1, 1, Intent::Stop, false);
    assert_eq!((t.answer(2, 2, 1, 7), t.answer(2, 2, 1, 8)), (None, None), "the offerer has left");
}

#[test]
fn outstanding_offers_are_bounded() {
    let mut t = Fixture::new();
    t.join(2, 2);
    for n in 0..=MAX_OUTSTANDING {
        t.offers(1, 1, &[n as u8], false);
    }
    assert_eq!(t.answer(2, 2, 1, 0), None, "the oldest went");
    assert_eq!(t.answer(2, 2, 1, 1), Some(1));
}

#[test]
fn a_peer_id_belongs_to_its_socket() {
    let mut t = Fixture::new();
    t.update(1, 1, Progress::Seeding);
    assert_eq!(t.update(2, 1, Progress::Leeching), (1, 1), "the same id on another socket is another peer");
    t.announce(2, 1, Intent::Stop, false);
    assert_eq!(t.counts(), (1, 0, 0), "it cannot remove the first");
    t.update(2, 1, Progress::Leeching);
    t.close(2);
    assert_eq!(t.counts(), (1, 0, 0));

    // Its offers do not go to itself on the other socket either, and its answers do not cross.
    t.join(2, 1);
    t.join(3, 3);
    assert_eq!(t.offers(1, 1, &[7, 8], false).0.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [3]);
    let id = if t.answer(3, 3, 1, 7).is_some() { 8 } else { 7 };
    assert_eq!(t.answer(3, 3, 1, id), None);
}

#[test]
fn everything_a_socket_brought_goes_with_it() {
    let mut t = Fixture::new();
    t.join(1, 1);
    t.join(1, 2);
    t.join(2, 3);
    let other = Announce {
        info_hash: InfoHash([1; 20]),
        peer_id: peer_id(1),
        intent: Intent::Update { progress: Progress::Unsaid },
    };
    t.web(1, other, false, true);
    assert_eq!(t.table.stats(), Stats { swarms: 2, web_peers: 4, native_peers: 0 });
    t.close(1);
    assert_eq!(t.table.stats(), Stats { swarms: 1, web_peers: 1, native_peers: 0 });
    assert_eq!(t.counts(), (0, 1, 0));
}

#[test]
fn two_peers_on_one_socket_can_meet() {
    let mut t = Fixture::new();
    t.join(1, 1);
    assert_eq!(t.offers(1, 2, &[7], false).0, [(1, 7)]);
    assert_eq!(t.answer(1, 1, 2, 7), Some(1));
}

#[test]
fn peers_that_stop_announcing_are_forgotten() {
    let mut t = Fixture::new();
    t.join(1, 1);
    t.native("1.2.3.4:1", Some(Progress::Seeding), 0);
    t.wait(INTERVALS.web * 2);
    t.join(2, 2);
    t.expire();
    assert_eq!(t.counts(), (1, 2, 0));
    t.wait(INTERVALS.web / 2);
    t.expire();
    assert_eq!(t.counts(), (1, 1, 0));
    t.wait(INTERVALS.native * 5 / 2);
    t.expire();
    t.table.check_invariants();
    assert_eq!(t.table.stats(), Stats::default());
}

#[test]
fn expiry_comes_in_slices_and_a_round_reaches_every_peer() {
    const PEERS: usize = 100;
    for budget in [1, 3, 50, 1_000] {
        let mut t = Fixture::new();
        for n in 0..PEERS as u8 {
            let announce = Announce {
                info_hash: InfoHash([n % 5; 20]),
                peer_id: peer_id(n),
                intent: Intent::Update { progress: Progress::Unsaid },
            };
            t.web(n.into(), announce, false, true);
        }
        t.wait(INTERVALS.web * 3);
        loop {
            let before = t.table.stats().web_peers;
            let done = t.table.expire(t.now, budget);
            t.table.check_invariants();
            assert!(before - t.table.stats().web_peers <= budget, "no more work than it may take");
            if done {
                break;
            }
            // Others come and go between slices.
            t.join(1_000, 200);
            t.close(1_000);
        }
        assert_eq!(t.table.stats(), Stats::default(), "slices of {budget}");
    }
}

#[test]
fn a_full_table_keeps_those_it_has() {
    let mut t = Fixture::new();
    t.join(1, 1);
    t.native("1.2.3.4:1", Some(Progress::Unsaid), 0);
    let announce = |peer, intent| Announce { info_hash: HASH, peer_id: peer_id(peer), intent };
    let offers = Intent::Offers { progress: Progress::Seeding, offers: vec![offer(1)] };
    let refused = Message::Failure(Failure::of_announce(&HASH, Reason::TrackerFull));
    assert_eq!(t.web(1, announce(2, offers), true, false), [Effect::Send(SocketId(1), refused)]);
    t.web(1, announce(1, Intent::Update { progress: Progress::Seeding }), true, false);
    assert_eq!(t.counts(), (1, 1, 0));

    let mut native = |addr: &str, progress| {
        let reply = t.native_of(HASH, addr.parse().unwrap(), progress, 50, false);
        reply.map(|(counts, _)| counts.complete)
    };
    let seeding = Some(Progress::Seeding);
    assert_eq!((native("1.2.3.4:1", seeding), native("1.2.3.4:2", seeding)), (Ok(2), Err(Full)));
    assert_eq!((native("1.2.3.4:2", None), native("1.2.3.4:1", None)), (Ok(2), Ok(1)), "one may always leave");
}

#[test]
fn native_peers_get_others_of_both_families_and_never_themselves() {
    let mut t = Fixture::new();
    for addr in ["1.1.1.1:1", "1.1.1.1:2", "2.2.2.2:1", "[2a00::1]:1"] {
        t.native(addr, Some(Progress::Unsaid), 0);
    }
    t.join(1, 1);
    assert_eq!(t.native("1.1.1.1:1", Some(Progress::Unsaid), 50).2, ["1.1.1.1:2", "2.2.2.2:1", "[2a00::1]:1"]);
    assert_eq!(
        t.native("1.1.1.1:1", Some(Progress::Unsaid), 2).2,
        ["1.1.1.1:2", "2.2.2.2:1"],
        "one's own family first"
    );
    assert_eq!(t.native("[2a00::1]:1", Some(Progress::Unsaid), 1).2.len(), 1);
    assert_eq!(t.native("1.1.1.1:1", Some(Progress::Unsaid), 0).2.len(), 0);
}

#[test]
fn addresses_of_a_network_are_told_on_that_network_only() {
    let mut t = Fixture::new();
    // The last two hide 127.0.0.1 and 10.0.0.1 (RFC 3056, RFC 6052).
    let local = "127.0.0.1 10.0.0.2 192.168.1.2 100.64.0.2 169.254.1.2 fe80::2 fd00::2 2002:7f00:1::1 64:ff9b::a00:1";
    for ip in local.split(' ').chain(["5.5.5.5", "2a00::5"]) {
        t.native(&SocketAddr::new(ip.parse().unwrap(), 1).to_string(), Some(Progress::Unsaid), 0);
    }
    let table = [
        // who asks, whom it is told of besides the public ones
        ("6.6.6.6", ""),
        ("2a00::6", ""),
        ("10.0.0.3", "10.0.0.2 64:ff9b::a00:1"),
        ("192.168.1.3", "192.168.1.2"),
        ("100.64.0.3", "100.64.0.2"),
        ("169.254.1.3", "169.254.1.2 fe80::2"),
        ("fe80::3", "169.254.1.2 fe80::2"),
        ("fd00::3", "fd00::2"),
        ("127.0.0.2", local),
        ("::1", local),
    ];
    for (asker, expected) in table {
        let asker = SocketAddr::new(asker.parse().unwrap(), 2).to_string();
        let told = t.native(&asker, Some(Progress::Unsaid), 50).2;
        t.native(&asker, None, 0);
        let expected = expected.split_terminator(' ').chain(["5.5.5.5", "2a00::5"]);
        let mut expected: Vec<_> = expected.map(|ip| SocketAddr::new(ip.parse().unwrap(), 1).to_string()).collect();
        expected.sort();
        assert_eq!(told, expected, "{asker}");
    }
    assert_eq!(t.table.native_peers(&mut t.rng, &HASH, 50).len(), 11, "this process may learn of every peer");
    assert_eq!(t.table.native_peers(&mut t.rng, &HASH, 2).len(), 2);
}
