"""What the cluster looks like: is a session alive, where is it, and is there room for another.

All but Cluster is pure: it reads the engine's own JSON of nodes and tasks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from .config import Flavor
from .engine import Engine, EngineRefused, EngineUnknown

# Docker's task states in their order; the last six are the end of a task.
BEFORE_RUNNING = ("new", "pending", "assigned", "accepted", "preparing", "ready", "starting")
ENDED = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What is known of a session: ``alive`` or not, and if not the ``cause`` in one word and the engine's detail."""

    alive: bool
    cause: str = ""
    detail: str = ""
    exit_code: int = 0


ALIVE = Verdict(True)


def newest(tasks: Sequence[Json]) -> Json | None:
    """The newest task of a service: Swarm keeps the older ones, and lists them in no order."""
    return max(tasks, key=lambda task: (task.get("CreatedAt", ""), task.get("ID", "")), default=None)


def task_state(task: Json) -> str:
    return str(task.get("Status", {}).get("State", "new")).lower()


def task_error(task: Json) -> str:
    status = task.get("Status", {})
    return str(status.get("Err") or status.get("Message") or "")


def judge(tasks: Sequence[Json], nodes: Mapping[str, Json], task_id: str = "") -> Verdict:
    """Whether a session with these tasks (of one service that exists) is alive.

    Both states of the newest task count: what it is, and what Swarm wants of it. ``task_id`` is the task the session
    began with; another one is a new start without the user's memory.
    """
    task = newest(tasks)
    if task is None:
        return ALIVE  # created a moment ago: Swarm has not made its task yet
    state, wanted = task_state(task), str(task.get("DesiredState", "running")).lower()
    code = int(task.get("Status", {}).get("ContainerStatus", {}).get("ExitCode", 0) or 0)
    node = nodes.get(str(task.get("NodeID", "")))
    down = node is not None and str(node.get("Status", {}).get("State", "")).lower() == "down"
    drained = node is not None and str(node.get("Spec", {}).get("Availability", "")).lower() == "drain"
    if state in ENDED:
        cause = {"complete": "exited", "rejected": "rejected", "orphaned": "lost"}.get(state, "failed")
        if cause == "failed" and state != "failed" and (down or drained):
            cause = "lost" if down else "drain"
        return Verdict(False, cause, task_error(task), code)
    if down:
        return Verdict(False, "lost", f"node {hostname(node)} is down")
    if task_id and task.get("ID") != task_id:
        return Verdict(False, "lost", "Swarm replaced the task")
    if wanted in ENDED:
        cause = "removed" if wanted == "remove" else "drain" if drained else "lost"
        return Verdict(False, cause, "Swarm wants the task to end")
    return ALIVE


def hostname(node: Json | None) -> str:
    return str((node or {}).get("Description", {}).get("Hostname", "")) or "a node"


def node_address(node: Json) -> str:
    """The address the hub reaches a node at: its label, what Swarm sees, or a manager's own (Swarm sees 0.0.0.0)."""
    label = node.get("Spec", {}).get("Labels", {}).get("metalhub.address")
    if label:
        return str(label)
    seen = str(node.get("Status", {}).get("Addr", ""))
    if seen not in ("", "0.0.0.0", "127.0.0.1", "::"):
        return seen
    return urlsplit("//" + str(node.get("ManagerStatus", {}).get("Addr", ""))).hostname or "127.0.0.1"


def published_port(task: Json, target: int) -> int | None:
    """The node's port behind which ``target`` of the session is, once its container runs."""
    for port in task.get("Status", {}).get("PortStatus", {}).get("Ports") or []:
        if port.get("TargetPort") == target and port.get("PublishedPort"):
            return int(port["PublishedPort"])
    return None


def container(task: Json) -> str:
    """The id of a task's container; empty before there is one."""
    return str((task.get("Status", {}).get("ContainerStatus") or {}).get("ContainerID") or "")


def _generic(resources: Json) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in resources.get("GenericResources") or []:
        if spec := item.get("DiscreteResourceSpec"):
            found[spec["Kind"]] = found.get(spec["Kind"], 0) + int(spec.get("Value", 0))
        elif spec := item.get("NamedResourceSpec"):
            found[spec["Kind"]] = found.get(spec["Kind"], 0) + 1
    return found


@dataclass(frozen=True)
class Room:
    """How many more sessions of a flavor fit into a pool, and how many nodes serve it now (``nodes``) or ever
    could hold one when empty (``able``). Of the flavor's GPUs or slices ``free`` are on those nodes, of ``total``."""

    places: int
    nodes: int
    able: int
    free: int = 0
    total: int = 0


def live(task: Json) -> bool:
    """Whether a task holds what it reserved."""
    return task_state(task) not in ENDED and str(task.get("DesiredState", "running")).lower() not in ENDED


def serves(node: Json) -> str:
    """The pool whose sessions a node takes now; empty where it takes none."""
    spec = node.get("Spec", {})
    labels = spec.get("Labels") or {}
    ready = labels.get("metalhub.network") == "ready" and node.get("Status", {}).get("State") == "ready"
    return str(labels.get("metalhub.pool") or "") if ready and spec.get("Availability") == "active" else ""


