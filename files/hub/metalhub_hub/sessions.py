"""The sessions that run: what their servers say of themselves, and what is done about it.

The hub asks each session's own server every half minute, a few at a time. What it asks is not what the server reports to the hub by
itself: that one counts every request of an open tab. A server that does not answer is not idle.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from .core import durations, lifecycle
from .core.lifecycle import Decision, Limits, Moment, Reading, Record
from .hibernation import Unchanged

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

SERVICE = "metalhub-sessions"
AT_ONCE = 32
PATIENCE = 5.0
LARGEST = 2**18
# A cell that runs for so long is remembered across a restart of the hub.
LONG_CELL = 600.0
VSCODE = "vscode"
STOPPING = "stopping"


def token(secret: str) -> str:
    """The hub's own API token for asking sessions, the same after each restart. ``secret`` is the one of its cookies."""
    return hmac.new(secret.encode(), b"metalhub: ask sessions for their activity", hashlib.sha256).hexdigest()


def clocks() -> Callable[[], Moment]:
    """A function that reads this machine's clocks. The steady one also goes on while the machine is suspended."""
    # The unit tells it, whose /proc has no such file.
    boot = os.environ.get("METALHUB_BOOT_ID") or Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return lambda: Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot)


def understand(
    now: datetime, kernels: Sequence[Mapping[str, Any]], terminals: Sequence[Mapping[str, Any]], *others: str, started: str = ""
) -> Reading:
    """What a server's lists of kernels and terminals say. ``now`` is its own clock, ``others`` are further times of activity.

    Busy kernels do not add to the last activity: what they print is part of the cell, and a cell has a limit of its own. Raises
    KeyError, TypeError and ValueError for lists that are none.
    """
    busy = [kernel["execution_state"] == "busy" for kernel in kernels]
    stamps = [str(one["last_activity"]) for one, works in zip(kernels, busy, strict=True) if not works]
    stamps += [str(one["last_activity"]) for one in terminals] + [*others]
    ages = [(now - _time(stamp)).total_seconds() for stamp in stamps]
    age = (now - _time(started)).total_seconds() if started else None
    mark = hashlib.sha256("\n".join(sorted(stamps)).encode()).hexdigest()[:16] if stamps else ""
    return Reading(any(busy), min(ages, default=None), mark, age)


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


