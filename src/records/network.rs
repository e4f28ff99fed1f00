//! What the record service asks of the DHT, as a trait so that it can be tested with one in memory.

use futures_util::future::BoxFuture;

use crate::dht::{Dht, GetOutcome, PutOutcome};
use crate::wire::id::{PublicKey, Target};
use crate::wire::item::{ItemError, Salt, VerifiedItem};

/// A DHT, as [`Dht`] offers it.
pub(crate) trait Network: Send + Sync + 'static {
    /// See [`Dht::get`].
    fn get(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> BoxFuture<'_, GetOutcome>;

    /// See [`Dht::get_immutable`].
    fn get_immutable(&self, target: Target) -> BoxFuture<'_, Option<Vec<u8>>>;

    /// See [`Dht::put`].
    fn put(&self, item: VerifiedItem, cas: Option<i64>) -> BoxFuture<'_, PutOutcome>;

    /// See [`Dht::put_immutable`].
    fn put_immutable(&self, v: Vec<u8>) -> BoxFuture<'_, Result<PutOutcome, ItemError>>;
}

/// A lookup before the node has joined the network would find nobody and call that an answer, so all wait for that.
impl Network for Dht {
    fn get(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> BoxFuture<'_, GetOutcome> {
        Box::pin(async move {
            self.bootstrapped().await;
            Dht::get(self, key, salt, known_seq).await
        })
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
