//! Bearer tokens (RFC 6750): who may do what, how much, until when. Pure.
//!
//! What is handed out is `sg_<id>_<secret>`: the id, 16 hexadecimal digits, names the token in lists and logs; the secret is
//! 32 random bytes in base64url. Only the SHA-256 of the secret is kept. A secret of 256 random bits needs no slow hash:
//! there is nothing to guess.

use data_encoding::BASE64URL_NOPAD;
use rand::{Rng, RngExt};
use sha2::{Digest, Sha256};

use super::ids::{TokenId, Unix};

/// How every token begins, so that secret scanners know one when they see it.
const PREFIX: &str = "sg_";

/// Longest name of a token, in bytes.
pub const MAX_TOKEN_NAME: usize = 255;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Look at its pins.
    Read,
    /// And make, change and delete them.
    Write,
}

impl Scope {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// How much the pins of one token may take. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Bytes over all its pins; a torrent that several of them keep counts once.
    pub bytes: Option<u64>,
    /// Pins.
    pub pins: Option<u64>,
    /// Bytes of one version of one pin.
    pub pin_bytes: Option<u64>,
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: TokenId,
    /// SHA-256 of its secret part.
    pub hash: [u8; 32],
    /// For people.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// How much.
    pub quota: Quota,
    /// When it was made.
    pub created: Unix,
    /// When it stops working. Its pins stay, within its quota, until they are deleted or expire themselves.
    pub expires: Option<Unix>,
    /// When the operator ended it. It is remembered while there are pins of it, since its quota still holds for them.
    pub revoked: Option<Unix>,
}

impl Token {
    /// A new one, and the text that is handed out, which cannot be had again.
    pub fn new(
        name: String,
        scope: Scope,
        quota: Quota,
        expires: Option<Unix>,
        now: Unix,
        rng: &mut impl Rng,
    ) -> (Self, String) {
        let (id, secret) = (TokenId::random(rng), rng.random::<[u8; 32]>());
        let text = format!("{PREFIX}{id}_{}", BASE64URL_NOPAD.encode(&secret));
        (
            Self { id, hash: Sha256::digest(secret).into(), name, scope, quota, created: now, expires, revoked: None },
            text,
        )
    }

    /// Whether `secret` is this token's, and it still works. The comparison takes the same time wherever they differ.
    #[must_use]
    pub fn admits(&self, presented: &Presented, now: Unix) -> bool {
        let differ = self.hash.iter().zip(&presented.hash).fold(0, |differ, (a, b)| differ | (a ^ b));
        differ == 0 && self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

/// A token as somebody presents it, not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Which one it claims to be.
    pub id: TokenId,
    hash: [u8; 32],
}

impl Presented {
    /// Reads the text; `None` when it is no token of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let secret = BASE64URL_NOPAD.decode(secret.as_bytes()).ok().filter(|secret| secret.len() == 32)?;
        Some(Self { id: TokenId::from_hex(id)?, hash: Sha256::digest(secret).into() })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_token_admits_its_holder_until_it_expires_and_nobody_else() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut make = |expires| Token::new("n".into(), Scope::Read, Quota::default(), expires, Unix(0), &mut rng);
        let ((token, text), (other, _)) = (make(Some(Unix(10))), make(None));
        let presented = Presented::parse(&text).unwrap();
        assert_eq!(presented.id, token.id);
        assert!(token.admits(&presented, Unix(9)) && !token.admits(&presented, Unix(10)));
        assert!(!other.admits(&presented, Unix(0)));
        assert!(!text.contains(&crate::wire::hex::encode(&token.hash)));
        let forged = format!("{}A", &text[..text.len() - 1]);
        assert!(Presented::parse(&forged).is_none_or(|forged| forged == presented || !token.admits(&forged, Unix(0))));
        for text in ["", "sg_", "sg_00_00", &text[1..], &text[..text.len() - 4], "Bearer x"] {
            assert_eq!(Presented::parse(text), None, "{text}");
        }
    }
}
