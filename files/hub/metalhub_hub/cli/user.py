"""``metalhub user``."""

from __future__ import annotations

from .frame import Ask, Noun, Verb
from .session import ago


def list_all(ask: Ask) -> None:
    rows = [
        {
            "name": user["name"],
            "admin": bool(user.get("admin")),
            "groups": sorted(user.get("groups", [])),
            "sessions": len(user.get("servers", {})),
            "created": user.get("created"),
            "last_activity": user.get("last_activity"),
        }
        for user in ask.hub.pages("/api/users")
    ]
    ask.table(
        rows,
        [
            ("USER", lambda row: row["name"]),
            ("ADMIN", lambda row: "yes" if row["admin"] else "no"),
            ("GROUPS", lambda row: ", ".join(row["groups"]) or "-"),
            ("SESSIONS", lambda row: row["sessions"]),
            ("ACTIVE BEFORE", lambda row: ago(row["last_activity"])),
        ],
    )


NOUN = Noun("user", "people with an account", (Verb("list", "list them", list_all),))
