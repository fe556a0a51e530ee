"""Integer programs with levels of cost, against all values of all variables."""

from __future__ import annotations

import itertools

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.integer_program import Column, Program, Row, solve
from hypothesis import given, settings
from hypothesis import strategies as st


def cost(program: Program, values) -> tuple[int, ...]:
    return tuple(
        base + sum(column.cost[level] * value for column, value in zip(program.columns, values, strict=True))
        for level, base in enumerate(program.base)
    )


def allowed(program: Program, values) -> bool:
    for at, row in enumerate(program.rows):
        total = sum(column.factors.get(at, 0) * value for column, value in zip(program.columns, values, strict=True))
        if (row.low is not None and total < row.low) or (row.high is not None and total > row.high):
            return False
    return True


def solutions(program: Program):
    for values in itertools.product(*(range(column.upper + 1) for column in program.columns)):
        if allowed(program, values):
            yield values


@st.composite
def programs(draw) -> Program:
    levels, rows = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    costs = st.lists(st.integers(-2, 4), min_size=levels, max_size=levels).map(tuple).filter(lambda each: each >= (0,) * levels)
    factors = st.fixed_dictionaries({row: st.integers(-2, 3) for row in range(rows)})
    columns = draw(st.lists(st.builds(Column, costs, factors, st.integers(1, 4)), min_size=1, max_size=5))
    # No level can be negative, as the program's docstring asks.
    base = tuple(sum(max(0, -column.cost[level]) * column.upper for column in columns) for level in range(levels))
    most = tuple(base[level] + sum(max(0, column.cost[level]) * column.upper for column in columns) for level in range(levels))
    low = st.integers(-3, 8)
    row = st.one_of(
        st.builds(Row, low, st.none()),
        st.builds(Row, st.none(), low),
        st.tuples(low, st.integers(0, 3)).map(lambda p: Row(p[0], p[0] + p[1])),
    )
    return Program(columns, draw(st.lists(row, min_size=rows, max_size=rows)), base, most)


@given(programs())
@settings(max_examples=100)
def test_the_solution_is_the_cheapest_of_all(program):
    best = min((cost(program, values) for values in solutions(program)), default=None)
    found = solve(program)
    assert found.optimal
    assert found.cost == found.bound == best
    if best is not None:
        assert allowed(program, found.values)
        assert cost(program, found.values) == best


@given(programs(), st.integers(0, 30))
@settings(max_examples=50)
def test_a_search_that_is_stopped_has_a_solution_or_none_and_a_bound(program, steps):
    best = min((cost(program, values) for values in solutions(program)), default=None)
    ticks = iter(range(10**6))
    found = solve(program, late=lambda: next(ticks) >= steps)
    if found.cost is not None:
        assert allowed(program, found.values)
        assert cost(program, found.values) == found.cost
    if best is not None:
        assert found.bound <= best
        if found.optimal:
            assert found.cost == best


@given(programs())
@settings(max_examples=50)
def test_only_what_is_cheaper_than_a_given_cost_is_of_interest(program):
    best = min((cost(program, values) for values in solutions(program)), default=None)
    if best is not None:
        assert solve(program, below=best).values is None
        dearer = (best[0] + 1, *best[1:])
        if dearer[0] <= program.most[0]:
            assert solve(program, below=dearer).cost == best


def test_a_known_solution_is_kept_when_there_is_no_time():
    program = Program([Column((3, 1), {0: 2}, 9), Column((1, 5), {0: 1}, 9)], [Row(7, None)], (0, 0), (60, 60))
    found = solve(program, late=lambda: True, known=[4, 0])
    assert (found.values, found.cost, found.optimal) == ((4, 0), (12, 4), False)
    assert found.bound <= solve(program).cost


@pytest.mark.parametrize("size", [1, 6, 40])
def test_a_level_counts_only_where_all_before_it_are_equal(size):
    """Packing threes and fives into tens: the fewest tens, and of these the most fives alone."""
    kinds = [(threes, fives) for threes in range(4) for fives in range(3) if 0 < 3 * threes + 5 * fives <= 10]
    columns = [Column((1, int(threes > 0)), {0: threes, 1: fives}, 3 * size) for threes, fives in kinds]
    program = Program(columns, [Row(4 * size, 4 * size), Row(3 * size, 3 * size)], (0, 0), (20 * size, 20 * size))
    found = solve(program)
    assert found.optimal
    # Each ten holds (3, 0), (1, 1) or (0, 2).
    tens = min(
        a + b + c
        for a in range(2 * size + 1)
        for b in range(4 * size + 1)
        for c in [-(-max(0, 3 * size - b) // 2)]
        if 3 * a + b >= 4 * size
    )
    assert found.cost[0] == tens
