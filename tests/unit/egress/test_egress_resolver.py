"""The resolver's configuration: that dnsmasq, by its own rules, knows just the names that the policy lets it know."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import egress_world as world
import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.egress import compile_policy, resolver_config, set_name
from ansible_collections.metalhub.platform.plugins.module_utils.egress_decide import Policy
from ansible_collections.metalhub.platform.plugins.module_utils.egress_terms import has_port, read_port_texts
from hypothesis import given
from hypothesis import strategies as st

from testbed import testbed

NAMES = [*world.NAMES, "x.org", "x.example.org", "x.a.example.org", "x.b.a.example.org", "y.x.b.example.org", "example.com", "host"]


def policy_of(allow: list[str], deny: list[str] | None = None, public: bool = False, **more: Any) -> dict[str, Any]:
    options = {"subnet": "10.9.0.0/24", "allow": allow, "deny": deny or [], "public_internet": public}
    return compile_policy({"a-b": options}, used=["a-b"], **more)


def zone_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("server=", "local=", "address="))]


class Dnsmasq:
    """How dnsmasq chooses among its lines: the longest domain that fits, where ``*.x`` does not fit x itself."""

    def __init__(self, text: str) -> None:
        self.zones: dict[str, bool] = {}
        self.sets: list[tuple[str, str]] = []
        for line in text.splitlines():
            key, _, value = line.partition("=")
            if key == "nftset":
                _, domain, sets = value.split("/")
                self.sets.append((domain, sets))
            elif line == "address=/#/":
                self.zones[""] = False
            elif key in ("server", "local") and value.startswith("/"):
                _, domain, upstream = value.split("/")
                assert bool(upstream) == (key == "server")
                assert domain not in self.zones
                self.zones[domain.removeprefix("*")] = key == "server"
            elif key == "server":
                self.zones[""] = True

    def knows(self, name: str) -> bool:
        fits = [zone for zone in self.zones if not zone or name == zone or name.endswith(zone if zone[0] == "." else f".{zone}")]
        return self.zones[max(fits, key=len)]

    def set_of(self, name: str) -> str | None:
        fits = [each for each in self.sets if name == each[0] or name.endswith(f".{each[0]}")]
        return max(fits, key=lambda each: len(each[0]))[1].rpartition("#")[2] if fits else None


@given(allow=world.entries, deny=world.entries, public=st.booleans())
def test_it_knows_what_the_policy_lets_it_know(allow: list[str], deny: list[str], public: bool) -> None:
    plain = policy_of(allow, world.consistent(allow, deny), public)
    ready, dnsmasq = Policy.from_plain(plain), Dnsmasq(resolver_config(plain, "a-b"))
    for name in NAMES:
        assert dnsmasq.knows(name) == ready.resolves("a-b", name), name


@given(allow=world.entries, deny=world.entries)
def test_sets_of_the_packet_filter(allow: list[str], deny: list[str]) -> None:
    deny = world.consistent(allow, deny)
    plain = policy_of(allow, deny)
    sets, noted = plain["classes"]["a-b"]["name_sets"], {note["entry"] for note in plain["notes"] if "resolver" in note["note"]}
    dnsmasq = Dnsmasq(resolver_config(plain, "a-b"))
    for name in filter(dnsmasq.knows, NAMES):
        chosen = dnsmasq.set_of(name)
        ports = read_port_texts(sets[chosen]["ports"]) if chosen else ()
        for port in (*world.PORTS, 8100):
            for protocol in ("tcp", "udp"):
                wanted = world.naive(allow, deny, name, port, protocol) and (protocol, port) not in (("tcp", 80), ("tcp", 443))
                there = has_port(ports, port, protocol)
                # What dnsmasq cannot tell apart has a note; what is denied is never there.
                if there != wanted:
                    assert {name, *(f"*.{parent}" for parent in _above(name))} & noted, (name, port)
                if there:
                    assert not any(world.matches(world.parse_destination(text, deny=True), name, port, protocol) for text in deny)


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.partition(".")[2]
        yield name


CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"allow": []}, ["address=/#/"]),
    ({"allow": ["data.example.org"]}, ["address=/#/", "server=/data.example.org/UP", "local=/*.data.example.org/"]),
    ({"allow": ["*.example.org"]}, ["address=/#/", "server=/*.example.org/UP"]),
    ({"allow": ["*.example.org", "example.org"]}, ["address=/#/", "server=/example.org/UP"]),
    ({"allow": ["*.example.org", "a.example.org:22"]}, ["address=/#/", "server=/*.example.org/UP"]),
    ({"allow": ["*.example.org"], "deny": ["a.example.org"]}, ["address=/#/", "server=/*.example.org/UP", "local=/a.example.org/", "server=/*.a.example.org/UP"]),
    ({"allow": ["*.example.org"], "deny": ["a.example.org:443"]}, ["address=/#/", "server=/*.example.org/UP"]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "lines"), CASES)
def test_zones(options: dict[str, Any], lines: list[str]) -> None:
    assert zone_lines(resolver_config(policy_of(**options), "a-b", upstream="127.0.0.9#53")) == [
        line.replace("UP", "127.0.0.9#53") for line in lines
    ]


def test_a_public_class_knows_all_but_what_is_denied() -> None:
    lines = zone_lines(resolver_config(policy_of([], ["bad.example.net", "*.worse.example.net"], True), "a-b"))
    assert lines[0] == "server=127.0.0.55"
    assert {
        "local=/bad.example.net/",
        "server=/*.bad.example.net/127.0.0.55",
        "local=/*.worse.example.net/",
        "local=/dns.google/",
    } <= set(lines)


def test_one_set_for_each_list_of_ports() -> None:
    plain = policy_of(["git.example.org:22", "hg.example.org:22,80", "db.example.net:5432", "*.lab.example.net:53/udp", "data.example.org"])
    ssh = set_name("a-b", ((22, 22),))
    assert plain["classes"]["a-b"]["name_sets"][ssh] == {"ports": ["tcp/22"], "names": ["git.example.org", "hg.example.org"]}
    assert sorted(each["ports"] for each in plain["classes"]["a-b"]["name_sets"].values()) == [["tcp/22"], ["tcp/5432"], ["udp/53"]]
    text = resolver_config(plain, "a-b", nft_table="other")
    assert f"nftset=/git.example.org/4#inet#other#{ssh}" in text.splitlines()
    assert ssh.startswith("n_a_b_") and len(ssh) == len("n_a_b_") + 8
    # What needs no port but the web's shares no set with the wildcard above it.
    plain = policy_of(["*.example.org:22,443", "a.example.org:80"], ["a.example.org:22", "*.a.example.org:22"])
    assert plain["classes"]["a-b"]["name_sets"][set_name("a-b", ())] == {"ports": [], "names": ["a.example.org"]}


def test_answers_inside_are_refused() -> None:
    text = resolver_config(policy_of(["data.example.org"], site_networks=["10.20.0.0/16"]), "a-b")
    assert "bogus-nxdomain=169.254.0.0/16" in text and "bogus-nxdomain=10.9.0.0/24" not in text  # it lies in another one
    assert "bogus-nxdomain=10.0.0.0/12" in text
    assert "listen-address=10.9.0.1" in text


def test_no_such_class() -> None:
    with pytest.raises(ValueError, match="'x' is not a class of the policy: a-b"):
        resolver_config(policy_of([]), "x")


def test_lines_are_short_enough() -> None:
    """dnsmasq reads 1024 characters of a line."""
    long = ".".join(["a" * 60] * 4)
    assert all(len(line) < 1024 for line in resolver_config(policy_of([f"{long}:22"]), "a-b").splitlines())


def ask(port: int, name: str, kind: int = 1) -> tuple[int, int]:
    """The response code and the number of answers."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(5)
        connection.sendto(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1), ("127.0.0.1", port))
        answer = connection.recv(2048)
    _, flags, _, count, _, _ = struct.unpack(">HHHHHH", answer[:12])
    return flags & 15, count


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


