//! The `dht_*` actions on the tracker's socket, and records in announces: `spec/dht-proxy.md` over [`Records`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::subscriptions::{Followed, Subscriptions};
use crate::dht::Dht;
use crate::records::{Asker, GetError, GetOptions, Got, PutError, PutOk, PutOptions, Records, Subject};
use crate::tracker::{Announced, Extension, Extensions, Outbox};
use crate::wire::id::{InfoHash, Target};
use crate::wire::item::{VerifiedItem, mutable_target};
use crate::wire::record_messages::{self, Call, Failure, Known, Reply, Request, SERVER_ERROR, announce_frame};

/// Answers the `dht_*` actions, of each socket by itself.
pub(super) struct DhtExtensions {
    pub(super) records: Records,
    pub(super) dht: Dht,
    /// Where clients find the content of pins, if there is a door for it.
    pub(super) web_seeds: Option<&'static str>,
    pub(super) followed: Arc<Followed>,
}

impl Extensions for DhtExtensions {
    fn open(&self, from: IpAddr) -> Arc<dyn Extension> {
        let places = self.followed.none_yet(Asker::Address(from).counted());
        let subscriptions = Subscriptions::new(self.records.clone(), places);
        Arc::new(DhtActions { dht: self.dht.clone(), web_seeds: self.web_seeds, subscriptions })
    }
}

/// Answers the `dht_*` actions of one socket.
struct DhtActions {
    dht: Dht,
    web_seeds: Option<&'static str>,
    subscriptions: Arc<Subscriptions>,
}

impl Extension for DhtActions {
    fn handles(&self, action: &str) -> bool {
        record_messages::handles(action)
    }

    fn message(&self, frame: &str, from: IpAddr, out: &Outbox) -> Option<BoxFuture<'static, ()>> {
        let Request { id, call } = match Request::parse(frame) {
            Ok(request) => request,
            Err(refused) => {
                out.send(refused.to_frame());
                return None;
            }
        };
        let (action, asker) = (call.action(), Asker::Address(from));
        let waiting = match self.begin(call, asker, out) {
            Step::Done(reply) => {
                out.send(reply.to_frame(action, Some(&id)));
                return None;
            }
            Step::Waits(reply) => reply,
        };
        let out = out.clone();
        Some(Box::pin(async move {
            out.send(waiting.await.to_frame(action, Some(&id)));
        }))
    }

    /// Follows the record of an announce, and sends it if the page does not have it. A field that makes no sense is ignored,
    /// as by trackers that do not know it.
    fn announced(&self, announced: Announced, out: &Outbox) -> Option<BoxFuture<'static, ()>> {
        let Announced { info_hash, bep46, interval, counts, from } = announced;
        let Known { seq, subject } = Known::parse(&bep46, &info_hash).ok()?;
        let (target, reply) = (Target(info_hash.0), (interval, counts));
        let begun = self.subscriptions.begin_announced(target, subject.clone(), reply, out).ok()?;
        let (records, out) = (self.subscriptions.records().clone(), out.clone());
        let inform = move |records: &Records| {
            if let Some(news) = records.known(&target).filter(|news| is_news(&news.item, news.conflict, seq)) {
                out.send(announce_frame(info_hash, interval, counts, &news.item));
            }
        };
        let Some((key, salt)) = subject else {
            begun.keep();
            inform(&records);
            return None;
        };
        Some(Box::pin(async move {
            // What it finds is in the book; what it does not find in time is for the polls to find.
            let options = GetOptions::following(Asker::Address(from));
            if let Ok(_) | Err(GetError::TimedOut) = records.get(key, salt, options).await {
                begun.keep();
                inform(&records);
            }
        }))
    }

    fn left(&self, info_hash: &InfoHash) {
        self.subscriptions.end_announced(&Target(info_hash.0));
    }
}

