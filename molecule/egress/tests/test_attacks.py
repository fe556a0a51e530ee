"""The attack suite of tests/egress on this scenario's hosts: in runc and in gVisor, with the control off and on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from egress import allowed, cases, report  # noqa: E402
from egress.restarts import ACTIONS, ENGINE_ACTIONS, Restarts  # noqa: E402
from egress.suite import SANDBOXES, Suite, problems  # noqa: E402

REPORT = ROOT / ".cache" / "egress"


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    made = Suite(f"mol-{os.environ['MOLECULE_SCENARIO_NAME']}")
    made.up()
    yield made
    made.control.on()
    made.world.hosts["control"].run("docker service rm $(docker service ls -q --filter label=metalhub.session=egress-test)", check=False)


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_what_is_allowed_works(suite: Suite, sandbox: str) -> None:
    assert allowed.try_all(suite, sandbox) == []


def test_nothing_leaks_and_each_attack_is_known_to_work(suite: Suite) -> None:
    results = suite.run(cases.every(), SANDBOXES, ("off", "on"))
    report.write(results, REPORT)
    print(report.table(results))
    assert suite.dead + problems(results) == []


@pytest.mark.timeout(600)
def test_nothing_leaks_while_parts_restart(suite: Suite) -> None:
    """Some of what `python3 -m egress.restarts` tries in six minutes. The last one ends the node's sessions."""
    restarts = Restarts(suite, SANDBOXES)
    restarts.run({name: ACTIONS[name] for name in ("nftables restarts", "squid reads its settings again", "firewalld starts, reloads and stops", "all of them restart")})
    restarts.run_engine({name: ENGINE_ACTIONS[name] for name in ("the engine restarts",)})
    print(report.table(restarts.results))
    assert restarts.dead + problems(restarts.results) == []
