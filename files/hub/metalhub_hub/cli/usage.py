"""``metalhub usage``."""

from __future__ import annotations

from .frame import Argument, Ask, Noun, Verb


def show(ask: Ask) -> None:
    month = {} if ask.options.month is None else {"month": ask.options.month}
    found = ask.hub.ask("GET", "/metalhub/api/usage/report", **month)
    if ask.options.json:
        ask.json(found)
        return
    kinds = ("user", "group", "profile") if ask.options.by is None else (ask.options.by,)
    rows = [{**row, "kind": kind} for kind in kinds for row in found[f"{kind}s"]]
    ask.table(
        [*rows, {**found["total"], "kind": "all"}],
        [
            ("KIND", lambda row: row["kind"]),
            ("NAME", lambda row: row["name"] or "-"),
            *((f"{name.upper()} HOURS", lambda row, name=name: f"{row['hours'].get(name, 0.0):.1f}") for name in found["resources"]),
            (f"COST {found['currency']}".strip(), lambda row: f"{row['cost']:.2f}"),
        ],
    )


NOUN = Noun(
    "usage",
    "what was used in a month, in hours and in money",
    (
        Verb(
            "show",
            "show it by user, group and profile",
            show,
            (
                Argument("--month", "which, such as 2026-01, if not this one", {"metavar": "MONTH"}),
                Argument("--by", "only by user, group or profile", {"choices": ("user", "group", "profile")}),
            ),
        ),
    ),
)
