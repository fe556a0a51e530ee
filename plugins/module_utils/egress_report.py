"""What sessions were refused, counted, with the line for the inventory that would allow each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .egress_terms import canonical_name, read_address

# Refusals that no line of the inventory can mend: what is wrong is how the connection was made, or it leads inside.
_NO_LINE = frozenset(
    [
        "denied", "private address", "encrypted client hello", "SNI is not the CONNECT host", "not TLS", "CONNECT to port 80",
        "HTTP/2 without TLS", "not a host name", "no host", "unknown class", "the address is not one of the name",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A destination that a user's sessions of a class were refused: how often, when last, why last, and the line to paste.

    ``allow_line`` is empty where nothing in ``allow`` would help, and says the variable and the entry otherwise.
    """

    user: str
    klass: str
    destination: str
    port: int
    protocol: str
    count: int
    last: str
    reason: str
    allow_line: str


def _number(value: object, otherwise: int) -> int:
    try:
        return int(str(value))
    except ValueError:
        return otherwise


def entry_for(destination: str, port: int, protocol: str = "tcp", via: str = "") -> str:
    """The entry of ``allow`` for a destination; empty for what can be none, such as IPv6. Port 0 is a name that was only asked for."""
    if read_address(destination) is not None:
        place, usual = destination, False
    else:
        try:
            place = canonical_name(destination) if destination.isascii() else ""
        except ValueError:
            place = ""
        usual = via == "dns" or port == 0
    if not place or protocol not in ("tcp", "udp") or not (usual or 1 <= port <= 65535):
        return ""
    return place if usual else f"{place}:{port}{'/udp' if protocol == 'udp' else ''}"


def summarize(lines: Iterable[Mapping[str, object]], *, since: str | None = None, top: int = 50) -> list[Row]:
    """The refusals that count most, the most frequent first; at the same number by class, destination, port and user.

    Each line is a refusal: ``time`` (ISO 8601 in UTC), ``user``, ``class``, ``destination``, ``port``, ``protocol``, ``via``, ``reason``
    and ``count`` (1 without it). ``since`` is a time of the same form; older lines are left out, and so are those without a destination.
    """
    counts: dict[tuple[str, str, str, int, str], int] = {}
    newest: dict[tuple[str, str, str, int, str], tuple[str, str, str]] = {}
    for line in lines:
        time, destination = str(line.get("time") or ""), str(line.get("destination") or "").lower()
        if not destination or (since is not None and time < since):
            continue
        user, klass = str(line.get("user") or ""), str(line.get("class") or "")
        via, protocol = str(line.get("via") or ""), str(line.get("protocol") or "tcp")
        key = (user, klass, destination, 0 if via == "dns" else _number(line.get("port"), 0), "" if via == "dns" else protocol)
        counts[key] = counts.get(key, 0) + max(_number(line.get("count"), 1), 1)
        newest[key] = max(newest.get(key, ("", "", "")), (time, str(line.get("reason") or ""), via))
    ordered = sorted(counts, key=lambda key: (-counts[key], key[1], key[2], key[3], key[0], key[4]))
    rows = []
    for key in ordered[: max(top, 0)]:
        user, klass, destination, port, protocol = key
        last, reason, via = newest[key]
        entry = "" if reason in _NO_LINE or not klass else entry_for(destination, port, protocol or "tcp", via)
        variable = f"metalhub_egress_{klass}" if klass in ("internal", "packages") else f"metalhub_egress_classes.{klass}.allow"
        allow_line = f"{variable}: {entry}" if entry else ""
        rows.append(Row(user, klass, destination, port, protocol, counts[key], last, reason, allow_line))
    return rows
