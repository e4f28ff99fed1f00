//! Both sides of the handshake as state machines: bytes in, steps out. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rand::{Rng, RngExt};

use super::keys::{Cipher, KEY_LEN, PrivateKey, Secret, name_of};
use super::{Method, MseError, select};
use crate::config::Encryption;
use crate::wire::id::InfoHash;

/// Longest padding: "PadA, PadB: Random data with a random length of 0 to 512 bytes each".
pub(super) const MAX_PADDING: usize = 512;

/// The verification constant: "a String of 8 bytes set to 0x00".
const VC: [u8; 8] = [0; 8];

/// What is to be done next.
#[derive(Debug)]
#[must_use]
pub(super) enum Step {
    /// Read more.
    More,
    /// Send this, and go on.
    Send(Bytes),
    /// Send the last of it: both sides agree.
    Done(Box<Agreed>),
}

/// What was agreed.
#[derive(Debug)]
pub(super) struct Agreed {
    /// How the bytes that follow travel.
    pub(super) method: Method,
    /// What is still to be sent of the handshake.
    pub(super) last: Bytes,
    /// The first bytes of the peer wire, already decrypted: the initial payload (IA).
    pub(super) early: Bytes,
    /// For what is received next, if it is encrypted.
    pub(super) inbound: Cipher,
    /// For what is sent next, if it is to be encrypted.
    pub(super) outbound: Cipher,
}

/// The side that connected.
pub(super) struct Initiator {
    skey: InfoHash,
    provides: u32,
    state: Initiating,
}

enum Initiating {
    Key(PrivateKey),
    /// `mark` is the encrypted VC, by which the end of the padding is found.
    Padding {
        mark: [u8; 8],
        ciphers: Ciphers,
    },
    Select(Ciphers),
    LastPadding {
        method: Method,
        length: usize,
        ciphers: Ciphers,
    },
    Over,
}

struct Ciphers {
    inbound: Cipher,
    outbound: Cipher,
}

impl Initiator {
    /// The machine, and what is sent first.
    pub(super) fn new(skey: InfoHash, provides: u32, rng: &mut impl Rng) -> (Self, Bytes) {
        let private = PrivateKey::random(rng);
        let first = key_and_padding(&private, rng);
        (Self { skey, provides, state: Initiating::Key(private) }, first)
    }

    /// Goes on with what has been received; what is used is taken off `input`.
    ///
    /// # Errors
    /// See [`MseError`]; the connection is of no use then.
    pub(super) fn take(&mut self, input: &mut BytesMut) -> Result<Step, MseError> {
        loop {
            match std::mem::replace(&mut self.state, Initiating::Over) {
                Initiating::Key(private) => {
                    let Some(key) = take_array(input) else { return self.wait(Initiating::Key(private)) };
                    let secret = private.shared(&key)?;
                    let mut ciphers =
                        Ciphers { inbound: secret.responders(&self.skey), outbound: secret.initiators(&self.skey) };
                    let request = self.request(&secret, &mut ciphers.outbound);
                    let mut mark = VC;
                    ciphers.inbound.apply(&mut mark);
                    self.state = Initiating::Padding { mark, ciphers };
                    return Ok(Step::Send(request));
                }
                Initiating::Padding { mark, ciphers } => {
                    if !skip_to(input, &mark)? {
                        return self.wait(Initiating::Padding { mark, ciphers });
                    }
                    self.state = Initiating::Select(ciphers);
                }
                Initiating::Select(mut ciphers) => {
                    let Some(mut answer) = take_array::<6>(input) else {
                        return self.wait(Initiating::Select(ciphers));
                    };
                    ciphers.inbound.apply(&mut answer);
                    let mut answer = &answer[..];
                    let selected = answer.get_u32();
                    let method = [Method::Plaintext, Method::Rc4].into_iter().find(|method| *method as u32 == selected);
                    let method = method.filter(|method| self.provides & *method as u32 != 0);
                    let (method, length) = (method.ok_or(MseError::NoMethod)?, padding(answer.get_u16())?);
                    self.state = Initiating::LastPadding { method, length, ciphers };
                }
                Initiating::LastPadding { method, length, mut ciphers } => {
                    if input.len() < length {
                        return self.wait(Initiating::LastPadding { method, length, ciphers });
                    }
                    ciphers.inbound.apply(&mut input.split_to(length));
                    let Ciphers { inbound, outbound } = ciphers;
                    let (last, early) = (Bytes::new(), Bytes::new());
                    return Ok(Step::Done(Box::new(Agreed { method, last, early, inbound, outbound })));
                }
                Initiating::Over => return Err(MseError::NotAHandshake),
            }
        }
    }

