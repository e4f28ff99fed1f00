//! Our node and the `mainline` crate, taking turns as newcomers to a network of `mainline`'s own nodes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use mainline::async_dht::AsyncDht;
use mainline::{MutableItem, SigningKey, Testnet};

use crate::dht::{Dht, Mode};
use crate::half_dead::start;
use crate::received::{Received, Watch};
use crate::tasks::Tasks;
use crate::wire::id::PublicKey;
use crate::wire::item::Salt;

/// Items read one after the other, and at once.
const IN_TURN: usize = 20;
const AT_ONCE: usize = 100;
const BURST: usize = 300;

/// Nobody waits longer for a burst.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one client did in one run.
#[derive(Debug, Default)]
struct Run {
    /// From the start of the client to the first value it reads.
    cold: f64,
    /// Median over items read by a client that has joined: until the first value, and until the end of the lookup.
    warm: f64,
    end: f64,
    /// How many of those read at once came, and after how long all were over.
    at_once: usize,
    at_once_time: f64,
    /// Lookups that brought their item, in a second, when many are started at once.
    rate: f64,
    burst: usize,
    received: Option<Received>,
}

/// Somebody who reads.
trait Client {
    /// The time until the first value, and until the lookup is over; `None` if it brought nothing.
    async fn read(&self, key: [u8; 32]) -> Option<(f64, f64)>;
}

impl Client for Dht {
    async fn read(&self, key: [u8; 32]) -> Option<(f64, f64)> {
        let started = Instant::now();
        let mut finding = self.find(PublicKey(key), Salt::default(), None).await;
        let first = finding.next().await.map(|_| millis(started))?;
        let outcome = finding.outcome().await;
        outcome.item.map(|_| (first, millis(started)))
    }
}

impl Client for AsyncDht {
    async fn read(&self, key: [u8; 32]) -> Option<(f64, f64)> {
        let started = Instant::now();
        let mut items = self.get_mutable(&key, None, None);
        let first = items.next().await.map(|_| millis(started))?;
        while items.next().await.is_some() {}
        Some((first, millis(started)))
    }
}

pub async fn run(nodes: usize, runs: usize) {
    let testnet = tokio::task::spawn_blocking(move || Testnet::builder(nodes).build().expect("free ports")).await;
    let testnet = testnet.expect("building does not panic");
    let keys = publish(&testnet).await;
    println!(
        "{nodes} nodes of mainline 8.0.1 on loopback, {} items, {runs} runs of each, in turn; medians, and from best to worst.\n",
        keys.len()
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(run_ours(&testnet.bootstrap, &keys).await);
        theirs.push(run_theirs(&testnet.bootstrap, &keys).await);
    }
    print(&ours, &theirs);
}

/// Items put by nodes of the network itself.
async fn publish(testnet: &Testnet) -> Vec<[u8; 32]> {
    let mut keys = Vec::new();
    for batch in (0..BURST).collect::<Vec<_>>().chunks(50) {
        let puts = batch.iter().map(|n| {
            let mut secret = [7; 32];
            secret[..8].copy_from_slice(&(*n as u64).to_le_bytes());
            let item = MutableItem::new(SigningKey::from_bytes(&secret), b"hello", 1, None);
            let node = testnet.nodes[n % testnet.nodes.len()].clone().as_async();
            async move {
                let key = *item.key();
                node.put_mutable(item, None).await.map(|_| key)
            }
        });
        keys.extend(join_all(puts).await.into_iter().flatten());
    }
    assert!(keys.len() * 10 > BURST * 9, "only {} items could be published", keys.len());
    keys
}

/// What is measured, each with a client of its own: what a node may get at once has then been used up by nobody.
#[derive(Debug, Clone, Copy)]
enum Part {
    InTurn,
    AtOnce,
    Burst,
}

const PARTS: [Part; 3] = [Part::InTurn, Part::AtOnce, Part::Burst];

async fn run_ours(bootstrap: &[String], keys: &[[u8; 32]]) -> Run {
    let mut run = Run::default();
    for part in PARTS {
        let tasks = Tasks::new();
        let started = Instant::now();
        let dht = start(bootstrap.to_vec(), Mode::Client, &tasks).await;
        dht.bootstrapped().await;
        measure(&dht, part, started, dht.local_addr().port(), keys, &mut run).await;
        tasks.stop(Duration::from_secs(5)).await;
    }
    run
}

