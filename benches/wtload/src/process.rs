//! What the kernel says of the server.

/// Seconds of processor time.
pub fn cpu(pid: i32) -> f64 {
    if pid == 0 {
        return 0.0;
    }
    let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let r = s.rsplit(')').next().unwrap_or("").split_whitespace().map(|x| x.to_string()).collect::<Vec<_>>();
    if r.len() < 14 {
        return 0.0;
    }
    (r[11].parse::<f64>().unwrap() + r[12].parse::<f64>().unwrap()) / 100.0
}
/// KiB in memory.
pub fn rss(pid: i32) -> u64 {
    if pid == 0 {
        return 0;
    }
    let s = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    for l in s.lines() {
        if let Some(x) = l.strip_prefix("VmRSS:") {
            return x.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0);
        }
    }
    0
}
