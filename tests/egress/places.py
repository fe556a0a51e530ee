"""The fake internet's map: which addresses and names there are, and which of them a session may reach.

All addresses are from ranges for documentation and tests (RFC 5737, RFC 3849) or private; the test host `outside` has them all.
molecule/egress/inventory holds the same classes as the operator writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TOKEN = re.compile(rb"tok[0-9a-f]{12}")

ADDRESSES = {
    "allowed": "203.0.113.10",  # what the classes list by name
    "cdn": "203.0.113.20",  # shared: a listed name and names of strangers lead here
    "nameserver": "203.0.113.53",  # the site's; nodes ask it, sessions must not
    "doh": "203.0.113.8",  # a public resolver over HTTPS and TLS
    "attacker": "198.51.100.66",
    "attacker_dns": "198.51.100.53",
    "listed": "192.0.2.80",  # what the class lists as an address
    "internal": "10.99.0.10",
    "corp": "10.99.1.10",  # in a network of the site, and so where a listed name may lead
    "metadata": "169.254.169.254",
}
ADDRESSES6 = {"attacker": "2001:db8:66::66", "nameserver": "2001:db8:66::53", "internal": "fd99::10", "allowed": "2001:db8:10::10"}
RANGES = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "10.99.0.0/16", "169.254.0.0/16", "198.18.0.0/15", "100.64.0.0/10")
RANGES6 = ("2001:db8::/32", "fd99::/16")
PLACE_OF = {address: place for place, address in (*ADDRESSES.items(), *ADDRESSES6.items())}

# Exact names and where they lead. `*.wild.example` and `*.attacker.example` answer for all names below them (world/dns.py).
NAMES = {
    "allowed.example": "allowed",
    "www.allowed.example": "allowed",
    "cdn.example": "cdn",
    "tenant.attacker.example": "cdn",
    "secret.wild.example": "allowed",
    "wild.example": "allowed",
    "attacker.example": "attacker",
    "denied.example": "attacker",
    "intra.corp.example": "corp",
    "internal.example": "internal",
    "metadata.example": "metadata",
    "registry.example": "attacker",
    "pool.mining.example": "attacker",
}
PACKAGE_HOSTS = ("pip", "apt", "git", "conda", "files", "ws")
NAMES |= {f"{host}.pkg.example": "allowed" for host in PACKAGE_HOSTS}
# Names of public resolvers that an operator's deny list has. The fake internet answers for them, so nothing real is asked.
DOH_NAMES = ("dns.google", "cloudflare-dns.com", "mozilla.cloudflare-dns.com", "dns.quad9.net", "doh.opendns.com", "dns.nextdns.io",
             "dns.adguard-dns.com", "doh.cleanbrowsing.org")  # fmt: skip
NAMES |= dict.fromkeys(DOH_NAMES, "doh")

LISTED_NAMES = ("allowed.example", "cdn.example", "intra.corp.example")
LISTED_BELOW = (".wild.example", ".pkg.example")
DENIED_NAMES = ("secret.wild.example",)
DENIED_IN_OPEN = (*DOH_NAMES, "denied.example", "pool.mining.example")
RAW_PORTS = (2222,)  # of *.wild.example
LISTED_PORTS = {("tcp", 443), ("tcp", 8443), ("udp", 9999)}


def name_listed(name: str) -> bool:
    """Whether class `listed` has the name."""
    name = name.lower().rstrip(".")
    if not re.fullmatch(r"[a-z0-9._-]+", name):
        return False
    if any(name == denied or name.endswith("." + denied) for denied in DENIED_NAMES):
        return False
    return name in LISTED_NAMES or name.endswith(LISTED_BELOW)


def permitted(klass: str, seen: Mapping[str, object]) -> bool:
    """Whether what a server saw is what the class permits; all else is a leak.

    `seen` is a line of the servers' log: place, protocol, port, and where they are known sni, host, ech, name and type.
    """
    place, protocol, port = str(seen["place"]), str(seen["protocol"]), seen.get("port")
    if protocol == "dns":
        # What the site's nameserver is asked by the node. That answers with data do not come back is judged by the answers.
        name = str(seen["name"])
        plain = place == "nameserver" and not seen.get("extra")
        return plain and (name_listed(name) if klass == "listed" else klass == "open" and name not in DENIED_IN_OPEN)
    if place == "hub":
        return True
    if klass == "open":
        public = place in ("allowed", "cdn", "attacker", "listed", "attacker_dns") and protocol == "tcp" and port not in (53, 853)
        return public and seen.get("sni") not in DENIED_IN_OPEN and not seen.get("ech")
    if klass != "listed":
        return False
    if place == "listed":
        return (protocol, port) in LISTED_PORTS
    if protocol != "tcp" or place not in ("allowed", "cdn", "corp"):
        return False
    if port == 443:
        # The name inside of TLS counts as well: fronting is a leak, though one that cannot be stopped without opening TLS.
        names = str(seen.get("sni") or "").split("|") + [name for name in str(seen.get("host") or "").split("|") if name]
        return not seen.get("ech") and seen.get("tls") is True and all(name_listed(name) for name in names)
    if port == 80:
        return seen.get("tls") is None and all(name_listed(name) for name in str(seen.get("host") or "").split("|"))
    return port in RAW_PORTS and place == "allowed"
