//! A client's connection, which neither end can hold for ever nor lose an answer by.
//!
//! Writing: a client that takes nothing of its answer keeps a connection and what is read for it; after a while without
//! progress it is let go.
//!
//! Closing while the client is still sending: a request may be answered before its body was read: it is too large, or nobody wants it. A socket that is closed with
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

/// How long a client may take nothing of what is written to it. A reader on a bad line pauses for seconds.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// How long, and how much, is read and thrown away for the answer's sake.
const LINGER: Duration = Duration::from_secs(5);
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

/// A connection whose writes fail with [`io::ErrorKind::TimedOut`] when the client takes nothing for [`STALLED`], and that,
/// when a request's body was left unread, closes its write side first and reads on for a while.
#[derive(Debug)]
pub(super) struct ClientStream<S = TcpStream> {
    stream: S,
    /// While a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    left_unread: LeftUnread,
    /// Once the write side is closed.
    until: Option<Pin<Box<Sleep>>>,
    discarded: usize,
}

impl<S: AsyncRead + Unpin> ClientStream<S> {
    pub(super) fn new(stream: S, left_unread: LeftUnread) -> Self {
        Self { stream, stalled: None, left_unread, until: None, discarded: 0 }
    }

    /// What a write came to; one that waits, waits no longer than the client may.
    fn within_patience(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads what the client still sends, until it closes its side or has had its share.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(LINGER)));
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

impl From<ClientStream> for TcpStream {
    fn from(client: ClientStream) -> Self {
        client.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within_patience(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.within_patience(cx, written)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    const ANSWER: [u8; 4096] = [7; 4096];

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_waited_for() {
        let (server, mut client) = duplex(512);
        let mut server = ClientStream::new(server, LeftUnread::default());
        let writing = tokio::spawn(async move { server.write_all(&ANSWER).await });
        let mut taken = Vec::new();
        while taken.len() < ANSWER.len() {
            sleep(STALLED - Duration::from_secs(1)).await;
            client.read_buf(&mut taken).await.unwrap();
        }
        writing.await.unwrap().unwrap();
        assert_eq!(taken, ANSWER);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_let_go() {
        let (server, mut client) = duplex(512);
        let mut server = ClientStream::new(server, LeftUnread::default());
        let began = Instant::now();
        let written = async {
            client.read_exact(&mut [0; 512]).await.unwrap();
            std::future::pending::<()>().await
        };
        tokio::select! {
            written = server.write_all(&ANSWER) => assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut),
            () = written => unreachable!(),
        }
        assert_eq!(began.elapsed().as_secs(), STALLED.as_secs());
    }
}
