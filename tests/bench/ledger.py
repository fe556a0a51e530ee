"""What the ledger costs: the usage of a user, a look at all running sessions, a start's check and an admin's month.

    python3 tests/bench/ledger.py [--intervals 100000] [--sessions 1000] [--repeats 7]

A SQLite database in a temporary directory holds intervals of the last 31 days for as many users as sessions run, who each are in a group
and have limits of CPUs and GPUs in all periods. Printed are medians in milliseconds. Goals: the usage of a user under 10, a look under 100.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "files/hub"), str(ROOT / "tests/unit/hub"), str(ROOT / "tests/unit")]

import sqlalchemy as sa  # noqa: E402
from conftest import document  # noqa: E402
from metalhub_hub import config, ledger, quota  # noqa: E402
from metalhub_hub.core.quotas import window_span  # noqa: E402

DAY = 86400


def fill(book: ledger.Ledger, users: list[str], number: int, now: int) -> None:
    """Write closed intervals, as fast as it goes."""
    chance, rows = random.Random(1), []
    for each in range(number):
        start = now - chance.randrange(31 * DAY)
        name = chance.choice(["cpu", "session", "gpu-1g.10gb"])
        facts = {"user": chance.choice(users), "server": "", "session": f"old{each}", "profile": "slice", "groups": '["research"]'}
        end = min(now, start + chance.randrange(60, 8 * 3600))
        rows.append({**facts, "resource": name, "count": 1, "memory": 2**30, "started": start, "ended": end, "seen": end, "run": "before"})
    with book.engine.begin() as connection:
        connection.execute(sa.insert(ledger._intervals), rows)


def median(repeats: int, work: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> float:
    found = []
    for _ in range(repeats):
        before()
        begun = time.perf_counter()
        work()
        found.append((time.perf_counter() - begun) * 1000)
    return statistics.median(found)


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, value in (("--intervals", 100_000), ("--sessions", 1000), ("--repeats", 7)):
        parser.add_argument(name, type=int, default=value)
    arguments = parser.parse_args()
    limits = "sessions=3, memory=512G, cpu=2000h/month, gpu=900h/month, gpu-1g.10gb=100h/day, 400h/week, 800h/month"
    with tempfile.TemporaryDirectory() as directory:
        raw = document(Path(directory), quotas={"default": "sessions=2", "groups": {"research": limits}}, time_zone="Europe/Berlin")
        users = [f"user{number}" for number in range(arguments.sessions)]
        audit = SimpleNamespace(write=lambda *_, **__: None)
        host: Any = SimpleNamespace(document=config.parse(raw), proxy=None, audit=audit)
        service = host.quota = quota.Quota(host, f"sqlite:///{directory}/ledger.sqlite")
        now = service.clock.now()
        fill(service.ledger, users, arguments.intervals, now)
        people = [SimpleNamespace(user=SimpleNamespace(name=name), name="", groups={"research"}, service_name=f"mh-{name}") for name in users]
        begun = time.perf_counter()
        for one in people:
            service.admit(one, host.document.profiles["slice"])
            service.begin(one)
        starts = (time.perf_counter() - begun) * 1000 / len(people)
        someone = [SimpleNamespace(user=SimpleNamespace(name=name), name="x", groups={"research"}) for name in users[:50]]
        profile = host.document.profiles["slice"]
        turn = iter(users * 2)

        def forget() -> None:
            service._closed = {}

        print(f"{arguments.intervals} intervals, {len(users)} running sessions of as many users, SQLite")
        print(f"usage of a user, from the database   {median(arguments.repeats, lambda: service.usage(next(turn)), forget):8.2f} ms")
        print(f"usage of a user, its sums known      {median(arguments.repeats, lambda: service.usage(users[0])):8.2f} ms")
        print(f"check and reservation of a start     {median(arguments.repeats, lambda: service.admit(someone[0], profile)):8.2f} ms")
        print(f"a start with its write               {starts:8.2f} ms")
        print(f"look at all running sessions         {median(arguments.repeats, service.tick):8.2f} ms")
        print(f"look after midnight, all sums anew   {median(arguments.repeats, service.tick, forget):8.2f} ms")
        span = window_span("month", now, service.zone)
        print(f"an admin's month, in a thread        {median(3, lambda: service.report(span)):8.2f} ms")
        service.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
