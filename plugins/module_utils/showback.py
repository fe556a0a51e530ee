"""What was used in a month, by user, group and profile, in hours and in money. Pure: rows of the ledger and a rate card are handed in.

Hours are of allocation: two CPUs held for an hour are two. Memory counts GiB hours, of sessions that are not hibernated.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from .quotas import Span, covers, unit

MEMORY = "memory"
SESSION = "session"
GIB = 1 << 30
_PRICED = "memory, cpu, gpu, or gpu- and a model or a MIG profile: gpu-a100, gpu-1g.10gb"
RATES_LEGAL = "currency and prices of an hour: {currency: EUR, cpu: 0.02, memory: 0.005, gpu: 1.5, gpu-1g.10gb: 0.3}"


@dataclass(frozen=True)
class Rates:
    """Prices of an hour of a resource, of memory for a GiB; ``gpu`` is for kinds of GPUs without a price of their own."""

    currency: str = ""
    hours: Mapping[str, float] = field(default_factory=dict)

    def price(self, resource: str) -> float:
        """The price of an hour; 0 for what has none."""
        if resource in self.hours:
            return self.hours[resource]
        return self.hours.get("gpu", 0.0) if covers("gpu", resource) else 0.0


def rate_faults(value: object) -> list[tuple[str, object, str, str]]:
    """What is wrong in a rate card: key, value, a sentence and what is legal, for each fault."""
    if not isinstance(value, Mapping):
        return [("", value, "A rate card is a mapping.", RATES_LEGAL)]
    found: list[tuple[str, object, str, str]] = []
    for key, price in value.items():
        if key == "currency":
            if not isinstance(price, str) or not 0 < len(price.strip()) <= 8:
                found.append((key, price, "This is not a currency.", "1 to 8 characters: EUR, kWh, points"))
        elif key != MEMORY and unit(str(key)) != "seconds":
            found.append((str(key), price, f"There is no resource {key} to price.", _PRICED))
        elif isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price < 1e6:
            found.append((str(key), price, "This is not a price of an hour.", "a number from 0: 0.02"))
    if not found and value and "currency" not in value:
        found.append(("currency", None, "The prices have no currency.", RATES_LEGAL))
    return found


def read_rates(value: Mapping[str, object]) -> Rates:
    """A rate card without faults."""
    return Rates(str(value.get("currency", "")), {str(k): float(str(v)) for k, v in value.items() if k != "currency"})


@dataclass(frozen=True)
class Interval:
    """One row of the ledger, closed or up to its last heartbeat, in seconds since the epoch. ``memory`` is bytes, on rows of ``cpu``."""

    user: str
    groups: tuple[str, ...]
    profile: str
    resource: str
    count: int
    memory: int
    start: int
    end: int


@dataclass(frozen=True)
class Only:
    """Whose usage is added up. What is empty asks for nothing; a group is the one that a session was counted for."""

    user: str = ""
    group: str = ""
    profile: str = ""

    def takes(self, each: Interval) -> bool:
        """Whether an interval is one of these."""
        return self.user in ("", each.user) and self.profile in ("", each.profile) and (not self.group or self.group in each.groups)


EVERYBODY = Only()


@dataclass(frozen=True)
class Sum:
    """What one user, group or profile used: hours by resource, and what that costs."""

    name: str
    hours: Mapping[str, float]
    cost: float

    def of(self, resource: str) -> float:
        """Hours of a resource; of ``gpu`` those of all kinds."""
        return sum(number for name, number in self.hours.items() if covers(resource, name))


@dataclass(frozen=True)
class Showback:
    """A span of time: sums by kind (``user``, ``group``, ``profile``), of all, and the hours of each day by resource.

    ``names`` are those of each kind that there are in the span, whoever was asked for.
    """

    span: Span
    currency: str
    resources: tuple[str, ...]
    kinds: Mapping[str, tuple[Sum, ...]]
    total: Sum
    days: tuple[tuple[str, Mapping[str, float]], ...]
    names: Mapping[str, tuple[str, ...]]


def showback(intervals: Iterable[Interval], span: Span, zone: tzinfo, rates: Rates, only: Only = EVERYBODY) -> Showback:
    """Add up what falls into a span. Who is in several groups counts in each of them; who is in none under an empty name.

    The most expensive come first, then those with the most GPU and CPU hours.
    """
    kinds: dict[str, dict[str, dict[str, float]]] = {"user": {}, "group": {}, "profile": {}}
    total: dict[str, float] = {}
    days = _days(span, zone)
    starts = [start for _, start, _ in days]
    by_day: list[dict[str, float]] = [{} for _ in days]
    names: dict[str, set[str]] = {kind: set() for kind in kinds}
    for each in intervals:
        start, end = max(each.start, span.start), min(each.end, span.end)
        if end <= start:
            continue
        names["user"].add(each.user)
        names["group"].update(each.groups)
        names["profile"].add(each.profile)
        if not only.takes(each):
            continue
        parts = _parts(each.resource, each.count, each.memory)
        places = [kinds["user"].setdefault(each.user, {}), kinds["profile"].setdefault(each.profile, {}), total]
        places += [kinds["group"].setdefault(name, {}) for name in ((only.group,) if only.group else each.groups or ("",))]
        for resource, amount in parts:
            hours = amount * (end - start) / 3600
            for place in places:
                place[resource] = place.get(resource, 0.0) + hours
            first = _at(starts, start)
            for number in range(first, len(days)):
                _, day_start, day_end = days[number]
                if day_start >= end:
                    break
                piece = amount * (min(end, day_end) - max(start, day_start)) / 3600
                by_day[number][resource] = by_day[number].get(resource, 0.0) + piece
    resources = sorted(total, key=lambda name: (name != "cpu", name == SESSION, name == MEMORY, name))
    return Showback(
        span=span,
        currency=rates.currency,
        resources=tuple(resources),
        kinds={kind: tuple(sorted((_sum(n, h, rates) for n, h in found.items()), key=_rank)) for kind, found in kinds.items()},
        total=_sum("", total, rates),
        days=tuple((name, hours) for (name, _, _), hours in zip(days, by_day)),
        names={kind: tuple(sorted(found)) for kind, found in names.items()},
    )


def _parts(resource: str, count: int, memory: int) -> list[tuple[str, float]]:
    """What an interval counts for: its resource and, beside CPUs, its memory in GiB."""
    return [(resource, float(count)), *([(MEMORY, memory / GIB)] if memory and resource == "cpu" else [])]


def cost(resource: str, count: int, memory: int, seconds: float, rates: Rates) -> float:
    """What holding a resource for so long costs; ``memory`` is as in Interval."""
    return sum(amount * seconds / 3600 * rates.price(name) for name, amount in _parts(resource, count, memory))


def _sum(name: str, hours: Mapping[str, float], rates: Rates) -> Sum:
    return Sum(name, hours, sum(number * rates.price(resource) for resource, number in hours.items()))


def _rank(each: Sum) -> tuple[float, float, float, str]:
    return -each.cost, -each.of("gpu"), -each.of("cpu"), each.name


def _days(span: Span, zone: tzinfo) -> list[tuple[str, int, int]]:
    """The days of a span: date, start and end."""
    day = datetime.fromtimestamp(span.start, zone).date()
    bounds = [span.start]
    names = [day.isoformat()]
    while True:
        day += timedelta(days=1)
        start = int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())
        if start >= span.end:
            break
        if start > bounds[-1]:
            bounds.append(start)
            names.append(day.isoformat())
    return list(zip(names, bounds, [*bounds[1:], span.end]))


def _at(starts: list[int], instant: int) -> int:
    """The number of the day that an instant of the span falls into."""
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if starts[middle] <= instant else (low, middle)
    return low


def table(report: Showback) -> str:
    """The report as CSV, a line for each user, group and profile, and one for all. Hours have two decimals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["kind", "name", *(f"{name}_hours" for name in report.resources), "cost", "currency"])
    rows = [(kind, each) for kind, sums in report.kinds.items() for each in sums]
    for kind, each in [*rows, ("all", report.total)]:
        hours = [f"{each.hours.get(name, 0.0):.2f}" for name in report.resources]
        writer.writerow([kind, _cell(each.name), *hours, f"{each.cost:.2f}", report.currency])
    return out.getvalue()


def _cell(text: str) -> str:
    """Spreadsheets run a cell that begins like a formula, and a user name may."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
