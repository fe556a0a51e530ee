"""A session that was made in advance waits here until it becomes somebody's.

The hub sends the environment of its new user, with the secret that it gave this session when it made it. The home is in its place by
then. One claim ends the wait for good, and until then nothing of anybody is here.
"""

import hmac
import http.server
import json
import os
from collections.abc import Mapping

SECRET = "METALHUB_WARM"
PORT = 8888
LARGEST = 2**18


class Server(http.server.HTTPServer):
    """Answers one request at a time, until ``claimed`` is set."""

    secret = b""
    claimed: dict[str, str] | None = None


class Handler(http.server.BaseHTTPRequestHandler):
    """``GET`` tells that it is ready, ``POST /claim`` takes the environment, a JSON object of text."""

    timeout = 5
    server: Server

    def do_GET(self) -> None:
        self._say(200, {"warm": True})

    def do_POST(self) -> None:
        status, message, found = self._claim()
        self._say(status, {"message": message})
        self.server.claimed = found

    def _claim(self) -> tuple[int, str, dict[str, str] | None]:
        given = self.headers.get("Authorization", "").encode()
        length = self.headers.get("Content-Length", "")
        if self.path != "/claim" or not hmac.compare_digest(given, b"token " + self.server.secret):
            return 403, "This session is not yours.", None
        if not length.isdecimal() or int(length) > LARGEST:
            return 413, f"The body must have a length of at most {LARGEST} bytes.", None
        try:
            found = json.loads(self.rfile.read(int(length)))
            if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
                raise ValueError("it has to be an object of text")
        except ValueError as error:
            return 400, f"The body is no environment: {error}", None
        return 200, "It is yours.", found

    def _say(self, status: int, answer: Mapping[str, object]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads the log of a session that is nobody's."""


def wait(home: str, port: int = PORT) -> None:
    """Wait for the claim, take its environment over and go home. Does not return where there is none to come."""
    server = Server(("", port), Handler)
    server.secret = os.environ.pop(SECRET).encode()
    while server.claimed is None:
        server.handle_request()
    server.server_close()
    os.environ.update(server.claimed)
    os.chdir(home)
