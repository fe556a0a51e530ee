"""What the nodes' egress services say: whether the way out of sessions is open, and what was refused.

The hub only asks. A node that does not answer goes on refusing and allowing as its policy says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from . import cluster, config
from .core.egress_report import Row, merge, summarize
from .core.egress_terms import NODE_LINES
from .engine import EngineUnknown, Tls
from .node_client import NodeClient, Silent

log = logging.getLogger("metalhub")

HEALTH_EVERY = 10.0
HEALTH_PATIENCE = 3.0
REPORT_AGE = 10.0
REPORT_PATIENCE = 15.0
# Nodes that are asked at once: for the few words of their health, and for refusals, which are megabytes each.
HEALTH_AT_ONCE, REPORTS_AT_ONCE = 64, 4
NODE_ROWS = 5_000
SITE_ROWS = 20_000
SPANS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}

_UNIT = re.compile(r"metalhub-(?P<kind>resolver|squid)@(?P<klass>.+)\.service", re.ASCII)
_PARTS = {"squid": "the proxy", "resolver": "the resolver"}
# The resolver that those of the classes ask.
_EVERY = "_node"


@dataclass(frozen=True)
class Health:
    """A node as it was seen last: the units that do not run there, or why it did not answer (``dead``: because nothing listens)."""

    down: tuple[str, ...] = ()
    trouble: str = ""
    dead: bool = False

    @property
    def well(self) -> bool:
        """Whether everything is known to run."""
        return not (self.down or self.trouble or self.dead)

    def parts(self, klass: str = "") -> list[str]:
        """What does not run, in words: of all classes, or only what sessions of one need."""
        if self.dead:
            return ["the egress service"]
        found = []
        for unit in self.down:
            match = _UNIT.fullmatch(unit)
            of = match["klass"] if match else ""
            part = _PARTS[match["kind"]] if match else unit
            if of == _EVERY or (klass and of == klass):
                found.append(part)
            elif not klass:
                found.append(f"{part} of class {of}" if of else part)
        return list(dict.fromkeys(found))

    def words(self) -> str:
        """The state in a few words."""
        if self.well:
            return "runs"
        if self.trouble and not self.dead:
            return f"does not answer: {self.trouble}"
        return f"{_listed(self.parts())} {_runs_not(self.parts())}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""


def _runs_not(parts: Sequence[str]) -> str:
    return "do not run" if len(parts) > 1 else "does not run"


def way_out(health: Health | None, node: str, klass: str, offer: config.Egress) -> str:
    """Why sessions of a class on a node get nowhere, as a sentence for their user; empty where they do, or nobody can tell."""
    # A class without names uses neither proxy nor resolver.
    parts = health.parts(klass) if health and offer.proxy else []
    if not parts:
        return ""
    return f"Your session's way out is closed: {_listed(parts)} on node {node} {_runs_not(parts)}; administrators see it too."


@dataclass(frozen=True)
class Report:
    """What was refused since a time. ``silent`` maps nodes that did not answer to the reason, ``cut`` those that had more lines than
    they tell to the time from which theirs count."""

    since: str
    rows: tuple[Row, ...]
    silent: Mapping[str, str]
    cut: Mapping[str, str]

    def top(self, user: str, klass: str, limit: int) -> list[Row]:
        """The most frequent, of one user and one class where they are given."""
        return [row for row in self.rows if user in ("", row.user) and klass in ("", row.klass)][:limit]

    def users(self) -> list[str]:
        """Whoever was refused something."""
        return sorted({row.user for row in self.rows if row.user})

    def classes(self) -> list[str]:
        """The classes that refused something."""
        return sorted({row.klass for row in self.rows if row.klass})


def fold(body: bytes) -> tuple[list[Row], str]:
    """The rows of a node's answer, and the time of its oldest line if it had more to tell. Raises ValueError for what is none."""
    data = json.loads(body)
    lines = data.get("lines") if isinstance(data, dict) else None
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError("it answers something else than lines")
    cut = min((str(line.get("time", "")) for line in lines), default="") if len(lines) >= NODE_LINES else ""
    return summarize(lines, top=NODE_ROWS), cut


