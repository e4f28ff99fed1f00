//! What the engine has asked of a peer and not got. Pure; time is handed in.
//!
//! The engine asks once and waits for ever, and an engine that ran out of pieces to ask for looks again only every five
//! seconds. Peers, on the other hand, forget requests: any peer that chokes us does (BEP 3), and a page that is still
//! loading what it seeds does so silently. So the ledger notices when the engine should *meet the peer anew*: over a
//! new connection it asks for everything again, of which the ledger keeps back what is on its way already.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::peer::Block;

/// How long news of a peer may go unused, which is also how often the engine meets a peer anew for it.
const UNUSED_NEWS: Duration = Duration::from_millis(300);

/// A request is lost when requests made after it were answered this long ago. Peers answer in order, give or take a disk;
/// being wrong costs one block sent twice.
const LOST: Duration = Duration::from_secs(1);

/// A peer that answers none of its requests for this long is let go, as libtorrent does.
const UNRESPONSIVE: Duration = Duration::from_secs(60);

/// What is to be done about a peer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The engine shall meet it anew.
    MeetAnew,
    /// It is of no use.
    LetGo,
}

#[derive(Debug)]
pub(super) struct Ledger {
    /// Blocks asked of the peer, in their order.
    of_peer: VecDeque<Asked>,
    /// The peer has had something we lack since then, and the engine asked for nothing since.
    news: Option<Instant>,
    /// The peer forgot requests by choking, and has unchoked us since.
    forgot: bool,
    /// When a block last came, or the first of those asked for now was asked for.
    active: Instant,
}

