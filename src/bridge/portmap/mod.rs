//! Port mapping: a router at home is asked to forward the ports by which peers reach us, and told when we leave.
//!
//! Asked is only the default gateway of a machine whose own address is private, and only for ports that others could reach
//! there: a server with a public address, one that listens on loopback, and one in a network without a gateway send
//! nothing. Nobody waits for it: the node starts and stops with the router as it is.

mod around;
#[cfg(test)]
mod fake;
mod router;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::net::is_public;
pub(super) use around::Around;
use router::{Mapping, Router};

/// Mappings are asked for an hour at a time, so that a router is rid of them soon after a crash ...
const LIFETIME: Duration = Duration::from_secs(3600);

/// ... and renewed well before that: routers restart and forget.
const RENEW: Duration = Duration::from_secs(20 * 60);

/// Wait after a failure; it doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// How long the node's end may wait for the router.
const FAREWELL: Duration = Duration::from_secs(3);

/// The transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// A port that is to be reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) number: NonZeroU16,
    /// For the log.
    pub(super) what: &'static str,
}

impl Port {
    /// The port of a socket, if others than this machine could reach it there.
    pub(super) fn of(protocol: Protocol, bound: SocketAddr, what: &'static str) -> Option<Self> {
        let number = NonZeroU16::new(bound.port()).filter(|_| !bound.ip().to_canonical().is_loopback())?;
        Some(Self { protocol, number, what })
    }
}

/// Keeps `ports` mapped until `stopping`, then takes the mappings back. `mapped` hears of each port's outside address.
pub(super) async fn run(
    around: Around,
    ports: Vec<Port>,
    mapped: impl Fn(&Port, SocketAddr),
    metrics: metrics::Bridge,
    stopping: CancellationToken,
) {
    if ports.is_empty() {
        return;
    }
    let mut mapper = Mapper { around, router: None, held: vec![None; ports.len()], ports, metrics };
    let mut retry = RETRY.0;
    loop {
        let wait = match stopping.run_until_cancelled(mapper.refresh(&mapped)).await {
            None => break,
            Some(true) => {
                retry = RETRY.0;
                RENEW
            }
            Some(false) => {
                let wait = retry;
                retry = (retry * 2).min(RETRY.1);
                wait
            }
        };
        if stopping.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            break;
        }
    }
    let _ = timeout(FAREWELL, mapper.take_back()).await;
}

struct Mapper {
    around: Around,
    /// The one that answered last.
    router: Option<Router>,
    ports: Vec<Port>,
    /// For each port, what the router gave.
    held: Vec<Option<Mapping>>,
    metrics: metrics::Bridge,
}

impl Mapper {
    /// Maps every port, or maps it again; whether all are mapped. With no router to ask, all is well too.
    async fn refresh(&mut self, mapped: &impl Fn(&Port, SocketAddr)) -> bool {
        let Some(here) = self.around.look() else {
            self.count("no_router");
            return true;
        };
        if self.router.as_ref().is_none_or(|router| router.here() != here) {
            self.router = Router::find(here, &self.around, &self.ports[0]).await;
        }
        let Some(router) = &self.router else {
            self.count("no_answer");
            return false;
        };
        let mut complete = true;
        for (port, held) in self.ports.iter().zip(&mut self.held) {
            match router.map(port, held.take()).await {
                Ok(mapping) => {
                    let outside = router.outside(&mapping).await;
                    tracing::info!(what = port.what, by = router.label(), ?outside, "the router forwards a port");
                    // A router that is behind another NAT names an address that means nothing to strangers.
                    if let Some(outside) = outside.filter(|outside| is_public(outside.ip())) {
                        mapped(port, outside);
                    }
                    *held = Some(mapping);
                    self.metrics.mappings.with_label_values(&["mapped"]).inc();
                }
                Err(reason) => {
                    tracing::info!(what = port.what, by = router.label(), reason, "the router does not forward a port");
                    self.metrics.mappings.with_label_values(&["refused"]).inc();
                    complete = false;
                }
            }
        }
        let count = self.held.iter().flatten().count();
        self.metrics.mapped.set(i64::try_from(count).expect("there are a handful of ports"));
        if count == 0 {
            // It may have been replaced by one that speaks something else.
            self.router = None;
        }
        complete
    }

