"""The queue of starts for which there is no room: who is next, who may go now, and when somebody's turn comes.

One order for all, in which nobody is passed for ever: it is by the time at which a start was asked for, and what else counts is worth
time, ``STEP`` a piece. A session that its user already has, or has waiting before this one, makes it later; a point of its group's priority
makes it earlier. So whoever comes ``STEP`` times the difference later does not pass any more, and the order of two does not turn by itself.

A start goes when a node has room for it. One that has to wait stops only those who would take what it waits for: the first one of each
kind of resource in a pool has a node set aside for it, the one where it lacks least, and others start there only beside it. That nobody
else takes what it lacks there keeps a large start from waiting for ever behind small ones; that it is one node keeps the others busy.

Nothing here reads a clock. Amounts are as ``cluster.resources`` has them: ``cpu``, ``memory``, and GPUs by their kind.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .durations import format_duration

# What one session more of the same user, or one point of priority, is worth in seconds of waiting.
STEP = 3600.0

Want = tuple[tuple[str, float], ...]
Key = tuple[str, str]
Shape = tuple[str, Want]
Lane = tuple[str, tuple[str, ...]]

HISTORY, LATEST, IDLE, NOW = "history", "latest", "idle", "now"
# How many ends of sessions an estimate looks ahead. Nobody plans by one that is further off.
HORIZON = 2000


PRIORITY_LEGAL = "a whole number, -100 to 100"


def legal_priority(value: object) -> bool:
    """Whether something is a priority of a group."""
    return isinstance(value, int) and not isinstance(value, bool) and -100 <= value <= 100


def want(amounts: Mapping[str, float]) -> Want:
    """What a start reserves, in a form that can be compared; nothing of a kind is no wish for it."""
    return tuple(sorted((kind, amount) for kind, amount in amounts.items() if amount > 0))


@dataclass(frozen=True)
class Place:
    """A node that takes sessions of a pool: what it has in all, what of it is free, and how many tasks it runs."""

    id: str
    pool: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    tasks: int = 0


@dataclass(frozen=True)
class Waiter:
    """A start that waits: the session (user and server), what it wants of which pool, since when, and its user's priority."""

    key: Key
    pool: str
    want: Want
    since: float
    priority: int = 0

    @property
    def shape(self) -> Shape:
        return self.pool, self.want

    @property
    def lane(self) -> Lane:
        """Those that wait for the same kind of thing: the GPUs of a kind in a pool, or its processors and memory."""
        return self.pool, tuple(kind for kind, _ in self.want if kind not in ("cpu", "memory"))


@dataclass(frozen=True)
class Go:
    """A start that may go now. ``avoid`` are nodes that have room for it and are set aside for somebody before it."""

    waiter: Waiter
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Who goes, what is free on each node (by its id) for those who come after all that wait, and which node is set aside for whom."""

    go: tuple[Go, ...]
    left: Mapping[str, Mapping[str, float]]
    kept: Mapping[Key, str]


@dataclass(frozen=True)
class Ending:
    """A session's end as it is foreseen: after so many seconds, on which node, what becomes free, and on what grounds."""

    seconds: float
    node: str
    want: Want
    basis: str


@dataclass(frozen=True)
class Estimate:
    """When a start's turn comes: after so many seconds, on what grounds."""

    seconds: float
    basis: str


def order(waiters: Iterable[Waiter], held: Mapping[str, int]) -> list[Waiter]:
    """All that wait, the next one first. ``held`` is how many sessions each user has that run or start."""
    own: Counter[str] = Counter()
    ranked = []
    for waiter in sorted(waiters, key=lambda each: (each.since, each.key)):
        user = waiter.key[0]
        rank = waiter.since + STEP * (held.get(user, 0) + own[user] - waiter.priority)
        own[user] += 1
        ranked.append((rank, waiter.since, waiter.key, waiter))
    return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:3])]


def fits(free: Mapping[str, float], wanted: Want) -> bool:
    """Whether so much is free."""
    return all(free.get(kind, 0) >= amount for kind, amount in wanted)


def shortage(free: Mapping[str, float], wanted: Want) -> float:
    """What is lacking, as the sum of each kind's missing share; 0 where it fits."""
    return sum(max(0.0, amount - free.get(kind, 0)) / amount for kind, amount in wanted)


def able(places: Iterable[Place], pool: str, wanted: Want) -> bool:
    """Whether some node could run it if it were empty."""
    return any(place.pool == pool and fits(place.total, wanted) for place in places)


def _take(free: dict[str, float], wanted: Want) -> None:
    for kind, amount in wanted:
        free[kind] = free.get(kind, 0) - amount


class _Books:
    """What is free on each node: ``real``, and ``open``, which is without what is set aside."""

    def __init__(self, places: Sequence[Place], reserved: Iterable[Shape]) -> None:
        self.places = {place.id: place for place in places}
        self.real = {place.id: dict(place.free) for place in places}
        self.tasks = {place.id: place.tasks for place in places}
        self.pools: dict[str, list[str]] = {}
        for place in places:
            self.pools.setdefault(place.pool, []).append(place.id)
        for pool, wanted in reserved:
            nodes = self.pools.get(pool, [])
            if nodes:
                # Where it will be is not known yet. Most likely where Swarm would put it: on the node with the fewest tasks.
                self.put(min(nodes, key=lambda node: (shortage(self.real[node], wanted), self.tasks[node], node)), wanted)
        self.open = {node: dict(free) for node, free in self.real.items()}

    def put(self, node: str, wanted: Want) -> None:
        _take(self.real[node], wanted)
        self.tasks[node] += 1

    def aside(self, pool: str, wanted: Want, before: str = "") -> str | None:
        """The node that is set aside for a start: the one from ``before``, else, among those that could run it, where it lacks least."""
        nodes = [node for node in self.pools.get(pool, []) if fits(self.places[node].total, wanted)]
        if before in nodes:
            return before
        return min(nodes, key=lambda node: (shortage(self.open[node], wanted), node), default=None)


