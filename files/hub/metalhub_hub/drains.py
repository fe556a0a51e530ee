"""Nodes that an administrator takes out of service: no new sessions at once, an end that is announced, then Swarm's drain.

What was decided is in the records and in a label of the node's entry in the swarm, which tells playbooks to leave it as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from . import cluster
from .core.swarm_plan import HELD
from .engine import EngineRefused, EngineUnknown
from .ledger import LedgerError
from .people import Impossible
from .quota import instant
from .records import Drain

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

TICK = 5.0
# So long the hub stops a node's sessions itself, before Swarm does it.
ENDING = 30.0


class Drains:
    """One a process. ``steady`` is a clock that never jumps."""

    def __init__(self, host: Platform, steady: Callable[[], float] = time.monotonic) -> None:
        self.host, self.steady = host, steady
        self._known: dict[str, Drain] | None = None
        # Since when this process announces each, and since when it ends the sessions there.
        self._told: dict[Drain, float] = {}
        self._ending: dict[Drain, float] = {}

    def known(self) -> dict[str, Drain]:
        """All that was decided, by the node's id. Raises LedgerError."""
        if self._known is None:
            self._known = {each.node: each for each in self.host.people.records.drains()}
        return self._known

    async def _node(self, name: str) -> dict[str, Any]:
        """A node by its host name. Raises Impossible and EngineUnknown."""
        nodes = (await self.host.cluster.snapshot(0.0)).nodes.values()
        found = [node for node in nodes if cluster.hostname(node) == name]
        # A host that was set up anew leaves its old entry behind, which is down.
        ready = [node for node in found if node.get("Status", {}).get("State") == "ready"] or found
        if not ready:
            raise Impossible(f"There is no node {name!r}.", 404)
        if len(ready) > 1:
            raise Impossible(f"There are {len(ready)} nodes that are called {name!r}: remove the entries of those that are gone.")
        return dict(ready[0])

    async def begin(self, name: str, grace: int, reason: str, by: str) -> Drain:
        """No new sessions on a node from now on; after ``grace`` seconds those that run end.

        Raises Impossible, EngineUnknown, EngineRefused, LedgerError.
        """
        node, now = await self._node(name), self.host.quota.clock.now()
        identifier = str(node["ID"])
        drained = node.get("Spec", {}).get("Availability") == "drain"
        known = self.known()
        # Before it is written down: whoever is told that this failed says it again, and nothing is drained of what nobody knows.
        await self.host.engine.update_node(identifier, "drain" if drained else "pause", {HELD: by})
        notice = min(grace, self.host.document.session.stop_notice)
        drain = Drain(identifier, name, reason, by, now, now + grace, notice, drained)
        self.host.people.records.drain(drain)
        known[identifier] = drain
        self.host.audit.write("node.cordoned", node=name, reason=reason, by=by, until=instant(drain.until))
        return drain

    async def end(self, name: str, by: str) -> None:
        """A node takes sessions again. Raises Impossible, EngineUnknown, LedgerError."""
        node = await self._node(name)
        identifier, spec = str(node["ID"]), node.get("Spec", {})
        if spec.get("Availability") == "active" and HELD not in (spec.get("Labels") or {}) and identifier not in self.known():
            raise Impossible(f"Node {name!r} takes sessions already.")
        await self.host.engine.update_node(identifier, "active", {HELD: None})
        self._forget(identifier)
        self.host.audit.write("node.undrained", node=name, by=by)

    def _forget(self, node: str) -> None:
        self.host.people.records.undrain(node)
        self.known().pop(node, None)

    # The loop

    async def watch(self) -> None:
        """Do what is due, for ever; the body of a task."""
        while True:
            try:
                await self.tick()
            except (EngineUnknown, EngineRefused, LedgerError) as error:
                log.warning("The drain of nodes waits: %s", error)
            except Exception:
                log.exception("The look at the nodes that are drained failed")
            await asyncio.sleep(TICK)

    def due(self, drain: Drain) -> bool:
        """Whether a node's time is over, and its end was announced by this process as long as it has to be."""
        told = self.steady() - self._told.setdefault(drain, self.steady())
        return self.host.quota.clock.now() >= drain.until and told >= drain.notice

    async def tick(self) -> None:
        """One look at everything. Raises EngineUnknown, EngineRefused, LedgerError."""
        for drain in list(self.known().values()):
            if drain.done or not self.due(drain):
                continue
            node = await self.host.engine.node(drain.node)
            if node is None or HELD not in (node.get("Spec", {}).get("Labels") or {}):
                log.warning("Node %s is not drained: its entry in the swarm was changed since", drain.name)
                self._forget(drain.node)
                continue
            if self._sessions_end(drain):
                continue
            await self.host.engine.update_node(drain.node, "drain", {})
            done = replace(drain, done=True)
            self.host.people.records.drain(done)
            self.known()[drain.node] = done
            self.host.audit.write("node.drained", node=drain.name, reason=drain.reason, by=drain.by)

    def _sessions_end(self, drain: Drain) -> bool:
        """End the sessions of a node. Whether some are left that are worth waiting for."""
        begun = self._ending.setdefault(drain, self.steady())
        there = [spawner for spawner in self.host.spawners() if spawner.node == drain.name and spawner.service_name]
        for spawner in there:
            spawner.stop_detail = f"The reason: {drain.reason}." if drain.reason else ""
            self.host.sessions.stop(spawner, "drain")
        return bool(there) and self.steady() - begun < ENDING

    # For the pages and the API

    def notice(self, name: str) -> dict[str, str] | None:
        """What a session on a node is told of its end, with a key that stays while it is about the same."""
        try:
            drain = next((each for each in self.known().values() if each.name == name and not each.done), None)
        except LedgerError:
            return None
        if drain is None:
            return None
        at = datetime.fromtimestamp(drain.until, self.host.document.time_zone)
        why = f" ({drain.reason})" if drain.reason else ""
        text = (
            f"The machine that runs this session, {name}, is taken out of service at {at:%H:%M}{why}, and the session ends then. "
            "Save your work and start again: you get another machine. Your home stays."
        )
        return {"key": f"drain {drain.node} {drain.at}", "text": text}

    def shown(self, node: str) -> dict[str, Any] | None:
        """What was decided of a node, for administrators. Raises LedgerError."""
        drain = self.known().get(node)
        return drain and {"reason": drain.reason, "by": drain.by, "until": instant(drain.until), "done": drain.done}
