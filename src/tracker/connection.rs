//! The bytes of one WebSocket, after the upgrade.
//!
//! An idle connection holds no buffer. What arrives is read into one that the thread's connections share, and parsed
//! there before anybody else runs; what is sent was framed when it was queued, and goes out with as few calls as the
//! system allows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::wire::id::InfoHash;
use crate::wire::tracker_ws::{self, Announce, Failure, Other, Reason, Request};
use crate::wire::websocket::{self, Decoder, Received, Violation};

/// Bytes read at once: an announce with ten offers is 22 KB. A burst of the shortest announces that fits has 250 of
/// them, and the outbox has a place for every reply.
const READ: usize = 32 * 1024;

/// Bytes that the system takes of what cannot be sent yet. What waits beyond that waits in the outbox, where it is bounded
/// and may still be replaced by something newer; the system's own measure is megabytes.
const UNSENT: u32 = 32 * 1024;

/// Frames handed to the system in one call.
const SLICES: usize = 64;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    /// What the client sent before the upgrade was over.
    early: Vec<u8>,
}

/// Something a client sent that wants an answer.
#[derive(Debug)]
pub(super) enum Incoming {
    /// With the field that is the extension's, if it has one.
    Announce(Announce, Option<Box<str>>),
    Scrape(Vec<InfoHash>),
    /// Its text comes along: the extension reads it itself.
    Other(Other, String),
    Refused(Failure),
    Ping(Box<[u8]>),
    /// The last there is: the connection ends.
    End(Broken),
}

/// Why nothing more comes.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client said goodbye; this is to be said back.
    Closed(Box<[u8]>),
    /// It went without a word.
    Lost,
    Violated(Violation),
}

impl Connection {
    pub(super) fn new(stream: TcpStream, early: Vec<u8>, max_message: usize) -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!("a connection keeps the system's buffer: {error}");
        }
        Self { stream, decoder: Decoder::new(max_message), early }
    }

    /// Waits for the client to send something. Empty when that was only a part of something, or nothing that matters.
    /// May be dropped while it waits.
    pub(super) async fn read(&mut self) -> Vec<Incoming> {
        if !self.early.is_empty() {
            let mut early = std::mem::take(&mut self.early);
            return incoming(&mut self.decoder, &mut early);
        }
        loop {
            if poll_fn(|cx| self.stream.poll_read_ready(cx)).await.is_err() {
                return vec![Incoming::End(Broken::Lost)];
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                let length = self.stream.try_read(buffer)?;
                Ok((length > 0).then(|| incoming(&mut self.decoder, &mut buffer[..length])))
            });
            match read {
                Ok(Some(incoming)) => return incoming,
                Err(error) if would_wait(&error) => {}
                Ok(None) | Err(_) => return vec![Incoming::End(Broken::Lost)],
            }
        }
    }

    /// Writes what the system takes at once. What it does not take stays in `frames`.
    pub(super) fn write_now(&self, frames: &mut VecDeque<Box<[u8]>>) -> io::Result<()> {
        while !frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled =
                slices.iter_mut().zip(frames.iter()).map(|(slice, frame)| *slice = IoSlice::new(frame)).count();
            match self.stream.try_write_vectored(&slices[..filled]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => remove(frames, written),
                Err(error) if would_wait(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `frames`. When dropped before the end, the connection can only be closed.
    pub(super) async fn write(&self, mut frames: VecDeque<Box<[u8]>>) -> io::Result<()> {
        loop {
            self.write_now(&mut frames)?;
            if frames.is_empty() {
                return Ok(());
            }
            poll_fn(|cx| self.stream.poll_write_ready(cx)).await?;
        }
    }

    /// Says goodbye with `frame`, and waits for the client to have heard it: a connection closed with bytes unread is
    /// reset, and a reset overtakes what was written (RFC 6455 §7.1.1).
    pub(super) async fn finish(mut self, frame: Box<[u8]>) -> io::Result<()> {
        self.write([frame].into()).await?;
        self.stream.shutdown().await?;
        loop {
            poll_fn(|cx| self.stream.poll_read_ready(cx)).await?;
            match BUFFER.with_borrow_mut(|buffer| self.stream.try_read(buffer)) {
                Ok(0) => return Ok(()),
                Err(error) if !would_wait(&error) => return Err(error),
                _ => {}
            }
        }
    }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Removes the first `written` bytes.
fn remove(frames: &mut VecDeque<Box<[u8]>>, mut written: usize) {
    while let Some(first) = frames.front_mut() {
        if written < first.len() {
            if written > 0 {
                *first = first[written..].into();
            }
            return;
        }
        written -= first.len();
        frames.pop_front();
    }
}

/// Everything in `input`, up to the end of the connection.
fn incoming(decoder: &mut Decoder, mut input: &mut [u8]) -> Vec<Incoming> {
    let mut all = Vec::new();
    loop {
        all.push(match decoder.next(&mut input) {
            Ok(None) => return all,
            Ok(Some(Received::Text(text))) => request(text),
            // JSON is JSON, whatever the client calls it.
            Ok(Some(Received::Binary(bytes))) => match std::str::from_utf8(bytes) {
                Ok(text) => request(text),
                Err(_) => Incoming::Refused(Reason::NotAnObject.into()),
            },
            Ok(Some(Received::Ping(payload))) => Incoming::Ping(payload.into()),
            Ok(Some(Received::Pong)) => continue,
            Ok(Some(Received::Close(code))) => {
                all.push(Incoming::End(Broken::Closed(websocket::close(code, ""))));
                return all;
            }
            Err(violation) => {
                all.push(Incoming::End(Broken::Violated(violation)));
                return all;
            }
        });
    }
}

fn request(text: &str) -> Incoming {
    match tracker_ws::parse(text) {
        Ok(Request::Announce(announce)) => Incoming::Announce(announce, None),
        Ok(Request::AnnounceWith { announce, bep46 }) => Incoming::Announce(announce, Some(bep46)),
        Ok(Request::Scrape(info_hashes)) => Incoming::Scrape(info_hashes),
        Ok(Request::Other(message)) => Incoming::Other(message, text.to_owned()),
        Err(failure) => Incoming::Refused(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_write_leaves_the_rest() {
        let frames = || VecDeque::from([Box::from(*b"one"), Box::from(*b"two"), Box::from(*b"three")]);
        for written in 0..=11 {
            let mut left = frames();
            remove(&mut left, written);
            assert_eq!(left.into_iter().flatten().collect::<Vec<u8>>(), b"onetwothree"[written..], "{written}");
        }
    }
}
