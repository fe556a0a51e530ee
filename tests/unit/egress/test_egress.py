"""Egress classes: what is refused, what is compiled to what, and that order makes no difference."""

from __future__ import annotations

import ipaddress
import json
import random
from typing import Any

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import egress
from ansible_collections.metalhub.platform.plugins.module_utils.egress_terms import port_texts
from hypothesis import given, settings
from hypothesis import strategies as st

SUFFIXES = {"org", "example", "co.uk", "uk", "github.io"}


def one_class(**options: Any) -> dict[str, Any]:
    return {"clinic": {"subnet": "10.231.64.0/20", **options}}


def compiled(**options: Any) -> dict[str, Any]:
    return egress.compile_policy(one_class(**options), used=["clinic"])["classes"]["clinic"]


def notes(**options: Any) -> list[tuple[str, str]]:
    found = egress.compile_policy(one_class(**options), used=["clinic"])["notes"]
    return [(note["entry"], note["note"]) for note in found]


@pytest.mark.parametrize(
    ("text", "place", "ports"),
    [
        ("data.example.org", "data.example.org", ["tcp/443", "tcp/80"]),
        ("DATA.Example.org.", "data.example.org", ["tcp/443", "tcp/80"]),
        ("*.corp.example.org:443", "*.corp.example.org", ["tcp/443"]),
        ("git.example.org:22", "git.example.org", ["tcp/22"]),
        ("host:8000-8100", "host", ["tcp/8000-8100"]),
        ("host:443,80,81,80", "host", ["tcp/443", "tcp/80-81"]),
        ("time.example.org:123/udp", "time.example.org", ["udp/123"]),
        ("time.example.org:123/UDP", "time.example.org", ["udp/123"]),
        ("_service.example.org", "_service.example.org", ["tcp/443", "tcp/80"]),
        ("bücher.example.org:443", "xn--bcher-kva.example.org", ["tcp/443"]),
        ("*.BÜCHER.example.org:443", "*.xn--bcher-kva.example.org", ["tcp/443"]),
        ("10.0.0.5:443", "10.0.0.5/32", ["tcp/443"]),
        ("10.0.0.5", "10.0.0.5/32", ["tcp/1-65535"]),
        ("10.1.0.0/16", "10.1.0.0/16", ["tcp/1-65535"]),
        ("10.0.0.6:53/udp", "10.0.0.6/32", ["udp/53"]),
        ("10.0.0.6/31:1-65535/udp", "10.0.0.6/31", ["udp/1-65535"]),
        (" 10.0.0.6 ", "10.0.0.6/32", ["tcp/1-65535"]),
    ],
)
def test_destinations(text: str, place: str, ports: list[str]) -> None:
    found = egress.parse_destination(text)
    assert (found.place, port_texts(found.ports)) == (place, ports)
    assert (found.network is None) == (found.span is None)
    if found.network is not None:
        assert found.network == ipaddress.IPv4Network(place)


def test_a_denial_without_a_port_or_a_protocol_is_wider() -> None:
    assert port_texts(egress.parse_destination("a.example.org", deny=True).ports) == ["tcp/1-65535", "udp/1-65535"]
    assert port_texts(egress.parse_destination("a.example.org:53", deny=True).ports) == ["tcp/53", "udp/53"]
    assert port_texts(egress.parse_destination("a.example.org:53/udp", deny=True).ports) == ["udp/53"]


BAD_DESTINATIONS = [
    ("", "not a destination"),
    ("a b.example.org", "not a destination"),
    ("http://data.example.org", "not a destination"),
    ("data.example.org:", "not a destination"),
    ("data.example.org:http", "not a destination"),
    ("data.example.org/udp", "not a host name"),
    ("data..example.org", "not a host name"),
    (".example.org", "not a host name"),
    ("-a.example.org", "not a host name"),
    ("a-.example.org", "not a host name"),
    ("a" * 64 + ".example.org", "not a host name"),
    (".".join(["a" * 60] * 5), "not a host name"),
    ("user@example.org", "not a host name"),
    ("faß.example.org", "two standards"),
    ("a\u200db.example.org", "two standards"),
    ("\ue000.example.org", "cannot be converted"),
    ("*", "a wildcard is"),
    ("*example.org", "a wildcard is"),
    ("a.*.example.org", "a wildcard is"),
    ("*.*.example.org", "a wildcard is"),
    ("a*.example.org", "a wildcard is"),
    ("*.10.0.0.5", "neither a host name nor"),
    ("localhost", "the session itself"),
    ("a.localhost:80", "the session itself"),
    ("data.example.org:0", "0 is not a port"),
    ("data.example.org:65536", "65536 is not a port"),
    ("data.example.org:1-70000", "70000 is not a port"),
    ("data.example.org:90-80", "ends before it begins"),
    ("data.example.org:80,", "not a list of ports"),
    ("data.example.org:80-", "not a list of ports"),
    ("data.example.org:80--90", "not a list of ports"),
    ("data.example.org:443/icmp", "icmp is not a protocol"),
    ("10.0.0.5/8:443", "write 10.0.0.0/8"),
    ("10.0.0.256", "not an IPv4 address"),
    ("10.0.0", "not an IPv4 address"),
    ("010.0.0.1", "not an IPv4 address"),
    ("10.0.0.1/33", "not an IPv4 address"),
    ("167772165", "not an IPv4 address"),
    ("0x0a000005", "neither a host name nor"),
    ("0xa.0.0.0x5", "neither a host name nor"),
    ("１０.0.0.1", "not an IPv4 address"),
    ("2001:db8::5", "IPv6 is closed"),
    ("[2001:db8::5]:443", "IPv6 is closed"),
    ("169.254.169.254:80", "169.254.0.0/16 is closed for every class"),
    ("127.0.0.1", "closed for every class"),
    ("224.0.0.251:5353/udp", "closed for every class"),
    ("0.0.0.0", "closed for every class"),
    (443, "a destination is text"),
]


@pytest.mark.parametrize(("text", "message"), BAD_DESTINATIONS)
def test_bad_destinations(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        egress.parse_destination(text)


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.*:/,-]{1,30}", fullmatch=True))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        found = egress.parse_destination(text)
    except ValueError as error:
        assert str(error)
    else:
        # What a destination stands for, written down, is the same again.
        again = [f"{found.place}:{t.partition('/')[2]}/{t.partition('/')[0]}" for t in port_texts(found.ports)]
        assert {egress.parse_destination(text).place for text in again} == {found.place}
