"""The server's side of TLS: it looks at the raw ClientHello first, however that is cut up."""

from __future__ import annotations

import socket
import ssl
import time

from . import certs

_contexts: dict[str, ssl.SSLContext] = {}


def handshake_of(data: bytes) -> bytes | None:
    """The handshake message that is spread over the records; None as long as it is not complete."""
    message, position = b"", 0
    while position + 5 <= len(data):
        size = int.from_bytes(data[position + 3 : position + 5], "big")
        if data[position] == 22:
            message += data[position + 5 : position + 5 + size]
        position += 5 + size
    wanted = int.from_bytes(message[1:4], "big") if len(message) >= 4 else None
    return message[: wanted + 4] if wanted is not None and len(message) >= wanted + 4 else None


def _names(body: bytes) -> list[str]:
    """All names of a server_name extension; some readers take the first and some the last."""
    found, position = [], 2
    while position + 3 <= len(body):
        size = int.from_bytes(body[position + 1 : position + 3], "big")
        kind, name = body[position], body[position + 3 : position + 3 + size]
        found.append(name.decode("latin-1") if kind == 0 else f"kind {kind}")
        position += 3 + size
    return found


def facts_of(message: bytes) -> dict[str, object]:
    """SNI (all names, with `|` between) and whether the ClientHello hides one; as lenient as the most careless server."""
    names: list[str] = []
    hidden, position = False, 38
    try:
        position += 1 + message[position]
        position += 2 + int.from_bytes(message[position : position + 2], "big")
        position += 1 + message[position] + 2
        while position + 4 <= len(message):
            kind, size = (int.from_bytes(message[position + at : position + at + 2], "big") for at in (0, 2))
            if kind == 0:
                names += _names(message[position + 4 : position + 4 + size])
            hidden = hidden or 0xFE08 <= kind <= 0xFE0D or kind == 0xFFCE
            position += 4 + size
    except IndexError:
        pass
    return {"tls": True, "sni": "|".join(names), "ech": hidden}


class Connection:
    """A TLS connection over a socket whose first bytes have been read."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        self.sock, self.raw = sock, data
        deadline = time.monotonic() + 3
        while (message := handshake_of(self.raw)) is None and time.monotonic() < deadline:
            more = sock.recv(65536)
            if not more:
                break
            self.raw += more
        self.facts = facts_of(message or b"")
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.incoming.write(self.raw)
        file = "stranger" if str(self.facts["sni"]).startswith("stranger") else "server"
        if file not in _contexts:
            _contexts[file] = certs.context(file)
        self.tls = _contexts[file].wrap_bio(self.incoming, self.outgoing, server_side=True)

    def _run(self, step, *arguments):  # type: ignore[no-untyped-def]
        while True:
            try:
                result = step(*arguments)
                break
            except ssl.SSLWantReadError:
                self._flush()
                data = self.sock.recv(1 << 17)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
        self._flush()
        return result

    def _flush(self) -> None:
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def handshake(self) -> None:
        self._run(self.tls.do_handshake)
        self.facts["alpn"] = self.tls.selected_alpn_protocol() or ""

    def recv(self, size: int) -> bytes:
        try:
            return self._run(self.tls.read, size)  # type: ignore[no-any-return]
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def sendall(self, data: bytes) -> None:
        for start in range(0, len(data), 1 << 16):
            self._run(self.tls.write, data[start : start + (1 << 16)])
