"""How long it takes to write an audit log, to verify its chain and to search it, and how late a loop is while a thread searches: medians of several runs.

.venv/bin/python tests/bench/audit.py [events] [runs]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "files" / "hub"))

from metalhub_hub import audit, audit_search  # noqa: E402
from metalhub_hub.core import audit_chain  # noqa: E402
from metalhub_hub.core.audit_query import Query  # noqa: E402

SEARCHES = {
    "the newest 50": Query(),
    "50 of one user in 500": Query(user="user7"),
    "a user who is not there": Query(user="nobody"),
    "a kind that is not there": Query(kind="login"),
    "the oldest 50, by their time": Query(until="2000-01-01T00:00:00.000Z"),
}


async def lateness(directory: Path, query: Query) -> float:
    """The longest time that a loop was late, in seconds, while a thread searched."""
    search, worst = asyncio.ensure_future(asyncio.to_thread(audit_search.search, directory, query, 50)), 0.0
    while not search.done():
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - begin - 0.001)
    return worst


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
        searches = []
        for name, query in SEARCHES.items():
            spent, late = [], []
            for _ in range(runs):
                begin = time.perf_counter()
                audit_search.search(Path(directory), query, 50)
                spent.append(time.perf_counter() - begin)
                late.append(asyncio.run(lateness(Path(directory), query)))
            searches.append((name, statistics.median(spent), statistics.median(late)))
    print(f"{events} events, {size / 1e6:.1f} MB in {len(files)} files")
    print(f"write   {written / events * 1e6:.1f} µs an event")
    print(f"verify  {statistics.median(times):.2f} s, median of {runs}")
    for name, spent_s, late_s in searches:
        print(f"search  {name}: {spent_s * 1e3:.1f} ms, a loop beside it at most {late_s * 1e3:.1f} ms late")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
