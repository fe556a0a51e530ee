"""The queue of starts: who waits, who goes, and what those who wait are told. A thin service around the pure core.

Every start comes by here. One that finds room goes on at once; one that does not is written down, so that a restart of the hub does not
cost it its place. One loop serves all, as long as anybody waits: what it asks of the engine does not grow with their number.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prometheus_client
from jupyterhub import orm

from . import acting, cluster, durable, policy
from .cluster import Snapshot
from .config import Flavor, Profile
from .core import durations, lifecycle, start_queue
from .core.start_queue import Ending, Estimate, Key, Place, Shape, Waiter
from .engine import EngineUnknown
from .ledger import LedgerError
from .policy import Refused

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

# While somebody waits, the cluster is looked at so often (two requests); the end of a session and a new start are known at once.
TICK = 2.0
# How many that arrive together share a look.
GAP = 0.1
# So old may what is known of the cluster be; after the end of a session, which frees a place.
AGE, AGE_FREED = 1.0, 0.3
# So many starts are under way at once. More would only make each other slow.
AT_ONCE = 64
# Without any answer of the cluster a new start is not kept waiting for longer.
ENGINE_PATIENCE = 5.0
# So late is the hub itself that it cannot tell whether the cluster answers.
LATE = 0.5
# After Swarm had no room where the books had some, a start is tried again this much later, and twice as much each time.
LATER, LATER_MOST = 2.0, 60.0
# When somebody's turn comes is worked out anew so often; sooner where somebody went.
FORESEE_EVERY, FORESEE_SOONER = 5.0, 1.0
HISTORY_EVERY, HISTORY_OF = 600.0, 14 * 86400
TELL_EVERY = 2.0
# How long the starts that waited before a restart may take to be there again, before others may go.
RESTORE_WITHIN = 30.0

LENGTH = prometheus_client.Gauge("metalhub_queue_length", "Starts that wait for a place", ["pool"])
WAIT = prometheus_client.Histogram(
    "metalhub_queue_wait_seconds",
    "How long starts waited for a place",
    ["end"],
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400),
)
FILE = "queue.json"
NO_ANSWER = "The cluster does not answer right now, so nothing was started; try again in a minute."


def amounts(flavor: Flavor) -> start_queue.Want:
    """What a session of a flavor reserves."""
    return start_queue.want(cluster.reserves(flavor))


def places(snapshot: Snapshot) -> list[Place]:
    """The nodes that take sessions now."""
    used = cluster.reservations(snapshot.tasks)
    tasks = Counter(str(task.get("NodeID", "")) for task in snapshot.tasks if cluster.live(task))
    found = []
    for node in snapshot.nodes.values():
        if pool := cluster.serves(node):
            name, have = str(node["ID"]), cluster.resources(node)
            taken = used.get(name, {})
            free = {kind: amount - taken.get(kind, 0) for kind, amount in have.items()}
            found.append(Place(name, pool, have, free, tasks[name]))
    return found


@dataclass
class Entry:
    """A start that waits. ``waits``: it found no room at its first look, so it is written down. ``again``: tried again not before."""

    spawner: Any
    profile: Profile
    waiter: Waiter
    future: asyncio.Future[tuple[str, ...]]
    arrived: float
    waits: bool = False
    again: float = 0.0
    tries: int = 0
    ahead: int = 0
    estimate: Estimate | None = None
    able: bool = True


@dataclass
class Gone:
    """A start that has its place, from its turn until its end has been seen: the place is taken, whatever an older look says.

    ``waited``: it had to wait for its turn.
    """

    spawner: Any
    shape: Shape
    since: float
    tries: int
    waited: bool
    done: float | None = None


@dataclass(frozen=True)
class Restored:
    """A start that waits, as it is kept for the next hub."""

    user: str
    server: str
    profile: str
    since: float


class Admission:
    """One a process."""

    def __init__(self, host: Platform) -> None:
        self.host = host
        self.path = Path(host.document.state) / FILE
        # By a steady clock, so that nobody gains or loses a place when the wall's is set.
        offset = time.time() - time.monotonic()
        self.now = lambda: time.monotonic() + offset
        self._entries: dict[Key, Entry] = {}
        self._gone: dict[Key, Gone] = {}
        self._leaving: dict[Key, Entry] = {}
        self._restored = {(each.user, each.server): each for each in durable.read(self.path, self._understand, [])}
        self._held_up = bool(self._restored)
        self._written: list[Restored] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._freed = False
        self._known, self._silent = True, 0
        self._left: Mapping[str, Mapping[str, float]] | None = None
        self._kept: Mapping[Key, str] = {}
        self._pools: dict[str, str] = {}
        self._seen: Snapshot | None = None
        self._places: list[Place] = []
        self._placed: set[str] = set()
        self._lasted: dict[str, list[float]] = {}
        self._read_history = self._foreseen = self._told = float("-inf")
        self._starting: set[asyncio.Task[None]] = set()

    # A start

    async def turn(self, spawner: Any, profile: Profile, again: str = "") -> tuple[str, ...]:
        """Wait until a start may go. Its user's quota is reserved then. Returns nodes that it is to avoid. Raises Refused.

        ``again``: it went and came back, since Swarm had no ``room`` for it or the ``engine`` did not answer. It has its old place.
        """
        key, now = (spawner.user.name, spawner.name), self.now()
        before, restored = self._gone.pop(key, None), self._restored.pop(key, None)
        before = before if again else None
        if restored and restored.profile != profile.name:
            restored = None
        since = before.since if before else restored.since if restored else now
        waiter = Waiter(key, profile.pool, amounts(profile.flavor), since, self.priority(spawner.groups))
        future: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        entry = Entry(spawner, profile, waiter, future, now)
        if before:
            entry.tries = before.tries + 1
            entry.again = now + min(LATER * 2**before.tries, LATER_MOST)
        # An engine that stays silent is told to whom had no need to wait.
        entry.waits = bool(restored or (before and (before.waited or again == "room")))
        self._entries[key] = entry
        self._wake.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.ensure_future(self._run())
        try:
            return await future
        except asyncio.CancelledError:
            # Either its user leaves, or the hub ends, after which it shall wait on. Which of them it is, ``left`` tells.
            if self._entries.pop(key, None):
                self._leaving[key] = entry
            else:
                self.done(spawner)  # it was to go in this very moment
            raise

    def done(self, spawner: Any) -> None:
        """A start has come to its end, whichever."""
        if gone := self._gone.get((spawner.user.name, spawner.name)):
            gone.done = time.monotonic()

    def left(self, spawner: Any) -> None:
        """What a session had here is over. If its start waited until just now, its user, or somebody for them, wants it no more."""
        if entry := self._leaving.pop((spawner.user.name, spawner.name), None):
            self._over(entry, "admin" if acting.other_than(spawner.user.name) else "user")
            self._write()

    def forget(self, spawner: Any) -> None:
        """A session is removed for good, or its user is."""
        key = (spawner.user.name, spawner.name)
        self._restored.pop(key, None)
        if entry := self._entries.pop(key, None):
            self._over(entry, "removed")
            self._settle(entry, Refused("This session was removed while it waited.", reason="removed"))
        self.left(spawner)
        self._write()

    def ask_again(self, spawner: Any) -> None:
        """A start is to come to nothing. If it waits for what its user may not start any more, it need not wait for its turn to be told."""
        if entry := self._entries.get((spawner.user.name, spawner.name)):
            try:
                spawner.permit({"profile": entry.profile.name})
            except Refused as refused:
                self._refuse(entry, "refused", refused)
                self._write()

    async def dismiss(self, user: Any) -> None:
        """A user is about to be removed: what waits for them, JupyterHub takes for a session that runs."""
        # An account that is discarded before it was ever a user's has none.
        for spawner in list(getattr(user, "spawners", {}).values()):
            if (user.name, spawner.name) in self._entries:
                self.forget(spawner)
                if spawner._spawn_future:
                    await asyncio.wait([spawner._spawn_future])

    def freed(self) -> None:
        """A session has ended: its place is free, also for whom Swarm had none a moment ago."""
        for entry in self._entries.values():
            entry.again = 0.0
        self._freed = True
        self._wake.set()

    def priority(self, groups: set[str]) -> int:
        """The priority of a member of these groups: the highest one that any of them has."""
        known = self.host.document.queue_priorities
        return max((known[group] for group in groups if group in known), default=0)

    # The loop

    async def _run(self) -> None:
        while self._entries:
            self._wake.clear()
            began = time.monotonic()
            if not self._held_up:
                try:
                    await self.look()
                except Exception:
                    log.exception("The look at the queue of starts failed")
            await asyncio.sleep(max(0.0, GAP - (time.monotonic() - began)) if self._entries else 0)
            if self._entries and not self._wake.is_set():
                try:
                    async with asyncio.timeout(TICK):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def look(self) -> None:
        """Let those go who may, and tell the others."""
        age, self._freed = (AGE_FREED if self._freed else AGE), False
        try:
            snapshot = await self._see(age)
            if self._outdated(snapshot):
                snapshot = await self._see(0.0)
        except EngineUnknown as error:
            snapshot, self._known = None, False
            # A hub that is itself late, as with hundreds of starts at once, has not heard an answer that came.
            began = time.monotonic()
            await asyncio.sleep(0.05)
            if time.monotonic() - began < LATE:
                self._silent += 1
                if self._silent > 1:
                    self._give_up(error)
        if snapshot is not None:
            self._known, self._silent = True, 0
            self._look(snapshot)
            self._expire()
            for entry in self._entries.values():
                entry.waits = True
        self._write()
        await self._read_lasted()
        if time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            for entry in self._entries.values():
                entry.spawner.tell()

    async def _see(self, age: float) -> Snapshot:
        """The cluster as it was at most ``age`` seconds ago. Raises EngineUnknown."""
        snapshot = await self.host.snapshot_for_starts(age)
        if snapshot is not self._seen:
            self._seen, self._places = snapshot, places(snapshot)
            self._placed = {cluster.session_of(task) for task in snapshot.tasks if task.get("NodeID")}
        return snapshot

    def _outdated(self, snapshot: Snapshot) -> bool:
        """Whether somebody came after this look who would be refused for it: a machine may have come back in between."""
        now, age = self.now(), time.monotonic() - snapshot.taken
        late = [entry.waiter for entry in self._entries.values() if not entry.waits and now - entry.arrived < age]
        return not all(start_queue.able(self._places, waiter.pool, waiter.want) for waiter in late)

    def _look(self, snapshot: Snapshot) -> None:
        now, found = self.now(), self._places
        self._pools = {place.id: place.pool for place in found}
        reserved = self._reserved(snapshot)
        for entry in list(self._entries.values()):
            entry.able = start_queue.able(found, entry.waiter.pool, entry.waiter.want)
            if not entry.able and not entry.waits:
                room = snapshot.room(entry.profile.pool, entry.profile.flavor)
                self._refuse(entry, "refused", policy.no_room(entry.profile, room))
        held = self.host.quota.running()
        ordered = start_queue.order((entry.waiter for entry in self._entries.values()), held)
        ready = [waiter for waiter in ordered if self._entries[waiter.key].again <= now]
        outcome = start_queue.decide(found, reserved, ready, max(0, AT_ONCE - self.starting), self._kept)
        self._left, self._kept = outcome.left, outcome.kept
        for go in outcome.go:
            self._admit(self._entries[go.waiter.key], go.avoid)
        waiting = [waiter for waiter in ordered if waiter.key in self._entries]
        ahead: Counter[str] = Counter()
        for waiter in waiting:
            self._entries[waiter.key].ahead = ahead[waiter.pool]
            ahead[waiter.pool] += 1
        if waiting and time.monotonic() - self._foreseen >= (FORESEE_SOONER if outcome.go else FORESEE_EVERY):
            self._foreseen = time.monotonic()
            self._foresee(snapshot, waiting)

    def _reserved(self, snapshot: Snapshot) -> list[Shape]:
        """What those have been promised who went and whom this look at the cluster does not show yet."""
        for key, gone in list(self._gone.items()):
            if gone.done is not None and snapshot.taken > gone.done:
                del self._gone[key]
        return [gone.shape for gone in self._gone.values() if gone.spawner.service_name not in self._placed]

    def _admit(self, entry: Entry, avoid: tuple[str, ...]) -> None:
        key = entry.waiter.key
        try:
            # The checks and the reservation are one step: of many that go at once no more pass than the quota has place for.
            entry.spawner.permit({"profile": entry.profile.name})
            self.host.quota.admit(entry.spawner, entry.profile)
        except Refused as refused:
            self._refuse(entry, "refused", refused)
            self._wake.set()  # the place is somebody else's
            return
        del self._entries[key]
        self._gone[key] = Gone(entry.spawner, entry.waiter.shape, entry.waiter.since, entry.tries, entry.waits)
        self._over(entry, "admitted")
        if not entry.future.done():
            entry.future.set_result(avoid)

    def _settle(self, entry: Entry, error: Refused) -> None:
        if not entry.future.done():
            entry.future.set_exception(error)

    def _refuse(self, entry: Entry, end: str, refused: Refused) -> None:
        self._entries.pop(entry.waiter.key, None)
        self._over(entry, end)
        self._settle(entry, refused)

    def _over(self, entry: Entry, end: str) -> None:
        """A start waits no more. What only came by is no event."""
        waited = self.now() - entry.waiter.since
        WAIT.labels({"admin": "user"}.get(end, end)).observe(waited)
        if not entry.waits:
            return
        if end == "admitted":
            entry.spawner._audit("admitted", seconds=round(waited))
        elif end != "refused":
            entry.spawner._audit("left", cause=end, seconds=round(waited))

    def _give_up(self, error: EngineUnknown) -> None:
        """The cluster does not answer. Those who wait keep their places, and who comes joins them; where nobody waits it is told."""
        others = any(entry.waits for entry in self._entries.values())
        for entry in list(self._entries.values()):
            if entry.waits or self.now() - entry.arrived < ENGINE_PATIENCE:
                continue
            if others:
                entry.waits = True
            else:
                self._refuse(entry, "refused", Refused(NO_ANSWER, reason="engine", status=503, log=f"engine: {error}"))

    def _expire(self) -> None:
        patience = self.host.document.queue_patience
        for entry in list(self._entries.values()):
            if self.now() - entry.waiter.since > patience:
                words = durations.format_duration(patience)
                self._refuse(entry, "timeout", policy.no_room(entry.profile, None, words if patience else ""))

    def _gauge(self) -> None:
        waiting = Counter(entry.waiter.pool for entry in self._entries.values())
        for pool in self.host.document.pools:
            LENGTH.labels(pool).set(waiting[pool])

    # What can be foreseen

    def _spawners(self) -> dict[str, Any]:
        """The sessions that run, by their service."""
        users = list(self.host.proxy.app.users.values()) if hasattr(self.host.proxy, "app") else []
        found = (spawner for user in users for spawner in list(user.spawners.values()))
        return {spawner.service_name: spawner for spawner in found if self.host.sessions.runs(spawner)}

    def _foresee(self, snapshot: Snapshot, waiting: list[Waiter]) -> None:
        """Work out when the turn of each comes. Who waits goes all the same where that does not work out."""
        try:
            turns = start_queue.estimates(self._places, self._reserved(snapshot), waiting, self._endings(snapshot), self._lasting())
        except Exception:
            log.exception("When somebody's turn comes cannot be told")
            turns = {}
        for key, entry in self._entries.items():
            entry.estimate = turns.get(key)

    def _endings(self, snapshot: Snapshot) -> list[Ending]:
        running, found = self._spawners(), []
        for task in filter(cluster.live, snapshot.tasks):
            spawner = running.get(cluster.session_of(task))
            if spawner is not None and task.get("NodeID"):
                end = self._end(spawner)
                if end:
                    reserved = start_queue.want(cluster.reserved(task))
                    found.append(Ending(max(0.0, end.seconds), str(task["NodeID"]), reserved, end.basis))
        return found

    def _end(self, spawner: Any) -> Estimate | None:
        """When a session most likely ends, as far as anything is known."""
        sessions = self.host.sessions
        now, limits = sessions.now(), sessions.limits(spawner)
        record = sessions.record(spawner, now)
        _, decision = lifecycle.decide(record, limits, now)
        age = lifecycle.elapsed(record.started, now)
        found = []
        if limits.max_session:
            found.append(Estimate(limits.max_session + record.extended - age, start_queue.LATEST))
        if decision.state == lifecycle.IDLE and decision.next == lifecycle.STOP and decision.left is not None:
            found.append(Estimate(decision.left, start_queue.IDLE))
        usual = start_queue.residual(self._lasted.get(spawner.profile_name, []), age)
        if usual is not None:
            found.append(Estimate(usual, start_queue.HISTORY))
        return min(found, key=lambda each: each.seconds, default=None)

    def _lasting(self) -> dict[Key, Estimate]:
        """How long those who wait will hold their places: as such sessions did lately, else as long as they may."""
        found = {}
        for key, entry in self._entries.items():
            if usual := start_queue.residual(self._lasted.get(entry.profile.name, []), 0):
                found[key] = Estimate(usual, start_queue.HISTORY)
            elif entry.profile.max_session:
                found[key] = Estimate(entry.profile.max_session, start_queue.LATEST)
        return found

    async def _read_lasted(self) -> None:
        """Bring what is known of how long sessions last up to date, now and then."""
        if not self._entries or time.monotonic() - self._read_history < HISTORY_EVERY:
            return
        self._read_history, self._foreseen = time.monotonic(), float("-inf")
        try:
            ledger = self.host.quota.ledger
            self._lasted = await asyncio.to_thread(ledger.lasted, self.host.quota.clock.now() - HISTORY_OF)
        except LedgerError as error:
            log.error("The ledger does not say how long sessions last: %s", error)

    # Across a restart

    @staticmethod
    def _understand(data: dict[str, Any]) -> list[Restored]:
        return [Restored(str(row["user"]), str(row["server"]), str(row["profile"]), float(row["since"])) for row in data["waiting"]]

    def _write(self) -> None:
        """Write down who waits. That a start waits is known before anybody who came later goes."""
        self._gauge()
        waiting = [entry for entry in (*self._entries.values(), *self._leaving.values()) if entry.waits]
        rows = [Restored(*entry.waiter.key, entry.profile.name, entry.waiter.since) for entry in waiting]
        rows += self._restored.values()
        if rows == (self._written or []):
            return
        try:
            durable.write(self.path, waiting=[vars(row) for row in rows])
            self._written = rows
        except OSError as error:
            log.error("Cannot write down who waits for a place, in %s: %s", self.path, error)

    async def restore(self) -> None:
        """Start again what waited when the hub ended, each with its old place. The body of a task, begun before the hub serves."""
        if not self._restored:
            return
        self._written = None
        log.info("%d starts waited when the hub ended; they wait on", len(self._restored))
        app = self.host.proxy.app
        while not app._start_future.done():
            await asyncio.sleep(0.1)
        # Together: one whose session's last state is still being looked into keeps nobody else from being there in time.
        again = [asyncio.ensure_future(self._again(app, each)) for each in list(self._restored.values())]
        self._starting.update(again)
        await asyncio.wait(again, timeout=RESTORE_WITHIN)
        self._held_up = False
        self._wake.set()

    async def _again(self, app: Any, was: Restored) -> None:
        """Start one that waited, as a request of its user would, up to where it waits. JupyterHub drops pending starts when it ends."""
        key = (was.user, was.server)
        try:
            record = orm.User.find(app.db, was.user)
            if record is None or (was.server and was.server not in record.orm_spawners):
                return
            user = app.users[record]
            while (spawner := user.spawners[was.server]).pending in ("check", "stop"):
                await asyncio.sleep(0.1)
            if key not in self._restored or spawner.active:
                return
            spawner = user.get_or_create_spawner(was.server, spawner.display_name, replace_failed=True)
            spawner._spawn_pending = True
            start = spawner._spawn_future = asyncio.ensure_future(self._spawn(app, user, spawner, was))
            start.add_done_callback(lambda _: self._spawned(spawner))
            while not start.done() and key in self._restored:
                await asyncio.sleep(0.02)
        except Exception:
            log.exception("The start of %s, who waited, was not taken up again", was.user)
        finally:
            if self._restored.pop(key, None):
                self._write()

    @staticmethod
    def _spawned(spawner: Any) -> None:
        future, spawner._spawn_pending = spawner._spawn_future, False
        # An error stays, for the page that tells it.
        if future is not None and (future.cancelled() or future.exception() is None):
            spawner._spawn_future = None

    async def _spawn(self, app: Any, user: Any, spawner: Any, was: Restored) -> None:
        await user.spawn(was.server, spawner.display_name, {"profile": was.profile})
        spawner._proxy_pending = True
        try:
            await self.host.proxy.add_user(user, was.server)
        except Exception:
            log.exception("Failed to add %s to the proxy", spawner.service_name)
            await user.stop(was.server)
        else:
            spawner.add_poll_callback(self._stopped, user, was.server)
        finally:
            spawner._proxy_pending = False

    async def _stopped(self, user: Any, server: str) -> None:
        await self.host.proxy.delete_user(user, server)
        await user.stop(server)

    # For the pages and the API

    @property
    def starting(self) -> int:
        """How many starts have their place and are under way."""
        return sum(gone.done is None for gone in self._gone.values())

    def open(self, profile: Profile) -> bool | None:
        """Whether a start of a profile would go at once, all that wait being before it; None where nobody waits."""
        if not self._entries or self._left is None:
            return None
        wanted = amounts(profile.flavor)
        return any(self._pools[node] == profile.pool and start_queue.fits(free, wanted) for node, free in self._left.items())

    def waiting(self, profile: Profile) -> int:
        """How many starts wait in the pool of a profile."""
        return sum(entry.waits and entry.profile.pool == profile.pool for entry in self._entries.values())

    def message(self, entry: Entry) -> str:
        """What somebody who waits is told."""
        if not self._known:
            return "The cluster does not answer right now. You keep your place, and nothing is lost."
        if not entry.able:
            return "No machine that is up now could run it. You keep your place until one is back."
        return start_queue.words(entry.ahead, entry.estimate)

    def _waiting(self, spawner: Any) -> Entry | None:
        entry = self._entries.get((spawner.user.name, spawner.name))
        return entry if entry is not None and entry.waits else None

    def waits(self, spawner: Any) -> bool:
        """Whether a session's start waits for a place."""
        return self._waiting(spawner) is not None

    def view(self, spawner: Any) -> dict[str, Any] | None:
        """The place of a session's start in the queue, for its owner; None where it does not wait."""
        entry = self._waiting(spawner)
        return None if entry is None else {**self._plain(entry), "alternatives": self._alternatives(entry)}

    def _plain(self, entry: Entry) -> dict[str, Any]:
        estimate = entry.estimate if self._known and entry.able else None
        return {
            "position": entry.ahead + 1,
            "since": datetime.fromtimestamp(entry.waiter.since, timezone.utc).isoformat(timespec="seconds"),
            "estimate": None if estimate is None else round(estimate.seconds),
            "basis": estimate.basis if estimate else "",
            "message": self.message(entry),
        }

    def _alternatives(self, entry: Entry) -> list[dict[str, str]]:
        """The other profiles of a user that would start at once."""
        spawner, found = entry.spawner, []
        for profile in policy.allowed_profiles(self.host.document, spawner.groups, spawner.granted):
            if profile.name == entry.profile.name or not self._known or not self.open(profile):
                continue
            if self.host.approvals.why_not(spawner.user.name, profile)[0]:
                continue
            try:
                self.host.images.reference(profile.image)
                over = self.host.quota.refusals(spawner.user.name, spawner.name, spawner.groups, profile)
            except (Refused, LedgerError):
                continue
            if not over:
                found.append({"name": profile.name, "title": profile.title})
        return found

    def rows(self) -> list[dict[str, Any]]:
        """All that wait, in their order, for administrators."""
        held = self.host.quota.running()
        ordered = start_queue.order((entry.waiter for entry in self._entries.values() if entry.waits), held)
        found = []
        for waiter in ordered:
            entry = self._entries[waiter.key]
            found.append(
                {
                    "user": waiter.key[0],
                    "name": waiter.key[1],
                    "profile": entry.profile.name,
                    "title": entry.profile.title,
                    "pool": waiter.pool,
                    "waited": round(self.now() - waiter.since),
                    "priority": waiter.priority,
                    "sessions": held.get(waiter.key[0], 0),
                    **self._plain(entry),
                }
            )
        return found
