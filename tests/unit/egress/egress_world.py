"""A small world of names, addresses and ports, and what a policy means when nobody compiles it."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.metalhub.platform.plugins.module_utils.egress import Destination, parse_destination
from hypothesis import strategies as st

NAMES = ["org", "example.org", "a.example.org", "b.a.example.org", "c.b.a.example.org", "b.example.org", "example.net", "xa.example.org"]
PORTS = [22, 53, 80, 443, 853, 8000, 8050]
NETWORKS = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.0/17",
    "10.1.128.0/17",
    "10.1.2.0/24",
    "10.1.2.0/25",
    "10.1.2.3",
    "10.1.2.4",
    "11.0.0.0/31",
    "11.0.0.2",
]
ADDRESSES = ["10.0.0.1", "10.1.0.1", "10.1.2.3", "10.1.2.4", "10.1.2.200", "10.1.200.1", "11.0.0.1", "11.0.0.2", "11.0.0.3"]

ports = st.sampled_from(["", ":443", ":80", ":22", ":80,443", ":8000-8100", ":8050", ":53/udp", ":1-65535", ":1-1000", ":443/udp"])
names = st.sampled_from([*NAMES, *(f"*.{name}" for name in NAMES if "." in name)])
name_entries = st.builds("{}{}".format, names, ports)
network_entries = st.builds("{}{}".format, st.sampled_from(NETWORKS), ports)
entries = st.lists(name_entries | network_entries, max_size=8)


def matches(entry: Destination, host: str, port: int, protocol: str = "tcp") -> bool:
    """Whether one entry means a port of a name or an address, read as the documentation says it."""
    number = port + (65536 if protocol == "udp" else 0)
    if not any(low <= number <= high for low, high in entry.ports):
        return False
    if entry.span is None:
        return host == entry.place or (entry.place.startswith("*.") and host.endswith(entry.place[1:]))
    parts = host.split(".")
    if not all(part.isdigit() for part in parts):
        return False
    address = int.from_bytes(bytes(map(int, parts)), "big")
    return entry.span[0] <= address <= entry.span[1]


def naive(allow: Sequence[str], deny: Sequence[str], host: str, port: int, protocol: str = "tcp") -> bool:
    """Whether a class without the public internet may reach a port of a name or an address."""
    if any(matches(parse_destination(text, deny=True), host, port, protocol) for text in deny):
        return False
    return any(matches(parse_destination(text), host, port, protocol) for text in allow)


def consistent(allow: Sequence[str], deny: Sequence[str]) -> list[str]:
    """Of the denials those that do not deny all of what is allowed in the same words, which is refused."""
    places = {parse_destination(text).place for text in allow}
    return [text for text in deny if parse_destination(text, deny=True).place not in places]
