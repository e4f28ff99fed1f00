//! One connection, from its first description to its end: a task that opens the data channel, moves bytes between it
//! and its [`Channel`], and leaves nothing behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::Rng;
use rand::distr::{Alphanumeric, SampleString};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::transport::RTCDtlsRole;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCPeerConnectionState, RTCSessionDescription,
    SettingEngineBuilder,
};

use super::RtcError;
use super::channel::{Channel, Driven};
use super::mux::{Mux, Route};
use super::runtime::PeerRuntime;
use super::sdp::Description;
use super::stall::{self, Stall};
use super::window::{self, Window};
use crate::tasks::Tasks;

/// How long a peer may be silent until it counts as disconnected.
const ICE_DISCONNECTED: Duration = Duration::from_secs(5);
/// How long a disconnected peer may take to return. A tab that is closed says nothing: this is how it is noticed.
const RETURN_LIMIT: Duration = Duration::from_secs(5);
/// How long, less [`ICE_DISCONNECTED`], a peer has for its first check. Later [`RETURN_LIMIT`] is shorter.
const ICE_FAILED: Duration = Duration::from_secs(15);
/// RFC 7675 §5.1 asks for consent checks about every 5 s; the stack's default is more frequent.
const ICE_KEEPALIVE: Duration = Duration::from_secs(2);

/// How often an address is checked while no path is known. The stack sends some of its handshakes only when this timer
/// fires, so it also decides how long opening takes: toward Chromium 0.08 s, and 0.4 s with the default of 200 ms.
const ICE_CHECK: Duration = Duration::from_millis(50);

/// How long what was written before the end may take to arrive, and what arrived before it to be read.
const LINGER: Duration = Duration::from_secs(5);

/// How often it is looked whether the last bytes have arrived.
const ACKNOWLEDGED_POLL: Duration = Duration::from_millis(10);

/// Closing is local work plus one datagram; a stack that takes longer is left to itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection comes about.
pub(super) enum Role {
    /// Somebody offered.
    Answer(Description),
    /// We offer; the answer follows.
    Offer(oneshot::Receiver<Description>),
}

/// Everything a connection needs to begin.
pub(super) struct Session {
    pub(super) mux: Arc<Mux>,
    pub(super) tasks: Tasks,
    /// Cancelled when the endpoint goes.
    pub(super) stopping: CancellationToken,
    pub(super) role: Role,
    /// How long opening may take.
    pub(super) limit: Duration,
    /// Held until the channel is open or the attempt has failed.
    pub(super) permit: OwnedSemaphorePermit,
    /// Takes our side's description, still without candidates that mean anything to others.
    pub(super) described: oneshot::Sender<Result<Description, RtcError>>,
    /// Takes the open channel. That nobody waits for it any more ends the attempt.
    pub(super) opened: oneshot::Sender<Result<Channel, RtcError>>,
}

impl Session {
    /// Runs the connection to its end.
    pub(super) async fn run(self) {
        let stopping = self.stopping.clone();
        let (announce, announced) = oneshot::channel();
        let health = Health::default();
        let events = Events { announce: Mutex::new(Some(announce)), health: health.clone() };
        let credentials = Credentials::random(&mut rand::rng());
        let route = self.mux.add(credentials.ufrag.clone());
        // Boxed: what the builder needs would otherwise be part of this task for its whole life.
        match Box::pin(connect(credentials, &route, self.tasks.clone(), events)).await {
            Ok(connection) => {
                let life = self.live(&*connection, &route, announced, health);
                let _: Option<()> = stopping.run_until_cancelled(life).await;
                if timeout(CLOSE_TIMEOUT, connection.close()).await.is_err() {
                    tracing::debug!("a WebRTC connection would not close");
                }
            }
            Err(error) => drop(self.described.send(Err(error))),
        }
        route.leave();
    }

