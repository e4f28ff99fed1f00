//! By which way an address is tried: over which transport first, and encrypted or not. Pure.
//!
//! Peers differ: some take only encrypted connections, some only uTP, and none says so. What was found out about an
//! address is remembered, so that it is not found out again at each visit and by each torrent.

use std::net::SocketAddr;

use indexmap::IndexMap;

use crate::config::Encryption;

/// Addresses remembered. Past it any one is forgotten.
const MAX_KNOWN: usize = 10_000;

/// How to try an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// uTP goes first, not TCP.
    pub(super) utp_first: bool,
    /// The connection begins with the encrypted handshake.
    pub(super) encrypted: bool,
}

/// What is known of addresses.
#[derive(Debug)]
pub(super) struct Ways {
    encryption: Encryption,
    known: IndexMap<SocketAddr, Way>,
}

impl Ways {
    pub(super) fn new(encryption: Encryption) -> Self {
        Self { encryption, known: IndexMap::new() }
    }

    /// The way to try first.
    pub(super) fn first(&self, addr: SocketAddr) -> Way {
        let usual = Way { utp_first: false, encrypted: self.encryption != Encryption::Allow };
        self.known.get(&addr).copied().unwrap_or(usual)
    }

    /// The way to try when the peer closed the connection without a greeting.
    pub(super) fn second(&self, way: Way) -> Option<Way> {
        (self.encryption != Encryption::Require).then_some(Way { encrypted: !way.encrypted, ..way })
    }

    /// The peer greeted.
    pub(super) fn greeted(&mut self, addr: SocketAddr, way: Way) {
        self.learn(addr, way);
    }

    /// The peer was reached, and did not greet whatever was tried: next time the other transport goes first.
    pub(super) fn refused(&mut self, addr: SocketAddr) {
        let way = self.first(addr);
        self.learn(addr, Way { utp_first: !way.utp_first, ..way });
    }

    fn learn(&mut self, addr: SocketAddr, way: Way) {
        if self.first(addr) == way {
            return;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.swap_remove_index(0);
        }
        self.known.insert(addr, way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Way = Way { utp_first: false, encrypted: false };
    const ENCRYPTED: Way = Way { utp_first: false, encrypted: true };

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::from((n.to_be_bytes(), 6881))
    }

    #[test]
    fn the_policy_says_what_is_tried() {
        for (encryption, first, second) in [
            (Encryption::Allow, PLAIN, Some(ENCRYPTED)),
            (Encryption::Prefer, ENCRYPTED, Some(PLAIN)),
            (Encryption::Require, ENCRYPTED, None),
        ] {
            let ways = Ways::new(encryption);
            assert_eq!((ways.first(addr(1)), ways.second(first)), (first, second), "{encryption:?}");
        }
    }

    #[test]
    fn what_worked_is_tried_first_and_what_did_not_is_varied() {
        let mut ways = Ways::new(Encryption::Allow);
        ways.greeted(addr(1), PLAIN);
        assert!(ways.known.is_empty(), "the usual way needs no memory");
        ways.greeted(addr(1), ENCRYPTED);
        assert_eq!((ways.first(addr(1)), ways.second(ENCRYPTED)), (ENCRYPTED, Some(PLAIN)));
        ways.refused(addr(1));
        assert_eq!(ways.first(addr(1)), Way { utp_first: true, encrypted: true });
        ways.refused(addr(1));
        assert_eq!(ways.first(addr(1)), ENCRYPTED);
        assert_eq!(ways.first(addr(2)), PLAIN);
    }

    #[test]
    fn memory_is_bounded() {
        let mut ways = Ways::new(Encryption::Allow);
        (0..=MAX_KNOWN as u32).for_each(|n| ways.greeted(addr(n), ENCRYPTED));
        assert_eq!((ways.known.len(), ways.first(addr(MAX_KNOWN as u32))), (MAX_KNOWN, ENCRYPTED));
    }
}
