"""Egress classes: destinations as an operator writes them, and the policy of a site that nodes enforce.

``compile_policy`` turns what the inventory says into plain data that is canonical: the order of the inventory makes no difference, what
adds nothing is left out, and each entry that is left out, merged or overruled has a note. ``problems`` is everything that is wrong.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .egress_terms import (
    ALL_PORTS,
    ALL_TCP,
    EXPLICIT,
    NEVER,
    NO_PORTS,
    NODE_RESOLVER,
    PUBLIC_PORTS,
    WEB_PORTS,
    Ports,
    Span,
    address_text,
    canonical_name,
    covers_ports,
    join_ports,
    merge,
    networks_of,
    parents,
    port,
    port_texts,
    read_port_texts,
    span_of,
    split_networks,
    subtract,
    without_ports,
)
from .names import CLASS_LEGAL, network_name
from .specs import Fault, Spec, check_options, check_value, listed, nearest

VERSION = 1

# Networks that are not the public internet: RFC 6890 and IANA's special-purpose registry.
RESERVED = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
)  # fmt: skip

# Classes that are there without being written; a site that writes one of them replaces the fields it writes.
BUILT_IN: Mapping[str, Mapping[str, object]] = {
    "internal": {"title": "Internal", "description": "What the site lists for its own use.", "subnet": "10.231.0.0/20"},
    "none": {"title": "Nothing", "description": "Nothing but the platform itself.", "subnet": "10.231.48.0/20"},
    "open": {
        "title": "Public internet",
        "description": "The public internet; every connection is recorded.",
        "subnet": "10.231.32.0/20",
        "public_internet": True,
        "log": "all",
    },
    "packages": {"title": "Packages", "description": "Mirrors of packages that the site lists.", "subnet": "10.231.16.0/20"},
}

_TEXT: Spec = {"type": "str"}
_TEXTS: Spec = {"type": "list", "elements": "str"}
EGRESS_CLASS: Mapping[str, Spec] = {
    "title": _TEXT,
    "description": _TEXT,
    "subnet": _TEXT,
    "public_internet": {"type": "bool"},
    "allow": _TEXTS,
    "deny": _TEXTS,
    "deny_lists": _TEXTS,
    "log": {"type": "str", "choices": ("refused", "all")},
    "bandwidth": _TEXT,
    "connections": {"type": "int"},
}

DESTINATION_LEGAL = (
    "a host name, a wildcard, an IPv4 address or a network, with ports and a protocol if you like: data.example.org, "
    "*.corp.example.org:443, 10.0.0.5:8000-8100, 10.2.0.0/16, 10.0.0.6:53/udp"
)
SUBNET_LEGAL = "IPv4, /8 to /28: 10.231.0.0/20"
BANDWIDTH_LEGAL = "bits a second, from 8k to 1T: 500k, 100M, 2.5G"
CONNECTIONS_LEGAL = "1 to 1000000"

# Resolvers over HTTPS, which would answer past the class's own. A class with the public internet is denied them, by name and by the
# addresses that are nothing but resolvers. The first name is the one by which browsers ask whether they may use such a resolver.
DOH_NAMES = (
    "use-application-dns.net",
    "*.adguard-dns.com", "*.cleanbrowsing.org", "*.cloudflare-dns.com", "*.controld.com", "*.dns.adguard.com", "*.dns.google",
    "*.dns.mullvad.net", "*.dns.nextdns.io", "*.dns0.eu", "*.doh.dns.sb", "*.opendns.com", "*.quad9.net", "*.rethinkdns.com", "8888.google",
    "cloudflare-dns.com", "dns.adguard.com", "dns.alidns.com", "dns.comss.one", "dns.digitale-gesellschaft.ch", "dns.google",
    "dns.google.com", "dns.mullvad.net", "dns.nextdns.io", "dns.njal.la", "dns.pub", "dns.sb", "dns.switch.ch", "dns.twnic.tw", "dns0.eu",
    "dns64.dns.google", "dnsforge.de", "doh.360.cn", "doh.applied-privacy.net", "doh.dns.sb", "doh.ffmuc.net", "doh.libredns.gr", "doh.li",
    "doh.pub", "doh.sb", "doh.tiar.app", "dot.pub", "mask-h2.icloud.com", "mask.icloud.com", "odvr.nic.cz", "one.one.one.one",
    "ordns.he.net", "public.dns.iij.jp", "wikimedia-dns.org",
)  # fmt: skip
DOH_ADDRESSES = (
    "1.0.0.1", "1.0.0.2", "1.0.0.3", "1.1.1.1", "1.1.1.2", "1.1.1.3", "8.8.4.4", "8.8.8.8", "9.9.9.9", "9.9.9.10", "9.9.9.11",
    "45.90.28.0", "45.90.30.0", "76.76.2.0", "76.76.10.0", "94.140.14.14", "94.140.14.15", "94.140.15.15", "94.140.15.16",
    "149.112.112.10", "149.112.112.11", "149.112.112.112", "185.228.168.9", "185.228.169.9", "193.110.81.0", "194.242.2.2",
    "208.67.220.123", "208.67.220.220", "208.67.222.123", "208.67.222.222", "223.5.5.5", "223.6.6.6",
)  # fmt: skip

_DESTINATION = re.compile(r"(?P<place>[^:\s]+)(?::(?P<ports>[0-9,-]+)(?:/(?P<protocol>[a-z]+))?)?", re.IGNORECASE)
_PORTS = re.compile(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", re.ASCII)
_BANDWIDTH = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,3}))?([kMGT])", re.ASCII)
_BITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_NEVER_SPANS = tuple((span_of(text), text) for text in NEVER)


@dataclass(frozen=True)
class Destination:
    """Where a class may or may not go: a place and the ports there.

    ``text`` is what was written. ``place`` is a host name, a wildcard such as ``*.example.org``, or a network such as ``10.0.0.5/32``,
    in the one form that each has; ``span`` is the network's first and last address, None for names.
    """

    text: str
    place: str
    span: Span | None
    ports: Ports


@dataclass(frozen=True)
class _Class:
    """A class as it was read. Bandwidth is in bytes a second."""

    name: str
    subnet: ipaddress.IPv4Network
    public_internet: bool
    allow: tuple[Destination, ...]
    deny: tuple[Destination, ...]
    deny_lists: tuple[str, ...]
    log: str
    bandwidth: int | None
    connections: int | None


def _in_one_line(fault: Fault) -> str:
    wanted = f"; wanted {fault.legal}" if fault.legal else ""
    return f"{fault.path}: {fault.value!r} is not legal: {fault.message.rstrip('.')}{wanted}"


def _sentence(message: str) -> str:
    return f"{message[0].upper()}{message[1:]}{'' if message.endswith('.') else '.'}"


@functools.lru_cache(maxsize=1 << 12)
def _parse_ports(text: str, protocols: tuple[str, ...]) -> Ports:
    ranges = []
    for part in text.split(","):
        match = _PORTS.fullmatch(part)
        if match is None:
            raise ValueError(f"{text} is not a list of ports and ranges: 80,443,8000-8100")
        low, high = int(match[1]), int(match[2] or match[1])
        for number in (low, high):
            if not 1 <= number <= 65535:
                raise ValueError(f"{number} is not a port, which is 1 to 65535")
        if low > high:
            raise ValueError(f"the range {part} ends before it begins")
        ranges += [(port(low, protocol), port(high, protocol)) for protocol in protocols]
    return merge(ranges)


def _parse_place(place: str) -> tuple[str, Span | None]:
    """The one form of a place, and its addresses if it is a network. Raises ValueError with the reason."""
    if place[:1].isdigit() and ("/" in place or place.replace(".", "").isdigit()):
        try:
            span = span_of(place)
        except ValueError as error:
            if "host bits" in str(error):
                network = ipaddress.IPv4Network(place, strict=False)
                raise ValueError(f"the network {place} has host bits set: write {network}") from None
            raise ValueError(f"{place} is not an IPv4 address or network") from None
        for (first, last), closed in _NEVER_SPANS:
            if first <= span[0] and span[1] <= last:
                raise ValueError(f"{closed} is closed for every class")
        return (place if "/" in place else f"{place}/32"), span
    wildcard = place.startswith("*.")
    if "*" in place[2 if wildcard else 0 :]:
        raise ValueError("a wildcard is *. and a host name: it stands for all names below that one")
    name = canonical_name(place[2:] if wildcard else place)
    if name == "localhost" or name.endswith(".localhost"):
        raise ValueError("localhost is the session itself")
    return (f"*.{name}" if wildcard else name), None


def parse_destination(text: object, deny: bool = False) -> Destination:
    """A destination such as ``data.example.org``, ``*.corp.example.org:443``, ``10.0.0.6:53/udp`` or ``10.2.0.0/16``.

    Without a port a name is TCP 80 and 443, and an address or a network is all of TCP. In a list of denials (``deny``) a place without a
    port is denied altogether, and a port without a protocol both by TCP and by UDP. Raises ValueError with the reason.
    """
    if not isinstance(text, str):
        raise ValueError("a destination is text")
    text = text.strip()
    match = _DESTINATION.fullmatch(text)
    if match is None:
        if text.count(":") > 1:
            raise ValueError("IPv6 is closed for sessions, only IPv4 addresses and networks can be opened")
        raise ValueError("this is not a destination")
    protocol = (match["protocol"] or "").lower()
    if protocol not in ("", "tcp", "udp"):
        raise ValueError(f"{protocol} is not a protocol here, only tcp and udp can be opened")
    place, span = _parse_place(match["place"])
    if match["ports"]:
        ports = _parse_ports(match["ports"], (protocol,) if protocol else ("tcp", "udp") if deny else ("tcp",))
    else:
        ports = ALL_PORTS if deny else ALL_TCP if span else WEB_PORTS
    return Destination(text, place, span, ports)


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
    if any(subnet.overlaps(ipaddress.IPv4Network(closed)) for closed in NEVER):
        raise ValueError("loopback, link-local and multicast addresses cannot be a session's")
    return subnet


def parse_bandwidth(text: object) -> int:
    """Bytes a second of a bandwidth in bits a second, such as ``100M``. Raises ValueError for anything else."""
    match = _BANDWIDTH.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError("this is not a bandwidth")
    fraction = match[2] or ""
    rate = int(match[1] + fraction) * _BITS[match[3]] // int("8" + "0" * len(fraction))
    if not 1000 <= rate <= 125 * 10**9:
        raise ValueError("this bandwidth is out of range")
    return rate


class _Faults:
    """Collects what is wrong, so that everything is said at once."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def add(self, path: str, value: object, message: str, legal: str = "") -> None:
        self.found.append(Fault(path, value, _sentence(message), legal))

    def check(self, path: str, value: object, spec: Spec) -> bool:
        """Whether a value has the form that a spec declares."""
        wrong = list(check_value(path, value, spec))
        self.found += wrong
        return not wrong

    def destinations(
        self, path: str, values: object, deny: bool, is_public_suffix: Callable[[str], bool] | None = None
    ) -> tuple[Destination, ...]:
        """Those of a list that are right; anything but text has been reported with its type."""
        found = []
        for value in values if isinstance(values, Sequence) and not isinstance(values, (str, bytes)) else ():
            if not isinstance(value, str):
                continue
            try:
                destination = parse_destination(value, deny)
                if destination.place.startswith("*.") and not deny:
                    _check_wildcard(destination.place[2:], is_public_suffix)
                found.append(destination)
            except ValueError as error:
                self.add(path, value, str(error), DESTINATION_LEGAL)
        return tuple(found)


