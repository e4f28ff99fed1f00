//! The torrents that encrypted peers may ask for, by the hash they ask with.

use std::sync::{Mutex, PoisonError};

use indexmap::IndexMap;

use super::keys::name_of;
use crate::wire::id::InfoHash;

/// Torrents remembered, 40 bytes each and some. Past it any one is forgotten; its encrypted peers are then not understood.
const MAX_NAMES: usize = 20_000;

/// The table. Torrents that were left stay in it: whether one is served is decided when it is asked for. A std mutex: held
/// for a look-up.
#[derive(Debug, Default)]
pub(in crate::bridge) struct Names(Mutex<IndexMap<[u8; 20], InfoHash>>);

impl Names {
    /// Takes a torrent in.
    pub(in crate::bridge) fn add(&self, info_hash: &InfoHash) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES {
            names.swap_remove_index(0);
        }
        names.insert(name_of(info_hash), *info_hash);
    }

    /// The torrent of that name.
    pub(in crate::bridge) fn find(&self, name: &[u8; 20]) -> Option<InfoHash> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_bounded() {
        let names = Names::default();
        let hash = |n: usize| {
            let mut hash = [0; 20];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            InfoHash(hash)
        };
        (0..=MAX_NAMES).for_each(|n| names.add(&hash(n)));
        assert_eq!(names.find(&name_of(&hash(MAX_NAMES))), Some(hash(MAX_NAMES)));
        assert_eq!(names.find(&[0; 20]), None);
        assert_eq!(names.0.lock().unwrap().len(), MAX_NAMES);
    }
}
