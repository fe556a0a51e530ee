"""The administrators' list of sessions: what is asked for, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalhub_hub.admin_sessions import SORTS, STATES, Choice, figures, read_choice, select
from metalhub_hub.agents import Figures
from metalhub_hub.core.showback import GIB, Rates
from metalhub_hub.ledger import Held, Ledger
from metalhub_hub.quota import Quota

ROW = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["ann", "joann", "bob"]), "name": st.sampled_from(["", "two"]), "state": st.sampled_from(STATES),
        "profile": st.sampled_from(["small", "slice"]), "title": st.just("T"), "node": st.sampled_from(["", "n1"]),
        "cpu": st.none(), "memory": st.one_of(st.none(), st.integers(0, 9)), "idle": st.one_of(st.none(), st.integers(0, 9)),
        "left": st.one_of(st.none(), st.integers(0, 9)), "age": st.one_of(st.none(), st.integers(0, 9)), "cost": st.one_of(st.none(), st.integers(0, 9)),
    }
)  # fmt: skip


@given(rows=st.lists(ROW, max_size=12), sort=st.sampled_from(sorted(SORTS)), down=st.booleans(), state=st.sampled_from(["", *STATES]))
def test_each_row_asked_for_comes_once_in_its_order(rows: list[dict[str, Any]], sort: str, down: bool, state: str) -> None:
    found = select(rows, Choice(user="ann", state=state, sort=("-" if down else "") + sort))
    wanted = [row for row in rows if "ann" in row["user"] and state in ("", row["state"])]
    assert sorted(map(id, found)) == sorted(map(id, wanted))
    keys = [SORTS[sort](row) for row in found]
    known = [key for key in keys if key is not None]
    assert keys == known + [None] * (len(keys) - len(known)), "what is not known is last"
    assert known == sorted(known, reverse=down)


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("offset", "-1", "from 0"), ("offset", "x", "from 0"), ("limit", "0", "from 1 to 1000"), ("limit", "1001", "from 1 to 1000"),
        ("limit", "9" * 99, "from 1"), ("limit", "٣", "from 1"), ("state", "flying", "one of queued"), ("sort", "colour", "one of user"), ("sort", "--user", "one of user"),
    ],
)  # fmt: skip
def test_a_choice_that_is_not_legal_has_one_sentence(name: str, value: str, legal: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .* is not legal: give .*{legal}"):
        read_choice(lambda key: value if key == name else "")


def test_a_choice_makes_the_address_that_it_came_from() -> None:
    given = {"user": "a b", "state": "idle", "sort": "-cost", "offset": "100"}
    choice = read_choice(lambda key: given.get(key, ""))
    assert choice.query() == "user=a+b&state=idle&sort=-cost&offset=100"
    assert choice.query(user="", offset=0) == "state=idle&sort=-cost" and Choice().query() == ""


def test_figures_are_the_agents() -> None:
    known = {
        name: Figures(
            node="n1", container="c", state=state, memory=GIB, peak=GIB, limit=None, swap=0, oom=0, cpu=1.5, cpu_seconds=9.0,
            given_back=None, seconds=None, at=1.0, asked=1.0,
        )
        for name, state in (("mh-ann", "running"), ("mh-eve", "ended"))
    }  # fmt: skip
    host: Any = SimpleNamespace(agents=SimpleNamespace(figures=known.get))
    assert figures(host, "mh-ann") == (1.5, GIB)
    assert {figures(host, name) for name in ("mh-bob", "mh-eve", "")} == {(None, None)}


def test_what_a_session_has_cost_so_far(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    book = Ledger(url, "run")
    book.create()

    def held(session: str, resource: str, count: int, start: int) -> Held:
        return Held("ann", "", session, "small", (), resource, count, 2 * GIB if resource in ("cpu", "session") else 0, start, start)

    book.begin([held("one", "cpu", 2, 0), held("one", "gpu-1g.10gb", 1, 0), held("one", "session", 1, 0)])
    book.end("one", 3600, ["cpu"])  # hibernated for an hour
    book.begin([held("one", "cpu", 2, 7200)])
    book.begin([held("gone", "cpu", 64, 0)])
    book.end("gone", 9000)
    book.beat(10800)
    document = SimpleNamespace(profiles={}, rates=Rates("EUR", {"cpu": 1.0, "memory": 0.1, "gpu": 3.0}))
    quota = Quota(SimpleNamespace(document=document, proxy=None), url)  # type: ignore[arg-type]
    # Two hours of two CPUs and 2 GiB, and three of a slice.
    assert quota.costs() == {"one": pytest.approx(2 * (2 * 1.0 + 2 * 0.1) + 3 * 3.0)}
    quota.close()
    book.close()
