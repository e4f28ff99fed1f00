//! The simulated network at several sizes, as tables.

use std::time::{Duration, Instant};

use crate::dht::simulation::scale::{Report, Trial, quantile, run as simulate};

/// What is tried at the full size: the part of datagrams lost, and the part of nodes that lie.
const WEATHER: [(f64, f64); 3] = [(0.05, 0.0), (0.20, 0.0), (0.10, 0.05)];

pub fn run(sizes: Vec<usize>) {
    let sizes = if sizes.is_empty() { vec![100, 1_000, 10_000] } else { sizes };
    let full = sizes.iter().copied().max().unwrap_or_default();
    println!("Half of the nodes are replaced each hour; items are published again every hour, a tenth more or less.\n");
    println!(
        "| nodes | loss | liars | gets | newest found | older | not found, gone | lies | queries, median, p99 | first value ms, median, p99 \
         | end ms, median, p99 | copies a put | datagrams/s a node | KiB a node | CPU s |"
    );
    println!("|{}", "---:|".repeat(15));
    for nodes in sizes {
        for (loss, liars) in WEATHER.into_iter().take(if nodes == full { 3 } else { 1 }) {
            row(nodes, loss, liars);
        }
    }
}

fn row(nodes: usize, loss: f64, liars: f64) {
    let started = Instant::now();
    let trial = Trial {
        seed: 1,
        nodes,
        loss,
        liars,
        churn: 0.5,
        items: 1_000,
        gets: 10_000,
        publishing: Duration::from_secs(3600),
        time: Duration::from_secs(3600),
        memory: resident,
    };
    let report = simulate(trial);
    let Report { gets, newest, older, gone, lies, first, took, queries, copies, datagrams, memory, .. } = report;
    println!(
        "| {nodes} | {:.0} % | {:.0} % | {gets} | {:.2} % | {older} | {}, {gone} | {lies} | {}, {} | {}, {} | {}, {} | {copies:.1} \
         | {datagrams:.2} | {} | {:.0} |",
        loss * 100.0,
        liars * 100.0,
        newest as f64 * 100.0 / gets as f64,
        gets - newest - older,
        quantile(&queries, 0.5),
        quantile(&queries, 0.99),
        quantile(&first, 0.5),
        quantile(&first, 0.99),
        quantile(&took, 0.5),
        quantile(&took, 0.99),
        memory / 1024,
        started.elapsed().as_secs_f64(),
    );
}

/// Bytes of memory in use by this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}
