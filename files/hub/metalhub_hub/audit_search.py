"""Events of the audit log, the newest first, found from its end on without reading what comes before. Slow with long logs: for a thread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import audit
from .core import audit_chain
from .core.audit_query import Query, at_of

BLOCK = 2**18
# One search reads at most so much; what is further back has a cursor.
READ_AT_MOST = 2**26
_CURSOR = re.compile(r"(\d{1,15})-(\d{1,15})", re.ASCII)


@dataclass(frozen=True)
class Found:
    """Events, the newest first. ``cursor`` goes on after them, empty at the log's begin; ``odd`` counts lines that are no events.

    ``looked``: the time of the last line that was looked at, where there may be more.
    """

    events: tuple[dict[str, Any], ...]
    cursor: str
    odd: int
    looked: str = ""


@dataclass(frozen=True)
class _Block:
    """Whole lines, and their place: the number of their file's first line, and where in that file they begin."""

    first: int
    begin: int
    data: bytes

    def cursor(self, offset: int = 0) -> str:
        """What goes on before the line that begins at ``offset`` of these."""
        return f"{self.first}-{self.begin + offset}"


def search(directory: Path, query: Query, limit: int, cursor: str = "", most: int = READ_AT_MOST) -> Found:
    """At most ``limit`` events, after those before ``cursor``. Raises OSError, and ValueError for a cursor that is none."""
    events: list[dict[str, Any]] = []
    odd = read = 0
    for block in _backwards(directory, cursor, query):
        first_at = at_of(block.data[:100])
        if query.after(first_at):
            continue
        for offset, line in _candidates(block.data, query.parts):
            at = at_of(line)
            if query.before(at):
                return Found(tuple(events), "", odd)
            if not query.may(line):
                continue
            event = audit_chain.read(line)
            odd += event is None
            if event is not None and query.fits(event):
                events.append(event)
                if len(events) == limit:
                    return Found(tuple(events), block.cursor(offset), odd, at)
        read += len(block.data)
        if query.before(first_at):
            break
        if read > most:
            return Found(tuple(events), block.cursor(), odd, first_at)
    return Found(tuple(events), "", odd)


def _candidates(data: bytes, parts: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
    """The lines that may have all parts, the last one first, each with where it begins. The longest part is the rarest, as a rule."""
    end = len(data)
    if not parts:
        for line in reversed(data.split(b"\n")[:-1]):
            end -= len(line) + 1
            yield end, line + b"\n"
        return
    part = max(parts, key=len)
    while (hit := data.rfind(part, 0, end)) >= 0:
        begin = data.rfind(b"\n", 0, hit) + 1
        yield begin, data[begin : data.index(b"\n", hit) + 1]
        end = begin


def lines(directory: Path, query: Query) -> Iterator[bytes]:
    """The lines of a query as they stand in the log, the oldest first. Raises OSError."""
    for line in audit.lines(_files(directory, query)):
        if query.after(at_of(line)):
            return
        if query.may(line) and (event := audit_chain.read(line)) and query.fits(event):
            yield line


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


def _files(directory: Path, query: Query) -> list[Path]:
    """The files that may hold something of a query: not those after which another one begins too early."""
    found = audit.segments(directory)
    begins = [at_of(_first_line(path)) for path in found]
    skip = sum(1 for at in begins[1:] if query.before(at))
    return found[skip:]


def _backwards(directory: Path, cursor: str, query: Query) -> Iterator[_Block]:
    """Lines from the end on, or from a cursor on. A file that the hub renames meanwhile is the same one under its first line's number."""
    match = _CURSOR.fullmatch(cursor) if cursor else None
    if cursor and match is None:
        raise ValueError(f"cursor: {cursor[:40]!r} is not legal: give one of an answer")
    at_file, at_byte = (int(match[1]), int(match[2])) if match else (-1, -1)
    for path in reversed(audit.segments(directory)):
        line = _first_line(path)
        event = audit_chain.read(line)
        first = int(event["seq"]) if event else int(re.sub(r"\D", "", path.stem) or 0)
        if query.after(at_of(line)) or (match and first > at_file):
            continue
        for begin, data in _from_the_end(path, at_byte if match and first == at_file else -1):
            yield _Block(first, begin, data)


def _from_the_end(path: Path, end: int) -> Iterator[tuple[int, bytes]]:
    """A file's whole lines before byte ``end`` (-1: its end), some at a time, the last ones first, with where they begin."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = size if end < 0 else min(end, size)
        data = b""  # from ``start`` on, and not told yet
        while start > 0:
            begin = max(0, start - BLOCK)
            file.seek(begin)
            data = file.read(start - begin) + data
            start = begin
            # What comes after the last newline is a line that is just being written.
            data = data[: data.rfind(b"\n") + 1]
            # The first line may have begun before.
            whole = data.find(b"\n") + 1 if start else 0
            if whole < len(data):
                yield start + whole, data[whole:]
            data = data[:whole]
