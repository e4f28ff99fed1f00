//! A peer joined to the engine: two streams of frames, each message judged on its way.
//!
//! The engine sees a peer with no extensions at all. What the engine says of its pieces is not passed on, since it
//! forgets some of it; peers are told from [`Live::have`], in which nothing can be missed. Nor is the engine asked for
//! blocks: what the peer wants of the pieces that are here, [`orders`](super::orders) gives it.
//!
//! When the engine and the peer wait for each other in vain, which [`ledger`](super::ledger) notices, the engine meets
//! the peer anew: over another loopback connection, with all that is known replayed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, Interval, interval_at, sleep_until, timeout};

use super::blame::{FirstPiece, Giver};
use super::exchanges::Exchanges;
use super::extensions::{Extensions, Said};
use super::frames::{FrameReader, FrameWriter};
use super::ledger::{Due, Ledger};
use super::orders::{Orders, Reader};
use super::remote::{Remote, Shape, Verdict, Waiting};
use super::{Connection, Ending, HANDSHAKE_DEADLINE, IDLE, KEEP_ALIVE};
use crate::bridge::pieces::PieceSet;
use crate::bridge::stage::Live;
use crate::bridge::swarm::Swarm;
use crate::wire::metainfo::Metainfo;
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
    (waiting, extensions): (Waiting, &mut Extensions),
    exchanges: &Exchanges,
    complete: &mut bool,
) -> Result<(), Ending> {
    let shape = Shape {
        pieces: live.metainfo.pieces(),
        piece_length: live.metainfo.piece_length(),
        total_length: live.metainfo.total_length(),
    };
    let mut remote = waiting.meet(shape)?;
    if remote.is_complete() {
        exchanges.is_seed();
    }
    let mut have = live.have.clone();
    let mut told_of = have.borrow_and_update().clone();
    Message::Bitfield(told_of.as_bitfield()).write(peer.writer.batch());
    let pending = Pending::new();
    let (orders, mut reader) = (Orders::new(), Reader::new(live));
    let giver = Giver::new(peer.remote.ip());
    let (replies, mut replies_rx) = mpsc::channel(REPLIES);
    let bytes = |direction| swarm.metrics.bytes.with_label_values(&[peer.transport.label(), direction]);
    let (bytes_in, bytes_out) = (bytes("in"), bytes("out"));
    let refused = swarm.metrics.refused.with_label_values(&["request"]);
    let ended = loop {
        let met = timeout(HANDSHAKE_DEADLINE, meet_engine(live, peer.theirs, &remote, &pending)).await;
        let (engine_reader, engine_writer) = met.map_err(|_| Ending::Released)??;
        let mut given = Given { first: FirstPiece::new(), last: None };
        let inward = Inward {
            from: &mut peer.reader,
            to: engine_writer,
            remote: &mut remote,
            extensions,
            exchanges,
            metainfo: &live.metainfo,
            shape,
            have: live.have.clone(),
            orders: &orders,
            pending: &pending,
            giver: &giver,
            given: &mut given,
            replies: &replies,
            bytes: &bytes_in,
            swarm,
            refused: &refused,
            heard: Instant::now(),
            speak_at: Instant::now() + KEEP_ALIVE,
        };
        let outward = Outward {
            from: engine_reader,
            to: &mut peer.writer,
            have: &mut have,
            told: &mut told_of,
            exchanges,
            orders: &orders,
            reader: &mut reader,
            pending: &pending,
            replies: &mut replies_rx,
            bytes: &bytes_out,
            swarm,
        };
        let ended = tokio::select! {
            ended = inward.run() => Some(ended),
            ended = outward.run() => Some(ended),
            due = pending.due() => match due {
                Due::MeetAnew => None,
                Due::LetGo => Some(Ending::Unresponsive),
            },
        };
        match ended {
            Some(Ending::Released) if given.is_worth_more(&live.have.borrow()) => {}
            Some(ending) => break ending,
            None => {}
        }
        swarm.metrics.met_anew.inc();
    };
    *complete = remote.is_complete();
    Err(ended)
}