def test_the_real_one(tmp_path: Path) -> None:
    if shutil.which("dnsmasq") is None:
        testbed.install("dnsmasq-base")
    upstream, port = free_port(), free_port()
    allow = ["data.example.org", "*.corp.example.org:443", "*.a.example.org:80", "a.example.org"]
    deny = ["secret.corp.example.org", "*.deep.corp.example.org"]
    plain = policy_of(allow, deny)
    text = resolver_config(plain, "a-b", upstream=f"127.0.0.1#{upstream}")
    (tmp_path / "class.conf").write_text(
        text.replace("listen-address=10.9.0.1", "listen-address=127.0.0.1").replace("port=53\n", f"port={port}\n")
    )
    (tmp_path / "upstream.conf").write_text(
        f"listen-address=127.0.0.1\nbind-interfaces\nport={upstream}\nno-resolv\nno-hosts\naddress=/#/93.184.216.34\n"
        "address=/inside.corp.example.org/10.0.0.9\ntxt-record=data.example.org,tunnel\n"
    )
    running = [
        subprocess.Popen(
            ["dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file=", f"--conf-file={tmp_path / name}"], stderr=subprocess.DEVNULL
        )
        for name in ("upstream.conf", "class.conf")
    ]
    try:
        for _ in range(50):
            try:
                ask(port, "host")
                break
            except (ConnectionError, TimeoutError):
                time.sleep(0.1)
        ready = Policy.from_plain(plain)
        for name in [*NAMES, "data.example.org", "x.data.example.org", "corp.example.org", "b.a.corp.example.org", "secret.corp.example.org",
                     "x.secret.corp.example.org", "deep.corp.example.org", "x.deep.corp.example.org", "xdata.example.org"]:  # fmt: skip
            assert ask(port, name) == ((0, 1) if ready.resolves("a-b", name) else (3, 0)), name
        assert ask(port, "inside.corp.example.org") == (3, 0)
        assert ask(upstream, "data.example.org", 16) == (0, 1)
        assert ask(port, "data.example.org", 16)[1] == 0
    finally:
        for process in running:
            process.terminate()
            process.wait(10)
