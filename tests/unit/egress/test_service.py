"""The egress service of a node: squid's questions, what the others log, a policy that changes, the journal of refusals."""

from __future__ import annotations

import base64
import json
import ssl
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import egress
from ansible_collections.metalhub.platform.plugins.module_utils.egress_terms import EXPLICIT, INTERCEPT_HTTP, INTERCEPT_TLS, NODE_RESOLVER

ROLE = Path(__file__).parents[3] / "roles/egress/files/opt/metalhub/egress"
sys.path.insert(0, str(ROLE))

from metalhub_egress import nflog  # noqa: E402
from metalhub_egress import service as module  # noqa: E402
from metalhub_egress.questions import Flow, ResolverLog, parse_flows, parse_syslog  # noqa: E402
from metalhub_egress.refusals import Journal  # noqa: E402
from metalhub_egress.sessions import Sessions  # noqa: E402

CLASSES: dict[str, Any] = {
    "lab": {"subnet": "10.231.64.0/20", "allow": ["data.example.org", "git.example.org:22", "192.0.2.80:443"]},
    "open-net": {"subnet": "10.231.80.0/20", "public_internet": True, "log": "all"},
}
ALLOWED, OTHER = "203.0.113.10", "198.51.100.66"
# The ranges for documentation stand for the public internet.
RESERVED = [network for network in egress.RESERVED if network not in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
CLIENT = "10.231.64.5"


def hello(name: str) -> str:
    """A real ClientHello as squid hands it on."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name or None).do_handshake()
    return base64.b64encode(outgoing.read()).decode()


class Commands:
    """Notes what is run, and answers as the tools of a host do."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.flows = ""

    def __call__(self, *argv: str) -> str:
        self.calls.append(list(argv))
        return self.flows if argv[:2] == ("conntrack", "-L") and argv[3] == "10.231.64.0/20" else ""

    def cut(self) -> list[list[str]]:
        return [call[3:] for call in self.calls if call[:2] == ["conntrack", "-D"]]


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(egress.compile_policy(CLASSES, reserved=RESERVED)))
    monkeypatch.setattr(module, "POLICY", str(file))
    return file


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "refusals.jsonl"), lambda _: {"user": "ann"})


@pytest.fixture
def service(policy: Path, journal: Journal, commands: Commands) -> module.Service:
    made = module.Service({"control": ["192.0.2.1"], "node": "n1"}, journal, commands)
    assert made.load() and not made.load()
    return made


def written(journal: Journal) -> list[dict[str, Any]]:
    journal.write(final=True)
    return list(journal.lines())


# As squid 6.13 writes them, for a format of `%>a %>p %lp %>la %>rm %>rd %>rP %>handshake`.
INTERCEPTED = "3 10.231.64.5 56578 3130 203.0.113.10 CONNECT 203.0.113.10 443 "
CONNECT = "12 10.231.64.5 50242 3128 10.231.64.1 CONNECT {} 443 "


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (INTERCEPTED + "-", "3 OK inspect_=yes"),
        (INTERCEPTED + hello("data.example.org"), "3 OK inspect_=no"),
        (INTERCEPTED + hello("evil.example.org"), "3 ERR message=not%20in%20the%20class%27s%20list"),
        (INTERCEPTED + hello(""), "3 ERR message=no%20SNI"),
        (INTERCEPTED + base64.b64encode(b"SSH-2.0-x\r\n").decode(), "3 ERR message=not%20TLS"),
        (CONNECT.format("data.example.org") + "-", "12 OK inspect_=yes"),
        (CONNECT.format("data.example.org") + hello("data.example.org"), "12 OK inspect_=no"),
        (CONNECT.format("data.example.org") + hello("git.example.org"), "12 ERR message=SNI%20is%20not%20the%20CONNECT%20host"),
        (CONNECT.format("evil.example.org") + "-", "12 ERR message=not%20in%20the%20class%27s%20list"),
        (CONNECT.format("192.0.2.80") + "-", "12 OK inspect_=no"),
        (CONNECT.format("198.51.100.66") + "-", "12 ERR message=address%20literal"),
        ("1 10.231.64.5 50242 3128 10.231.64.1 CONNECT git.example.org 22 -", "1 OK inspect_=no"),
        ("1 10.231.64.5 53792 3129 203.0.113.10 GET data.example.org 80 -", "1 OK inspect_=no"),
        ("1 10.231.64.5 53792 3129 203.0.113.10 GET evil.example.org 80 -", "1 ERR message=not%20in%20the%20class%27s%20list"),
        ("1 10.231.64.5 53792 3128 10.231.64.1 GET data.example.org 80 -", "1 OK inspect_=no"),
        ("1 10.250.1.9 53792 3128 10.231.64.1 GET data.example.org 80 -", "1 ERR message=no%20class"),
    ],
)
def test_squid_gets_an_answer(service: module.Service, line: str, answer: str) -> None:
    assert service.decide(line) == answer


