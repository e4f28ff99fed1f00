//! permessage-deflate (RFC 7692), the server's side: what is agreed in the handshake, and the two ways of a message.
//!
//! Every message is compressed by itself (`no_context_takeover`, both ways), so what it takes, a window and a hash table,
//! belongs to whoever works, not to every connection. The price is small here: a message has its repetitions within.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{DEFLATED, Opcode, Violation, head};

/// Shortest payload that is compressed, in bytes. Below it are replies to announces, of which a tenth could be saved.
const WORTH_COMPRESSING: usize = 1024;

/// §7.2.1: what every compressed message would end with.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// What is agreed, to be said in |Sec-WebSocket-Extensions|.
pub const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Whether one of the offers in a client's |Sec-WebSocket-Extensions| can be agreed to, which is answered with
/// [`AGREED`].
#[must_use]
pub fn accepts(offers: &str) -> bool {
    offers.split(',').any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate")) && acceptable(parts)
    })
}

/// §7.1: "A server MUST decline an extension negotiation offer for this extension if" a parameter is unknown, has an
/// invalid value, or is there twice. Whoever wants a say in the size of our window (§7.1.2.1) is declined, too: it would
/// have to be made for that one client.
fn acceptable<'a>(parameters: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = Vec::new();
    for parameter in parameters {
        let (name, value) = parameter
            .split_once('=')
            .map_or((parameter, None), |(name, value)| (name.trim(), Some(value.trim().trim_matches('"'))));
        let bits = || value.is_some_and(|bits| matches!(bits, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15"));
        let known = match name {
            "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
            "client_max_window_bits" => value.is_none() || bits(),
            _ => false,
        };
        if !known || seen.contains(&name) {
            return false;
        }
        seen.push(name);
    }
    true
}

/// Takes messages apart.
#[derive(Debug)]
pub struct Inflater {
    state: Decompress,
    message: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { state: Decompress::new(false), message: Vec::new() }
    }
}

impl Inflater {
    /// The message (§7.2.2) that a payload stands for.
    ///
    /// # Errors
    /// The payload is not what it should be, or the message has more than `max` bytes: no more are made of it.
    pub fn message(&mut self, payload: &[u8], max: usize) -> Result<&[u8], Violation> {
        self.state.reset(false);
        self.message.clear();
        self.add(payload, max)?;
        self.add(&TAIL, max)?;
        Ok(&self.message)
    }

    /// What a large message took need not be kept for the small ones after it.
    pub fn shrink(&mut self) {
        self.message.clear();
        self.message.shrink_to(32 * 1024);
    }

    fn add(&mut self, mut input: &[u8], max: usize) -> Result<(), Violation> {
        loop {
            // One byte more than it may have shows that it has too many.
            let room = (max + 1 - self.message.len()).min(self.message.len().max(4 * input.len()).max(64));
            self.message.reserve(room);
            let (before_in, before_out) = (self.state.total_in(), self.message.len());
            let status = self.state.decompress_vec(input, &mut self.message, FlushDecompress::Sync);
            let taken = (self.state.total_in() - before_in) as usize;
            input = &input[taken..];
            if self.message.len() > max {
                return Err(Violation::TooLarge);
            }
            match status.map_err(|_| Violation::Framing("a message that does not inflate"))? {
                // §7.2.3.3: a last block that says so; another may follow it.
                Status::StreamEnd => self.state.reset(false),
                _ if input.is_empty() && self.message.len() < self.message.capacity() => return Ok(()),
                _ if taken == 0 && self.message.len() == before_out && !input.is_empty() => {
                    return Err(Violation::Framing("a message that does not inflate"));
                }
                _ => {}
            }
            if input.is_empty() && self.message.len() < self.message.capacity() {
                return Ok(());
            }
        }
    }
}

/// Puts messages together.
#[derive(Debug)]
pub struct Deflater {
    state: Compress,
}

