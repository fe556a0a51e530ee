"""How fast the planner of MIG layouts is, and that it agrees with others who look for the best plan.

.venv/bin/python tests/bench/mig_plan.py [--cases 40] [--seed 1]

cold       the first call of a process, with no table in any cache; imports not counted
warm       the median of further calls
HiGHS      the same question as a mixed integer program, level by level, its columns already built
naive      the product of all ends of all GPUs, cut off where it is worse than the best so far
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "collections"), str(ROOT / "tests" / "unit" / "gpu")]

import mig_brute  # noqa: E402
import mig_mip  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils import mig_geometry as geometry  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils import mig_plan as planner  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.mig_fleet import Gpu, Instance, Request, gpus_from, requests_from  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.mig_search import shape_of  # noqa: E402

H100 = geometry.model("H100-80GB")
SLOTS = {profile.name: profile.slots for profile in H100.profiles}
Wanted = dict[str, int]


def milliseconds(call: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def cold(call: Callable[[], object]) -> float:
    shape_of.cache_clear()
    return milliseconds(call, 1)


def empty(count: int) -> list[Gpu]:
    return [Gpu(f"GPU-{number}", number, H100, True) for number in range(count)]


def mixture(dice: random.Random, total: int, room: int, gpus: int) -> Wanted:
    """Numbers of some profiles that are ``total`` in all and by size could fit."""
    while True:
        names = dice.sample(list(SLOTS), dice.randint(3, 7))
        cuts = sorted(dice.sample(range(1, total), len(names) - 1))
        wanted = dict(zip(names, (b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)), strict=True))
        if wanted.get("1g.10gb+me", 0) <= gpus and sum(SLOTS[name] * count for name, count in wanted.items()) <= room:
            return wanted


def different(dice: random.Random, count: int) -> list[Gpu]:
    """GPUs of which no two have the same on them; a third of the instances is busy."""
    gpus: list[Gpu] = []
    seen = set()
    layouts = sorted(mig_brute.layouts(H100), key=sorted)
    while len(gpus) < count:
        layout = dice.choice(layouts)
        if layout in seen or len(layout) > 5:
            continue
        seen.add(layout)
        number = len(gpus)
        instances = tuple(Instance(name, start, f"MIG-{number}-{start}", dice.random() < 1 / 3) for start, name in sorted(layout))
        gpus.append(Gpu(f"GPU-{number}", number, H100, True, instances))
    return gpus


def after(plan: planner.Plan) -> list[dict[str, object]]:
    """The GPUs as they are once the plan was carried out, as plain data."""
    gpus = []
    for change in plan.changes:
        made = [{"profile": place.profile, "start": place.start, "uuid": f"MIG-{change.gpu.uuid}-{place}"} for place in change.layout]
        gpus.append({"uuid": change.gpu.uuid, "index": change.gpu.index, "model": "H100-80GB", "mig_enabled": True, "instances": made})
    return gpus


def naive(gpus: Sequence[Gpu], requests: Sequence[Request]) -> tuple[int, ...]:
    """The best objective of a fleet that can have all that is wanted, by looking at everything that is not already worse."""
    names = [request.profile for request in requests]
    need = tuple(request.count for request in requests)
    choices = []
    for gpu in gpus:
        ends = mig_mip.ends_of(gpu, set(names), frozenset())
        choices.append(sorted((cost, tuple(have.count(name) for name in names)) for have, cost in ends))
    best: list[tuple[int, ...]] = []

    def look(at: int, left: tuple[int, ...], cost: tuple[int, ...]) -> None:
        if best and cost >= best[0]:
            return
        if at == len(choices):
            if not any(left):
                best[:] = [cost]
            return
        for more, have in choices[at]:
            rest = tuple(a - b for a, b in zip(left, have, strict=True))
            if min(rest) >= 0:
                look(at + 1, rest, tuple(a + b for a, b in zip(cost, more, strict=True)))

    look(0, need, (0,) * mig_mip.LEVELS)
    return (0, *best[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    fleet = empty(64)

    first, further, theirs, missing_rooms = [], [], [], 0
    wanted: Wanted = {}
    for _ in range(options.cases):
        wanted = mixture(dice, 200, 64 * 8, 64)
        requests = requests_from(wanted)
        first.append(cold(lambda requests=requests: planner.plan(fleet, requests)))
        further.append(milliseconds(lambda requests=requests: planner.plan(fleet, requests)))
        plan = planner.plan(fleet, requests)
        missing_rooms += not plan.satisfied
        program = mig_mip.build(fleet, requests)
        theirs.append(milliseconds(lambda program=program: mig_mip.solve(*program), 3))
        found = mig_mip.solve(*program)
        assert plan.optimal and plan.objective[:7] == (found[0], *found[1 + len(requests) :]), (wanted, plan.objective, found)
    print(
        f"64 empty GPUs, 200 instances, {options.cases} mixtures ({missing_rooms} of which do not fit): all proven best, all equal to HiGHS"
    )
    ratios = [b / a for a, b in zip(further, theirs, strict=True)]
    for name, times in (("cold", first), ("warm", further), ("HiGHS", theirs)):
        print(f"  {name:6} median {statistics.median(times):7.1f} ms   slowest {max(times):7.1f} ms")
    print(f"  HiGHS needs {statistics.median(ratios):.1f} times as long as warm (median; {min(ratios):.1f} to {max(ratios):.1f})")

    wanted = {"1g.10gb": 90, "2g.20gb": 50, "3g.40gb": 40, "4g.40gb": 20}
    plan = planner.plan(fleet, requests_from(wanted))
    data = after(plan)

    def unchanged() -> None:
        assert not planner.plan(gpus_from(data), requests_from(wanted)).actions()

    print(f"the same fleet planned again, from plain data: cold {cold(unchanged):.1f} ms, warm {milliseconds(unchanged, 20):.1f} ms")

    first, further, theirs = [], [], []
    for _ in range(max(1, options.cases // 4)):
        mixed = different(dice, 64)
        there = Counter(each.profile for gpu in mixed for each in gpu.instances)
        requests = [Request(name, there[name] + dice.randint(0, 8)) for name in dice.sample(list(SLOTS), 4)]
        first.append(cold(lambda mixed=mixed, requests=requests: planner.plan(mixed, requests)))
        further.append(milliseconds(lambda mixed=mixed, requests=requests: planner.plan(mixed, requests), 3))
        plan = planner.plan(mixed, requests)
        program = mig_mip.build(mixed, requests)
        theirs.append(milliseconds(lambda program=program: mig_mip.solve(*program), 1))
        found = mig_mip.solve(*program)
        assert plan.optimal and plan.objective[:7] == (found[0], *found[1 + len(requests) :]), (requests, plan.objective, found)
    print(f"64 GPUs of which no two are alike, a third of what is on them busy, {len(first)} cases: all proven best, all equal to HiGHS")
    for name, times in (("cold", first), ("warm", further), ("HiGHS", theirs)):
        print(f"  {name:6} median {statistics.median(times):7.1f} ms   slowest {max(times):7.1f} ms")

    wanted = {"3g.40gb": 2, "2g.20gb": 3, "1g.10gb": 6}
    small, requests = empty(3), requests_from(wanted)
    begin = time.perf_counter()
    found = naive(small, requests)
    slow = (time.perf_counter() - begin) * 1000
    quick = milliseconds(lambda: planner.plan(small, requests))
    assert planner.plan(small, requests).objective[:7] == found
    print(f"3 empty GPUs, {sum(wanted.values())} instances: naive {slow:.0f} ms, warm {quick:.1f} ms, {slow / quick:.0f} times as long")


if __name__ == "__main__":
    main()
