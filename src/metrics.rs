//! Every metric, one line of help each. Names follow Prometheus: prefix `swarmgate_`, base units, `_total` for counters.
//! Info hashes, keys and addresses are never labels: they would let strangers grow the table without bound.

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// All metrics of one node. Rooms are handed their own part.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The tracker's part.
    pub tracker: Tracker,
    /// The DHT node's part.
    pub dht: Dht,
    /// The record service's part.
    pub records: Records,
    /// The HTTP listeners' part.
    pub web: Web,
    /// The bridge's part.
    pub bridge: Bridge,
    /// The pins' part.
    pub pins: Pins,
    /// Gossip's part.
    pub gossip: Gossip,
}

/// Durations, over a range from round trips on one host to lookups in a network that is mostly gone.
type Seconds = HistogramVec;

/// Small numbers of things.
type Counts = HistogramVec;

macro_rules! metrics {
    ($(#[$doc:meta])* $part:ident { $($field:ident: $kind:ident = $name:literal $([$($label:literal),+])?, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[allow(missing_docs, reason = "the help text given to Prometheus is the documentation")]
        pub struct $part {
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl $part {
            fn register(registry: &Registry) -> Self {
                Self { $($field: {
                    let metric = metrics!(@new $kind, $name $([$($label),+])?, $help);
                    registry.register(Box::new(metric.clone())).expect("metric names are unique");
                    metric
                },)* }
            }

            /// Metrics that belong to no registry, for tests and short-lived commands.
            #[must_use]
            pub fn detached() -> Self {
                Self::register(&Registry::new())
            }
        }
    };
    (@new Seconds, $name:literal [$($label:literal),+], $help:literal) => {
        metrics!(@histogram vec![0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0], $name [$($label),+], $help)
    };
    (@new Counts, $name:literal [$($label:literal),+], $help:literal) => {
        metrics!(@histogram vec![1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0], $name [$($label),+], $help)
    };
    (@histogram $buckets:expr, $name:literal [$($label:literal),+], $help:literal) => {
        HistogramVec::new(HistogramOpts::new(concat!("swarmgate_", $name), $help).buckets($buckets), &[$($label),+])
            .expect("a valid metric")
    };
    (@new $kind:ident, $name:literal [$($label:literal),+], $help:literal) => {
        $kind::new(Opts::new(concat!("swarmgate_", $name), $help), &[$($label),+]).expect("a valid metric")
    };
    (@new $kind:ident, $name:literal, $help:literal) => {
        $kind::new(concat!("swarmgate_", $name), $help).expect("a valid metric")
    };
}

metrics! {
    /// Swarm table and doors.
    Tracker {
        sockets: IntGauge = "tracker_websocket_connections", "WebSocket connections open now.";
        refused: IntCounterVec = "tracker_websocket_refused_total" ["limit"], "WebSocket connections refused, by limit (total, address).";
        closed: IntCounterVec = "tracker_websocket_closed_total" ["reason"], "WebSocket connections ended, by reason (client, silent, slow, too_large, broken, stopping).";
        announces: IntCounterVec = "tracker_announces_total" ["door"], "Announces answered, by door (ws, http, udp).";
        scrapes: IntCounterVec = "tracker_scrapes_total" ["door"], "Scrapes answered, by door (ws, http, udp).";
        relayed: IntCounterVec = "tracker_relayed_total" ["kind"], "Offers and answers passed on, by kind (offer, answer: between web peers; resident_offer, resident_answer: to and from the bridge).";
        errors: IntCounterVec = "tracker_errors_total" ["door"], "Requests answered with a failure reason, by door (ws, http, udp).";
        not_taken: IntCounterVec = "tracker_announces_refused_total" ["rule"], "Announces refused by a rule of the operator's (torrent, passkey) or a limit (pace, socket_peers, address_peers, table_full).";
        dropped: IntCounterVec = "tracker_dropped_total" ["reason"], "Messages not delivered, by reason (slow_reader, busy_reader, unexpected_answer, offer_pace, udp_malformed).";
        swarms: IntGauge = "tracker_swarms", "Swarms in the table.";
        peers: IntGaugeVec = "tracker_peers" ["kind"], "Peers in the table, by kind (web, native).";
    }
}

metrics! {
    /// The DHT node.
    Dht {
        nodes: IntGaugeVec = "dht_nodes" ["family"], "Good nodes in the routing table, by family (ipv4, ipv6).";
        packets: IntCounterVec = "dht_packets_total" ["family", "direction"], "Datagrams, by family (ipv4, ipv6) and direction (in, out).";
        queries: IntCounterVec = "dht_queries_total" ["method"], "Queries answered, by method.";
        lookups: IntCounterVec = "dht_lookups_total" ["kind", "result"], "Lookups finished, by kind and result. What is looked for in the DHTs of both families counts twice.";
        lookup_seconds: Seconds = "dht_lookup_duration_seconds" ["kind"], "Time from the start of a lookup to its end, storing included, by kind.";
        lookup_queries: Counts = "dht_lookup_queries" ["kind"], "Queries sent for a lookup, storing included, by kind.";
        dropped: IntCounterVec = "dht_dropped_total" ["reason"], "Datagrams not handled or not sent, by reason.";
        items: IntGaugeVec = "dht_stored_items" ["family"], "BEP 44 items held for other nodes, by family (ipv4, ipv6).";
    }
}

metrics! {
    /// The record service.
    Records {
        gets: IntCounterVec = "records_gets_total" ["source"], "Record reads, by where the answer came from (cache, dht, none).";
        puts: IntCounterVec = "records_puts_total" ["result"], "Record writes, by result (stored or the error code).";
        republished: IntCounterVec = "records_republished_total" ["result"], "Hourly publications of records put here, by result (stored, failed).";
        stored: IntGauge = "records_stored", "Records kept.";
        write_failures: IntCounter = "records_write_failures_total", "Batches that the record store could not write: the disk is full, or fails.";
        followers: IntGauge = "records_subscriptions", "Subscriptions open now, over WebSocket, in announces and as event streams.";
        followed: IntGauge = "records_followed", "Records that somebody follows.";
        updates: IntCounter = "records_updates_total", "Newer versions handed to subscribers: one for each subscriber.";
        polls: IntCounterVec = "records_polls_total" ["result"], "Polls of the DHT for followed records, by result (changed, unchanged, fresh: somebody had asked just before, failed).";
        over_quota: IntCounterVec = "records_over_quota_total" ["kind"], "Requests refused because their address had used up its quota, by kind (lookup, put).";
    }
}

metrics! {
    /// The HTTP listeners.
    Web {
        refused: IntCounter = "http_connections_refused_total", "Connections closed because their address had as many as one may have.";
    }
}

metrics! {
    /// The bridge.
    Bridge {
        torrents: IntGaugeVec = "bridge_torrents" ["stage"], "Torrents joined now, by stage (topic, metadata, checking, live).";
        ended: IntCounterVec = "bridge_torrents_ended_total" ["reason"], "Torrents left, by reason.";
        cache: IntGauge = "bridge_cache_bytes", "Disk space that bridged torrents take.";
        evicted: IntCounter = "bridge_cache_evicted_total", "Torrents removed from the cache to make room.";
        checks: IntCounterVec = "bridge_checks_total" ["kind"], "Torrents whose files were checked before they went live, by kind (record: what was noted before is believed; full: every byte is read).";
        peers: IntGaugeVec = "bridge_peers" ["transport"], "Peers connected now, by transport (webrtc, tcp, utp).";
        offers: IntCounterVec = "bridge_offers_total" ["result"], "Pages to be met by their offers, or by ours where they make none, by what became of it.";
        greeted: IntCounterVec = "bridge_greetings_total" ["transport", "result"], "Handshakes at the door, by transport and result.";
        visits: IntCounterVec = "bridge_visits_total" ["transport", "ending"], "Visits of greeted peers, by transport and why they ended.";
        bytes: IntCounterVec = "bridge_bytes_total" ["transport", "direction"], "Payload bytes passed through the door, by transport and direction (in, out).";
        refused: IntCounterVec = "bridge_refused_total" ["reason"], "Swarms, peers and requests refused, by reason.";
        banned: IntCounter = "bridge_banned_total", "Addresses shut out for an hour because a peer there lied.";
        met_anew: IntCounter = "bridge_met_anew_total", "Times the engine was made to meet a peer anew, whose news it had not used.";
        metadata: IntCounterVec = "bridge_metadata_total" ["result"], "Metadata fetches (BEP 9), by result.";
        datagrams_dropped: IntCounterVec = "bridge_webrtc_datagrams_dropped_total" ["reason"], "Datagrams of the WebRTC port not handed on: sender unknown, or its queue full.";
        other_trackers: IntCounterVec = "bridge_other_tracker_connections_total" ["result"], "Connections to other trackers, by what became of them (connected; then or instead closed, failed, silent).";
        mapped: IntGauge = "bridge_mapped_ports", "Ports that a router forwards to this node now.";
        mappings: IntCounterVec = "bridge_port_mappings_total" ["result"], "Port mappings, by result (mapped, also when renewed; refused, removed, not_removed; no_answer: a router that speaks none of the protocols; no_router: none is needed or there is none).";
        stun: IntCounterVec = "bridge_stun_requests_total" ["result"], "Requests of pages for their own address (STUN), by result (answered, limited, lost).";
        connects: IntCounterVec = "bridge_connects_total" ["transport", "result"], "Attempts to connect to native peers, by transport (tcp, utp) and result (open, refused, timeout, failed). A dial may try both.";
        encryption: IntCounterVec = "bridge_encryption_total" ["side", "result"], "Connections with native peers, by who connected (in: they, out: we) and encryption (none, handshake, rc4, failed).";
        dials: IntCounterVec = "bridge_dials_total" ["source", "result"], "Outgoing connections, by who named the address (dht, pex, tracker, local, given) and result.";
        introductions: IntCounterVec = "bridge_introductions_total" ["result"], "Messages of peers that are about introductions (BEP 55), by what became of them (relayed, refused: of two others by us; introduced, failed: of us by others; ignored).";
        peer_exchange: IntCounterVec = "bridge_peer_exchange_total" ["direction", "result"], "Messages in which peers name each other (BEP 11), by direction (in, out) and what became of them (sent; taken, too_soon, malformed, busy).";
    }
}

metrics! {
    /// Pins.
    Pins {
        pins: IntGaugeVec = "pins" ["status"], "Pins, by status (queued, resolving, downloading, pinned, degraded, failed).";
        fetches: IntGaugeVec = "pins_torrents" ["state"], "Torrents that are not here yet, by state (active, queued, failing: waiting until they are tried again).";
        bytes: IntGauge = "pins_bytes", "Bytes of the torrents that are kept.";
        failures: IntCounterVec = "pins_failures_total" ["reason"], "Fetches that failed, by reason.";
        verified: IntCounterVec = "pins_pieces_verified_total" ["result"], "Pieces read back from disk, by result (good, damaged).";
    }
}

metrics! {
    /// Gossip.
    Gossip {
        topics: IntGauge = "gossip_topics", "Records whose topic swarms are joined.";
        messages: IntCounterVec = "gossip_messages_total" ["direction", "kind"], "Messages of the record exchange, by direction (in, out) and kind (have, record, other).";
        records: IntCounterVec = "gossip_records_total" ["result"], "Records that peers brought, by what became of them (new, conflict, stale, unwanted, throttled, busy, forged).";
        local: IntCounterVec = "gossip_local_announces_total" ["direction", "result"], "Local discovery (BEP 14), by direction and result (sent, failed; heard, malformed, stranger, flood).";
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("metric names are unique");
        let build = IntGaugeVec::new(Opts::new("swarmgate_build_info", "1, labelled with the version."), &["version"])
            .expect("a valid metric");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build)).expect("metric names are unique");
        Self {
            tracker: Tracker::register(&registry),
            dht: Dht::register(&registry),
            records: Records::register(&registry),
            web: Web::register(&registry),
            bridge: Bridge::register(&registry),
            pins: Pins::register(&registry),
            gossip: Gossip::register(&registry),
            registry,
        }
    }
}

impl Metrics {
    /// The exposition text for `/metrics`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out).expect("metrics encode into memory");
        String::from_utf8(out).expect("the text format is UTF-8")
    }
}
