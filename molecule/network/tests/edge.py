"""Slow things through the edge: edge.py socket SECONDS (echoes all the time) or edge.py upload SECONDS (one trickling upload)."""

import http.client
import socket
import ssl
import sys
import time

context = ssl.create_default_context(cafile="/etc/metalhub/pki/ca.crt")
seconds = float(sys.argv[2])


def connect():
    return context.wrap_socket(socket.create_connection(("127.0.0.1", 443)), server_hostname="notebooks.test")


if sys.argv[1] == "socket":
    with connect() as client:
        client.sendall(
            b"GET /user/a/kernel HTTP/1.1\r\nHost: notebooks.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b" 101 " in client.recv(4096)
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            client.sendall(b"beat")
            assert client.recv(100) == b"beat"
            count += 1
            time.sleep(0.1)
        print(count)
else:
    with connect() as client:
        pieces = int(seconds)
        client.sendall(f"POST /user/a/upload HTTP/1.1\r\nHost: notebooks.test\r\nContent-Length: {pieces * 1000}\r\n\r\n".encode())
        for _ in range(pieces):
            client.sendall(b"x" * 1000)
            time.sleep(1)
        response = http.client.HTTPResponse(client)
        response.begin()
        print(response.status, response.read().decode())
