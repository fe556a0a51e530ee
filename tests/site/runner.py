"""Run the platform's playbooks as an operator does, with a bound, and read the recap."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster import INVENTORY, ROOT

Converge = Callable[..., None]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of ansible-playbook: its exit status, its output, and the recap as host → counts."""

    status: int
    output: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        keys = ("ok", "changed", "unreachable", "failed")
        return {match[1]: dict(zip(keys, map(int, match.groups()[1:]), strict=True)) for match in _RECAP.finditer(self.output)}

    @property
    def changed(self) -> int:
        return sum(counts["changed"] for counts in self.recap.values())

    @property
    def killed(self) -> bool:
        return self.status == -9

    def tail(self, lines: int = 40) -> str:
        """The last lines, and before them what failed first."""
        everything = self.output.splitlines()
        failed = next((number for number, line in enumerate(everything) if line.startswith("fatal:")), len(everything))
        return "\n".join([*everything[max(0, failed - 3) : failed + 25], "…", *everything[-lines:]])


def play(playbook: str, *options: str, kill_at: int = 0, kill_after: float = 0, timeout: int = 900) -> Run:
    """Run `playbooks/<playbook>`; with `kill_at` it is killed when that task is about to begin (counted from 1), or
    `kill_after` seconds later, in the middle of whatever it then does."""
    environment = dict(os.environ, ANSIBLE_NOCOLOR="1", ANSIBLE_FORCE_COLOR="0")
    if kill_at:
        environment |= {
            "METALHUB_KILL_AT": str(kill_at),
            "METALHUB_KILL_AFTER": str(kill_after),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "kill_at",
        }
    done = subprocess.run(
        [PLAYBOOK, *(f"--inventory={source}" for source in INVENTORY), f"playbooks/{playbook}", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        start_new_session=True,
    )
    return Run(done.returncode, done.stdout)


@contextlib.contextmanager
def other_choices(directory: Path) -> Iterator[Converge]:
    """Give what converges the site with other variables than the inventory's. In the end it is as the inventory says."""
    file = directory / "choices.json"
    file.touch(mode=0o600)

    def converge(**variables: object) -> None:
        file.write_text(json.dumps(variables), encoding="utf-8")
        run = play("site.yml", "-e", f"@{file}")
        assert run.status == 0, run.tail()

    try:
        yield converge
    finally:
        run = play("site.yml")
        assert run.status == 0, run.tail()
