"""Profiles and an administrator's changes of them: what holds now, what a converge leaves, and that a bad change changes nothing."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import approvals, profiles
from ansible_collections.metalhub.platform.plugins.module_utils.profiles import Change, Entry, ProfileRefused, World
from hypothesis import given
from hypothesis import strategies as st

WORLD = World({"lab"}, {"small": None, "slice": "1g.10gb", "whole": ""}, {"cpu": "gvisor", "gpu": "nvidia"}, {"internal", "open"})
ONE = {"image": "lab", "flavor": "small", "pool": "cpu", "egress": "internal"}
INVENTORY: dict[str, dict[str, Any]] = {
    "a": {**ONE, "title": "A", "max_session": "8h", "default": True, "groups": None},
    "b": {**ONE, "title": "B", "approval": False},
}


def changed(runtime: profiles.Runtime, name: str, how: str = "change", at: int = 1, **values: Any) -> dict[str, Entry]:
    return profiles.changed(runtime, INVENTORY, WORLD, name, values, how=how, by="ann", at=at)


def test_a_change_lies_over_the_inventory_until_a_converge() -> None:
    runtime = changed({}, "a", max_session="10h", extension="1h")
    assert profiles.merged(INVENTORY, runtime)["a"] == {**ONE, "title": "A", "max_session": "10h", "default": True, "extension": "1h"}
    left, dropped = profiles.converged(INVENTORY, runtime)
    assert [(each.profile, each.field, each.inventory, each.change.by) for each in dropped] == [("a", "max_session", "8h", "ann")]
    assert left == {"a": Entry(False, {"extension": Change("1h", "ann", 1)})}
    assert profiles.converged(INVENTORY, left) == (left, [])


def test_a_field_without_a_value_is_left_open_by_the_inventory() -> None:
    runtime = changed({}, "a", groups=["x"])
    assert profiles.converged(INVENTORY, runtime) == (runtime, [])


def test_who_and_when_of_a_value_that_stays_stay() -> None:
    runtime = changed(changed({}, "a", extension="1h"), "a", at=2, extension="1h", title="AA")
    assert {key: change.at for key, change in runtime["a"].fields.items()} == {"extension": 1, "title": 2}


def test_true_is_not_one() -> None:
    """Python takes them for equal; a change to the inventory's value would be none."""
    with pytest.raises(ProfileRefused, match=r"profiles\.b\.approval is 0"):
        changed({}, "b", approval=0)


def test_a_value_of_none_drops_the_change_and_replace_drops_the_others() -> None:
    runtime = changed({}, "a", max_session="10h", extension="1h")
    assert set(changed(runtime, "a", max_session=None)["a"].fields) == {"extension"}
    assert set(changed(runtime, "a", how="replace", title="AA")["a"].fields) == {"title"}
    assert changed(runtime, "a", how="replace") == {}


def test_the_default_moves_and_a_later_inventory_wins() -> None:
    with pytest.raises(ProfileRefused, match="a is the default profile.*default: false on a"):
        changed({}, "b", default=True)
    runtime = changed(changed({}, "a", default=False), "b", default=True)
    held = profiles.merged(INVENTORY, runtime)
    assert (held["a"]["default"], held["b"]["default"]) == (False, True)
    left, _ = profiles.converged(INVENTORY, runtime)
    held = profiles.merged(INVENTORY, left)
    assert (held["a"]["default"], held["b"]["default"]) == (True, False)


def test_profiles_of_the_inventory_are_changed_and_those_of_an_administrator_deleted() -> None:
    with pytest.raises(ProfileRefused, match="is in the inventory") as caught:
        profiles.deleted({}, INVENTORY, "a")
    assert caught.value.why == "there"
    runtime = changed({}, "new", how="create", **ONE, title="New")
    assert profiles.deleted(runtime, INVENTORY, "new") == {}
    for how, why in (("create", "there"), ("change", "missing")):
        with pytest.raises(ProfileRefused) as caught:
            changed(runtime, "a" if how == "create" else "none", how=how, **ONE)
        assert caught.value.why == why


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a b", "a/b", "x" * 41, "ä", "a\n"])
def test_names(name: str) -> None:
    with pytest.raises(ProfileRefused, match="is not a name for a profile"):
        changed({}, name, how="create", **ONE)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from(["8h", "0s", "small", "slice", "lab", "gpu", "open", "B"]),
    st.lists(st.text(max_size=3), max_size=2), st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)  # fmt: skip
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["change", "create", "replace", "delete", "converge"]),
        st.sampled_from(["a", "b", "c"]),
        st.dictionaries(st.sampled_from([*profiles.PROFILE, "colour"]), VALUES, max_size=4),
        st.booleans(),
    ),
    max_size=12,
)


