"""Answer on many ports, for the isolation tests: listen.py tcp:8000 udp:53 udp:443@203.0.113.10 ...

Every datagram that arrives is logged. An answer to one comes from the address that the port is bound to.
"""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()
for word in sys.argv[1:]:
    kind, rest = word.split(":")
    port, _, address = rest.partition("@")
    family = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    server = socket.socket(socket.AF_INET6, family)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((f"::ffff:{address}" if address else "::", int(port)))
    if kind == "tcp":
        server.listen(64)
    selector.register(server, selectors.EVENT_READ, kind)
while True:
    for key, _ in selector.select():
        if key.data == "tcp":
            connection, _ = key.fileobj.accept()
            connection.sendall(b"here\n")
            connection.close()
        else:
            data, peer = key.fileobj.recvfrom(2048)
            print("datagram", key.fileobj.getsockname()[1], peer[0], data[:60], flush=True)
            key.fileobj.sendto(b"here\n", peer)
