"""Warning, notice and cut: never without notice, whatever the ticks do."""

from __future__ import annotations

from datetime import timezone

from ansible_collections.metalhub.platform.plugins.module_utils import quotas
from ansible_collections.metalhub.platform.plugins.module_utils.quota_notice import (
    CUT,
    FINE,
    LONGEST_STEP,
    NOTICE,
    WARNED,
    Standing,
    of_session,
    step,
)
from ansible_collections.metalhub.platform.plugins.module_utils.quotas import Forecast, Override, Quotas, Usage, parse_quota
from hypothesis import given
from hypothesis import strategies as st

NOON, HOUR = 1_767_268_800, 3600
ALLOWANCE = Quotas(parse_quota("gpu-a100=1h/day, gpu=10h/month, cpu=100h/month")).allowance("ann", [])


def forecasts(used: int, now: int = NOON, running: int = 1, overrides: tuple[Override, ...] = ()) -> tuple[Forecast, ...]:
    usage = Usage(seconds={("gpu-a100", "day"): used, ("gpu-a100", "month"): used})
    return quotas.forecasts(ALLOWANCE, {"gpu-a100": running}, usage, now, timezone.utc, overrides)


def test_forecasts_are_of_what_runs() -> None:
    found = forecasts(1000)
    assert [(each.meter.resource, each.cut_at) for each in found] == [("gpu", NOON + 35000), ("gpu-a100", NOON + 2600)]
    assert of_session(found, ["cpu"]) == () and len(of_session(found, ["gpu-a100"])) == 2
    assert [each.meter.resource for each in of_session(found, ["gpu-1g.10gb"])] == ["gpu"], "the limit of all kinds concerns it, too"
    assert forecasts(1000, running=2)[1].cut_at == NOON + 1300
    assert forecasts(3600)[1].cut_at == NOON
    longer = (Override("gpu-a100", 100, NOON + HOUR, "x"),)
    assert forecasts(3600, overrides=longer)[1].cut_at == NOON + 100


def test_the_way_of_a_session() -> None:
    standing = Standing()
    states = []
    for used in range(2800, 3610, 10):
        standing = step(standing, forecasts(used, NOON + used), NOON + used, 10, 300)
        if not states or states[-1][1] != standing.state:
            states.append((used, standing.state))
    assert states == [(2800, FINE), (2880, WARNED), (3300, NOTICE), (3600, CUT)]


def test_notice_is_withdrawn_when_there_is_time_again() -> None:
    standing = step(Standing(), forecasts(3400), NOON, 0, 300)
    assert standing.state == NOTICE and "stopped in about 5 minutes" in standing.sentence(NOON)
    more = (Override("gpu-a100", 7200, NOON + HOUR, "x"),)
    assert step(standing, forecasts(3400, overrides=more), NOON, 10, 300) == Standing()


def test_sentences() -> None:
    assert Standing().sentence(NOON) == ""
    assert step(Standing(), forecasts(3000), NOON, 0, 0).sentence(NOON).startswith("You have used 50 minutes of 1 hour of gpu-a100 today")
    assert "in about a minute" in Standing(NOTICE, 3, forecasts(3600)[1]).sentence(NOON)


@given(st.lists(st.tuples(st.integers(0, 7200), st.integers(-10, 10**6)), min_size=1, max_size=60), st.integers(1, 900))
def test_never_a_cut_without_notice_that_was_looked_through(ticks: list[tuple[int, int]], notice: int) -> None:
    """Whatever is used and however late ticks come: from the first notice to the cut at least the notice passes, in steps of a minute."""
    standing, noticed = Standing(), None
    for used, elapsed in ticks:
        standing = step(standing, forecasts(used), NOON, elapsed, notice)
        if standing.left is None:
            noticed = None
        else:
            noticed = 0 if noticed is None else noticed + min(max(0, elapsed), LONGEST_STEP)
        if standing.state == CUT:
            assert noticed is not None and noticed >= notice and used >= 3600
