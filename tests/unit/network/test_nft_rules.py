"""The rules of the packet filter: what is refused, and that the real nft accepts whatever is rendered."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from typing import Any

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import egress, nft_rules
from hypothesis import given, settings
from hypothesis import strategies as st

BASE: dict[str, Any] = {
    "classes": {
        "internal": {"subnet": "10.231.0.0/20", "public_internet": False, "allow": ["10.0.0.5:443", "10.1.0.0/16", "10.0.0.6:53/udp"]},
        "open-net": {"subnet": "10.231.16.0/20", "public_internet": True},
    },
    "control": ["192.0.2.1"],
    "platform": ["192.0.2.1", "192.0.2.2", "2001:db8::2"],
    "hub_port": 8081,
    "nameservers": ["192.0.2.53"],
    "reserved": list(egress.RESERVED),
    "guards": [
        {"ports": [2376], "from": ["192.0.2.1"]},
        {"ports": ["7946", 4789], "protocol": "udp", "from": ["192.0.2.0/24", "2001:db8::2"]},
        {"ports": [9], "from": []},
    ],
    "session_groups": ["root"],
    "bridge_table": True,
}


def policy(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


def one_class(**changes: Any) -> dict[str, Any]:
    return policy(classes={"internal": {"subnet": "10.231.0.0/20", **changes}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (one_class(allow=["data..example.org:443"]), r"network_classes\.internal: .*data\.\.example\.org.* is not a host name"),
        (one_class(allow=["10.0.0.5", "10.0.0.5/8:443"]), r"write 10\.0\.0\.0/8"),
        (one_class(allow=["10.0.0.5:0"]), "0 is not a port"),
        (one_class(allow=["10.0.0.5:65536"]), "65536 is not a port"),
        (one_class(allow=["10.0.0.5:443/icmp"]), "cmp is not a protocol"),
        (one_class(allow=["[2001:db8::5]:443"]), "IPv6 is closed"),
        (one_class(allow=["169.254.169.254:80"]), r"169\.254\.0\.0/16 is closed for every class"),
        (one_class(allow=["127.0.0.1:80"]), "closed for every class"),
        (one_class(allow="10.0.0.5:443"), "found text, wanted a list"),
        (one_class(allow=["10.0.0.5:443\naccept"]), "not a destination"),
        (one_class(public_internet="perhaps"), "true or false"),
        (one_class(subnet="10.231.0.1/20"), r"network_classes\.internal: .*10\.231\.0\.1/20"),
        (one_class(subnet="10.231.0.0/30"), "does not fit"),
        (one_class(subnet="169.254.0.0/20"), "cannot be a session's"),
        (one_class(subnet=None), "subnet: A value is needed"),
        (one_class(internet=True), "internet: There is no such key"),
        (policy(classes={"a": 1}), r"network_classes\.a: 1"),
        (policy(classes={"Bad!": {"subnet": "10.231.0.0/20"}}), r"network_classes\.Bad!: .*cannot name an egress class"),
        (policy(classes={"a": {"subnet": "10.231.0.0/20"}, "b": {"subnet": "10.231.8.0/21"}}), r"subnets of a \(10\.231\.0\.0/20\) and b"),
        (policy(platform=["10.231.3.7"]), r"network_classes\.internal\.subnet: 10\.231\.0\.0/20 overlaps the host 10\.231\.3\.7"),
        (policy(platform=["compute1"]), r"network_platform_addresses\[0\]: 'compute1'"),
        (policy(control="192.0.2.1"), "network_control_addresses: '192.0.2.1' .*a list"),
        (policy(nameservers=["x"]), r"network_nameservers\[0\]"),
        (policy(guards=[{"ports": [0], "from": []}]), r"network_guards\[0\]\.ports"),
        (policy(guards=[{"ports": [1]}]), r"network_guards\[0\]"),
        (policy(session_groups=['x" accept']), "network_session_groups"),
    ],
)
def test_refuses(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nft_rules.ruleset(given)


def test_the_order_of_the_inventory_makes_no_difference() -> None:
    other = policy(
        classes=dict(reversed(BASE["classes"].items())), platform=BASE["platform"][::-1], reserved=BASE["reserved"][::-1],
        guards=[{**g, "ports": g["ports"][::-1], "from": g["from"][::-1]} for g in BASE["guards"]],
    )  # fmt: skip
    assert nft_rules.ruleset(other) == nft_rules.ruleset(BASE)


def test_the_platform_is_closed_before_a_class_opens_anything() -> None:
    """`allow` may name a network that holds a host of the platform; the host stays closed."""
    lines = nft_rules.ruleset(one_class(allow=["192.0.2.0/24"])).splitlines()
    closed = next(i for i, line in enumerate(lines) if "@platform" in line)
    jump = next(i for i, line in enumerate(lines) if "vmap" in line)
    assert closed < jump
    for what in ("169.254.0.0/16", "@subnets counter goto refuse", "fib daddr type != unicast counter goto refuse"):
        assert next(i for i, line in enumerate(lines) if what in line) < jump


def test_names_are_left_to_the_resolver_and_the_proxy() -> None:
    assert nft_rules.ruleset(one_class(allow=["10.0.0.5", "data.example.org:22"])) == nft_rules.ruleset(one_class(allow=["10.0.0.5"]))


def test_a_class_without_public_internet_ends_closed() -> None:
    text = nft_rules.ruleset(one_class())
    assert "the public internet" not in text
    assert text.split("chain class_internal {")[1].split("}")[0].strip().splitlines()[-1].strip() == "counter goto refuse"


def check(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["unshare", "-n", "nft", "-c", "-f", "-"], input=text, text=True, capture_output=True, check=False, timeout=20)


needs_nft = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="nft -c needs root and nftables")
_addresses = st.integers(0x0B000000, 0xDF000000).map(lambda n: str(ipaddress.IPv4Address(n)))
_networks = st.tuples(st.integers(0x0B000000, 0xDF000000), st.integers(8, 32)).map(lambda p: str(ipaddress.IPv4Network(p, strict=False)))
_ports = st.integers(1, 65535)
_allows = st.one_of(
    _networks,
    st.builds("{}:{}".format, _networks, _ports),
    st.builds("{}:{}/udp".format, _addresses, _ports),
).filter(lambda text: not text.startswith(("127.", "169.254.")))


@needs_nft
def test_nft_refuses_what_is_wrong() -> None:
    """The checks below would mean nothing if nft took anything."""
    assert check(nft_rules.ruleset(policy(bridge_table=False)).replace("goto refuse", "goto nowhere")).returncode != 0


@needs_nft
@settings(max_examples=30, deadline=None)
@given(
    allow=st.lists(st.lists(_allows, max_size=6), max_size=4),
    public=st.lists(st.booleans(), min_size=4, max_size=4),
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
def test_nft_accepts_every_policy(allow: list[list[str]], public: list[bool], platform: list[str], guards: list[dict[str, Any]]) -> None:
    classes = {f"c-{i}": {"subnet": f"10.{i}.0.0/20", "public_internet": public[i], "allow": entries} for i, entries in enumerate(allow)}
    text = nft_rules.ruleset(policy(classes=classes, platform=platform, guards=guards, bridge_table=False))
    done = check(text)
    assert done.returncode == 0, done.stderr + text
