//! Whole bridges in one process, with loopback between them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sha1::{Digest, Sha1};
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::puppet::{DEADLINE, Puppet};
use super::rtc::Channel;
use super::*;
use crate::config::BridgePolicy;
use crate::dht::Mode;
use crate::tasks::Tasks;
use crate::wire::extension::ExtendedHandshake;
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::metainfo::Metainfo;
use crate::wire::peer::Message;
use crate::wire::record_exchange::{self, ExchangeMessage};

mod fairness;

/// A bridge, its folder, and what ends its tasks.
struct Node {
    bridge: Bridge,
    dir: TempDir,
    tasks: Tasks,
}

impl Node {
    async fn start(policy: BridgePolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (bridge, tasks) = Self::start_in(policy, dir.path()).await;
        Self { bridge, dir, tasks }
    }

    async fn start_in(policy: BridgePolicy, dir: &Path) -> (Bridge, Tasks) {
        Self::start_with(policy, dir, None).await
    }

    async fn start_with(policy: BridgePolicy, dir: &Path, gossip: Option<Gossip>) -> (Bridge, Tasks) {
        let tasks = Tasks::new();
        let localhost: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        let dht = config::Dht { listen: localhost.into(), bootstrap: Vec::new(), ..config::Dht::default() };
        let dht = Dht::start(&dht, Mode::Client, None, metrics::Dht::detached(), &tasks).await.unwrap();
        let settings = Settings {
            bridge: config::Bridge { policy, ..config::Bridge::default() },
            bittorrent: config::BitTorrent { listen: localhost, ..config::BitTorrent::default() },
            webrtc: config::WebRtc { listen: localhost, ..config::WebRtc::default() },
        };
        let metrics = metrics::Bridge::detached();
        let rooms = Rooms { dht, tracker: None, gossip, allowed: Arc::new(|_| false) };
        let bridge = Bridge::start(settings, dir.to_owned(), rooms, metrics, &tasks).await.unwrap();
        (bridge, tasks)
    }

    async fn stop(self) {
        assert_eq!(self.tasks.stop(Duration::from_secs(5)).await, 0, "every task ends");
    }
}

/// A folder with a few files and its metainfo.
fn site(dir: &Path, seed: u8) -> (Metainfo, Vec<u8>) {
    let sizes = [("index.md", 3_000), ("img/a.png", 700_001), ("img/empty", 0), ("z.bin", 150_000)];
    let mut files = Vec::new();
    let mut content = Vec::new();
    for (name, size) in sizes {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect();
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        files.push((name.split('/').map(str::to_owned).collect(), u64::from(size)));
        content.extend(bytes);
    }
    let hashes: Vec<[u8; 20]> = content.chunks(1 << 15).map(|piece| Sha1::digest(piece).into()).collect();
    (Metainfo::build("site", &files, 1 << 15, &hashes).unwrap(), content)
}

fn read_back(metainfo: &Metainfo, dir: &Path) -> Vec<u8> {
    let paths = metainfo.files().iter().map(|file| file.path.iter().collect::<std::path::PathBuf>());
    paths.flat_map(|path| fs::read(dir.join(path)).unwrap()).collect()
}

