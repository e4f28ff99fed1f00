//! Session descriptions (RFC 8866), as far as one data channel needs them (RFC 8841). Pure.
//!
//! Descriptions come from strangers, through a tracker that anyone may use. They are parsed into [`Description`], which
//! holds only what a data channel needs, each part checked; what reaches the WebRTC stack is always written anew from
//! that, never a stranger's text.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Longest description read. Browsers' descriptions of one data channel are 0.5 to 3 KB.
pub(super) const MAX_LENGTH: usize = 16 * 1024;

/// Most candidates kept of one description.
pub(super) const MAX_CANDIDATES: usize = 16;

/// RFC 8841 §6.1: "If the SDP 'max-message-size' attribute is not present, the default value is 64K."
const DEFAULT_MAX_MESSAGE_SIZE: u32 = 64 * 1024;

/// Smallest message size that is accepted: sending a torrent in crumbs would cost more than the peer is worth.
const MIN_MAX_MESSAGE_SIZE: u32 = 1024;

/// What browsers say that they take. Any length would do: messages are passed on as they arrive, not as a whole.
const OUR_MAX_MESSAGE_SIZE: u32 = 256 * 1024;

/// RFC 8841 §5.2 leaves the port free; everyone uses this one.
const DEFAULT_SCTP_PORT: u16 = 5000;

/// Why a text is not a description of a data channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// Longer than any browser's.
    #[error("the session description is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Not exactly one media section, or not one for data channels.
    #[error("the session description is not that of one data channel")]
    NotDataOnly,
    /// A part that must be there is not.
    #[error("the session description has no {0}")]
    Missing(&'static str),
    /// A part is not what the standard allows.
    #[error("the session description's {0} is malformed")]
    Malformed(&'static str),
}

/// Who opens the DTLS handshake (RFC 4145 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    /// Either may; only in offers.
    ActPass,
    /// The one described here does.
    Active,
    /// The other one does.
    Passive,
}

/// One side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    ufrag: String,
    password: String,
    /// Hash function and hash of its certificate, as written.
    fingerprint: String,
    setup: Setup,
    mid: String,
    sctp_port: u16,
    max_message_size: u32,
    /// Where it says it can be reached: UDP addresses in numbers, the preferred one first. Names (`….local`) are left out.
    pub(super) candidates: Vec<SocketAddr>,
}

impl Description {
    /// Reads an offer.
    ///
    /// RFC 8842 §5.2: "the offerer MUST insert … setup attribute with an 'actpass' attribute value"; one who insists on a
    /// part is taken if it is the one we leave it.
    pub(super) fn parse_offer(text: &str) -> Result<Self, DescriptionError> {
        Self::parse(text).and_then(|offer| {
            if offer.setup == Setup::Passive { Err(DescriptionError::Malformed("setup")) } else { Ok(offer) }
        })
    }

    /// Reads an answer, which must have chosen a part (RFC 8842 §5.3).
    pub(super) fn parse_answer(text: &str) -> Result<Self, DescriptionError> {
        Self::parse(text).and_then(|answer| {
            if answer.setup == Setup::ActPass { Err(DescriptionError::Malformed("setup")) } else { Ok(answer) }
        })
    }

    /// Reads a description. Attributes that a data channel does not need are ignored.
    fn parse(text: &str) -> Result<Self, DescriptionError> {
        if text.len() > MAX_LENGTH {
            return Err(DescriptionError::TooLong);
        }
        let mut lines = text.lines().map(str::trim_end);
        if lines.next() != Some("v=0") {
            return Err(DescriptionError::Malformed("version"));
        }
        let mut sections = 0;
        let mut attributes = Attributes::default();
        for line in lines {
            match line.split_once('=') {
                Some(("m", media)) if is_data_channel(media) => sections += 1,
                Some(("m", _)) => return Err(DescriptionError::NotDataOnly),
                // What the media section says comes later in the text, and overrides what the session level says.
                Some(("a", attribute)) => attributes.read(attribute)?,
                _ => {}
            }
        }
        if sections != 1 {
            return Err(DescriptionError::NotDataOnly);
        }
        attributes.finish()
    }

    /// This side's part: the one that offers leaves it to the other who begins, and the one that answers `offer` does too.
    pub(super) fn ours(ufrag: &str, password: &str, fingerprint: &str, offer: Option<&Self>) -> Self {
        Self {
            ufrag: ufrag.to_owned(),
            password: password.to_owned(),
            fingerprint: fingerprint.to_owned(),
            setup: if offer.is_some() { Setup::Passive } else { Setup::ActPass },
            mid: offer.map_or_else(|| "0".to_owned(), |offer| offer.mid.clone()),
            sctp_port: DEFAULT_SCTP_PORT,
            max_message_size: OUR_MAX_MESSAGE_SIZE,
            candidates: Vec::new(),
        }
    }

