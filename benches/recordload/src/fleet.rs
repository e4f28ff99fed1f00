//! Many connections of one thread, all of one kind.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

/// How long nothing may happen before the server counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that are being opened at once: below what servers let wait.
const OPENING: usize = 200;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    WebSocket,
    Http,
}

/// Connections, which are named by their number.
pub struct Fleet {
    poll: Poll,
    links: Vec<Link>,
    kind: Kind,
    buffer: Vec<u8>,
    /// Text messages, or responses with a body.
    pub received: u64,
}

struct Link {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Of a WebSocket: the handshake is over.
    open: bool,
    reads: bool,
}

impl Fleet {
    /// Opens `count` connections. Where `receive_buffer` is given, the kernel takes about as much for each that does not read.
    pub fn open(addr: SocketAddr, kind: Kind, count: usize, receive_buffer: Option<usize>) -> Result<Self> {
        let mut fleet = Self { poll: Poll::new()?, links: Vec::new(), kind, buffer: vec![0; 256 * 1024], received: 0 };
        while fleet.links.len() < count {
            let batch = fleet.links.len()..count.min(fleet.links.len() + OPENING);
            for number in batch.clone() {
                let stream = connect(addr, receive_buffer)?;
                let mut stream = TcpStream::from_std(stream);
                let interest = Interest::READABLE | Interest::WRITABLE;
                fleet.poll.registry().register(&mut stream, Token(number), interest)?;
                let link =
                    Link { stream, input: Vec::new(), output: Vec::new(), open: kind == Kind::Http, reads: true };
                fleet.links.push(link);
                if kind == Kind::WebSocket {
                    let hello = format!(
                        "GET /announce HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                    );
                    fleet.send(number, hello.as_bytes())?;
                }
            }
            let opening = |fleet: &Self| fleet.links[batch.clone()].iter().any(|link| !link.open);
            while opening(&fleet) {
                fleet.turn(PATIENCE, |_, _, _| Ok(()))?;
            }
        }
        Ok(fleet)
    }

    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Queues bytes and writes what the system takes.
    pub fn send(&mut self, number: usize, bytes: &[u8]) -> Result<()> {
        let link = &mut self.links[number];
        link.output.extend(bytes);
        link.flush()
    }

    /// From now on what arrives is left with the system, or taken again.
    pub fn reading(&mut self, number: usize, reads: bool) -> Result<()> {
        let link = &mut self.links[number];
        link.reads = reads;
        let interest = if reads { Interest::READABLE | Interest::WRITABLE } else { Interest::WRITABLE };
        Ok(self.poll.registry().reregister(&mut link.stream, Token(number), interest)?)
    }

    /// Waits until something arrives, and hands over all of it: who got it, what, and where to put bytes to send.
    pub fn turn(
        &mut self,
        patience: Duration,
        mut take: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        if let Err(error) = self.poll.poll(&mut events, Some(patience))
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        if events.is_empty() && patience >= PATIENCE {
            bail!("nothing came from the server for {patience:?}");
        }
        for event in &events {
            let link = &mut self.links[event.token().0];
            if event.is_readable() && link.reads {
                let mut take = |message: &[u8], out: &mut Vec<u8>| {
                    self.received += 1;
                    take(event.token().0, message, out)
                };
                link.read(self.kind, &mut self.buffer, &mut take)?;
            }
            link.flush()?;
        }
        Ok(())
    }

    /// Takes turns until `done`, or fails at the deadline.
    pub fn until(
        &mut self,
        deadline: Duration,
        mut take: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Result<bool>,
    ) -> Result<()> {
        let (start, mut done) = (Instant::now(), false);
        while !done {
            ensure!(start.elapsed() < deadline, "not done after {deadline:?}");
            self.turn(Duration::from_millis(100), |number, message, out| {
                done |= take(number, message, out)?;
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn connect(addr: SocketAddr, receive_buffer: Option<usize>) -> Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    socket.connect(&addr.into()).context("the server does not take connections")?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Link {
    fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        kind: Kind,
        buffer: &mut [u8],
        take: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(length) if self.input.is_empty() => {
                    let used = self.parse(kind, &buffer[..length], take)?;
                    self.input.extend(&buffer[used..length]);
                }
                Ok(length) => {
                    let mut input = std::mem::take(&mut self.input);
                    input.extend(&buffer[..length]);
                    let used = self.parse(kind, &input, take)?;
                    input.drain(..used);
                    self.input = input;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands over what is whole in `input`. How much that was.
    fn parse(
        &mut self,
        kind: Kind,
        input: &[u8],
        take: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Result<()>,
    ) -> Result<usize> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if !self.open {
                let Some(end) = memmem::find(rest, b"\r\n\r\n") else { return Ok(used) };
                ensure!(rest.starts_with(b"HTTP/1.1 101"), "not upgraded: {}", String::from_utf8_lossy(rest));
                self.open = true;
                used += end + 4;
                continue;
            }
            let Some((message, length)) = (match kind {
                Kind::WebSocket => frame(rest)?,
                Kind::Http => response(rest)?,
            }) else {
                return Ok(used);
            };
            take(message, &mut self.output)?;
            used += length;
        }
    }
}

/// A server's text frame, and how many bytes it takes with its header.
fn frame(input: &[u8]) -> Result<Option<(&[u8], usize)>> {
    let (length, head) = match input {
        [_, length @ 0..=125, ..] => (usize::from(*length), 2),
        [_, 126, a, b, ..] => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        [_, 127, ..] => bail!("no frame of the record service is that long"),
        _ => return Ok(None),
    };
    ensure!(input[0] == 0x81, "not a text frame: {:02x?}", &input[..2]);
    Ok(input.get(head..head + length).map(|message| (message, head + length)))
}

/// The body of a response that went well, and how many bytes it takes with its head.
fn response(input: &[u8]) -> Result<Option<(&[u8], usize)>> {
    let Some(end) = memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&input[..end])?;
    ensure!(head.starts_with("HTTP/1.1 20"), "refused: {head}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    let length = length.transpose()?.unwrap_or(0);
    Ok(input.get(end + 4..end + 4 + length).map(|body| (body, end + 4 + length)))
}

/// A client's text frame (RFC 6455 §5.2): masked, with a key that need not be secret here.
pub fn text(message: &str) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![0x81];
    match message.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        long => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(long).expect("requests are short").to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(message.bytes().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}
