//! Pins for people: lines, tables, and a bar on a terminal.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::IsTerminal;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::super::output;

/// How far a pin is, while it is waited for: a bar on a terminal, otherwise a line whenever it stands differently.
pub(super) struct Meter {
    bar: Option<ProgressBar>,
    said: RefCell<String>,
    silent: bool,
}

impl Meter {
    /// With `json`, nothing is shown but a bar on a terminal.
    pub(super) fn new(json: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{wide_msg} {bar:24} {percent:>3}%");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, said: RefCell::default(), silent: json }
    }

    pub(super) fn show(&self, pin: &Value) {
        let line = summary(pin);
        match &self.bar {
            Some(bar) => {
                let progress = &pin["progress"];
                bar.set_length(progress["total_bytes"].as_u64().unwrap_or(0));
                bar.set_position(progress["bytes"].as_u64().unwrap_or(0));
                bar.set_message(line);
            }
            None if !self.silent => {
                let standing = format!("{} {}", pin["status"], pin["trouble"]["reason"]);
                if *self.said.borrow() != standing {
                    output::remark(&line);
                    self.said.replace(standing);
                }
            }
            None => {}
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One line: how far it is, and why no further.
fn summary(pin: &Value) -> String {
    let mut line = text(&pin["status"]).to_owned();
    if let Some(detail) = pin["trouble"]["detail"].as_str() {
        let _ = write!(line, ": {detail}");
    }
    let progress = &pin["progress"];
    if matches!(text(&pin["status"]), "resolving" | "downloading" | "degraded") && progress.is_object() {
        let peers: u64 = progress["peers"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        let _ = write!(line, ", {peers} peers");
        if let (Some(bytes), Some(total)) = (progress["bytes"].as_u64(), progress["total_bytes"].as_u64()) {
            let rate = ByteSize(progress["receive_rate"].as_u64().unwrap_or(0));
            let _ = write!(line, ", {} of {}, {rate}/s", ByteSize(bytes), ByteSize(total));
        }
        if let Some(left) = progress["seconds_left"].as_u64().filter(|left| *left > 0) {
            let _ = write!(line, ", {} left", humantime::format_duration(std::time::Duration::from_secs(left)));
        }
    }
    line
}

/// One pin, line by line.
pub(super) fn pin(pin: &Value) -> String {
    let mut lines = vec![format!("{}  {}", text(&pin["id"]), summary(pin)), format!("  {}", text(&pin["magnet"]))];
    if let Some(retry) = pin["trouble"]["retry_at"].as_str() {
        lines.push(format!("  tried again at {retry}"));
    }
    for (title, version) in [("current", &pin["current"]), ("wanted", &pin["wanted"])] {
        if version.is_object() {
            lines.push(format!("  {title}: {}", describe(version)));
        }
    }
    let record = &pin["record"];
    if record.is_object() {
        let last = record["last_put"].as_str().unwrap_or("not since the start");
        let next = record["next_put"].as_str().unwrap_or("-");
        let holders = record["holders"].as_u64().unwrap_or(0);
        lines.push(format!("  record {}: put {last} on {holders} nodes, next {next}", record["seq"]));
    }
    lines.join("\n")
}

fn describe(version: &Value) -> String {
    let size = version["bytes"].as_u64().map_or("unknown size".to_owned(), |bytes| ByteSize(bytes).to_string());
    let verified = version["verified"].as_str().map(|at| format!(", verified {at}")).unwrap_or_default();
    let held = if version["held"] == true { ", held" } else { "" };
    format!("{} {} ({size}{verified}{held})", version["seq"], text(&version["info_hash"]))
}

/// All pins.
pub(super) fn table(pins: &[Value]) -> String {
    let rows = pins.iter().map(|pin| {
        let size = pin["current"]["bytes"].as_u64().map_or("-".to_owned(), |bytes| ByteSize(bytes).to_string());
        let target = pin["target"]["key"].as_str().or_else(|| pin["target"]["info_hash"].as_str());
        let name = text(&pin["name"]);
        let named = if name.is_empty() { target.unwrap_or_default() } else { name };
        format!("{}  {:<11}  {size:>10}  {named}", text(&pin["id"]), text(&pin["status"]))
    });
    let head = format!("{:<32}  {:<11}  {:>10}  {}", "ID", "STATUS", "SIZE", "NAME");
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}

/// All versions of a pin.
pub(super) fn versions(versions: &[Value]) -> String {
    let rows = versions.iter().map(|version| {
        let mark = if version["current"] == true { "*" } else { " " };
        format!("{mark} {:<8} {}", text(&version["state"]), describe(version))
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
