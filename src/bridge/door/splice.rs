//! A peer joined to the engine: two streams of frames, each message judged on its way.
//!
//! The engine sees a peer with no extensions at all. What the engine says of its pieces is not passed on, since it
//! forgets some of it; peers are told from [`Live::have`], in which nothing can be missed.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, interval_at, timeout};

use super::extensions::{Extensions, MAX_REQUESTS, Said};
use super::frames::{FrameReader, FrameWriter};
use super::remote::{Remote, Shape, Verdict, Waiting};
use super::{Connection, Ending, HANDSHAKE_DEADLINE, IDLE, KEEP_ALIVE};
use crate::bridge::pieces::PieceSet;
use crate::bridge::swarm::{Live, Swarm};
use crate::wire::peer::{Frame, Handshake, Message, Reserved};

/// Frames are gathered up to this size before they are written.
const BATCH: usize = 64 << 10;

/// Replies to extension messages that may wait for a slow reader. Past it, requests go unanswered.
const REPLIES: usize = 16;

/// Splices the peer until either end lets go. `complete` is set if the peer has every piece.
pub(super) async fn run<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    live: &Live,
    swarm: &Arc<Swarm>,
    peer: &mut Connection<R, W>,
    waiting: Waiting,
    extensions: Extensions,
    complete: &mut bool,
) -> Result<(), Ending> {
    let shape = Shape {
        pieces: live.metainfo.pieces(),
        piece_length: live.metainfo.piece_length(),
        total_length: live.metainfo.total_length(),
    };
    let (mut remote, replay) = waiting.meet(shape)?;
    let greeted = timeout(HANDSHAKE_DEADLINE, meet_engine(live, peer.theirs, &replay)).await;
    let (engine_reader, engine_writer) = greeted.map_err(|_| Ending::Released)??;
    let requests = Semaphore::new(MAX_REQUESTS as usize);
    let (replies, replies_rx) = mpsc::channel(REPLIES);
    let bytes = |direction| swarm.metrics.bytes.with_label_values(&[peer.transport.label(), direction]);
    let inward = Inward {
        from: &mut peer.reader,
        to: engine_writer,
        remote: &mut remote,
        extensions,
        metadata: live.metainfo.info(),
        have: live.have.clone(),
        requests: &requests,
        replies,
        bytes: bytes("in"),
        refused: swarm.metrics.refused.with_label_values(&["request"]),
    };
    let outward = Outward {
        from: engine_reader,
        to: &mut peer.writer,
        have: live.have.clone(),
        told: PieceSet::none(shape.pieces),
        requests: &requests,
        replies: replies_rx,
        bytes: bytes("out"),
    };
    let ended = tokio::select! {
        ended = inward.run() => ended,
        ended = outward.run() => ended,
    };
    *complete = remote.is_complete();
    ended
}

/// Greets the engine in the peer's name, with every reserved bit cleared, and swallows its handshake.
async fn meet_engine(
    live: &Live,
    theirs: Handshake,
    replay: &[u8],
) -> Result<(FrameReader<OwnedReadHalf>, FrameWriter<OwnedWriteHalf>), Ending> {
    let stream = TcpStream::connect(live.engine).await.map_err(|_| Ending::Released)?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let greeting = Handshake { reserved: Reserved::default(), ..theirs }.encode();
    writer.send(&[greeting.as_slice(), replay].concat()).await.map_err(|_| Ending::Released)?;
    reader.handshake().await.map_err(|_| Ending::Released)?;
    Ok((reader, writer))
}

/// From the peer to the engine.
struct Inward<'a, R> {
    from: &'a mut FrameReader<R>,
    to: FrameWriter<OwnedWriteHalf>,
    remote: &'a mut Remote,
    extensions: Extensions,
    metadata: &'a Bytes,
    have: watch::Receiver<PieceSet>,
    /// One permit for each request the peer may still make.
    requests: &'a Semaphore,
    replies: mpsc::Sender<Bytes>,
    bytes: prometheus::IntCounter,
    refused: prometheus::IntCounter,
}

