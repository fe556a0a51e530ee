"""The rules of the packet filter: what is refused, and that the real nft accepts whatever is rendered."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from typing import Any

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import egress, nft_rules
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import testbed

CLASSES: dict[str, Any] = {
    "lab": {
        "subnet": "10.231.64.0/20",
        "allow": ["10.0.0.5:443", "10.1.0.0/16", "10.0.0.6:53/udp", "data.example.org", "git.example.org:22"],
        "deny": ["10.1.2.0/24"],
        "bandwidth": "100M",
        "connections": 500,
    },
    "open-net": {"subnet": "10.231.80.0/20", "public_internet": True},
}
BASE: dict[str, Any] = {
    "egress": egress.compile_policy(CLASSES),
    "proxy_user": "root",
    "control": ["192.0.2.1"],
    "platform": ["192.0.2.1", "192.0.2.2", "2001:db8::2"],
    "hub_port": 8081,
    "guards": [
        {"ports": [2376], "from": ["192.0.2.1"]},
        {"ports": ["7946", 4789], "protocol": "udp", "from": ["192.0.2.0/24", "2001:db8::2"]},
        {"ports": [9], "from": []},
    ],
    "session_groups": ["root"],
    "bridge_meta": True,
}


def policy(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


def one_class(**changes: Any) -> dict[str, Any]:
    return policy(egress=egress.compile_policy({"lab": {"subnet": "10.231.64.0/20", **changes}}))


def chain(given: dict[str, Any], name: str) -> list[str]:
    """The rules of a chain, in their order."""
    return [line.strip() for line in nft_rules.ruleset(given).split(f"chain {name} {{")[1].split("\t}\n")[0].splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (policy(platform=["10.231.67.7"]), r"network_policy\.classes\.lab\.subnet: 10\.231\.64\.0/20 overlaps the host 10\.231\.67\.7"),
        (policy(platform=["compute1"]), r"network_platform_addresses\[0\]: 'compute1'"),
        (policy(control="192.0.2.1"), "network_control_addresses: '192.0.2.1' .*a list"),
        (policy(guards=[{"ports": [0], "from": []}]), r"network_guards\[0\]\.ports"),
        (policy(guards=[{"ports": [1]}]), r"network_guards\[0\]"),
        (policy(session_groups=['x" accept']), "network_session_groups"),
        (policy(proxy_user='x" accept'), "network_proxy_user"),
    ],
)
def test_refuses(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nft_rules.ruleset(given)


def test_the_order_of_the_inventory_makes_no_difference() -> None:
    other = policy(
        egress=egress.compile_policy(dict(reversed(CLASSES.items()))), platform=BASE["platform"][::-1],
        guards=[{**g, "ports": g["ports"][::-1], "from": g["from"][::-1]} for g in BASE["guards"]],
    )  # fmt: skip
    assert nft_rules.ruleset(other) == nft_rules.ruleset(BASE)


def test_the_platform_is_closed_before_a_class_opens_anything() -> None:
    """`allow` may name a network that holds a host of the platform; the host stays closed, and so does what is denied."""
    rules = chain(policy(), "class_lab")
    inside, denied = rules.index("jump inside"), next(i for i, rule in enumerate(rules) if "10.1.2.0/24" in rule)
    opened = [i for i, rule in enumerate(rules) if "accept" in rule and "10.231.64.1" not in rule]
    assert inside < denied < min(opened)
    closed = " ".join(chain(policy(), "inside"))
    for what in ("@platform", "169.254.0.0/16", "@subnets", "fib daddr type != unicast"):
        assert f"{what} counter goto refuse" in closed


def test_every_class_ends_closed() -> None:
    for name in ("class_lab", "class_open_net"):
        assert chain(policy(), name)[-1] == "counter goto refuse"
    assert "the public internet" not in " ".join(chain(policy(), "class_lab"))


def test_a_class_without_names_reaches_neither_resolver_nor_proxy() -> None:
    rules = " ".join(chain(one_class(allow=["10.0.0.5:443"]), "class_lab"))
    assert "dport 53" not in rules and "3128" not in rules and "the proxy decides" not in rules


def test_what_an_address_opens_is_not_intercepted() -> None:
    marked = [rule for rule in chain(policy(), "class_lab") if f"ct mark set {nft_rules.DIRECT} accept" in rule]
    assert len(marked) == 4, "three addresses, and the set of the addresses of git.example.org"
    assert all(f"ct mark != {nft_rules.DIRECT}" in rule for rule in chain(policy(), "intercept") if "redirect" in rule)


def test_the_proxy_reaches_nothing_of_the_platform_and_nothing_private_that_is_not_listed() -> None:
    rules = chain(policy(), "from_proxy")
    platform, closed = (next(i for i, rule in enumerate(rules) if name in rule) for name in ("@platform", "@closed"))
    listed = next(i for i, rule in enumerate(rules) if "10.1.0.0/16" in rule)
    assert platform < listed < closed < rules.index("meta nfproto ipv4 meta l4proto tcp counter accept") and rules[-1] == "counter reject"
    assert 'meta skuid "root" goto from_proxy' in chain(policy(), "output")
    assert not any("skuid" in rule for rule in chain(policy(proxy_user=""), "output"))


def test_the_proxy_asks_no_resolver_but_those_of_classes() -> None:
    asks = [rule for name in ("output", "from_proxy") for rule in chain(policy(), name) if "dport 53" in rule]
    assert asks == ['meta skuid "root" ip saddr 127.0.0.1 ip daddr { 10.231.32.1, 10.231.64.1, 10.231.80.1 } udp dport 53 accept']


def check(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["unshare", "-n", "nft", "-c", "-f", "-"], input=text, text=True, capture_output=True, check=False, timeout=20)


@pytest.fixture(scope="module", autouse=True)
def nft() -> None:
    """The real nft checks what is rendered; it wants root."""
    if shutil.which("nft") is None:
        testbed.install("nftables")


_addresses = st.integers(0x0B000000, 0xDF000000).map(lambda n: str(ipaddress.IPv4Address(n)))
_networks = st.tuples(st.integers(0x0B000000, 0xDF000000), st.integers(8, 32)).map(lambda p: str(ipaddress.IPv4Network(p, strict=False)))
_ports = st.integers(1, 65535)
_allows = st.one_of(
    _networks,
    st.builds("{}:{}".format, _networks, _ports),
    st.builds("{}:{}/udp".format, _addresses, _ports),
    st.builds("h{}.example.org:{}".format, _ports, _ports),
).filter(lambda text: not text.startswith(("127.", "169.254.")))


def test_nft_refuses_what_is_wrong() -> None:
    """The checks below would mean nothing if nft took anything."""
    assert check(nft_rules.ruleset(policy(bridge_meta=False)).replace("goto refuse", "goto nowhere")).returncode != 0


@settings(max_examples=30, deadline=None)
@given(
    allow=st.lists(st.lists(_allows, max_size=6), max_size=4),
    public=st.lists(st.booleans(), min_size=4, max_size=4),
    limits=st.fixed_dictionaries({}, optional={"bandwidth": st.sampled_from(["8k", "100M", "40G"]), "connections": st.integers(1, 10**5)}),
    platform=st.lists(_networks, max_size=5),
    guards=st.lists(
        st.fixed_dictionaries(
            {
                "ports": st.lists(_ports, min_size=1, max_size=4),
                "protocol": st.sampled_from(["tcp", "udp"]),
                "from": st.lists(st.one_of(_networks, st.just("2001:db8::1")), max_size=4),
            }
        ),
        max_size=3,
    ),
)
def test_nft_accepts_every_policy(
    allow: list[list[str]], public: list[bool], limits: dict[str, Any], platform: list[str], guards: list[dict[str, Any]]
) -> None:
    classes = {
        f"c-{i}": {"subnet": f"10.{i}.0.0/20", "public_internet": public[i], "allow": entries, **limits} for i, entries in enumerate(allow)
    }
    text = nft_rules.ruleset(policy(egress=egress.compile_policy(classes), platform=platform, guards=guards, bridge_meta=False))
    done = check(text)
    assert done.returncode == 0, done.stderr + text
