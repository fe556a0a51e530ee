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

from .egress_terms import EXPLICIT, INTERCEPT_HTTP, INTERCEPT_TLS, LOG_GROUP
from .names import network_name

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Mark of connections that a rule by address let through; no proxy comes between.
DIRECT = "0x6d68"
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)


@dataclass(frozen=True)
class Guard:
    """Ports of this host's own services, and the only networks that may reach them (loopback always may)."""

    ports: tuple[int, ...]
    protocol: str
    sources: tuple[Network, ...]


@dataclass(frozen=True)
class Policy:
    """All that decides one host's rules.

    `egress` is the compiled policy (`egress.compile_policy`), `proxy_user` the user that the proxy runs as (empty where there is
    none), and `session_groups` are the local groups whose processes may open session ports on this host.
    """

    egress: Mapping[str, Any]
    proxy_user: str
    control: tuple[Network, ...]
    platform: tuple[Network, ...]
    hub_port: int
    guards: tuple[Guard, ...]
    session_groups: tuple[str, ...]
    bridge_meta: bool


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
    *, egress: Mapping[str, Any], proxy_user: str, control: Iterable[object], platform: Iterable[object], hub_port: int,
    guards: Iterable[object], session_groups: Iterable[str], bridge_meta: bool,
) -> Policy:  # fmt: skip
    """Read the variables of the `network` role. Raises ValueError with one message for the first that is wrong."""
    platform_networks = parse_networks(platform, "network_platform_addresses")
    control_networks = parse_networks(control, "network_control_addresses")
    for name, one in sorted(egress["classes"].items()):
        subnet = ipaddress.ip_network(one["subnet"])
        for host in (*platform_networks, *control_networks):
            if isinstance(host, ipaddress.IPv4Network) and subnet.overlaps(host):
                raise ValueError(
                    f"network_policy.classes.{name}.subnet: {subnet} overlaps the host {host.with_prefixlen}; "
                    "wanted a network that is not in use"
                )
    groups = tuple(session_groups)
    for group in (*groups, *([proxy_user] if proxy_user else [])):
        if not _GROUP.fullmatch(group):
            raise _fail("network_session_groups, network_proxy_user", group, "names of local groups and users")
    return Policy(
        egress, proxy_user, control_networks, platform_networks, int(hub_port),
        tuple(parse_guard(g, f"network_guards[{i}]") for i, g in enumerate(guards)), groups, bridge_meta,
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


def _match(ports: str) -> str:
    """A port list's entry of the compiled policy, such as ``tcp/443`` or ``udp/1-65535``, as a match of nft."""
    protocol, _, numbers = ports.partition("/")
    return f"meta l4proto {protocol}" if numbers == "1-65535" else f"{protocol} dport {numbers}"


def _quantity(one: Mapping[str, Any]) -> str:
    # A burst of a tenth of a second, or TCP would never come near the rate; and no less than a few full segments.
    return f"limit rate over {one['bandwidth']} bytes/second burst {max(one['bandwidth'] // 10, 65536)} bytes"


def _class_sets(name: str, one: Mapping[str, Any]) -> list[str]:
    lines = []
    if one["connections"]:
        lines += [f"\tset connections_{name} {{", "\t\ttype ipv4_addr; size 65536; flags dynamic;", "\t}"]
    if one["bandwidth"]:
        for way in ("up", "down"):
            lines += [f"\tset {way}_{name} {{", "\t\ttype ipv4_addr; size 65536; flags dynamic; timeout 1m;", "\t}"]
    for key in sorted(one["name_sets"]):
        lines += [f"\tset {key} {{", '\t\ttype ipv4_addr; flags timeout; timeout 1h; comment "filled by the resolver";', "\t}"]
    return lines


def _class_chain(name: str, one: Mapping[str, Any]) -> list[str]:
    lines = [f"\tchain class_{name} {{"]
    if one["connections"]:
        lines.append(f"\t\tadd @connections_{name} {{ ip saddr ct count over {one['connections']} }} counter goto refuse")
    if one["named"]:
        lines += [
            # Not by TCP, where whatever follows a query goes with it to the site's own resolver.
            f"\t\tip daddr {one['gateway']} udp dport 53 counter accept",
            f"\t\tip daddr {one['gateway']} tcp dport {EXPLICIT} counter accept",
        ]
    lines.append("\t\tjump inside")
    for ports, networks in sorted(one["deny"]["networks"].items()):
        lines.append(f"\t\tip daddr {_braces(networks)} {_match(ports)} counter goto refuse")
    for ports, networks in sorted(one["allow"]["networks"].items()):
        lines.append(f"\t\tip daddr {_braces(networks)} {_match(ports)} counter ct mark set {DIRECT} accept")
    for key, content in sorted(one["name_sets"].items()):
        lines += [f"\t\tip daddr @{key} {_match(ports)} counter ct mark set {DIRECT} accept" for ports in content["ports"]]
    if one["named"]:
        lines.append('\t\tip daddr != @closed tcp dport { 80, 443 } counter accept comment "the proxy decides"')
    if one["public_internet"]:
        lines += [
            '\t\tip daddr @closed counter goto refuse comment "not the public internet"',
            '\t\tip daddr @site counter goto refuse comment "networks of the site"',
            '\t\ttcp dport { 53, 853 } counter goto refuse comment "other resolvers"',
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


def _by_bridge(keyword: str, verdicts: Mapping[str, str]) -> list[str]:
    """Go on by the class of a packet's bridge."""
    pairs = [f'"{bridge}" : {verdict}' for bridge, verdict in verdicts.items()]
    return [f"\t\t{keyword} vmap {_braces(pairs)}"] if pairs else []


def render(policy: Policy) -> str:
    """The whole rule file. The same policy always gives the same text."""
    classes = {name.replace("-", "_"): one for name, one in sorted(policy.egress["classes"].items())}
    names = {name.replace("-", "_"): network_name(name) for name in policy.egress["classes"]}
    bridges = {names[name]: f"goto class_{name}" for name in classes}
    limited = {names[name]: name for name, one in classes.items() if one["bandwidth"]}
    quantity = {name: _quantity(one) for name, one in classes.items() if one["bandwidth"]}
    direct = sorted({(ports, network) for one in classes.values() for ports, some in one["allow"]["networks"].items() for network in some})
    gateways = sorted(one["gateway"] for one in classes.values() if one["named"])
    lines = [
        "# Made by the network role; changes are overwritten.",
        "# Adding a table before deleting it makes the deletion legal when it is not there. All of it is one transaction,",
        "# so there is no moment without rules.",
        "table inet metalhub",
        "delete table inet metalhub",
        "table inet metalhub {",
        *_set("control", policy.control),
        *_set("platform", (*policy.platform, *policy.control)),
        *_set("subnets", (ipaddress.ip_network(one["subnet"]) for one in classes.values())),
        *_set("site", map(ipaddress.ip_network, policy.egress["site_networks"])),
        *_set("closed", map(ipaddress.ip_network, policy.egress["closed"])),
        "\tset refused {",
        "\t\ttype ipv4_addr; size 65536; flags dynamic; timeout 1m;",
        "\t}",
        *[line for name, one in classes.items() for line in _class_sets(name, one)],
        "",
        "\t# After connection tracking and before Docker's DNAT: a rule sees the address the session asked for, so a",
        "\t# published port of another session is as closed as any other port of a host.",
        "\tchain prerouting {",
        "\t\ttype filter hook prerouting priority mangle; policy accept;",
        '\t\tiifname "mh-*" goto from_session',
        "\t}",
        "\tchain from_session {",
        '\t\tmeta nfproto != ipv4 counter drop comment "IPv6 is closed"',
        *_by_bridge("iifname", {bridge: f"jump up_{name}" for bridge, name in limited.items()}),
        "\t\tct state established,related accept",
        "\t\tct state invalid counter drop",
        '\t\tmeta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn counter goto refuse comment "of a connection that was cut"',
        f"\t\tip daddr @control tcp dport {policy.hub_port} ip saddr @subnets counter ct mark set {DIRECT} accept"
        ' comment "the hub\'s API"',
        *_by_bridge("iifname", {names[name]: f"jump source_{name}" for name in classes}),
        *_by_bridge("iifname", bridges),
        '\t\tcounter drop comment "a session bridge of no class"',
        "\t}",
        *[line for name, one in classes.items() for line in (
            f"\tchain source_{name} {{", f'\t\tip saddr != {one["subnet"]} counter drop comment "not an address of this class"', "\t}",
        )],
        *[line for name in limited.values() for line in (
            f"\tchain up_{name} {{", f"\t\tupdate @up_{name} {{ ip saddr {quantity[name]} }} counter drop", "\t}",
            f"\tchain down_{name} {{", f"\t\tupdate @down_{name} {{ ip daddr {quantity[name]} }} counter drop", "\t}",
        )],
        "\t# What no class opens.",
        "\tchain inside {",
        '\t\tfib daddr type != unicast counter goto refuse comment "this host, broadcast, multicast"',
        '\t\tip daddr @platform counter goto refuse comment "hosts of the platform"',
        '\t\tip daddr @subnets counter goto refuse comment "other sessions"',
        '\t\tip daddr 169.254.0.0/16 counter goto refuse comment "link-local: cloud metadata"',
        "\t}",
        *[line for name, one in classes.items() for line in _class_chain(name, one)],
        "\t# A refused connection ends at once instead of hanging until a time-out. What is no connection gets no answer: it would",
        "\t# hold the packet, and go to whoever the sender says he is.",
        "\tchain refuse {",
        "\t\tfib daddr type { broadcast, multicast, anycast } drop",
        f"\t\tupdate @refused {{ ip saddr limit rate 5/second burst 20 packets }} log group {LOG_GROUP} snaplen 128",
        "\t\tmeta l4proto tcp reject with tcp reset",
        "\t\tdrop",
        "\t}",
        "",
        "\t# Before Docker's own translation: what the class leaves to the proxy goes there, wherever it was sent.",
        "\tchain intercept {",
        "\t\ttype nat hook prerouting priority dstnat - 5; policy accept;",
        f'\t\tiifname "mh-*" ct mark != {DIRECT} tcp dport 80 redirect to :{INTERCEPT_HTTP}',
        f'\t\tiifname "mh-*" ct mark != {DIRECT} tcp dport 443 redirect to :{INTERCEPT_TLS}',
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
        *_by_bridge("oifname", {bridge: f"jump down_{name}" for bridge, name in limited.items()}),
        "\t\tct state established,related accept",
        "\t\tip saddr @control meta l4proto tcp counter accept",
        "\t\tcounter drop",
        "\t}",
        "\tchain output {",
        "\t\ttype filter hook output priority filter; policy accept;",
        *(
            [f'\t\tmeta skuid "{policy.proxy_user}" ip saddr 127.0.0.1 ip daddr {_braces(gateways)} udp dport 53 accept']
            if policy.proxy_user and gateways
            else []
        ),
        "\t\t# By address: after Docker's DNAT of a local connection this hook still shows the interface it had before.",
        "\t\tip daddr @subnets goto local_to_session",
        '\t\toifname "mh-*" goto local_to_session',
        *([f'\t\tmeta skuid "{policy.proxy_user}" goto from_proxy'] if policy.proxy_user else []),
        "\t}",
        "\tchain local_to_session {",
        "\t\tmeta nfproto != ipv4 counter drop",
        *_by_bridge("oifname", {bridge: f"jump down_{name}" for bridge, name in limited.items()}),
        "\t\tct state established,related accept",
        *(
            [f"\t\tmeta skgid {_braces(sorted(set(policy.session_groups)))} meta l4proto tcp counter accept"]
            if policy.session_groups
            else []
        ),
        "\t\tcounter drop",
        "\t}",
        "\t# Whatever the proxy was talked into, and whatever a name leads to: nothing of the platform, and nothing private that the site",
        "\t# did not name.",
        "\tchain from_proxy {",
        "\t\tct state established,related accept",
        '\t\tip saddr 127.0.0.1 ip daddr 127.0.0.1 tcp dport 32768-60999 accept comment "squid talks to its helpers like this"',
        "\t\tfib daddr type != unicast counter reject",
        "\t\tip daddr @platform counter reject",
        *[f"\t\tip daddr {network} {_match(ports)} counter accept" for ports, network in direct if ports.startswith("tcp/")],
        "\t\tip daddr @closed counter reject",
        "\t\tmeta nfproto ipv4 meta l4proto tcp counter accept",
        "\t\tcounter reject",
        "\t}",
        "",
        "\t# Ports of the platform's own services on this host. Ports not named here are left to the site's own rules.",
        "\tchain input {",
        "\t\ttype filter hook input priority filter; policy accept;",
        '\t\tiifname "lo" accept',
        '\t\tiifname "mh-*" accept comment "decided in from_session"',
        "\t\tct state established,related accept",
        "\t\tip daddr @subnets counter drop comment \"the resolver and the proxy are for sessions\"",
        f"\t\ttcp dport {{ {EXPLICIT}, {INTERCEPT_HTTP}, {INTERCEPT_TLS} }} counter drop",
        *_guards(policy.guards),
        "\t}",
        "}",
        "",
        "# Frames between two sessions on one bridge; below IP, so that no other protocol passes either.",
        "table bridge metalhub",
        "delete table bridge metalhub",
    ]
    # Where the kernel cannot tell bridges apart, IP is br_netfilter's and Docker's to stop; the rest is stopped between all containers.
    frames = 'meta ibrname "mh-*"' if policy.bridge_meta else 'iifname "veth*" oifname "veth*" meta protocol != ip'
    lines += [
        "table bridge metalhub {",
        "\tchain forward {",
        "\t\ttype filter hook forward priority filter; policy accept;",
        f"\t\t{frames} counter drop",
        "\t}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def ruleset(variables: Mapping[str, Any]) -> str:
    """Parse and render in one step: the keywords of `parse_policy` to the text of the rule file."""
    return render(parse_policy(**variables))
