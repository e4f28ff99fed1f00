//! The UDP socket that all connections share.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Runtime, TokioRuntime, Transmit};

use super::inbox::Inbox;
use super::routes::{RouteId, Routes};
use crate::metrics;

/// Asked of the kernel for each direction. Throughput is governed by losses in small socket buffers: with Linux's
/// default of 208 KiB it was measured at 4 to 18 MB/s, with this at 84 to 94.
const SOCKET_BUFFER: usize = 4 << 20;

/// Most datagrams handed to the kernel in one send. Longer bursts overrun Chromium's socket: measured toward it, 22 to
/// 24 MB/s with 4, and 14 with the kernel's limit of 64.
const MAX_SEGMENTS: usize = 4;

/// Messages read from the socket at once.
const BATCH: usize = 8;

/// Room for one datagram. Ethernet's; DTLS records of this stack and of browsers stay below 1300 bytes.
const DATAGRAM: usize = 1500;

/// Pause after an error of the socket itself, so that one that lasts does not keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// The shared socket and who is behind it.
pub(super) struct Mux {
    socket: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    /// A std mutex: held for one look-up, never across an await.
    routes: Mutex<Routes<Arc<Inbox>>>,
    writers: Arc<Writers>,
    /// Wakes all of `writers`; the only waker the socket ever sees, because it keeps no more than one.
    writable: Waker,
    metrics: metrics::Bridge,
}

impl Mux {
    /// Binds the socket; [`Mux::receive`] must be run for anything to arrive.
    pub(super) fn bind(listen: SocketAddr, metrics: metrics::Bridge) -> io::Result<Arc<Self>> {
        let socket = bind(listen)?;
        let local = socket.local_addr()?;
        Ok(Self::over(TokioRuntime.wrap_udp_socket(socket)?, local, metrics))
    }

