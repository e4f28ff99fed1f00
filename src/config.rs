//! The whole configuration as types. Their doc comments are the example file: [`example`] prints it, and a test reads
//! it back.

mod listen;
mod load;
mod network;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use listen::{Listen, NotOneOfEach};
pub use load::{ConfigError, Layers, load};
pub use network::{Network, NotANetwork};

/// Defines a section: a struct with serde defaults, and its documentation as data.
macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident {
        $($(#[doc = $doc:literal])+ $(#[serde($attr:meta)])* $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $doc])+ $(#[serde($attr)])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            const ABOUT: &str = concat!($($about, "\n"),*);
            const DOCS: &[(&str, &str)] = &[$((stringify!($field), concat!($($doc, "\n"),+)),)*];
        }
    };
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("defaults are addresses")
}

section! {
    /// The page, the tracker over WebSocket and HTTP, and the record API: everything the public reaches.
    Web {
        /// Address and port to listen on; port 0 takes any free port, [::] takes IPv6 and IPv4.
        listen: SocketAddr = addr("0.0.0.0:8080"),
        /// Proxies in front of this server, as networks (10.0.0.0/8) or addresses. Limits by address then count the
        /// client that they name: the rightmost address of forwarded_header that is not one of these. Empty: no header
        /// is believed, since anybody can write one.
        trusted_proxies: Vec<Network> = Vec::new(),
        /// The header in which they name it, "x-forwarded-for" or "forwarded" (RFC 7239). Only this one is read: a proxy
        /// passes on the other as the client wrote it.
        forwarded_header: ForwardedHeader = ForwardedHeader::XForwardedFor,
        /// Whether every connection begins with the PROXY protocol, version 2 (haproxy's send-proxy-v2, nginx's stream
        /// module). Then only trusted_proxies may connect.
        proxy_protocol: bool = false,
        /// Most HTTP connections open at once from one address (IPv6: one /64), WebSockets not counted. Loopback and
        /// trusted_proxies are exempt.
        max_connections_per_address: usize = 1_000,
        /// Origins whose pages may open WebSockets, such as "https://example.org". Empty for all. Clients that are no
        /// browsers send no origin and are let in.
        allowed_origins: Vec<String> = Vec::new(),
    }
}

/// The header in which a proxy names its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// What most proxies write.
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

section! {
    /// Metrics, health and the record API without public limits. Keep it on a private address.
    Admin {
        /// Address and port to listen on.
        listen: SocketAddr = addr("127.0.0.1:8081"),
    }
}

section! {
    /// The tracker.
    Tracker {
        /// Address and port of the UDP tracker (BEP 15). [::] takes IPv6 and IPv4; each family is told of its own peers.
        udp_listen: SocketAddr = addr("0.0.0.0:6969"),
        /// How often web peers are asked to announce.
        #[serde(with = "humantime_serde")]
        interval: Duration = Duration::from_secs(120),
        /// How often native peers (HTTP and UDP) are asked to announce.
        #[serde(with = "humantime_serde")]
        native_interval: Duration = Duration::from_secs(1_800),
        /// Most WebSocket connections open at once.
        max_sockets: usize = 20_000,
        /// Most WebSocket connections from one address (IPv6: one /64). Loopback is exempt: it is a proxy of one's own.
        max_sockets_per_address: usize = 500,
        /// Most web peers from one address (IPv6: one /64), over all its sockets and swarms. Of native peers it may add as
        /// many at once, and as many again in two and a half intervals, in which those that do not announce again are
        /// forgotten. Loopback is exempt from this and the next two.
        max_peers_per_address: usize = 20_000,
        /// Announces a second from one address, over all doors; twenty seconds' worth may come at once. 0 for no limit.
        max_announces_per_second: u32 = 100,
        /// Offers a second from one address, in the same way; those past it are left out of their announces.
        max_offers_per_second: u32 = 500,
        /// Largest WebSocket message accepted. A real announce with ten offers takes some 45 KB.
        max_message_size: ByteSize = ByteSize::kib(256),
        /// Whether WebSocket messages are compressed (permessage-deflate) for clients that can do it, as browsers can: a
        /// quarter of the traffic in and two thirds of that out, for half as much processor time again.
        compression: bool = true,
        /// Most peers one WebSocket connection may bring, over all swarms: a page brings one for each of its torrents.
        /// Announces of new ones past it are refused.
        max_peers_per_socket: usize = 1_000,
        /// Most peers in the table. Announces of new peers past it are refused.
        max_peers: usize = 1_000_000,
        /// Most swarms whose count of completed downloads is kept, also over restarts. Some 100 bytes each.
        max_completed: usize = 100_000,
        /// File of info hashes that are not served, one a line in hexadecimal, # begins a comment. Empty for none. Read
        /// again when it changes and on SIGHUP. More can be added over the admin API (/v1/tracker/denied).
        denied_file: PathBuf = PathBuf::new(),
        /// File of info hashes that are served where only_allowed is set, as denied_file (/v1/tracker/allowed).
        allowed_file: PathBuf = PathBuf::new(),
        /// Whether only allowed info hashes are served. What is denied never is.
        only_allowed: bool = false,
        /// File of passkeys, one a line, 16 to 64 letters, digits, - and _. If set, the tracker is private: announces and
        /// scrapes need an address with a passkey, /PASSKEY/announce or ?passkey=PASSKEY. Read again as denied_file.
        passkeys_file: PathBuf = PathBuf::new(),
    }
}

