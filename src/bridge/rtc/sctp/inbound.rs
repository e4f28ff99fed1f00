//! What arrives: which chunks have, what is to be said of it, and the messages in order (RFC 9260 §6.2, §6.5). Pure.
//!
//! All chunks are passed on in the order in which they were sent. That is the order within each stream too; a stream does
//! not overtake another, which makes no difference to who uses one.

use std::collections::VecDeque;

use super::packet::{Data, Sack};

/// Bytes of chunks that have arrived and were not taken, at most; what is told of it is what is left.
pub(super) const WINDOW: usize = 1 << 20;

/// What a chunk is counted as beyond its bytes, so that a window of crumbs is bounded too.
const OVERHEAD: usize = 64;

/// Chunks beyond the first that is missing, of which is known whether they have arrived.
const MAX_BEYOND: usize = 8192;

/// Chunks that may arrive until an acknowledgement is sent: §6.2 "at least every second packet".
const UNACKNOWLEDGED: u32 = 2;

/// When what has arrived is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Never,
    Soon,
    Now,
}

#[derive(Debug)]
pub(super) struct Inbound {
    /// Everything up to this one has arrived.
    cumulative: u32,
    /// What comes after it: the first is the one after `cumulative`, and missing.
    beyond: VecDeque<Option<Data>>,
    /// In order, to be taken.
    ready: VecDeque<Data>,
    /// Of both.
    held: usize,
    since: u32,
    due: Due,
    /// The window that the peer was last told of.
    told: usize,
}

impl Inbound {
    /// `first` is the number of the first chunk to come.
    pub(super) fn new(first: u32) -> Self {
        Self {
            cumulative: first.wrapping_sub(1),
            beyond: VecDeque::new(),
            ready: VecDeque::new(),
            held: 0,
            since: 0,
            due: Due::Never,
            told: WINDOW,
        }
    }

    /// Takes a chunk that arrived. Whether there was room for it; who sends more than was said to be taken must send it
    /// again.
    pub(super) fn insert(&mut self, data: Data) -> bool {
        let place = data.tsn.wrapping_sub(self.cumulative).wrapping_sub(1) as usize;
        self.since += 1;
        let immediate = data.flags.immediate;
        // Numbers up to `cumulative` are those in the upper half of the circle: they arrived before.
        let duplicate = place >= 1 << 31 || self.beyond.get(place).is_some_and(Option::is_some);
        let size = data.payload.len() + OVERHEAD;
        if !duplicate {
            // The one that others wait for is always taken: else they could never leave.
            let wanted = place == 0 && !self.beyond.is_empty();
            if place >= MAX_BEYOND || (self.held + size > WINDOW && !wanted) {
                self.due = Due::Now;
                return false;
            }
            self.held += size;
            if place >= self.beyond.len() {
                self.beyond.resize_with(place + 1, || None);
            }
            self.beyond[place] = Some(data);
            while matches!(self.beyond.front(), Some(Some(_))) {
                self.ready.extend(self.beyond.pop_front().flatten());
                self.cumulative = self.cumulative.wrapping_add(1);
            }
        }
        // §6.7: gaps, and chunks that fill them, are told of at once.
        let at_once = duplicate || immediate || !self.beyond.is_empty() || place == 0 && self.since >= UNACKNOWLEDGED;
        self.due = if at_once { Due::Now } else { self.due.max(Due::Soon) };
        true
    }

    /// The next chunk in order.
    pub(super) fn take(&mut self) -> Option<Data> {
        let data = self.ready.pop_front()?;
        self.held -= data.payload.len() + OVERHEAD;
        // §6.2: who was told that nothing is taken must hear that it is again.
        if self.told < WINDOW / 4 && self.window() >= WINDOW / 2 {
            self.due = Due::Now;
        }
        Some(data)
    }

    fn window(&self) -> usize {
        WINDOW.saturating_sub(self.held)
    }

    pub(super) fn due(&self) -> Due {
        self.due
    }

    /// It has waited long enough.
    pub(super) fn overdue(&mut self) {
        if self.due == Due::Soon {
            self.due = Due::Now;
        }
    }

    pub(super) fn cumulative(&self) -> u32 {
        self.cumulative
    }

    /// What is to be said now; it counts as said.
    pub(super) fn acknowledge(&mut self) -> Sack {
        (self.since, self.due) = (0, Due::Never);
        self.told = self.window();
        let mut gaps: Vec<(u16, u16)> = Vec::new();
        for (place, _) in self.beyond.iter().enumerate().filter(|(_, chunk)| chunk.is_some()) {
            // The chunk after `cumulative` is counted as the first.
            let offset = place as u16 + 1;
            match gaps.last_mut() {
                Some((_, last)) if *last + 1 == offset => *last = offset,
                _ => gaps.push((offset, offset)),
            }
        }
        Sack { cumulative: self.cumulative, window: self.told as u32, gaps }
    }
}
