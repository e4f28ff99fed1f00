//! Puts to one record that many follow: how long until each of them has the new version.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::Server;
use crate::fleet::{self, Fleet, Kind};
use crate::process;
use crate::record::Author;
use crate::times;

#[derive(Args)]
pub struct Fanout {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 10_000)]
    subscribers: usize,
    /// Of the subscribers, so many do not read until the end.
    #[arg(long, default_value_t = 200)]
    slow: usize,
    /// Puts that are timed, one each [`PACE`].
    #[arg(long, default_value_t = 10)]
    puts: i64,
    /// Puts after that, each as soon as the last is acknowledged, of the largest values that there are.
    #[arg(long, default_value_t = 60)]
    burst: i64,
}

/// From one timed put to the next, so that each meets a server at rest.
const PACE: Duration = Duration::from_secs(1);

const DEADLINE: Duration = Duration::from_secs(60);

/// What a slow subscriber's kernel takes.
const SLOW_BUFFER: usize = 4096;

impl Fanout {
    pub fn run(&self) -> Result<Value> {
        let author = Author::new(std::process::id());
        let mut publisher = Fleet::open(self.server.addr, Kind::WebSocket, 1, None)?;
        let mut fast = Fleet::open(self.server.addr, Kind::WebSocket, self.subscribers - self.slow, None)?;
        let mut slow = Fleet::open(self.server.addr, Kind::WebSocket, self.slow, Some(SLOW_BUFFER))?;
        for fleet in [&mut fast, &mut slow] {
            subscribe(fleet, &author)?;
        }
        for number in 0..slow.len() {
            slow.reading(number, false)?;
        }
        let cpu = process::cpu(self.server.pid)?;
        let (mut acknowledged, mut from_put, mut from_ack) = (Vec::new(), Vec::new(), Vec::new());
        for seq in 1..=self.puts {
            let (sent, ack, heard) = put(&mut publisher, &mut fast, &author, seq)?;
            acknowledged.push(ack - sent);
            from_put.extend(heard.iter().map(|at| *at - sent));
            from_ack.extend(heard.iter().map(|at| at.saturating_duration_since(ack)));
            quiet(&mut fast, sent + PACE)?;
        }
        let cpu = process::cpu(self.server.pid)? - cpu;
        let last = self.puts + self.burst;
        let burst = Instant::now();
        self.burst(&mut publisher, &mut fast, &author, last)?;
        let burst = burst.elapsed();
        Ok(json!({
            "subscribers": fast.len() + slow.len(),
            "acknowledged": times::summary(acknowledged),
            "from_put": times::summary(from_put),
            "from_acknowledgement": times::summary(from_ack),
            "server_cpu_us_per_update": cpu * 1e6 / (self.puts as f64 * fast.len() as f64),
            "burst_seconds": burst.as_secs_f64(),
            "slow": self.slow_readers(&mut slow, &author, last)?,
        }))
    }

