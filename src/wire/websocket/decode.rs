//! Bytes of a client → messages.

use super::{CloseCode, DEFLATED, MAX_CONTROL, Opcode, Received, Violation};

/// Reads what one client sends.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// What has not arrived in full. In a box: most clients are silent most of the time, and then there is nothing.
    pending: Option<Box<Pending>>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Most bytes in a message.
    max_message: usize,
    /// Whether messages may be compressed (RFC 7692).
    deflate: bool,
}

#[derive(Debug, Default)]
struct Pending {
    /// The beginning of a frame's head.
    head: Vec<u8>,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// What has arrived of a control frame. Those may come between the fragments of a message (§5.4).
    control: Vec<u8>,
    /// What has arrived of a message.
    message: Option<Partial>,
    /// `control` or `message` was handed out by the last call.
    over: Option<Over>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    fin: bool,
    /// The first frame of a compressed message.
    deflated: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// Bytes of the payload that have not arrived.
    missing: usize,
}

#[derive(Debug)]
struct Partial {
    kind: Opcode,
    deflated: bool,
    bytes: Vec<u8>,
    /// How many of them are known to be UTF-8.
    checked: usize,
}

#[derive(Debug, Clone, Copy)]
enum Over {
    Control,
    Message,
}

impl Decoder {
    /// A decoder for one connection, before its first byte. A message of more than `max_message` bytes is a violation.
    /// `deflate` says that permessage-deflate was agreed on.
    #[must_use]
    pub fn new(max_message: usize, deflate: bool) -> Self {
        Self { limits: Limits { max_message, deflate }, pending: None }
    }

    /// Takes the next message from the beginning of `input`, which is unmasked in place; `None` once all of `input` is
    /// used up and more is needed. A violation is found as soon as it has arrived, not at the end of its frame.
    ///
    /// # Errors
    /// The connection is to be closed; nothing more can be read from it.
    pub fn next<'m, 'i: 'm>(&'m mut self, input: &mut &'i mut [u8]) -> Result<Option<Received<'m>>, Violation> {
        if let Some(pending) = &mut self.pending {
            pending.forget();
            if pending.is_empty() {
                self.pending = None;
            }
        }
        if self.pending.is_none() {
            if input.is_empty() {
                return Ok(None);
            }
            if let Some((frame, head)) = parse_head(input, self.limits.deflate)?
                && frame.is_message(self.limits.max_message)
                && frame.missing <= input.len() - head
            {
                split_off(input, head);
                let payload = split_off(input, frame.missing);
                unmask(payload, &mut { frame.mask });
                return received(frame.opcode, frame.deflated, payload).map(Some);
            }
        }
        self.pending.get_or_insert_default().next(self.limits, input)
    }

    /// Bytes held on the heap.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| {
            let message = pending.message.as_ref().map_or(0, |message| message.bytes.capacity());
            size_of::<Pending>() + pending.head.capacity() + pending.control.capacity() + message
        })
    }
}

impl Pending {
    /// What the last call handed out is no longer needed.
    fn forget(&mut self) {
        match self.over.take() {
            Some(Over::Control) => self.control = Vec::new(),
            Some(Over::Message) => self.message = None,
            None => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.control.is_empty() && self.message.is_none()
    }

    /// As [`Decoder::next`].
    fn next<'m, 'i: 'm>(
        &'m mut self,
        limits: Limits,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Received<'m>>, Violation> {
        loop {
            let Some(mut frame) = self.frame_to_read(limits, input)? else { return Ok(None) };
            let arrived = split_off(input, frame.missing);
            frame.missing -= arrived.len();
            unmask(arrived, &mut frame.mask);
            let complete = frame.missing == 0;
            if !complete {
                self.frame = Some(frame);
            }

            if frame.opcode.is_control() {
                if complete && self.control.is_empty() {
                    return received(frame.opcode, frame.deflated, arrived).map(Some);
                }
                self.control.extend_from_slice(arrived);
                if complete {
                    self.over = Some(Over::Control);
                    return received(frame.opcode, false, &self.control).map(Some);
                }
            } else {
                if complete && frame.fin && self.message.is_none() {
                    return received(frame.opcode, frame.deflated, arrived).map(Some);
                }
                let message = self.message.get_or_insert_with(|| Partial::new(&frame));
                message.add(arrived)?;
                if complete && frame.fin {
                    self.over = Some(Over::Message);
                    let message = self.message.as_ref().expect("just added to");
                    return received(message.kind, message.deflated, &message.bytes).map(Some);
                }
            }
        }
    }

    /// The frame whose payload comes next: the one that is arriving, or a new one once its head (§5.2) is there.
    fn frame_to_read(&mut self, limits: Limits, input: &mut &mut [u8]) -> Result<Option<Frame>, Violation> {
        if let Some(frame) = self.frame.take() {
            // More of the payload, or this was all there is.
            return Ok(if input.is_empty() {
                self.frame = Some(frame);
                None
            } else {
                Some(frame)
            });
        }
        if self.head.is_empty() {
            if let Some((frame, length)) = parse_head(input, limits.deflate)? {
                split_off(input, length);
                return self.begin(limits.max_message, frame).map(Some);
            }
            self.head.extend_from_slice(split_off(input, usize::MAX));
            return Ok(None);
        }
        // Byte by byte, but these are thirteen at most.
        while let [byte] = split_off(input, 1) {
            self.head.push(*byte);
            if let Some((frame, _)) = parse_head(&self.head, limits.deflate)? {
                self.head = Vec::new();
                return self.begin(limits.max_message, frame).map(Some);
            }
        }
        Ok(None)
    }

