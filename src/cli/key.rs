//! `swarmgate key new|show`: the key behind a site.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ed25519_dalek::SigningKey;
use serde::Serialize;

use super::{Failure, output};
use crate::wire::hex;
use crate::wire::id::PublicKey;
use crate::wire::magnet::Magnet;

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make a new key and write it to a file that only you can read.
    New {
        /// Where to write it; an existing file is never overwritten.
        #[arg(long, value_name = "FILE", default_value = "site.key")]
        out: PathBuf,
        /// One line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the public key and the link of a key file.
    Show {
        /// The file that `key new` wrote.
        file: PathBuf,
        /// One line of JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Shown {
    file: PathBuf,
    key: String,
    magnet: String,
}

impl Key {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (file, json, key) = match self {
            Self::New { out, json } => {
                let key = create(&out)?;
                (out, json, key)
            }
            Self::Show { file, json } => {
                let key = read(&file)?;
                (file, json, key)
            }
        };
        let public = public(&key);
        let magnet = Magnet { key: Some(public), ..Magnet::default() }.to_string();
        if json {
            return output::json(&Shown { file, key: public.to_hex(), magnet });
        }
        output::text(&format!("key file   {}\npublic key {public}\nlink       {magnet}", file.display()))
    }
}

/// The public half.
pub(super) fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

/// Reads a key file: the 32-byte seed in hexadecimal; lines that start with `#` are comments.
///
/// # Errors
/// The file cannot be read, or is no key file.
pub(super) fn read(file: &Path) -> Result<SigningKey, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Failed(format!("cannot read the key file {}: {error}", file.display())))?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next().and_then(hex::decode_array::<32>), lines.next()) {
        (Some(seed), None) => Ok(SigningKey::from_bytes(&seed)),
        _ => Err(Failure::Failed(format!("{} is not a key file (it must hold 64 hexadecimal digits)", file.display()))),
    }
}

/// Makes a key and writes it where only its owner can read it.
///
/// # Errors
/// The file exists, or cannot be written.
pub(super) fn create(file: &Path) -> Result<SigningKey, Failure> {
    let seed: [u8; 32] = rand::random();
    let text = format!(
        "# The key of a site. Whoever has this file can change the site; without it nobody can. Keep a copy.\n{}\n",
        hex::encode(&seed)
    );
    write_private(file, &text)
        .map_err(|error| Failure::Failed(format!("cannot write the key file {}: {error}", file.display())))?;
    Ok(SigningKey::from_bytes(&seed))
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(file)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_once_privately_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.key");
        let key = create(&file).unwrap();
        assert_eq!(read(&file).unwrap(), key);
        assert!(create(&file).unwrap_err().to_string().contains("exists"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn other_files_are_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("empty", ""), ("short", "abcd"), ("two", &format!("{0}\n{0}\n", "ab".repeat(32)))] {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            assert!(read(&file).unwrap_err().to_string().contains("is not a key file"), "{name}");
        }
        assert!(read(&dir.path().join("none")).unwrap_err().to_string().starts_with("cannot read the key file"));
    }
}
