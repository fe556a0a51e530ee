"""What a host needs to be a node of the swarm."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.swarm_plan import (
    Host,
    Node,
    SwarmRefusal,
    merge_labels,
    plan,
    quorum_problem,
)
from hypothesis import given
from hypothesis import strategies as st

HOST = Host("n1", "n1", "10.0.0.1", "active", "id1", False, "worker", "active", {"metalhub.pool": "cpu"})
NODE = Node("id1", "n1", "10.0.0.1", "worker", "ready", "active", {"metalhub.pool": "cpu", "metalhub.network": "ready"})
OTHER = Node("id9", "n9", "10.0.0.9", "manager", "ready", "active")
FRESH = dataclasses.replace(HOST, local_state="inactive", node_id="")


def test_nothing_to_do():
    assert not plan(HOST, [NODE, OTHER]).changes


def test_a_fresh_host_joins():
    assert plan(FRESH, [OTHER]).membership == "join"
    assert plan(FRESH, None).membership == "join"


@pytest.mark.parametrize(
    "change", [{"role": "manager"}, {"availability": "drain"}, {"labels": {"metalhub.pool": "gpu"}}, {"labels": {"metalhub.pool": None}}]
)
def test_a_difference_is_an_update_and_no_more(change):
    found = plan(dataclasses.replace(HOST, **change), [NODE, OTHER])
    assert (found.membership, found.update, found.stale) == ("keep", True, ())


def test_a_reinstalled_host_joins_and_its_old_entry_goes_even_before_it_is_down():
    assert plan(FRESH, [NODE, OTHER]).stale == ("id1",)


def test_a_live_node_of_the_same_name_elsewhere_is_left_alone():
    twin = dataclasses.replace(NODE, id="id2", address="10.0.0.2")
    assert plan(FRESH, [twin, OTHER]).stale == ()
    assert plan(FRESH, [dataclasses.replace(twin, state="down"), OTHER]).stale == ("id2",)


def test_a_member_keeps_its_entry_and_loses_its_dead_ones():
    dead = dataclasses.replace(NODE, id="id0", state="down")
    assert plan(HOST, [NODE, dead, OTHER]).stale == ("id0",)


def test_a_worker_that_was_removed_rejoins():
    assert plan(HOST, [OTHER]).membership == "rejoin"


@pytest.mark.parametrize("state", ["error", "locked"])
def test_a_broken_member_rejoins(state):
    assert plan(dataclasses.replace(HOST, local_state=state), [NODE, OTHER]).membership == "rejoin"


def test_a_manager_of_another_swarm_leaves_it_only_when_told():
    foreign = dataclasses.replace(HOST, node_id="idX", manages=True)
    with pytest.raises(SwarmRefusal, match="n1 manages another swarm.*docker_swarm_replace"):
        plan(foreign, [OTHER])
    assert plan(foreign, [OTHER], replace=True).membership == "rejoin"


def test_without_a_manager_that_answers_a_member_is_never_made_a_new_swarm():
    with pytest.raises(SwarmRefusal, match="Bring a majority"):
        plan(HOST, None)


@given(
    st.sampled_from(["inactive", "pending", "active", "error", "locked"]),
    st.sampled_from(["", "id1", "idX"]),
    st.lists(st.sampled_from([NODE, OTHER, dataclasses.replace(NODE, id="id2", state="down")]), unique_by=lambda node: node.id),
    st.booleans(),
)
def test_a_plan_never_touches_other_hosts_nor_drops_a_living_member(state, node_id, nodes, replace):
    host = dataclasses.replace(HOST, local_state=state, node_id=node_id)
    found = plan(host, nodes, replace)
    names = {node.id: node.hostname for node in nodes}
    assert all(names[identifier] == host.hostname for identifier in found.stale)
    if state == "active" and node_id in names:
        assert found.membership == "keep" and node_id not in found.stale
    if found.membership == "join":
        assert state == "inactive"


@pytest.mark.parametrize("count", range(8))
def test_only_one_three_or_five_managers(count):
    assert (quorum_problem([f"m{n}" for n in range(count)]) is None) is (count in (1, 3, 5))


def test_a_manager_named_twice_is_a_problem():
    assert "twice" in quorum_problem(["a", "a", "b"])


@given(
    st.dictionaries(st.sampled_from("abc"), st.text(max_size=2)),
    st.dictionaries(st.sampled_from("abc"), st.none() | st.text(max_size=2)),
)
def test_labels_end_as_wanted_and_the_rest_stays(known, wanted):
    merged = merge_labels(known, wanted)
    for key in "abc":
        assert merged.get(key) == (wanted[key] if key in wanted else known.get(key))
