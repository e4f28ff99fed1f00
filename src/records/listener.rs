//! Somebody beside the clients who has to do with versions: gossip tells of them, and is told.

use std::sync::Arc;

use super::service::{Inner, Records};
use crate::wire::id::PublicKey;
use crate::wire::item::{Salt, VerifiedItem, mutable_target};

/// Somebody inside this process who spreads versions.
pub trait Listener: Send + Sync + 'static {
    /// A client asks for a record, or puts it; `newest` is what is known of it. Cheap, never blocks, calls nothing of this
    /// room.
    fn asked(&self, key: &PublicKey, salt: &Salt, newest: Option<&VerifiedItem>);

    /// A newer version is known. Cheap, never blocks, calls nothing of this room.
    fn newer(&self, item: &VerifiedItem);
}

impl Records {
    /// Has `listener` told from now on. Only the first one is.
    pub fn set_listener(&self, listener: Arc<dyn Listener>) {
        let _ = self.inner.listener.set(listener);
    }

    /// The newest versions of the records that were used last; those that were put here first.
    #[must_use]
    pub fn recent(&self, max: usize) -> Vec<VerifiedItem> {
        self.inner.book().recent(max)
    }
}

impl Inner {
    pub(super) fn asked(&self, key: &PublicKey, salt: &Salt) {
        if let Some(listener) = self.listener.get() {
            let known = self.book().peek(&mutable_target(key, salt));
            listener.asked(key, salt, known.as_ref().map(|entry| &entry.item));
        }
    }

    pub(super) fn newer(&self, item: &VerifiedItem) {
        if let Some(listener) = self.listener.get() {
            listener.newer(item);
        }
    }
}
