//! What each owner uses. Pure. A torrent that several pins of one owner keep counts once.

use std::collections::HashMap;

use super::ids::Who;
use crate::wire::id::InfoHash;

/// What one owner uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Pins.
    pub pins: u64,
    /// Bytes of the versions that are kept, or being fetched.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Account {
    usage: Usage,
    /// For each torrent, how many versions of this owner's pins are charged for it, and its bytes.
    charged: HashMap<InfoHash, (u32, u64)>,
}

/// The accounts of all owners.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<Who, Account>);

impl Accounts {
    pub(super) fn usage(&self, who: Who) -> Usage {
        self.0.get(&who).map_or_else(Usage::default, |account| account.usage)
    }

    pub(super) fn pin_made(&mut self, who: Who) {
        self.0.entry(who).or_default().usage.pins += 1;
    }

    pub(super) fn pin_gone(&mut self, who: Who) {
        if let Some(account) = self.0.get_mut(&who) {
            account.usage.pins -= 1;
            if account.usage == Usage::default() && account.charged.is_empty() {
                self.0.remove(&who);
            }
        }
    }

    pub(super) fn charge(&mut self, who: Who, info_hash: InfoHash, bytes: u64) {
        let account = self.0.entry(who).or_default();
        let (count, _) = account.charged.entry(info_hash).or_insert((0, bytes));
        *count += 1;
        if *count == 1 {
            account.usage.bytes += bytes;
        }
    }

    pub(super) fn refund(&mut self, who: Who, info_hash: &InfoHash) {
        let Some(account) = self.0.get_mut(&who) else { return };
        let Some((count, bytes)) = account.charged.get_mut(info_hash) else { return };
        *count -= 1;
        if *count == 0 {
            account.usage.bytes -= *bytes;
            account.charged.remove(info_hash);
        }
    }

    /// How often the owner is charged for a torrent.
    pub(super) fn charges(&self, who: Who, info_hash: &InfoHash) -> u32 {
        self.0.get(&who).and_then(|account| account.charged.get(info_hash)).map_or(0, |(count, _)| *count)
    }
}
