"""Egress classes: what is refused, what is compiled to what, and that order makes no difference."""

from __future__ import annotations

import ipaddress
import json
import random
from typing import Any

import egress_world as world
import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import egress
from ansible_collections.metalhub.platform.plugins.module_utils.egress_terms import port_texts
from hypothesis import given
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
    if found.span:
        network = ipaddress.IPv4Network(place)
        assert found.span == (int(network[0]), int(network[-1]))


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


FORMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"names": {}, "networks": {}}),
    ({"allow": ["b.example.org", "a.example.org:22"]}, {"names": {"a.example.org": ["tcp/22"], "b.example.org": ["tcp/443", "tcp/80"]}, "networks": {}}),
    ({"allow": ["a.example.org:22", "a.example.org:80-90", "a.example.org:85-99"]}, {"names": {"a.example.org": ["tcp/22", "tcp/80-99"]}, "networks": {}}),
    # What a wildcard above has, a name does not repeat.
    ({"allow": ["*.example.org:443", "a.example.org"]}, {"names": {"*.example.org": ["tcp/443"], "a.example.org": ["tcp/80"]}, "networks": {}}),
    ({"allow": ["*.example.org", "*.a.example.org", "b.a.example.org:443"]}, {"names": {"*.example.org": ["tcp/443", "tcp/80"]}, "networks": {}}),
    # A wildcard is not the name itself.
    ({"allow": ["*.example.org", "example.org:80"]}, {"names": {"*.example.org": ["tcp/443", "tcp/80"], "example.org": ["tcp/80"]}, "networks": {}}),
    ({"allow": ["a.example.org"], "deny": ["*.example.org"]}, {"names": {}, "networks": {}}),
    ({"allow": ["a.example.org"], "deny": ["a.example.org:80"]}, {"names": {"a.example.org": ["tcp/443"]}, "networks": {}}),
    ({"allow": ["*.example.org"], "deny": ["a.example.org"]}, {"names": {"*.example.org": ["tcp/443", "tcp/80"]}, "networks": {}}),
    ({"allow": ["10.1.0.0/17", "10.1.128.0/17"]}, {"names": {}, "networks": {"tcp/1-65535": ["10.1.0.0/16"]}}),
    ({"allow": ["10.0.0.4:443", "10.0.0.5:443", "10.0.0.6:443"]}, {"names": {}, "networks": {"tcp/443": ["10.0.0.4/31", "10.0.0.6/32"]}}),
    ({"allow": ["10.1.0.0/16", "10.1.2.3:443"]}, {"names": {}, "networks": {"tcp/1-65535": ["10.1.0.0/16"]}}),
    # Two ranges of ports that touch are one, where both hold.
    ({"allow": ["10.1.0.0/16:80-85", "10.1.2.0/24:86-90"]}, {"names": {}, "networks": {
        "tcp/80-85": ["10.1.0.0/23", "10.1.3.0/24", "10.1.4.0/22", "10.1.8.0/21", "10.1.16.0/20", "10.1.32.0/19", "10.1.64.0/18", "10.1.128.0/17"],
        "tcp/80-90": ["10.1.2.0/24"]}}),
    ({"allow": ["10.1.2.3:443", "10.0.0.6:53/udp"], "deny": ["10.1.2.0/24"]}, {"names": {}, "networks": {"udp/53": ["10.0.0.6/32"]}}),
    ({"allow": ["10.1.0.0/16"], "deny": ["10.1.2.0/24"]}, {"names": {}, "networks": {"tcp/1-65535": ["10.1.0.0/16"]}}),
    ({"allow": ["8.0.0.0/5", "0.0.0.0/1"]}, {"names": {}, "networks": {"tcp/1-65535": ["0.0.0.0/1"]}}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "allow"), FORMS)
def test_compiled(options: dict[str, Any], allow: dict[str, Any]) -> None:
    assert compiled(**options)["allow"] == allow


