"""The decision: each way in and each trick, one by one, and that it says what the uncompiled entries say."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import egress_hellos as tls
import egress_world as world
import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.egress import compile_policy
from ansible_collections.metalhub.platform.plugins.module_utils.egress_decide import VIAS, Policy, Reason, Request, Verdict
from hypothesis import given
from hypothesis import strategies as st

PUBLIC, OTHER, INSIDE, SITE, LISTED = "93.184.216.34", "93.184.216.35", "192.168.1.1", "10.20.0.7", "10.0.0.5"

PLAIN = compile_policy(
    {
        "clinic": {
            "subnet": "10.231.64.0/20",
            "allow": [
                "data.example.org", "*.corp.example.org:443", "git.example.org:22", "plain.example.org:80", "odd.example.org:443,8443",
                "10.0.0.5:443", "10.1.0.0/16", "10.0.0.6:53/udp", "10.231.0.0/16:443",
            ],
            "deny": ["secret.corp.example.org", "10.1.2.0/24", "93.184.216.99"],
        },
        "open": {"public_internet": True, "deny": ["bad.example.net", "93.184.216.99"], "allow": ["files.example.org:21", "10.0.0.5:443"]},
    },
    site_networks=["10.20.0.0/16"],
)  # fmt: skip
POLICY = Policy.from_plain(json.loads(json.dumps(PLAIN)))


def hello(name: str | None, *more: tls.Extension) -> bytes:
    return tls.hello(*([tls.server_name(name)] if name is not None else []), *more)


def decide(via: str, host: str = "", port: int = 443, klass: str = "clinic", **more: Any) -> Verdict:
    more = {**more, "resolved": frozenset(more.get("resolved", ()))}
    return POLICY.decide(Request(klass, via, host, port, **more))


DATA, BAD, DEEP = "data.example.org", "evil.example.net", "a.b.corp.example.org"

Case = tuple[dict[str, Any], bool, Reason]
CASES: dict[str, list[Case]] = {
    "proxy-connect": [
        ({"host": DATA}, True, Reason.ALLOWED),
        ({"host": "DATA.Example.ORG."}, True, Reason.ALLOWED),
        ({"host": DEEP}, True, Reason.ALLOWED),
        ({"host": DATA, "hello": hello(DATA)}, True, Reason.ALLOWED),
        ({"host": DATA, "hello": hello("Data.Example.Org")}, True, Reason.ALLOWED),
        ({"host": DATA, "hello": tls.real(DATA, ["h2"]), "resolved": [PUBLIC]}, True, Reason.ALLOWED),
        ({"host": "corp.example.org"}, False, Reason.NOT_LISTED),
        ({"host": "xcorp.example.org"}, False, Reason.NOT_LISTED),
        ({"host": "data.example.org.example.net"}, False, Reason.NOT_LISTED),
        ({"host": "xdata.example.org"}, False, Reason.NOT_LISTED),
        ({"host": "www.data.example.org"}, False, Reason.NOT_LISTED),
        ({"host": "example.org"}, False, Reason.NOT_LISTED),
        ({"host": "secret.corp.example.org"}, False, Reason.DENIED),
        ({"host": DATA, "port": 22}, False, Reason.PORT),
        ({"host": DATA, "port": 0}, False, Reason.PORT),
        ({"host": DATA, "port": 65536 + 443}, False, Reason.PORT),
        ({"host": DATA, "port": 80}, False, Reason.CONNECT_HTTP),
        ({"host": "git.example.org", "port": 22}, True, Reason.ALLOWED),
        ({"host": "odd.example.org", "port": 8443, "hello": hello(BAD)}, True, Reason.ALLOWED),
        ({"host": DATA, "hello": hello(BAD)}, False, Reason.SNI_DIFFERS),
        ({"host": DATA, "hello": hello("odd.example.org")}, False, Reason.SNI_DIFFERS),
        ({"host": DATA, "hello": hello(LISTED)}, False, Reason.SNI_DIFFERS),
        ({"host": DATA, "hello": hello(None)}, False, Reason.NO_SNI),
        ({"host": DATA, "hello": hello(DATA, tls.ECH)}, False, Reason.ENCRYPTED_HELLO),
        ({"host": DATA, "hello": b""}, False, Reason.NOT_TLS),
        ({"host": DATA, "hello": b"GET / HTTP/1.1\r\n\r\n"}, False, Reason.NOT_TLS),
        ({"host": DATA, "hello": hello(DATA) + hello(BAD)}, False, Reason.NOT_TLS),
        ({"host": DATA, "hello": tls.hello(tls.server_name(DATA, BAD))}, False, Reason.NOT_TLS),
        ({"host": DATA, "resolved": [PUBLIC, INSIDE]}, False, Reason.PRIVATE),
        ({"host": DATA, "resolved": ["169.254.169.254"]}, False, Reason.PRIVATE),
        ({"host": DATA, "resolved": ["::1"]}, False, Reason.PRIVATE),
        ({"host": DATA, "resolved": ["10.231.65.7"]}, False, Reason.PRIVATE),
        ({"host": DATA, "resolved": [SITE]}, True, Reason.ALLOWED),
        ({"host": DATA, "resolved": ["93.184.216.99"]}, False, Reason.DENIED),
        ({"host": LISTED}, True, Reason.ALLOWED_ADDRESS),
        ({"host": LISTED, "hello": hello(BAD)}, True, Reason.ALLOWED_ADDRESS),
        ({"host": LISTED, "port": 80}, False, Reason.PORT),
        ({"host": "10.1.9.9", "port": 80}, True, Reason.ALLOWED_ADDRESS),
        ({"host": "10.1.2.9"}, False, Reason.DENIED),
        ({"host": PUBLIC}, False, Reason.ADDRESS_LITERAL),
        ({"host": "10.0.0.6", "port": 53}, False, Reason.PORT),
        ({"host": "10.231.65.7"}, False, Reason.ADDRESS_LITERAL),
        ({"host": ""}, False, Reason.NO_HOST),
        ({"host": "no name"}, False, Reason.NOT_A_NAME),
        ({"host": "data.example.org\0"}, False, Reason.NOT_A_NAME),
        ({"host": "data%2eexample.org"}, False, Reason.NOT_A_NAME),
        ({"host": "user@data.example.org"}, False, Reason.NOT_A_NAME),
        ({"host": "data.example.org:443"}, False, Reason.NOT_A_NAME),
        ({"host": "data。example.org"}, False, Reason.NOT_A_NAME),
        ({"host": "*.corp.example.org"}, False, Reason.NOT_A_NAME),
        ({"klass": "gone", "host": DATA}, False, Reason.NO_CLASS),
        ({"klass": "open", "host": BAD}, True, Reason.ALLOWED),
        ({"klass": "open", "host": BAD, "hello": hello(BAD)}, True, Reason.ALLOWED),
        ({"klass": "open", "host": BAD, "hello": hello(DATA)}, False, Reason.SNI_DIFFERS),
        ({"klass": "open", "host": BAD, "hello": hello(BAD, tls.ECH)}, False, Reason.ENCRYPTED_HELLO),
        ({"klass": "open", "host": "bad.example.net"}, False, Reason.DENIED),
        ({"klass": "open", "host": "dns.google"}, False, Reason.DENIED),
        ({"klass": "open", "host": "8.8.8.8"}, False, Reason.DENIED),
        ({"klass": "open", "host": BAD, "port": 853}, False, Reason.PORT),
        ({"klass": "open", "host": BAD, "port": 53}, False, Reason.PORT),
        ({"klass": "open", "host": BAD, "port": 22}, True, Reason.ALLOWED),
        ({"klass": "open", "host": BAD, "resolved": [INSIDE]}, False, Reason.PRIVATE),
        ({"klass": "open", "host": PUBLIC, "port": 22}, True, Reason.PUBLIC),
        ({"klass": "open", "host": PUBLIC}, True, Reason.PUBLIC),
        ({"klass": "open", "host": PUBLIC, "hello": hello(None)}, True, Reason.PUBLIC),
        ({"klass": "open", "host": PUBLIC, "hello": hello(None, tls.ECH)}, False, Reason.ENCRYPTED_HELLO),
        ({"klass": "open", "host": PUBLIC, "hello": hello("bad.example.net")}, False, Reason.DENIED),
        ({"klass": "open", "host": PUBLIC, "hello": hello(PUBLIC)}, False, Reason.ADDRESS_LITERAL),
        ({"klass": "open", "host": PUBLIC, "hello": b"SSH-2.0-x\r\n"}, False, Reason.NOT_TLS),
        ({"klass": "open", "host": INSIDE}, False, Reason.ADDRESS_LITERAL),
        ({"klass": "open", "host": SITE}, False, Reason.ADDRESS_LITERAL),
        ({"klass": "open", "host": "169.254.169.254"}, False, Reason.ADDRESS_LITERAL),
        ({"klass": "open", "host": LISTED}, True, Reason.ALLOWED_ADDRESS),
    ],
    "proxy-http": [
        ({"host": DATA, "port": 80, "method": "GET"}, True, Reason.ALLOWED),
        ({"host": "plain.example.org", "port": 80, "resolved": [PUBLIC]}, True, Reason.ALLOWED),
        ({"host": "odd.example.org", "port": 8443}, True, Reason.ALLOWED),
        ({"host": DATA, "port": 443}, False, Reason.NOT_TLS),
        ({"host": DEEP, "port": 80}, False, Reason.PORT),
        ({"host": BAD, "port": 80}, False, Reason.NOT_LISTED),
        ({"host": DATA, "port": 80, "method": "PRI"}, False, Reason.HTTP2),
        ({"host": DATA, "port": 80, "resolved": [INSIDE]}, False, Reason.PRIVATE),
        ({"host": "10.1.9.9", "port": 80}, True, Reason.ALLOWED_ADDRESS),
        ({"host": "10.1.9.9", "port": 443}, True, Reason.ALLOWED_ADDRESS),
        ({"host": PUBLIC, "port": 80}, False, Reason.ADDRESS_LITERAL),
        ({"host": "169.254.169.254", "port": 80}, False, Reason.ADDRESS_LITERAL),
        ({"klass": "open", "host": PUBLIC, "port": 80}, True, Reason.PUBLIC),
        ({"klass": "open", "host": "bad.example.net", "port": 80}, False, Reason.DENIED),
    ],
    "intercept-tls": [
        ({"original": PUBLIC}, True, Reason.LOOK),
        ({"original": PUBLIC, "hello": hello(DATA), "resolved": [PUBLIC]}, True, Reason.ALLOWED),
        ({"original": PUBLIC, "hello": tls.real(DEEP), "resolved": [PUBLIC, OTHER]}, True, Reason.ALLOWED),
        ({"original": PUBLIC, "hello": hello(DATA), "resolved": [OTHER]}, False, Reason.NOT_ITS_ADDRESS),
        ({"original": PUBLIC, "hello": hello(DATA)}, False, Reason.NOT_ITS_ADDRESS),
        ({"original": PUBLIC, "hello": hello(BAD), "resolved": [PUBLIC]}, False, Reason.NOT_LISTED),
        ({"original": PUBLIC, "hello": hello("secret.corp.example.org"), "resolved": [PUBLIC]}, False, Reason.DENIED),
        ({"original": PUBLIC, "hello": hello("plain.example.org"), "resolved": [PUBLIC]}, False, Reason.PORT),
        ({"original": PUBLIC, "hello": hello(None)}, False, Reason.NO_SNI),
        ({"original": PUBLIC, "hello": hello(PUBLIC)}, False, Reason.ADDRESS_LITERAL),
        ({"original": PUBLIC, "hello": hello(LISTED), "resolved": [PUBLIC]}, False, Reason.ADDRESS_LITERAL),
        ({"original": PUBLIC, "hello": hello(DATA, tls.ECH), "resolved": [PUBLIC]}, False, Reason.ENCRYPTED_HELLO),
        ({"original": PUBLIC, "hello": b"SSH-2.0-x\r\n"}, False, Reason.NOT_TLS),
        ({"original": INSIDE}, False, Reason.PRIVATE),
        ({"original": INSIDE, "hello": hello(DATA), "resolved": [INSIDE]}, False, Reason.PRIVATE),
        ({"original": "93.184.216.99"}, False, Reason.DENIED),
        ({"original": LISTED}, True, Reason.ALLOWED_ADDRESS),
        ({"original": LISTED, "hello": b"anything"}, True, Reason.ALLOWED_ADDRESS),
        ({"original": SITE, "hello": hello(DATA), "resolved": [SITE]}, True, Reason.ALLOWED),
        ({"original": "10.231.65.7"}, False, Reason.PRIVATE),
        ({"original": None}, False, Reason.NOT_ITS_ADDRESS),
        ({"original": "::1"}, False, Reason.NOT_ITS_ADDRESS),
        ({"klass": "none", "original": PUBLIC}, False, Reason.NOT_LISTED),
        ({"klass": "open", "original": PUBLIC}, True, Reason.LOOK),
        ({"klass": "open", "original": PUBLIC, "hello": hello(BAD), "resolved": [OTHER]}, True, Reason.PUBLIC),
        ({"klass": "open", "original": PUBLIC, "hello": hello(None)}, True, Reason.PUBLIC),
        ({"klass": "open", "original": PUBLIC, "hello": hello("dns.google"), "resolved": [PUBLIC]}, False, Reason.DENIED),
        ({"klass": "open", "original": PUBLIC, "hello": hello(BAD, tls.ECH), "resolved": [PUBLIC]}, False, Reason.ENCRYPTED_HELLO),
        ({"klass": "open", "original": SITE, "hello": hello(None)}, False, Reason.NO_SNI),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("via", "number"), [(via, number) for via, cases in CASES.items() for number in range(len(cases))])
def test_cases(via: str, number: int) -> None:
    request, allowed, reason = CASES[via][number]
    verdict = decide(via, **request)
    assert (verdict.allowed, verdict.reason) == (allowed, reason), request
    assert verdict.reason.sentence.endswith(".")


def test_what_is_worth_a_look() -> None:
    """The ClientHello is asked for where a name on port 443 depends on it, and nowhere else."""
    assert decide("proxy-connect", DATA).inspect
    assert decide("intercept-tls", original=PUBLIC).inspect
    assert decide("proxy-connect", PUBLIC, klass="open").inspect
    for verdict in (
        decide("proxy-connect", DATA, hello=hello(DATA)),
        decide("proxy-connect", "git.example.org", 22),
        decide("proxy-connect", LISTED),
        decide("proxy-connect", BAD),
        decide("intercept-tls", original=LISTED),
        decide("proxy-http", DATA, 80),
    ):
        assert not verdict.inspect


def test_a_reason_is_a_word_in_a_log() -> None:
    assert json.loads(json.dumps({"reason": Reason.NO_SNI})) == {"reason": "no SNI"}
    assert f"{Reason.NO_SNI}" == "no SNI"
    assert len({reason.value for reason in Reason}) == len(Reason)


def test_the_class_of_an_address() -> None:
    assert POLICY.class_of("10.231.64.2") == "clinic"
    assert POLICY.class_of("10.231.79.255") == "clinic"
    for other in ("10.231.80.0", "10.20.0.1", "10.231.064.2", "::1", "", "x"):
        assert POLICY.class_of(other) is None


def test_addresses_as_the_packet_filter_sees_them() -> None:
    assert POLICY.decide_address("clinic", "10.0.0.6", 53, "udp").allowed
    assert not POLICY.decide_address("clinic", "10.0.0.6", 53, "tcp").allowed
    assert POLICY.decide_address("clinic", "10.1.9.9", 9).allowed
    assert POLICY.decide_address("clinic", "10.1.2.9", 9).reason is Reason.DENIED
    assert POLICY.decide_address("open", PUBLIC, 9).reason is Reason.PUBLIC
    assert not POLICY.decide_address("open", PUBLIC, 443, "udp").allowed
    assert not POLICY.decide_address("open", "2001:db8::1", 443).allowed
    assert POLICY.decide_address("x", PUBLIC, 443).reason is Reason.NO_CLASS


def test_what_the_resolver_may_answer() -> None:
    known = [DATA, "Data.Example.org.", DEEP, "git.example.org", "plain.example.org"]
    assert all(POLICY.resolves("clinic", name) for name in known)
    unknown = ["example.org", "corp.example.org", "secret.corp.example.org", BAD, "", "10.0.0.5", "a b", "x" * 300]
    assert not any(POLICY.resolves("clinic", name) for name in unknown)
    assert POLICY.resolves("open", BAD) and not POLICY.resolves("open", "bad.example.net") and not POLICY.resolves("gone", DATA)
    # Denied for the web only: the name is still there for what is left of it.
    policy = Policy.from_plain(
        compile_policy({"a": {"subnet": "10.9.0.0/24", "allow": ["x.example.org:22,443"], "deny": ["x.example.org:443"]}})
    )
    assert policy.resolves("a", "x.example.org")


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        [],
        {"version": 2},
        {"version": 1},
        {"version": 1, "classes": {"a": {}}, "closed": [], "site_networks": []},
        {"version": 1, "classes": {}, "closed": ["x"], "site_networks": []},
    ],
)
def test_what_is_no_policy(plain: Any) -> None:
    with pytest.raises(ValueError):
        Policy.from_plain(plain)


def spellings(address: str) -> list[str]:
    """An address in the ways that some program reads."""
    a, b, c, d = map(int, address.split("."))
    whole = int(ipaddress.IPv4Address(address))
    plain = [
        address, f"{whole}", f"0x{whole:x}", f"0X{whole:08X}", f"0{whole:o}", f"{a}.{whole & 0xFFFFFF}", f"{a}.{b}.{whole & 0xFFFF}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}", f"{a}.0x{b:x}.0{c:o}.{d}", f"{a:03}.{b:03}.{c:03}.{d:03}",
        f"0x{a:x}.{whole & 0xFFFFFF}", f"::ffff:{address}", f"::ffff:{whole >> 16:x}:{whole & 0xFFFF:x}", f"0:0:0:0:0:ffff:{address}",
        f"::{address}", f"64:ff9b::{address}", "fe80::1%eth0", "::1", "2001:db8::1", f"{address}.",
    ]  # fmt: skip
    full = str.maketrans("0123456789.", "０１２３４５６７８９。")
    dressed = [f"[{each}]" for each in plain] + [f"{each}." for each in plain[:12]] + [each.translate(full) for each in plain[:2]]
    encoded = ["".join(f"%{ord(c):02x}" for c in each) for each in plain] + [each.replace(".", "%2e") for each in plain[:1]]
    twice = ["".join(f"%25{ord(c):02x}" for c in plain[0])]
    spaced = [f" {address}", f"{address} ", f"\t{address}", f"{address}\n", f"{address}\0"]
    return [*plain[1:], *dressed, *encoded, *twice, *spaced]


@pytest.mark.parametrize("address", ["10.0.0.5", "169.254.169.254", "93.184.216.34", "127.0.0.1", "8.8.8.8"])
def test_no_spelling_of_an_address_is_a_name(address: str) -> None:
    """Only the plain one may be looked up in the list, because two programs would read the others as two addresses."""
    for klass in ("clinic", "open"):
        for text in spellings(address):
            for via in VIAS:
                verdict = decide(via, text, klass=klass, original=address, port=8080 if via != "intercept-tls" else 443, hello=b"")
                assert not verdict.name, text
                if via.startswith("proxy"):
                    assert not verdict.allowed, (text, verdict)
                    assert verdict.reason in (Reason.ADDRESS_LITERAL, Reason.NOT_A_NAME), (text, verdict)
            assert not POLICY.resolves(klass, text.translate({ord("。"): "."})), text
            # As a server name.
            if text.isascii() and text.isprintable() and " " not in text:
                assert not decide("intercept-tls", klass=klass, original=PUBLIC, hello=hello(text), resolved=[PUBLIC]).allowed, text
                assert not decide("proxy-connect", DATA, klass=klass, hello=hello(text)).allowed, text


def policy_of(allow: list[str], deny: list[str], public: bool = False) -> Policy:
    options = {"subnet": "10.9.0.0/24", "allow": allow, "deny": deny, "public_internet": public}
    return Policy.from_plain(compile_policy({"a": options}, used=["a"]))


@given(allow=world.entries, deny=world.entries)
def test_it_says_what_the_uncompiled_entries_say(allow: list[str], deny: list[str]) -> None:
    deny = world.consistent(allow, deny)
    policy = policy_of(allow, deny)
    for address in world.ADDRESSES:
        for port in world.PORTS:
            for protocol in ("tcp", "udp"):
                verdict = policy.decide_address("a", address, port, protocol)
                assert verdict.allowed == world.naive(allow, deny, address, port, protocol), (address, port, protocol)
    for name in world.NAMES:
        for port in world.PORTS:
            wanted = world.naive(allow, deny, name, port)
            via, data = ("proxy-http", None) if port == 80 else ("proxy-connect", hello(name))
            verdict = policy.decide(Request("a", via, name, port, hello=data))
            assert verdict.allowed == wanted, (name, port, verdict)
            if port == 443:
                there = Request("a", "intercept-tls", "", port, original=PUBLIC, hello=data, resolved=frozenset([PUBLIC]))
                assert policy.decide(there).allowed == wanted, (name, port)
        assert policy.resolves("a", name) == any(
            world.naive(allow, deny, name, port, protocol) for port in (*world.PORTS, 1, 8099, 500, 40000) for protocol in ("tcp", "udp")
        )


@given(allow=world.entries, deny=world.entries, public=st.booleans())
def test_denied_is_denied_whatever_is_allowed(allow: list[str], deny: list[str], public: bool) -> None:
    deny = world.consistent(allow, deny)
    policy = policy_of(allow, deny, public)
    for host in (*world.NAMES, *world.ADDRESSES):
        for port in world.PORTS:
            if any(world.matches(world.parse_destination(text, deny=True), host, port) for text in deny):
                for via in VIAS:
                    data = hello(host) if host[0].isalpha() else None
                    request = Request(
                        "a", via, host, port, original=host if host[0].isdigit() else PUBLIC, hello=data, resolved=frozenset([PUBLIC])
                    )
                    assert not policy.decide(request).allowed


hosts = st.text(max_size=30) | st.sampled_from([*world.NAMES, *world.ADDRESSES, "", "[::1]", "0x7f.1"])


@given(
    klass=st.sampled_from(["clinic", "open", "none", "", "x"]),
    via=st.sampled_from([*VIAS, "", "socks"]),
    host=hosts,
    port=st.integers(-1, 200_000),
    original=st.none() | hosts,
    data=st.none() | st.binary(max_size=60) | st.sampled_from([hello(DATA), hello(None), hello(BAD, tls.ECH)]),
    resolved=st.frozensets(hosts, max_size=3),
    method=st.text(max_size=8),
)
def test_no_request_breaks_it(
    klass: str, via: str, host: str, port: int, original: str | None, data: bytes | None, resolved: frozenset[str], method: str
) -> None:
    verdict = POLICY.decide(Request(klass, via, host, port, original, data, resolved, method))
    assert isinstance(verdict.reason, Reason)
    assert verdict.allowed or not verdict.inspect
    if via not in VIAS or klass not in PLAIN["classes"]:
        assert not verdict.allowed
