"""What was used in a month: sums that add up, days across changes of clocks, money, and a table that runs nothing."""

from __future__ import annotations

import csv
import io
from datetime import timezone
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import zones
from ansible_collections.metalhub.platform.plugins.module_utils.quotas import Span, gpu_resource, window_span
from ansible_collections.metalhub.platform.plugins.module_utils.showback import (
    Interval,
    Only,
    rate_faults,
    read_rates,
    showback,
    table,
)
from hypothesis import given
from hypothesis import strategies as st

MARCH = 1_773_144_000  # 2026-03-10 12:00 UTC
BERLIN = ZoneInfo("Europe/Berlin")
RATES = read_rates({"currency": "EUR", "cpu": 0.5, "memory": 0.1, "gpu": 2, "gpu-a100": 3})

intervals = st.lists(
    st.builds(
        Interval,
        user=st.sampled_from(["ann", "bob"]),
        groups=st.sampled_from([(), ("lab",), ("clinic", "lab")]),
        profile=st.sampled_from(["small", "slice"]),
        resource=st.sampled_from(["cpu", "gpu-a100", "session"]),
        count=st.integers(1, 4),
        memory=st.sampled_from([0, 2**30]),
        start=st.integers(MARCH - 40 * 86400, MARCH + 40 * 86400),
        end=st.integers(MARCH - 40 * 86400, MARCH + 40 * 86400),
    ),
    max_size=12,
)


@given(intervals, st.sampled_from([timezone.utc, BERLIN]))
def test_users_profiles_and_days_add_up_to_the_whole(rows: list[Interval], zone: timezone | ZoneInfo) -> None:
    span = window_span("month", MARCH, zone)
    report = showback(rows, span, zone, RATES)
    for name in report.resources:
        whole = report.total.hours[name]
        for sums in (report.kinds["user"], report.kinds["profile"]):
            assert sum(each.hours.get(name, 0) for each in sums) == pytest.approx(whole)
        assert sum(hours.get(name, 0) for _, hours in report.days) == pytest.approx(whole)
    seconds = sum(r.count * max(0, min(r.end, span.end) - max(r.start, span.start)) for r in rows if r.resource == "cpu")
    assert report.total.hours.get("cpu", 0) == pytest.approx(seconds / 3600)
    assert len(report.days) == 31


asked = st.builds(
    Only, user=st.sampled_from(["", "ann", "zoe"]), group=st.sampled_from(["", "lab", "clinic"]), profile=st.sampled_from(["", "slice"])
)


@given(intervals, asked)
def test_who_is_asked_for_is_added_up_as_if_there_was_nobody_else(rows: list[Interval], only: Only) -> None:
    span = window_span("month", MARCH, BERLIN)
    theirs = [
        row for row in rows
        if only.user in ("", row.user) and only.profile in ("", row.profile) and (not only.group or only.group in row.groups)
    ]  # fmt: skip
    every, wanted, found = (
        showback(rows, span, BERLIN, RATES), showback(theirs, span, BERLIN, RATES), showback(rows, span, BERLIN, RATES, only)
    )  # fmt: skip
    assert (found.total, found.days, found.resources) == (wanted.total, wanted.days, wanted.resources)
    assert (found.kinds["user"], found.kinds["profile"]) == (wanted.kinds["user"], wanted.kinds["profile"])
    groups = [each for each in wanted.kinds["group"] if only.group in ("", each.name)]
    assert list(found.kinds["group"]) == groups
    assert found.names == every.names and set(found.names["user"]) == {each.name for each in every.kinds["user"]}


def test_the_day_on_which_clocks_change_has_23_hours() -> None:
    span = window_span("month", MARCH, BERLIN)
    report = showback([Interval("ann", (), "small", "cpu", 1, 0, span.start, span.end)], span, BERLIN, RATES)
    assert dict(report.days)["2026-03-29"] == {"cpu": 23} and dict(report.days)["2026-03-28"] == {"cpu": 24}


def test_money() -> None:
    rows = [
        Interval("ann", ("lab",), "small", "cpu", 2, 2**31, 0, 3600),
        Interval("bob", (), "slice", "gpu-a100", 1, 0, 0, 3600),
        Interval("bob", (), "slice", "gpu-1g.10gb", 1, 0, 0, 3600),
    ]
    report = showback(rows, Span(0, 86400), timezone.utc, RATES)
    assert [(each.name, round(each.cost, 2)) for each in report.kinds["user"]] == [("bob", 5.0), ("ann", 1.2)]
    assert report.kinds["user"][0].of("gpu") == 2
    assert table(report).splitlines()[0] == "kind,name,cpu_hours,gpu-1g.10gb_hours,gpu-a100_hours,memory_hours,cost,currency"
    assert "group,,0.00,1.00,1.00,0.00,5.00,EUR" in table(report)


def test_a_name_is_no_formula() -> None:
    report = showback([Interval("=1+1,x", (), "p", "cpu", 1, 0, 0, 3600)], Span(0, 86400), timezone.utc, RATES)
    assert [row["name"] for row in csv.DictReader(io.StringIO(table(report))) if row["kind"] == "user"] == ["'=1+1,x"]


@pytest.mark.parametrize(
    ("card", "key"),
    [(None, ""), ({"currency": ""}, "currency"), ({"currency": "EUR", "cpu": -1}, "cpu"), ({"currency": "EUR", "sessions": 1}, "sessions")],
)
def test_a_bad_rate_card_has_one_fault(card: object, key: str) -> None:
    assert [fault[0] for fault in rate_faults(card)] == [key]


def test_rate_cards() -> None:
    assert rate_faults({}) == [] and rate_faults({"currency": "EUR", "gpu-1g.10gb": 0.3, "memory": 0}) == []
    assert (RATES.price("gpu-a100"), RATES.price("gpu-h100"), RATES.price("session")) == (3, 2, 0)


def test_the_resource_of_a_flavors_gpu() -> None:
    assert [gpu_resource("1g.10gb+me", "a100"), gpu_resource("", "a100"), gpu_resource("", "")] == ["gpu-1g.10gb+me", "gpu-a100", "gpu"]
    with pytest.raises(ValueError, match="'A100' is not a model"):
        gpu_resource("", "A100")


def test_time_zones() -> None:
    assert zones.read_zone("UTC") is timezone.utc and str(zones.read_zone("Europe/Berlin")) == "Europe/Berlin"
    for wrong in ("Europe/Berln", "../etc/passwd", "", 1, None, "\0"):
        with pytest.raises(ValueError, match="no such time zone"):
            zones.read_zone(wrong)