impl Default for Deflater {
    fn default() -> Self {
        // The fastest: the best level saves a tenth more and takes ten times as long.
        Self { state: Compress::new(Compression::fast(), false) }
    }
}

impl Deflater {
    /// Compresses a frame made by [`super::text`], if it is worth it.
    pub fn compress(&mut self, frame: &mut Vec<u8>) {
        let head_length = match frame.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => return,
        };
        let payload = &frame[head_length..];
        if frame[0] & 0x0f != Opcode::Text.nibble() || payload.len() < WORTH_COMPRESSING {
            return;
        }
        self.state.reset();
        // What does not fit is not worth it.
        let mut deflated = Vec::with_capacity(payload.len());
        let done = self.state.compress_vec(payload, &mut deflated, FlushCompress::Sync);
        let whole = done.is_ok() && self.state.total_in() == payload.len() as u64 && deflated.ends_with(&TAIL);
        if !whole || deflated.len() == deflated.capacity() {
            return;
        }
        deflated.truncate(deflated.len() - TAIL.len());
        let (mut head, length) = head(Opcode::Text, deflated.len());
        head[0] |= DEFLATED;
        frame.clear();
        frame.extend_from_slice(&head[..length]);
        frame.extend_from_slice(&deflated);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decoder, Received, text};
    use super::*;

    const LIMIT: usize = 1 << 20;

    #[test]
    fn what_is_agreed_to() {
        let table = [
            ("permessage-deflate", true),
            // Chromium and Firefox.
            ("permessage-deflate; client_max_window_bits", true),
            ("permessage-deflate; client_max_window_bits=10; server_no_context_takeover", true),
            ("Permessage-Deflate;client_no_context_takeover ; client_max_window_bits=\"15\"", true),
            // The first that will do.
            ("x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=10, permessage-deflate", true),
            ("permessage-deflate; server_max_window_bits=10", false),
            ("permessage-deflate; server_max_window_bits=15", false),
            ("permessage-deflate; server_max_window_bits", false),
            ("permessage-deflate; client_max_window_bits=7", false),
            ("permessage-deflate; client_max_window_bits=08", false),
            ("permessage-deflate; server_no_context_takeover=1", false),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits", false),
            ("permessage-deflate; level=9", false),
            ("permessage-deflate;", false),
            ("permessage-bzip2", false),
            ("", false),
        ];
        for (offers, agreed) in table {
            assert_eq!(accepts(offers), agreed, "{offers}");
        }
    }

    /// A client's message, compressed at this level.
    fn deflated(message: &[u8], level: u32, flush: FlushCompress) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * message.len() + 100);
        Compress::new(Compression::new(level), false).compress_vec(message, &mut out, flush).unwrap();
        out.strip_suffix(&TAIL).map(<[u8]>::to_vec).unwrap_or(out)
    }

    #[test]
    fn what_clients_send() {
        let mut inflater = Inflater::default();
        // RFC 7692 §7.2.3.1 to §7.2.3.4: a block, one without compression, one that says it is the last, an empty one.
        let examples: [&[u8]; 3] = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        ];
        for example in examples {
            assert_eq!(inflater.message(example, LIMIT), Ok(&b"Hello"[..]), "{example:x?}");
        }
        assert_eq!(inflater.message(&[0x00], LIMIT), Ok(&b""[..]));
        // §7.2.3.5: two blocks.
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflater.message(&two, LIMIT), Ok(&b"Hello"[..]));

        // Autobahn 12 and 13: sizes, levels, many on one connection.
        for size in [0, 1, 64, 1023, 4096, 65_536, 131_072, LIMIT] {
            let message: Vec<u8> = (0..size).map(|n| (n * n / 7 % 251) as u8).collect();
            for (level, flush) in
                [0, 1, 6, 9].into_iter().flat_map(|l| [(l, FlushCompress::Sync), (l, FlushCompress::Finish)])
            {
                let payload = deflated(&message, level, flush);
                assert!(inflater.message(&payload, LIMIT) == Ok(&message), "{size} at {level}");
            }
        }
        inflater.shrink();
        assert!(inflater.message.capacity() <= 32 * 1024, "a large message leaves nothing");
    }

    #[test]
    fn what_is_refused() {
        let mut inflater = Inflater::default();
        for bomb in [vec![0; LIMIT + 1], vec![b'x'; 64 * LIMIT]] {
            let payload = deflated(&bomb, 9, FlushCompress::Sync);
            assert_eq!(inflater.message(&payload, LIMIT), Err(Violation::TooLarge));
            assert!(inflater.message.capacity() <= 4 * LIMIT, "{} are held", inflater.message.capacity());
        }
        for nonsense in [&[0xff; 10][..], &[0x07], &[0x00, 0x05, 0x00, 0x00, 0x00]] {
            assert!(inflater.message(nonsense, LIMIT).is_err(), "{nonsense:x?}");
        }
        assert_eq!(inflater.message(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 5), Ok(&b"Hello"[..]));
        assert_eq!(inflater.message(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 4), Err(Violation::TooLarge));
    }

    /// A frame of a client, with a mask of zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn the_bit_that_says_so() {
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let whole = frame(0xc1, &hello);
        // §7.2.3.1, "fragmented"; a ping may come in between.
        let pieces = [frame(0x41, &hello[..3]), frame(0x89, b"p"), frame(0x80, &hello[3..])].concat();
        for (bytes, pings) in [(whole.clone(), 0), (pieces, 1)] {
            let (mut decoder, mut bytes) = (Decoder::new(LIMIT, true), bytes);
            let (mut input, mut seen) = (bytes.as_mut_slice(), 0);
            loop {
                match decoder.next(&mut input).unwrap() {
                    Some(Received::Ping(b"p")) => seen += 1,
                    Some(Received::Deflated { payload, text: true }) => break assert_eq!(payload, hello),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(seen, pings);
        }
        let plain = frame(0x81, b"Hello");
        let mut decoder = Decoder::new(LIMIT, true);
        assert_eq!(
            decoder.next(&mut plain.clone().as_mut_slice()),
            Ok(Some(Received::Text("Hello"))),
            "it need not be"
        );

        // Where nothing was agreed on; on a control frame; on a frame that is not the first; with another bit.
        let continued = [frame(0x41, &hello[..3]), frame(0xc0, &hello[3..])].concat();
        for (bytes, agreed) in [(whole, false), (frame(0xc9, b""), true), (continued, true), (frame(0xe1, b""), true)] {
            let (mut decoder, mut bytes) = (Decoder::new(LIMIT, agreed), bytes);
            let refused = decoder.next(&mut bytes.as_mut_slice());
            assert!(matches!(refused, Err(Violation::Framing(_))), "{refused:?}");
        }
    }

    #[test]
    fn what_is_worth_it_is_compressed() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let noise: String =
            (0..3000u64).map(|n| char::from((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as u8)).collect();
        let table = [
            ("a=candidate:1 udp ".repeat(100), true),
            ("a=candidate ".repeat(10_000), true),
            (noise, true),
            ("x".repeat(1023), false),
        ];
        for (message, worth_it) in table {
            let plain = text(&message);
            let mut frame = plain.clone();
            deflater.compress(&mut frame);
            assert_eq!(frame[0] & DEFLATED != 0, worth_it, "{}", &message[..20]);
            if !worth_it {
                assert_eq!(frame, plain);
                continue;
            }
            assert!(frame.len() < plain.len());
            let head = if frame[1] == 126 { 4 } else { 2 };
            assert_eq!(inflater.message(&frame[head..], LIMIT), Ok(message.as_bytes()));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(payload: Vec<u8>, limit in 0_usize..1000) {
            if let Ok(message) = Inflater::default().message(&payload, limit) {
                prop_assert!(message.len() <= limit);
            }
        }
    }
}
