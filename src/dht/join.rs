//! Joining the network, and joining it again when it is lost.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};

use super::Info;

/// How long a name may take to resolve.
const RESOLVE_TIME: Duration = Duration::from_secs(5);

/// With fewer good nodes than this the node may be on an island with a few others that lost their way too.
pub(super) const FEW_NODES: usize = 4;

/// Time between attempts while few nodes are known, doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// Asks the driver to join through these addresses; the reply comes when that is over.
pub(super) struct Join {
    pub(super) contacts: Vec<SocketAddr>,
    pub(super) over: oneshot::Sender<()>,
}

/// Keeps the node joined, in the DHT of the family for which `is_ours`: through `hosts`, whose names are resolved anew
/// each time, and the nodes of the last run.
pub(super) async fn keep_joined(
    is_ours: fn(&SocketAddr) -> bool,
    hosts: Vec<String>,
    saved: Vec<SocketAddr>,
    joins: mpsc::Sender<Join>,
    mut info: watch::Receiver<Info>,
) {
    let mut retry = FIRST_RETRY;
    loop {
        let mut contacts = resolve(&hosts, is_ours).await;
        contacts.extend(&saved);
        let (over, when_over) = oneshot::channel();
        if joins.send(Join { contacts, over }).await.is_err() || when_over.await.is_err() {
            return;
        }
        if hosts.is_empty() && saved.is_empty() {
            // A network of one's own: others come to us.
            return;
        }
        let good_nodes = info.borrow().good_nodes;
        if good_nodes < FEW_NODES {
            tracing::debug!(good_nodes, retry_in = ?retry, "few DHT nodes have answered yet");
            // Somebody may come to us in the meantime.
            let _ = tokio::time::timeout(retry, info.wait_for(|info| info.good_nodes >= FEW_NODES)).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
        if info.borrow().good_nodes >= FEW_NODES {
            retry = FIRST_RETRY;
            if info.wait_for(|info| info.good_nodes < FEW_NODES).await.is_err() {
                return;
            }
        }
    }
}

/// The addresses, of our family, of those names that resolve.
async fn resolve(hosts: &[String], is_ours: fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
    let lookups = hosts.iter().map(|host| async move {
        match tokio::time::timeout(RESOLVE_TIME, tokio::net::lookup_host(host)).await {
            Ok(Ok(addrs)) => addrs.filter(is_ours).collect(),
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "a DHT bootstrap name does not resolve");
                Vec::new()
            }
            Err(_elapsed) => Vec::new(),
        }
    });
    join_all(lookups).await.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::id::NodeId;

    #[tokio::test(start_paused = true)]
    async fn it_tries_again_with_growing_pauses_and_after_the_network_was_lost() {
        let (joins, mut requests) = mpsc::channel(1);
        let nodes = |good_nodes| Info { id: NodeId([0; 20]), good_nodes, ready: true };
        let (set_info, info) = watch::channel(nodes(0));
        let hosts = vec!["127.0.0.1:7".to_owned(), "[::1]:7".to_owned(), "no port".to_owned()];
        tokio::spawn(keep_joined(SocketAddr::is_ipv4, hosts, vec!["1.2.3.4:5".parse().unwrap()], joins, info));
        let start = tokio::time::Instant::now();
        let mut at = Vec::new();
        let expected: Vec<SocketAddr> = vec!["127.0.0.1:7".parse().unwrap(), "1.2.3.4:5".parse().unwrap()];
        for _ in 0..4 {
            let join = requests.recv().await.unwrap();
            assert_eq!(join.contacts, expected);
            at.push(start.elapsed().as_secs());
            join.over.send(()).unwrap();
        }
        assert_eq!(at, [0, 2, 6, 14]);
        set_info.send_replace(nodes(FEW_NODES));
        assert!(tokio::time::timeout(Duration::from_secs(3600), requests.recv()).await.is_err(), "joined");
        set_info.send_replace(nodes(0));
        assert!(requests.recv().await.is_some(), "lost");
    }
}
