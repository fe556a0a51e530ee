"""``metalhub quota``. Quotas themselves are the inventory's; what is given beyond them is given here."""

from __future__ import annotations

from typing import Any

from ..core.durations import exact_duration, parse_duration
from ..core.quotas import unit
from ..core.sizes import format_size
from .api import HubRefused, part
from .frame import Argument, Ask, Column, Noun, Stop, Usage, Verb, legal

USER = Argument("user", "whose", {"metavar": "USER"})


def amount(resource: str, number: int) -> str:
    """An amount of a resource in its unit, in words."""
    return {"bytes": format_size, "seconds": lambda n: exact_duration(n) if n else "0s"}.get(unit(resource), str)(number)


def usage_of(ask: Ask, user: str) -> dict[str, Any]:
    """What the hub says of a user's limits. Raises Stop where there is no such user."""
    try:
        return dict(ask.hub.ask("GET", "/metalhub/api/usage", user=user))
    except HubRefused as refused:
        if refused.status == 404:
            raise Stop(f"there is no user {user!r}") from None
        raise


def show(ask: Ask) -> None:
    found = usage_of(ask, ask.options.user)
    if ask.options.json:
        ask.json(found)
        return
    ask.table(
        found["limits"],
        [
            ("RESOURCE", lambda row: row["resource"] + (f"/{row['window']}" if row["window"] else "")),
            ("USED", lambda row: amount(row["resource"], row["used"])),
            ("LIMIT", lambda row: amount(row["resource"], row["limit"])),
            ("LEFT", lambda row: amount(row["resource"], row["left"])),
            ("GIVEN BEYOND", lambda row: amount(row["resource"], row["extra"]) if row["extra"] else "-"),
            ("BY", lambda row: row["source"]),
        ],
    )


OVERRIDES: list[Column] = [
    ("ID", lambda row: row["id"]),
    ("USER", lambda row: row["user"]),
    ("RESOURCE", lambda row: row["resource"]),
    ("MORE", lambda row: amount(row["resource"], row["extra"])),
    ("UNTIL", lambda row: row["until"]),
    ("BY", lambda row: row["by"]),
    ("REASON", lambda row: row["reason"]),
]


def overrides(ask: Ask) -> None:
    ask.table(ask.hub.ask("GET", "/metalhub/api/quota/overrides")["overrides"], OVERRIDES)


def override(ask: Ask) -> None:
    given = ask.options
    if (given.for_ is None) == (given.until is None):
        raise Usage("an override needs an end: give one of --for 2d and --until 2026-01-31T18:00:00+01:00")
    legal("more", parse_duration, given.more)
    end = {"until": given.until} if given.for_ is None else {"for": given.for_}
    if given.for_ is not None:
        legal("--for", parse_duration, given.for_)
    body = {"user": given.user, "resource": given.resource, "extra": given.more, "reason": given.reason, **end}
    ask.one(ask.hub.ask("POST", "/metalhub/api/quota/overrides", body), OVERRIDES)


def revoke(ask: Ask) -> None:
    number = legal("id", int, ask.options.id)
    ask.hub.ask("DELETE", f"/metalhub/api/quota/overrides/{part(str(number))}")
    ask.done({"id": number, "revoked": True}, f"ended override {number}")


NOUN = Noun(
    "quota",
    "what users may use, and what they are given beyond it",
    (
        Verb("show", "show a user's limits, and what is used of them", show, (USER,)),
        Verb("overrides", "list what is given beyond the inventory's quotas now", overrides),
        Verb(
            "override",
            "give a user more of a metered resource, until an end, for a reason",
            override,
            (
                USER,
                Argument("resource", "cpu, gpu, or gpu- and a model or a MIG profile", {"metavar": "RESOURCE"}),
                Argument("more", "how much more in each period, such as 8h", {"metavar": "MORE"}),
                Argument("--for", "for how long, such as 2d", {"metavar": "TIME", "dest": "for_"}),
                Argument("--until", "or until when, with its zone: 2026-01-31T18:00:00+01:00", {"metavar": "TIME"}),
                Argument("--reason", "why, for the audit log", {"metavar": "TEXT", "required": True}),
            ),
        ),
        Verb("revoke", "end an override now", revoke, (Argument("id", "its number", {"metavar": "ID"}),)),
    ),
)
