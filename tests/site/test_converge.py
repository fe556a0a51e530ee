"""The site is converged under kills: the run that a kill cut short is mended by the next, from any point.

One platform is brought up once, by runs of which each is killed some tasks further on, so that the kills fall all over the
converge while it still has work to do; every other one falls into the middle of a task. Then one whole run, and one that must
change nothing. Where the platform is already there it is removed first (homes stay), by the playbook an operator has for it.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable

import pytest
from cluster import Cluster
from runner import play

FIRST = 16  # preflight changes nothing: kills before its end say little
STEP = 9  # tasks between two kill points
MIDDLE = 1.5  # seconds after which every other kill comes
MOST = 30  # kills at most, so that the test ends


@pytest.mark.timeout(1800)
def test_a_killed_run_is_mended_by_the_next(site: Cluster, record_property: Callable[[str, object], None]) -> None:
    if site.installed():
        removed = play("teardown.yml")
        assert removed.status == 0, removed.tail()
        assert not site.installed()
    begin, kills, run = time.monotonic(), 0, None
    for kill_at, after in zip(range(FIRST, FIRST + STEP * MOST, STEP), itertools.cycle((0, MIDDLE)), strict=False):
        run = play("site.yml", kill_at=kill_at, kill_after=after)
        if not run.killed:
            break
        kills += 1
        print(f"{time.monotonic() - begin:.0f} s, kill {kills} at task {kill_at}: {run.output.splitlines()[-1]}", flush=True)
    assert run is not None and run.status == 0, run and run.tail()
    assert kills >= 10, f"{kills} kill points are too few to mean anything"
    record_property("killed converges, the last one whole", f"{kills} kills, {time.monotonic() - begin:.0f} s")
    again = play("site.yml", "--diff")
    assert again.status == 0, again.tail()
    assert again.changed == 0, re.sub(r"(?m)^ok: .*\n", "", again.output)


def test_check_mode_of_a_converged_site_tells_of_nothing(cluster: Cluster) -> None:
    # -e: else the settled callback leaves before the roles are asked
    run = play("site.yml", "--check", "--diff", "-e", "asked_by=test_converge")
    assert run.status == 0, run.tail()
    assert run.changed == 0, run.output