def _check_wildcard(name: str, is_public_suffix: Callable[[str], bool] | None) -> None:
    if is_public_suffix(name) if is_public_suffix else "." not in name:
        raise ValueError(f"below {name} anybody can have a name (it is a public suffix, or one lies below it): list the names you mean")


def _read_class(
    faults: _Faults,
    where: str,
    name: str,
    value: Mapping[str, object],
    allow: Sequence[Destination],
    deny_lists: Mapping[str, object],
    is_public_suffix: Callable[[str], bool] | None,
) -> _Class | None:
    """One class whose built-in fields are filled in; ``allow`` is what it has besides what it lists itself."""
    path = f"{where}.{name}"
    before = len(faults.found)
    faults.found += check_options(path, value, EGRESS_CLASS)
    wrong = {fault.path for fault in faults.found[before:]}
    fields = {key: given for key, given in value.items() if given is not None and f"{path}.{key}" not in wrong}
    subnet, bandwidth, connections = None, None, fields.get("connections")
    if value.get("subnet") is None:
        faults.add(f"{path}.subnet", None, "A value is needed here.", SUBNET_LEGAL)
    elif "subnet" in fields:
        try:
            subnet = parse_subnet(fields["subnet"])
        except ValueError as error:
            faults.add(f"{path}.subnet", fields["subnet"], str(error), SUBNET_LEGAL)
    if "bandwidth" in fields:
        try:
            bandwidth = parse_bandwidth(fields["bandwidth"])
        except ValueError as error:
            faults.add(f"{path}.bandwidth", fields["bandwidth"], str(error), BANDWIDTH_LEGAL)
    if connections is not None and not 1 <= int(str(connections)) <= 1_000_000:
        faults.add(f"{path}.connections", connections, "this is not a number of connections", CONNECTIONS_LEGAL)
    allowed = (*allow, *faults.destinations(f"{path}.allow", fields.get("allow"), False, is_public_suffix))
    denied = faults.destinations(f"{path}.deny", fields.get("deny"), True)
    refused: dict[str, list[Destination]] = {}
    for one in denied:
        refused.setdefault(one.place, []).append(one)
    for one in allowed:
        for other in refused.get(one.place, ()):
            if covers_ports(other.ports, one.ports):
                message = f"allow has the same ({one.text}), and nothing of it would be left"
                faults.add(f"{path}.deny", other.text, message, "one of the two")
    lists = tuple(sorted({str(item) for item in fields.get("deny_lists") or ()}))  # type: ignore[attr-defined]
    for item in lists:
        if item not in deny_lists:
            message = f"There is no such deny list. {nearest(item, deny_lists)}".strip()
            faults.add(f"{path}.deny_lists", item, message, f"names in metalhub_egress_deny_lists: {listed(deny_lists)}")
    try:
        network_name(name)
    except ValueError:
        faults.add(where, name, "This cannot name an egress class.", CLASS_LEGAL)
        return None
    if subnet is None:
        return None
    return _Class(
        name=name,
        subnet=subnet,
        public_internet=str(fields.get("public_internet", False)).lower() in ("true", "yes", "on", "1", "y", "t"),
        allow=allowed,
        deny=denied,
        deny_lists=lists,
        log=str(fields.get("log", "refused")),
        bandwidth=bandwidth,
        connections=None if connections is None else int(str(connections)),
    )


