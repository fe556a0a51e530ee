"""The ledger: what it adds up, and that a hub killed anywhere neither loses nor doubles anything."""

from __future__ import annotations

import ast
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from jupyterhub import orm
from metalhub_hub import ledger
from metalhub_hub.core import quotas
from metalhub_hub.core.quotas import Allocation, Override, Span, window_span
from metalhub_hub.ledger import Held, Ledger, LedgerError

PACKAGE = Path(__file__).parents[3] / "files" / "hub"
NOON = 1_767_268_800  # 2026-01-01 12:00 UTC


def held(session: str = "s1", resource: str = "cpu", start: int = NOON, **more: object) -> Held:
    facts: dict[str, object] = {
        "user": "ann", "server": "", "session": session, "profile": "small", "groups": ("lab", "öko"), "resource": resource,
        "count": 2, "memory": 0, "started": start, "seen": start, **more,
    }  # fmt: skip
    return Held(**facts)  # type: ignore[arg-type]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/hub.sqlite"


@pytest.fixture
def book(url: str) -> Iterator[Ledger]:
    made = Ledger(url, "one")
    made.create()
    yield made
    made.close()


def total(book: Ledger, until: int = NOON + 10**7) -> int:
    return sum(each.count * (each.end - each.start) for each in book.intervals(Span(0, until)))


def test_an_interval_is_metered_by_the_second(book: Ledger) -> None:
    book.begin([held(), held(resource="gpu-a100", count=1)])
    book.beat(NOON + 10)
    assert total(book) == 30, "what is open counts to the last heartbeat"
    book.end("s1", NOON + 17)
    assert total(book) == 51
    book.end("s1", NOON + 99)
    assert total(book) == 51, "an end is said once"
    assert [each.groups for each in book.intervals(Span(0, NOON + 1))] == [("lab", "öko")] * 2
    assert book.held() == []


def test_what_another_hub_left_open_counts_to_its_last_heartbeat_until_it_is_found(url: str, book: Ledger) -> None:
    book.begin([held("gone"), held("stays")])
    book.beat(NOON + 10)
    after = Ledger(url, "two")
    after.create()
    assert [row.sure for row in after.held()] == [False, False]
    after.beat(NOON + 500)
    assert total(after) == 2 * 2 * 10, "the heartbeat of another process moves nothing"
    after.adopt("stays", NOON + 500)
    after.end("gone", NOON + 500)
    assert total(after) == 2 * 10 + 2 * 500
    after.end("stays", NOON + 600)
    assert total(after) == 2 * 10 + 2 * 600
    after.close()


def test_a_second_try_replaces_the_first_in_one_step(book: Ledger) -> None:
    book.begin([held("first")])
    book.begin([held("second", start=NOON + 5)], "first", NOON + 5)
    assert [(row.session, row.started) for row in book.held()] == [("second", NOON + 5)]
    assert total(book) == 10


@pytest.mark.parametrize("by", [-3600, 3600])
def test_a_clock_that_is_set_neither_adds_nor_takes(book: Ledger, by: int) -> None:
    book.begin([held()])
    book.shift(NOON + 100, NOON + 100 + by)
    book.end("s1", NOON + 150 + by)
    assert total(book) == 2 * 150
    assert book.held() == []


@pytest.mark.parametrize("seed", range(3))
def test_the_sums_are_those_of_the_pure_core(book: Ledger, seed: int) -> None:
    chance, allocations = random.Random(seed), []
    now = NOON + 40 * 86400
    for number in range(60):
        start = NOON + chance.randrange(41 * 86400)
        end = start + chance.randrange(3 * 86400)
        name, count = chance.choice(["cpu", "gpu-a100"]), chance.randrange(1, 4)
        book.begin([held(f"s{number}", name, start, count=count)])
        book.end(f"s{number}", end)
        allocations.append(Allocation(name, start, end, end, count))
    spans = {window: window_span(window, now, timezone.utc) for window in quotas.WINDOWS}
    assert book.seconds(spans)["ann"] == book.seconds(spans, ["ann"])["ann"] == quotas.metered(allocations, now, timezone.utc)
    assert book.seconds(spans, ["bob"]) == {}


def test_overrides_stay_written_and_end(book: Ledger) -> None:
    number = book.grant("ann", Override("gpu", 3600, NOON + 100, "a paper"), "boss", NOON)
    assert [(each.user, each.by, each.override.reason) for each in book.granted(NOON + 99)] == [("ann", "boss", "a paper")]
    assert book.granted(NOON + 100) == []
    assert book.revoke(number, NOON + 50) and not book.revoke(number, NOON + 60) and not book.revoke(99, NOON)
    assert book.granted(NOON + 50) == []


def test_the_hubs_own_tables_are_not_touched(url: str, book: Ledger) -> None:
    assert not set(ledger._metadata.tables) & set(orm.Base.metadata.tables)
    session = orm.new_session_factory(url)()  # with our tables there already, JupyterHub makes its own and is content
    session.add(orm.User(name="ann"))
    session.commit()
    book.create()
    book.begin([held()])
    assert session.query(orm.User).count() == 1
    orm.check_db_revision(session.get_bind())


def test_tables_of_a_newer_release_are_refused_in_words(url: str, book: Ledger) -> None:
    with book.engine.begin() as connection:
        connection.execute(sa.text("insert into metalhub_ledger_schema values (7)"))
    with pytest.raises(LedgerError, match="version 7, and this release knows 1"):
        Ledger(url, "two").create()


