"""A fake Swarm manager, homes service, Traefik API and session, each a real HTTP server on the loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from authority import make_authority
from metalhub_hub import config
from metalhub_hub.core import node_service

GIB = 2**30
IMAGE = "10.0.0.1:5000/lab@sha256:" + "a" * 64


def document(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A small legal document, as YAML reads it."""
    (tmp_path / "images.json").write_text(json.dumps({"lab": IMAGE}))
    base: dict[str, Any] = {
        "public_url": "https://hub.example.org",
        "connect_url": "http://127.0.0.1:8081",
        "state": str(tmp_path),
        "images_file": str(tmp_path / "images.json"),
        "cookie_secret_file": str(tmp_path / "cookie"),
        "engine": {"managers": [f"unix://{tmp_path}/engine.sock"], "timeout": 0.5},
        "session": {"start_timeout": "10s"},
        "traefik": {"api_password_file": str(tmp_path / "traefik"), "routes_file": str(tmp_path / "routes.yml")},
        "auth": {"admins": ["admin"], "admin_password_file": str(tmp_path / "admin")},
        "pools": {"cpu": {"sandbox": "gvisor"}, "gpu": {"sandbox": "nvidia"}},
        "flavors": {
            "small": {"cpus": 1, "memory": "2G"},
            "slice": {"cpus": 4, "memory": "32G", "gpu": {"profile": "1g.10gb", "count": 1}},
        },
        "images": {"lab": {"title": "JupyterLab"}, "gone": {}},
        "egress_classes": {"packages": {"proxy": "http://10.231.16.1:3128", "direct": ["10.0.0.5"]}, "internal": {}},
        "profiles": {
            "small": {"title": "Small", "image": "lab", "flavor": "small", "pool": "cpu", "egress": "packages", "default": True},
            "slice": {"title": "Slice", "image": "lab", "flavor": "slice", "pool": "gpu", "egress": "packages"},
            "pii": {"image": "lab", "flavor": "small", "pool": "cpu", "egress": "internal", "groups": ["clinical"]},
            "ghost": {"image": "gone", "flavor": "small", "pool": "cpu", "egress": "packages"},
        },
        "quotas": {"default": "sessions=2, workspace=10G", "groups": {"research": "sessions=4"}, "users": {"eve": "workspace=1T"}},
    }
    base.update(changes)
    return base


@pytest.fixture
def doc(tmp_path: Path) -> config.Document:
    return config.parse(document(tmp_path))


def make_node(name: str = "compute1", **changes: Any) -> dict[str, Any]:
    node = {
        "ID": f"id-{name}",
        "Spec": {"Availability": "active", "Labels": {"metalhub.pool": "cpu", "metalhub.network": "ready"}},
        "Description": {"Hostname": name, "Resources": {"NanoCPUs": 2 * 10**9, "MemoryBytes": 8 * GIB}},
        "Status": {"State": "ready", "Addr": "127.0.0.1"},
    }
    node.update(changes)
    return node


class Served:
    """An aiohttp application in a thread of its own, so that a hub in another process can talk to it as well."""

    def __init__(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], path: str = "") -> None:
        self.handler, self.path, self.port = handler, path, 0
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)

        async def begin() -> None:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", self.handler)
            runner = web.AppRunner(application, shutdown_timeout=0)
            await runner.setup()
            site = web.UnixSite(runner, self.path) if self.path else web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            if not self.path:
                self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            self._ready.set()

        self.loop.run_until_complete(begin())
        self.loop.run_forever()


