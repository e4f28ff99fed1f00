//! Addresses to listen on: one, or one of each family.

use std::fmt;
use std::net::{AddrParseError, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// At least one address, and at most one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Listen {
    v4: Option<SocketAddr>,
    v6: Option<SocketAddr>,
}

/// As it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "an address, such as \"0.0.0.0:6882\", or a list of two, one of each family")]
enum Written {
    One(SocketAddr),
    Several(Vec<SocketAddr>),
}

/// What is no such thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one address is needed, or two, one of each family")]
pub struct NotOneOfEach;

impl Listen {
    /// The addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        [self.v4, self.v6].into_iter().flatten()
    }

    /// The same addresses with this port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        let change = |addr: SocketAddr| SocketAddr::new(addr.ip(), port);
        Self { v4: self.v4.map(change), v6: self.v6.map(change) }
    }
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self { v4: Some(addr), v6: None } } else { Self { v4: None, v6: Some(addr) } }
    }
}

impl TryFrom<Vec<SocketAddr>> for Listen {
    type Error = NotOneOfEach;

    fn try_from(addresses: Vec<SocketAddr>) -> Result<Self, NotOneOfEach> {
        let mut listen = Self { v4: None, v6: None };
        for addr in &addresses {
            let place = if addr.is_ipv4() { &mut listen.v4 } else { &mut listen.v6 };
            if place.replace(*addr).is_some() {
                return Err(NotOneOfEach);
            }
        }
        if addresses.is_empty() { Err(NotOneOfEach) } else { Ok(listen) }
    }
}

impl TryFrom<Written> for Listen {
    type Error = NotOneOfEach;

    fn try_from(written: Written) -> Result<Self, NotOneOfEach> {
        match written {
            Written::One(addr) => Ok(addr.into()),
            Written::Several(addresses) => addresses.try_into(),
        }
    }
}

impl From<Listen> for Written {
    fn from(listen: Listen) -> Self {
        match (listen.v4, listen.v6) {
            (Some(addr), None) | (None, Some(addr)) => Self::One(addr),
            _ => Self::Several(listen.addresses().collect()),
        }
    }
}

impl FromStr for Listen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse::<SocketAddr>().map(Self::from)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses().map(|addr| addr.to_string()).collect();
        f.write_str(&addresses.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_or_one_of_each_family() {
        let table = [
            (r#""127.0.0.1:1""#, Some("127.0.0.1:1")),
            (r#""[::1]:1""#, Some("[::1]:1")),
            (r#"["127.0.0.1:1"]"#, Some("127.0.0.1:1")),
            (r#"["[::]:2", "0.0.0.0:1"]"#, Some("0.0.0.0:1 and [::]:2")),
            ("[]", None),
            (r#"["127.0.0.1:1", "127.0.0.1:2"]"#, None),
            (r#""nowhere""#, None),
            ("5", None),
        ];
        for (written, expected) in table {
            let read: Result<Listen, _> = serde_json::from_str(written);
            assert_eq!(read.as_ref().ok().map(Listen::to_string).as_deref(), expected, "{written}");
            if let Ok(listen) = read {
                let again = serde_json::to_string(&listen).unwrap();
                assert_eq!(serde_json::from_str::<Listen>(&again).unwrap(), listen, "{again}");
            }
        }
    }
}