    async fn take_back(&mut self) {
        let Some(router) = &self.router else { return };
        for (port, held) in self.ports.iter().zip(&mut self.held) {
            if let Some(mapping) = held.take() {
                let result = if router.unmap(port, mapping).await { "removed" } else { "not_removed" };
                self.metrics.mappings.with_label_values(&[result]).inc();
            }
        }
        self.metrics.mapped.set(0);
    }

    fn count(&self, result: &str) {
        self.metrics.mappings.with_label_values(&[result]).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::fake::{Entry, FakeRouter, Speaks};
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn port(protocol: Protocol, number: u16) -> Port {
        Port { protocol, number: NonZeroU16::new(number).unwrap(), what: "test" }
    }

    /// From the first question to the farewell, with a router of each kind.
    #[tokio::test]
    async fn ports_are_mapped_and_taken_back() {
        for (n, speaks) in [Speaks::Pcp, Speaks::NatPmp, Speaks::Igd].into_iter().enumerate() {
            let router = FakeRouter::start(speaks, n as u8).await;
            let (stopping, metrics) = (CancellationToken::new(), metrics::Bridge::detached());
            let told = Arc::new(Mutex::new(Vec::new()));
            let tell = told.clone();
            let ports = vec![port(Protocol::Tcp, 6881), port(Protocol::Udp, 6883)];
            let mapped =
                move |port: &Port, outside: SocketAddr| tell.lock().unwrap().push((port.number.get(), outside));
            let task = tokio::spawn(run(router.around(), ports, mapped, metrics.clone(), stopping.clone()));
            let entries =
                [(Protocol::Tcp, 6881), (Protocol::Udp, 6883)].map(|(protocol, port)| Entry { protocol, port });
            timeout(DEADLINE, router.holds(&entries)).await.unwrap_or_else(|_| panic!("{speaks:?}"));
            let outside = |port: u16| SocketAddr::from(([8, 8, 4, 4], port));
            timeout(DEADLINE, async {
                while *told.lock().unwrap() != [(6881, outside(6881)), (6883, outside(6883))] {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("{speaks:?}: {told:?}"));
            stopping.cancel();
            timeout(DEADLINE, task).await.unwrap().unwrap();
            timeout(DEADLINE, router.holds(&[])).await.unwrap_or_else(|_| panic!("{speaks:?} keeps mappings"));
            assert_eq!(metrics.mappings.with_label_values(&["removed"]).get(), 2, "{speaks:?}");
        }
    }

    #[tokio::test]
    async fn a_node_with_no_router_asks_nobody_and_stops_at_once() {
        let (stopping, metrics) = (CancellationToken::new(), metrics::Bridge::detached());
        let ports = vec![port(Protocol::Tcp, 6881)];
        let task = tokio::spawn(run(Around::nowhere(), ports, |_, _| {}, metrics.clone(), stopping.clone()));
        timeout(DEADLINE, async {
            while metrics.mappings.with_label_values(&["no_router"]).get() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        stopping.cancel();
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    #[test]
    fn only_ports_that_others_could_reach_are_mapped() {
        for (bound, expected) in [
            ("0.0.0.0:6881", true),
            ("192.168.1.2:6881", true),
            ("[::]:6881", true),
            ("127.0.0.1:6881", false),
            ("[::1]:6881", false),
            ("[::ffff:127.0.0.1]:6881", false),
        ] {
            assert_eq!(Port::of(Protocol::Tcp, bound.parse().unwrap(), "x").is_some(), expected, "{bound}");
        }
    }
}
