//! The service over a DHT in memory. Time is paused: it moves when everybody waits.

use std::sync::atomic::Ordering::SeqCst;
mod following;

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tempfile::TempDir;

use super::memory_dht::MemoryDht;
use super::*;
use crate::tasks::Tasks;
use crate::wire::id::{InfoHash, Signature};
use crate::wire::item::{Salt, SignedItem, VerifiedItem, immutable_target};
use crate::wire::pointer;
use crate::{config, metrics};

struct Node {
    records: Records,
    dht: Arc<MemoryDht>,
    tasks: Tasks,
    directory: TempDir,
}

impl Node {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Arc::default()).await
    }

    async fn start_in(directory: TempDir, dht: Arc<MemoryDht>) -> Self {
        Self::start_with(config::Records::default(), directory, dht).await
    }

    async fn start_with(settings: config::Records, directory: TempDir, dht: Arc<MemoryDht>) -> Self {
        let tasks = Tasks::new();
        let metrics = metrics::Records::detached();
        let records = Records::start_on(dht.clone(), &settings, directory.path(), metrics, &tasks).await.unwrap();
        Self { records, dht, tasks, directory }
    }

    /// As a killed process that is started again: from what is on disk at this moment, nothing said and nothing closed.
    async fn kill_and_restart(self) -> Self {
        let left = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.directory.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
        }
        self.tasks.stop(seconds(5)).await;
        Self::start_in(left, self.dht).await
    }

    async fn get(&self, max_age: u64) -> Result<Got, GetError> {
        self.get_with(GetOptions { max_age: Some(Duration::from_secs(max_age)), ..GetOptions::default() }).await
    }

    async fn get_with(&self, options: GetOptions) -> Result<Got, GetError> {
        self.records.get(*version(0).key(), Salt::default(), options).await
    }

    /// Sequence number and source of what a get answers.
    async fn seen(&self, max_age: u64) -> Option<(i64, Source)> {
        let got = self.get(max_age).await.unwrap();
        got.item.map(|item| (item.seq(), got.source))
    }

    async fn put(&self, item: &VerifiedItem, cas: Option<i64>) -> Result<PutOk, PutError> {
        self.records.put(item.as_signed().clone(), PutOptions { cas, asker: Asker::Us }).await
    }
}

fn sign(seq: i64, v: &[u8]) -> VerifiedItem {
    VerifiedItem::sign(&SigningKey::from_bytes(&[1; 32]), Salt::default(), seq, v.to_vec()).unwrap()
}

