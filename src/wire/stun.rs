//! What is read from STUN (RFC 8489): which connection a binding request is for, and whether it is one that asks for
//! nothing but the sender's own address, as pages ask a STUN server.

use std::net::{IpAddr, SocketAddr};

/// RFC 8489 §5: "The magic cookie field MUST contain the fixed value 0x2112A442".
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const HEADER_LENGTH: usize = 20;
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const USERNAME: u16 = 0x0006;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RFC 8489 §14: attributes from here on need not be understood.
const OPTIONAL: u16 = 0x8000;

/// The username fragment of ours that a STUN binding request names; `None` for everything else.
///
/// RFC 8445 §7.2.2: the USERNAME is formed "by concatenating the username fragment provided by the peer with the
/// username fragment of the ICE agent sending the request, separated by a colon", so what we issued comes first.
#[must_use]
pub fn local_ufrag(datagram: &[u8]) -> Option<&str> {
    let (_, mut attributes) = binding_request(datagram)?;
    while let Some((head, rest)) = attributes.split_at_checked(4) {
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if kind == USERNAME {
            return std::str::from_utf8(rest.get(..length)?).ok()?.split_once(':').map(|(ours, _)| ours);
        }
        // RFC 8489 §14: values are padded to a multiple of four bytes.
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// The answer to a request for the sender's own address; `None` for everything else. Checks of ICE agents, which have a
/// username, are no such requests, nor are those with attributes that would have to be understood (RFC 8489 §6.3.1).
#[must_use]
pub fn answer(datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let (header, mut attributes) = binding_request(datagram)?;
    while !attributes.is_empty() {
        let (head, rest) = attributes.split_at_checked(4)?;
        if u16::from_be_bytes([head[0], head[1]]) < OPTIONAL {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    // RFC 8489 §14.2: the address, XORed with the cookie and, for IPv6, the transaction id: what follows the length.
    let mask = &header[4..];
    let xored = |bytes: &[u8]| bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect::<Vec<u8>>();
    let (family, address) = match from.ip() {
        IpAddr::V4(ip) => (1, xored(&ip.octets())),
        IpAddr::V6(ip) => (2, xored(&ip.octets())),
    };
    let value = [&[0, family], &xored(&from.port().to_be_bytes())[..], &address].concat();
    let length = |bytes: usize| u16::try_from(bytes).expect("an address is short").to_be_bytes();
    let attribute = [&XOR_MAPPED_ADDRESS.to_be_bytes()[..], &length(value.len()), &value].concat();
    Some([&BINDING_SUCCESS[..], &length(attribute.len()), mask, &attribute].concat())
}

/// The header and the attributes of a binding request.
fn binding_request(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, attributes) = datagram.split_at_checked(HEADER_LENGTH)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_one = header[..2] == BINDING_REQUEST && header[4..8] == MAGIC_COOKIE && length == attributes.len();
    is_one.then_some((header, attributes))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A binding request with the given attributes, padded as the standard asks.
    pub(crate) fn binding_request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut datagram = Vec::from(BINDING_REQUEST);
        datagram.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        datagram.extend(MAGIC_COOKIE);
        datagram.extend([7; 12]);
        datagram.extend(body);
        datagram
    }

    /// RFC 5769 §2.1, the sample request: software, priority, ICE-CONTROLLED, USERNAME "evtj:h6vY", integrity, fingerprint.
    const SAMPLE_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae80220010\
        5354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36\
        000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";

    /// RFC 5769 §2.2, the sample response to it: it has no USERNAME.
    const SAMPLE_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b\
        7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";

    fn bytes(hex: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
    }

    #[test]
    fn names_the_connection_only_of_binding_requests() {
        let long = "u".repeat(256) + ":r";
        for (what, datagram, expected) in [
            ("sample request", bytes(SAMPLE_REQUEST), Some("evtj")),
            ("sample response", bytes(SAMPLE_RESPONSE), None),
            ("bare", binding_request(&[(USERNAME, b"ours:theirs")]), Some("ours")),
            ("after a padded attribute", binding_request(&[(0x8022, b"x"), (USERNAME, b"a:b")]), Some("a")),
            ("first one counts", binding_request(&[(USERNAME, b"a:b"), (USERNAME, b"c:d")]), Some("a")),
            ("longest fragment", binding_request(&[(USERNAME, long.as_bytes())]), Some(&long[..256])),
            ("no username", binding_request(&[(0x0024, &[0; 4])]), None),
            ("no colon", binding_request(&[(USERNAME, b"ours")]), None),
            ("not text", binding_request(&[(USERNAME, b"\xff\xfe:a")]), None),
            ("empty", Vec::new(), None),
            ("DTLS", [&[22, 254, 253][..], &[0; 40]].concat(), None),
        ] {
            assert_eq!(local_ufrag(&datagram), expected, "{what}");
        }
    }

    #[test]
    fn lengths_that_do_not_add_up_are_not_stun() {
        let whole = binding_request(&[(USERNAME, b"ours:theirs")]);
        for end in 0..whole.len() {
            assert_eq!(local_ufrag(&whole[..end]), None, "cut at {end}");
        }
        assert_eq!(local_ufrag(&[&whole[..], &[0; 4]].concat()), None, "extended");
        let mut overrun = whole.clone();
        overrun[HEADER_LENGTH + 3] = 200;
        assert_eq!(local_ufrag(&overrun), None, "an attribute longer than the message");
    }

    #[test]
    fn senders_are_told_their_own_address() {
        // RFC 5769 §2.2 and §2.3, for the transaction of their sample request: 192.0.2.1 and 2001:db8:…, port 32853.
        let transaction = &bytes(SAMPLE_REQUEST)[8..20];
        let mut bare = binding_request(&[]);
        bare[8..20].copy_from_slice(transaction);
        for (from, expected) in [
            ("192.0.2.1:32853", "002000080001a147e112a643"),
            ("[2001:db8:1234:5678:11:2233:4455:6677]:32853", "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"),
        ] {
            let answer = answer(&bare, from.parse().unwrap()).unwrap();
            assert_eq!((&answer[..2], &answer[4..8], &answer[8..20]), (&[1, 1][..], &MAGIC_COOKIE[..], transaction));
            assert_eq!(usize::from(answer[3]), answer.len() - 20);
            assert_eq!(data_encoding::HEXLOWER.encode(&answer[20..]), expected);
        }
    }

    #[test]
    fn only_plain_requests_are_answered() {
        let from = "192.0.2.1:7".parse().unwrap();
        for (what, datagram, answered) in [
            ("bare", binding_request(&[]), true),
            ("with a name of its software", binding_request(&[(0x8022, b"odd")]), true),
            ("an agent's check", bytes(SAMPLE_REQUEST), false),
            ("a response", bytes(SAMPLE_RESPONSE), false),
            ("something it insists on", binding_request(&[(0x0003, &[0; 4])]), false),
            ("cut", binding_request(&[(0x8022, b"four")])[..26].to_vec(), false),
        ] {
            assert_eq!(answer(&datagram, from).is_some(), answered, "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(datagram in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = local_ufrag(&datagram);
            let _ = answer(&datagram, SocketAddr::from(([192, 0, 2, 1], 7)));
        }

        #[test]
        fn any_attributes_are_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..200), flip in 0usize..20) {
            let mut datagram = binding_request(&[]);
            datagram[2..4].copy_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
            datagram.extend(body);
            let _ = local_ufrag(&datagram);
            let _ = answer(&datagram, SocketAddr::from(([192, 0, 2, 1], 7)));
            datagram[flip] ^= 1;
            let _ = local_ufrag(&datagram);
        }
    }
}
