//! The addresses at which peers of one torrent may be: which to dial next, and when to try again. Pure; time is handed in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::contacts::Key;
use crate::net::{host, is_public};

/// Addresses remembered for a torrent. A lookup in a large swarm finds some hundreds.
const MAX_CANDIDATES: usize = 500;

/// Addresses that one host may name, a node of the DHT or a peer, of those that are not connected: about as many as one
/// answer, or message, holds. Several know a swarm, and none may fill the table.
const MAX_PER_NAMER: usize = 50;

/// Ports of one host. A few clients may share an address.
const MAX_PER_HOST: usize = 8;

/// Wait before the second attempt; it doubles with each failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);

/// Wait after a peer took the metadata and left: aria2 closes all its connections then, and begins the download a second
/// or two later.
const METADATA_PAUSE: Duration = Duration::from_secs(1);

/// Longest wait between attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1800);

/// A connection shorter than this counts as a failure where waits are concerned, or two peers with no use for each other
/// would connect every five seconds.
pub(super) const BRIEF: Duration = Duration::from_secs(30);

/// Who named an address; the label of `bridge_dials_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The node of the DHT that has this address.
    Dht(IpAddr),
    /// A connected peer that has this address (BEP 11); the connection, if it may introduce us to the candidate (BEP 55).
    Pex(IpAddr, Option<Key>),
    /// A connected peer that has this address had the candidate connect to us.
    Introduced(IpAddr),
    /// Our own tracker: the peer announced itself.
    Tracker,
    /// The peer itself, on this network.
    Local,
    /// The user.
    Given,
}

impl Source {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Dht(_) => "dht",
            Self::Pex(..) => "pex",
            Self::Introduced(_) => "holepunch",
            Self::Tracker => "tracker",
            Self::Local => "local",
            Self::Given => "given",
        }
    }

    /// The host that named it, if not the peer itself or the user.
    fn namer(self) -> Option<IpAddr> {
        match self {
            Self::Dht(by) | Self::Pex(by, _) | Self::Introduced(by) => Some(host(by)),
            Self::Tracker | Self::Local | Self::Given => None,
        }
    }
}

/// How a connection to a candidate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nobody there, or nobody we understand.
    Failed,
    /// A peer, which left or was left.
    Left {
        /// It had every piece.
        complete: bool,
        /// It stayed for less than [`BRIEF`].
        brief: bool,
        /// It was given metadata.
        took_metadata: bool,
    },
    /// It is ourselves.
    Ourselves,
}

#[derive(Debug)]
struct Candidate {
    source: Source,
    failures: u32,
    complete: bool,
    /// It took the metadata and left, and was met again early for that.
    took_metadata: bool,
    state: State,
    /// How many were added before.
    order: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until: Instant },
    Connected,
    Never,
}

/// The table of one torrent.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    table: HashMap<SocketAddr, Candidate>,
    /// How many were ever added.
    added: u64,
    /// By how much our waits are longer than others', as a part of them: two peers that dial each other at the same moment
    /// both hang up, and must not do so again and again.
    patience: f64,
}

impl Candidates {
    /// An empty table. `patience` is drawn by chance, below 1.
    pub(super) fn new(patience: f64) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Takes an address that may be dialled; whether it is new. A full table forgets the address that failed most.
    pub(super) fn add(&mut self, addr: SocketAddr, source: Source, now: Instant) -> bool {
        if self.table.contains_key(&addr) || self.has_enough_of(addr.ip(), source) {
            return false;
        }
        if self.table.len() >= MAX_CANDIDATES && !self.forget_worst() {
            return false;
        }
        self.added += 1;
        let (state, order) = (State::Waiting { until: now }, self.added);
        self.table.insert(addr, Candidate { source, failures: 0, complete: false, took_metadata: false, state, order });
        true
    }

    /// Whether its host has as many ports here, or who named it named as many, as anybody may. On loopback and private
    /// networks many peers may share an address.
    fn has_enough_of(&self, ip: IpAddr, source: Source) -> bool {
        let ports = || self.table.keys().filter(|known| host(known.ip()) == host(ip)).count();
        let named_by = |namer| {
            let named =
                |candidate: &&Candidate| candidate.state != State::Connected && candidate.source.namer() == Some(namer);
            self.table.values().filter(named).count()
        };
        let by_one = source.namer().is_some_and(|namer| named_by(namer) >= MAX_PER_NAMER);
        by_one || (is_public(ip) && ports() >= MAX_PER_HOST)
    }