impl DhtActions {
    /// Answers a call at once where nothing has to be waited for, and does what must be done in the order of the calls.
    fn begin(&self, call: Call, asker: Asker, out: &Outbox) -> Step {
        let records = self.subscriptions.records();
        match call {
            Call::Info => {
                let info = self.dht.info();
                Step::Done(Reply::Info { nodes: info.good_nodes, ready: info.ready, web_seeds: self.web_seeds })
            }
            Call::Get { key, salt, known_seq, max_age, min_seq, mode } => {
                let max_age = max_age.map(Duration::from_secs);
                let options = GetOptions { mode, max_age, min_seq, asker, ..GetOptions::default() };
                let target = mutable_target(&key, &salt);
                if let Some(known) = records.get_now(&key, &salt, &options) {
                    return Step::Done(got(target, known_seq, Ok(known)));
                }
                let records = records.clone();
                Step::waits(async move { got(target, known_seq, records.get(key, salt, options).await) })
            }
            Call::GetValue { target } => {
                if let Some(v) = records.value_now(&target) {
                    return Step::Done(Reply::FoundValue { target, v });
                }
                let records = records.clone();
                Step::waits(async move {
                    match records.get_value(target, asker).await {
                        Ok(Some(v)) => Reply::FoundValue { target, v },
                        Ok(None) => Reply::NotFound { target },
                        Err(error) => get_failed(error),
                    }
                })
            }
            Call::Put { item, cas } => {
                let records = records.clone();
                Step::waits(async move {
                    let seq = item.seq;
                    stored(Some(seq), records.put(*item, PutOptions { cas, asker }).await)
                })
            }
            Call::PutValue { v } => {
                let records = records.clone();
                Step::waits(async move { stored(None, records.put_value(v, asker).await) })
            }
            Call::Subscribe { key, salt, known_seq } => self.subscribe((key, salt), known_seq, asker, out),
            Call::Unsubscribe { key, salt } => {
                let target = mutable_target(&key, &salt);
                self.subscriptions.end(&target);
                Step::Done(Reply::Unsubscribed { target })
            }
        }
    }

    /// First the subscription, then the look at what there is: what comes in between is pushed.
    fn subscribe(&self, subject: Subject, known_seq: Option<i64>, asker: Asker, out: &Outbox) -> Step {
        let records = self.subscriptions.records();
        let (key, salt) = subject.clone();
        let (target, options) = (mutable_target(&key, &salt), GetOptions::following(asker));
        let begun = match self.subscriptions.begin(target, subject, out) {
            Ok(begun) => begun,
            Err(error) => return Step::Done(failed(SERVER_ERROR, error.to_string())),
        };
        if let Some(known) = records.get_now(&key, &salt, &options) {
            begun.keep();
            return Step::Done(got(target, known_seq, Ok(known)));
        }
        let records = records.clone();
        Step::waits(async move {
            let reply = match records.get(key, salt, options).await {
                // The subscription stands, and a poll asks the DHT again soon.
                Err(GetError::TimedOut) => Reply::NotFound { target },
                Err(error) => return get_failed(error),
                result => got(target, known_seq, result),
            };
            begun.keep();
            reply
        })
    }
}

/// What became of a call at once.
enum Step {
    Done(Reply),
    /// The reply takes a lookup or a put.
    Waits(BoxFuture<'static, Reply>),
}

impl Step {
    fn waits(reply: impl Future<Output = Reply> + Send + 'static) -> Self {
        Self::Waits(Box::pin(reply))
    }
}

/// Whether this version is to be sent to somebody who has the one with this number. Of two values with one number nobody
/// knows which he has.
pub(super) fn is_news(item: &VerifiedItem, conflict: bool, known_seq: Option<i64>) -> bool {
    known_seq.is_none_or(|known| item.seq() > known || (conflict && item.seq() == known))
}

fn got(target: Target, known_seq: Option<i64>, result: Result<Got, GetError>) -> Reply {
    match result {
        Ok(Got { item: Some(item), source, conflict }) => {
            if is_news(&item, conflict, known_seq) {
                Reply::Found { item: Box::new(item), source, conflict }
            } else {
                Reply::Unchanged { target, seq: item.seq() }
            }
        }
        Ok(Got { item: None, .. }) => Reply::NotFound { target },
        Err(error) => get_failed(error),
    }
}

fn get_failed(error: GetError) -> Reply {
    failed(error.code(), error.to_string())
}

fn failed(code: i64, sentence: String) -> Reply {
    Reply::Failed(Failure { code, sentence, current: None })
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
