//! Generator for `peers.mjs`: many WebRTC peers of one server, each with a UDP port of its own, as browsers have them. They
//! announce over the tracker's WebSocket, greet, and then say nothing.
//!
//! It prints one line of JSON when all of them are connected, and ends with its standard input.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: what goes wrong ends it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::SinkExt;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use swarmgate::bridge::rtc::{Channel, Endpoint};
use swarmgate::tasks::Tasks;
use swarmgate::wire::id::{InfoHash, PeerId};
use swarmgate::wire::peer::{HANDSHAKE_LEN, Handshake, Reserved};
use swarmgate::wire::tracker_client::{Announcing, Told, parse};
use swarmgate::wire::tracker_ws::OfferId;
use swarmgate::{config, metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// From the offer to the server's handshake.
const LIMIT: Duration = Duration::from_secs(30);

/// As many as WebTorrent makes. The tracker hands one to the server and the others to other peers, which do not answer.
const OFFERS: u8 = 5;

#[derive(Parser)]
struct Options {
    /// The tracker's WebSocket.
    #[arg(long)]
    tracker: String,
    /// Info hashes; peers are spread over them.
    #[arg(long, value_delimiter = ',')]
    torrents: Vec<String>,
    #[arg(long, default_value_t = 500)]
    peers: usize,
    /// How many connect at the same time.
    #[arg(long, default_value_t = 32)]
    at_once: usize,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let torrents: Vec<InfoHash> = options.torrents.iter().map(|hash| hash.parse().unwrap()).collect();
    let tasks = Tasks::new();
    let begun = Instant::now();
    let peers = (0..options.peers).map(|n| connect(&options.tracker, torrents[n % torrents.len()], n, &tasks));
    let outcomes: Vec<_> = stream::iter(peers).buffer_unordered(options.at_once).collect().await;
    let took = begun.elapsed();
    let mut delays: Vec<f64> = outcomes.iter().flatten().map(|(_, delay)| delay.as_secs_f64() * 1e3).collect();
    delays.sort_by(f64::total_cmp);
    let quantile = |part: f64| delays.get((delays.len() as f64 * part) as usize);
    let line = json!({
        "connected": delays.len(),
        "seconds": took.as_secs_f64(),
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
    });
    println!("{line}");
    let mut rest = Vec::new();
    let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    drop(outcomes);
}

/// What a peer holds on to.
type Peer = (tokio::task::JoinHandle<Arc<Endpoint>>, Duration);

async fn connect(tracker: &str, info_hash: InfoHash, number: usize, tasks: &Tasks) -> Option<Peer> {
    let settings = config::WebRtc { listen: "127.0.0.1:0".parse().unwrap(), ..config::WebRtc::default() };
    let endpoint = Endpoint::bind(&settings, metrics::Bridge::detached(), tasks).await.unwrap();
    let peer_id = format!("-LD0100-{:04}{number:08}", std::process::id() % 10_000);
    let peer_id = PeerId(peer_id.as_bytes().try_into().unwrap());
    let opening = async {
        let (mut socket, _) = tokio_tungstenite::connect_async(tracker).await.ok()?;
        let begun = Instant::now();
        let (mut offers, mut waiting) = (Vec::new(), Vec::new());
        for number in 0..OFFERS {
            let (offer, offered) = endpoint.offer().await.ok()?;
            offers.push((OfferId([number; 20]), offer));
            waiting.push(offered);
        }
        let announcing = Announcing { info_hash, peer_id, left: 1, event: Some("started"), offers: &offers[..] };
        socket.send(Message::text(announcing.encode())).await.ok()?;
        let (id, answer) = loop {
            let Message::Text(text) = socket.next().await?.ok()? else { continue };
            if let Told::Answer { id, sdp, .. } = parse(&text) {
                break (id, sdp);
            }
        };
        let offered = waiting.into_iter().nth(usize::from(id.0[0]))?;
        let mut channel = offered.accept(&answer, |address| address.ip().is_loopback()).ok()?.open().await.ok()?;
        greet(&mut channel, info_hash, peer_id).await.ok()?;
        Some((socket, channel, begun.elapsed()))
    };
    let (socket, mut channel, delay) = timeout(LIMIT, opening).await.ok().flatten()?;
    let living = tokio::spawn(async move {
        let mut heard = [0; 4096];
        while channel.read(&mut heard).await.is_ok_and(|length| length > 0) {}
        drop(socket);
        endpoint
    });
    Some((living, delay))
}

async fn greet(channel: &mut Channel, info_hash: InfoHash, peer_id: PeerId) -> std::io::Result<()> {
    channel.write_all(&Handshake { reserved: Reserved::EXTENDED, info_hash, peer_id }.encode()).await?;
    channel.read_exact(&mut [0; HANDSHAKE_LEN]).await.map(|_| ())
}
