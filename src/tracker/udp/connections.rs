//! Connection ids without a table: a keyed hash of the client's address and the time. Pure: time is an argument.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use crate::wire::tracker_udp::ConnectionId;

/// How long one connection id is given out.
const EPOCH: Duration = Duration::from_secs(60);

/// Epochs in which it is accepted: BEP 15 asks the tracker to "accept the connection_id until two minutes after it has
/// been sent", and it may have been sent at the end of its first.
const EPOCHS: u64 = 3;

/// Only who receives at an address learns its id, so nobody can announce for, or have replies sent to, an address that is
/// not his. An id is the last byte of its epoch's number, so that one hash is enough to check it, and 56 bits of hash: at
/// a million guesses a second one would be right in a thousand years.
#[derive(Debug)]
pub(super) struct Connections {
    key: [u8; 16],
    start: Instant,
}

impl Connections {
    pub(super) fn new(key: [u8; 16], start: Instant) -> Self {
        Self { key, start }
    }

    pub(super) fn issue(&self, now: Instant, ip: IpAddr) -> ConnectionId {
        self.id(ip, self.epoch(now))
    }

    pub(super) fn accept(&self, now: Instant, ip: IpAddr, id: ConnectionId) -> bool {
        let now = self.epoch(now);
        let [named, ..] = id.0.to_be_bytes();
        let age = u64::from((now as u8).wrapping_sub(named));
        age < EPOCHS && now >= age && self.id(ip, now - age) == id
    }

    fn epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / EPOCH.as_secs()
    }

    /// Every input has a fixed length, so prefixing the key makes the hash a keyed one. Together they fit one block of it.
    fn id(&self, ip: IpAddr, epoch: u64) -> ConnectionId {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let hash = Sha1::new().chain_update(self.key).chain_update(ip.octets()).chain_update(epoch.to_be_bytes());
        let digest: [u8; 20] = hash.finalize().into();
        let (id, _) = digest.split_first_chunk::<8>().expect("20 bytes have a first 8");
        let [_, rest @ ..] = *id;
        let [a, b, c, d, e, f, g] = rest;
        ConnectionId(u64::from_be_bytes([epoch as u8, a, b, c, d, e, f, g]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_are_for_one_address_and_expire() {
        let start = Instant::now();
        let connections = Connections::new([7; 16], start);
        let (ip, other) = ("1.2.3.4".parse().unwrap(), "1.2.3.5".parse().unwrap());
        for hours in [0, 1, 4, 5, 100] {
            let sent = start + Duration::from_secs(59 + hours * 3_600);
            let id = connections.issue(sent, ip);
            assert!(connections.accept(sent, ip, id));
            assert!(connections.accept(sent + Duration::from_secs(120), ip, id), "two minutes after it was sent");
            assert!(!connections.accept(sent + Duration::from_secs(181), ip, id));
            assert!(!connections.accept(sent + 256 * EPOCH, ip, id), "when the byte of its epoch comes round");
            assert!(!connections.accept(sent, other, id));
            assert!(!Connections::new([8; 16], start).accept(sent, ip, id));
            for bit in 0..64 {
                assert!(!connections.accept(sent, ip, ConnectionId(id.0 ^ (1 << bit))), "bit {bit}");
            }
        }
        assert!(!connections.accept(start, ip, connections.issue(start + EPOCH, ip)), "from the future");
    }
}
