"""Quotas that hold: who may start, what is metered, who is warned, and what is cut. A thin service around the pure core and the ledger.

One loop runs everything here, so a check and the reservation that follows it in the same step cannot race with another start.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any

import prometheus_client
from jupyterhub import orm
from sqlalchemy.exc import SQLAlchemyError

from .config import Document, Profile
from .core import quota_notice, quotas
from .core.quota_notice import Standing
from .core.quotas import WINDOWS, Allowance, Key, Meter, Override, Request, Span, Usage, window_span
from .core.showback import EVERYBODY, SESSION, Only, Showback, cost, showback
from .ledger import Granted, Held, Ledger, LedgerError
from .policy import Refused

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

TICK = 10.0
# A clock that is set by more than this is no clock that is being trimmed.
JUMP = 30
HOURS_EVERY = 60

CUTS = prometheus_client.Counter("metalhub_quota_cuts", "Sessions stopped because a quota was used up", ["resource"])
GPU_HOURS = prometheus_client.Gauge("metalhub_gpu_hours_month_to_date", "Hours of GPUs allocated in this month", ["resource"])
NO_LEDGER = "The platform cannot write down what your session uses right now, so nothing was started; try again in a minute."

Session = tuple[str, str]


def resources(profile: Profile) -> dict[str, int]:
    """What a session of a profile is metered for: CPUs, a part of one rounded up, and GPUs."""
    flavor = profile.flavor
    found = {"cpu": math.ceil(flavor.cpus)}
    if flavor.gpu:
        found[quotas.gpu_resource(flavor.gpu.profile, flavor.gpu.model)] = flavor.gpu.count
    return found


class Clock:
    """Seconds since the epoch that go on steadily, also while the machine sleeps, and follow the wall clock."""

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    ) -> None:
        self.wall, self.steady = wall, steady
        self._offset = wall() - steady()

    def now(self) -> int:
        return int(self.steady() + self._offset)

    def adjust(self) -> tuple[int, int] | None:
        """Follow the wall clock. Returns the time before and after where that one was set, None where it only drifted."""
        drift = self.wall() - self.steady() - self._offset
        before = self.now()
        self._offset += drift
        return (before, self.now()) if abs(drift) > JUMP else None


@dataclass
class Hold:
    """What one session, which has a name of its own only once it is begun, holds of its user's quota."""

    user: str
    server: str
    profile: str
    groups: tuple[str, ...]
    memory: int
    running: dict[str, int]
    session: str = ""
    rows: dict[str, Held] = field(default_factory=dict)

    @property
    def metered(self) -> dict[str, int]:
        """What costs time now: of a hibernated session its GPUs only, and of one that is about to start all that it will."""
        return {name: n for name, n in self.running.items() if name in self.rows} if self.session else self.running


