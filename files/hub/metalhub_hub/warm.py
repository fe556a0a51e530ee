"""Sessions that are ready before somebody asks for one.

They are ordinary services, made one at a time where room is left over, and wait without a home. Whoever starts a session of that profile
is handed one: the agent of its node puts the home in its place, and the session gets its user's environment. What goes wrong on that way
ends in an ordinary start. A hub that begins knows nothing of the ready sessions of the one before it; those are swept like any that nobody
owns.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import prometheus_client

from . import cluster, service
from .config import Document, Profile
from .core import warm_pool
from .engine import EngineRefused, EngineUnknown
from .node_client import Silent
from .policy import Refused

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

TICK = 2.0
# So long a session may take until it is ready, and so long a profile is left alone whose sessions do not become ready.
PATIENCE, PAUSE = 60.0, 600.0
CLAIM_PATIENCE = 5.0
# Room that is made for somebody is there once Swarm has seen the end of what had it.
ROOM_PATIENCE = 5.0
MOST_REMEMBERED = 10_000

READY = prometheus_client.Gauge("metalhub_warm_sessions", "Sessions that wait ready for somebody", ["profile"])
HANDED = prometheus_client.Counter(
    "metalhub_warm_starts", "Starts of profiles that keep sessions ready, by whether one was", ["profile", "outcome"]
)


class Gone(Exception):
    """A ready session could not be handed out; the text says why."""


@dataclass
class Warm:
    """One session that is nobody's yet. ``key`` is what it was made from, ``machine`` its node as it was then."""

    name: str
    profile: str
    key: str
    machine: cluster.Json
    secret: str
    made: float
    task: str = ""
    port: int = 0
    ready: bool = False

    @property
    def node(self) -> str:
        return cluster.hostname(self.machine)

    @property
    def node_id(self) -> str:
        return str(self.machine["ID"])

    @property
    def address(self) -> str:
        return cluster.node_address(self.machine)