def decide(
    places: Sequence[Place], reserved: Iterable[Shape], ordered: Iterable[Waiter], limit: int, kept: Mapping[Key, str] | None = None
) -> Outcome:
    """Who of those that wait, in their order, goes now; at most ``limit``.

    ``reserved`` is what those want who went lately and are on no node yet, ``kept`` is from the outcome before: a node that is set aside
    stays so, since another one would have to become empty anew. So whoever is first waits no longer than the sessions on it last.
    """
    books = _Books(places, reserved)
    go: list[Go] = []
    aside: dict[Key, str] = {}
    blocked: set[Shape] = set()
    heads: set[Lane] = set()
    for waiter in ordered:
        if waiter.shape in blocked:
            continue
        room = [node for node in books.pools.get(waiter.pool, []) if fits(books.real[node], waiter.want)]
        free = [node for node in room if fits(books.open[node], waiter.want)]
        if free and len(go) < limit:
            likely = min(free, key=lambda each: (books.tasks[each], each))
            books.put(likely, waiter.want)
            _take(books.open[likely], waiter.want)
            go.append(Go(waiter, tuple(each for each in room if each not in free)))
            continue
        blocked.add(waiter.shape)
        if waiter.lane not in heads:
            heads.add(waiter.lane)
            node = books.aside(waiter.pool, waiter.want, (kept or {}).get(waiter.key, ""))
            if node is not None:
                aside[waiter.key] = node
                _take(books.open[node], waiter.want)
    # Whoever comes now comes after those of the same shape.
    left = {node: dict(free) for node, free in books.open.items()}
    return Outcome(tuple(go), left, aside)


def estimates(
    places: Sequence[Place],
    reserved: Iterable[Shape],
    ordered: Sequence[Waiter],
    endings: Iterable[Ending],
    lasting: Mapping[Key, Estimate],
) -> dict[Key, Estimate]:
    """When the turn of each comes, as far as that can be foreseen: by the ends of sessions, and then of those that go meanwhile, for which
    ``lasting`` says how long they will last. Who is missing in the answer has no foreseeable turn."""
    books = _Books(places, reserved)
    ends = [(ending.seconds, number, ending.node, ending.want, ending.basis) for number, ending in enumerate(endings)]
    ends = [(0.0, -1, place.id, (), NOW) for place in places] + [end for end in ends if end[2] in books.places]
    heapq.heapify(ends)
    number = len(ends)
    lines: dict[str, dict[Shape, deque[tuple[int, Waiter]]]] = {}
    for rank, waiter in enumerate(ordered):
        lines.setdefault(waiter.pool, {}).setdefault(waiter.shape, deque()).append((rank, waiter))
    kept: dict[Key, str | None] = {}
    found: dict[Key, Estimate] = {}
    for _ in range(HORIZON):
        if not ends or len(found) == len(ordered):
            break
        at, _, node, wanted, basis = heapq.heappop(ends)
        _take(books.real[node], tuple((kind, -amount) for kind, amount in wanted))
        shapes = lines.get(books.places[node].pool, {})
        while True:
            free, gone = dict(books.real[node]), None
            heads: set[Lane] = set()
            for _, waiter in sorted((line[0] for line in shapes.values() if line), key=lambda entry: entry[0]):
                if fits(free, waiter.want):
                    gone = waiter
                    break
                if waiter.lane not in heads:
                    heads.add(waiter.lane)
                    if waiter.key not in kept:
                        books.open = books.real
                        kept[waiter.key] = books.aside(waiter.pool, waiter.want)
                    if kept[waiter.key] == node:
                        _take(free, waiter.want)
            if gone is None:
                break
            shapes[gone.shape].popleft()
            _take(books.real[node], gone.want)
            found[gone.key] = Estimate(at, basis)
            if end := lasting.get(gone.key):
                number += 1
                heapq.heappush(ends, (at + end.seconds, number, node, gone.want, end.basis))
    return found


def residual(lasted: Sequence[float], age: float, least: int = 5) -> float | None:
    """How much longer a session of this age lasts: the median of those that got older; None where they were fewer than ``least``.

    ``lasted`` is how long sessions lasted, the shortest first.
    """
    first = bisect_right(lasted, age)
    more = len(lasted) - first
    return lasted[first + more // 2] - age if more >= least else None


GROUNDS = {
    HISTORY: ", going by how long such sessions lasted lately",
    LATEST: " at the latest, when a session reaches its longest time",
    IDLE: ", when an idle session is stopped",
    NOW: "",
}


def about(seconds: float) -> str:
    """A time ahead in words, no more exact than it is known."""
    minutes = max(1, round(seconds / 60))
    if minutes > 60:
        minutes = round(minutes / 10) * 10
    return format_duration(minutes * 60)


def words(before: int, estimate: Estimate | None) -> str:
    """What somebody who waits is told: how many are before, when the turn comes, and how that is known."""
    place = "You are next." if not before else "1 start is before yours." if before == 1 else f"{before} starts are before yours."
    if estimate is None:
        return f"{place} When your turn comes cannot be foreseen: too little is known of the sessions that hold the places."
    return f"{place} Your turn should come in about {about(estimate.seconds)}{GROUNDS[estimate.basis]}."
