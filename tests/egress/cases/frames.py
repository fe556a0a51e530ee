"""Packets and frames made by hand, from the session's network namespace: raw sockets, other protocols, forged senders, the bridge itself."""

from __future__ import annotations

from .table import Case, case

PROTOCOLS = {2: "IGMP", 4: "IP in IP", 8: "EGP", 27: "RDP", 41: "IPv6 in IPv4", 46: "RSVP", 47: "GRE", 50: "ESP", 51: "AH", 88: "EIGRP", 89: "OSPF", 97: "EtherIP",
             103: "PIM", 108: "IPComp", 112: "VRRP", 115: "L2TP", 137: "MPLS in IP", 253: "experiment", 255: "reserved"}  # fmt: skip
ICMP = {"echo": (8, 0), "echo reply": (0, 0), "unreachable": (3, 3), "too large": (3, 4), "quench": (4, 0), "redirect": (5, 1), "advertisement": (9, 0),
        "solicitation": (10, 0), "time exceeded": (11, 0), "parameter": (12, 0), "timestamp": (13, 0), "information": (15, 0), "mask": (17, 0),
        "extended echo": (42, 0), "of no type": (200, 0)}  # fmt: skip
TCP = {"SYN with data": "S", "ACK with data": "A", "FIN": "F", "RST": "R", "null": "", "xmas": "FPU", "SYN and ACK": "SA", "SYN and FIN": "SF", "PSH": "PA", "urgent": "UA"}
SOURCES = {"a session of the open class": "{other}", "the neighbour": "{same}", "the gateway": "{gw}", "the node": "{node}", "the control host": "{control}",
           "a stranger": "203.0.113.99", "loopback": "127.0.0.1", "the target itself": "{attacker}", "nobody": "0.0.0.0", "a multicast group": "224.0.0.9"}  # fmt: skip
MARTIAN = {"loopback", "nobody", "a multicast group", "the gateway", "the node"}
KERNEL = "the kernel drops such a source before any rule"
TYPES = {"experiment": 0x88B5, "802.1X": 0x888E, "LLDP": 0x88CC, "MPLS": 0x8847, "PPPoE": 0x8864, "AppleTalk": 0x809B, "IPX": 0x8137, "RARP": 0x8035, "ATA": 0x88A2}
EXTENSIONS = ("hop-by-hop", "destination", "routing", "fragment")


def cases() -> list[Case]:
    return [*_protocols(), *_sources(), *_six(), *_bridge()]


def _raw(family: str, name: str, method: str, /, **more: object) -> Case:
    return case(family, name, method, where="poison" if method == "arp" else "netns", **more)  # type: ignore[arg-type]


