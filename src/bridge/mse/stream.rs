//! The handshake over a byte stream, and the stream it leaves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::handshake::{Agreed, Initiator, Responder, Step};
use super::keys::Cipher;
use super::{Method, MseError};
use crate::bridge::door::Ending;
use crate::config::Encryption;
use crate::wire::id::InfoHash;
use crate::wire::peer::{PROTOCOL, PeerError};

/// What is encrypted at once.
const CHUNK: usize = 16 << 10;

/// A peer's byte stream, decrypted and encrypted on the way if that was agreed.
#[derive(Debug)]
pub(in crate::bridge) struct Stream<S> {
    io: S,
    /// What was received with the handshake and belongs to the peer wire.
    early: Bytes,
    ciphers: Option<Ciphers>,
    /// What is encrypted and not yet taken by the stream below.
    unsent: BytesMut,
    method: Option<Method>,
}

#[derive(Debug)]
struct Ciphers {
    inbound: Cipher,
    outbound: Cipher,
}

/// Connects to a peer of the torrent `skey`: the handshake of who connected, with `provides` as `crypto_provide`.
pub(in crate::bridge) async fn initiate<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: S,
    skey: InfoHash,
    provides: u32,
) -> Result<Stream<S>, Ending> {
    let (mut machine, first) = Initiator::new(skey, provides, &mut rand::rng());
    io.write_all(&first).await?;
    run(io, BytesMut::new(), |input| machine.take(input)).await
}

/// Takes a peer that connected, who may or may not encrypt. `find` tells which torrent a hash (`HASH("req2", SKEY)`) means.
pub(in crate::bridge) async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: S,
    encryption: Encryption,
    find: impl Fn(&[u8; 20]) -> Option<InfoHash>,
) -> Result<Stream<S>, Ending> {
    let mut input = BytesMut::new();
    let opening = loop {
        if let Some(first) = input.first_chunk() {
            break Opening::of(first);
        }
        read(&mut io, &mut input).await?;
    };
    match opening {
        Opening::Plain if encryption == Encryption::Require => Err(MseError::Unencrypted.into()),
        Opening::Plain => Ok(Stream::plain(io, input.freeze())),
        Opening::Text => Err(PeerError::NotAHandshake.into()),
        Opening::Key => {
            let mut machine = Responder::new(encryption, &mut rand::rng());
            run(io, input, |input| machine.take(input, &find)).await
        }
    }
}

/// What a stream begins with.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    /// The peer wire as it is.
    Plain,
    /// A public key, which may be any bytes.
    Key,
    /// Another protocol's text: a key looks like this once in 10^8 times.
    Text,
}

impl Opening {
    fn of(first: &[u8; PROTOCOL.len()]) -> Self {
        match first {
            PROTOCOL => Self::Plain,
            text if text.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => Self::Text,
            _ => Self::Key,
        }
    }
}

async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: S,
    mut input: BytesMut,
    mut take: impl FnMut(&mut BytesMut) -> Result<Step, MseError>,
) -> Result<Stream<S>, Ending> {
    loop {
        match take(&mut input)? {
            Step::More => read(&mut io, &mut input).await?,
            Step::Send(bytes) => {
                io.write_all(&bytes).await?;
                io.flush().await?;
            }
            Step::Done(agreed) => {
                let Agreed { method, last, early, mut inbound, outbound } = *agreed;
                io.write_all(&last).await?;
                io.flush().await?;
                if method == Method::Rc4 {
                    inbound.apply(&mut input);
                }
                let early = if early.is_empty() { input.freeze() } else { [&early[..], &input].concat().into() };
                let ciphers = (method == Method::Rc4).then_some(Ciphers { inbound, outbound });
                return Ok(Stream { io, early, ciphers, unsent: BytesMut::new(), method: Some(method) });
            }
        }
    }
}

async fn read<S: AsyncRead + Unpin>(io: &mut S, input: &mut BytesMut) -> Result<(), Ending> {
    match io.read_buf(input).await? {
        0 => Err(Ending::Closed),
        _ => Ok(()),
    }
}

