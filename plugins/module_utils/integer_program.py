"""Small integer programs with costs in an order of importance, solved exactly.

Branch and cut over linear relaxations. The relaxations are solved by the dual simplex method for bounded variables in integers
(the inverse of the basis is kept as its adjugate and determinant, after Edmonds and Bareiss), so that no bound and no cut is ever
off by a rounding error. What makes the bounds strong: each level of the cost is an integer, so a relaxation that needs 15.2 GPUs
means 16, and says something about the next level only once that is a row of the program; sums of rows that are odd on one side
only (the {0, 1/2}-cuts of Caprara and Fischetti) and Gomory's cuts; and branching first on how many columns share a cost.
"""

from __future__ import annotations

import dataclasses
import math
import typing as t

# A level's weight exceeds all that the levels below can add up to by this factor: a fraction of a level above 1/65536 can be
# rounded up whatever the levels below do.
_SLACK = 1 << 16

# Nodes that the search for a first good solution looks at.
_DIVE = 200

# Cuts of each kind in a round; rounds without a gain before the end, and a quarter of all rounds; how large the determinant of the
# basis may become; and how many dimensions of the null space of parities are looked through.
_CUTS = 8
_PATIENCE = 3
_SCALE = 1 << 24
_SPACE = 8

# Where less than this part of the columns can still help, the program is made anew without the others.
_SHRINK = 0.7


@dataclasses.dataclass(frozen=True)
class Column:
    """An integer variable from 0 to ``upper`` (None: no limit): its cost per level, and its factors by row.

    The cost must not be negative in the order of the levels, so that doing nothing is the cheapest before the rows are looked at.
    """

    cost: tuple[int, ...]
    factors: t.Mapping[int, int]
    upper: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """``low <= sum of factors * variables <= high``; None is no limit on that side, and one side must have one."""

    low: int | None
    high: int | None


@dataclasses.dataclass(frozen=True)
class Program:
    """Minimise ``base`` plus the costs, level by level.

    ``most`` bounds each level from above in every solution, and no level is ever negative; both are the caller's promise.
    """

    columns: t.Sequence[Column]
    rows: t.Sequence[Row]
    base: tuple[int, ...]
    most: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Solution:
    """``values`` of the variables (None: there is no solution, or none was found in time) and the ``cost`` per level.

    ``bound`` is what no solution can be below; it equals the cost where ``optimal``.
    """

    values: tuple[int, ...] | None
    cost: tuple[int, ...] | None
    bound: tuple[int, ...] | None
    optimal: bool


