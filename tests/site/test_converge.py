"""The site is converged under kills: the run that a kill cut short is mended by the next, from any point.

One cluster is brought up once, by runs of which each is killed some tasks further on, so that the kills fall all over the
converge while it still has work to do. Then one whole run, and one that must change nothing.
"""

from __future__ import annotations

import re

import pytest
from runner import play

STEP = 12  # tasks between two kill points
MOST = 40  # kills at most, so that the test ends


@pytest.mark.timeout(1800)
def test_a_killed_run_is_mended_by_the_next() -> None:
    kills = 0
    for kill_at in range(STEP, STEP * MOST, STEP):
        run = play("site.yml", kill_at=kill_at)
        if not run.killed:
            break
        kills += 1
        print(f"kill {kills} at task {kill_at}: {run.output.splitlines()[-1]}", flush=True)
    assert run.status == 0, run.tail()
    assert kills >= 5, "too few kill points to mean anything"
    again = play("site.yml", "--diff")
    assert again.status == 0, again.tail()
    assert again.changed == 0, re.sub(r"(?m)^ok: .*\n", "", again.output)


def test_check_mode_of_a_converged_site_tells_of_nothing() -> None:
    run = play("site.yml", "--check", "--diff")
    assert run.status == 0, run.tail()
    assert run.changed == 0, run.output
