//! BEP 44 items: what is stored in the DHT, how it is signed, and what makes it acceptable.
//!
//! The order of trust is in the types. A [`SignedItem`] is what somebody sent; [`SignedItem::verify`] is the only way to
//! a [`VerifiedItem`], and the rest of the program takes nothing else. `v` stays the raw bencoded value from end to end.

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha1::{Digest, Sha1};

use super::bencode;
use super::id::{PublicKey, Signature, Target};

/// BEP 44: "v […] Any bencoded type (list, dict, string or integer) […] encoded length < 1000 bytes" and its error 205,
/// "message (v field) too big". Implementations agree on refusing from 1001 up.
pub const MAX_VALUE: usize = 1000;

/// BEP 44: the salt "MUST […] be at most 64 bytes" (error 207).
pub const MAX_SALT: usize = 64;

/// The highest sequence number accepted, 2^53 − 1: beyond it JavaScript peers lose precision and break.
pub const MAX_SEQ: i64 = (1 << 53) - 1;

/// Why an item is refused, each with its KRPC error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// The value is longer than [`MAX_VALUE`].
    #[error("the value is larger than {MAX_VALUE} bytes")]
    ValueTooBig,
    /// The value is not bencode, or not the canonical bencoding of what it says.
    #[error("the value is not canonical bencode")]
    ValueNotBencode,
    /// The salt is longer than [`MAX_SALT`].
    #[error("the salt is larger than {MAX_SALT} bytes")]
    SaltTooBig,
    /// Below zero or past [`MAX_SEQ`].
    #[error("the sequence number is not between 0 and 2^53-1")]
    SeqOutOfRange,
    /// The signature does not fit key, salt, sequence number and value.
    #[error("the signature does not verify")]
    BadSignature,
}

impl ItemError {
    /// The KRPC error code of BEP 44: 205 value too big, 206 invalid signature, 207 salt too big; 203 (BEP 5, "Protocol
    /// Error, such as a malformed packet, invalid arguments, or bad token") for what BEP 44 gives no code of its own.
    #[must_use]
    pub fn code(self) -> i64 {
        match self {
            Self::ValueTooBig => 205,
            Self::BadSignature => 206,
            Self::SaltTooBig => 207,
            Self::ValueNotBencode | Self::SeqOutOfRange => 203,
        }
    }
}

/// A salt of at most [`MAX_SALT`] bytes. The empty salt is no salt: BEP 44 gives both the same target.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug, PartialOrd, Ord)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// # Errors
    /// [`ItemError::SaltTooBig`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, ItemError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_SALT { Err(ItemError::SaltTooBig) } else { Ok(Self(bytes)) }
    }

    /// The salt's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is no salt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// BEP 44: "the target […] of a mutable item is the SHA-1 hash of the public key" and, with a salt, of "the public key
/// with the salt appended".
#[must_use]
pub fn mutable_target(key: &PublicKey, salt: &Salt) -> Target {
    let mut hash = Sha1::new();
    hash.update(key.0);
    hash.update(salt.as_bytes());
    Target(hash.finalize().into())
}

/// BEP 44: the target of an immutable item "is the SHA-1 hash of the bencoded value".
#[must_use]
pub fn immutable_target(v: &[u8]) -> Target {
    Target(Sha1::digest(v).into())
}

/// Checks a bencoded value by itself: its size first, then that it is canonical.
///
/// # Errors
/// [`ItemError::ValueTooBig`], [`ItemError::ValueNotBencode`].
pub fn check_value(v: &[u8]) -> Result<(), ItemError> {
    if v.len() > MAX_VALUE {
        return Err(ItemError::ValueTooBig);
    }
    if bencode::decode(v).is_ok_and(|node| node.is_canonical()) { Ok(()) } else { Err(ItemError::ValueNotBencode) }
}

/// The bytes that are signed: `4:salt…` when there is a salt, then `3:seqi…e1:v…`. BEP 44: "the sequence number and the
/// value are concatenated […] as they would be bencoded".
#[must_use]
pub fn signable(salt: &Salt, seq: i64, v: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(v.len() + 128);
    if !salt.is_empty() {
        out.extend(b"4:salt");
        out.extend(bencode::bytes(salt.as_bytes()));
    }
    out.extend(format!("3:seqi{seq}e1:v").as_bytes());
    out.extend(v);
    out
}

