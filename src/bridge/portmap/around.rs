//! The network this machine is in: its default gateway, and its own address towards it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// Where Linux lists its routes.
const ROUTES: &str = "/proc/net/route";

/// Where routers that speak UPnP listen (UPnP Device Architecture §1.2.2).
const SSDP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);

/// A machine behind a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) gateway: Ipv4Addr,
    /// The machine's own address.
    pub(super) client: Ipv4Addr,
}

/// How the surroundings are found: as they are, or as a test says.
#[derive(Debug, Clone)]
pub(in crate::bridge) struct Around {
    fixed: Option<Option<Here>>,
    pub(super) ssdp: SocketAddr,
}

impl Around {
    /// As they are.
    pub(in crate::bridge) fn real() -> Self {
        Self { fixed: None, ssdp: SSDP }
    }

    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Self { fixed: Some(None), ssdp: SSDP }
    }

    #[cfg(test)]
    pub(super) fn fixed(here: Here, ssdp: SocketAddr) -> Self {
        Self { fixed: Some(Some(here)), ssdp }
    }

    /// Looks now: machines move. `None` where there is no router that could forward anything.
    pub(super) fn look(&self) -> Option<Here> {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let gateway = default_gateway(&std::fs::read_to_string(ROUTES).ok()?)?;
        // Connecting a UDP socket sends nothing; it only asks the system for a route.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((gateway, 9)).ok()?;
        match socket.local_addr().ok()? {
            SocketAddr::V4(client) if client.ip().is_private() => Some(Here { gateway, client: *client.ip() }),
            _ => None,
        }
    }
}

/// The gateway of the default route with the least metric. The kernel writes addresses as native-endian numbers in
/// hexadecimal: interface, destination, gateway, flags, references, use, metric, mask.
fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    let default = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let hex = |at: usize| fields.get(at).and_then(|text| u32::from_str_radix(text, 16).ok());
        let (gateway, metric) = (hex(2)?, fields.get(6)?.parse::<u32>().ok()?);
        (hex(1)? == 0 && hex(7)? == 0 && gateway != 0).then_some((metric, Ipv4Addr::from(gateway.to_ne_bytes())))
    };
    routes.lines().skip(1).filter_map(default).min().map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    fn route(destination: &str, gateway: &str, metric: u32, mask: &str) -> String {
        let native = |ip: &str| format!("{:08X}", u32::from_ne_bytes(ip.parse::<Ipv4Addr>().unwrap().octets()));
        let [destination, gateway, mask] = [destination, gateway, mask].map(native);
        format!("eth0\t{destination}\t{gateway}\t0003\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
    }

    #[test]
    fn the_default_route_is_found() {
        let any = |gateway, metric| route("0.0.0.0", gateway, metric, "0.0.0.0");
        let lan = route("192.168.1.0", "0.0.0.0", 0, "255.255.255.0");
        let half = route("0.0.0.0", "10.8.0.1", 0, "128.0.0.0");
        for (routes, expected) in [
            (String::new(), None),
            (lan.clone(), None),
            (half + &lan, None),
            (lan.clone() + &any("192.168.1.1", 100), Some("192.168.1.1")),
            (any("192.168.1.1", 600) + &any("192.168.7.1", 100) + &lan, Some("192.168.7.1")),
            ("nonsense\n\nmore of it 0 0 0 0 0".to_owned(), None),
        ] {
            let found = default_gateway(&format!("{HEADER}{routes}"));
            assert_eq!(found, expected.map(|ip| ip.parse().unwrap()), "{routes}");
        }
    }
}
