"""Hibernation: a session that nobody uses is frozen where it is, its node takes its memory back, and a visit wakes it.

The node's engine freezes and its agent gives the memory back; the hub decides when, and leads whoever comes meanwhile to itself. Each
change is written down before it is made: a hub that is killed in between has a session that counts as hibernated, which a visit wakes,
and never one that stands still while its route leads to it. What is written down and what is are compared at each look.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import prometheus_client

from . import acting, cluster
from .agents import UNTOLD
from .config import Profile
from .core import lifecycle, sandboxes
from .engine import EngineUnknown
from .ledger import LedgerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .platform import Platform

log = logging.getLogger("metalhub")

# A session that cannot be hibernated is asked about again after so long: it may have become smaller.
AGAIN = 300.0
# So long a stop waits for a change that is under way.
SETTLE = 10.0
# So long a wake waits for the session's route, which the hub's regular check mends otherwise.
ROUTE = 5.0
VISIT, FOUND = "visit", "found"

_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS = prometheus_client.Histogram(
    "metalhub_hibernation_seconds", "How long it took to freeze or wake a session, its route included", ["act"], buckets=_BUCKETS
)
FAILURES = prometheus_client.Counter("metalhub_hibernation_failures", "Sessions that could not be frozen or woken", ["act"])
for _act in ("hibernate", "wake"):
    SECONDS.labels(_act)
    FAILURES.labels(_act)


class Unchanged(Exception):
    """A session was not hibernated or not woken; the text is a sentence for its user. ``trouble``: because something does not work now."""

    def __init__(self, sentence: str, trouble: bool = False) -> None:
        super().__init__(sentence)
        self.trouble = trouble


GONE = "This session does not run any more."
NOT_NOW = "The cluster does not answer right now; try again in a minute."


def sentence(words: str) -> str:
    """Words as a sentence of their own."""
    return words[:1].upper() + words[1:].rstrip(". ") + "."


@dataclass
class _Own:
    """What is remembered of one session: who changes it now, when that last ended, and why it stays awake until when."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: float = float("-inf")
    stays: str = ""
    until: float = float("-inf")


