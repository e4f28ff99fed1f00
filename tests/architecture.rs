//! Imports run one way: `wire` ← rooms ← `web` ← `node` ← `cli`. This test reads the sources and holds it.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its sources has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What everybody may use: they know no room.
const LEAVES: [&str; 6] = ["config", "metrics", "net", "rate", "tasks", "wire"];

/// Each module of the crate and what it may use beyond the leaves. A new room must be entered here.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("wire", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("net", &[]),
    ("rate", &[]),
    ("tasks", &[]),
    ("dht", &[]),
    ("tracker", &[]),
    ("records", &["dht"]),
    ("gossip", &[]),
    ("bridge", &["dht", "tracker", "gossip"]),
    ("pins", &["records", "bridge"]),
    ("web", &["dht", "tracker", "records", "bridge", "pins"]),
    ("node", &["dht", "tracker", "records", "gossip", "bridge", "pins", "web"]),
    ("cli", &["dht", "tracker", "records", "gossip", "bridge", "pins", "web", "node"]),
    ("main", &["cli"]),
];

/// Benchmarks that compile rooms from their sources, without the rest of the server, and which ones.
const COMPILED_APART: [(&str, &[&str]); 2] =
    [("benches/dht", &["config", "dht", "metrics", "net", "tasks", "wire"]), ("benches/table", &["wire"])];

/// What makes code depend on the moment or the machine it runs on. `wire` has none of it.
const IMPURE: [&str; 9] =
    ["tokio", "tracing", "rand::", "std::time", "std::fs", "std::env", "std::thread", "SystemTime", "Instant"];

#[test]
fn imports_run_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(room, _)| *room == source.room) else {
            panic!("{} belongs to no room this test knows", source.path.display());
        };
        let leaf = LEAVES.contains(&source.room.as_str());
        for used in source.rooms_used() {
            let own = used == source.room;
            let below = !leaf && LEAVES.contains(&used.as_str());
            if !own && !below && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses crate::{used}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wire_is_pure() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.room == "wire") {
        for word in IMPURE.iter().filter(|word| source.code.contains(**word)) {
            wrong.push(format!("{} mentions {word}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Else they no longer build, which nothing notices that does not run them.
#[test]
fn what_is_compiled_apart_has_the_crates_that_it_uses() {
    let (ours, sources) = (dependencies("."), sources());
    let mut checked = 0;
    for (benchmark, rooms) in COMPILED_APART {
        let theirs = dependencies(benchmark);
        for source in sources.iter().filter(|source| rooms.contains(&source.room.as_str())) {
            for name in ours.iter().filter(|name| source.names_crate(name)) {
                assert!(theirs.contains(name), "{benchmark} compiles {}, which uses {name}", source.path.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "this test no longer finds what the rooms use");
}

#[test]
fn every_metric_is_used() {
    let sources = sources();
    let metrics = sources.iter().find(|source| source.room == "metrics").expect("there are metrics");
    let mut part = String::new();
    let mut checked = 0;
    for line in metrics.code.lines() {
        // `    Tracker {` opens a room's part; `        sockets: IntGauge = …` is one of its metrics.
        if let Some(name) = line.strip_prefix("    ").and_then(|line| line.strip_suffix(" {")) {
            part = name.to_lowercase();
        } else if let Some((field, _)) = line.trim().split_once(": ").filter(|(_, rest)| rest.contains(" = \"")) {
            let used = sources.iter().any(|source| source.room == part && source.has_field(field));
            assert!(used, "nothing in {part} sets the metric {field}");
            checked += 1;
        }
    }
    assert!(checked > 50, "this test no longer understands metrics.rs");
}

/// One source file, without its comments and tests.
struct Source {
    path: PathBuf,
    room: String,
    code: String,
}

impl Source {
    /// Whether it says `.field`, and not as the name of a method or the beginning of another name.
    fn has_field(&self, field: &str) -> bool {
        let name = format!(".{field}");
        let mut after = self.code.split(&name).skip(1).filter_map(|rest| rest.chars().next());
        after.any(|next| !(next.is_alphanumeric() || next == '_' || next == '('))
    }

    /// Whether a path begins with this crate.
    fn names_crate(&self, name: &str) -> bool {
        let is_inner = |before: char| before.is_ascii_alphanumeric() || matches!(before, '_' | ':');
        self.code.match_indices(&format!("{name}::")).any(|(at, _)| !self.code[..at].ends_with(is_inner))
    }

    /// Every `x` of `crate::x`, also of `crate::{x, y::z}` when it stands on one line.
    fn rooms_used(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for after in self.code.split("crate::").skip(1) {
            let names = match after.strip_prefix('{') {
                Some(group) => first_names(group),
                None => vec![identifier(after)],
            };
            used.extend(names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned));
        }
        used
    }
}

/// The first name of each entry of an import group, up to its closing brace.
fn first_names(group: &str) -> Vec<&str> {
    let mut names = vec![identifier(group.trim_start())];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(identifier(group[at + 1..].trim_start())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The crates that a package depends on, by the names that code has for them.
fn dependencies(package: &str) -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(package).join("Cargo.toml");
    let manifest: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().map(|name| name.replace('-', "_")).collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    // lib.rs is the map of the rooms; it names them all and uses none.
    found.retain(|source| source.room != "lib");
    assert!(found.len() > 10, "this test no longer finds the sources");
    found
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
            let relative = path.strip_prefix(root).unwrap();
            let room = Path::new(relative.iter().next().unwrap()).file_stem().unwrap().to_str().unwrap().to_owned();
            let code = without_comments_and_tests(&fs::read_to_string(&path).unwrap());
            found.push(Source { path: relative.to_owned(), room, code });
        }
    }
}

/// Test-only files are called `tests.rs` or `…_tests.rs`, or lie in a folder `tests`.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
        || path.iter().any(|part| part == "tests")
}

fn without_comments_and_tests(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}
