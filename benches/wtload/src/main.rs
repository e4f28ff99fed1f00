//! wtload: open-loop WebTorrent-tracker load generator (plain ws://, one thread, epoll).
//! Speaks RFC 6455 client framing directly so that it stays cheap.
mod deflate;
mod options;
mod process;
mod report;
mod wire;

use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use deflate::Deflate;
use options::args;
use process::{cpu, rss};
use wire::{field, frame, jstr, ts};

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn bytes20(&mut self) -> [u8; 20] {
        let mut b = [0u8; 20];
        for c in b.iter_mut() {
            *c = (self.next() >> 24) as u8
        }
        b
    }
    fn f(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
struct Conn {
    s: TcpStream,
    st: u8,
    inb: Vec<u8>,
    out: Vec<u8>,
    op: usize,
    wr: bool,
    peer: [u8; 20],
    /// Announces so far: it takes its torrents in turn.
    turn: usize,
    ann_at: u64,
    seeder: bool,
    started: bool,
}
/// What was sent and received, also by the server's own account: it passes on what is received here.
#[derive(Default, Clone)]
pub struct Stat {
    sent_ann: u64,
    sent_ans: u64,
    rx_ann: u64,
    rx_offer: u64,
    rx_ans: u64,
    rx_err: u64,
    rx_other: u64,
    closed: u64,
    bytes_in: u64,
    bytes_out: u64,
}
fn main() {
    let cfg = args();
    let mut rng = Rng(0x9E3779B97F4A7C15 ^ std::process::id() as u64);
    let t0 = Instant::now();
    let now_us = || t0.elapsed().as_micros() as u64;
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4096);
    let hashes: Vec<[u8; 20]> = (0..cfg.swarms).map(|_| rng.bytes20()).collect();
    let mut conns: Vec<Conn> = Vec::with_capacity(cfg.conns);
    let rss0 = rss(cfg.pid);
    // SDP bodies with \r\n escapes in JSON, a=ts:<16 digits> marker in front. What differs from peer to peer is random, so
    // that they compress as real ones do.
    let mut mk = |n: usize| {
        let mut s = String::from("v=0\\r\\no=- 4611731400430051336 2 IN IP4 127.0.0.1\\r\\ns=-\\r\\nt=0 0\\r\\na=fingerprint:sha-256 ");
        s.extend((0..32).map(|_| format!("{:02X}:", rng.next() as u8)));
        s.push_str("\\r\\n");
        while s.len() + 24 < n {
            let [foundation, port, ip] = [rng.next() as u32, 1024 + rng.next() as u16 as u32 / 2, rng.next() as u32];
            let [a, b, c, d] = ip.to_be_bytes();
            s.push_str(&format!(
                "a=candidate:{foundation} 1 udp 2122260223 {a}.{b}.{c}.{d} {port} typ host generation 0 network-id 1\\r\\n"
            ));
        }
        s.truncate(n.saturating_sub(24));
        while s.ends_with('\\') || s.ends_with("\\r") {
            s.pop();
        }
        s
    };
    let osdp = mk(cfg.sdp);
    let asdp = mk(cfg.asdp);
    let mut stat = Stat::default();
    let (mut lat_ann, mut lat_off, mut lat_ans): (Vec<u32>, Vec<u32>, Vec<u32>) = (vec![], vec![], vec![]);
    let mut measuring = false;
    let mut opened = 0usize;
    let mut failed = 0usize;
    let mut next_conn_at = 0.0f64;
    let mut rr = 0usize;
    let mut due_base = 0.0f64;
    let mut sent_since = 0u64;
    let mut outstanding = 0i64;
    let mut phase = 0; // 0 connecting, 1 warmup, 2 measuring, 3 done
    let (mut t_phase, mut cpu0, mut st0) = (0.0f64, 0.0f64, Stat::default());
    let mut buf = vec![0u8; 1 << 18];
    let mut msg: Vec<u8> = Vec::with_capacity(1 << 16);
    let fa = memmem::Finder::new(b"\"answer\":");
    let fo = memmem::Finder::new(b"\"offer\":");
    let fi = memmem::Finder::new(b"\"interval\":");
    let ff = memmem::Finder::new(b"\"failure reason\":");
    let fts = memmem::Finder::new(b"a=ts:");
    let mut deflate = cfg.deflate.then(Deflate::new);
    let mut inflated: Vec<u8> = Vec::new();
    let extension = if cfg.deflate { deflate::OFFER } else { "" };
    // Announces without offers that put every peer in its swarms before anything is measured.
    let mut joining = if cfg.torrents > 1 { cfg.conns * cfg.torrents } else { 0 };
    let mut first_err: Option<String> = None;
    let mut self_cpu0 = 0.0;
    let mypid = std::process::id() as i32;
    loop {
        let now = t0.elapsed().as_secs_f64();
        // open connections
        if phase == 0 {
            while conns.len() < cfg.conns && now >= next_conn_at {
                next_conn_at = (next_conn_at + 1.0 / cfg.connect_rate).max(now - 0.05);
                let mut s = match TcpStream::connect(cfg.addr) {
                    Ok(s) => s,
                    Err(e) => {
                        first_err.get_or_insert(e.to_string());
                        failed += 1;
                        break;
                    }
                };
                let _ = s.set_nodelay(true);
                let id = conns.len();
                poll.registry().register(&mut s, Token(id), Interest::READABLE | Interest::WRITABLE).unwrap();
                let req = format!(
                    "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\nOrigin: http://localhost\r\n{extension}\r\n",
                    cfg.path, cfg.addr
                );
                let seeder = rng.f() < cfg.seeders;
                conns.push(Conn {
                    s,
                    st: 0,
                    inb: vec![],
                    out: req.into_bytes(),
                    op: 0,
                    wr: true,
                    peer: rng.bytes20(),
                    turn: 0,
                    ann_at: 0,
                    seeder,
                    started: false,
                });
            }
            if opened + failed >= cfg.conns && conns.len() == cfg.conns {
                phase = 1;
                t_phase = now;
                due_base = now;
                let cpu_at_open = cpu(cfg.pid);
                eprintln!(
                    "# {} connected ({} failed) in {:.2}s, server cpu so far {:.2}s rss {} kB",
                    opened,
                    failed,
                    now,
                    cpu_at_open,
                    rss(cfg.pid)
                );
                if cfg.mode == "idle" {
                    due_base = now;
                }
            }
            if now > 120.0 {
                eprintln!("# connect phase timed out: {} opened, {} failed", opened, failed);
                phase = 1;
                t_phase = now;
                due_base = now;
            }
        }
        // schedule announces
        if phase == 1 || phase == 2 {
            if joining > 0 {
                (t_phase, due_base, sent_since) = (now, now, 0);
            }
            let mut budget: i64 = if joining > 0 {
                joining.min(JOINING_AT_ONCE) as i64 - outstanding
            } else if cfg.mode == "idle" {
                let want = ((now - due_base) * cfg.connect_rate) as u64;
                (want.min(conns.len() as u64) - sent_since.min(conns.len() as u64)) as i64
            } else if cfg.window > 0 {
                cfg.window as i64 - outstanding
            } else {
                ((now - due_base) * conns.len() as f64 / cfg.interval) as i64 - sent_since as i64
            };
            if budget > 2000 {
                budget = 2000
            }
            let mut tries = 0;
            while budget > 0 && tries < conns.len() {
                let id = rr;
                rr = (rr + 1) % conns.len();
                tries += 1;
                if conns[id].st != 1 {
                    if cfg.mode == "idle" {
                        sent_since += 1;
                        budget -= 1
                    }
                    continue;
                }
                if (cfg.window > 0 || joining > 0) && conns[id].ann_at != 0 {
                    continue;
                }
                msg.clear();
                let c = &mut conns[id];
                msg.extend_from_slice(b"{\"numwant\":");
                let _ = write!(msg, "{}", cfg.offers);
                msg.extend_from_slice(b",\"uploaded\":0,\"downloaded\":0,\"left\":");
                msg.extend_from_slice(if c.seeder { b"0" } else { b"1048576" });
                if !c.started {
                    msg.extend_from_slice(b",\"event\":\"started\"");
                    c.started = true
                }
                msg.extend_from_slice(b",\"action\":\"announce\",\"info_hash\":");
                jstr(&hashes[swarm(id, c.turn % cfg.torrents, cfg.swarms)], &mut msg);
                c.turn += 1;
                msg.extend_from_slice(b",\"peer_id\":");
                jstr(&c.peer, &mut msg);
                msg.extend_from_slice(b",\"offers\":[");
                let ts = now_us();
                let offers = if joining > 0 { 0 } else { cfg.offers };
                joining = joining.saturating_sub(1);
                for k in 0..offers {
                    if k > 0 {
                        msg.push(b',')
                    }
                    msg.extend_from_slice(b"{\"offer\":{\"type\":\"offer\",\"sdp\":\"");
                    let _ = write!(msg, "a=ts:{:016}", ts);
                    msg.extend_from_slice(osdp.as_bytes());
                    msg.extend_from_slice(b"\\r\\n\"},\"offer_id\":");
                    let o = rng.bytes20();
                    jstr(&o, &mut msg);
                    msg.push(b'}');
                }
                msg.extend_from_slice(b"]}");
                let c = &mut conns[id];
                let key = (rng.next() as u32 | 1).to_ne_bytes();
                stat.bytes_out += frame(&msg, key, &mut deflate, &mut c.out);
                if c.ann_at == 0 {
                    c.ann_at = now_us();
                    outstanding += 1
                }
                stat.sent_ann += 1;
                sent_since += 1;
                budget -= 1;
                flush(c, id, &poll);
            }
        }
        // phases
        match phase {
            1 if cfg.mode == "idle" && now - t_phase >= conns.len() as f64 / cfg.connect_rate + cfg.hold => phase = 3,
            1 if cfg.mode != "idle" && now - t_phase >= cfg.warmup => {
                phase = 2;
                t_phase = now;
                measuring = true;
                st0 = stat.clone();
                cpu0 = cpu(cfg.pid);
                self_cpu0 = cpu(mypid);
            }
            2 if now - t_phase >= cfg.duration => phase = 3,
            _ => {}
        }
        if phase == 3 {
            break;
        }
        poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
        for ev in events.iter() {
            let id = ev.token().0;
            if ev.is_writable() && conns[id].st < 2 {
                let c = &mut conns[id];
                flush(c, id, &poll);
            }
            if !ev.is_readable() {
                continue;
            }
            let mut closed = false;
            let mut pend: Vec<u8> = std::mem::take(&mut conns[id].inb);
            loop {
                match conns[id].s.read(&mut buf) {
                    Ok(0) => {
                        closed = true;
                        break;
                    }
                    Ok(n) => {
                        stat.bytes_in += n as u64;
                        pend.extend_from_slice(&buf[..n]);
                        if n < buf.len() {
                            break;
                        }
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(e) => {
                        first_err.get_or_insert(e.to_string());
                        closed = true;
                        break;
                    }
                }
            }
            let mut pos = 0usize;
            if conns[id].st == 0 {
                if let Some(e) = memmem::find(&pend, b"\r\n\r\n") {
                    if pend.starts_with(b"HTTP/1.1 101") {
                        conns[id].st = 1;
                        opened += 1;
                        pos = e + 4
                    } else {
                        first_err.get_or_insert(String::from_utf8_lossy(&pend[..e.min(200)]).into());
                        closed = true
                    }
                }
            }
            if conns[id].st == 1 {
                loop {
                    let b = &pend[pos..];
                    if b.len() < 2 {
                        break;
                    }
                    let (mut n, mut h) = ((b[1] & 0x7f) as usize, 2);
                    if n == 126 {
                        if b.len() < 4 {
                            break;
                        }
                        n = u16::from_be_bytes([b[2], b[3]]) as usize;
                        h = 4
                    } else if n == 127 {
                        if b.len() < 10 {
                            break;
                        }
                        n = u64::from_be_bytes(b[2..10].try_into().unwrap()) as usize;
                        h = 10
                    }
                    if b.len() < h + n {
                        break;
                    }
                    let op = b[0] & 0xf;
                    let mut m = &b[h..h + n];
                    if let Some(deflate) = &mut deflate
                        && b[0] & deflate::COMPRESSED != 0
                    {
                        deflate.inflate(m, &mut inflated);
                        m = &inflated;
                    }
                    pos += h + n;
                    if op == 8 {
                        closed = true;
                        break;
                    }
                    if op == 9 {
                        let p = m.to_vec();
                        let c = &mut conns[id];
                        c.out.push(0x8a);
                        c.out.push(0x80 | p.len() as u8);
                        c.out.extend_from_slice(&[0, 0, 0, 0]);
                        c.out.extend_from_slice(&p);
                        flush(c, id, &poll);
                        continue;
                    }
                    if op > 2 {
                        continue;
                    }
                    if fa.find(m).is_some() {
                        stat.rx_ans += 1;
                        if measuring {
                            if let Some(t) = ts(m, &fts) {
                                lat_ans.push((now_us().saturating_sub(t)) as u32)
                            }
                        }
                    } else if fo.find(m).is_some() {
                        stat.rx_offer += 1;
                        if measuring {
                            if let Some(t) = ts(m, &fts) {
                                lat_off.push((now_us().saturating_sub(t)) as u32)
                            }
                        }
                        if cfg.answer {
                            if let (Some(oid), Some(pid), Some(ih)) =
                                (field(m, b"\"offer_id\":"), field(m, b"\"peer_id\":"), field(m, b"\"info_hash\":"))
                            {
                                msg.clear();
                                msg.extend_from_slice(b"{\"action\":\"announce\",\"info_hash\":");
                                msg.extend_from_slice(ih);
                                msg.extend_from_slice(b",\"peer_id\":");
                                jstr(&conns[id].peer, &mut msg);
                                msg.extend_from_slice(b",\"to_peer_id\":");
                                msg.extend_from_slice(pid);
                                msg.extend_from_slice(b",\"answer\":{\"type\":\"answer\",\"sdp\":\"");
                                let _ = write!(msg, "a=ts:{:016}", now_us());
                                msg.extend_from_slice(asdp.as_bytes());
                                msg.extend_from_slice(b"\\r\\n\"},\"offer_id\":");
                                msg.extend_from_slice(oid);
                                msg.push(b'}');
                                let key = (rng.next() as u32 | 1).to_ne_bytes();
                                let c = &mut conns[id];
                                stat.bytes_out += frame(&msg, key, &mut deflate, &mut c.out);
                                flush(c, id, &poll);
                                stat.sent_ans += 1;
                            }
                        }
                    } else if fi.find(m).is_some() {
                        stat.rx_ann += 1;
                        let c = &mut conns[id];
                        if c.ann_at != 0 {
                            if measuring {
                                lat_ann.push((now_us() - c.ann_at) as u32)
                            }
                            c.ann_at = 0;
                            outstanding -= 1
                        }
                    } else if ff.find(m).is_some() {
                        stat.rx_err += 1;
                        first_err.get_or_insert(String::from_utf8_lossy(m).into());
                    } else {
                        stat.rx_other += 1
                    }
                }
            }
            if pos > 0 {
                pend.drain(..pos);
            }
            if pend.is_empty() {
                pend = Vec::new()
            }
            conns[id].inb = pend;
            if closed && conns[id].st < 2 {
                if conns[id].st == 0 {
                    failed += 1
                } else {
                    stat.closed += 1
                }
                if conns[id].ann_at != 0 {
                    outstanding -= 1;
                    conns[id].ann_at = 0
                }
                conns[id].st = 2;
                let c = &mut conns[id];
                let _ = poll.registry().deregister(&mut c.s);
                let _ = c.s.shutdown(std::net::Shutdown::Both);
            }
        }
    }
    let seconds = t0.elapsed().as_secs_f64() - t_phase;
    let own_cpu = cpu(mypid) - self_cpu0;
    let connections = report::Connections { opened, failed, closed: stat.closed, rss_before: rss0, error: first_err };
    if cfg.mode == "idle" {
        return report::idle(&cfg, &connections, &stat);
    }
    let server_cpu = cpu(cfg.pid) - cpu0;
    let latencies = [("ann", lat_ann), ("offer", lat_off), ("ans", lat_ans)];
    report::load(&cfg, &connections, &stat.since(&st0), report::Took { seconds, server_cpu, own_cpu }, latencies);
}

/// Announces under way while peers join.
const JOINING_AT_ONCE: usize = 256;

/// The swarm that is a connection's `turn`-th torrent: each swarm has as many peers as any other, from all over.
fn swarm(connection: usize, turn: usize, swarms: usize) -> usize {
    (connection + turn * 7_919) % swarms
}

fn flush(c: &mut Conn, id: usize, poll: &Poll) {
    while c.op < c.out.len() {
        match c.s.write(&c.out[c.op..]) {
            Ok(0) => break,
            Ok(n) => c.op += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock || e.kind() == std::io::ErrorKind::NotConnected => {
                if !c.wr {
                    c.wr = true;
                    let _ = poll.registry().reregister(&mut c.s, Token(id), Interest::READABLE | Interest::WRITABLE);
                }
                return;
            }
            Err(_) => {
                c.op = c.out.len();
            }
        }
    }
    c.out.clear();
    c.op = 0;
    if c.wr {
        c.wr = false;
        let _ = poll.registry().reregister(&mut c.s, Token(id), Interest::READABLE);
    }
}
