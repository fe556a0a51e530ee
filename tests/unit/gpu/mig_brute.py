"""The planner's answer by looking at everything: shares no code with it but the tables of profiles and the dataclasses.

Only for a few GPUs: it forms the product of all legal layouts of each.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from ansible_collections.metalhub.platform.plugins.module_utils.mig_fleet import Gpu, Request
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import Model

Layout = frozenset[tuple[int, str]]


@functools.cache
def layouts(model: Model) -> frozenset[Layout]:
    """All legal layouts by filling the memory slots from the left: each slot is empty, or an instance starts there."""
    found = set()

    def fill(slot: int, chosen: tuple[tuple[int, str], ...]) -> None:
        if slot >= model.slots:
            names = [name for _, name in chosen]
            within = all(names.count(profile.name) <= profile.max_count for profile in model.profiles)
            compute = sum(int(name.split("g")[0]) for name in names)
            if within and sum("+me" in name for name in names) <= 1 and compute <= model.compute:
                found.add(frozenset(chosen))
            return
        fill(slot + 1, chosen)
        for profile in model.profiles:
            if slot in profile.starts and slot + profile.slots <= model.slots:
                fill(slot + profile.slots, (*chosen, (slot, profile.name)))

    fill(0, ())
    return frozenset(found)


def compute(name: str) -> int:
    return int(name.split("g")[0])


@functools.cache
def slots(model: Model, name: str) -> int:
    return next(profile.slots for profile in model.profiles if profile.name == name)


@functools.cache
def larger(model: Model) -> dict[Layout, list[Layout]]:
    """The layouts with one instance more."""
    found: dict[Layout, list[Layout]] = {layout: [] for layout in layouts(model)}
    for layout in found:
        for instance in layout:
            found[layout - {instance}].append(layout)
    return found


@functools.cache
def most(model: Model, layout: Layout, what: str) -> int:
    """The most compute slices (``compute``), memory slots (``slots``) or instances of a profile that can still be added."""
    best = 0
    for more in larger(model)[layout]:
        ((_, name),) = more - layout
        if what not in ("compute", "slots", name):
            continue
        gain = compute(name) if what == "compute" else slots(model, name) if what == "slots" else 1
        best = max(best, gain + most(model, more, what))
    return best


@functools.cache
def left(model: Model, layout: Layout) -> tuple[int, int, int]:
    """Wasted compute slices, wasted memory slots, fragmentation."""
    if not layout:
        return 0, 0, 0
    free = model.slots - sum(slots(model, name) for _, name in layout)
    return (
        model.compute - sum(compute(name) for _, name in layout) - most(model, layout, "compute"),
        free - most(model, layout, "slots"),
        sum(free - profile.slots * most(model, layout, profile.name) for profile in model.profiles),
    )


def short(gpus: Sequence[Gpu], ends: Sequence[Layout], requests: Sequence[Request]) -> tuple[int, ...]:
    """What each request lacks: for each profile, first what is asked of one model, then by the order of the requests."""
    there: dict[tuple[str, str], int] = {}
    for gpu, end in zip(gpus, ends, strict=True):
        for _, name in end:
            there[name, gpu.model.name] = there.get((name, gpu.model.name), 0) + 1
    lacking = [0] * len(requests)
    for at in sorted(range(len(requests)), key=lambda at: requests[at].model is None):
        need = requests[at].count
        for kind in list(there):
            if kind[0] == requests[at].profile and requests[at].model in (None, kind[1]):
                taken = min(need, there[kind])
                there[kind] -= taken
                need -= taken
        lacking[at] = need
    return tuple(lacking)


def best(gpus: Sequence[Gpu], requests: Sequence[Request], pinned: frozenset[str] = frozenset()) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The objective (missing, mode changes, destroyed, partitioned, wasted compute and memory, fragmentation, created), and what
    each request lacks.
    """
    choices = []
    for gpu in gpus:
        now = frozenset((each.start, each.profile) for each in gpu.instances)
        stay = frozenset((each.start, each.profile) for each in gpu.instances if each.busy or each.uuid in pinned)
        fixed = gpu.uuid in pinned or (gpu.busy and not gpu.mig_enabled)
        ends = [now] if fixed else [end for end in layouts(gpu.model) if stay <= end]
        choices.append([(now, end) for end in ends])
    found = None
    for combined in itertools.product(*choices):
        ends = [end for _, end in combined]
        lacking = short(gpus, ends, requests)
        if found is not None and sum(lacking) > found[0]:
            continue
        created = [end - now for now, end in combined]
        # No instance is created without need: each one less would leave something lacking.
        useless = False
        for at, new in enumerate(created):
            for instance in new:
                fewer = [end - {instance} if number == at else end for number, end in enumerate(ends)]
                if sum(short(gpus, fewer, requests)) == sum(lacking):
                    useless = True
        if useless:
            continue
        waste = [left(gpu.model, end) for gpu, end in zip(gpus, ends, strict=True)]
        objective = (
            sum(not gpu.mig_enabled and bool(end) for gpu, end in zip(gpus, ends, strict=True)),
            sum(len(now - end) for now, end in combined),
            sum(bool(end) for end in ends),
            *(sum(numbers) for numbers in zip(*waste, strict=True)),
            sum(len(new) for new in created),
        )
        candidate = (sum(lacking), lacking, objective)
        if found is None or candidate < found:
            found = candidate
    assert found is not None
    return (found[0], *found[2]), found[1]
