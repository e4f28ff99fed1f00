//! Diffie-Hellman, the hashes and RC4 of message stream encryption. Pure.

use std::sync::LazyLock;

use num_bigint::BigUint;
use rand::{Rng, RngExt};
use rc4::cipher::{KeyInit, StreamCipher};
use sha1::{Digest, Sha1};

use super::MseError;
use crate::wire::id::InfoHash;

/// Length of a public key and of the shared secret: 768 bits, big-endian.
pub(super) const KEY_LEN: usize = 96;

/// Bytes of a private key. "A random at least 128 bit long number": beyond 160 bits, it says, nothing is gained.
const PRIVATE_LEN: usize = 20;

/// What RC4 gives first is not random enough to be used.
const DISCARDED: usize = 1024;

/// The prime of the convention, which is Oakley group 1 (RFC 2409 §6.1); the generator is 2.
static PRIME: LazyLock<BigUint> = LazyLock::new(|| {
    let hex = b"FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
                EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563";
    BigUint::parse_bytes(hex, 16).expect("a hexadecimal number")
});

/// One side's secret number.
pub(super) struct PrivateKey(BigUint);

impl PrivateKey {
    pub(super) fn random(rng: &mut impl Rng) -> Self {
        Self(BigUint::from_bytes_be(&rng.random::<[u8; PRIVATE_LEN]>()))
    }

    /// What the other side is sent.
    pub(super) fn public(&self) -> [u8; KEY_LEN] {
        to_bytes(&BigUint::from(2_u8).modpow(&self.0, &PRIME))
    }

    /// What both sides know.
    ///
    /// # Errors
    /// 0, 1 and their like, with which the secret would be the same for everybody.
    pub(super) fn shared(&self, theirs: &[u8; KEY_LEN]) -> Result<Secret, MseError> {
        let theirs = BigUint::from_bytes_be(theirs);
        let one = BigUint::from(1_u8);
        if theirs <= one || theirs >= &*PRIME - one {
            return Err(MseError::WeakKey);
        }
        Ok(Secret(to_bytes(&theirs.modpow(&self.0, &PRIME))))
    }
}

fn to_bytes(number: &BigUint) -> [u8; KEY_LEN] {
    let bytes = number.to_bytes_be();
    let mut out = [0; KEY_LEN];
    out[KEY_LEN - bytes.len()..].copy_from_slice(&bytes);
    out
}

/// The shared secret S.
pub(super) struct Secret([u8; KEY_LEN]);

impl Secret {
    /// `HASH("req1", S)`, by which the responder finds the end of the padding.
    pub(super) fn req1(&self) -> [u8; 20] {
        hash(&[b"req1", &self.0])
    }

    /// `HASH("req2", SKEY) xor HASH("req3", S)`, and back.
    pub(super) fn mask(&self, req2: &[u8; 20]) -> [u8; 20] {
        let req3 = hash(&[b"req3", &self.0]);
        std::array::from_fn(|n| req2[n] ^ req3[n])
    }

    /// The stream of who connected.
    pub(super) fn initiators(&self, skey: &InfoHash) -> Cipher {
        Cipher::new(&hash(&[b"keyA", &self.0, &skey.0]))
    }

    /// The stream of who was connected to.
    pub(super) fn responders(&self, skey: &InfoHash) -> Cipher {
        Cipher::new(&hash(&[b"keyB", &self.0, &skey.0]))
    }
}

/// `HASH("req2", SKEY)`: the name by which a torrent is asked for.
pub(super) fn name_of(skey: &InfoHash) -> [u8; 20] {
    hash(&[b"req2", &skey.0])
}

fn hash(parts: &[&[u8]]) -> [u8; 20] {
    let mut sha1 = Sha1::new();
    parts.iter().for_each(|part| sha1.update(part));
    sha1.finalize().into()
}

/// One direction's RC4.
pub(super) struct Cipher(rc4::Rc4);

impl Cipher {
    fn new(key: &[u8]) -> Self {
        let mut rc4 = rc4::Rc4::new_from_slice(key).expect("RC4 takes keys of 1 to 256 bytes");
        rc4.apply_keystream(&mut [0; DISCARDED]);
        Self(rc4)
    }

    /// Encrypts or decrypts what comes next.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply_keystream(bytes);
    }
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn private(n: u8) -> PrivateKey {
        PrivateKey(BigUint::from_bytes_be(&[n; PRIVATE_LEN]))
    }

    #[test]
    fn rc4_without_its_first_kilobyte() {
        // RFC 6229 §2, key 0x0102030405, offset 1024.
        let mut bytes = [0; 16];
        Cipher::new(&[1, 2, 3, 4, 5]).apply(&mut bytes);
        assert_eq!(HEXLOWER.encode(&bytes), "30abbcc7c20b01609f23ee2d5f6bb7df");
    }

    /// Computed with Python's integers and hashlib.
    #[test]
    fn keys_and_hashes_are_those_of_another_implementation() {
        let (a, b) = (private(0x11), private(0x22));
        assert_eq!(HEXLOWER.encode(&hash(&[&a.public()])), PUBLIC_A);
        let (secret, same) = (a.shared(&b.public()).unwrap(), b.shared(&a.public()).unwrap());
        assert_eq!(secret.0, same.0);
        let skey = InfoHash([7; 20]);
        let mut stream = [0; 20];
        secret.initiators(&skey).apply(&mut stream);
        let found = [secret.req1(), secret.mask(&name_of(&skey)), stream].map(|bytes| HEXLOWER.encode(&bytes));
        assert_eq!(found, VECTORS);
        assert_eq!(secret.mask(&secret.mask(&name_of(&skey))), name_of(&skey));
    }

    const PUBLIC_A: &str = "b0bb6a83d44fe1be83656f2bb0bd4dcad7713d84";
    const VECTORS: [&str; 3] = [
        "32dd7e3b16e8d7a1b444ea3f4167e202514f9feb",
        "745070fd788e1783e5c7397794f6456e963d1a57",
        "6a7e8b4bd477be5e04244ca6e79cbed296da3e72",
    ];

    #[test]
    fn weak_keys_are_refused() {
        let mut one = [0; KEY_LEN];
        one[KEY_LEN - 1] = 1;
        let minus_one = to_bytes(&(&*PRIME - BigUint::from(1_u8)));
        for weak in [[0; KEY_LEN], one, minus_one, to_bytes(&PRIME), [0xff; KEY_LEN]] {
            assert!(matches!(private(9).shared(&weak), Err(MseError::WeakKey)));
        }
    }
}
