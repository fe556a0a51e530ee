"""What the world's servers say on a stream, whether it came in TLS or not: HTTP/1.1, HTTP/2, web sockets, DNS, anything."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from typing import Protocol

from ..places import NAMES
from . import dns, files
from .log import answer, seen

METHOD = re.compile(rb"[A-Za-z!#$%&'*+.^_`|~0-9-]{1,20}[ \t]")
FRAME = 9
SO_MAX_PACING_RATE = 47


class Stream(Protocol):
    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> object: ...


def converse(stream: Stream, facts: dict[str, object], hosts: dict[str, str], data: bytes) -> None:
    """Serve one connection whose first bytes were read."""
    if data.startswith(b"PRI * HTTP/2.0"):
        _http2(stream, facts, data)
    elif facts["port"] in (53, 853) or facts.get("alpn") == "dot":
        _dns(stream, facts, hosts, data)
    elif METHOD.match(data) and b"HTTP/" in data[:4096]:
        while data:
            data = _http1(stream, dict(facts), hosts, data)
    else:
        seen(data, way="bytes", **facts)
        stream.sendall(answer(facts).encode())
        while data := stream.recv(65536):
            seen(data, way="bytes", **facts)


def _dns(stream: Stream, facts: dict[str, object], hosts: dict[str, str], data: bytes) -> None:
    while len(data) < 2 or len(data) < int.from_bytes(data[:2], "big") + 2:
        more = stream.recv(65536)
        if not more:
            seen(data, way="half a DNS message", **facts)
            return
        data += more
    reply = dns.respond(data[2:], str(facts["place"]), int(str(facts["port"])), hosts, "TLS" if facts.get("tls") else "TCP")
    stream.sendall(len(reply).to_bytes(2, "big") + reply)


def _header(head: bytes, name: str) -> str:
    found = re.search(rb"(?im)^" + name.encode() + rb"[ \t]*:[ \t]*([^\r\n]*)", head)
    return found[1].decode("latin-1").strip() if found else ""


def _host(head: bytes, target: str) -> str:
    """The sites that the request may be for: an absolute URL's host and each Host header's, for readers differ in which counts."""
    url = re.findall(r"(?i)^[a-z]+:/+([^/?#]+)", target)
    headers = [h.decode("latin-1") for h in re.findall(rb"(?im)^[ \t]*host[ \t]*:[ \t]*([^\r\n]*)", head)]
    return "|".join(dict.fromkeys(re.sub(r":\d+$", "", text.strip().rsplit("@")[-1]).lower() for text in (*url, *headers)))


def _length(head: bytes, target: str) -> int | None:
    """Bytes of the body; None for chunks. Two headers that disagree are read in either way, by what the path asks for:
    servers of both kinds are in use, and a proxy has to know neither."""
    # A folded line is read as a part of the one before, and as a header of its own.
    chunked = any(re.search(rb"(?im)^[ \t]*transfer-encoding[ \t]*:[^\r\n]*chunked", text) for text in (head, head.replace(b"\r\n ", b" ")))
    size = _header(head, "Content-Length")
    if chunked and not (size and "cl-first" in target):
        return None
    first = re.match(r"\d+", size)
    return int(first[0]) if first else 0


def _body(stream: Stream, data: bytes, length: int | None) -> tuple[int, bytes, bytes]:
    """Read a body. Returns its size, its first bytes, and what came after it."""
    if length is None:
        while b"0\r\n\r\n" not in data and (more := stream.recv(65536)):
            data += more
        body, _, rest = data.partition(b"0\r\n\r\n")
        return len(body), body[:4096], rest
    kept, size = data[: min(length, 4096)], min(len(data), length)
    while size < length and (more := stream.recv(min(1 << 17, length - size))):
        kept, size = (kept + more)[:4096] if len(kept) < 4096 else kept, size + len(more)
    return size, kept, data[length:]


def _http1(stream: Stream, facts: dict[str, object], hosts: dict[str, str], data: bytes) -> bytes:
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        more = stream.recv(65536)
        if not more or len(data) > 1 << 20:
            seen(data, way="half a request", **facts)
            return b""
        data += more
    head, rest = re.split(rb"\r?\n\r?\n", data, maxsplit=1)
    line = head.split(b"\n")[0].decode("latin-1").strip()
    method, target = (line.split() + ["", ""])[:2]
    facts["host"] = _host(head, target)
    size, body, rest = _body(stream, rest, _length(head, target))
    seen(head + b"\n" + body, way=f"HTTP {method}", **facts)
    if "dns-query" in target or "resolve?" in target:
        query = base64.urlsafe_b64decode((re.findall(r"dns=([\w-]+)", target) or [""])[0] + "===") or body
        seen(query, way="DoH", **facts)
    key = _header(head, "Sec-WebSocket-Key")
    if key:
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        stream.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-World: {answer(facts).strip()}\r\n"
                       f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())  # fmt: skip
        while rest := stream.recv(65536):
            seen(rest, way="web socket", **facts)
            stream.sendall(rest)
        return b""
    status, headers, content = _resource(target, facts, size)
    close = "close" in _header(head, "Connection").lower() or line.endswith("1.0")
    lines = [f"HTTP/1.1 {status}", "Server: world", f"Content-Length: {content.size}", *headers]
    stream.sendall(("\r\n".join([*lines, f"Connection: {'close' if close else 'keep-alive'}"]) + "\r\n\r\n").encode())
    if found := re.search(r"[?&]rate=(\d+)", target):
        # The kernel's own pacing stands for a link of so many bytes a second.
        getattr(stream, "sock", stream).setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, int(found[1]))
    if method != "HEAD":
        for piece in content.pieces():
            stream.sendall(piece)
    if close:
        return b""
    return rest or stream.recv(65536)


def _resource(target: str, facts: dict[str, object], size: int) -> tuple[str, list[str], files.Content]:
    path = re.sub(r"(?i)^[a-z]+://[^/]*", "", target).partition("?")[0]
    if found := re.match(r"/redirect/(\d+)/([\w-]+)/(.*)", path):
        # The table's redirects carry their target in the path, so that one case needs one request.
        url = base64.urlsafe_b64decode(found[2] + "===").decode() + found[3]
        way = f"Refresh: 0; url={url}" if found[1] == "200" else f"Location: {url}"
        return f"{found[1]} There", [way], files.Content(b"")
    if path.startswith("/upload"):
        return "200 OK", [], files.Content(f"{size} bytes\n".encode())
    if found := re.match(r"/large/(\d+)", path):
        return "200 OK", [], files.Content(size=int(found[1]))
    content = files.find(str(facts["host"]), path) if facts["place"] == "allowed" else None
    if content is not None:
        return "200 OK", ["Content-Type: text/html"] if path.endswith("/") else [], content
    if NAMES.get(str(facts["host"])) == "allowed" and str(facts["host"]).endswith("pkg.example"):
        return "404 Not Found", [], files.Content(b"not here\n")
    return "200 OK", ["Content-Type: text/plain"], files.Content(answer(facts).encode())


def _http2(stream: Stream, facts: dict[str, object], data: bytes) -> None:
    """As much of RFC 9113 as a client that sends plain literal headers needs."""
    seen(data, way="HTTP/2", **facts)
    data = data[24:]
    stream.sendall(b"\0\0\0\4\0\0\0\0\0")
    while True:
        while len(data) < FRAME or len(data) < FRAME + int.from_bytes(data[:3], "big"):
            more = stream.recv(65536)
            if not more:
                return
            data += more
        size, kind, flags, number = int.from_bytes(data[:3], "big"), data[3], data[4], data[5:9]
        payload, data = data[FRAME : FRAME + size], data[FRAME + size :]
        if kind == 4 and not flags & 1:
            stream.sendall(b"\0\0\0\4\1\0\0\0\0")
        if kind in (0, 1):
            found = re.search(rb":authority(?:\x00)?.([a-z0-9.-]+)", payload, re.DOTALL)
            authority = (found[1].decode() if found else "").lower()
            now = {**facts, "host": authority}
            seen(payload, way="HTTP/2", **now)
            if kind == 1:
                text = answer(now).encode()
                stream.sendall(b"\0\0\1\1\4" + number + b"\x88")
                stream.sendall(len(text).to_bytes(3, "big") + b"\0\1" + number + text)