    /// Takes an address that is to be dialled at this very moment, however often it was missed. Whether it is to be: not when
    /// it is being dialled.
    pub(super) fn take_now(&mut self, addr: SocketAddr, source: Source, now: Instant) -> bool {
        self.add(addr, source, now);
        let waits = |candidate: &&mut Candidate| matches!(candidate.state, State::Waiting { .. });
        let candidate = self.table.get_mut(&addr).filter(waits);
        candidate.map(|candidate| candidate.state = State::Connected).is_some()
    }

    /// An address was named as one of a peer that has everything.
    pub(super) fn is_seed(&mut self, addr: SocketAddr) {
        if let Some(candidate) = self.table.get_mut(&addr) {
            candidate.complete = true;
        }
    }

    /// A peer said that it is there: however often it was missed, it is worth another try soon.
    pub(super) fn revive(&mut self, addr: SocketAddr, now: Instant) {
        if let Some(Candidate { state: State::Waiting { until }, .. }) = self.table.get_mut(&addr) {
            *until = (*until).min(now + FIRST_BACKOFF);
        }
    }

    /// The address to dial now, if any: of those that failed least the one that has waited for longest; it counts as connected until [`Candidates::ended`]. With `skip_complete`, peers
    /// that need nothing from us are left alone.
    pub(super) fn next(&mut self, skip_complete: bool, now: Instant) -> Option<(SocketAddr, Source)> {
        let due = self.waiting(skip_complete).filter(|(_, until, ..)| *until <= now);
        let (.., addr) = due.min_by_key(|(failures, until, order, _)| (*failures, *until, *order))?;
        let candidate = self.table.get_mut(&addr)?;
        candidate.state = State::Connected;
        Some((addr, candidate.source))
    }

    /// When [`Candidates::next`] has something again.
    pub(super) fn wake(&self, skip_complete: bool) -> Option<Instant> {
        self.waiting(skip_complete).map(|(_, until, ..)| until).min()
    }

    /// Records how a connection ended.
    pub(super) fn ended(&mut self, addr: SocketAddr, outcome: Outcome, now: Instant) {
        let Some(candidate) = self.table.get_mut(&addr) else { return };
        // Once: who takes it again and again has no other use for us.
        let begins =
            matches!(outcome, Outcome::Left { brief: true, took_metadata: true, .. }) && !candidate.took_metadata;
        candidate.took_metadata |= begins;
        candidate.failures = match outcome {
            _ if begins => candidate.failures,
            Outcome::Failed | Outcome::Left { brief: true, .. } => candidate.failures + 1,
            Outcome::Left { brief: false, .. } | Outcome::Ourselves => 0,
        };
        candidate.complete = matches!(outcome, Outcome::Left { complete: true, .. });
        let wait = if begins { METADATA_PAUSE } else { backoff(candidate.failures) };
        candidate.state = match outcome {
            Outcome::Ourselves => State::Never,
            Outcome::Failed | Outcome::Left { .. } => State::Waiting { until: now + wait.mul_f64(1.0 + self.patience) },
        };
    }

    /// Failures, the time it waits for, its place in the order of coming, and the address.
    fn waiting(&self, skip_complete: bool) -> impl Iterator<Item = (u32, Instant, u64, SocketAddr)> + '_ {
        self.table.iter().filter_map(move |(addr, candidate)| match candidate.state {
            State::Waiting { until } if !(skip_complete && candidate.complete) => {
                Some((candidate.failures, until, candidate.order, *addr))
            }
            _ => None,
        })
    }

    fn forget_worst(&mut self) -> bool {
        let worst = self.waiting(false).filter(|(failures, ..)| *failures > 0).max();
        worst.is_some_and(|(.., addr)| self.table.remove(&addr).is_some())
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST_BACKOFF.saturating_mul(doubled).min(LONGEST_BACKOFF)
}