class Servers:
    """The sessions' own servers, asked with the hub's token."""

    def __init__(self) -> None:
        self.token = ""
        self._http: aiohttp.ClientSession | None = None
        self._vscode: dict[str, bool] = {}

    async def close(self) -> None:
        """End the connections."""
        if self._http:
            await self._http.close()

    async def read(self, session: str, url: str, age: bool) -> Reading | None:
        """What the server at ``url`` says of itself; None where it gives no usable answer. ``age``: also how old it is."""
        try:
            async with asyncio.timeout(PATIENCE):
                now, kernels = await self._get(url + "api/kernels?no_track_activity=1")
                _, terminals = await self._get(url + "api/terminals?no_track_activity=1", missing=[])
                if session not in self._vscode:
                    _, offers = await self._get(url + "server-proxy/servers-info", missing={})
                    self._vscode[session] = any(one.get("name") == VSCODE for one in offers.get("server_processes", []))
                status: dict[str, Any] = {}
                if age or self._vscode[session]:
                    _, status = await self._get(url + "api/status?no_track_activity=1")
                # VS Code tells nobody of what is done in it. What passes between it and a tab counts as activity of the server.
                others = [str(status["last_activity"])] if self._vscode[session] else []
                return understand(now, kernels, terminals, *others, started=str(status["started"]) if age else "")
        except (aiohttp.ClientError, OSError, TimeoutError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            log.debug("Session %s does not say what it does: %s", session, error or type(error).__name__)
            return None

    def forget(self, sessions: set[str]) -> None:
        """Keep nothing of other sessions than these."""
        self._vscode = {name: found for name, found in self._vscode.items() if name in sessions}

    async def _get(self, url: str, missing: Any = None) -> tuple[datetime, Any]:
        """The server's time and answer; ``missing`` stands for one that it does not have."""
        # A session must not hand its cookies to the next one.
        self._http = self._http or aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        headers = {"Authorization": f"token {self.token}"}
        async with self._http.get(url, headers=headers, allow_redirects=False) as response:
            now = parsedate_to_datetime(response.headers["Date"])
            if response.status == 404 and missing is not None:
                return now, missing
            if response.status != 200:
                raise ValueError(f"it answers {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > LARGEST:
                    raise ValueError(f"its answer is larger than {LARGEST} bytes")
        return now, json.loads(body)


class Sessions:
    """What is known of all running sessions, and the loop that acts on it."""

    def __init__(self, host: Platform, now: Callable[[], Moment] | None = None) -> None:
        self.host, self.now, self.servers = host, now or clocks(), Servers()
        self._saved: dict[str, object] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def limits(self, spawner: Any) -> Limits:
        """What a session's profile allows; one that is no longer there limits nothing."""
        document, profile = self.host.document, spawner.profile
        hibernation = self.host.hibernation
        asleep = not hibernation.refusal_here(spawner) and not hibernation.stays(spawner)
        patience = max(75.0, 2.5 * document.cull_every)
        if profile is None:
            return Limits(notice=document.session.stop_notice, patience=patience)
        return Limits(
            idle_stop=profile.idle_stop,
            hibernate_after=profile.hibernate_after if asleep else 0,
            max_session=profile.max_session,
            extension=profile.extension,
            background=profile.background_limit,
            notice=document.session.stop_notice,
            patience=patience,
        )

    # The loop

    async def watch(self) -> None:
        """Look at all sessions for ever; the body of a task."""
        while True:
            await asyncio.sleep(self.host.document.cull_every)
            try:
                app = self.host.proxy.app
                spawners = [spawner for user in list(app.users.values()) for spawner in list(user.spawners.values())]
                if await self.look(spawners):
                    app.db.commit()
            except Exception:
                log.exception("The look at the running sessions failed")

    async def look(self, spawners: Sequence[Any]) -> bool:
        """Ask each running session once and do what follows. Returns whether something of them has to be written down."""
        running = [spawner for spawner in spawners if self.runs(spawner)]
        names = {spawner.service_name for spawner in running}
        self.servers.forget(names)
        self.host.hibernation.forget(names)
        self._saved = {name: key for name, key in self._saved.items() if name in names}
        waiting = iter(running)

        async def some() -> bool:
            changed = False
            for spawner in waiting:
                try:
                    changed |= await self._look_at(spawner)
                except Exception:
                    log.exception("The look at %s failed", spawner.service_name)
            return changed

        return any(await asyncio.gather(*(some() for _ in range(AT_ONCE))))

    @staticmethod
    def runs(spawner: Any) -> bool:
        """Whether a session is up, and neither starts nor stops."""
        return bool(spawner.service_name and spawner.ready and not spawner.pending)

    async def _look_at(self, spawner: Any) -> bool:
        session, changed = spawner.service_name, await self.host.hibernation.reconcile(spawner)
        record = self.record(spawner, self.now())
        reading = None
        if not record.frozen:
            url = spawner.url + spawner.server.base_url
            reading = await self.servers.read(session, url, not record.sure)
        if spawner.service_name != session or not self.runs(spawner):
            return changed  # it went on while its server was asked
        now = self.now()
        # What was changed in the meantime, such as an extension, is in the record of now.
        record = lifecycle.observe(self.record(spawner, now), reading, now)
        record, decision = lifecycle.decide(record, self.limits(spawner), now)
        spawner.life = record
        if decision.act == lifecycle.WARN:
            spawner._audit("warned", cause=decision.cause, seconds=round(decision.left or 0))
        elif decision.act == lifecycle.STOP:
            self.stop(spawner, decision.cause)
            return changed
        elif decision.act == lifecycle.HIBERNATE:
            try:
                await self.host.hibernation.hibernate(spawner, decision.cause)
            except Unchanged:
                return changed
            record = self.record(spawner, now)
        return self._note(spawner, record, decision, now) or changed

    def record(self, spawner: Any, now: Moment) -> Record:
        """The record of a running session, which a session of an older hub or one that just came up does not have yet."""
        if spawner.life is None:
            started = spawner.orm_spawner.started
            age = (datetime.now(timezone.utc).replace(tzinfo=None) - started).total_seconds() if started else 0.0
            spawner.life = lifecycle.begin(now, age)
        record: Record = lifecycle.rebase(spawner.life, now)
        return record

    def _note(self, spawner: Any, record: Record, decision: Decision, now: Moment) -> bool:
        """Take what must outlive the hub's process into the session's state. Not at each look: that is a write for each session."""
        long = record.busy is not None and lifecycle.elapsed(record.busy, now) > LONG_CELL
        idle = record.active if decision.state != lifecycle.RUNNING else None
        key = (record.started, record.extended, record.held, record.frozen, record.sure, idle, long)
        if self._saved.get(spawner.service_name) == key:
            return False
        self._saved[spawner.service_name] = key
        spawner.orm_spawner.state = spawner.get_state()
        return True

    # What is done to a session

    def stop(self, spawner: Any, cause: str) -> None:
        """Stop a session, with the cause that its page and the audit log will tell. Returns at once."""
        if not self.runs(spawner):
            return
        spawner.stop_reason, spawner._stop_pending = cause, True
        log.info("Stopping %s of %s: %s", spawner.service_name, spawner.user.name, cause)

        async def run() -> None:
            try:
                await self.host.proxy.delete_user(spawner.user, spawner.name)
                await spawner.user.stop(spawner.name)
            except Exception:
                log.exception("Stopping %s failed", spawner.service_name)
                spawner.stop_reason = ""  # whoever stops it later has their own
            finally:
                spawner._stop_future, spawner._stop_pending = None, False

        task = spawner._stop_future = asyncio.ensure_future(run())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def end(self, spawner: Any) -> None:
        """End a session that may still be starting, with the cause that it has been given. Returns at once."""
        if self.runs(spawner):
            self.stop(spawner, spawner.stop_reason)
        else:
            spawner.give_up()

    def extend(self, spawner: Any, seconds: int) -> int:
        """Give a session more time. Returns the seconds that it got. Raises lifecycle.NoExtension with a sentence for the user."""
        if not self.runs(spawner):
            raise lifecycle.NoExtension("This session does not run, so there is nothing to extend.")
        now = self.now()
        record, granted = lifecycle.extend(self.record(spawner, now), self.limits(spawner), now, seconds)
        spawner.life = record
        spawner._save()
        spawner._audit("extended", seconds=granted)
        return granted

    # For the pages and the API

    STATES = (lifecycle.QUEUED, lifecycle.STARTING, lifecycle.RUNNING, lifecycle.IDLE, lifecycle.HIBERNATED, STOPPING)

    def states(self) -> Iterator[tuple[Any, str]]:
        """All sessions that start, run or stop, each with which of STATES it is in."""
        for user in list(self.host.proxy.app.users.values()):
            for spawner in list(user.spawners.values()):
                # One that failed a moment ago is no session any more.
                if spawner.active and (state := self.state(spawner)) in self.STATES:
                    yield spawner, state

    def state(self, spawner: Any) -> str:
        """A session's state; of one that stops that it does, which its life as such does not know."""
        if spawner.pending == "stop":
            return STOPPING
        return lifecycle.RUNNING if spawner.pending == "check" else self._life(spawner)[0]

    def _life(self, spawner: Any) -> tuple[str, Decision | None]:
        """Where in its life a session is, and of one that runs what is next."""
        now, running = self.now(), None
        if self.runs(spawner):
            _, running = lifecycle.decide(self.record(spawner, now), self.limits(spawner), now)
        pending = ""
        if spawner.pending == "spawn":
            # One that Swarm had no room for waits anew, whatever step it was at.
            queued = spawner.step in ("", "queue") or self.host.admission.waits(spawner)
            pending = lifecycle.QUEUED if queued else lifecycle.STARTING
        return lifecycle.state_of(pending, running, spawner.ended_ago()), running

    def view(self, spawner: Any) -> dict[str, Any]:
        """A session for its owner: its state, what happens next, when and why."""
        state, running = self._life(spawner)
        profile = spawner.profile
        limits = self.limits(spawner)
        troubles = spawner.troubles()
        shown: dict[str, Any] = {
            "name": spawner.name,
            "state": state,
            "pending": spawner.pending or "",
            "profile": spawner.profile_name,
            "title": profile.title if profile else "",
            "node": spawner.node,
            "ended": spawner.ending(),
            "way_out": spawner.way_out(),
            "troubles": [notice["text"] for notice in troubles],
        }
        if place := self.host.admission.view(spawner):
            shown["queue"] = place
        if running is None:
            return shown
        asleep = running.state == lifecycle.HIBERNATED
        here = self.host.hibernation.refusal_here(spawner)
        stays = self.host.hibernation.stays(spawner)
        if profile and profile.hibernate_after and running.idle >= profile.hibernate_after and not self.host.hibernation.refusal(profile):
            stays = stays or here
        step = min(lifecycle.STEP, running.extension_left) if limits.idle_stop or limits.max_session else 0
        return {
            **shown,
            "next": running.next,
            "why": running.why,
            "left": None if running.left is None else round(running.left),
            "idle": round(running.idle),
            "busy": None if running.busy is None else round(running.busy),
            "known": running.known,
            "warned": running.warned,
            "extension_left": running.extension_left,
            "extend": {"seconds": step, "words": durations.format_duration(step)} if step else None,
            "does": does(running),
            "because": AWAKEN if asleep and running.why == lifecycle.BY_IDLENESS else BECAUSE.get((running.next, running.why), ""),
            "hibernates": not asleep and not here,
            # Why it goes on although it was to be hibernated.
            "stays": "" if asleep else stays,
            "notices": [*self.host.quota.warnings(spawner.user.name, spawner.name), *troubles],
        }


AWAKEN = "unless somebody wakes it"
# What a countdown says after its time.
BECAUSE = {
    (lifecycle.STOP, lifecycle.BY_IDLENESS): "unless something runs in it",
    (lifecycle.STOP, lifecycle.BY_AGE): "because that is the longest time of its profile",
    (lifecycle.HIBERNATE, lifecycle.BY_IDLENESS): "unless something runs in it",
}


def does(decision: Decision) -> str:
    """What a running session does now, in a few words."""
    if not decision.known:
        return "running, and not known what it does right now"
    if decision.state == lifecycle.HIBERNATED:
        return "hibernated"
    if decision.busy is not None:
        return f"computing for {durations.format_duration(int(decision.busy), 1)}" if decision.busy >= 60 else "computing"
    if decision.state == lifecycle.IDLE:
        return f"idle for {durations.format_duration(int(decision.idle), 1)}"
    return "running"
