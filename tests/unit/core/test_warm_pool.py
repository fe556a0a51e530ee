"""How many sessions are kept ready."""

from __future__ import annotations

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import warm_pool
from ansible_collections.metalhub.platform.plugins.module_utils.warm_pool import Shelf, changes, fullest, wanted
from hypothesis import given
from hypothesis import strategies as st

AGES = st.lists(st.floats(0, 2 * warm_pool.WINDOW), max_size=60)


def test_one_for_the_first_click() -> None:
    assert wanted([], 3) == 1
    assert wanted([], 0) == 0


def test_as_many_as_come_together() -> None:
    class_begins = [3600 + n for n in range(20)]
    assert wanted(class_begins, 50) == 20
    assert wanted(class_begins, 8) == 8, "the cap is hard"


def test_a_day_later_it_is_forgotten() -> None:
    assert wanted([warm_pool.WINDOW + n for n in range(20)], 50) == 1


def test_a_rush_in_a_hundred_minutes_does_not_count() -> None:
    lone = [n * warm_pool.BUCKET for n in range(99)]
    rush = [99 * warm_pool.BUCKET + n for n in range(30)]
    assert wanted(lone + rush, 50) == 1
    assert wanted(lone[:9] + rush, 50) == 30, "in ten it does"


@given(AGES, st.integers(0, 20))
def test_never_more_than_the_cap_nor_than_came_in_a_minute(ages: list[float], most: int) -> None:
    found = wanted(ages, most)
    assert 0 <= found <= most
    assert found <= max(1, len(ages))
    assert found >= min(most, 1)


SHELVES = st.dictionaries(
    st.sampled_from("abc"), st.builds(Shelf, there=st.integers(0, 9), wanted=st.integers(0, 9), places=st.integers(0, 5))
)


@given(SHELVES, st.booleans())
def test_what_is_done(shelves: dict[str, Shelf], waiting: bool) -> None:
    found = changes(shelves, waiting)
    for name, change in found.items():
        shelf = shelves[name]
        assert change != 0
        if change > 0:
            assert not waiting and shelf.places > 1, "neither somebody's room nor the last"
            assert shelf.there + change <= shelf.wanted
        else:
            assert shelf.there + change == shelf.wanted
    for name in shelves.keys() - found.keys():
        shelf = shelves[name]
        assert shelf.there == shelf.wanted or (shelf.there < shelf.wanted and (waiting or shelf.places <= 1))


def test_the_node_with_most_room() -> None:
    assert fullest([("a", 1), ("b", 3), ("c", 3)]) == "b"
    assert fullest([("a", 0)]) == ""
    assert fullest([]) == ""


def test_names_are_nobodys() -> None:
    assert warm_pool.is_name(warm_pool.name("0123456789ab"))
    for text in ("mh--warm-0123456789ab\n", "mh--warm-0123456789AB", "mh-warm-default-abcdef", "../mh--warm-0123456789ab", ""):
        assert not warm_pool.is_name(text)
    with pytest.raises(ValueError, match="twelve"):
        warm_pool.name("abc")