NOTES: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"allow": ["a.example.org", "b.example.org:80", "b.example.org:443", "10.0.0.5:443", "10.0.0.5:80"]}, []),
    ({"allow": ["a.example.org", "a.example.org"]}, [("a.example.org", "is written twice")]),
    ({"allow": ["a.example.org", "A.Example.org:80,443"]}, [("a.example.org", "is the same as A.Example.org:80,443")]),
    ({"allow": ["10.0.0.5", "10.0.0.5/32"]}, [("10.0.0.5/32", "is the same as 10.0.0.5")]),
    ({"allow": ["a.example.org:443", "a.example.org"]}, [("a.example.org:443", "is covered by a.example.org")]),
    ({"allow": ["*.example.org", "a.example.org:443"]}, [("a.example.org:443", "is covered by *.example.org")]),
    (
        {"allow": ["*.example.org:80", "*.a.example.org:443", "b.a.example.org"]},
        [("b.a.example.org", "is covered by the wildcards above it")],
    ),
    ({"allow": ["10.1.0.0/16", "10.1.2.3:443"]}, [("10.1.2.3:443", "is covered by 10.1.0.0/16")]),
    ({"allow": ["10.1.2.3:443", "10.1.2.3:400-500"]}, [("10.1.2.3:443", "is covered by 10.1.2.3:400-500")]),
    (
        {"allow": ["10.1.0.0/17", "10.1.128.0/17"]},
        [("10.1.0.0/17", "is merged into 10.1.0.0/16"), ("10.1.128.0/17", "is merged into 10.1.0.0/16")],
    ),
    ({"allow": ["a.example.org"], "deny": ["*.example.org"]}, [("a.example.org", "is denied")]),
    ({"allow": ["a.example.org"], "deny": ["a.example.org:80"]}, [("a.example.org", "is denied for tcp/80")]),
    ({"allow": ["10.1.2.3:443"], "deny": ["10.1.2.0/24"]}, [("10.1.2.3:443", "is denied")]),
    ({"deny": ["10.1.2.0/24", "10.1.2.3"]}, [("10.1.2.3", "is covered by 10.1.2.0/24")]),
    (
        {"allow": ["git.example.org:22", "*.example.org:443"]},
        [("*.git.example.org", "gets tcp/22 too: the resolver's sets do not tell git.example.org from the names below it")],
    ),
    (
        {"allow": ["git.example.org:22", "*.example.org:443"], "deny": ["*.git.example.org:22"]},
        [("git.example.org", "loses tcp/22: the resolver's sets do not tell git.example.org from the names below it")],
    ),
]


