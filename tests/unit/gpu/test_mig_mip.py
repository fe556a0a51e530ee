"""Plans of fleets that are too large to look at every layout, against HiGHS."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import mig_geometry as geometry
from ansible_collections.metalhub.platform.plugins.module_utils import mig_plan as planner
from ansible_collections.metalhub.platform.plugins.module_utils.mig_fleet import Gpu, Instance, Request

pytest.importorskip("highspy")

import mig_brute  # noqa: E402
import mig_mip  # noqa: E402

A30 = geometry.model("A30-24GB")
H100 = geometry.model("H100-80GB")
PLAIN = dataclasses.replace(
    H100, name="plain", profiles=tuple(each for each in H100.profiles if "+" not in each.name and each.name != "1g.20gb")
)


def fleet(dice: random.Random, size: int) -> list[Gpu]:
    gpus = []
    for number in range(size):
        model = dice.choice([A30, PLAIN])
        layout = dice.choice(sorted(mig_brute.layouts(model), key=sorted)) if dice.random() < 0.5 else ()
        instances = tuple(Instance(name, start, f"MIG-{number}-{start}", dice.random() < 0.4) for start, name in sorted(layout))
        gpus.append(Gpu(f"GPU-{number}", number, model, bool(instances) or dice.random() < 0.7, instances))
    return gpus


@pytest.mark.parametrize("seed", range(12))
def test_a_fleet_against_highs(seed):
    dice = random.Random(seed)
    gpus = fleet(dice, dice.randint(4, 10))
    there = Counter(each.profile for gpu in gpus for each in gpu.instances)
    names = sorted({each.name for gpu in gpus for each in gpu.model.profiles})
    requests = [Request(name, there[name] + dice.randint(0, 6)) for name in dice.sample(names, dice.randint(2, 5))]
    found = planner.plan(gpus, requests)
    best, short = mig_mip.best(gpus, requests)
    assert found.optimal
    assert found.objective[: len(best)] == best
    assert tuple(found.missing.get(request.key, 0) for request in requests) == short


@pytest.mark.parametrize(
    "counts",
    [
        # 67 instances of one slot: an odd one has to leave a slot free, which the relaxation does not see.
        {"1g.10gb": 44, "1g.20gb": 72, "3g.40gb": 20, "1g.10gb+me": 23, "2g.20gb": 13, "4g.40gb": 8, "7g.80gb": 20},
        {"1g.20gb": 17, "3g.40gb": 60, "1g.10gb+me": 12, "1g.10gb": 32, "4g.40gb": 3, "7g.80gb": 20},
        {"7g.80gb": 7, "3g.40gb": 37, "2g.20gb": 23, "1g.10gb": 58, "1g.10gb+me": 41, "1g.20gb": 34},
    ],
)
def test_mixtures_that_were_hard(counts):
    gpus = [Gpu(f"GPU-{number}", number, H100, True) for number in range(64)]
    requests = [Request(name, count) for name, count in counts.items()]
    found = planner.plan(gpus, requests)
    best, short = mig_mip.best(gpus, requests)
    assert found.optimal
    assert (found.objective[: len(best)], bool(found.missing)) == (best, any(short))
