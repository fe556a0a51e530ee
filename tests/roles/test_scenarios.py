"""Each molecule scenario is a test: hosts are made, converged twice (the second time nothing may change), given bad input, looked at."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


def test_there_are_scenarios() -> None:
    assert SCENARIOS


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str) -> None:
    molecule = shutil.which("molecule")
    assert molecule, "molecule is not installed: make venv"
    done = subprocess.run(
        [molecule, "test", "--scenario-name", scenario],
        check=False,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "PY_COLORS": "0", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # What went wrong first, and not only how the hosts were removed after it.
    wrong = [line for line in done.stdout.splitlines() if re.search(r"\bE  |FAILED|fatal:|msg:", line)]
    assert done.returncode == 0, "\n".join(wrong[-60:]) + "\n\n" + done.stdout[-3000:]