class WarmPool:
    """The ready sessions of all profiles. ``clock`` counts seconds."""

    def __init__(self, host: Platform, clock: Any = time.monotonic) -> None:
        self.host, self.clock = host, clock
        self.there: dict[str, Warm] = {}
        self._starts: dict[str, deque[float]] = {}
        self._paused: dict[str, float] = {}
        self._making: set[asyncio.Task[None]] = set()
        # By profile: the document and the image of the last look, and the key that they make.
        self._keys: dict[str, tuple[Document, str, str]] = {}
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End what is under way and the connections."""
        for task in self._making:
            task.cancel()
        if self._http:
            await self._http.close()

    @property
    def enabled(self) -> bool:
        """Whether any profile keeps sessions ready, and there are agents that can hand them out."""
        home = os.path.basename(self.host.document.session.home) == warm_pool.INNER
        return home and bool(self.host.document.agent_port) and any(profile.warm for profile in self.host.document.profiles.values())

    def names(self) -> set[str]:
        """The services of the sessions that are nobody's: their room is anybody's."""
        return set(self.there)

    # Keeping them

    async def watch(self) -> None:
        """Keep as many as are wanted, for ever; the body of a task."""
        while True:
            await asyncio.sleep(TICK)
            try:
                if self.enabled:
                    await self.tick(bool(self.host.admission.rows()))
            except (EngineUnknown, EngineRefused) as error:
                log.warning("Cannot look after the sessions that are kept ready: %s", error)
            except Exception:
                log.exception("The look at the sessions that are kept ready failed")

    async def tick(self, waiting: bool = False) -> None:
        """Make and remove what there are too few and too many of. ``waiting``: somebody waits for room."""
        snapshot = await self.host.cluster.snapshot(TICK / 2)
        for warm in list(self.there.values()):
            tasks = snapshot.of(warm.name)
            lives = not warm.ready or (bool(tasks) and cluster.judge(tasks, snapshot.nodes, warm.task).alive)
            if warm.key != self._key(warm.profile) or not lives:
                await self.remove(warm)
        shelves, now = {}, self.clock()
        for profile in self.host.document.profiles.values():
            mine = sorted((warm for warm in self.there.values() if warm.profile == profile.name), key=lambda warm: not warm.ready)
            paused = self._paused.get(profile.name, 0.0) > now
            want = 0 if paused or not self._key(profile.name) else self._wanted(profile, now)
            places = 0 if any(not warm.ready for warm in mine) else snapshot.room(profile.pool, profile.flavor).places
            shelves[profile.name] = warm_pool.Shelf(len(mine), want, places)
            READY.labels(profile.name).set(sum(warm.ready for warm in mine))
        for name, change in warm_pool.changes(shelves, waiting).items():
            if change > 0:
                self._begin(self.host.document.profiles[name], snapshot)
            for warm in [warm for warm in self.there.values() if warm.profile == name][: max(0, -change)]:
                await self.remove(warm)

    def _wanted(self, profile: Profile, now: float) -> int:
        return warm_pool.wanted((now - start for start in self._starts.get(profile.name, ())), profile.warm)

    def _key(self, name: str) -> str:
        """What a ready session of a profile is made from, as one text; empty where none can be."""
        document = self.host.document
        profile = document.profiles.get(name)
        # A start-up script runs before the server does, for its user: there is nothing to have ready.
        if profile is None or not profile.warm or profile.startup:
            return ""
        try:
            image = self.host.images.reference(profile.image)
        except Refused:
            return ""
        kept = self._keys.get(name)
        if kept is None or kept[0] is not document or kept[1] != image:
            text = json.dumps(self._spec(profile, image, "", "", ""), sort_keys=True)
            kept = self._keys[name] = (document, image, hashlib.sha256(text.encode()).hexdigest())
        return kept[2]

    def _spec(self, profile: Profile, image: str, name: str, node_id: str, secret: str) -> dict[str, Any]:
        return service.warm_spec(self.host.document, profile, name=name, image=image, node=node_id, secret=secret)

    def _begin(self, profile: Profile, snapshot: cluster.Snapshot) -> None:
        rooms = [(key, cluster.room([node], snapshot.tasks, profile.pool, profile.flavor).places) for key, node in snapshot.nodes.items()]
        node_id = warm_pool.fullest(sorted(rooms))
        if not node_id:
            return
        warm = Warm(
            name=warm_pool.name(secrets.token_hex(6)),
            profile=profile.name,
            key=self._key(profile.name),
            machine=snapshot.nodes[node_id],
            secret=secrets.token_urlsafe(32),
            made=self.clock(),
        )
        self.there[warm.name] = warm
        task = asyncio.ensure_future(self._make(warm, profile))
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _make(self, warm: Warm, profile: Profile) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._agent(warm, "")
                image = self.host.images.reference(profile.image)
                await self.host.engine.create_service(self._spec(profile, image, warm.name, warm.node_id, warm.secret))
                await self._until_ready(warm)
        except (Gone, Refused, EngineUnknown, EngineRefused, TimeoutError) as error:
            log.warning("A session of %s could not be made ready on %s: %s", profile.name, warm.node, str(error) or "it took too long")
            # Room that was taken meanwhile is nobody's fault.
            if warm.name in self.there:
                self._paused[profile.name] = self.clock() + PAUSE
            await self.remove(warm)
            return
        log.info("A session of %s is ready on %s after %.1f s", profile.name, warm.node, self.clock() - warm.made)

    async def _until_ready(self, warm: Warm) -> None:
        while warm.name in self.there:
            await asyncio.sleep(0.25)
            snapshot = await self.host.cluster.snapshot(0.5)
            tasks = snapshot.of(warm.name)
            verdict = cluster.judge(tasks, snapshot.nodes)
            if not verdict.alive:
                raise Gone(f"it ended: {verdict.detail or verdict.cause}")
            task = cluster.newest(tasks)
            port = cluster.published_port(task, service.PORT) if task else None
            if task is None or port is None or cluster.task_state(task) != "running":
                continue
            warm.task, warm.port = str(task["ID"]), port
            if await self._answers(warm):
                warm.ready = True
                return
        raise Gone("its room was needed")

    async def remove(self, warm: Warm) -> None:
        """End a session that is nobody's."""
        self.there.pop(warm.name, None)
        await self._stop(warm)

    async def _stop(self, warm: Warm) -> None:
        try:
            task = cluster.newest((await self.host.cluster.snapshot(0.5)).of(warm.name))
            if task is not None and cluster.container(task):
                # It has nothing to save, and Swarm alone takes two seconds for it.
                await self.host.engine.kill_container(warm.address, cluster.container(task))
            await self.host.engine.remove_service(warm.name)
        except (EngineUnknown, EngineRefused) as error:
            log.warning("%s is left to the sweep: %s", warm.name, error)

    # Handing them out

    def started(self, profile: Profile) -> None:
        """Somebody starts a session of a profile."""
        if profile.warm:
            self._starts.setdefault(profile.name, deque(maxlen=MOST_REMEMBERED)).append(self.clock())

    def take(self, profile: Profile) -> Warm | None:
        """A ready session of a profile, which is the caller's from now on; None where there is none."""
        key = self._key(profile.name)
        found = next((warm for warm in self.there.values() if warm.ready and warm.profile == profile.name and warm.key == key), None)
        if found:
            del self.there[found.name]
        if profile.warm:
            HANDED.labels(profile.name, "ready" if found else "none").inc()
        return found

    async def hand_out(self, warm: Warm, home: str, user: str, environment: Mapping[str, str]) -> None:
        """Make a session that was taken somebody's: its home, then its environment. Raises Gone, and then it has to be removed."""
        await self._agent(warm, "/home", home=home, user=user, profile=warm.profile)
        headers = {"Authorization": f"token {warm.secret}"}
        try:
            async with self._client().post(
                f"http://{warm.address}:{warm.port}/claim",
                json=dict(environment),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=CLAIM_PATIENCE),
            ) as response:
                if response.status != 200:
                    raise Gone(f"it answers {response.status} to its claim")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Gone(f"it does not take its claim: {error or type(error).__name__}") from None

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for a session that was handed out, which nobody waits for."""

        async def run() -> None:
            try:
                await work
            except (EngineUnknown, EngineRefused) as error:
                log.warning("A session that was handed out is not labelled with its user: %s", error)

        task = asyncio.ensure_future(run())
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def make_room(self, profile: Profile) -> None:
        """Where a profile has no place, end sessions that are nobody's until it has, or none are left. Raises EngineUnknown."""
        if not self.there:
            return
        mine = {node["ID"] for node in (await self.host.cluster.snapshot(0.0)).nodes.values() if _in_pool(node, profile.pool)}
        for warm in [warm for warm in self.there.values() if warm.node_id in mine]:
            if (await self.host.cluster.snapshot(0.0)).room(profile.pool, profile.flavor).places > 0:
                return
            log.info("%s of %s goes: somebody needs its room", warm.name, warm.profile)
            await self.remove(warm)
            deadline = self.clock() + ROOM_PATIENCE
            while self.clock() < deadline and any(map(cluster.live, (await self.host.cluster.snapshot(0.0)).of(warm.name))):
                await asyncio.sleep(0.1)

    # Whom it talks to

    def _client(self) -> aiohttp.ClientSession:
        """For the sessions themselves."""
        self._http = self._http or aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._http

    async def _agent(self, warm: Warm, what: str, **body: str) -> None:
        """Ask the node's agent for a session's directory, or for the home in it. Raises Gone."""
        try:
            await self.host.agents.put(warm.machine, f"/warm/{warm.name}{what}", body, CLAIM_PATIENCE)
        except Silent as silent:
            raise Gone(f"the agent of {warm.node} did not do its part: {silent}") from None

    async def _answers(self, warm: Warm) -> bool:
        try:
            async with self._client().get(
                f"http://{warm.address}:{warm.port}/", timeout=aiohttp.ClientTimeout(total=2), allow_redirects=False
            ) as response:
                found = await response.json()
                return response.status == 200 and isinstance(found, dict) and found.get("warm") is True
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return False


def _in_pool(node: Mapping[str, Any], pool: str) -> bool:
    return bool((node.get("Spec", {}).get("Labels") or {}).get("metalhub.pool") == pool)
