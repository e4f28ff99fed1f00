//! File names that strangers choose: safe below the folder they are joined to, on every system.

use std::collections::HashSet;

use super::{File, MetainfoError};

/// Longest name that file systems take, in bytes.
const MAX_NAME: usize = 255;

/// A plain name: joined to a folder it names something directly in that folder, on every system.
pub(super) fn check_name(name: &str) -> Result<(), MetainfoError> {
    let plain = !matches!(name, "" | "." | "..")
        && name.len() <= MAX_NAME
        && !name.contains(|c: char| matches!(c, '/' | '\\') || c.is_control())
        && !is_device(name);
    if plain { Ok(()) } else { Err(MetainfoError::UnsafePath(name.chars().take(64).collect())) }
}

/// Names that Windows keeps for devices, whatever their extension, and its drive prefixes.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_uppercase();
    let numbered = |prefix| matches!(stem.strip_prefix(prefix).map(str::as_bytes), Some([b'1'..=b'9']));
    let drive = matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    drive || matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT")
}

/// No two stored files share a path, and no file is where another needs a folder.
pub(super) fn check_unique(files: &[File]) -> Result<(), MetainfoError> {
    let stored = || files.iter().filter(|file| !file.virtual_file).map(|file| file.path.as_slice());
    let folders: HashSet<&[String]> = stored().flat_map(|path| (1..path.len()).map(|n| &path[..n])).collect();
    let mut seen = HashSet::new();
    match stored().find(|path| folders.contains(path) || !seen.insert(*path)) {
        Some(path) => Err(MetainfoError::UnsafePath(path.join("/"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&[&str]]) -> Result<(), MetainfoError> {
        paths.iter().flat_map(|path| path.iter()).try_for_each(|name| check_name(name))?;
        let file = |path: &&[&str]| File {
            path: path.iter().map(|&name| name.to_owned()).collect(),
            offset: 0,
            length: 1,
            virtual_file: false,
        };
        check_unique(&paths.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        let table =
            ["..", ".", "", "/etc", "a/b", "a\\b", "a\0b", "a\nb", "C:", "c:x", "nul", "COM1.txt", "aux .md", &long];
        for name in table {
            let error = check(&[&["folder", name]]).unwrap_err();
            assert!(matches!(error, MetainfoError::UnsafePath(_)), "{name:?}: {error}");
        }
        for name in ["con-cert.md", "COM0", "...", "a..b", "ünïcode 🦀.md", "-rf", ".hidden", &long[1..]] {
            assert_eq!(check(&[&[name]]), Ok(()), "{name}");
        }
    }

    #[test]
    fn no_two_files_are_in_one_place() {
        for twice in [[&["a"][..], &["a"]], [&["a"], &["a", "b"]], [&["a", "b", "c"], &["a", "b"]]] {
            assert!(check(&twice).is_err(), "{twice:?}");
        }
        assert_eq!(check(&[&["a", "b"], &["a", "c"], &["A"]]), Ok(()));
    }
}