def _protocols() -> list[Case]:
    raw = "raw sockets"
    found = [_raw("ICMP", name, "ip4", to="{attacker}", protocol=1, icmp=code) for name, code in ICMP.items()]
    found += [_raw("ICMP", f"echo to {place}", "ip4", to=f"{{{place}}}", protocol=1) for place in ("internal", "metadata", "allowed", "nameserver")]
    found += [
        _raw("ICMP", "an error about a permitted flow, sent to the attacker", "related", to="{attacker}", flow="{listed}:9999"),
        _raw("ICMP", "a redirect to the gateway", "ip4", to="{gw}", protocol=1, icmp=(5, 1), unshown="the kernel answers nothing to it"),
    ]  # fmt: skip
    found += [_raw("SCTP", f"INIT to {place}:{port}", "ip4", to=f"{{{place}}}", protocol=132, dport=port)
              for place, port in (("attacker", 443), ("attacker", 9899), ("cdn", 443), ("allowed", 80), ("internal", 36412), ("listed", 443))]  # fmt: skip
    found += [_raw(raw, name, "ip4", to="{attacker}", protocol=number) for number, name in PROTOCOLS.items()]
    found += [_raw(raw, f"TCP {name}", "ip4", to="{attacker}", protocol=6, flags=flags) for name, flags in TCP.items()]
    found += [_raw(raw, f"UDP to {place}", "ip4", to=f"{{{place}}}", dport=9999) for place in ("attacker", "internal", "metadata", "allowed")]
    found += [
        _raw(raw, "UDP lite", "ip4", to="{attacker}", protocol=136),
        _raw(raw, "DCCP", "ip4", to="{attacker}", protocol=33),
        _raw(raw, "fragments, in order", "ip4", to="{attacker}", pieces="small"),
        _raw(raw, "fragments, the header last", "ip4", to="{attacker}", pieces="late header"),
        _raw(raw, "fragments of TCP", "ip4", to="{attacker}", protocol=6, pieces="small"),
        _raw(raw, "fragments that overlap", "ip4", to="{attacker}", pieces="overlap", unshown="the kernel drops what overlaps"),
        _raw(raw, "one hop left", "ip4", to="{attacker}", ttl=2),
        _raw(raw, "in a packet to the listed address", "ip4", to="{attacker}", wrap="{listed}"),
        _raw(raw, "in a packet to the node", "ip4", to="{attacker}", wrap="{gw}", unshown="the node unwraps nothing without a tunnel of its own"),
        _raw(raw, "loose source route", "ip4", to="{attacker}", options="loose route", unshown="the kernel takes no source routes by default"),
        _raw(raw, "strict source route", "ip4", to="{attacker}", options="strict route", unshown="the kernel takes no source routes by default"),
        _raw(raw, "to the node's loopback", "ip4", to="127.0.0.1", dport=8998),
    ]
    found += [_raw(raw, f"IP option {name}", "ip4", to="{attacker}", options=name) for name in ("record route", "timestamp", "router alert", "security", "unknown")]
    found += [
        _raw(raw, f"inside the sandbox, {name}", "raw_socket", family=family, kind=kind, protocol=protocol, to="{attacker}",
             unshown="the sandbox has no such sockets, whatever the network does")
        for name, family, kind, protocol in (("ICMP", 2, 3, 1), ("IP", 2, 3, 255), ("TCP", 2, 3, 6), ("frames", 17, 3, 3), ("ICMP without privilege", 2, 2, 1))
    ]  # fmt: skip
    return [c if c.method != "raw_socket" else case(c.family, c.name, c.method, unshown=dict(c.unshown), **c.arguments) for c in found]


def _sources() -> list[Case]:
    family = "spoofed source"
    found = [_raw(family, f"UDP from {name}", "ip4", to="{attacker}", source=text, dport=9999, unshown=KERNEL if name in MARTIAN else "") for name, text in SOURCES.items()]
    found += [_raw(family, f"TCP from {name}", "ip4", to="{attacker}", source=SOURCES[name], protocol=6) for name in ("a session of the open class", "the neighbour", "a stranger")]
    found += [
        _raw(family, "the open class's address to the interception", "ip4", to="{attacker}", source="{other}", protocol=6, dport=443),
        _raw(family, "the open class's address to the resolver", "dns4", to="{gw}", source="{other}"),
        _raw(family, "the open class's address to its own resolver", "dns4", to="{gw_open}", source="{other}"),
        _raw(family, "the node's address to the site's nameserver", "dns4", to="{nameserver}", source="{node}", unshown=KERNEL),
        _raw(family, "an answer to a connection that nobody opened", "answer", to="{attacker}", sport=443),
        _raw(family, "an answer of a service's port", "answer", to="{control}", sport=8888, dport=9100),
    ]  # fmt: skip
    return found


