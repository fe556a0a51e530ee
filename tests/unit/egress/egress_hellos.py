"""ClientHellos, real ones and those made by hand."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable

import pytest

Extension = tuple[int, bytes]


def real(name: str | None, alpn: Iterable[str] = (), newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What Python's ssl module says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def server_name(*names: str, kind: int = 0) -> Extension:
    return 0, vector(2, b"".join(bytes([kind]) + vector(2, name.encode("latin-1")) for name in names))


def handshake(
    *extensions: Extension, version: int = 0x0303, session: bytes = b"", suites: bytes = b"\x13\x01", compression: bytes = b"\0"
) -> bytes:
    """The handshake message, made by hand."""
    body = struct.pack(">H", version) + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, compression)
    body += vector(2, b"".join(kind.to_bytes(2, "big") + vector(2, content) for kind, content in extensions))
    return b"\x01" + vector(3, body)


def record(content: bytes, kind: int = 22, version: int = 0x0301) -> bytes:
    return bytes([kind]) + version.to_bytes(2, "big") + vector(2, content)


def hello(*extensions: Extension) -> bytes:
    return record(handshake(*extensions))


SNI = server_name("data.example.org")
ECH = (0xFE0D, b"\0\0\1\0\1\7" + vector(2, bytes(32)) + vector(2, bytes(144)))
