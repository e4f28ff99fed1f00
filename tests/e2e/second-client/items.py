"""The items of BEP 44, with the limits and the canonical form of spec/dht-proxy.md."""

import hashlib
from dataclasses import dataclass

import ed25519

MAX_VALUE, MAX_SALT, MAX_SEQ, MAX_DEPTH = 1000, 64, 2**53 - 1, 48


class ItemError(Exception):
    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Record:
    k: bytes
    seq: int
    v: bytes
    sig: bytes
    salt: bytes = b""

    @property
    def target(self) -> bytes:
        return target(self.k, self.salt)

    @property
    def signable(self) -> bytes:
        return signable(self.salt, self.seq, self.v)

    @property
    def order(self) -> tuple[int, bytes]:
        """Of two versions the larger one stands: the higher number, then the larger value."""
        return (self.seq, self.v)

    def check(self) -> None:
        if len(self.salt) > MAX_SALT:
            raise ItemError(207, "the salt is too long")
        if not 0 <= self.seq <= MAX_SEQ:
            raise ItemError(203, "the sequence number is out of range")
        check_value(self.v)
        if not ed25519.verifies(self.k, self.signable, self.sig):
            raise ItemError(206, "the signature does not verify")


def signed(seed: bytes, seq: int, v: bytes, salt: bytes = b"") -> Record:
    return Record(ed25519.public_key(seed), seq, v, ed25519.sign(seed, signable(salt, seq, v)), salt)


def target(k: bytes, salt: bytes = b"") -> bytes:
    return hashlib.sha1(k + salt).digest()


def signable(salt: bytes, seq: int, v: bytes) -> bytes:
    prefix = b"4:salt%d:%s" % (len(salt), salt) if salt else b""
    return prefix + b"3:seqi%de1:v%s" % (seq, v)


def check_value(v: bytes) -> None:
    if len(v) > MAX_VALUE:
        raise ItemError(205, "the value is too long")
    try:
        end = _skip(v, 0, 0)
    except (IndexError, ValueError):
        end = -1
    if end != len(v):
        raise ItemError(203, "the value is not canonical bencode")


def _skip(v: bytes, at: int, depth: int) -> int:
    """The end of the value that begins at `at`; throws when it is none, or not in its one form."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    kind = v[at : at + 1]
    if kind == b"i":
        end = v.index(b"e", at)
        digits = v[at + 1 : end].decode()
        if digits != str(int(digits)):
            raise ValueError("not the one form of a number")
        return end + 1
    if kind in (b"l", b"d"):
        at, last = at + 1, None
        while v[at : at + 1] != b"e":
            if kind == b"d":
                end = _skip_string(v, at)
                key = v[v.index(b":", at) + 1 : end]
                if last is not None and key <= last:
                    raise ValueError("keys out of order")
                at, last = end, key
            at = _skip(v, at, depth + 1)
        return at + 1
    return _skip_string(v, at)


def _skip_string(v: bytes, at: int) -> int:
    colon = v.index(b":", at)
    digits = v[at:colon].decode()
    if not digits.isascii() or not digits.isdigit() or digits != str(int(digits)):
        raise ValueError("not the one form of a length")
    end = colon + 1 + int(digits)
    if end > len(v):
        raise ValueError("the string ends early")
    return end
