//! BEP 46 pointers: a mutable item whose value names a torrent.

use super::bencode;
use super::id::InfoHash;

/// The info hash a value points to. BEP 46: the value is "a dictionary with a key ih, whose value is the 20 byte
/// infohash". Other keys may stand beside it. `None` when the value is something else.
#[must_use]
pub fn info_hash(v: &[u8]) -> Option<InfoHash> {
    InfoHash::from_slice(bencode::decode(v).ok()?.get(b"ih")?.bytes()?).ok()
}

/// The value that points to `info_hash`.
#[must_use]
pub fn value(info_hash: &InfoHash) -> Vec<u8> {
    bencode::dict(|d| {
        d.bytes(b"ih", &info_hash.0);
    })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{SigningKey, VerifyingKey};

    use super::*;
    use crate::wire::id::PublicKey;
    use crate::wire::item::{Salt, VerifiedItem, mutable_target};

    #[test]
    fn a_pointer_round_trips() {
        let hash = InfoHash([0xee; 20]);
        assert_eq!(value(&hash), [b"d2:ih20:".as_slice(), &[0xee; 20], b"e"].concat());
        assert_eq!(info_hash(&value(&hash)), Some(hash));
    }

    #[test]
    fn other_keys_may_stand_beside_it_and_other_values_point_nowhere() {
        let beside = [b"d1:ai1e2:ih20:".as_slice(), &[1; 20], b"1:zi2ee"].concat();
        assert_eq!(info_hash(&beside), Some(InfoHash([1; 20])));
        for v in [b"12:Hello World!".as_slice(), b"d2:ih19:aaaaaaaaaaaaaaaaaaae", b"d2:ihi1ee", b"de", b"le", b""] {
            assert_eq!(info_hash(v), None, "{}", v.escape_ascii());
        }
    }

    /// BEP 46's own example: "public key 8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e", with and
    /// without the salt "n", and the targets it lists.
    #[test]
    fn bep_46_targets() {
        let key = PublicKey::from_hex("8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e").unwrap();
        assert!(VerifyingKey::from_bytes(&key.0).is_ok());
        assert_eq!(mutable_target(&key, &Salt::default()).to_hex(), "cc3f9d90b572172053626f9980ce261a850d050b");
        assert_eq!(
            mutable_target(&key, &Salt::new(b"n").unwrap()).to_hex(),
            "59ee7c2cb9b4f7eb1986ee2d18fd2fdb8a56554f"
        );
    }

    #[test]
    fn a_signed_pointer_verifies() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let item = VerifiedItem::sign(&key, Salt::default(), 1, value(&InfoHash([3; 20]))).unwrap();
        assert_eq!(info_hash(item.as_signed().clone().verify().unwrap().v()), Some(InfoHash([3; 20])));
    }
}
