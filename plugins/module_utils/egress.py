"""Egress classes: destinations as an operator writes them, and what a node needs to know of a class."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .names import network_name

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DESTINATION_LEGAL = "an address or a network, with a port if you like: 10.0.0.5:443, 10.2.0.0/16, [2001:db8::5]:443"

_PORT = re.compile(r"(?P<place>.+):(?P<port>\d{1,5})", re.ASCII)
_HOST_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9])?\.?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Destination:
    """Where a class may go: a network and a TCP port, or every TCP port (None)."""

    network: Network
    port: int | None


@dataclass(frozen=True)
class EgressClass:
    """A class with its names on the node; ``gateway`` is the bridge's own address, the first of the subnet."""

    name: str
    network: str
    subnet: ipaddress.IPv4Network
    gateway: str
    public_internet: bool
    allow: tuple[Destination, ...]


def parse_destination(text: object) -> Destination:
    """A destination such as ``10.0.0.5:443`` or ``10.2.0.0/16``. Raises ValueError with the reason."""
    if not isinstance(text, str):
        raise ValueError("a destination is text")
    place, port = text.strip(), None
    match = _PORT.fullmatch(place)
    # 2001:db8::5 ends like a port, and without brackets it is an address.
    if match and (match["place"].startswith("[") or ":" not in match["place"]):
        place, port = match["place"], int(match["port"])
        if not 0 < port < 65536:
            raise ValueError(f"{port} is not a port, which is 1 to 65535")
    if place.startswith("[") and place.endswith("]"):
        place = place[1:-1]
    try:
        return Destination(ipaddress.ip_network(place), port)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f"the network {place} has host bits set: write {ipaddress.ip_network(place, strict=False)}") from None
        if re.fullmatch(r"[\d./]+", place) is None and _HOST_NAME.fullmatch(place):
            raise ValueError("host names are not supported yet, only addresses and networks") from None
        raise ValueError("this is not a destination") from None


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
    return subnet


def parse_class(name: str, value: Mapping[str, object]) -> EgressClass:
    """An egress class from the inventory. Raises ValueError with the reason; preflight names the place."""
    subnet = parse_subnet(value.get("subnet"))
    allow = value.get("allow") or []
    if not isinstance(allow, Sequence) or isinstance(allow, str):
        raise ValueError("allow is a list")
    return EgressClass(
        name=name,
        network=network_name(name),
        subnet=subnet,
        gateway=str(subnet[1]),
        public_internet=value.get("public_internet") is True,
        allow=tuple(parse_destination(item) for item in allow),
    )
