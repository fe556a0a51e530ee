"""What egress rules are made of: sets of ports, host names, and addresses in the spellings that clients use.

A set of ports is a tuple of ranges, sorted and merged, in one number space: a TCP port is itself, a UDP port is 65536 more.
Networks are pairs of their first and last address as integers.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator

Ports = tuple[tuple[int, int], ...]
Span = tuple[int, int]

# Where the proxy listens: by its name, and for what was sent to port 80 and 443 of somebody else. The role egress has them in squid.conf.
EXPLICIT, INTERCEPT_HTTP, INTERCEPT_TLS = 3128, 3129, 3130
# Where the node's own resolver listens, which those of the classes ask. The role egress has it in _node.conf.
NODE_RESOLVER = "127.0.0.55"
# Group of NFLOG under which refused packets are told.
LOG_GROUP = 27
# A node tells its newest refusals, at most so many lines.
NODE_LINES = 20_000

_UDP = 65536
NO_PORTS: Ports = ()
ALL_TCP: Ports = ((1, 65535),)
ALL_PORTS: Ports = ((1, 65535), (_UDP + 1, _UDP + 65535))
# A name that stands without a port is a web site.
WEB_PORTS: Ports = ((80, 80), (443, 443))
# The public internet is TCP, but for DNS in the clear and in TLS, which would be a way around the class's resolver.
PUBLIC_PORTS: Ports = ((1, 52), (54, 852), (854, 65535))

# No policy opens these: this host, loopback, link-local (cloud metadata), multicast and broadcast.
NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")

NAME_LENGTH = 253
# An underscore is no host name's letter, but names with one are served.
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# inet_aton(3) takes these for a number, so what ends in one is an address to some program (as the URL standard says too).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_QUAD = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})", re.ASCII)
_PERCENT = re.compile(r"%([0-9a-f]{2})", re.IGNORECASE | re.ASCII)
# The older standard's mapping turns these into other letters, so that a name written with them may be another one's.
_DEVIATIONS = re.compile("[\u00df\u03c2\u200c\u200d]")


def port(number: int, protocol: str = "tcp") -> int:
    """A port in the number space. ``protocol`` is tcp or udp."""
    return number + _UDP if protocol == "udp" else number


def merge(ranges: Iterable[Span]) -> Ports:
    """Ranges of ports or addresses, sorted, and those joined that overlap or touch."""
    merged: list[Span] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def subtract(ranges: Iterable[Span], taken: Iterable[Span]) -> Ports:
    """Ranges of ports or addresses without others."""
    holes = merge(taken)
    left: list[Span] = []
    index = 0
    for low, high in merge(ranges):
        while index < len(holes) and holes[index][1] < low:
            index += 1
        at = index
        while at < len(holes) and holes[at][0] <= high:
            if low < holes[at][0]:
                left.append((low, holes[at][0] - 1))
            low = max(low, holes[at][1] + 1)
            at += 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


# A policy of thousands of entries has a handful of different sets of ports.
@functools.lru_cache(maxsize=1 << 12)
def join_ports(*sets: Ports) -> Ports:
    """The union of sets of ports."""
    return merge(each for one in sets for each in one)


@functools.lru_cache(maxsize=1 << 12)
def without_ports(ports: Ports, taken: Ports) -> Ports:
    """The ports of the first set that are not in the second."""
    return subtract(ports, taken)


def covers_ports(ports: Ports, wanted: Ports) -> bool:
    """Whether all wanted ports are in the set."""
    return all(any(low <= first and last <= high for low, high in ports) for first, last in wanted)


def has_port(ports: Ports, number: int, protocol: str = "tcp") -> bool:
    """Whether a port is in the set."""
    if not 1 <= number <= 65535:
        return False
    wanted = port(number, protocol)
    return any(low <= wanted <= high for low, high in ports)


def port_texts(ports: Ports) -> list[str]:
    """A set of ports as text, such as ``["tcp/443", "tcp/8000-8100", "udp/53"]``, sorted as text."""
    texts = []
    for low, high in ports:
        protocol, less = ("udp", _UDP) if low > _UDP else ("tcp", 0)
        texts.append(f"{protocol}/{low - less}" + (f"-{high - less}" if high > low else ""))
    return sorted(texts)


def read_port_texts(texts: Iterable[str]) -> Ports:
    """The set of ports that port_texts wrote. Raises ValueError for anything else."""
    return _read_port_texts(tuple(texts))


@functools.lru_cache(maxsize=1 << 12)
def _read_port_texts(texts: tuple[str, ...]) -> Ports:
    ranges = []
    for text in texts:
        match = re.fullmatch(r"(tcp|udp)/([0-9]{1,5})(?:-([0-9]{1,5}))?", text, re.ASCII)
        if match is None:
            raise ValueError(f"{text!r} is not a port: tcp/443, udp/53 or tcp/8000-8100")
        low, high = int(match[2]), int(match[3] or match[2])
        if not 1 <= low <= high <= 65535:
            raise ValueError(f"{text!r}: a port is 1 to 65535")
        ranges.append((port(low, match[1]), port(high, match[1])))
    return merge(ranges)


def canonical_name(text: str) -> str:
    """A host name in lower case and A-labels, without the dot of the root. Raises ValueError with the reason.

    Letters outside of ASCII are converted by the standard library's codec (IDNA 2003); the four characters that the newer
    standard reads otherwise are refused. What some program would take for an address is no name.
    """
    name = text
    if not name.isascii():
        if _DEVIATIONS.search(name):
            raise ValueError("two standards read this name differently: write it in the form that begins with xn--")
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("this name cannot be converted: write it in the form that begins with xn--") from None
    name = name.lower()
    name = name[:-1] if name.endswith(".") else name
    if len(name) > NAME_LENGTH or not _NAME.fullmatch(name):
        raise ValueError("this is not a host name")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError("this is neither a host name nor an IPv4 address in four decimal numbers")
    return name


def parents(name: str) -> Iterator[str]:
    """The names above a name, the nearest first: of ``a.b.c`` these are ``b.c`` and ``c``."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def pattern_covers(wide: str, narrow: str) -> bool:
    """Whether a name or wildcard means everything that another one means."""
    return wide == narrow or (wide.startswith("*.") and narrow.endswith(wide[1:]))


