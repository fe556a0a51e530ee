"""The test hosts of one testbed network, by SSH."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_controls = tempfile.TemporaryDirectory(prefix="egress-ssh-")


class HostError(Exception):
    """A command on a host failed; the message says which and what it said."""


@dataclass(frozen=True)
class Machine:
    """One host. The connection is kept open between commands."""

    name: str
    address: str
    directory: Path

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60, check: bool = True) -> str:
        """Run a shell command and return its standard output. Raises HostError where it fails and `check` is set, or takes too long."""
        argv = ["ssh", "-i", str(self.directory / "id_ed25519"), "-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}", "-o", "BatchMode=yes",
                "-o", "ControlMaster=auto", "-o", f"ControlPath={_controls.name}/%h", "-o", "ControlPersist=60", "-o", "ServerAliveInterval=5",
                "-o", "ConnectTimeout=10", f"root@{self.address}", command]  # fmt: skip
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise HostError(f"{self.name}: {command[:200]}\ntook more than {timeout:.0f} s") from error
        if check and done.returncode:
            raise HostError(f"{self.name}: {command[:400]}\n{(done.stdout + done.stderr).decode('utf-8', 'replace')[-1500:]}")
        return done.stdout.decode("utf-8", "replace")

    def power_cut(self) -> None:
        """Let it die as if the power was cut, and come back."""
        net = self.directory.name
        subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={_controls.name}/%h", f"root@{self.address}"], capture_output=True, timeout=20, check=False)
        for verb in ("kill", "start"):
            subprocess.run([sys.executable, str(ROOT / "testbed/testbed.py"), verb, net, self.name], capture_output=True, timeout=120, check=True)

    def unit(self, name: str, command: str, log: str = "") -> None:
        """Run a program in the background as a transient unit, in place of the one of that name."""
        output = f"-p StandardOutput=append:{log} -p StandardError=append:{log}.errors" if log else ""
        self.run(f"systemctl stop {name} 2>/dev/null; systemctl reset-failed {name} 2>/dev/null; rm -f {log} {log}.errors; "
                 f"systemd-run -q --collect --unit {name} {output} --setenv=PYTHONPATH=/opt/egress-test {command}")  # fmt: skip


def load(testbed: str) -> Mapping[str, Machine]:
    """All hosts of a testbed network by name."""
    directory = ROOT / ".cache" / "testbed" / testbed
    found = re.findall(r"^    (\w+):\n      ansible_host: (\S+)", (directory / "inventory.yml").read_text(encoding="utf-8"), re.MULTILINE)
    return {name: Machine(name, address, directory) for name, address in found}
