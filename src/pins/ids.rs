//! Names and moments that the pins room hands out and writes down.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{Rng, RngExt};

use crate::wire::hex;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// A new one.
            pub fn random(rng: &mut impl Rng) -> Self {
                Self(rng.random())
            }

            /// Reads hexadecimal; `None` for anything else.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                hex::decode_array(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

random_id!(
    /// A pin, for ever: ids are not used again.
    PinId, 16
);
random_id!(
    /// A token, and so whoever holds it: the public part of what is handed out.
    TokenId, 8
);

/// Who owns a pin, or asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// Whoever reaches the admin listener. Sees everything, has no quota.
    Operator,
    /// Whoever holds this token. Sees what it made.
    Token(TokenId),
}

/// A moment in whole seconds since 1970 (UTC), as it is kept on disk. Written and read as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unix(pub i64);

/// What is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as 2026-01-31T12:00:00Z")]
pub struct NotATime;

impl Unix {
    /// The wall clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// So much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }

    /// From `earlier` to this; nothing when that is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The year 9999, past which RFC 3339 does not go.
const LAST: i64 = 253_402_300_799;

impl fmt::Display for Unix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = u64::try_from(self.0.clamp(0, LAST)).unwrap_or(0);
        write!(f, "{}", humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)))
    }
}

impl FromStr for Unix {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let time = humantime::parse_rfc3339(text).map_err(|_| NotATime)?;
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| NotATime)?;
        Ok(Self(i64::try_from(since.as_secs()).map_err(|_| NotATime)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read() {
        let table =
            [(0, "1970-01-01T00:00:00Z"), (1_769_860_800, "2026-01-31T12:00:00Z"), (LAST, "9999-12-31T23:59:59Z")];
        for (seconds, text) in table {
            assert_eq!(Unix(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Unix(seconds)));
        }
        for text in ["", "tomorrow", "2026-01-31", "1969-12-31T23:59:59Z", "2026-13-01T00:00:00Z"] {
            assert_eq!(text.parse::<Unix>(), Err(NotATime), "{text}");
        }
        assert_eq!(Unix(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Unix(10).since(Unix(20)), Duration::ZERO);
    }
}
