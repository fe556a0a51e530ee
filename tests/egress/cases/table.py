"""What a case is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EVERYWHERE = "*"


@dataclass(frozen=True)
class Case:
    """One attack: a method of the attacker with arguments, in which `{attacker}` and other words of suite.py stand for addresses.

    `where`: "inside" runs in the sandbox, "netns" as root of the host in the session's network namespace, "poison" too, after all others.
    `sign`: what of the answer is a leak beside the servers' log and secret: "connected", "address" (a private one), or "text:…".
    `unshown`: sandbox (or `*`) → why it cannot be shown to leak with the control off. `limit`: why the control does not stop it.
    """

    family: str
    name: str
    method: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    klass: str = "listed"
    where: str = "inside"
    sign: str = ""
    unshown: Mapping[str, str] = field(default_factory=dict)
    limit: str = ""


def case(family: str, name: str, method: str, /, *, klass: str = "listed", where: str = "inside", sign: str = "", unshown: str | Mapping[str, str] = "",
         limit: str = "", **arguments: object) -> Case:  # fmt: skip
    """Write a case in one line of a table."""
    reasons = {EVERYWHERE: unshown} if isinstance(unshown, str) and unshown else dict(unshown or {})  # type: ignore[arg-type]
    return Case(family, name, method, arguments, klass, where, sign, reasons, limit)
