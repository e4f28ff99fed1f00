//! Closing a connection whose client is still sending.
//!
//! A request may be answered before its body was read: it is too large, or nobody wants it. A socket that is closed with
//! bytes unread resets the connection, and a reset can overtake the answer: the client sees a broken pipe instead of
//! the status. RFC 9112 §9.6: "the server first closes only the write side […] then continues to read from the
//! connection until it receives a corresponding close by the client, or until the server is reasonably certain that its
//! own TCP stack has received the client's acknowledgment".

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How long, and how much, is read and thrown away for the answer's sake.
const DEADLINE: Duration = Duration::from_secs(5);
const MAX_DISCARDED: usize = 16 * 1024 * 1024;

/// Whether a request on a connection was answered without its body having been read to the end.
#[derive(Debug, Clone, Default)]
pub(super) struct LeftUnread(Arc<AtomicBool>);

impl LeftUnread {
    /// The body, watched.
    pub(super) fn watch(&self, body: Incoming) -> Body {
        Body::new(Watched { body, left_unread: self.clone() })
    }
}

struct Watched {
    body: Incoming,
    left_unread: LeftUnread,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A chunked body may look unread when its last chunk was not asked for: then the end is waited for in vain, once.
        if !self.body.is_end_stream() {
            self.left_unread.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A connection that, when a request's body was left unread, closes its write side first and reads on for a while.
#[derive(Debug)]
pub(super) struct Lingering {
    stream: TcpStream,
    left_unread: LeftUnread,
    /// Once the write side is closed.
    until: Option<Pin<Box<Sleep>>>,
    discarded: usize,
}

impl Lingering {
    pub(super) fn new(stream: TcpStream, left_unread: LeftUnread) -> Self {
        Self { stream, left_unread, until: None, discarded: 0 }
    }

    /// Reads what the client still sends, until it closes its side or has had its share.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(DEADLINE)));
        let mut scratch = [0; 8192];
        while self.discarded < MAX_DISCARDED && until.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => self.discarded += read.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl From<Lingering> for TcpStream {
    fn from(lingering: Lingering) -> Self {
        lingering.stream
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        if self.left_unread.0.load(Ordering::Relaxed) {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}