@dataclass(frozen=True)
class _Site:
    """What was read: classes in the order of their names, deny lists, the site's networks, and the names no profile uses."""

    classes: tuple[_Class, ...]
    deny_lists: Mapping[str, tuple[Destination, ...]]
    site_networks: tuple[Span, ...]
    unused: frozenset[str]


def _lines(text: object) -> Iterator[str]:
    """The entries of a deny list: one a line, ``#`` begins a comment."""
    for line in text.splitlines() if isinstance(text, str) else text if isinstance(text, Iterable) else ():
        entry = str(line).partition("#")[0].strip()
        if entry:
            yield entry


def _read(
    classes: object,
    used: Iterable[str] | None,
    internal: object,
    packages: object,
    deny_lists: object,
    site_networks: object,
    is_public_suffix: Callable[[str], bool] | None,
    where: str,
) -> tuple[_Site, list[Fault]]:
    """Everything of a site, and everything that is wrong with it."""
    faults = _Faults()
    given: dict[str, Mapping[str, object]] = {}
    if faults.check(where, classes, {"type": "dict", "required": True}) and isinstance(classes, Mapping):
        for name, value in classes.items():
            if not isinstance(name, str):
                faults.add(where, name, "This cannot name an egress class.", CLASS_LEGAL)
            elif faults.check(f"{where}.{name}", value, {"type": "dict"}):
                given[name] = value or {}
    lists: dict[str, tuple[Destination, ...]] = {}
    if faults.check("metalhub_egress_deny_lists", deny_lists, {"type": "dict"}) and isinstance(deny_lists, Mapping):
        for name, text in deny_lists.items():
            lists[str(name)] = faults.destinations(f"metalhub_egress_deny_lists.{name}", list(_lines(text)), True)
    defaults: dict[str, tuple[Destination, ...]] = {}
    for name, values in (("internal", internal), ("packages", packages)):
        variable = f"metalhub_egress_{name}"
        faults.check(variable, values, _TEXTS)
        defaults[name] = faults.destinations(variable, values, False, is_public_suffix)
    wanted = set(used) if used is not None else None
    names = [name for name in BUILT_IN if name in given or wanted is None or name in wanted]
    found: list[_Class] = []
    for name in sorted({*given, *names}):
        fields = {**BUILT_IN.get(name, {}), **{key: value for key, value in given.get(name, {}).items() if value is not None}}
        one = _read_class(faults, where, name, fields, defaults.get(name, ()), lists, is_public_suffix)
        if one is None:
            continue
        for other in found:
            if other.subnet.overlaps(one.subnet):
                message = f"It overlaps the subnet {other.subnet} of class {other.name}."
                faults.add(f"{where}.{name}.subnet", str(one.subnet), message, "a free network")
        found.append(one)
    unused = frozenset() if wanted is None else frozenset(set(given) - wanted)
    return _Site(tuple(found), lists, tuple(_read_networks(faults, "metalhub_site_networks", site_networks)), unused), faults.found


