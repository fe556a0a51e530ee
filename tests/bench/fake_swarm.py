"""A Swarm without machines: a manager's API, the sessions' servers and two proxies' APIs, all in one process, for scale.py.

    python3 tests/bench/fake_swarm.py --socket engine.sock --port 9000

On the socket it speaks as much of Docker's API as the hub's own client and docker-py's (dockerspawner) ask for, on the port it is what the hub
meets otherwise: each session's server below /user/<name>/, Traefik's API below /traefik/, configurable-http-proxy's below /chp/, and what the
benchmark asks below /control/. A service's task comes up after a while, its server some time later. Requests to the engine and the proxies are
counted by kind and take a while.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import aiohttp
from aiohttp import web

API = "1.45"
GIB = 2**30
# What an answer of a manager takes, in seconds, by whether it is a change.
READ, CHANGE = 0.002, 0.005
# When a task is in which state, in seconds since its service was made.
STATES = ((0.0, "new"), (0.05, "assigned"), (0.1, "preparing"), (0.3, "starting"), (0.4, "running"))
# When its server answers, and how long it believes a token that it asked the hub about (jupyterhub.services.auth).
SERVER_UP, KNOWN = 1.0, 300.0


def service_id(number: int) -> str:
    return f"service{number:018}"


def task_id(number: int) -> str:
    return f"task{number:021}"


@dataclass
class Service:
    """A service with its one task."""

    number: int
    spec: dict[str, Any]
    node: str
    port: int
    made: float = field(default_factory=time.monotonic)
    at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat().replace("+00:00", "000Z"))
    ended: str = ""
    idle_since: str = ""
    _rendered: tuple[str, bytes] = ("", b"")

    @property
    def id(self) -> str:
        return service_id(self.number)

    @property
    def container(self) -> str:
        return f"{self.number:064x}"

    @property
    def name(self) -> str:
        return str(self.spec["Name"])

    @property
    def environment(self) -> dict[str, str]:
        return dict(text.split("=", 1) for text in self.spec["TaskTemplate"]["ContainerSpec"].get("Env", []))

    @property
    def age(self) -> float:
        return time.monotonic() - self.made

    @property
    def state(self) -> str:
        return self.ended or STATES[bisect.bisect([since for since, _ in STATES], self.age) - 1][1]

    def plain(self) -> dict[str, Any]:
        return {"ID": self.id, "Version": {"Index": self.number}, "CreatedAt": self.at, "UpdatedAt": self.at, "Spec": self.spec, "Endpoint": {}}

    def task(self) -> bytes:
        """The task as JSON, made once for each of its states."""
        state = self.state
        if self._rendered[0] != state:
            template = self.spec["TaskTemplate"]
            target = next((port["TargetPort"] for port in (self.spec.get("EndpointSpec") or {}).get("Ports") or []), self.port)
            running = state == "running"
            status = {
                "Timestamp": self.at,
                "State": state,
                "Message": state,
                "ContainerStatus": {"ContainerID": self.container, "PID": self.number, "ExitCode": 0},
                "PortStatus": {"Ports": [{"Protocol": "tcp", "TargetPort": target, "PublishedPort": self.port, "PublishMode": "host"}]} if running else {},
            }
            task = {
                "ID": task_id(self.number),
                "Version": {"Index": self.number},
                "CreatedAt": self.at,
                "UpdatedAt": self.at,
                "Spec": template,
                "ServiceID": self.id,
                "Slot": 1,
                "NodeID": self.node,
                "Status": status,
                "DesiredState": "shutdown" if self.ended else "running",
                "NetworksAttachments": [{"Network": {"ID": "network"}, "Addresses": ["127.0.0.1/8"]}],
            }
            self._rendered = (state, json.dumps(task).encode())
        return self._rendered[1]


def _json(data: Any, status: int = 200) -> web.Response:
    return web.json_response(data, status=status)


class FakeSwarm:
    """The world around a hub. ``port`` is where the sessions' servers are, ``pool`` the label of the nodes."""

    def __init__(self, port: int, nodes: int = 25, pool: str = "cpu") -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self.services: dict[str, Service] = {}  # by id
        self.names: dict[str, Service] = {}
        self.prefixes: dict[str, Service] = {}  # by the address of the session's server
        self.routes: dict[str, Any] = {}
        self.idle: set[str] = set()  # addresses of sessions in which nothing is active
        self.activity = 300.0  # how often a server reports to the hub, as jupyterhub-singleuser does
        self.known: dict[tuple[str, str], float] = {}
        self.http: aiohttp.ClientSession | None = None
        self._count = itertools.count(1)
        self._runners: list[web.AppRunner] = []
        self.nodes = [
            {
                "ID": f"node{number:021}",
                "Spec": {"Role": "worker", "Availability": "active", "Labels": {"metalhub.pool": pool, "metalhub.network": "ready", "metalhub.address": "127.0.0.1"}},
                "Description": {"Hostname": f"compute{number}", "Resources": {"NanoCPUs": 64 * 10**9, "MemoryBytes": 512 * GIB}},
                "Status": {"State": "ready", "Addr": "127.0.0.1"},
            }
            for number in range(1, nodes + 1)
        ]

    # The manager

    async def engine(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/").split("/")
        if path[0].startswith("v1."):
            path.pop(0)
        kind = f"{request.method} {'/'.join([path[0], *(['…'] if len(path) > 1 else []), *path[2:]])}"
        self.counts["POST services/create" if path[1:] == ["create"] else kind] += 1
        await asyncio.sleep(READ if request.method in ("GET", "HEAD") else CHANGE)
        try:
            return await self._answer(request, path)
        except KeyError as error:
            return _json({"message": f"{path[0]} {error} not found"}, 404)

    async def _answer(self, request: web.Request, path: list[str]) -> web.StreamResponse:
        filters = {key: set(values) for key, values in json.loads(request.query.get("filters") or "{}").items()}
        match [request.method, *path]:
            case ["GET" | "HEAD", "_ping"]:
                return web.Response(text="OK", headers={"Api-Version": API})
            case ["GET", "version"]:
                return _json({"Version": "26.1.5", "ApiVersion": API, "MinAPIVersion": "1.24"})
            case ["GET", "info"]:
                return _json({"Swarm": {"LocalNodeState": "active", "ControlAvailable": True}})
            case ["GET", "nodes"]:
                return _json(self.nodes)
            case ["GET", "tasks"]:
                found = b",".join(service.task() for service in self._select(filters))
                return web.Response(body=b"[" + found + b"]", content_type="application/json")
            case ["GET", "services"]:
                return _json([service.plain() for service in self._select(filters)])
            case ["POST", "services", "create"]:
                return self._create(await request.json())
            case ["GET", "services", name]:
                return _json(self._find(name).plain())
            case ["DELETE", "services", name]:
                self._remove(self._find(name))
                return _json({})
            case ["POST", "containers", container, "stop"]:
                next(service for service in self.services.values() if service.container == container).ended = "complete"
                return web.Response(status=204)
            case ["GET", "images", *_, "json"]:
                return _json({"Id": "sha256:" + "a" * 64, "Config": {"Cmd": ["jupyterhub-singleuser"]}})
        return _json({"message": f"this engine does not know {request.method} {request.path}"}, 501)

    def _find(self, name: str) -> Service:
        return self.services.get(name) or self.names[name]

    def _select(self, filters: dict[str, set[str]]) -> list[Service]:
        """The services, or those whose task, pass all filters."""
        found = list(self.services.values())
        for key, wanted in filters.items():
            if key == "service":
                found = [self._find(name) for name in wanted if name in self.services or name in self.names]
            elif key == "label":
                found = [one for one in found if all(map(self._has(one), wanted))]
            elif key == "desired-state":
                found = [one for one in found if ("shutdown" if one.ended else "running") in wanted]
            else:
                raise KeyError(key)
        return found

    @staticmethod
    def _has(service: Service) -> Callable[[str], bool]:
        """Whether a service's labels have one, given as its name or with its value."""
        labels = service.spec.get("Labels") or {}
        return lambda text: text in labels or text in (f"{key}={value}" for key, value in labels.items())

    def _create(self, spec: dict[str, Any]) -> web.Response:
        if spec["Name"] in self.names:
            return _json({"message": f"rpc error: name conflicts with an existing object: service {spec['Name']} already exists"}, 409)
        number = next(self._count)
        service = Service(number, spec, self.nodes[number % len(self.nodes)]["ID"], self.port)
        self.services[service.id] = self.names[service.name] = service
        prefix = service.environment.get("JUPYTERHUB_SERVICE_PREFIX", "")
        self.prefixes[prefix] = service
        return _json({"ID": service.id}, 201)

    def _remove(self, service: Service) -> None:
        del self.services[service.id], self.names[service.name]
        prefix = service.environment.get("JUPYTERHUB_SERVICE_PREFIX", "")
        if self.prefixes.get(prefix) is service:
            del self.prefixes[prefix]

    # What is behind the port

    async def other(self, request: web.Request) -> web.StreamResponse:
        place, _, rest = request.path.lstrip("/").partition("/")
        if place == "user":
            return await self._session(request, rest)
        if place == "control":
            return await self._control(request, rest)
        self.counts[f"{place} {request.method}"] += 1
        await asyncio.sleep(READ)
        if place == "traefik":
            return _json({"status": "enabled"})  # whatever route is asked for: it is in at once
        route = "/" + rest.removeprefix("api/routes").strip("/")
        if request.method == "POST":
            self.routes[route] = await request.json()
            return web.Response(status=201)
        if request.method == "DELETE":
            return web.Response(status=204 if self.routes.pop(route, None) else 404)
        return _json(self.routes)

    async def _session(self, request: web.Request, rest: str) -> web.Response:
        prefix = f"/user/{rest.partition('/')[0]}/"
        service = self.prefixes.get(prefix)
        if service is None or service.age < SERVER_UP:
            return _json({"message": "nobody listens here yet"}, 503)
        who = request.headers.get("Authorization", "")
        if who and self.known.get((service.id, who), 0) < time.monotonic():
            self.known[service.id, who] = time.monotonic() + KNOWN
            await self._ask(service.environment.get("JUPYTERHUB_API_URL", "") + "/user", who)
        now = datetime.now(timezone.utc)
        if prefix not in self.idle:
            service.idle_since = now.isoformat()
        what = request.path.removeprefix(prefix)
        if what == "api/kernels":
            return _json([{"id": "1", "name": "python3", "execution_state": "idle", "connections": 1, "last_activity": service.idle_since}])
        if what == "api/terminals":
            return _json([])
        if what == "api/status":
            return _json({"started": service.at, "last_activity": service.idle_since, "connections": 1, "kernels": 1})
        if what == "api":
            return web.json_response({"version": "2"}, headers={"X-JupyterHub-Version": "6.1.1"})
        return _json({"message": "not found"}, 404)

    async def _control(self, request: web.Request, what: str) -> web.Response:
        """What the benchmark asks.

        ``counts``: the requests so far. ``set``: which sessions are idle from now on, and how often servers report. ``session``: a user's
        service. ``copy``: make services that run at once, of the specs given, and tell their numbers.
        """
        if what == "session":
            found = self.prefixes[f"/user/{request.query['user']}/"]
            return _json({"number": found.number, "spec": found.spec})
        if what == "copy":
            numbers = []
            for spec in (await request.json())["specs"]:
                self._create(spec)
                service = self.names[spec["Name"]]
                service.made -= 60
                numbers.append(service.number)
            return _json(numbers)
        if what == "set":
            wanted = await request.json()
            self.idle = set(wanted.get("idle", self.idle))
            self.activity = wanted.get("activity", self.activity)
        return _json({"counts": self.counts, "services": len(self.services), "users": [prefix.split("/")[2] for prefix in self.prefixes]})

    async def report(self) -> None:
        """Tell the hub of each server's activity, now and then, as the servers do."""
        due: dict[str, float] = {}
        running: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            for prefix, service in list(self.prefixes.items()):
                at = min(due.get(service.id, now + self.activity * random.random()), now + self.activity * 1.1)
                if service.state == "running" and now >= at:
                    at = now + self.activity * random.uniform(0.9, 1.1)
                    if prefix not in self.idle:
                        task = asyncio.ensure_future(self._tell(service.environment))
                        running.add(task)
                        task.add_done_callback(running.discard)
                due[service.id] = at
            due = {key: at for key, at in due.items() if key in self.services}

    async def _tell(self, environment: dict[str, str]) -> None:
        now = datetime.now(timezone.utc).isoformat()
        body = {"servers": {environment.get("JUPYTERHUB_SERVER_NAME", ""): {"last_activity": now}}, "last_activity": now}
        await self._ask(environment.get("JUPYTERHUB_ACTIVITY_URL", ""), f"token {environment.get('JUPYTERHUB_API_TOKEN', '')}", body)

    async def _ask(self, url: str, token: str, body: Any = None) -> None:
        """A session's server asks the hub who has a token, or tells it of its activity."""
        self.http = self.http or aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        kind = "token" if body is None else "activity"
        try:
            async with self.http.request("GET" if body is None else "POST", url, json=body, headers={"Authorization": token}) as response:
                self.counts[f"hub {kind} {response.status}"] += 1
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self.counts[f"hub {kind} failed"] += 1

    async def serve(self, socket: str) -> None:
        """Listen on the socket, and at the port; 0 takes a free one."""
        for handler in (self.engine, self.other):
            application = web.Application(client_max_size=2**24)
            application.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
            await runner.setup()
            self._runners.append(runner)
            if handler == self.engine:
                await web.UnixSite(runner, socket, backlog=1024).start()
            else:
                await web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024).start()
                self.port = int(runner.addresses[0][1])

    async def close(self) -> None:
        if self.http:
            await self.http.close()
        for runner in self._runners:
            await runner.cleanup()


async def run(socket: str, port: int, nodes: int) -> None:
    world = FakeSwarm(port, nodes)
    await world.serve(socket)
    await world.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=25)
    options = parser.parse_args()
    asyncio.run(run(options.socket, options.port, options.nodes))


if __name__ == "__main__":
    main()
