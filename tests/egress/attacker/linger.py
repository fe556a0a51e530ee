"""Connections that stay open, each with a request every quarter of a second, until told otherwise: `linger SECONDS NAME=WAY:HOST:PORT …`.

WAY is `tunnel` (CONNECT and TLS), `tls` or `plain`. Prints a JSON line for each that ended: its name, and the time.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
import time

TIMEOUT = 5


def _open(way: str, host: str, port: int, gateway: str) -> socket.socket:
    if way == "tunnel":
        sock = socket.create_connection((gateway, 3128), TIMEOUT)
        sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        if b" 200 " not in sock.recv(4096):
            raise OSError("refused")
    else:
        sock = socket.create_connection((host, port), TIMEOUT)
    return sock if way == "plain" else ssl.create_default_context().wrap_socket(sock, server_hostname=host)


def _keep(name: str, way: str, host: str, port: int, gateway: str) -> None:
    try:
        with _open(way, host, port, gateway) as sock:
            if port == 2222:
                sock.recv(100)
            print(json.dumps({"name": name, "open": time.time()}), flush=True)
            while True:
                sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                if not sock.recv(65536):
                    raise OSError("closed")
                time.sleep(0.25)
    except OSError as error:
        print(json.dumps({"name": name, "ended": time.time(), "why": str(error)}), flush=True)


def main() -> None:
    seconds, gateway, *flows = sys.argv[1:]
    for flow in flows:
        name, _, rest = flow.partition("=")
        way, host, port = rest.split(":")
        threading.Thread(target=_keep, args=(name, way, host, int(port), gateway), daemon=True).start()
    time.sleep(float(seconds))
    os._exit(0)


if __name__ == "__main__":
    main()