async fn finished(download: &Download) -> Progress {
    let mut progress = download.progress();
    let last = timeout(DEADLINE, progress.wait_for(|now| now.finished || now.failed.is_some())).await;
    last.expect("it finishes in time").expect("it has news").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bridge_downloads_what_another_seeds() {
    let (seeder, leecher) = (Node::start(BridgePolicy::Off).await, Node::start(BridgePolicy::Off).await);
    let (metainfo, content) = site(&seeder.dir.path().join("mine"), 1);
    let seed = seeder.bridge.seed(metainfo.clone(), seeder.dir.path().join("mine")).await.unwrap();
    let peers = vec![seeder.bridge.bittorrent_addr()];
    let target = leecher.dir.path().join("got");
    let download = leecher.bridge.download(seed.info_hash(), peers, target.clone()).await.unwrap();
    let last = finished(&download).await;
    assert_eq!(last.metainfo.as_deref(), Some(&metainfo));
    assert!(read_back(&metainfo, &target.join("site")) == content);
    assert!(matches!(leecher.bridge.download(seed.info_hash(), vec![], target).await, Err(TorrentError::InUse)));
    drop((seed, download));
    seeder.stop().await;
    leecher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn originals_that_changed_are_not_seeded_and_not_touched() {
    let node = Node::start(BridgePolicy::Off).await;
    let dir = node.dir.path().join("mine");
    let (metainfo, _) = site(&dir, 1);
    let mut edited = fs::read(dir.join("z.bin")).unwrap();
    edited[77] ^= 1;
    fs::write(dir.join("z.bin"), &edited).unwrap();
    let error = node.bridge.seed(metainfo.clone(), dir.clone()).await.err().unwrap();
    assert_eq!(error.to_string(), "the files do not match the torrent: 1 of 27 pieces differ");
    assert_eq!(fs::read(dir.join("z.bin")).unwrap(), edited);
    fs::remove_file(dir.join("index.md")).unwrap();
    assert!(matches!(node.bridge.seed(metainfo, dir.clone()).await, Err(TorrentError::Mismatch(_))));
    assert!(!dir.join("index.md").exists());
    node.stop().await;
}

async fn read_all(content: &Content, file: usize, range: std::ops::Range<u64>) -> Result<Vec<u8>, ReadError> {
    let mut reading = content.read(file, range, DEADLINE).await?;
    let mut bytes = Vec::new();
    while let Some(part) = reading.next().await {
        bytes.extend(part?);
    }
    Ok(bytes)
}

/// A pin that has come so far that its files can be read.
async fn readable(pin: &Pin) -> Content {
    let mut progress = pin.progress();
    let checked = progress.wait_for(|now| matches!(now.state, State::Downloading | State::Complete));
    timeout(DEADLINE, checked).await.expect("it is checked in time").unwrap();
    pin.content().unwrap()
}

async fn complete(pin: &Pin) -> Progress {
    let mut progress = pin.progress();
    let last = timeout(DEADLINE, progress.wait_for(|now| now.finished || now.failed.is_some())).await;
    last.expect("it finishes in time").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_is_read_while_it_comes_and_mended_when_the_disk_forgets() {
    let (seeder, keeper) = (Node::start(BridgePolicy::Off).await, Node::start(BridgePolicy::Off).await);
    let (metainfo, content) = site(&seeder.dir.path().join("mine"), 1);
    let seed = seeder.bridge.seed(metainfo.clone(), seeder.dir.path().join("mine")).await.unwrap();
    let pinning = || Pinning { peers: vec![seeder.bridge.bittorrent_addr()], ..Pinning::default() };

    let too_large = Arc::new(|metainfo: &Metainfo| Err(format!("{} bytes are too many", metainfo.total_length())));
    let refused = keeper.bridge.pin(seed.info_hash(), Pinning { admit: Some(too_large), ..pinning() }).await.unwrap();
    let failed = complete(&refused).await.failed;
    assert_eq!(failed, Some(TorrentError::Refused("853001 bytes are too many".to_owned())));
    refused.stop().await;
    assert!(keeper.bridge.pinned_on_disk().unwrap().is_empty());

    let pin = keeper.bridge.pin(seed.info_hash(), pinning()).await.unwrap();
    assert!(matches!(keeper.bridge.pin(seed.info_hash(), pinning()).await, Err(TorrentError::InUse)));
    let files = readable(&pin).await;
    // index.md comes first, and lies before img/a.png.
    assert_eq!(read_all(&files, 1, 699_000..700_001).await.unwrap(), content[702_000..703_001]);
    assert_eq!(read_all(&files, 0, 0..3_000).await.unwrap(), content[..3_000]);
    assert!(read_all(&files, 0, 7..7).await.unwrap().is_empty());
    assert!(matches!(read_all(&files, 0, 0..3_001).await, Err(ReadError::OutOfRange(3_000))));
    assert!(matches!(read_all(&files, 4, 0..1).await, Err(ReadError::NoSuchFile)));
    let last = complete(&pin).await;
    assert_eq!((last.state, last.pieces, last.bytes, last.received), (State::Complete, 27, 853_001, 853_001));
    assert_eq!(keeper.bridge.progress(&seed.info_hash()).unwrap().bytes, 853_001);
    assert_eq!(pin.verify().await.unwrap(), Verified { good: 27, damaged: vec![] });

    let on_disk = keeper.dir.path().join("pinned").join(seed.info_hash().to_hex()).join("files");
    let mut rotten = fs::read(on_disk.join("img/a.png")).unwrap();
    rotten[400_000] ^= 1;
    fs::write(on_disk.join("img/a.png"), rotten).unwrap();
    assert_eq!(pin.verify().await.unwrap(), Verified { good: 26, damaged: vec![12] });
    let mended = async {
        while pin.verify().await.map_or(0, |verified| verified.good) < 27 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, mended).await.expect("the piece is fetched again");
    assert!(read_back(&metainfo, &on_disk) == content);

    assert!(matches!(keeper.bridge.release(seed.info_hash()).await, Err(TorrentError::InUse)));
    pin.stop().await;
    assert_eq!(keeper.bridge.pinned_on_disk().unwrap(), [seed.info_hash()]);
    // The files are there: no peer is needed.
    let pin = keeper.bridge.pin(seed.info_hash(), Pinning::default()).await.unwrap();
    assert_eq!(complete(&pin).await.received, 0);
    pin.stop().await;
    keeper.bridge.release(seed.info_hash()).await.unwrap();
    assert!(keeper.bridge.pinned_on_disk().unwrap().is_empty());
    drop(seed);
    seeder.stop().await;
    keeper.stop().await;
}

/// A page: it makes offers, as the tracker would bring them to the bridge.
struct Page {
    endpoint: Arc<Endpoint>,
    peer_id: PeerId,
}

impl Page {
    async fn open(tasks: &Tasks, id: u8) -> Self {
        let settings = config::WebRtc { listen: "127.0.0.1:0".parse().unwrap(), ..config::WebRtc::default() };
        let endpoint = Endpoint::bind(&settings, metrics::Bridge::detached(), tasks).await.unwrap();
        Self { endpoint, peer_id: PeerId([id; 20]) }
    }

    /// Offers, and opens the channel that the answer makes; `None` if there is no answer.
    async fn meet(&self, bridge: &Bridge, info_hash: InfoHash) -> Option<Channel> {
        let (sdp, pending) = self.endpoint.offer().await.unwrap();
        let (answer, answered) = oneshot::channel();
        let answer = Box::new(move |_, sdp: &str| answer.send(sdp.to_owned()).unwrap());
        let from = "192.0.2.9".parse().unwrap();
        let offer = web::Offer { page: self.peer_id, sdp, answer, from };
        bridge.inner.meet(info_hash, web::Page::Offers(offer));
        let sdp = timeout(DEADLINE, answered).await.expect("the offer is answered or dropped").ok()?;
        Some(pending.accept(&sdp, |_| true).unwrap().open().await.unwrap())
    }

    async fn puppet(&self, bridge: &Bridge, info_hash: InfoHash) -> Puppet<Channel> {
        Puppet::greet(self.meet(bridge, info_hash).await.expect("an answer"), info_hash, self.peer_id).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_downloads_what_a_bridge_seeds_and_is_answered_once() {
    let node = Node::start(BridgePolicy::Open).await;
    let dir = node.dir.path().join("mine");
    let (metainfo, content) = site(&dir, 1);
    let seed = node.bridge.seed(metainfo.clone(), dir).await.unwrap();
    let tasks = Tasks::new();
    let page = Page::open(&tasks, 9).await;
    let peer = page.puppet(&node.bridge, seed.info_hash()).await;
    assert!(page.meet(&node.bridge, seed.info_hash()).await.is_none(), "it is connected");
    assert!(peer.leech(&metainfo).await == content);
    assert_eq!(node.bridge.inner.metrics.offers.with_label_values(&["duplicate"]).get(), 1);
    drop(page);
    tasks.stop(DEADLINE).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_page_has_reaches_a_native_peer_and_outlives_the_page() {
    let (node, native) = (Node::start(BridgePolicy::Open).await, Node::start(BridgePolicy::Off).await);
    let (metainfo, content) = site(&node.dir.path().join("elsewhere"), 2);
    let info_hash = metainfo.info_hash();
    let tasks = Tasks::new();
    let page = Page::open(&tasks, 9).await;
    assert!(node.bridge.wants(&info_hash) && !native.bridge.wants(&info_hash));
    let peer = page.puppet(&node.bridge, info_hash).await;
    // The native peer comes before there is anything, and knows nothing but the info hash.
    let target = native.dir.path().join("got");
    let peers = vec![node.bridge.bittorrent_addr()];
    let download = native.bridge.download(info_hash, peers, target.clone()).await.unwrap();
    let seeding = (metainfo.clone(), content.clone());
    tokio::spawn(async move { peer.seed(&seeding.0, &seeding.1).await });
    assert!(finished(&download).await.finished);
    assert!(read_back(&metainfo, &target.join("site")) == content);
    drop((download, page));
    tasks.stop(DEADLINE).await;

    // Another process, the same folder, and no page: the cache still has it, and need not be read to be believed.
    assert_eq!(node.tasks.stop(DEADLINE).await, 0);
    let (bridge, restarted) = Node::start_in(BridgePolicy::Open, node.dir.path()).await;
    assert!(bridge.progress(&info_hash).is_some(), "it was joined when the first process ended");
    let (peers, target) = (vec![bridge.bittorrent_addr()], native.dir.path().join("again"));
    // The table drops the first download a moment after its handle.
    let download = loop {
        match native.bridge.download(info_hash, peers.clone(), target.clone()).await {
            Err(TorrentError::InUse) => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    assert!(finished(&download).await.finished);
    assert!(read_back(&metainfo, &target.join("site")) == content);
    assert_eq!(bridge.inner.metrics.checks.with_label_values(&["record"]).get(), 1);
    restarted.stop(DEADLINE).await;
    native.stop().await;
}

/// The id a puppet wants on messages of the record exchange.
const EXCHANGE: u8 = 9;

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Puppet<S> {
    /// Offers the record exchange. Returns the id that the other side wants on its messages.
    async fn offer_records(&mut self) -> u8 {
        let extensions = [(record_exchange::NAME.to_owned(), EXCHANGE)].into();
        let hello = ExtendedHandshake { extensions, ..Default::default() };
        self.say(Message::Extended { id: 0, payload: &hello.encode() }).await;
        self.hear(|_, message| match message {
            Message::Extended { id: 0, payload } => {
                ExtendedHandshake::decode(payload).unwrap().extensions.get(record_exchange::NAME).copied()
            }
            _ => None,
        })
        .await
    }

    /// The next message of the exchange.
    async fn hear_of_records(&mut self) -> ExchangeMessage {
        self.hear(|_, message| match message {
            Message::Extended { id: EXCHANGE, payload } => Some(ExchangeMessage::decode(payload).unwrap()),
            _ => None,
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_goes_from_a_page_to_a_native_peer_in_its_topic_swarm() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
    let version = |seq| VerifiedItem::sign(&key, Salt::default(), seq, b"1:x".to_vec()).unwrap();
    let (old, new) = (version(1), version(2));
    let topic = InfoHash::from(old.target());
    let (gossip, mut news) = Gossip::new(&config::Gossip::default(), metrics::Gossip::detached());
    let dir = tempfile::tempdir().unwrap();
    let (bridge, tasks) = Node::start_with(BridgePolicy::Off, dir.path(), Some(gossip.clone())).await;
    assert!(!bridge.wants(&topic));
    gossip.follow(*old.key(), Salt::default(), Some(&old), crate::gossip::Interest::Asked);
    while !bridge.wants(&topic) {
        tokio::task::yield_now().await;
    }

    let stream = TcpStream::connect(bridge.bittorrent_addr()).await.unwrap();
    let mut native = Puppet::greet(stream, topic, PeerId([1; 20])).await;
    let page = Page::open(&tasks, 2).await;
    let mut page = page.puppet(&bridge, topic).await;
    let summary = |item: &VerifiedItem| record_exchange::Summary {
        key: *item.key(),
        salt: Salt::default(),
        version: Some(record_exchange::Version::of(item)),
    };
    let (to_native, to_page) = (native.offer_records().await, page.offer_records().await);
    assert_eq!(native.hear_of_records().await, ExchangeMessage::Have(vec![summary(&old)]));
    assert_eq!(page.hear_of_records().await, ExchangeMessage::Have(vec![summary(&old)]));
    let have = record_exchange::have([&summary(&old)]);
    native.say(Message::Extended { id: to_native, payload: &have }).await;
    let brought = record_exchange::bring(new.as_signed());
    page.say(Message::Extended { id: to_page, payload: &brought }).await;
    assert_eq!(native.hear_of_records().await, ExchangeMessage::Record(new.as_signed().clone()));
    assert_eq!(timeout(DEADLINE, news.recv()).await.unwrap(), Some(new.clone()));

    let mut forged = new.as_signed().clone();
    forged.seq = 3;
    native.say(Message::Extended { id: to_native, payload: &record_exchange::bring(&forged) }).await;
    while native.next().await.is_some() {}
    assert!(news.try_recv().is_err());
    drop(page);
    assert_eq!(tasks.stop(DEADLINE).await, 0, "every task ends");
}

/// A peer from an address of its own.
async fn native(bridge: &Bridge, from: &str, info_hash: InfoHash, id: u8) -> Puppet<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(std::net::SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let stream = socket.connect(bridge.bittorrent_addr()).await.unwrap();
    Puppet::greet(stream, info_hash, PeerId([id; 20])).await
}

/// One peer spoils the last block of a piece and sends nothing else; the engine takes the piece from it and asks a good
/// peer for all of it, and what comes to be is damaged before that one has given its last block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_spoils_pieces_that_others_finish_is_shut_out_and_the_others_are_kept() {
    let node = Node::start(BridgePolicy::Off).await;
    let (metainfo, content) = site(&node.dir.path().join("elsewhere"), 3);
    let info_hash = metainfo.info_hash();
    let target = node.dir.path().join("got");
    let download = node.bridge.download(info_hash, vec![], target.clone()).await.unwrap();

    let spoiler = native(&node.bridge, "127.0.0.2", info_hash, 2).await;
    let (spoilt_tx, spoilt) = oneshot::channel();
    let known = metainfo.clone();
    tokio::spawn(async move { spoiler.spoil(&known, 5, spoilt_tx).await });
    // It gives the metadata, and is the only one to ask.
    timeout(DEADLINE, spoilt).await.expect("it is asked").unwrap();
    let good = native(&node.bridge, "127.0.0.3", info_hash, 3).await;
    let seeding = (metainfo.clone(), content.clone());
    tokio::spawn(async move { good.seed(&seeding.0, &seeding.1).await });
    // The good peer never comes back: had it been let go for the damaged piece, this would not end.
    assert!(finished(&download).await.finished);
    assert!(read_back(&metainfo, &target.join("site")) == content);
    let inner = &node.bridge.inner;
    let now = tokio::time::Instant::now;
    let [liar, honest] = ["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse().unwrap());
    let shut_out = async {
        while !inner.visitors.is_banned(liar, now()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, shut_out).await.expect("the spoiler is shut out");
    assert_eq!((inner.visitors.is_banned(honest, now()), inner.metrics.banned.get()), (false, 1));
    drop(download);
    node.stop().await;
}

/// Somebody announces again and again with new peer ids and never connects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_does_not_take_the_connections_of_all() {
    let node = Node::start(BridgePolicy::Open).await;
    let tasks = Tasks::new();
    let page = Page::open(&tasks, 9).await;
    let (sdp, _pending) = page.endpoint.offer().await.unwrap();
    let mut answered = 0;
    for n in 0..2 * rtc::MAX_ATTEMPTS {
        let (answer, given) = oneshot::channel();
        let answer = Box::new(move |_, sdp: &str| answer.send(sdp.to_owned()).unwrap());
        let mut id = [0; 20];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let offer = web::Offer { page: PeerId(id), sdp: sdp.clone(), answer, from: "198.51.100.7".parse().unwrap() };
        node.bridge.inner.meet(InfoHash([1 + (n % 2) as u8; 20]), web::Page::Offers(offer));
        answered += usize::from(timeout(DEADLINE, given).await.expect("it is answered or dropped").is_ok());
    }
    assert!((1..rtc::MAX_ATTEMPTS / 2).contains(&answered), "{answered} attempts were begun for one address");
    assert!(page.meet(&node.bridge, InfoHash([1; 20])).await.is_some(), "another page is answered");
    drop(page);
    tasks.stop(DEADLINE).await;
    node.stop().await;
}
