"""Who asked for what is being done: known from the request's beginning to the end of what it set off."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

HUB = "hub"
# The name under which the hub knows the command line.
CLI = "metalhub-cli"

# Nobody asked for these ends of a session, even where somebody's request is what watches over it since.
UNASKED = frozenset(
    ("idle", "max_session", "quota", "lost", "drain", "removed", "memory", "exited", "failed", "rejected", "orphan")
)


@dataclass
class Request:
    """``actor`` is ``user:<name>``, ``service:<name>`` or ``anonymous``; it changes when somebody logs in."""

    actor: str
    address: str
    operator: str = ""  # who sits at the command line, by its own account


request: ContextVar[Request | None] = ContextVar("request", default=None)


def facts(cause: str = "") -> dict[str, str]:
    """Who is behind an event with this cause, as facts of it."""
    now = request.get()
    if now is None or cause in UNASKED:
        return {"actor": HUB}
    return {"actor": now.actor, **({"operator": now.operator} if now.operator else {})}


def other_than(user: str) -> bool:
    """Whether somebody asks for this who is not ``user``."""
    now = request.get()
    return now is not None and now.actor != f"user:{user}"
