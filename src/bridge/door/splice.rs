//! A peer joined to the engine: two streams of frames, each message judged on its way.
//!
//! The engine sees a peer with no extensions at all. What the engine says of its pieces is not passed on, since it
//! forgets some of it; peers are told from [`Live::have`], in which nothing can be missed.
//!
//! An engine that ran out of pieces to ask a peer for looks again only every five seconds, whatever the peer tells it
//! meanwhile. That would make a swarm that is still growing crawl. So when a peer has news and is not asked for it, the
//! engine is made to meet the peer anew, over a new loopback connection, with all that is known and pending replayed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, interval_at, sleep_until, timeout};

use super::extensions::{Extensions, MAX_REQUESTS, Said};
use super::frames::{FrameReader, FrameWriter};
use super::remote::{Remote, Shape, Verdict, Waiting};
use super::{Connection, Ending, HANDSHAKE_DEADLINE, IDLE, KEEP_ALIVE};
use crate::bridge::pieces::PieceSet;
use crate::bridge::swarm::{Live, Swarm};
use crate::wire::peer::{Block, Frame, Handshake, Message, Reserved};

/// Frames are gathered up to this size before they are written.
const BATCH: usize = 64 << 10;

/// Replies to extension messages that may wait for a slow reader. Past it, requests go unanswered.
const REPLIES: usize = 16;

/// How long news of a peer may go unused before the engine meets it anew, which is also how often that may happen.
const UNUSED_NEWS: Duration = Duration::from_millis(300);

/// Splices the peer until either end lets go. `complete` is set if the peer has every piece.
pub(super) async fn run<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    live: &Live,
    swarm: &Arc<Swarm>,
    peer: &mut Connection<R, W>,
    waiting: Waiting,
    mut extensions: Extensions,
    complete: &mut bool,
) -> Result<(), Ending> {
    let shape = Shape {
        pieces: live.metainfo.pieces(),
        piece_length: live.metainfo.piece_length(),
        total_length: live.metainfo.total_length(),
    };
    let mut remote = waiting.meet(shape)?;
    let mut have = live.have.clone();
    let mut told = have.borrow_and_update().clone();
    Message::Bitfield(told.as_bitfield()).write(peer.writer.batch());
    let pending = Pending::default();
    let requests = Semaphore::new(MAX_REQUESTS as usize);
    let (replies, mut replies_rx) = mpsc::channel(REPLIES);
    let bytes = |direction| swarm.metrics.bytes.with_label_values(&[peer.transport.label(), direction]);
    let (bytes_in, bytes_out) = (bytes("in"), bytes("out"));
    let refused = swarm.metrics.refused.with_label_values(&["request"]);
    let ended = loop {
        let met = timeout(HANDSHAKE_DEADLINE, meet_engine(live, peer.theirs, &remote, &pending)).await;
        let (engine_reader, engine_writer) = met.map_err(|_| Ending::Released)??;
        let inward = Inward {
            from: &mut peer.reader,
            to: engine_writer,
            remote: &mut remote,
            extensions: &mut extensions,
            metadata: live.metainfo.info(),
            have: live.have.clone(),
            requests: &requests,
            pending: &pending,
            replies: &replies,
            bytes: &bytes_in,
            refused: &refused,
        };
        let outward = Outward {
            from: engine_reader,
            to: &mut peer.writer,
            have: &mut have,
            told: &mut told,
            requests: &requests,
            pending: &pending,
            replies: &mut replies_rx,
            bytes: &bytes_out,
        };
        let ended = tokio::select! {
            ended = inward.run() => ended,
            ended = outward.run() => ended,
        };
        match ended {
            Ok(MeetAnew) => swarm.metrics.met_anew.inc(),
            Err(ending) => break ending,
        }
    };
    *complete = remote.is_complete();
    Err(ended)
}

/// The engine shall meet the peer anew.
struct MeetAnew;

