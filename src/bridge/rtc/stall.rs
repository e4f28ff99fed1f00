//! Whether a peer still acknowledges what is sent to it. Pure; time is handed in.
//!
//! ICE tells of peers that are gone. It does not tell of those that are there and take nothing: such a stream may stand
//! still for ever. Only a new connection helps then, and both sides make one once this one is closed.

use std::time::Duration;

use tokio::time::Instant;

/// How long a peer may acknowledge nothing of what is under way. SCTP repeats it every few seconds, and that was away for longer than 10 s has ended
/// the connection anyway.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked. A connection that is idle costs a look as well.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// The last time that something was acknowledged, or that nothing was under way.
#[derive(Debug)]
pub(super) struct Stall {
    /// Bytes since the beginning.
    acknowledged: u64,
    at: Instant,
}

impl Stall {
    pub(super) fn new(now: Instant) -> Self {
        Self { acknowledged: 0, at: now }
    }

    /// Whether it has been too long. `sent` are the bytes handed to the stack since the beginning, of which `outstanding`
    /// are not acknowledged.
    pub(super) fn is_over(&mut self, sent: u64, outstanding: usize, now: Instant) -> bool {
        let acknowledged = sent.saturating_sub(outstanding as u64);
        if outstanding == 0 || acknowledged > self.acknowledged {
            *self = Self { acknowledged, at: now };
        }
        now.saturating_duration_since(self.at) >= LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_peer_that_takes_nothing_of_something_stalls() {
        // (seconds, bytes sent, bytes outstanding), and the second at which it is over.
        for (what, looks, over) in [
            ("idle", &[(0, 0, 0), (100, 0, 0)][..], None),
            ("everything arrives", &[(0, 10, 10), (29, 20, 10), (58, 30, 10), (87, 30, 0), (200, 30, 0)], None),
            ("nothing arrives", &[(0, 10, 10), (29, 10, 10), (30, 10, 10)], Some(30)),
            ("more is sent all the while", &[(0, 10, 10), (29, 20, 20), (30, 30, 30)], Some(30)),
            ("it stops after a while", &[(0, 20, 20), (20, 20, 10), (49, 30, 20), (50, 40, 30)], Some(50)),
            ("sent after a long rest", &[(0, 10, 10), (10, 10, 0), (500, 10, 0), (501, 20, 10), (529, 20, 10)], None),
        ] {
            let start = Instant::now();
            let mut stall = Stall::new(start);
            let found = looks.iter().find(|(second, sent, outstanding)| {
                stall.is_over(*sent, *outstanding, start + Duration::from_secs(*second))
            });
            assert_eq!(found.map(|(second, ..)| *second), over, "{what}");
        }
    }
}
