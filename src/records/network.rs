//! What the record service asks of the DHT, as a trait so that it can be tested with one in memory.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::dht::{Dht, Finding, GetOutcome, PutOutcome};
use crate::wire::id::{PublicKey, Target};
use crate::wire::item::{ItemError, Salt, VerifiedItem};

/// What a lookup says while it is under way.
#[derive(Debug)]
pub(crate) enum Said {
    /// There is an item, newer than those said before.
    Found(VerifiedItem),
    /// It is over, and this is what it came to.
    Over(GetOutcome),
}

/// A DHT, as [`Dht`] offers it.
pub(crate) trait Network: Send + Sync + 'static {
    /// See [`Dht::find`]. Ends with [`Said::Over`].
    fn find(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> BoxStream<'_, Said>;

    /// See [`Dht::get`].
    fn get(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> BoxFuture<'_, GetOutcome> {
        let over = self.find(key, salt, known_seq).filter_map(async |said| match said {
            Said::Found(_) => None,
            Said::Over(outcome) => Some(outcome),
        });
        Box::pin(async move { std::pin::pin!(over).next().await.unwrap_or_default() })
    }

    /// See [`Dht::get_immutable`].
    fn get_immutable(&self, target: Target) -> BoxFuture<'_, Option<Vec<u8>>>;

    /// See [`Dht::put`].
    fn put(&self, item: VerifiedItem, cas: Option<i64>) -> BoxFuture<'_, PutOutcome>;

    /// See [`Dht::put_immutable`].
    fn put_immutable(&self, v: Vec<u8>) -> BoxFuture<'_, Result<PutOutcome, ItemError>>;
}

/// A lookup before the node has joined the network would find nobody and call that an answer, so all wait for that.
impl Network for Dht {
    fn find(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> BoxStream<'_, Said> {
        let begun = async move {
            self.bootstrapped().await;
            Dht::find(self, key, salt, known_seq).await
        };
        Box::pin(stream::once(begun).flat_map(|finding| stream::unfold(Some(finding), next)))
    }

    fn get_immutable(&self, target: Target) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            self.bootstrapped().await;
            Dht::get_immutable(self, target).await
        })
    }

    fn put(&self, item: VerifiedItem, cas: Option<i64>) -> BoxFuture<'_, PutOutcome> {
        Box::pin(async move {
            self.bootstrapped().await;
            Dht::put(self, item, cas).await
        })
    }

    fn put_immutable(&self, v: Vec<u8>) -> BoxFuture<'_, Result<PutOutcome, ItemError>> {
        Box::pin(async move {
            self.bootstrapped().await;
            Dht::put_immutable(self, v).await
        })
    }
}

async fn next(finding: Option<Finding>) -> Option<(Said, Option<Finding>)> {
    let mut finding = finding?;
    Some(match finding.next().await {
        Some(item) => (Said::Found(item), Some(finding)),
        None => (Said::Over(finding.outcome().await), None),
    })
}
