//! Nodes that lately did not answer. Others go on naming them for a quarter of an hour, so without a memory every lookup
//! would wait for them again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Addresses remembered. When so many are silent, the network is gone, and more of them would tell nothing new.
const MAX_ADDRESSES: usize = 2048;

/// BEP 5 calls a node questionable after this; by then it is out of everybody's table or back again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Failures closer together than this are one: lookups that run side by side, or one moment of bad luck.
const ONE_FAILURE: Duration = Duration::from_secs(2);

/// How long a node is left alone that failed to answer twice in a row; twice as long after each further time.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// What to expect of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing bad is known.
    Fine,
    /// It did not answer lately: to be asked, but not to be waited for.
    Doubtful,
    /// It did not answer several times in a row, to repeated queries: not to be asked now.
    Dead,
    /// Our own pace would make a query to it wait: others may do as well.
    Busy,
}

#[derive(Debug, Default)]
pub(super) struct Unresponsive(HashMap<SocketAddr, Silence>);

#[derive(Debug)]
struct Silence {
    failures: u32,
    last: Instant,
}

impl Unresponsive {
    /// A query to `addr` was given up. Unless that is `sure`, it may just have been lost.
    pub(super) fn failed(&mut self, now: Instant, addr: SocketAddr, sure: bool) {
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&addr) {
            self.0.retain(|_, silence| now.duration_since(silence.last) < FORGOTTEN_AFTER);
            if self.0.len() >= MAX_ADDRESSES {
                return;
            }
        }
        let silence = self.0.entry(addr).or_insert(Silence { failures: 0, last: now });
        if silence.failures == 0 || (sure && now.duration_since(silence.last) >= ONE_FAILURE) {
            silence.failures += 1;
            silence.last = now;
        }
    }

    /// `addr` answered, or asked.
    pub(super) fn heard(&mut self, addr: SocketAddr) {
        self.0.remove(&addr);
    }

    pub(super) fn standing(&self, now: Instant, addr: SocketAddr) -> Standing {
        let Some(Silence { failures, last }) = self.0.get(&addr) else { return Standing::Fine };
        let age = now.duration_since(*last);
        match failures {
            _ if age >= FORGOTTEN_AFTER => Standing::Fine,
            2.. if age < LEFT_ALONE * (1 << (failures - 2).min(4)) => Standing::Dead,
            _ => Standing::Doubtful,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_remembered_for_a_while_and_forgiven_at_once() {
        let (start, node) = (Instant::now(), SocketAddr::from(([1, 2, 3, 4], 5)));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silent = Unresponsive::default();
        assert_eq!(silent.standing(start, node), Standing::Fine);
        silent.failed(start, node, true);
        silent.failed(at(1), node, true);
        silent.failed(at(9), node, false);
        assert_eq!(silent.standing(at(9), node), Standing::Doubtful, "two lookups at once are one failure");
        assert_eq!(silent.standing(at(15 * 60), node), Standing::Fine);
        silent.failed(at(10), node, true);
        // When it failed for the third time and more, and until when it is left alone.
        for (failed, until) in [(10, 70), (70, 190), (190, 430), (430, 910), (910, 1810)] {
            if failed > 10 {
                silent.failed(at(failed), node, true);
            }
            assert_eq!(silent.standing(at(until - 1), node), Standing::Dead, "{failed}");
            let after = if until - failed < 900 { Standing::Doubtful } else { Standing::Fine };
            assert_eq!(silent.standing(at(until), node), after, "{failed}");
        }
        silent.heard(node);
        assert_eq!(silent.standing(at(911), node), Standing::Fine);
    }

    #[test]
    fn the_memory_is_bounded() {
        let start = Instant::now();
        let mut silent = Unresponsive::default();
        let node = |n: usize| SocketAddr::from(([1, 2, 3, 4], n as u16 + 1));
        (0..MAX_ADDRESSES + 10).for_each(|n| silent.failed(start, node(n), true));
        assert_eq!(silent.0.len(), MAX_ADDRESSES);
        assert_eq!(silent.standing(start, node(MAX_ADDRESSES)), Standing::Fine);
        silent.failed(start + FORGOTTEN_AFTER, node(MAX_ADDRESSES), true);
        assert_eq!(silent.0.len(), 1);
    }
}