def _read_networks(faults: _Faults, path: str, values: object) -> Iterator[Span]:
    if not faults.check(path, values, _TEXTS) or not isinstance(values, Sequence):
        return
    for value in values:
        try:
            span = _parse_place(str(value).strip())[1]
            if span is None:
                raise ValueError("this is not an IPv4 network")
            yield span
        except ValueError as error:
            faults.add(path, value, str(error), "IPv4 networks: 10.20.0.0/16")


def problems(
    classes: object,
    *,
    used: Iterable[str] | None = None,
    internal: object = (),
    packages: object = (),
    deny_lists: object = None,
    site_networks: object = (),
    is_public_suffix: Callable[[str], bool] | None = None,
    where: str = "metalhub_egress_classes",
) -> list[tuple[str, object, str, str]]:
    """Everything that is wrong, each as path, value, message and what is legal. The arguments are those of ``compile_policy``."""
    _, faults = _read(classes, used, internal, packages, deny_lists, site_networks, is_public_suffix, where)
    return [(fault.path, fault.value, fault.message, fault.legal) for fault in faults]


def compile_policy(
    classes: object,
    *,
    used: Iterable[str] | None = None,
    internal: object = (),
    packages: object = (),
    deny_lists: object = None,
    site_networks: object = (),
    reserved: Iterable[str] = (),
    is_public_suffix: Callable[[str], bool] | None = None,
    where: str = "metalhub_egress_classes",
) -> dict[str, Any]:
    """The policy of a site as plain data, the same for every order of what is given.

    ``classes`` is what the inventory says, ``internal`` and ``packages`` what the built-in classes of these names allow besides,
    ``deny_lists`` the text (or the lines) of each deny list, ``used`` the classes that profiles name: of the built-in ones the others are
    left out. Names may lead to none of the ``reserved`` networks (RFC 6890's by default) but those of ``site_networks``.
    ``is_public_suffix`` says of a name whether it is a public suffix or has one below it; without it, no wildcard may stand for a whole
    top level.

    The result has ``version``, ``site_networks``, ``closed``, ``notes`` (class, entry, note) and ``classes``: each with ``subnet``,
    ``gateway``, ``public_internet``, ``named`` (whether it has names at all, which are the resolver's and the proxy's to judge), ``log``,
    ``bandwidth`` (bytes a second), ``connections``, and under ``allow`` and ``deny`` the ``names`` (name or wildcard to ports) and
    ``networks`` (range of ports to networks). What a name may is what it and the wildcards above it allow, less what they are denied.
    ``name_sets`` are the ports of names other than 80 and 443: the resolver puts the addresses of ``names``, and of what lies below them,
    into the set. Raises ValueError with one message for the first thing that is wrong.
    """
    site, faults = _read(classes, used, internal, packages, deny_lists, site_networks, is_public_suffix, where)
    if faults:
        raise ValueError(_in_one_line(faults[0]))
    notes: set[tuple[str, str, str]] = {(name, "", "no profile uses this class") for name in site.unused}
    compiled = {one.name: _compile_class(one, site, notes) for one in site.classes}
    # Whatever the site calls its own, no name leads to a session.
    subnets = [span_of(str(one.subnet)) for one in site.classes]
    shut = [*subtract(map(span_of, reserved or RESERVED), site.site_networks), *subnets]
    return {
        "version": VERSION,
        "site_networks": networks_of(site.site_networks),
        "closed": networks_of(shut),
        "classes": compiled,
        "notes": [{"class": name, "entry": entry, "note": note} for name, entry, note in sorted(notes)],
    }