class Hibernation:
    """One a process. It changes ``life`` of spawners; everything else about them is for ``Sessions``."""

    def __init__(self, host: Platform, clock: Callable[[], float] = time.monotonic) -> None:
        self.host, self.clock = host, clock
        self._own: dict[str, _Own] = {}

    @property
    def offered(self) -> bool:
        """Whether nodes have what takes the memory of frozen sessions back."""
        return bool(self.host.agents.port)

    def refusal(self, profile: Profile | None) -> str:
        """Why no session of a profile is ever hibernated, as a sentence; empty where it can be."""
        if not self.offered:
            return "Sessions are not hibernated on this platform."
        if profile is None:
            return "The session's profile is not there any more."
        found = sandboxes.hibernation_refusal(profile.sandbox, profile.flavor.gpu is not None)
        return sentence(found) if found else ""

    def refusal_here(self, spawner: Any) -> str:
        """The same for a session, and why its node takes none at present, as far as it has said so."""
        if (found := self.refusal(spawner.profile)) or _frozen(spawner):
            return found
        node = self.host.agents.node(spawner.node)
        return sentence(node.why) if node is not None and not node.hibernates else ""

    def stays(self, spawner: Any) -> str:
        """Why a session that was to be hibernated goes on, as a sentence; empty where there is nothing to tell."""
        own = self._own.get(spawner.service_name)
        return own.stays if own is not None and self.clock() < own.until else ""

    def forget(self, sessions: set[str]) -> None:
        """Keep nothing of other sessions than these."""
        self._own = {name: own for name, own in self._own.items() if name in sessions or own.lock.locked()}

    # What is done to a session. One after the other; whoever comes second finds what the first one did.

    @asynccontextmanager
    async def _change(self, spawner: Any) -> AsyncIterator[tuple[str, _Own]]:
        session = spawner.service_name
        own = self._own.setdefault(session, _Own())
        async with own.lock:
            try:
                yield session, own
            finally:
                own.changed = self.clock()

    def _runs(self, spawner: Any, session: str) -> bool:
        return bool(session) and spawner.service_name == session and self.host.sessions.runs(spawner)

    async def hibernate(self, spawner: Any, cause: str = "") -> None:
        """Freeze a running session; one that is frozen stays it. Raises Unchanged, and then it goes on as before."""
        cause = cause or ("admin" if acting.other_than(spawner.user.name) else "user")
        async with self._change(spawner) as (session, own):
            if not self._runs(spawner, session):
                raise Unchanged(GONE)
            if _frozen(spawner):
                return
            begun = self.clock()
            try:
                await self._hibernate(spawner, session)
            except Unchanged as unchanged:
                # It is told on the page, and the session is stopped when its time has come.
                own.stays, own.until = str(unchanged), self.clock() + AGAIN
                log.info("Session %s of %s is not hibernated: %s", session, spawner.user.name, unchanged)
                raise
            own.stays = ""
            seconds = self.clock() - begun
            SECONDS.labels("hibernate").observe(seconds)
            log.info("Session %s of %s is hibernated (%s) after %.3f s", session, spawner.user.name, cause, seconds)
            spawner._audit("hibernated", cause=cause, seconds=round(seconds, 3))
            self.meter(spawner)

    async def _hibernate(self, spawner: Any, session: str) -> None:
        if refusal := self.refusal(spawner.profile):
            raise Unchanged(refusal)
        node, address, container = await self._place(spawner)
        if node is None:
            raise Unchanged(NOT_NOW, trouble=True)
        if why := await self.host.agents.check(node, session):
            raise Unchanged(sentence(why), trouble=why == UNTOLD)
        if not self._runs(spawner, session):
            raise Unchanged(GONE)
        self._write(spawner, lifecycle.freeze(self._record(spawner)))
        _, paused = await asyncio.gather(self._route(spawner), self.host.engine.pause_container(address, container))
        if paused:
            return
        FAILURES.labels("hibernate").inc()
        log.warning("The engine of %s does not freeze %s", address, session)
        if paused is None:
            # It may have been heard nevertheless, or be heard later: then the comparison at a look finds it.
            await self.host.engine.unpause_container(address, container)
        if self._runs(spawner, session):
            self._write(spawner, lifecycle.unfreeze(self._record(spawner)))
            await self._route(spawner)
        raise Unchanged("The session's machine did not hibernate it; nothing of it is lost.", trouble=True)

    async def wake(self, spawner: Any, cause: str = "") -> None:
        """Let a frozen session go on and lead to it again. Nothing is done to one that is awake. Raises Unchanged."""
        cause = cause or ("admin" if acting.other_than(spawner.user.name) else "user")
        begun = self.clock()
        async with self._change(spawner) as (session, _):
            if not self._runs(spawner, session):
                raise Unchanged(GONE)
            if not _frozen(spawner):
                return
            frozen = self._record(spawner)
            try:
                _, address, container = await self._place(spawner)
            except Unchanged:
                FAILURES.labels("wake").inc()
                raise
            # The route follows the record. It is saved when the session goes on: until then a hub that is killed has it hibernated.
            spawner.life = lifecycle.thaw(frozen, self.host.sessions.now())
            route = asyncio.ensure_future(self._route(spawner))
            awake = await self.host.engine.unpause_container(address, container)
            thawed = self.clock() - begun
            if not awake:
                FAILURES.labels("wake").inc()
                log.error("The engine of %s does not let %s go on", address, session)
                if self._runs(spawner, session):
                    spawner.life = lifecycle.freeze(self._record(spawner))
                    await route
                    await self._route(spawner)
                raise Unchanged("The session's machine did not wake it; try again in a minute. Nothing of it is lost so far.", trouble=True)
            await route
            seconds = self.clock() - begun
            if not self._runs(spawner, session):
                raise Unchanged(GONE)
            self._write(spawner, spawner.life)
            SECONDS.labels("wake").observe(seconds)
            log.info(
                "Session %s of %s is awake (%s) after %.3f s: unpaused=%.3f route=%.3f",
                session, spawner.user.name, cause, seconds, thawed, seconds,
            )  # fmt: skip
            spawner._audit("woken", cause=cause, seconds=round(seconds, 3))
            self.meter(spawner)

    async def release(self, spawner: Any, address: str, container: str) -> None:
        """Let a session that is about to be stopped go on, so that it can end by itself. What is under way ends first."""
        own = self._own.get(spawner.service_name)
        try:
            async with asyncio.timeout(SETTLE), own.lock if own else asyncio.Lock():
                if _frozen(spawner):
                    await self.host.engine.unpause_container(address, container)
        except TimeoutError:
            log.warning("Session %s is stopped while it is being hibernated or woken", spawner.service_name)

    # What is written down and what is

    async def reconcile(self, spawner: Any) -> bool:
        """Take into the record what the session's node says: a hub was killed in the middle, or somebody used the engine by hand.

        Returns whether the record changed.
        """
        own, figures = self._own.setdefault(spawner.service_name, _Own()), self.host.agents.figures(spawner.service_name)
        if own.lock.locked():
            return False
        self.meter(spawner)
        # What was said before the last change is about what was before it.
        if figures is None or figures.ended or figures.frozen == _frozen(spawner) or figures.asked <= own.changed:
            return False
        async with self._change(spawner) as (session, _):
            try:
                _, address, container = await self._place(spawner)
            except Unchanged:
                return False
            paused = await self.host.engine.is_paused(address, container)
            if paused is None or not self._runs(spawner, session) or paused == _frozen(spawner):
                return False
            log.warning("Session %s is found %s, which is not what was written down", session, "frozen" if paused else "awake")
            record = self._record(spawner)
            self._write(spawner, lifecycle.freeze(record) if paused else lifecycle.thaw(record, self.host.sessions.now()))
            spawner._audit("hibernated" if paused else "woken", cause=FOUND)
            await self._route(spawner)
        self.meter(spawner)
        return True

    def meter(self, spawner: Any) -> None:
        """A frozen session costs no processor and no memory. Done again at each look, so that what failed or was missed is mended."""
        try:
            if _frozen(spawner):
                self.host.quota.pause(spawner)
            else:
                self.host.quota.resume(spawner)
        except LedgerError as error:
            log.error("The ledger does not take whether %s is hibernated; it is tried again: %s", spawner.service_name, error)

    # Parts

    def _record(self, spawner: Any) -> lifecycle.Record:
        return self.host.sessions.record(spawner, self.host.sessions.now())

    @staticmethod
    def _write(spawner: Any, record: lifecycle.Record) -> None:
        spawner.life = record
        spawner._save()

    async def _place(self, spawner: Any) -> tuple[cluster.Json | None, str, str]:
        """A session's node, that one's address and the container there, which are the same for all its life. Raises Unchanged.

        Without the managers, which a wake does not need, the node is None.
        """
        try:
            # What an old look does not show yet may have come up since.
            for age in (30.0, 0.0):
                snapshot = await self.host.cluster.snapshot(age)
                task = cluster.newest(snapshot.of(spawner.service_name))
                node = snapshot.nodes.get(str((task or {}).get("NodeID", "")))
                if task is not None and node is not None and cluster.container(task):
                    return node, cluster.node_address(node), cluster.container(task)
        except EngineUnknown:
            pass
        address, container = urlsplit(spawner.url).hostname, self.host.agents.container(spawner.service_name)
        if not address or not container:
            raise Unchanged(NOT_NOW, trouble=True)
        return None, address, container

    async def _route(self, spawner: Any) -> None:
        """Lead whoever comes where the session's record says: to it, or to the hub while it is frozen."""
        session = spawner.service_name
        try:
            async with asyncio.timeout(ROUTE):
                await self.host.proxy.add_user(spawner.user, spawner.name)
        except Exception as error:
            log.warning("The route of %s is left to the hub's own check: %s", session, error or type(error).__name__)
        if spawner.service_name == session and spawner.pending == "stop":
            # It was deleted for the stop in the meantime.
            await self.host.proxy.delete_user(spawner.user, spawner.name)


def _frozen(spawner: Any) -> bool:
    return spawner.life is not None and spawner.life.frozen
