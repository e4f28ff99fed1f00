//! What went over one direction.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::line::Fate;

/// The queue is looked at in spans of this length: two round trips of the paths that are emulated. What is there all
/// through one is no burst on its way through, it stands.
const SPAN: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub struct Stats {
    packets: u64,
    bytes: u64,
    lost: u64,
    dropped: u64,
    /// Of each packet, how long the queue was when it came, in ms.
    queues: Vec<f64>,
    /// The span that goes on: its beginning, and the shortest queue in it.
    span: Option<(Instant, f64)>,
    /// The shortest queue of each span.
    standing: Vec<f64>,
}

impl Stats {
    /// Counts a packet that came at `now`, with `waits` before it.
    pub fn count(&mut self, now: Instant, length: usize, waits: Duration, fate: Fate) {
        self.packets += 1;
        match fate {
            Fate::Leaves(_) => self.bytes += length as u64,
            Fate::Lost => self.lost += 1,
            Fate::Dropped => self.dropped += 1,
        }
        let waits = waits.as_secs_f64() * 1e3;
        self.queues.push(waits);
        match &mut self.span {
            Some((began, shortest)) if now - *began < SPAN => *shortest = shortest.min(waits),
            span => self.standing.extend(span.replace((now, waits)).map(|(_, shortest)| shortest)),
        }
    }

    /// Counts, and the queue in ms: the shortest of each span at half of all spans, and what half and 95 % of the packets
    /// found.
    pub fn to_json(mut self) -> Value {
        json!({
            "packets": self.packets,
            "bytes": self.bytes,
            "lost": self.lost,
            "dropped": self.dropped,
            "standing_ms": quantile(&mut self.standing, 0.5),
            "queue_p50_ms": quantile(&mut self.queues, 0.5),
            "queue_p95_ms": quantile(&mut self.queues, 0.95),
        })
    }
}

fn quantile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * part) as usize;
    samples.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_told_from_bursts() {
        let (mut stats, start) = (Stats::default(), Instant::now());
        for ms in 0..1_000 {
            // A queue of 10 ms, and every 50 ms a burst of 60 more.
            let waits = if ms % 50 == 0 { 70 } else { 10 };
            let at = start + Duration::from_millis(ms);
            stats.count(at, 1_000, Duration::from_millis(waits), Fate::Leaves(at));
        }
        let told = stats.to_json();
        assert_eq!((&told["bytes"], &told["standing_ms"]), (&json!(1_000_000), &json!(10.0)));
    }
}
