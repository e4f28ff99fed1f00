//! What `deploy/` says about the program is true: the example is the defaults, dashboard and alerts name only metrics
//! that exist, and promtool (Debian's `prometheus`) accepts them.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its sources has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use swarmgate::config;

#[test]
fn the_example_configuration_is_what_the_program_prints() {
    let file = deploy("swarmgate.toml");
    assert!(
        fs::read_to_string(&file).unwrap() == config::example(),
        "renew it: swarmgate config example > deploy/swarmgate.toml"
    );
    let layers = config::Layers { file: Some(file), ..config::Layers::default() };
    assert_eq!(config::load(&layers).unwrap(), config::Config::default());
}

#[test]
fn the_dashboard_and_the_alerts_name_only_metrics_that_exist() {
    let exist = metrics();
    let mut used = BTreeSet::new();
    for expression in dashboard_expressions() {
        used.extend(names(&expression));
    }
    used.extend(names(&fs::read_to_string(deploy("prometheus/swarmgate.rules.yml")).unwrap()));
    assert!(used.len() > 20, "this test no longer understands the dashboard");
    let unknown: Vec<_> = used.difference(&exist).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn promtool_accepts_the_configuration_and_the_alerts() {
    promtool(&["check", "config"], &deploy("prometheus/prometheus.yml"));
}

#[test]
fn promtool_accepts_every_expression_of_the_dashboard() {
    // promtool reads expressions in rule files only. JSON is YAML.
    let rule = |(n, expr): (usize, String)| {
        let expr = expr.replace("$__rate_interval", "5m").replace("$instance", ".*");
        serde_json::json!({ "record": format!("panel_{n}"), "expr": expr })
    };
    let rules: Vec<Value> = dashboard_expressions().into_iter().enumerate().map(rule).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string()).unwrap();
    promtool(&["check", "rules"], file.path());
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

/// Every metric of the program, as `src/metrics.rs` defines them, and what the process collector adds.
fn metrics() -> BTreeSet<String> {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics.rs")).unwrap();
    // A metric's line: `field: Kind = "name" …, "help";`
    let name = |line: &str| {
        let (kind, rest) = line.trim().split_once(": ")?.1.split_once(" = \"")?;
        let name = rest.split_once('"')?.0;
        match kind {
            "Seconds" | "Counts" => Some(format!("{name}_bucket")),
            _ => kind.starts_with("Int").then(|| name.to_owned()),
        }
    };
    let ours = source.lines().filter_map(name).map(|name| format!("swarmgate_{name}"));
    let process = ["cpu_seconds_total", "max_fds", "open_fds", "resident_memory_bytes", "start_time_seconds"];
    ours.chain(process.map(|name| format!("process_{name}"))).chain(["swarmgate_build_info".to_owned()]).collect()
}

/// Every word of `text` that is a metric's name.
fn names(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("swarmgate_") || word.starts_with("process_")).map(str::to_owned)
}

fn dashboard_expressions() -> Vec<String> {
    let text = fs::read_to_string(deploy("grafana/dashboards/swarmgate.json")).unwrap();
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut found);
    found
}

/// The value of every `expr`, however deep.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool").args(arguments).arg(file).output().expect("promtool is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
