//! Connections leave nothing behind: no task, no file descriptor, little memory. Alone in its process, because descriptors
//! and memory are counted for the whole of it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test, which reports what it measured")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use swarmgate::bridge::rtc::{Channel, Endpoint};
use swarmgate::tasks::Tasks;
use swarmgate::{config, metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 50;

struct Node {
    endpoint: Arc<Endpoint>,
    tasks: Tasks,
}

async fn node() -> Node {
    let settings = config::WebRtc { listen: "127.0.0.1:0".parse().unwrap(), ..config::WebRtc::default() };
    let tasks = Tasks::new();
    let endpoint = Endpoint::bind(&settings, metrics::Bridge::detached(), &tasks).await.unwrap();
    Node { endpoint, tasks }
}

async fn connect(offering: &Node, answering: &Node) -> (Channel, Channel) {
    let (offer, offered) = offering.endpoint.offer().await.unwrap();
    let (answer, pending) = answering.endpoint.answer(&offer).await.unwrap();
    let accepted = offered.accept(&answer, |_| true).unwrap();
    timeout(DEADLINE, async { tokio::try_join!(accepted.open(), pending.open()) }).await.expect("opens").unwrap()
}

/// Waits until a node runs no task but the one that reads its socket.
async fn idle(node: &Node) {
    let idle = async {
        while node.tasks.running() > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, idle).await.expect("tasks remain");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_leave_nothing_behind() {
    let none = descriptors();
    let server = node().await;
    let mut clients = Vec::new();
    for _ in 0..AT_ONCE {
        clients.push(node().await);
    }
    let (before, mut memory) = (descriptors(), vec![resident()]);
    for _ in 0..3 {
        let open = join_all(clients.iter().map(|client| connect(client, &server))).await;
        assert_eq!(descriptors(), before, "an open connection has no descriptor of its own");
        memory.push(resident());
        join_all(open.into_iter().map(|(mut here, mut there)| async move {
            here.write_all(b"last").await.unwrap();
            drop(here);
            let mut read = Vec::new();
            timeout(DEADLINE, there.read_to_end(&mut read)).await.expect("the end is noticed").unwrap();
            assert_eq!(read, b"last");
        }))
        .await;
        for node in clients.iter().chain([&server]) {
            idle(node).await;
        }
        memory.push(resident());
    }
    assert_eq!(descriptors(), before);
    eprintln!("resident KiB, without and with {AT_ONCE} connections (both ends) in turn: {memory:?}");
    assert!(memory[1] - memory[0] < AT_ONCE * 1024, "a connection takes less than 1 MiB: {memory:?}");
    // The allocator keeps what was freed. Were connections leaked, each round would take as much again as the first.
    assert!(memory[6] < 2 * memory[1], "memory is used again: {memory:?}");

    for node in clients.into_iter().chain([server]) {
        drop(node.endpoint);
        assert_eq!(node.tasks.stop(DEADLINE).await, 0);
    }
    assert_eq!(descriptors(), none, "the shared sockets are closed too");
}
