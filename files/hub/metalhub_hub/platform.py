"""What one hub process shares: the document, the cluster, the homes, the images, and a sweep of what nobody owns."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
from datetime import datetime, timezone
from typing import Any

from jupyterhub import orm

from . import agents, egress
from .admission import Admission
from .approvals import Approvals
from .audit import Audit
from .audit_check import AuditCheck
from .cluster import Cluster, Snapshot
from .config import Document
from .core.diagnosis import Memory
from .drains import Drains
from .engine import Engine, EngineRefused, EngineUnknown
from .hibernation import Hibernation
from .homes import Homes
from .people import People
from .policy import Refused
from .profiles import Profiles
from .quota import Quota
from .sessions import Sessions
from .snapshots import Snapshots
from .warm import WarmPool

log = logging.getLogger("metalhub")

SWEEP_EVERY = 30.0
SWEEP_AGE = 60.0


class Images:
    """The manifest of pinned references, read again when the file changes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp = (-1, -1)
        self._images: dict[str, str] = {}

    def reference(self, name: str) -> str:
        """The pinned reference of an image. Raises Refused where there is none."""
        try:
            status = os.stat(self.path)
            if (status.st_mtime_ns, status.st_ino) != self._stamp:
                with open(self.path, encoding="utf-8") as file:
                    self._images = {str(key): str(value) for key, value in json.load(file).items()}
                self._stamp = (status.st_mtime_ns, status.st_ino)
        except (OSError, ValueError, AttributeError) as error:
            # A manifest that is being replaced must not lose what was known before.
            log.error("Cannot read the images' manifest %s: %s", self.path, error)
        reference = self._images.get(name, "")
        if "@sha256:" not in reference:
            raise Refused(
                f"The image “{name}” of this profile is missing on the platform; tell an administrator.",
                reason="image",
                status=503,
                log=f"{self.path} has no pinned reference for {name!r}: {reference!r}",
            )
        return reference


def database_url(document: Document) -> str:
    """Where the hub's database is: a file below its state unless another is given. Raises OSError."""
    if not document.database_url_file:
        return f"sqlite:///{document.state}/jupyterhub.sqlite"
    with open(document.database_url_file, encoding="utf-8") as file:
        return file.read().strip()


def write_ahead(connection: Any, record: Any = None) -> None:
    """Let SQLite write a log ahead, as soon as somebody connects: a commit then waits once for the disk instead of three times.

    No commit is less safe for that; the hub's loop stands still in each of them, and a start has a dozen.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")


class Turn:
    """Lets one start after the other pass, with a turn of the hub's loop in between.

    What JupyterHub writes of a start takes tens of milliseconds without a pause. Two hundred starts that are ready at once would do it in
    one turn of the loop, in which nobody else is answered and what waits for the engine runs out of its time.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        async with self._lock:
            await asyncio.sleep(0)


class Platform:
    """One a process, made by jupyterhub_config.py."""

    def __init__(self, document: Document) -> None:
        self.audit = Audit(f"{document.state}/audit.jsonl")
        self.profiles = Profiles(document, self.audit)
        self.engine = Engine(document.engine, document.registry)
        self.cluster = Cluster(self.engine)
        self.homes = Homes(document.storage, self.engine.tls)
        self.egress = egress.Nodes(document.egress_port, self.cluster, self.engine.tls)
        self.agents = agents.Agents(document.agent_port, self.cluster, self.engine.tls)
        self.images = Images(document.images_file)
        self.audit_check = AuditCheck(self)
        self.approvals = Approvals(self)
        self.sessions = Sessions(self)
        self.snapshots = Snapshots(self)
        self.hibernation = Hibernation(self)
        self.quota = Quota(self, database_url(document))
        self.turn = Turn()
        self.people = People(self)
        self.drains = Drains(self)
        self.admission = Admission(self)
        self.warm = WarmPool(self)
        self.proxy: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def document(self) -> Document:
        """The document with the profiles that hold now."""
        return self.profiles.document

    def attach(self, proxy: Any) -> None:
        """Called by the proxy, which the hub makes once its loop runs."""
        self.proxy = proxy
        # What the platform says goes where the hub's own log does, as the hub arranges it for tornado's.
        log.parent, log.propagate = proxy.log, True
        log.setLevel(proxy.log.level)
        self._tasks = [asyncio.ensure_future(self._sweep_for_ever()), asyncio.ensure_future(self.egress.watch())]
        self._tasks.append(asyncio.ensure_future(self.sessions.watch()))
        self._tasks.append(asyncio.ensure_future(self.quota.watch()))
        self._tasks.append(asyncio.ensure_future(self.audit_check.watch()))
        self._tasks.append(asyncio.ensure_future(self.drains.watch()))
        self._tasks.append(asyncio.ensure_future(self.agents.watch()))
        self._tasks.append(asyncio.ensure_future(self.admission.restore()))
        self._tasks.append(asyncio.ensure_future(self.warm.watch()))

    async def snapshot_for_starts(self, max_age: float = 1.0) -> Snapshot:
        """The cluster as a start finds it: sessions that are kept ready would go for whoever needs their room. Raises EngineUnknown."""
        return (await self.cluster.snapshot(max_age)).without(self.warm.names())

    def figures(self, session: str) -> Memory | None:
        """A session's memory, by its service's name, as its node tells; None where it does not, or not yet."""
        found = self.agents.figures(session)
        return Memory(found.peak, found.limit, found.oom) if found else None

    def spawners(self) -> list[Any]:
        """All sessions that the hub has in its memory."""
        users = list(self.proxy.app.users.values()) if self.proxy is not None else []
        return [spawner for user in users for spawner in list(user.spawners.values())]

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            try:
                await self.sweep(self.claimed())
            except (EngineUnknown, EngineRefused) as error:
                log.warning("Cannot look for left-over services: %s", error)
            except Exception:
                log.exception("The sweep for left-over services failed")

    def claimed(self) -> set[str]:
        """Names of the services that the hub's database or a start in progress knows."""
        app = self.proxy.app
        names = self.warm.names() | {str((record.state or {}).get("service_name", "")) for record in app.db.query(orm.Spawner)}
        for user in app.users.values():
            names.update(spawner.service_name for spawner in user.spawners.values())
        return names

    async def sweep(self, claimed: set[str], now: datetime | None = None) -> list[str]:
        """Remove sessions' services that nobody claims: a hub that was killed, or a removal the engine never heard."""
        removed = []
        now = now or datetime.now(timezone.utc)
        for service in await self.engine.services("metalhub.session"):
            name = service["Spec"]["Name"]
            # Python before 3.11 reads no nanoseconds, and all of them no "Z" with them.
            created = datetime.fromisoformat(service["CreatedAt"][:19]).replace(tzinfo=timezone.utc)
            if name not in claimed and (now - created).total_seconds() > SWEEP_AGE:
                log.warning("Removing service %s: no session owns it", name)
                await self.engine.remove_service(service["ID"])
                self.audit.write("removed", session=name, cause="orphan")
                removed.append(name)
        return removed


_platform: Platform | None = None


def use(platform: Platform) -> Platform:
    """Make ``platform`` this process's."""
    global _platform
    _platform = platform
    return platform


def ready() -> bool:
    """Whether this process has a platform."""
    return _platform is not None


def current() -> Platform:
    """This process's platform."""
    if _platform is None:
        raise RuntimeError("no platform was made: jupyterhub_config.py does it")
    return _platform
