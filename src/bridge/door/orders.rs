//! What a peer asked for, read from disk and given in its order.
//!
//! The engine has no part in this. Through it each block would cross a loopback connection twice and be read by itself,
//! with a thread handed over for each; and it knows no cancels, and has one queue for all peers, without a bound.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, BytesMut};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

use super::extensions::MAX_REQUESTS;
use crate::bridge::stage::Live;
use crate::bridge::storage::Folder;
use crate::wire::peer::Block;

/// Blocks read at once: 128 KiB. A thread takes longer to get going than to read them where they are cached.
const AT_ONCE: usize = 8;

/// Length prefix, id, piece and offset of a block's message (BEP 3).
const HEADER: usize = 13;
const PIECE: u8 = 7;

/// The blocks that a peer waits for.
#[derive(Debug)]
pub(super) struct Orders {
    /// A std mutex: both directions of a connection run in one task and hold it for a step.
    queue: Mutex<VecDeque<Block>>,
    placed: Notify,
    /// One permit for each block that the peer may still ask for.
    room: Semaphore,
}

impl Orders {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::default(), placed: Notify::new(), room: Semaphore::new(MAX_REQUESTS as usize) }
    }

    /// Whether the peer may ask for another block now.
    pub(super) fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Takes a request, when the peer has taken enough of what it asked for before.
    pub(super) async fn place(&self, block: Block) {
        // The semaphore is never closed.
        if let Ok(permit) = self.room.acquire().await {
            permit.forget();
        }
        self.queue().push_back(block);
        self.placed.notify_one();
    }

    /// The peer does not want the block any more (BEP 3). One that is being read comes nevertheless.
    pub(super) fn cancel(&self, block: Block) {
        let mut queue = self.queue();
        let before = queue.len();
        queue.retain(|waits| *waits != block);
        self.room.add_permits(before - queue.len());
    }

    /// Whether the peer waits for nothing that is not being read yet.
    fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    /// Resolves when there is something to read.
    async fn some(&self) {
        while self.is_empty() {
            self.placed.notified().await;
        }
    }

    fn take(&self) -> Vec<Block> {
        let mut queue = self.queue();
        let count = queue.len().min(AT_ONCE);
        queue.drain(..count).collect()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Block>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who reads them.
#[derive(Debug)]
pub(super) struct Reader {
    files: Folder,
    reads: Arc<Semaphore>,
    piece_length: u32,
    /// What is being read, and how many blocks that is.
    reading: Option<(JoinHandle<io::Result<BytesMut>>, usize)>,
    /// Memory for the next.
    spare: BytesMut,
}

impl Reader {
    pub(super) fn new(live: &Live) -> Self {
        let (files, piece_length) = (live.files.clone(), live.metainfo.piece_length());
        Self { reads: files.reads(), files, piece_length, reading: None, spare: BytesMut::new() }
    }

    /// Whether nothing is read or to be read.
    pub(super) fn is_idle(&self, orders: &Orders) -> bool {
        self.reading.is_none() && orders.is_empty()
    }

    /// Resolves when blocks have been read, and appends their messages to `out`; returns how many bytes of content they
    /// are. May be dropped at any await and called again.
    pub(super) async fn fill(&mut self, orders: &Orders, out: &mut BytesMut) -> io::Result<usize> {
        let (reading, count) = match &mut self.reading {
            Some(reading) => reading,
            none => {
                orders.some().await;
                let permit = self.reads.clone().acquire_owned().await.map_err(io::Error::other)?;
                let (files, piece_length) = (self.files.clone(), u64::from(self.piece_length));
                let (blocks, mut frames) = (orders.take(), std::mem::take(&mut self.spare));
                let count = blocks.len();
                let reading = spawn_blocking(move || {
                    let _permit = permit;
                    frames.clear();
                    blocks.iter().try_for_each(|block| read(&files, piece_length, *block, &mut frames))?;
                    Ok(frames)
                });
                none.insert((reading, count))
            }
        };
        let (read, count) = (reading.await, *count);
        self.reading = None;
        let mut frames = read.map_err(io::Error::other)??;
        orders.room.add_permits(count);
        let content = frames.len() - count * HEADER;
        if out.is_empty() {
            std::mem::swap(out, &mut frames);
        } else {
            out.extend_from_slice(&frames);
        }
        // Who waits for nothing more may not come back for long, and there are many.
        self.spare = if orders.is_empty() { BytesMut::new() } else { frames };
        Ok(content)
    }
}

/// Appends a block's message.
fn read(files: &Folder, piece_length: u64, block: Block, out: &mut BytesMut) -> io::Result<()> {
    out.put_u32(block.length + HEADER as u32 - 4);
    out.put_u8(PIECE);
    out.put_u32(block.index);
    out.put_u32(block.begin);
    let start = out.len();
    out.resize(start + block.length as usize, 0);
    files.read(u64::from(block.index) * piece_length + u64::from(block.begin), &mut out[start..])
}