def _compile_class(one: _Class, site: _Site, notes: set[tuple[str, str, str]]) -> dict[str, Any]:
    denied = [*one.deny, *(entry for name in one.deny_lists for entry in site.deny_lists[name])]
    if one.public_internet:
        said = {entry.place for entry in (*one.allow, *denied)}
        denied += [entry for entry in _DOH if entry.place not in said]
    deny = _Rules(one.name, denied, None, notes)
    allowed = _Rules(one.name, one.allow, deny, notes).plain()
    compiled: dict[str, Any] = {
        "subnet": str(one.subnet),
        "gateway": str(one.subnet[1]),
        "public_internet": one.public_internet,
        "named": one.public_internet or bool(allowed["names"]),
        "log": one.log,
        "bandwidth": one.bandwidth,
        "connections": one.connections,
        "allow": allowed,
        "deny": deny.plain(),
    }
    return {**compiled, "name_sets": _name_sets(one.name, compiled, notes)}


class _Rules:
    """One list of a class in its smallest form. What became of each entry goes to ``notes``."""

    def __init__(self, name: str, entries: Iterable[Destination], deny: _Rules | None, notes: set[tuple[str, str, str]]) -> None:
        self._name = name
        self._deny = deny
        self._notes = notes
        self._named: dict[str, list[Destination]] = {}
        self._placed: dict[Span, list[Destination]] = {}
        previous = None
        for entry in sorted(entries, key=lambda e: (e.place, e.ports, e.text)):
            if previous is not None and (previous.place, previous.ports) == (entry.place, entry.ports):
                self._note(entry, "is written twice" if previous.text == entry.text else f"is the same as {previous.text}")
                continue
            previous = entry
            if entry.span is None:
                self._named.setdefault(entry.place, []).append(entry)
            else:
                self._placed.setdefault(entry.span, []).append(entry)
        self._ports = {place: join_ports(*(entry.ports for entry in same)) for place, same in self._named.items()}
        # The ports that hold from each address on, up to the next.
        self._starts: dict[int, Ports] = {}
        self._networks = self._merge_networks()
        # By range, and by the ranges that hold it, which many have in common.
        self._covering: dict[Span, Ports] = {}
        self._merged: dict[Ports, Ports] = {}

    def _note(self, entry: Destination, note: str) -> None:
        if entry not in _DOH_SET:
            self._notes.add((self._name, entry.text, note))

    def plain(self) -> dict[str, Any]:
        """Names and networks as plain data, without what is denied altogether."""
        names = {}
        for place, ports in sorted(self._ports.items()):
            above = _above(self._ports, place)
            denied = _reach(self._deny._ports, place) if self._deny else NO_PORTS
            for entry in self._named[place]:
                self._note_name(entry, above, denied)
            if rest := without_ports(without_ports(ports, above), denied):
                names[place] = port_texts(rest)
        networks = {}
        for each, found in self._networks.items():
            denied_spans = self._deny.covering(each) if self._deny else ()
            if texts := [_network_text(network) for network in found if not _inside(denied_spans, network)]:
                networks[port_texts((each,))[0]] = texts
        for entries in self._placed.values():
            for entry in entries:
                self._note_network(entry)
        return {"names": names, "networks": dict(sorted(networks.items()))}

    def covering(self, ports: Span) -> Ports:
        """The addresses at which a whole range of ports is in the list, merged and sorted."""
        if ports not in self._covering:
            wide = tuple(each for each in self._networks if each[0] <= ports[0] and ports[1] <= each[1])
            if wide not in self._merged:
                self._merged[wide] = merge(span for each in wide for span in self._networks[each])
            self._covering[ports] = self._merged[wide]
        return self._covering[ports]

    def _merge_networks(self) -> dict[Span, list[Span]]:
        """Networks by range of ports, where each address has its ports in the widest ranges there are."""
        events: dict[int, list[tuple[int, Ports]]] = {}
        for (low, high), entries in self._placed.items():
            for entry in entries:
                events.setdefault(low, []).append((1, entry.ports))
                events.setdefault(high + 1, []).append((-1, entry.ports))
        active: dict[Ports, int] = {}
        merged: dict[tuple[Ports, ...], Ports] = {}
        spans: dict[Span, list[Span]] = {}
        places = sorted(events)
        for place, following in zip(places, places[1:]):
            for change, ports in events[place]:
                active[ports] = active.get(ports, 0) + change
                if not active[ports]:
                    del active[ports]
            key = tuple(sorted(active))
            if key not in merged:
                merged[key] = join_ports(*key)
            self._starts[place] = merged[key]
            for each in merged[key]:
                spans.setdefault(each, []).append((place, following - 1))
        return {each: split_networks(parts) for each, parts in spans.items()}

    def _note_name(self, entry: Destination, above: Ports, denied: Ports) -> None:
        if denied and (gone := without_ports(entry.ports, without_ports(entry.ports, denied))):
            self._note(entry, "is denied" if gone == entry.ports else f"is denied for {', '.join(port_texts(gone))}")
        places = [entry.place]
        if covers_ports(above, entry.ports):
            places += [f"*.{name}" for name in parents(_base(entry.place))]
        for place in places:
            for other in self._named.get(place, ()):
                if other is not entry and covers_ports(other.ports, entry.ports):
                    self._note(entry, f"is covered by {other.text}")
                    return
        if len(places) > 1:
            self._note(entry, "is covered by the wildcards above it")

    def _note_network(self, entry: Destination) -> None:
        low, high = entry.span or (0, 0)
        if self._deny and all(_inside(self._deny.covering(each), (low, high)) for each in entry.ports):
            self._note(entry, "is denied")
        size = high - low + 1
        while size <= 1 << 32:
            first = low & -size
            for other in self._placed.get((first, first + size - 1), ()):
                if other is not entry and covers_ports(other.ports, entry.ports):
                    self._note(entry, f"is covered by {other.text}")
                    return
            size <<= 1
        for each in self._starts[low]:
            whole = _around(self._networks[each], low)
            if whole and (whole[0] < low or high < whole[1]) and any(each[0] <= first and last <= each[1] for first, last in entry.ports):
                self._note(entry, f"is merged into {_network_text(whole)}")
                return


