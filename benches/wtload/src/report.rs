//! One line of JSON about a run.

use crate::Stat;
use crate::options::Cfg;
use crate::process::{cpu, rss};

/// What became of the connections.
pub struct Connections {
    pub opened: usize,
    pub failed: usize,
    pub closed: u64,
    /// KiB of the server before there were any.
    pub rss_before: u64,
    pub error: Option<String>,
}

/// Seconds.
pub struct Took {
    pub seconds: f64,
    pub server_cpu: f64,
    pub own_cpu: f64,
}

impl Stat {
    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        since.sent_ann -= before.sent_ann;
        since.sent_ans -= before.sent_ans;
        since.rx_ann -= before.rx_ann;
        since.rx_offer -= before.rx_offer;
        since.rx_ans -= before.rx_ans;
        since.rx_err -= before.rx_err;
        since.bytes_in -= before.bytes_in;
        since.bytes_out -= before.bytes_out;
        since
    }
}

pub fn idle(cfg: &Cfg, connections: &Connections, stat: &Stat) {
    let memory = rss(cfg.pid);
    let fields = [
        ("replies", stat.rx_ann as f64),
        ("rss_before_kb", connections.rss_before as f64),
        ("rss_kb", memory as f64),
        ("kib_per_conn", per_connection(connections, memory)),
        ("server_cpu_s_total", cpu(cfg.pid)),
    ];
    print(cfg, connections, &fields);
}

pub fn load(
    cfg: &Cfg,
    connections: &Connections,
    stat: &Stat,
    Took { seconds, server_cpu, own_cpu }: Took,
    latencies: [(&str, Vec<u32>); 3],
) {
    let received = stat.rx_ann + stat.rx_offer + stat.rx_ans + stat.rx_err;
    let sent = stat.sent_ann + stat.sent_ans;
    let relayed = (stat.rx_offer + stat.rx_ans).max(1) as f64;
    let each = |of: u64| server_cpu * 1e6 / of.max(1) as f64;
    let rate = |of: u64| of as f64 / seconds;
    let memory = rss(cfg.pid);
    let mut fields = vec![
        ("dur", seconds),
        ("tx_ann_s", rate(stat.sent_ann)),
        ("tx_ans_s", rate(stat.sent_ans)),
        ("rx_s", rate(received)),
        ("rx_ann_s", rate(stat.rx_ann)),
        ("rx_offer_s", rate(stat.rx_offer)),
        ("rx_ans_s", rate(stat.rx_ans)),
        ("rx_err_s", rate(stat.rx_err)),
        ("srv_cores", server_cpu / seconds),
        ("cpu_us_per_msg", each(received + sent)),
        ("cpu_us_per_announce", each(stat.rx_ann)),
        ("cpu_us_per_relay", server_cpu * 1e6 / relayed),
        ("bytes_to_server_per_relay", stat.bytes_out as f64 / relayed),
        ("bytes_from_server_per_relay", stat.bytes_in as f64 / relayed),
        ("load_cores", own_cpu / seconds),
        ("rss_kb", memory as f64),
        ("kib_per_conn", per_connection(connections, memory)),
    ];
    let names: Vec<[String; 2]> = latencies.iter().map(|(of, _)| [format!("{of}_p50"), format!("{of}_p99")]).collect();
    for ([p50, p99], (_, mut waits)) in names.iter().zip(latencies) {
        waits.sort_unstable();
        fields.extend([(p50.as_str(), percentile(&waits, 0.5)), (p99.as_str(), percentile(&waits, 0.99))]);
    }
    print(cfg, connections, &fields);
}

fn print(cfg: &Cfg, connections: &Connections, fields: &[(&str, f64)]) {
    let Connections { opened, failed, closed, error, .. } = connections;
    let error = error.as_ref().map_or_else(|| "null".to_owned(), |error| format!("{error:?}"));
    let Cfg { label, mode, conns, swarms, offers, interval, window, .. } = cfg;
    let fields: String =
        fields.iter().map(|(name, value)| format!("\"{name}\":{},", if value.is_nan() { 0.0 } else { *value })).collect();
    println!(
        "{{\"label\":{label:?},\"mode\":{mode:?},\"conns\":{conns},\"swarms\":{swarms},\"offers\":{offers},\"interval\":{interval},\"window\":{window},\"opened\":{opened},\"failed\":{failed},\"closed\":{closed},{fields}\"err\":{error}}}"
    );
}

fn per_connection(connections: &Connections, memory: u64) -> f64 {
    (memory as f64 - connections.rss_before as f64) / connections.opened.max(1) as f64
}

/// Milliseconds, of sorted microseconds.
fn percentile(sorted: &[u32], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    f64::from(sorted[(last as f64 * part) as usize]) / 1000.0
}