EVENTS = ("before_cursor_execute", "after_cursor_execute", "commit")
FULL = {("a", "gpu-a100"): 45, ("a", "cpu"): 42, ("b", "cpu"): 40}


def life(book: Ledger, tell: Callable[[dict[tuple[str, str], int]], None]) -> None:
    """A hub's day: two sessions, heartbeats, one hibernates, the clock is set, both end. ``tell`` hears the seconds that must be there from now on."""
    gpu, cpu, other = FULL
    book.create()
    book.begin([held("a"), held("a", "gpu-a100", count=1)])
    book.beat(NOON + 10)
    tell({gpu: 10, cpu: 10})
    book.begin([held("b", start=NOON + 10)], "a-before", NOON + 10)
    book.beat(NOON + 20)
    tell({gpu: 20, cpu: 20, other: 10})
    book.end("a", NOON + 25, ["cpu"])
    tell({cpu: 25})
    book.begin([held("a", start=NOON + 28)])
    book.shift(NOON + 30, NOON + 3630)
    tell({gpu: 30, cpu: 27, other: 20})
    book.beat(NOON + 3640)
    tell({gpu: 40, cpu: 37, other: 30})
    book.end("a", NOON + 3645)
    tell({gpu: 45, cpu: 42})
    book.end("b", NOON + 3650)
    tell({other: 40})


def statements() -> int:
    counter = itertools.count()
    book = Ledger("sqlite://", "one")
    for name in EVENTS:
        sa.event.listen(book.engine, name, lambda *_, **__: next(counter))
    life(book, lambda _: None)
    book.close()
    return next(counter)


def check_after(url: str, sure: dict[tuple[str, str], int]) -> None:
    """A hub that starts after a kill: what was held is there once, to the last heartbeat that was written at least."""
    after = Ledger(url, "two")
    after.create()
    for session in {row.session for row in after.held()}:
        after.end(session, NOON + 10**6)
    assert after.held() == []
    table = ledger._intervals.c
    for (session, resource), full in FULL.items():
        query = sa.select(table.started, table.ended).where(table.session == session, table.resource == resource).order_by(table.started)
        with after.engine.connect() as connection:
            rows = connection.execute(query).all()
        for (_, end), (start, _) in itertools.pairwise(rows):
            assert end <= start, "nothing is counted twice"
        seconds = sum(end - start for start, end in rows)
        assert sure.get((session, resource), 0) <= seconds <= full, (session, resource, rows, sure)
    after.close()


def killed_at(url: str, fatal: int) -> dict[tuple[str, str], int]:
    """Live in a process of its own, which ends without a word at one of its events. Returns what it had said by then."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        book, counter = Ledger(url, "one"), itertools.count()

        def strike(*_: object, **__: object) -> None:
            if next(counter) == fatal:
                os._exit(9)

        for name in EVENTS:
            sa.event.listen(book.engine, name, strike)
        try:
            life(book, lambda known: os.write(writing, repr(known).encode() + b"\n"))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="ascii") as pipe:
        said = [ast.literal_eval(line) for line in pipe]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    return {key: value for known in said for key, value in known.items()}


def test_a_hub_killed_at_every_statement_loses_and_doubles_nothing(tmp_path: Path) -> None:
    number = statements()
    assert number > 40
    for fatal in range(number):
        url = f"sqlite:///{tmp_path}/{fatal}.sqlite"
        check_after(url, killed_at(url, fatal))


SCRIPT = f"""
import sys, time, itertools
sys.path.insert(0, {str(PACKAGE)!r})
from metalhub_hub.ledger import Held, Ledger
book = Ledger(sys.argv[1], "one")
book.create()
print("ready", flush=True)
now = {NOON}
for number in itertools.count():
    row = Held("ann", "", f"s{{number}}", "small", (), "cpu", 1, 0, now, now)
    book.begin([row])
    print("begun", number, now, flush=True)
    now += 10
    book.beat(now)
    print("seen", number, now, flush=True)
    now += 5
    book.end(f"s{{number}}", now)
    print("ended", number, now, flush=True)
"""


def test_a_process_killed_at_any_moment(tmp_path: Path) -> None:
    for turn in range(4):
        url = f"sqlite:///{tmp_path}/{turn}.sqlite"
        child = subprocess.Popen([sys.executable, "-c", SCRIPT, url], stdout=subprocess.PIPE, text=True)
        assert child.stdout and child.stdout.readline() == "ready\n"
        time.sleep(0.03 + turn * 0.037)
        os.kill(child.pid, signal.SIGKILL)
        said = [line.split() for line in child.stdout.read().splitlines() if line.count(" ") == 2]
        child.wait()
        after = Ledger(url, "two")
        after.create()
        open_now = {row.session for row in after.held()}
        assert len(open_now) <= 1
        for session in open_now:
            after.end(session, NOON + 10**8)
        ended = sum(1 for what, _, _ in said if what == "ended")
        lengths = [each.end - each.start for each in after.intervals(Span(0, NOON + 10**9))]
        assert lengths[:ended] == [15] * ended, "all that was said to have ended is there, once"
        rest = lengths[ended:]
        last = said[-1][0] if said else ""
        # The write behind the last word may have been done as well.
        assert rest in ([], [0], [10], [15]) and (last != "seen" or rest in ([10], [15])), (rest, said[-3:])
        after.close()