class _Levels:
    """The levels as one integer, in which the order of integers is the order of importance."""

    def __init__(self, most: t.Sequence[int], live: t.Sequence[bool]) -> None:
        self.most = tuple(most)
        # Below the last live level there is nothing, so that its weight is one and a fraction of it is rounded up.
        self.last = max((level for level, used in enumerate(live) if used), default=0)
        weights = [1]
        reach = 0
        for limit, used in zip(reversed(self.most[1:]), reversed(live[1:])):
            reach += weights[-1] * limit
            weights.append((reach + 1) * (_SLACK if used else 1))
        self.weights = tuple(reversed(weights))
        rest = [0]
        for weight, limit in zip(reversed(self.weights), reversed(self.most)):
            rest.append(rest[-1] + weight * limit)
        # below[k]: the most that the levels after k can add up to.
        self.below = tuple(reversed(rest[:-1]))

    def join(self, levels: t.Sequence[int]) -> int:
        """The levels as one number. One that is more than any solution has counts as above all that begins like it."""
        total = 0
        for weight, level, most, below in zip(self.weights, levels, self.most, self.below):
            if level > most:
                return total + weight * most + below + 1
            total += weight * level
        return total

    def up(self, numerator: int, denominator: int) -> tuple[tuple[int, ...], int | None]:
        """The smallest levels that are not below a fraction, and the level that had to be rounded up (None: none had to)."""
        rest = -(-numerator // denominator)
        levels: list[int] = []
        for index, (weight, below) in enumerate(zip(self.weights, self.below)):
            level, rest = divmod(rest, weight)
            if rest > below:
                return (*levels, level + 1, *(0,) * (len(self.weights) - index - 1)), index
            levels.append(level)
        return tuple(levels), None if numerator % denominator == 0 else self.last


class _Relaxation:
    """A linear relaxation at an optimal (or, on the way, dual feasible) basis. Variables are columns, then one slack a row.

    Each variable is kept as its distance from the bound it rests at: from ``low``, or where ``turned`` from ``high``. ``inverse``,
    ``value``, ``reduced`` and ``objective`` are numerators over ``scale``.
    """

    __slots__ = (
        "basis",
        "cuts",
        "high",
        "inverse",
        "limits",
        "low",
        "objective",
        "place",
        "program",
        "reduced",
        "scale",
        "turned",
        "value",
    )

    def __init__(self, program: _Prepared) -> None:
        columns, rows = program.count, len(program.bounds)
        self.program = program
        self.cuts: list[list[int]] = []
        self.limits = [limit for limit, _ in program.bounds]
        self.low = [0] * (columns + rows)
        self.high: list[int | None] = [*program.upper, *(width for _, width in program.bounds)]
        self.turned = [False] * (columns + rows)
        self.basis = list(range(columns, columns + rows))
        self.place = [-1] * columns + list(range(rows))
        self.inverse = [[int(i == j) for j in range(rows)] for i in range(rows)]
        self.value = [limit for limit, _ in program.bounds]
        self.reduced = [*program.scalar, *[0] * rows]
        self.objective = program.base
        self.scale = 1

    def copy(self) -> _Relaxation:
        new = object.__new__(_Relaxation)
        new.program, new.objective, new.scale = self.program, self.objective, self.scale
        new.inverse = [row[:] for row in self.inverse]
        new.limits = self.limits[:]
        new.cuts, new.low, new.high, new.turned = self.cuts[:], self.low[:], self.high[:], self.turned[:]
        new.basis, new.place, new.value, new.reduced = self.basis[:], self.place[:], self.value[:], self.reduced[:]
        return new

    def _leaving(self, first: bool) -> int | None:
        """The row of a basic variable outside its bounds (the furthest, or the first), turned so that it is below zero."""
        worst, chosen, above = 0, None, False
        for row, value in enumerate(self.value):
            if value < 0:
                distance, over = -value, False
            else:
                variable = self.basis[row]
                high = self.high[variable]
                if high is None:
                    continue
                distance, over = value - (high - self.low[variable]) * self.scale, True
            if distance > worst:
                worst, chosen, above = distance, row, over
                if first:
                    break
        if chosen is not None and above:
            variable = self.basis[chosen]
            self.turned[variable] = not self.turned[variable]
            self.inverse[chosen] = [-number for number in self.inverse[chosen]]
            self.value[chosen] = -worst
        return chosen

    def _alpha(self, rho: list[int]) -> list[int]:
        """The pivot row: ``rho`` times every column, in the variables' own directions."""
        program = self.program
        alpha = [0] * program.count
        rows = len(program.sparse)
        for row, factor in enumerate(rho):
            if factor:
                if row < rows:
                    for column, number in program.sparse[row]:
                        alpha[column] += factor * number
                else:
                    alpha = [a + factor * number for a, number in zip(alpha, self.cuts[row - rows])]
        alpha += rho
        return alpha

    def _column(self, variable: int) -> list[int]:
        """A variable's column of the basis' coordinates, over ``scale``."""
        program = self.program
        if variable >= program.count:
            row = variable - program.count
            column = [line[row] for line in self.inverse]
        else:
            entries = list(program.entries[variable])
            rows = len(program.sparse)
            entries += [(rows + index, cut[variable]) for index, cut in enumerate(self.cuts) if cut[variable]]
            column = [sum(line[row] * number for row, number in entries) for line in self.inverse]
        return [-number for number in column] if self.turned[variable] else column

    def solve(self, late: t.Callable[[], bool], stop: int | None = None) -> bool:
        """Go to the optimum by the dual simplex method; False where there is no solution (or the objective reaches ``stop``)."""
        steps = 0
        while True:
            steps += 1
            # Bland's rule ends a cycle that the faster rule may run into.
            bland = steps > 50 + 20 * len(self.basis)
            row = self._leaving(bland)
            if row is None:
                return True
            if stop is not None and self.objective >= stop * self.scale:
                return False
            if late():
                raise _LateError
            rho = self.inverse[row]
            alpha = self._alpha(rho)
            entering, best, divisor = -1, 0, 1
            for variable, number in enumerate(alpha):
                if number and self.place[variable] < 0:
                    if self.turned[variable]:
                        alpha[variable] = number = -number
                    if number < 0 and self.high[variable] != self.low[variable]:
                        reduced = self.reduced[variable]
                        ours, theirs = reduced * divisor, best * -number
                        # Of equal steps the one with the smallest pivot: the determinant stays small, and cuts by it strong.
                        if entering < 0 or ours < theirs or (ours == theirs and -number < divisor and not bland):
                            entering, best, divisor = variable, reduced, -number
            if entering < 0:
                return False
            self._pivot(row, entering, alpha)

    def _pivot(self, row: int, entering: int, alpha: list[int]) -> None:
        column = self._column(entering)
        scale, pivot = self.scale, -alpha[entering]
        leaving = self.basis[row]
        line, value = self.inverse[row], self.value[row]
        for index, number in enumerate(column):
            if index == row:
                continue
            if number:
                other = self.inverse[index]
                if scale == 1:
                    self.inverse[index] = [number * a + pivot * b for a, b in zip(line, other)]
                else:
                    self.inverse[index] = [(number * a + pivot * b) // scale for a, b in zip(line, other)]
                self.value[index] = (number * value + pivot * self.value[index]) // scale
            elif pivot != scale:
                self.inverse[index] = [pivot * b // scale for b in self.inverse[index]]
                self.value[index] = pivot * self.value[index] // scale
        self.inverse[row] = [-a for a in line]
        self.value[row] = -value
        first = self.reduced[entering]
        place = self.place
        self.objective = (self.objective * pivot - first * value) // scale
        if first or pivot != scale:
            self.reduced = [
                (number * pivot + first * a) // scale if position < 0 else 0
                for number, a, position in zip(self.reduced, alpha, place)
            ]
        self.reduced[entering] = 0
        self.reduced[leaving] = first
        self.basis[row] = entering
        place[entering], place[leaving] = row, -1
        self.scale = pivot

    def narrow(self, variable: int, low: int, high: int | None) -> None:
        """New bounds of a basic variable; the point stays where it is and may now lie outside."""
        row = self.place[variable]
        if self.turned[variable]:
            old, new = self.high[variable], high
            assert old is not None and new is not None
            self.value[row] += (new - old) * self.scale
        else:
            self.value[row] -= (low - self.low[variable]) * self.scale
        self.low[variable], self.high[variable] = low, high

    def cut(self, factors: list[int], low: int) -> None:
        """Add the row ``sum of factors * columns >= low``."""
        count = self.program.count
        negated = [-number for number in factors]
        limit = -low
        self.limits.append(limit)
        # In the variables' own directions, measured from where they rest.
        for variable, number in enumerate(negated):
            if number:
                limit -= number * self.at(variable)
        line = [0] * len(self.basis)
        value = limit * self.scale
        for row, variable in enumerate(self.basis):
            number = negated[variable] if variable < count else 0
            if number:
                number = -number if self.turned[variable] else number
                line = [a - number * b for a, b in zip(line, self.inverse[row])]
                value -= number * self.value[row]
        for other in self.inverse:
            other.append(0)
        self.inverse.append([*line, self.scale])
        self.value.append(value)
        self.cuts.append(negated)
        self.basis.append(len(self.low))
        self.place.append(len(self.basis) - 1)
        self.low.append(0)
        self.high.append(None)
        self.turned.append(False)
        self.reduced.append(0)

    def rounding(self, multipliers: list[int], modulus: int) -> bool:
        """Add the cut that the rows times ``multipliers`` give when the sum is divided by ``modulus`` and rounded.

        In whole numbers the sum of the remainders of its factors is the remainder of its right side, or more by multiples of the
        modulus; never less. Gomory's cut is that of a row of the inverse, with the determinant.
        """
        program = self.program
        alpha = self._alpha(multipliers)
        right = sum(multiplier * limit for multiplier, limit in zip(multipliers, self.limits) if multiplier)
        right -= sum(number * self.at(variable) for variable, number in enumerate(alpha) if number)
        low = right % modulus
        if not low:
            return False
        factors = [0] * program.count
        for variable, number in enumerate(alpha):
            factor = (-number if self.turned[variable] else number) % modulus
            if not factor or self.low[variable] == self.high[variable]:
                continue
            factor = -factor if self.turned[variable] else factor
            low += factor * self.at(variable)
            if variable < program.count:
                factors[variable] += factor
                continue
            # A slack is its row's limit less the row.
            slack = variable - program.count
            low -= factor * self.limits[slack]
            if slack < len(program.sparse):
                for column, entry in program.sparse[slack]:
                    factors[column] -= factor * entry
            else:
                factors = [a - factor * entry for a, entry in zip(factors, self.cuts[slack - len(program.sparse)])]
        common = math.gcd(*factors)
        if not common:
            return False
        self.cut([number // common for number in factors], -(-low // common))
        return True

    def parities(self) -> list[list[int]]:
        """Sets of rows, as multipliers, whose sum is odd on the right while what is odd on the left is less than one now.

        Only rows without slack, and sets in which every variable that is one or more is even: the null space of their parities.
        """
        program, scale = self.program, self.scale
        rows = [row for row in range(len(self.basis)) if self.place[program.count + row] < 0]
        fixed = len(program.sparse)
        amounts = [(variable, self.value[row]) for row, variable in enumerate(self.basis) if variable < program.count and self.value[row]]
        entries = {variable: dict(program.entries[variable]) for variable, _ in amounts}
        spaces = [1 << at for at in range(len(rows))]
        masks = []
        for variable, value in amounts:
            column = entries[variable]
            odd = 0
            for at, row in enumerate(rows):
                number = column.get(row, 0) if row < fixed else self.cuts[row - fixed][variable]
                odd |= (number & 1) << at
            masks.append((odd, value))
            if value >= scale:
                against = [space for space in spaces if bin(space & odd).count("1") & 1]
                if against:
                    spaces = [space for space in spaces if space not in against] + [space ^ against[0] for space in against[1:]]
        found = []
        for chosen in range(1, 1 << min(len(spaces), _SPACE)):
            space = 0
            for at, each in enumerate(spaces[:_SPACE]):
                if chosen >> at & 1:
                    space ^= each
            odd_part = sum(value for odd, value in masks if bin(space & odd).count("1") & 1)
            if odd_part < scale:
                found.append((odd_part, [row for at, row in enumerate(rows) if space >> at & 1]))
        found.sort(key=lambda each: (each[0], len(each[1])))
        return [[int(row in chosen) for row in range(len(self.basis))] for _, chosen in found]

    def fix(self, ceiling: int) -> None:
        """Hold the variables where they rest of which one step away would cost as much as ``ceiling``."""
        spare = ceiling * self.scale - self.objective
        for variable, cost in enumerate(self.reduced):
            if cost >= spare and self.place[variable] < 0:
                if self.turned[variable]:
                    self.low[variable] = self.at(variable)
                else:
                    self.high[variable] = self.low[variable]

    def settled(self, variable: int) -> bool:
        """Whether a column is held at zero."""
        return self.place[variable] < 0 and self.low[variable] == self.high[variable] == 0

    def purge(self) -> None:
        """Drop the cuts that the optimum does not touch."""
        fixed = len(self.program.sparse)
        for cut in range(len(self.cuts) - 1, -1, -1):
            row = fixed + cut
            slack = self.program.count + row
            at = self.place[slack]
            if at < 0:
                continue
            for each in (self.inverse, self.value, self.basis):
                del each[at]
            for line in self.inverse:
                del line[row]
            del self.cuts[cut], self.limits[row]
            for by_variable in (self.low, self.high, self.turned, self.reduced, self.place):
                del by_variable[slack]
            self.basis = [variable - int(variable > slack) for variable in self.basis]
            for index, variable in enumerate(self.basis):
                self.place[variable] = index

    def amounts(self) -> list[tuple[int, int]]:
        """The columns that are basic, with their values as numerators over ``scale``."""
        found = []
        for row, variable in enumerate(self.basis):
            if variable < self.program.count:
                value = -self.value[row] if self.turned[variable] else self.value[row]
                found.append((variable, self.at(variable) * self.scale + value))
        return found

    def at(self, variable: int) -> int:
        """The bound from which a variable is measured, and at which it is where it is not basic."""
        bound = self.high[variable] if self.turned[variable] else self.low[variable]
        assert bound is not None
        return bound

    def resting(self) -> list[int]:
        """The values of all columns, basic ones as their floor."""
        values = [0 if self.place[variable] >= 0 else self.at(variable) for variable in range(self.program.count)]
        for variable, amount in self.amounts():
            values[variable] = amount // self.scale
        return values


class _LateError(Exception):
    """The time is up."""


class _Prepared:
    """A program in the form the relaxation computes with: rows as ``sum + slack = limit`` with ``0 <= slack <= width``."""

    def __init__(self, program: Program) -> None:
        self.program = program
        # A level that no column changes is left out of the comparison.
        live = [any(column.cost[level] for column in program.columns) for level in range(len(program.base))]
        most = [limit if used else number for limit, used, number in zip(program.most, live, program.base)]
        self.levels = _Levels(most, live)
        self.count = len(program.columns)
        self.cost = [column.cost for column in program.columns]
        self.scalar = [self.levels.join(column.cost) for column in program.columns]
        self.upper = [column.upper for column in program.columns]
        # For each level that matters, the least important first: the columns by what they cost there.
        self.kinds: list[list[int]] = [[cost[level] for cost in self.cost] for level in reversed(range(len(program.base))) if live[level]]
        self.base_levels = program.base
        self.base = self.levels.join(program.base)
        self.bounds: list[tuple[int, int | None]] = []
        signs = []
        for row in program.rows:
            if row.high is not None:
                self.bounds.append((row.high, None if row.low is None else row.high - row.low))
                signs.append(1)
            else:
                assert row.low is not None
                self.bounds.append((-row.low, None))
                signs.append(-1)
        self.entries = [[(row, signs[row] * number) for row, number in column.factors.items() if number] for column in program.columns]
        self.sparse: list[list[tuple[int, int]]] = [[] for _ in program.rows]
        for column, entries in enumerate(self.entries):
            for at, number in entries:
                self.sparse[at].append((column, number))

    def price(self, values: t.Sequence[int]) -> tuple[int, ...]:
        """The cost of values, per level."""
        total = list(self.base_levels)
        for amount, cost in zip(values, self.cost):
            if amount:
                for level, number in enumerate(cost):
                    total[level] += amount * number
        return tuple(total)


class _Search:
    """Branch and bound, depth first. ``least`` is what no solution's cost is below.

    Where a bound of a part of the tree says that a level has to be rounded up, the rounded level becomes a row of that part. It holds
    for solutions that begin like the bound. Where the best solution so far begins so, too, all better ones do, and nothing is lost.
    """

    def __init__(self, prepared: _Prepared, late: t.Callable[[], bool]) -> None:
        self.prepared = prepared
        self.late = late
        self.least: tuple[int, ...] = (0,) * len(prepared.levels.most)
        self.best: tuple[int, ...] | None = None
        self.best_cost: tuple[int, ...] | None = None
        self.ceiling: int | None = None

    def offer(self, values: t.Sequence[int]) -> None:
        """Keep a solution if it is better than the best so far."""
        cost = self.prepared.price(values)
        scalar = self.prepared.levels.join(cost)
        if self.ceiling is None or scalar < self.ceiling:
            self.best, self.best_cost, self.ceiling = tuple(values), cost, scalar

    def run(self) -> None:
        """Find the best solution. Raises _LateError when the time is up; ``best`` and ``least`` hold what is known by then."""
        root = _Relaxation(self.prepared)
        if not root.solve(self.late, self.ceiling):
            return
        self.least, _ = self.prepared.levels.up(root.objective, root.scale)
        if self._guess(root.copy(), False):
            return
        # What the cuts leave of the relaxation is a better guide to good solutions, and better solutions allow stronger cuts.
        found = None
        while found != self.ceiling:
            found = self.ceiling
            cut = self._cut(root) if self._tighten(root) else None
            if cut is None or self._guess(cut.copy(), True):
                return
            root = cut
            if self.ceiling is not None:
                root.fix(self.ceiling)
                free = [variable for variable in range(self.prepared.count) if not root.settled(variable)]
                if len(free) < _SHRINK * self.prepared.count:
                    self._shrunk(free)
                    return
        self._branch(root)

    def _shrunk(self, free: list[int]) -> None:
        """Search with the columns alone that can be used in a solution that is better than the best."""
        program = self.prepared.program
        smaller = Program([program.columns[variable] for variable in free], program.rows, program.base, program.most)
        found = solve(smaller, self.late, below=self.best_cost)
        if found.values is not None:
            values = [0] * self.prepared.count
            for variable, value in zip(free, found.values):
                values[variable] = value
            self.offer(values)
        if not found.optimal:
            assert found.bound is not None
            self.least = max(self.least, found.bound)
            raise _LateError

    def _cut(self, node: _Relaxation, patience: int = _PATIENCE) -> _Relaxation | None:
        """Strengthen a solved relaxation by rounds of cuts while that helps; None where nothing better can be below it."""
        idle = 0
        for _ in range(4 * patience):
            # Gomory's cuts of the variables that are nearest to a half.
            rows = [row for row, value in enumerate(node.value) if value % node.scale and node.basis[row] < self.prepared.count]
            if not rows:
                break
            rows.sort(key=lambda row: abs(2 * (node.value[row] % node.scale) - node.scale))
            stronger = node.copy()
            added = 0
            for multipliers in node.parities():
                added += stronger.rounding(multipliers + [0] * added, 2)
                if added == _CUTS:
                    break
            for row in rows[:_CUTS]:
                stronger.rounding(stronger.inverse[row], stronger.scale)
            if not self._tighten(stronger):
                return None
            stronger.purge()
            if self.ceiling is not None:
                stronger.fix(self.ceiling)
            if stronger.scale > _SCALE:
                break
            idle = idle + 1 if stronger.objective * node.scale == node.objective * stronger.scale else 0
            node = stronger
            if idle == patience:
                break
        return node

    def _guess(self, node: _Relaxation, cuts: bool) -> bool:
        """Look for a good solution by taking each rounded bound for true; whether that proved it best."""
        levels = self.prepared.levels
        assumed: list[tuple[int, ...]] = []
        while True:
            bound, level = levels.up(node.objective, node.scale)
            if level is None or bound[:level] in assumed:
                break
            assumed.append(bound[:level])
            self._row(node, level, bound[level])
            if not node.solve(self.late, self.ceiling):
                return False
        if cuts:
            cut = self._cut(node)
            if cut is None:
                return False
            node = cut
        self._branch(node, _DIVE)
        if self.best_cost is None or any(self.best_cost[: len(beginning)] != beginning for beginning in assumed):
            return False
        self.least = bound
        return self.best_cost <= bound

    def _row(self, relaxation: _Relaxation, level: int, low: int) -> None:
        relaxation.cut([cost[level] for cost in self.prepared.cost], low - self.prepared.base_levels[level])

    def _branch(self, start: _Relaxation, limit: int | None = None) -> None:
        """Look through what is below a solved relaxation: all of it, or until a solution is found or ``limit`` nodes were seen."""
        stack = [start]
        nodes = 0
        while stack:
            node = stack.pop()
            nodes += 1
            if not self._tighten(node):
                continue
            if nodes == limit:
                return
            if limit is None:
                cut = self._cut(node, 1)
                if cut is None:
                    continue
                node = cut
            if not self._split(node, stack):
                self.offer(node.resting())
                if limit is not None:
                    return

    def _split(self, node: _Relaxation, stack: list[_Relaxation]) -> bool:
        """Push the two halves of a node, the one to look at first on top; False where all is whole already.

        How many of the columns of one cost there are is settled before how many of each: once those sums are whole, so is the cost,
        and what is left is whether there is a solution at all.
        """
        scale = node.scale
        amounts = node.amounts()
        for kinds in self.prepared.kinds:
            sums: dict[int, int] = {}
            for variable, amount in amounts:
                if amount % scale:
                    sums[kinds[variable]] = (sums.get(kinds[variable], 0) + amount) % scale
            kind, part = max(sums.items(), key=lambda item: item[1], default=(0, 0))
            if not part:
                continue
            factors = [int(each == kind) for each in kinds]
            total = sum(amount for variable, amount in amounts if factors[variable])
            total += scale * sum(node.at(variable) for variable, used in enumerate(factors) if used and node.place[variable] < 0)
            floor = total // scale
            down = node.copy()
            down.cut([-number for number in factors], -floor)
            node.cut(factors, floor + 1)
            stack += [down, node]
            return True
        chosen, most, floor = -1, 0, 0
        for variable, amount in amounts:
            part = amount % scale
            if part > most:
                chosen, most, floor = variable, part, amount // scale
        if chosen < 0:
            return False
        low, high = node.low[chosen], node.high[chosen]
        down = node.copy()
        down.narrow(chosen, low, floor)
        node.narrow(chosen, floor + 1, high)
        stack += [down, node]
        return True

    def _tighten(self, node: _Relaxation) -> bool:
        """Solve a node; whether something better than the best can be below it."""
        levels = self.prepared.levels
        last: tuple[int, ...] | None = None
        while True:
            if not node.solve(self.late, self.ceiling):
                return False
            bound, level = levels.up(node.objective, node.scale)
            if self.ceiling is None or self.best_cost is None:
                return True
            if levels.join(bound) >= self.ceiling:
                return False
            if level is None or self.best_cost[:level] != bound[:level] or bound == last:
                return True
            last = bound
            self._row(node, level, bound[level])


def solve(
    program: Program,
    late: t.Callable[[], bool] = lambda: False,
    known: t.Sequence[int] | None = None,
    below: tuple[int, ...] | None = None,
) -> Solution:
    """The cheapest solution of a program, level by level.

    ``late`` is asked now and then and ends the search: the best so far is returned, with the bound that was proven. ``known`` are the
    values of a solution to start from, ``below`` a cost that a solution has to be cheaper than to be of interest.
    """
    search = _Search(_Prepared(program), late)
    if below is not None:
        search.best_cost, search.ceiling = below, search.prepared.levels.join(below)
    if known is not None:
        search.offer(known)
    optimal = True
    try:
        search.run()
    except _LateError:
        optimal = search.best_cost is not None and search.best_cost <= search.least
    cost = None if search.best is None else search.best_cost
    return Solution(search.best, cost, cost if optimal else search.least, optimal)
