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
                    let entry = Entry { interval: USUAL_INTERVAL, next: now + USUAL_INTERVAL };
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

    /// The tracker named an interval.
    pub(super) fn interval(&mut self, info_hash: &InfoHash, seconds: u64, now: Instant) {
        if let Some(entry) = self.announced.get_mut(info_hash) {
            entry.interval = Duration::from_secs(seconds).clamp(INTERVALS.0, INTERVALS.1);
            entry.next = now + entry.interval;
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
        book.interval(&a, 60, start);
        book.interval(&b, 1, start);
        book.interval(&hash(9), 1, start);
        assert_eq!(book.due(&[a, b], start + Duration::from_secs(29)), []);
        assert_eq!(book.due(&[a, b], start + Duration::from_secs(30)), [Due::Again(b)], "never faster than that");
        assert_eq!(book.due(&[a, b], start + Duration::from_secs(60)), [Due::Again(a), Due::Again(b)]);
        assert!(book.contains(&a) && !book.contains(&hash(9)));
        assert_eq!(book.due(&[b], start + Duration::from_secs(60)), [Due::Stop(a)]);
        assert!(!book.contains(&a));
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
