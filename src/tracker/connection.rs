//! The bytes of one WebSocket, after the upgrade.
//!
//! An idle connection holds no buffer. What arrives is read into one that the thread's connections share, and handled
//! there before anybody else runs; what is sent was framed when it was queued, and goes out with as few calls as the
//! system allows.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::frames::Frames;
use crate::wire::websocket::{CloseCode, Decoder, Deflater, Inflater, Received, Violation};

/// Bytes read at once: an announce with ten offers is 22 KB.
const READ: usize = 32 * 1024;

/// Bytes that the system takes of what cannot be sent yet. What waits beyond that waits in the outbox, where it is bounded
/// and may still be replaced by something newer; the system's own measure is megabytes.
const UNSENT: u32 = 32 * 1024;

/// Frames handed to the system in one call.
const SLICES: usize = 64;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
    static INFLATER: RefCell<Inflater> = RefCell::default();
    static DEFLATER: RefCell<Deflater> = RefCell::default();
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    terms: Terms,
    /// What has come and is not handled yet: behind the request for the upgrade, or while the client took no replies.
    early: Box<[u8]>,
}

/// What was settled before the first frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Most bytes in a message of the client's.
    pub(super) max_message: usize,
    /// Whether messages may be compressed, both ways.
    pub(super) deflate: bool,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client said goodbye, with this code; the same is to be said back.
    Closed(Option<CloseCode>),
    /// It went without a word.
    Lost,
    Violated(Violation),
}

impl Connection {
    pub(super) fn new(stream: TcpStream, early: Vec<u8>, terms: Terms) -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!("a connection keeps the system's buffer: {error}");
        }
        let decoder = Decoder::new(terms.max_message, terms.deflate);
        Self { stream, decoder, terms, early: early.into() }
    }

    /// Reads once, and has `handle` take each message; none if what came was only a part of one. When that breaks off,
    /// what is left waits for the next call.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        handle: impl FnMut(Received<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<(), Broken>> {
        let Self { stream, decoder, terms, early } = self;
        if !early.is_empty() {
            let mut input = std::mem::take(early);
            let left = messages(decoder, *terms, &mut input, handle)?;
            *early = left.into();
            return Poll::Ready(Ok(()));
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            // A read that does not fill the buffer has emptied the socket: tokio knows, and saves the call that says so.
            ready!(Pin::new(stream).poll_read(cx, &mut buffer)).map_err(|_| Broken::Lost)?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(Broken::Lost));
            }
            let left = messages(decoder, *terms, buffer.filled_mut(), handle)?;
            if !left.is_empty() {
                *early = left.into();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Makes frames ready for [`Self::poll_write`].
    pub(super) fn prepare(&self, frames: &mut Frames) {
        if self.terms.deflate {
            DEFLATER.with_borrow_mut(|deflater| frames.each(|frame| deflater.compress(frame)));
        }
    }

    /// Writes `frames`. When given up before it is ready, the connection can only be closed.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, frames: &mut Frames) -> Poll<io::Result<()>> {
        while !frames.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                match frames.fill(&mut slices) {
                    // The cheaper call, and for most.
                    1 => self.stream.try_write(&slices[0]),
                    filled => self.stream.try_write_vectored(&slices[..filled]),
                }
            };
            match written {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(written) => frames.advance(written),
                Err(error) if would_wait(&error) => ready!(self.stream.poll_write_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye with `frame`, and waits for the client to have heard it: a connection closed with bytes unread is
    /// reset, and a reset overtakes what was written (RFC 6455 §7.1.1).
    pub(super) async fn finish(mut self, frame: Vec<u8>) -> io::Result<()> {
        let mut frames = Frames::from(frame);
        poll_fn(|cx| self.poll_write(cx, &mut frames)).await?;
        self.stream.shutdown().await?;
        loop {
            poll_fn(|cx| self.stream.poll_read_ready(cx)).await?;
            match BUFFER.with_borrow_mut(|buffer| self.stream.try_read(buffer)) {
                Ok(0) => return Ok(()),
                Err(error) if !would_wait(&error) => return Err(error),
                _ => {}
            }
        }
    }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Has every message in `input` handled, up to the end of the connection or until `handle` breaks off; what is left then.
fn messages<'i>(
    decoder: &mut Decoder,
    terms: Terms,
    mut input: &'i mut [u8],
    mut handle: impl FnMut(Received<'_>) -> ControlFlow<()>,
) -> Result<&'i [u8], Broken> {
    loop {
        let on = match decoder.next(&mut input).map_err(Broken::Violated)? {
            None => return Ok(&[]),
            Some(Received::Close(code)) => return Err(Broken::Closed(code)),
            Some(Received::Deflated { payload, text }) => INFLATER.with_borrow_mut(|inflater| {
                let message = inflater.message(payload, terms.max_message).map_err(Broken::Violated)?;
                let on = handle(if text {
                    let text = simdutf8::basic::from_utf8(message).map_err(|_| Broken::Violated(Violation::NotUtf8))?;
                    Received::Text(text)
                } else {
                    Received::Binary(message)
                });
                inflater.shrink();
                Ok(on)
            })?,
            Some(message) => handle(message),
        };
        if on.is_break() {
            return Ok(input);
        }
    }
}
