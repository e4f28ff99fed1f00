//! Routers for tests, on loopback: enough of each protocol to be asked by a real client library.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Protocol;
use super::around::{Around, Here};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(8, 8, 4, 4);

/// The port of NAT-PMP and PCP.
const PMP: u16 = 5351;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Pcp,
    NatPmp,
    Igd,
}

/// A mapping, by its port outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

type Table = Arc<Mutex<HashMap<u16, Protocol>>>;

pub(super) struct FakeRouter {
    here: Here,
    ssdp: SocketAddr,
    table: Table,
    _stop: DropGuard,
}

impl FakeRouter {
    pub(super) async fn start(speaks: Speaks, n: u8) -> Self {
        // Each has an address of its own, since the port is fixed.
        let gateway = Ipv4Addr::new(127, 83, 51, n + 1);
        let (table, stop) = (Table::default(), CancellationToken::new());
        let udp = UdpSocket::bind((gateway, if speaks == Speaks::Igd { 0 } else { PMP })).await.unwrap();
        let ssdp = udp.local_addr().unwrap();
        let (held, stopped) = (table.clone(), stop.clone());
        tokio::spawn(async move {
            let serving = async {
                match speaks {
                    Speaks::Igd => igd(udp, held).await,
                    Speaks::Pcp | Speaks::NatPmp => pmp(udp, speaks, held).await,
                }
            };
            let _: Option<()> = stopped.run_until_cancelled(serving).await;
        });
        let here = Here { gateway, client: Ipv4Addr::LOCALHOST };
        Self { here, ssdp, table, _stop: stop.drop_guard() }
    }

    pub(super) fn around(&self) -> Around {
        Around::fixed(self.here, self.ssdp)
    }

    /// Resolves when exactly these are held.
    pub(super) async fn holds(&self, entries: &[Entry]) {
        let wanted: HashMap<_, _> = entries.iter().map(|entry| (entry.port, entry.protocol)).collect();
        while *self.table.lock().unwrap() != wanted {
            tokio::task::yield_now().await;
        }
    }
}

fn note(table: &Table, protocol: Protocol, inside: u16, outside: u16, lifetime: u32) {
    if lifetime == 0 {
        table.lock().unwrap().remove(&inside);
    } else {
        table.lock().unwrap().insert(outside, protocol);
    }
}

async fn pmp(socket: UdpSocket, speaks: Speaks, table: Table) {
    let mut buffer = [0; 1100];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let answer = match (&buffer[..length], speaks) {
            (request @ [2, 1, ..], Speaks::Pcp) => pcp(request, &table),
            // RFC 6886 §3.5: an unsupported version is answered by result 1.
            ([2, ..], _) => vec![0, 128, 0, 1, 0, 0, 0, 9],
            ([0, 0], _) => [&[0, 128, 0, 0, 0, 0, 0, 9][..], &OUTSIDE.octets()].concat(),
            (request @ [0, op @ 1..=2, ..], _) if length == 12 => {
                let (inside, outside) = (number(&request[4..]), number(&request[6..]));
                let lifetime = u32::from_be_bytes(*request[8..].first_chunk().unwrap());
                note(&table, if *op == 1 { Protocol::Udp } else { Protocol::Tcp }, inside, outside, lifetime);
                [&[0, 128 + op, 0, 0, 0, 0, 0, 9][..], &request[4..12]].concat()
            }
            (other, _) => panic!("not understood: {other:?}"),
        };
        socket.send_to(&answer, from).await.unwrap();
    }
}

/// RFC 6887 §11.1: 24 bytes of header, then nonce, protocol, ports and address.
fn pcp(request: &[u8], table: &Table) -> Vec<u8> {
    let lifetime = u32::from_be_bytes(*request[4..].first_chunk().unwrap());
    let protocol = if request[36] == 17 { Protocol::Udp } else { Protocol::Tcp };
    let (inside, outside) = (number(&request[40..]), number(&request[42..]));
    note(table, protocol, inside, outside, lifetime);
    let mut answer = vec![2, 0x81, 0, 0];
    answer.extend(lifetime.to_be_bytes());
    answer.extend([0, 0, 0, 9]);
    answer.extend([0; 12]);
    answer.extend(&request[24..44]);
    answer.extend(OUTSIDE.to_ipv6_mapped().octets());
    answer
}

fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

async fn igd(ssdp: UdpSocket, table: Table) {
    let http = TcpListener::bind((ssdp.local_addr().unwrap().ip(), 0)).await.unwrap();
    let location = format!("http://{}/root.xml", http.local_addr().unwrap());
    let mut buffer = [0; 1500];
    loop {
        tokio::select! {
            asked = ssdp.recv_from(&mut buffer) => {
                let (length, from) = asked.unwrap();
                assert!(buffer[..length].starts_with(b"M-SEARCH"));
                let answer = format!("HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLOCATION: {location}\r\n\r\n");
                ssdp.send_to(answer.as_bytes(), from).await.unwrap();
            }
            accepted = http.accept() => answer_http(accepted.unwrap().0, &table).await,
        }
    }
}

async fn answer_http(mut stream: TcpStream, table: &Table) {
    let mut request = Vec::new();
    let text = loop {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
            break text;
        }
    };
    let body = answer_to(&text, table);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn answer_to(request: &str, table: &Table) -> String {
    let field = |name: &str| {
        let (_, rest) = request.split_once(&format!("<{name}>"))?;
        rest.split_once('<').map(|(value, _)| value)
    };
    let soap = |action: &str, inner: &str| {
        format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:{action}Response
            xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">{inner}</u:{action}Response></s:Body></s:Envelope>"#
        )
    };
    let protocol = || if field("NewProtocol") == Some("UDP") { Protocol::Udp } else { Protocol::Tcp };
    let outside = || field("NewExternalPort").unwrap().parse::<u16>().unwrap();
    if request.starts_with("GET /root.xml") {
        DESCRIPTION.to_owned()
    } else if request.starts_with("GET /scpd.xml") {
        SCPD.to_owned()
    } else if request.contains("#GetExternalIPAddress") {
        soap("GetExternalIPAddress", &format!("<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>"))
    } else if request.contains("#AddPortMapping") {
        table.lock().unwrap().insert(outside(), protocol());
        soap("AddPortMapping", "")
    } else if request.contains("#DeletePortMapping") {
        table.lock().unwrap().remove(&outside());
        soap("DeletePortMapping", "")
    } else {
        panic!("not understood: {request}")
    }
}

const DESCRIPTION: &str = r#"<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><controlURL>/control</controlURL>
<eventSubURL>/events</eventSubURL><SCPDURL>/scpd.xml</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"#;

const SCPD: &str = r#"<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0"><actionList>
<action><name>AddPortMapping</name><argumentList>
<argument><name>NewRemoteHost</name><direction>in</direction></argument>
<argument><name>NewExternalPort</name><direction>in</direction></argument>
<argument><name>NewProtocol</name><direction>in</direction></argument>
<argument><name>NewInternalPort</name><direction>in</direction></argument>
<argument><name>NewInternalClient</name><direction>in</direction></argument>
<argument><name>NewEnabled</name><direction>in</direction></argument>
<argument><name>NewPortMappingDescription</name><direction>in</direction></argument>
<argument><name>NewLeaseDuration</name><direction>in</direction></argument>
</argumentList></action>
<action><name>DeletePortMapping</name><argumentList>
<argument><name>NewRemoteHost</name><direction>in</direction></argument>
<argument><name>NewExternalPort</name><direction>in</direction></argument>
<argument><name>NewProtocol</name><direction>in</direction></argument>
</argumentList></action>
<action><name>GetExternalIPAddress</name><argumentList>
<argument><name>NewExternalIPAddress</name><direction>out</direction></argument>
</argumentList></action></actionList></scpd>"#;
