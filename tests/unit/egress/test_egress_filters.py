"""The filters: a refusal in Ansible's words, plain data in and out, and public suffixes from the real list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.metalhub.platform.plugins.filter.egress import FilterModule
from ansible_collections.metalhub.platform.plugins.plugin_utils.public_suffix import is_public_suffix

FILTERS = FilterModule().filters()


def clinic(**options: Any) -> dict[str, Any]:
    return {"clinic": {"subnet": "10.231.64.0/20", **options}}


def test_compile_resolve_and_report() -> None:
    policy = FILTERS["egress_compile"](
        clinic(allow=["data.example.org"], deny_lists=["mining"]),
        ["clinic"],
        deny_lists={"mining": "pool.example.net"},
        reserved=["10.0.0.0/8"],
    )
    assert json.loads(json.dumps(policy)) == policy
    assert policy["closed"] == ["10.0.0.0/8"]
    assert list(policy["classes"]["clinic"]["deny"]["names"]) == ["pool.example.net"]
    assert "server=/data.example.org/127.0.0.1#53" in FILTERS["egress_resolver"](policy, "clinic", upstream="127.0.0.1#53")
    rows = FILTERS["egress_report"]([{"class": "clinic", "destination": "a.example.org", "port": 443, "count": 2}] * 2, top=5)
    assert [(row["class"], row["count"], row["allow_line"]) for row in rows] == [
        ("clinic", 4, "- a.example.org:443  # metalhub_egress_classes.clinic.allow")
    ]


def test_what_the_hub_tells_of_classes() -> None:
    classes = clinic(title="Clinical data", allow=["data.example.org", "10.0.0.5:443"]) | {"open": {"title": None, "log": "refused"}, "lab": {}}
    classes["lab"] = {"subnet": "10.231.80.0/20", "allow": ["10.1.0.0/16"]}
    policy = FILTERS["egress_compile"](classes, ["clinic", "open", "lab"])
    offers = FILTERS["egress_offers"](policy, classes)
    assert offers["clinic"] == {
        "proxy": "http://10.231.64.1:3128",
        "direct": ["10.0.0.5/32"],
        "title": "Clinical data",
        "description": "",
        "reach": "data.example.org, 10.0.0.5:443",
    }
    assert (offers["open"]["title"], offers["open"]["proxy"]) == ("Public internet", "http://10.231.32.1:3128")
    assert (offers["lab"]["title"], offers["lab"]["proxy"]) == ("lab", ""), "without names there is no proxy"


def test_refusals() -> None:
    with pytest.raises(AnsibleError, match=r"metalhub_egress_classes\.clinic\.allow: 'a\.\.b' is not legal: This is not a host name"):
        FILTERS["egress_compile"](clinic(allow=["a..b"]))
    with pytest.raises(AnsibleError, match="'x' is not a class of the policy"):
        FILTERS["egress_resolver"](FILTERS["egress_compile"](clinic()), "x")


@pytest.mark.parametrize("name", ["org", "co.uk", "uk", "github.io", "amazonaws.com", "anything.ck", "ck", "xn--fiqs8s", "kobe.jp"])
def test_public_suffixes(name: str) -> None:
    """With them those that have one below."""
    assert is_public_suffix(name)
    with pytest.raises(AnsibleError, match=f"Below {name} anybody can have a name"):
        FILTERS["egress_compile"](clinic(allow=[f"*.{name}"]))


@pytest.mark.parametrize(
    "name", ["example.org", "corp.example.org", "bbc.co.uk", "metalhub.github.io", "www.ck", "metalhub.test", "corp", "internal"]
)
def test_names_of_somebody(name: str) -> None:
    assert not is_public_suffix(name)
    assert FILTERS["egress_compile"](clinic(allow=[f"*.{name}"]), ["clinic"])["classes"]["clinic"]["allow"]["names"]
