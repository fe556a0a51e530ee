"""Names of snapshots, and which of them go."""

from __future__ import annotations

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import snapshot_plan as plan
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000
causes = st.sampled_from(["idle", "user", "max_session", plan.BEFORE_RESTORE])
snapshots = st.builds(plan.Snapshot, st.integers(NOW - 30 * 86400, NOW + 3600), causes)
others = st.sampled_from(["lost+found", "alice", ".new-alice", "20260131T180000Z", "20260131T180060Z-idle", "../x", ""]) | st.text(max_size=30)
homes = st.tuples(st.lists(snapshots, unique=True, max_size=40), st.lists(others, max_size=8))
keeps = st.integers(0, 12)


def names(home: tuple[list[plan.Snapshot], list[str]]) -> list[str]:
    return [one.name for one in home[0]] + home[1]


def test_a_name_says_when_and_why() -> None:
    one = plan.Snapshot(1_769_882_400, "idle")
    assert one.name == "20260131T180000Z-idle"
    assert plan.read(one.name) == one


@pytest.mark.parametrize(
    "name", ["", "alice", "20260131T180000Z", "20260231T180000Z-idle", "20260131T180060Z-idle", "20260131T180000Z-Idle", "20260131T180000Z-a/b",
             "20260131T180000Z-idle\n", "../20260131T180000Z-idle"],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    assert plan.read(name) is None


@given(st.text(max_size=40))
def test_what_reads_as_a_snapshot_is_called_so(text: str) -> None:
    found = plan.read(text)
    assert found is None or (found.name == text and "/" not in text)


@given(homes, keeps)
def test_the_newest_stay_and_nothing_else_is_touched(home: tuple[list[plan.Snapshot], list[str]], keep: int) -> None:
    gone = plan.retire(names(home), keep, NOW)
    every = plan.read_all(names(home))
    assert set(gone) <= {one.name for one in every}
    for before in (False, True):
        kind = [one for one in every if (one.cause == plan.BEFORE_RESTORE) == before]
        assert not {one.name for one in kind[:keep]} & set(gone)
    for one in every:
        if one.cause == plan.BEFORE_RESTORE and NOW - one.at < plan.HOLD:
            assert one.name not in gone
    left = [one for one in every if one.name not in gone]
    if keep:
        assert sum(one.cause != plan.BEFORE_RESTORE for one in left) <= keep
        # What goes is older than all of its kind that stay.
        for name in gone:
            one = plan.read(name)
            assert one is not None
            assert all(one < other for other in left if (other.cause == plan.BEFORE_RESTORE) == (one.cause == plan.BEFORE_RESTORE))
    else:
        assert not gone


@given(homes, keeps)
def test_twice_is_once(home: tuple[list[plan.Snapshot], list[str]], keep: int) -> None:
    gone = plan.retire(names(home), keep, NOW)
    assert plan.retire([name for name in names(home) if name not in gone], keep, NOW) == []


@given(homes, st.integers(NOW - 40 * 86400, NOW), causes)
def test_the_next_one_is_the_newest_whatever_the_clock_says(home: tuple[list[plan.Snapshot], list[str]], now: int, cause: str) -> None:
    one = plan.following(names(home), now, cause)
    assert plan.read(one.name) == one and one.at >= now
    assert plan.read_all([*names(home), one.name])[0] == one
    assert one.name not in names(home)
    for keep in (1, 5):
        assert one.name not in plan.retire([*names(home), one.name], keep, now)


@pytest.mark.parametrize("cause", ["", "Idle", "a-b", "a/b", "x" * 21, "_x"])
def test_bad_causes(cause: str) -> None:
    with pytest.raises(ValueError, match="cause is"):
        plan.following([], NOW, cause)


def test_what_restores_replaced_is_counted() -> None:
    day = 86400
    stamps = [plan.Snapshot(NOW - age * day, plan.BEFORE_RESTORE).name for age in (1, 6, 8)] + [plan.Snapshot(NOW, "idle").name]
    assert plan.held(stamps, NOW) == 2


@pytest.mark.parametrize("value", [-1, 101, True, "5", 1.5, None])
def test_bad_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="storage_snapshots_keep is"):
        plan.check_keep(value)
    with pytest.raises(ValueError, match="storage_snapshots_free is"):
        plan.check_free(value)
    assert (plan.check_keep(0), plan.check_free(90)) == (0, 90)
