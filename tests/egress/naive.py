"""What a site without the control has on the gateway of its session network: a resolver and a proxy that ask no questions.

    python3 -m egress.naive NAMESERVER GATEWAY…

The attacks on a resolver or a proxy need one that lets them through, or nothing would show that they work. The proxy checks nothing:
CONNECT, absolute URLs, and as a transparent proxy the Host header and the SNI (ports 3129 and 3130).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import resource
import socket
import sys
import threading
import unicodedata
from urllib.parse import unquote

from .attacker.wire import lookup
from .world.tls import facts_of, handshake_of

IDLE = 20.0


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 17):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _dial(host: str, port: int, nameserver: str) -> socket.socket:
    """Take an address in any spelling, as many proxies do, or ask the nameserver."""
    host = host.rsplit("@")[-1]
    if host.count(":") == 1:
        host = host.split(":")[0]
    host = unicodedata.normalize("NFKC", unquote(host).replace("\u3002", ".").strip("[] ").rstrip("."))
    with contextlib.suppress(OSError):
        return socket.create_connection((socket.inet_ntoa(socket.inet_aton(host)), port), 3)
    with contextlib.suppress(ValueError):
        return socket.create_connection((str(ipaddress.ip_address(host)), port), 3)
    last: OSError = OSError(f"no address of {host}")
    for address in [a for kind in (1, 28) for a in lookup(host, nameserver, kind)][::-1]:
        try:
            return socket.create_connection((address, port), 2)
        except OSError as error:
            last = error
    raise last


def _number(text: str) -> int:
    """A port as careless code reads it: in any base, and the rest of the division."""
    return int(text.strip() or "443", 0 if "x" in text else 10) % 65536


def _proxy(client: socket.socket, port: int, nameserver: str) -> None:
    with client:
        client.settimeout(IDLE)
        data = client.recv(1 << 16)
        url = ""
        if port == 3130:
            message = None
            while (message := handshake_of(data)) is None and (more := client.recv(1 << 16)):
                data += more
            target, keep = f"{str(facts_of(message or b'')['sni']).split('|')[0]}:443", data
        else:
            while not re.search(rb"\r?\n\r?\n", data) and (more := client.recv(1 << 16)):
                data += more
            head = data.decode("latin-1")
            method, url = (head.split(" ", 2) + ["", ""])[:2]
            if method.upper() == "CONNECT":
                target, keep = url, re.split(rb"\r?\n\r?\n", data, maxsplit=1)[1]
            else:
                found = re.match(r"(?i)[a-z]+:/+(?:[^/@]*@)?([^/?#]+)", url) or re.search(r"(?im)^host[ \t]*:[ \t]*([^\r\n]+)", head)
                target, keep = (found[1] if found else "") + ("" if found and re.search(r":\d+$", found[1]) else ":80"), data
        if target.endswith(":3128") and not url.startswith(target):
            raise OSError("a request that asks this proxy for itself would never end")
        host, _, number = target.strip().encode("latin-1").decode("utf-8", "replace").rpartition(":")
        with _dial(host, _number(number), nameserver) as server:
            server.settimeout(IDLE)
            if port == 3128 and data[:7].upper() == b"CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            if keep:
                server.sendall(keep)
            back = threading.Thread(target=_pipe, args=(server, client), daemon=True)
            back.start()
            _pipe(client, server)
            back.join(IDLE)


def _listen(gateway: str, port: int, nameserver: str) -> None:
    with socket.create_server((gateway, port), backlog=512) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_quietly, args=(client, port, nameserver), daemon=True).start()


def _quietly(client: socket.socket, port: int, nameserver: str) -> None:
    try:
        if port == 53:
            with client, socket.create_connection((nameserver, 53), 3) as server:
                client.settimeout(5)
                threading.Thread(target=_pipe, args=(server, client), daemon=True).start()
                _pipe(client, server)
        else:
            _proxy(client, port, nameserver)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)


def _forward(gateway: str, nameserver: str) -> None:
    """Hand datagrams on as they are, so that also what is no legal query gets through."""

    def ask(data: bytes, peer: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream, contextlib.suppress(OSError):
            upstream.settimeout(2)
            upstream.sendto(data, (nameserver, 53))
            server.sendto(upstream.recv(1 << 16), peer)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((gateway, 53))
        while True:
            data, peer = server.recvfrom(1 << 16)
            threading.Thread(target=ask, args=(data, peer), daemon=True).start()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    nameserver, *gateways = sys.argv[1:]
    for gateway in gateways:
        threading.Thread(target=_forward, args=(gateway, nameserver), daemon=True).start()
        for port in (53, 3128, 3129, 3130):
            threading.Thread(target=_listen, args=(gateway, port, nameserver), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