def _base(place: str) -> str:
    return place[2:] if place.startswith("*.") else place


def _above(rules: Mapping[str, Ports], place: str) -> Ports:
    """The ports of the wildcards above a name or wildcard."""
    found = [rules[wildcard] for name in parents(_base(place)) if (wildcard := f"*.{name}") in rules]
    return join_ports(*found) if found else NO_PORTS


def _reach(rules: Mapping[str, Ports], place: str) -> Ports:
    """The ports of a name or wildcard, with those of the wildcards above it."""
    return join_ports(rules.get(place, NO_PORTS), _above(rules, place))


def _network_text(span: Span) -> str:
    return f"{address_text(span[0])}/{33 - (span[1] - span[0] + 1).bit_length()}"


def _around(spans: Sequence[Span], address: int) -> Span | None:
    """The one of sorted spans in which an address lies."""
    index = bisect.bisect_right(spans, (address, 1 << 32)) - 1
    return spans[index] if index >= 0 and spans[index][0] <= address <= spans[index][1] else None


def _inside(spans: Sequence[Span], wanted: Span) -> bool:
    """Whether sorted and merged spans hold all of another."""
    whole = _around(spans, wanted[0])
    return whole is not None and wanted[1] <= whole[1]


_DOH = tuple(parse_destination(text, deny=True) for text in (*DOH_NAMES, *DOH_ADDRESSES))
_DOH_SET = frozenset(_DOH)