    fn wait(&mut self, state: Initiating) -> Result<Step, MseError> {
        self.state = state;
        Ok(Step::More)
    }

    /// No initial payload goes along: the door greets over the finished connection.
    fn request(&self, secret: &Secret, outbound: &mut Cipher) -> Bytes {
        let mut encrypted = BytesMut::from(&VC[..]);
        encrypted.put_u32(self.provides);
        encrypted.put_u16(0);
        encrypted.put_u16(0);
        outbound.apply(&mut encrypted);
        let plain = [secret.req1(), secret.mask(&name_of(&self.skey))].concat();
        [&plain[..], &encrypted[..]].concat().into()
    }
}

/// The side that was connected to.
pub(super) struct Responder {
    encryption: Encryption,
    state: Responding,
}

enum Responding {
    /// With the padding that will be sent.
    Key(PrivateKey, Bytes),
    Padding(Secret),
    Name(Secret),
    Provide(Ciphers),
    LastPadding {
        method: Method,
        length: usize,
        ciphers: Ciphers,
    },
    Payload {
        method: Method,
        length: usize,
        ciphers: Ciphers,
    },
    Over,
}

impl Responder {
    pub(super) fn new(encryption: Encryption, rng: &mut impl Rng) -> Self {
        let private = PrivateKey::random(rng);
        let first = key_and_padding(&private, rng);
        Self { encryption, state: Responding::Key(private, first) }
    }

    /// As [`Initiator::take`]. `find` tells which torrent a name (`HASH("req2", SKEY)`) means.
    ///
    /// # Errors
    /// As there.
    pub(super) fn take(
        &mut self,
        input: &mut BytesMut,
        find: impl Fn(&[u8; 20]) -> Option<InfoHash>,
    ) -> Result<Step, MseError> {
        loop {
            match std::mem::replace(&mut self.state, Responding::Over) {
                Responding::Key(private, first) => {
                    let Some(key) = take_array(input) else { return self.wait(Responding::Key(private, first)) };
                    self.state = Responding::Padding(private.shared(&key)?);
                    return Ok(Step::Send(first));
                }
                Responding::Padding(secret) => {
                    if !skip_to(input, &secret.req1())? {
                        return self.wait(Responding::Padding(secret));
                    }
                    self.state = Responding::Name(secret);
                }
                Responding::Name(secret) => {
                    let Some(masked) = take_array(input) else { return self.wait(Responding::Name(secret)) };
                    let skey = find(&secret.mask(&masked)).ok_or(MseError::UnknownTorrent)?;
                    let (inbound, outbound) = (secret.initiators(&skey), secret.responders(&skey));
                    self.state = Responding::Provide(Ciphers { inbound, outbound });
                }
                Responding::Provide(mut ciphers) => {
                    let Some(mut offer) = take_array::<14>(input) else {
                        return self.wait(Responding::Provide(ciphers));
                    };
                    ciphers.inbound.apply(&mut offer);
                    let mut offer = offer.strip_prefix(&VC).ok_or(MseError::NotAHandshake)?;
                    let method = select(self.encryption, offer.get_u32()).ok_or(MseError::NoMethod)?;
                    let length = padding(offer.get_u16())?;
                    self.state = Responding::LastPadding { method, length, ciphers };
                }
                Responding::LastPadding { method, length, mut ciphers } => {
                    if input.len() < length + 2 {
                        return self.wait(Responding::LastPadding { method, length, ciphers });
                    }
                    let mut rest = input.split_to(length + 2);
                    ciphers.inbound.apply(&mut rest);
                    rest.advance(length);
                    self.state = Responding::Payload { method, length: rest.get_u16().into(), ciphers };
                }
                Responding::Payload { method, length, mut ciphers } => {
                    if input.len() < length {
                        return self.wait(Responding::Payload { method, length, ciphers });
                    }
                    let mut early = input.split_to(length);
                    ciphers.inbound.apply(&mut early);
                    let mut last = BytesMut::from(&VC[..]);
                    last.put_u32(method as u32);
                    last.put_u16(0);
                    ciphers.outbound.apply(&mut last);
                    let Ciphers { inbound, outbound } = ciphers;
                    let (last, early) = (last.freeze(), early.freeze());
                    return Ok(Step::Done(Box::new(Agreed { method, last, early, inbound, outbound })));
                }
                Responding::Over => return Err(MseError::NotAHandshake),
            }
        }
    }