class Nodes(NodeClient):
    """The egress services of all compute nodes, asked with the hub's certificate. ``now`` is the time of day in UTC."""

    def __init__(
        self,
        port: int,
        snapshots: cluster.Cluster,
        tls: Tls,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        super().__init__(port, snapshots, tls)
        self.clock, self.now = clock, now
        self.health: dict[str, Health] = {}
        self._reports: dict[str, asyncio.Task[Report]] = {}
        self._until: dict[str, float] = {}

    # Health

    async def watch(self) -> None:
        """Look at all nodes for ever; the body of a task."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("The look at the nodes' egress services failed")
            await asyncio.sleep(HEALTH_EVERY)

    async def look(self) -> None:
        """Ask every node once. Where the cluster does not answer, what was seen before stays."""
        try:
            nodes = await self.nodes(HEALTH_EVERY)
        except EngineUnknown:
            return
        gate = asyncio.Semaphore(HEALTH_AT_ONCE)
        found = dict(zip(nodes, await asyncio.gather(*(self._health(node, gate) for node in nodes.values())), strict=True))
        for name, health in found.items():
            before = self.health.get(name, Health())
            if health != before:
                log.log(logging.INFO if health.well else logging.WARNING, "The way out of node %s: %s", name, health.words())
        self.health = found

    async def _health(self, node: cluster.Json, gate: asyncio.Semaphore) -> Health:
        try:
            async with gate:
                data = json.loads(await self.get(node, "/health", HEALTH_PATIENCE))
            return Health(down=tuple(map(str, data["down"])))
        except Silent as silent:
            return Health(trouble=str(silent), dead=silent.dead)
        except (ValueError, KeyError, TypeError):
            return Health(trouble="it answers something else than its health")

    def way_out(self, node: str, klass: str, offer: config.Egress) -> str:
        """Why sessions of a class on a node get nowhere; empty where they do, or nobody can tell."""
        return way_out(self.health.get(node), node, klass, offer)

    def alarms(self) -> list[str]:
        """A sentence for each node that is not well, for administrators."""
        return [f"{name}: {health.words()}" for name, health in sorted(self.health.items()) if not health.well]

    # Refusals

    async def report(self, span: str) -> Report:
        """What was refused within a span of ``SPANS``; an answer is good for a few seconds, whoever asks. Raises EngineUnknown."""
        task = self._reports.get(span)
        if task is None or self.clock() > self._until.get(span, float("inf")):
            self._until.pop(span, None)
            task = self._reports[span] = asyncio.ensure_future(self._report(span))
            task.add_done_callback(lambda _: self._until.update({span: self.clock() + REPORT_AGE}))
        return await asyncio.shield(task)

    async def _report(self, span: str) -> Report:
        since = (self.now() - SPANS[span]).strftime("%Y-%m-%dT%H:%M:%SZ")
        nodes = await self.nodes(HEALTH_EVERY)
        gate = asyncio.Semaphore(REPORTS_AT_ONCE)
        silent: dict[str, str] = {}
        cut: dict[str, str] = {}

        async def ask(name: str, node: cluster.Json) -> Iterable[Row]:
            try:
                async with gate:
                    rows, oldest = await asyncio.to_thread(fold, await self.get(node, f"/refusals?since={since}", REPORT_PATIENCE))
            except Silent as error:
                silent[name] = str(error)
                return ()
            except ValueError as error:
                silent[name] = f"its answer cannot be read: {error}"
                return ()
            if oldest:
                cut[name] = oldest
            return rows

        tables = await asyncio.gather(*(ask(name, node) for name, node in nodes.items()))
        # Not on the loop: with a hundred nodes this takes a second.
        rows = await asyncio.to_thread(lambda: merge((row for table in tables for row in table), top=SITE_ROWS))
        return Report(since, tuple(rows), dict(sorted(silent.items())), dict(sorted(cut.items())))