@pytest.mark.parametrize(
    "line",
    ["", "5", "5 x", "5 10.231.64.5 1 9999 10.231.64.1 GET data.example.org 80 -", "5 ::1 1 3128 ::1 GET data.example.org 80 -",
     "5 10.231.64.5 1 3130 203.0.113.10 CONNECT 203.0.113.10 443 not-base64!", "5 10.231.64.5 x 3128 10.231.64.1 GET data.example.org 80 -"],
)  # fmt: skip
def test_what_cannot_be_read_is_a_no(service: module.Service, line: str) -> None:
    assert service.decide(line).split(" ", 1)[1] == "BH message=unreadable"


def test_a_question_without_a_policy_is_a_no(journal: Journal, commands: Commands) -> None:
    assert module.Service({}, journal, commands).decide(CONNECT.format("data.example.org") + "-") == "12 ERR message=no%20class"


def test_refusals_are_noted_and_what_is_allowed_where_the_class_says_so(service: module.Service, journal: Journal) -> None:
    service.decide(CONNECT.format("evil.example.org") + "-")
    service.decide(CONNECT.format("data.example.org") + hello("data.example.org"))
    service.decide("1 10.231.80.5 1 3128 10.231.80.1 GET example.org 80 -")
    refused, allowed = written(journal)
    assert refused["destination"] == "evil.example.org" and refused["via"] == "proxy-connect" and refused["port"] == 443
    assert refused["class"] == "lab" and refused["user"] == "ann" and refused["verdict"] == "refused"
    assert allowed["destination"] == "example.org" and allowed["verdict"] == "allowed" and allowed["class"] == "open-net"


# -- what the others log --------------------------------------------------------------------------------------------------

# dnsmasq 2.91, log-queries=extra, as syslog(3) sends it.
RESOLVER = """<30>Nov 25 03:12:24 dnsmasq[1659]: 5 10.231.64.2/40000 query[A] evil.example.org from 10.231.64.2
<30>Nov 25 03:12:24 dnsmasq[1659]: 5 10.231.64.2/40000 config evil.example.org is NXDOMAIN
<30>Nov 25 03:12:24 dnsmasq[1659]: 6 10.231.64.2/40001 query[A] git.example.org from 10.231.64.2
<30>Nov 25 03:12:24 dnsmasq[1659]: 6 10.231.64.2/40001 forwarded git.example.org to 127.0.0.55
<30>Nov 25 03:12:24 dnsmasq[1659]: 6 10.231.64.2/40001 reply git.example.org is <CNAME>
<30>Nov 25 03:12:24 dnsmasq[1659]: 6 10.231.64.2/40001 reply node7.cdn.example.net is 203.0.113.10
<30>Nov 25 03:12:24 dnsmasq[1659]: 7 10.231.64.2/40002 query[AAAA] git.example.org from 10.231.64.2
<30>Nov 25 03:12:24 dnsmasq[1659]: 7 10.231.64.2/40002 config git.example.org is NODATA
<30>Nov 25 03:12:24 dnsmasq[1659]: 8 10.231.64.2/40003 query[TXT] git.example.org from 10.231.64.2
<30>Nov 25 03:12:24 dnsmasq[1659]: 8 10.231.64.2/40003 config git.example.org is NODATA
"""


