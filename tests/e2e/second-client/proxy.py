"""The client side of spec/dht-proxy.md: requests, replies, and what may be believed of them."""

import hashlib
import json
import re
from dataclasses import dataclass, field

from items import MAX_SEQ, ItemError, Record, check_value, target
from websocket import WebSocket

TIMEOUT = 30.0  # seconds; a lookup over dead nodes takes its time


class Malformed(Exception):
    """No reply of the kind asked for."""


class NotAsked(Exception):
    """A good answer to another question."""


class BadSignature(Exception):
    """A record that its key did not sign."""


class Rollback(Exception):
    """A version older than one seen before."""


class Refused(Exception):
    def __init__(self, reason: str, code: int | None, current: Record | None):
        super().__init__(reason)
        self.code, self.current = code, current


@dataclass
class Found:
    record: Record
    source: str
    conflict: bool


@dataclass
class Stored:
    stored: int
    conflict: bool


@dataclass
class Unchanged:
    seq: int


@dataclass
class Absent:
    pass


@dataclass
class Unsubscribed:
    pass


@dataclass
class Value:
    v: bytes


@dataclass
class Info:
    version: int
    actions: list[str]
    limits: dict
    dht: dict


# --- Messages: pure ---------------------------------------------------------------------------------------------------


def fields(record: Record) -> dict:
    salt = {"salt": record.salt.hex()} if record.salt else {}
    return {"k": record.k.hex(), **salt, "seq": record.seq, "v": record.v.hex(), "sig": record.sig.hex()}


def read_frame(frame: str) -> dict:
    try:
        message = json.loads(frame)
    except ValueError as error:
        raise Malformed("not JSON") from error
    if not isinstance(message, dict):
        raise Malformed("not an object")
    # "readers MUST treat null as left out"
    return {name: value for name, value in message.items() if value is not None}


def read_reply(request: dict, reply: dict, floor: int = -1):
    """What the reply says; raises Refused when the server refused, and another exception when it is not to be believed."""
    if reply.get("action") != request["action"] or reply.get("id") != request["id"]:
        raise Malformed("not the reply to this request")
    if "failure reason" in reply:
        current = reply.get("current")
        standing = _believed(request, read_record(current)) if isinstance(current, dict) else None
        raise Refused(str(reply["failure reason"]), reply.get("code"), standing)
    if request["action"] == "dht_info":
        return _info(reply)
    if request["action"] == "dht_put":
        if _bytes(reply, "target", 20) != asked_target(request):
            raise NotAsked("stored under another target")
        return Stored(_count(reply, "stored"), reply.get("conflict") is True)
    if request["action"] == "dht_unsubscribe":
        return Unsubscribed()
    return _got(request, reply, floor)


def read_update(following: list[dict], update: dict, newest: tuple[int, bytes] = (-1, b"")) -> Record:
    """The record that a server sends by itself to who follows these items (`k`, `salt`) and has this number and value."""
    if update.get("action") != "dht_update":
        raise Malformed("not an update")
    record = read_record(update)
    request = next((item for item in following if asked_target(item) == record.target), None)
    if request is None:
        raise NotAsked("not followed")
    record = _believed(request, record)
    # Of two values with one number the larger replaces the other. Python compares numbers, then bytes, as it should be.
    if (record.seq, record.v) <= newest:
        raise Rollback(f"{record.seq} after {newest[0]}")
    return record


def asked_target(request: dict) -> bytes:
    """Computed here: the server's word for it is not needed."""
    if "k" in request:
        return target(bytes.fromhex(request["k"]), bytes.fromhex(request.get("salt", "")))
    if "target" in request:
        return bytes.fromhex(request["target"])
    return hashlib.sha1(bytes.fromhex(request["v"])).digest()


def read_record(message: dict) -> Record:
    """A record as somebody claims it."""
    return Record(
        k=_bytes(message, "k", 32),
        seq=_count(message, "seq"),
        v=_bytes(message, "v"),
        sig=_bytes(message, "sig", 64),
        salt=_bytes(message, "salt") if message.get("salt") is not None else b"",
    )


