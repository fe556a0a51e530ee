"""The packet filter of one host as text for ``nft -f``: what sessions may reach, and who may reach sessions and engines.

Pure: everything that differs between hosts comes in as a ``Policy``. The text replaces our own two tables in one
transaction and touches no other table.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .egress import EgressClass, parse_class
from .egress_terms import port_texts
from .names import network_name

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)


@dataclass(frozen=True)
class Guard:
    """Ports of this host's own services, and the only networks that may reach them (loopback always may)."""

    ports: tuple[int, ...]
    protocol: str
    sources: tuple[Network, ...]


@dataclass(frozen=True)
class Policy:
    """All that decides one host's rules. `session_groups` are the local groups whose processes may open session ports on this host."""

    classes: tuple[EgressClass, ...]
    control: tuple[Network, ...]
    platform: tuple[Network, ...]
    hub_port: int
    nameservers: tuple[Network, ...]
    reserved: tuple[Network, ...]
    guards: tuple[Guard, ...]
    session_groups: tuple[str, ...]
    bridge_table: bool


def _fail(where: str, value: object, legal: str) -> ValueError:
    return ValueError(f"{where}: {value!r} is not legal; wanted {legal}")


def parse_networks(values: Iterable[object], where: str) -> tuple[Network, ...]:
    """Read addresses and networks of both families. Raises ValueError that names the variable, the value and the legal form."""
    if isinstance(values, (str, Mapping)):
        raise _fail(where, values, "a list of addresses or networks")
    found = []
    for index, value in enumerate(values):
        try:
            found.append(ipaddress.ip_network(str(value)))
        except ValueError:
            raise _fail(f"{where}[{index}]", value, "an IP address or a network without host bits") from None
    return tuple(found)


def parse_classes(given: Mapping[str, object], where: str) -> tuple[EgressClass, ...]:
    """Read all classes, sorted by name. Raises ValueError for a bad one, and for two whose subnets overlap."""
    if not isinstance(given, Mapping):
        raise _fail(where, given, "a dict of classes")
    classes = []
    for name in sorted(given):
        value = given[name]
        if not isinstance(value, Mapping):
            raise _fail(f"{where}.{name}", value, "a dict of subnet, public_internet and allow")
        try:
            classes.append(parse_class(name, value))
        except ValueError as error:
            raise ValueError(f"{where}.{name}: {dict(value)!r} is not legal: {error}") from None
    for index, one in enumerate(classes):
        for other in classes[index + 1 :]:
            if one.subnet.overlaps(other.subnet):
                raise ValueError(f"{where}: the subnets of {one.name} ({one.subnet}) and {other.name} ({other.subnet}) overlap")
    return tuple(classes)


def parse_guard(given: object, where: str) -> Guard:
    """Read one guard. Raises ValueError that names the place, the value and the legal form."""
    if not isinstance(given, Mapping) or set(given) - {"protocol"} != {"ports", "from"}:
        raise _fail(where, given, "a dict of ports, from and optionally protocol")
    ports = tuple(int(port) for port in given["ports"])
    if not ports or not all(1 <= port <= 65535 for port in ports):
        raise _fail(f"{where}.ports", given["ports"], "ports from 1 to 65535")
    protocol = given.get("protocol", "tcp")
    if protocol not in ("tcp", "udp"):
        raise _fail(f"{where}.protocol", protocol, "tcp or udp")
    return Guard(ports, protocol, parse_networks(given["from"], f"{where}.from"))


