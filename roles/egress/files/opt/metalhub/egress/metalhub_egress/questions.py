"""What squid asks, what its log and the resolver's log say, as values. Pure."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import urllib.parse
from dataclasses import dataclass

from .egress_terms import EXPLICIT, INTERCEPT_HTTP, INTERCEPT_TLS


@dataclass(frozen=True)
class Question:
    """One line of `external_acl_type`: who asks, from where to where, and what is known of it so far."""

    channel: str
    client: str
    client_port: int
    via: str
    original: str
    method: str
    host: str
    port: int
    hello: bytes | None


def parse_question(line: str) -> Question:
    """Read ``channel %>a %>p %lp %>la %>rm %>rd %>rP %>handshake``. Raises ValueError for anything else."""
    words = [urllib.parse.unquote(word) for word in line.split(" ")]
    if len(words) < 9:
        raise ValueError(f"{len(words)} words")
    channel, client, client_port, local_port, local, method, host, port, hello = words[:9]
    ipaddress.IPv4Address(client)
    connect = method == "CONNECT"
    # Intercepted HTTP goes to where its Host leads, as if the proxy had been asked for it.
    vias = {INTERCEPT_HTTP: "proxy-http", INTERCEPT_TLS: "intercept-tls", EXPLICIT: "proxy-connect" if connect else "proxy-http"}
    via = vias[int(local_port)]
    data = None
    if hello != "-":
        try:
            data = base64.b64decode(hello, validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from None
    intercepted = via == "intercept-tls"
    return Question(
        channel, client, int(client_port), via, local if intercepted else "", method,
        "" if via == "intercept-tls" else host.strip("[]"), int(port) if port.isdecimal() else 0, data,
    )  # fmt: skip


_QUERY = re.compile(r"^(?P<number>\d+) (?P<client>[\d.]+)/\d+ (?P<what>.*)$", re.ASCII)
_ASKED = re.compile(r"^query\[(?P<kind>[^\]]*)\] (?P<name>\S+) from ", re.ASCII)
_REFUSED = re.compile(r"^config (?P<name>\S+) is (?:NXDOMAIN|NODATA)", re.ASCII)
_ANSWERED = re.compile(r"^(?:reply|cached|config) \S+ is (?P<address>\d+\.\d+\.\d+\.\d+)$", re.ASCII)


class ResolverLog:
    """The queries that dnsmasq logs (log-queries=extra), each with its number: what was asked, refused and answered."""

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._asked: dict[tuple[str, str], tuple[str, str, str]] = {}

    def feed(self, process: str, text: str) -> tuple[str, str, str, str, str] | None:
        """(what, client, kind, name, address) for a line that refuses (`refused`) or answers (`answered`) an earlier query."""
        line = _QUERY.match(text)
        if not line:
            return None
        key, what = (process, line["number"]), line["what"]
        asked = _ASKED.match(what)
        if asked:
            if len(self._asked) >= self._capacity:
                del self._asked[next(iter(self._asked))]
            self._asked[key] = (line["client"], asked["kind"], asked["name"].rstrip(".").lower())
            return None
        if key not in self._asked:
            return None
        if _REFUSED.match(what):
            return ("refused", *self._asked.pop(key), "")
        answered = _ANSWERED.match(what)
        return ("answered", *self._asked[key], answered["address"]) if answered else None


_SYSLOG = re.compile(
    r"^<\d+>(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?(?:\S+ )?(?P<program>[\w()./-]+)\[(?P<process>\d+)\]: (?P<text>.*)",
    re.ASCII | re.DOTALL,
)


def parse_syslog(data: bytes) -> tuple[str, str, str] | None:
    """(program, process, text) of a datagram of syslog(3)."""
    line = _SYSLOG.match(data.decode("utf-8", "replace").rstrip("\n\0"))
    return (line["program"], line["process"], line["text"]) if line else None


_FLOW = re.compile(
    r"^(?P<protocol>\w+)\s+\d+ .*?src=(?P<source>[\d.]+) dst=(?P<destination>[\d.]+) sport=(?P<sport>\d+) dport=(?P<dport>\d+) ", re.ASCII
)


@dataclass(frozen=True)
class Flow:
    """A connection that the kernel tracks, as the side that opened it sees it."""

    protocol: str
    source: str
    source_port: int
    destination: str
    port: int


def parse_flows(text: str) -> list[Flow]:
    """Read what `conntrack -L` prints; what is over, and protocols without ports, are left out."""
    found = []
    for line in text.splitlines():
        match = _FLOW.match(line)
        if match and " TIME_WAIT " not in line and " CLOSE " not in line:
            found.append(Flow(match["protocol"], match["source"], int(match["sport"]), match["destination"], int(match["dport"])))
    return found