/// What each side has asked for and not got. A std mutex: both directions run in one task and hold it for a step.
#[derive(Default)]
struct Pending(Mutex<Asked>);

#[derive(Default)]
struct Asked {
    /// Blocks the peer asked of the engine, in their order.
    by_peer: VecDeque<Block>,
    /// How many blocks the engine asked of the peer.
    by_engine: usize,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Greets the engine in the peer's name, with every reserved bit cleared, and swallows its handshake.
async fn meet_engine(
    live: &Live,
    theirs: Handshake,
    remote: &Remote,
    pending: &Pending,
) -> Result<(FrameReader<OwnedReadHalf>, FrameWriter<OwnedWriteHalf>), Ending> {
    let stream = TcpStream::connect(live.engine).await.map_err(|_| Ending::Released)?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    remote_greeting(theirs, remote, pending, writer.batch());
    writer.flush().await.map_err(|_| Ending::Released)?;
    reader.handshake().await.map_err(|_| Ending::Released)?;
    Ok((reader, writer))
}

fn remote_greeting(theirs: Handshake, remote: &Remote, pending: &Pending, out: &mut BytesMut) {
    out.extend_from_slice(&Handshake { reserved: Reserved::default(), ..theirs }.encode());
    remote.replay(out);
    let mut pending = pending.lock();
    pending.by_engine = 0;
    pending.by_peer.iter().for_each(|block| Message::Request(*block).write(out));
}

/// From the peer to the engine.
struct Inward<'a, R> {
    from: &'a mut FrameReader<R>,
    to: FrameWriter<OwnedWriteHalf>,
    remote: &'a mut Remote,
    extensions: &'a mut Extensions,
    metadata: &'a Bytes,
    have: watch::Receiver<PieceSet>,
    /// One permit for each request the peer may still make.
    requests: &'a Semaphore,
    pending: &'a Pending,
    replies: &'a mpsc::Sender<Bytes>,
    bytes: &'a prometheus::IntCounter,
    refused: &'a prometheus::IntCounter,
}

impl<R: AsyncRead + Unpin> Inward<'_, R> {
    async fn run(mut self) -> Result<MeetAnew, Ending> {
        let mut heard = Instant::now();
        let mut speak_at = heard + KEEP_ALIVE;
        // When the peer's last news should have been used; `None` without news.
        let mut news_due: Option<Instant> = None;
        loop {
            tokio::select! {
                frame = self.from.frame() => {
                    heard = Instant::now();
                    speak_at = heard + KEEP_ALIVE;
                    let mut news = self.take(&frame?).await?;
                    while self.to.batch().len() < BATCH {
                        let Some(frame) = self.from.buffered()? else { break };
                        news |= self.take(&frame).await?;
                    }
                    if news {
                        news_due.get_or_insert(heard + UNUSED_NEWS);
                    }
                }
                () = sleep_until(speak_at) => {
                    if heard.elapsed() >= IDLE {
                        return Err(Ending::Idle);
                    }
                    // The engine would drop a peer that says nothing, and the peer has its reasons.
                    Message::KeepAlive.write(self.to.batch());
                    speak_at = Instant::now() + KEEP_ALIVE;
                }
                () = sleep_until(news_due.unwrap_or(heard)), if news_due.is_some() => {
                    news_due = None;
                    if self.pending.lock().by_engine == 0 && self.remote.offers_beyond(&self.have.borrow()) {
                        return Ok(MeetAnew);
                    }
                }
            }
            self.to.flush().await.map_err(|_| Ending::Released)?;
        }
    }

    /// Takes a message; whether it was news of a piece that we lack.
    async fn take(&mut self, frame: &Frame) -> Result<bool, Ending> {
        let message = frame.message()?;
        if let Message::Extended { id, .. } = message {
            if let Said::Reply(reply) = self.extensions.take(id, frame.extended_payload(), Some(self.metadata)) {
                let _ = self.replies.try_send(reply);
            }
            return Ok(false);
        }
        let verdict = self.remote.judge(message, &self.have.borrow())?;
        match verdict {
            Verdict::Pass => {}
            Verdict::PassBlock(len) => {
                self.bytes.inc_by(len as u64);
                let mut pending = self.pending.lock();
                pending.by_engine = pending.by_engine.saturating_sub(1);
            }
            Verdict::PassRequest(block) => {
                self.may_request().await?;
                self.pending.lock().by_peer.push_back(block);
            }
            Verdict::Refuse => {
                self.refused.inc();
                return Ok(false);
            }
            Verdict::Drop => return Ok(false),
        }
        self.to.batch().extend_from_slice(frame.as_bytes());
        Ok(match message {
            // What was asked of a peer that chokes us will not come.
            Message::Choke => {
                self.pending.lock().by_engine = 0;
                false
            }
            Message::Have(piece) => !self.have.borrow().contains(piece as usize),
            Message::Bitfield(_) | Message::Unchoke => self.remote.offers_beyond(&self.have.borrow()),
            _ => false,
        })
    }

    /// Waits, and so stops reading, until the peer has taken some of what it asked for.
    async fn may_request(&mut self) -> Result<(), Ending> {
        if let Ok(permit) = self.requests.try_acquire() {
            permit.forget();
            return Ok(());
        }
        self.to.flush().await.map_err(|_| Ending::Released)?;
        self.requests.acquire().await.map_err(|_| Ending::Released)?.forget();
        Ok(())
    }
}

