"""Quotas: their text, how grants merge, what a user has left, and when a running session is cut.

Text such as ``sessions=2, memory=64G, workspace=100G, gpu-a100=8h/day, 40h/month`` is read here and nowhere else. Inside, sizes are
bytes, times are seconds, instants are seconds since the epoch. Nothing here reads a clock, a zone's name or a ledger: all is handed in.

A resource that no grant names is not limited. ``cpu``, ``gpu`` and ``gpu-<model or MIG profile>`` are metered: a second of allocation of
one of them costs a second. ``gpu`` covers every kind of GPU.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache

from .durations import LEGAL as DURATION_LEGAL
from .durations import exact_duration, parse_duration
from .sizes import LEGAL as SIZE_LEGAL
from .sizes import exact_size, format_size, parse_size
from .specs import listed, nearest

ALL = "*"
WINDOWS = ("day", "week", "month")
WARN_PERCENT = 80
LEGAL = "limits joined by commas: sessions=2, memory=64G, workspace=100G, gpu-a100=8h/day; or unlimited, or deny"
RESOURCES_LEGAL = "sessions, memory, workspace, cpu, gpu, or gpu- and a model or a MIG profile: gpu-a100, gpu-1g.10gb"
DEFAULT, INVITE = "default", "invite"

_UNLIMITED, _DENY = "unlimited", "deny"
_UNITS = {"sessions": "sessions", "memory": "bytes", "workspace": "bytes"}
_METERED = re.compile(r"cpu|gpu(?:-[a-z0-9]+(?:[.+-][a-z0-9]+)*)?", re.ASCII)
_COUNT = re.compile(r"\d{1,4}", re.ASCII)
_NOW = {"day": "today", "week": "this week", "month": "this month"}

Key = tuple[str, str]


def unit(resource: str) -> str:
    """What a resource is counted in, ``sessions``, ``bytes`` or ``seconds``; empty for a name that is no resource."""
    return _UNITS.get(resource) or ("seconds" if _METERED.fullmatch(resource) else "")


def covers(general: str, resource: str) -> bool:
    """Whether what is said of ``general`` holds for ``resource``: everything covers all, ``gpu`` covers ``gpu-a100``."""
    return general in (ALL, resource) or (general == "gpu" and resource.startswith("gpu-"))


def gpu_resource(profile: str, model: str) -> str:
    """The metered resource of a flavor's GPUs: ``gpu-1g.10gb`` of a MIG profile, else ``gpu-a100`` of a model, else ``gpu``.

    A slice goes by its profile, since hosts of several models may have it. Raises ValueError for a model that is no name.
    """
    kind = profile or model
    name = f"gpu-{kind}" if kind else "gpu"
    if not unit(name):
        raise ValueError(f"{kind!r} is not a model of GPUs: write it in small letters and digits, as quotas do: a100, rtx-6000")
    return name


@dataclass(frozen=True)
class Limit:
    """One limit of one grant. ``window`` is empty or one of WINDOWS, ``amount`` in the resource's unit, or None for unlimited.

    Unlimited without a window lifts the limits of all windows; of the resource ALL it lifts those of what the grant does not name.
    """

    resource: str
    window: str
    amount: int | None


@dataclass(frozen=True)
class Quota:
    """One grant: what it limits or lifts, and the resources it denies (ALL for everything)."""

    limits: frozenset[Limit] = frozenset()
    deny: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wrong:
    """One wrong part of a quota's text, a sentence about it, and what is legal."""

    part: object
    message: str
    legal: str


class QuotaError(ValueError):
    """The text is no quota. ``problems`` has an entry for each part that is wrong."""

    def __init__(self, problems: Iterable[Wrong]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.part!r} is not a quota: {p.message} Legal: {p.legal}" for p in self.problems))


