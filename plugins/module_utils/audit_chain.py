"""The audit log's chain: one JSON line an event, each with the SHA-256 of the line before it.

What is hashed are the bytes of a line as they stand in the file, its newline included, so that ``sed -n 7p | sha256sum`` is
the whole check. The first line of all has the sequence number 1 and, as its predecessor, GENESIS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from .durations import parse_duration

GENESIS = "0" * 64
# Facts are short. An engine's error text is not always, and the journal takes no datagram without an end.
LONGEST = 1000
WITHHELD = "(withheld)"

_SECRET = re.compile(r"passw|secret|token|cookie|authorization|credential|api_?key|hashed", re.IGNORECASE)
_KEYS = ("seq", "at", "kind", "facts", "prev")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
MOMENT_LEGAL = "a date (2026-01-31), a time (2026-01-31T13:00, UTC unless it has an offset) or how long ago (24h, 7d)"


@dataclass(frozen=True)
class Link:
    """A place in the chain: a line's number and the SHA-256 of its bytes, hexadecimal."""

    seq: int
    sha256: str


@dataclass(frozen=True)
class Problem:
    """Where a chain breaks first. ``index`` counts the lines that were read, from 1; ``words`` say what is wrong there."""

    index: int
    what: str
    words: str


@dataclass(frozen=True)
class Verdict:
    """What a verification found: how many lines are good, the last good one, and the first problem if there is one."""

    lines: int
    last: Link
    first_at: str
    last_at: str
    problem: Problem | None = None


START = Link(0, GENESIS)


def stamp(moment: datetime) -> str:
    """A time as the log writes it: UTC, milliseconds, always as long, so that texts sort as times do."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def moment(text: str, now: datetime) -> str:
    """What an operator means by a time, as the log writes times. Raises ValueError for what is none."""
    try:
        if _DATE.match(text):
            # Python before 3.11 reads no "Z".
            found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
            return stamp(found if found.tzinfo else found.replace(tzinfo=timezone.utc))
        return stamp(now - timedelta(seconds=parse_duration(text)))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: write {MOMENT_LEGAL}") from None


def plain(value: Any) -> Any:
    """A fact as JSON has it: texts cut at LONGEST, what is named like a secret withheld, whatever else is odd as its text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            str(key)[:LONGEST]: WITHHELD if _SECRET.search(str(key)) and isinstance(item, (str, bytes)) else plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (set, frozenset)):
        return sorted(str(item)[:LONGEST] for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    text = str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def seal(seq: int, at: str, kind: str, facts: Mapping[str, Any], prev: str) -> bytes:
    """The line of an event, its newline included."""
    event = {"seq": seq, "at": at, "kind": kind, "facts": plain(facts), "prev": prev}
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair in somebody's name
        return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def digest(line: bytes) -> str:
    """The SHA-256 of a line's bytes, hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def read(line: bytes) -> dict[str, Any] | None:
    """The event of a line, or None where it is no line of this log."""
    try:
        event = json.loads(line.decode())  # given bytes, json guesses their encoding first
    except ValueError:
        return None
    if not isinstance(event, dict) or tuple(event) != _KEYS or not isinstance(event["facts"], dict):
        return None
    if type(event["seq"]) is not int or not all(isinstance(event[key], str) for key in ("at", "kind", "prev")):
        return None
    return event


def parse_link(text: str) -> Link:
    """``SEQ:SHA256``. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,15}):([0-9a-f]{64})", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is no place in the log: write SEQ:SHA256, such as 120:{'ab' * 32}")
    return Link(int(match[1]), match[2])


def _break(
    event: Mapping[str, Any], line: bytes, index: int, last: Link, before: str, following: bytes | None
) -> Problem:
    """Which line is to blame where ``line``, the ``index``-th, does not follow ``last``. ``before`` is what ``last`` follows."""
    seq, wanted = event["seq"], last.seq + 1
    if event["prev"] == last.sha256:
        return Problem(index, "edited", f"its number is {seq} and should be {wanted}: it was edited")
    after = read(following) if following else None
    if seq == wanted:
        if index > 1 and (after is None or after["prev"] == digest(line)):
            # The lines from here on agree with each other, so the one before is not what it was.
            return Problem(index - 1, "edited", f"line {wanted} has another SHA-256 for it: it was edited")
        return Problem(index, "edited", "it does not name the SHA-256 of the line before it: it was edited")
    if index > 1 and seq == last.seq and event["prev"] == before:
        return Problem(index - 1, "inserted", f"number {seq} is there twice, and what follows knows only the other: it was inserted")
    if seq > wanted:
        if after is not None and after["seq"] == wanted:
            return Problem(index, "reordered", f"number {seq} stands before {wanted}: the lines were reordered")
        missing = f"number {wanted} is" if seq == wanted + 1 else f"numbers {wanted} to {seq - 1} are"
        return Problem(index, "removed", f"{missing} missing before it: lines were removed")
    return Problem(index, "inserted", f"its number is {seq} and should be {wanted}: it was inserted, repeated or moved")


def verify(lines: Iterable[bytes], start: Link = START, head: Link | None = None) -> Verdict:
    """Check that ``lines``, each with its newline, are an unbroken chain after ``start`` that contains ``head``.

    Without a ``head`` that was kept elsewhere nobody can tell whether lines are missing at the end, or whether somebody who can
    write the files made the whole chain anew. Raises ValueError for a ``head`` before ``start``.
    """
    if head and head.seq < start.seq:
        raise ValueError(f"the head is number {head.seq} and the lines begin after number {start.seq}: give a later head")
    last, before, first_at, last_at = start, "", "", ""
    seen = start.sha256 if head and head.seq == start.seq else ""
    iterator: Iterator[bytes] = iter(lines)
    index = 0
    for index, line in enumerate(iterator, 1):
        problem = None
        event = read(line) if line.endswith(b"\n") else None
        if not line.endswith(b"\n"):
            problem = Problem(index, "torn", "it is cut off")
        elif event is None:
            problem = Problem(index, "edited", "it is no line of this log: it was edited")
        elif event["seq"] != last.seq + 1 or event["prev"] != last.sha256:
            problem = _break(event, line, index, last, before, next(iterator, None))
        if problem or event is None:
            return Verdict(index - 1, last, first_at, last_at, problem)
        before, last = last.sha256, Link(event["seq"], hashlib.sha256(line).hexdigest())
        first_at, last_at = first_at or event["at"], event["at"]
        if head and head.seq == last.seq:
            seen = last.sha256
            if seen != head.sha256:
                words = f"its SHA-256 is {seen}, and {head.sha256} was kept: it, or a line before it, is not the one that was written"
                return Verdict(index - 1, last, first_at, last_at, Problem(index, "edited", words))
    if head and not seen:
        words = f"the log ends at number {last.seq}, and number {head.seq} was written: lines were removed at the end"
        return Verdict(index, last, first_at, last_at, Problem(index + 1, "truncated", words))
    return Verdict(index, last, first_at, last_at)
