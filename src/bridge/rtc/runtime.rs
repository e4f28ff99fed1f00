//! What the WebRTC stack takes for its runtime: tokio, except that a UDP socket is a share of the common one, and that
//! a task is counted among the node's and ends with its connection.
//!
//! The stack binds sockets by itself and only then asks its runtime to wrap them. There is no way to hand it ours, so
//! each connection is told to bind a port of the loopback interface; that placeholder is closed at once, and its
//! address lives on as the name by which the connection's ICE agent knows its share of the real socket. The same
//! address stands in its candidates, which is why [`super::sdp`] writes them anew.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime,
};

use super::mux::Route;
use crate::tasks::Tasks;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The runtime of one connection.
#[derive(Debug)]
pub(super) struct PeerRuntime {
    pub(super) route: Arc<Route>,
    pub(super) tasks: Tasks,
    /// Cancelled when a task of the stack ends, however it does. The stack spawns one, its driver: without it nothing
    /// else of the connection would ever resolve.
    pub(super) driver_ended: CancellationToken,
}

impl Runtime for PeerRuntime {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        let handle = Handle { cancel: CancellationToken::new(), ended: CancellationToken::new() };
        let guards = (handle.ended.clone().drop_guard(), self.driver_ended.clone().drop_guard());
        let cancel = handle.cancel.clone();
        self.tasks.spawn(async move {
            let _guards = guards;
            let _: Option<()> = cancel.run_until_cancelled(task).await;
        });
        Box::new(handle)
    }

    fn wrap_udp_socket(&self, placeholder: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(self.route.socket(placeholder.local_addr()?))
    }

    fn wrap_tcp_listener(&self, _listener: TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn connect_tcp<'a>(&'a self, _address: SocketAddr) -> Boxed<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        // Candidates over TCP never reach the stack; were one to, this server would still not be aimed by it.
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    fn resolve_host<'a>(&'a self, _host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        // Nor names: no STUN or TURN server is configured.
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    fn sleep(&self, duration: Duration) -> Boxed<'static, ()> {
        TokioRuntime.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn yield_now(&self) -> Boxed<'static, ()> {
        TokioRuntime.yield_now()
    }

    fn name(&self) -> &'static str {
        "swarmgate"
    }
}

struct Handle {
    cancel: CancellationToken,
    ended: CancellationToken,
}

impl JoinHandle for Handle {
    /// Dropping the handle already detaches: nothing to do.
    fn detach(&self) {}

    fn abort(&self) {
        self.cancel.cancel();
    }

    fn is_finished(&self) -> bool {
        self.ended.is_cancelled()
    }
}
