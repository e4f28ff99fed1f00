//! Swarmgate joins three networks that cannot see each other: browsers (WebTorrent), the BitTorrent DHT, and TCP swarms.
//!
//! The rooms, what each is for, and what it must not know:
//!
//! | room | for | must not know |
//! |---|---|---|
//! | [`wire`] | bytes ⇄ types | any other room, tokio, clocks, randomness |
//! | [`tracker`] | who is in which swarm, and introducing them to each other | what the peers exchange; who answers other messages |
//! | [`bridge`] | swarms joined on their web side and their native side | records; what the bytes are for |
//! | [`gossip`] | peers tell each other the newest version of records; who is near on the local network | connections, transports, and where versions are kept |
//! | [`dht`] | our node of the BitTorrent DHT | what records and torrents are used for |
//! | [`records`] | the newest version of every record, on disk and from the DHT | who asks, and over what |
//! | [`pins`] | torrents and sites kept online for their owners | who asks, and over what |
//! | [`web`] | the HTTP doors: app, tracker, record API, health | how any room does its work |
//! | [`node`] | putting the rooms together, starting and stopping them | |
//! | [`cli`] | what people type | the inside of any room |

pub mod bridge;
pub mod cli;
pub mod config;
pub mod dht;
pub mod gossip;
pub mod metrics;
pub mod net;
pub mod node;
pub mod pins;
pub mod rate;
pub mod records;
pub mod tasks;
pub mod tracker;
pub mod web;
pub mod wire;
