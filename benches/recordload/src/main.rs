//! What the record service costs: many connections from one thread, so that the generator needs less than the server.
//!
//! Each command prints one JSON object. `benches/records.mjs` runs them.

mod book;
mod fanout;
mod fleet;
mod gets;
mod memory;
mod process;
mod record;
mod times;

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};

/// Where to, and whose processor time and memory are looked at.
#[derive(Args, Clone, Debug)]
struct Server {
    #[arg(long)]
    addr: SocketAddr,
    #[arg(long)]
    pid: u32,
}

#[derive(Parser)]
enum Command {
    /// Gets of records that the server holds.
    #[command(subcommand)]
    Gets(Gets),
    /// Puts to a record that many follow.
    Fanout(fanout::Fanout),
    /// Puts of many records.
    Book(book::Book),
    /// Memory that subscriptions take.
    Memory(memory::Memory),
}

#[derive(Subcommand)]
enum Gets {
    /// `dht_get` over WebSockets that stay open.
    Socket(gets::Load),
    /// `GET /v1/records/{key}` over connections that stay open.
    Http(gets::Load),
    /// The same of a Pkarr relay: `GET /{key}`.
    Pkarr(gets::Load),
}

fn main() -> anyhow::Result<()> {
    let report = match Command::parse() {
        Command::Gets(Gets::Socket(load)) => gets::socket(&load),
        Command::Gets(Gets::Http(load)) => gets::http(&load),
        Command::Gets(Gets::Pkarr(load)) => gets::pkarr(&load),
        Command::Book(book) => book.run(),
        Command::Fanout(fanout) => fanout.run(),
        Command::Memory(memory) => memory.run(),
    }?;
    println!("{report}");
    Ok(())
}