/// When the next DHT lookup starts: soon while it found nobody, since the other side may have announced itself a moment
/// ago; rarely once there are peers.
pub(super) fn next_lookup(lookups: u32, found_anybody: bool) -> Duration {
    let first = if found_anybody { Duration::from_secs(60) } else { Duration::from_secs(5) };
    let longest = if found_anybody { Duration::from_secs(900) } else { Duration::from_secs(120) };
    first.saturating_mul(2_u32.saturating_pow(lookups.saturating_sub(1) / 2)).min(longest)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const NODE: Source = Source::Dht(IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8)));

    const STAYED: Outcome = Outcome::Left { complete: false, brief: false, took_metadata: false };
    const LEFT_SOON: Outcome = Outcome::Left { complete: false, brief: true, took_metadata: false };

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::from((n.to_be_bytes(), 6881))
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let start = Instant::now();
        let mut table = Candidates::default();
        assert!(table.add(addr(1), NODE, start) && !table.add(addr(1), Source::Tracker, start));
        let mut now = start;
        for seconds in [5, 10, 20, 40] {
            assert_eq!(table.next(false, now), Some((addr(1), NODE)));
            assert_eq!((table.next(false, now), table.wake(false)), (None, None), "it is being dialled");
            table.ended(addr(1), Outcome::Failed, now);
            let wait = Duration::from_secs(seconds);
            assert_eq!(table.wake(false), Some(now + wait));
            assert_eq!(table.next(false, now + wait - Duration::from_millis(1)), None);
            now += wait;
        }
        assert_eq!(backoff(40), LONGEST_BACKOFF);
        table.next(false, now);
        table.ended(addr(1), LEFT_SOON, now);
        assert_eq!(table.wake(false), Some(now + Duration::from_secs(80)));
        table.next(false, now + Duration::from_secs(80));
        table.ended(addr(1), STAYED, now);
        assert_eq!(table.wake(false), Some(now + FIRST_BACKOFF), "a peer that stayed is worth a quick second try");
    }

    #[test]
    fn who_needs_nothing_is_left_alone_and_we_never_dial_ourselves() {
        let now = Instant::now();
        let later = now + LONGEST_BACKOFF;
        let mut table = Candidates::default();
        table.add(addr(1), NODE, now);
        table.next(false, now);
        table.ended(addr(1), Outcome::Left { complete: true, brief: false, took_metadata: true }, now);
        assert_eq!((table.next(true, later), table.wake(true)), (None, None));
        assert!(table.next(false, later).is_some());
        table.ended(addr(1), Outcome::Ourselves, now);
        assert_eq!((table.next(false, later), table.wake(false)), (None, None));
        assert!(!table.add(addr(1), Source::Given, later));
    }

    #[test]
    fn who_took_the_metadata_is_met_again_at_once_but_once() {
        let mut now = Instant::now();
        let mut table = Candidates::default();
        table.add(addr(1), NODE, now);
        for wait in [METADATA_PAUSE, FIRST_BACKOFF, 2 * FIRST_BACKOFF] {
            table.next(false, now);
            table.ended(addr(1), Outcome::Left { complete: false, brief: true, took_metadata: true }, now);
            assert_eq!(table.wake(false), Some(now + wait));
            now += wait;
        }
    }

    #[test]
    fn two_that_met_in_the_middle_wait_for_different_times() {
        let now = Instant::now();
        let wait = |patience| {
            let mut table = Candidates::new(patience);
            table.add(addr(1), Source::Local, now);
            table.next(false, now);
            table.ended(addr(1), Outcome::Failed, now);
            table.wake(false).unwrap() - now
        };
        assert_eq!((wait(0.0), wait(0.5)), (FIRST_BACKOFF, FIRST_BACKOFF.mul_f64(1.5)));
    }

    #[test]
    fn who_announces_itself_is_tried_again_soon() {
        let now = Instant::now();
        let mut table = Candidates::default();
        table.add(addr(1), Source::Local, now);
        for _ in 0..9 {
            table.table.get_mut(&addr(1)).unwrap().state = State::Connected;
            table.ended(addr(1), Outcome::Failed, now);
        }
        assert!(table.wake(false) > Some(now + FIRST_BACKOFF));
        table.revive(addr(1), now);
        table.revive(addr(2), now);
        assert_eq!((table.wake(false), table.table.len()), (Some(now + FIRST_BACKOFF), 1));
    }

    #[test]
    fn who_is_introduced_is_dialled_at_once_but_not_twice() {
        let now = Instant::now();
        let mut table = Candidates::default();
        let by = Source::Introduced("9.9.9.9".parse().unwrap());
        assert!(table.take_now(addr(1), by, now) && !table.take_now(addr(1), by, now));
        table.ended(addr(1), Outcome::Failed, now);
        assert_eq!(table.next(false, now), None, "it was missed a moment ago");
        assert!(table.take_now(addr(1), by, now));
        table.ended(addr(1), Outcome::Ourselves, now);
        assert!(!table.take_now(addr(1), by, now));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_worst() {
        let now = Instant::now();
        let mut table = Candidates::default();
        for n in 0..MAX_CANDIDATES as u32 {
            assert!(table.add(addr(n), Source::Tracker, now));
        }
        assert!(!table.add(addr(9999), Source::Tracker, now), "every address is untried");
        let (tried, _) = table.next(false, now).unwrap();
        table.ended(tried, Outcome::Failed, now);
        assert!(table.add(addr(9999), Source::Tracker, now));
        assert!(!table.table.contains_key(&tried) && table.table.len() == MAX_CANDIDATES);
    }

    /// One node names as many low addresses as it can, before an honest one names a peer and after.
    #[test]
    fn who_names_much_delays_others_little() {
        let mut now = Instant::now();
        let mut table = Candidates::default();
        let honest: SocketAddr = "203.0.114.9:6881".parse().unwrap();
        let junk = |table: &mut Candidates, from: u32, now| {
            (from..from + 500).filter(|n| table.add(addr(*n + (1 << 24)), NODE, now)).count()
        };
        assert_eq!(junk(&mut table, 0, now), MAX_PER_NAMER);
        now += Duration::from_secs(1);
        assert!(table.add(honest, Source::Dht("9.9.9.9".parse().unwrap()), now));
        let mut dialled = Vec::new();
        for round in 0..3 {
            now += Duration::from_secs(5);
            for _ in 0..20 {
                let Some((next, _)) = table.next(false, now) else { break };
                dialled.push(next);
                table.ended(next, Outcome::Failed, now);
            }
            junk(&mut table, 1000 * (round + 1), now);
        }
        assert_eq!(dialled.iter().position(|addr| *addr == honest), Some(MAX_PER_NAMER), "it is next in turn");
    }

    #[test]
    fn a_public_host_has_few_ports_and_a_local_one_as_many_as_it_likes() {
        let now = Instant::now();
        for (ip, taken) in [("9.9.9.9", MAX_PER_HOST), ("2a00::1", MAX_PER_HOST), ("127.0.0.1", 20), ("10.0.0.1", 20)] {
            let mut table = Candidates::default();
            let ports = (1..=20).filter(|port| table.add(SocketAddr::new(ip.parse().unwrap(), *port), NODE, now));
            assert_eq!(ports.count(), taken, "{ip}");
        }
    }

    #[test]
    fn lookups_are_quick_at_first() {
        let seconds = |found| (1..=12).map(|n| next_lookup(n, found).as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(false), [5, 5, 10, 10, 20, 20, 40, 40, 80, 80, 120, 120]);
        assert_eq!(seconds(true), [60, 60, 120, 120, 240, 240, 480, 480, 900, 900, 900, 900]);
    }

    proptest! {
        /// Whatever happens: nobody is dialled twice at once, nor before its time, and the table stays in its bounds.
        #[test]
        fn nobody_is_dialled_twice_at_once(events in prop::collection::vec((0_u8..4, 0_u32..40, 0_u64..600), 0..300)) {
            let mut now = Instant::now();
            let (mut table, mut connected) = (Candidates::default(), HashSet::new());
            for (kind, n, seconds) in events {
                match kind {
                    0 => drop(table.add(addr(n), NODE, now)),
                    1 => {
                        let wake = table.wake(false);
                        let next = table.next(false, now);
                        prop_assert_eq!(next.is_some(), wake.is_some_and(|at| at <= now));
                        if let Some((addr, _)) = next {
                            prop_assert!(connected.insert(addr));
                        }
                    }
                    2 => {
                        let outcomes = [Outcome::Failed, STAYED, Outcome::Ourselves];
                        if connected.remove(&addr(n)) {
                            table.ended(addr(n), outcomes[n as usize % 3], now);
                        }
                    }
                    _ => now += Duration::from_secs(seconds),
                }
                prop_assert!(table.table.len() <= MAX_CANDIDATES);
            }
        }
    }
}
