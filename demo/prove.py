"""Prove a running platform from the outside: log in over TLS, start sessions, run cells in them.

It speaks to JupyterHub's REST API and the kernel's web socket as a browser does, through Traefik, and trusts only the
platform's own authority. The sessions it starts belong to users of its own and are stopped at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.cookiejar
import json
import socket
import ssl
import statistics
import subprocess
import sys
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
MAX_SESSIONS = 6

CELL = "import platform; print('2 ** 10 =', 2 ** 10, 'on Python', platform.python_version(), 'kernel', platform.release())"

# The sandbox's own kernel log. gVisor has no /dev/kmsg; dmesg(1) falls back to syslog(2), and so does this.
DMESG = """
import ctypes
size = 1 << 16
buffer = ctypes.create_string_buffer(size)
length = ctypes.CDLL(None, use_errno=True).klogctl(3, buffer, size)
print(buffer.raw[:max(length, 0)].decode(errors="replace"))
"""


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
        """Start a kernel in a user's session and open its web socket."""
        answer = self.request("POST", f"/user/{user}/api/kernels", {"name": "python3"})
        if answer.status != 201:
            raise ProofError(f"no kernel for {user}: {answer.status} {answer.body[:300]}")
        kernel = answer.json()["id"]
        address = f"wss://{self.domain}/user/{user}/api/kernels/{kernel}/channels?session_id={uuid.uuid4().hex}"
        channel = websocket.create_connection(
            address, header=[f"Authorization: token {self.token}"], sslopt={"context": self.tls}, timeout=CELL_SECONDS
        )
        try:
            yield Kernel(channel)
        finally:
            channel.close()
            self.request("DELETE", f"/user/{user}/api/kernels/{kernel}")


class Kernel:
    """A kernel at the other end of a web socket."""

    def __init__(self, channel: websocket.WebSocket) -> None:
        self.channel = channel

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


def node_of(command: str, user: str) -> str:
    """Ask the operator's side on which node a user's session runs; `command` has {user} in it and prints the node's name."""
    done = subprocess.run(command.replace("{user}", user), shell=True, check=False, capture_output=True, text=True, timeout=30)
    words = done.stdout.split()
    if done.returncode != 0 or not words:
        raise ProofError(f"no node for {user}: {done.stderr.strip()[:300]}")
    return words[0]


def prove(options: argparse.Namespace) -> dict[str, str]:
    """Do it all; returns the rows of the table."""
    hub = Hub(options.domain, options.address, options.ca)
    hub.login(options.user, options.password_file.read_text(encoding="utf-8").strip())
    print(f"logged in as {options.user} at https://{options.domain}/ (TLS, the platform's own authority)", flush=True)
    wanted, starts, cells, started = set(options.nodes), [], [], []
    try:
        for number in range(1, MAX_SESSIONS + 1):
            if not wanted:
                break
            user = f"demo-{number}"
            hub.request("POST", f"/hub/api/users/{user}")
            guest = hub.as_user(user)
            if hub.request("GET", f"/hub/api/users/{user}").json().get("servers"):
                hub.stop(user)
            started.append(user)
            starts.append(guest.start(user, options.profile))
            with guest.kernel(user) as kernel:
                node = node_of(options.locate, user)
                print(f"{user}: a session on {node}, {starts[-1]:.2f} s from the click to the lab page", flush=True)
                print("   a cell:", kernel.run(CELL).strip())
                words = kernel.run(DMESG).strip()
                print("   the sandbox kernel's own words (dmesg):", *words.splitlines()[:6], sep="\n      ", flush=True)
                if "gVisor" not in words:
                    raise ProofError(f"the kernel under {user}'s session does not say that it is gVisor: {words[:200]!r}")
                for _ in range(50):
                    begin = time.perf_counter()
                    kernel.run("pass")
                    cells.append(time.perf_counter() - begin)
            wanted.discard(node)
        if wanted:
            raise ProofError(f"{MAX_SESSIONS} sessions ran, none of them on {', '.join(sorted(wanted))}")
    finally:
        for user in started:
            with contextlib.suppress(ProofError):
                hub.stop(user)
    cells.sort()
    return {
        "click to lab": ", ".join(f"{s:.2f} s" for s in starts),
        "cell `pass`": f"median {statistics.median(cells) * 1000:.1f} ms, p99 {cells[int(len(cells) * 0.99)] * 1000:.1f} ms",
    }


def main() -> int:
    """Read the command line, prove, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="address of the control host")
    parser.add_argument("--domain", required=True, help="the platform's host name")
    parser.add_argument("--ca", type=Path, required=True, help="PEM of the platform's authority")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--profile", help="profile to start; the platform's default where it is not given")
    parser.add_argument("--nodes", nargs="+", required=True, help="nodes that must each have run a session")
    parser.add_argument("--locate", required=True, help="a shell command that prints the node of a {user}'s session")
    parser.add_argument("--timings", nargs="*", default=[], metavar="NAME=SECONDS", help="rows to add to the table")
    options = parser.parse_args()
    try:
        rows = {row.partition("=")[0]: row.partition("=")[2] + " s" for row in options.timings} | prove(options)
    except ProofError as error:
        print(f"proof failed: {error}", file=sys.stderr)
        return 1
    width = max(map(len, rows))
    print("\n" + "\n".join(f"  {name:{width}}  {value}" for name, value in rows.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
