//! A router and how to speak to it: PCP (RFC 6887), NAT-PMP (RFC 6886), else UPnP-IGD.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};

use super::around::{Around, Here};
use super::{LIFETIME, Port, Protocol};

/// How long a router may take to answer over UDP: 0.25, 0.5 and 1 s after each attempt. It is on the same wire.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };

/// How long UPnP routers are searched for. UPnP Device Architecture §1.3.2: they answer within the seconds asked for, 3.
const SEARCH: Duration = Duration::from_secs(5);

/// What users find in their router's list.
const DESCRIPTION: &str = "Swarmgate";

pub(super) struct Router {
    here: Here,
    speaks: Speaks,
}

enum Speaks {
    /// PCP or NAT-PMP: each mapping knows by which.
    Pmp,
    Igd(Box<Gateway<Tokio>>),
}

/// What a router gave.
#[derive(Debug, Clone)]
pub(super) enum Mapping {
    Pmp(PortMapping),
    Igd {
        /// The port outside.
        port: u16,
    },
}

impl Mapping {
    /// The port outside.
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Pmp(mapping) => mapping.external_port().get(),
            Self::Igd { port } => *port,
        }
    }
}

impl Router {
    /// Finds out what the router speaks, by asking it for `probe`.
    pub(super) async fn find(here: Here, around: &Around, probe: &Port) -> Option<Self> {
        let asked = Self { here, speaks: Speaks::Pmp };
        if asked.map(probe, None).await.is_ok() {
            return Some(asked);
        }
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::new(here.client.into(), 0);
        options.broadcast_address = around.ssdp;
        options.timeout = Some(SEARCH);
        options.allowed_gateway_ips = vec![here.gateway.into()];
        let found = search_gateway(options).await;
        let found = found.inspect_err(|error| tracing::debug!(%error, "no UPnP router"));
        // Any device may answer; only the one that our packets pass through can forward to us.
        let gateway = found.ok().filter(|gateway| gateway.addr.ip() == here.gateway)?;
        Some(Self { here, speaks: Speaks::Igd(Box::new(gateway)) })
    }

    pub(super) fn here(&self) -> Here {
        self.here
    }

    /// For the log.
    pub(super) fn label(&self) -> &'static str {
        match self.speaks {
            Speaks::Pmp => "PCP or NAT-PMP",
            Speaks::Igd(_) => "UPnP",
        }
    }

    /// The outside address of a mapping, if the router says.
    pub(super) async fn outside(&self, mapping: &Mapping) -> Option<SocketAddr> {
        let ip = match (&self.speaks, mapping) {
            (Speaks::Igd(gateway), _) => gateway.get_external_ip().await.ok()?,
            (Speaks::Pmp, Mapping::Pmp(mapping)) => match mapping.mapping_type() {
                PortMappingType::Pcp { external_ip, .. } => external_ip,
                PortMappingType::NatPmp => {
                    natpmp::external_address(self.here.gateway.into(), Some(PATIENCE)).await.map(IpAddr::V4).ok()?
                }
            },
            (Speaks::Pmp, Mapping::Igd { .. }) => return None,
        };
        Some(SocketAddr::new(ip.to_canonical(), mapping.port()))
    }

    /// Maps a port, or renews the mapping that is held. The error is a sentence.
    pub(super) async fn map(&self, port: &Port, held: Option<Mapping>) -> Result<Mapping, String> {
        match (&self.speaks, held) {
            (Speaks::Pmp, Some(Mapping::Pmp(mut mapping))) => {
                mapping.renew().await.map_err(|error| error.to_string())?;
                Ok(Mapping::Pmp(mapping))
            }
            (Speaks::Pmp, _) => {
                let options = PortMappingOptions {
                    external_port: Some(port.number),
                    lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
                    timeout_config: Some(PATIENCE),
                };
                let (gateway, client) = (self.here.gateway.into(), self.here.client.into());
                let mapping = PortMapping::new(gateway, client, port.protocol.into(), port.number, options).await;
                mapping.map(Mapping::Pmp).map_err(|error| error.to_string())
            }
            (Speaks::Igd(gateway), held) => {
                let outside = held.map_or(port.number.get(), |mapping| mapping.port());
                self.add(gateway, port, outside).await.map(|port| Mapping::Igd { port })
            }
        }
    }

    async fn add(&self, gateway: &Gateway<Tokio>, port: &Port, outside: u16) -> Result<u16, String> {
        let (protocol, inside) = (port.protocol.into(), SocketAddr::new(self.here.client.into(), port.number.get()));
        let lifetime = u32::try_from(LIFETIME.as_secs()).expect("an hour is short");
        let added = match gateway.add_port(protocol, outside, inside, lifetime, DESCRIPTION).await {
            // Some keep mappings until they are told otherwise, or restart.
            Err(AddPortError::OnlyPermanentLeasesSupported) => {
                gateway.add_port(protocol, outside, inside, 0, DESCRIPTION).await
            }
            added => added,
        };
        match added {
            Ok(()) => Ok(outside),
            Err(AddPortError::PortInUse) => {
                let any = gateway.add_any_port(protocol, inside, lifetime, DESCRIPTION).await;
                any.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes a mapping back; whether the router agreed.
    pub(super) async fn unmap(&self, port: &Port, mapping: Mapping) -> bool {
        match (&self.speaks, mapping) {
            (_, Mapping::Pmp(mapping)) => mapping.try_drop().await.is_ok(),
            (Speaks::Igd(gateway), Mapping::Igd { port: outside }) => {
                gateway.remove_port(port.protocol.into(), outside).await.is_ok()
            }
            (Speaks::Pmp, Mapping::Igd { .. }) => false,
        }
    }
}

impl From<Protocol> for InternetProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl From<Protocol> for PortMappingProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::TCP,
            Protocol::Udp => Self::UDP,
        }
    }
}