def read_address(text: str) -> int | None:
    """An IPv4 address in four decimal numbers without leading zeros, as an integer; None for everything else."""
    if not _QUAD.fullmatch(text):
        return None
    a, b, c, d = map(int, text.split("."))
    return None if max(a, b, c, d) > 255 else a << 24 | b << 16 | c << 8 | d


def looks_like_address(text: str) -> bool:
    """Whether some program would take a text for an address, in whatever spelling; of a text that is no name, why it is none."""
    for _ in range(3):
        text = _PERCENT.sub(lambda match: chr(int(match[1], 16)), text)
    text = unicodedata.normalize("NFKC", text).replace("\u3002", ".").strip().lower().strip("[]").partition("%")[0]
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        parts = text[:-1].split(".") if text.endswith(".") else text.split(".")
        return 1 <= len(parts) <= 4 and all(map(_NUMBER.fullmatch, parts))


def span_of(network: str) -> Span:
    """First and last address of an IPv4 network as text. Raises ValueError for what is none, or has host bits set."""
    place, _, length = network.partition("/")
    first = read_address(place)
    if first is None or not re.fullmatch(r"[0-9]|[12][0-9]|3[0-2]", length or "32", re.ASCII):
        raise ValueError(f"{network!r} is not an IPv4 network")
    size = 1 << (32 - int(length or "32"))
    if first & (size - 1):
        raise ValueError(f"{network!r} has host bits set")
    return first, first + size - 1


def address_text(number: int) -> str:
    """An IPv4 address from an integer."""
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def split_networks(spans: Iterable[Span]) -> list[Span]:
    """The fewest networks that hold exactly these addresses, in order."""
    found = []
    for low, high in merge(spans):
        while low <= high:
            size = (low & -low) or 1 << 32
            while size > high - low + 1:
                size >>= 1
            found.append((low, low + size - 1))
            low += size
    return found


def networks_of(spans: Iterable[Span]) -> list[str]:
    """The fewest networks that hold exactly these addresses, in order, as text with their prefix lengths."""
    return [f"{address_text(low)}/{33 - (high - low + 1).bit_length()}" for low, high in split_networks(spans)]
