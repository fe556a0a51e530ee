"""``metalhub snapshot``: of homes, on the storage host."""

from __future__ import annotations

from typing import Any

from ..core.sizes import format_size
from .api import HubRefused, part
from .frame import Argument, Ask, Column, Noun, Stop, Verb

USER = Argument("user", "whose home", {"metavar": "USER"})
COLUMNS: list[Column] = [
    ("SNAPSHOT", lambda row: row["name"]),
    ("TAKEN", lambda row: row["time"]),
    ("SIZE", lambda row: row["size"]),
    ("ITS OWN", lambda row: format_size(row["own_bytes"])),
    ("CAUSE", lambda row: row["cause"]),
]


def _ask(ask: Ask, method: str, below: str = "") -> dict[str, Any]:
    user = ask.options.user
    body = None if method == "GET" else {}
    try:
        return dict(ask.hub.ask(method, f"/metalhub/api/users/{part(user)}/snapshots{below}", body))
    except HubRefused as refused:
        if refused.status == 404 and "such user" in str(refused):
            raise Stop(f"there is no user {user!r}") from None
        raise


def list_all(ask: Ask) -> None:
    found = _ask(ask, "GET")
    if not found["offered"] and not found["snapshots"] and not ask.options.json:
        raise Stop(found["reason"])
    ask.table(found["snapshots"], COLUMNS)


def take(ask: Ask) -> None:
    ask.one(_ask(ask, "POST"), COLUMNS)


def restore(ask: Ask) -> None:
    done = _ask(ask, "POST", f"/{part(ask.options.snapshot)}/restore")
    ask.done(done, f"restored {done['restored']}; what was there until now is {done['before']}")


NOUN = Noun(
    "snapshot",
    "snapshots of homes",
    (
        Verb("list", "list a user's, the newest first", list_all, (USER,)),
        Verb("take", "take one of a user's home as it is now", take, (USER,)),
        Verb(
            "restore",
            "make a home what it was; what it is now becomes a snapshot; only while no session of the user runs",
            restore,
            (USER, Argument("snapshot", "its name, as list shows it", {"metavar": "SNAPSHOT"})),
        ),
    ),
)