def test_the_resolver_says_what_was_refused_and_where_names_lead(service: module.Service, journal: Journal) -> None:
    for line in RESOLVER.splitlines():
        service.logged(line.encode())
    lines = written(journal)
    assert [(one["destination"], one["protocol"]) for one in lines] == [("evil.example.org", "A"), ("git.example.org", "TXT")]
    assert service.answers.all() == [("lab", "git.example.org", ALLOWED)], "by the name that was asked, not the one behind it"


def test_squid_says_what_it_refused_itself_and_what_has_ended(service: module.Service, journal: Journal) -> None:
    service.decide(CONNECT.format("data.example.org") + hello("data.example.org"))
    assert (CLIENT, 50242) in service.open
    service.logged(b"<30>Nov 25 03:12:24 squid[1633]: metalhub 10.231.64.5 50242 CONNECT - data.example.org")
    service.logged(b"<30>Nov 25 03:12:24 squid[1633]: metalhub 10.231.64.5 50243 GET ERR_CONFLICT_HOST data.example.org")
    service.logged(b"<30>Nov 25 03:12:24 squid[1633]: metalhub 10.231.64.5 50243 GET ERR_CONNECT_FAIL data.example.org")
    assert not service.open
    assert [line["reason"] for line in written(journal)] == ["the address is not one of the name"]


@pytest.mark.parametrize("data", [b"", b"\xff\x00", b"<30>x", b"<30>Nov 25 03:12:24 squid[1]: metalhub a b", b"<30>Nov 25 03:12:24 dnsmasq[1]: hello"])
def test_noise_in_the_log_is_passed_over(service: module.Service, journal: Journal, data: bytes) -> None:
    service.logged(data)
    assert written(journal) == []


def test_a_resolver_that_is_flooded_is_not_remembered_for_ever() -> None:
    log = ResolverLog(capacity=10)
    for number in range(1000):
        log.feed("1", f"{number} 10.0.0.1/1 query[A] x{number}.example.org from 10.0.0.1")
    assert len(log._asked) == 10
    assert log.feed("1", "999 10.0.0.1/1 config x999.example.org is NXDOMAIN") == ("refused", "10.0.0.1", "A", "x999.example.org", "")


def test_syslog_with_and_without_a_host() -> None:
    assert parse_syslog(b"<30>Nov  5 03:12:24 squid[7]: metalhub x") == ("squid", "7", "metalhub x")
    assert parse_syslog(b"<30>(squid-1)[7]: metalhub x\n") == ("(squid-1)", "7", "metalhub x")


def packet(protocol: int, destination: str = OTHER, port: int = 4444, header: int = 5) -> bytes:
    addresses = bytes(map(int, CLIENT.split("."))) + bytes(map(int, destination.split(".")))
    head = struct.pack(">BBHHHBBH", 0x40 | header, 0, 40, 0, 0, 64, protocol, 0) + addresses
    return head + b"\0" * (header * 4 - 20) + struct.pack(">HH", 1234, port)


def message(payload: bytes) -> bytes:
    attributes = struct.pack("=HHI", 8, 4, 7) + struct.pack("=HH", len(payload) + 4, 9) + payload + b"\0" * (-len(payload) % 4)
    body = struct.pack("=BBH", 2, 0, 27) + attributes
    return struct.pack("=IHHII", len(body) + 16, 0x0400, 0, 0, 0) + body


