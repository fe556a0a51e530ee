"""Bring the programs of this directory onto a test host, and run them there."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from egress.hosts import Machine, load  # noqa: E402

from hibernation import IMAGE  # noqa: E402

SANDBOXES = ("runc", "gvisor")
PREPARE = f"""set -e
docker image inspect {IMAGE} > /dev/null 2>&1 || {{
  rm -rf /run/hibernation-image; mkdir -p /run/hibernation-image; cd /run/hibernation-image
  for name in bin sbin lib lib64; do ln -s usr/$name $name; done
  mkdir -p usr hibernation proc sys dev tmp etc
  tar -c . | docker import - {IMAGE} > /dev/null
}}
rm -rf /opt/hibernation-test; mkdir -p /opt/hibernation-test; tar -x -C /opt/hibernation-test"""


class Stage:
    """The one host of a testbed network on which sessions hibernate."""

    def __init__(self, testbed: str) -> None:
        self.node: Machine = load(testbed)["node"]

    def up(self) -> None:
        """Bring everything there. May run any number of times."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path in sorted(HERE.glob("*.py")):
                archive.add(path, f"hibernation/{path.name}")
        self.node.run(PREPARE, stdin=buffer.getvalue())

    def call(self, function: str, sandbox: str, *numbers: int, timeout: float = 180) -> Any:
        """What a function of node.py gives on the host."""
        words = " ".join([function, sandbox, *map(str, numbers)])
        return json.loads(self.node.run(f"cd /opt/hibernation-test && timeout {timeout:.0f} python3 -m hibernation.node {words}", timeout=timeout + 10))
