"""The ClientHello with which a TLS connection begins, read from the raw bytes of its records (RFC 8446, RFC 6066, RFC 7301).

Strict on purpose: what two programs could read differently is refused, because a proxy that reads it one way and a server that reads it
another is how a destination is smuggled past a list.
"""

from __future__ import annotations

from dataclasses import dataclass

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_RECORD_LIMIT = 1 << 14
# A hello with post-quantum shares is 2 KiB; a megabyte only wastes memory.
_LIMIT = 1 << 16

_SERVER_NAME, _ALPN, _PRE_SHARED_KEY, _SUPPORTED_VERSIONS = 0, 16, 41, 43
# Encrypted ClientHello, its drafts that were deployed, and its predecessor, the encrypted SNI.
_ENCRYPTED = frozenset([0xFE08, 0xFE09, 0xFE0A, 0xFE0B, 0xFE0C, 0xFE0D, 0xFFCE])


@dataclass(frozen=True)
class ClientHello:
    """What a client says first: the server's name (None without one), protocols, whether a part of it is encrypted, TLS versions."""

    sni: str | None
    alpn: tuple[str, ...] = ()
    encrypted: bool = False
    versions: tuple[int, ...] = ()


class _Reader:
    """Reads numbers and vectors from bytes; ValueError where they end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ValueError("it ends too early")
        part, self._at = self._data[self._at : end], end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        """What follows its own length of ``size`` bytes."""
        return _Reader(self.take(self.number(size)))

    def end(self, what: str) -> None:
        if self:
            raise ValueError(f"bytes after {what}")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)


def _message(data: bytes) -> _Reader:
    """The body of the one handshake message in the records."""
    if len(data) > _LIMIT:
        raise ValueError("it is too long")
    records, handshake = _Reader(data), b""
    while records:
        if records.number(1) != _HANDSHAKE:
            raise ValueError("not a handshake record")
        if records.number(1) != 3 or records.number(1) > 4:
            raise ValueError("not a version of TLS")
        length = records.number(2)
        if not 0 < length <= _RECORD_LIMIT:
            raise ValueError("a record of a length that is not allowed")
        handshake += records.take(length)
    message = _Reader(handshake)
    if message.number(1) != _CLIENT_HELLO:
        raise ValueError("not a ClientHello")
    body = message.vector(3)
    message.end("the ClientHello")
    return body


def _server_name(data: _Reader) -> str:
    names = data.vector(2)
    data.end("the server's name")
    if names.number(1) != 0:
        raise ValueError("a server name of an unknown kind")
    raw = names.vector(2).rest()
    names.end("the first server name")
    if not raw or not all(0x21 <= byte <= 0x7E for byte in raw):
        raise ValueError("a server name that is not text")
    return raw.decode("ascii")


def _protocols(data: _Reader) -> tuple[str, ...]:
    names, found = data.vector(2), []
    data.end("the protocols")
    while names:
        found.append(names.vector(1).rest().decode("latin-1"))
    if not found or "" in found:
        raise ValueError("an empty list of protocols")
    return tuple(found)


def _versions(data: _Reader) -> tuple[int, ...]:
    numbers, found = data.vector(1), []
    data.end("the versions")
    while numbers:
        found.append(numbers.number(2))
    if not found:
        raise ValueError("an empty list of versions")
    return tuple(found)


def parse_client_hello(data: bytes) -> ClientHello:
    """Read a ClientHello from the raw bytes of one or more TLS records.

    Raises ValueError, and nothing else, for whatever is not exactly one complete and well-formed ClientHello: no TLS, too few bytes,
    bytes after it, an extension twice, more than one server name.
    """
    body = _message(data)
    legacy = body.number(2)
    if legacy >> 8 != 3:
        raise ValueError("not a version of TLS")
    body.take(32)
    if len(body.vector(1).rest()) > 32:
        raise ValueError("a session id that is too long")
    suites = body.vector(2).rest()
    if not suites or len(suites) % 2:
        raise ValueError("a list of ciphers that is none")
    if 0 not in body.vector(1).rest():
        raise ValueError("no way without compression")
    extensions = body.vector(2) if body else _Reader(b"")
    body.end("the extensions")
    seen: set[int] = set()
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    versions: tuple[int, ...] = (legacy,)
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind in seen or _PRE_SHARED_KEY in seen:
            raise ValueError("an extension twice, or one after the pre-shared key")
        seen.add(kind)
        if kind == _SERVER_NAME:
            sni = _server_name(content)
        elif kind == _ALPN:
            alpn = _protocols(content)
        elif kind == _SUPPORTED_VERSIONS:
            versions = _versions(content)
    return ClientHello(sni, alpn, not seen.isdisjoint(_ENCRYPTED), versions)
