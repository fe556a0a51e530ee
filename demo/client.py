"""A client of the platform: what a browser does, in Python. It logs in, starts and stops sessions, and runs cells in them.

It speaks to JupyterHub's REST API and the kernel's web socket through Traefik, and trusts only the platform's own authority.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import socket
import ssl
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import websocket

START_SECONDS = 120
CELL_SECONDS = 60


class ProofError(Exception):
    """What the platform did not do."""


class Answer(t.NamedTuple):
    """An HTTP answer: status, final address, body."""

    status: int
    url: str
    body: str

    def json(self) -> t.Any:
        """Parse the body. Raises ProofError where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ProofError(f"{self.url} answered no JSON: {self.body[:200]!r}") from error


class Hub:
    """A client of one hub. `address` is where `domain` is; the certificate must be for `domain`, signed by `ca`."""

    def __init__(self, domain: str, address: str, ca: Path) -> None:
        self.domain = domain
        self.tls = ssl.create_default_context(cafile=str(ca))
        self.token = ""
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=self.tls),
            urllib.request.HTTPCookieProcessor(self.cookies),
        )
        resolve = socket.getaddrinfo

        def resolve_domain(host: t.Any, *arguments: t.Any, **options: t.Any) -> t.Any:
            return resolve(address if host == domain else host, *arguments, **options)

        socket.getaddrinfo = resolve_domain  # as `curl --resolve`: the name need not be in DNS

    def request(self, method: str, path: str, body: t.Any = None, form: dict[str, str] | None = None) -> Answer:
        """Ask for a path of the platform. Error statuses are returned, not raised; no answer at all raises ProofError."""
        url = f"https://{self.domain}{path}"
        data = None
        headers = {"Accept": "application/json, text/html", "Referer": f"https://{self.domain}/hub/"}
        if form is not None:
            data = urllib.parse.urlencode(form).encode()
        elif body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if self.token:
            headers["Authorization"] = f"token {self.token}"
        elif method != "GET":
            headers["X-XSRFToken"] = self._xsrf()
        try:
            with self.opener.open(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
                return Answer(answer.status, answer.url, answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            return Answer(error.code, url, error.read().decode(errors="replace"))
        except OSError as error:
            raise ProofError(f"{method} {url}: {error}") from error

    def _xsrf(self) -> str:
        # The hub sets one cookie for /hub/; a session has another one for its own path.
        found = [c.value or "" for c in self.cookies if c.name == "_xsrf" and c.path.startswith("/hub")]
        return found[0] if found else ""

    def login(self, user: str, password: str) -> None:
        """Log in by the form, as a browser does, and take an API token for what follows."""
        self.request("GET", "/hub/login")
        answer = self.request("POST", "/hub/login", form={"username": user, "password": password, "_xsrf": self._xsrf()})
        if answer.status != 200 or "/hub/login" in answer.url:
            raise ProofError(f"the login of {user} was refused ({answer.status} at {answer.url})")
        answer = self.request("POST", f"/hub/api/users/{user}/tokens", {"note": "metalhub proof", "expires_in": 3600})
        if answer.status not in (200, 201):
            raise ProofError(f"no API token: {answer.status} {answer.body[:300]}")
        self.token = answer.json()["token"]

    def as_user(self, user: str) -> Hub:
        """Give a client that acts as another user, by a token that an admin makes for them."""
        answer = self.request("POST", f"/hub/api/users/{user}/tokens", {"note": "metalhub proof", "expires_in": 3600})
        if answer.status not in (200, 201):
            raise ProofError(f"no API token for {user}: {answer.status} {answer.body[:300]}")
        other = Hub.__new__(Hub)
        other.__dict__.update(self.__dict__, token=answer.json()["token"], cookies=http.cookiejar.CookieJar())
        return other

    def start(self, user: str, profile: str | None) -> float:
        """Start a user's session and wait for its lab page; returns the seconds from the click to the page."""
        begin = time.monotonic()
        answer = self.request("POST", f"/hub/api/users/{user}/server", {"profile": profile} if profile else {})
        if answer.status not in (201, 202):
            raise ProofError(f"the session of {user} did not start: {answer.status} {answer.body[:500]}")
        while True:
            server = self.request("GET", f"/hub/api/users/{user}").json().get("servers", {}).get("", {})
            if server.get("ready"):
                page = self.request("GET", f"/user/{user}/lab")
                if page.status == 200 and "jupyter" in page.body.lower():
                    return time.monotonic() - begin
            elif not server.get("pending"):
                raise ProofError(f"the session of {user} failed to start: {self.failure(user)}")
            if time.monotonic() - begin > START_SECONDS:
                raise ProofError(f"the session of {user} was not ready after {START_SECONDS} s")
            time.sleep(0.05)

    def failure(self, user: str) -> str:
        """Give the reason the hub reports for a failed start."""
        answer = self.request("GET", f"/hub/api/users/{user}/server/progress")
        events = [json.loads(line[5:]) for line in answer.body.splitlines() if line.startswith("data:")]
        return str(next((e.get("message") for e in reversed(events) if e.get("message")), answer.body[:300]))

    def stop(self, user: str) -> None:
        """Stop a user's session and wait until it is gone."""
        self.request("DELETE", f"/hub/api/users/{user}/server")
        deadline = time.monotonic() + 60
        while self.request("GET", f"/hub/api/users/{user}").json().get("servers"):
            if time.monotonic() > deadline:
                raise ProofError(f"the session of {user} did not stop within 60 s")
            time.sleep(0.2)

    @contextlib.contextmanager
    def kernel(self, user: str) -> t.Iterator[Kernel]:
        """Start a kernel in a user's session and open its web socket; both end with the block."""
        answer = self.request("POST", f"/user/{user}/api/kernels", {"name": "python3"})
        if answer.status != 201:
            raise ProofError(f"no kernel for {user}: {answer.status} {answer.body[:300]}")
        identity = answer.json()["id"]
        kernel = self.connect(user, identity)
        try:
            yield kernel
        finally:
            kernel.channel.close()
            with contextlib.suppress(ProofError):  # the session may be gone
                self.request("DELETE", f"/user/{user}/api/kernels/{identity}")

    def connect(self, user: str, kernel: str) -> Kernel:
        """Open a web socket to a kernel that runs. Raises OSError or websocket.WebSocketException where it cannot."""
        address = f"wss://{self.domain}/user/{user}/api/kernels/{kernel}/channels?session_id={uuid.uuid4().hex}"
        channel = websocket.create_connection(
            address, header=[f"Authorization: token {self.token}"], sslopt={"context": self.tls}, timeout=CELL_SECONDS
        )
        return Kernel(channel, kernel)


class Kernel:
    """A kernel at the other end of a web socket."""

    def __init__(self, channel: websocket.WebSocket, identity: str) -> None:
        self.channel, self.id = channel, identity

    def run(self, code: str) -> str:
        """Run a cell and return what it printed. Raises ProofError with the cell's error."""
        identity = uuid.uuid4().hex
        header = {"msg_id": identity, "msg_type": "execute_request", "username": "", "session": identity, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        self.channel.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}))
        printed, replied, idle = "", False, False
        while not (replied and idle):
            message = json.loads(self.channel.recv())
            if message.get("parent_header", {}).get("msg_id") != identity:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind == "error":
                raise ProofError("\n".join(content["traceback"]))
            elif kind == "execute_reply":
                replied = True
            elif kind == "status":
                idle = content["execution_state"] == "idle"
        return printed
