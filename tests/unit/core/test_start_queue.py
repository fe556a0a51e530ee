"""The queue of starts: its order, who goes, and what is foreseen, against properties and brute force."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.module_utils import start_queue
from plugins.module_utils.start_queue import (
    Ending,
    Estimate,
    Place,
    Waiter,
    decide,
    estimates,
    fits,
    order,
    residual,
    shortage,
    want,
    words,
)

KINDS = ("cpu", "memory", "GPU")


def waiter(user: str, since: float = 0.0, server: str = "", pool: str = "p", priority: int = 0, **wanted: float) -> Waiter:
    return Waiter((user, server), pool, want(wanted or {"cpu": 1}), since, priority)


def place(name: str, free: Mapping[str, float] | None = None, pool: str = "p", tasks: int = 0, **total: float) -> Place:
    return Place(name, pool, total, total if free is None else free, tasks)


# The order


def test_the_order_is_by_age_share_and_priority() -> None:
    a1, a2, b1, c1 = waiter("a", 0), waiter("a", 1, "two"), waiter("b", 2), waiter("c", 3)
    assert order([c1, b1, a2, a1], {}) == [a1, b1, c1, a2]
    assert order([a1, b1, c1], {"a": 1}) == [b1, c1, a1], "who has a session lets those go first who have none"
    assert order([a1, b1, waiter("v", 9, priority=1)], {})[0].key[0] == "v"
    assert order([a1, waiter("v", start_queue.STEP + 1, priority=1)], {})[0] == a1, "but none is passed for ever"


waiters = st.lists(
    st.builds(
        lambda user, server, since, priority, pool, wants: Waiter((user, str(server)), pool, want(dict(zip(KINDS, wants, strict=True))), since, priority),
        st.sampled_from("abcde"), st.integers(0, 4), st.integers(0, 20_000), st.integers(-3, 3), st.sampled_from("pq"),
        st.tuples(st.integers(1, 8), st.integers(1, 8), st.sampled_from([0, 0, 1, 2, 4])),
    ),
    max_size=14, unique_by=lambda each: each.key,
)  # fmt: skip
amounts = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 4))


@st.composite
def clusters(draw: st.DrawFn) -> list[Place]:
    found = []
    for number in range(draw(st.integers(0, 5))):
        total = draw(amounts)
        free = [draw(st.integers(0, most)) for most in total]
        named = (dict(zip(KINDS, each, strict=True)) for each in (total, free))
        found.append(Place(f"n{number}", draw(st.sampled_from("pq")), *named, draw(st.integers(0, 3))))
    return found


@given(waiters, st.dictionaries(st.sampled_from("abcde"), st.integers(0, 4)), st.randoms())
def test_the_order_is_fair_and_bounded(given_waiters: list[Waiter], held: dict[str, int], chance: random.Random) -> None:
    ordered = order(given_waiters, held)
    shuffled = list(given_waiters)
    chance.shuffle(shuffled)
    assert order(shuffled, held) == ordered and sorted(ordered, key=id) == sorted(given_waiters, key=id)
    at = {each.key: number for number, each in enumerate(ordered)}
    own = {key: sum(other.key[0] == key[0] and (other.since, other.key) < (one.since, key) for other in given_waiters) for one in given_waiters for key in [one.key]}
    for one, other in itertools.permutations(given_waiters, 2):
        shares = [held.get(each.key[0], 0) + own[each.key] for each in (one, other)]
        if (one.since, shares[0], -one.priority) < (other.since, shares[1], -other.priority) and shares[0] <= shares[1] and one.priority >= other.priority:
            assert at[one.key] < at[other.key], "older, with no more sessions and no less priority"
        # Nobody passes who comes later than all that counts can be worth.
        if other.since > one.since + start_queue.STEP * (shares[0] - shares[1] + other.priority - one.priority):
            assert at[one.key] < at[other.key]


# Who goes


def spread(places: Sequence[Place], outcome: start_queue.Outcome) -> bool:
    """Whether all that go have room together, wherever they may go by their own exclusions: brute force."""
    def put(number: int, free: dict[str, dict[str, float]]) -> bool:
        if number == len(outcome.go):
            return True
        go = outcome.go[number]
        for each in places:
            if each.pool == go.waiter.pool and each.id not in go.avoid and fits(free[each.id], go.waiter.want):
                less = {**free, each.id: {kind: amount - dict(go.waiter.want).get(kind, 0) for kind, amount in free[each.id].items()}}
                if put(number + 1, less):
                    return True
        return False

    return put(0, {each.id: dict(each.free) for each in places})


@settings(max_examples=300)
@given(clusters(), waiters, st.integers(0, 6))
def test_who_goes(places: list[Place], given_waiters: list[Waiter], limit: int) -> None:
    ordered = order(given_waiters, {})
    outcome = decide(places, [], ordered, limit)
    gone = {go.waiter.key for go in outcome.go}
    assert len(gone) == len(outcome.go) <= limit
    assert spread(places, outcome), "there is room for all that go"
    assert [go.waiter.key for go in outcome.go] == [each.key for each in ordered if each.key in gone], "in their order"
    for before, after in itertools.combinations(ordered, 2):
        if before.shape == after.shape and after.key in gone:
            assert before.key in gone, "who wants the same does not pass"
    if len(gone) == limit:
        return
    # What waits although some node has room for it all, waits because that node is kept for one before it.
    for number, each in enumerate(ordered):
        if each.key in gone:
            continue
        room = [node for node in places if node.pool == each.pool and fits(outcome.left[node.id], each.want)]
        assert not room, "nothing is idle that somebody could have"
        heads = {}
        for other in ordered[:number]:
            if other.key not in gone:
                heads.setdefault(other.lane, other)
        if not any(other.pool == each.pool for other in heads.values()):
            assert not any(node.pool == each.pool and fits(outcome.left[node.id], each.want) for node in places)


@settings(max_examples=300)
@given(clusters(), waiters)
def test_nobody_makes_the_first_one_wait_longer(places: list[Place], given_waiters: list[Waiter]) -> None:
    """Where the first one lacks least, it lacks no more after the others have gone, wherever Swarm puts them."""
    ordered = order(given_waiters, {})
    outcome = decide(places, [], ordered, 99)
    waiting = [each for each in ordered if each.key not in {go.waiter.key for go in outcome.go}]
    if not waiting:
        return
    first = waiting[0]
    before = [go for go in outcome.go if ordered.index(go.waiter) < ordered.index(first)]
    after = [go for go in outcome.go if ordered.index(go.waiter) > ordered.index(first)]
    books = start_queue._Books(places, [])
    for go in before:
        node = min((n for n in books.pools[go.waiter.pool] if n not in go.avoid and fits(books.real[n], go.waiter.want)), key=lambda n: (books.tasks[n], n))
        books.put(node, go.waiter.want)
    books.open = {node: dict(free) for node, free in books.real.items()}
    kept = books.aside(first.pool, first.want)
    if kept is None:
        return
    lacks = shortage(books.real[kept], first.want)
    for go in after:
        if go.waiter.pool == first.pool and kept not in go.avoid and fits(books.real[kept], go.waiter.want):
            books.put(kept, go.waiter.want)  # the worst that Swarm can do
            assert shortage(books.real[kept], first.want) <= lacks or not all(fits(books.places[kept].free, go.waiter.want) for go in after)


def test_another_resource_is_not_waited_for() -> None:
    gpu = waiter("a", 0, cpu=4, GPU=1)
    small = waiter("b", 1, cpu=2)
    both = [place("n1", {"cpu": 8, "GPU": 0}, cpu=16, GPU=1)]
    outcome = decide(both, [], [gpu, small], 9)
    assert [go.waiter for go in outcome.go] == [small], "beside what is kept for the first one"
    narrow = [place("n1", {"cpu": 5, "GPU": 0}, cpu=16, GPU=1)]
    assert decide(narrow, [], [gpu, small], 9).go == (), "that would take what the first one needs with its GPU"
    assert [go.waiter.key[0] for go in decide([*narrow, place("n2", cpu=2)], [], [gpu, small], 9).go] == ["b"]


def test_a_node_that_is_kept_is_avoided() -> None:
    large, small = waiter("a", 0, cpu=8), waiter("b", 1, cpu=1)
    outcome = decide([place("n1", {"cpu": 6}, cpu=8), place("n2", {"cpu": 1}, cpu=8)], [], [large, small], 9)
    assert [(go.waiter, go.avoid) for go in outcome.go] == [(small, ("n1",))]


def test_who_went_and_is_not_to_be_seen_yet_has_a_place() -> None:
    one = want({"cpu": 1})
    assert decide([place("n1", cpu=2)], [("p", one), ("p", one)], [waiter("a")], 9).go == ()
    assert len(decide([place("n1", cpu=2)], [("p", one), ("q", one)], [waiter("a")], 9).go) == 1


@settings(max_examples=60)
@given(st.integers(2, 8), st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers())
def test_a_large_start_is_not_starved_by_small_ones(size: int, lengths: list[int], seed: int) -> None:
    """Small ones come all the time, and two nodes are full of them; a large one that wants a whole node gets it in the time that the
    longest of them lasts."""
    chance, kept = random.Random(seed), {}
    ends = {node: [chance.choice(lengths) for _ in range(size)] for node in ("n1", "n2")}
    large = waiter("large", 0, cpu=size)
    for now in range(1, 100):
        ends = {node: [end for end in each if end > now] for node, each in ends.items()}
        places = [place(node, {"cpu": size - len(each)}, tasks=len(each), cpu=size) for node, each in ends.items()]
        small = [waiter(f"u{now}-{number}", now) for number in range(2 * size)]
        outcome = decide(places, [], [large, *small], 99, kept)
        kept = outcome.kept
        if any(go.waiter == large for go in outcome.go):
            assert now <= max(lengths) + 1
            return
        for go in outcome.go:
            free = [node for node, each in ends.items() if node not in go.avoid and len(each) < size]
            ends[chance.choice(free)].append(now + chance.choice(lengths))
    raise AssertionError("it waits still")


# What is foreseen


def test_an_estimate_follows_the_ends_and_the_order() -> None:
    full = [place("n1", {"cpu": 0}, cpu=2), place("n2", {"cpu": 0}, cpu=2)]
    one = want({"cpu": 1})
    ends = [Ending(100, "n1", one, "history"), Ending(300, "n2", one, "latest"), Ending(50, "gone", one, "idle")]
    line = [waiter("a", 0), waiter("b", 1), waiter("c", 2), waiter("d", 3)]
    found = estimates(full, [], line, ends, {("a", ""): Estimate(500, "latest")})
    assert found == {("a", ""): Estimate(100, "history"), ("b", ""): Estimate(300, "latest"), ("c", ""): Estimate(600, "latest")}
    assert estimates([place("n1", cpu=1)], [], line[:1], [], {}) == {("a", ""): Estimate(0, "now")}


def test_an_estimate_keeps_room_for_the_first() -> None:
    line = [waiter("large", 0, cpu=2), waiter("small", 1)]
    ends = [Ending(10, "n1", want({"cpu": 1}), "history"), Ending(20, "n1", want({"cpu": 1}), "history")]
    found = estimates([place("n1", {"cpu": 0}, cpu=2)], [], line, ends, {("large", ""): Estimate(5, "latest")})
    assert found == {("large", ""): Estimate(20, "history"), ("small", ""): Estimate(25, "latest")}


@given(clusters(), waiters, st.lists(st.tuples(st.floats(0, 1000), st.sampled_from(["n0", "n1", "n2"]), amounts), max_size=10))
def test_estimates_are_within_reason(places: list[Place], given_waiters: list[Waiter], ends: list[tuple[float, str, tuple[int, ...]]]) -> None:
    endings = [Ending(at, node, want(dict(zip(KINDS, each, strict=True))), "history") for at, node, each in ends]
    ordered = order(given_waiters, {})
    found = estimates(places, [], ordered, endings, {})
    for before, after in itertools.combinations(ordered, 2):
        if before.shape == after.shape and after.key in found:
            assert found[before.key].seconds <= found[after.key].seconds, "of those that want the same, the first comes first"
    times = {0.0, *(end.seconds for end in endings)}
    assert all(each.seconds in times for each in found.values())


def test_how_much_longer_a_session_lasts() -> None:
    assert residual([], 0) is None and residual([1, 2, 3, 4], 0) is None
    assert residual([10, 20, 30, 40, 50], 0) == 30
    assert residual([10, 20, 30, 40, 50, 60, 70], 25) == 25, "the median of 30 to 70, less its age"
    assert residual([10, 20, 30, 40, 50], 10) is None, "fewer than five got older"


@pytest.mark.parametrize(
    ("before", "estimate", "said"),
    [
        (0, Estimate(700, "history"), "You are next. Your turn should come in about 12 minutes, going by how long such sessions lasted lately."),
        (1, Estimate(5, "now"), "1 start is before yours. Your turn should come in about 1 minute."),
        (7, Estimate(7500, "latest"), "7 starts are before yours. Your turn should come in about 2 hours at the latest, when a session reaches its longest time."),
        (2, Estimate(120, "idle"), "2 starts are before yours. Your turn should come in about 2 minutes, when an idle session is stopped."),
        (2, None, "2 starts are before yours. When your turn comes cannot be foreseen: too little is known of the sessions that hold the places."),
    ],
)
def test_words(before: int, estimate: Estimate | None, said: str) -> None:
    assert words(before, estimate) == said
