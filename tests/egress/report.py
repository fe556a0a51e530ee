"""The suite's results as a table for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cases.table import EVERYWHERE

if TYPE_CHECKING:
    from .suite import Outcome


def rows(results: Mapping[str, Sequence[Outcome]]) -> list[dict[str, object]]:
    """A row a family with, for each sandbox, leaks off and on; those that the documentation states are counted apart."""
    families: dict[str, dict[str, object]] = {}
    for sandbox, outcomes in results.items():
        for outcome in outcomes:
            row = families.setdefault(outcome.case.family, {"family": outcome.case.family, "cases": 0, "unshown": 0, "stated": 0})
            if sandbox == next(iter(results)):
                row["cases"] = int(str(row["cases"])) + 1
                row["unshown"] = int(str(row["unshown"])) + bool(outcome.case.unshown.get(EVERYWHERE))
                row["stated"] = int(str(row["stated"])) + bool(outcome.case.limit)
            for mode, leak in outcome.leaks.items():
                key = f"{sandbox} {mode}"
                counts = bool(leak) and not (mode == "on" and outcome.case.limit)
                row[key] = int(str(row.get(key, 0))) + counts
    return list(families.values())


def table(results: Mapping[str, Sequence[Outcome]]) -> str:
    """Markdown: family, cases, leaks off and on."""
    found = rows(results)
    columns = list(dict.fromkeys(key for row in found for key in row))
    totals: dict[str, object] = {c: sum(int(str(row.get(c, 0))) for row in found) for c in columns if c != "family"}
    titles = [c if c in ("family", "cases") else {"unshown": "cannot be shown", "stated": "stated limits"}.get(c, f"leaks, {c}") for c in columns]
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    for row in [*found, {"family": "**all**", **totals}]:
        lines.append("| " + " | ".join(str(row.get(c, 0)) for c in columns) + " |")
    return "\n".join(lines)


def _reasons(results: Mapping[str, Sequence[Outcome]]) -> list[str]:
    outcomes = next(iter(results.values()))
    lines = ["", "Cases that cannot be shown to leak without the control, and limits that the control has:", ""]
    for outcome in outcomes:
        case = outcome.case
        for sandbox, reason in case.unshown.items():
            lines.append(f"- {case.family}, {case.name}{'' if sandbox == EVERYWHERE else f' ({sandbox})'}: {reason}.")
        if case.limit:
            lines.append(f"- {case.family}, {case.name}: not stopped, {case.limit}.")
    return lines


def write(results: Mapping[str, Sequence[Outcome]], directory: Path, name: str = "attacks") -> None:
    """Write NAME.json and NAME.md."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        {"sandbox": sandbox, "family": o.case.family, "name": o.case.name, "leaks": o.leaks, "said": o.said, "unshown": dict(o.case.unshown), "limit": o.case.limit}
        for sandbox, outcomes in results.items()
        for o in outcomes
    ]
    (directory / f"{name}.json").write_text(json.dumps({"families": rows(results), "cases": lines}, indent=1) + "\n", encoding="utf-8")
    (directory / f"{name}.md").write_text(table(results) + "\n" + "\n".join(_reasons(results)) + "\n", encoding="utf-8")
