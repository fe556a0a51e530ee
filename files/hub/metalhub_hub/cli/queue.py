"""``metalhub queue``."""

from __future__ import annotations

from ..core.durations import format_duration
from ..core.start_queue import about
from .frame import Ask, Noun, Verb


def list_all(ask: Ask) -> None:
    ask.table(
        ask.hub.ask("GET", "/metalhub/api/queue")["queue"],
        [
            ("SESSION", lambda row: row["user"] + (f"/{row['name']}" if row["name"] else "")),
            ("PROFILE", lambda row: row["profile"]),
            ("POOL", lambda row: row["pool"]),
            ("WAITS FOR", lambda row: format_duration(row["waited"], 1)),
            ("SESSIONS NOW", lambda row: row["sessions"]),
            ("PRIORITY", lambda row: row["priority"]),
            ("TURN IN ABOUT", lambda row: "-" if row["estimate"] is None else about(row["estimate"])),
        ],
    )


NOUN = Noun("queue", "the starts that wait for a place", (Verb("list", "list them, the next one first", list_all),))