def parse_policy(
    *, classes: Mapping[str, object], control: Iterable[object], platform: Iterable[object], hub_port: int,
    nameservers: Iterable[object], reserved: Iterable[object], guards: Iterable[object], session_groups: Iterable[str],
    bridge_table: bool,
) -> Policy:  # fmt: skip
    """Read the variables of the `network` role. Raises ValueError with one message for the first that is wrong."""
    parsed = parse_classes(classes, "network_classes")
    platform_networks = parse_networks(platform, "network_platform_addresses")
    control_networks = parse_networks(control, "network_control_addresses")
    for one in parsed:
        for host in (*platform_networks, *control_networks):
            if isinstance(host, ipaddress.IPv4Network) and one.subnet.overlaps(host):
                raise ValueError(
                    f"network_classes.{one.name}.subnet: {one.subnet} overlaps the host {host.with_prefixlen}; "
                    "wanted a network that is not in use"
                )
    groups = tuple(session_groups)
    for group in groups:
        if not _GROUP.fullmatch(group):
            raise _fail("network_session_groups", group, "names of local groups")
    return Policy(
        parsed, control_networks, platform_networks, int(hub_port), parse_networks(nameservers, "network_nameservers"),
        parse_networks(reserved, "network_reserved"), tuple(parse_guard(g, f"network_guards[{i}]") for i, g in enumerate(guards)),
        groups, bridge_table,
    )  # fmt: skip