@pytest.mark.parametrize(("options", "expected"), NOTES)
def test_notes(options: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert notes(**options) == expected


def test_what_the_site_is_told_of_a_deny_list_is_its_own() -> None:
    policy = egress.compile_policy(one_class(public_internet=True, deny_lists=["mining"], deny=["dns.google"]), used=["clinic"], deny_lists={
        "mining": "# pools\npool.example.net  # the big one\n\n*.pool.example.net:3333\n10.9.0.0/16\n"})  # fmt: skip
    deny = policy["classes"]["clinic"]["deny"]
    assert deny["names"]["pool.example.net"] == ["tcp/1-65535", "udp/1-65535"]
    assert deny["names"]["*.pool.example.net"] == ["tcp/3333", "udp/3333"]
    assert "10.9.0.0/16" in deny["networks"]["udp/1-65535"]
    assert policy["notes"] == []
    # A list is a file of somebody else: what it has in common with allow is no mistake of the site.
    both = egress.compile_policy(
        one_class(deny_lists=["mining"], allow=["pool.example.net"]), used=["clinic"], deny_lists={"mining": ["pool.example.net"]}
    )
    assert both["notes"] == [{"class": "clinic", "entry": "pool.example.net", "note": "is denied"}]


def test_resolvers_over_https_are_denied_to_the_public_classes_unless_they_are_listed() -> None:
    assert compiled()["deny"] == {"names": {}, "networks": {}}
    public = compiled(public_internet=True)
    assert public["deny"]["names"]["dns.google"] and public["deny"]["names"]["*.cloudflare-dns.com"]
    assert "8.8.8.8/32" in public["deny"]["networks"]["tcp/1-65535"]
    listed = compiled(public_internet=True, allow=["dns.google", "8.8.8.8:443"])
    assert "dns.google" not in listed["deny"]["names"]
    assert "8.8.8.8/32" not in listed["deny"]["networks"]["tcp/1-65535"]


def test_built_in_classes_are_there_when_a_profile_uses_them() -> None:
    policy = egress.compile_policy({}, used=["internal", "open"], internal=["data.example.org"], packages=["pypi.example.org"])
    assert list(policy["classes"]) == ["internal", "open"]
    assert policy["classes"]["internal"]["allow"]["names"] == {"data.example.org": ["tcp/443", "tcp/80"]}
    assert policy["classes"]["open"]["public_internet"] and policy["classes"]["open"]["log"] == "all"
    assert list(egress.compile_policy({})["classes"]) == sorted(egress.BUILT_IN)
    # Field by field.
    policy = egress.compile_policy({"internal": {"bandwidth": "1G"}, "open": None}, used=["internal"], internal=["data.example.org"])
    internal = policy["classes"]["internal"]
    assert internal["subnet"] == "10.231.0.0/20" and internal["bandwidth"] == 125_000_000
    assert internal["allow"]["names"] == {"data.example.org": ["tcp/443", "tcp/80"]}
    assert policy["notes"] == [{"class": "open", "entry": "", "note": "no profile uses this class"}]
    policy = egress.compile_policy({"internal": {"allow": ["b.example.org"]}}, used=["internal"], internal=["data.example.org"])
    assert list(policy["classes"]["internal"]["allow"]["names"]) == ["b.example.org", "data.example.org"]


def test_closed_networks_are_those_of_no_name() -> None:
    policy = egress.compile_policy(
        one_class(), used=["clinic"], site_networks=["10.0.0.0/8"], reserved=["10.0.0.0/8", "192.168.0.0/17", "192.168.128.0/17"]
    )
    assert policy["site_networks"] == ["10.0.0.0/8"]
    # Sessions are closed whatever the site calls its own.
    assert policy["closed"] == ["10.231.64.0/20", "192.168.0.0/16"]


@pytest.mark.parametrize(
    ("text", "rate"), [("8k", 1000), ("100M", 12_500_000), ("2.5G", 312_500_000), ("1T", 125 * 10**9), ("0.008M", 1000)]
)
def test_bandwidth(text: str, rate: int) -> None:
    assert egress.parse_bandwidth(text) == rate
    assert egress.parse_bandwidth(egress.format_bandwidth(rate)) == rate


BAD: list[tuple[dict[str, Any], str, object, str]] = [
    ({"classes": []}, "metalhub_egress_classes", [], "wanted a mapping"),
    ({"classes": {1: {}}}, "metalhub_egress_classes", 1, "cannot name an egress class"),
    ({"classes": {"Bad!": {"subnet": "10.9.0.0/24"}}}, "metalhub_egress_classes", "Bad!", "cannot name an egress class"),
    ({"classes": {"a-cfg": {"subnet": "10.9.0.0/24"}}}, "metalhub_egress_classes", "a-cfg", "cannot name an egress class"),
    ({"classes": {"abcdefghijklm": {"subnet": "10.9.0.0/24"}}}, "metalhub_egress_classes", "abcdefghijklm", "cannot name"),
    ({"classes": {"a": []}}, "metalhub_egress_classes.a", [], "wanted a mapping"),
    ({"classes": {"a": {}}}, "metalhub_egress_classes.a.subnet", None, "value is needed"),
    ({"classes": {"a": {"subnet": 5}}}, "metalhub_egress_classes.a.subnet", 5, "wanted text"),
    (one_class(subnet="10.231.64.1/20"), ".subnet", "10.231.64.1/20", "host bits"),
    (one_class(subnet="10.231.64.0/29"), ".subnet", "10.231.64.0/29", "does not fit"),
    (one_class(subnet="127.0.0.0/20"), ".subnet", "127.0.0.0/20", "cannot be a session's"),
    (one_class(subnet="fd00::/64"), ".subnet", "fd00::/64", "not an IPv4 network"),
    ({"classes": {"a": {"subnet": "10.9.0.0/20"}, "b": {"subnet": "10.9.8.0/21"}}}, "metalhub_egress_classes.b.subnet", "10.9.8.0/21", "overlaps the subnet 10.9.0.0/20 of class a"),
    ({"classes": {"a": {"subnet": "10.231.8.0/21"}}, "used": ["a", "internal"]}, "metalhub_egress_classes.internal.subnet", "10.231.0.0/20", "of class a"),
    (one_class(internet=True), ".internet", True, "no such key"),
    (one_class(alow=[]), ".alow", [], "Did you mean allow?"),
    (one_class(public_internet="perhaps"), ".public_internet", "perhaps", "wanted true or false"),
    (one_class(log="some"), ".log", "some", "not one of the choices"),
    (one_class(allow="a.example.org"), ".allow", "a.example.org", "wanted a list"),
    (one_class(allow=[443]), ".allow[0]", 443, "wanted text"),
    (one_class(allow=["a.example.org", "a..example.org"]), ".allow", "a..example.org", "not a host name"),
    (one_class(allow=["*.org"]), ".allow", "*.org", "anybody can have a name"),
    (one_class(allow=["*.github.io"]), ".allow", "*.github.io", "anybody can have a name"),
    (one_class(deny=["10.1.2.3/24"]), ".deny", "10.1.2.3/24", "write 10.1.2.0/24"),
    (one_class(allow=["a.example.org"], deny=["a.example.org"]), ".deny", "a.example.org", "Allow has the same"),
    (one_class(allow=["a.example.org:443"], deny=["A.example.org:400-500"]), ".deny", "A.example.org:400-500", "Allow has the same"),
    (one_class(allow=["10.0.0.5"], deny=["10.0.0.5/32"]), ".deny", "10.0.0.5/32", "Allow has the same"),
    (one_class(allow=["*.example.org"], deny=["*.example.org"]), ".deny", "*.example.org", "Allow has the same"),
    (one_class(deny_lists=["minig"]), ".deny_lists", "minig", "no such deny list. Did you mean mining?"),
    (one_class(bandwidth="100"), ".bandwidth", "100", "not a bandwidth"),
    (one_class(bandwidth="100MB"), ".bandwidth", "100MB", "not a bandwidth"),
    (one_class(bandwidth=100), ".bandwidth", 100, "wanted text"),
    (one_class(bandwidth="1k"), ".bandwidth", "1k", "out of range"),
    (one_class(bandwidth="2T"), ".bandwidth", "2T", "out of range"),
    (one_class(connections=0), ".connections", 0, "not a number of connections"),
    (one_class(connections="many"), ".connections", "many", "wanted a whole number"),
    (one_class(connections=True), ".connections", True, "wanted a whole number"),
    ({"classes": {}, "internal": ["a..b"]}, "metalhub_egress_internal", "a..b", "not a host name"),
    ({"classes": {}, "packages": "pypi.example.org"}, "metalhub_egress_packages", "pypi.example.org", "wanted a list"),
    ({"classes": {}, "packages": ["*.co.uk"]}, "metalhub_egress_packages", "*.co.uk", "anybody can have a name"),
    ({"classes": {}, "deny_lists": {"mining": "pool.example.net\nnot a name\n"}}, "metalhub_egress_deny_lists.mining", "not a name", "not a destination"),
    ({"classes": {}, "deny_lists": []}, "metalhub_egress_deny_lists", [], "wanted a mapping"),
    ({"classes": {}, "site_networks": ["10.20.0.1/16"]}, "metalhub_site_networks", "10.20.0.1/16", "host bits"),
    ({"classes": {}, "site_networks": ["corp.example.org"]}, "metalhub_site_networks", "corp.example.org", "not an IPv4 network"),
    ({"classes": {}, "site_networks": ["169.254.0.0/16"]}, "metalhub_site_networks", "169.254.0.0/16", "closed for every class"),
    ({"classes": {}, "site_networks": "10.20.0.0/16"}, "metalhub_site_networks", "10.20.0.0/16", "wanted a list"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "path", "value", "words"), BAD)
def test_bad_input_has_one_message(arguments: dict[str, Any], path: str, value: object, words: str) -> None:
    arguments = arguments if "classes" in arguments else {"classes": arguments, "used": ["clinic"]}
    arguments = {"deny_lists": {"mining": ""}, "is_public_suffix": SUFFIXES.__contains__, "used": [], **arguments}
    path = f"metalhub_egress_classes.clinic{path}" if path.startswith(".") else path
    found = egress.problems(**arguments)
    assert [(each[0], each[1]) for each in found] == [(path, value)], found
    assert words in found[0][2]
    with pytest.raises(ValueError) as raised:
        egress.compile_policy(**arguments)
    for part in (path, repr(value), words):
        assert part in str(raised.value)


def test_a_whole_top_level_needs_somebody_who_knows_that_it_is_private() -> None:
    assert egress.problems(one_class(allow=["*.corp"]), used=[])
    assert not egress.problems(one_class(allow=["*.corp"]), used=[], is_public_suffix=SUFFIXES.__contains__)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    found = egress.problems({**one_class(allow=["*", "a..b"], deny=["10.0.0.1/8"], log="x", speed=1), "B": {}}, site_networks=["x"])
    assert sorted({each[0].replace("metalhub_egress_classes", "c") for each in found}) == [
        "c", "c.B.subnet", "c.clinic.allow", "c.clinic.deny", "c.clinic.log", "c.clinic.speed", "metalhub_site_networks",
    ]  # fmt: skip
    assert len([each for each in found if each[0].endswith(".allow")]) == 2


def test_a_flood_of_unknown_keys_is_told_key_by_key() -> None:
    assert len(egress.problems(one_class(**{f"key{number}": number for number in range(1000)}), used=["clinic"])) == 1000


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["10.0.0.0/24", "a.example.org", "*", "mining"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*egress.EGRESS_CLASS, "clinic", "x"]) | st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(classes=values, internal=values, deny_lists=values, site_networks=values)
def test_no_value_breaks_the_check(classes: Any, internal: Any, deny_lists: Any, site_networks: Any) -> None:
    arguments: dict[str, Any] = {"internal": internal, "deny_lists": deny_lists, "site_networks": site_networks}
    if egress.problems(classes, **arguments):
        with pytest.raises(ValueError):
            egress.compile_policy(classes, **arguments)
    else:
        egress.compile_policy(classes, **arguments)