def test_refused_packets_are_noted(service: module.Service, journal: Journal) -> None:
    service.packets(message(packet(6)) + message(packet(17, port=53)) + message(packet(1)) + message(packet(132, header=6)) + message(b"\x60" * 40))
    found = [(one["destination"], one["protocol"], one["port"]) for one in written(journal)]
    assert found == [(OTHER, "tcp", 4444), (OTHER, "udp", 53), (OTHER, "icmp", 0), (OTHER, "sctp", 4444)]


@pytest.mark.parametrize("data", [b"", b"\0" * 15, b"\0" * 64, message(packet(6))[:30], message(b"\x45")])
def test_broken_messages_of_the_kernel_end_nothing(data: bytes) -> None:
    assert list(nflog.packets(data)) == []


# -- a policy that changes ----------------------------------------------------------------------------------------------

FLOWS = """tcp      6 431999 ESTABLISHED src=10.231.64.5 dst=10.231.64.1 sport=50242 dport=3128 src=10.231.64.1 dst=10.231.64.5 sport=3128 dport=50242 [ASSURED] mark=0 use=1
tcp      6 431999 ESTABLISHED src=10.231.64.5 dst=192.0.2.80 sport=40000 dport=443 src=192.0.2.80 dst=10.250.1.11 sport=443 dport=40000 [ASSURED] mark=28008 use=1
tcp      6 431999 ESTABLISHED src=10.231.64.5 dst=203.0.113.10 sport=40001 dport=22 src=203.0.113.10 dst=10.250.1.11 sport=22 dport=40001 [ASSURED] mark=28008 use=1
tcp      6 431999 ESTABLISHED src=10.231.64.5 dst=192.0.2.1 sport=40002 dport=8081 src=192.0.2.1 dst=10.250.1.11 sport=8081 dport=40002 [ASSURED] mark=28008 use=1
tcp      6 107 TIME_WAIT src=10.231.64.5 dst=10.231.64.1 sport=46238 dport=3128 src=10.231.64.1 dst=10.231.64.5 sport=3128 dport=46238 [ASSURED] mark=0 use=1
udp      17 14 src=10.231.64.5 dst=10.231.64.1 sport=44605 dport=53 src=10.231.64.1 dst=10.231.64.5 sport=53 dport=44605 mark=0 use=1
icmp     1 29 src=10.231.64.5 dst=10.231.64.1 type=8 code=0 id=1 src=10.231.64.1 dst=10.231.64.5 type=0 code=0 id=1 mark=0 use=1
"""  # noqa: E501 - as conntrack 1.4.8 prints it


def change(policy: Path, **classes: Any) -> None:
    policy.write_text(json.dumps(egress.compile_policy({**CLASSES, **classes}, reserved=RESERVED)))


@pytest.fixture
def busy(service: module.Service, commands: Commands) -> module.Service:
    """One connection through the proxy, one to a listed address, one to an address of a name, one to the hub, one look-up."""
    service.decide(CONNECT.format("data.example.org") + hello("data.example.org"))
    for line in RESOLVER.splitlines():
        service.logged(line.encode())
    commands.flows = FLOWS
    return service


def test_flows_are_read() -> None:
    assert parse_flows(FLOWS)[0] == Flow("tcp", CLIENT, 50242, "10.231.64.1", 3128)
    assert len(parse_flows(FLOWS)) == 5


def test_what_is_still_allowed_stays(busy: module.Service, policy: Path, commands: Commands) -> None:
    change(policy, lab=CLASSES["lab"] | {"allow": [*CLASSES["lab"]["allow"], "more.example.org"]})
    assert busy.load() and busy.recheck() == 0 and commands.cut() == []
    filled = [call for call in commands.calls if call[:3] == ["nft", "add", "element"]]
    assert [call[-1] for call in filled] == ["{ 203.0.113.10 }"], "a reload of the rules empties the sets of names"