/// From the engine, and from ourselves, to the peer.
struct Outward<'a, W> {
    from: FrameReader<OwnedReadHalf>,
    to: &'a mut FrameWriter<W>,
    have: &'a mut watch::Receiver<PieceSet>,
    /// The pieces the peer was told of.
    told: &'a mut PieceSet,
    requests: &'a Semaphore,
    pending: &'a Pending,
    replies: &'a mut mpsc::Receiver<Bytes>,
    bytes: &'a prometheus::IntCounter,
}

impl<W: AsyncWrite + Unpin> Outward<'_, W> {
    async fn run(mut self) -> Result<MeetAnew, Ending> {
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        loop {
            self.to.flush().await?;
            tokio::select! {
                // News and replies first: they are small, and a busy engine must not keep them waiting.
                biased;
                changed = self.have.changed() => {
                    changed.map_err(|_| Ending::TorrentLeft)?;
                    self.tell();
                }
                Some(reply) = self.replies.recv() => self.to.batch().extend_from_slice(&reply),
                frame = self.from.frame() => self.take(&frame.map_err(|_| Ending::Released)?)?,
                _ = keep_alive.tick() => Message::KeepAlive.write(self.to.batch()),
            }
            while self.to.batch().len() < BATCH {
                let Some(frame) = self.from.buffered()? else { break };
                self.take(&frame)?;
            }
        }
    }

    fn tell(&mut self) {
        let have = self.have.borrow_and_update();
        for piece in have.beyond(self.told) {
            Message::Have(u32::try_from(piece).expect("pieces are fewer than 2^20")).write(self.to.batch());
        }
        self.told.extend(&have);
    }

    fn take(&mut self, frame: &Frame) -> Result<(), Ending> {
        match frame.message()? {
            Message::KeepAlive | Message::Have(_) | Message::Bitfield(_) | Message::Extended { .. } => return Ok(()),
            Message::Request(_) => self.pending.lock().by_engine += 1,
            Message::Piece { index, begin, data } => {
                let mut pending = self.pending.lock();
                let answers = |block: &Block| (block.index, block.begin) == (index, begin);
                let Some(at) = pending.by_peer.iter().position(answers) else { return Ok(()) };
                pending.by_peer.remove(at);
                self.requests.add_permits(1);
                self.bytes.inc_by(data.len() as u64);
            }
            _ => {}
        }
        self.to.batch().extend_from_slice(frame.as_bytes());
        Ok(())
    }
}
