//! Swarmgate joins three networks that cannot see each other: browsers (WebTorrent), the BitTorrent DHT, and TCP swarms.
//!
//! The rooms, what each is for, and what it must not know:
//!
//! | room | for | must not know |
//! |---|---|---|
//! | [`wire`] | bytes ⇄ types | any other room, tokio, clocks, randomness |
//! | [`dht`] | our node of the BitTorrent DHT | what records and torrents are used for |

pub mod config;
pub mod dht;
pub mod metrics;
pub mod tasks;
pub mod tracker;
pub mod wire;
