"""Quotas: their text, how grants merge, windows across changes of clocks, metering, and who may start and go on."""

from __future__ import annotations

import itertools
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import durations, quotas, sizes
from ansible_collections.metalhub.platform.plugins.module_utils.quotas import (
    ALL,
    WINDOWS,
    Allocation,
    Limit,
    Override,
    Quota,
    QuotaError,
    Quotas,
    Request,
    Span,
    Usage,
    Verdict,
    parse_quota,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

HOUR, GIB = 3600, 1 << 30
BERLIN = ZoneInfo("Europe/Berlin")
# Clocks that change at midnight, across it, a minute after it, by half an hour, and a calendar that left a day out.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Toronto",
    "Australia/Lord_Howe",
    "Asia/Beirut",
    "Pacific/Apia",
]


def at(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


@given(st.integers(0, 10**15 - 1))
def test_exact_texts_read_back(number: int) -> None:
    assert sizes.parse_size(sizes.exact_size(number)) == number
    assert durations.parse_duration(durations.exact_duration(number // 1000)) == number // 1000


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (7, "7B"), (GIB * 3 // 2, "1536M"), (100 * GIB, "100G"), (1 << 60, "1024P")])
def test_exact_size(size: int, text: str) -> None:
    assert sizes.exact_size(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (40 * HOUR, "40h"), (5400, "1h30m"), (61, "1m1s")])
def test_exact_duration(seconds: int, text: str) -> None:
    assert durations.exact_duration(seconds) == text


def test_nothing_is_negative() -> None:
    for function in (sizes.exact_size, durations.exact_duration):
        with pytest.raises(ValueError, match="not negative"):
            function(-1)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" , ", ""),
        ("sessions=2", "sessions=2"),
        ("workspace=100G,sessions = 2", "sessions=2, workspace=100G"),
        ("memory=64GiB", "memory=64G"),
        ("memory=1.5G", "memory=1536M"),
        ("gpu-a100=8h/day, 40h/month", "gpu-a100=8h/day, gpu-a100=40h/month"),
        ("gpu-a100 = 2d / week, 90m/day, sessions=1", "sessions=1, gpu-a100=1h30m/day, gpu-a100=48h/week"),
        ("gpu-1g.10gb+me=1h/day, gpu=2h/day, cpu=10h/week", "cpu=10h/week, gpu=2h/day, gpu-1g.10gb+me=1h/day"),
        ("gpu=unlimited/day, 0s/month", "gpu=unlimited/day, gpu=0s/month"),
        ("workspace=100G, unlimited", "unlimited, workspace=100G"),
        ("memory=deny, gpu=deny", "memory=deny, gpu=deny"),
        ("deny", "deny"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert quotas.format_quota(parse_quota(text)) == canonical
    assert parse_quota(canonical) == parse_quota(text)


@pytest.mark.parametrize(
    ("text", "part", "words"),
    [
        (2, "2", "A quota is text"),
        (None, "None", "A quota is text"),
        ("sessions", "sessions", "not a limit"),
        ("sessions=", "sessions=", "not a limit"),
        ("=2", "=2", "not a limit"),
        ("40h/month", "40h/month", "not a limit"),
        ("sessions=2, 40h/month", "40h/month", "not a limit"),
        ("session=2", "session=2", "Did you mean sessions?"),
        ("gpu-=1h/day", "gpu-=1h/day", "no resource gpu-"),
        ("GPU=1h/day", "GPU=1h/day", "no resource GPU"),
        ("*=deny", "*=deny", "not a limit"),
        ("sessions=10000", "sessions=10000", "not a number of sessions"),
        ("sessions=2.5", "sessions=2.5", "not a number of sessions"),
        ("sessions=٢", "sessions=٢", "not a number of sessions"),
        ("sessions=2/day", "sessions=2/day", "no period"),
        ("memory=64", "memory=64", "64 is not a size"),
        ("memory=1.000001P", "memory=1.000001P", "not a size"),
        ("gpu=8h", "gpu=8h", "needs a period"),
        ("gpu=8/day", "gpu=8/day", "8 is not a duration"),
        ("gpu=999999999w/day", "gpu=999999999w/day", "not a duration"),
        ("gpu=8h/year", "gpu=8h/year", "day, month, week"),
        ("gpu=8h/", "gpu=8h/", "no such period"),
        ("gpu=deny/day", "gpu=deny/day", "deny is not a duration"),
        ("gpu=8h/day, 9h/day", "9h/day", "once more"),
        ("gpu=8h/day, gpu=deny", "gpu=deny", "once more"),
        ("gpu=unlimited, gpu=8h/day", "gpu=8h/day", "once more"),
        ("deny, sessions=2", "sessions=2", "deny alone"),
        ("sessions=2, deny", "deny", "deny alone"),
        ("unlimited, deny", "deny", "deny alone"),
        ("unlimited, unlimited", "unlimited", "once more"),
    ],
)
def test_bad_quota_has_one_message(text: object, part: str, words: str) -> None:
    with pytest.raises(QuotaError) as caught:
        parse_quota(text)
    assert len(caught.value.problems) == 1
    assert str(caught.value.problems[0].part) == part
    assert words in str(caught.value)
    assert caught.value.problems[0].legal in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"'sessions=x' is not.*'gpu=1h/year' is not"):
        parse_quota("sessions=x, memory=1G, gpu=1h/year")


@settings(max_examples=60)
@given(st.text(max_size=30) | st.lists(st.sampled_from([*"=/,* ", "gpu", "deny", "8h", "day", "unlimited", "sessions", "2"])).map("".join))
def test_any_text_is_a_quota_or_refused(text: str) -> None:
    try:
        quota = parse_quota(text)
    except QuotaError:
        return
    assert parse_quota(quotas.format_quota(quota)) == quota


METERED = ["cpu", "gpu", "gpu-a100", "gpu-1g.10gb"]


@st.composite
def quota_values(draw: st.DrawFn, deny: bool = True) -> Quota:
    """Any quota that a text can say."""
    limits: set[Limit] = set()
    denied: set[str] = set()
    for resource in draw(st.sets(st.sampled_from(["sessions", "memory", "workspace", *METERED]))):
        if deny and draw(st.integers(0, 4)) == 0:
            denied.add(resource)
        elif draw(st.integers(0, 4)) == 0:
            limits.add(Limit(resource, "", None))
        elif resource in METERED:
            for window in draw(st.sets(st.sampled_from(WINDOWS), min_size=1)):
                limits.add(Limit(resource, window, draw(st.none() | st.integers(0, 200 * HOUR))))
        else:
            limits.add(Limit(resource, "", draw(st.integers(0, 9999))))
    if draw(st.integers(0, 4)) == 0:
        limits.add(Limit(ALL, "", None))
    if deny and draw(st.integers(0, 9)) == 0:
        return Quota(deny=frozenset([ALL]))
    return Quota(frozenset(limits), frozenset(denied))


@given(quota_values(), st.randoms(use_true_random=False))
def test_text_reads_back_in_any_order(quota: Quota, random: object) -> None:
    parts = quotas.format_quota(quota).split(", ")
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert parse_quota(",".join(parts)) == quota


@given(quota_values())
def test_data_holds_all_of_it(quota: Quota) -> None:
    data = quotas.quota_data(quota)
    assert len(data["limits"]) + len(data["unlimited"]) == len(quota.limits)  # type: ignore[arg-type]
    assert set(data["deny"]) == quota.deny  # type: ignore[call-overload]


SITE = Quotas(
    parse_quota("sessions=2, gpu-a100=2h/day"),
    {
        "research": parse_quota("sessions=4, gpu-a100=8h/day, 40h/month"),
        "labs": parse_quota("gpu-a100=4h/day, 80h/month"),
        "free": parse_quota("unlimited, workspace=1T"),
        "students": parse_quota("gpu=deny"),
        "gone": parse_quota("deny"),
        "days": parse_quota("gpu-a100=unlimited/day"),
    },
    {"eve": parse_quota("sessions=3")},
)


@pytest.mark.parametrize(
    ("user", "groups", "resource", "window", "limit"),
    [
        ("bob", [], "sessions", "", 2),
        ("bob", ["nobody"], "gpu-a100", "day", 2 * HOUR),
        ("bob", [], "gpu-a100", "month", None),
        ("bob", [], "memory", "", None),
        ("bob", ["research", "labs"], "gpu-a100", "day", 8 * HOUR),
        ("bob", ["research", "labs"], "gpu-a100", "month", 80 * HOUR),
        ("bob", ["research", "days"], "gpu-a100", "day", None),
        ("bob", ["research", "days"], "gpu-a100", "month", 40 * HOUR),
        ("bob", ["research", "free"], "gpu-a100", "month", None),
        ("bob", ["free"], "workspace", "", 1 << 40),
        ("eve", [], "sessions", "", 3),
        ("eve", ["research"], "sessions", "", 4),
        ("eve", ["research", "students"], "gpu-a100", "day", 0),
        ("eve", ["free", "gone"], "sessions", "", 0),
        ("eve", ["free", "gone"], "workspace", "", 0),
    ],
)
def test_merge(user: str, groups: list[str], resource: str, window: str, limit: int | None) -> None:
    assert SITE.of(user, groups, resource, window) == limit
    assert SITE.of(user, groups[::-1], resource, window) == limit


def said(quota: Quota, resource: str, window: str) -> float | None:
    """What a grant says of a resource and window, by the words of the documentation: a number, infinity, or nothing."""
    for limit in quota.limits:
        if limit.resource == resource and limit.window in ("", window):
            return float("inf") if limit.amount is None else limit.amount
    named = {limit.resource for limit in quota.limits} | quota.deny
    return float("inf") if Limit(ALL, "", None) in quota.limits and resource not in named else None


@given(quota_values(), st.dictionaries(st.sampled_from("abc"), quota_values(), max_size=3), st.none() | quota_values())
def test_merge_is_the_most_generous_of_what_is_said(default: Quota, groups: dict[str, Quota], own: Quota | None) -> None:
    site = Quotas(default, groups, {"u": own} if own else {})
    grants = {"default": default, **{f"group {name}": quota for name, quota in groups.items()}, **({"user u": own} if own else {})}
    allowance = site.allowance("u", set(groups))
    bounds = {(b.resource, b.window): b for b in allowance.bounds}
    denied = set().union(*(q.deny for q in grants.values()))
    for resource, window in [("sessions", ""), ("memory", ""), ("workspace", ""), *itertools.product(METERED, WINDOWS)]:
        numbers = [n for q in grants.values() if (n := said(q, resource, window)) is not None]
        found = site.of("u", set(groups), resource, window)
        if denied & {ALL, resource, resource.partition("-")[0]}:
            assert found == 0
            assert (resource, window) not in bounds
        elif not numbers or max(numbers) == float("inf"):
            assert found is None
        else:
            assert found == max(numbers)
            assert said(grants[bounds[resource, window].source], resource, window) == found


@given(quota_values(deny=False), quota_values(deny=False))
def test_a_grant_more_lowers_no_limit(default: Quota, more: Quota) -> None:
    after = {(b.resource, b.window): b.amount for b in Quotas(default, {"g": more}).allowance("u", ["g"]).bounds}
    for bound in Quotas(default).allowance("u", []).bounds:
        key = (bound.resource, bound.window)
        assert key not in after or after[key] >= bound.amount


instants = st.integers(0, 2**32)


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_tile_time(name: str, window: str) -> None:
    zone = ZoneInfo(name)

    @settings(max_examples=25)
    @given(instants)
    @example(at("2010-11-07 00:00:30", ZoneInfo("America/St_Johns")) + 1800)
    @example(at("1919-03-31 00:35", ZoneInfo("America/Toronto")))
    @example(at("2011-12-29 12:00", ZoneInfo("Pacific/Apia")))
    def tile(now: int) -> None:
        span = quotas.window_span(window, now, zone)
        assert span.start <= now < span.end
        for inside in (span.start, span.end - 1):
            assert quotas.window_span(window, inside, zone) == span
        assert quotas.window_span(window, span.end, zone).start == span.end
        assert quotas.window_span(window, span.start - 1, zone).end == span.start

    tile()


@pytest.mark.parametrize("name", ["Europe/Berlin", "Asia/Beirut", "America/Havana", "Australia/Lord_Howe", "UTC"])
def test_days_are_those_of_the_calendar(name: str) -> None:
    zone = ZoneInfo(name)
    for first, last in (("2025-03-25", "2025-04-08"), ("2025-10-01", "2025-11-05")):
        for now in range(at(first, zone), at(last, zone), 1800):
            day = quotas.window_span("day", now, zone)
            assert datetime.fromtimestamp(now, zone).date() == datetime.fromtimestamp(day.start, zone).date()


@pytest.mark.parametrize(
    ("window", "now", "start", "end", "hours"),
    [
        ("day", "2025-03-30 12:00", "2025-03-30", "2025-03-31", 23),
        ("day", "2025-10-26 02:30", "2025-10-26", "2025-10-27", 25),
        ("day", "2025-10-27 00:00", "2025-10-27", "2025-10-28", 24),
        ("week", "2025-10-26 23:59", "2025-10-20", "2025-10-27", 169),
        ("week", "2025-12-31 12:00", "2025-12-29", "2026-01-05", 168),
        ("month", "2025-03-31 23:00", "2025-03-01", "2025-04-01", 743),
        ("month", "2024-02-29 23:00", "2024-02-01", "2024-03-01", 29 * 24),
        ("month", "2025-12-01 00:00", "2025-12-01", "2026-01-01", 31 * 24),
    ],
)
def test_window(window: str, now: str, start: str, end: str, hours: int) -> None:
    span = quotas.window_span(window, at(now), BERLIN)
    assert span == Span(at(start), at(end))
    assert span.end - span.start == hours * HOUR


def test_an_evening_that_came_twice() -> None:
    """At one minute past midnight the clocks went back to the evening before, whose hour is of the day that had begun."""
    zone = ZoneInfo("America/St_Johns")
    midnight = at("2010-11-07", zone)
    assert datetime.fromtimestamp(midnight + 1800, zone).isoformat() == "2010-11-06T23:30:00-03:30"
    day = quotas.window_span("day", midnight + 1800, zone)
    assert (day.start, day.end - day.start) == (midnight, 25 * HOUR)


def test_the_day_that_apia_left_out() -> None:
    zone = ZoneInfo("Pacific/Apia")
    day = quotas.window_span("day", at("2011-12-29 12:00", zone), zone)
    assert (day.end - day.start, day.end) == (24 * HOUR, at("2011-12-31", zone))


def test_bad_window() -> None:
    with pytest.raises(ValueError, match="'year' is not a window"):
        quotas.window_span("year", 0, BERLIN)


small = st.integers(0, 40)
allocations = st.lists(st.builds(Allocation, st.just("gpu"), small, st.none() | small, small, st.integers(1, 3)), max_size=5)


@given(allocations, small, small)
def test_seconds_against_brute_force(held: list[Allocation], start: int, end: int) -> None:
    def holds(each: Allocation, second: int) -> bool:
        return each.start <= second < (each.seen if each.end is None else each.end)

    brute = sum(each.count for each in held for second in range(start, end) if holds(each, second))
    assert quotas.seconds_in(held, Span(start, end)) == brute


@given(allocations, st.lists(small, max_size=6))
def test_windows_neither_lose_nor_double(held: list[Allocation], cuts: list[int]) -> None:
    edges = sorted({0, 40, *cuts})
    parts = [quotas.seconds_in(held, Span(a, b)) for a, b in zip(edges, edges[1:], strict=False)]
    assert sum(parts) == quotas.seconds_in(held, Span(0, 40))


def test_metered() -> None:
    now = at("2025-03-30 12:00")
    held = [
        Allocation("gpu-a100", at("2025-03-29 23:00"), at("2025-03-30 04:00"), 0),  # four hours: the clocks went forward
        Allocation("gpu-a100", at("2025-03-30 11:00"), None, at("2025-03-30 11:45"), count=2),
        Allocation("gpu-h100", at("2025-02-27 23:00"), at("2025-03-01 01:00"), 0),
    ]
    used = quotas.metered(held, now, BERLIN)
    assert used["gpu-a100", "day"] == 3 * HOUR + 5400
    assert used["gpu-a100", "week"] == used["gpu-a100", "month"] == 4 * HOUR + 5400
    assert (used["gpu-h100", "day"], used["gpu-h100", "month"]) == (0, HOUR)
    assert Usage(seconds=used).of("gpu", "month") == 5 * HOUR + 5400


NOW = at("2025-11-12 10:00")


def ask(text: str, request: Request, usage: Usage, *overrides: Override, now: int = NOW) -> Verdict:
    allowance = Quotas(groups={"research": parse_quota(text)}).allowance("bob", ["research"])
    return quotas.decide(allowance, request, usage, now, BERLIN, overrides)


def hours(day: float, **others: float) -> Usage:
    return Usage(seconds={("gpu-a100", w): int(h * HOUR) for w, h in {"day": day, **others}.items()})


START = Request(sessions=1, memory=8 * GIB, running={"gpu-a100": 1})
RUNS = Request(running={"gpu-a100": 1})


def test_a_start_within_its_limits() -> None:
    verdict = ask("sessions=2, memory=16G, gpu-a100=8h/day", START, Usage(sessions=1, memory=8 * GIB))
    assert verdict.allowed
    assert (verdict.refusals, verdict.warnings, verdict.again) == ((), (), None)
    assert [m.left for m in verdict.meters] == [1, 8 * GIB, 8 * HOUR]
    assert {m.source for m in verdict.meters} == {"group research"}
    assert verdict.cut_at == NOW + 8 * HOUR


@pytest.mark.parametrize(
    ("text", "usage", "words"),
    [
        ("sessions=1", Usage(sessions=1), "You have 1 session and may have 1 (the limit of group research); stop one first."),
        ("sessions=0", Usage(), "You have 0 sessions and may have 0"),
        ("memory=15G", Usage(memory=8 * GIB), "Your sessions hold 8G of memory, this one needs 8G, and you may have 15G"),
        (
            "gpu-a100=8h/day",
            hours(8),
            "You have used 8 hours of 8 hours of gpu-a100 today (the limit of group research); it begins anew on 2025-11-13 at 00:00.",
        ),
        ("gpu=90m/week", hours(0, week=2), "2 hours of 1 hour 30 minutes of gpu this week"),
        ("gpu-a100=0s/month", Usage(), "0 seconds of 0 seconds of gpu-a100 this month"),
        ("gpu=deny", Usage(), "The use of gpu-a100 is denied to group research"),
        ("sessions=deny", Usage(), "Starting sessions is denied to group research"),
        ("deny", Usage(), "Starting sessions is denied to group research"),
    ],
)
def test_a_start_that_is_refused(text: str, usage: Usage, words: str) -> None:
    verdict = ask(text, START, usage)
    assert not verdict.allowed
    assert len(verdict.refusals) == 1
    assert words in verdict.refusals[0]
    assert verdict.cut_at is None


def test_when_it_may_start_again() -> None:
    assert ask("gpu=1h/day, 10h/month", START, hours(1, month=2)).again == at("2025-11-13")
    assert ask("gpu=1h/day, 10h/month", START, hours(1, month=10)).again == at("2025-12-01")
    assert ask("sessions=1, gpu=1h/day", START, Usage(1, seconds=hours(1).seconds)).again is None


def test_a_running_session_is_warned_and_cut() -> None:
    text = "sessions=1, memory=8G, gpu-a100=8h/day"
    usage = {s: Usage(1, 8 * GIB, seconds={("gpu-a100", "day"): s}) for s in (23039, 23040, 28799, 28800)}
    assert ask(text, RUNS, usage[23039]).warnings == ()
    warned = ask(text, RUNS, usage[23040])
    assert warned.allowed
    assert warned.warnings == (
        "You have used 6 hours 24 minutes of 8 hours of gpu-a100 today (the limit of group research); 1 hour 36 minutes left.",
    )
    assert ask(text, RUNS, usage[28799]).cut_at == NOW + 1
    assert not ask(text, RUNS, usage[28800]).allowed
    assert not ask("deny", RUNS, Usage()).allowed
    assert not ask("deny", Request(), Usage()).allowed
    assert ask("sessions=0, memory=0B", RUNS, Usage(1, GIB)).allowed, "fewer sessions than run are no reason to stop one"


def test_a_limit_does_not_cut_after_its_window() -> None:
    late = at("2025-11-12 23:30")
    assert ask("gpu=1h/day", RUNS, hours(0), now=late).cut_at is None
    assert ask("gpu=30m/day", RUNS, hours(0), now=late).cut_at is None
    assert ask("gpu=29m/day", RUNS, hours(0), now=late).cut_at == late + 29 * 60


def test_an_override_adds_time_until_it_ends() -> None:
    extra = Override("gpu-a100", 2 * HOUR, NOW + HOUR, "a deadline")
    verdict = ask("gpu-a100=8h/day", RUNS, hours(8.5), extra)
    assert verdict.allowed
    assert (verdict.meters[0].limit, verdict.meters[0].extra, verdict.cut_at) == (10 * HOUR, 2 * HOUR, NOW + HOUR)
    assert "10 hours of gpu-a100 today (the limit of group research and 2 hours from an administrator)" in verdict.warnings[0]
    assert not ask("gpu-a100=8h/day", RUNS, hours(8.5), extra, now=NOW + HOUR).allowed
    assert not ask("gpu-a100=8h/day", RUNS, hours(10), extra).allowed
    assert not ask("gpu=8h/day", RUNS, hours(8.5), extra).allowed
    assert not ask("gpu-a100=deny", RUNS, hours(0), extra).allowed


@pytest.mark.parametrize(
    ("resource", "seconds", "reason", "words"),
    [("sessions", 1, "x", "'sessions'"), ("gpu", 0, "x", "are 0"), ("gpu", -5, "x", "are -5"), ("gpu", 1, " ", "reason is empty")],
)
def test_bad_override(resource: str, seconds: int, reason: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Override(resource, seconds, NOW, reason)


overrides = st.lists(
    st.builds(Override, st.sampled_from(["gpu", "gpu-a100"]), st.integers(1, 30), st.integers(NOW - 5, NOW + 60), st.just("x")), max_size=3
)


@settings(max_examples=60)
@given(
    st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 3), overrides, st.sampled_from([NOW, at("2025-11-13") - 20])
)
def test_the_cut_comes_when_foretold(kind: int, family: int, used: int, rate: int, extra: list[Override], now: int) -> None:
    """Ask again each second: the first refusal is at ``cut_at``, or there is none before the day ends."""
    text, request = f"gpu-a100={kind}s/day, gpu={family}s/day", Request(running={"gpu-a100": rate})
    end = quotas.window_span("day", now, BERLIN).end

    def asked(second: int) -> Verdict:
        return ask(text, request, Usage(seconds={("gpu-a100", "day"): used + rate * (second - now)}), *extra, now=second)

    first = asked(now)
    refused = next((second for second in range(now, min(end, now + 130)) if not asked(second).allowed), None)
    if first.allowed:
        assert first.cut_at == refused
    else:
        assert refused == now


def test_meters_for_a_page() -> None:
    allowance = SITE.allowance("eve", ["research"])
    usage = Usage(sessions=1, seconds=hours(1, month=39).seconds)
    shown = quotas.meters(allowance, usage, NOW, BERLIN)
    assert [(m.resource, m.window, m.left, m.warning, m.full) for m in shown] == [
        ("sessions", "", 3, False, False),
        ("gpu-a100", "day", 7 * HOUR, False, False),
        ("gpu-a100", "month", HOUR, True, False),
    ]
    assert shown[0].sentence == "You use 1 of 4 sessions (the limit of group research); 3 left."
    own = quotas.meters(Quotas(parse_quota("memory=8G"), {}, {"bob": parse_quota("gpu=1h/day")}).allowance("bob", []), Usage(), NOW, BERLIN)
    assert own[0].sentence == "You use 0B of 8G of memory (everybody's limit); 8G left."
    assert own[1].sentence == "You have used 0 seconds of 1 hour of gpu today (your own limit); 1 hour left."
    assert own[1].span == Span(at("2025-11-12"), at("2025-11-13"))