@dataclass(frozen=True)
class Zone:
    """A name at which the resolver's work changes: the ports of the name itself, and those of the names below it.

    No port means that the resolver knows no such name. Names of their own are excepted from what holds below another.
    """

    name: str
    exact: Ports
    below: Ports


def zones(plain: Mapping[str, Any]) -> list[Zone]:
    """The zones of a compiled class, those that lie above others first."""
    allow = {place: read_port_texts(texts) for place, texts in plain["allow"]["names"].items()}
    deny = {place: read_port_texts(texts) for place, texts in plain["deny"]["names"].items()}
    public = PUBLIC_PORTS if plain["public_internet"] else NO_PORTS
    found = []
    for name in sorted({_base(place) for place in (*allow, *deny)}, key=lambda name: (name.count("."), name)):
        open_, shut = join_ports(public, _above(allow, name)), _above(deny, name)
        exact, below = (
            without_ports(join_ports(open_, allow.get(place, NO_PORTS)), join_ports(shut, deny.get(place, NO_PORTS)))
            for place in (name, f"*.{name}")
        )
        found.append(Zone(name, exact, below))
    return found


def _name_sets(name: str, plain: Mapping[str, Any], notes: set[tuple[str, str, str]]) -> dict[str, Any]:
    """Sets of the packet filter for ports of names that the proxy does not see.

    The resolver puts addresses into a set by the longest name that fits, whether that is the name itself or lies above it. So a name and
    what lies below it share a set where both are resolved; what either is denied, neither has.
    """
    seen = join_ports(WEB_PORTS, PUBLIC_PORTS) if plain["public_internet"] else WEB_PORTS
    if not any(without_ports(read_port_texts(texts), seen) for texts in plain["allow"]["names"].values()):
        return {}
    denied = {place: read_port_texts(texts) for place, texts in plain["deny"]["names"].items()}
    ports_of: dict[str, Ports] = {}
    sets: dict[Ports, list[str]] = {}
    for zone in zones(plain):
        if not zone.exact and not zone.below:
            continue
        shared = without_ports(join_ports(zone.exact, zone.below), seen)
        if zone.exact and zone.below:
            shared = without_ports(shared, join_ports(_reach(denied, zone.name), _reach(denied, f"*.{zone.name}")))
            for place, ports in ((zone.name, zone.exact), (f"*.{zone.name}", zone.below)):
                wanted = without_ports(ports, seen)
                why = f"the resolver's sets do not tell {zone.name} from the names below it"
                if more := without_ports(shared, wanted):
                    notes.add((name, place, f"gets {', '.join(port_texts(more))} too: {why}"))
                if less := without_ports(wanted, shared):
                    notes.add((name, place, f"loses {', '.join(port_texts(less))}: {why}"))
        above = next((ports_of[parent] for parent in parents(zone.name) if parent in ports_of), NO_PORTS)
        ports_of[zone.name] = shared
        if shared != above:
            sets.setdefault(shared, []).append(zone.name)
    return {set_name(name, ports): {"names": sorted(names), "ports": port_texts(ports)} for ports, names in sorted(sets.items())}


def set_name(name: str, ports: Ports) -> str:
    """The packet filter's set for a class and a set of ports: ``n_<class>_<8 hex digits>``."""
    digest = hashlib.sha256(",".join(port_texts(ports)).encode()).hexdigest()[:8]
    return f"n_{name.replace('-', '_')}_{digest}"


# Types of records that carry data nobody needs to reach a host, and some of which tunnels use. A, CNAME and SOA stay; AAAA has an option
# of its own. The last two are private ones that tunnels are known to take.
_FILTERED_TYPES = (
    2, 10, *range(11, 28), *range(29, 41), *range(42, 66), *range(99, 110), *range(256, 264), 32768, 32769, 65305, 65399,
)  # fmt: skip


