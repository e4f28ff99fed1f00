//! The extension protocol with one peer: we speak it ourselves, the engine never does. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::exchanges::Exchanges;
use crate::bridge::CLIENT;
use crate::bridge::metadata::Serving;
use crate::wire::extension::{ExtendedHandshake, HANDSHAKE_ID, MetadataMessage};
use crate::wire::peer::Message;
use crate::wire::{holepunch, peer_exchange, record_exchange};

/// The id peers must use for their `ut_pex` messages to us.
const OUR_UT_PEX: u8 = 1;

/// And for those of `ut_holepunch`.
const OUR_UT_HOLEPUNCH: u8 = 2;

/// The id peers must use for their `ut_metadata` messages to us.
const OUR_UT_METADATA: u8 = 3;

/// And for those of the record exchange.
const OUR_RECORD_EXCHANGE: u8 = 4;

/// Requests a peer may have outstanding, told to it as `reqq`. Past it the door stops reading from that peer.
pub(super) const MAX_REQUESTS: u32 = 512;

/// Where the exchange stands.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// The id the peer wants on `ut_metadata` messages.
    their_ut_metadata: Option<u8>,
    /// The size of the metadata the peer says it has.
    pub(super) metadata_size: Option<usize>,
    serving: Serving,
}

/// How the extensions see the swarm at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offer<'a> {
    /// The torrent's metadata, once it is known.
    pub(super) metadata: Option<&'a Bytes>,
    /// Records are exchanged here.
    pub(super) records: bool,
    /// Addresses of other peers are exchanged; `None` where there was never talk of it.
    pub(super) peers: Option<bool>,
    /// And so introductions to them.
    pub(super) introductions: Option<bool>,
}

/// What a peer's extension message asks of the door.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// To send this frame.
    Reply(Bytes),
    /// To take this piece of metadata, if it was asked for.
    Piece(usize, Bytes),
    /// It has no metadata to give.
    Rejected,
    /// It lies.
    Lied,
}

impl Extensions {
    /// Our extension handshake. It is sent again when metadata arrives: WebTorrent asks for metadata only on a handshake
    /// that carries its size.
    pub(super) fn hello(offer: Offer<'_>, port: u16) -> Bytes {
        let mut extensions = BTreeMap::from([("ut_metadata".to_owned(), OUR_UT_METADATA)]);
        if offer.records {
            extensions.insert(record_exchange::NAME.to_owned(), OUR_RECORD_EXCHANGE);
        }
        let of_peers =
            [(peer_exchange::NAME, OUR_UT_PEX, offer.peers), (holepunch::NAME, OUR_UT_HOLEPUNCH, offer.introductions)];
        for (name, id, offered) in of_peers {
            // Once it is known that the torrent is private, what was offered before is taken back.
            extensions.extend(offered.map(|now| (name.to_owned(), if now { id } else { 0 })));
        }
        let hello = ExtendedHandshake {
            extensions,
            metadata_size: offer.metadata.map(Bytes::len),
            port: Some(port),
            requests: Some(MAX_REQUESTS),
            client: Some(CLIENT.to_owned()),
        };
        Message::Extended { id: HANDSHAKE_ID, payload: &hello.encode() }.encode()
    }

    /// Takes an extended message. Malformed ones are ignored: they harm nobody, and clients differ.
    pub(super) fn take(&mut self, id: u8, payload: Bytes, metadata: Option<&Bytes>, exchanges: &Exchanges) -> Said {
        match id {
            HANDSHAKE_ID => {
                if let Ok(hello) = ExtendedHandshake::decode(&payload) {
                    self.greeted(&hello);
                    exchanges.greeted(&hello);
                }
                Said::Nothing
            }
            OUR_RECORD_EXCHANGE => match exchanges.take_records(&payload) {
                Err(_) => Said::Lied,
                Ok(()) => Said::Nothing,
            },
            OUR_UT_PEX => {
                exchanges.take_peers(&payload);
                Said::Nothing
            }
            OUR_UT_HOLEPUNCH => {
                exchanges.take_introduction(&payload);
                Said::Nothing
            }
            OUR_UT_METADATA => self.metadata(&payload, metadata),
            // Whatever was not offered.
            _ => Said::Nothing,
        }
    }

    /// The frame that asks for a piece of metadata; `None` when the peer does not exchange it.
    pub(super) fn request(&self, piece: usize) -> Option<Bytes> {
        let payload = MetadataMessage::Request { piece }.encode();
        self.their_ut_metadata.map(|id| Message::Extended { id, payload: &payload }.encode())
    }

    /// Whether the peer was given some of the metadata.
    pub(super) fn gave_metadata(&self) -> bool {
        self.serving.has_served()
    }

