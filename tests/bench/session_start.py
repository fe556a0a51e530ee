"""How long a notebook image needs from `docker run` to a ready lab, side by side.

Runs on a host with a Docker engine, needs only the standard library. Images take turns, so that a busy
moment hits all of them; medians and the ratio to the first are printed. Times are seconds since `docker run`:

    container   the engine says that the container runs
    api         the server answers HTTP (what the hub waits for)
    lab         the lab page has been delivered to a user with a token
    kernel      seconds from asking for a kernel to the reply of its first cell

    python3 session_start.py --runtime runsc --repeats 5 lab:before lab:after
"""

from __future__ import annotations

import argparse
import base64
import http.server
import json
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

USER = "bench"
TOKEN = "bench-token"
STEPS = ("container", "api", "lab", "kernel")


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of JupyterHub's API as a session asks for while it starts."""

    def _answer(self, body: object, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path.rstrip("/").endswith("/user"):
            self._answer(
                {
                    "kind": "user",
                    "name": USER,
                    "admin": False,
                    "groups": [],
                    "scopes": [f"access:servers!user={USER}"],
                }
            )
        else:
            self._answer({"version": "6.1.1"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer({})

    def log_message(self, *_: object) -> None:
        return


def docker(*args: str) -> str:
    """Run a docker command and return what it printed; raises CalledProcessError."""
    return subprocess.run(["docker", *args], check=True, capture_output=True, text=True).stdout.strip()


def request(url: str, method: str = "GET") -> bytes | None:
    """Return the body, or None while there is no good answer."""
    req = urllib.request.Request(url, method=method, headers={"Authorization": f"token {TOKEN}"})
    try:
        with urllib.request.urlopen(req, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            return None
        raise
    except OSError:
        return None


def until(what: str, url: str, since: float, limit: float = 60) -> tuple[float, bytes]:
    """Poll url every 10 ms; return the seconds since `since` and the body. Raises TimeoutError."""
    while time.monotonic() - since < limit:
        body = request(url)
        if body is not None:
            return time.monotonic() - since, body
        time.sleep(0.01)
    raise TimeoutError(f"{what}: no answer from {url} within {limit} s")


def first_cell(address: str, path: str) -> None:
    """Run `pass` over the kernel's web socket (RFC 6455, text frames only) and wait for the reply."""
    message = {
        "header": {"msg_id": "1", "session": "bench", "username": USER, "msg_type": "execute_request", "version": "5.3"},
        "parent_header": {},
        "metadata": {},
        "content": {"code": "pass", "silent": False},
        "buffers": [],
        "channel": "shell",
    }
    payload = json.dumps(message).encode()
    with socket.create_connection((address, 8888), timeout=60) as connection:
        connection.sendall(
            f"GET {path}?session_id=bench HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
            f"Sec-WebSocket-Version: 13\r\nAuthorization: token {TOKEN}\r\n\r\n".encode()
        )
        stream = connection.makefile("rb")
        status = stream.readline()
        if b" 101 " not in status:
            raise RuntimeError(f"no web socket: {status!r}")
        while stream.readline().strip():
            pass
        # One masked text frame; the mask is zero, so the payload goes as it is.
        connection.sendall(b"\x81\xfe" + struct.pack(">H", len(payload)) + bytes(4) + payload)
        while True:
            _, size = stream.read(2)
            if size == 126:
                (size,) = struct.unpack(">H", stream.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", stream.read(8))
            if b'"execute_reply"' in stream.read(size):
                return


def start_once(image: str, runtime: str, hub: str, extra: list[str]) -> dict[str, float]:
    """One session from start to removal; seconds for each of STEPS."""
    prefix = f"/user/{USER}/"
    environment = {
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JUPYTERHUB_API_URL": f"{hub}/hub/api",
        "JUPYTERHUB_ACTIVITY_URL": f"{hub}/hub/api/users/{USER}/activity",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{USER}",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{prefix}oauth_callback",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([f"access:servers!user={USER}"]),
        "JUPYTERHUB_SERVER_NAME": "",
        "JUPYTERHUB_SERVICE_PREFIX": prefix,
        "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:8888{prefix}",
        "JUPYTERHUB_USER": USER,
    }
    settings = [word for key, value in environment.items() for word in ("-e", f"{key}={value}")]
    with tempfile.TemporaryDirectory(prefix="bench-home-") as home:
        subprocess.run(["chown", "1000:1000", home], check=True)
        began = time.monotonic()
        container = docker("run", "-d", "--runtime", runtime, "-v", f"{home}:/home/user", *extra, *settings, image)
        times = {"container": time.monotonic() - began}
        try:
            address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)
            base = f"http://{address}:8888{prefix}"
            times["api"], _ = until("api", base + "api", began)
            times["lab"], page = until("lab", base + "lab", began)
            if b"jupyter-config-data" not in page:
                raise RuntimeError(f"{base}lab is not the lab page")
            asked = time.monotonic()
            kernel = json.loads(request(base + "api/kernels", "POST") or b"{}")["id"]
            first_cell(address, f"{prefix}api/kernels/{kernel}/channels")
            times["kernel"] = time.monotonic() - asked
        except Exception:
            subprocess.run(["docker", "logs", container], check=False)
            raise
        finally:
            docker("rm", "-f", container)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="+", help="an image, or RUNTIME=IMAGE to compare runtimes")
    parser.add_argument("--runtime", default="runc")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--docker-arg", action="append", default=[], help="one more argument of docker run")
    args = parser.parse_args()

    gateway = docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
    server = http.server.ThreadingHTTPServer((gateway, 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = f"http://{gateway}:{server.server_port}"

    results: dict[str, list[dict[str, float]]] = {image: [] for image in args.image}
    for turn in range(args.repeats + 1):
        for name in args.image:
            runtime, _, image = name.rpartition("=")
            times = start_once(image, runtime or args.runtime, hub, args.docker_arg)
            if turn:  # the first turn warms the page cache
                results[name].append(times)

    width = max(map(len, args.image))
    print(f"{'image':{width}}  " + "  ".join(f"{step:>9}" for step in STEPS) + "   lab: worst  ratio")
    first = statistics.median(times["lab"] for times in results[args.image[0]])
    for name, runs in results.items():
        medians = [statistics.median(times[step] for times in runs) for step in STEPS]
        lab = [times["lab"] for times in runs]
        print(
            f"{name:{width}}  "
            + "  ".join(f"{value:9.2f}" for value in medians)
            + f"   {max(lab):10.2f}  {statistics.median(lab) / first:5.2f}"
        )


if __name__ == "__main__":
    main()
