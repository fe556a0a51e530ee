"""Stands in for a service that sessions must not reach: it answers, and logs tokens. Runs on hosts and inside other sessions.

    python3 -m egress.listen PLACE tcp:2376 udp:7946 tcp:8999@127.0.0.1 udp:5353@224.0.0.251@INTERFACE-ADDRESS …

A port that is taken by the real service is left to it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys

from .world.log import answer, seen


def _open(kind: str, port: int, address: str) -> socket.socket:
    family = socket.AF_INET if "." in address else socket.AF_INET6
    server = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    group, _, interface = address.partition("@")
    if interface:
        server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(interface))
        address = "0.0.0.0"
    server.bind((address, port))
    if kind == "tcp":
        server.listen(64)
    return server


def main() -> None:
    place, *words = sys.argv[1:]
    selector = selectors.DefaultSelector()
    for word in words:
        kind, rest = word.split(":", 1)
        port, _, address = rest.partition("@")
        try:
            selector.register(_open(kind, int(port), address or "0.0.0.0"), selectors.EVENT_READ, (kind, int(port)))
        except OSError as error:
            print(f"{word}: {error}", file=sys.stderr)
    while True:
        for key, _ in selector.select():
            kind, port = key.data
            facts: dict[str, object] = {"place": place, "protocol": kind, "port": port}
            try:
                if kind == "tcp":
                    connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    with connection:
                        # Read first: what is left unread when the connection ends would take the answer with it.
                        connection.settimeout(0.3)
                        with contextlib.suppress(TimeoutError):
                            seen(connection.recv(4096), way="bytes", **facts)
                        connection.sendall(answer(facts).encode())
                else:
                    data, peer = key.fileobj.recvfrom(4096)  # type: ignore[union-attr]
                    seen(data, way="datagram", **facts)
                    key.fileobj.sendto(answer(facts).encode(), peer)  # type: ignore[union-attr]
            except OSError:
                continue


if __name__ == "__main__":
    main()