def _text(network: Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _family(networks: Iterable[Network], version: int) -> list[str]:
    """The networks of one family as text, merged and sorted so that the order of the inventory makes no difference."""
    mine = [n for n in networks if n.version == version]
    merged = ipaddress.collapse_addresses(mine)  # type: ignore[type-var]
    return [_text(n) for n in merged]


def _braces(items: Iterable[object]) -> str:
    return "{ " + ", ".join(str(item) for item in items) + " }"


def _set(name: str, networks: Iterable[Network]) -> list[str]:
    lines = [f"\tset {name} {{", "\t\ttype ipv4_addr; flags interval; auto-merge;"]
    if elements := _family(networks, 4):
        lines.append(f"\t\telements = {_braces(elements)};")
    return [*lines, "\t}"]


def _class_chain(one: EgressClass) -> list[str]:
    lines = [
        f"\tchain class_{one.name.replace('-', '_')} {{",
        f'\t\tip saddr != {one.subnet} counter drop comment "not an address of this class"',
    ]
    # Names are the resolver's and the proxy's work; this knows addresses.
    for place in [allow for allow in one.allow if allow.network]:
        for text in port_texts(place.ports):
            protocol, _, ports = text.partition("/")
            match = f"meta l4proto {protocol}" if ports == "1-65535" else f"{protocol} dport {ports}"
            lines.append(f"\t\tip daddr {place.place.removesuffix('/32')} {match} counter accept")
    if one.public_internet:
        lines += [
            "\t\tip daddr @nameservers meta l4proto { tcp, udp } th dport 53 counter accept",
            '\t\tip daddr @reserved counter goto refuse comment "not the public internet"',
            '\t\tmeta l4proto tcp counter accept comment "the public internet"',
        ]
    return [*lines, "\t\tcounter goto refuse", "\t}"]


def _guards(guards: Iterable[Guard]) -> list[str]:
    lines = []
    for guard in guards:
        ports = f"{guard.protocol} dport {_braces(sorted(set(guard.ports)))}"
        for keyword, version in (("ip", 4), ("ip6", 6)):
            if sources := _family(guard.sources, version):
                lines.append(f"\t\t{keyword} saddr {_braces(sources)} {ports} accept")
        lines.append(f"\t\t{ports} counter drop")
    return lines


def render(policy: Policy) -> str:
    """The whole rule file. The same policy always gives the same text."""
    bridges = _braces(f'"{network_name(c.name)}" : jump class_{c.name.replace("-", "_")}' for c in policy.classes)
    lines = [
        "# Made by the network role; changes are overwritten.",
        "# Adding a table before deleting it makes the deletion legal when it is not there. All of it is one transaction,",
        "# so there is no moment without rules.",
        "table inet metalhub",
        "delete table inet metalhub",
        "table inet metalhub {",
        *_set("control", policy.control),
        *_set("platform", (*policy.platform, *policy.control)),
        *_set("subnets", (c.subnet for c in policy.classes)),
        *_set("nameservers", policy.nameservers),
        *_set("reserved", policy.reserved),
        "",
        "\t# After connection tracking and before Docker's DNAT: a rule sees the address the session asked for, so a",
        "\t# published port of another session is as closed as any other port of a host.",
        "\tchain prerouting {",
        "\t\ttype filter hook prerouting priority mangle; policy accept;",
        '\t\tiifname "mh-*" goto from_session',
        "\t}",
        "\tchain from_session {",
        '\t\tmeta nfproto != ipv4 counter drop comment "IPv6 is closed"',
        "\t\tct state established,related accept",
        "\t\tct state invalid counter drop",
        f'\t\tip daddr @control tcp dport {policy.hub_port} ip saddr @subnets counter accept comment "the hub\'s API"',
        '\t\tfib daddr type != unicast counter goto refuse comment "this host, broadcast, multicast"',
        '\t\tip daddr @platform counter goto refuse comment "hosts of the platform"',
        '\t\tip daddr @subnets counter goto refuse comment "other sessions"',
        '\t\tip daddr 169.254.0.0/16 counter goto refuse comment "link-local: cloud metadata"',
        *([f"\t\tiifname vmap {bridges}"] if policy.classes else []),
        '\t\tcounter drop comment "a session bridge of no class"',
        "\t}",
        *[line for one in policy.classes for line in _class_chain(one)],
        "\t# A refused connection ends at once instead of hanging until a time-out.",
        "\tchain refuse {",
        "\t\tfib daddr type { broadcast, multicast, anycast } drop",
        "\t\tmeta l4proto tcp reject with tcp reset",
        "\t\tlimit rate 100/second reject with icmpx type admin-prohibited",
        "\t\tdrop",
        "\t}",
        "",
        "\t# Published session ports, after DNAT: the control host's hub and Traefik, nobody else.",
        "\tchain forward {",
        "\t\ttype filter hook forward priority filter; policy accept;",
        '\t\toifname "mh-*" goto to_session',
        "\t}",
        "\tchain to_session {",
        "\t\tmeta nfproto != ipv4 counter drop",
        '\t\tiifname "mh-*" counter drop comment "from another session"',
        "\t\tct state established,related accept",
        "\t\tip saddr @control meta l4proto tcp counter accept",
        "\t\tcounter drop",
        "\t}",
        "\tchain output {",
        "\t\ttype filter hook output priority filter; policy accept;",
        "\t\t# By address: after Docker's DNAT of a local connection this hook still shows the interface it had before.",
        "\t\tip daddr @subnets goto local_to_session",
        '\t\toifname "mh-*" goto local_to_session',
        "\t}",
        "\tchain local_to_session {",
        "\t\tmeta nfproto != ipv4 counter drop",
        "\t\tct state established,related accept",
        *(
            [f"\t\tmeta skgid {_braces(sorted(set(policy.session_groups)))} meta l4proto tcp counter accept"]
            if policy.session_groups
            else []
        ),
        "\t\tcounter drop",
        "\t}",
        "",
        "\t# Ports of the platform's own services on this host. Ports not named here are left to the site's own rules.",
        "\tchain input {",
        "\t\ttype filter hook input priority filter; policy accept;",
        '\t\tiifname "lo" accept',
        '\t\tiifname "mh-*" accept comment "decided in from_session"',
        "\t\tct state established,related accept",
        *_guards(policy.guards),
        "\t}",
        "}",
        "",
        "# Frames between two sessions on one bridge; below IP, so that no other protocol passes either.",
        "table bridge metalhub",
        "delete table bridge metalhub",
    ]
    if policy.bridge_table:
        lines += [
            "table bridge metalhub {",
            "\tchain forward {",
            "\t\ttype filter hook forward priority filter; policy accept;",
            '\t\tmeta ibrname "mh-*" counter drop',
            "\t}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def ruleset(variables: Mapping[str, Any]) -> str:
    """Parse and render in one step: the keywords of `parse_policy` to the text of the rule file."""
    return render(parse_policy(**variables))
