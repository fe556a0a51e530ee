"""``metalhub node``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from ..core.durations import parse_duration
from ..core.sizes import format_size
from .api import part
from .frame import Argument, Ask, Column, Noun, Stop, Verb, legal

# What the hub and Swarm may take after a node's time is over.
WAIT_BEYOND = 120.0
NODE = Argument("node", "its host name", {"metavar": "NODE"})


def _availability(row: Mapping[str, Any]) -> str:
    drain = row.get("drain")
    if not drain:
        return str(row["availability"])
    return f"{row['availability']} by {drain['by']}" + ("" if drain["done"] else f", drained at {drain['until']}")


COLUMNS: list[Column] = [
    ("NODE", lambda row: row["name"]),
    ("POOL", lambda row: row["pool"] or "-"),
    ("STATE", lambda row: row["state"]),
    ("AVAILABILITY", _availability),
    ("SESSIONS", lambda row: row["sessions"]),
    ("FREE CPUS", lambda row: f"{row['cpus']['free']:g} of {row['cpus']['total']:g}"),
    ("FREE MEMORY", lambda row: f"{format_size(row['memory']['free'])} of {format_size(row['memory']['total'])}"),
    ("FREE GPUS", lambda row: ", ".join(f"{kind} {n['free']} of {n['total']}" for kind, n in row["gpus"].items()) or "-"),
]


def _rows(ask: Ask) -> list[dict[str, Any]]:
    return list(ask.hub.ask("GET", "/metalhub/api/nodes")["nodes"])


def list_all(ask: Ask) -> None:
    ask.table(_rows(ask), COLUMNS)


def drain(ask: Ask) -> None:
    given = ask.options
    body = {"reason": given.reason}
    grace = 0
    if given.grace is not None:
        grace = legal("--grace", parse_duration, given.grace)
        body["grace"] = given.grace
    row = ask.hub.ask("POST", f"/metalhub/api/nodes/{part(given.node)}/drain", body)
    if given.wait:
        # Without --grace the hub's own notice is waited for, which only the hub knows.
        row = _empty(ask, row, grace + WAIT_BEYOND if given.grace is not None else None)
    if given.json:
        ask.json(row)
    elif row["availability"] == "drain" and not row["sessions"]:
        print(f"{row['name']} is drained")
    else:
        print(f"{row['name']} takes no new sessions; its {row['sessions']} sessions are told, and end at {row['drain']['until']}")


def _empty(ask: Ask, row: dict[str, Any], within: float | None) -> dict[str, Any]:
    """The node's row once it is drained and has no session any more."""
    begun = time.monotonic()
    while row["availability"] != "drain" or row["sessions"]:
        if within is not None and time.monotonic() - begun > within:
            raise Stop(f"{row['name']} has {row['sessions']} sessions still and is {row['availability']}")
        if not row.get("drain"):
            raise Stop(f"{row['name']} is not being drained any more: somebody undrained it")
        time.sleep(1)
        row = next((each for each in _rows(ask) if each["name"] == row["name"]), row)
    return row


def undrain(ask: Ask) -> None:
    row = ask.hub.ask("POST", f"/metalhub/api/nodes/{part(ask.options.node)}/undrain", {})
    ask.done(row, f"{row['name']} takes sessions again")
    if row["state"] != "ready":
        print(f"{ask.options.prog}: it is {row['state']} right now", file=sys.stderr)


NOUN = Noun(
    "node",
    "the machines of the cluster",
    (
        Verb("list", "list them, with what is free on each", list_all),
        Verb(
            "drain",
            "take one out of service: no new sessions at once; those that run are told, and end after a while",
            drain,
            (
                NODE,
                Argument("--grace", "how long until they end, such as 30m, if not as long as any stop is announced", {"metavar": "TIME"}),
                Argument("--reason", "why, for its users and the audit log", {"metavar": "TEXT", "default": ""}),
                Argument("--wait", "return when the node is empty", {"action": "store_true"}),
            ),
        ),
        Verb("undrain", "let it take sessions again", undrain, (NODE,)),
    ),
)
