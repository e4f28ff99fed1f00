//! A peer that waits for its torrent to be live. Meanwhile metadata goes both ways: asked of the peer while nobody knows
//! it, offered to the peer as soon as we do.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, interval_at, sleep_until};

use super::exchanges::Exchanges;
use super::extensions::{Extensions, Offer, Said};
use super::remote::Waiting;
use super::{Connection, Ending, IDLE, KEEP_ALIVE};
use crate::bridge::fetches::Turn;
use crate::bridge::metadata::{Fetch, FetchError};
use crate::bridge::stage::{Live, Stage};
use crate::bridge::swarm::Swarm;
use crate::wire::extension::HANDSHAKE_ID;
use crate::wire::metainfo::Metainfo;
use crate::wire::peer::Message;

/// How long a peer may take for a piece of metadata.
const PIECE_DEADLINE: Duration = Duration::from_secs(15);

/// How long a peer may take for all of the metadata: some time to begin with, and what it takes at a rate that the slowest
/// of connections has. Others wait for its turn to end.
const WHOLE_DEADLINE: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_A_SECOND: usize = 64 << 10;

/// Greets the peer with the extension handshake and holds it. Returns what it told of itself, once the torrent is live.
pub(super) async fn until_live<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    swarm: &Arc<Swarm>,
    peer: &mut Connection<R, W>,
    extensions: &mut Extensions,
    exchanges: &Exchanges,
) -> Result<(Waiting, Live), Ending> {
    let mut stages = swarm.stage.subscribe();
    let speaks = peer.theirs.reserved.extended();
    let mut metainfo = stages.borrow_and_update().metainfo().cloned();
    if speaks {
        greet(swarm, peer, metainfo.as_deref(), exchanges).await?;
    }
    let mut waiting = Waiting::default();
    let mut fetching: Option<Fetching<'_>> = None;
    let mut turn = Box::pin(swarm.fetches.turn(peer.remote.ip()));
    let mut gave_up = false;
    let mut heard = Instant::now();
    let mut keep_alive = interval_at(heard + KEEP_ALIVE, KEEP_ALIVE);
    loop {
        let now_at = stages.borrow_and_update().clone();
        if let (None, Some(known)) = (&metainfo, now_at.metainfo()) {
            // Whoever was greeted without the metadata's size asks for it only after a greeting that has it.
            metainfo = Some(known.clone());
            fetching = None;
            if speaks {
                greet(swarm, peer, Some(known), exchanges).await?;
            }
        }
        let is_topic = matches!(now_at, Stage::Topic);
        if let Stage::Live(live) = now_at {
            return Ok((waiting, live));
        }
        let may_fetch = metainfo.is_none()
            && !is_topic
            && !gave_up
            && fetching.is_none()
            && extensions.exchanges_metadata()
            && extensions.metadata_size.is_some();
        let stalls = fetching.as_ref().map_or(heard + IDLE, Fetching::deadline);
        tokio::select! {
            frame = peer.reader.frame() => {
                heard = Instant::now();
                let frame = frame?;
                let Message::Extended { id, .. } = frame.message()? else {
                    waiting.take(frame.message()?)?;
                    continue;
                };
                // A peer that rejected a request may have more to give when it greets again.
                gave_up &= id != HANDSHAKE_ID;
                let known = metainfo.as_deref().map(Metainfo::info);
                match extensions.take(id, frame.extended_payload(), known, exchanges) {
                    Said::Nothing => {}
                    Said::Reply(frame) => peer.writer.send(&frame).await?,
                    Said::Lied => return Err(Ending::Misbehaved("a forged record")),
                    Said::Rejected => {
                        gave_up |= fetching.take().is_some();
                        swarm.metrics.metadata.with_label_values(&["rejected"]).inc();
                    }
                    Said::Piece(piece, data) => {
                        let Some(current) = &mut fetching else { continue };
                        if let Some(metadata) = counted(swarm, current.fetch.piece(piece, data))? {
                            swarm.metrics.metadata.with_label_values(&["ok"]).inc();
                            // Full means that another peer was first.
                            let _ = swarm.metadata.try_send(metadata);
                            fetching = None;
                            gave_up = true;
                        } else {
                            current.piece_by = heard + PIECE_DEADLINE;
                            ask(current, peer, extensions).await?;
                        }
                    }
                }
            }
            frame = exchanges.frame() => peer.writer.send(&frame).await?,
            changed = stages.changed() => changed.map_err(|_| Ending::TorrentLeft)?,
            begun = &mut turn, if may_fetch => {
                turn.set(swarm.fetches.turn(peer.remote.ip()));
                let size = extensions.metadata_size.unwrap_or_default();
                let fetch = counted(swarm, Fetch::new(swarm.info_hash, size, swarm.max_metadata))?;
                let now = Instant::now();
                let whole_by = now + WHOLE_DEADLINE + Duration::from_secs((size / SLOWEST_BYTES_A_SECOND) as u64);
                let mut started = Fetching { fetch, piece_by: now + PIECE_DEADLINE, whole_by, _turn: begun };
                ask(&mut started, peer, extensions).await?;
                fetching = Some(started);
            }
            () = sleep_until(stalls) => {
                let Some(_) = fetching else { return Err(Ending::Idle) };
                swarm.metrics.metadata.with_label_values(&["stalled"]).inc();
                return Err(Ending::MetadataStalled);
            }
            _ = keep_alive.tick() => peer.writer.send(&Message::KeepAlive.encode()).await?,
        }
    }
}

/// Sends our extension handshake.
async fn greet<R, W: AsyncWrite + Unpin>(
    swarm: &Swarm,
    peer: &mut Connection<R, W>,
    metainfo: Option<&Metainfo>,
    exchanges: &Exchanges,
) -> Result<(), Ending> {
    let records = exchanges.records();
    let offer = Offer {
        metadata: metainfo.map(Metainfo::info),
        records: records.is_some(),
        peers: exchanges.peers(),
        introductions: exchanges.introductions(),
    };
    peer.writer.send(&Extensions::hello(offer, swarm.ourselves.port)).await?;
    if let Some(records) = records {
        records.offered();
    }
    Ok(())
}

/// Metadata on its way from this peer.
struct Fetching<'a> {
    fetch: Fetch,
    /// When the next piece must be here, and when all of them.
    piece_by: Instant,
    whole_by: Instant,
    _turn: Turn<'a>,
}

impl Fetching<'_> {
    fn deadline(&self) -> Instant {
        self.piece_by.min(self.whole_by)
    }
}

async fn ask<R, W: AsyncWrite + Unpin>(
    fetching: &mut Fetching<'_>,
    peer: &mut Connection<R, W>,
    extensions: &Extensions,
) -> Result<(), Ending> {
    for piece in fetching.fetch.requests() {
        if let Some(frame) = extensions.request(piece) {
            peer.writer.send(&frame).await?;
        }
    }
    Ok(())
}

fn counted<T>(swarm: &Swarm, result: Result<T, FetchError>) -> Result<T, Ending> {
    if let Err(error) = &result {
        let label = match error {
            FetchError::TooLarge => "too_large",
            FetchError::WrongPiece => "wrong_piece",
            FetchError::WrongHash => "wrong_hash",
        };
        swarm.metrics.metadata.with_label_values(&[label]).inc();
    }
    result.map_err(Ending::from)
}
