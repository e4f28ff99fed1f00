//! The networks this machine is on, and the multicast sockets of both families.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use rtc_shared::ifaces::ifaces;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::wire::local_discovery::{GROUP_V4, GROUP_V6, LocalAnnounce, MAX_LEN, PORT};

/// Where announces go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Networks {
    /// Address and mask of each, so that who is on it is known.
    subnets: BTreeSet<(IpAddr, IpAddr)>,
    /// Our IPv4 address on each.
    v4: BTreeSet<Ipv4Addr>,
    /// The index of each interface that has IPv6.
    v6: BTreeSet<u32>,
    /// Peers reach us by IPv4, by IPv6.
    reachable: (bool, bool),
}

impl Networks {
    /// Those from which a listener bound to `bound` is reached.
    pub(super) fn of(bound: IpAddr) -> Self {
        let listed = ifaces().unwrap_or_default();
        let addresses = listed.iter().filter_map(|interface| Some((interface.addr?, interface.mask?.ip())));
        Self::among(bound, addresses)
    }

    fn among(bound: IpAddr, addresses: impl Iterator<Item = (SocketAddr, IpAddr)>) -> Self {
        // The IPv6 wildcard takes IPv4 as well.
        let reachable = (bound.is_ipv4() || bound.is_unspecified(), bound.is_ipv6());
        let mut networks = Self { reachable, ..Self::default() };
        for (addr, mask) in addresses {
            let ip = addr.ip();
            if ip.is_loopback() || !(bound.is_unspecified() || bound == ip) {
                continue;
            }
            networks.subnets.insert((ip, mask));
            match addr {
                SocketAddr::V4(addr) => networks.v4.extend([*addr.ip()]),
                // Every interface with IPv6 has a link-local address, and only that tells the interface.
                SocketAddr::V6(addr) => networks.v6.extend((addr.scope_id() != 0).then_some(addr.scope_id())),
            }
        }
        networks
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether this address is on one of them.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        self.subnets.iter().any(|(ours, mask)| match (ip, ours, mask) {
            (IpAddr::V4(ip), IpAddr::V4(ours), IpAddr::V4(mask)) => {
                ip.to_bits() & mask.to_bits() == ours.to_bits() & mask.to_bits()
            }
            (IpAddr::V6(ip), IpAddr::V6(ours), IpAddr::V6(mask)) => {
                ip.to_bits() & mask.to_bits() == ours.to_bits() & mask.to_bits()
            }
            _ => false,
        })
    }
}

/// The sockets, where there are networks for them.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    /// Opens what can be opened. Without multicast there is no local discovery, and nothing else is lost.
    pub(super) fn open(networks: &Networks) -> Self {
        let opened = |family: &str, socket: io::Result<UdpSocket>| {
            socket.inspect_err(|error| tracing::info!(family, %error, "no local discovery")).ok()
        };
        let v4 = (!networks.v4.is_empty()).then(|| opened("IPv4", open_v4(&networks.v4))).flatten();
        let v6 = (!networks.v6.is_empty()).then(|| opened("IPv6", open_v6(&networks.v6))).flatten();
        Self { v4, v6 }
    }

    /// The next datagram.
    pub(super) async fn receive(&self) -> (Vec<u8>, SocketAddr) {
        tokio::select! {
            received = receive(self.v4.as_ref()) => received,
            received = receive(self.v6.as_ref()) => received,
        }
    }

    /// Announces on every network by every family by which peers reach us; whether any took it.
    pub(super) async fn send(&self, networks: &Networks, announce: &LocalAnnounce) -> bool {
        let mut sent = false;
        if let Some(socket) = self.v4.as_ref().filter(|_| networks.reachable.0) {
            let datagram = announce.encode(&format!("{GROUP_V4}:{PORT}"));
            for ours in &networks.v4 {
                let through = SockRef::from(socket).set_multicast_if_v4(ours);
                sent |= through.is_ok() && socket.send_to(&datagram, (GROUP_V4, PORT)).await.is_ok();
            }
        }
        if let Some(socket) = self.v6.as_ref().filter(|_| networks.reachable.1) {
            let datagram = announce.encode(&format!("[{GROUP_V6}]:{PORT}"));
            for index in &networks.v6 {
                let to = SocketAddrV6::new(GROUP_V6, PORT, 0, *index);
                let through = SockRef::from(socket).set_multicast_if_v6(*index);
                sent |= through.is_ok() && socket.send_to(&datagram, to).await.is_ok();
            }
        }
        sent
    }
}

async fn receive(socket: Option<&UdpSocket>) -> (Vec<u8>, SocketAddr) {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut datagram = vec![0; MAX_LEN];
    loop {
        if let Ok((len, from)) = socket.recv_from(&mut datagram).await {
            datagram.truncate(len);
            return (datagram, from);
        }
        // An error of a datagram sent before; the next call waits.
        tokio::task::yield_now().await;
    }
}

fn open_v4(addresses: &BTreeSet<Ipv4Addr>) -> io::Result<UdpSocket> {
    let socket = bind(Domain::IPV4, SocketAddr::from((GROUP_V4, PORT)))?;
    socket.set_multicast_loop_v4(true)?;
    for ours in addresses {
        socket.join_multicast_v4(&GROUP_V4, ours)?;
    }
    UdpSocket::from_std(socket.into())
}

fn open_v6(indices: &BTreeSet<u32>) -> io::Result<UdpSocket> {
    let socket = bind(Domain::IPV6, SocketAddr::from((GROUP_V6, PORT)))?;
    socket.set_multicast_loop_v6(true)?;
    for index in indices {
        socket.join_multicast_v6(&GROUP_V6, *index)?;
    }
    UdpSocket::from_std(socket.into())
}

/// A socket beside those of the other clients of this machine. It is bound to the group and so gets nothing that was sent
/// to this host alone: who is not on this network cannot reach it.
fn bind(domain: Domain, addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_those_the_listener_is_reached_from() {
        let link_local = SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 0, 2);
        let machine: Vec<(SocketAddr, IpAddr)> = vec![
            ("127.0.0.1:0".parse().unwrap(), "255.0.0.0".parse().unwrap()),
            ("10.1.2.3:0".parse().unwrap(), "255.255.0.0".parse().unwrap()),
            ("192.168.1.5:0".parse().unwrap(), "255.255.255.0".parse().unwrap()),
            ("[::1]:0".parse().unwrap(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
            (link_local.into(), "ffff:ffff:ffff:ffff::".parse().unwrap()),
        ];
        // bound → IPv4 addresses, interfaces with IPv6, reachable
        let table = [
            ("0.0.0.0", 2, 1, (true, false)),
            ("::", 2, 1, (true, true)),
            ("10.1.2.3", 1, 0, (true, false)),
            ("127.0.0.1", 0, 0, (true, false)),
            ("::1", 0, 0, (false, true)),
        ];
        for (bound, v4, v6, reachable) in table {
            let networks = Networks::among(bound.parse().unwrap(), machine.iter().copied());
            assert_eq!((networks.v4.len(), networks.v6.len(), networks.reachable), (v4, v6, reachable), "{bound}");
            assert_eq!(networks.is_empty(), v4 + v6 == 0);
        }
        let networks = Networks::among("0.0.0.0".parse().unwrap(), machine.iter().copied());
        for (ip, near) in [
            ("10.1.99.99", true),
            ("10.2.0.1", false),
            ("192.168.1.77", true),
            ("8.8.8.8", false),
            ("fe80::7", true),
            ("2a00::1", false),
        ] {
            assert_eq!(networks.contain(ip.parse().unwrap()), near, "{ip}");
        }
    }
}
