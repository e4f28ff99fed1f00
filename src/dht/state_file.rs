//! What a node remembers over a restart: its id and the nodes it knew. Each of the two DHTs has a file of its own.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::wire::id::NodeId;
use crate::wire::krpc::Contact;
use crate::wire::{bencode, compact};

/// The remembered state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) id: NodeId,
    pub(super) nodes: Vec<SocketAddr>,
}

/// Reads the file. A file that is not there or makes no sense is no state: the node then starts as a new one.
pub(super) async fn load(path: &Path) -> Option<Saved> {
    decode(&tokio::fs::read(path).await.ok()?)
}

/// Writes the file so that a crash leaves either the old or the new one.
pub(super) async fn save(path: &Path, id: NodeId, nodes: &[Contact]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    tokio::fs::write(&new, encode(id, nodes)).await?;
    tokio::fs::rename(&new, path).await
}

fn encode(id: NodeId, nodes: &[Contact]) -> Vec<u8> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for node in nodes {
        let of_family = if node.addr.is_ipv4() { &mut v4 } else { &mut v6 };
        compact::write_node(of_family, &node.id, node.addr);
    }
    bencode::dict(|d| {
        d.bytes(b"id", &id.0).bytes(b"nodes", &v4).bytes(b"nodes6", &v6);
    })
}

fn decode(bytes: &[u8]) -> Option<Saved> {
    let node = bencode::decode(bytes).ok()?;
    let id = NodeId::from_slice(node.get(b"id")?.bytes()?).ok()?;
    let text = |key: &[u8]| node.get(key).and_then(bencode::Node::bytes).unwrap_or_default();
    let nodes = compact::read_nodes_v4(text(b"nodes")).chain(compact::read_nodes_v6(text(b"nodes6")));
    Some(Saved { id, nodes: nodes.map(|(_, addr)| addr).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_saved_is_loaded_and_junk_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dht.state");
        assert_eq!(load(&path).await, None);
        let nodes = ["1.2.3.4:5", "[2001:db8::1]:6"];
        let nodes = nodes.map(|addr| Contact { id: NodeId([2; 20]), addr: addr.parse().unwrap() });
        save(&path, NodeId([1; 20]), &nodes).await.unwrap();
        save(&path, NodeId([1; 20]), &nodes).await.unwrap();
        let saved = Saved { id: NodeId([1; 20]), nodes: nodes.map(|node| node.addr).into() };
        assert_eq!(load(&path).await, Some(saved));
        for junk in [b"".as_slice(), b"d2:id3:abce", b"le"] {
            tokio::fs::write(&path, junk).await.unwrap();
            assert_eq!(load(&path).await, None);
        }
    }
}