    /// Puts without a pause, until every fast reader has the last version.
    fn burst(&self, publisher: &mut Fleet, fast: &mut Fleet, author: &Author, last: i64) -> Result<()> {
        let mut next = self.puts + 1;
        let send = |seq| fleet::text(&author.put(seq, &author.value(seq, 990)));
        publisher.send(0, &send(next))?;
        let (mut newest, mut done, start) = (vec![0; fast.len()], 0, Instant::now());
        while done < fast.len() {
            ensure!(start.elapsed() < DEADLINE, "{done} of {} have the last version", fast.len());
            publisher.turn(Duration::ZERO, |_, reply, out| {
                acknowledged(reply)?;
                next += 1;
                if next <= last {
                    out.extend(send(next));
                }
                Ok(())
            })?;
            fast.turn(Duration::from_millis(1), |number, update, _| {
                let seq = number_of(update)?;
                ensure!(seq > newest[number], "version {seq} after {}", newest[number]);
                newest[number] = seq;
                done += usize::from(seq == last);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Has the slow readers read at last: ever newer versions, few, and the last is the newest.
    fn slow_readers(&self, slow: &mut Fleet, author: &Author, last: i64) -> Result<Value> {
        let mut seen: Vec<Vec<i64>> = vec![Vec::new(); slow.len()];
        for number in 0..slow.len() {
            slow.reading(number, true)?;
        }
        let mut done = 0;
        slow.until(DEADLINE, |number, update, _| {
            let seq = author.check(&serde_json::from_slice(update)?)?;
            ensure!(seen[number].last().is_none_or(|known| *known < seq), "version {seq} after {:?}", seen[number]);
            seen[number].push(seq);
            done += usize::from(seq == last);
            Ok(done == self.slow)
        })?;
        let most = seen.iter().map(Vec::len).max().unwrap_or(0);
        ensure!((most as i64) < last, "a slow reader was sent every version: nothing was left out");
        let skipped = seen.iter().map(|seen| seen.iter().rev().nth(1).map_or(0, |before| last - before - 1));
        Ok(json!({
            "readers": slow.len(),
            "versions": last,
            "received_most": most,
            "left_out_before_newest_least": skipped.min(),
        }))
    }
}

/// Has every connection follow the record.
fn subscribe(fleet: &mut Fleet, author: &Author) -> Result<()> {
    for number in 0..fleet.len() {
        fleet.send(number, &fleet::text(&author.subscribe()))?;
    }
    let (all, mut done) = (fleet.len(), 0);
    if all == 0 {
        return Ok(());
    }
    fleet.until(DEADLINE, |_, reply, _| {
        let reply: Value = serde_json::from_slice(reply)?;
        ensure!(reply["found"].is_boolean(), "not subscribed: {reply}");
        done += 1;
        Ok(done == all)
    })
}

/// Puts one version: when it was sent, when acknowledged, and when each subscriber had it.
fn put(
    publisher: &mut Fleet,
    subscribers: &mut Fleet,
    author: &Author,
    seq: i64,
) -> Result<(Instant, Instant, Vec<Instant>)> {
    let message = fleet::text(&author.put(seq, &author.value(seq, 0)));
    let sent = Instant::now();
    publisher.send(0, &message)?;
    let (mut ack, mut heard) = (None, Vec::with_capacity(subscribers.len()));
    while ack.is_none() || heard.len() < subscribers.len() {
        ensure!(sent.elapsed() < DEADLINE, "version {seq}: {} of {} have it", heard.len(), subscribers.len());
        if ack.is_none() {
            publisher.turn(Duration::ZERO, |_, reply, _| {
                ack = Some(Instant::now());
                acknowledged(reply)
            })?;
        }
        subscribers.turn(Duration::from_micros(200), |_, update, _| {
            ensure!(number_of(update)? == seq, "not version {seq}: {}", String::from_utf8_lossy(update));
            heard.push(Instant::now());
            Ok(())
        })?;
    }
    Ok((sent, ack.expect("waited for"), heard))
}

/// Listens until this moment; everybody has been told already, and is told once.
fn quiet(subscribers: &mut Fleet, until: Instant) -> Result<()> {
    while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        subscribers.turn(rest, |_, update, _| bail!("told once more: {}", String::from_utf8_lossy(update)))?;
    }
    Ok(())
}

fn acknowledged(reply: &[u8]) -> Result<()> {
    let reply: Value = serde_json::from_slice(reply)?;
    ensure!(reply["stored"].is_u64(), "not stored: {reply}");
    Ok(())
}

fn number_of(update: &[u8]) -> Result<i64> {
    const FIELD: &[u8] = br#""seq":"#;
    let at = memchr::memmem::find(update, FIELD).context("no seq")? + FIELD.len();
    let digits = update[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    Ok(std::str::from_utf8(&update[at..at + digits])?.parse()?)
}