impl<R: AsyncRead + Unpin> Inward<'_, R> {
    async fn run(mut self) -> Result<(), Ending> {
        let mut batch = BytesMut::new();
        let mut heard = Instant::now();
        loop {
            match timeout(KEEP_ALIVE, self.from.frame()).await {
                Ok(frame) => {
                    heard = Instant::now();
                    self.take(&frame?, &mut batch).await?;
                }
                Err(_) if heard.elapsed() >= IDLE => return Err(Ending::Idle),
                // The engine would drop a peer that says nothing, and the peer has its reasons.
                Err(_) => Message::KeepAlive.write(&mut batch),
            }
            while batch.len() < BATCH {
                let Some(frame) = self.from.buffered()? else { break };
                self.take(&frame, &mut batch).await?;
            }
            self.flush(&mut batch).await?;
        }
    }

    async fn take(&mut self, frame: &Frame, batch: &mut BytesMut) -> Result<(), Ending> {
        let message = frame.message()?;
        if let Message::Extended { id, .. } = message {
            if let Said::Reply(reply) = self.extensions.take(id, frame.extended_payload(), Some(self.metadata)) {
                let _ = self.replies.try_send(reply);
            }
            return Ok(());
        }
        let verdict = self.remote.judge(message, &self.have.borrow())?;
        match verdict {
            Verdict::Pass => {}
            Verdict::PassBlock(len) => self.bytes.inc_by(len as u64),
            Verdict::PassRequest => match self.requests.try_acquire() {
                Ok(permit) => permit.forget(),
                Err(_) => {
                    // Reading stops here until the peer has taken some of what it asked for.
                    self.flush(batch).await?;
                    self.requests.acquire().await.map_err(|_| Ending::Released)?.forget();
                }
            },
            Verdict::Refuse => {
                self.refused.inc();
                return Ok(());
            }
            Verdict::Drop => return Ok(()),
        }
        batch.extend_from_slice(frame.as_bytes());
        Ok(())
    }

    async fn flush(&mut self, batch: &mut BytesMut) -> Result<(), Ending> {
        if !batch.is_empty() {
            self.to.send(batch).await.map_err(|_| Ending::Released)?;
            batch.clear();
        }
        Ok(())
    }
}

/// From the engine, and from ourselves, to the peer.
struct Outward<'a, W> {
    from: FrameReader<OwnedReadHalf>,
    to: &'a mut FrameWriter<W>,
    have: watch::Receiver<PieceSet>,
    /// The pieces the peer was told of.
    told: PieceSet,
    requests: &'a Semaphore,
    replies: mpsc::Receiver<Bytes>,
    bytes: prometheus::IntCounter,
}

impl<W: AsyncWrite + Unpin> Outward<'_, W> {
    async fn run(mut self) -> Result<(), Ending> {
        let mut batch = BytesMut::new();
        self.told = self.have.borrow_and_update().clone();
        Message::Bitfield(self.told.as_bitfield()).write(&mut batch);
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        loop {
            self.to.send(&batch).await?;
            batch.clear();
            tokio::select! {
                // News and replies first: they are small, and a busy engine must not keep them waiting.
                biased;
                changed = self.have.changed() => {
                    changed.map_err(|_| Ending::TorrentLeft)?;
                    self.tell(&mut batch);
                }
                Some(reply) = self.replies.recv() => batch.extend_from_slice(&reply),
                frame = self.from.frame() => self.take(&frame.map_err(|_| Ending::Released)?, &mut batch)?,
                _ = keep_alive.tick() => Message::KeepAlive.write(&mut batch),
            }
            while batch.len() < BATCH {
                let Some(frame) = self.from.buffered()? else { break };
                self.take(&frame, &mut batch)?;
            }
        }
    }

    fn tell(&mut self, batch: &mut BytesMut) {
        let have = self.have.borrow_and_update();
        for piece in have.beyond(&self.told) {
            Message::Have(u32::try_from(piece).expect("pieces are fewer than 2^20")).write(batch);
        }
        self.told.extend(&have);
    }

    fn take(&mut self, frame: &Frame, batch: &mut BytesMut) -> Result<(), Ending> {
        match frame.message()? {
            Message::KeepAlive | Message::Have(_) | Message::Bitfield(_) | Message::Extended { .. } => return Ok(()),
            Message::Piece { data, .. } => {
                self.requests.add_permits(1);
                self.bytes.inc_by(data.len() as u64);
            }
            _ => {}
        }
        batch.extend_from_slice(frame.as_bytes());
        Ok(())
    }
}