def resources(node: Json) -> dict[str, float]:
    """What a node has: ``cpu`` in billionths, ``memory`` in bytes, and its GPUs or slices by their kind."""
    has = node.get("Description", {}).get("Resources", {})
    return {"cpu": has.get("NanoCPUs", 0), "memory": has.get("MemoryBytes", 0), **_generic(has)}


def reservations(tasks: Sequence[Json]) -> dict[str, dict[str, float]]:
    """What is reserved on each node, by its id, in the units of ``resources``."""
    used: dict[str, dict[str, float]] = {}
    for task in filter(live, tasks):
        sums = used.setdefault(str(task.get("NodeID", "")), {})
        for kind, amount in reserved(task).items():
            sums[kind] = sums.get(kind, 0) + amount
    return used


def reserved(task: Json) -> dict[str, float]:
    """What a task reserves, in the units of ``resources``."""
    amounts = (task.get("Spec", {}).get("Resources") or {}).get("Reservations") or {}
    return {"cpu": amounts.get("NanoCPUs", 0), "memory": amounts.get("MemoryBytes", 0), **_generic(amounts)}


def reserves(flavor: Flavor) -> dict[str, float]:
    """What a session of a flavor reserves, in the units of ``resources``."""
    gpus = {flavor.gpu.resource: float(flavor.gpu.count)} if flavor.gpu else {}
    return {"cpu": flavor.cpus * 1e9, "memory": float(flavor.memory), **gpus}


def room(nodes: Sequence[Json], tasks: Sequence[Json], pool: str, flavor: Flavor) -> Room:
    """Count the places for ``flavor`` in ``pool``, as Swarm's scheduler would: by reservations."""
    want = reserves(flavor)
    used = reservations(tasks)
    places = serving = able = free = total = 0
    for node in nodes:
        if serves(node) != pool:
            continue
        serving += 1
        have = resources(node)
        taken = used.get(str(node.get("ID", "")), {})
        able += all(have.get(kind, 0) >= amount for kind, amount in want.items())
        places += max(0, min(int((have.get(kind, 0) - taken.get(kind, 0)) // amount) for kind, amount in want.items()))
        if flavor.gpu:
            here = int(have.get(flavor.gpu.resource, 0))
            total += here
            free += max(0, here - int(taken.get(flavor.gpu.resource, 0)))
    return Room(places, serving, able, free, total)


@dataclass(frozen=True)
class Snapshot:
    """Nodes and tasks of one moment. ``taken``: when the engine was asked, by the steady clock."""

    nodes: Mapping[str, Json]
    tasks: Sequence[Json]
    taken: float = 0.0

    def of(self, session: str) -> list[Json]:
        """Tasks of a session, by its service's name."""
        return self._by_session.get(session, [])

    @cached_property
    def _by_session(self) -> dict[str, list[Json]]:
        # Each poll asks for one session of all: a search each time would make a tick of a thousand polls a million looks.
        found: dict[str, list[Json]] = {}
        for task in self.tasks:
            found.setdefault(str(labels(task).get("metalhub.session", "")), []).append(task)
        return found

    def room(self, pool: str, flavor: Flavor) -> Room:
        return room(list(self.nodes.values()), self.tasks, pool, flavor)

    def without(self, sessions: Collection[str]) -> Snapshot:
        """The same without the tasks of these sessions."""
        return replace(self, tasks=[task for task in self.tasks if session_of(task) not in sessions]) if sessions else self


def session_of(task: Json) -> str:
    """The session that a task is of, by its service's name."""
    return str(labels(task).get("metalhub.session", ""))


def labels(task: Json) -> Json:
    """Labels of a task's container: Docker does not list its service's."""
    return (task.get("Spec", {}).get("ContainerSpec") or {}).get("Labels") or {}


class Cluster:
    """One cached list of nodes and tasks for all who ask, so that a poll of a hundred sessions is two requests."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine, self.clock = engine, clock
        self._snapshot: Snapshot | None = None
        self._trouble = ""
        self._taken = float("-inf")
        self._running: asyncio.Task[None] | None = None

    async def _take(self) -> None:
        asked = self.clock()
        try:
            nodes, tasks = await asyncio.gather(self.engine.nodes(), self.engine.tasks())
            self._snapshot = Snapshot({str(node["ID"]): node for node in nodes}, tasks, asked)
            self._trouble = ""
        except (EngineUnknown, EngineRefused) as error:
            # Also a refusal: a node that was demoted answers 4xx to everything, which says nothing about sessions.
            self._trouble = str(error) or type(error).__name__
        finally:
            self._taken = self.clock()

    async def snapshot(self, max_age: float = 1.0) -> Snapshot:
        """Nodes and tasks at most ``max_age`` seconds old. Raises EngineUnknown; that too is remembered so long."""
        if self.clock() - self._taken > max_age:
            if self._running is None or self._running.done():
                self._running = asyncio.ensure_future(self._take())
            await asyncio.shield(self._running)
        if self._trouble or self._snapshot is None:
            raise EngineUnknown(self._trouble or "nothing is known yet")
        return self._snapshot
