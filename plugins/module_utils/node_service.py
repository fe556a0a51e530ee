"""A small service of a host for the control host: HTTP over TLS with client certificates, nothing but the standard library.

The roles ship this file with the services that they put on hosts, so it stays within Python 3.9.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import typing as t

PKI = "/etc/metalhub/pki"
MAX_BODY = 4096
if t.TYPE_CHECKING:
    # A document, or text for whoever reads text (Prometheus).
    Answer = t.Mapping[str, t.Any] | str
    Answerer = t.Callable[[str, str, bytes], Answer]


class Refusal(Exception):
    """An error for the client: an HTTP status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "metalhub"
    sys_version = ""
    timeout = 75
    server: Server

    def setup(self) -> None:
        """Shake hands here and not in the accept loop, so that a client which says nothing keeps only its own thread waiting."""
        self.request.settimeout(10)
        self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        """Answer."""
        self._answer("GET")

    def do_PUT(self) -> None:
        """Answer."""
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        body: Answer
        try:
            status, body = 200, self._do(method)
        except Refusal as error:
            status, body = error.status, {"error": str(error)}
        except OSError as error:
            status, body = 507 if error.errno in (28, 122) else 500, {"error": f"{error.strerror}: {error.filename}"}
        except subprocess.TimeoutExpired as error:
            status, body = 500, {"error": f"{error.cmd[0]} {error.cmd[1]} took more than {error.timeout:.0f} s"}
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 400:
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def _do(self, method: str) -> Answer:
        # The body is read first, or it would be taken for the next request of the connection.
        size = self.headers.get("Content-Length", "0")
        if not size.isdecimal() or int(size) > MAX_BODY or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            raise Refusal(400, f"the body must have a length of at most {MAX_BODY} bytes")
        body = self.rfile.read(int(size))
        names = dict(pair for part in (self.request.getpeercert() or {}).get("subject", ()) for pair in part)
        if names.get("commonName") not in self.server.clients:
            raise Refusal(403, f"the certificate of {names.get('commonName')!r} may not use this service")
        return self.server.answer(method, self.path, body)

    def log_message(self, format: str, *args: t.Any) -> None:  # noqa: A002 - the base class names it so
        """One line for the journal."""
        print(self.client_address[0], format % args, flush=True)


class Server(http.server.ThreadingHTTPServer):
    """TLS server; it reads its certificates again when they were renewed.

    `clients` are the common names that may use it, `answer` gets method, path and body and gives a document or text, or raises Refusal.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], answer: Answerer, clients: t.Sequence[str], pki: str = PKI) -> None:
        self.answer, self.clients, self._pki = answer, frozenset(clients), pki
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._stamp: tuple[float, ...] = ()
        self._tls()
        super().__init__(address, Handler)

    def _tls(self) -> ssl.SSLContext:
        files = [f"{self._pki}/{name}" for name in ("ca.crt", "node.crt", "node.key")]
        stamp = tuple(os.stat(name).st_mtime for name in files)
        if stamp != self._stamp:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(files[0])
            context.load_cert_chain(files[1], files[2])
            context.verify_mode = ssl.CERT_REQUIRED
            self._context, self._stamp = context, stamp
        return self._context

    def get_request(self) -> tuple[t.Any, t.Any]:
        """Accept a connection with today's certificates."""
        connection, address = super().get_request()
        try:
            context = self._tls()
        except (OSError, ssl.SSLError):  # half-way through a renewal: the certificate that is loaded still holds
            context = self._context
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """One line for the journal."""
        print(client_address[0], f"{type(sys.exc_info()[1]).__name__}: {sys.exc_info()[1]}", flush=True)


def notify(text: str) -> None:
    """Tell systemd, where it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)