class FakeEngine:
    """Enough of a Swarm manager: nodes, services, tasks. ``mode`` makes it sick, ``fate`` decides over new tasks."""

    def __init__(self, path: str = "") -> None:
        self.mode = "ok"
        self.nodes = [make_node("compute1"), make_node("compute2")]
        self.services: dict[str, dict[str, Any]] = {}
        self.tasks: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.headers: list[Any] = []
        self.port = 0  # where a running task's published port leads
        self.fate: dict[str, Any] = {"State": "running"}
        self.broken: dict[str, dict[str, Any]] = {}  # node's id -> what becomes of tasks there
        self.lose_answer = False  # create the service, and answer 500
        self.races = 0  # updates of nodes that somebody else is faster with
        self.paused: set[str] = set()  # containers
        self.slow = 0.0  # seconds that stopping, pausing and unpausing takes
        self.deaf: set[str] = set()  # what is not done to containers
        self.lost: set[str] = set()  # what is done to containers, and never answered
        self._count = itertools.count(1)
        self.served = Served(self.handle, path)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.mode == "hang":
            await asyncio.sleep(60)
        if self.mode == "500":
            return web.json_response({"message": "rpc error: context deadline exceeded"}, status=500)
        if self.mode == "no leader":
            return web.json_response({"message": "The swarm does not have a leader."}, status=503)
        if request.path == "/_ping":
            return web.Response(text="OK", headers={"Api-Version": "1.45"})
        what = request.path.split("/", 2)[2]
        filters = json.loads(request.query.get("filters", "{}"))
        if what == "nodes":
            return web.json_response(self.nodes)
        if what.startswith("nodes/"):
            return await self.node(request, what.split("/"))
        if what == "tasks":
            wanted = filters.get("label", [""])[0].partition("=")[2]
            names = [task["Spec"]["ContainerSpec"]["Labels"]["metalhub.session"] for task in self.tasks]
            return web.json_response([task for task, name in zip(self.tasks, names, strict=True) if wanted in ("", name)])
        if what == "services":
            return web.json_response(list(self.services.values()))
        if what == "services/create":
            self.headers.append(request.headers)
            return self.create(await request.json())
        if what.startswith("containers/"):
            return await self.container(*what.split("/")[1:])
        name = what.removeprefix("services/").removesuffix("/update")
        found = next((s for s in self.services.values() if name in (s["ID"], s["Spec"]["Name"])), None)
        if found is None:
            return web.json_response({"message": f"service {name} not found"}, status=404)
        if request.method == "DELETE":
            del self.services[found["ID"]]
            self.tasks = [task for task in self.tasks if task["ServiceID"] != found["ID"]]
            return web.Response()
        if what.endswith("/update"):
            if request.query["version"] != str(found["Version"]["Index"]):
                return web.json_response({"message": "rpc error: update out of sequence"}, status=400)
            found["Spec"] = await request.json()
            found["Version"] = {"Index": found["Version"]["Index"] + 1}
            return web.json_response({"Warnings": None})
        return web.json_response(found)

    async def node(self, request: web.Request, parts: list[str]) -> web.Response:
        """A node's entry, and its update against the version that was read."""
        node = next((node for node in self.nodes if node["ID"] == parts[1]), None)
        if node is None:
            return web.json_response({"message": f"node {parts[1]} not found"}, status=404)
        version = node.setdefault("Version", {"Index": 1})
        if request.method == "GET":
            return web.json_response(node)
        if int(request.query["version"]) != version["Index"] or self.races:
            self.races = max(0, self.races - 1)
            return web.json_response({"message": "rpc error: code = Unknown desc = update out of sequence"}, status=500)
        version["Index"] += 1
        node["Spec"] = await request.json()
        return web.json_response({})

    async def container(self, name: str, act: str) -> web.Response:
        found = [task["Status"] for task in self.tasks if task["Status"].get("ContainerStatus", {}).get("ContainerID") == name]
        if not found:
            return web.json_response({"message": "No such container"}, status=404)
        if act == "json":
            return web.json_response({"State": {"Running": found[0]["State"] == "running", "Paused": name in self.paused}})
        await asyncio.sleep(self.slow)
        if act in self.deaf:
            return web.json_response({"message": "the node does not do it"}, status=500)
        if act in ("stop", "kill"):
            found[0]["State"] = "complete" if act == "stop" else "failed"
        elif act == ("unpause" if name in self.paused else "pause"):
            self.paused ^= {name}
        else:
            return web.json_response({"message": f"Container {name} is not paused"}, status=500)
        if act in self.lost:
            await asyncio.sleep(60)
        return web.Response(status=204)

    def create(self, spec: dict[str, Any]) -> web.Response:
        if any(service["Spec"]["Name"] == spec["Name"] for service in self.services.values()):
            return web.json_response({"message": "name conflicts with an existing object"}, status=409)
        number = next(self._count)
        service = {"ID": f"service{number}", "Spec": spec, "Version": {"Index": number}, "CreatedAt": "2026-01-01T00:00:00.123456789Z"}
        self.services[service["ID"]] = service
        self.add_task(service)
        if self.lose_answer:
            self.lose_answer = False
            return web.json_response({"message": "broken pipe"}, status=500)
        return web.json_response({"ID": service["ID"]}, status=201)

    def add_task(self, service: dict[str, Any], **status: Any) -> dict[str, Any]:
        number = next(self._count)
        constraints = service["Spec"]["TaskTemplate"].get("Placement", {}).get("Constraints", [])
        node = next(n["ID"] for n in self.nodes if f"node.id!={n['ID']}" not in constraints)
        task = {
            "ID": f"task{number}",
            "CreatedAt": f"2026-01-01T00:00:{number:02}.5Z",
            "ServiceID": service["ID"],
            "NodeID": node,
            "DesiredState": "running",
            "Spec": service["Spec"]["TaskTemplate"],
            "Status": {
                "PortStatus": {"Ports": [{"TargetPort": 8888, "PublishedPort": self.port, "PublishMode": "host"}]},
                "ContainerStatus": {"ContainerID": f"container{number}"},
                **self.broken.get(node, self.fate),
                **status,
            },
        }
        self.tasks.append(task)
        return task


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(str(tmp_path / "engine.sock"))
    with fake.served:
        yield fake