@given(allow=world.entries, deny=world.entries, more=world.entries, public=st.booleans(), chance=st.randoms(use_true_random=False))
def test_order_makes_no_difference(allow: list[str], deny: list[str], more: list[str], public: bool, chance: random.Random) -> None:
    def text(shuffle: bool) -> str:
        lists = [list(each) for each in (allow, world.consistent(allow, deny), more)]
        classes = {
            "a": {"subnet": "10.9.0.0/24", "allow": lists[0], "deny": lists[1]},
            "b": {"subnet": "10.9.1.0/24", "allow": lists[2], "public_internet": public},
        }
        if shuffle:
            for each in lists:
                chance.shuffle(each)
            items = list(classes.items())
            chance.shuffle(items)
            classes = dict(items)
        return json.dumps(
            egress.compile_policy(classes, used=["b", "a"], site_networks=["10.20.0.0/16", "10.1.0.0/16"][:: -1 if shuffle else 1])
        )

    assert text(True) == text(False)


@given(allow=world.entries, deny=world.entries)
def test_the_compiled_form_is_its_own_smallest(allow: list[str], deny: list[str]) -> None:
    deny = world.consistent(allow, deny)
    once = compiled(allow=allow, deny=deny)

    def written(kind: str) -> list[str]:
        found = [(name, text) for name, texts in once[kind]["names"].items() for text in texts]
        found += [(network, text) for text, networks in once[kind]["networks"].items() for network in networks]
        return [f"{place}:{text.partition('/')[2]}/{text.partition('/')[0]}" for place, text in found]

    again = egress.compile_policy(one_class(allow=written("allow")), used=["clinic"])
    assert again["classes"]["clinic"]["allow"] == once["allow"]
    assert [note for note in again["notes"] if "resolver" not in note["note"]] == []
    # Nothing of it can be left out.
    for kind in ("allow", "deny"):
        for number in range(len(entries := written(kind))):
            less = [*entries[:number], *entries[number + 1 :]]
            assert compiled(allow=less)["allow"] != compiled(allow=entries)["allow"]


