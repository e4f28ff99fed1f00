//! Tells pages their own address (STUN, RFC 8489), so that pages behind different routers find each other and need ask
//! no third party. It has a UDP port of its own; see `webrtc.stun_listen` in the configuration for why.
//!
//! Answers are hardly longer than requests and rationed by address: nobody is worth aiming at through this.

mod allowance;

use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use self::allowance::Allowance;
use crate::metrics;
use crate::wire::stun;

/// Longest request read: a header and a name of the software. What is longer is cut, and then no request.
const LONGEST: usize = 576;

/// Pause after an error of the socket itself, so that one that lasts does not keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Answers at `socket`, for ever. One task is enough: an answer costs a few microseconds.
pub async fn serve(socket: UdpSocket, metrics: metrics::Bridge) {
    let mut allowance = Allowance::default();
    let mut datagram = [0; LONGEST];
    loop {
        let (length, sender) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "STUN socket");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        // A socket of both families knows IPv4 by mapped addresses, which mean nothing to whoever asks.
        let asker = (sender.ip().to_canonical(), sender.port()).into();
        let Some(answer) = stun::answer(&datagram[..length], asker) else { continue };
        let result = if !allowance.take(asker.ip(), Instant::now()) {
            "limited"
        } else if socket.try_send_to(&answer, sender).is_ok() {
            "answered"
        } else {
            // The socket is full, or the sender cannot be reached: it asks again.
            "lost"
        };
        metrics.stun.with_label_values(&[result]).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::time::timeout;

    use super::*;
    use crate::wire::stun::tests::binding_request;

    #[tokio::test]
    async fn askers_are_told_their_address_and_nobody_else_is_answered() {
        let server = UdpSocket::bind("[::]:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let metrics = metrics::Bridge::detached();
        let counted = |result| metrics.stun.with_label_values(&[result]).get();
        let serving = tokio::spawn(serve(server, metrics.clone()));
        for host in ["127.0.0.1", "::1"] {
            let asker = UdpSocket::bind((host, 0)).await.unwrap();
            asker.connect((host, port)).await.unwrap();
            let local: SocketAddr = asker.local_addr().unwrap();
            // Only the last of them is a question.
            for datagram in [&b""[..], &[0; LONGEST * 2], &binding_request(&[(6, b"a:b")]), &binding_request(&[])] {
                asker.send(datagram).await.unwrap();
            }
            let mut answer = [0; LONGEST];
            let length = timeout(Duration::from_secs(10), asker.recv(&mut answer)).await.unwrap().unwrap();
            assert_eq!(Some(answer[..length].to_vec()), stun::answer(&binding_request(&[]), local), "{local}");
        }
        assert_eq!((counted("answered"), counted("limited")), (2, 0));
        serving.abort();
    }
}