def _six() -> list[Case]:
    found = [_raw("IPv6 frames", f"{name}", "ip6", to="{attacker6}", protocol=protocol, dport=port)
             for name, protocol, port in (("TCP 443", 6, 443), ("TCP 80", 6, 80), ("UDP 53", 17, 53), ("UDP 443", 17, 443), ("UDP 9999", 17, 9999), ("ICMP echo", 58, 0),
                                          ("SCTP", 132, 443), ("GRE", 47, 0), ("IPv4 in IPv6", 4, 0), ("no next header", 59, 0))]  # fmt: skip
    found += [_raw("IPv6 frames", f"behind a {name} header", "ip6", to="{attacker6}", before=name) for name in EXTENSIONS]
    found += [_raw("IPv6 frames", f"to {name}", "ip6", to=text, dport=9999) for name, text in (("a private address", "{internal6}"), ("a listed name's address", "{allowed6}"))]
    found += [
        _raw("IPv6 frames", "the control host's service", "ip6", to="{control6}", dport=7946),
        _raw("IPv6 frames", "the node's service", "ip6", to="{gateway6}", dport=7948),
        _raw("IPv6 frames", "all nodes, by multicast", "ip6", to="ff02::1", dport=7946, to_mac="33:33:00:00:00:01"),
        _raw("IPv6 frames", "router advertisement to all", "ip6", to="ff02::1", protocol=58, icmp=(134, 0), to_mac="33:33:00:00:00:01"),
        _raw("IPv6 frames", "neighbour advertisement to another session", "ip6", to="{same6}", protocol=58, icmp=(136, 0), to_mac="{same_mac}"),
        _raw("IPv6 frames", "another session", "ip6", to="{same6}", dport=8888, to_mac="{same_mac}"),
        _raw("IPv6 frames", "from another's address", "ip6", to="{attacker6}", source="fd77:1::99", dport=9999),
        _raw("IPv6 frames", "an IPv6 packet with a mapped address", "ip6", to="::ffff:198.51.100.66", unshown="the kernel routes no mapped address"),
    ]
    return found


def _bridge() -> list[Case]:
    arp, other = "gratuitous ARP", "another session, frames"
    found = [
        _raw(arp, "claim the gateway's address", "arp", claim="{gw}"),
        _raw(arp, "claim the neighbour's address", "arp", claim="{same}"),
        _raw(arp, "claim the gateway's address to one neighbour", "arp", claim="{gw}", target="{same}", to_mac="{same_mac}"),
        _raw(arp, "ask for the neighbour", "arp", claim="{me}", target="{same}", operation=1),
        _raw(arp, "an announcement", "arp", claim="{gw}", target="{gw}", operation=1),
        _raw(arp, "a probe", "arp", claim="0.0.0.0", target="{same}", operation=1),
        _raw(arp, "with another's hardware address", "arp", claim="{gw}", hardware="{gateway_mac}"),
        _raw(arp, "reverse", "arp", claim="{same}", operation=4),
        _raw(arp, "a DHCP request", "dhcp"),
    ]
    found += [_raw(other, f"{name} to one neighbour", "ether", kind=kind, to_mac="{same_mac}") for name, kind in TYPES.items()
              if name not in ("LLDP",)]  # fmt: skip
    found += [_raw(other, f"{name} to all", "ether", kind=TYPES[name], to_mac="ff:ff:ff:ff:ff:ff") for name in ("experiment", "802.1X", "IPX")]
    found += [
        _raw(other, "in a VLAN", "ether", kind=0x88B5, to_mac="{same_mac}", vlan=(42,)),
        _raw(other, "in VLAN 0", "ether", kind=0x88B5, to_mac="{same_mac}", vlan=(0,)),
        _raw(other, "in two VLANs", "ether", kind=0x88B5, to_mac="{same_mac}", vlan=(42, 43)),
        _raw(other, "UDP on the bridge", "ip4", to="{same}", dport=8888, to_mac="{same_mac}"),
        _raw(other, "TCP on the bridge", "ip4", to="{same}", protocol=6, dport=8888, to_mac="{same_mac}"),
        _raw(other, "ICMP on the bridge", "ip4", to="{same}", protocol=1, to_mac="{same_mac}"),
        _raw(other, "IP in a VLAN", "ip4", to="{same}", dport=8888, to_mac="{same_mac}", vlan=(7,)),
        _raw(other, "UDP by the gateway", "ip4", to="{same}", dport=8888),
        _raw(other, "UDP by the gateway to another class", "ip4", to="{other}", dport=8888),
        _raw(other, "SCTP on the bridge", "ip4", to="{same}", protocol=132, dport=8888, to_mac="{same_mac}"),
        _raw(other, "multicast", "ip4", to="224.0.0.251", dport=5353, to_mac="01:00:5e:00:00:fb"),
        _raw(other, "a broadcast", "ip4", to="255.255.255.255", dport=7946, to_mac="ff:ff:ff:ff:ff:ff"),
    ]
    return found
