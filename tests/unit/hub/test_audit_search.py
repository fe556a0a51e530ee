"""Searching the audit log from its end, over files and blocks, while it is written and renamed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from metalhub_hub import audit_search
from metalhub_hub.audit import Audit
from metalhub_hub.audit_search import search
from metalhub_hub.core import audit_chain
from metalhub_hub.core.audit_query import Query

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def at(minute: int) -> str:
    return audit_chain.stamp(BEGIN + timedelta(minutes=minute))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """300 events in several files, one a minute, of ann and every tenth of bob. Blocks are as short as some lines."""
    monkeypatch.setattr(audit_search, "BLOCK", 200)
    minute = iter(range(10_000))
    made = Audit(str(tmp_path / "audit.jsonl"), segment=20_000, journal="", clock=lambda: BEGIN + timedelta(minutes=next(minute)))
    for number in range(1, 300):
        made.write("running", user="bob" if number % 10 == 0 else "ann", session=f"s{number}", words="ü" * (number % 70))
    made.close()
    assert len(list(tmp_path.glob("audit-0*.jsonl"))) >= 3
    return tmp_path


def numbers(found: audit_search.Found) -> list[int]:
    return [event["seq"] for event in found.events]


def pages(directory: Path, query: Query, limit: int, **more: Any) -> list[list[int]]:
    found, all_of_them = search(directory, query, limit, **more), []
    while True:
        all_of_them.append(numbers(found))
        if not found.cursor:
            return all_of_them
        found = search(directory, query, limit, found.cursor, **more)


@pytest.mark.parametrize("block", [1, 64, 200, 2**18])
def test_all_events_come_once_the_newest_first(log: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(audit_search, "BLOCK", block)
    found = pages(log, Query(), 7)
    assert sum(found, []) == list(range(300, 0, -1)) and all(len(page) == 7 for page in found[:-1])


def test_a_query_finds_what_the_whole_log_has(log: Path) -> None:
    query = Query(since=at(50), until=at(251), user="bob", kind="session")
    wanted = [number + 1 for number in range(290, 0, -10) if at(50) <= at(number) < at(251)]
    assert sum(pages(log, query, 4), []) == wanted
    exported = [json.loads(line)["seq"] for line in audit_search.lines(log, query)]
    assert exported == wanted[::-1]
    assert b"".join(audit_search.lines(log, Query())) == b"".join(path.read_bytes() for path in sorted(log.glob("audit*.jsonl")))


def test_a_long_search_stops_and_goes_on(log: Path) -> None:
    found = pages(log, Query(user="bob"), 100, most=3000)
    assert len(found) > 5 and sum(found, []) == [number + 1 for number in range(290, 0, -10)]
    first = search(log, Query(user="nobody"), 100, most=3000)
    assert not first.events and first.cursor and first.looked > at(200)


def test_what_is_just_being_written_is_left_for_later(log: Path) -> None:
    with (log / "audit.jsonl").open("ab") as file:
        file.write(b'{"seq":301,"at":"2026')
        assert search(log, Query(), 1).events[0]["seq"] == 300


def test_a_cursor_holds_while_the_log_is_written_and_its_file_renamed(log: Path) -> None:
    cursor = search(log, Query(), 3).cursor
    first = json.loads((log / "audit.jsonl").read_bytes().splitlines()[0])["seq"]
    (log / "audit.jsonl").rename(log / f"audit-{first:012}.jsonl")
    more = Audit(str(log / "audit.jsonl"), journal="")
    more.write("later")
    more.close()
    assert numbers(search(log, Query(), 2, cursor)) == [297, 296]
    assert numbers(search(log, Query(), 2)) == [301, 300]


def test_lines_that_are_no_events_are_counted_and_cursors_are_checked(log: Path) -> None:
    path = log / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b"scribble\n")
    found = search(log, Query(), 2)
    assert (numbers(found), found.odd) == ([300, 299], 1)
    for cursor in ("x", "1", "1-", "-1-2", "1-2-3", "٣-1"):
        with pytest.raises(ValueError, match="cursor"):
            search(log, Query(), 2, cursor)
    assert search(log, Query(), 2, "0-5").events == ()


def test_an_old_range_does_not_read_what_is_newer(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalhub_hub.core.audit_query.SLACK", timedelta(0))
    read: list[Path] = []
    inner = audit_search._from_the_end
    monkeypatch.setattr(audit_search, "_from_the_end", lambda path, end: (read.append(path), inner(path, end))[1])
    assert numbers(search(log, Query(until=at(2)), 10)) == [2, 1]
    assert read == sorted(log.glob("audit-0*.jsonl"))[:1]
    read.clear()
    assert numbers(search(log, Query(since=at(298)), 10)) == [300, 299] and read == [log / "audit.jsonl"]