fn version(seq: i64) -> VerifiedItem {
    sign(seq, b"2:v1")
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn the_dht_is_asked_when_the_answer_is_too_old() {
    let node = Node::start().await;
    assert_eq!(node.seen(10).await, None);
    node.dht.publish(&version(1));
    assert_eq!(node.seen(10).await, None, "absence is believed for a moment");
    assert_eq!(node.dht.gets.load(SeqCst), 1);
    tokio::time::advance(seconds(6)).await;
    assert_eq!(node.seen(10).await, Some((1, Source::Dht)));
    node.dht.publish(&version(2));
    tokio::time::advance(seconds(9)).await;
    assert_eq!(node.seen(10).await, Some((1, Source::Cache)));
    assert_eq!(node.seen(3).await, Some((2, Source::Dht)), "this asker wants it fresher");
    assert_eq!(node.seen(0).await, Some((2, Source::Cache)), "nobody gets fresher than a second");
    assert_eq!(node.dht.gets.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn answers_never_go_back() {
    let node = Node::start().await;
    node.dht.publish(&version(5));
    assert_eq!(node.seen(0).await, Some((5, Source::Dht)));
    node.dht.publish(&version(3));
    tokio::time::advance(seconds(60)).await;
    assert_eq!(node.seen(0).await.unwrap().0, 5);
    node.dht.unreachable.store(true, SeqCst);
    tokio::time::advance(seconds(60)).await;
    assert_eq!(node.seen(0).await, Some((5, Source::Cache)));
    // A version that was only seen is written with the next batch; this put waits for it.
    node.put(&version(6), None).await.unwrap();
    let node = node.kill_and_restart().await;
    assert_eq!(node.seen(0).await, Some((6, Source::Cache)));
}

#[tokio::test(start_paused = true)]
async fn many_gets_are_one_lookup() {
    let node = Node::start().await;
    node.dht.publish(&version(1));
    let gets = futures_util::future::join_all((0..50).map(|_| node.seen(0))).await;
    assert_eq!(gets, vec![Some((1, Source::Dht)); 50]);
    assert_eq!(node.dht.gets.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_dht_is_waited_for_only_so_long() {
    let node = Node::start().await;
    node.dht.silent.store(true, SeqCst);
    let before = tokio::time::Instant::now();
    assert_eq!(node.get(0).await, Err(GetError::TimedOut));
    assert_eq!(before.elapsed().as_secs(), config::Records::default().timeout.as_secs());
    let error = node.put(&version(1), Some(0)).await.unwrap_err();
    assert_eq!(error.to_string(), "the newest version is not known: the DHT did not answer in time");
    assert_eq!(error.code(), 202);
    node.put(&version(1), None).await.unwrap();
    tokio::time::advance(seconds(60)).await;
    assert_eq!(node.seen(0).await, Some((1, Source::Cache)), "what is known is answered all the same");
    node.dht.slow_puts.store(true, SeqCst);
    let error = node.put(&version(2), Some(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "the newest version is not known: the DHT did not answer in time");
    assert_eq!(node.seen(60).await.unwrap().0, 1, "it is not decided, so it is shown to nobody");
}

#[tokio::test(start_paused = true)]
async fn a_put_is_served_at_once_and_after_a_kill_with_the_dht_empty() {
    let node = Node::start().await;
    node.dht.unreachable.store(true, SeqCst);
    let info_hash = InfoHash([7; 20]);
    let item = sign(4, &pointer::value(&info_hash));
    assert!(!node.records.points_to(&info_hash));
    let done = node.put(&item, None).await.unwrap();
    assert_eq!(done, PutOk { target: item.target(), stored: 0, conflict: false });
    let node = node.kill_and_restart().await;
    assert_eq!(node.get(0).await.unwrap().item, Some(item));
    assert!(node.records.points_to(&info_hash));
    assert_eq!(node.records.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_changes_nothing() {
    let good = sign(5, b"2:v1");
    let change = |change: &dyn Fn(&mut SignedItem)| {
        let mut item = good.as_signed().clone();
        change(&mut item);
        item
    };
    let stranger = SigningKey::from_bytes(&[2; 32]);
    let forged = |v: &[u8]| change(&|i| i.v = v.to_vec());
    let table: Vec<(SignedItem, Option<i64>, i64, &str)> = vec![
        (change(&|i| i.sig.0[0] ^= 1), None, 206, "the signature does not verify"),
        (change(&|i| i.sig = Signature([0; 64])), None, 206, "the signature does not verify"),
        (change(&|i| i.key.0 = stranger.verifying_key().to_bytes()), None, 206, "the signature does not verify"),
        (change(&|i| i.seq = 6), None, 206, "the signature does not verify"),
        (change(&|i| i.seq = -1), None, 203, "the sequence number is not between 0 and 2^53-1"),
        (forged(&[b"998:".as_slice(), &[b'x'; 998]].concat()), None, 205, "the value is larger than 1000 bytes"),
        (forged(b"d1:bi1e1:ai2ee"), None, 203, "the value is not canonical bencode"),
        (forged(b"junk"), None, 203, "the value is not canonical bencode"),
        (
            sign(3, b"2:v1").as_signed().clone(),
            None,
            302,
            "the newest version has sequence number 4, which this one does not replace",
        ),
        (
            good.as_signed().clone(),
            Some(3),
            301,
            "the newest version has sequence number 4, which is not the one expected (cas)",
        ),
    ];
    let node = Node::start().await;
    node.put(&version(4), None).await.unwrap();
    for (item, cas, code, sentence) in table {
        let error = node.records.put(item, PutOptions { cas, asker: Asker::Us }).await.unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, sentence));
        assert_eq!(error.current().map(VerifiedItem::seq), (code > 300).then_some(4));
        assert_eq!(node.seen(100).await, Some((4, Source::Cache)));
    }
    assert_eq!(node.dht.puts.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn two_devices_on_two_servers() {
    let home = Node::start().await;
    let away = Node::start_in(tempfile::tempdir().unwrap(), home.dht.clone()).await;
    home.put(&version(1), None).await.unwrap();
    assert_eq!(away.seen(0).await, Some((1, Source::Dht)));
    tokio::time::advance(seconds(2)).await;
    away.put(&sign(2, b"4:away"), Some(1)).await.unwrap();
    tokio::time::advance(seconds(2)).await;
    let error = home.put(&sign(2, b"4:home"), Some(1)).await.unwrap_err();
    assert_eq!((error.code(), error.current().unwrap().v()), (301, b"4:away".as_slice()));
    let error = home.put(&version(1), None).await.map(|_| ()).unwrap_err();
    assert_eq!((error.code(), error.current().unwrap().seq()), (302, 2), "the look for cas taught it");
    home.put(&sign(3, b"4:home"), Some(2)).await.unwrap();
    tokio::time::advance(seconds(2)).await;
    assert_eq!(away.seen(0).await, Some((3, Source::Dht)));
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_met_while_putting_wins() {
    let node = Node::start().await;
    node.dht.publish(&version(9));
    let error = node.put(&version(8), None).await.unwrap_err();
    assert_eq!((error.code(), error.current().unwrap().seq()), (302, 9));
    assert_eq!(node.seen(10).await, Some((9, Source::Cache)));
}

#[tokio::test(start_paused = true)]
async fn two_values_with_one_number_are_flagged() {
    let node = Node::start().await;
    let (small, large) = (sign(1, b"1:a"), sign(1, b"1:b"));
    assert!(!node.put(&small, None).await.unwrap().conflict);
    assert!(node.put(&large, None).await.unwrap().conflict);
    let got = node.get(10).await.unwrap();
    assert_eq!((got.item, got.conflict), (Some(large), true));
    assert_eq!(node.put(&small, None).await.unwrap_err().code(), 302);
}

/// The DHT looks for something newer before it stores, so that needs to be done only by a server that does not know the
/// version which is put over.
#[tokio::test(start_paused = true)]
async fn a_put_over_the_version_that_is_known_costs_one_look() {
    let home = Node::start().await;
    let away = Node::start_in(tempfile::tempdir().unwrap(), home.dht.clone()).await;
    home.put(&version(1), None).await.unwrap();
    tokio::time::advance(seconds(60)).await;
    for (node, seq, gets) in [(&home, 2, 0), (&away, 3, 1), (&away, 4, 1), (&home, 5, 2)] {
        node.put(&version(seq), Some(seq - 1)).await.unwrap();
        assert_eq!(home.dht.gets.load(SeqCst), gets, "version {seq}");
        tokio::time::advance(seconds(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_put_is_no_error() {
    let node = Node::start().await;
    node.put(&version(1), None).await.unwrap();
    node.put(&version(2), Some(1)).await.unwrap();
    assert_eq!(node.put(&version(2), Some(1)).await.unwrap().stored, 1);
}

#[tokio::test(start_paused = true)]
async fn cas_is_the_books_when_the_dht_is_behind() {
    let node = Node::start().await;
    node.put(&version(1), None).await.unwrap();
    node.dht.unreachable.store(true, SeqCst);
    node.put(&version(2), Some(1)).await.unwrap();
    node.dht.unreachable.store(false, SeqCst);
    assert_eq!(node.put(&version(3), Some(2)).await.unwrap().stored, 1);
    assert_eq!(node.dht.held(&version(3).target()), Some(version(3)));
}

#[tokio::test(start_paused = true)]
async fn puts_are_published_again() {
    let node = Node::start().await;
    node.dht.unreachable.store(true, SeqCst);
    node.put(&version(1), None).await.unwrap();
    node.dht.unreachable.store(false, SeqCst);
    let target = version(1).target();
    let held_within = async |time: Duration| {
        tokio::time::timeout(time, async {
            while node.dht.held(&target).is_none() {
                tokio::time::sleep(seconds(1)).await;
            }
        })
        .await
        .is_ok()
    };
    assert!(held_within(seconds(120)).await, "soon after a put that nobody took");
    let puts = node.dht.puts.load(SeqCst);
    tokio::time::sleep(seconds(50 * 60)).await;
    assert_eq!(node.dht.puts.load(SeqCst), puts);
    tokio::time::sleep(seconds(20 * 60)).await;
    assert_eq!(node.dht.puts.load(SeqCst), puts + 1, "then every hour");
    let node = node.kill_and_restart().await;
    tokio::time::sleep(seconds(60 * 60)).await;
    assert!(node.dht.puts.load(SeqCst) > puts + 1, "also after a restart");
}

#[tokio::test(start_paused = true)]
async fn immutable_values() {
    let node = Node::start().await;
    let target = immutable_target(b"5:hello");
    assert_eq!(node.records.get_value(target, Asker::Us).await, Ok(None));
    let other = Node::start_in(tempfile::tempdir().unwrap(), node.dht.clone()).await;
    assert_eq!(other.records.put_value(b"5:hello".to_vec(), Asker::Us).await.unwrap().target, target);
    assert_eq!(node.records.get_value(target, Asker::Us).await, Ok(Some(b"5:hello".to_vec())));
    let gets = node.dht.gets.load(SeqCst);
    assert_eq!(node.records.get_value(target, Asker::Us).await, Ok(Some(b"5:hello".to_vec())));
    assert_eq!(other.records.get_value(target, Asker::Us).await, Ok(Some(b"5:hello".to_vec())));
    assert_eq!(node.dht.gets.load(SeqCst), gets, "kept for a while");
    assert_eq!(node.records.put_value(b"junk".to_vec(), Asker::Us).await.unwrap_err().code(), 203);
    assert_eq!(node.records.put_value(vec![b'0'; 1001], Asker::Us).await.unwrap_err().code(), 205);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_says_so() {
    let node = Node::start().await;
    node.tasks.stop(seconds(5)).await;
    assert_eq!(node.put(&version(1), None).await.unwrap_err().to_string(), "the server is shutting down");
    assert_eq!(node.get(0).await, Err(GetError::Stopping));
}

/// Two devices put at the same moment through two servers. Neither finds the other's version when it looks, but nodes
/// refuse whichever comes second: that one has lost, and if some nodes got one first and some the other, the larger wins.
/// Whoever loses, nobody was shown it.
#[tokio::test(start_paused = true)]
async fn who_loses_a_race_to_another_server_is_told_so_and_nobody_else_hears_of_it() {
    let (smaller, larger) = (sign(2, b"1:a"), sign(2, b"1:b"));
    // ours, theirs, whether some nodes got ours first → whether we win
    let table = [
        (&smaller, &larger, false, false),
        (&larger, &smaller, false, false),
        (&smaller, &larger, true, false),
        (&larger, &smaller, true, true),
    ];
    for (ours, theirs, some_get_ours, wins) in table {
        let node = Node::start().await;
        node.put(&version(1), None).await.unwrap();
        let (_following, follower) = following::follow(&node);
        *node.dht.race.lock().unwrap() = Some((theirs.clone(), some_get_ours));
        let result = node.put(ours, Some(1)).await;
        let stands = if wins { ours } else { theirs };
        match result {
            Ok(put) => assert!(wins && put.stored > 0),
            Err(error) => assert_eq!((error.code(), error.current(), wins), (301, Some(theirs), false)),
        }
        assert_eq!(follower.versions().iter().collect::<Vec<_>>(), [stands]);
        assert_eq!(node.get(60).await.unwrap().item.as_ref(), Some(stands));
        assert_eq!(node.dht.held(&stands.target()).as_ref(), Some(stands));
        // What lost does not come back, now or after a restart.
        // (A version that was only seen is written with the next batch; another record's put waits for it.)
        let another =
            VerifiedItem::sign(&SigningKey::from_bytes(&[2; 32]), Salt::default(), 1, b"le".to_vec()).unwrap();
        node.put(&another, None).await.unwrap();
        let node = node.kill_and_restart().await;
        assert_eq!(node.get(3600).await.unwrap().item.as_ref(), Some(stands));
    }
}

/// A disk that takes nothing, and two puts of one record sent back to back: neither has happened, or was ever to be seen.
#[tokio::test(start_paused = true)]
async fn what_the_disk_refuses_was_never_there() {
    let node = Node::start().await;
    node.put(&version(1), None).await.unwrap();
    let (_following, follower) = following::follow(&node);
    let disk = rusqlite::Connection::open(node.directory.path().join("records.sqlite")).unwrap();
    disk.execute_batch("ALTER TABLE record RENAME TO away").unwrap();
    let (second, third) = (version(2), version(3));
    let mut puts = Box::pin(futures_util::future::join(node.put(&second, None), node.put(&third, None)));
    let refused = loop {
        tokio::select! {
            biased;
            refused = &mut puts => break refused,
            () = tokio::task::yield_now() => assert_eq!(node.seen(3600).await.unwrap().0, 1),
        }
    };
    drop(puts);
    for refused in [refused.0, refused.1] {
        assert!(refused.unwrap_err().to_string().starts_with("the record could not be written to disk: "));
    }
    assert_eq!((node.seen(3600).await.unwrap().0, follower.so_far()), (1, vec![]));
    assert_eq!(node.dht.held(&second.target()), Some(version(1)));

    disk.execute_batch("ALTER TABLE away RENAME TO record").unwrap();
    node.put(&third, None).await.unwrap();
    assert_eq!(node.put(&second, None).await.unwrap_err().code(), 302);
    assert_eq!(follower.so_far(), [3]);
    let node = node.kill_and_restart().await;
    assert_eq!(node.seen(3600).await.unwrap().0, 3);
}

/// The DHT takes its time over a put with `cas`: until it has answered, nobody is shown the version, and whoever puts over
/// the same one waits, and is compared with the outcome.
#[tokio::test(start_paused = true)]
async fn what_is_not_decided_is_shown_to_nobody() {
    let node = Node::start().await;
    node.put(&version(1), None).await.unwrap();
    let (_following, follower) = following::follow(&node);
    node.dht.slow_puts.store(true, SeqCst);
    let (first, second) = (sign(2, b"1:a"), sign(2, b"1:b"));
    let mut first_put = Box::pin(node.put(&first, Some(1)));
    let mut second_put = Box::pin(node.put(&second, Some(1)));
    tokio::select! {
        biased;
        result = &mut first_put => panic!("decided already: {result:?}"),
        result = &mut second_put => panic!("decided already: {result:?}"),
        () = tokio::time::sleep(seconds(5)) => {}
    }
    assert_eq!((follower.versions(), node.get(60).await.unwrap().item), (vec![], Some(version(1))));
    node.dht.answer.notify_one();
    assert_eq!(first_put.await.unwrap().stored, 1);
    assert_eq!(follower.versions().first(), Some(&first));
    let error = second_put.await.unwrap_err();
    assert_eq!((error.code(), error.current()), (301, Some(&first)));
    assert_eq!(follower.versions(), [first], "of the second nobody heard");
    let node = node.kill_and_restart().await;
    assert_eq!(node.seen(60).await.unwrap().0, 2);
}

/// All nodes refuse, for a version that is not to be found afterwards: that is no victory.
#[tokio::test(start_paused = true)]
async fn a_put_that_all_refuse_for_something_unknown_is_not_acknowledged() {
    let node = Node::start().await;
    node.put(&version(1), None).await.unwrap();
    let (_following, follower) = following::follow(&node);
    node.dht.refuses.store(true, SeqCst);
    let error = node.put(&version(2), Some(1)).await.unwrap_err();
    assert_eq!((error.code(), error.current()), (202, None));
    assert_eq!((follower.versions(), node.seen(60).await.unwrap().0), (vec![], 1));
}
