"""What hibernation gives back, and what it costs to wake, in runc and in gVisor.

    molecule create -s hibernation && molecule prepare -s hibernation
    molecule converge -s hibernation -- -e base_swap_size=8G -e session_agent_hibernate_largest=10G
    python3 tests/bench/hibernate.py mol-hibernation [--cycles 200] [--sandbox gvisor] [--sizes 512 1024 2048]

Each session holds data of which a page compresses to half. Before each cycle all of it is read, so that all of it is in memory; then the
session is paused, its node's agent takes the memory, and it is woken and asked something small. At last all of it is read again. The first
lines are of a small kernel, with the agent and without (what pausing and waking costs by itself), in one run; then sizes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hibernation.stage import SANDBOXES, Stage  # noqa: E402

SMALL, SIZES, REPEATS = 64, (512, 1024, 2048), 3
HEAD = ("sandbox", "data", "cycles", "held", "given back", "seconds", "wake p50", "wake p99", "worst", "all read", "whole")


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    shares = [1 - left / held for held, left in zip(found["held"], found["left"], strict=True)]
    wakes = sorted(found["wakes"])
    late = wakes[-(len(wakes) // 100) - 1]
    return (
        found["sandbox"] + ("" if shares else ", only paused"),
        f"{found['mib']} MiB",
        str(found["cycles"]),
        *(
            (
                f"{statistics.median(found['held']) / 2**20:.0f} MiB",
                f"{statistics.median(shares):.1%}, least {min(shares):.1%}",
                f"{statistics.median(found['seconds']):.2f}",
            )
            if shares
            else ("", "", "")
        ),
        f"{statistics.median(wakes) * 1000:.0f} ms",
        f"{late * 1000:.0f} ms",
        f"{wakes[-1] * 1000:.0f} ms",
        f"{found['touched']:.2f} s",
        "yes" if found["same"] else "NO",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testbed")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--sandbox", nargs="*", choices=SANDBOXES, default=SANDBOXES)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    wanted = parser.parse_args()
    stage = Stage(wanted.testbed)
    stage.up()
    print("zswap:", stage.node.run("cat /sys/module/zswap/parameters/enabled /sys/module/zswap/parameters/compressor").split())
    print("load:", stage.node.run("cat /proc/loadavg").strip())
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    whole = True
    runs = [("paused", SMALL, wanted.cycles), ("measure", SMALL, wanted.cycles), *(("measure", size, REPEATS) for size in wanted.sizes)]
    for sandbox in wanted.sandbox:
        for function, mib, cycles in runs:
            found = stage.call(function, sandbox, mib, cycles, timeout=1800)
            whole = whole and found["same"]
            print("| " + " | ".join(_row(found)) + " |", flush=True)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
