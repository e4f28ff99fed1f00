//! The simulated network at several sizes, as tables.

use std::time::Duration;

use crate::dht::simulation::scale::{Report, Trial, quantile, run as simulate};

/// What is tried: the part of datagrams lost, and the part of nodes that lie.
const WEATHER: [(f64, f64); 3] = [(0.05, 0.0), (0.10, 0.05), (0.20, 0.05)];

/// Enough for a tenth of a per cent to be told from nothing, also without those whose askers lie or have just come.
const GETS: usize = 11_500;

pub fn run(sizes: Vec<usize>) {
    let sizes = if sizes.is_empty() { vec![100, 1_000, 10_000] } else { sizes };
    println!("Half of the nodes are replaced each hour; items are published again every hour, a tenth more or less.\n");
    println!(
        "| nodes | loss | liars | hours | replaced | gets | newest found | older | lies | queries, median, p99 | first value ms, median, p99 \
         | end ms, median, p99 | copies a put | datagrams/s a node | KiB a node | CPU s |"
    );
    println!("|{}", "---:|".repeat(16));
    for nodes in sizes {
        for (loss, liars) in WEATHER {
            row(nodes, loss, liars);
        }
    }
}

fn row(nodes: usize, loss: f64, liars: f64) {
    let before = processor_seconds();
    let trial = Trial {
        seed: 1,
        nodes,
        loss,
        liars,
        churn: 0.5,
        items: 1_000,
        gets: GETS,
        publishing: Duration::from_secs(3600),
        time: Duration::from_secs(3600),
        memory: resident,
    };
    let report = simulate(trial);
    let Report { gets, newest, lies, first, took, queries, copies, datagrams, memory, .. } = report;
    let (low, high) = interval(newest, gets);
    println!(
        "| {nodes} | {:.0} % | {:.0} % | {:.1} | {} | {gets} | {:.2} % ({low:.2}–{high:.2}) | {} | {lies} | {}, {} | {}, {} | {}, {} \
         | {copies:.1} | {datagrams:.2} | {} | {:.0} |",
        loss * 100.0,
        liars * 100.0,
        report.fake_hours,
        report.replaced,
        newest as f64 * 100.0 / gets as f64,
        report.lost.iter().filter(|lost| lost.found.is_some()).count(),
        quantile(&queries, 0.5),
        quantile(&queries, 0.99),
        quantile(&first, 0.5),
        quantile(&first, 0.99),
        quantile(&took, 0.5),
        quantile(&took, 0.99),
        memory / 1024,
        processor_seconds() - before,
    );
    for lost in report.lost {
        eprintln!("{lost}");
    }
    assert_eq!(report.read_only, 0, "nodes that can be reached say they cannot");
}

/// The per cent that lie, with a probability of 95 %, behind `hits` of `all` (Wilson's score interval).
fn interval(hits: usize, all: usize) -> (f64, f64) {
    const Z: f64 = 1.96;
    let (hits, all) = (hits as f64, all as f64);
    let part = hits / all;
    let middle = part + Z * Z / (2.0 * all);
    let half = Z * (part * (1.0 - part) / all + Z * Z / (4.0 * all * all)).sqrt();
    let scale = 100.0 / (1.0 + Z * Z / all);
    ((middle - half) * scale, (middle + half) * scale)
}

/// Seconds of one processor that this process took.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which is in brackets, come the state and ten more before user and system time, in hundredths.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Bytes of memory in use by this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}