#[derive(Debug)]
struct Asked {
    block: Block,
    /// The engine that is met now has asked for it, not only one before.
    wanted: bool,
    /// When a block asked for later came.
    skipped: Option<Instant>,
    /// The peer choked us since.
    forgotten: bool,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self { of_peer: VecDeque::new(), news: None, forgot: false, active: now }
    }

    /// The engine asks for a block; whether the peer is to be asked, which it is not if the block is on its way.
    pub(super) fn engine_asks(&mut self, block: Block, now: Instant) -> bool {
        self.news = None;
        if let Some(asked) = self.of_peer.iter_mut().find(|asked| asked.block == block) {
            asked.wanted = true;
            return false;
        }
        if self.of_peer.is_empty() {
            self.active = now;
        }
        self.of_peer.push_back(Asked { block, wanted: true, skipped: None, forgotten: false });
        true
    }

    /// The peer gives a block; whether the engine waits for it. The engine drops peers that give it what it did not ask
    /// for.
    pub(super) fn peer_gives(&mut self, index: u32, begin: u32, now: Instant) -> bool {
        let gives = |asked: &Asked| (asked.block.index, asked.block.begin) == (index, begin);
        let Some(at) = self.of_peer.iter().position(gives) else { return false };
        self.active = now;
        for earlier in self.of_peer.iter_mut().take(at) {
            earlier.skipped.get_or_insert(now);
        }
        self.of_peer.remove(at).is_some_and(|asked| asked.wanted)
    }

    /// The peer chokes us. BEP 3 leaves it open, and clients forget what was asked of them.
    pub(super) fn peer_chokes(&mut self) {
        self.of_peer.iter_mut().for_each(|asked| asked.forgotten = true);
        self.forgot = false;
    }

    /// The peer unchokes us.
    pub(super) fn peer_unchokes(&mut self) {
        self.forgot = self.of_peer.iter().any(|asked| asked.forgotten);
    }

    /// The peer has something that we lack, and would give it.
    pub(super) fn peer_has_news(&mut self, now: Instant) {
        self.news.get_or_insert(now);
    }

    /// What is to be done, and when, if nothing happens until then.
    pub(super) fn due(&self) -> Option<(Instant, Due)> {
        let waiting = self.of_peer.iter().any(|asked| asked.wanted && !asked.forgotten);
        let unused = self.news.filter(|_| !waiting).map(|since| since.max(self.active) + UNUSED_NEWS);
        let lost =
            self.of_peer.iter().filter(|asked| asked.wanted).filter_map(|asked| Some(asked.skipped? + LOST)).min();
        let forgot = self.forgot.then_some(self.active);
        let anew = [unused, lost, forgot].into_iter().flatten().min().map(|at| (at, Due::MeetAnew));
        let let_go = waiting.then_some((self.active + UNRESPONSIVE, Due::LetGo));
        [anew, let_go].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The engine meets the peer anew: it waits for nothing yet.
    pub(super) fn met_anew(&mut self, now: Instant) {
        self.of_peer.retain(|asked| !asked.forgotten && asked.skipped.is_none_or(|skipped| skipped + LOST > now));
        self.of_peer.iter_mut().for_each(|asked| asked.wanted = false);
        (self.news, self.forgot) = (None, false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn block(index: u32) -> Block {
        Block { index, begin: 0, length: 16_384 }
    }

    fn asking(blocks: std::ops::Range<u32>, now: Instant) -> Ledger {
        let mut ledger = Ledger::new(now);
        blocks.for_each(|index| assert!(ledger.engine_asks(block(index), now)));
        ledger
    }

    #[test]
    fn blocks_are_given_to_an_engine_that_waits_for_them() {
        let now = Instant::now();
        let mut ledger = asking(0..2, now);
        assert!(!ledger.engine_asks(block(1), now), "it is on its way");
        assert!(ledger.peer_gives(0, 0, now) && !ledger.peer_gives(0, 0, now) && !ledger.peer_gives(7, 0, now));
    }

    #[test]
    fn a_skipped_request_is_lost_and_asked_again_and_the_others_are_not() {
        let now = Instant::now();
        let mut ledger = asking(0..4, now);
        assert!(ledger.peer_gives(1, 0, now + TICK));
        assert_eq!(ledger.due(), Some((now + TICK + LOST, Due::MeetAnew)));
        ledger.met_anew(now + TICK + LOST);
        assert!(ledger.engine_asks(block(0), now), "it was lost");
        assert!(!ledger.engine_asks(block(2), now), "it is on its way");
        assert!(ledger.peer_gives(2, 0, now) && !ledger.peer_gives(3, 0, now), "the engine has not asked for 3 again");
    }

    #[test]
    fn what_comes_late_but_comes_is_not_lost() {
        let now = Instant::now();
        let mut ledger = asking(0..3, now);
        assert!(ledger.peer_gives(1, 0, now) && ledger.peer_gives(0, 0, now + TICK));
        assert_eq!(ledger.due(), Some((now + TICK + UNRESPONSIVE, Due::LetGo)));
        assert!(ledger.peer_gives(2, 0, now + TICK));
        assert_eq!(ledger.due(), None);
    }

    #[test]
    fn a_choke_makes_the_peer_forget() {
        let now = Instant::now();
        let mut ledger = asking(0..2, now);
        ledger.peer_chokes();
        assert_eq!(ledger.due(), None, "a peer may choke us for as long as it likes");
        ledger.peer_unchokes();
        assert_eq!(ledger.due(), Some((now, Due::MeetAnew)));
        ledger.met_anew(now);
        assert!(ledger.engine_asks(block(0), now));
        let mut idle = Ledger::new(now);
        idle.peer_chokes();
        idle.peer_unchokes();
        assert_eq!(idle.due(), None);
    }

    #[test]
    fn news_wait_for_what_is_on_its_way_and_for_the_engine() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        ledger.peer_has_news(now + TICK);
        ledger.peer_has_news(now + TICK * 2);
        assert_eq!(ledger.due(), Some((now + TICK + UNUSED_NEWS, Due::MeetAnew)));
        assert!(ledger.engine_asks(block(0), now + TICK * 2));
        ledger.peer_has_news(now + TICK * 3);
        assert_eq!(ledger.due(), Some((now + TICK * 2 + UNRESPONSIVE, Due::LetGo)));
        assert!(ledger.peer_gives(0, 0, now + TICK * 4));
        assert_eq!(ledger.due(), Some((now + TICK * 4 + UNUSED_NEWS, Due::MeetAnew)));
        ledger.met_anew(now);
        assert_eq!(ledger.due(), None);
    }

    /// What may happen to a ledger.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        EngineAsks(u32),
        PeerGives(u32),
        Choke,
        Unchoke,
        News,
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let block = 0_u32..6;
        prop_oneof![
            4 => block.clone().prop_map(Event::EngineAsks),
            4 => block.prop_map(Event::PeerGives),
            1 => Just(Event::Choke),
            1 => Just(Event::Unchoke),
            1 => Just(Event::News),
            1 => (1_u64..2_000).prop_map(Event::Wait),
        ]
    }

    proptest! {
        /// Against the plainest model: the set of what the engine of the moment waits for.
        #[test]
        fn whoever_waits_gets_it_and_nobody_else(events in prop::collection::vec(event(), 0..200)) {
            let mut now = Instant::now();
            let mut ledger = Ledger::new(now);
            let mut engine_waits = BTreeSet::new();
            for event in events {
                match event {
                    Event::EngineAsks(n) => {
                        let asked = ledger.engine_asks(block(n), now);
                        prop_assert!(!(asked && engine_waits.contains(&n)), "the peer is asked twice by one engine");
                        engine_waits.insert(n);
                    }
                    Event::PeerGives(n) => {
                        prop_assert_eq!(ledger.peer_gives(n, 0, now), engine_waits.remove(&n));
                    }
                    Event::Choke => ledger.peer_chokes(),
                    Event::Unchoke => ledger.peer_unchokes(),
                    Event::News => ledger.peer_has_news(now),
                    Event::Wait(millis) => now += Duration::from_millis(millis),
                }
                if ledger.due().is_some_and(|(at, due)| at <= now && due == Due::MeetAnew) {
                    engine_waits.clear();
                    ledger.met_anew(now);
                    let again = ledger.due().is_some_and(|(at, due)| at <= now && due == Due::MeetAnew);
                    prop_assert!(!again, "it would meet the peer anew for ever");
                }
            }
        }
    }
}