/// A mutable item as somebody sent it: the claim, not yet checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedItem {
    /// The author.
    pub key: PublicKey,
    /// Tells several items of one author apart.
    pub salt: Salt,
    /// Grows with every version.
    pub seq: i64,
    /// The bencoded value, as signed.
    pub v: Vec<u8>,
    /// Over [`signable`].
    pub sig: Signature,
}

impl SignedItem {
    /// Checks everything BEP 44 asks, cheapest first, the signature last.
    ///
    /// Small-order keys and non-canonical signatures are refused too (`verify_strict`): under such keys anyone can
    /// produce "signatures", so they name nobody.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(self) -> Result<VerifiedItem, ItemError> {
        if !(0..=MAX_SEQ).contains(&self.seq) {
            return Err(ItemError::SeqOutOfRange);
        }
        check_value(&self.v)?;
        let key = VerifyingKey::from_bytes(&self.key.0).map_err(|_| ItemError::BadSignature)?;
        let signature = ed25519_dalek::Signature::from_bytes(&self.sig.0);
        key.verify_strict(&signable(&self.salt, self.seq, &self.v), &signature).map_err(|_| ItemError::BadSignature)?;
        Ok(VerifiedItem(self))
    }
}

/// A mutable item whose signature, sizes and encoding have been checked. There is no other way to make one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedItem(SignedItem);

impl VerifiedItem {
    /// Signs a new item.
    ///
    /// # Errors
    /// A value or sequence number that no peer would accept.
    pub fn sign(key: &SigningKey, salt: Salt, seq: i64, v: Vec<u8>) -> Result<Self, ItemError> {
        if !(0..=MAX_SEQ).contains(&seq) {
            return Err(ItemError::SeqOutOfRange);
        }
        check_value(&v)?;
        let sig = Signature(key.sign(&signable(&salt, seq, &v)).to_bytes());
        Ok(Self(SignedItem { key: PublicKey(key.verifying_key().to_bytes()), salt, seq, v, sig }))
    }