def parse_quota(text: object) -> Quota:
    """Read a quota. A part without a name goes on with the resource before it: ``gpu-a100=8h/day, 40h/month``.

    Raises QuotaError, which is a ValueError, with all that is wrong.
    """
    if not isinstance(text, str):
        raise QuotaError([Wrong(text, "A quota is text.", LEGAL)])
    said: list[Limit] = []
    limits: set[Limit] = set()
    deny: set[str] = set()
    problems: list[Wrong] = []
    before = ""
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = (p.strip() for p in part.partition("="))
        if not equals and part in (_UNLIMITED, _DENY):
            name, value = ALL, part
        elif not equals and before and "/" in part:
            name, value = before, part
        elif not equals or not name or not value or name == ALL:
            problems.append(Wrong(part, "This is not a limit.", LEGAL))
            continue
        before = name if unit(name) == "seconds" else ""
        limit = _limit(part, name, value)
        if isinstance(limit, Wrong):
            problems.append(limit)
            continue
        if any(_contradicts(limit, value == _DENY, other, ALL in deny) for other in said):
            problems.append(Wrong(part, "It speaks of the same once more.", "one limit for each resource and period; deny alone"))
        said.append(limit)
        if value == _DENY:
            deny.add(name)
        else:
            limits.add(limit)
    if problems:
        raise QuotaError(problems)
    return Quota(frozenset(limits), frozenset(deny))


def _contradicts(limit: Limit, denies: bool, other: Limit, all_denied: bool) -> bool:
    if all_denied or (denies and limit.resource == ALL):
        return True
    return limit.resource == other.resource and (limit.window == other.window or "" in (limit.window, other.window))


def _limit(part: str, name: str, value: str) -> Limit | Wrong:
    """One part, read; what it denies has the form of what it lifts."""
    amount, slash, window = (p.strip() for p in value.partition("/"))
    kind = unit(name)
    if name == ALL:
        return Limit(name, "", None)
    if not kind:
        return Wrong(part, f"There is no resource {name} to limit. {nearest(name, [*_UNITS, 'cpu', 'gpu'])}".strip(), RESOURCES_LEGAL)
    if slash and window not in WINDOWS:
        return Wrong(part, "There is no such period.", listed(WINDOWS))
    if slash and kind != "seconds":
        return Wrong(part, f"{name} has no period.", f"{name}={'2' if kind == 'sessions' else '100G'}")
    if amount == _UNLIMITED or value == _DENY:
        return Limit(name, window, None)
    if kind == "seconds" and not slash:
        return Wrong(part, f"The time of {name} needs a period.", f"{name}=8h/day; the periods are {listed(WINDOWS)}")
    try:
        number = _amount(kind, amount)
    except ValueError:
        what, legal = {
            "sessions": ("number of sessions", "0 to 9999, or unlimited, or deny"),
            "bytes": ("size", f"{SIZE_LEGAL}, or unlimited, or deny"),
            "seconds": ("duration", f"{DURATION_LEGAL}, or unlimited"),
        }[kind]
        return Wrong(part, f"{amount} is not a {what}.", legal)
    return Limit(name, window, number)


def _amount(kind: str, text: str) -> int:
    """A number in the unit. Raises ValueError, also for what is so large or fine that its exact text could not be read again."""
    if kind == "sessions":
        if not _COUNT.fullmatch(text):
            raise ValueError(text)
        return int(text)
    if kind == "bytes":
        number = parse_size(text)
        parse_size(exact_size(number))
    else:
        number = parse_duration(text)
        parse_duration(exact_duration(number))
    return number


def format_quota(quota: Quota) -> str:
    """The canonical text, which ``parse_quota`` reads back as the same quota."""
    texts = [((name, ""), _DENY if name == ALL else f"{name}={_DENY}") for name in quota.deny]
    for limit in quota.limits:
        if limit.resource == ALL:
            value = _UNLIMITED
        else:
            value = f"{limit.resource}={_exact(limit)}" + (f"/{limit.window}" if limit.window else "")
        texts.append(((limit.resource, limit.window), value))
    return ", ".join(text for _, text in sorted(texts, key=lambda item: _order(item[0])))


