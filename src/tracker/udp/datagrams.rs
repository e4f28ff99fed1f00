//! Datagrams by the batch: one system call takes all that wait, another sends all replies (`recvmmsg(2)`, `sendmmsg(2)`).
//! Elsewhere than on Linux, one by one.

use std::io;
use std::net::{SocketAddr, UdpSocket};

/// Datagrams taken at once. Past some dozens the share of a system call that each has no longer matters.
const BATCH: usize = 64;

/// Largest datagram read: an announce is 98 bytes and its BEP 41 options, a scrape at most 1,496.
const MAX_DATAGRAM: usize = 2_048;

/// Datagrams that were received together.
pub(super) struct Incoming {
    buffers: Vec<[u8; MAX_DATAGRAM]>,
    /// How long each is, and where it came from.
    received: Vec<(usize, SocketAddr)>,
    headers: system::Headers,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            buffers: vec![[0; MAX_DATAGRAM]; BATCH],
            received: Vec::with_capacity(BATCH),
            headers: system::headers(),
        }
    }

    /// Waits for a datagram, and takes those that wait with it.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        system::receive(socket, &mut self.headers, &mut self.buffers, &mut self.received)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let datagrams = self.received.drain(..).zip(&self.buffers);
        datagrams.map(|((length, from), buffer)| (&buffer[..length.min(MAX_DATAGRAM)], from))
    }
}

/// Datagrams that are sent together.
pub(super) struct Replies {
    /// More than are in use: they are used again.
    buffers: Vec<Vec<u8>>,
    /// Where those in use go.
    to: Vec<SocketAddr>,
    headers: system::Headers,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { buffers: Vec::with_capacity(BATCH), to: Vec::with_capacity(BATCH), headers: system::headers() }
    }

    /// An empty buffer for the next reply.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        let used = self.to.len();
        if used == self.buffers.len() {
            self.buffers.push(Vec::new());
        }
        let buffer = &mut self.buffers[used];
        buffer.clear();
        buffer
    }

    /// What was written to [`Self::next`] is the reply to this address, if it is anything.
    pub(super) fn end(&mut self, to: SocketAddr) {
        if !self.buffers[self.to.len()].is_empty() {
            self.to.push(to);
        }
    }

    /// Sends them all. A reply that cannot be sent is left out: the client asks again.
    pub(super) fn send(&mut self, socket: &UdpSocket) {
        let mut sent = 0;
        while sent < self.to.len() {
            match system::send(socket, &mut self.headers, &self.buffers[sent..self.to.len()], &self.to[sent..]) {
                Ok(count) => sent += count.max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, to = %self.to[sent], "UDP tracker send");
                    sent += 1;
                }
            }
        }
        self.to.clear();
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io::{self, IoSlice, IoSliceMut};
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

    use super::{BATCH, MAX_DATAGRAM};

    pub(super) type Headers = MultiHeaders<SockaddrStorage>;

    pub(super) fn headers() -> Headers {
        MultiHeaders::preallocate(BATCH, None)
    }

    pub(super) fn receive(
        socket: &UdpSocket,
        headers: &mut Headers,
        buffers: &mut [[u8; MAX_DATAGRAM]],
        received: &mut Vec<(usize, SocketAddr)>,
    ) -> io::Result<()> {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
        // Without an address it is none: the call was woken because the socket is closed.
        received.extend(messages.map_while(|message| Some((message.bytes, address(message.address?)?))));
        Ok(())
    }

    pub(super) fn send(
        socket: &UdpSocket,
        headers: &mut Headers,
        buffers: &[Vec<u8>],
        to: &[SocketAddr],
    ) -> io::Result<usize> {
        let slices: Vec<_> = buffers.iter().map(|buffer| [IoSlice::new(buffer)]).collect();
        let to: Vec<_> = to.iter().map(|to| Some(SockaddrStorage::from(*to))).collect();
        Ok(sendmmsg(socket.as_raw_fd(), headers, &slices, to, [], MsgFlags::empty())?.count())
    }

    fn address(address: SockaddrStorage) -> Option<SocketAddr> {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::net::{SocketAddr, UdpSocket};

    use super::MAX_DATAGRAM;

    pub(super) struct Headers;

    pub(super) fn headers() -> Headers {
        Headers
    }

    pub(super) fn receive(
        socket: &UdpSocket,
        _: &mut Headers,
        buffers: &mut [[u8; MAX_DATAGRAM]],
        received: &mut Vec<(usize, SocketAddr)>,
    ) -> io::Result<()> {
        received.push(socket.recv_from(&mut buffers[0])?);
        Ok(())
    }

    pub(super) fn send(
        socket: &UdpSocket,
        _: &mut Headers,
        buffers: &[Vec<u8>],
        to: &[SocketAddr],
    ) -> io::Result<usize> {
        socket.send_to(&buffers[0], to[0])?;
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_goes_where_its_datagram_came_from() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let deadline = Some(std::time::Duration::from_secs(20));
        server.set_read_timeout(deadline).unwrap();
        let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let (mut incoming, mut replies) = (Incoming::new(), Replies::new());
        for round in 0..3_u8 {
            for (n, client) in clients.iter().enumerate() {
                client.set_read_timeout(deadline).unwrap();
                client.send_to(&vec![round; n * 1_000], server.local_addr().unwrap()).unwrap();
            }
            let mut answered = 0;
            while answered < clients.len() {
                incoming.receive(&server).unwrap();
                for (datagram, from) in incoming.drain() {
                    answered += 1;
                    // One is not replied to, and the others' replies still go to the right ones.
                    if datagram.len() != 1_000 {
                        replies.next().extend([round; 3].iter().chain(datagram));
                    } else {
                        replies.next();
                    }
                    replies.end(from);
                }
                replies.send(&server);
            }
            for (n, client) in clients.iter().enumerate().filter(|(n, _)| *n != 1) {
                let mut reply = [0; 4_000];
                let length = client.recv(&mut reply).unwrap();
                assert_eq!(reply[..length], vec![round; n * 1_000 + 3]);
            }
        }
    }
}