class FakeSession:
    """A session's server. ``answering`` false: it takes the connection and says nothing, as a paused one does."""

    def __init__(self) -> None:
        self.answering = True
        self.busy = False
        self.kernels: list[Any] = []  # the last activity of each
        self.terminals: list[str] = []
        self.vscode = ""  # when something last passed between it and a tab
        self.says: Any = None  # instead of the kernels
        self.asked: list[str] = []
        self.served = Served(self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not self.answering:
            await asyncio.sleep(60)
        self.asked.append(request.path_qs)
        what = request.path.partition("/api/")[2]
        if what == "kernels":
            state = "busy" if self.busy else "idle"
            return web.json_response(self.says or [{"execution_state": state, "last_activity": stamp} for stamp in self.kernels])
        if what == "terminals":
            return web.json_response([{"name": "1", "last_activity": stamp} for stamp in self.terminals])
        if what == "status":
            return web.json_response({"started": "2026-01-01T00:00:00.5Z", "last_activity": self.vscode or "2026-01-01T00:00:00Z"})
        if request.path.endswith("/servers-info"):
            return web.json_response({"server_processes": [{"name": "vscode"}]} if self.vscode else {}, status=200 if self.vscode else 404)
        return web.json_response({"version": "2"}, headers={"X-JupyterHub-Version": "6.1.1"})


def session_of(engine: FakeEngine) -> Iterator[FakeSession]:
    """What answers where the engine says that its sessions are; the body of a fixture."""
    fake = FakeSession()
    with fake.served:
        engine.port = fake.served.port
        yield fake


@pytest.fixture
def session(engine: FakeEngine) -> Iterator[FakeSession]:
    yield from session_of(engine)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a certificate that all fake nodes share, the hub's, and somebody else's."""
    directory = tmp_path_factory.mktemp("pki")
    make_authority(directory, "ca", {name: name for name in ("node", "hub-client", "somebody")}, ["127.0.0.1", "127.0.0.2"])
    return directory


class FakeNode:
    """A node's egress service: the real server with its certificates, and answers that a test decides on."""

    def __init__(self, pki: Path, address: str, port: int = 0) -> None:
        self.down: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {}  # path -> what is said instead
        self.asked: list[str] = []
        self.server = node_service.Server((address, port), self.answer, ["hub-client"], str(pki))
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()

    def answer(self, method: str, path: str, body: bytes) -> Any:
        self.asked.append(path)
        place, _, query = path.partition("?since=")
        if place in self.answers:
            found = self.answers[place]
            return found() if callable(found) else found
        if place == "/health":
            return {"status": "down" if self.down else "ok", "down": self.down, "open": 0, "dropped": 0}
        return {"lines": [line for line in self.lines if line["time"] >= query]}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class FakeAgent(FakeNode):
    """A node's session agent. ``why`` a session cannot be hibernated, and ``never`` why none can."""

    def __init__(self, pki: Path, address: str, port: int = 0) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.why = self.never = ""
        super().__init__(pki, address, port)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        self.asked.append(path)
        if path in self.answers:
            found = self.answers[path]
            return found() if callable(found) else found
        if path == "/status":
            sizes = {"swap": {"total": 8 * GIB, "free": 6 * GIB}, "memory": {"total": 16 * GIB, "available": 9 * GIB}}
            node = {"hibernates": not self.never, "why": self.never, "largest": 10 * GIB, **sizes}
            return {"node": node, "sessions": list(self.sessions.values())}
        why = self.why or self.never
        return {"hibernates": not why, "why": why}


def usage(session: str, state: str = "running", **more: Any) -> dict[str, Any]:
    """A session as an agent tells it."""
    return {
        "session": session, "container": "container2", "state": state, "memory": GIB, "peak": 2 * GIB, "limit": 4 * GIB, "swap": 0,
        "cpu": 10.0, "oom": 0, "given_back": None, "seconds": None, "at": 1e9, **more,
    }  # fmt: skip


def refusal(destination: str = "data.example.org", port: int = 443, **more: Any) -> dict[str, Any]:
    """A line of a node's journal."""
    return {
        "time": "2026-01-02T10:00:00Z", "node": "compute1", "user": "ann", "session": "mh-ann-1", "profile": "small", "class": "packages",
        "source": "10.231.16.2", "destination": destination, "port": port, "protocol": "tcp", "via": "proxy-connect", "verdict": "refused",
        "reason": "not in the class's list", "count": 1, **more,
    }  # fmt: skip
