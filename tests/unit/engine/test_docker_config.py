"""One daemon.json out of many fragments."""

from __future__ import annotations

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.docker_config import (
    Choice,
    DispatchProblem,
    FragmentConflict,
    merge_fragments,
    merge_with_dispatcher,
    replace_fragment,
)
from hypothesis import given
from hypothesis import strategies as st

SCALARS = st.one_of(st.booleans(), st.integers(0, 3), st.sampled_from(["a", "b"]))
SETTINGS = st.recursive(
    st.dictionaries(st.sampled_from("pqr"), st.one_of(SCALARS, st.lists(st.sampled_from("xyz"), unique=True)), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("st"), inner, max_size=2),
    max_leaves=4,
)


def leaves(document, path=()):
    """All (path, value) of a document that are no mapping."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@given(st.dictionaries(st.sampled_from(["docker", "gvisor", "mig"]), SETTINGS, max_size=3))
def test_everything_wanted_is_there_or_the_conflict_is_named(fragments):
    try:
        merged = dict(leaves(merge_fragments(fragments)))
    except FragmentConflict as error:
        assert sum(repr(owner) in str(error) for owner in fragments) >= 2
        return
    for fragment in fragments.values():
        for path, value in leaves(fragment):
            assert set(value) <= set(merged[path]) if isinstance(value, list) else merged[path] == value


@given(SETTINGS)
def test_one_owner_gets_what_it_asks_for_and_keeps_its_own(settings):
    before = repr(settings)
    merged = merge_fragments({"docker": settings})
    assert merged == settings
    merged["new"] = 1
    assert repr(settings) == before


def test_the_order_of_fragments_does_not_matter():
    one, two = {"dns": ["1.1.1.1"], "runtimes": {"a": {}}}, {"dns": ["9.9.9.9"], "runtimes": {"b": {}}}
    assert merge_fragments({"x": one, "y": two}) == merge_fragments({"y": two, "x": one})
    assert merge_fragments({"x": one, "y": two}) == {"dns": ["1.1.1.1", "9.9.9.9"], "runtimes": {"a": {}, "b": {}}}


def test_a_conflict_names_the_setting_the_owners_and_the_values():
    with pytest.raises(FragmentConflict, match=r"runtimes\.runsc\.path: 'gvisor' wants '/a' and 'site' wants '/b'"):
        merge_fragments({"gvisor": {"runtimes": {"runsc": {"path": "/a"}}}, "site": {"runtimes": {"runsc": {"path": "/b"}}}})


def test_true_is_not_one():
    with pytest.raises(FragmentConflict):
        merge_fragments({"a": {"icc": True}, "b": {"icc": 1}})


def test_a_fragment_must_be_a_mapping():
    with pytest.raises(TypeError, match="gvisor"):
        merge_fragments({"gvisor": ["x"]})


GVISOR = {"default-runtime": "runsc", "runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--platform=systrap", "-x"]}}}
NVIDIA = {"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}
BOTH = [Choice("gvisor", "runsc"), Choice("nvidia", "nvidia")]


def test_the_dispatcher_is_the_default_and_knows_the_runtimes():
    settings, text = merge_with_dispatcher({"gvisor": GVISOR, "nvidia": NVIDIA, "site": {"mtu": 1400}}, BOTH)
    assert settings["default-runtime"] == "metalhub", "who wants the strictest gets the dispatcher, which falls back to it"
    assert set(settings["runtimes"]) == {"runsc", "nvidia", "metalhub"} and settings["mtu"] == 1400
    assert text == "gvisor /usr/bin/runsc --platform=systrap -x\nnvidia /usr/bin/nvidia-container-runtime\n"


def test_the_dispatcher_waits_for_the_strictest_and_for_no_other():
    """The roles that bring the runtimes run one after another."""
    assert merge_with_dispatcher({"nvidia": NVIDIA}, BOTH) == (NVIDIA, "")
    settings, text = merge_with_dispatcher({"gvisor": GVISOR}, BOTH)
    assert settings["default-runtime"] == "metalhub" and text == "gvisor /usr/bin/runsc --platform=systrap -x\n"
    assert merge_with_dispatcher({"gvisor": GVISOR}, []) == (GVISOR, "")


def test_the_engines_own_runc_can_be_a_choice():
    assert merge_with_dispatcher({"gvisor": GVISOR}, [BOTH[0], Choice("runc", "runc")])[1].endswith("\nrunc runc\n")


def test_another_default_is_a_conflict():
    with pytest.raises(FragmentConflict, match="default-runtime: 'docker_dispatch' wants 'metalhub' and 'site' wants 'kata'"):
        merge_with_dispatcher({"gvisor": {"runtimes": GVISOR["runtimes"]}, "site": {"default-runtime": "kata"}}, BOTH)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ([Choice("g visor", "runsc")], "'g visor' is not a choice; legal are"),
        ([Choice("", "runsc")], "'' is not a choice"),
        ([*BOTH, Choice("gvisor", "runc")], "'gvisor' is named twice"),
        ([BOTH[0], Choice("x", "metalhub")], "'x' is the dispatcher itself"),
        ([BOTH[0], Choice("odd", "odd")], "'odd' is the runtime 'odd' with {'path': '/a b'}; legal is a path"),
        ([BOTH[0], Choice("shim", "shim")], "'shim' is the runtime 'shim' with"),
    ],
)
def test_bad_choices(choices, words):
    runtimes = {"odd": {"path": "/a b"}, "shim": {"runtimeType": "io.containerd.kata.v2"}}
    with pytest.raises(DispatchProblem) as caught:
        merge_with_dispatcher({"gvisor": GVISOR, "site": {"runtimes": runtimes}}, choices)
    assert "docker_dispatch" in str(caught.value) and words in str(caught.value)


@given(*[st.lists(st.text("ab", min_size=1, max_size=2), unique=True, max_size=3) for _ in range(4)])
def test_a_swapped_fragment_is_as_if_merged_anew(first, last, old, new):
    """What the boot unit does on the host agrees with what the next run computes on the controller."""

    def merged(slices):
        mine = [f"MIG={item}" for item in slices]
        fragments = {"docker": {"r": first, "x": 1}, "mig": {"r": mine} if mine else {}, "site": {"r": last} if old and new else {}}
        return {key: value for key, value in merge_fragments(fragments).items() if value != []}

    def fragment(slices):
        return {"r": [f"MIG={item}" for item in slices]} if slices else {}

    assert replace_fragment(merged(old), fragment(old), fragment(new)) == merged(new)


def test_only_lists_can_be_swapped():
    with pytest.raises(TypeError, match="Docker setting mtu"):
        replace_fragment({"mtu": 1400}, {"mtu": 1400}, {})
