"""The Docker engine's API over its local socket, with nothing but the standard library.

The roles talk to the engine so that secrets such as join tokens travel in a request's body and never in an argument list, and
so that no Python package has to be on the host.
"""

from __future__ import annotations

import http.client
import json
import socket
import typing as t


class EngineError(Exception):
    """The engine refused or could not be reached; ``status`` is its HTTP status, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """A client of one engine. ``timeout`` is in seconds and bounds each request."""

    def __init__(self, path: str = "/run/docker.sock", timeout: float = 60) -> None:
        self._path = path
        self._timeout = timeout

    def stream(self, path: str) -> t.Iterator[t.Any]:
        """Send a GET that is answered document by document, such as `/events`; yield each until the engine ends it. Raises EngineError."""
        connection = _Connection(self._path, self._timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise EngineError(f"the Docker engine refused GET {path}: {answer.read().decode().strip()}", answer.status)
            # Nothing may happen for hours; an engine that ends closes its end.
            connection.sock.settimeout(None)
            for line in iter(answer.readline, b""):
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineError(f"the Docker engine at {self._path} did not answer GET {path}: {error}") from error
        finally:
            connection.close()

    def request(self, method: str, path: str, body: t.Any = None) -> t.Any:
        """Send one request and return the answer's document (None for an empty one). Raises EngineError."""
        connection = _Connection(self._path, self._timeout)
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, body=data, headers={"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the Docker engine at {self._path} did not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        document = None
        if text.strip():
            try:
                document = json.loads(text)
            except ValueError:
                document = {"message": text}
        if answer.status >= 400:
            said = document.get("message", text) if isinstance(document, dict) else text
            raise EngineError(f"the Docker engine refused {method} {path}: {said.strip()}", answer.status)
        return document
