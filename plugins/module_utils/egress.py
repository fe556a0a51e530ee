"""Egress classes: destinations as an operator writes them, and what a node needs to know of a class."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .names import network_name

# No class opens these, whatever it lists: this host, loopback, link-local (cloud metadata), multicast and broadcast.
NEVER = tuple(ipaddress.IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"))

DESTINATION_LEGAL = "an IPv4 address or network, with a port and a protocol if you like: 10.0.0.5:443, 10.2.0.0/16, 10.0.0.6:53/udp"

_DESTINATION = re.compile(r"(?P<place>[^:]+)(?::(?P<port>\d{1,5})(?:/(?P<protocol>tcp|udp))?)?", re.ASCII)
_HOST_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9])?\.?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Destination:
    """Where a class may go: a network, and a port or every port (None) of TCP or UDP."""

    network: ipaddress.IPv4Network
    port: int | None
    protocol: str = "tcp"


@dataclass(frozen=True)
class EgressClass:
    """A class with the name of its network, which is also that of the bridge on the node."""

    name: str
    network: str
    subnet: ipaddress.IPv4Network
    public_internet: bool
    allow: tuple[Destination, ...]


def parse_destination(text: object) -> Destination:
    """A destination such as ``10.0.0.5:443``, ``10.0.0.6:53/udp`` or ``10.2.0.0/16``. Raises ValueError with the reason."""
    if not isinstance(text, str):
        raise ValueError("a destination is text")
    match = _DESTINATION.fullmatch(text.strip())
    if match is None:
        if text.count(":") > 1:
            raise ValueError("IPv6 is closed for sessions, only IPv4 addresses and networks can be opened")
        raise ValueError("this is not a destination")
    place, port = match["place"], int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{port} is not a port, which is 1 to 65535")
    try:
        network = ipaddress.IPv4Network(place)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f"the network {place} has host bits set: write {ipaddress.IPv4Network(place, strict=False)}") from None
        if re.fullmatch(r"[\d./]+", place) is None and _HOST_NAME.fullmatch(place):
            raise ValueError("host names are not supported yet, only addresses and networks") from None
        raise ValueError("this is not a destination") from None
    for closed in NEVER:
        if network.subnet_of(closed):
            raise ValueError(f"{closed} is closed for every class")
    return Destination(network, port, match["protocol"] or "tcp")


def parse_subnet(text: object) -> ipaddress.IPv4Network:
    """The subnet of a class: IPv4, /8 to /28, no host bits. Raises ValueError with the reason."""
    if not isinstance(text, str):
        raise ValueError("a subnet is text, such as 10.231.0.0/20")
    try:
        subnet = ipaddress.IPv4Network(text.strip())
    except ValueError as error:
        raise ValueError(f"this is not an IPv4 network ({error})") from None
    if not 8 <= subnet.prefixlen <= 28:
        raise ValueError(f"a /{subnet.prefixlen} does not fit: each session on a node takes one address")
    if any(subnet.overlaps(closed) for closed in NEVER):
        raise ValueError("loopback, link-local and multicast addresses cannot be a session's")
    return subnet


def parse_class(name: str, value: Mapping[str, object]) -> EgressClass:
    """An egress class from the inventory. Raises ValueError with the reason; the caller names the place."""
    subnet = parse_subnet(value.get("subnet"))
    if unknown := sorted(set(value) - {"subnet", "public_internet", "allow"}):
        raise ValueError(f"{unknown[0]} is not an option of a class")
    if not isinstance(value.get("public_internet", False), bool):
        raise ValueError("public_internet is true or false")
    allow = value.get("allow") or []
    if not isinstance(allow, Sequence) or isinstance(allow, str):
        raise ValueError("allow is a list")
    return EgressClass(
        name=name,
        network=network_name(name),
        subnet=subnet,
        public_internet=value.get("public_internet") is True,
        allow=tuple(parse_destination(item) for item in allow),
    )
