//! Frames on their way to one WebSocket.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// A message that is made only when it can be written, so that what waits for a slow reader is never out of date.
pub trait Late: Send + Sync + 'static {
    /// The message as a WebSocket frame, if there still is something to say. From now on it is no longer queued. One frame
    /// may be for many sockets.
    fn frame(&self) -> Option<Arc<[u8]>>;
}

/// What waits to be written.
pub(super) enum Queued {
    Frame(Vec<u8>),
    /// What others are sent, too.
    Shared(Arc<[u8]>),
    Late(Arc<dyn Late>),
}

/// Frames on their way out: the first may be written in part.
pub(super) struct Frames {
    /// No late ones among them.
    messages: VecDeque<Queued>,
    /// Bytes of the first that are written.
    written: usize,
    /// They are as they go out, and must not be changed again.
    ready: bool,
}

impl Frames {
    /// Makes what is to be made late. Called without the queue: it may be queued again meanwhile.
    pub(super) fn of(mut messages: VecDeque<Queued>) -> Self {
        if messages.iter().any(|message| matches!(message, Queued::Late(_))) {
            messages = messages.into_iter().filter_map(Queued::made).collect();
        }
        Self { messages, written: 0, ready: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Changes frames before the first is written, once.
    pub(super) fn each(&mut self, mut change: impl FnMut(&mut Vec<u8>)) {
        if std::mem::replace(&mut self.ready, true) {
            return;
        }
        for message in &mut self.messages {
            if let Queued::Shared(frame) = message {
                *message = Queued::Frame(frame.to_vec());
            }
            if let Queued::Frame(frame) = message {
                change(frame);
            }
        }
    }

    /// What is to be written, as far as it fits; how many slices that are.
    pub(super) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, message) in slices.iter_mut().zip(&self.messages) {
            let skip = if filled == 0 { self.written } else { 0 };
            *slice = IoSlice::new(&message.bytes()[skip..]);
            filled += 1;
        }
        filled
    }

    /// All that is left to be written.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); self.messages.len()];
        self.fill(&mut slices);
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    /// The first so many bytes are written.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        while let Some(first) = self.messages.front().map(|first| first.bytes().len()).filter(|n| *n <= self.written) {
            self.written -= first;
            self.messages.pop_front();
        }
    }
}

impl From<Vec<u8>> for Frames {
    fn from(frame: Vec<u8>) -> Self {
        Self::of([Queued::Frame(frame)].into())
    }
}

impl Queued {
    fn made(self) -> Option<Self> {
        match self {
            Self::Frame(_) | Self::Shared(_) => Some(self),
            Self::Late(late) => late.frame().map(Self::Shared),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Shared(frame) => frame,
            Self::Late(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_for_one_socket_is_not_for_others() {
        let shared: Arc<[u8]> = b"shared".as_slice().into();
        let mut frames = Frames::of([Queued::Shared(shared.clone()), Queued::Frame(b"own".to_vec())].into());
        frames.each(|frame| frame.push(b'!'));
        assert_eq!((frames.bytes().as_slice(), &*shared), (b"shared!own!".as_slice(), b"shared".as_slice()));
    }

    #[test]
    fn a_partial_write_leaves_the_rest() {
        let all = b"onetwothree";
        for written in 0..=all.len() {
            let frames = ["one", "two", "three"].map(|frame| Queued::Frame(frame.into()));
            let mut left = Frames::of(frames.into());
            for step in [written / 2, written - written / 2] {
                left.advance(step);
            }
            assert_eq!(left.bytes(), all[written..], "{written}");
            assert_eq!(left.is_empty(), written == all.len());
        }
    }
}