@pytest.mark.parametrize(
    ("gone", "port"), [("data.example.org", "50242"), ("192.0.2.80:443", "40000"), ("git.example.org:22", "40001")]
)
def test_what_is_removed_is_cut(busy: module.Service, policy: Path, commands: Commands, gone: str, port: str) -> None:
    change(policy, lab=CLASSES["lab"] | {"allow": [one for one in CLASSES["lab"]["allow"] if one != gone]})
    assert busy.load()
    assert busy.recheck() >= 1
    assert ["tcp", "-s", CLIENT, "--sport", port] in commands.cut()
    assert {call[-1] for call in commands.cut()} == {port}, "and nothing else is"


def test_a_service_that_began_after_a_connection_cuts_it_when_the_policy_changes(service: module.Service, policy: Path, commands: Commands) -> None:
    """What was decided about it is not known any more."""
    commands.flows = FLOWS
    change(policy, lab=CLASSES["lab"] | {"allow": [*CLASSES["lab"]["allow"], "more.example.org"]})
    assert service.load()
    service.recheck()
    assert ["tcp", "-s", CLIENT, "--sport", "50242"] in commands.cut()


def test_what_the_kernel_does_not_know_is_over(busy: module.Service, policy: Path, commands: Commands) -> None:
    """A proxy that was killed told no ends: to forget each would take seconds, in which what has to go stays."""
    still = dict(busy.open)
    for port in range(1000, 3000):
        busy.open[(CLIENT, port)] = next(iter(still.values()))
    change(policy, lab=CLASSES["lab"] | {"allow": [one for one in CLASSES["lab"]["allow"] if one != "data.example.org"]})
    assert busy.load() and busy.recheck() >= 1
    assert {call[-1] for call in commands.cut()} == {"50242"}
    assert set(busy.open) <= set(still)


def test_a_broken_policy_leaves_the_one_before(service: module.Service, policy: Path) -> None:
    policy.write_text("{")
    with pytest.raises(ValueError, match="property name"):
        service.load()
    assert service.decide(CONNECT.format("data.example.org") + "-") == "12 OK inspect_=yes"


# -- the journal ----------------------------------------------------------------------------------------------------------

NOTE = {"verdict": "refused", "source": CLIENT, "class": "lab", "destination": "x", "port": 1, "protocol": "tcp", "via": "packet", "reason": "r"}


def test_repeated_refusals_are_two_lines(tmp_path: Path) -> None:
    now = [1000.0]
    journal = Journal(str(tmp_path / "j"), lambda _: {}, clock=lambda: now[0])
    for _ in range(500):
        journal.note(**NOTE)
    journal.write()
    now[0] += 61
    journal.write()
    assert [line["count"] for line in journal.lines()] == [1, 499]


def test_a_flood_is_counted_and_waits_for_nobody(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"), lambda _: {}, capacity=100)
    for port in range(1000):
        journal.note(**{**NOTE, "port": port})
    assert journal.dropped == 900
    journal.write()
    assert len(list(journal.lines())) == 100


def test_the_files_have_a_bound(tmp_path: Path) -> None:
    now = [0.0]
    journal = Journal(str(tmp_path / "j"), lambda _: {}, size=4000, files=3, clock=lambda: now[0])
    for port in range(300):
        now[0] += 100
        journal.note(**{**NOTE, "port": port})
        journal.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j", "j.1", "j.2"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * 4000
    ports = [line["port"] for line in journal.lines()]
    assert ports == sorted(ports) and ports[-1] == 299
    assert [line["port"] for line in journal.lines(since="1970-01-01T08:18:20Z")] == [298, 299]


def test_a_disk_that_is_full_stops_nothing(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "missing" / "j"), lambda _: {})
    journal.note(**NOTE)
    journal.write()
    assert journal.dropped == 1


class FakeEngine:
    def __init__(self) -> None:
        self.calls, self.broken = 0, False

    def request(self, _method: str, _path: str) -> Any:
        self.calls += 1
        if self.broken:
            raise OSError("away")
        labels = {"metalhub.session": "mh-ann", "metalhub.user": "ann", "metalhub.profile": "small"}
        return [{"Labels": labels, "NetworkSettings": {"Networks": {"mh-lab": {"IPAddress": CLIENT}}}}]