    /// Holds a frame against what came before it.
    fn begin(&self, max_message: usize, frame: Frame) -> Result<Frame, Violation> {
        match (frame.opcode, &self.message) {
            (Opcode::Continuation, None) => return Err(Violation::Framing("a continuation of nothing")),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(Violation::Framing("a message amid the fragments of another"));
            }
            _ => {}
        }
        let so_far = self.message.as_ref().map_or(0, |message| message.bytes.len());
        let fits = frame.opcode.is_control() || frame.missing <= max_message.saturating_sub(so_far);
        fits.then_some(frame).ok_or(Violation::TooLarge)
    }
}

impl Frame {
    /// Whether it is a message, or a control frame, by itself.
    fn is_message(&self, max_message: usize) -> bool {
        self.fin && self.opcode != Opcode::Continuation && (self.opcode.is_control() || self.missing <= max_message)
    }
}

impl Partial {
    fn new(first: &Frame) -> Self {
        Self { kind: first.opcode, deflated: first.deflated, bytes: Vec::new(), checked: 0 }
    }

    fn add(&mut self, arrived: &[u8]) -> Result<(), Violation> {
        self.bytes.extend_from_slice(arrived);
        if self.kind == Opcode::Text && !self.deflated {
            match std::str::from_utf8(&self.bytes[self.checked..]) {
                Ok(text) => self.checked += text.len(),
                // A character that is not there in full.
                Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
                Err(_) => return Err(Violation::NotUtf8),
            }
        }
        Ok(())
    }
}

/// A frame's head and its length in bytes; `None` if it is not there in full.
fn parse_head(bytes: &[u8], deflate: bool) -> Result<Option<(Frame, usize)>, Violation> {
    const FIN: u8 = 0x80;
    const RESERVED: u8 = 0x70;
    const MASKED: u8 = 0x80;
    let Some(&first) = bytes.first() else { return Ok(None) };
    let (fin, opcode) = (first & FIN != 0, Opcode::new(first & 0x0f));
    // RFC 7692 §6: the first reserved bit of a message's first frame.
    let may_be_deflated = deflate && matches!(opcode, Some(Opcode::Text | Opcode::Binary));
    let deflated = may_be_deflated && first & RESERVED == DEFLATED;
    if first & RESERVED != 0 && !deflated {
        return Err(Violation::Framing("a reserved bit that no extension has given a meaning"));
    }
    let opcode = opcode.ok_or(Violation::Framing("a reserved opcode"))?;
    if opcode.is_control() && !fin {
        return Err(Violation::Framing("a fragmented control frame"));
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & MASKED == 0 {
        // §5.1: "The server MUST close the connection upon receiving a frame that is not masked."
        return Err(Violation::Framing("a frame that is not masked"));
    }
    let short = usize::from(second & !MASKED);
    if opcode.is_control() && short > MAX_CONTROL {
        return Err(Violation::Framing("a control frame of more than 125 bytes"));
    }
    let rest = &bytes[2..];
    let (length, rest) = match short {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (short as u64, rest),
    };
    if length > i64::MAX as u64 {
        return Err(Violation::Framing("a length with the most significant bit set"));
    }
    let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let missing = usize::try_from(length).map_err(|_| Violation::TooLarge)?;
    Ok(Some((Frame { fin, deflated, opcode, mask: *mask, missing }, bytes.len() - rest.len())))
}

fn received(opcode: Opcode, deflated: bool, payload: &[u8]) -> Result<Received<'_>, Violation> {
    let text = |bytes| simdutf8::basic::from_utf8(bytes).map_err(|_| Violation::NotUtf8);
    Ok(match opcode {
        Opcode::Text | Opcode::Binary if deflated => Received::Deflated { payload, text: opcode == Opcode::Text },
        Opcode::Text => Received::Text(text(payload)?),
        Opcode::Binary => Received::Binary(payload),
        Opcode::Ping => Received::Ping(payload),
        Opcode::Pong => Received::Pong,
        Opcode::Close => match payload {
            [] => Received::Close(None),
            [_] => return Err(Violation::Framing("half a close code")),
            [high, low, reason @ ..] => {
                text(reason)?;
                let code = CloseCode::new(u16::from_be_bytes([*high, *low]));
                let code = code.ok_or(Violation::Framing("a close code that must not be sent"))?;
                Received::Close(Some(code))
            }
        },
        Opcode::Continuation => unreachable!("a message has the kind of its first frame"),
    })
}

/// Takes up to `length` bytes from the beginning of `input`.
fn split_off<'i>(input: &mut &'i mut [u8], length: usize) -> &'i mut [u8] {
    let length = length.min(input.len());
    let (taken, rest) = std::mem::take(input).split_at_mut(length);
    *input = rest;
    taken
}

/// §5.3. Leaves `mask` turned to where the payload goes on.
fn unmask(payload: &mut [u8], mask: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(payload.len() % 4);
}
