//! Layers of configuration: flag > environment > file > default.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Config;

/// Prefix of the environment variables that set a key.
const ENV_PREFIX: &str = "SWARMGATE__";

/// Why a configuration cannot be used: one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A layer is not TOML, or has an unknown key, or a value of the wrong kind.
    #[error("{origin}: {message}")]
    Invalid {
        /// Which file, variable or flag.
        origin: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Where a configuration comes from besides the defaults.
#[derive(Debug, Default)]
pub struct Layers {
    /// `--config FILE`
    pub file: Option<PathBuf>,
    /// Environment variables, any; only those with the prefix count.
    pub env: Vec<(String, String)>,
    /// `--set section.key=value`, already split.
    pub flags: Vec<(String, String)>,
}

/// Reads and checks a configuration. Each layer is checked by itself, so that an error names the layer it is in.
///
/// # Errors
/// An unreadable file; a key that does not exist; a value that does not fit its key.
pub fn load(layers: &Layers) -> Result<Config, ConfigError> {
    let mut merged = Table::new();
    if let Some(path) = &layers.file {
        merge(&mut merged, read_file(path)?);
    }
    for (name, text) in &layers.env {
        if let Some(path) = name.strip_prefix(ENV_PREFIX) {
            let keys: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
            merge(&mut merged, one_value(&keys, text, name)?);
        }
    }
    for (path, text) in &layers.flags {
        let keys: Vec<String> = path.split('.').map(str::to_owned).collect();
        merge(&mut merged, one_value(&keys, text, &format!("--set {path}"))?);
    }
    check(&merged, "configuration")
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let origin = path.display().to_string();
    // Read once as text, so that an error knows its line, then once as a table to be merged.
    let at_line = |error: &toml::de::Error| match error.span() {
        Some(span) => format!("{origin}, line {}", 1 + text[..span.start.min(text.len())].matches('\n').count()),
        None => origin.clone(),
    };
    toml::from_str::<Config>(&text).map_err(|error| invalid(at_line(&error), &error))?;
    toml::from_str(&text).map_err(|error| invalid(at_line(&error), &error))
}

/// A table with one value, which may be written as TOML or, for strings, bare.
fn one_value(keys: &[String], text: &str, origin: &str) -> Result<Table, ConfigError> {
    let as_toml = format!("value = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("value"));
    let candidates = as_toml.into_iter().chain([Value::String(text.to_owned())]);
    let mut last = None;
    for value in candidates {
        let table =
            keys.iter().rev().fold(value, |inner, key| Value::Table([(key.clone(), inner)].into_iter().collect()));
        let Value::Table(table) = table else { continue };
        match check(&table, origin) {
            Ok(_) => return Ok(table),
            // The first reading's complaint is the telling one: the second only retries the value as a string.
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| ConfigError::Invalid { origin: origin.to_owned(), message: "no key is named".into() }))
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn check(table: &Table, origin: &str) -> Result<Config, ConfigError> {
    Value::Table(table.clone()).try_into::<Config>().map_err(|error| invalid(origin.to_owned(), &error))
}

fn invalid(origin: String, error: &toml::de::Error) -> ConfigError {
    ConfigError::Invalid { origin, message: error.message().lines().collect::<Vec<_>>().join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let layers = Layers { file: Some(file), env: own(env), flags: own(flags) };
        load(&layers).map_err(|e| e.to_string().replace(&dir.path().display().to_string(), ""))
    }

    #[test]
    fn a_later_layer_wins() {
        let file =
            "[web]\nlisten = \"127.0.0.1:1\"\n[admin]\nlisten = \"127.0.0.1:1\"\n[dht]\nlisten = \"127.0.0.1:1\"\n";
        let env =
            [("SWARMGATE__ADMIN__LISTEN", "127.0.0.1:2"), ("SWARMGATE__DHT__LISTEN", "127.0.0.1:2"), ("PATH", "x")];
        let config = load_text(file, &env, &[("dht.listen", "127.0.0.1:3")]).unwrap();
        let dht = config.dht.listen.addresses().next().unwrap();
        let ports = [config.web.listen, config.admin.listen, dht, config.bittorrent.listen].map(|a| a.port());
        assert_eq!(ports, [1, 2, 3, 6881]);
    }

    #[test]
    fn environment_values_are_toml_or_bare_strings() {
        let env = [
            ("SWARMGATE__DHT__BOOTSTRAP", "[\"127.0.0.1:6881\"]"),
            ("SWARMGATE__DATA_DIR", "/tmp/x"),
            ("SWARMGATE__BRIDGE__POLICY", "open"),
            ("SWARMGATE__BRIDGE__LINGER", "30s"),
            ("SWARMGATE__BRIDGE__CACHE_SIZE", "2 GiB"),
            ("SWARMGATE__TRACKER__MAX_SOCKETS", "7"),
        ];
        let config = load_text("", &env, &[]).unwrap();
        assert_eq!(config.dht.bootstrap, ["127.0.0.1:6881"]);
        assert_eq!(config.data_dir, Path::new("/tmp/x"));
        assert_eq!(config.bridge.linger.as_secs(), 30);
        assert_eq!(config.bridge.cache_size.as_u64(), 2 << 30);
        assert_eq!(config.tracker.max_sockets, 7);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_that_names_the_place() {
        type Env = &'static [(&'static str, &'static str)];
        let table: [(&str, Env, &str); 5] = [
            ("[admin]\nport = 1\n", &[], "/c.toml, line 2: unknown field `port`, expected `listen`"),
            ("[wbe]\n", &[], "/c.toml, line 1: unknown field `wbe`, expected one of"),
            ("[web]\nlisten = \"nowhere\"\n", &[], "/c.toml, line 2: invalid socket address syntax"),
            ("", &[("SWARMGATE__BRIDGE__POLICY", "all")], "SWARMGATE__BRIDGE__POLICY: unknown variant `all`"),
            ("", &[("SWARMGATE__NOPE__X", "1")], "SWARMGATE__NOPE__X: unknown field `nope`"),
        ];
        for (text, env, start) in table {
            let message = load_text(text, env, &[]).unwrap_err();
            assert!(message.starts_with(start) && !message.contains('\n'), "{message}");
        }
        let missing = Layers { file: Some("/nonexistent/c.toml".into()), ..Layers::default() };
        assert!(
            load(&missing)
                .unwrap_err()
                .to_string()
                .starts_with("cannot read the configuration file /nonexistent/c.toml: ")
        );
    }
}