def _got(request: dict, reply: dict, floor: int):
    if reply.get("found") is False:
        return Absent()
    if reply.get("found") is not True:
        raise Malformed("neither found nor not")
    if "target" in request:
        v = _bytes(reply, "v")
        if hashlib.sha1(v).digest() != asked_target(request):
            raise NotAsked("another value")
        check_value(v)
        return Value(v)
    if reply.get("unchanged") is True:
        if "seq" not in request:
            raise Malformed("unchanged since when?")
        return Unchanged(_count(reply, "seq"))
    record = _believed(request, read_record(reply))
    if record.seq < max(floor, request.get("seq", -1)):
        raise Rollback(f"{record.seq} after {max(floor, request.get('seq', -1))}")
    return Found(record, str(reply.get("source")), reply.get("conflict") is True)


def _believed(request: dict, record: Record) -> Record:
    if record.target != asked_target(request):
        raise NotAsked("another record")
    try:
        record.check()
    except ItemError as error:
        raise BadSignature(str(error)) from error
    return record


def _info(reply: dict) -> Info:
    actions, limits, dht = reply.get("actions"), reply.get("limits"), reply.get("dht")
    if not isinstance(actions, list) or not isinstance(limits, dict) or not isinstance(dht, dict):
        raise Malformed("an introduction lacks something")
    return Info(_count(reply, "version"), actions, {name: _count(limits, name) for name in ("v", "salt", "seq")}, dht)


def _count(message: dict, name: str) -> int:
    value = message.get(name)
    if type(value) is not int or not 0 <= value <= MAX_SEQ:
        raise Malformed(f"{name} is no number from 0 to 2^53-1")
    return value


def _bytes(message: dict, name: str, length: int | None = None) -> bytes:
    value = message.get(name)
    if not isinstance(value, str) or not re.fullmatch("([0-9a-fA-F]{2})*", value):
        raise Malformed(f"{name} is not hexadecimal")
    if length is not None and len(value) != 2 * length:
        raise Malformed(f"{name} is not of {length} bytes")
    return bytes.fromhex(value)


# --- One server ------------------------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """A connection of its own, as "Backward compatibility" advises. One request at a time."""

    url: str
    floors: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self):
        self._socket = WebSocket(self.url, TIMEOUT)
        self._ids = 0
        self.info = self._ask({"action": "dht_info"})

    def get(self, k: bytes, salt: bytes = b"", seq: int | None = None, max_age: int | None = None):
        optional = {"salt": salt.hex() or None, "seq": seq, "max_age": max_age}
        return self._ask({"action": "dht_get", "k": k.hex(), **_given(optional)})

    def get_value(self, item: bytes):
        return self._ask({"action": "dht_get", "target": item.hex()})

    def put(self, record: Record, cas: int | None = None) -> Stored:
        return self._ask({"action": "dht_put", **fields(record), **_given({"cas": cas})})

    def put_value(self, v: bytes) -> Stored:
        return self._ask({"action": "dht_put", "v": v.hex()})

    def follow(self, k: bytes, salt: bytes = b""):
        """The newest version if there is one, then every newer one as it comes."""
        request = {"action": "dht_subscribe", "k": k.hex(), **_given({"salt": salt.hex() or None})}
        newest = self._ask(request)
        has = (-1, b"")
        if isinstance(newest, Found):
            has = (newest.record.seq, newest.record.v)
            yield newest.record
        while True:
            try:
                record = read_update([request], read_frame(self._socket.receive()), has)
            except (Malformed, NotAsked, BadSignature, Rollback):
                continue
            has = (record.seq, record.v)
            yield record

    def unfollow(self, k: bytes) -> None:
        self._exchange({"action": "dht_unsubscribe", "k": k.hex()})

    def code(self, request: dict) -> int | None:
        """The code that a request is refused with; it goes out as it is, however wrong."""
        return self._exchange(request)[1].get("code")

    def close(self) -> None:
        self._socket.close()

    def _ask(self, request: dict):
        request, reply = self._exchange(request)
        floor = self.floors.get(asked_target(request), -1) if "k" in request else -1
        answer = read_reply(request, reply, floor)
        if isinstance(answer, Found):
            self.floors[answer.record.target] = answer.record.seq
        return answer

    def _exchange(self, request: dict) -> tuple[dict, dict]:
        self._ids += 1
        request = {**request, "id": str(self._ids)}
        self._socket.send(json.dumps(request))
        while True:
            message = read_frame(self._socket.receive())
            if message.get("id") == request["id"]:
                return request, message


def _given(optional: dict) -> dict:
    return {name: value for name, value in optional.items() if value is not None}
