"""When a session can hibernate, how far its memory is given back, and what the node's control groups say of it.

A hibernated session is paused, and its memory is in swap: the kernel is asked to reclaim it until it stops shrinking. Under gVisor the
memory of a session is shared memory of the sandbox's process, of which the kernel may free only a part in one go: once is not enough.

Pure: texts of the control groups' files (both versions) come in; decisions, numbers and words go out. Sizes are bytes, times seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .sizes import format_size

MIB = 1 << 20

# How long the figures of a session that ended are told.
REMEMBERED = 15 * 60
# A pass that gives less than a MiB, or than this part of what is left, is one without progress; so many of those in a row end it.
PROGRESS, PATIENCE = 0.01, 3
# No reclaim takes longer: a disk that is slower than this is not worth it.
LONGEST = 600.0
# Version 1 says with a number near the largest that there is no limit.
_UNLIMITED = 1 << 62

RUNNING, FROZEN, RECLAIMING, RECLAIMED, ENDED = "running", "frozen", "reclaiming", "reclaimed", "ended"
STATES = (RUNNING, FROZEN, RECLAIMING, RECLAIMED, ENDED)

# What is read of a control group, by the hierarchy of version 1 that has it. Version 2 has one for all.
FILES_V1 = {
    "memory": ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.stat", "memory.oom_control"),
    "cpuacct": ("cpuacct.usage",),
}
FILES_V2 = (
    *("memory.current", "memory.peak", "memory.max", "memory.swap.current", "memory.swap.max", "memory.stat", "memory.events"),
    "cpu.stat",
)


@dataclass(frozen=True)
class Figures:
    """What a session uses.

    ``memory`` is what its control group is charged now, ``peak`` the most there was, ``limit`` what it may have at most, ``swap`` what of
    it is in swap and ``swap_limit`` what may be. ``pageable`` is the part of ``memory`` that only swap can take (the rest is of files).
    ``cpu`` are the seconds of processors in total, ``oom`` how often the kernel killed something of it for memory.
    """

    memory: int = 0
    peak: int = 0
    limit: int | None = None
    swap: int = 0
    swap_limit: int | None = None
    pageable: int = 0
    cpu: float = 0.0
    oom: int = 0

    @property
    def size(self) -> int:
        """What would be in swap if all of it was."""
        return self.pageable + self.swap


@dataclass(frozen=True)
class Node:
    """Memory and swap of a node."""

    total: int
    available: int
    swap_total: int
    swap_free: int


def read_node(meminfo: str) -> Node:
    """A node by the text of ``/proc/meminfo``. Raises ValueError where that lacks a number."""
    found = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdecimal() and words[1] == "kB":
            found[name] = int(words[0]) << 10
    try:
        return Node(found["MemTotal"], found["MemAvailable"], found["SwapTotal"], found["SwapFree"])
    except KeyError as error:
        raise ValueError(f"/proc/meminfo has no line {error}") from None


def _numbers(text: str) -> Mapping[str, int]:
    """The pairs of a flat keyed file such as ``memory.stat``."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(text: str) -> int | None:
    """The one number of a file; None for ``max`` or what is as good as no limit, and for a file that is not there."""
    return int(text) if text.strip().isdecimal() and int(text) < _UNLIMITED else None


def read_figures(texts: Mapping[str, str]) -> Figures:
    """Figures by the texts of a control group's files, of whichever version; a file that is not there counts as zero.

    ``memory.peak`` came with Linux 5.19: before, it is what there is now, and the caller keeps the largest.
    """

    def get(name: str) -> str:
        return texts.get(name, "")

    stat = _numbers(get("memory.stat"))
    if "memory.current" in texts:
        memory = _number(get("memory.current")) or 0
        return Figures(
            memory=memory,
            peak=max(memory, _number(get("memory.peak")) or 0),
            limit=_number(get("memory.max")),
            swap=_number(get("memory.swap.current")) or 0,
            swap_limit=_number(get("memory.swap.max")),
            pageable=stat.get("anon", 0) + stat.get("shmem", 0),
            cpu=_numbers(get("cpu.stat")).get("usage_usec", 0) / 1e6,
            oom=_numbers(get("memory.events")).get("oom_kill", 0),
        )
    memory = _number(get("memory.usage_in_bytes")) or 0
    return Figures(
        memory=memory,
        peak=max(memory, _number(get("memory.max_usage_in_bytes")) or 0),
        limit=_number(get("memory.limit_in_bytes")),
        # The limit of version 1 is of memory and swap together, and what goes from one to the other stays within it.
        swap=stat.get("total_swap", 0),
        pageable=stat.get("total_rss", 0) + stat.get("total_shmem", 0),
        cpu=(_number(get("cpuacct.usage")) or 0) / 1e9,
        oom=_numbers(get("memory.oom_control")).get("oom_kill", 0),
    )


def node_refusal(node: Node) -> str:
    """Why no session of a node can hibernate; empty where they can."""
    return "" if node.swap_total else "Sessions cannot hibernate here: their node has no swap."


def refusal(session: Figures, node: Node, largest: int, promised: int = 0) -> str:
    """Why a session cannot hibernate, as a sentence for its user; empty where it can.

    ``promised`` is what others that hibernate now have yet to put into swap.
    """
    if reason := node_refusal(node):
        return reason
    if session.size > largest:
        return (
            f"This session holds {format_size(session.size)} of memory, and only those with at most {format_size(largest)} can hibernate."
            " Shut down kernels that you do not need."
        )
    if session.swap_limit is not None and session.size > session.swap_limit:
        return f"This session holds {format_size(session.size)} of memory, and at most {format_size(session.swap_limit)} may be in swap."
    if session.pageable > (room := max(0, node.swap_free - promised)):
        return (
            f"This session holds {format_size(session.pageable)} of memory, and its node has room for {format_size(room)} of it."
            " Shut down kernels that you do not need."
        )
    return ""


@dataclass(frozen=True)
class Progress:
    """How far a reclaim is: the memory at its beginning, after the last pass, and how many passes in a row brought nothing."""

    began: float
    first: int
    last: int
    vain: int = 0

    @classmethod
    def start(cls, memory: int, now: float) -> Progress:
        """Before the first pass."""
        return cls(now, memory, memory)

    def after(self, memory: int) -> Progress:
        """After one more pass, which left ``memory``."""
        gained = self.last - memory
        return replace(self, last=memory, vain=0 if gained >= max(MIB, PROGRESS * self.last) else self.vain + 1)

    def ended(self, now: float) -> bool:
        """Whether it is over: it has stopped shrinking, or it has taken too long."""
        return self.vain >= PATIENCE or now - self.began >= LONGEST

    @property
    def given_back(self) -> int:
        """Bytes that are free again."""
        return max(0, self.first - self.last)