    async fn live(
        self,
        connection: &dyn PeerConnection,
        route: &Route,
        announced: oneshot::Receiver<Arc<dyn DataChannel>>,
        health: Health,
    ) {
        let Self { role, limit, permit, described, mut opened, .. } = self;
        let opening = timeout(limit, open(connection, role, described, announced));
        let outcome = tokio::select! {
            outcome = opening => outcome.unwrap_or(Err(RtcError::Timeout)),
            () = health.gone.cancelled() => Err(RtcError::Closed),
            () = opened.closed() => return,
        };
        drop(permit);
        match outcome {
            Ok((data, max_message)) => {
                let remote = route.peer().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
                let (channel, driven) = Channel::new(remote, max_message);
                if opened.send(Ok(channel)).is_ok() {
                    drive(&*data, driven, &health).await;
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    }
}

/// RFC 8445 §5.3: at least 24 and 128 bits of randomness. The fragment is also the key by which the shared socket knows
/// its connections, so it has 119.
struct Credentials {
    ufrag: String,
    password: String,
}

impl Credentials {
    fn random(rng: &mut impl Rng) -> Self {
        Self { ufrag: Alphanumeric.sample_string(rng, 20), password: Alphanumeric.sample_string(rng, 32) }
    }
}

async fn connect(
    Credentials { ufrag, password }: Credentials,
    route: &Arc<Route>,
    tasks: Tasks,
    events: Events,
) -> Result<Box<dyn PeerConnection>, RtcError> {
    let settings = SettingEngineBuilder::new()
        .with_ice_credentials(ufrag, password)
        .with_ice_timeouts(Some(ICE_DISCONNECTED), Some(ICE_FAILED), Some(ICE_KEEPALIVE))
        .with_ice_connection_attempts(Some(ICE_CHECK), None)
        // The peer begins the DTLS handshake: what this stack would send first waits for its next timer.
        .with_answering_dtls_role(RTCDtlsRole::Server)
        // Chromium hides its addresses behind such names. They need not be resolved: it reaches us.
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .build();
    let runtime = PeerRuntime { route: route.clone(), tasks, driver_ended: events.health.gone.clone() };
    let connection = PeerConnectionBuilder::new()
        .with_setting_engine(settings)
        .with_runtime(Arc::new(runtime))
        .with_handler(Arc::new(events))
        .with_udp_addrs(route.placeholders())
        .with_data_channel_send_buffer_limit(window::MOST)
        .build()
        .await?;
    Ok(Box::new(connection))
}

/// Exchanges descriptions and waits for the data channel; returns it and the largest message that may be sent on it.
async fn open(
    connection: &dyn PeerConnection,
    role: Role,
    described: oneshot::Sender<Result<Description, RtcError>>,
    announced: oneshot::Receiver<Arc<dyn DataChannel>>,
) -> Result<(Arc<dyn DataChannel>, usize), RtcError> {
    let (data, max_message) = match role {
        Role::Answer(offer) => {
            let _ = described.send(answer(connection, &offer).await);
            (announced.await.map_err(|_| RtcError::Closed)?, offer.max_message_size())
        }
        Role::Offer(answer) => {
            let data = match offer(connection).await {
                Ok((data, description)) => {
                    described.send(Ok(description)).map(|()| data).map_err(|_| RtcError::Closed)?
                }
                Err(error) => {
                    let _ = described.send(Err(error));
                    return Err(RtcError::Closed);
                }
            };
            let answer = answer.await.map_err(|_| RtcError::Closed)?;
            connection.set_remote_description(RTCSessionDescription::answer(answer.to_string())?).await?;
            (data, answer.max_message_size())
        }
    };
    loop {
        match data.poll().await {
            Some(DataChannelEvent::OnOpen) => return Ok((data, max_message)),
            Some(DataChannelEvent::OnClose) | None => return Err(RtcError::Closed),
            Some(_) => {}
        }
    }
}

async fn answer(connection: &dyn PeerConnection, offer: &Description) -> Result<Description, RtcError> {
    connection.set_remote_description(RTCSessionDescription::offer(offer.to_string())?).await?;
    let answer = connection.create_answer(None).await?;
    let description = Description::parse_answer(&answer.sdp)?;
    connection.set_local_description(answer).await?;
    Ok(description)
}

async fn offer(connection: &dyn PeerConnection) -> Result<(Arc<dyn DataChannel>, Description), RtcError> {
    let data = connection.create_data_channel("swarmgate", None).await?;
    let offer = connection.create_offer(None).await?;
    let description = Description::parse_offer(&offer.sdp)?;
    connection.set_local_description(offer).await?;
    Ok((data, description))
}

/// Moves bytes both ways until either side ends the channel or the connection is lost.
async fn drive(data: &dyn DataChannel, mut driven: Driven, health: &Health) {
    let inbound = driven.inbound.clone();
    let sent = AtomicU64::new(0);
    let closed_by_us = async {
        send(data, &mut driven.outbound, &sent).await;
        sleep(LINGER).await;
    };
    let ended = async {
        tokio::select! {
            // What arrived before is still read.
            () = health.gone.cancelled() => {}
            // What was written before is still sent.
            () = inbound.closed() => {}
        }
        sleep(LINGER).await;
    };
    let closed_by_peer = tokio::select! {
        closed = receive(data, &inbound) => closed,
        () = closed_by_us => false,
        () = ended => false,
        () = health.silent_too_long() => false,
        () = stalled(data, &sent) => false,
    };
    if closed_by_peer {
        driven.closed_by_peer();
    }
}

/// Passes on what arrives; whether it ended by the peer closing the channel. When nobody reads any more, what arrives
/// is dropped, but the end is still waited for.
async fn receive(data: &dyn DataChannel, inbound: &mpsc::Sender<Bytes>) -> bool {
    while let Some(event) = data.poll().await {
        match event {
            DataChannelEvent::OnMessage(message) => drop(inbound.send(message.data.freeze()).await),
            DataChannelEvent::OnClose => return true,
            _ => {}
        }
    }
    false
}

/// Sends what is written, until no more will be; closes the channel once all of it is acknowledged. Counts the bytes.
async fn send(data: &dyn DataChannel, outbound: &mut mpsc::Receiver<BytesMut>, sent: &AtomicU64) {
    let mut window = Window::new();
    while let Some(message) = outbound.recv().await {
        let length = message.len();
        // The stack has no event for an acknowledgement, so it is asked.
        while let Ok(outstanding) = data.outstanding_bytes().await {
            match window.wait(outstanding, length, Instant::now()) {
                Some(wait) => sleep(wait).await,
                None => break,
            }
        }
        if data.send(message).await.is_err() {
            return;
        }
        sent.fetch_add(length as u64, Ordering::Relaxed);
        window.sent(length, Instant::now());
    }
    // The stack would discard what is not, and has no event for it.
    while data.outstanding_bytes().await.is_ok_and(|bytes| bytes > 0) {
        sleep(ACKNOWLEDGED_POLL).await;
    }
    let _ = data.close().await;
}

/// Resolves when the peer has acknowledged nothing for too long, of the bytes `sent`.
async fn stalled(data: &dyn DataChannel, sent: &AtomicU64) {
    let mut stall = Stall::new(Instant::now());
    loop {
        sleep(stall::LOOK).await;
        // Once the channel is closed its events say how.
        let Ok(outstanding) = data.outstanding_bytes().await else { return std::future::pending().await };
        if stall.is_over(sent.load(Ordering::Relaxed), outstanding, Instant::now()) {
            tracing::debug!(outstanding, "a WebRTC peer acknowledges nothing: closing");
            return;
        }
    }
}

/// Whether the connection can still be used.
#[derive(Clone, Default)]
struct Health {
    /// Cancelled when it is over for good.
    gone: CancellationToken,
    silent: watch::Sender<bool>,
}

impl Health {
    async fn silent_too_long(&self) {
        let mut silent = self.silent.subscribe();
        loop {
            let _ = silent.wait_for(|silent| *silent).await;
            if timeout(RETURN_LIMIT, silent.wait_for(|silent| !silent)).await.is_err() {
                return;
            }
        }
    }
}

/// What the stack tells of.
struct Events {
    announce: Mutex<Option<oneshot::Sender<Arc<dyn DataChannel>>>>,
    health: Health,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Events {
    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => self.health.gone.cancel(),
            state => {
                self.health.silent.send_replace(state == RTCPeerConnectionState::Disconnected);
            }
        }
    }

    /// The first channel is the connection's stream. A peer that opens another is not one of ours: each would hold
    /// memory that nothing here bounds.
    async fn on_data_channel(&self, data: Arc<dyn DataChannel>) {
        let announce = self.announce.lock().unwrap_or_else(PoisonError::into_inner).take();
        match announce {
            Some(announce) => drop(announce.send(data)),
            None => self.health.gone.cancel(),
        }
    }
}
