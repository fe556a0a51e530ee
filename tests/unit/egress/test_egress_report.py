"""Refusals counted, and that the line to paste is one that would have allowed the connection."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml
from ansible_collections.metalhub.platform.plugins.module_utils.egress import compile_policy
from ansible_collections.metalhub.platform.plugins.module_utils.egress_decide import Policy, Reason, Request
from ansible_collections.metalhub.platform.plugins.module_utils.egress_report import _NO_LINE, Row, merge, summarize, table
from hypothesis import given
from hypothesis import strategies as st


def refusal(destination: str = "data.example.org", port: int = 443, time: str = "2026-01-02T10:00:00Z", **more: Any) -> dict[str, Any]:
    return {
        "time": time, "node": "n1", "user": "ann", "session": "s1", "profile": "pii", "class": "clinic", "source": "10.231.64.2",
        "destination": destination, "port": port, "protocol": "tcp", "via": "proxy", "reason": "not in the class's list", "count": 1, **more,
    }  # fmt: skip


def test_the_most_frequent_first() -> None:
    lines = [
        refusal("rare.example.org"),
        refusal(count=3),
        refusal(time="2026-01-02T12:00:00Z", reason="port", session="s2"),
        refusal(time="2026-01-02T09:00:00Z", user="bob"),
        refusal("10.0.0.6", 53, protocol="udp", via="packet", count=2),
    ]
    rows = summarize(lines)
    assert rows[0] == Row(
        "ann",
        "clinic",
        "data.example.org",
        443,
        "tcp",
        4,
        "2026-01-02T12:00:00Z",
        "port",
        "The class lists this destination, but not with this port.",
        "- data.example.org:443  # metalhub_egress_classes.clinic.allow",
        ("n1",),
    )
    assert [(row.destination, row.user, row.count) for row in rows] == [
        ("data.example.org", "ann", 4), ("10.0.0.6", "ann", 2), ("data.example.org", "bob", 1), ("rare.example.org", "ann", 1)]  # fmt: skip
    assert rows[1].allow_line == "- 10.0.0.6:53/udp  # metalhub_egress_classes.clinic.allow"
    assert summarize(lines, top=1) == rows[:1]
    assert summarize(lines, top=0) == []
    assert sum(row.count for row in summarize(lines, since="2026-01-02T10:00:00Z")) == 7


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (refusal("data.example.org", 0, via="dns"), "data.example.org"),
        (refusal("data.example.org", 53, via="dns", protocol="udp"), "data.example.org"),
        (refusal("git.example.org", 22), "git.example.org:22"),
        (refusal("DATA.example.org", 80), "data.example.org:80"),
        (refusal("93.184.216.34", 443, reason="no SNI"), "93.184.216.34:443"),
        (refusal("169.254.169.254", 80, via="packet"), None),
        (refusal("127.0.0.1", 80, via="packet"), None),
        (refusal("data.example.org", 53, via="dns", protocol="TXT"), None),
        (refusal("2001:db8::1", 443), None),
        (refusal("[::1]", 443), None),
        (refusal("0x7f.1", 443), None),
        (refusal("no name", 443), None),
        (refusal("data.example.org", 99999), None),
        (refusal("93.184.216.34", 0, protocol="icmp", via="packet"), None),
        (refusal(reason="denied"), None),
        (refusal(reason="encrypted client hello"), None),
        (refusal(reason="SNI is not the CONNECT host"), None),
        (refusal(**{"class": ""}), None),
    ],
)
def test_the_line_to_paste(line: dict[str, Any], entry: str | None) -> None:
    (row,) = summarize([line])
    assert row.allow_line == (f"- {entry}  # metalhub_egress_classes.clinic.allow" if entry else "")
    if entry:
        assert yaml.safe_load(row.allow_line) == [entry]
        policy = Policy.from_plain(compile_policy({"clinic": {"subnet": "10.231.64.0/20", "allow": [entry]}}))
        if line["destination"][0].isdigit():
            assert policy.decide_address("clinic", line["destination"], line["port"], line["protocol"]).allowed
        else:
            assert policy.resolves("clinic", line["destination"])
            via = "proxy-http" if line["port"] == 80 else "proxy-connect"
            assert policy.decide(Request("clinic", via, line["destination"], line["port"] if line["via"] != "dns" else 443)).allowed


def test_what_built_in_classes_allow_has_variables_of_its_own() -> None:
    (row,) = summarize([refusal(**{"class": "packages"})])
    assert row.allow_line == "- data.example.org:443  # metalhub_egress_packages"


def test_the_reasons_without_a_line_are_reasons() -> None:
    assert {reason.value for reason in Reason} >= _NO_LINE


def test_lines_that_say_little() -> None:
    assert summarize([{}, {"time": "x"}, {"destination": None}]) == []
    (row,) = summarize([{"destination": "a.example.org", "count": "x", "port": "y"}])
    assert (row.count, row.port, row.allow_line) == (1, 0, "")


def test_what_was_allowed_is_no_refusal() -> None:
    assert summarize([refusal(verdict="allowed", reason=""), refusal("b.example.org", verdict="refused")]) == summarize([refusal("b.example.org")])


def test_records_of_other_kinds_are_apart_from_the_name() -> None:
    rows = summarize([refusal(port=53, via="dns", protocol=kind) for kind in ("A", "AAAA", "TXT", "TXT", "TXT")])
    assert [(row.place, row.count) for row in rows] == [("data.example.org (TXT)", 3), ("data.example.org (name)", 2)]
    assert "no records of this kind" in rows[0].sentence and "does not list" in rows[1].sentence


def test_why_a_metadata_server_has_no_line() -> None:
    (row,) = summarize([refusal("169.254.169.254", 80, via="packet")])
    assert row.sentence.startswith("No class may reach this address") and not row.allow_line


def test_a_reason_without_a_sentence_is_one() -> None:
    (row,) = summarize([refusal(reason="something new")])
    assert row.sentence == "Something new."


def test_a_table_for_a_terminal() -> None:
    rows = summarize([refusal(count=12), refusal("a\x1b[2Jb", 53, protocol="udp", user="", reason="denied")])
    assert table(rows) == [
        "count  last (UTC)           user  class   destination           nodes  why",
        "   12  2026-01-02 10:00:00  ann   clinic  data.example.org:443  n1     The class does not list this destination.",
        "       - data.example.org:443  # metalhub_egress_classes.clinic.allow",
        "    1  2026-01-02 10:00:00  ?     clinic  a?[2jb:53/udp         n1     The class is denied this destination.",
    ]
    assert len(table([])) == 1


lines = st.lists(
    st.builds(
        refusal,
        st.sampled_from(["a.example.org", "b.example.org", "10.0.0.5"]),
        st.sampled_from([22, 443]),
        st.sampled_from(["2026-01-02T10:00:00Z", "2026-01-03T10:00:00Z"]),
        user=st.sampled_from(["ann", "bob"]),
        via=st.sampled_from(["dns", "proxy"]),
        node=st.sampled_from(["n1", "n2"]),
        count=st.integers(1, 3),
    ),
    max_size=12,
)


@given(lines, st.randoms(use_true_random=False))
def test_order_makes_no_difference_and_nothing_is_lost(given_lines: list[dict[str, Any]], chance: random.Random) -> None:
    rows = summarize(given_lines)
    assert sum(row.count for row in rows) == sum(line["count"] for line in given_lines)
    assert [row.count for row in rows] == sorted((row.count for row in rows), reverse=True)
    chance.shuffle(given_lines)
    assert summarize(given_lines) == rows


@given(lines)
def test_the_rows_of_nodes_are_those_of_all_lines(given_lines: list[dict[str, Any]]) -> None:
    tables = [summarize([line for line in given_lines if line["node"] == node], top=None) for node in ("n1", "n2")]
    assert merge(row for rows in tables for row in rows) == summarize(given_lines, top=None)
