//! permessage-deflate (RFC 7692), each message by itself, as our server agrees to it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The header with which it is offered.
pub const OFFER: &str =
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";

/// The bit of a frame's first byte that says its message is compressed (§6).
pub const COMPRESSED: u8 = 0x40;

/// §7.2.1: what a message ends with before it is cut off, and again before it is inflated.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

pub struct Deflate {
    compress: Compress,
    decompress: Decompress,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Deflate {
    pub fn new() -> Self {
        let (compress, decompress) = (Compress::new(Compression::fast(), false), Decompress::new(false));
        Self { compress, decompress, input: Vec::new(), output: Vec::new() }
    }

    pub fn compress(&mut self, message: &[u8]) -> &[u8] {
        self.compress.reset();
        self.output.clear();
        self.output.reserve(message.len() + 64);
        self.compress.compress_vec(message, &mut self.output, FlushCompress::Sync).expect("it can be compressed");
        self.output.strip_suffix(&TAIL).expect("a message has this tail")
    }

    pub fn inflate(&mut self, message: &[u8], out: &mut Vec<u8>) {
        self.decompress.reset(false);
        self.input.clear();
        self.input.extend_from_slice(message);
        self.input.extend_from_slice(&TAIL);
        out.clear();
        // No message of a tracker is longer than this.
        out.reserve(1 << 18);
        self.decompress.decompress_vec(&self.input, out, FlushDecompress::Sync).expect("the server compresses well");
    }
}