def _order(key: Key) -> tuple[int, str, int]:
    resource, window = key
    first = [ALL, *_UNITS]
    place = first.index(resource) if resource in first else len(first)
    return place, resource, WINDOWS.index(window) if window else -1


def _exact(limit: Limit) -> str:
    if limit.amount is None:
        return _UNLIMITED
    return {"bytes": exact_size, "seconds": exact_duration}.get(unit(limit.resource), str)(limit.amount)


def quota_data(quota: Quota) -> dict[str, object]:
    """A quota as plain data: ``limits`` with amount and unit, ``deny`` and ``unlimited`` as lists of resources, ``*`` for everything.

    What is unlimited in one period only has it behind a slash.
    """
    limits = sorted(quota.limits, key=lambda each: _order((each.resource, each.window)))
    return {
        "limits": [
            {"resource": each.resource, "window": each.window or None, "amount": each.amount, "unit": unit(each.resource)}
            for each in limits
            if each.amount is not None
        ],
        "deny": sorted(quota.deny),
        "unlimited": [each.resource + (f"/{each.window}" if each.window else "") for each in limits if each.amount is None],
    }


@dataclass(frozen=True)
class Bound:
    """The limit that holds for a user, and whose grant it is: DEFAULT, ``group <name>``, ``user <name>``, or INVITE."""

    resource: str
    window: str
    amount: int
    source: str


@dataclass(frozen=True)
class Allowance:
    """What holds for one user: the limits that bind, and what is denied, with the grant that denies it."""

    bounds: tuple[Bound, ...] = ()
    denied: Mapping[str, str] = field(default_factory=dict)

    def denier(self, resource: str) -> str | None:
        """The grant that denies a resource, or None."""
        return next((source for name, source in self.denied.items() if covers(name, resource)), None)


@dataclass(frozen=True)
class Quotas:
    """The grants of a site: for everybody, for groups and for users."""

    default: Quota = Quota()
    groups: Mapping[str, Quota] = field(default_factory=dict)
    users: Mapping[str, Quota] = field(default_factory=dict)

    def allowance(self, user: str, groups: Collection[str], more: Iterable[tuple[str, Quota]] = ()) -> Allowance:
        """Merge the grants of a user: for each resource and window the most generous one wins, and a deny beats all.

        ``more`` are grants that are not the inventory's, each with its source. Of equally generous ones the broadest is named.
        """
        grants = [(DEFAULT, self.default)]
        grants += [(f"group {name}", self.groups[name]) for name in sorted(set(groups) & set(self.groups))]
        grants += [(f"user {user}", self.users[user])] if user in self.users else []
        grants += more
        denied: dict[str, str] = {}
        for source, quota in grants:
            for name in sorted(quota.deny):
                denied.setdefault(name, source)
        bounds = []
        for key in sorted({(e.resource, e.window) for _, q in grants for e in q.limits if e.amount is not None}, key=_order):
            said = [(source, limit.amount) for source, quota in grants for limit in _of(quota, key)]
            finite = [(source, amount) for source, amount in said if amount is not None]
            if len(finite) == len(said) and not any(covers(name, key[0]) for name in denied):
                source, amount = max(finite, key=lambda item: item[1])
                bounds.append(Bound(*key, amount, source))
        return Allowance(tuple(bounds), denied)

    def of(self, user: str, groups: Collection[str], resource: str, window: str = "") -> int | None:
        """The limit of a user for a resource in its unit; 0 where it is denied, None where nothing limits it."""
        allowance = self.allowance(user, groups)
        if allowance.denier(resource) is not None:
            return 0
        return next((b.amount for b in allowance.bounds if (b.resource, b.window) == (resource, window)), None)


