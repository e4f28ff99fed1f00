//! A long, slow or lossy path between two network namespaces, in user space, for kernels without netem.
//!
//! ```text
//!  namespace A ── wan0 (TUN) ──► loss ──► queue ──► rate ──► delay ──► wan0 ── namespace B, and the same back
//! ```
//!
//! The namespaces exist already; each is given the device `wan0` with the address named. A line on standard output says
//! that the path is up. Each line on standard input is answered by one of JSON about both directions since the line
//! before; at its end the path ends.

mod line;
mod stats;

use std::fs::File;
use std::io::{self, BufRead};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use nix::sched::{CloneFlags, setns};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tun_rs::{DeviceBuilder, SyncDevice};

use line::{Fate, Line};
use stats::Stats;

/// Packets that are on their way in one direction. At 100 Mbit/s and a quarter of a second there are 2,100.
const UNDER_WAY: usize = 50_000;

const MTU: u16 = 1500;

#[derive(Parser)]
struct Options {
    /// Namespace and address of one end, as NAME=10.77.0.1.
    a: String,
    /// Of the other end.
    b: String,
    /// How long a packet takes, in milliseconds, besides waiting for others.
    #[arg(long, default_value_t = 25.0)]
    delay: f64,
    /// Packets lost at random, in percent.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Mbit a second; 0 for no limit.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Bytes that may wait where the rate is limited; what comes then is dropped.
    #[arg(long, default_value_t = 256_000)]
    queue: usize,
    /// For the losses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let (a, b) = (Arc::new(device(&options.a)?), Arc::new(device(&options.b)?));
    let directions = [(a.clone(), b.clone()), (b, a)].into_iter().enumerate().map(|(index, (from, to))| {
        let stats = Arc::<Mutex<Stats>>::default();
        let line = Line::new(options.rate * 1e6 / 8.0, options.queue, options.loss / 100.0);
        let rng = StdRng::seed_from_u64(options.seed.wrapping_mul(2) + index as u64);
        let (under_way, arriving) = mpsc::sync_channel(UNDER_WAY);
        let delay = Duration::from_secs_f64(options.delay / 1e3);
        let seen = stats.clone();
        thread::spawn(move || receive(&from, line, rng, delay, &under_way, &seen));
        thread::spawn(move || deliver(&to, &arriving));
        stats
    });
    let directions: Vec<_> = directions.collect();
    println!("up");
    for line in io::stdin().lock().lines() {
        line?;
        let told: Vec<_> = directions.iter().map(|stats| std::mem::take(&mut *lock(stats)).to_json()).collect();
        println!("{}", serde_json::json!({ "a_to_b": told[0], "b_to_a": told[1] }));
    }
    Ok(())
}

/// Makes `wan0` in a namespace. A thread's namespace is its own, so that of a thread that ends is entered.
fn device(end: &str) -> anyhow::Result<SyncDevice> {
    let (namespace, address) = end.split_once('=').context("an end is NAME=ADDRESS")?;
    let address: Ipv4Addr = address.parse().context("an end has an IPv4 address")?;
    let path = Path::new("/run/netns").join(namespace);
    let made = thread::spawn(move || -> anyhow::Result<SyncDevice> {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
        Ok(DeviceBuilder::new().name("wan0").ipv4(address, 24, None).mtu(MTU).build_sync()?)
    });
    made.join().expect("the thread does not panic")
}

/// Takes what one end sends and decides what becomes of it.
fn receive(
    from: &SyncDevice,
    mut line: Line,
    mut rng: StdRng,
    delay: Duration,
    under_way: &mpsc::SyncSender<(Instant, Box<[u8]>)>,
    stats: &Mutex<Stats>,
) {
    let mut packet = vec![0; usize::from(u16::MAX)];
    while let Ok(length) = from.recv(&mut packet) {
        let now = Instant::now();
        let (waited, fate) = line.take(length, now, &mut rng);
        lock(stats).count(now, length, waited, fate);
        // A full channel would be a path longer than any that is emulated here: dropping is right then too.
        if let Fate::Leaves(at) = fate {
            let _ = under_way.try_send((at + delay, packet[..length].into()));
        }
    }
}

/// Hands over what arrives, in order, when it is due.
fn deliver(to: &SyncDevice, arriving: &mpsc::Receiver<(Instant, Box<[u8]>)>) {
    for (due, packet) in arriving {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // The other end may be on its way down.
        let _ = to.send(&packet);
    }
}

fn lock(stats: &Mutex<Stats>) -> std::sync::MutexGuard<'_, Stats> {
    stats.lock().expect("nobody panics while holding it")
}
