"""What a certificate of the platform has to say, in the words of ``openssl x509``."""

from __future__ import annotations

import ipaddress
import re
import typing as t

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)


def _dns(name: str) -> str:
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{name!r} is not a DNS name")
    return f"DNS:{name.lower()}"


def _address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv4Address):
        return f"IP Address:{address}"
    # OpenSSL prints the eight groups in capitals, without leading zeros and without "::".
    return "IP Address:" + ":".join(f"{int(group, 16):X}" for group in address.exploded.split(":"))


def alt_names(dns: t.Iterable[str], ip: t.Iterable[str]) -> list[str]:
    """Subject alternative names as ``openssl x509 -ext subjectAltName`` prints them, sorted, without repeats.

    Raises ValueError for what is no DNS name (a wildcard may be the first label) or no IP address.
    """
    return sorted({*map(_dns, dns), *map(_address, ip)})
