//! The UDP door (BEP 15).
//!
//! Threads of its own, one a processor, that each take as many datagrams as wait, answer them, and send the answers: a
//! datagram costs little but its share of two system calls. Nothing in between waits for anybody.

mod connections;
mod datagrams;

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use socket2::SockRef;

use self::connections::Connections;
use self::datagrams::{Incoming, Replies};
use super::table::NativeQuestion;
use super::{Inner, native_peers_wanted};
use crate::wire::tracker::{NativeAnnounce, Refusal};
use crate::wire::tracker_udp::{self as wire, Packet, Reason, Request, TransactionId};

/// How long a thread waits for a datagram before it looks whether it is to end, where closing the socket does not wake
/// it: on Linux it does.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bytes that the kernel is asked to keep of datagrams that wait; it gives less where `net.core.rmem_max` says so. A
/// client whose datagram finds no room asks again only after 15 s.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A pause after a system call failed for a reason that does not pass by itself.
const AFTER_ERROR: Duration = Duration::from_millis(5);

/// Serves the socket until the node stops.
pub(super) async fn serve(tracker: Arc<Inner>, socket: tokio::net::UdpSocket) {
    let blocking = || {
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
        io::Result::Ok(socket)
    };
    let socket = match blocking() {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "the UDP tracker's socket cannot be used"),
    };
    let door = Arc::new(Door::new(tracker.clone(), socket));
    let closing = Closing(door.clone());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let working: Vec<_> = (0..threads)
        .map(|_| {
            let door = door.clone();
            tokio::task::spawn_blocking(move || door.work())
        })
        .collect();
    tracker.tasks.stopping().await;
    drop(closing);
    for thread in working {
        thread.await.expect("answering does not panic");
    }
}

struct Door {
    tracker: Arc<Inner>,
    socket: UdpSocket,
    connections: Connections,
    closed: AtomicBool,
    announces: IntCounter,
    scrapes: IntCounter,
    errors: IntCounter,
    malformed: IntCounter,
}

/// Ends the threads of a door when dropped, however that comes about.
struct Closing(Arc<Door>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        // A socket that has no other end cannot be shut down, says Linux, and wakes those who wait for it all the same.
        let _ = SockRef::from(&self.0.socket).shutdown(Shutdown::Read);
    }
}

impl Door {
    fn new(tracker: Arc<Inner>, socket: UdpSocket) -> Self {
        let metrics = &tracker.metrics;
        Self {
            announces: metrics.announces.with_label_values(&["udp"]),
            scrapes: metrics.scrapes.with_label_values(&["udp"]),
            errors: metrics.errors.with_label_values(&["udp"]),
            malformed: metrics.dropped.with_label_values(&["udp_malformed"]),
            connections: Connections::new(rand::random(), Instant::now()),
            closed: AtomicBool::new(false),
            tracker,
            socket,
        }
    }

    fn work(&self) {
        let (mut incoming, mut replies) = (Incoming::new(), Replies::new());
        while !self.closed.load(Ordering::Relaxed) {
            match incoming.receive(&self.socket) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // Mostly the error of an earlier reply (ICMP port unreachable): the socket is as good as before.
                Err(error) => {
                    tracing::debug!(%error, "UDP tracker receive");
                    std::thread::sleep(AFTER_ERROR);
                }
            }
            let now = Instant::now();
            for (datagram, from) in incoming.drain() {
                self.answer(now, datagram, from, replies.next());
                replies.end(from);
            }
            replies.send(&self.socket);
        }
    }

    /// Writes the reply to a datagram; nothing if there is none.
    fn answer(&self, now: Instant, datagram: &[u8], from: SocketAddr, out: &mut Vec<u8>) {
        match wire::parse(datagram) {
            Some(Packet::Connect(transaction)) => {
                wire::write_connected(out, transaction, self.connections.issue(now, from.ip()));
            }
            Some(Packet::Request(connection, transaction, request)) => {
                let connected = self.connections.accept(now, from.ip(), connection);
                let request = if connected { request } else { Err(Reason::NotConnected) };
                let ip = from.ip().to_canonical();
                if let Err(reason) = request.and_then(|request| self.serve(ip, transaction, request, out)) {
                    self.errors.inc();
                    wire::write_error(out, transaction, reason);
                }
            }
            None => self.malformed.inc(),
        }
    }

    /// Writes the reply to a request, if it is not refused.
    fn serve(&self, ip: IpAddr, transaction: TransactionId, request: Request, out: &mut Vec<u8>) -> Result<(), Reason> {
        match request {
            Request::Announce { announce, url } => {
                self.check(ip, &announce, &url)?;
                let wanted = native_peers_wanted(announce.numwant);
                let question = NativeQuestion { ip, announce: &announce, wanted, both: false };
                let mut reply = wire::Announced::new(out, transaction, self.tracker.settings.native_interval.as_secs());
                match self.tracker.native(&question, &mut |addr, _| reply.add(addr)) {
                    Ok(counts) => reply.finish(counts),
                    Err(refusal) => {
                        out.clear();
                        return Err(refusal.into());
                    }
                }
                self.announces.inc();
            }
            // BEP 41 puts no address after a scrape, so on a private tracker nobody may ask this way.
            Request::Scrape(_) if self.tracker.check_client("", "").is_err() => return Err(Refusal::NoPasskey.into()),
            Request::Scrape(info_hashes) => {
                let files = info_hashes.iter().map(|info_hash| self.tracker.shards.scrape(info_hash));
                wire::write_scraped(out, transaction, files);
                self.scrapes.inc();
            }
        }
        Ok(())
    }

    /// Whether the operator's rules take this announce; leaving is always allowed.
    fn check(&self, ip: IpAddr, announce: &NativeAnnounce, url: &[u8]) -> Result<(), Refusal> {
        let url = std::str::from_utf8(url).unwrap_or_default();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        self.tracker.check_client(path, query)?;
        if announce.progress.is_none() {
            return Ok(());
        }
        self.tracker.check_pace(ip)?;
        self.tracker.check_torrent(&announce.info_hash)
    }
}
