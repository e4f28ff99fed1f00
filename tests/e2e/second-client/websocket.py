"""A WebSocket client (RFC 6455): text frames over a plain socket, no extensions."""

import base64
import hashlib
import os
import socket
import struct
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3


class WebSocket:
    def __init__(self, url: str, timeout: float):
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout)
        self._input = self._socket.makefile("rb")
        nonce = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {parts.path or '/'} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {nonce}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = self._input.readline()
        headers = dict(line.lower().split(": ", 1) for line in iter(lambda: self._input.readline().decode().strip(), ""))
        accept = base64.b64encode(hashlib.sha1((nonce + GUID).encode()).digest()).decode()
        if b" 101 " not in status or headers.get("sec-websocket-accept") != accept.lower():
            raise ConnectionError(f"no WebSocket here: {status!r}")

    def send(self, text: str) -> None:
        self._send(TEXT, text.encode())

    def receive(self) -> str:
        """The next text message; pings before it are answered."""
        message = b""
        while True:
            head, length = self._read(2)
            length &= 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._read(8))
            payload, opcode = self._read(length), head & 0x0F
            if opcode == PING:
                self._send(PONG, payload)
            elif opcode == CLOSE:
                raise ConnectionError("the server closed the connection")
            elif opcode != PONG:
                message += payload
                if head & 0x80:  # FIN
                    return message.decode()

    def close(self) -> None:
        self._send(CLOSE, struct.pack(">H", 1000))
        self._socket.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        if len(payload) < 126:
            length = struct.pack(">B", 0x80 | len(payload))
        else:
            length = struct.pack(">BH", 0x80 | 126, len(payload))
        mask = os.urandom(4)  # section 5.3: what a client sends is masked
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self._socket.sendall(bytes([0x80 | opcode]) + length + mask + masked)

    def _read(self, count: int) -> bytes:
        data = self._input.read(count)
        if len(data) < count:
            raise ConnectionError("the connection ended")
        return data
