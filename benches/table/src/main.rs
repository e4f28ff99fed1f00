//! Measures the tracker's swarm table by itself. It is compiled from the server's own sources, without the other rooms.

#![allow(dead_code, unused_imports, reason = "the rest of the server uses what is not used here")]

#[path = "../../../src"]
mod source {
    pub mod net;
    pub mod wire;

    pub mod tracker {
        mod dense;
        mod swarm;
        mod table;

        // Below the room, of which it sees what the rest of the server does not.
        #[path = "../../benches/table/src/measure.rs"]
        pub mod measure;
    }
}

use source::tracker::measure::{Kind, announces, memory_and_pauses};
use source::{net, wire};

const USAGE: &str = "table-bench announces KIND SWARMS PEERS [ANNOUNCES [ROUNDS]] | memory KIND SWARMS PEERS
KIND is v4, v6, web or mixed";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = args.iter().skip(2).filter_map(|arg| arg.parse().ok()).collect();
    let kind = args.get(1).and_then(|name| Kind::named(name));
    match (args.first().map(String::as_str), kind, numbers.as_slice()) {
        (Some("announces"), Some(kind), [swarms, peers, more @ ..]) => {
            let each = more.first().copied().unwrap_or(100_000);
            announces(kind, *swarms, *peers, each, more.get(1).copied().unwrap_or(9));
        }
        (Some("memory"), Some(kind), [swarms, peers]) => memory_and_pauses(kind, *swarms, *peers),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}
