//! uTP (BEP 29): peers over UDP, on the port whose number the TCP door has. Clients are told of one port and try both.
//!
//! The protocol is `librqbit-utp`'s. What it lacks is added here: a lost SYN is repeated, and flushing does not wait until
//! the peer has acknowledged everything, which would leave the path empty once in each batch.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use librqbit_utp::{SocketOpts, UtpSocketUdp, UtpSocketUdpOpts, UtpStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::tasks::Tasks;

/// Bytes of a connection that may be received and unread, and as many sent and unacknowledged: 10 MB/s at 50 ms, which is
/// what WebRTC peers have. The buffers take only what is in them.
const WINDOW: NonZeroUsize = NonZeroUsize::new(512 << 10).expect("not zero");

/// How long a peer may leave what it was sent unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// How long each attempt waits for the answer to its SYN. The first suits a path across the world, and each lets an answer
/// to itself only count, so later ones are longer.
const SYN_WAITS: [Duration; 3] = [Duration::from_millis(1_200), Duration::from_millis(2_400), Duration::from_secs(4)];

/// The socket. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Utp {
    socket: Arc<UtpSocketUdp>,
}

impl Utp {
    /// Binds the port. At most `max_streams` connections are open at once, counting those that are being opened.
    pub(super) async fn bind(addr: SocketAddr, max_streams: usize, tasks: &Tasks) -> io::Result<Self> {
        let options = SocketOpts {
            vsock_rx_bufsize_bytes: Some(WINDOW),
            vsock_tx_bufsize_bytes_max: Some(WINDOW),
            // Requests are small and each waits for its answer.
            disable_nagle: true,
            remote_inactivity_timeout: Some(UNACKNOWLEDGED),
            max_live_vsocks: NonZeroUsize::new(max_streams),
            cancellation_token: tasks.token().child_token(),
            ..SocketOpts::default()
        };
        let bound = UtpSocketUdp::new_udp_with_opts(addr, options, UtpSocketUdpOpts::default()).await;
        let socket = bound.map_err(|error| match error {
            librqbit_utp::Error::Dualstack(error) => io::Error::new(io::ErrorKind::AddrInUse, error.to_string()),
            other => io::Error::other(other),
        })?;
        Ok(Self { socket })
    }

    /// The next peer that comes by itself.
    pub(super) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let stream = self.socket.accept().await.map_err(io::Error::other)?;
        let from = stream.remote_addr();
        Ok((Stream(stream), from))
    }

    /// Connects to a peer; gives up after the sum of [`SYN_WAITS`].
    pub(super) async fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        for wait in SYN_WAITS {
            match timeout(wait, self.socket.connect(addr)).await {
                Ok(connected) => return connected.map(Stream).map_err(io::Error::other),
                Err(_) => continue,
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// A connection.
pub(super) struct Stream(UtpStream);

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    /// What was written is on its way already, and the library's own flush means acknowledged.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UdpSocket;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn bind(addr: &str, tasks: &Tasks) -> (Utp, SocketAddr) {
        // The library does not say which port it was given, so it is given one that was free a moment ago.
        let free = UdpSocket::bind(addr).await.unwrap().local_addr().unwrap();
        (Utp::bind(free, 8, tasks).await.unwrap(), free)
    }

    #[tokio::test]
    async fn bytes_cross_on_both_families() {
        // listening, connecting from, connecting to
        for (listens, connects, to) in [
            ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.1:0", "[::]:0", "127.0.0.1"),
        ] {
            let tasks = Tasks::new();
            let ((server, addr), (client, client_addr)) = (bind(listens, &tasks).await, bind(connects, &tasks).await);
            let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
            let there = SocketAddr::new(to.parse().unwrap(), addr.port());
            let exchange = async {
                let (outgoing, incoming) = tokio::join!(client.connect(there), server.accept());
                let (mut outgoing, (mut incoming, from)) = (outgoing.unwrap(), incoming.unwrap());
                assert_eq!((from.ip(), from.port()), (to.parse().unwrap(), client_addr.port()));
                let mut received = vec![0; sent.len()];
                let write = async {
                    outgoing.write_all(&sent).await.unwrap();
                    outgoing.flush().await.unwrap();
                };
                tokio::join!(write, async { incoming.read_exact(&mut received).await.unwrap() });
                assert!(received == sent);
                outgoing.shutdown().await.unwrap();
                assert_eq!(incoming.read(&mut received).await.unwrap(), 0, "the end arrives");
            };
            timeout(DEADLINE, exchange).await.unwrap_or_else(|_| panic!("{connects} to {there}"));
            tasks.stop(DEADLINE).await;
        }
    }

    #[tokio::test]
    async fn a_lost_syn_is_repeated() {
        let tasks = Tasks::new();
        let (client, _) = bind("127.0.0.1:0", &tasks).await;
        let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = deaf.local_addr().unwrap();
        let heard = async {
            let mut packet = [0; 64];
            for _ in 0..2 {
                // BEP 29: type 4 is SYN, version 1.
                assert_eq!((deaf.recv(&mut packet).await.unwrap(), packet[0]), (20, 0x41));
            }
        };
        let both = async {
            tokio::select! {
                _ = client.connect(addr) => panic!("nobody answered"),
                () = heard => {}
            }
        };
        timeout(DEADLINE, both).await.unwrap();
        tasks.stop(DEADLINE).await;
    }

    #[tokio::test]
    async fn connections_are_bounded() {
        let tasks = Tasks::new();
        let (server, addr) = bind("127.0.0.1:0", &tasks).await;
        let (client, _) = bind("127.0.0.1:0", &tasks).await;
        let mut open = Vec::new();
        for _ in 0..8 {
            open.push(timeout(DEADLINE, async { tokio::join!(client.connect(addr), server.accept()) }).await.unwrap());
        }
        assert!(open.iter().all(|(outgoing, incoming)| outgoing.is_ok() && incoming.is_ok()));
        assert!(client.connect(addr).await.is_err());
        tasks.stop(DEADLINE).await;
    }
}
