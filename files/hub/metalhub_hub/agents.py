"""What the nodes' session agents say: of each session how much memory and processor time it takes, and whether it can be hibernated.

One request a node and look. A node that does not answer says nothing: its sessions' figures are not known, they are not gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from . import cluster
from .engine import EngineUnknown, Tls
from .node_client import NodeClient, Silent

log = logging.getLogger("metalhub")

LOOK_EVERY = 10.0
PATIENCE = 3.0
AT_ONCE = 64
# Figures count for the present so long: two looks may fail.
FRESH = 35.0

RUNNING, FROZEN, RECLAIMING, RECLAIMED, ENDED = "running", "frozen", "reclaiming", "reclaimed", "ended"
STATES = (RUNNING, FROZEN, RECLAIMING, RECLAIMED, ENDED)

UNTOLD = "its machine does not say right now whether the session can be hibernated"


@dataclass(frozen=True)
class Figures:
    """A session as its node saw it: ``memory`` and ``peak`` in bytes of at most ``limit`` (None: no limit), ``swap`` in bytes.

    ``cpu`` is how many processors it kept busy between the last two looks (None: there was one only), ``oom`` how often the kernel ended
    something in it for memory. ``given_back`` and ``seconds`` are of its last hibernation: bytes that the node got back, and how long that
    took. ``at`` is the node's time, ``asked`` the hub's steady one just before it was asked.
    """

    node: str
    container: str
    state: str
    memory: int
    peak: int
    limit: int | None
    swap: int
    oom: int
    cpu: float | None
    cpu_seconds: float
    given_back: int | None
    seconds: float | None
    at: float
    asked: float

    @property
    def ended(self) -> bool:
        """Whether the session is over, and these are its last figures."""
        return self.state == ENDED

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self.state in (FROZEN, RECLAIMING, RECLAIMED)


@dataclass(frozen=True)
class Node:
    """What a node has for hibernated sessions: bytes of swap and memory, the ``largest`` session that it takes, ``why`` it takes none."""

    hibernates: bool
    why: str
    swap_total: int
    swap_free: int
    memory_total: int
    memory_available: int
    largest: int


def read(body: bytes, name: str, before: Mapping[str, Figures], asked: float) -> tuple[Node, dict[str, Figures]]:
    """A node's answer: itself and its sessions by their names. ``before`` is what it said last. Raises ValueError for what is none."""
    try:
        data = json.loads(body)
        node = data["node"]
        found = Node(
            bool(node["hibernates"]),
            str(node["why"]),
            int(node["swap"]["total"]),
            int(node["swap"]["free"]),
            int(node["memory"]["total"]),
            int(node["memory"]["available"]),
            int(node["largest"]),
        )
        return found, {str(one["session"]): _figures(one, name, before.get(str(one["session"])), asked) for one in data["sessions"]}
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"it answers something else than its sessions: {type(error).__name__} {error}") from None


def _figures(one: Mapping[str, Any], node: str, before: Figures | None, asked: float) -> Figures:
    def maybe(key: str, kind: Callable[[Any], Any]) -> Any:
        return None if one[key] is None else kind(one[key])

    container, cpu, at = str(one["container"]), float(one["cpu"]), float(one["at"])
    if one["state"] not in STATES:
        raise ValueError(f"{one['state']!r} is no state of a session")
    share = None
    if before is not None and before.container == container:
        # The agent takes its samples when it likes: the same one twice says nothing new.
        share = max(0.0, cpu - before.cpu_seconds) / (at - before.at) if at > before.at else before.cpu
    return Figures(
        node, container, str(one["state"]), int(one["memory"]), int(one["peak"]), maybe("limit", int), int(one["swap"]), int(one["oom"]),
        share, cpu, maybe("given_back", int), maybe("seconds", float), at, asked,
    )  # fmt: skip


class Agents(NodeClient):
    """The session agents of all compute nodes. Without a port there are none, and nothing is known."""

    def __init__(self, port: int, snapshots: cluster.Cluster, tls: Tls, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(port, snapshots, tls)
        self.clock = clock
        self.silent: dict[str, str] = {}  # nodes that gave no usable answer at the last look, with the reason
        self._nodes: dict[str, tuple[Node, float]] = {}
        self._figures: dict[str, Figures] = {}

    async def watch(self) -> None:
        """Look at all nodes for ever; the body of a task."""
        while self.port:
            try:
                await self.look()
            except Exception:
                log.exception("The look at the nodes' session agents failed")
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Ask every node once. Where the cluster does not answer, what was seen before stays until it is too old."""
        try:
            nodes = await self.nodes(LOOK_EVERY)
        except EngineUnknown:
            return
        gate, silent = asyncio.Semaphore(AT_ONCE), {}

        async def ask(name: str, node: cluster.Json) -> tuple[str, Node, dict[str, Figures]] | None:
            async with gate:
                asked = self.clock()
                try:
                    return name, *read(await self.get(node, "/status", PATIENCE), name, self._figures, asked)
                except (Silent, ValueError) as error:
                    silent[name] = str(error)
                    return None

        answers = await asyncio.gather(*(ask(name, node) for name, node in nodes.items()))
        for name in silent.keys() ^ self.silent.keys():
            log.warning("The session agent of node %s %s", name, f"gives no answer: {silent[name]}" if name in silent else "answers again")
        self.silent = silent
        told = [answer for answer in answers if answer is not None]
        heard = {name for name, _, _ in told}
        # Of nodes that said nothing the last figures stay, for their age shows.
        kept = {session: one for session, one in self._figures.items() if one.node in nodes and one.node not in heard}
        for name, node, sessions in told:
            self._nodes[name] = (node, self.clock())
            kept.update(sessions)
        self._nodes = {name: found for name, found in self._nodes.items() if name in nodes}
        self._figures = kept

    def figures(self, session: str) -> Figures | None:
        """What a session takes now, or took at its end; None where nobody can tell. ``session`` is its service's name."""
        found = self._figures.get(session)
        return found if found is not None and self.clock() - found.asked <= FRESH else None

    def container(self, session: str) -> str:
        """The id of a session's container as it was last heard of; empty where it never was."""
        found = self._figures.get(session)
        return found.container if found is not None else ""

    def node(self, name: str) -> Node | None:
        """What a node said of itself; None where it does not answer."""
        found = self._nodes.get(name)
        return found[0] if found is not None and self.clock() - found[1] <= FRESH else None

    async def check(self, node: cluster.Json, session: str) -> str:
        """Why a session cannot be hibernated where it is, in words for its user; empty where it can."""
        try:
            data = json.loads(await self.get(node, f"/check/{quote(session, safe='')}", PATIENCE))
            return "" if data["hibernates"] is True else str(data["why"]) or UNTOLD
        except Silent as silent:
            log.warning("The session agent of %s does not say whether %s can be hibernated: %s", cluster.hostname(node), session, silent)
        except (ValueError, KeyError, TypeError):
            log.warning("The session agent of %s answers something else than whether %s can be hibernated", cluster.hostname(node), session)
        return UNTOLD