    /// Whether the peer exchanges metadata.
    pub(super) fn exchanges_metadata(&self) -> bool {
        self.their_ut_metadata.is_some()
    }

    fn greeted(&mut self, hello: &ExtendedHandshake) {
        if let Some(id) = hello.extensions.get("ut_metadata") {
            self.their_ut_metadata = (*id != 0).then_some(*id);
        }
        self.metadata_size = hello.metadata_size.or(self.metadata_size);
    }

    fn metadata(&mut self, payload: &Bytes, metadata: Option<&Bytes>) -> Said {
        match MetadataMessage::decode(payload) {
            Ok(MetadataMessage::Request { piece }) => {
                let Some(id) = self.their_ut_metadata else { return Said::Nothing };
                let answer = self.serving.answer(piece, metadata);
                Said::Reply(Message::Extended { id, payload: &answer }.encode())
            }
            Ok(MetadataMessage::Data { piece, data, .. }) => Said::Piece(piece, payload.slice_ref(data)),
            Ok(MetadataMessage::Reject { .. }) => Said::Rejected,
            Ok(MetadataMessage::Unknown) | Err(_) => Said::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::swarm::{Transport, tests::swarm};
    use crate::wire::id::InfoHash;

    fn hello(id: u8, size: Option<usize>) -> Bytes {
        let extensions = BTreeMap::from([("ut_metadata".to_owned(), id), ("ut_pex".to_owned(), 1)]);
        Bytes::from(ExtendedHandshake { extensions, metadata_size: size, ..Default::default() }.encode())
    }

    /// With whom nothing is exchanged beside metadata.
    fn nobody() -> Exchanges {
        let (swarm, _from_peers) = swarm(InfoHash([7; 20]));
        Exchanges::new(&swarm, (Transport::WebRtc, ([192, 0, 2, 1], 1).into(), true), false)
    }

    fn request(piece: usize) -> Bytes {
        Bytes::from(MetadataMessage::Request { piece }.encode())
    }

    #[test]
    fn ids_are_the_receivers_and_later_handshakes_add() {
        let (mut peer, nobody) = (Extensions::default(), nobody());
        assert_eq!(peer.take(3, request(0), None, &nobody), Said::Nothing, "it never said which id it wants");
        assert_eq!((peer.request(0), peer.exchanges_metadata()), (None, false));
        peer.take(0, hello(7, None), None, &nobody);
        peer.take(0, hello(7, Some(99)), None, &nobody);
        peer.take(0, hello(9, None), None, &nobody);
        assert_eq!(peer.metadata_size, Some(99));
        assert_eq!(peer.request(2).unwrap()[4..6], [20, 9]);
        peer.take(0, hello(0, None), None, &nobody);
        assert!(!peer.exchanges_metadata(), "id 0 switches it off");
    }

    #[test]
    fn metadata_is_served_and_taken() {
        let whole = Bytes::from_static(b"d4:name1:xe");
        let (mut peer, nobody) = (Extensions::default(), nobody());
        peer.take(0, hello(7, None), None, &nobody);
        let Said::Reply(frame) = peer.take(3, request(0), Some(&whole), &nobody) else { panic!("a reply") };
        assert!(frame.ends_with(&whole) && frame[5] == 7);
        let data = MetadataMessage::Data { piece: 0, total_size: Some(11), data: &whole }.encode();
        assert_eq!(peer.take(3, Bytes::from(data), None, &nobody), Said::Piece(0, whole.clone()));
        let reject = MetadataMessage::Reject { piece: 0 }.encode();
        assert_eq!(peer.take(3, Bytes::from(reject), None, &nobody), Said::Rejected);
        for (id, payload) in [(1, "peers of mine"), (3, "nonsense"), (0, "i1e"), (200, "")] {
            assert_eq!(peer.take(id, Bytes::from(payload), Some(&whole), &nobody), Said::Nothing);
        }
    }

    #[test]
    fn our_hello_tells_the_size_when_it_is_known() {
        let read = |frame: Bytes| ExtendedHandshake::decode(&frame[6..]).unwrap();
        assert_eq!(read(Extensions::hello(Offer::default(), 6881)).metadata_size, None);
        let metadata = Bytes::from_static(b"12345");
        let hello = read(Extensions::hello(Offer { metadata: Some(&metadata), ..Offer::default() }, 6881));
        assert_eq!((hello.metadata_size, hello.port), (Some(5), Some(6881)));
        assert_eq!(hello.extensions, BTreeMap::from([("ut_metadata".to_owned(), 3)]));
        let hello =
            read(Extensions::hello(Offer { metadata: Some(&metadata), records: true, ..Offer::default() }, 6881));
        assert_eq!(hello.extensions.get("sg_record"), Some(&4));
    }
}