class Quota:
    """One a process. ``platform`` holds the document, the audit log and, once the hub runs, its spawners."""

    def __init__(self, host: Platform, url: str, clock: Clock | None = None) -> None:
        self.host, self.clock = host, clock or Clock()
        # Set by what gives users more than the inventory: a user's further quotas, each with its source.
        self.given: Callable[[str], tuple[tuple[str, quotas.Quota], ...]] = lambda user: ()
        self._url = url
        self._holds: dict[Session, Hold] = {}
        self._standings: dict[Session, Standing] = {}
        self._unwritten: dict[str, int] = {}  # sessions whose end the database has not taken yet, with the time
        self._spans: dict[str, Span] = {}
        self._closed: dict[str, dict[Key, int]] = {}
        self._granted: list[Granted] = []
        self._allowances: dict[tuple[str, frozenset[str]], Allowance] = {}
        self._looked: float | None = None
        self._hours_at = -math.inf

    @property
    def document(self) -> Document:
        return self.host.document

    @property
    def zone(self) -> tzinfo:
        return self.document.time_zone

    @cached_property
    def ledger(self) -> Ledger:
        """Opened when it is first needed, which is after the hub has made its own tables. Raises LedgerError."""
        made = Ledger(self._url, secrets.token_hex(8), self._settle)
        made.create()
        self._granted = made.granted(self.clock.now())
        for row in made.held():
            self._take(row)
        return made

    def close(self) -> None:
        if "ledger" in self.__dict__:
            self.ledger.close()

    def _settle(self) -> None:
        """Commit what the hub's own session has begun to write, in which other starts may be halfway: SQLite has one writer."""
        if self.host.proxy is None:
            return
        database = self.host.proxy.app.db
        try:
            database.commit()
        except SQLAlchemyError:
            database.rollback()
            raise

    def _hold(self, spawner: Any) -> Hold | None:
        """What a session holds, as far as it is known. Raises LedgerError."""
        return self._holds.get((spawner.user.name, spawner.name)) if self.ledger else None

    def _take(self, row: Held) -> None:
        """An interval that a hub before this one left open: its session counts until it is known to be gone."""
        hold = self._holds.setdefault(
            (row.user, row.server), Hold(row.user, row.server, row.profile, row.groups, 0, {}, row.session)
        )
        hold.rows[row.resource] = row
        if row.resource == SESSION:
            hold.memory = row.memory
            profile = self.document.profiles.get(row.profile)
            hold.running = {**(resources(profile) if profile else {}), **hold.running}
        else:
            hold.running[row.resource] = row.count

    # What holds for a user

    def allowance(self, user: str, groups: Collection[str]) -> Allowance:
        grants, more = self.document.quotas, self.given(user)
        key = (user if user in grants.users or more else "", frozenset(groups).intersection(grants.groups))
        if key not in self._allowances:
            self._allowances[key] = grants.allowance(*key, more)
        return self._allowances[key]

    def forget_allowances(self) -> None:
        """What users were given has changed."""
        self._allowances = {}

    def home_size(self, user: str, groups: Collection[str]) -> int:
        """The size limit of somebody's home in bytes; 0 where they may not have one. Raises LedgerError."""
        allowance = self.allowance(user, groups)
        if allowance.denier("workspace") is not None:
            return 0
        return next((each.amount for each in allowance.bounds if each.resource == "workspace"), self.document.session.home_size)

    def overrides(self, user: str = "") -> list[Granted]:
        """The overrides of a user, or all, that have not ended."""
        now, _ = self.clock.now(), self.ledger
        return [each for each in self._granted if each.user == (user or each.user) and now < each.override.until]

    def usage(self, user: str) -> Usage:
        """What a user has in use now. The size of a home is for the storage to know."""
        self._prepare([user])
        own = [hold for hold in self._holds.values() if hold.user == user]
        return self._usage(user, own, self.clock.now())

    def _usage(self, user: str, own: Iterable[Hold], now: int) -> Usage:
        seconds, sessions, memory = dict(self._closed.get(user, {})), 0, 0
        for hold in own:
            sessions += 1
            memory += hold.memory
            for row in hold.rows.values():
                if row.resource != SESSION:
                    self._add(seconds, row, now if row.sure else row.seen)
        return Usage(sessions=sessions, memory=memory, seconds=seconds)

    def _add(self, seconds: dict[Key, int], row: Held, end: int) -> None:
        for window, span in self._spans.items():
            inside = min(end, span.end) - max(row.started, span.start)
            if inside > 0:
                key = (row.resource, window)
                seconds[key] = seconds.get(key, 0) + inside * row.count

    def _prepare(self, users: Collection[str]) -> None:
        """Have the sums of closed intervals of these users in the windows of now."""
        ledger, now = self.ledger, self.clock.now()
        spans = {window: window_span(window, now, self.zone) for window in WINDOWS}
        if spans != self._spans:
            self._spans, self._closed = spans, {}
        missing = [user for user in users if user not in self._closed]
        if missing:
            # Many at once are not worth a list of names as long as that of all.
            found = ledger.seconds(spans, missing if len(missing) <= 100 else None)
            self._closed.update({user: found.get(user, {}) for user in missing})

    def meters(self, user: str, groups: Collection[str]) -> tuple[Meter, ...]:
        """Each limit of a user but the home's, which the storage keeps, with what is used and left."""
        own, now = [each.override for each in self.overrides(user)], self.clock.now()
        found = quotas.meters(self.allowance(user, groups), self.usage(user), now, self.zone, own)
        return tuple(meter for meter in found if meter.resource != "workspace")

    # What a session does

    def refusals(self, user: str, server: str, groups: Collection[str], profile: Profile) -> tuple[str, ...]:
        """Why a session of a profile may not start now, in sentences. Raises LedgerError."""
        wanted, allowance = resources(profile), self.allowance(user, groups)
        self._prepare([user])
        own = [hold for place, hold in self._holds.items() if hold.user == user and place != (user, server)]
        usage = self._usage(user, own, self.clock.now())
        extra = [each.override for each in self.overrides(user)]
        running = Counter(wanted)
        for hold in own:
            # What others hold only makes the same limits run out earlier.
            running.update({name: n for name, n in hold.metered.items() if name in wanted})
        request = Request(sessions=1, memory=profile.flavor.memory, running=running)
        found = quotas.decide(allowance, request, usage, self.clock.now(), self.zone, extra).refusals
        if not found and allowance.denier("workspace"):
            return ("You may not have a home, and no session runs without one; ask an administrator.",)
        return found

    def running(self) -> Counter[str]:
        """How many sessions each user has that run, or start and have their place."""
        return Counter(user for user, _ in self._holds)

    def check(self, spawner: Any, profile: Profile) -> None:
        """Check all limits, and reserve nothing. Raises Refused."""
        try:
            found = self.refusals(spawner.user.name, spawner.name, sorted(spawner.groups), profile)
        except LedgerError as error:
            raise Refused(NO_LEDGER, reason="ledger", status=503, log=f"ledger: {error}") from None
        if found:
            raise Refused(" ".join(found), reason="quota", status=403)

    def admit(self, spawner: Any, profile: Profile) -> None:
        """Check all limits and reserve, in one step. Raises Refused, and then nothing is reserved."""
        self.check(spawner, profile)
        user, groups = spawner.user.name, sorted(spawner.groups)
        self._holds[user, spawner.name] = Hold(
            user, spawner.name, profile.name, tuple(groups), profile.flavor.memory, resources(profile)
        )

    def begin(self, spawner: Any) -> None:
        """Meter a session from now on; called before its service is made, so that nothing held is missed. Raises Refused."""
        try:
            self._begin(spawner)
        except LedgerError as error:
            raise Refused(NO_LEDGER, reason="ledger", status=503, log=f"ledger: {error}") from None

    def _begin(self, spawner: Any) -> None:
        hold = self._hold(spawner)
        if hold is None:
            # A session that an older hub started, or one that was admitted before this hub was.
            profile = spawner.profile
            if profile is None:
                return
            groups = tuple(sorted(spawner.groups))
            hold = Hold(spawner.user.name, spawner.name, profile.name, groups, profile.flavor.memory, resources(profile))
        now, stale = self.clock.now(), hold.session
        rows = self._rows(replace(hold, session=spawner.service_name), {SESSION: 1, **hold.running}, now)
        self.ledger.begin(rows, stale, now)
        self._forget_rows(hold, now)
        hold.session, hold.rows = spawner.service_name, {row.resource: row for row in rows}
        self._holds[hold.user, hold.server] = hold

    @staticmethod
    def _rows(hold: Hold, counts: dict[str, int], now: int) -> list[Held]:
        memory = {"cpu": hold.memory, SESSION: hold.memory}
        return [
            Held(hold.user, hold.server, hold.session, hold.profile, hold.groups, name, count, memory.get(name, 0), now, now)
            for name, count in counts.items()
        ]

    def _forget_rows(self, hold: Hold, now: int, names: Collection[str] | None = None) -> None:
        """Intervals have ended: what they cost stays in the sums."""
        for name in list(hold.rows if names is None else names):
            row = hold.rows.pop(name, None)
            if row and name != SESSION and hold.user in self._closed:
                self._add(self._closed[hold.user], row, now if row.sure else row.seen)

    def confirm(self, spawner: Any) -> None:
        """A session is known to run. One that a hub before this one left goes on, and the time in between counts."""
        try:
            hold = self._hold(spawner)
            if hold is None or hold.session != spawner.service_name:
                self._begin(spawner)
            elif not all(row.sure for row in hold.rows.values()):
                self.ledger.adopt(hold.session, self.clock.now())
                hold.rows = {name: replace(row, sure=True) for name, row in hold.rows.items()}
        except LedgerError as error:
            log.error("The ledger does not take that %s runs; it is tried again: %s", spawner.service_name, error)

    def end(self, spawner: Any) -> None:
        """A session holds nothing any more, whether it had begun or was only admitted."""
        try:
            hold = self._hold(spawner)
        except LedgerError as error:
            # What is open there is closed when it can be read, as that of a hub before this one.
            log.error("The ledger does not answer: %s", error)
            return
        key = (spawner.user.name, spawner.name)
        self._holds.pop(key, None)
        self._standings.pop(key, None)
        if hold and hold.session:
            self._end(hold, self.clock.now())

    def _end(self, hold: Hold, now: int) -> None:
        self._forget_rows(hold, now)
        self._unwritten[hold.session] = now
        self._write_ends()

    def _write_ends(self) -> None:
        for session, at in list(self._unwritten.items()):
            try:
                self.ledger.end(session, at)
            except LedgerError as error:
                log.error("The ledger does not take the end of %s yet: %s", session, error)
                return
            del self._unwritten[session]

    def pause(self, spawner: Any) -> None:
        """A session is hibernated: until it wakes only its GPUs cost, which nobody else gets. Raises LedgerError."""
        hold = self._hold(spawner)
        if hold and "cpu" in hold.rows:
            now = self.clock.now()
            self.ledger.end(hold.session, now, ["cpu"])
            self._forget_rows(hold, now, ["cpu"])

    def resume(self, spawner: Any) -> None:
        """A hibernated session is awake. Raises LedgerError."""
        hold = self._hold(spawner)
        # Its profile may be gone, with what it costs.
        if hold and hold.session == spawner.service_name and "cpu" not in hold.rows and "cpu" in hold.running:
            rows = self._rows(hold, {"cpu": hold.running["cpu"]}, self.clock.now())
            self.ledger.begin(rows)
            hold.rows["cpu"] = rows[0]

    # While they run

    async def watch(self) -> None:
        """Beat, warn and cut for ever; the body of a task."""
        while True:
            try:
                self.tick()
                await self.count_hours()
            except LedgerError as error:
                log.error("The ledger does not answer: %s", error)
            except Exception:
                log.exception("The look at the quotas failed")
            await asyncio.sleep(TICK)

    def tick(self) -> None:
        """One look at everything. Raises LedgerError."""
        ledger = self.ledger
        if jump := self.clock.adjust():
            log.warning("The clock was set by %d s; what sessions held counts by the steady clock", jump[1] - jump[0])
            ledger.shift(*jump)
            for hold in self._holds.values():
                for name, row in list(hold.rows.items()):
                    if row.sure:
                        self._forget_rows(hold, jump[0], [name])
                        hold.rows[name] = replace(row, started=jump[1], seen=jump[1])
        now = self.clock.now()
        self._write_ends()
        ledger.beat(now)
        self._drop_strangers()
        steady = self.clock.steady()
        self._looked = steady if self._looked is None else self._looked
        elapsed = int(steady - self._looked)
        self._looked += elapsed  # the rest of a second counts at the next look
        self._judge(now, elapsed)

    def _drop_strangers(self) -> None:
        """Close what a hub before this one left open for sessions that nobody knows any more."""
        unsure = {key: hold for key, hold in self._holds.items() if not all(row.sure for row in hold.rows.values())}
        if unsure and self.host.proxy is not None:
            known = self._known()
            for key, hold in unsure.items():
                if hold.session not in known:
                    del self._holds[key]
                    self._end(hold, self.clock.now())

    def _known(self) -> set[str]:
        """The sessions that the hub's database has as running or whose start or stop is under way. More may be in its states."""
        records = self.host.proxy.app.db.query(orm.Spawner).filter(orm.Spawner.server_id.is_not(None))
        names = {str((record.state or {}).get("service_name", "")) for record in records}
        return names | {spawner.service_name for spawner in self._spawners().values() if spawner.active}

    def _judge(self, now: int, elapsed: int) -> None:
        users: dict[str, list[Hold]] = {}
        for hold in self._holds.values():
            users.setdefault(hold.user, []).append(hold)
        self._prepare(users)
        granted: dict[str, list[Override]] = {}
        for each in self._granted:
            granted.setdefault(each.user, []).append(each.override)
        standings = {}
        spawners = self._spawners()
        for user, own in users.items():
            # The groups of now, as far as the hub has its sessions already.
            there = next((spawners[hold.user, hold.server] for hold in own if (hold.user, hold.server) in spawners), None)
            groups = there.groups if there is not None else {name for hold in own for name in hold.groups}
            allowance = self.allowance(user, groups)
            running: Counter[str] = Counter()
            for hold in own:
                if hold.session:
                    running.update(hold.metered)
            usage = self._usage(user, own, now)
            found = quotas.forecasts(allowance, running, usage, now, self.zone, granted.get(user, ()))
            for hold in own:
                key = (hold.user, hold.server)
                before = self._standings.get(key, Standing())
                concern = quota_notice.of_session(found, hold.metered) if hold.session and found else ()
                after = quota_notice.step(before, concern, now, elapsed, self.document.quota_notice)
                standings[key] = after
                if after.state != before.state:
                    self._told(hold, after)
                if after.state == quota_notice.CUT:
                    self._cut(spawners.get(key), hold, after)
        self._standings = standings

    def _spawners(self) -> dict[Session, Any]:
        users = list(self.host.proxy.app.users.values()) if self.host.proxy is not None else []
        return {(user.name, name): spawner for user in users for name, spawner in list(user.spawners.items())}

    def _told(self, hold: Hold, standing: Standing) -> None:
        if standing.forecast is None:
            return
        meter = standing.forecast.meter
        facts = {"resource": meter.resource, "window": meter.window, "used": meter.used, "limit": meter.limit}
        state = {quota_notice.CUT: "cut", quota_notice.NOTICE: "noticed"}.get(standing.state, "warned")
        self.host.audit.write(state, user=hold.user, server=hold.server, session=hold.session, cause="quota", **facts)
        if standing.state == quota_notice.CUT:
            CUTS.labels(meter.resource).inc()

    def _cut(self, spawner: Any, hold: Hold, standing: Standing) -> None:
        if spawner is None or spawner.pending or spawner.service_name != hold.session or standing.forecast is None:
            return
        spawner.stop_detail = standing.forecast.meter.sentence
        self.host.sessions.stop(spawner, "quota")

    async def count_hours(self) -> None:
        """Bring the metric of GPU hours up to date, now and then. Raises LedgerError."""
        if self.clock.steady() - self._hours_at < HOURS_EVERY:
            return
        self._hours_at, now = self.clock.steady(), self.clock.now()
        span = window_span("month", now, self.zone)
        hours: Counter[str] = Counter()
        # All of a month's intervals take longer to add up than the loop may wait.
        for own in (await asyncio.to_thread(self.ledger.seconds, {"month": span})).values():
            hours.update({resource: seconds for (resource, _), seconds in own.items()})
        for hold in self._holds.values():
            for row in hold.rows.values():
                seconds = min(now, span.end) - max(row.started, span.start)
                hours[row.resource] += max(0, seconds) * row.count
        GPU_HOURS.clear()  # a kind that nobody used in this month would keep what it had in the one before
        for resource, seconds in hours.items():
            if quotas.covers("gpu", resource):
                GPU_HOURS.labels(resource).set(seconds / 3600)

    # For the pages and the API

    def notices(self, user: str, server: str | None = None) -> list[str]:
        """What a user is to be told now of what runs out: sentences, for the page and in the session."""
        now = self.clock.now()
        own = [each for key, each in self._standings.items() if key[0] == user and server in (None, key[1])]
        # The most urgent first, and each once.
        told = sorted(own, key=lambda each: each.left is None)
        return list(dict.fromkeys(sentence for each in told if (sentence := each.sentence(now))))

    def warnings(self, user: str, server: str) -> list[dict[str, str]]:
        """What a session's own page says of what runs out: sentences, each with a key that stays while it is about the same."""
        standing = self._standings.get((user, server))
        if standing is None or standing.forecast is None:
            return []
        meter = standing.forecast.meter
        return [{"key": f"{standing.state} {meter.resource} {meter.window}", "text": standing.sentence(self.clock.now())}]

    def grant(self, user: str, override: Override, by: str) -> Granted:
        """Give a user more of a metered resource. Raises LedgerError."""
        now = self.clock.now()
        number = self.ledger.grant(user, override, by, now)
        self._granted = self.ledger.granted(now)
        facts = {"resource": override.resource, "extra": override.extra, "until": instant(override.until), "reason": override.reason}
        self.host.audit.write("override", user=user, by=by, number=number, **facts)
        return Granted(number, user, override, by, now)

    def revoke(self, number: int, by: str) -> bool:
        """End an override now. Returns whether there was one. Raises LedgerError."""
        now = self.clock.now()
        found = next((each for each in self.ledger.granted(now) if each.number == number), None)
        if found is None or not self.ledger.revoke(number, now):
            return False
        self._granted = self.ledger.granted(now)
        self.host.audit.write("override.ended", user=found.user, by=by, number=number, resource=found.override.resource)
        return True

    def report(self, span: Span, only: Only = EVERYBODY) -> Showback:
        """What all used in a span of time, or some. Raises LedgerError. Slow with many rows: for a thread."""
        return showback(self.ledger.intervals(span), span, self.zone, self.document.rates, only)

    def costs(self) -> dict[str, float]:
        """What each session that runs has cost by the rate card, by its service's name. Raises LedgerError. For a thread."""
        found: dict[str, float] = {}
        for session, resource, count, memory, seconds in self.ledger.running():
            found[session] = found.get(session, 0.0) + cost(resource, count, memory, seconds, self.document.rates)
        return found


def instant(seconds: int) -> str:
    """An instant, in seconds since the epoch, as the API and the audit log write it."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