def test_an_address_is_somebodys() -> None:
    now, engine = [0.0], FakeEngine()
    sessions = Sessions(engine, "n1", clock=lambda: now[0])
    assert sessions(CLIENT) == {"node": "n1", "user": "ann", "session": "mh-ann", "profile": "small"}
    assert sessions("10.231.64.9")["user"] == "" and engine.calls == 1
    now[0], engine.broken = 3, True
    assert sessions(CLIENT)["user"] == "ann", "an engine that is away takes nothing away"


def test_a_session_that_was_made_in_advance_is_whoevers_it_became(tmp_path: Path) -> None:
    name = "mh--warm-0123456789ab"
    labels = {"metalhub.session": name, "metalhub.profile": "small"}
    container = {"Labels": labels, "NetworkSettings": {"Networks": {"mh-lab": {"IPAddress": CLIENT}}}}
    now = [0.0]
    sessions = Sessions(SimpleNamespace(request=lambda *_: [container]), "n1", clock=lambda: now[0], claims=str(tmp_path))
    assert sessions(CLIENT) == {"node": "n1", "user": "", "session": name, "profile": "small"}
    (tmp_path / name).write_text('{"user": "ann", "profile": "small"}')
    now[0] = 3
    assert sessions(CLIENT)["user"] == "ann"
    labels["metalhub.session"] = "../" + name
    now[0] = 6
    assert sessions(CLIENT)["user"] == "", "only names that we gave are looked up"


# -- the control host -----------------------------------------------------------------------------------------------------


def test_the_control_host_is_told(service: module.Service, commands: Commands, journal: Journal) -> None:
    service.decide(CONNECT.format("evil.example.org") + "-")
    journal.write()
    assert [line["destination"] for line in service.answer("GET", "/refusals?since=2020", b"")["lines"]] == ["evil.example.org"]
    assert service.answer("GET", "/refusals?since=2999", b"") == {"lines": []}
    health = service.answer("GET", "/health", b"")
    named = ("lab", "open", "open-net")
    units = ["metalhub-resolver@_node", *(f"metalhub-{part}@{name}" for part in ("resolver", "squid") for name in named)]
    assert health["status"] == "down" and set(health["down"]) == {f"{unit}.service" for unit in units}
    text = service.answer("GET", "/metrics", b"")
    assert 'metalhub_egress_decisions_total{class="lab",verdict="refused",via="proxy-connect",reason="not in the class\'s list"} 1' in text
    assert "metalhub_egress_up 0" in text
    for method, path in (("PUT", "/health"), ("GET", "/other")):
        with pytest.raises(module.Refusal):
            service.answer(method, path, b"")


def test_squid_listens_where_the_rules_lead() -> None:
    text = (ROLE.parents[3] / "templates/_/squid.conf.j2").read_text(encoding="utf-8")
    for kind, port, name in (("http", EXPLICIT, "explicit"), ("http", INTERCEPT_HTTP, "http"), ("https", INTERCEPT_TLS, "tls")):
        assert f"\n{kind}_port {{{{ class.gateway }}}}:{port} name={name} " in text
    assert f"\nlisten-address={NODE_RESOLVER}\n" in (ROLE.parents[3] / "templates/etc/metalhub/egress/resolver/_node.conf.j2").read_text(encoding="utf-8")


def test_the_package_is_the_one_source() -> None:
    links = [path for path in (ROLE / "metalhub_egress").iterdir() if path.is_symlink()]
    names = {"egress_decide", "egress_terms", "engine_api", "node_service", "tls_hello", "warm_pool"}
    assert {path.stem for path in links} == names
    assert all(path.resolve().parent.name == "module_utils" for path in links)
