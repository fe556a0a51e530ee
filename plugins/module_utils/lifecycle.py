"""A session's life: what state it is in, what happens next, when, and why.

    absent -> queued -> starting -> running <-> idle <-> hibernated -> stopped -> expired

What the page counts down and what the hub does are one answer, ``decide``. Nothing here reads a clock. A ``Moment`` is handed in, and
what counts is the steady clock in it, which goes on in a suspended host and never jumps; the wall clock only bridges a reboot, and what
was measured across one is believed once the session's own clock says so too.

What may never happen is a stop that nobody could expect. So a stop has three conditions, whatever was missed in between: its limit is
reached, its notice was there to be read for its whole time (a time in which the hub was not there does not count), and one for idleness is
confirmed by the session's own server in the same look. An error in all this makes a stop late.

Times are seconds; of a limit, 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

ABSENT, QUEUED, STARTING, RUNNING, IDLE = "absent", "queued", "starting", "running", "idle"
HIBERNATED, STOPPED, EXPIRED = "hibernated", "stopped", "expired"
STATES = (ABSENT, QUEUED, STARTING, RUNNING, IDLE, HIBERNATED, STOPPED, EXPIRED)

WARN, HIBERNATE, STOP = "warn", "hibernate", "stop"
BY_IDLENESS, BY_AGE = "idle", "max_session"

# A session counts as idle on its page when nothing ran for so long.
IDLE_AFTER = 60.0
# What one extension gives where nothing else is asked for.
STEP = 3600
# So long the page of a stopped session says how it ended.
REMEMBERED = 14 * 86400


class NoExtension(ValueError):
    """A session cannot be extended; the text is a sentence for its user."""


@dataclass(frozen=True)
class Limits:
    """What a profile allows, in seconds.

    ``extension`` is what a session may be extended by in total, ``background`` how long one cell counts as activity, ``notice`` how long
    a stop is announced, and ``patience`` how long a look counts for the present: the hub looks more often than that.
    """

    idle_stop: int = 0
    hibernate_after: int = 0
    max_session: int = 0
    extension: int = 0
    background: int = 4 * 3600
    notice: int = 300
    patience: float = 75.0


@dataclass(frozen=True)
class Moment:
    """An instant by two clocks: the wall's (seconds since the epoch), and a steady one (seconds since ``boot``)."""

    wall: float
    steady: float
    boot: str

    def before(self, seconds: float) -> Moment:
        """The instant so many seconds earlier."""
        return Moment(self.wall - seconds, self.steady - seconds, self.boot)


def elapsed(since: Moment, now: Moment) -> float:
    """Seconds from ``since`` to ``now``, never negative: by the steady clock, or by the wall's when there was a reboot in between."""
    return max(0.0, now.steady - since.steady if now.boot == since.boot else now.wall - since.wall)


@dataclass(frozen=True)
class Reading:
    """What a session's server says of itself.

    ``busy``: a kernel computes. ``idle``: seconds since anything else was active, by the session's own clock, None where there is
    nothing that could have been. ``mark`` is another text whenever something was active. ``age``: seconds since the server's start by
    its own clock, where it was asked for.
    """

    busy: bool
    idle: float | None
    mark: str
    age: float | None = None


@dataclass(frozen=True)
class Record:
    """What is known of a running session.

    ``active`` is its last activity, ``busy`` since when every look found a kernel computing, ``looked`` the last answer of its server
    and ``ticked`` the last decision (None: not in this hub's process), ``warned`` for which cause a stop is announced and ``noticed``
    for how many seconds, ``extended`` by how much it was extended, ``held`` when and ``hold`` for how long that keeps idleness from
    stopping it. ``sure`` is false after a reboot until the session's own clock confirmed the times.
    """

    started: Moment
    active: Moment
    mark: str = ""
    busy: Moment | None = None
    looked: Moment | None = None
    ticked: Moment | None = None
    warned: str = ""
    noticed: float = 0.0
    extended: int = 0
    held: Moment | None = None
    hold: int = 0
    frozen: bool = False
    sure: bool = True