    fn over(socket: Arc<dyn AsyncUdpSocket>, local: SocketAddr, metrics: metrics::Bridge) -> Arc<Self> {
        let writers = Arc::new(Writers::default());
        let writable = Waker::from(writers.clone());
        Arc::new(Self { socket, local, routes: Mutex::default(), writers, writable, metrics })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Enters a connection; what is sent to `ufrag` is its until it leaves or the last clone is dropped.
    pub(super) fn add(self: &Arc<Self>, ufrag: String) -> Arc<Route> {
        let inbox = Arc::new(Inbox::default());
        let id = self.routes().add(ufrag, inbox.clone());
        Arc::new(Route { mux: self.clone(), id, inbox })
    }

    /// Reads the socket and hands out what arrives, for ever.
    pub(super) async fn receive(self: Arc<Self>) {
        // Not cloned from one another: memory that comes zeroed takes no room until it is used.
        let mut buffers = [(); BATCH].map(|()| vec![0; DATAGRAM * self.socket.max_gro_segments()]);
        loop {
            let mut meta = [RecvMeta::default(); BATCH];
            let received = {
                let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
                std::future::poll_fn(|cx| self.socket.poll_recv(cx, &mut slices, &mut meta)).await
            };
            match received {
                Ok(count) => {
                    let now = Instant::now();
                    for (meta, buffer) in meta.iter().zip(&buffers).take(count) {
                        // The kernel may have joined several datagrams of one sender into one message.
                        buffer[..meta.len]
                            .chunks(meta.stride.max(1))
                            .for_each(|datagram| self.deliver(now, meta.addr, datagram));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "WebRTC socket");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    fn deliver(&self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let target = self.routes().route(now, from, datagram).cloned();
        let dropped = match target {
            None => "unknown",
            Some(inbox) if !inbox.push(from, datagram) => "full",
            Some(_) => return,
        };
        self.metrics.datagrams_dropped.with_label_values(&[dropped]).inc();
    }

    fn poll_send(&self, id: RouteId, cx: &Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let transmit = Transmit {
            destination: self.on_wire(transmit.destination),
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let mut writable = Context::from_waker(&self.writable);
        let mut sent = self.socket.poll_send(&mut writable, &transmit);
        if sent.is_pending() {
            self.writers.wait(id, cx.waker());
            // It may have become writable before our waker was in the list: only an attempt after that may wait.
            sent = self.socket.poll_send(&mut writable, &transmit);
        }
        sent.map(|result| {
            if let Err(error) = result {
                // An unreachable host, a rule of the firewall: the datagram is lost, as datagrams may be.
                tracing::trace!(%error, "WebRTC datagram not sent");
            }
            Ok(transmit.contents.len())
        })
    }

    /// A socket of both families speaks IPv4 by mapped addresses.
    fn on_wire(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.local.is_ipv6() => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            _ => address,
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes<Arc<Inbox>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        self.routes().len()
    }
}

fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.bind(&listen.into())?;
    socket.set_nonblocking(true)?;
    // Best effort: the kernel caps both, and says so only when read back.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    let socket = UdpSocket::from(socket);
    let granted = SockRef::from(&socket).recv_buffer_size().unwrap_or(0);
    if granted < SOCKET_BUFFER {
        tracing::info!(
            "the kernel limits the WebRTC socket's buffer to {granted} bytes, which costs throughput; \
             sysctl net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER} lifts it"
        );
    }
    Ok(socket)
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("local", &self.local).finish_non_exhaustive()
    }
}

/// The connections that wait for room in the socket. Each is here at most once.
#[derive(Debug, Default)]
struct Writers(Mutex<HashMap<RouteId, Waker>>);

impl Writers {
    fn wait(&self, id: RouteId, waker: &Waker) {
        self.lock().insert(id, waker.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RouteId, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Writers {
    fn wake(self: Arc<Self>) {
        let waiting = std::mem::take(&mut *self.lock());
        waiting.into_values().for_each(Waker::wake);
    }
}

/// One connection's share of the socket, until it leaves.
#[derive(Debug)]
pub(super) struct Route {
    mux: Arc<Mux>,
    id: RouteId,
    inbox: Arc<Inbox>,
}

impl Route {
    /// Waits for datagrams of this connection and moves up to `most` of them to `taken`.
    pub(super) async fn receive(&self, most: usize, taken: &mut Vec<(SocketAddr, BytesMut)>) {
        std::future::poll_fn(|cx| self.inbox.poll_take(cx, most, taken)).await;
    }

    /// Sends datagrams that are all of `segment` bytes, but for the last, which may be shorter. Waits while the socket is
    /// full.
    pub(super) async fn send(&self, destination: SocketAddr, contents: &[u8], segment: usize) {
        let segment_size = (segment < contents.len()).then_some(segment);
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        // What fails is lost, as datagrams may be.
        let _: io::Result<usize> = std::future::poll_fn(|cx| self.mux.poll_send(self.id, cx, &transmit)).await;
    }

    /// Most datagrams of one send.
    pub(super) fn max_segments(&self) -> usize {
        self.mux.socket.max_gso_segments().clamp(1, MAX_SEGMENTS)
    }

    /// Takes the connection out of the table: nothing reaches it any more.
    pub(super) fn leave(&self) {
        self.mux.routes().remove(self.id);
        self.mux.writers.lock().remove(&self.id);
    }

    /// Where the peer was last heard.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.inbox.peer()
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A socket that keeps one waker, as tokio's does, and is writable when told.
    #[derive(Debug, Default)]
    struct Choked {
        writable: Mutex<bool>,
        waker: Mutex<Option<Waker>>,
        sent: Mutex<Vec<SocketAddr>>,
    }

    impl Choked {
        fn open(&self) {
            *self.writable.lock().unwrap() = true;
            self.waker.lock().unwrap().take().unwrap().wake();
        }
    }

    impl AsyncUdpSocket for Choked {
        fn local_addr(&self) -> io::Result<SocketAddr> {
            unreachable!("the address is known from binding")
        }

        fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
            if *self.writable.lock().unwrap() {
                self.sent.lock().unwrap().push(transmit.destination);
                return Poll::Ready(Err(io::ErrorKind::HostUnreachable.into()));
            }
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn max_gso_segments(&self) -> usize {
            64
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(route: &Route, to: &str, woken: &Arc<Woken>) -> Poll<()> {
        let sending = std::pin::pin!(route.send(to.parse().unwrap(), b"four", 4));
        sending.poll(&mut Context::from_waker(&Waker::from(woken.clone())))
    }

    #[test]
    fn a_full_socket_makes_all_writers_wait_and_wakes_all_of_them() {
        let socket = Arc::<Choked>::default();
        let local: SocketAddr = "[::]:9".parse().unwrap();
        let mux = Mux::over(socket.clone(), local, metrics::Bridge::detached());
        let routes: Vec<_> = (0..3).map(|i| mux.add(format!("ufrag{i}"))).collect();
        let woken: Vec<_> = routes.iter().map(|_| Arc::<Woken>::default()).collect();
        for (route, woken) in routes.iter().zip(&woken) {
            assert!(send(route, "192.0.2.1:7", woken).is_pending());
            assert!(send(route, "192.0.2.1:7", woken).is_pending(), "waiting twice");
        }
        routes[2].leave();
        socket.open();
        let times: Vec<_> = woken.iter().map(|woken| woken.0.load(Ordering::Relaxed)).collect();
        assert_eq!(times, [1, 1, 0], "each that waits once, and none that left");

        assert!(send(&routes[0], "192.0.2.1:7", &woken[0]).is_ready(), "an unreachable peer is a lost datagram");
        assert_eq!(*socket.sent.lock().unwrap(), ["[::ffff:192.0.2.1]:7".parse::<SocketAddr>().unwrap()]);
        assert_eq!(routes[0].max_segments(), MAX_SEGMENTS);
    }

    #[test]
    fn a_connection_that_left_is_not_heard() {
        let local = "127.0.0.1:9".parse().unwrap();
        let mux = Mux::over(Arc::<Choked>::default(), local, metrics::Bridge::detached());
        let route = mux.add("ours".into());
        let request = crate::wire::stun::tests::binding_request(&[(6, b"ours:theirs")]);
        let dropped = |reason| mux.metrics.datagrams_dropped.with_label_values(&[reason]).get();
        let from = "[::ffff:192.0.2.1]:7".parse().unwrap();
        mux.deliver(Instant::now(), from, &request);
        mux.deliver(Instant::now(), from, &[22, 1]);
        assert_eq!(route.peer(), Some("192.0.2.1:7".parse().unwrap()), "mapped addresses are IPv4's");
        assert_eq!((mux.len(), dropped("unknown")), ((1, 1), 0));
        route.leave();
        mux.deliver(Instant::now(), from, &request);
        mux.deliver(Instant::now(), from, &[22, 1]);
        assert_eq!((mux.len(), dropped("unknown")), ((0, 0), 2));
        let flooded = mux.add("flooded".into());
        mux.deliver(Instant::now(), from, &crate::wire::stun::tests::binding_request(&[(6, b"flooded:theirs")]));
        (0..2000).for_each(|_| mux.deliver(Instant::now(), from, &[22; 1000]));
        assert!(dropped("full") > 0 && flooded.peer().is_some());
    }
}
