"""Snapshots of homes: taken once a session has ended and its files are at rest, restored while no session runs."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .core import names, sizes, snapshot_plan
from .homes import HomesError

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

# The storage writes to its disk for each, and starts come first.
AT_ONCE = 4
ASKED = "asked"
# Such a session never ran.
NOTHING_RAN = frozenset(("rejected",))

NOT_MANAGED = "Snapshots are not offered here: the homes are on a storage that the platform does not manage."
NOT_KEPT = "No snapshots are taken here: an administrator has turned them off."
BUSY = "A home is restored only while no session uses it: stop all sessions first, then try again."
AWAY = "The storage does not answer right now; try again in a minute."

# Why a snapshot was taken, for its user.
WHY = {
    ASKED: "you asked for it",
    snapshot_plan.BEFORE_RESTORE: "your home before a restore",
    "idle": "a session was stopped because nothing ran in it",
    "max_session": "a session reached its longest time",
    "quota": "a session was stopped because a quota was used up",
    "user": "you stopped a session",
    "admin": "an administrator stopped a session",
    "memory": "a session ran out of memory",
    "lost": "a session's machine stopped answering",
    "drain": "a session's machine was taken out of service",
    "removed": "an administrator removed a session",
}


class SnapshotError(Exception):
    """What was not done, in a sentence for the user. ``status`` is HTTP's."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def _trouble(error: HomesError) -> SnapshotError:
    """What the storage's refusal means for the user."""
    if error.status == 501:
        return SnapshotError(409, NOT_KEPT)
    if error.status == 507:
        return SnapshotError(503, f"The storage is too full ({error.reason}); tell an administrator.")
    if error.status == 404:
        return SnapshotError(404, f"Nothing was done: {error.reason}.")
    if error.status == 409:
        return SnapshotError(409, f"Nothing was done: {error.reason}; tell an administrator.")
    return SnapshotError(503, AWAY)


def shown(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A snapshot for the API and the page."""
    cause, at = str(snapshot["cause"]), datetime.fromtimestamp(int(snapshot["at"]), timezone.utc)
    used, own = int(snapshot["used_bytes"]), int(snapshot["own_bytes"])
    return {
        "name": str(snapshot["name"]),
        "time": at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "cause": cause,
        "why": WHY.get(cause, "a session ended"),
        "used_bytes": used,
        "own_bytes": own,
        "size": sizes.format_size(used),
    }


class Snapshots:
    """Takes, lists and restores them, and makes starts wait for a restore."""

    def __init__(self, host: Platform, now: Callable[[], float] = time.monotonic) -> None:
        self.host, self.now = host, now
        # By user: why the snapshot after the last session could not be taken.
        self.missed: dict[str, str] = {}
        # By home: until when it must not be used.
        self._closed: dict[str, float] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._taking: set[asyncio.Task[None]] = set()

    # The end of a session

    def session_ended(self, spawner: Any) -> None:
        """``Spawner.post_stop_hook``: take a snapshot behind the stop's back, which never waits for it."""
        ended = spawner.ended
        if not self.host.homes.settings.url or not ended or ended.get("session") != spawner.service_name or ended["cause"] in NOTHING_RAN:
            return
        task = asyncio.ensure_future(self._after(spawner.user.name, str(ended["cause"])))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _after(self, user: str, cause: str) -> None:
        try:
            async with self._gate:
                await self.take(user, cause)
        except SnapshotError as error:
            if str(error) == NOT_KEPT:
                return
            self.missed[user] = f"No snapshot could be taken when your last session ended. {error}"
        except Exception:
            log.exception("The snapshot of the home of %s failed", user)

    # What users and administrators ask for

    async def take(self, user: str, cause: str = ASKED) -> dict[str, Any]:
        """Take a snapshot of a user's home as it is now. Raises SnapshotError."""
        self._offered()
        try:
            taken = await self.host.homes.take(names.home_name(user), cause)
        except HomesError as error:
            if error.status != 501:
                log.warning("No snapshot of the home of %s (%s): %s", user, cause, error)
                self.host.audit.write("snapshot.failed", user=user, cause=cause, detail=str(error))
            raise _trouble(error) from None
        self.missed.pop(user, None)
        self.host.audit.write("snapshot.taken", user=user, cause=cause, snapshot=taken["name"], retired=taken["retired"])
        return shown(taken)

    async def listed(self, user: Any) -> dict[str, Any]:
        """A user's snapshots, the newest first, and what there is to say of them. Raises SnapshotError."""
        found: dict[str, Any] = {"keep": 0, "snapshots": []}
        reason = NOT_MANAGED
        if self.host.homes.settings.url:
            try:
                found = await self.host.homes.snapshots(names.home_name(user.name))
            except HomesError as error:
                log.warning("The snapshots of the home of %s: %s", user.name, error)
                raise _trouble(error) from None
            reason = "" if found["keep"] else NOT_KEPT
        return {
            "offered": not reason,
            "reason": reason,
            "keep": found["keep"],
            "busy": BUSY if self.in_use(user) else "",
            "missed": self.missed.get(user.name, ""),
            "snapshots": [shown(one) for one in found["snapshots"]],
        }

    async def restore(self, user: Any, name: str) -> dict[str, Any]:
        """Make a user's home what it was. Raises SnapshotError, and then it is what it is."""
        home = names.home_name(user.name)
        if not self.host.homes.settings.url:
            raise SnapshotError(409, NOT_MANAGED)
        if snapshot_plan.read(name) is None:
            raise SnapshotError(404, "There is no such snapshot.")
        if self._closed_for(home):
            raise SnapshotError(409, "This home is being restored just now; wait for it.")
        if self.in_use(user):
            raise SnapshotError(409, BUSY)
        # From here to the end no start of this user gets past ready(), and nothing is awaited between the look and this.
        self._closed[home] = math.inf
        settle = 0.0
        try:
            done = await self.host.homes.restore(home, name)
            settle = float(done["settle_seconds"])
        except HomesError as error:
            log.warning("The home of %s is not restored to %s: %s", user.name, name, error)
            self.host.audit.write("snapshot.failed", user=user.name, cause="restore", snapshot=name, detail=str(error))
            raise _trouble(error) from None
        finally:
            self._closed[home] = self.now() + settle
            self._closed_for(home)
        self.host.audit.write("snapshot.restored", user=user.name, snapshot=name, before=done["before"])
        message = "The home was restored. What was in it until now is kept as a snapshot of its own."
        return {"restored": name, "before": done["before"], "message": message}

    def _offered(self) -> None:
        if not self.host.homes.settings.url:
            raise SnapshotError(409, NOT_MANAGED)

    @staticmethod
    def in_use(user: Any) -> bool:
        """Whether a session of this user is up, starts or stops, or may be up: the hub has not looked yet since it started."""
        records = user.orm_user.orm_spawners.values()
        return any(spawner.active for spawner in user.spawners.values()) or any(record.server for record in records)

    # Starts

    def _closed_for(self, home: str) -> float:
        """For how many seconds a home must not be used; 0 where it may."""
        left = self._closed.get(home, 0.0) - self.now()
        if left <= 0:
            self._closed.pop(home, None)
        return max(0.0, left)

    async def ready(self, home: str, tell: Callable[[], None]) -> None:
        """Wait while a home is being restored; ``tell`` is called where that takes its time."""
        told = False
        while left := self._closed_for(home):
            if not told:
                tell()
                told = True
            await asyncio.sleep(min(left, 0.1))