@given(ACTS)
def test_whatever_is_asked_what_holds_is_right_and_a_converge_gives_the_inventory_its_own(acts: list[Any]) -> None:
    runtime: profiles.Runtime = {}
    for at, (act, name, values, whole) in enumerate(acts):
        before = copy.deepcopy(runtime)
        values = {**ONE, **values} if whole else values
        try:
            if act == "delete":
                runtime = profiles.deleted(runtime, INVENTORY, name)
            elif act == "converge":
                runtime, _ = profiles.converged(INVENTORY, runtime)
            else:
                runtime = profiles.changed(runtime, INVENTORY, WORLD, name, values, how=act, by="ann", at=at)
        except ProfileRefused as refused:
            assert runtime == before and "\n" not in str(refused)
        held = profiles.merged(INVENTORY, runtime)
        assert set(INVENTORY) <= set(held)
        for each, entry in held.items():
            assert list(profiles.profile_faults(each, entry, WORLD)) == []
        assert sum(entry.get("default") is True for entry in held.values()) <= 1
        assert profiles.read_runtime(json.loads(json.dumps(profiles.plain_runtime(runtime)))) == runtime
    left, dropped = profiles.converged(INVENTORY, runtime)
    after = profiles.merged(INVENTORY, left)
    for name, profile in INVENTORY.items():
        for key, value in profile.items():
            assert value is None or after[name][key] == value
    assert {(each.profile, each.field) for each in dropped}.isdisjoint((n, k) for n, entry in left.items() for k in entry.fields)
    assert set(after) == set(profiles.merged(INVENTORY, runtime)), "no profile goes that is whole"
    assert profiles.converged(INVENTORY, left) == (left, [])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), ("", ""), ("echo\n", "echo\n"), (["a", "b"], "a\nb"), (("a",), "a"), ([], "")],
)
def test_start_up_scripts(value: object, text: str) -> None:
    assert profiles.startup_script(value) == text


@pytest.mark.parametrize("value", [1, True, {"a": 1}, [1], ["a", None], b"a", "a\0b", "x" * 16385, "ä" * 8193])
def test_what_is_no_start_up_script(value: object) -> None:
    with pytest.raises(ValueError, match="start-up script"):
        profiles.startup_script(value)


def test_changes_that_are_none() -> None:
    for data in (None, [], {"a": None}, {"a": {"created": True}}, {"a": {"created": True, "fields": {"x": {"value": 1, "by": "a", "at": "now"}}}}):
        with pytest.raises(ValueError, match="changes of profiles|invalid literal"):
            profiles.read_runtime(data)


# Approvals


def test_the_way_of_a_request() -> None:
    asked = approvals.ask(None, " for\na paper ", 10)
    assert (asked.state, asked.reason, approvals.standing(asked, 11)) == ("pending", "for a paper", "pending")
    with pytest.raises(ValueError, match="asked for it already"):
        approvals.ask(asked, "", 11)
    given_ = approvals.decide(asked, True, "admin", "", 20, 12)
    assert [approvals.standing(given_, now) for now in (12, 19, 20)] == ["approved", "approved", "ended"]
    with pytest.raises(ValueError, match="approved for it already"):
        approvals.ask(given_, "", 19)
    assert approvals.ask(given_, "again", 20).state == "pending"
    taken = approvals.decide(given_, False, "admin", "the term is over", 0, 15)
    assert approvals.standing(taken, 16) == "denied" and (taken.asked, taken.reason) == (10, "for a paper")
    assert approvals.ask(taken, "", 16).state == "pending"
    assert approvals.decide(None, True, "admin", "", 0, 1).state == "approved", "ahead of any request"
    assert approvals.standing(None, 1) == "none"


@given(st.lists(st.tuples(st.sampled_from(["ask", "yes", "no"]), st.integers(0, 5), st.integers(0, 9)), max_size=12), st.integers(0, 80))
def test_nobody_is_approved_but_by_an_administrator_who_has_not_said_no_since(acts: list[Any], later: int) -> None:
    found, now, last = None, 1, ("no", 0)
    for act, wait, span in acts:
        now += wait
        until = now + span if span else 0
        try:
            if act == "ask":
                found = approvals.ask(found, "", now)
                last = ("no", 0)
            else:
                found = approvals.decide(found, act == "yes", "admin", "", until if act == "yes" else 0, now)
                last = (act, until)
        except ValueError:
            continue
        assert approvals.read(approvals.plain(found)) == found
    approved = last[0] == "yes" and (not last[1] or now + later < last[1])
    assert (approvals.standing(found, now + later) == "approved") == approved


@pytest.mark.parametrize(("value", "faults"), [(0, 0), (3, 0), (100, 0), (101, 1), (-1, 1), ("3", 1), ("x", 1), (True, 1), (1.5, 1)])
def test_how_many_sessions_are_kept_ready(value: object, faults: int) -> None:
    world = World({"lab": ""}, {"small": None}, {"cpu": "gvisor"}, {"open": ""})
    profile = {"image": "lab", "flavor": "small", "pool": "cpu", "egress": "open", "warm": value}
    found = list(profiles.profile_faults("p", profile, world))
    assert len(found) == faults and all(fault.path == "p.warm" for fault in found)
