//! One connection without its socket: ICE (RFC 8445) and DTLS (RFC 6347) of the `rtc` crates, our SCTP over them, and the
//! one data channel on it (RFC 8831, RFC 8832). Datagrams go in and out, and time is handed in.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rand::Rng;
use rand::distr::{Alphanumeric, SampleString};
use rtc_crypto::{HashAlgorithm, RTCCryptoProvider};
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint as Dtls, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_ice::Agent;
use rtc_ice::agent::agent_config::AgentConfig;
use rtc_ice::candidate::candidate_host::CandidateHostConfig;
use rtc_ice::candidate::{Candidate, CandidateConfig};
use rtc_ice::mdns::MulticastDnsMode;
use rtc_ice::state::ConnectionState;
use rtc_shared::error::Error as StackError;
use rtc_shared::{TransportContext, TransportMessage, TransportProtocol};
use sansio::Protocol;
use tokio::time::Instant;

use super::sctp::{self, Association};
use super::sdp::{Description, Setup};

/// How long a peer may be silent until it counts as disconnected.
const ICE_DISCONNECTED: Duration = Duration::from_secs(5);
/// How long, beyond that, until it is given up; for its first check too.
const ICE_FAILED: Duration = Duration::from_secs(15);
/// RFC 7675 §5.1 asks for consent checks about every 5 s; the stack's default is more frequent.
const ICE_KEEPALIVE: Duration = Duration::from_secs(2);
/// How often an address is checked while no path is known.
const ICE_CHECK: Duration = Duration::from_millis(50);
/// How often the agent is run while there is a path. It asks for 200 ms, and does nothing in most of them.
const ICE_REST: Duration = Duration::from_secs(1);

/// Protocols of messages (RFC 8831 §8).
const DCEP: u32 = 50;
const STRING: u32 = 51;
const BINARY: u32 = 53;

/// RFC 8832 §5: message types, and the channel type of an ordered and reliable one.
const DATA_CHANNEL_ACK: u8 = 2;
const DATA_CHANNEL_OPEN: u8 = 3;
const RELIABLE: u8 = 0;

/// Longest request to open a channel that is read. Labels are short.
const MAX_OPEN: usize = 2048;

/// Who this node is to all peers: its certificate.
#[derive(Clone)]
pub(super) struct Identity {
    crypto: Arc<dyn RTCCryptoProvider>,
    certificate: Certificate,
    fingerprint: String,
}

impl Identity {
    /// Makes a certificate, which no peer sees twice for longer than this process lives.
    pub(super) fn new() -> Result<Self, StackError> {
        let crypto = rtc_crypto::default_provider().map_err(|error| StackError::Crypto(error.to_string()))?;
        let name = Alphanumeric.sample_string(&mut rand::rng(), 16);
        let certificate = Certificate::generate_self_signed(vec![name], crypto.crypto())?;
        let der = certificate.certificate.first().ok_or(StackError::ErrNonCertificate)?;
        let fingerprint = format!("sha-256 {}", fingerprint(&*crypto, der)?);
        Ok(Self { crypto, certificate, fingerprint })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// RFC 8122 §5.
fn fingerprint(crypto: &dyn RTCCryptoProvider, der: &[u8]) -> Result<String, StackError> {
    let hash =
        crypto.crypto().hash(HashAlgorithm::Sha256, der).map_err(|error| StackError::Crypto(error.to_string()))?;
    Ok(hash.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}

/// RFC 8445 §5.3: at least 24 and 128 bits of randomness. The fragment is also the key by which the shared socket knows
/// its connections, so it has 119.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) password: String,
}

impl Credentials {
    pub(super) fn random(rng: &mut impl Rng) -> Self {
        Self { ufrag: Alphanumeric.sample_string(rng, 20), password: Alphanumeric.sample_string(rng, 32) }
    }
}

/// How far the data channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// The peer opens it.
    Awaited,
    /// We do, once there is an association.
    Wanted,
    Open,
}

/// One connection.
pub(super) struct Connection {
    identity: Identity,
    ice: Agent,
    ice_ran: Instant,
    dtls: Dtls,
    /// What DTLS begins with, if we do.
    greets: Option<Arc<HandshakeConfig>>,
    is_client: bool,
    /// Where the peer is reached.
    remote: Option<SocketAddr>,
    ports: (u16, u16),
    sctp: Option<Association>,
    stream: Stream,
    /// A request to open a channel, of which a part has arrived.
    opening: BytesMut,
    /// Since when ICE has not heard the peer.
    silent: Option<Instant>,
    gone: bool,
    packet: Vec<u8>,
    out: VecDeque<(SocketAddr, BytesMut)>,
}

impl Connection {
    /// A connection that has not begun; `offers` says which side made the offer.
    pub(super) fn new(
        identity: Identity,
        credentials: &Credentials,
        offers: bool,
        now: Instant,
    ) -> Result<Self, StackError> {
        let config = AgentConfig {
            local_ufrag: credentials.ufrag.clone(),
            local_pwd: credentials.password.clone(),
            // Chromium hides its addresses behind such names. They need not be resolved: it reaches us.
            multicast_dns_mode: MulticastDnsMode::Disabled,
            disconnected_timeout: Some(ICE_DISCONNECTED),
            failed_timeout: Some(ICE_FAILED),
            keepalive_interval: Some(ICE_KEEPALIVE),
            check_interval: ICE_CHECK,
            network_types: rtc_ice::network_type::supported_network_types(),
            is_controlling: offers,
            ..AgentConfig::default()
        };
        let mut ice = Agent::new(now.into_std(), Arc::new(config), identity.crypto.clone())?;
        for local in [local(false), local(true)] {
            ice.add_local_candidate(host(local)?)?;
        }
        Ok(Self {
            dtls: Dtls::new(local(false), TransportProtocol::UDP, None),
            identity,
            ice,
            ice_ran: now,
            greets: None,
            is_client: false,
            remote: None,
            ports: (0, 0),
            sctp: None,
            stream: if offers { Stream::Wanted } else { Stream::Awaited },
            opening: BytesMut::new(),
            silent: None,
            gone: false,
            packet: Vec::with_capacity(sctp::PACKET),
            out: VecDeque::new(),
        })
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.identity.fingerprint
    }