    pub(super) fn credentials(&self) -> (&str, &str) {
        (&self.ufrag, &self.password)
    }

    /// Hash function and hash of the certificate.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn setup(&self) -> Setup {
        self.setup
    }

    pub(super) fn sctp_port(&self) -> u16 {
        self.sctp_port
    }

    /// The largest message this side takes.
    pub(super) fn max_message_size(&self) -> usize {
        self.max_message_size as usize
    }
}

fn is_data_channel(media: &str) -> bool {
    let mut words = media.split(' ');
    words.next() == Some("application")
        && words.nth(1).is_some_and(|protocol| matches!(protocol, "UDP/DTLS/SCTP" | "DTLS/SCTP" | "TCP/DTLS/SCTP"))
        && words.eq(["webrtc-datachannel"])
}

#[derive(Default)]
struct Attributes<'a> {
    ufrag: Option<&'a str>,
    password: Option<&'a str>,
    fingerprint: Option<&'a str>,
    setup: Option<Setup>,
    mid: Option<&'a str>,
    sctp_port: Option<u16>,
    max_message_size: Option<u32>,
    candidates: Vec<(u32, SocketAddr)>,
}

impl<'a> Attributes<'a> {
    fn read(&mut self, attribute: &'a str) -> Result<(), DescriptionError> {
        use DescriptionError::Malformed;
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        match name {
            // RFC 8839 §5.4: 4 to 256 ice-chars, and 22 to 256 for the password.
            "ice-ufrag" => self.ufrag = Some(ice_chars(value, 4).ok_or(Malformed("ice-ufrag"))?),
            "ice-pwd" => self.password = Some(ice_chars(value, 22).ok_or(Malformed("ice-pwd"))?),
            "fingerprint" => self.fingerprint = Some(fingerprint(value).ok_or(Malformed("fingerprint"))?),
            "setup" => self.setup = Some(value.parse()?),
            "mid" => self.mid = Some(token(value).ok_or(Malformed("mid"))?),
            "sctp-port" => self.sctp_port = Some(value.parse().map_err(|_| Malformed("sctp-port"))?),
            "max-message-size" => {
                self.max_message_size = Some(message_size(value).ok_or(Malformed("max-message-size"))?)
            }
            "candidate" if self.candidates.len() < MAX_CANDIDATES => self.candidates.extend(candidate(value)),
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Description, DescriptionError> {
        use DescriptionError::Missing;
        self.candidates.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        Ok(Description {
            ufrag: self.ufrag.ok_or(Missing("ice-ufrag"))?.into(),
            password: self.password.ok_or(Missing("ice-pwd"))?.into(),
            fingerprint: self.fingerprint.ok_or(Missing("fingerprint"))?.into(),
            setup: self.setup.ok_or(Missing("setup"))?,
            mid: self.mid.ok_or(Missing("mid"))?.into(),
            sctp_port: self.sctp_port.unwrap_or(DEFAULT_SCTP_PORT),
            max_message_size: self.max_message_size.unwrap_or(DEFAULT_MAX_MESSAGE_SIZE),
            candidates: self.candidates.into_iter().map(|(_, address)| address).collect(),
        })
    }
}

impl FromStr for Setup {
    type Err = DescriptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "actpass" => Ok(Self::ActPass),
            "active" => Ok(Self::Active),
            "passive" => Ok(Self::Passive),
            _ => Err(DescriptionError::Malformed("setup")),
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ActPass => "actpass",
            Self::Active => "active",
            Self::Passive => "passive",
        })
    }
}

fn ice_chars(text: &str, at_least: usize) -> Option<&str> {
    let valid = text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'+' || c == b'/');
    (valid && (at_least..=256).contains(&text.len())).then_some(text)
}

/// RFC 8122 §5: a hash function and upper-case hexadecimal pairs joined by colons.
fn fingerprint(text: &str) -> Option<&str> {
    let (function, hash) = text.split_once(' ')?;
    let length = match function.to_ascii_lowercase().as_str() {
        "sha-256" => 32,
        "sha-384" => 48,
        "sha-512" => 64,
        _ => return None,
    };
    let pairs = hash.split(':').all(|pair| pair.len() == 2 && pair.bytes().all(|c| c.is_ascii_hexdigit()));
    (pairs && hash.len() == 3 * length - 1).then_some(text)
}

/// RFC 8866 §9 `token`, without the characters nobody uses.
fn token(text: &str) -> Option<&str> {
    let valid = text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.+{}".contains(&c));
    (valid && (1..=64).contains(&text.len())).then_some(text)
}

