"""Authority and resolver for every name of the fake internet, by UDP and TCP."""

from __future__ import annotations

import collections
import ipaddress
import re
import struct

from ..places import ADDRESSES, ADDRESSES6, NAMES, TOKEN
from .log import SECRET, seen

TYPES = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 255: "ANY"}
# What a name of the kind r-<kind>-<anything>.wild.example leads to: a listed name that turns against the site.
REBIND = {
    "internal": "10.99.0.10", "metadata": "169.254.169.254", "loopback": "127.0.0.1", "zero": "0.0.0.0",
    "cgnat": "100.64.0.10", "ten": "10.99.0.10", "bench": "198.18.0.10",
}  # fmt: skip
REBIND6 = {"mapped": "::ffff:10.99.0.10", "ula": "fd99::10", "loop6": "::1", "link6": "fe80::1"}
_asked: collections.Counter[str] = collections.Counter()


def encode(name: str) -> bytes:
    """A name in wire form."""
    return b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.strip(".").split(".") if label) + b"\0"


def question(packet: bytes) -> tuple[str, int, int]:
    """The first question's name, type, and where it ends."""
    labels, position = [], 12
    while packet[position]:
        size = packet[position]
        if size & 0xC0:
            raise ValueError("a pointer in a question")
        labels.append(packet[position + 1 : position + 1 + size].decode("latin-1"))
        position += 1 + size
    return ".".join(labels).lower(), int.from_bytes(packet[position + 1 : position + 3], "big"), position + 5


def _addresses(name: str, hosts: dict[str, str]) -> list[str]:
    """All addresses of a name. `hosts` are the platform's own, for names that lead back to it: r-host-control-….wild.example."""
    if found := re.match(r"r-host-([a-z0-9]+)-", name):
        return [hosts.get(found[1], "0.0.0.0")]
    if found := re.match(r"r-addr-([0-9-]+?)-[a-z]", name):
        return [found[1].replace("-", ".")]
    if found := re.match(r"r-(\w+)-", name):
        kind = found[1]
        if kind == "both":  # the second answer is the private one
            return [ADDRESSES["allowed"], ADDRESSES["internal"]]
        if kind == "flip":  # the second time the private one
            _asked[name] += 1
            return [ADDRESSES["allowed"] if _asked[name] == 1 else ADDRESSES["internal"]]
        return [a for a in (REBIND.get(kind), REBIND6.get(kind)) if a]
    if name in NAMES:
        place = NAMES[name]
        return [ADDRESSES[place], *([ADDRESSES6[place]] if place in ADDRESSES6 else [])]
    if name.endswith((".wild.example", ".pkg.example", "allowed.example")):
        return [ADDRESSES["allowed"]]
    if name.endswith("attacker.example"):
        return [ADDRESSES["attacker"], ADDRESSES6["attacker"]]
    return []


def _data(name: str, kind: int, hosts: dict[str, str]) -> list[tuple[int, bytes]]:
    """The answers as (type, data)."""
    if (name.startswith("r-cname-")) and kind in (1, 28):
        return [(5, encode("internal.example")), *_data("internal.example", kind, hosts)]
    if kind in (1, 28):
        packed = [ipaddress.ip_address(a).packed for a in _addresses(name, hosts)]
        return [(kind, p) for p in packed if len(p) == (4 if kind == 1 else 16)]
    secret = SECRET.encode()
    forms = {
        16: bytes([len(secret)]) + secret, 10: secret, 5: encode(f"{SECRET}.attacker.example"), 2: encode(f"{SECRET}.attacker.example"),
        12: encode(f"{SECRET}.attacker.example"), 15: b"\0\x0a" + encode(f"{SECRET}.attacker.example"),
        33: b"\0\0\0\0\0\x50" + encode(f"{SECRET}.attacker.example"), 255: bytes([len(secret)]) + secret,
    }  # fmt: skip
    if kind in (64, 65):  # SVCB and HTTPS: a priority, a target, and a private key 65400 with data
        return [(kind, b"\0\x01\0" + struct.pack(">HH", 65400, len(secret)) + secret)]
    return [(16 if kind == 255 else kind, forms.get(kind, secret))]


def respond(packet: bytes, place: str, port: int, hosts: dict[str, str], way: str) -> bytes:
    """Log the tokens of a query and answer it. Whatever cannot be read is logged, and echoed as a failure."""
    facts: dict[str, object] = {"place": place, "port": port, "protocol": "dns", "way": way}
    try:
        name, kind, end = question(packet)
    except (IndexError, ValueError):
        seen(packet, name="?", type="?", extra=True, **facts)
        return packet[:2] + b"\x81\x81" + packet[4:]
    facts |= {"name": name, "type": TYPES.get(kind, str(kind))}
    if TOKEN.search(packet[end:].lower()):
        seen(packet, extra=True, **facts)
    else:
        seen(packet[:end], **facts)
    answers = _data(name, kind, hosts)
    head = packet[:2] + (b"\x85\x80" if answers else b"\x85\x83") + struct.pack(">HHHH", 1, len(answers), 0, 0)
    return head + packet[12:end] + b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", what, 1, 0 if name.startswith("r-") else 30, len(data)) + data for what, data in answers
    )