    /// The author.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.0.key
    }

    /// The salt, empty for none.
    #[must_use]
    pub fn salt(&self) -> &Salt {
        &self.0.salt
    }

    /// The sequence number.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.0.seq
    }

    /// The raw bencoded value.
    #[must_use]
    pub fn v(&self) -> &[u8] {
        &self.0.v
    }

    /// The signature.
    #[must_use]
    pub fn sig(&self) -> &Signature {
        &self.0.sig
    }

    /// Where the item lives.
    #[must_use]
    pub fn target(&self) -> Target {
        mutable_target(&self.0.key, &self.0.salt)
    }

    /// The claim inside, for encoders.
    #[must_use]
    pub fn as_signed(&self) -> &SignedItem {
        &self.0
    }

    /// Whether this item replaces `other` of the same target: a higher sequence number wins. Two values signed with
    /// the same number are an author's mistake that happens; everybody keeps the bytewise larger, so that all agree.
    #[must_use]
    pub fn replaces(&self, other: &VerifiedItem) -> bool {
        (self.seq(), self.v()) > (other.seq(), other.v())
    }

    /// Whether both carry the same number and different values.
    #[must_use]
    pub fn conflicts_with(&self, other: &VerifiedItem) -> bool {
        self.seq() == other.seq() && self.v() != other.v()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The vectors of BEP 44. Its private keys are printed expanded, so they serve for verification only.
    const KEY: &str = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";
    const V: &[u8] = b"12:Hello World!";

    fn vector(salt: &[u8], sig: &str) -> SignedItem {
        SignedItem {
            key: PublicKey::from_hex(KEY).unwrap(),
            salt: Salt::new(salt).unwrap(),
            seq: 1,
            v: V.to_vec(),
            sig: Signature::from_hex(sig).unwrap(),
        }
    }

    #[test]
    fn bep_44_test_1_mutable() {
        let item = vector(
            b"",
            "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
        );
        assert_eq!(signable(&item.salt, 1, V), b"3:seqi1e1:v12:Hello World!");
        let item = item.verify().unwrap();
        assert_eq!(item.target().to_hex(), "4a533d47ec9c7d95b1ad75f576cffc641853b750");
    }

    #[test]
    fn bep_44_test_2_mutable_with_salt() {
        let item = vector(
            b"foobar",
            "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
        );
        assert_eq!(signable(&item.salt, 1, V), b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
        let item = item.verify().unwrap();
        assert_eq!(item.target().to_hex(), "411eba73b6f087ca51a3795d9c8c938d365e32c1");
    }

    #[test]
    fn bep_44_test_3_immutable() {
        assert_eq!(immutable_target(V).to_hex(), "e5f96f6f38320f0f33959cb4d3d656452117aadb");
    }

    #[test]
    fn a_change_anywhere_breaks_the_signature() {
        let good =
            VerifiedItem::sign(&SigningKey::from_bytes(&[7; 32]), Salt::new(b"s").unwrap(), 5, V.to_vec()).unwrap();
        let good = good.as_signed().clone();
        assert!(good.clone().verify().is_ok());
        let refused = |change: &dyn Fn(&mut SignedItem)| {
            let mut item = good.clone();
            change(&mut item);
            item.verify().unwrap_err()
        };
        assert_eq!(refused(&|i| i.seq = 6), ItemError::BadSignature);
        assert_eq!(refused(&|i| i.v = b"12:Hello world!".to_vec()), ItemError::BadSignature);
        assert_eq!(refused(&|i| i.salt = Salt::default()), ItemError::BadSignature);
        assert_eq!(refused(&|i| i.key.0[3] ^= 1), ItemError::BadSignature);
        for byte in 0..64 {
            assert_eq!(refused(&|i| i.sig.0[byte] ^= 1), ItemError::BadSignature, "byte {byte} of the signature");
        }
    }

    #[test]
    fn limits_have_their_codes() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let sign = |seq, v: Vec<u8>| VerifiedItem::sign(&key, Salt::default(), seq, v);
        let value = |len: usize| [format!("{len}:").into_bytes(), vec![b'x'; len]].concat();
        assert!(sign(1, value(996)).is_ok(), "1000 bytes with the prefix");
        assert_eq!(sign(1, value(997)).unwrap_err().code(), 205);
        assert_eq!(sign(1, b"d1:bi1e1:ai2ee".to_vec()).unwrap_err(), ItemError::ValueNotBencode);
        assert_eq!(sign(1, b"junk".to_vec()).unwrap_err().code(), 203);
        assert_eq!(sign(-1, V.to_vec()).unwrap_err(), ItemError::SeqOutOfRange);
        assert_eq!(sign(MAX_SEQ + 1, V.to_vec()).unwrap_err(), ItemError::SeqOutOfRange);
        assert!(sign(MAX_SEQ, V.to_vec()).is_ok());
        assert_eq!(Salt::new(vec![0; 65]).unwrap_err().code(), 207);
        assert!(Salt::new(vec![0; 64]).is_ok());
    }

    #[test]
    fn keys_that_anyone_can_sign_for_are_refused() {
        // The identity point: with it, the signature (R = identity, s = 0) "verifies" any message under lax rules.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut sig = [0; 64];
        sig[0] = 1;
        let item =
            SignedItem { key: PublicKey(identity), salt: Salt::default(), seq: 1, v: V.to_vec(), sig: Signature(sig) };
        assert_eq!(item.verify().unwrap_err(), ItemError::BadSignature);
    }

    #[test]
    fn the_newest_wins_and_ties_are_broken_alike_everywhere() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let item = |seq, v: &[u8]| VerifiedItem::sign(&key, Salt::default(), seq, v.to_vec()).unwrap();
        let (a, b) = (item(1, b"1:a"), item(1, b"1:b"));
        assert!(item(2, b"1:a").replaces(&b) && !b.replaces(&item(2, b"1:a")));
        assert!(b.replaces(&a) && !a.replaces(&b) && !a.replaces(&a));
        assert!(a.conflicts_with(&b) && !a.conflicts_with(&a) && !a.conflicts_with(&item(2, b"1:a")));
    }
}
