//! A remote peer for tests: it speaks the peer wire over any stream, and does as it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::pieces::PieceSet;
use crate::wire::extension::{ExtendedHandshake, METADATA_PIECE_LEN, MetadataMessage};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::metainfo::Metainfo;
use crate::wire::peer::{BLOCK_LEN, Block, Frame, HANDSHAKE_LEN, Handshake, Message, Reserved};

/// How long a test waits for anything; longer than the door is ever silent.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// The id it wants on `ut_metadata` messages.
pub(super) const UT_METADATA: u8 = 7;

pub(super) struct Puppet<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Puppet<S> {
    /// Exchanges handshakes.
    pub(super) async fn greet(mut stream: S, info_hash: InfoHash, peer_id: PeerId) -> Self {
        // All that a browser sets, and the fast extension is among it.
        let reserved = Reserved([0, 0, 0, 0, 0, 0x10, 0, 0x04]);
        stream.write_all(&Handshake { reserved, info_hash, peer_id }.encode()).await.unwrap();
        let mut bytes = [0; HANDSHAKE_LEN];
        timeout(DEADLINE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
        let theirs = Handshake::decode(&bytes).unwrap();
        assert_eq!(theirs.info_hash, info_hash);
        assert!(theirs.reserved.extended() && !theirs.reserved.fast());
        Self { stream, buffer: BytesMut::new() }
    }

    pub(super) async fn say(&mut self, message: Message<'_>) {
        self.stream.write_all(&message.encode()).await.unwrap();
    }

    /// Says several things in one breath.
    pub(super) async fn say_all(&mut self, messages: &[Message<'_>]) {
        let all: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        self.write(&all).await;
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends an extension handshake.
    pub(super) async fn hello(&mut self, metadata_size: Option<usize>) {
        let extensions = BTreeMap::from([("ut_metadata".to_owned(), UT_METADATA)]);
        let hello = ExtendedHandshake { extensions, metadata_size, ..Default::default() };
        self.say(Message::Extended { id: 0, payload: &hello.encode() }).await;
    }

    /// Sends a metadata message under the id that the door gave out.
    pub(super) async fn metadata(&mut self, message: MetadataMessage<'_>) {
        self.say(Message::Extended { id: 3, payload: &message.encode() }).await;
    }

    /// The next frame; `None` when the other side closed.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::split(&mut self.buffer, 1 << 20).unwrap() {
                return Some(frame);
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await.expect("to hear something");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next frame that `pick` finds something in.
    pub(super) async fn hear<T>(&mut self, mut pick: impl FnMut(&Frame, Message<'_>) -> Option<T>) -> T {
        loop {
            let frame = self.next().await.expect("the other side stays");
            if let Some(found) = pick(&frame, frame.message().unwrap()) {
                return found;
            }
        }
    }

    /// The metadata size of the next extension handshake.
    pub(super) async fn hear_hello(&mut self) -> Option<usize> {
        let hello = |_: &Frame, message: Message<'_>| match message {
            Message::Extended { id: 0, payload } => Some(ExtendedHandshake::decode(payload).unwrap()),
            _ => None,
        };
        self.hear(hello).await.metadata_size
    }

    /// The payload of the next metadata message.
    pub(super) async fn hear_metadata(&mut self) -> Bytes {
        let pick = |frame: &Frame, message: Message<'_>| match message {
            Message::Extended { id: UT_METADATA, .. } => Some(frame.extended_payload()),
            _ => None,
        };
        self.hear(pick).await
    }

    /// Serves metadata and content until the other side leaves, as a page that has everything.
    pub(super) async fn seed(mut self, metainfo: &Metainfo, content: &[u8]) {
        self.hello(Some(metainfo.info().len())).await;
        let mut all = PieceSet::none(metainfo.pieces());
        (0..metainfo.pieces()).for_each(|piece| assert!(all.insert(piece)));
        self.say(Message::Bitfield(all.as_bitfield())).await;
        while let Some(frame) = self.next().await {
            match frame.message().unwrap() {
                Message::Interested => self.say(Message::Unchoke).await,
                Message::Request(Block { index, begin, length }) => {
                    let start = index as usize * metainfo.piece_length() as usize + begin as usize;
                    let data = &content[start..start + length as usize];
                    // The other side may leave in the middle, having what it wants.
                    let _ = self.stream.write_all(&Message::Piece { index, begin, data }.encode()).await;
                }
                Message::Extended { id: UT_METADATA, payload } => self.give_metadata(metainfo, payload).await,
                _ => {}
            }
        }
    }

    /// Says that it has one piece, and gives garbage for the last block of it and nothing else, until the other side
    /// leaves.
    pub(super) async fn spoil(mut self, metainfo: &Metainfo, piece: usize, spoilt: oneshot::Sender<()>) {
        self.hello(Some(metainfo.info().len())).await;
        let mut has = PieceSet::none(metainfo.pieces());
        assert!(has.insert(piece));
        self.say(Message::Bitfield(has.as_bitfield())).await;
        let last = blocks(metainfo, piece).last().expect("a piece has blocks");
        let mut spoilt = Some(spoilt);
        while let Some(frame) = self.next().await {
            match frame.message().unwrap() {
                Message::Interested => self.say(Message::Unchoke).await,
                Message::Request(block) if block == last => {
                    let data = vec![0xee; block.length as usize];
                    let given = Message::Piece { index: block.index, begin: block.begin, data: &data }.encode();
                    // The other side may leave in the middle.
                    let _ = self.stream.write_all(&given).await;
                    spoilt.take().map(|spoilt| spoilt.send(()));
                }
                Message::Extended { id: UT_METADATA, payload } => self.give_metadata(metainfo, payload).await,
                _ => {}
            }
        }
    }

    async fn give_metadata(&mut self, metainfo: &Metainfo, request: &[u8]) {
        let Ok(MetadataMessage::Request { piece }) = MetadataMessage::decode(request) else { return };
        let data = metainfo.info().chunks(METADATA_PIECE_LEN).nth(piece).unwrap();
        let total_size = Some(metainfo.info().len());
        self.metadata(MetadataMessage::Data { piece, total_size, data }).await;
    }

    /// Downloads everything, asking for each piece when it is told of it. Says nothing of what it has: the other side
    /// must do with a peer that never sends a bitfield.
    pub(super) async fn leech(mut self, metainfo: &Metainfo) -> Vec<u8> {
        let mut content = vec![0; metainfo.total_length() as usize];
        let (mut known, mut missing) = (PieceSet::none(metainfo.pieces()), content.len());
        let mut asked = PieceSet::none(metainfo.pieces());
        let mut unchoked = false;
        self.say(Message::Interested).await;
        while missing > 0 {
            let frame = self.next().await.expect("the other side stays");
            match frame.message().unwrap() {
                Message::Unchoke => unchoked = true,
                Message::Bitfield(bits) => known.extend(&PieceSet::from_bitfield(bits, metainfo.pieces()).unwrap()),
                Message::Have(piece) => assert!(known.insert(piece as usize), "told of {piece} twice"),
                Message::Piece { index, begin, data } => {
                    let start = index as usize * metainfo.piece_length() as usize + begin as usize;
                    content[start..start + data.len()].copy_from_slice(data);
                    missing -= data.len();
                }
                _ => {}
            }
            let wanted: Vec<usize> = if unchoked { known.beyond(&asked).collect() } else { Vec::new() };
            for piece in wanted {
                asked.insert(piece);
                for block in blocks(metainfo, piece) {
                    self.say(Message::Request(block)).await;
                }
            }
        }
        content
    }
}

/// The blocks of a piece.
pub(super) fn blocks(metainfo: &Metainfo, piece: usize) -> impl Iterator<Item = Block> {
    let start = piece as u64 * u64::from(metainfo.piece_length());
    let length = u64::from(metainfo.piece_length()).min(metainfo.total_length() - start) as u32;
    (0..length).step_by(BLOCK_LEN as usize).map(move |begin| Block {
        index: piece as u32,
        begin,
        length: BLOCK_LEN.min(length - begin),
    })
}