    fn wait(&mut self, state: Responding) -> Result<Step, MseError> {
        self.state = state;
        Ok(Step::More)
    }
}

fn key_and_padding(private: &PrivateKey, rng: &mut impl Rng) -> Bytes {
    let mut padding = vec![0; rng.random_range(0..=MAX_PADDING)];
    rng.fill_bytes(&mut padding);
    [&private.public()[..], &padding].concat().into()
}

fn take_array<const N: usize>(input: &mut BytesMut) -> Option<[u8; N]> {
    let array = *input.first_chunk::<N>()?;
    input.advance(N);
    Some(array)
}

fn padding(length: u16) -> Result<usize, MseError> {
    let length = usize::from(length);
    if length <= MAX_PADDING { Ok(length) } else { Err(MseError::TooMuchPadding) }
}

/// Takes everything up to the end of `mark` off `input`. False if it has not come yet; it must within the longest padding.
fn skip_to(input: &mut BytesMut, mark: &[u8]) -> Result<bool, MseError> {
    let longest = MAX_PADDING + mark.len();
    let within = &input[..input.len().min(longest)];
    match within.windows(mark.len()).position(|window| window == mark) {
        Some(at) => {
            input.advance(at + mark.len());
            Ok(true)
        }
        None if input.len() >= longest => Err(MseError::NotAHandshake),
        None => Ok(false),
    }
}

