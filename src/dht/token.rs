//! Tokens: proof that whoever announces or puts has lately asked us from the address it says it is at.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use sha1::{Digest, Sha1};

/// BEP 5: "The BitTorrent implementation uses the SHA1 hash of the IP address concatenated onto a secret that changes
/// every five minutes and tokens up to ten minutes old are accepted".
const ROTATION: Duration = Duration::from_secs(5 * 60);

/// Bytes of a token. Guessing one among 2^64 takes longer than it is valid.
const LENGTH: usize = 8;

#[derive(Debug)]
pub(super) struct Tokens {
    current: [u8; 16],
    previous: [u8; 16],
    rotated: Instant,
}

impl Tokens {
    pub(super) fn new(now: Instant, rng: &mut impl Rng) -> Self {
        Self { current: rng.random(), previous: rng.random(), rotated: now }
    }

    /// The token for whoever is at `ip`.
    pub(super) fn issue(&self, ip: IpAddr) -> Vec<u8> {
        token(&self.current, ip)
    }

    /// Whether `shown` was issued to `ip` under the present secret or the one before.
    pub(super) fn is_valid(&self, ip: IpAddr, shown: &[u8]) -> bool {
        shown == token(&self.current, ip) || shown == token(&self.previous, ip)
    }

    /// Changes the secret when it is time.
    pub(super) fn rotate(&mut self, now: Instant, rng: &mut impl Rng) {
        if now.duration_since(self.rotated) >= ROTATION {
            self.previous = std::mem::replace(&mut self.current, rng.random());
            self.rotated = now;
        }
    }
}

fn token(secret: &[u8; 16], ip: IpAddr) -> Vec<u8> {
    let mut hash = Sha1::new();
    hash.update(secret);
    match ip.to_canonical() {
        IpAddr::V4(ip) => hash.update(ip.octets()),
        IpAddr::V6(ip) => hash.update(ip.octets()),
    }
    hash.finalize()[..LENGTH].to_vec()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_token_is_good_for_its_address_and_until_the_second_rotation() {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut tokens = Tokens::new(start, &mut rng);
        let (ours, other) = (IpAddr::from([1, 2, 3, 4]), IpAddr::from([1, 2, 3, 5]));
        let token = tokens.issue(ours);
        assert!(tokens.is_valid(ours, &token) && !tokens.is_valid(other, &token) && !tokens.is_valid(ours, b""));
        tokens.rotate(start + ROTATION - Duration::from_secs(1), &mut rng);
        assert_eq!(tokens.issue(ours), token);
        tokens.rotate(start + ROTATION, &mut rng);
        assert!(tokens.is_valid(ours, &token) && tokens.issue(ours) != token);
        tokens.rotate(start + 2 * ROTATION, &mut rng);
        assert!(!tokens.is_valid(ours, &token));
    }
}