@dataclass(frozen=True)
class Decision:
    """What a session is, and what is to be done now (``act``: nothing, warn, hibernate or stop, with its ``cause``).

    ``next`` is what will happen if nothing changes, after ``left`` seconds and by ``why``; empty and None where nothing will. ``idle`` is
    for how long nothing was active and ``busy`` how long a cell runs (None: none does), ``known`` whether the session's server answers,
    ``warned`` whether the next thing is a stop that is being announced.
    """

    state: str
    act: str = ""
    cause: str = ""
    next: str = ""
    why: str = ""
    left: float | None = None
    idle: float = 0.0
    busy: float | None = None
    known: bool = True
    warned: bool = False
    extension_left: int = 0


def begin(now: Moment, age: float = 0.0) -> Record:
    """The record of a session that started ``age`` seconds ago."""
    started = now.before(max(0.0, age))
    return Record(started=started, active=started)


def rebase(record: Record, now: Moment) -> Record:
    """A record of a former boot in this one's steady time.

    What the wall clock measured in between is not sure until the session confirms it. What it cannot confirm begins anew: a cell, and an
    extension's hold.
    """
    if record.started.boot == now.boot:
        return record
    started, active = now.before(elapsed(record.started, now)), now.before(elapsed(record.active, now))
    busy, held = (now if moment else None for moment in (record.busy, record.held))
    return replace(record, started=started, active=active, busy=busy, held=held, sure=False)


def observe(record: Record, reading: Reading | None, now: Moment) -> Record:
    """The record after a look at the session's server; None where it did not answer, which says nothing."""
    if reading is None:
        return record
    active, started, sure = record.active, record.started, record.sure
    if reading.mark != record.mark:
        # Something happened since the last look. When, only the session's clock could tell, and that one may jump.
        active = now
    if not sure:
        if reading.idle is not None and reading.idle < elapsed(active, now):
            active = now.before(max(0.0, reading.idle))
        if reading.age is not None:
            started, sure = now.before(min(elapsed(started, now), max(0.0, reading.age))), True
        active = active if elapsed(active, now) < elapsed(started, now) else started
    return replace(
        record,
        started=started,
        active=active,
        mark=reading.mark,
        busy=(record.busy or now) if reading.busy else None,
        looked=now,
        sure=sure,
    )


def decide(record: Record, limits: Limits, now: Moment) -> tuple[Record, Decision]:
    """What a running session is and what is to be done, and the record to keep until the next look."""
    # One that came up a moment ago was not asked yet.
    known = record.frozen or elapsed(record.looked or record.started, now) <= limits.patience
    fresh = record.frozen or record.looked == now
    age, idle = elapsed(record.started, now), elapsed(record.active, now)
    busy = elapsed(record.busy, now) if record.busy and not record.frozen else None
    if busy is not None:
        idle = min(idle, max(0.0, busy - limits.background)) if limits.background else 0.0
    computes = busy is not None and not idle

    # Of each cause: when its limit is reached, and when its notice begins. A limit for idleness that is shorter than its notice would be
    # announced before anybody could be idle: half of it is free of that.
    left: dict[str, float] = {}
    begins: dict[str, float] = {}
    if limits.idle_stop and known and not computes:
        hold = record.hold - elapsed(record.held, now) if record.held else 0.0
        left[BY_IDLENESS] = max(limits.idle_stop - idle, hold)
        begins[BY_IDLENESS] = max(left[BY_IDLENESS] - limits.notice, limits.idle_stop / 2 - idle)
    if limits.max_session:
        left[BY_AGE] = limits.max_session + record.extended - age
        begins[BY_AGE] = left[BY_AGE] - limits.notice
    noticed = 0.0
    if record.warned and record.ticked and begins.get(record.warned, 1.0) <= 0:
        noticed = record.noticed + min(elapsed(record.ticked, now), limits.patience)

    def ends(cause: str) -> float:
        heard = noticed if cause == record.warned else 0.0
        return max(left[cause], max(begins[cause], 0.0) + limits.notice - heard, 0.0)

    cause = min(left, key=ends, default="")
    until = ends(cause) if cause else None
    warned = bool(cause) and begins[cause] <= 0
    told = warned and record.warned == cause
    if not told:
        noticed = 0.0
    act = ""
    if warned and not told:
        act = WARN
    elif told and until == 0 and (fresh if cause == BY_IDLENESS else record.sure):
        act = STOP
    following, why = (STOP, cause) if cause else ("", "")
    # A session that is about to stop is not worth the swap.
    if limits.hibernate_after and known and not record.frozen and busy is None and not warned:
        wait = limits.hibernate_after - idle
        if wait <= 0 and fresh:
            act = HIBERNATE
        if until is None or max(0.0, wait) < until:
            following, why, until = HIBERNATE, BY_IDLENESS, max(0.0, wait)
    state = HIBERNATED if record.frozen else IDLE if known and busy is None and idle >= IDLE_AFTER else RUNNING
    kept = replace(record, ticked=now, warned=cause if warned else "", noticed=noticed)
    return kept, Decision(
        state=state,
        act=act,
        cause=cause if act in (WARN, STOP) else BY_IDLENESS if act else "",
        next=following,
        why=why,
        left=until,
        idle=idle,
        busy=busy,
        known=known,
        warned=warned,
        extension_left=max(0, limits.extension - record.extended),
    )


