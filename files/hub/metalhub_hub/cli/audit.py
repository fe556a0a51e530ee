"""``metalhub audit``: reads the log's files, so it works while the hub is down."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import audit
from ..core import audit_chain
from ..core.audit_query import Query
from .api import HubAway, document
from .frame import Argument, Ask, Noun, Stop, Usage, Verb, legal

DIRECTORY = Argument("--directory", "where the log's files are, if not where the hub writes them", {"metavar": "DIR"})


def _files(ask: Ask) -> tuple[Path, list[Path]]:
    directory = Path(ask.options.directory or str(document().get("state", "/var/lib/metalhub/hub")))
    try:
        files = audit.segments(directory)
    except OSError as error:
        raise HubAway(f"{directory} cannot be read: {error.strerror}") from None
    if not files:
        raise Stop(f"there is no audit log in {directory}")
    return directory, files


def _place(files: list[Path], index: int) -> tuple[Path, int]:
    """The file and line of the ``index``-th line of all, which may be the one after the last."""
    for path in files:
        with path.open("rb") as file:
            count = sum(1 for _ in file)
        if index <= count or path == files[-1]:
            return path, index
        index -= count
    raise AssertionError("there is at least one file")


def verify(ask: Ask) -> int:
    options = ask.options
    start = legal("--anchor", audit_chain.parse_link, options.anchor) if options.anchor else audit_chain.START
    wanted = legal("--head", audit_chain.parse_link, options.head) if options.head else None
    if wanted and wanted.seq < start.seq:
        raise Usage(f"--head: number {wanted.seq} is before --anchor, number {start.seq}")
    directory, files = _files(ask)
    # The kept head first: lines that come meanwhile are no mistake.
    head = wanted or audit.kept_head(directory)
    verdict = audit_chain.verify(audit.lines(files), start, head)
    if verdict.problem and verdict.problem.what == "torn":
        # The hub may just be writing its last line.
        time.sleep(0.3)
        files = audit.segments(directory)
        verdict = audit_chain.verify(audit.lines(files), start, head)
    found: dict[str, Any] = {
        "good": verdict.problem is None,
        "lines": verdict.lines,
        "from": verdict.first_at,
        "to": verdict.last_at,
        "head": f"{verdict.last.seq}:{verdict.last.sha256}",
        "compared": "given" if wanted else "kept" if head else "none",
    }
    problem = verdict.problem
    if problem:
        path, line = _place(files, problem.index)
        found["problem"] = {"file": str(path), "line": line, "what": problem.what, "words": problem.words}
    if options.json:
        ask.json(found)
    elif problem:
        print(f"{path}:{line}: {problem.words}", file=sys.stderr)
    else:
        print(f"good: {verdict.lines} lines from {verdict.first_at or '-'} to {verdict.last_at or '-'}")
        print(f"head {found['head']}" + ("" if head else " (nothing to compare it with)"))
    return 1 if problem else 0


def export(ask: Ask) -> int:
    options, now = ask.options, datetime.now(timezone.utc)

    def moment(text: str) -> str:
        return audit_chain.moment(text, now)

    since = legal("--since", moment, options.since) if options.since else ""
    until = legal("--until", moment, options.until) if options.until else ""
    if until and since > until:
        raise Usage(f"--until: {options.until!r} is before --since {options.since!r}")
    query = Query(since, until, options.kind, options.user or "")
    _, files = _files(ask)
    odd = 0
    for line in audit.lines(files):
        event = audit_chain.read(line)
        odd += event is None
        if event is not None and query.fits(event):
            sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    if odd:
        raise Stop(f"{odd} lines are no events and were left out: run metalhub audit verify")
    return 0


NOUN = Noun(
    "audit",
    "who did what",
    (
        Verb(
            "export",
            "print events as they stand in the log, one JSON object a line",
            export,
            (
                Argument("--since", f"from then on: {audit_chain.MOMENT_LEGAL}", {"metavar": "TIME"}),
                Argument("--until", "before then", {"metavar": "TIME"}),
                Argument("--kind", "only kinds that begin so, such as login or session.stopped", {"metavar": "KIND", "default": ""}),
                Argument("--user", "only what this user did, or what was done to them", {"metavar": "USER"}),
                DIRECTORY,
            ),
            json=False,
        ),
        Verb(
            "verify",
            "check the chain, and name the first line that is not as it was written",
            verify,
            (
                Argument("--head", "a head that was kept elsewhere: SEQ:SHA256 as this command prints it", {"metavar": "HEAD"}),
                Argument("--anchor", "where older files were archived: SEQ:SHA256 of their last line", {"metavar": "ANCHOR"}),
                DIRECTORY,
            ),
        ),
    ),
)
