//! What is announced at one tracker, and when again. Pure; time is handed in.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::id::InfoHash;

/// The interval until the tracker has named one. WebTorrent's trackers name two minutes.
const USUAL_INTERVAL: Duration = Duration::from_secs(120);

/// The intervals that are obeyed.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// Announces sent in one go: a thousand pins are not announced in one burst.
pub(super) const MAX_AT_ONCE: usize = 20;

/// Offers of ours with one announce.
const OFFERS: usize = 3;

/// What is to be said now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A torrent is new here.
    Start(InfoHash),
    /// It still is.
    Again(InfoHash),
    /// It was left.
    Stop(InfoHash),
}

/// The table of one connection.
#[derive(Debug, Default)]
pub(super) struct Book {
    announced: HashMap<InfoHash, Entry>,
}

#[derive(Debug)]
struct Entry {
    interval: Duration,
    next: Instant,
    /// In the swarm there, as of the last announce.
    peers: usize,
}

impl Book {
    /// What is to be said, given the torrents that are to be announced; it counts as said.
    #[must_use]
    pub(super) fn due(&mut self, shared: &[InfoHash], now: Instant) -> Vec<Due> {
        let left: Vec<_> = self.announced.keys().filter(|info_hash| !shared.contains(info_hash)).copied().collect();
        let mut due: Vec<_> = left.into_iter().map(Due::Stop).take(MAX_AT_ONCE).collect();
        for info_hash in shared {
            if due.len() >= MAX_AT_ONCE {
                break;
            }
            match self.announced.get_mut(info_hash) {
                None => {
                    let entry = Entry { interval: USUAL_INTERVAL, next: now + USUAL_INTERVAL, peers: 0 };
                    self.announced.insert(*info_hash, entry);
                    due.push(Due::Start(*info_hash));
                }
                Some(entry) if entry.next <= now => {
                    entry.next = now + entry.interval;
                    due.push(Due::Again(*info_hash));
                }
                Some(_) => {}
            }
        }
        for due in &due {
            if let Due::Stop(info_hash) = due {
                self.announced.remove(info_hash);
            }
        }
        due
    }

    /// The tracker answered: when to announce again, and how many peers there are.
    pub(super) fn announced(&mut self, info_hash: &InfoHash, (seconds, peers): (u64, usize), now: Instant) {
        if let Some(entry) = self.announced.get_mut(info_hash) {
            entry.interval = Duration::from_secs(seconds).clamp(INTERVALS.0, INTERVALS.1);
            entry.next = now + entry.interval;
            entry.peers = peers;
        }
    }

    /// How many offers an announce carries when so many pages have come: some at first, and later when the tracker counted
    /// more peers, ourselves not among them. They are pages that make no offers, or ones that had none to spare for us, or
    /// native peers.
    pub(super) fn offers(&self, due: Due, come: usize) -> usize {
        match due {
            Due::Start(_) => OFFERS,
            Due::Again(info_hash) => {
                let peers = self.announced.get(&info_hash).map_or(0, |entry| entry.peers);
                peers.saturating_sub(1 + come).min(OFFERS)
            }
            Due::Stop(_) => 0,
        }
    }

    /// Whether a torrent is announced here: offers for any other are none of ours.
    pub(super) fn contains(&self, info_hash: &InfoHash) -> bool {
        self.announced.contains_key(info_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> InfoHash {
        InfoHash([n; 20])
    }

    #[test]
    fn torrents_are_announced_again_and_taken_back() {
        let (mut book, start) = (Book::default(), Instant::now());
        let (a, b) = (hash(1), hash(2));
        assert_eq!(book.due(&[a], start), [Due::Start(a)]);
        assert_eq!(book.due(&[a, b], start), [Due::Start(b)]);
        book.announced(&a, (60, 3), start);
        book.announced(&b, (1, 1), start);
        book.announced(&hash(9), (1, 9), start);
        assert_eq!(book.due(&[a, b], start + Duration::from_secs(29)), []);
        assert_eq!(book.due(&[a, b], start + Duration::from_secs(30)), [Due::Again(b)], "never faster than that");
        assert_eq!(book.due(&[a, b], start + Duration::from_secs(60)), [Due::Again(a), Due::Again(b)]);
        assert!(book.contains(&a) && !book.contains(&hash(9)));
        assert_eq!(book.due(&[b], start + Duration::from_secs(60)), [Due::Stop(a)]);
        assert!(!book.contains(&a));
    }

    #[test]
    fn who_makes_no_offers_is_made_some() {
        let (mut book, now) = (Book::default(), Instant::now());
        let a = hash(1);
        assert_eq!(book.due(&[a], now), [Due::Start(a)]);
        assert_eq!((book.offers(Due::Start(a), 0), book.offers(Due::Again(a), 0)), (OFFERS, 0), "nothing is known yet");
        // Peers the tracker counts, pages that have come → offers.
        for (peers, come, offers) in [(0, 0, 0), (1, 0, 0), (2, 0, 1), (2, 1, 0), (3, 1, 1), (2, 5, 0), (99, 0, OFFERS)]
        {
            book.announced(&a, (60, peers), now);
            assert_eq!(book.offers(Due::Again(a), come), offers, "{peers} peers, {come} have come");
        }
        assert_eq!((book.offers(Due::Again(hash(9)), 0), book.offers(Due::Stop(a), 0)), (0, 0));
    }

    #[test]
    fn many_are_announced_in_several_goes() {
        let (mut book, now) = (Book::default(), Instant::now());
        let many: Vec<_> = (0..50).map(hash).collect();
        let goes: Vec<_> = (0..4).map(|_| book.due(&many, now).len()).collect();
        assert_eq!(goes, [20, 20, 10, 0]);
        assert_eq!(book.due(&[], now).len(), 20);
    }
}