    /// Begins with what the peer described; its candidates are dialled.
    pub(super) fn begin(&mut self, us: &Description, peer: &Description, now: Instant) -> Result<(), StackError> {
        let offers = self.stream == Stream::Wanted;
        // Who answers leaves it to the other side to begin.
        self.is_client = offers && peer.setup() == Setup::Passive;
        self.ports = (us.sctp_port(), peer.sctp_port());
        let (function, expected) = peer.fingerprint().split_once(' ').ok_or(StackError::ErrNonCertificate)?;
        // All browsers', and all that the crate computes.
        if !function.eq_ignore_ascii_case("sha-256") {
            return Err(StackError::ErrUnsupportedFingerprintAlgorithm);
        }
        let (crypto, expected) = (self.identity.crypto.clone(), expected.to_owned());
        let config = ConfigBuilder::default()
            .with_crypto_provider(self.identity.crypto.clone())
            .with_certificates(vec![self.identity.certificate.clone()])
            // Browsers ask for keys for media even where there is none, and the crate insists on agreeing.
            .with_srtp_protection_profiles(vec![
                SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            ])
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            // The certificate is its own authority; what is checked is its fingerprint (RFC 8122 §6.2).
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(move |chain: &[Vec<u8>], _: &[_]| {
                let der = chain.first().ok_or(StackError::ErrNonCertificate)?;
                if fingerprint(&*crypto, der)?.eq_ignore_ascii_case(&expected) {
                    Ok(())
                } else {
                    Err(StackError::ErrNoMatchingCertificateFingerprint)
                }
            })))
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .build(self.is_client, None)?;
        let config = Arc::new(config);
        if self.is_client {
            self.greets = Some(config);
        } else {
            self.dtls.set_server_config(Some(config));
        }
        for address in &peer.candidates {
            self.ice.add_remote_candidate(host(*address)?)?;
        }
        let (ufrag, password) = peer.credentials();
        self.ice.start_connectivity_checks(now.into_std(), offers, ufrag.to_owned(), password.to_owned())?;
        self.run_ice(now);
        Ok(())
    }

    /// Whether bytes can be sent and arrive.
    pub(super) fn is_open(&self) -> bool {
        self.stream == Stream::Open
    }

    /// Whether it is over for good.
    pub(super) fn is_gone(&self) -> bool {
        self.gone || self.sctp.as_ref().is_some_and(Association::is_closed)
    }

    /// Since when the peer is not heard.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.silent
    }

    /// Whether the peer will send nothing more.
    pub(super) fn is_closed_by_peer(&self) -> bool {
        self.sctp.as_ref().is_some_and(Association::is_closed_by_peer)
    }

    /// Whether the peer knows that nothing more comes.
    pub(super) fn has_closed(&self) -> bool {
        self.sctp.as_ref().is_some_and(Association::has_closed)
    }

    /// Bytes written and not sent, and written and not acknowledged.
    pub(super) fn queued(&self) -> usize {
        self.sctp.as_ref().map_or(0, Association::queued)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.sctp.as_ref().map_or(0, Association::outstanding)
    }

    /// Takes bytes to be sent as one message.
    pub(super) fn write(&mut self, message: Bytes) {
        if let Some(sctp) = self.sctp.as_mut().filter(|_| !message.is_empty()) {
            sctp.write(BINARY, message);
        }
    }

    /// What has arrived, up to about `most` bytes of it.
    pub(super) fn read(&mut self, most: usize) -> Bytes {
        let mut read = BytesMut::new();
        while read.len() < most
            && let Some(data) = self.sctp.as_mut().and_then(Association::take)
        {
            match data.protocol {
                DCEP => self.on_dcep(&data),
                BINARY | STRING => read.extend_from_slice(&data.payload),
                // Empty messages, which SCTP cannot carry, are written as one byte of another kind.
                _ => {}
            }
        }
        read.freeze()
    }

    /// Nothing more will be written.
    pub(super) fn close(&mut self) {
        if let Some(sctp) = &mut self.sctp {
            sctp.close();
        }
    }

    /// Ends it at once; what tells the peer is still to be sent.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(sctp) = self.sctp.as_mut().filter(|sctp| !sctp.has_closed()) {
            sctp.abort();
        }
        self.send_packets(usize::MAX, now);
        let _ = self.dtls.close(now.into_std());
        self.collect_dtls();
        self.gone = true;
    }

    /// RFC 8832 §5. One channel is this connection's stream; who opens another is not one of ours.
    fn on_dcep(&mut self, data: &sctp::Data) {
        self.opening.extend_from_slice(&data.payload);
        if self.opening.len() > MAX_OPEN {
            self.gone = true;
        }
        if !data.flags.ends {
            return;
        }
        let mut message = std::mem::take(&mut self.opening);
        match message.first() {
            Some(&DATA_CHANNEL_OPEN) if message.len() >= 12 && self.stream == Stream::Awaited => {
                message.advance(1);
                if let Some(sctp) = self.sctp.as_mut().filter(|_| message[0] == RELIABLE) {
                    sctp.on_stream(data.stream);
                    sctp.write(DCEP, Bytes::from_static(&[DATA_CHANNEL_ACK]));
                    self.stream = Stream::Open;
                } else {
                    self.gone = true;
                }
            }
            Some(&DATA_CHANNEL_ACK) => {}
            _ => self.gone = true,
        }
    }

    fn open_stream(&mut self) {
        let Some(sctp) = self.sctp.as_mut().filter(|sctp| sctp.is_established()) else { return };
        if self.stream == Stream::Wanted {
            // RFC 8832 §6: even for the client of DTLS, odd for its server.
            sctp.on_stream(u16::from(!self.is_client));
            let label = b"swarmgate";
            let mut open = vec![DATA_CHANNEL_OPEN, RELIABLE, 0, 0, 0, 0, 0, 0, 0, label.len() as u8, 0, 0];
            open.extend_from_slice(label);
            sctp.write(DCEP, open.into());
            // RFC 8832 §6: messages may follow the request at once.
            self.stream = Stream::Open;
        }
    }

    /// Takes a datagram that arrived.
    pub(super) fn receive(&mut self, from: SocketAddr, datagram: BytesMut, now: Instant) {
        // RFC 7983 §7.
        match datagram.first() {
            Some(0..=3) => {
                let transport = context(from);
                let message = TransportMessage { now: now.into_std(), transport, message: datagram };
                if let Err(error) = self.ice.handle_read(message) {
                    tracing::trace!(%error, "ICE");
                }
                self.run_ice(now);
            }
            Some(20..=63) if self.remote.is_some() => self.receive_dtls(datagram, now),
            _ => {}
        }
    }

    fn receive_dtls(&mut self, datagram: BytesMut, now: Instant) {
        if self.gone {
            return;
        }
        let mut acknowledges = false;
        match self.dtls.read(now.into_std(), peer_of_dtls(), None, datagram) {
            Ok(events) => {
                for event in events {
                    match event {
                        EndpointEvent::HandshakeComplete => {
                            self.sctp = Some(Association::new(self.ports, rand::random(), now));
                        }
                        EndpointEvent::ApplicationData(packet) => {
                            if let Some(sctp) = &mut self.sctp {
                                sctp.receive(packet.freeze(), now);
                                acknowledges |= sctp.acknowledges();
                            }
                        }
                        EndpointEvent::PeerClosed => self.gone = true,
                        _ => {}
                    }
                }
            }
            Err(error) => {
                // Before the handshake is through it cannot succeed any more; later it is one bad record.
                tracing::trace!(%error, "DTLS");
                self.gone |= self.sctp.is_none();
            }
        }
        self.open_stream();
        if self.stream == Stream::Awaited {
            // Only the request to open can be there.
            let _ = self.read(1);
        }
        self.collect_dtls();
        // Not once for all that waits: a browser sends more by the number of acknowledgements.
        if acknowledges {
            self.send_packets(self.out.len() + 1, now);
        }
    }

    fn run_ice(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            match event.event {
                rtc_ice::Event::ConnectionStateChange(state) => match state {
                    ConnectionState::Failed | ConnectionState::Closed => self.gone = true,
                    ConnectionState::Disconnected => self.silent = self.silent.or(Some(now)),
                    _ => self.silent = None,
                },
                rtc_ice::Event::SelectedCandidatePairChange(_, remote) => self.remote = Some(remote.addr()),
                _ => {}
            }
        }
        while let Some(message) = self.ice.poll_write() {
            self.out.push_back((message.transport.peer_addr, message.message));
        }
        if self.remote.is_some()
            && let Some(config) = self.greets.take()
        {
            if let Err(error) = self.dtls.connect(now.into_std(), peer_of_dtls(), config, None) {
                tracing::debug!(%error, "DTLS");
                self.gone = true;
            }
            self.collect_dtls();
        }
    }

    fn collect_dtls(&mut self) {
        while let Some(message) = self.dtls.poll_transmit() {
            self.out.extend(self.remote.map(|remote| (remote, message.message)));
        }
    }

    /// Makes packets of what may be sent now, until so many datagrams wait.
    fn send_packets(&mut self, most: usize, now: Instant) {
        let Some(sctp) = &mut self.sctp else { return };
        while self.out.len() < most && sctp.transmit(&mut self.packet, now) {
            if let Err(error) = self.dtls.write(now.into_std(), peer_of_dtls(), &self.packet) {
                tracing::trace!(%error, "DTLS");
                self.gone = true;
                return;
            }
            while let Some(message) = self.dtls.poll_transmit() {
                self.out.extend(self.remote.map(|remote| (remote, message.message)));
            }
        }
    }

    /// The next datagram, and where it goes to.
    pub(super) fn transmit(&mut self, now: Instant) -> Option<(SocketAddr, BytesMut)> {
        if self.out.is_empty() {
            self.send_packets(1, now);
        }
        self.out.pop_front()
    }

    /// When [`Self::on_timeout`] is wanted.
    pub(super) fn timeout(&mut self) -> Option<Instant> {
        let ice = self
            .ice
            .poll_timeout()
            .map(Instant::from_std)
            .map(|at| if self.sctp.is_some() { at.max(self.ice_ran + ICE_REST) } else { at });
        let dtls = self.dtls.poll_timeout(&peer_of_dtls()).map(Instant::from_std);
        let sctp = self.sctp.as_ref().and_then(Association::timeout);
        [ice, dtls, sctp].into_iter().flatten().min()
    }

    /// Does what is due by now.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        if self.ice.poll_timeout().is_some_and(|at| Instant::from_std(at) <= now) {
            self.ice_ran = now;
            if let Err(error) = self.ice.handle_timeout(now.into_std()) {
                tracing::trace!(%error, "ICE");
            }
            self.run_ice(now);
        }
        if self.dtls.poll_timeout(&peer_of_dtls()).is_some_and(|at| Instant::from_std(at) <= now) {
            self.gone |= self.dtls.handle_timeout(peer_of_dtls(), now.into_std()).is_err();
            self.collect_dtls();
        }
        if let Some(sctp) = &mut self.sctp {
            sctp.on_timeout(now);
        }
    }
}

/// Names, for the ICE agent, of the shared socket's two families.
fn local(is_ipv6: bool) -> SocketAddr {
    if is_ipv6 { (Ipv6Addr::LOCALHOST, 9).into() } else { (Ipv4Addr::LOCALHOST, 9).into() }
}

fn context(peer_addr: SocketAddr) -> TransportContext {
    let local_addr = local(peer_addr.is_ipv6());
    TransportContext { local_addr, peer_addr, ecn: None, transport_protocol: TransportProtocol::UDP }
}

/// DTLS knows of one peer, wherever ICE finds it.
fn peer_of_dtls() -> SocketAddr {
    TransportContext::default().peer_addr
}

fn host(address: SocketAddr) -> Result<Candidate, StackError> {
    let base_config = CandidateConfig {
        network: "udp".to_owned(),
        address: address.ip().to_string(),
        port: address.port(),
        component: 1,
        ..CandidateConfig::default()
    };
    CandidateHostConfig { base_config, ..CandidateHostConfig::default() }.new_candidate_host()
}
