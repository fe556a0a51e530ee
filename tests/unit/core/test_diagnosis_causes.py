"""One cause of what is wrong with a session: which evidence it is read from, and what outranks what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalhub_hub.core import diagnosis
from metalhub_hub.core.diagnosis import AGAIN, REASONS, STEPS, Event, Evidence, Home, Memory, Places, decide, of

GIB = 2**30
FINE = Evidence(title="Small", room=Places(3, 2, 2), home=Home("", GIB, 10 * GIB))
UP = replace(FINE, running=True, node="compute1", answers=True)
FULL = Home("", 10 * GIB - 2**20, 10 * GIB)


def ended(reason: str, **more: Any) -> Event:
    return Event(True, reason, f"It ended: {reason}.", 1000.0, node="compute1", **more)


def refused(reason: str, **more: Any) -> Event:
    return Event(False, reason, f"It was refused: {reason}.", 1000.0, **more)


CASES = [
    # evidence, cause, whether it still is so
    (FINE, "healthy", True),
    (UP, "healthy", True),
    (replace(UP, answers=None), "healthy", True),
    (replace(FINE, starting=True), "healthy", True),
    (replace(FINE, starting=True, room=Places(0, 2, 2)), "no room", True),
    # A session that runs.
    (replace(UP, egress="The way out is closed."), "egress", True),
    (replace(UP, home=Home("refused")), "home offline", True),
    (replace(UP, home=FULL), "home full", True),
    (replace(UP, memory=Memory(8 * GIB, 8 * GIB, 1)), "out of memory", True),
    (replace(UP, memory=Memory(8 * GIB, 8 * GIB)), "healthy", True),
    (replace(UP, answers=False), "silent", True),
    (replace(UP, answers=False, cluster="no leader"), "cluster", True),
    (replace(UP, cluster="no leader", room=None), "healthy", True),
    (replace(UP, egress="closed", home=FULL, answers=False), "egress", True),
    (replace(UP, home=FULL, answers=False, memory=Memory(1, 1, 1)), "home full", True),
    (replace(UP, answers=False, memory=Memory(1, 1, 1)), "out of memory", True),
    # What does not matter to one that runs.
    (replace(UP, quota="used up", room=Places(0, 2, 2), image="missing"), "healthy", True),
    # What ended the last one.
    (replace(FINE, event=ended("memory", memory=Memory(8 * GIB, 8 * GIB, 1))), "out of memory", True),
    (replace(FINE, event=ended("lost")), "node lost", False),
    (replace(FINE, event=ended("lost"), room=Places(0, 1, 1)), "node lost", True),
    (replace(FINE, event=ended("drain")), "drain", False),
    (replace(FINE, event=ended("idle")), "idle", True),
    (replace(FINE, event=ended("max_session")), "max age", True),
    (replace(FINE, event=ended("quota"), quota="used up"), "quota", True),
    (replace(FINE, event=ended("quota")), "quota", False),
    (replace(FINE, event=ended("user")), "stopped", True),
    (replace(FINE, event=ended("admin")), "stopped", True),
    (replace(FINE, event=ended("disabled"), disabled=True), "disabled", True),
    (replace(FINE, event=ended("disabled")), "disabled", False),
    # What the last start was refused for.
    (replace(FINE, event=refused("quota"), quota="used up"), "quota", True),
    (replace(FINE, event=refused("room")), "no room", False),
    (replace(FINE, event=refused("room"), room=Places(0, 2, 2)), "no room", True),
    (replace(FINE, event=refused("room"), room=None, cluster="no leader"), "no room", True),
    (replace(FINE, event=refused("image", words="No such image: x")), "image", True),
    (replace(FINE, event=refused("home"), home=Home("refused")), "home offline", True),
    (replace(FINE, event=refused("home")), "home offline", False),
    (replace(FINE, event=refused("full"), home=FULL), "home full", True),
    (replace(FINE, event=refused("full")), "home full", False),
    (replace(FINE, event=refused("disk")), "disk full", True),
    (replace(FINE, event=refused("lost"), room=Places(0, 0, 0)), "node lost", True),
    (replace(FINE, event=refused("profile")), "profile", True),
    (replace(FINE, event=refused("stopped")), "stopped", True),
    # What names no cause gives way to what would keep a session from starting now, and is told where nothing would.
    *((replace(FINE, event=ended(reason)), "crashed", True) for reason in ("failed", "exited", "rejected", "something new")),
    (replace(FINE, event=refused("timeout")), "crashed", True),
    (replace(FINE, event=refused("engine")), "cluster", False),
    (replace(FINE, event=ended("failed"), home=FULL), "home full", True),
    (replace(FINE, event=refused("failed"), home=Home("refused")), "home offline", True),
    (replace(FINE, event=refused("timeout"), image="missing"), "image", True),
    (replace(FINE, event=refused("timeout"), room=Places(0, 2, 2)), "no room", True),
    # Nothing happened yet.
    (replace(FINE, cluster="no leader", room=None), "cluster", True),
    (replace(FINE, home=Home("refused")), "home offline", True),
    (replace(FINE, home=FULL), "home full", True),
    (replace(FINE, image="missing"), "image", True),
    (replace(FINE, quota="used up"), "quota", True),
    (replace(FINE, room=Places(0, 0, 0)), "no room", True),
    (replace(FINE, home=FULL, image="missing", quota="used up", room=Places(0, 0, 0)), "home full", True),
    (replace(FINE, image="missing", quota="used up", room=Places(0, 0, 0)), "image", True),
    (replace(FINE, quota="used up", room=Places(0, 0, 0)), "quota", True),
    (replace(FINE, disabled=True, quota="used up", event=ended("memory")), "disabled", True),
]


@pytest.mark.parametrize(("found", "cause", "now"), CASES)
def test_cause(found: Evidence, cause: str, now: bool) -> None:
    told = decide(found)
    assert (told.cause, told.now) == (cause, now)
    assert told.sentence and told.step and (told.administrators or cause == "healthy")
    assert told.step == AGAIN if not now else told.step != AGAIN


def test_every_cause_is_in_the_table() -> None:
    assert {cause for _, cause, _ in CASES} == set(STEPS) and set(REASONS.values()) <= set(STEPS)


def test_evidence_has_numbers_and_the_engines_words() -> None:
    told = decide(replace(FINE, event=ended("memory", memory=Memory(int(7.86 * GIB), 8 * GIB, 1), words="task: non-zero exit (137)")))
    assert dict(told.evidence) == {
        "machine": "compute1", "engine": "task: non-zero exit (137)", "memory": "7.8 of 8 GiB", "killed for memory": "1",
    }  # fmt: skip
    assert (told.at, told.node) == (1000.0, "compute1")
    told = decide(replace(FINE, event=refused("room"), room=Places(0, 2, 1)))
    assert dict(told.evidence) == {"room now": "0 places on 2 machines, 1 of them large enough"}
    told = decide(replace(FINE, home=FULL))
    assert dict(told.evidence) == {"home now": "9.9 of 10 GiB"} and "9.9 of 10 GiB are used" in told.sentence


@pytest.mark.parametrize(
    ("number", "limit", "words"),
    [(int(7.8 * GIB) + 1, 8 * GIB, "7.8 of 8 GiB"), (512 * 2**20, 2 * GIB, "0.5 of 2 GiB"), (3, None, "3 B"), (GIB, None, "1 GiB"), (0, 2**20, "0 of 1 MiB")],
)
def test_amounts(number: int, limit: int | None, words: str) -> None:
    assert of(number, limit) == words


@pytest.mark.parametrize(
    ("used", "limit", "full"),
    [(0, None, False), (10 * GIB, 10 * GIB, True), (11 * GIB, 10 * GIB, True), (10 * GIB - 65 * 2**20, 10 * GIB, False), (99 * 2**20, 100 * 2**20, False),
     (100 * 2**20 - 1, 100 * 2**20, True), (1023 * GIB, 1024 * GIB, False)],
)  # fmt: skip
def test_when_a_home_is_full(used: int, limit: int | None, full: bool) -> None:
    assert Home("", used, limit).full is full


events = st.none() | st.builds(
    Event, st.booleans(), st.sampled_from([*REASONS, "failed", "timeout", "engine", "?"]), st.just("It ended."), st.floats(0, 1e9),
    st.sampled_from(["", "compute1"]), st.text(max_size=5), st.none() | st.builds(Memory, st.integers(0, 2**40), st.none() | st.integers(1, 2**40), st.integers(0, 3)),
)  # fmt: skip
words = st.sampled_from(["", "why"])


@given(
    st.builds(
        Evidence, st.just("Small"), st.booleans(), st.booleans(), st.sampled_from(["", "compute1"]), st.sampled_from([None, True, False]), events,
        st.booleans(), words, st.none() | st.builds(Places, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), words,
        st.none() | st.builds(Home, words, st.integers(0, 2**40), st.none() | st.integers(1, 2**40)), words, words,
        st.none() | st.builds(Memory, st.integers(0, 2**40), st.none() | st.integers(1, 2**40), st.integers(0, 3)),
    )
)  # fmt: skip
def test_there_is_always_exactly_one_and_nothing_unknown_is_one(found: Evidence) -> None:
    told = decide(found)
    assert told.cause in STEPS and told.sentence and told.step
    assert all(what and text for what, text in told.evidence)
    if told.cause == diagnosis.HOME_FULL and told.at is None:
        assert found.home is not None and found.home.full
    if told.cause == diagnosis.ROOM and told.at is None:
        assert found.room is not None and not found.room.places
    if told.cause == diagnosis.SILENT:
        assert found.answers is False