/// RFC 8841 §6.1: zero means "any size".
fn message_size(text: &str) -> Option<u32> {
    match text.parse::<u64>().ok()? {
        0 => Some(u32::MAX),
        size => u32::try_from(size).or(Ok::<_, ()>(u32::MAX)).ok().filter(|size| *size >= MIN_MAX_MESSAGE_SIZE),
    }
}

/// RFC 8839 §5.1: `foundation component transport priority address port typ type …`.
fn candidate(text: &str) -> Option<(u32, SocketAddr)> {
    let mut words = text.split(' ').skip(1);
    let (component, transport, priority) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    let (address, port) = (words.next()?.parse::<IpAddr>().ok()?, words.next()?.parse().ok()?);
    (component == "1" && transport.eq_ignore_ascii_case("udp") && port != 0)
        .then(|| (priority, SocketAddr::new(address.to_canonical(), port)))
}

/// RFC 8445 §5.1.2.1, for host candidates of the only component: those listed first are preferred.
fn priority(index: usize) -> u32 {
    const TYPE_PREFERENCE: u32 = 126;
    let local_preference = u32::from(u16::MAX).saturating_sub(u32::try_from(index).unwrap_or(u32::MAX));
    (TYPE_PREFERENCE << 24) + (local_preference << 8) + 255
}

