"""Which events of the audit log somebody asks for. Pure: the log's lines are handed in.

Most lines are not asked for, so ``may`` looks at a line's bytes alone, and only what passes it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from . import audit_chain

# Events stand in the order in which they were written. Their times do too, unless somebody set the clock back; by more is not looked for.
SLACK = timedelta(days=1)
_AT = b',"at":"'
_LENGTH = len("2026-01-31T13:00:00.123Z")


@dataclass(frozen=True)
class Query:
    """Empty texts ask for everything.

    ``since`` and ``until`` (not included) are times as the log writes them. ``kind`` is how a kind begins. ``user`` is who did it or to
    whom it was done, ``actor`` who did it: ``user:ann``, ``service:x``, ``hub``, ``anonymous``, a name alone, or the command line's
    operator.
    """

    since: str = ""
    until: str = ""
    kind: str = ""
    user: str = ""
    cause: str = ""
    actor: str = ""

    def may(self, line: bytes) -> bool:
        """Whether a line may be asked for. False is certain, True is not."""
        at = at_of(line)
        if at and not self._in_time(at):
            return False
        return all(part in line for part in self.parts)

    def fits(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is asked for."""
        facts = event["facts"]
        if not self._in_time(str(event["at"])) or not str(event["kind"]).startswith(self.kind):
            return False
        actor = str(facts.get("actor", ""))
        if self.user and self.user not in (facts.get("user"), actor.removeprefix("user:")):
            return False
        if self.cause and facts.get("cause") != self.cause:
            return False
        return not self.actor or self.actor in (actor, actor.partition(":")[2], facts.get("operator"))

    def _in_time(self, at: str) -> bool:
        return self.since <= at and (not self.until or at < self.until)

    def before(self, at: str) -> bool:
        """Whether nothing that was written before an event at this time can be asked for."""
        return bool(at) and at < self._earliest

    def after(self, at: str) -> bool:
        """Whether nothing that was written after an event at this time can be asked for."""
        return at >= self._latest

    @cached_property
    def _earliest(self) -> str:
        return _shifted(self.since, -SLACK) if self.since else ""

    @cached_property
    def _latest(self) -> str:
        return _shifted(self.until, SLACK) if self.until else "~"

    @cached_property
    def parts(self) -> tuple[bytes, ...]:
        """Bytes that are in each line that is asked for. Of texts beyond ASCII none: the log writes them in more ways than one."""
        # The ends of texts: "user:ann" and "ann" have the same.
        ends = [json.dumps(part)[1:] for part in (self.user, self.cause, self.actor) if part and part.isascii()]
        kind = [f',"kind":{json.dumps(self.kind)[:-1]}'] if self.kind and self.kind.isascii() else []
        return tuple(part.encode() for part in (*ends, *kind))


def at_of(line: bytes) -> str:
    """The time of a line by its place alone; empty where it is not at its place."""
    begin = line.find(_AT, 0, 40)
    return line[begin + len(_AT) : begin + len(_AT) + _LENGTH].decode("ascii", "replace") if begin > 0 else ""


def _shifted(at: str, by: timedelta) -> str:
    return audit_chain.stamp(datetime.fromisoformat(at.replace("Z", "+00:00")) + by)
