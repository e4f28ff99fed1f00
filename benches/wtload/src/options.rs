//! What is asked for on the command line.

use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct Cfg {
    pub addr: SocketAddr,
    pub path: String,
    pub conns: usize,
    pub swarms: usize,
    pub offers: usize,
    pub interval: f64,
    pub window: usize,
    pub warmup: f64,
    pub duration: f64,
    pub sdp: usize,
    pub asdp: usize,
    pub answer: bool,
    pub pid: i32,
    pub mode: String,
    pub connect_rate: f64,
    pub label: String,
    pub hold: f64,
    pub seeders: f64,
    /// Torrents of each connection, which it announces in turn. With more than one, all are joined first, without offers.
    pub torrents: usize,
    /// Whether to offer permessage-deflate, and to compress what is sent.
    pub deflate: bool,
}
pub fn args() -> Cfg {
    let mut c = Cfg {
        addr: "127.0.0.1:8000".parse().unwrap(),
        path: "/announce".into(),
        conns: 1000,
        swarms: 100,
        offers: 5,
        interval: 5.0,
        window: 0,
        warmup: 5.0,
        duration: 15.0,
        sdp: 1200,
        asdp: 900,
        answer: true,
        pid: 0,
        mode: "load".into(),
        connect_rate: 2000.0,
        label: String::new(),
        hold: 5.0,
        seeders: 0.25,
        torrents: 1,
        deflate: false,
    };
    let a: Vec<String> = std::env::args().skip(1).collect();
    let mut i = 0;
    while i + 1 < a.len() {
        let v = a[i + 1].clone();
        match a[i].as_str() {
            "--addr" => c.addr = v.parse().unwrap(),
            "--path" => c.path = v,
            "--conns" => c.conns = v.parse().unwrap(),
            "--swarms" => c.swarms = v.parse().unwrap(),
            "--offers" => c.offers = v.parse().unwrap(),
            "--interval" => c.interval = v.parse().unwrap(),
            "--window" => c.window = v.parse().unwrap(),
            "--warmup" => c.warmup = v.parse().unwrap(),
            "--duration" => c.duration = v.parse().unwrap(),
            "--sdp" => c.sdp = v.parse().unwrap(),
            "--asdp" => c.asdp = v.parse().unwrap(),
            "--answer" => c.answer = v == "1",
            "--pid" => c.pid = v.parse().unwrap(),
            "--mode" => c.mode = v,
            "--connect-rate" => c.connect_rate = v.parse().unwrap(),
            "--label" => c.label = v,
            "--hold" => c.hold = v.parse().unwrap(),
            "--seeders" => c.seeders = v.parse().unwrap(),
            "--torrents" => c.torrents = v.parse().unwrap(),
            "--deflate" => c.deflate = v == "1",
            x => panic!("unknown option {x}"),
        }
        i += 2;
    }
    c
}
