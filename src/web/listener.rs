//! Serves connections: hyper itself rather than `axum::serve`, which has no deadline for a request's head and no limit
//! on connections, so that a few thousand sockets that say nothing would keep everybody out.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::ServiceExt;

use super::client_stream::{ClientStream, LeftUnread};
use super::places::{Place, Places};
use super::proxy_protocol;
use crate::config::{self, Network};
use crate::metrics;
use crate::net::host;
use crate::tasks::Tasks;

/// How long a request's head may take, counted from the connection or the answer before it: so long is an idle
/// connection kept, too.
const HEAD_DEADLINE: Duration = Duration::from_secs(20);

/// Largest head of a request. A scrape of a hundred torrents is 8 KB.
const MAX_HEAD: usize = 32 * 1024;

/// Connections served at once by one listener, some 10 KB each; more wait in the kernel's queue. WebSockets do not count
/// once they are upgraded: the tracker has limits of its own for them.
const MAX_CONNECTIONS: usize = 8192;

/// After an accept that failed: the process has no descriptors left, and some will be free in a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who connects, and how.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Proxies in front of this server.
    proxies: Arc<[Network]>,
    /// Whether each connection begins with the PROXY protocol; then nobody but `proxies` may connect.
    announced: bool,
    places: Arc<Places<IpAddr>>,
    metrics: metrics::Web,
}

impl Clients {
    /// As configured.
    #[must_use]
    pub fn of(settings: &config::Web, metrics: metrics::Web) -> Self {
        Self {
            proxies: settings.trusted_proxies.as_slice().into(),
            announced: settings.proxy_protocol,
            places: Places::new(MAX_CONNECTIONS, settings.max_connections_per_address),
            metrics,
        }
    }

    /// Reads what comes before the first request; whose connection it is.
    async fn open(&self, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
        if !self.announced {
            return Ok(peer);
        }
        timeout(HEAD_DEADLINE, proxy_protocol::client(stream, peer, &self.proxies)).await?
    }

    /// A place among those of the client's host. Proxies, and loopback, which is one of one's own, bring many clients.
    fn place(&self, client: IpAddr) -> Option<Place<IpAddr>> {
        let client = client.to_canonical();
        let counts = !client.is_loopback() && !self.proxies.iter().any(|proxies| proxies.contains(client));
        let place = self.places.take(counts.then(|| host(client)));
        if place.is_none() {
            self.metrics.refused.inc();
        }
        place
    }
}

/// Serves `router` on `listener` until the node stops. Requests under way are then finished, within the node's own
/// deadline for stopping.
pub fn serve(listener: TcpListener, router: Router, clients: Clients, tasks: &Tasks) {
    tasks.spawn(accept(listener, router, clients, tasks.clone()));
}

async fn accept(listener: TcpListener, router: Router, clients: Clients, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let next = async || {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        (listener.accept().await, place)
    };
    while let Some((accepted, place)) = tasks.token().run_until_cancelled(next()).await {
        match accepted {
            Ok((mut stream, peer)) => {
                let (router, clients, stopping) = (router.clone(), clients.clone(), tasks.clone());
                tasks.spawn(async move {
                    let opened = stopping.token().run_until_cancelled(clients.open(&mut stream, peer)).await;
                    match opened {
                        Some(Ok(client)) => {
                            if let Some(of_host) = clients.place(client.ip()) {
                                connection(stream, client, router, stopping, (place, of_host)).await;
                            }
                        }
                        Some(Err(error)) => tracing::debug!(%peer, "a connection did not open as it must: {error}"),
                        None => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tasks.token().run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// Its places are held until the connection closes or becomes a WebSocket.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    tasks: Tasks,
    _places: (OwnedSemaphorePermit, Place<IpAddr>),
) {
    // Offers and answers are small and wanted at once. It fails only for a connection that is closed already.
    let _ = stream.set_nodelay(true);
    let left_unread = LeftUnread::default();
    let stream = ClientStream::new(stream, left_unread.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(|body| left_unread.watch(body));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // Errors here are clients that go away or talk nonsense; hyper has answered what can be answered.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = tasks.stopping() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
