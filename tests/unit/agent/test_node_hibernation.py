"""The pure core of hibernation on a node: figures of both versions of control groups, refusals, and when a reclaim is over."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.hibernation import (
    FILES_V1,
    FILES_V2,
    LONGEST,
    MIB,
    PATIENCE,
    Figures,
    Node,
    Progress,
    node_refusal,
    read_figures,
    read_node,
    refusal,
)
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30
ROOMY = Node(32 * GIB, 16 * GIB, 64 * GIB, 64 * GIB)

# As Linux 6.18 writes them, for a session with a limit of 1 GiB of which a part is in swap; lines that nobody reads are left out.
V1 = {
    "memory.usage_in_bytes": "81715200\n",
    "memory.max_usage_in_bytes": "90103808\n",
    "memory.limit_in_bytes": "1140850688\n",
    "memory.stat": "cache 4096\nrss 70000000\nshmem 0\ntotal_cache 6000000\ntotal_rss 70000000\ntotal_shmem 5000000\ntotal_swap 487424\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "cpuacct.usage": "1532187663\n",
}
V2 = {
    "memory.current": "81715200\n",
    "memory.peak": "90103808\n",
    "memory.max": "1140850688\n",
    "memory.swap.current": "487424\n",
    "memory.swap.max": "1140850688\n",
    "memory.stat": "anon 70000000\nfile 6000000\nkernel 700000\nshmem 5000000\n",
    "memory.events": "low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\noom_group_kill 0\n",
    "cpu.stat": "usage_usec 1532187\nuser_usec 1000000\nsystem_usec 532187\n",
}


def test_both_versions_say_the_same() -> None:
    first, second = read_figures(V1), read_figures(V2)
    assert first == Figures(81715200, 90103808, 1140850688, 487424, None, 75000000, 1.532187663, 2)
    assert dataclasses.replace(first, cpu=1.532187, swap_limit=1140850688) == second
    assert {name for names in FILES_V1.values() for name in names} == set(V1)
    assert set(FILES_V2) == set(V2)


def test_no_limit_is_none() -> None:
    assert read_figures(V1 | {"memory.limit_in_bytes": "9223372036854771712\n"}).limit is None
    unlimited = read_figures(V2 | {"memory.max": "max\n", "memory.swap.max": "max\n"})
    assert (unlimited.limit, unlimited.swap_limit) == (None, None)


def test_a_kernel_without_a_peak_tells_what_there_is() -> None:
    assert read_figures({name: text for name, text in V2.items() if name != "memory.peak"}).peak == 81715200


@given(st.sampled_from([V1, V2]), st.data())
def test_what_is_missing_or_empty_is_zero_and_never_an_error(texts: dict[str, str], data: st.DataObject) -> None:
    """A control group is removed while it is read: any file may be gone or cut short."""
    some = {name: text[: data.draw(st.integers(0, len(text)))] for name, text in texts.items() if data.draw(st.booleans())}
    figures = read_figures(some)
    assert figures.memory >= 0 and figures.peak >= figures.memory and figures.size == figures.pageable + figures.swap >= 0


def test_a_node_is_read() -> None:
    text = "MemTotal: 24683692 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\nSwapTotal: 6291452 kB\nSwapFree: 6291000 kB\nHugePages_Total: 0\n"
    assert read_node(text) == Node(24683692 << 10, 20000000 << 10, 6291452 << 10, 6291000 << 10)
    with pytest.raises(ValueError, match="SwapFree"):
        read_node(text.replace("SwapFree", "Other"))


def session(mib: int, swapped: int = 0, swap_limit: int | None = None) -> Figures:
    return Figures(memory=(mib + 9) * MIB, pageable=mib * MIB, swap=swapped * MIB, swap_limit=swap_limit)


@pytest.mark.parametrize(
    ("figures", "node", "promised", "words"),
    [
        (session(700), ROOMY, 0, ""),
        (session(700), dataclasses.replace(ROOMY, swap_total=0, swap_free=0), 0, "their node has no swap"),
        (session(11 << 10), ROOMY, 0, "holds 11G of memory, and only those with at most 10G can hibernate"),
        # What is in swap already has to come back as well.
        (session(6 << 10, 5 << 10), ROOMY, 0, "holds 11G of memory"),
        (session(10 << 10), ROOMY, 0, ""),
        (session(700), dataclasses.replace(ROOMY, swap_free=600 * MIB), 0, "holds 700M of memory, and its node has room for 600M"),
        (session(100, 600), dataclasses.replace(ROOMY, swap_free=100 * MIB), 0, ""),
        (session(700), dataclasses.replace(ROOMY, swap_free=GIB), 400 * MIB, "has room for 624M"),
        (session(700), dataclasses.replace(ROOMY, swap_free=GIB), 2 * GIB, "has room for 0B"),
        (session(700, 0, 500 * MIB), ROOMY, 0, "at most 500M may be in swap"),
    ],
)
def test_who_may_hibernate(figures: Figures, node: Node, promised: int, words: str) -> None:
    said = refusal(figures, node, 10 * GIB, promised)
    assert words in said
    assert bool(said) == bool(words)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_what_may_hibernate_fits(pageable: int, swap: int, free: int, promised: int, largest: int) -> None:
    node = Node(1 << 40, 1 << 40, 1 << 41, free)
    one = Figures(pageable=pageable, swap=swap)
    said = refusal(one, node, largest, promised)
    assert (said == "") == (pageable + swap <= largest and pageable <= max(0, free - promised))
    # Page cache is dropped and needs no swap.
    assert refusal(dataclasses.replace(one, memory=1 << 45), node, largest, promised) == said


def test_a_node_with_swap_hibernates() -> None:
    assert node_refusal(ROOMY) == ""
    assert "no swap" in node_refusal(Node(GIB, GIB, 0, 0))


def run(memories: list[int], seconds: float = 1.0) -> tuple[Progress, int]:
    """A reclaim whose passes leave this, and how many passes it took."""
    progress, passes = Progress.start(memories[0], 0.0), 0
    for memory in memories[1:]:
        if progress.ended(passes * seconds):
            break
        progress, passes = progress.after(memory), passes + 1
    return progress, passes


def test_a_pass_that_frees_half_is_followed_by_another() -> None:
    """As in gVisor."""
    progress, passes = run([800 * MIB, 400 * MIB, 200 * MIB, 100 * MIB, 3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB, 0, 0])
    assert (progress.given_back, passes) == (797 * MIB, 7)


def test_one_pass_in_vain_is_not_the_end() -> None:
    progress, passes = run([100 * MIB, 100 * MIB, 50 * MIB, 50 * MIB, 50 * MIB, 50 * MIB, 0])
    assert (progress.given_back, passes) == (50 * MIB, 5)


def test_a_disk_that_is_too_slow_ends_it() -> None:
    memories = [1000 * MIB - 20 * MIB * number for number in range(40)]
    progress, passes = run(memories, LONGEST / 4)
    assert (progress.given_back, passes) == (80 * MIB, 4)


@given(st.lists(st.integers(0, 1 << 36), min_size=1), st.integers(0, 1 << 36))
def test_a_reclaim_always_ends_and_never_gives_back_what_was_not_there(memories: list[int], first: int) -> None:
    """Whatever the passes leave: each but the vain ones takes a hundredth or a MiB away, unless the session grows, for which there is the time."""
    progress, last = Progress.start(first, 0.0), first
    for memory in memories:
        progress = progress.after(memory)
        assert 0 <= progress.given_back <= first
        assert progress.vain <= len(memories)
        assert (progress.vain == 0) == (last - memory >= max(MIB, 0.01 * last))
        last = memory
    for _ in range(PATIENCE):
        progress = progress.after(last)
    assert progress.ended(0.0)
    assert Progress.start(first, 5.0).ended(5.0 + LONGEST) and not Progress.start(first, 5.0).ended(5.0)
