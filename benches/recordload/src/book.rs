//! Many records: how quickly they are put, what each takes of memory, and what becomes of those that have to make room.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::Server;
use crate::fleet::{self, Fleet, Kind};
use crate::process;
use crate::record::Author;

#[derive(Args)]
pub struct Book {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 10_000)]
    records: u32,
    /// `records.max_records` of the server.
    #[arg(long)]
    bound: u32,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Puts that each connection has under way.
    #[arg(long, default_value_t = 16)]
    depth: usize,
}

/// Every record is put with this number, so that there is a lower one.
const SEQ: i64 = 2;

/// Records looked at afterwards, of the first and of the last.
const SAMPLE: u32 = 100;

impl Book {
    pub fn run(&self) -> Result<Value> {
        ensure!(self.records >= SAMPLE * 2, "too few records");
        let before = process::resident(self.server.pid)?;
        let cpu = process::cpu(self.server.pid)?;
        let start = Instant::now();
        self.put_all()?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu = process::cpu(self.server.pid)? - cpu;
        let after = process::resident(self.server.pid)?;
        let kept = self.records.min(self.bound);
        self.look_at_what_is_kept()?;
        Ok(json!({
            "records": self.records,
            "kept": kept,
            "puts_per_second": (f64::from(self.records) / seconds).round(),
            "server_cpu_us_per_put": (cpu * 1e6 / f64::from(self.records)).round(),
            "resident_before": before,
            "resident_after": after,
            "bytes_per_record": ((after - before) / f64::from(kept)).round(),
        }))
    }

    fn put_all(&self) -> Result<()> {
        let mut fleet = Fleet::open(self.server.addr, Kind::WebSocket, self.connections, None)?;
        let put = |number: u32| {
            let author = Author::new(number);
            fleet::text(&author.put(SEQ, &author.value(SEQ, 0)))
        };
        let mut next = 0;
        for number in 0..self.connections * self.depth {
            if next < self.records {
                fleet.send(number % self.connections, &put(next))?;
                next += 1;
            }
        }
        let mut stored = 0;
        while stored < self.records {
            fleet.turn(Duration::from_secs(20), |_, reply, out| {
                let reply: Value = serde_json::from_slice(reply)?;
                ensure!(reply["stored"].is_u64(), "not stored: {reply}");
                stored += 1;
                if next < self.records {
                    out.extend(put(next));
                    next += 1;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The last are there; the first are too, or no more than their number, below which nobody gets.
    fn look_at_what_is_kept(&self) -> Result<()> {
        let mut fleet = Fleet::open(self.server.addr, Kind::WebSocket, 1, None)?;
        let mut ask = |message: &str| -> Result<Value> {
            fleet.send(0, &fleet::text(message))?;
            let mut answer = Value::Null;
            fleet.until(Duration::from_secs(20), |_, reply, _| {
                answer = serde_json::from_slice(reply)?;
                Ok(true)
            })?;
            Ok(answer)
        };
        // Puts under way at once are stored in any order.
        let order = (self.connections * self.depth) as u32;
        let gone = self.records.saturating_sub(self.bound).saturating_sub(order).min(SAMPLE);
        let last = self.records - SAMPLE..self.records;
        for (number, there) in (0..gone).map(|number| (number, false)).chain(last.map(|number| (number, true))) {
            let author = Author::new(number);
            let get = json!({"action": "dht_get", "id": "1", "k": author.public, "mode": "cache_only"});
            let found = ask(&get.to_string())?;
            ensure!(found["found"] == there, "record {number} of {}: {found}", self.records);
            let refused = ask(&author.put(SEQ - 1, &author.value(1, 0)))?;
            ensure!(refused["code"] == 302, "record {number} went back: {refused}");
        }
        Ok(())
    }
}