section! {
    /// The DHT node.
    Dht {
        /// Address and port to listen on, or a list of two, one of each family: the IPv4 and the IPv6 DHT are apart (BEP 32),
        /// and the node is in those it has an address for. On a host without IPv6, [::] is left out.
        listen: Listen = vec![addr("0.0.0.0:6882"), addr("[::]:6882")].try_into().expect("one of each family"),
        /// Where to find the network, as HOST:PORT. Empty for a network of one's own.
        bootstrap: Vec<String> = [
            "router.bittorrent.com:6881",
            "dht.transmissionbt.com:6881",
            "router.utorrent.com:6881",
            "dht.libtorrent.org:25401",
        ].map(String::from).into(),
        /// Most BEP 44 items kept for other nodes, in each of the two.
        max_items: usize = 20_000,
        /// Most addresses kept for other nodes by announce_peer, in each of the two.
        max_peers: usize = 100_000,
    }
}

section! {
    /// Records: BEP 44 items that pages get and put.
    Records {
        /// Most records kept, in memory (some 600 bytes each with a short value) and on disk. The least recently used go
        /// first; those that this server's own clients put go only after all others, those of pinned sites never.
        max_records: usize = 100_000,
        /// How long an answer of the DHT counts as fresh when the asker sets no age of his own.
        #[serde(with = "humantime_serde")]
        max_age: Duration = Duration::from_secs(10),
        /// How long a get may search the DHT.
        #[serde(with = "humantime_serde")]
        timeout: Duration = Duration::from_secs(20),
        /// Most subscriptions at once, over WebSocket and as event streams.
        max_subscriptions: usize = 200_000,
        /// Most of them from one address (IPv6: one /64). No more than polls_per_second can ask about within a minute, so
        /// that one address alone does not delay everybody's news. Loopback is exempt: it is a proxy of one's own.
        max_subscriptions_per_address: usize = 1_024,
        /// How soon after a change the DHT is asked again about a record that somebody follows. One poll serves all who
        /// follow it, and each that finds nothing new makes the next wait longer by half ...
        #[serde(with = "humantime_serde")]
        poll_quickest: Duration = Duration::from_secs(2),
        /// ... up to this.
        #[serde(with = "humantime_serde")]
        poll_slowest: Duration = Duration::from_secs(60),
        /// Most such polls that start in a second, over all records. Past that each record's turn comes later.
        polls_per_second: u32 = 20,
        /// How often records that were put here, and those of pinned sites, are put in the DHT again, whose nodes may forget
        /// them after two hours (BEP 44).
        #[serde(with = "humantime_serde")]
        republish_every: Duration = Duration::from_secs(3600),
        /// Lookups in the DHT that the requests of one address (IPv6: one /64) may cause. Answers from what this server
        /// keeps are free. Loopback and the admin listener have no quota. 0 for no limit.
        lookups_per_minute: u32 = 60,
        /// How many of them may come at once.
        lookup_burst: u32 = 120,
        /// Puts of one address that go to the DHT. 0 for no limit.
        puts_per_minute: u32 = 20,
        /// How many of them may come at once.
        put_burst: u32 = 60,
    }
}

