//! Message stream encryption, also called protocol encryption: the convention by which BitTorrent clients hide what they
//! speak from networks that slow it down. Many peers of public swarms take no other connections.
//!
//! ```text
//!  A → B: Ya, PadA                                    Diffie-Hellman, 768 bits
//!  B → A: Yb, PadB
//!  A → B: HASH("req1", S), HASH("req2", SKEY) xor HASH("req3", S),
//!         ENCRYPT(VC, crypto_provide, len(PadC), PadC, len(IA)), ENCRYPT(IA)
//!  B → A: ENCRYPT(VC, crypto_select, len(PadD), PadD), and from here on the peer wire
//! ```
//!
//! S is the shared secret, SKEY the info hash, VC eight zero bytes, HASH is SHA-1, ENCRYPT is RC4 without its first 1,024
//! bytes. **It is obfuscation, not security:** nobody is authenticated, and who knows the info hash and sits in the middle
//! reads along. Nothing in this program relies on it.
//!
//! `keys.rs` and `handshake.rs` are pure; `stream.rs` runs them over a byte stream and then is one itself.

mod handshake;
mod keys;
mod names;
mod stream;

pub(super) use names::Names;
pub(super) use stream::{Stream, initiate, receive};

use crate::config::Encryption;

/// How the bytes after the handshake travel: `crypto_provide` and `crypto_select`, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// As they are: only the handshake is hidden.
    Plaintext = 0x01,
    /// Through RC4.
    Rc4 = 0x02,
}

/// Why there is no encrypted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MseError {
    /// A key that makes the secret known to everybody.
    #[error("a weak Diffie-Hellman key")]
    WeakKey,
    /// What must follow the key did not within the longest padding.
    #[error("not an encrypted handshake")]
    NotAHandshake,
    /// A torrent that is not joined here.
    #[error("an encrypted handshake for a torrent that is not joined")]
    UnknownTorrent,
    /// Padding longer than 512 bytes.
    #[error("padding that is too long")]
    TooMuchPadding,
    /// No method that both sides take.
    #[error("no method of encryption that both sides take")]
    NoMethod,
    /// The configuration takes no other.
    #[error("the peer does not encrypt")]
    Unencrypted,
}

/// What `crypto_provide` says, when a connection is encrypted at all.
pub(super) fn provides(encryption: Encryption) -> u32 {
    match encryption {
        Encryption::Allow => Method::Plaintext as u32 | Method::Rc4 as u32,
        Encryption::Prefer | Encryption::Require => Method::Rc4 as u32,
    }
}

/// Which of the methods that a peer provides is taken. Where encryption is only allowed the peer is helped past whoever
/// looks at handshakes, and nobody pays for more.
fn select(encryption: Encryption, provided: u32) -> Option<Method> {
    let order: &[Method] = match encryption {
        Encryption::Allow => &[Method::Plaintext, Method::Rc4],
        Encryption::Prefer => &[Method::Rc4, Method::Plaintext],
        Encryption::Require => &[Method::Rc4],
    };
    order.iter().copied().find(|method| provided & *method as u32 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_chosen_by_policy() {
        use Encryption::{Allow, Prefer, Require};
        let table = [
            (Allow, 3, Some(Method::Plaintext)),
            (Allow, 2, Some(Method::Rc4)),
            (Prefer, 3, Some(Method::Rc4)),
            (Prefer, 1, Some(Method::Plaintext)),
            (Require, 3, Some(Method::Rc4)),
            (Require, 1, None),
            (Allow, 0, None),
            (Allow, 0xffff_fffc, None),
        ];
        for (policy, provided, expected) in table {
            assert_eq!(select(policy, provided), expected, "{policy:?} {provided}");
        }
    }
}
