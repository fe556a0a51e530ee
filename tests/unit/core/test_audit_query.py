"""What an audit query asks for: what is thrown away by a line's bytes is never what reading the line would have found."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.module_utils import audit_chain
from plugins.module_utils.audit_query import SLACK, Query, at_of

NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
NAMES = st.sampled_from(["ann", "bob", 'a"b', "back\\slash", "é", "\ud800", "user:ann", "hub", "idle", "joann", ""])
TIMES = st.integers(-3, 3).map(lambda hours: audit_chain.stamp(NOON + timedelta(hours=hours)))


def line(**facts: object) -> bytes:
    return audit_chain.seal(7, audit_chain.stamp(NOON), "session.stopped", facts, "0" * 64)


@given(
    user=NAMES, cause=NAMES, actor=NAMES, operator=NAMES,
    query=st.builds(
        Query, since=st.one_of(st.just(""), TIMES), until=st.one_of(st.just(""), TIMES), kind=st.sampled_from(["", "session", "login"]),
        user=NAMES, cause=NAMES, actor=NAMES,
    ),
)  # fmt: skip
def test_bytes_lose_nothing(user: str, cause: str, actor: str, operator: str, query: Query) -> None:
    text = line(user=user, cause=cause, actor=actor, operator=operator)
    event = audit_chain.read(text)
    assert event is not None
    if query.fits(event):
        assert query.may(text) and not query.before(event["at"]) and not query.after(event["at"])


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (Query(), True),
        (Query(kind="session"), True),
        (Query(kind="stopped"), False),
        (Query(user="ann"), True),
        (Query(user="eve"), True),
        (Query(user="an"), False),
        (Query(user="olga"), False),
        (Query(actor="user:eve"), True),
        (Query(actor="eve"), True),
        (Query(actor="ann"), False),
        (Query(actor="olga"), True),
        (Query(cause="admin"), True),
        (Query(cause="adm"), False),
        (Query(since=audit_chain.stamp(NOON)), True),
        (Query(until=audit_chain.stamp(NOON)), False),
        (Query(since=audit_chain.stamp(NOON + timedelta(seconds=1))), False),
        (Query(until=audit_chain.stamp(NOON + timedelta(seconds=1)), user="ann", actor="eve", cause="admin", kind="session.s"), True),
    ],
)
def test_who_what_and_when(query: Query, fits: bool) -> None:
    text = line(user="ann", cause="admin", actor="user:eve", operator="olga")
    event = audit_chain.read(text)
    assert event is not None and query.fits(event) is fits
    if not fits and (query.since or query.until):
        assert not query.may(text), "a time is known by the bytes"


def test_a_name_that_is_nowhere_is_not_read() -> None:
    assert not Query(user="zoe").may(line(user="ann", actor="hub")) and at_of(line()) == audit_chain.stamp(NOON)
    assert at_of(b"no event\n") == ""


def test_the_search_ends_only_where_no_clock_could_have_been_set_back_to() -> None:
    query = Query(since=audit_chain.stamp(NOON), until=audit_chain.stamp(NOON))
    near, far = SLACK - timedelta(seconds=1), SLACK + timedelta(seconds=1)
    assert query.before(audit_chain.stamp(NOON - far)) and not query.before(audit_chain.stamp(NOON - near))
    assert query.after(audit_chain.stamp(NOON + far)) and not query.after(audit_chain.stamp(NOON + near))
    assert not Query().before("2026") and not Query().after("2026") and not query.before("")