def extend(record: Record, limits: Limits, now: Moment, wanted: int = STEP) -> tuple[Record, int]:
    """Give a session more time, at most what its profile still allows. Returns the seconds that it got.

    They go on top of its longest time, and for as long from now on idleness does not stop it. Raises NoExtension, and ValueError for a
    number that is none.
    """
    if wanted <= 0:
        raise ValueError(f"seconds: {wanted} is not legal: give a number above 0")
    if not limits.idle_stop and not limits.max_session:
        raise NoExtension("This session has no limit that could be extended.")
    if not limits.extension:
        raise NoExtension("Sessions of this profile cannot be extended.")
    granted = min(wanted, limits.extension - record.extended)
    if granted <= 0:
        raise NoExtension("This session has used up what it could be extended by. Save your work; then start it again.")
    return replace(record, extended=record.extended + granted, held=now, hold=granted, warned="", noticed=0.0), granted


def freeze(record: Record) -> Record:
    """The record of a session that was hibernated: nothing runs in it, and its server need not be asked."""
    return replace(record, frozen=True, busy=None)


def thaw(record: Record, now: Moment) -> Record:
    """The record of a session that somebody woke: that is activity."""
    return replace(record, frozen=False, active=now, warned="", noticed=0.0) if record.frozen else record


def unfreeze(record: Record) -> Record:
    """The record of a session that was about to be hibernated and then was not: as if nothing had been."""
    return replace(record, frozen=False)


def state_of(pending: str = "", running: Decision | None = None, ended: float | None = None, remembered: float = REMEMBERED) -> str:
    """A session's state. ``pending`` is queued or starting, ``ended`` the seconds since its end (None: it never ran)."""
    if pending:
        return pending
    if running is not None:
        return running.state
    if ended is None:
        return ABSENT
    return STOPPED if ended <= remembered else EXPIRED


def plain(record: Record) -> dict[str, object]:
    """What of a record outlives the hub's process, as JSON takes it. An announcement does not: it is made again, for its whole time."""

    def listed(moment: Moment | None) -> list[object] | None:
        return None if moment is None else [moment.wall, moment.steady, moment.boot]

    kept: dict[str, object] = {name: listed(getattr(record, name)) for name in ("started", "active", "busy", "held")}
    return {**kept, **{name: getattr(record, name) for name in ("mark", "extended", "hold", "frozen", "sure")}}


def read(data: object) -> Record | None:
    """The record that ``plain`` wrote; None for anything else, which is no reason to stop anything."""

    def moment(value: object) -> Moment | None:
        if value is None:
            return None
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{value!r} is no moment")
        wall, steady, boot = value
        return Moment(float(wall), float(steady), str(boot))

    if not isinstance(data, Mapping):
        return None
    try:
        started, active = moment(data["started"]), moment(data["active"])
        if started is None or active is None:
            return None
        return Record(
            started=started,
            active=active,
            mark=str(data["mark"]),
            busy=moment(data["busy"]),
            extended=int(data["extended"]),
            held=moment(data["held"]),
            hold=int(data["hold"]),
            frozen=bool(data["frozen"]),
            sure=bool(data["sure"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
