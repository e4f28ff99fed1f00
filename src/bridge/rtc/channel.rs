//! An open data channel as a byte stream.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Largest message sent. Every stack takes this much, and simple-peer cannot be asked for more.
const MAX_MESSAGE: usize = 16 * 1024;

/// Messages on their way between a [`Channel`] and the task that drives its connection; what bounds the bytes under
/// way is the window behind it.
const QUEUE: usize = 4;

/// An open data channel: an ordered, reliable stream of bytes. Where messages begin and end means nothing.
///
/// Writing waits while the peer has not acknowledged enough of what was sent before. Like a TCP connection, one that is
/// shut down or dropped goes on to deliver what was written, for a few seconds at most. Unlike one it has no half-closed
/// state: shutting it down closes both directions.
#[derive(Debug)]
pub struct Channel {
    inbound: mpsc::Receiver<Bytes>,
    /// What was received and not yet read.
    unread: Bytes,
    outbound: PollSender<BytesMut>,
    max_message: usize,
    closed_by_peer: Arc<AtomicBool>,
    remote: SocketAddr,
}

/// The other end of a [`Channel`]: what the task that drives the connection holds.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) inbound: mpsc::Sender<Bytes>,
    pub(super) outbound: mpsc::Receiver<BytesMut>,
    closed_by_peer: Arc<AtomicBool>,
}

impl Driven {
    /// The peer closed the channel in order: once the other end has read everything, it reads the end of the stream.
    /// Without this it reads that the connection was lost.
    pub(super) fn closed_by_peer(&self) {
        self.closed_by_peer.store(true, Ordering::Release);
    }
}

impl Channel {
    /// A channel to `remote`, who takes messages of up to `max_message` bytes.
    pub(super) fn new(remote: SocketAddr, max_message: usize) -> (Self, Driven) {
        let (to_reader, inbound) = mpsc::channel(QUEUE);
        let (from_writer, outbound) = mpsc::channel(QUEUE);
        let closed_by_peer = Arc::<AtomicBool>::default();
        let channel = Self {
            inbound,
            unread: Bytes::new(),
            outbound: PollSender::new(from_writer),
            max_message: max_message.min(MAX_MESSAGE),
            closed_by_peer: closed_by_peer.clone(),
            remote,
        };
        (channel, Driven { inbound: to_reader, outbound, closed_by_peer })
    }

    /// Where the peer was heard when the channel opened.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }
}

impl AsyncRead for Channel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.inbound.poll_recv(cx)) {
                Some(message) => self.unread = message,
                None if self.closed_by_peer.load(Ordering::Acquire) => return Poll::Ready(Ok(())),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outbound.poll_reserve(cx)).map_err(gone)?;
        let length = bytes.len().min(self.max_message);
        self.outbound.send_item(BytesMut::from(&bytes[..length])).map_err(gone)?;
        Poll::Ready(Ok(length))
    }

    /// What was written is on its way already; the connection's task sends it without being asked.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbound.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn channel(max_message: usize) -> (Channel, Driven) {
        Channel::new(SocketAddr::from(([192, 0, 2, 1], 9)), max_message)
    }

    #[tokio::test]
    async fn messages_become_a_stream_that_ends_as_the_peer_ended_it() {
        for closed_in_order in [true, false] {
            let (mut channel, driven) = channel(usize::MAX);
            for message in [&b"one "[..], b"", b"two"] {
                driven.inbound.send(Bytes::from_static(message)).await.unwrap();
            }
            if closed_in_order {
                driven.closed_by_peer();
            }
            drop(driven);
            let mut read = [0; 7];
            channel.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"one two");
            let end = channel.read(&mut read).await.map_err(|error| error.kind());
            assert_eq!(end, if closed_in_order { Ok(0) } else { Err(io::ErrorKind::ConnectionReset) });
        }
    }

    #[tokio::test]
    async fn writes_are_cut_into_messages_the_peer_takes() {
        for (takes, expected) in [(usize::MAX, MAX_MESSAGE), (5000, 5000)] {
            let (mut channel, mut driven) = channel(takes);
            assert_eq!(channel.write(&[7; 100_000]).await.unwrap(), expected);
            assert_eq!(driven.outbound.recv().await.unwrap().len(), expected);
        }
    }

    #[tokio::test]
    async fn writing_waits_for_room_and_ends_with_the_connection() {
        let (mut channel, mut driven) = channel(usize::MAX);
        channel.write_all(&[7; MAX_MESSAGE * QUEUE]).await.unwrap();
        {
            let mut blocked = std::pin::pin!(channel.write(b"more"));
            assert!(poll!(&mut blocked).is_pending());
            driven.outbound.recv().await.unwrap();
            assert_eq!(blocked.await.unwrap(), 4);
        }
        let mut blocked = std::pin::pin!(channel.write(b"more"));
        assert!(poll!(&mut blocked).is_pending());
        drop(driven);
        assert_eq!(blocked.await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn shutting_down_keeps_what_was_written_and_refuses_more() {
        let (mut channel, mut driven) = channel(usize::MAX);
        channel.write_all(b"last words").await.unwrap();
        channel.shutdown().await.unwrap();
        assert_eq!(channel.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(driven.outbound.recv().await.unwrap(), b"last words"[..]);
        assert_eq!(driven.outbound.recv().await, None);
    }
}
