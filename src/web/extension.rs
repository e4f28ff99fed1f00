//! `dht_info`, `dht_get` and `dht_put` on the tracker's socket: `spec/dht-proxy.md` over [`Records`].

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::dht::Dht;
use crate::records::{GetError, GetOptions, Got, PutError, PutOk, Records};
use crate::tracker::{Extension, Outbox};
use crate::wire::id::Target;
use crate::wire::item::mutable_target;
use crate::wire::record_messages::{self, Call, Failure, Reply, Request};

/// Answers the `dht_*` actions.
#[derive(Clone)]
pub(super) struct DhtActions {
    records: Records,
    dht: Dht,
}

impl Extension for DhtActions {
    fn handles(&self, action: &str) -> bool {
        record_messages::handles(action)
    }

    fn message(&self, frame: String, _: IpAddr, out: Outbox) -> BoxFuture<'static, ()> {
        let actions = self.clone();
        Box::pin(async move {
            out.send(actions.answer(&frame).await);
        })
    }
}

impl DhtActions {
    pub(super) fn new(records: Records, dht: Dht) -> Self {
        Self { records, dht }
    }

    /// The frame that answers `frame`.
    pub(super) async fn answer(&self, frame: &str) -> String {
        match Request::parse(frame) {
            Ok(request) => {
                let action = request.call.action();
                self.reply(request.call).await.to_frame(action, Some(&request.id))
            }
            Err(refused) => refused.to_frame(),
        }
    }

    async fn reply(&self, call: Call) -> Reply {
        match call {
            Call::Info => {
                let info = self.dht.info();
                Reply::Info { nodes: info.good_nodes, ready: info.ready }
            }
            Call::Get { key, salt, known_seq, max_age } => {
                let target = mutable_target(&key, &salt);
                let options = GetOptions { max_age: max_age.map(Duration::from_secs) };
                got(target, known_seq, self.records.get(key, salt, options).await)
            }
            Call::GetValue { target } => match self.records.get_value(target).await {
                Ok(Some(v)) => Reply::FoundValue { target, v },
                Ok(None) => Reply::NotFound { target },
                Err(error) => get_failed(error),
            },
            Call::Put { item, cas } => {
                let seq = item.seq;
                stored(Some(seq), self.records.put(*item, cas).await)
            }
            Call::PutValue { v } => stored(None, self.records.put_value(v).await),
        }
    }
}

fn got(target: Target, known_seq: Option<i64>, result: Result<Got, GetError>) -> Reply {
    match result {
        Ok(Got { item: Some(item), source, conflict }) => {
            if known_seq.is_some_and(|known| item.seq() <= known) {
                Reply::Unchanged { target, seq: item.seq() }
            } else {
                Reply::Found { item: Box::new(item), source, conflict }
            }
        }
        Ok(Got { item: None, .. }) => Reply::NotFound { target },
        Err(error) => get_failed(error),
    }
}

fn get_failed(error: GetError) -> Reply {
    Reply::Failed(Failure { code: error.code(), sentence: error.to_string(), current: None })
}

fn stored(seq: Option<i64>, result: Result<PutOk, PutError>) -> Reply {
    match result {
        Ok(PutOk { target, stored, conflict }) => Reply::Stored { target, seq, stored, conflict },
        Err(error) => Reply::Failed(Failure {
            code: error.code(),
            sentence: error.to_string(),
            current: error.current().cloned().map(Box::new),
        }),
    }
}