def resolver_config(policy: Mapping[str, Any], name: str, nft_table: str = "metalhub", upstream: str = NODE_RESOLVER) -> str:
    """The configuration of dnsmasq (2.90 or newer) for one class of a compiled policy.

    It answers at the class's gateway, forwards names that are allowed for some port to ``upstream`` and knows no others. ``/*.x/`` is what
    lies below x and not x itself; the longest name that fits decides. Nothing is cached here, so that each answer renews the packet
    filter's sets. Raises ValueError for a class that the policy does not have.
    """
    if name not in policy["classes"]:
        raise ValueError(f"{name!r} is not a class of the policy: {listed(policy['classes'])}")
    plain = policy["classes"][name]
    lines = [
        "# Made by the egress role; changes are overwritten.",
        f"listen-address={plain['gateway']}",
        # The bridge may come up after the resolver.
        "bind-dynamic",
        "port=53",
        "no-resolv",
        "no-hosts",
        "no-poll",
        "cache-size=0",
        "filter-AAAA",
        "filter-rr=ANY",
        f"filter-rr={','.join(map(str, _FILTERED_TYPES))}",
        *(f"bogus-nxdomain={network}" for network in policy["closed"]),
        f"server={upstream}" if plain["public_internet"] else "address=/#/",
    ]

    def zone_line(name: str, known: bool) -> str:
        return f"server=/{name}/{upstream}" if known else f"local=/{name}/"

    below: dict[str, bool] = {}
    for zone in zones(plain):
        above = next((below[parent] for parent in parents(zone.name) if parent in below), plain["public_internet"])
        below[zone.name] = bool(zone.below)
        if bool(zone.exact) != above:
            lines.append(zone_line(zone.name, bool(zone.exact)))
            above = bool(zone.exact)
        if bool(zone.below) != above:
            lines.append(zone_line(f"*.{zone.name}", bool(zone.below)))
    for set_, content in plain["name_sets"].items():
        lines += [f"nftset=/{place}/4#inet#{nft_table}#{set_}" for place in content["names"]]
    return "\n".join(lines) + "\n"


def describe(plain: Mapping[str, Any]) -> str:
    """What a compiled class may reach, in words. What every class with the public internet is denied is left out."""
    allowed = [*(["the public internet"] if plain["public_internet"] else []), *_places(plain["allow"], WEB_PORTS, ALL_TCP)]
    if not allowed:
        return "nothing but the hub"
    known = split_networks(entry.span for entry in _DOH if entry.span) if plain["public_internet"] else []
    names = {entry.place for entry in _DOH} if plain["public_internet"] else set()
    denied = _places(plain["deny"], ALL_PORTS, ALL_PORTS, lambda place: place in names or ("/" in place and _inside(known, span_of(place))))
    limits = []
    if plain["bandwidth"]:
        limits.append(f"{format_bandwidth(plain['bandwidth'])}bit/s")
    if plain["connections"]:
        limits.append(f"{plain['connections']} connections")
    words = ", ".join(_some(allowed))
    words += f"; not {', '.join(_some(denied))}" if denied else ""
    words += f"; each session at most {' and '.join(limits)}" if limits else ""
    return f"{words}; all of it recorded" if plain["log"] == "all" else words


def offers(policy: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    """What the hub tells of each compiled class, to sessions and people.

    ``classes`` is ``metalhub_egress_classes``, whose titles and descriptions the compiled policy leaves out. By name: ``proxy``, the URL of
    the class's proxy, empty where it has no names; ``direct``, the networks that are reached without it; ``title``, ``description``; and
    ``reach``, the whole in words.
    """
    found: dict[str, dict[str, object]] = {}
    for name, plain in policy["classes"].items():
        words = {**BUILT_IN.get(name, {}), **{key: value for key, value in (classes.get(name) or {}).items() if value is not None}}
        found[name] = {
            "proxy": f"http://{plain['gateway']}:{EXPLICIT}" if plain["named"] else "",
            "direct": sorted({network for networks in plain["allow"]["networks"].values() for network in networks}),
            "title": str(words.get("title") or name),
            "description": str(words.get("description") or ""),
            "reach": describe(plain),
        }
    return found


def _some(places: Sequence[str], limit: int = 12) -> list[str]:
    return [*places[:limit], f"{len(places) - limit} more"] if len(places) > limit else list(places)


def _places(
    rules: Mapping[str, Any], usual_of_names: Ports, usual_of_networks: Ports, hidden: Callable[[str], bool] = lambda place: False
) -> list[str]:
    """The entries of a compiled list as an operator would write them, without ports where they are the usual ones."""
    networks: dict[str, list[str]] = {}
    for ports, places in rules["networks"].items():
        for place in places:
            networks.setdefault(place, []).append(ports)
    found = []
    for usual, places in ((usual_of_names, rules["names"]), (usual_of_networks, networks)):
        for place, texts in places.items():
            if not hidden(place):
                parts = sorted((text.partition("/") for text in texts), key=lambda part: (part[0], int(part[2].partition("-")[0])))
                numbers = ",".join(f"{number}{'/udp' if protocol == 'udp' else ''}" for protocol, _, number in parts)
                found.append(place.removesuffix("/32") + ("" if read_port_texts(texts) == usual else f":{numbers}"))
    return found


def format_bandwidth(rate: int) -> str:
    """A bandwidth for people: bits a second of bytes a second, with the largest unit that fits (``100M``)."""
    bits = rate * 8
    unit, factor = max(((unit, factor) for unit, factor in _BITS.items() if factor <= max(bits, 1000)), key=lambda item: item[1])
    return f"{bits / factor:.3f}".rstrip("0").rstrip(".") + unit
