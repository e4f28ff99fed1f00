//! What subscriptions take of the server's memory, beside the sockets that they come by.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::Server;
use crate::fleet::{self, Fleet, Kind};
use crate::process;
use crate::record::Author;

#[derive(Args)]
pub struct Memory {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Records that each connection follows.
    #[arg(long, default_value_t = 1)]
    each: usize,
    /// Different records in all, given to connections in turn.
    #[arg(long, default_value_t = 1)]
    records: u32,
}

/// Subscriptions asked for and not answered yet, of all connections.
const WINDOW: usize = 256;

impl Memory {
    pub fn run(&self) -> Result<Value> {
        ensure!(self.each <= self.records as usize, "a connection follows a record once");
        let requests: Vec<Vec<u8>> =
            (0..self.records).map(|number| fleet::text(&Author::new(number).subscribe())).collect();
        let mut fleet = Fleet::open(self.server.addr, Kind::WebSocket, self.connections, None)?;
        // What a connection takes with its first message, it takes before.
        let before = self.settled(&mut fleet)?;
        let subscriptions = self.connections * self.each;
        spread(&mut fleet, subscriptions, |number| (number / self.each, requests[number % requests.len()].clone()))?;
        let after = self.settled(&mut fleet)?;
        Ok(json!({
            "connections": self.connections,
            "subscriptions": subscriptions,
            "records": self.records,
            "bytes_per_subscription": ((after - before) / subscriptions as f64).round(),
            "resident_before": before,
            "resident_after": after,
        }))
    }

    /// Memory once it no longer grows from one message through every connection to the next.
    fn settled(&self, fleet: &mut Fleet) -> Result<f64> {
        let ask = fleet::text(r#"{"action":"dht_info","id":"info"}"#);
        let mut last = 0.0;
        for _ in 0..20 {
            spread(fleet, self.connections, |number| (number, ask.clone()))?;
            let now = process::resident(self.server.pid)?;
            if now <= last {
                return Ok(now);
            }
            last = now;
        }
        anyhow::bail!("the server's memory goes on growing")
    }
}

/// Sends `count` requests, never too many at once, and waits for all replies.
fn spread(fleet: &mut Fleet, count: usize, request: impl Fn(usize) -> (usize, Vec<u8>)) -> Result<()> {
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && sent - answered < WINDOW {
            let (number, message) = request(sent);
            fleet.send(number, &message)?;
            sent += 1;
        }
        fleet.turn(Duration::from_secs(20), |_, reply, _| {
            let reply: Value = serde_json::from_slice(reply)?;
            ensure!(reply["failure reason"].is_null(), "refused: {reply}");
            answered += usize::from(reply["action"] != "dht_update");
            Ok(())
        })?;
    }
    Ok(())
}
