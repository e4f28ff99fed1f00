//! Measures the DHT room by itself. It is compiled from the server's own sources, without the other rooms.

#![allow(dead_code, unused_imports, reason = "the rest of the server uses what is not used here")]

mod half_dead;
mod received;
mod scale;
mod versus;

#[path = "../../../src"]
mod source {
    pub mod config;
    pub mod dht;
    pub mod metrics;
    pub mod net;
    pub mod tasks;
    pub mod wire;
}

use source::{config, dht, metrics, net, tasks, wire};

const USAGE: &str = "dht-bench scale [NODES…] | half-dead | versus [NODES [RUNS]]";

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("scale") => scale::run(args.filter_map(|arg| arg.parse().ok()).collect()),
        Some("half-dead") => wait_for(half_dead::run()),
        Some("versus") => {
            let mut number = |default| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(default);
            let (nodes, runs) = (number(300), number(5));
            wait_for(versus::run(nodes, runs));
        }
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

/// Runs on the threads that the server would have.
fn wait_for(work: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(work);
}
