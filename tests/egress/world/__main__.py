"""Be the internet: python3 -m egress.world 'control=10.0.0.1 compute1=10.0.0.2 …'

One listener answers every TCP port and one every UDP port of all places: the test host's own packet filter hands them on (suite.py).
Where a packet went is read back from the connection, so a place is an address and nothing has to be configured for a port.
"""

from __future__ import annotations

import resource
import socket
import struct
import sys
import threading
from collections.abc import Callable

from ..places import PLACE_OF
from . import certs, dns, files, tls, web
from .log import answer, seen

CATCH_ALL = 9000
SO_ORIGINAL_DST = 80
IDLE = 60.0
# Datagrams to these come to sockets of their own, so that they can be told apart.
UDP_PORTS = (53, 443, 853, 2222, 8443, 9999)


def _destination(sock: socket.socket) -> tuple[str, int]:
    """The address and port that the client dialled."""
    mapped = sock.getsockname()[0]
    if mapped.startswith("::ffff:"):
        raw = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        return socket.inet_ntoa(raw[4:8]), int.from_bytes(raw[2:4], "big")
    raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big")


def _serve(sock: socket.socket, hosts: dict[str, str]) -> None:
    with sock:
        sock.settimeout(0.7)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address, port = _destination(sock)
        facts: dict[str, object] = {"place": PLACE_OF.get(address, address), "protocol": "tcp", "port": port}
        try:
            data = b"" if port in (22, 2222) else sock.recv(1 << 16)
        except TimeoutError:
            data = b""
        sock.settimeout(IDLE)
        if not data:
            # Who says nothing waits for a greeting.
            sock.sendall(b"SSH-2.0-world\r\n" if port in (22, 2222) else answer(facts).encode())
            data = sock.recv(1 << 16)
        if data[:1] in (b"\x16", b"\x80"):
            sock.settimeout(5)
            stream = tls.Connection(sock, data)
            facts |= stream.facts
            seen(stream.raw + str(facts["sni"]).encode(), way="ClientHello", **facts)
            stream.handshake()
            facts |= stream.facts
            sock.settimeout(IDLE)
            web.converse(stream, facts, hosts, stream.recv(1 << 16))
        elif data:
            web.converse(sock, facts, hosts, data)


def _quietly(work: Callable[..., None], *arguments: object) -> None:
    """Half of what comes here is broken on purpose; one broken connection must not end the world."""
    try:
        work(*arguments)
    except (OSError, ValueError, IndexError, struct.error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)


def _listen(hosts: dict[str, str]) -> None:
    listener = socket.create_server(("::", CATCH_ALL), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_quietly, args=(_serve, sock, hosts), daemon=True).start()


def _datagrams(port: int, hosts: dict[str, str]) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # The answer has to come from the address that was asked, and only the control message tells which one that was.
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.bind(("::", port))
    while True:
        data, control, _, peer = sock.recvmsg(1 << 16, 256)
        address = socket.inet_ntop(socket.AF_INET6, control[0][2][:16]).removeprefix("::ffff:")
        place = PLACE_OF.get(address, address)
        if port == 53:
            reply = dns.respond(data, place, port, hosts, "UDP")
        else:
            facts: dict[str, object] = {"place": place, "protocol": "udp", "port": None if port == CATCH_ALL else port}
            seen(data, way="datagram", **facts)
            reply = answer(facts).encode()
        try:
            sock.sendmsg([reply], control, 0, peer)
        except OSError as error:
            print(f"{peer}: {error}", file=sys.stderr)


def main() -> None:
    hosts = dict(word.split("=", 1) for word in " ".join(sys.argv[1:]).split())
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    certs.make()
    files.make()
    for port in (*UDP_PORTS, CATCH_ALL):
        threading.Thread(target=_datagrams, args=(port, hosts), daemon=True).start()
    _listen(hosts)


if __name__ == "__main__":
    main()
