//! What a node remembers over a restart: its id and the nodes it knew.

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
    let new = path.with_extension("new");
    tokio::fs::write(&new, encode(id, nodes)).await?;
    tokio::fs::rename(&new, path).await
}

fn encode(id: NodeId, nodes: &[Contact]) -> Vec<u8> {
    let mut compact_nodes = Vec::new();
    for node in nodes {
        compact::write_node(&mut compact_nodes, &node.id, node.addr);
    }
    bencode::dict(|d| {
        d.bytes(b"id", &id.0).bytes(b"nodes", &compact_nodes);
    })
}

fn decode(bytes: &[u8]) -> Option<Saved> {
    let node = bencode::decode(bytes).ok()?;
    let id = NodeId::from_slice(node.get(b"id")?.bytes()?).ok()?;
    let nodes = compact::read_nodes_v4(node.get(b"nodes")?.bytes()?).map(|(_, addr)| addr).collect();
    Some(Saved { id, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_saved_is_loaded_and_junk_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dht.state");
        assert_eq!(load(&path).await, None);
        let nodes = [Contact { id: NodeId([2; 20]), addr: "1.2.3.4:5".parse().unwrap() }];
        save(&path, NodeId([1; 20]), &nodes).await.unwrap();
        save(&path, NodeId([1; 20]), &nodes).await.unwrap();
        let saved = Saved { id: NodeId([1; 20]), nodes: vec![nodes[0].addr] };
        assert_eq!(load(&path).await, Some(saved));
        for junk in [b"".as_slice(), b"d2:id3:abce", b"le"] {
            tokio::fs::write(&path, junk).await.unwrap();
            assert_eq!(load(&path).await, None);
        }
    }
}