section! {
    /// Native peers, over TCP and uTP.
    BitTorrent {
        /// Address and port to listen on: the TCP port and, for uTP, the UDP port of the same number.
        listen: SocketAddr = addr("0.0.0.0:6881"),
        /// Whether peers are met over uTP (BEP 29) too. It reaches those behind NATs and firewalls that TCP does not.
        utp: bool = true,
        /// Whether a router is asked to forward the ports for native peers, DHT and WebRTC (PCP, NAT-PMP, UPnP). Only the
        /// gateway of a machine with a private address is, and only for ports that listen on more than loopback.
        port_mapping: bool = true,
        /// Message stream encryption, by which clients hide what they speak from networks that slow it down; many peers
        /// take no other connections. "allow" encrypts where the peer wants it, "prefer" tries that first, "require"
        /// takes and makes no other connections.
        encryption: Encryption = Encryption::Allow,
    }
}

section! {
    /// Peers over WebRTC, all on one UDP port.
    WebRtc {
        /// Address and port to listen on.
        listen: SocketAddr = addr("0.0.0.0:6883"),
        /// The addresses browsers reach this port by, when they differ from the machine's own (behind NAT).
        public_ips: Vec<IpAddr> = Vec::new(),
        /// Whether this server tells pages their own address (STUN, RFC 8489), so that pages behind different routers
        /// find each other and ask no third party. Where stun_listen cannot be reached from outside, switch it off:
        /// pages would wait some seconds for an answer before each connection.
        stun: bool = true,
        /// Address and port on which they ask. A port of its own: Chromium takes every datagram from the address of its
        /// STUN server for an answer to its own question, so the peers' port cannot be that.
        stun_listen: SocketAddr = addr("0.0.0.0:6884"),
        /// STUN and TURN servers for pages besides, as { urls = ["turn:turn.example.org:3478"], username = "…",
        /// credential = "…" }. Everybody who asks is told the credentials.
        ice_servers: Vec<IceServer> = Vec::new(),
    }
}

/// Whether connections with native peers are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Where the peer wants it.
    Allow,
    /// Where the peer takes it.
    Prefer,
    /// Always.
    Require,
}

/// A STUN or TURN server, as `RTCPeerConnection` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `stun:host:port`, `turn:host:port`.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// Which swarms the bridge joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgePolicy {
    /// None.
    Off,
    /// Pinned torrents.
    Pinned,
    /// Pinned torrents, and those that a verified BEP 46 record seen by this server points to.
    Sites,
    /// Every info hash that a web peer announces.
    Open,
}

section! {
    /// The bridge between web and native peers.
    Bridge {
        /// Which swarms it joins: "off", "pinned", "sites" (those a verified BEP 46 record points to) or "open" (all).
        policy: BridgePolicy = BridgePolicy::Sites,
        /// Other WebTorrent trackers, as "wss://tracker.example.org", at which what is here is announced, private torrents
        /// excepted, so that pages that are there can have it.
        trackers: Vec<String> = Vec::new(),
        /// Disk space for what is bridged but not pinned; the oldest unused goes first.
        cache_size: ByteSize = ByteSize::gib(10),
        /// The largest torrent bridged.
        max_torrent_size: ByteSize = ByteSize::gib(1),
        /// The most files of a torrent bridged; each takes an inode, and memory while it is joined. The names in their paths
        /// may be five times as many.
        max_torrent_files: usize = 10_000,
        /// The largest metadata (info dictionary) accepted from a peer.
        max_metadata_size: ByteSize = ByteSize::mib(8),
        /// Most payload bytes, to and from peers, that bridged but not pinned torrents may take in a day (UTC; a restart
        /// counts anew). Past it they are left until the next one. 0 for no limit.
        max_bytes_per_day: ByteSize = ByteSize(0),
        /// Most torrents bridged at once.
        max_torrents: usize = 500,
        /// Most peers of one torrent, over all transports.
        max_peers_per_torrent: usize = 100,
        /// Most peers over all torrents.
        max_peers: usize = 1_000,
        /// Most peers of one address (IPv6: one /64) that came by themselves, pages among them, over all torrents.
        max_peers_per_address: usize = 50,
        /// How long a torrent is kept joined after its last web peer left.
        #[serde(with = "humantime_serde")]
        linger: Duration = Duration::from_secs(600),
    }
}

