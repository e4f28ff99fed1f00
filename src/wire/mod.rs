//! Bytes ⇄ types, and nothing else.
//!
//! Every format Swarmgate speaks has its page here. Nothing in this room knows about tokio, clocks, randomness or
//! logging, and it imports no other room: anyone can test it with a table. Types that leave a parser are valid by
//! construction — twenty bytes means exactly twenty, and a [`item::VerifiedItem`] can only be made by verifying.

pub mod bencode;
pub mod byte_range;
pub mod compact;
pub mod extension;
pub mod hex;
pub mod holepunch;
pub mod id;
pub mod item;
mod json;
pub mod krpc;
pub mod local_discovery;
pub mod magnet;
pub mod metainfo;
pub mod peer;
pub mod peer_exchange;
pub mod pointer;
pub mod proxy_protocol;
pub mod record_exchange;
pub mod record_messages;
pub mod stun;
pub mod tracker;
pub mod tracker_client;
pub mod tracker_http;
pub mod tracker_udp;
pub mod tracker_ws;
pub mod websocket;

#[cfg(test)]
mod vectors;