async fn run_theirs(bootstrap: &[String], keys: &[[u8; 32]]) -> Run {
    let mut run = Run::default();
    for part in PARTS {
        let started = Instant::now();
        let dht = mainline::Dht::builder().bootstrap(bootstrap).bind_address(Ipv4Addr::LOCALHOST).build();
        let dht = dht.expect("a free port").as_async();
        let port = dht.info().await.local_addr().port();
        measure(&dht, part, started, port, keys, &mut run).await;
    }
    run
}

async fn measure(client: &impl Client, part: Part, started: Instant, port: u16, keys: &[[u8; 32]], run: &mut Run) {
    let watch = Watch::start(port);
    // A client that finds nothing at once tries again, as a person would. Those of the other parts have joined then.
    while tokio::time::timeout(PATIENCE, client.read(keys[0])).await.ok().flatten().is_none() {}
    match part {
        Part::InTurn => {
            run.cold = millis(started);
            let (mut firsts, mut ends) = (Vec::new(), Vec::new());
            for key in &keys[1..=IN_TURN] {
                let read = tokio::time::timeout(PATIENCE, client.read(*key)).await.ok().flatten();
                firsts.push(read.map_or(f64::INFINITY, |(first, _)| first));
                ends.push(read.map_or(f64::INFINITY, |(_, end)| end));
            }
            (run.warm, run.end) = (median(firsts), median(ends));
        }
        Part::AtOnce => {
            (run.at_once, run.at_once_time) = together(client, &keys[IN_TURN + 1..][..AT_ONCE]).await;
        }
        Part::Burst => {
            let (found, time) = together(client, keys).await;
            (run.burst, run.rate) = (found, found as f64 * 1000.0 / time);
        }
    }
    run.received = match (run.received.take(), watch.map(Watch::stop)) {
        (Some(before), Some(now)) => Some(before.worst(now)),
        (before, now) => before.or(now),
    };
}

/// How many of distinct items come when all are asked for at once, and the time until the last.
async fn together(client: &impl Client, keys: &[[u8; 32]]) -> (usize, f64) {
    let started = Instant::now();
    let reads = keys.iter().map(|key| tokio::time::timeout(PATIENCE, client.read(*key)));
    let found = join_all(reads).await.into_iter().filter(|read| matches!(read, Ok(Some(_)))).count();
    (found, millis(started))
}

fn print(ours: &[Run], theirs: &[Run]) {
    println!("| | ours | mainline | ratio |\n|---|---:|---:|---:|");
    let row = |name: &str, of: &dyn Fn(&Run) -> f64| {
        let (ours, theirs) = (figures(ours.iter().map(of)), figures(theirs.iter().map(of)));
        println!("| {name} | {} | {} | {:.2} |", ours.1, theirs.1, ours.0 / theirs.0);
    };
    row("cold: start to first value, ms", &|run| run.cold);
    row("warm: first value, ms", &|run| run.warm);
    row("warm: end of lookup, ms", &|run| run.end);
    row(&format!("{AT_ONCE} at once: found"), &|run| run.at_once as f64);
    row(&format!("{AT_ONCE} at once: until all are over, ms"), &|run| run.at_once_time);
    row(&format!("{BURST} at once: found"), &|run| run.burst as f64);
    row(&format!("{BURST} at once: lookups a second"), &|run| run.rate);
    if ours.iter().chain(theirs).all(|run| run.received.is_some()) {
        let most = |of: fn(&Received) -> usize| move |run: &Run| run.received.as_ref().map_or(0.0, |r| of(r) as f64);
        row("most datagrams that one node got in 1 s", &most(|received| received.in_one_second));
        row("most datagrams that one node got in 10 s", &most(|received| received.in_ten_seconds));
        row("datagrams received by all", &most(|received| received.total));
    } else {
        println!("\nWhat each node got was not counted: that needs the right to open raw sockets.");
    }
}

/// The median, and it with the range as text.
fn figures(values: impl Iterator<Item = f64>) -> (f64, String) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    (median, format!("{median:.1} ({:.1}–{:.1})", values[0], values[values.len() - 1]))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn millis(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1000.0
}
