"""What sessions were refused, counted, with the line for the inventory that would allow each."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .egress_decide import Reason
from .egress_terms import NEVER, canonical_name, read_address, span_of

# Refusals that no line of the inventory can mend: what is wrong is how the connection was made, or it leads inside.
_NO_LINE = frozenset(
    [
        "denied", "private address", "encrypted client hello", "SNI is not the CONNECT host", "not TLS", "CONNECT to port 80",
        "HTTP/2 without TLS", "not a host name", "no host", "unknown class", "the address is not one of the name",
    ]
)  # fmt: skip


_SENTENCES = {reason.value: reason.sentence for reason in Reason} | {
    "not a request that the proxy understands": "This is no request that the proxy understands.",
}
_ONLY_ADDRESSES = "The resolver gives addresses of names, and no records of this kind."
# What programs ask for on the way to an address. Whatever else they ask the resolver, it answers for no name at all.
_ADDRESS_KINDS = ("", "A", "AAAA", "HTTPS", "SVCB", "TCP", "UDP")
_NEVER = tuple(map(span_of, NEVER))
_NEVER_OPEN = "No class may reach this address: it is of the machine itself or of its own network."


@dataclass(frozen=True)
class Row:
    """A destination that a user's sessions of a class were refused: how often, when last, why last, on which nodes, and the line to paste.

    ``sentence`` is the reason for people. ``allow_line`` is an item of the list that its comment names, and empty where nothing in the
    inventory would help. ``port`` 0 is a name that was only asked for; ``protocol`` is then the kind of record, if it is an unusual one.
    """

    user: str
    klass: str
    destination: str
    port: int
    protocol: str
    count: int
    last: str
    reason: str
    sentence: str
    allow_line: str
    nodes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The destination with its port and protocol, as people write it."""
        if self.port:
            return f"{self.destination}:{self.port}{'' if self.protocol == 'tcp' else f'/{self.protocol}'}"
        return f"{self.destination} ({self.protocol or 'name'})"


def _number(value: object, otherwise: int) -> int:
    try:
        return int(str(value))
    except ValueError:
        return otherwise


def _is_never(destination: str) -> bool:
    address = read_address(destination)
    return address is not None and any(low <= address <= high for low, high in _NEVER)


def entry_for(destination: str, port: int, protocol: str = "tcp", via: str = "") -> str:
    """The entry of ``allow`` for a destination; empty for what can be none, such as IPv6. Port 0 is a name that was only asked for."""
    if read_address(destination) is not None:
        place, usual = "" if _is_never(destination) else destination, False
    else:
        try:
            place = canonical_name(destination) if destination.isascii() else ""
        except ValueError:
            place = ""
        usual = via == "dns" or port == 0
    if not place or protocol not in ("tcp", "udp") or not (usual or 1 <= port <= 65535):
        return ""
    return place if usual else f"{place}:{port}{'/udp' if protocol == 'udp' else ''}"


@functools.lru_cache(maxsize=4096)
def _words(klass: str, destination: str, port: int, protocol: str, via: str, reason: str) -> tuple[str, str]:
    """The sentence, and the line to paste."""
    if via == "dns" and protocol:
        return _ONLY_ADDRESSES, ""
    if _is_never(destination):
        return _NEVER_OPEN, ""
    entry = "" if reason in _NO_LINE or not klass else entry_for(destination, port, protocol or "tcp", via)
    variable = f"metalhub_egress_{klass}" if klass in ("internal", "packages") else f"metalhub_egress_classes.{klass}.allow"
    return _SENTENCES.get(reason) or f"{reason[:1].upper()}{reason[1:]}.", f"- {entry}  # {variable}" if entry else ""


def _rows(lines: Iterable[Mapping[str, object]], since: str | None) -> Iterator[Row]:
    for line in lines:
        time, destination = str(line.get("time") or ""), str(line.get("destination") or "").lower()
        if not destination or (since is not None and time < since) or line.get("verdict") == "allowed":
            continue
        user, klass, node = str(line.get("user") or ""), str(line.get("class") or ""), str(line.get("node") or "")
        via, protocol, port = str(line.get("via") or ""), str(line.get("protocol") or "tcp"), _number(line.get("port"), 0)
        if via == "dns":
            port, protocol = 0, "" if protocol.upper() in _ADDRESS_KINDS else protocol.upper()
        reason, count = str(line.get("reason") or ""), max(_number(line.get("count"), 1), 1)
        words = _words(klass, destination, port, protocol, via, reason)
        yield Row(user, klass, destination, port, protocol, count, time, reason, *words, (node,) if node else ())


def merge(rows: Iterable[Row], *, top: int | None = None) -> list[Row]:
    """One row for each user, class and place, such as of the rows of several nodes; in the order of ``summarize``."""
    found: dict[tuple[str, str, str, int, str], Row] = {}
    for row in rows:
        key = (row.user, row.klass, row.destination, row.port, row.protocol)
        other = found.get(key)
        if other is not None:
            newest = max(row, other, key=lambda one: (one.last, one.reason, one.sentence, one.allow_line))
            nodes = row.nodes if row.nodes == other.nodes else tuple(sorted({*row.nodes, *other.nodes}))
            row = replace(newest, count=row.count + other.count, nodes=nodes)
        found[key] = row
    ordered = sorted(found.values(), key=lambda row: (-row.count, row.klass, row.destination, row.port, row.user, row.protocol))
    return ordered if top is None else ordered[: max(top, 0)]


def summarize(lines: Iterable[Mapping[str, object]], *, since: str | None = None, top: int | None = 50) -> list[Row]:
    """The refusals that count most, the most frequent first; at the same number by class, destination, port and user.

    Each line is a refusal: ``time`` (ISO 8601 in UTC), ``user``, ``class``, ``destination``, ``port``, ``protocol``, ``via``, ``reason``,
    ``node`` and ``count`` (1 without it). ``since`` is a time of the same form. Older lines are left out, those without a destination, and
    those whose ``verdict`` is ``allowed``, which classes have that log all. Without ``top`` it is all rows.
    """
    return merge(_rows(lines, since), top=top)


def plain(row: Row) -> dict[str, object]:
    """A row as JSON has it."""
    found: dict[str, object] = {("class" if key == "klass" else key): value for key, value in vars(row).items()}
    return found | {"nodes": list(row.nodes)}


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as lines of text for a terminal, each with its line to paste below it. What sessions chose themselves is shown printable."""
    cells = [("count", "last (UTC)", "user", "class", "destination", "nodes", "why")]
    cells += [
        (str(row.count), row.last.rstrip("Z").replace("T", " "), row.user or "?", row.klass, row.place, ",".join(row.nodes), row.sentence)
        for row in rows
    ]
    shown = [tuple("".join(c if c.isprintable() else "?" for c in cell) for cell in line) for line in cells]
    widths = [max(map(len, column)) for column in zip(*shown)]
    found = []
    for place, line in enumerate(shown):
        padded = [line[0].rjust(widths[0]), *(cell.ljust(width) for cell, width in zip(line[1:], widths[1:]))]
        found.append("  ".join(padded).rstrip())
        if place and rows[place - 1].allow_line:
            found.append(f"{' ' * widths[0]}  {rows[place - 1].allow_line}")
    return found
