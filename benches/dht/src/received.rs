//! Counts what each node gets from a client: every datagram that arrives on this host, as a raw socket sees it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// What the busiest nodes got.
#[derive(Debug, Default)]
pub struct Received {
    pub in_one_second: usize,
    pub in_ten_seconds: usize,
    pub total: usize,
}

impl Received {
    /// What the busiest nodes got in either of two times, and all of them in both.
    pub fn worst(self, other: Self) -> Self {
        Self {
            in_one_second: self.in_one_second.max(other.in_one_second),
            in_ten_seconds: self.in_ten_seconds.max(other.in_ten_seconds),
            total: self.total + other.total,
        }
    }
}

/// Watches until it is stopped.
pub struct Watch {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<HashMap<u16, Vec<Instant>>>,
}

impl Watch {
    /// Watches what comes from `port` of this host. `None` without the right to.
    pub fn start(port: u16) -> Option<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).ok()?;
        socket.set_recv_buffer_size(64 << 20).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::spawn(move || {
            let mut arrivals: HashMap<u16, Vec<Instant>> = HashMap::new();
            let mut packet = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                match (&socket).read(&mut packet) {
                    Ok(len) => {
                        if let Some((from, to)) = ports(&packet[..len])
                            && from == port
                        {
                            arrivals.entry(to).or_default().push(Instant::now());
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            arrivals
        });
        Some(Self { stopping, thread })
    }

    pub fn stop(self) -> Received {
        self.stopping.store(true, Ordering::Relaxed);
        let arrivals = self.thread.join().expect("the thread does not panic");
        let busiest = |window| arrivals.values().map(|times| most_within(times, window)).max().unwrap_or_default();
        Received {
            in_one_second: busiest(Duration::from_secs(1)),
            in_ten_seconds: busiest(Duration::from_secs(10)),
            total: arrivals.values().map(Vec::len).sum(),
        }
    }
}

/// The ports of a packet with its IPv4 header.
fn ports(packet: &[u8]) -> Option<(u16, u16)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let [a, b, c, d] = *packet.get(header..header + 4)? else { return None };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// The most that came within any window of this length.
fn most_within(times: &[Instant], window: Duration) -> usize {
    let mut from = 0;
    let mut most = 0;
    for (at, time) in times.iter().enumerate() {
        while time.duration_since(times[from]) >= window {
            from += 1;
        }
        most = most.max(at + 1 - from);
    }
    most
}
