"""``metalhub usage``."""

from __future__ import annotations

from .frame import Argument, Ask, Noun, Verb


def show(ask: Ask) -> None:
    query = {name: value for name in ("month", "user", "group", "profile") if (value := getattr(ask.options, name)) is not None}
    found = ask.hub.ask("GET", "/metalhub/api/usage/report", **query)
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
                Argument("--user", "only this user's", {"metavar": "USER"}),
                Argument("--group", "only what counts for this group", {"metavar": "GROUP"}),
                Argument("--profile", "only of this profile", {"metavar": "PROFILE"}),
                Argument("--by", "only by user, group or profile", {"choices": ("user", "group", "profile")}),
            ),
        ),
    ),
)
