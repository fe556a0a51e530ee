"""What the attacks are made of: streams by any way, TLS whose ClientHello is cut up or made by hand, DNS messages."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import struct
import time
from collections.abc import Sequence

TIMEOUT = 2.0
TYPES = {
    "A": 1, "NS": 2, "MD": 3, "CNAME": 5, "SOA": 6, "MB": 7, "NULL": 10, "WKS": 11, "PTR": 12, "HINFO": 13, "MINFO": 14, "MX": 15, "TXT": 16,
    "RP": 17, "AFSDB": 18, "X25": 19, "ISDN": 20, "SIG": 24, "KEY": 25, "PX": 26, "AAAA": 28, "LOC": 29, "SRV": 33, "NAPTR": 35, "KX": 36,
    "CERT": 37, "DNAME": 39, "APL": 42, "DS": 43, "SSHFP": 44, "IPSECKEY": 45, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "DHCID": 49,
    "NSEC3": 50, "TLSA": 52, "SMIMEA": 53, "HIP": 55, "CDS": 59, "CDNSKEY": 60, "OPENPGPKEY": 61, "CSYNC": 62, "ZONEMD": 63, "SVCB": 64,
    "HTTPS": 65, "SPF": 99, "NID": 104, "L32": 105, "EUI48": 108, "EUI64": 109, "TKEY": 249, "TSIG": 250, "IXFR": 251, "AXFR": 252,
    "MAILB": 253, "ANY": 255, "URI": 256, "CAA": 257, "AVC": 258, "DLV": 32769, "PRIVATE": 65280,
}  # fmt: skip


def query(name: str, kind: int | str = "A", *, klass: int = 1, flags: int = 0x0100, extra: bytes = b"", additional: int = 0, questions: int = 1) -> bytes:
    """One DNS message. `extra` follows the question; `additional` counts the records in it."""
    number = TYPES[kind] if isinstance(kind, str) else kind
    labels = b"".join(bytes([len(label)]) + label for label in (part.encode("latin-1") for part in name.split(".")) if label)
    head = os.urandom(2) + struct.pack(">HHHHH", flags, questions, 0, 0, additional)
    return head + labels + b"\0" + struct.pack(">HH", number, klass) + extra


def option(code: int, data: bytes) -> bytes:
    """An EDNS record with one option."""
    body = struct.pack(">HH", code, len(data)) + data
    return b"\0" + struct.pack(">HHIH", 41, 1232, 0, len(body)) + body


def exchange(message: bytes, server: str, port: int = 53, tcp: bool = False) -> bytes:
    """Send a DNS message and return the answer."""
    if not tcp:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect((server, port))
            sock.send(message)
            return sock.recv(1 << 16)
    with socket.create_connection((server, port), TIMEOUT) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendall(len(message).to_bytes(2, "big") + message)
        return sock.recv(1 << 16)[2:]


def _skip(message: bytes, position: int) -> int:
    while message[position]:
        if message[position] & 0xC0:
            return position + 2
        position += 1 + message[position]
    return position + 1


def lookup(name: str, server: str, kind: int = 1) -> list[str]:
    """The addresses that a resolver gives for a name; none where it gives none."""
    try:
        message = exchange(query(name, kind), server)
        position = _skip(message, 12) + 4
        found = []
        for _ in range(int.from_bytes(message[6:8], "big")):
            position = _skip(message, position)
            what, _, _, size = struct.unpack(">HHIH", message[position : position + 10])
            data = message[position + 10 : position + 10 + size]
            if what == kind:
                found.append(str(ipaddress.ip_address(data)))
            position += 10 + size
    except (OSError, IndexError, struct.error):
        return []
    return found


def dial(address: str, resolver: str, source_port: int = 0) -> socket.socket:
    """Connect to host:port. The host is an address as the system reads it, or a name for the class's resolver."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host.split("%")[0])
        targets = [host]
    except ValueError:
        targets = lookup(host, resolver) or lookup(host, resolver, 28) or [host]
    error: OSError = OSError("no address")
    for target in targets:
        try:
            sock = socket.create_connection((target, int(port)), TIMEOUT, ("", source_port) if source_port else None)
            sock.settimeout(TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as caught:
            error = caught
    raise error


def records(hello: bytes, cut: str) -> list[bytes]:
    """Cut a ClientHello (one record) as `cut` says: "tcp:N" pieces of N bytes, "record:N" records of N bytes, "record1+tcp:N" both,
    "record:sni" and "tcp:sni" in the middle of its name, "record:empty" after an empty record, "tcp:slow" two pieces half a second apart."""
    kind, _, word = cut.partition(":")
    if not kind:
        return [hello]
    message = hello[5:]
    middle = hello.find(b"example") + 2
    if kind == "tcp":
        if word in ("sni", "slow"):
            return [hello[:middle], hello[middle:]]
        size = int(word)
        return [hello[i : i + size] for i in range(0, len(hello), size)]

    def record(part: bytes) -> bytes:
        return b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part

    if word == "sni":
        parts = [message[: middle - 5], message[middle - 5 :]]
    elif word == "empty":
        parts = [b"", message]
    elif word == "head":
        parts = [message[:4], message[4:]]
    else:
        size = int(word)
        parts = [message[i : i + size] for i in range(0, len(message), size)]
    made = [record(part) for part in parts]
    if kind == "records":  # all in one segment
        return [b"".join(made)]
    if kind == "record+tcp":
        joined = b"".join(made)
        return [joined[i : i + 7] for i in range(0, len(joined), 7)]
    return made


class Tls:
    """A client's TLS over a socket; nothing is verified, and the ClientHello is cut as wished."""

    def __init__(self, sock: socket.socket, sni: str | None, alpn: Sequence[str] = (), cut: str = "", version: str = "", early: bool = False) -> None:
        # `early`: the proxy's answer is still to come, before the server's.
        self.skip = early
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if version == "1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.sock, self.incoming, self.outgoing = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=sni)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        pieces = records(self.outgoing.read(), cut)
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.5 if cut.endswith(":slow") else 0.002 if len(pieces) > 1 else 0)
        self._run(self.tls.do_handshake)

    def _run(self, step, *arguments):  # type: ignore[no-untyped-def]
        while True:
            try:
                result = step(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                if data := self.sock.recv(1 << 16):
                    if self.skip and b"\r\n\r\n" in data:
                        self.skip, data = False, data.split(b"\r\n\r\n", 1)[1]
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
                continue
            self._flush()
            return result

    def _flush(self) -> None:
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def sendall(self, data: bytes) -> None:
        self._run(self.tls.write, data)

    def recv(self, size: int) -> bytes:
        try:
            return self._run(self.tls.read, size)  # type: ignore[no-any-return]
        except ssl.SSLError:
            return b""


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def _sni(*names: bytes, kind: int = 0) -> bytes:
    listed = b"".join(bytes([kind]) + len(name).to_bytes(2, "big") + name for name in names)
    return _extension(0, len(listed).to_bytes(2, "big") + listed)


def hello(form: str, name: str, token: str) -> bytes:
    """A ClientHello made by hand, with the token in its session id, so that whoever receives it has it."""
    mark = token.encode().ljust(32, b"\0")
    wanted, other = name.encode("latin-1"), b"cdn.example"
    common = [
        _extension(10, b"\0\4\0\x1d\0\x17"), _extension(13, b"\0\4\4\3\x08\4"), _extension(43, b"\4\3\4\3\3"),
        _extension(51, b"\0\x24\0\x1d\0\x20" + bytes(range(32))),
    ]  # fmt: skip
    ech = _extension(0xFE0D, b"\0\0\1\0\1\x07\0\x20" + bytes(32) + len(mark).to_bytes(2, "big") + mark)
    forms = {
        "plain": [_sni(wanted)], "none": [], "ech": [_sni(wanted), ech], "ech-first": [ech, _sni(wanted)], "ech-no-sni": [ech],
        "ech-empty": [_sni(wanted), _extension(0xFE0D, b"")], "ech-old": [_sni(wanted), _extension(0xFE0A, mark)],
        "esni": [_sni(wanted), _extension(0xFFCE, mark)],
        "two-names": [_sni(other, wanted)], "two-names-other-way": [_sni(wanted, other)],
        "two-extensions": [_sni(other), _sni(wanted)], "two-extensions-other-way": [_sni(wanted), _sni(other)],
        "unknown-kind": [_sni(wanted, kind=1)], "nul": [_sni(other + b"\0." + wanted)], "nul-other-way": [_sni(wanted + b"\0." + other)],
        "empty-name": [_sni(b"")], "empty-list": [_extension(0, b"\0\0")], "bad-length": [_extension(0, b"\xff\xff\0" + len(wanted).to_bytes(2, "big") + wanted)],
        "address": [_sni(name.encode())], "upper": [_sni(wanted.upper())], "dot": [_sni(wanted + b".")], "two-dots": [_sni(wanted + b"..")],
        "space": [_sni(b" " + wanted)], "utf8": [_sni("cdn。example".encode())], "long": [_sni(b"a." * 120 + wanted)],
        "port": [_sni(other + b":443@" + wanted)], "wild": [_sni(b"*.wild.example")], "underscore": [_sni(b"_" + other)],
    }  # fmt: skip
    listed = b"".join([*forms[form], *common])
    body = b"\3\3" + mark + b"\x20" + mark + b"\0\4\x13\1\xc0\x2b" + b"\1\0" + len(listed).to_bytes(2, "big") + listed
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


def http2(authority: str, token: str, extra: Sequence[tuple[str, str]] = ()) -> bytes:
    """Preface, settings and one request of HTTP/2, all headers literal (RFC 7541, 6.2.3)."""

    def literal(key: str, value: str) -> bytes:
        return b"\x10" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode()

    block = b"".join(literal(k, v) for k, v in ((":method", "GET"), (":scheme", "https"), (":path", f"/{token}"), (":authority", authority), *extra))
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block