WORDS: list[tuple[dict[str, Any], str]] = [
    ({}, "nothing but the hub"),
    ({"allow": ["data.example.org", "git.example.org:22"]}, "data.example.org, git.example.org:22"),
    ({"allow": ["10.0.0.5", "10.1.0.0/16:443", "10.0.0.6:53/udp"]}, "10.0.0.5, 10.1.0.0/16:443, 10.0.0.6:53/udp"),
    ({"allow": ["*.example.org"], "deny": ["10.9.0.0/16"]}, "*.example.org; not 10.9.0.0/16"),
    ({"public_internet": True, "deny": ["8.8.8.0/24"]}, "the public internet; not 8.8.8.0/24"),
    (
        {"allow": ["*.example.org"], "deny": ["a.example.org", "b.example.org:443"]},
        "*.example.org; not a.example.org, b.example.org:443,443/udp",
    ),
    ({"public_internet": True, "log": "all"}, "the public internet; all of it recorded"),
    (
        {"allow": ["data.example.org"], "bandwidth": "100M", "connections": 5},
        "data.example.org; each session at most 100Mbit/s and 5 connections",
    ),
    (
        {"allow": [f"a{number:02}.example.org" for number in range(15)]},
        ", ".join([*(f"a{number:02}.example.org" for number in range(12)), "3 more"]),
    ),
]


@pytest.mark.parametrize(("options", "words"), WORDS)
def test_a_class_in_words(options: dict[str, Any], words: str) -> None:
    assert egress.describe(compiled(**options)) == words
