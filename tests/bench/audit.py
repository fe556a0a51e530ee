"""How long it takes to write an audit log, and to verify its chain: medians of several runs.

.venv/bin/python tests/bench/audit.py [events] [runs]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "files" / "hub"))

from metalhub_hub import audit  # noqa: E402
from metalhub_hub.core import audit_chain  # noqa: E402


def main(events: int = 100_000, runs: int = 5) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = audit.Audit(f"{directory}/audit.jsonl", segment=8 * 2**20)
        begin = time.perf_counter()
        for number in range(events - 1):  # the first event is the chain's beginning
            log.write("running", user=f"user{number % 500}", server="", session=f"mh-user{number % 500}-default-a1b2c3", node="compute1", seconds=1.234)
        written = time.perf_counter() - begin
        log.close()
        files = audit.segments(Path(directory))
        size = sum(path.stat().st_size for path in files)
        times = []
        for _ in range(runs):
            begin = time.perf_counter()
            verdict = audit_chain.verify(audit.lines(files), head=audit.kept_head(Path(directory)))
            times.append(time.perf_counter() - begin)
            assert verdict.problem is None and verdict.lines == events
    print(f"{events} events, {size / 1e6:.1f} MB in {len(files)} files")
    print(f"write   {written / events * 1e6:.1f} µs an event")
    print(f"verify  {statistics.median(times):.2f} s, median of {runs}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