/// All candidates are written as host candidates, and as complete: signalling here is not trickled.
impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ufrag, password, fingerprint, setup, mid, sctp_port, max_message_size, candidates } = self;
        write!(
            f,
            "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {mid}\r\n\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n"
        )?;
        for (index, address) in candidates.iter().enumerate() {
            let (priority, ip, port) = (priority(index), address.ip(), address.port());
            write!(f, "a=candidate:{} 1 udp {priority} {ip} {port} typ host\r\n", index + 1)?;
        }
        write!(
            f,
            "a=end-of-candidates\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\na=fingerprint:{fingerprint}\r\n\
             a=setup:{setup}\r\na=mid:{mid}\r\na=sctp-port:{sctp_port}\r\na=max-message-size:{max_message_size}\r\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What simple-peer in Chromium sends without trickling, candidates and all.
    pub(super) const CHROMIUM: &str = "v=0\r\no=- 2890844526 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
        a=extmap-allow-mixed\r\na=msid-semantic: WMS\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
        c=IN IP4 0.0.0.0\r\n\
        a=candidate:1 1 udp 2113937151 7d3a2b0e-0e5c-4a4f-9f2b-5f5d7c0f3f11.local 45678 typ host generation 0 network-cost 999\r\n\
        a=candidate:2 1 udp 1677729535 203.0.113.9 45678 typ srflx raddr 0.0.0.0 rport 0 generation 0\r\n\
        a=candidate:3 1 udp 2113939711 2001:db8::9 45679 typ host generation 0\r\n\
        a=candidate:4 1 tcp 1518280447 203.0.113.9 9 typ host tcptype active\r\n\
        a=ice-ufrag:Qx4+\r\na=ice-pwd:5pTnVbHf0k/8mZcLw2sXyA7e\r\n\
        a=fingerprint:sha-256 4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB:4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF\r\n\
        a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";

    fn without(line: &str) -> String {
        CHROMIUM.split_inclusive("\r\n").filter(|l| !l.starts_with(line)).collect()
    }

    fn with(line: &str, replacement: &str) -> String {
        without(line) + replacement + "\r\n"
    }

    #[test]
    fn a_browsers_offer_is_read() {
        let read = Description::parse(CHROMIUM).unwrap();
        assert_eq!((read.ufrag.as_str(), read.mid.as_str(), read.setup), ("Qx4+", "0", Setup::ActPass));
        assert_eq!((read.sctp_port, read.max_message_size()), (5000, 262_144));
        let expected: [SocketAddr; 2] = ["[2001:db8::9]:45679".parse().unwrap(), "203.0.113.9:45678".parse().unwrap()];
        assert_eq!(read.candidates, expected, "UDP in numbers only, by priority");
        assert_eq!(Description::parse(&CHROMIUM.replace("\r\n", "\n")).unwrap(), read, "bare newlines");
    }

    #[test]
    fn attributes_of_the_session_level_count_too() {
        let fingerprint = CHROMIUM.split("\r\n").find(|line| line.starts_with("a=fingerprint")).unwrap();
        let firefox = without("a=fingerprint").replace("a=group", &format!("{fingerprint}\r\na=group"));
        assert_eq!(Description::parse(&firefox), Description::parse(CHROMIUM));
    }

    #[test]
    fn the_rest_has_defaults() {
        let size = |text: &str| Description::parse(text).unwrap().max_message_size();
        assert_eq!(size(&without("a=max-message-size")), 65_536);
        assert_eq!(size(&with("a=max-message-size", "a=max-message-size:0")), u32::MAX as usize);
        assert_eq!(size(&with("a=max-message-size", "a=max-message-size:99999999999")), u32::MAX as usize);
        assert_eq!(Description::parse(&without("a=sctp-port")).unwrap().sctp_port, 5000);
    }

    #[test]
    fn what_is_not_a_data_channel_is_refused() {
        use DescriptionError::{Malformed, Missing, NotDataOnly, TooLong};
        let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111";
        for (text, expected) in [
            (String::new(), Malformed("version")),
            ("junk".into(), Malformed("version")),
            ("v=0\r\n".into(), NotDataOnly),
            (without("m="), NotDataOnly),
            (with("m=", audio), NotDataOnly),
            (format!("{CHROMIUM}{audio}\r\n"), NotDataOnly),
            (format!("{CHROMIUM}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"), NotDataOnly),
            (with("m=", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel more"), NotDataOnly),
            (without("a=ice-ufrag"), Missing("ice-ufrag")),
            (without("a=ice-pwd"), Missing("ice-pwd")),
            (without("a=fingerprint"), Missing("fingerprint")),
            (without("a=setup"), Missing("setup")),
            (without("a=mid"), Missing("mid")),
            (with("a=ice-ufrag", "a=ice-ufrag:abc"), Malformed("ice-ufrag")),
            (with("a=ice-ufrag", &format!("a=ice-ufrag:{}", "a".repeat(257))), Malformed("ice-ufrag")),
            (with("a=ice-pwd", "a=ice-pwd:has spaces in the middle of it"), Malformed("ice-pwd")),
            (with("a=fingerprint", "a=fingerprint:sha-256 AA:BB"), Malformed("fingerprint")),
            (with("a=fingerprint", "a=fingerprint:md5 AA:BB"), Malformed("fingerprint")),
            (with("a=setup", "a=setup:holdconn"), Malformed("setup")),
            (with("a=mid", "a=mid:"), Malformed("mid")),
            (with("a=sctp-port", "a=sctp-port:70000"), Malformed("sctp-port")),
            (with("a=max-message-size", "a=max-message-size:1"), Malformed("max-message-size")),
            (format!("{CHROMIUM}{}", "a=x\r\n".repeat(MAX_LENGTH)), TooLong),
        ] {
            assert_eq!(Description::parse(&text), Err(expected), "{}", &text[..text.len().min(2000)]);
        }
    }

    #[test]
    fn an_offer_leaves_the_choice_and_an_answer_makes_it() {
        let malformed = Some(DescriptionError::Malformed("setup"));
        for (setup, offer, answer) in
            [("actpass", None, malformed.clone()), ("active", None, None), ("passive", malformed.clone(), None)]
        {
            let text = with("a=setup", &format!("a=setup:{setup}"));
            assert_eq!(Description::parse_offer(&text).err(), offer, "{setup} in an offer");
            assert_eq!(Description::parse_answer(&text).err(), answer, "{setup} in an answer");
        }
    }

    #[test]
    fn candidates_are_bounded() {
        let many = (0..500).map(|i| format!("a=candidate:1 1 udp {i} 192.0.2.1 9 typ host\r\n"));
        let text = without("a=candidate") + &many.take(250).collect::<String>();
        assert_eq!(Description::parse(&text).unwrap().candidates.len(), MAX_CANDIDATES);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,400}") {
            let _ = Description::parse(&text);
        }

        #[test]
        fn a_damaged_offer_is_read_or_refused(at in 0..CHROMIUM.len(), with in "\\PC{0,3}", cut in any::<bool>()) {
            let mut text = String::from(&CHROMIUM[..at]) + &with;
            if !cut {
                text += &CHROMIUM[at..];
            }
            if let Ok(read) = Description::parse(&text) {
                prop_assert_eq!(Description::parse(&read.to_string()), Ok(read));
            }
        }

        /// What is written is read back the same, whatever the values: nothing of them can end a line early.
        #[test]
        fn written_and_read_back(
            ufrag in "[A-Za-z0-9+/]{4,256}", password in "[A-Za-z0-9+/]{22,256}", mid in "[A-Za-z0-9_.-]{1,64}",
            size in MIN_MAX_MESSAGE_SIZE..u32::MAX, sctp_port: u16,
            setup in prop::sample::select(vec![Setup::ActPass, Setup::Active, Setup::Passive]),
            candidates in prop::collection::vec((any::<IpAddr>(), 1u16..).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port)), 0..MAX_CANDIDATES),
        ) {
            let fingerprint = format!("sha-256 {}", ["0F"; 32].join(":"));
            let made = Description { ufrag, password, fingerprint, setup, mid, sctp_port, max_message_size: size, candidates };
            prop_assert_eq!(Description::parse(&made.to_string()), Ok(made));
        }
    }
}
