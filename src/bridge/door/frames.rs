//! Frames over a byte stream, with deadlines: what waits for a stranger waits only so long.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
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
    /// What is not written yet. It is kept here, so that a writer given up in the middle of a frame can go on.
    unwritten: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(super) fn new(io: W) -> Self {
        Self { io, unwritten: BytesMut::new() }
    }

    /// What is to be written next, for callers that gather frames.
    pub(super) fn batch(&mut self) -> &mut BytesMut {
        &mut self.unwritten
    }

    /// Writes `bytes` and all that was gathered before.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        self.unwritten.extend_from_slice(bytes);
        self.flush().await
    }

    /// Writes all that was gathered. May be dropped at any await and called again.
    pub(super) async fn flush(&mut self) -> Result<(), Ending> {
        let written = async {
            while !self.unwritten.is_empty() {
                let written = self.io.write(&self.unwritten).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.unwritten.advance(written);
            }
            self.io.flush().await
        };
        timeout(WRITE_DEADLINE, written).await.map_err(|_| Ending::Stuck)?.map_err(Ending::from)
    }

    /// Gives back the memory of what was written. For writers that may have nothing to write for long.
    pub(super) fn release(&mut self) {
        if self.unwritten.is_empty() {
            self.unwritten = BytesMut::new();
        }
    }

    /// Closes the stream, so that the peer learns it at once.
    pub(super) async fn close(&mut self) {
        let _: Result<io::Result<()>, _> = timeout(Duration::from_secs(1), self.io.shutdown()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::wire::peer::Message;

    #[tokio::test]
    async fn a_writer_given_up_goes_on_where_it_was() {
        let (ours, theirs) = duplex(7);
        let (mut writer, mut reader) = (FrameWriter::new(ours), FrameReader::new(theirs));
        let frame = Message::Bitfield(&[0xaa; 20]).encode();
        assert!(futures_util::FutureExt::now_or_never(writer.send(&frame)).is_none(), "it does not fit");
        let last = Message::Have(1).encode();
        let (sent, read) =
            tokio::join!(writer.send(&last), async { (reader.frame().await.unwrap(), reader.frame().await.unwrap()) });
        sent.unwrap();
        assert_eq!(read.0.as_bytes(), frame);
        assert_eq!(read.1.message(), Ok(Message::Have(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_stuck() {
        let (ours, _theirs) = duplex(7);
        assert!(matches!(FrameWriter::new(ours).send(&[0; 8]).await, Err(Ending::Stuck)));
    }
}
