//! Frames over a byte stream, with deadlines: what waits for a stranger waits only so long.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::Ending;
use crate::wire::peer::{Frame, HANDSHAKE_LEN, Handshake};

/// Longest message taken: the bitfield of [`crate::wire::metainfo::MAX_PIECES`] pieces, and some room.
const MAX_MESSAGE: usize = (128 << 10) + 64;

/// What is read at once.
const READ_CHUNK: usize = 64 << 10;

/// How long a peer may refuse to take what we send.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// The reading half of a connection.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The handshake that begins the stream.
    pub(super) async fn handshake(&mut self) -> Result<Handshake, Ending> {
        while self.buffer.len() < HANDSHAKE_LEN {
            self.fill().await?;
        }
        let bytes = self.buffer.split_to(HANDSHAKE_LEN);
        Ok(Handshake::decode(bytes.first_chunk().expect("as many were split off"))?)
    }

    /// The next frame. May be dropped at any await without losing bytes.
    pub(super) async fn frame(&mut self) -> Result<Frame, Ending> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The next frame, if it has arrived already.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame>, Ending> {
        Ok(Frame::split(&mut self.buffer, MAX_MESSAGE)?)
    }

    async fn fill(&mut self) -> Result<(), Ending> {
        // Grows by what arrives, not by what a length prefix announces.
        self.buffer.reserve(READ_CHUNK);
        match self.io.read_buf(&mut self.buffer).await? {
            0 => Err(Ending::Closed),
            _ => Ok(()),
        }
    }
}

/// The writing half of a connection.
#[derive(Debug)]
pub(super) struct FrameWriter<W> {
    io: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(super) fn new(io: W) -> Self {
        Self { io }
    }

    /// Writes all of `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        let sent = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        timeout(WRITE_DEADLINE, sent).await.map_err(|_| Ending::Stuck)?.map_err(Ending::from)
    }

    /// Closes the stream, so that the peer learns it at once.
    pub(super) async fn close(&mut self) {
        let _: Result<io::Result<()>, _> = timeout(Duration::from_secs(1), self.io.shutdown()).await;
    }
}
