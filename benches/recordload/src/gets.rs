//! Gets of records that the server holds, as quickly as it answers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use memchr::memmem;
use serde_json::{Value, json};

use crate::Server;
use crate::fleet::{self, Fleet, Kind};
use crate::process;
use crate::record::Author;
use crate::times;

#[derive(Args)]
pub struct Load {
    #[command(flatten)]
    server: Server,
    /// Different records, asked for in turn.
    #[arg(long, default_value_t = 1000)]
    records: u32,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Gets that each connection has under way.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// One reply in so many is read and verified in full.
const VERIFIED: u64 = 997;

pub fn socket(load: &Load) -> Result<Value> {
    let authors: Vec<Author> = (0..load.records).map(Author::new).collect();
    publish(load, &authors)?;
    let requests = authors.iter().map(|author| fleet::text(&author.get())).collect::<Vec<_>>();
    let found = memmem::Finder::new(br#""found":true"#);
    run(load, Kind::WebSocket, &requests, &|which, reply| {
        ensure!(found.find(reply).is_some(), "not found: {}", String::from_utf8_lossy(reply));
        let Some(which) = which else { return Ok(()) };
        authors[which].check(&serde_json::from_slice(reply)?).map(drop)
    })
}

pub fn http(load: &Load) -> Result<Value> {
    let authors: Vec<Author> = (0..load.records).map(Author::new).collect();
    publish(load, &authors)?;
    let requests = authors.iter().map(|author| get(load, &format!("/v1/records/{}", author.public)));
    run(load, Kind::Http, &requests.collect::<Vec<_>>(), &|which, reply| {
        let Some(which) = which else { return Ok(()) };
        authors[which].check(&serde_json::from_slice(reply)?).map(drop)
    })
}

pub fn pkarr(load: &Load) -> Result<Value> {
    let authors: Vec<Author> = (0..load.records).map(Author::new).collect();
    let timestamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as u64;
    let mut fleet = Fleet::open(load.server.addr, Kind::Http, 1, None)?;
    let mut bodies = Vec::new();
    for author in &authors {
        let body = author.pkarr(timestamp);
        let head = format!("PUT /{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", author.zbase32(), body.len());
        fleet.send(0, &[head.as_bytes(), &body].concat())?;
        fleet.until(Duration::from_secs(20), |_, _, _| Ok(true))?;
        bodies.push(body);
    }
    let requests = authors.iter().map(|author| get(load, &format!("/{}", author.zbase32())));
    run(load, Kind::Http, &requests.collect::<Vec<_>>(), &|which, reply| {
        ensure!(which.is_none_or(|which| reply == bodies[which]), "not what was put");
        Ok(())
    })
}

fn get(load: &Load, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", load.server.addr).into_bytes()
}

/// Puts all records, so that the server holds them.
fn publish(load: &Load, authors: &[Author]) -> Result<()> {
    const AT_ONCE: usize = 16;
    let mut fleet = Fleet::open(load.server.addr, Kind::WebSocket, 1, None)?;
    for batch in authors.chunks(AT_ONCE) {
        for author in batch {
            fleet.send(0, &fleet::text(&author.put(1, &author.value(1, 0))))?;
        }
        let mut stored = 0;
        fleet.until(Duration::from_secs(20), |_, reply, _| {
            ensure!(memmem::find(reply, br#""stored":"#).is_some(), "{}", String::from_utf8_lossy(reply));
            stored += 1;
            Ok(stored == batch.len())
        })?;
    }
    Ok(())
}

/// Asks without a pause. `check` is given every reply; and which record it is, when it is to be checked in full.
fn run(
    load: &Load,
    kind: Kind,
    requests: &[Vec<u8>],
    check: &dyn Fn(Option<usize>, &[u8]) -> Result<()>,
) -> Result<Value> {
    let mut fleet = Fleet::open(load.server.addr, kind, load.connections, None)?;
    // Replies come in the order of the requests, since none has to wait.
    let mut asked: Vec<VecDeque<(usize, Instant)>> = vec![VecDeque::new(); load.connections];
    let mut next = 0;
    let mut turn = || {
        next = (next + 1) % requests.len();
        next
    };
    for (number, asked) in asked.iter_mut().enumerate() {
        for _ in 0..load.depth {
            let which = turn();
            asked.push_back((which, Instant::now()));
            fleet.send(number, &requests[which])?;
        }
    }
    let mut measured = None;
    let (start, mut replies, mut times) = (Instant::now(), 0u64, Vec::new());
    while start.elapsed().as_secs_f64() < load.warmup + load.seconds {
        if measured.is_none() && start.elapsed().as_secs_f64() >= load.warmup {
            measured =
                Some((Instant::now(), process::cpu(load.server.pid)?, process::cpu(std::process::id())?, replies));
            times.clear();
        }
        fleet.turn(Duration::from_secs(20), |number, reply, out| {
            replies += 1;
            let (which, at) = asked[number].pop_front().expect("a reply to a request");
            check(replies.is_multiple_of(VERIFIED).then_some(which), reply)?;
            if replies.is_multiple_of(16) {
                times.push(at.elapsed());
            }
            let which = turn();
            asked[number].push_back((which, Instant::now()));
            out.extend(&requests[which]);
            Ok(())
        })?;
    }
    let (since, server, own, before) = measured.expect("the warm-up is over");
    let (seconds, gets) = (since.elapsed().as_secs_f64(), (replies - before) as f64);
    let (server, own) = (process::cpu(load.server.pid)? - server, process::cpu(std::process::id())? - own);
    Ok(json!({
        "gets": gets,
        "gets_per_second": (gets / seconds).round(),
        "gets_per_cpu_second": (gets / server).round(),
        "server_cores": server / seconds,
        "generator_cores": own / seconds,
        "latency": times::summary(times),
    }))
}