section! {
    /// Pins: torrents and sites that are kept online for those who hold a token (swarmgate token new).
    Pins {
        /// Most pins of all tokens together.
        max_pins: usize = 100_000,
        /// The largest torrent that is pinned.
        max_pin_size: ByteSize = ByteSize::gib(100),
        /// The most files of a torrent that is pinned; each takes an inode, and memory.
        max_pin_files: u32 = 50_000,
        /// Torrents fetched at once; others wait for their turn, by priority. Up to eight times as many that nothing comes
        /// from, since no peer has them, stay joined beside these.
        fetches: usize = 8,
        /// How long a torrent may stand still before it is left, and tried again later.
        #[serde(with = "humantime_serde")]
        patience: Duration = Duration::from_secs(600),
        /// Disk space that is left free. What would need it is fetched when there is room again.
        keep_free: ByteSize = ByteSize::mib(512),
        /// How often everything that is kept is read back from disk and compared. What is damaged is fetched again.
        #[serde(with = "humantime_serde")]
        verify_every: Duration = Duration::from_secs(7 * 24 * 3600),
        /// How often, at most, the DHT is asked about a site that has not changed for long. News that come through this
        /// server, or by peers, are not waited for.
        #[serde(with = "humantime_serde")]
        poll_slowest: Duration = Duration::from_secs(900),
        /// Whether what is pinned, or bridged now, can be read over HTTP: /v1/sites/KEY/PATH, /v1/torrents/INFOHASH/PATH,
        /// and as a web seed (BEP 19).
        content_door: bool = true,
    }
}

section! {
    /// Gossip: peers tell each other of new versions of records, without DHT and server.
    Gossip {
        /// Whether the record exchange is offered to peers.
        enabled: bool = true,
        /// Most records whose topic swarms are joined: those put here, and those asked for lately.
        max_topics: usize = 256,
        /// Whether peers on this network are looked for by multicast (BEP 14), and told of the swarms joined here.
        local_discovery: bool = true,
    }
}

/// The whole configuration of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each section documents itself")]
pub struct Config {
    /// Where everything that must survive a restart is kept.
    pub data_dir: PathBuf,
    pub web: Web,
    pub admin: Admin,
    pub tracker: Tracker,
    pub dht: Dht,
    pub records: Records,
    pub bittorrent: BitTorrent,
    pub webrtc: WebRtc,
    pub bridge: Bridge,
    pub pins: Pins,
    pub gossip: Gossip,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("swarmgate-data"),
            web: Web::default(),
            admin: Admin::default(),
            tracker: Tracker::default(),
            dht: Dht::default(),
            records: Records::default(),
            bittorrent: BitTorrent::default(),
            webrtc: WebRtc::default(),
            bridge: Bridge::default(),
            pins: Pins::default(),
            gossip: Gossip::default(),
        }
    }
}

/// A section's name, what it is about, and its keys with their documentation.
type SectionDocs = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: &[SectionDocs] = &[
    ("web", Web::ABOUT, Web::DOCS),
    ("admin", Admin::ABOUT, Admin::DOCS),
    ("tracker", Tracker::ABOUT, Tracker::DOCS),
    ("dht", Dht::ABOUT, Dht::DOCS),
    ("records", Records::ABOUT, Records::DOCS),
    ("bittorrent", BitTorrent::ABOUT, BitTorrent::DOCS),
    ("webrtc", WebRtc::ABOUT, WebRtc::DOCS),
    ("bridge", Bridge::ABOUT, Bridge::DOCS),
    ("pins", Pins::ABOUT, Pins::DOCS),
    ("gossip", Gossip::ABOUT, Gossip::DOCS),
];

/// The example file: every key with its default and what it is for.
#[must_use]
pub fn example() -> String {
    let defaults = toml::Table::try_from(Config::default()).expect("the defaults are valid TOML");
    let comment = |text: &str| text.lines().map(|line| format!("#{line}\n")).collect::<String>();
    let mut out = String::from(
        "# Swarmgate's configuration. Every key is optional; the values shown are the defaults.\n\
         # Environment variables override this file: SWARMGATE__SECTION__KEY, lists in TOML syntax.\n\n",
    );
    out += "# Where everything that must survive a restart is kept.\n";
    out += &format!("data_dir = {}\n", defaults["data_dir"]);
    for (section, about, keys) in SECTIONS {
        out += &format!("\n{}[{section}]\n", comment(about));
        for (key, doc) in *keys {
            out += &format!("{}{key} = {}\n", comment(doc), defaults[*section][*key]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_defaults() {
        let read: Config = toml::from_str(&example()).unwrap();
        assert_eq!(read, Config::default());
    }

    #[test]
    fn every_key_is_documented() {
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        for (section, value) in defaults.iter().filter(|(_, v)| v.is_table()) {
            let documented = SECTIONS.iter().find(|(name, ..)| name == section).map(|(.., keys)| keys.len());
            assert_eq!(documented, value.as_table().map(toml::Table::len), "[{section}]");
        }
    }
}
