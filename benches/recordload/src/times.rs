//! Durations, and what to say of many.

use std::time::Duration;

use serde_json::{Value, json};

/// Median, 99th percentile and most, in milliseconds.
pub fn summary(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
        times.get(index).map(|time| (time.as_secs_f64() * 1e6).round() / 1e3)
    };
    json!({"count": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "most_ms": at(1.0)})
}
