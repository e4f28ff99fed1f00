//! A small network on loopback, half of which has just gone: what somebody waits for who starts, joins and reads.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;

use crate::dht::{Dht, Mode};
use crate::wire::item::{Salt, VerifiedItem};
use crate::{config, metrics, tasks::Tasks};

const NODES: usize = 40;
const ITEMS: u8 = 10;
const RUNS: u64 = 5;

pub async fn run() {
    println!(
        "{NODES} nodes on loopback, every other one gone and still named by the others; {RUNS} newcomers, one after the other.\n"
    );
    let mut nodes = Vec::new();
    for n in 0..NODES {
        let tasks = Tasks::new();
        let first = nodes.first().map(|(dht, _): &(Dht, Tasks)| dht.local_addr().to_string());
        let dht = start(first.into_iter().collect(), Mode::Server, &tasks).await;
        dht.bootstrapped().await;
        nodes.push((dht, tasks));
        assert_eq!(nodes.len(), n + 1);
    }
    let items: Vec<VerifiedItem> = (0..ITEMS).map(item).collect();
    for item in &items {
        let stored = nodes[0].0.put(item.clone(), None).await.stored;
        assert!(stored >= 8, "{stored} copies");
    }
    for (_, tasks) in nodes.iter().skip(1).step_by(2) {
        tasks.stop(Duration::from_secs(5)).await;
    }
    println!("| join ms | first get ms | other gets ms, median, longest | found |\n|---:|---:|---:|---:|");
    for _ in 0..RUNS {
        let tasks = Tasks::new();
        let bootstrap = vec![nodes[0].0.local_addr().to_string(), nodes[1].0.local_addr().to_string()];
        let started = Instant::now();
        let dht = start(bootstrap, Mode::Client, &tasks).await;
        dht.bootstrapped().await;
        let joined = started.elapsed();
        let (mut took, mut found) = (Vec::new(), 0);
        for item in &items {
            let started = Instant::now();
            let outcome = dht.get(*item.key(), item.salt().clone(), None).await;
            found += usize::from(outcome.item.as_ref() == Some(item));
            took.push(started.elapsed().as_millis());
        }
        let first = took.remove(0);
        took.sort_unstable();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("| {} | {first} | {median}, {longest} | {found} of {ITEMS} |", joined.as_millis());
        tasks.stop(Duration::from_secs(5)).await;
    }
    for (_, tasks) in nodes.iter().step_by(2) {
        tasks.stop(Duration::from_secs(5)).await;
    }
}

pub async fn start(bootstrap: Vec<String>, mode: Mode, tasks: &Tasks) -> Dht {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = config::Dht { listen: listen.into(), bootstrap, ..config::Dht::default() };
    Dht::start(&settings, mode, None, metrics::Dht::detached(), tasks).await.expect("a free port")
}

pub fn item(n: u8) -> VerifiedItem {
    let key = SigningKey::from_bytes(&[n; 32]);
    VerifiedItem::sign(&key, Salt::default(), 1, b"5:hello".to_vec()).expect("a small value")
}