impl<S> Stream<S> {
    /// A stream that is not encrypted. `early` was read off it already.
    pub(in crate::bridge) fn plain(io: S, early: Bytes) -> Self {
        Self { io, early, ciphers: None, unsent: BytesMut::new(), method: None }
    }

    /// The metrics' label.
    pub(in crate::bridge) fn label(&self) -> &'static str {
        match self.method {
            None => "none",
            Some(Method::Plaintext) => "handshake",
            Some(Method::Rc4) => "rc4",
        }
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.unsent.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if let Some(ciphers) = &mut self.ciphers {
            ciphers.inbound.apply(&mut buffer.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.ciphers.is_none() {
            return Pin::new(&mut this.io).poll_write(cx, bytes);
        }
        ready!(this.poll_drain(cx))?;
        // What is encrypted once must be sent: it counts as written, and waits here if the stream below is full.
        let length = bytes.len().min(CHUNK);
        this.unsent.extend_from_slice(&bytes[..length]);
        if let Some(ciphers) = &mut this.ciphers {
            ciphers.outbound.apply(&mut this.unsent);
        }
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::duplex;
    use tokio::time::timeout;

    use super::super::keys::name_of;
    use super::super::provides;
    use super::*;

    const SKEY: InfoHash = InfoHash([7; 20]);

    fn find(name: &[u8; 20]) -> Option<InfoHash> {
        (*name == name_of(&SKEY)).then_some(SKEY)
    }

    #[tokio::test]
    async fn bytes_cross_whatever_was_agreed() {
        use Encryption::{Allow, Prefer, Require};
        // who connects, and whether it encrypts; who is connected to; what is agreed
        for (dialling, listening, expected) in [
            (None, Allow, "none"),
            (None, Prefer, "none"),
            (Some(Allow), Allow, "handshake"),
            (Some(Allow), Prefer, "rc4"),
            (Some(Require), Allow, "rc4"),
            (Some(Require), Require, "rc4"),
        ] {
            // Narrow, so that little crosses in one piece; both sides begin with up to 608 bytes before they listen.
            let (ours, theirs) = duplex(700);
            let sent: Vec<u8> = PROTOCOL.iter().copied().chain((0..50_000_u32).map(|n| n as u8)).collect();
            let connect = async {
                let mut stream = match dialling {
                    Some(encryption) => initiate(ours, SKEY, provides(encryption)).await.unwrap(),
                    None => Stream::plain(ours, Bytes::new()),
                };
                let mut echoed = vec![0; sent.len()];
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                let (written, read) = tokio::join!(
                    async {
                        writer.write_all(&sent).await?;
                        writer.flush().await
                    },
                    reader.read_exact(&mut echoed)
                );
                written.and(read).unwrap();
                echoed
            };
            let listen = async {
                let stream = receive(theirs, listening, find).await.unwrap();
                let label = stream.label();
                let (reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader.take(sent.len() as u64), &mut writer).await.unwrap();
                writer.flush().await.unwrap();
                label
            };
            let both = async { tokio::join!(connect, listen) };
            let (echoed, label) = timeout(Duration::from_secs(10), both).await.unwrap();
            assert!(echoed == sent, "{dialling:?} {listening:?}");
            assert_eq!(label, expected, "{dialling:?} {listening:?}");
        }
    }

    #[tokio::test]
    async fn who_must_encrypt_and_does_not_is_refused() {
        let (mut ours, theirs) = duplex(1024);
        ours.write_all(PROTOCOL).await.unwrap();
        let refused = receive(theirs, Encryption::Require, find).await;
        assert!(matches!(refused, Err(Ending::Encryption(MseError::Unencrypted))));
    }

    #[test]
    fn openings_are_told_apart() {
        let mut almost = *PROTOCOL;
        almost[19] ^= 1;
        let mut text = [b'x'; 20];
        text.copy_from_slice(b"GET / HTTP/1.1\r\nHost");
        for (first, expected) in
            [(*PROTOCOL, Opening::Plain), (almost, Opening::Key), ([0x13; 20], Opening::Key), (text, Opening::Text)]
        {
            assert_eq!(Opening::of(&first), expected, "{}", first.escape_ascii());
        }
    }
}
