//! Keeps the bridge in the swarms of the records that gossip follows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Inner;
use super::joined::Torrent;
use super::torrent::Purpose;
use crate::gossip::Gossip;
use crate::wire::id::InfoHash;

/// Joins and leaves topic swarms for as long as it is polled.
pub(super) async fn run(bridge: Arc<Inner>, gossip: Gossip) {
    let mut changed = gossip.topics_changed();
    let mut joined: HashMap<InfoHash, Torrent> = HashMap::new();
    loop {
        changed.borrow_and_update();
        let topics: HashSet<_> = gossip.topics().into_iter().collect();
        joined.retain(|info_hash, topic| {
            let stays = topics.contains(info_hash);
            if !stays {
                topic.swarm.token.cancel();
            }
            stays
        });
        for info_hash in topics {
            if !joined.contains_key(&info_hash) {
                joined.extend(join(&bridge, info_hash).await.map(|topic| (info_hash, topic)));
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Joins a topic. Under an open policy a page may have had it joined as if it were a torrent; that one, or one that is just
/// being left, goes first.
async fn join(bridge: &Arc<Inner>, info_hash: InfoHash) -> Option<Torrent> {
    let in_the_way = match bridge.joined.join(bridge, info_hash, Purpose::Topic) {
        Ok(topic) => return Some(topic),
        Err(in_the_way) => in_the_way,
    };
    in_the_way.swarm.token.cancel();
    in_the_way.ended().await;
    bridge.joined.join(bridge, info_hash, Purpose::Topic).ok()
}