def _of(quota: Quota, key: Key) -> Iterator[Limit]:
    """What a grant says of a resource and window: at most one limit."""
    resource, window = key
    named = [limit for limit in quota.limits if limit.resource == resource]
    if named:
        yield from (limit for limit in named if limit.window in ("", window))
    else:
        yield from (limit for limit in quota.limits if limit.resource == ALL)


@dataclass(frozen=True)
class Span:
    """Time from ``start`` up to, not including, ``end``, in seconds since the epoch."""

    start: int
    end: int


@lru_cache(maxsize=64)
def window_span(window: str, now: int, zone: tzinfo) -> Span:
    """The day, week (from Monday) or month around an instant, in a time zone; days are 23 or 25 hours long where clocks change.

    Raises ValueError for another window.
    """
    if window not in WINDOWS:
        raise ValueError(f"{window!r} is not a window: one of {listed(WINDOWS)}")
    day = datetime.fromtimestamp(now, zone).date()
    first = {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[window]
    # Near a midnight at which clocks change, a date can come back; spans go by their starts, so that they tile time.
    while _midnight(_next(window, first), zone) <= now:
        first = _next(window, first)
    while _midnight(first, zone) > now:
        first = _next(window, first, -1)
    return Span(_midnight(first, zone), _midnight(_next(window, first), zone))


def _next(window: str, first: date, step: int = 1) -> date:
    if window == "month":
        months = first.year * 12 + first.month - 1 + step
        return date(months // 12, months % 12 + 1, 1)
    return first + timedelta(days=step * (7 if window == "week" else 1))


def _midnight(day: date, zone: tzinfo) -> int:
    """The first midnight of a day, or where clocks skip it, when it would have come by the clock before (PEP 495, fold 0)."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


@dataclass(frozen=True)
class Allocation:
    """A resource held from ``start`` to ``end``, or while ``end`` is None, to ``seen``, the ledger's last heartbeat.

    ``count`` is how many of it; who writes the ledger rounds a part of a CPU up.
    """

    resource: str
    start: int
    end: int | None
    seen: int
    count: int = 1


def seconds_in(allocations: Iterable[Allocation], span: Span) -> int:
    """Seconds of allocation that fall into a span. A clock that went back costs nothing."""
    total = 0
    for each in allocations:
        end = each.seen if each.end is None else each.end
        total += each.count * max(0, min(end, span.end) - max(each.start, span.start))
    return total


def metered(allocations: Collection[Allocation], now: int, zone: tzinfo) -> dict[Key, int]:
    """Seconds used of each resource in each window around ``now``, as Usage takes them."""
    spans = {window: window_span(window, now, zone) for window in WINDOWS}
    used = {}
    for resource in sorted({each.resource for each in allocations}):
        own = [each for each in allocations if each.resource == resource]
        used.update({(resource, window): seconds_in(own, span) for window, span in spans.items()})
    return used


@dataclass(frozen=True)
class Usage:
    """What a user has in use: sessions, bytes of memory and of the home, and seconds by resource and window."""

    sessions: int = 0
    memory: int = 0
    workspace: int = 0
    seconds: Mapping[Key, int] = field(default_factory=dict)

    def of(self, resource: str, window: str) -> int:
        """What is used of a resource, in its unit; all kinds of GPUs count as ``gpu``."""
        counts = {"sessions": self.sessions, "memory": self.memory, "workspace": self.workspace}
        if resource in counts:
            return counts[resource]
        return sum(number for (name, period), number in self.seconds.items() if period == window and covers(resource, name))


@dataclass(frozen=True)
class Override:
    """An admin's decision: ``extra`` seconds of a metered resource in each window, until an instant, for a reason.

    It raises limits of exactly this resource, and lifts no deny. Raises ValueError for what is none.
    """

    resource: str
    extra: int
    until: int
    reason: str

    def __post_init__(self) -> None:
        if unit(self.resource) != "seconds":
            raise ValueError(f"an override's resource is {self.resource!r}; legal are cpu, gpu, or gpu- and a model or a MIG profile")
        if self.extra <= 0:
            raise ValueError(f"an override's extra seconds are {self.extra}; legal is 1 or more")
        if not self.reason.strip():
            raise ValueError("an override's reason is empty; legal is a sentence that the audit log keeps")


@dataclass(frozen=True)
class Meter:
    """A limit and what is used of it, in the resource's unit. ``limit`` has the ``extra`` of overrides in it; ``span`` is the window's."""

    resource: str
    window: str
    used: int
    limit: int
    extra: int
    source: str
    span: Span | None
    zone: tzinfo

    @property
    def sentence(self) -> str:
        """What is used, what is left, whose limit it is, and when a used-up one begins anew."""
        return _sentence(self)

    @property
    def left(self) -> int:
        """What is left, never negative."""
        return max(0, self.limit - self.used)

    @property
    def full(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.limit

    @property
    def warning(self) -> bool:
        """Whether WARN_PERCENT or more is used."""
        return self.used * 100 >= self.limit * WARN_PERCENT


def meters(allowance: Allowance, usage: Usage, now: int, zone: tzinfo, overrides: Collection[Override] = ()) -> tuple[Meter, ...]:
    """Each limit of a user with what is used and left at ``now``, in the order of the canonical text."""
    found = []
    for bound in allowance.bounds:
        extra = sum(o.extra for o in overrides if o.resource == bound.resource and now < o.until)
        used, limit = usage.of(bound.resource, bound.window), bound.amount + extra
        span = window_span(bound.window, now, zone) if bound.window else None
        found.append(Meter(bound.resource, bound.window, used, limit, extra, bound.source, span, zone))
    return tuple(found)


@dataclass(frozen=True)
class Request:
    """What a start adds, or what runs on: sessions and bytes of memory that are new, and for each metered resource how many run.

    A session that runs adds neither sessions nor memory. ``running`` is of all that the user runs, so that the cut is foretold well.
    """

    sessions: int = 0
    memory: int = 0
    running: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether a request may start or go on. ``refusals`` and ``warnings`` are sentences for the user, ``meters`` the limits asked.

    ``again`` is when the windows that refuse have ended, None where time alone cures nothing. ``cut_at`` is the instant at which a limit
    will be used up at this rate, None where no limit is before its window ends.
    """

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    meters: tuple[Meter, ...]
    again: int | None
    cut_at: int | None

    @property
    def allowed(self) -> bool:
        """Whether it may."""
        return not self.refusals


def decide(allowance: Allowance, request: Request, usage: Usage, now: int, zone: tzinfo, overrides: Collection[Override] = ()) -> Verdict:
    """May this start, or go on? ``usage`` is without what the request adds."""
    wanted = {"sessions": request.sessions, "memory": request.memory, **request.running}
    asked = [name for name, number in wanted.items() if number > 0]
    if ALL in allowance.denied:
        refusals = [_denied(ALL, allowance.denied[ALL])]
    else:
        refusals = [_denied(name, source) for name in asked if (source := allowance.denier(name)) is not None]
    lasting = bool(refusals)
    warnings: list[str] = []
    ends: list[int] = []
    cuts: list[int] = []
    matter: list[Meter] = []
    for meter in meters(allowance, usage, now, zone, overrides):
        rate = sum(wanted[name] for name in asked if covers(meter.resource, name))
        if not rate:
            continue
        matter.append(meter)
        if meter.span is None:
            if meter.used + rate > meter.limit:
                refusals.append(_no_room(meter, rate))
                lasting = True
        elif meter.full:
            refusals.append(meter.sentence)
            ends.append(meter.span.end)
        else:
            if meter.warning:
                warnings.append(meter.sentence)
            cuts += _cut(meter, meter.span, rate, now, overrides)
    return Verdict(
        refusals=tuple(refusals),
        warnings=tuple(warnings),
        meters=tuple(matter),
        again=max(ends) if ends and not lasting else None,
        cut_at=None if refusals else min(cuts, default=None),
    )


@dataclass(frozen=True)
class Forecast:
    """A metered limit that what runs uses up, and the instant at which that is so, None where its window ends before."""

    meter: Meter
    cut_at: int | None


def forecasts(
    allowance: Allowance, running: Mapping[str, int], usage: Usage, now: int, zone: tzinfo, overrides: Collection[Override] = ()
) -> tuple[Forecast, ...]:
    """The metered limits that sessions run against, where ``running`` is how many of each metered resource the user holds in all."""
    found = []
    # A look at all sessions comes by here for each user: what is of no concern is not computed.
    bounds = tuple(b for b in allowance.bounds if b.window and any(covers(b.resource, name) for name in running))
    for meter in meters(Allowance(bounds), usage, now, zone, overrides):
        rate = sum(number for name, number in running.items() if covers(meter.resource, name))
        if rate and meter.span is not None:
            cuts = [now] if meter.full else list(_cut(meter, meter.span, rate, now, overrides))
            found.append(Forecast(meter, min(cuts, default=None)))
    return tuple(found)


def _cut(meter: Meter, span: Span, rate: int, now: int, overrides: Collection[Override]) -> Iterator[int]:
    """When a limit is used up within its window; each override that ends before takes its part of the limit with it."""
    own = [o for o in overrides if o.resource == meter.resource and now < o.until]
    steps = sorted({now, span.end, *(o.until for o in own if o.until < span.end)})
    for start, end in zip(steps, steps[1:]):
        limit = meter.limit - sum(o.extra for o in own if o.until <= start)
        instant = max(start, now - (meter.used - limit) // rate)
        if instant < end:
            yield instant
            return


def _whose(source: str) -> str:
    if source == DEFAULT:
        return "everybody's limit"
    if source == INVITE:
        return "the limit of your invitation"
    return "your own limit" if source.startswith("user ") else f"the limit of {source}"


def _denied(resource: str, source: str) -> str:
    who = {DEFAULT: "everybody", INVITE: "you"}.get(source, "you" if source.startswith("user ") else source)
    what = "Starting sessions" if resource in (ALL, "sessions") else f"The use of {resource}"
    return f"{what} is denied to {who}; ask an administrator."


def _no_room(meter: Meter, more: int) -> str:
    if meter.resource == "sessions":
        have = f"{meter.used} session{'' if meter.used == 1 else 's'}"
        return f"You have {have} and may have {meter.limit} ({_whose(meter.source)}); stop one first."
    return (
        f"Your sessions hold {format_size(meter.used)} of {meter.resource}, this one needs {format_size(more)}, and you may have "
        f"{format_size(meter.limit)} ({_whose(meter.source)}); stop one first or choose a smaller one."
    )


def _spell(seconds: int) -> str:
    """Hours and minutes in words, rounded down. Days are no unit here: a quota of 40 hours is read as such."""
    numbers = [(seconds // 3600, "hour"), (seconds // 60 % 60, "minute")] if seconds >= 60 else [(seconds, "second")]
    return " ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in numbers if n) or "0 seconds"


def _sentence(meter: Meter) -> str:
    used, limit = meter.used, meter.limit
    whose = _whose(meter.source) + (f" and {_spell(meter.extra)} from an administrator" if meter.extra else "")
    if meter.span is None:
        show = format_size if unit(meter.resource) == "bytes" else str
        what = "" if meter.resource == "sessions" else f" of {meter.resource}"
        noun = " sessions" if meter.resource == "sessions" else ""
        return f"You use {show(used)} of {show(limit)}{noun}{what} ({whose}); {show(max(0, limit - used))} left."
    head = f"You have used {_spell(used)} of {_spell(limit)} of {meter.resource} {_NOW[meter.window]} ({whose})"
    if used < limit:
        return f"{head}; {_spell(limit - used)} left."
    return f"{head}; it begins anew on {datetime.fromtimestamp(meter.span.end, meter.zone):%Y-%m-%d at %H:%M}."
