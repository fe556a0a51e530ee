"""``metalhub node``."""

from __future__ import annotations

from ..core.sizes import format_size
from .frame import Ask, Noun, Verb


def list_all(ask: Ask) -> None:
    ask.table(
        ask.hub.ask("GET", "/metalhub/api/nodes")["nodes"],
        [
            ("NODE", lambda row: row["name"]),
            ("POOL", lambda row: row["pool"] or "-"),
            ("STATE", lambda row: row["state"]),
            ("AVAILABILITY", lambda row: row["availability"]),
            ("SESSIONS", lambda row: row["sessions"]),
            ("FREE CPUS", lambda row: f"{row['cpus']['free']:g} of {row['cpus']['total']:g}"),
            ("FREE MEMORY", lambda row: f"{format_size(row['memory']['free'])} of {format_size(row['memory']['total'])}"),
            ("FREE GPUS", lambda row: ", ".join(f"{kind} {n['free']} of {n['total']}" for kind, n in row["gpus"].items()) or "-"),
        ],
    )


NOUN = Noun("node", "the machines of the cluster", (Verb("list", "list them, with what is free on each", list_all),))