/// What the peer has given since the engine met it.
struct Given {
    first: FirstPiece,
    /// The piece of the last block.
    last: Option<u32>,
}

impl Given {
    /// Whether the engine, which has hung up, shall meet the peer anew: what it gave did not all come to be, so that it
    /// may have been hung up on for a piece that another peer had damaged before; and it gave a good one.
    fn is_worth_more(&self, have: &PieceSet) -> bool {
        self.first.is_good() && self.last.is_some_and(|index| !have.contains(index as usize))
    }
}

/// The ledger as both directions hold it.
struct Pending {
    /// A std mutex: both directions run in one task and hold it for a step.
    ledger: Mutex<Ledger>,
    /// Something may be due at another time than before.
    changed: Notify,
}

impl Pending {
    fn new() -> Self {
        Self { ledger: Mutex::new(Ledger::new(Instant::now())), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the ledger, and lets [`Pending::due`] look again.
    fn update<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_one();
        result
    }

    /// Resolves when something is to be done about the peer.
    async fn due(&self) -> Due {
        loop {
            let due = self.lock().due();
            match due {
                Some((at, due)) if at <= Instant::now() => return due,
                Some((at, _)) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
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
    pending.lock().met_anew(Instant::now());
}

/// From the peer to the engine.
struct Inward<'a, R> {
    from: &'a mut FrameReader<R>,
    to: FrameWriter<OwnedWriteHalf>,
    remote: &'a mut Remote,
    extensions: &'a mut Extensions,
    exchanges: &'a Exchanges,
    metainfo: &'a Metainfo,
    shape: Shape,
    have: watch::Receiver<PieceSet>,
    orders: &'a Orders,
    pending: &'a Pending,
    giver: &'a Arc<Giver>,
    given: &'a mut Given,
    replies: &'a mpsc::Sender<Bytes>,
    bytes: &'a prometheus::IntCounter,
    swarm: &'a Swarm,
    refused: &'a prometheus::IntCounter,
    heard: Instant,
    /// When the engine is told that the peer lives.
    speak_at: Instant,
}

impl<R: AsyncRead + Unpin> Inward<'_, R> {
    /// Returns why it ended.
    async fn run(mut self) -> Ending {
        loop {
            if let Err(ending) = self.step().await {
                return ending;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Ending> {
        tokio::select! {
            frame = self.from.frame() => {
                self.heard = Instant::now();
                self.speak_at = self.heard + KEEP_ALIVE;
                self.take(&frame?).await?;
                while self.to.batch().len() < BATCH {
                    let Some(frame) = self.from.buffered()? else { break };
                    self.take(&frame).await?;
                }
            }
            () = sleep_until(self.speak_at) => {
                if self.heard.elapsed() >= IDLE {
                    return Err(Ending::Idle);
                }
                // The engine would drop a peer that says nothing, and the peer has its reasons.
                Message::KeepAlive.write(self.to.batch());
                self.speak_at += KEEP_ALIVE;
            }
        }
        self.to.flush().await.map_err(|_| Ending::Released)
    }

    async fn take(&mut self, frame: &Frame) -> Result<(), Ending> {
        let message = frame.message()?;
        if let Message::Extended { id, .. } = message {
            match self.extensions.take(id, frame.extended_payload(), Some(self.metainfo.info()), self.exchanges) {
                Said::Reply(reply) => drop(self.replies.try_send(reply)),
                Said::Lied => return Err(Ending::Misbehaved("a forged record")),
                Said::Nothing | Said::Piece(..) | Said::Rejected => {}
            }
            return Ok(());
        }
        let verdict = self.remote.judge(message, &self.have.borrow())?;
        let now = Instant::now();
        let passes = match verdict {
            Verdict::Pass => true,
            Verdict::Give(block) => {
                if !self.orders.has_room() {
                    // Reading stops until the peer has taken some: what the engine is to hear must not wait for that.
                    self.to.flush().await.map_err(|_| Ending::Released)?;
                }
                self.orders.place(block).await;
                false
            }
            Verdict::Withdraw(block) => {
                self.orders.cancel(block);
                false
            }
            Verdict::PassBlock { index, begin, data } => {
                self.bytes.inc_by(data.len() as u64);
                self.swarm.received(data.len());
                let awaited = self.pending.update(|pending| pending.peer_gives(index, begin, now));
                if awaited {
                    self.note((index, begin, data))?;
                }
                awaited
            }
            Verdict::Refuse => {
                self.refused.inc();
                false
            }
            Verdict::Drop => false,
        };
        match message {
            Message::Choke => self.pending.update(Ledger::peer_chokes),
            Message::Unchoke => self.pending.update(Ledger::peer_unchokes),
            _ => {}
        }
        if matches!(message, Message::Bitfield(_)) && self.remote.is_complete() {
            self.exchanges.is_seed();
        }
        let brings_news = match message {
            Message::Have(piece) => !self.have.borrow().contains(piece as usize),
            Message::Bitfield(_) | Message::Unchoke => true,
            _ => false,
        };
        if brings_news && self.remote.offers_beyond(&self.have.borrow()) {
            self.pending.update(|pending| pending.peer_has_news(now));
        }
        if passes {
            self.to.batch().extend_from_slice(frame.as_bytes());
        }
        Ok(())
    }

    /// Notes what the peer gives; an error if it is not the torrent's, or something before was not.
    fn note(&mut self, block: (u32, u32, &[u8])) -> Result<(), Ending> {
        if self.giver.has_lied() || self.given.first.is_bad(block, self.shape, self.metainfo) {
            return Err(Ending::Misbehaved("blocks that are not the torrent's"));
        }
        self.given.last = Some(block.0);
        self.swarm.blame().gave(self.giver, block);
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
    exchanges: &'a Exchanges,
    orders: &'a Orders,
    reader: &'a mut Reader,
    pending: &'a Pending,
    replies: &'a mut mpsc::Receiver<Bytes>,
    bytes: &'a prometheus::IntCounter,
    swarm: &'a Swarm,
}

impl<W: AsyncWrite + Unpin> Outward<'_, W> {
    /// Returns why it ended.
    async fn run(mut self) -> Ending {
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        loop {
            if let Err(ending) = self.step(&mut keep_alive).await {
                return ending;
            }
        }
    }

    async fn step(&mut self, keep_alive: &mut Interval) -> Result<(), Ending> {
        self.to.flush().await?;
        if self.reader.is_idle(self.orders) {
            self.to.release();
        }
        tokio::select! {
            // News and replies first: they are small, and a busy engine must not keep them waiting.
            biased;
            changed = self.have.changed() => {
                changed.map_err(|_| Ending::TorrentLeft)?;
                self.tell();
            }
            Some(reply) = self.replies.recv() => self.to.batch().extend_from_slice(&reply),
            frame = self.exchanges.frame() => self.to.batch().extend_from_slice(&frame),
            frame = self.from.frame() => self.take(&frame.map_err(|_| Ending::Released)?)?,
            given = self.reader.fill(self.orders, self.to.batch()) => {
                let given = given.map_err(Ending::Disk)?;
                self.bytes.inc_by(given as u64);
                self.swarm.sent(given);
            }
            _ = keep_alive.tick() => Message::KeepAlive.write(self.to.batch()),
        }
        while self.to.batch().len() < BATCH {
            let Some(frame) = self.from.buffered()? else { break };
            self.take(&frame)?;
        }
        Ok(())
    }

    fn tell(&mut self) {
        let have = self.have.borrow_and_update();
        for piece in have.beyond(self.told) {
            Message::Have(u32::try_from(piece).expect("pieces are fewer than 2^20")).write(self.to.batch());
        }
        self.told.extend(&have);
    }

    fn take(&mut self, frame: &Frame) -> Result<(), Ending> {
        let passes = match frame.message()? {
            // Blocks are given by the door: the engine was asked for none.
            Message::KeepAlive
            | Message::Have(_)
            | Message::Bitfield(_)
            | Message::Piece { .. }
            | Message::Extended { .. } => false,
            Message::Request(block) => self.pending.update(|pending| pending.engine_asks(block, Instant::now())),
            _ => true,
        };
        if passes {
            self.to.batch().extend_from_slice(frame.as_bytes());
        }
        Ok(())
    }
}