const _: () = assert!(KEY_LEN == 96);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const SKEY: InfoHash = InfoHash([7; 20]);

    fn find(name: &[u8; 20]) -> Option<InfoHash> {
        (*name == name_of(&SKEY)).then_some(SKEY)
    }

    /// One side and the bytes on their way to it.
    struct Side<M> {
        machine: M,
        arrived: BytesMut,
        agreed: Option<Box<Agreed>>,
    }

    impl<M> Side<M> {
        fn new(machine: M) -> Self {
            Self { machine, arrived: BytesMut::new(), agreed: None }
        }

        /// Steps until it waits or is done; returns what it sends.
        fn run(
            &mut self,
            mut take: impl FnMut(&mut M, &mut BytesMut) -> Result<Step, MseError>,
        ) -> Result<Vec<u8>, MseError> {
            let mut sent = Vec::new();
            while self.agreed.is_none() {
                match take(&mut self.machine, &mut self.arrived)? {
                    Step::More => break,
                    Step::Send(bytes) => sent.extend(bytes),
                    Step::Done(agreed) => {
                        sent.extend(&agreed.last);
                        self.agreed = Some(agreed);
                    }
                }
            }
            Ok(sent)
        }
    }

    /// Two machines that talk, each hearing `chunk` bytes at a time; `damage` may change what the responder hears.
    fn talk(
        seed: u64,
        (provides, encryption): (u32, Encryption),
        chunk: usize,
        mut damage: impl FnMut(usize, u8) -> u8,
    ) -> Result<(Box<Agreed>, Box<Agreed>), MseError> {
        let mut rng = StdRng::seed_from_u64(seed);
        let (initiator, first) = Initiator::new(SKEY, provides, &mut rng);
        let (mut a, mut b) = (Side::new(initiator), Side::new(Responder::new(encryption, &mut rng)));
        let (mut to_a, mut to_b) = (Vec::new(), first.to_vec());
        let mut position = 0;
        while a.agreed.is_none() || b.agreed.is_none() {
            if to_a.is_empty() && to_b.is_empty() {
                return Err(MseError::NotAHandshake);
            }
            for byte in to_b.drain(..to_b.len().min(chunk)) {
                b.arrived.put_u8(damage(position, byte));
                position += 1;
            }
            to_a.extend(b.run(|machine, input| machine.take(input, find))?);
            let some = to_a.len().min(chunk);
            a.arrived.extend(to_a.drain(..some));
            to_b.extend(a.run(Initiator::take)?);
        }
        assert!(a.arrived.is_empty() && b.arrived.is_empty() && to_a.is_empty() && to_b.is_empty());
        Ok((a.agreed.unwrap(), b.agreed.unwrap()))
    }

    #[test]
    fn policies_meet() {
        use Encryption::{Allow, Prefer, Require};
        let table = [
            (3, Allow, Ok(Method::Plaintext)),
            (3, Require, Ok(Method::Rc4)),
            (2, Allow, Ok(Method::Rc4)),
            (1, Prefer, Ok(Method::Plaintext)),
            (1, Require, Err(MseError::NoMethod)),
            (0, Allow, Err(MseError::NoMethod)),
        ];
        for (provides, encryption, expected) in table {
            let met = talk(1, (provides, encryption), usize::MAX, |_, byte| byte);
            assert_eq!(
                met.map(|(a, b)| {
                    assert_eq!(a.method, b.method);
                    a.method
                }),
                expected,
                "{provides} {encryption:?}"
            );
        }
    }

    #[test]
    fn strangers_are_told_from_peers() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut other = Responder::new(Encryption::Allow, &mut rng);
        let mut noise = BytesMut::from(&vec![0x55; KEY_LEN + MAX_PADDING + 20][..]);
        assert!(matches!(other.take(&mut noise, find), Ok(Step::Send(_))));
        assert_eq!(other.take(&mut noise, find).err(), Some(MseError::NotAHandshake));

        let (mut initiator, first) = Initiator::new(InfoHash([8; 20]), 3, &mut rng);
        let mut responder = Responder::new(Encryption::Allow, &mut rng);
        let mut input = BytesMut::from(&first[..]);
        let Ok(Step::Send(answer)) = responder.take(&mut input, find) else { panic!("a key") };
        let Ok(Step::Send(request)) = initiator.take(&mut BytesMut::from(&answer[..])) else { panic!("a request") };
        input.extend_from_slice(&request);
        assert_eq!(responder.take(&mut input, find).err(), Some(MseError::UnknownTorrent));
    }

    #[test]
    fn an_initial_payload_is_part_of_what_is_read() {
        let mut rng = StdRng::seed_from_u64(6);
        let private = PrivateKey::random(&mut rng);
        let mut responder = Responder::new(Encryption::Prefer, &mut rng);
        let mut input = BytesMut::from(&private.public()[..]);
        let Ok(Step::Send(key)) = responder.take(&mut input, find) else { panic!("a key") };
        let secret = private.shared(key.first_chunk().unwrap()).unwrap();
        let mut encrypted = [&VC[..], &[0, 0, 0, 3, 0, 3], b"pad", &[0, 5], b"hello", b"world"].concat();
        secret.initiators(&SKEY).apply(&mut encrypted);
        input.extend_from_slice(&secret.req1());
        input.extend_from_slice(&secret.mask(&name_of(&SKEY)));
        input.extend_from_slice(&encrypted);
        let Ok(Step::Done(mut agreed)) = responder.take(&mut input, find) else { panic!("agreement") };
        agreed.inbound.apply(&mut input);
        assert_eq!((&agreed.early[..], &input[..], agreed.method), (&b"hello"[..], &b"world"[..], Method::Rc4));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// However the bytes are split, both sides end with streams that fit each other.
        #[test]
        fn splits_do_not_matter(seed: u64, chunk in 1_usize..700) {
            let (mut a, mut b) = talk(seed, (2, Encryption::Allow), chunk, |_, byte| byte).unwrap();
            for (from, to) in [(&mut a.outbound, &mut b.inbound), (&mut b.outbound, &mut a.inbound)] {
                let mut bytes = *b"nineteen and a handshake";
                from.apply(&mut bytes);
                prop_assert_ne!(&bytes, b"nineteen and a handshake");
                to.apply(&mut bytes);
                prop_assert_eq!(&bytes, b"nineteen and a handshake");
            }
        }

        /// A changed byte ends in an error or, in padding, changes nothing; it never hangs on more than the longest padding.
        #[test]
        fn damage_is_noticed(seed: u64, at in 0_usize..700, flip in 1_u8..) {
            let damaged = talk(seed, (3, Encryption::Require), 64, |n, byte| if n == at { byte ^ flip } else { byte });
            if let Ok((a, b)) = damaged {
                prop_assert_eq!((a.method, b.method), (Method::Rc4, Method::Rc4));
            }
        }
    }
}
