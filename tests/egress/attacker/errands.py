"""What honest programs do that needs a few lines: `errands echo|parallel|raw|udp …`. Proxy variables are taken from the environment."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

TIMEOUT = 20


def connect(url: str) -> socket.socket:
    """Open a connection to a URL's host as a client that honours `https_proxy` does; verified TLS for https."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    proxy = urlsplit(os.environ.get("https_proxy", ""))
    if proxy.hostname:
        sock = socket.create_connection((proxy.hostname, proxy.port or 3128), TIMEOUT)
        sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = sock.recv(4096)
        if b" 200 " not in answer.split(b"\r\n")[0] + b" ":
            raise OSError(answer[:100].decode("latin-1"))
    else:
        sock = socket.create_connection((host, port), TIMEOUT)
    return ssl.create_default_context().wrap_socket(sock, server_hostname=host) if parts.scheme == "https" else sock


def echo(url: str) -> str:
    """A web socket that echoes for three seconds."""
    with connect(url) as sock:
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(f"GET /echo HTTP/1.1\r\nHost: {urlsplit(url).hostname}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     f"Sec-WebSocket-Key: {key}\r\n\r\n".encode())  # fmt: skip
        head = sock.recv(4096)
        if b" 101 " not in head:
            raise OSError(head[:100].decode("latin-1"))
        beats, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            sock.sendall(b"beat")
            beats += sock.recv(100) == b"beat"
            time.sleep(0.05)
    return f"{beats} beats" if beats < 20 else "beats"


def parallel(count: str, url: str) -> str:
    """So many connections that are open at once, then a request on each."""
    opened: list[socket.socket] = []
    done: list[bool] = []
    barrier = threading.Barrier(int(count))

    def one() -> None:
        sock = connect(url)
        opened.append(sock)
        barrier.wait(TIMEOUT)
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {urlsplit(url).hostname}\r\nConnection: close\r\n\r\n".encode())
        done.append(b" 200 " in sock.recv(100))

    threads = [threading.Thread(target=one, daemon=True) for _ in range(int(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 2)
    return f"{sum(done)} answers"


def raw(address: str, text: str) -> str:
    """A connection on a port of its own kind."""
    host, _, port = address.rpartition(":")
    # As ssh does: the name first, and what the resolver then lets through.
    with socket.create_connection((host, int(port)), TIMEOUT) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendall(text.encode())
        return sock.recv(200).decode("latin-1")


def udp(address: str, text: str) -> str:
    """A datagram and its answer."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(text.encode(), (host, int(port)))
        return sock.recv(200).decode("latin-1")


def small(count: str, url: str) -> str:
    """Times of so many small requests, each on a connection of its own, in seconds."""
    times = []
    proxy = urlsplit(os.environ.get("http_proxy", "")) if url.startswith("http:") else urlsplit("")
    target = url if proxy.hostname else "/"
    for _ in range(int(count)):
        start = time.perf_counter()
        with socket.create_connection((proxy.hostname, proxy.port or 3128), TIMEOUT) if proxy.hostname else connect(url) as sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {urlsplit(url).hostname}\r\nConnection: close\r\n\r\n".encode())
            while sock.recv(65536):
                pass
        times.append(f"{time.perf_counter() - start:.6f}")
    return " ".join(times)


if __name__ == "__main__":
    print({"echo": echo, "parallel": parallel, "raw": raw, "udp": udp, "small": small}[sys.argv[1]](*sys.argv[2:]))
