"""The life of a session with injected time: what it is, what happens next, and that no trouble stops one wrongly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import lifecycle
from ansible_collections.metalhub.platform.plugins.module_utils.lifecycle import (
    BY_AGE,
    BY_IDLENESS,
    Decision,
    Limits,
    Moment,
    NoExtension,
    Reading,
    Record,
    begin,
    decide,
    elapsed,
    extend,
    observe,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

LIMITS = Limits(idle_stop=1800, max_session=8 * 3600, extension=7200)
ZERO = Moment(1_000_000.0, 5_000.0, "a")


def at(seconds: float, jump: float = 0.0, boot: str = "a") -> Moment:
    return Moment(ZERO.wall + seconds + jump, ZERO.steady + seconds, boot)


def quiet(since: float) -> Reading:
    return Reading(busy=False, idle=since, mark="")


BUSY = Reading(busy=True, idle=None, mark="")


def run(
    record: Record, limits: Limits, start: float, end: float, reading: Reading | None, every: float = 30
) -> tuple[Record, list[Decision]]:
    found, now = [], start
    while now <= end:
        record, decision = decide(observe(record, reading, at(now)), limits, at(now))
        found.append(decision)
        now += every
    return record, found


def test_a_session_that_nobody_uses_is_announced_and_then_stopped() -> None:
    record, found = run(begin(at(0)), LIMITS, 0, 1800, quiet(0))
    assert [one.act for one in found if one.act] == ["warn", "stop"]
    assert [one.act for one in found].index("warn") == 1500 / 30
    assert (found[-1].cause, found[0].state, found[-1].state) == (BY_IDLENESS, "running", "idle")
    assert (found[0].next, found[0].why, found[0].left, found[0].warned) == ("stop", "idle", 1800, False)
    assert (found[-2].left, found[-2].warned) == (30, True)


def test_an_old_session_is_stopped_whatever_runs() -> None:
    limits = replace(LIMITS, background=0)
    record, found = run(begin(at(0)), limits, 8 * 3600 - 600, 8 * 3600, BUSY)
    assert [(one.act, one.cause) for one in found if one.act] == [("warn", BY_AGE), ("stop", BY_AGE)]
    assert found[-1].state == "running"


@pytest.mark.parametrize(("busy", "left"), [(3600, None), (4 * 3600, 1800), (4 * 3600 + 600, 1200)])
def test_a_cell_is_activity_up_to_the_background_limit(busy: float, left: float | None) -> None:
    record = observe(begin(at(0)), BUSY, at(0))
    record = observe(record, BUSY, at(busy))
    _, decision = decide(record, replace(LIMITS, max_session=0), at(busy))
    # At the limit itself the cell still counts.
    assert decision.left == (None if busy <= 4 * 3600 else left)
    assert decision.state == "running" and decision.busy == busy


def test_what_prints_is_no_way_round_the_background_limit() -> None:
    limits = replace(LIMITS, max_session=0)
    record = begin(at(0))
    for now in range(0, 5 * 3600 + 30, 30):
        record, decision = decide(observe(record, BUSY, at(now)), limits, at(now))
        if decision.act == "stop":
            break
    assert decision.act == "stop" and now == 4 * 3600 + 1800


def test_a_server_that_does_not_answer_is_not_idle() -> None:
    record, _ = run(begin(at(0)), LIMITS, 0, 1740, quiet(0))
    record, found = run(record, LIMITS, 1770, 7000, None)
    assert not any(one.act for one in found)
    assert not found[-1].known and (found[-1].why, found[-1].state) == (BY_AGE, "running")
    # It answers again: the announcement is made again for its whole time.
    record, found = run(record, LIMITS, 7030, 7030 + 300, quiet(7000))
    assert [one.act for one in found if one.act] == ["warn", "stop"] and found[-1].act == "stop"


def test_activity_withdraws_the_announcement() -> None:
    record, found = run(begin(at(0)), LIMITS, 0, 1770, quiet(0))
    assert found[-1].warned
    record = observe(record, Reading(False, 5.0, "2"), at(1790))
    record, decision = decide(record, LIMITS, at(1790))
    assert not decision.warned and decision.left == 1800


def test_a_session_clock_that_jumps_makes_nobody_idle() -> None:
    record, _ = run(begin(at(0)), LIMITS, 0, 300, quiet(0))
    # A cell was run a few seconds ago, and the node's clock then went on by a day.
    record, decision = decide(observe(record, Reading(False, 86400.0, "2"), at(330)), LIMITS, at(330))
    assert decision.idle == 0 and not decision.act


def test_the_wall_clock_is_only_asked_across_a_reboot() -> None:
    assert elapsed(at(0), at(60, jump=86400)) == 60
    assert elapsed(at(0), Moment(ZERO.wall + 90, 3.0, "b")) == 90
    assert elapsed(at(0), Moment(ZERO.wall - 90, 3.0, "b")) == 0


def test_after_a_reboot_with_a_wrong_clock_the_session_has_the_last_word() -> None:
    record = lifecycle.read(json.loads(json.dumps(lifecycle.plain(begin(at(0))))))
    assert record is not None
    now = Moment(ZERO.wall + 30 * 86400, 10.0, "b")
    record = lifecycle.rebase(record, now)
    unsure, decision = decide(record, LIMITS, now)
    for seconds in range(0, 900, 30):
        later = now.before(-seconds)
        unsure, decision = decide(observe(unsure, None, later), LIMITS, later)
        assert decision.act != "stop"
    record, decision = decide(observe(record, Reading(False, 40.0, "", age=600.0), now), LIMITS, now)
    assert record.sure and (decision.why, decision.left) == (BY_IDLENESS, 1760)


def test_an_extension_gives_time_once() -> None:
    record, found = run(begin(at(0)), LIMITS, 0, 1770, quiet(0))
    record, granted = extend(record, LIMITS, at(1775))
    assert granted == 3600
    record, decision = decide(observe(record, quiet(1790), at(1790)), LIMITS, at(1790))
    assert (decision.left, decision.warned, decision.extension_left) == (3585, False, 3600)
    record, granted = extend(record, LIMITS, at(1800), 10**6)
    assert granted == 3600
    with pytest.raises(NoExtension, match="used up"):
        extend(record, LIMITS, at(1800))
    with pytest.raises(NoExtension, match="cannot be extended"):
        extend(record, replace(LIMITS, extension=0), at(1800))
    with pytest.raises(NoExtension, match="no limit"):
        extend(record, Limits(), at(1800))
    with pytest.raises(ValueError, match="above 0"):
        extend(record, LIMITS, at(1800), 0)
    # The longest time grew by as much.
    _, decision = decide(observe(record, BUSY, at(8 * 3600)), LIMITS, at(8 * 3600))
    assert (decision.why, decision.left) == (BY_AGE, 7200)


def test_hibernation_comes_first_and_waking_is_activity() -> None:
    limits = replace(LIMITS, hibernate_after=600)
    record, found = run(begin(at(0)), limits, 0, 600, quiet(0))
    assert (found[0].next, found[0].left) == ("hibernate", 600) and found[-1].act == "hibernate"
    record = lifecycle.freeze(record)
    record, found = run(record, limits, 630, 1800, None)
    assert found[0].state == "hibernated" and (found[0].next, found[0].left) == ("stop", 1170)
    assert found[-1].act == "stop"
    record = lifecycle.thaw(record, at(1830))
    _, decision = decide(observe(record, quiet(0), at(1830)), limits, at(1830))
    assert decision.state == "running" and decision.left == 600


def test_the_states_of_what_does_not_run() -> None:
    _, decision = decide(begin(at(0)), LIMITS, at(0))
    assert [
        lifecycle.state_of(),
        lifecycle.state_of("queued"),
        lifecycle.state_of("starting", ended=5.0),
        lifecycle.state_of(running=decision),
        lifecycle.state_of(ended=5.0),
        lifecycle.state_of(ended=1e9),
    ] == ["absent", "queued", "starting", "running", "stopped", "expired"]


@pytest.mark.parametrize(
    "data", [None, [], {}, {"started": 1}, {"started": [1, 2], "active": None}, {**lifecycle.plain(begin(ZERO)), "hold": "x"}]
)
def test_a_record_that_cannot_be_read_is_none(data: object) -> None:
    assert lifecycle.read(data) is None


moments = st.builds(Moment, st.floats(0, 1e9), st.floats(0, 1e7), st.sampled_from("ab"))
records = st.builds(
    Record,
    started=moments,
    active=moments,
    mark=st.text(max_size=5),
    busy=st.none() | moments,
    extended=st.integers(0, 10**6),
    held=st.none() | moments,
    hold=st.integers(0, 10**6),
    frozen=st.booleans(),
    sure=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(records)
def test_a_record_outlives_the_hub(record: Record) -> None:
    assert lifecycle.read(json.loads(json.dumps(lifecycle.plain(record)))) == record


@settings(max_examples=60, deadline=None)
@given(records, moments, st.builds(Limits, *[st.integers(0, 5000)] * 6))
def test_nothing_stops_at_the_first_look(record: Record, now: Moment, limits: Limits) -> None:
    """Whatever a new hub finds, and whatever its clocks say, a stop was announced by this hub for its whole time before."""
    _, decision = decide(observe(lifecycle.rebase(record, now), quiet(1e9), now), limits, now)
    assert decision.act != "stop"
    if decision.act == "warn":
        assert decision.left is not None and decision.left >= limits.notice


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(1, 2000)),  # looks every 30 s
        st.tuples(st.just("away"), st.integers(1, 20000)),  # the hub is down, then another process
        st.tuples(st.just("reboot"), st.integers(1, 20000)),  # the same, of the whole control host
        st.tuples(st.just("suspend"), st.integers(1, 20000)),  # no looks, the same process
        st.tuples(st.just("wall"), st.integers(-(10**6), 10**6)),  # the hub's wall clock jumps
        st.tuples(st.just("node"), st.integers(-(10**6), 10**6)),  # the session's clock jumps
        st.tuples(st.just("cell"), st.integers(1, 3000)),  # somebody runs a cell so long
        st.tuples(st.just("silent"), st.integers(1, 3000)),  # the session's server does not answer
        st.tuples(st.just("extend"), st.integers(1, 4000)),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@example([("pass", 1), ("away", 27), ("node", 29), ("cell", 1), ("away", 1)], (600, 0))
@example([("pass", 60), ("wall", 10**6), ("reboot", 60)], (0, 3600))
@example([("extend", 632), ("wall", 1), ("reboot", 1)], (600, 0))
@example([("pass", 1560), ("suspend", 3000)], (1800, 0))
@given(EVENTS, st.sampled_from([(600, 0), (1800, 3600), (0, 3600), (100, 0), (1800, 3000)]))
def test_no_trouble_stops_a_session_wrongly(events: list[tuple[str, int]], allowed: tuple[int, int]) -> None:
    """Truth is kept beside: the real times of start, activity, and of what the user could read."""
    limits = Limits(idle_stop=allowed[0], max_session=allowed[1], extension=5000, background=10**6)
    true, wall, node, boot = 0.0, 0.0, 0.0, "a"
    last, cell, stamp, extended, held = 0.0, 0.0, 0, 0, 0.0
    read_for: dict[str, float] = {}
    shown, shown_at = "", 0.0
    record: Record = begin(at(0))
    saved = lifecycle.plain(record)

    def look(answers: bool) -> bool:
        nonlocal record, saved, last, stamp, shown, shown_at
        now = at(true, wall, boot)
        if true < cell:
            last = true
        reading = Reading(true < cell, max(0.0, true - last + node), str(stamp), true + node) if answers else None
        if shown:
            # A hub that was busy or suspended for a moment was still there.
            read_for[shown] = read_for.get(shown, 0.0) + min(true - shown_at, limits.patience)
        record, decision = decide(observe(record, reading, now), limits, now)
        if decision.act == "stop":
            if decision.cause == BY_IDLENESS:
                assert answers and true - last >= limits.idle_stop - 1e-6 and true >= held - 1e-6
            else:
                assert true >= limits.max_session + extended - 1e-6
            assert read_for.get(decision.cause, 0.0) >= limits.notice - 1e-6
            return True
        current = decision.why if decision.warned else ""
        for cause in list(read_for):
            if cause != current:
                del read_for[cause]
        shown, shown_at = current, true
        saved = lifecycle.plain(record)
        return False

    for what, amount in [*events, ("pass", 4000)]:
        if what in ("pass", "silent", "cell"):
            if what == "cell":
                cell, stamp, last = true + amount, stamp + 1, true
            end = true + amount
            while true < end:
                true = min(end, true + 30)
                if look(what != "silent"):
                    return
            if what == "cell":
                last, stamp = true, stamp + 1
        elif what == "reboot" and node:
            continue  # without a steady clock, two wrong ones are one too many
        elif what in ("away", "reboot"):
            true, shown = true + amount, ""
            boot += "b" if what == "reboot" else ""
            read_for.clear()
            restored = lifecycle.read(saved)
            assert restored is not None
            record = lifecycle.rebase(restored, at(true, wall, boot))
        elif what == "suspend":
            true += amount
        elif what == "wall":
            wall += amount
        elif what == "node":
            node += amount
        else:
            try:
                record, granted = extend(record, limits, at(true, wall, boot), amount)
            except NoExtension:
                continue
            extended, held, shown = extended + granted, true + granted, ""
            read_for.clear()
            saved = lifecycle.plain(record)
