"""The table of attacks and the judgement of what leaks; the attacks themselves run on hosts (molecule/egress)."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from egress import cases, restarts  # noqa: E402
from egress.attacker import wire  # noqa: E402
from egress.attacker.methods import Attack  # noqa: E402
from egress.attacker.packets import Frames, checksum, crc32c  # noqa: E402
from egress.places import name_listed, permitted  # noqa: E402
from egress.suite import why  # noqa: E402
from egress.world import dns, tls  # noqa: E402

FAMILIES = {
    "direct IPv4", "direct IPv6", "encodings of addresses", "UDP and TCP 53", "DNS tunnel by type", "DoH", "DoT", "QUIC", "ICMP", "SCTP", "SNI ≠ CONNECT",
    "Host ≠ SNI", "no SNI", "ECH", "fragmented ClientHello", "IP-literal CONNECT", "double CONNECT", "CONNECT to odd ports", "request smuggling",
    "absolute-form requests", "rebinding", "redirects", "HTTP/2 authority mismatch", "web sockets", "unset proxy variables", "raw sockets", "spoofed source",
    "gratuitous ARP", "another session, same node", "another session, other node", "Docker API", "hub API without token", "registry push", "NFS ports",
}  # fmt: skip
EVERY = cases.every()


def test_every_family_has_cases_and_no_case_is_there_twice() -> None:
    assert {case.family for case in EVERY} >= FAMILIES
    assert [name for name, count in Counter((c.family, c.name) for c in EVERY).items() if count > 1] == []
    attacks = [(c.method, repr(sorted(c.arguments.items())), c.klass, c.where) for c in EVERY]
    assert [attack for attack, count in Counter(attacks).items() if count > 1] == []
    assert sum(not c.unshown and not c.limit for c in EVERY) > 1000


def test_each_case_fits_its_method() -> None:
    for case in (*EVERY, *restarts.KINDS.values()):
        method = getattr(Attack if case.where == "inside" else Frames, case.method)
        inspect.signature(method).bind(None, **case.arguments)


@pytest.mark.parametrize(
    ("klass", "seen", "fine"),
    [
        ("listed", {"place": "allowed", "protocol": "tcp", "port": 443, "tls": True, "sni": "allowed.example", "host": "allowed.example"}, True),
        ("listed", {"place": "allowed", "protocol": "tcp", "port": 443, "tls": True, "sni": "allowed.example", "ech": True}, False),
        ("listed", {"place": "allowed", "protocol": "tcp", "port": 443}, False),
        ("listed", {"place": "cdn", "protocol": "tcp", "port": 443, "tls": True, "sni": "tenant.attacker.example"}, False),
        ("listed", {"place": "cdn", "protocol": "tcp", "port": 443, "tls": True, "sni": "cdn.example|tenant.attacker.example"}, False),
        ("listed", {"place": "cdn", "protocol": "tcp", "port": 443, "tls": True, "sni": "cdn.example", "host": "tenant.attacker.example"}, False),
        ("listed", {"place": "attacker", "protocol": "tcp", "port": 443, "tls": True, "sni": "cdn.example"}, False),
        ("listed", {"place": "cdn", "protocol": "tcp", "port": 80, "host": "cdn.example"}, True),
        ("listed", {"place": "listed", "protocol": "udp", "port": 9999}, True),
        ("listed", {"place": "listed", "protocol": "udp", "port": 9998}, False),
        ("listed", {"place": "nameserver", "protocol": "dns", "port": 53, "name": "x.wild.example", "type": "TXT"}, True),
        ("listed", {"place": "attacker_dns", "protocol": "dns", "port": 53, "name": "x.wild.example", "type": "A"}, False),
        ("open", {"place": "attacker", "protocol": "tcp", "port": 9100}, True),
        ("open", {"place": "attacker", "protocol": "udp", "port": 9999}, False),
        ("open", {"place": "internal", "protocol": "tcp", "port": 80}, False),
        ("none", {"place": "allowed", "protocol": "tcp", "port": 80, "host": "allowed.example"}, False),
    ],
)  # fmt: skip
def test_what_is_permitted(klass: str, seen: dict[str, object], fine: bool) -> None:
    assert permitted(klass, seen) is fine


def test_a_leak_is_seen_in_logs_and_answers() -> None:
    case = next(c for c in EVERY if c.sign == "address")
    here = {"token": "t", "place": "cdn", "protocol": "tcp", "port": 80, "host": "cdn.example"}
    assert why(case, "", [here]) == ""
    assert "place=internal" in why(case, "", [{**here, "place": "internal"}])
    assert why(case, 'x SECRET-7f3a {"place": "internal", "protocol": "tcp", "port": 80}', [])
    assert not why(case, 'x SECRET-7f3a {"place": "cdn", "protocol": "tcp", "port": 80, "host": "cdn.example"}', [])
    assert why(case, "ADDRESS=10.99.0.10\n", [])
    assert not why(case, "ADDRESS=203.0.113.10\n", [])


@pytest.mark.parametrize(("name", "listed"), [("cdn.example", True), ("a.cdn.example", False), ("a.b.wild.example", True), ("wild.example", False), ("secret.wild.example", False),
                                              ("*.wild.example", False), ("cdn.example\0", False)])  # fmt: skip
def test_listed_names(name: str, listed: bool) -> None:
    assert name_listed(name) is listed


def test_checksums_are_those_of_their_standards() -> None:
    assert checksum(bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7".replace(" ", ""))) == 0xB861
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("cut", ["tcp:1", "tcp:sni", "record:1", "record:sni", "record:head", "record:empty", "records:8", "record+tcp:40"])
def test_a_cut_hello_is_the_same_hello(cut: str) -> None:
    hello = wire.hello("plain", "tenant.attacker.example", "tok")
    joined = b"".join(wire.records(hello, cut))
    assert tls.handshake_of(joined) == hello[5:]
    assert tls.facts_of(hello[5:])["sni"] == "tenant.attacker.example"


@pytest.mark.parametrize(("form", "sni", "hidden"), [("none", "", False), ("ech", "cdn.example", True), ("two-names", "cdn.example|x.example", False), ("unknown-kind", "kind 1", False)])
def test_hellos_by_hand(form: str, sni: str, hidden: bool) -> None:
    name = "cdn.example" if form == "ech" else "x.example"
    facts = tls.facts_of(wire.hello(form, name, "tok")[5:])
    assert (facts["sni"], facts["ech"]) == (sni, hidden)


def test_the_nameserver_answers(capsys: pytest.CaptureFixture[str]) -> None:
    message = wire.query("r-internal-tok000000000000.wild.example", "A")
    reply = dns.respond(message, "nameserver", 53, {}, "UDP")
    assert reply[-4:] == bytes([10, 99, 0, 10])
    assert '"token": "tok000000000000"' in capsys.readouterr().out
