//! The datagrams waiting for one connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

/// Most bytes waiting. A peer that keeps to the receive window of SCTP (1 MiB) has less than this under way, headers
/// included; what one sends beyond it is dropped, as a full socket would.
const CAPACITY: usize = 5 << 18;

/// A bounded queue of datagrams: the shared socket puts them in, one connection takes them out.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// A std mutex: it is held for a push or a few copies, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(SocketAddr, BytesMut)>,
    bytes: usize,
    reader: Option<Waker>,
    /// Where the last datagram that is not STUN came from: the path in use.
    peer: Option<SocketAddr>,
}

impl Inbox {
    /// Puts a datagram in and wakes the reader; `false` if it was dropped because the queue is full. The newest is
    /// dropped, because what waits was sent earlier and its loss would cost the sender more.
    pub(super) fn push(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let mut state = self.lock();
        if state.bytes + datagram.len() > CAPACITY {
            return false;
        }
        state.bytes += datagram.len();
        // RFC 7983 §7: STUN's first byte is 0 to 3.
        if datagram.first().is_some_and(|first| *first > 3) {
            state.peer = Some(from);
        }
        state.waiting.push_back((from, datagram.into()));
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// Waits for datagrams and moves up to `most` of them to `taken`.
    pub(super) fn poll_take(&self, cx: &Context<'_>, most: usize, taken: &mut Vec<(SocketAddr, BytesMut)>) -> Poll<()> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = state.waiting.len().min(most);
        state.bytes -= state.waiting.iter().take(count).map(|(_, datagram)| datagram.len()).sum::<usize>();
        taken.extend(state.waiting.drain(..count));
        Poll::Ready(())
    }

    /// Where the peer was last heard, if it has sent anything but STUN.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.lock().peer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(inbox: &Inbox, waker: &Waker, most: usize) -> Poll<Vec<(SocketAddr, Vec<u8>)>> {
        let mut taken = Vec::new();
        let ready = inbox.poll_take(&Context::from_waker(waker), most, &mut taken);
        ready.map(|()| taken.into_iter().map(|(from, datagram)| (from, datagram.to_vec())).collect())
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn datagrams_come_out_in_order_and_wake_the_reader() {
        let (inbox, woken) = (Inbox::default(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        assert!(take(&inbox, &waker, 2).is_pending());
        for (port, datagram) in [(1, &b"one"[..]), (2, b""), (1, b"three")] {
            assert!(inbox.push(addr(port), datagram));
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(take(&inbox, &waker, 2), Poll::Ready(vec![(addr(1), b"one".into()), (addr(2), b"".into())]));
        assert_eq!(take(&inbox, &waker, 2), Poll::Ready(vec![(addr(1), b"three".into())]));
        assert!(take(&inbox, &waker, 2).is_pending());
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_recovers() {
        let inbox = Inbox::default();
        let pushed = (0..CAPACITY).take_while(|_| inbox.push(addr(1), &[9; 1000])).count();
        assert_eq!(pushed, CAPACITY / 1000);
        assert!(!inbox.push(addr(1), &[9; 1000]));
        assert!(take(&inbox, Waker::noop(), 1).is_ready());
        assert!(inbox.push(addr(1), &[9; 1000]));
    }

    #[test]
    fn the_path_in_use_is_not_that_of_checks() {
        let inbox = Inbox::default();
        inbox.push(addr(1), &[0, 1]);
        assert_eq!(inbox.peer(), None);
        inbox.push(addr(2), &[22]);
        inbox.push(addr(3), &[1, 1]);
        assert_eq!(inbox.peer(), Some(addr(2)));
    }
}
