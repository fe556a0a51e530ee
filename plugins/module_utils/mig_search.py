"""The search for the best ends of a fleet of GPUs.

A GPU has few states. For each kind of GPU (model, mode, and what is on it) all layouts that it could end in are enumerated, and of
those with the same numbers of wanted instances only the cheapest is kept. How many GPUs end in which layout is a small integer
program with the objective in the order of ``LEVELS``, which ``integer_program`` solves exactly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import typing as t

from . import integer_program
from .mig_fleet import Gpu, Instance, Request
from .mig_geometry import Model, Profile

# What a plan minimises, most important first. Busy and pinned instances are no level: no plan touches them.
LEVELS = ("missing", "mode_changes", "destroyed", "partitioned", "wasted_compute", "wasted_memory", "fragmentation", "created")

_DESTROYED, _CREATED = LEVELS.index("destroyed"), LEVELS.index("created")

# How many kinds of GPUs are remembered for a model: more than a fleet has at once, little memory.
_KEPT = 4096


class Shape:
    """A model as bit masks: a layout is a mask of memory slots and, packed into one number, the use of what else is limited.

    Only limits that the memory slots do not imply are kept: on most models the one instance with media extensions.
    """

    def __init__(self, which: Model) -> None:
        self.model = which
        self.slots = which.slots
        self.full = (1 << which.slots) - 1
        limits = self._limits(which)
        self.width = 8 * len(limits)
        # A use above its limit sets the highest bit of its byte.
        self.headroom = sum((127 - limit) << (8 * at) for at, (_, limit) in enumerate(limits))
        self.over = sum(128 << (8 * at) for at in range(len(limits)))
        self.use = {
            each.name: sum(weights.get(each.name, 0) << (8 * at) for at, (weights, _) in enumerate(limits)) for each in which.profiles
        }
        self.by_name = {profile.name: profile for profile in which.profiles}
        everywhere = ((profile, start) for profile in which.profiles for start in profile.starts)
        self.places = sorted((start, -profile.compute, profile.name, ((1 << profile.slots) - 1) << start) for profile, start in everywhere)
        self.at: list[list[tuple[int, int, int, int]]] = [[] for _ in range(which.slots)]
        for start, compute, name, mask in self.places:
            self.at[start].append((mask, self.use[name], -compute, self.by_name[name].slots))
        self._room: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._lost: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.options: dict[t.Hashable, tuple[_Option, ...]] = {}

    @staticmethod
    def _limits(which: Model) -> list[tuple[dict[str, int], int]]:
        """Weights by profile and the limit of their sum, for each limit that the memory slots do not imply."""
        limits: list[tuple[dict[str, int], int]] = []
        media = {profile.name for profile in which.profiles if {"+me", "+me.all"} & set(profile.attributes)}
        if media:
            limits.append((dict.fromkeys(media, 1), 1))
        if any("+me.all" in profile.attributes for profile in which.profiles):
            some = {profile.name: 1 for profile in which.profiles if "-me" not in profile.attributes}
            whole = {profile.name: which.slots for profile in which.profiles if "+me.all" in profile.attributes}
            limits.append((some | whole, which.slots))
        for profile in which.profiles:
            if _packed(profile, 0) > profile.max_count and not (profile.name in media and profile.max_count == 1):
                limits.append(({profile.name: 1}, profile.max_count))
        most = [0] * (which.slots + 1)
        for slot in range(which.slots - 1, -1, -1):
            most[slot] = max([most[slot + 1], *(p.compute + most[slot + p.slots] for p in which.profiles if slot in p.starts)])
        if most[0] > which.compute:
            limits.append(({profile.name: profile.compute for profile in which.profiles}, which.compute))
        return limits

    def fits(self, profile: str, start: int, mask: int, used: int) -> bool:
        """Whether one more instance fits beside what is there."""
        bits = ((1 << self.by_name[profile].slots) - 1) << start
        return not mask & bits and not (used + self.use[profile] + self.headroom) & self.over

    def room(self, slot: int, mask: int, used: int) -> tuple[int, int]:
        """The most compute slices, and the most memory slots, that instances from ``slot`` on could still take."""
        if slot == self.slots:
            return 0, 0
        key = slot, mask >> slot, used
        known = self._room.get(key)
        if known is None:
            compute, memory = self.room(slot + 1, mask, used)
            if not mask >> slot & 1:
                for bits, use, slices, size in self.at[slot]:
                    if not mask & bits and not (used + use + self.headroom) & self.over:
                        more_compute, more_memory = self.room(slot + size, mask, used + use)
                        compute, memory = max(compute, slices + more_compute), max(memory, size + more_memory)
            known = self._room[key] = compute, memory
        return known

    def lost(self, mask: int, used: int) -> tuple[int, int, int]:
        """What a layout leaves: compute slices and memory slots that could still be used, and its fragmentation.

        Fragmentation, after Weng et al., "Beware of Fragmentation" (USENIX ATC 2023), whose measure is the free part of a node that
        a task of some kind cannot use, over all kinds: for each profile, the free memory slots less those that the most further
        instances of this profile alone would take.
        """
        known = self._lost.get((mask, used))
        if known is None:
            compute, memory = self.room(0, mask, used)
            free = self.slots - bin(mask).count("1")
            fragmentation = 0
            if free:
                for profile in self.model.profiles:
                    count = _packed(profile, mask)
                    use = self.use[profile.name]
                    while count and (used + count * use + self.headroom) & self.over:
                        count -= 1
                    fragmentation += free - count * profile.slots
            known = self._lost[mask, used] = compute, memory, fragmentation
        return known


def _packed(profile: Profile, mask: int) -> int:
    """How many of one profile fit into the free slots, by place alone: taking the first that fits is best for equal sizes."""
    count, end = 0, 0
    bits = (1 << profile.slots) - 1
    for start in profile.starts:
        if start >= end and not mask >> start & bits:
            count, end = count + 1, start + profile.slots
    return count


@functools.lru_cache(maxsize=64)
def shape_of(which: Model) -> Shape:
    return Shape(which)


@dataclasses.dataclass(frozen=True)
class _Option:
    """An end of a GPU: wanted instances by profile beyond the protected ones, its cost by LEVELS, and the instances it has besides."""

    counts: tuple[int, ...]
    cost: tuple[int, ...]
    places: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class _State:
    """What of a GPU matters to the plan: what must stay as a mask and use, the slices it uses, and what may go."""

    enabled: bool
    mask: int
    used: int
    compute: int
    idle: tuple[tuple[str, int], ...]


def _options(shape: Shape, state: _State, counted: tuple[str, ...], creatable: frozenset[str]) -> tuple[_Option, ...]:
    """All ends of a GPU, the cheapest for each number of the ``counted`` profiles, the cheapest first.

    An idle instance is left out only where there is no room for it any more: a plan that destroys one for nothing is never best.
    """
    key = state, counted, creatable
    known = shape.options.get(key)
    if known is not None:
        return known
    slots, width = shape.slots, shape.width
    above = slots + width
    unit = {name: 1 << (above + 8 * at) for at, name in enumerate(counted)}
    idle = set(state.idle)
    at: list[list[tuple[int, int, int, int, int, tuple[str, int]]]] = [[] for _ in range(slots)]
    for start, compute, name, bits in shape.places:
        kept = (name, start) in idle
        if (kept or name in creatable) and not bits & state.mask:
            step = bits + (shape.use[name] << slots) + unit.get(name, 0)
            at[start].append((start + shape.by_name[name].slots, step, compute, -int(kept), int(not kept), (name, start)))
    headroom, over = shape.headroom << slots, shape.over << slots
    # Filled from the first slot on: the mask, the limits' use and the counts lead to the least destroyed, then the most compute
    # slices used, then the least created.
    Best = tuple[int, int, int, t.Any]
    reached: list[dict[int, Best]] = [{} for _ in range(slots + 1)]
    reached[0][state.mask + (state.used << slots)] = (0, 0, 0, None)
    for slot in range(slots):
        following, choices = reached[slot + 1], at[slot]
        for code, best in reached[slot].items():
            other = following.get(code)
            if other is None or best[:3] < other[:3]:
                following[code] = best
            for end, step, compute, kept_less, created, place in choices:
                after = code + step
                if not (after + headroom) & over:
                    so_far = (best[0] + kept_less, best[1] + compute, best[2] + created)
                    other = reached[end].get(after)
                    if other is None or so_far < other[:3]:
                        reached[end][after] = (*so_far, (best[3], place))
    cheapest: dict[int, tuple[tuple[int, ...], t.Any]] = {}
    capacity = shape.model.compute
    for code, (kept_less, compute, created, chain) in reached[slots].items():
        mask, used = code & shape.full, code >> slots & (1 << width) - 1
        if any(shape.fits(name, start, mask, used) for name, start in state.idle):
            continue
        cost: tuple[int, ...] = (0, 0, len(idle), 0, 0, 0, 0, 0)
        if mask:
            more_compute, more_memory, fragmentation = shape.lost(mask, used)
            waste = capacity - state.compute + compute - more_compute, slots - bin(mask).count("1") - more_memory
            cost = (0, int(not state.enabled), len(idle) + kept_less, 1, *waste, fragmentation, created)
        counts = code >> above
        best_so_far = cheapest.get(counts)
        if best_so_far is None or cost < best_so_far[0]:
            cheapest[counts] = cost, chain
    found = []
    for counts, (cost, chain) in cheapest.items():
        places = []
        while chain is not None:
            chain, place = chain
            places.append(place)
        found.append(_Option(tuple(counts >> 8 * at & 255 for at in range(len(counted))), cost, tuple(reversed(places))))
    found.sort(key=lambda option: (option.cost, option.counts))
    if len(shape.options) >= _KEPT:
        shape.options.clear()
    shape.options[key] = tuple(found)
    return shape.options[key]


@dataclasses.dataclass(frozen=True)
class _Family:
    """All requests of one profile name: how many have to exist in all, and how many of them on named models."""

    name: str
    total: int
    pinned: t.Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Case:
    """Rules that keep a plan from creating more than is wanted: most instances of a profile, in all or on a model (none: no
    limit), and where instances of it may be created. ``destroyed`` is what every plan by these rules destroys.
    """

    most: t.Mapping[str, int]
    most_on: t.Mapping[tuple[str, str], int]
    creatable: frozenset[tuple[str, str]]
    destroyed: int = 0


@dataclasses.dataclass(frozen=True)
class _Group:
    """GPUs that have the same ends at the same cost: each end's counts (of ``counted`` profiles) and cost beyond the cheapest one."""

    model: str
    counted: tuple[str, ...]
    steps: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A solution: what each open GPU gets, what is missing of each request, and what was proven."""

    places: t.Mapping[int, tuple[tuple[str, int], ...]]
    missing: tuple[int, ...]
    cost: tuple[int, ...]
    bound: tuple[int, ...]
    optimal: bool


class _OutOfTimeError(Exception):
    """The time was up before a plan by some rules was found. ``bound`` is what none by them can be below."""

    def __init__(self, bound: tuple[int, ...]) -> None:
        super().__init__(bound)
        self.bound = bound


class Fleet:
    """The GPUs and requests of one call, prepared for solving."""

    def __init__(self, gpus: t.Sequence[Gpu], requests: t.Sequence[Request], pinned: frozenset[str], late: t.Callable[[], bool]) -> None:
        self.gpus = gpus
        self.requests = requests
        self.pinned = pinned
        self.late = late
        self.names = [_canonical(request, gpus) for request in requests]
        self.existing: dict[tuple[str, str], int] = {}
        self.protected: dict[tuple[str, str], int] = {}
        self.open: list[int] = []
        for at, gpu in enumerate(gpus):
            settled = self.settled(gpu)
            if not settled:
                self.open.append(at)
            for instance in gpu.instances:
                kind = instance.profile, gpu.model.name
                self.existing[kind] = self.existing.get(kind, 0) + 1
                if settled or self.stays(instance):
                    self.protected[kind] = self.protected.get(kind, 0) + 1
        self.idle = sum(not self.stays(each) for at in self.open for each in gpus[at].instances)
        slots = sum(gpu.model.slots for gpu in gpus)
        fragments = sum(gpu.model.slots * len(gpu.model.profiles) for gpu in gpus)
        wanted = sum(request.count for request in requests)
        self.most = (wanted, len(gpus), self.idle, len(gpus), sum(gpu.model.compute for gpu in gpus), slots, fragments, slots)

    def settled(self, gpu: Gpu) -> bool:
        """Whether a GPU can only stay as it is."""
        return gpu.uuid in self.pinned or (gpu.busy and not gpu.mig_enabled)

    def stays(self, instance: Instance) -> bool:
        """Whether an instance must not be destroyed."""
        return instance.busy or instance.uuid in self.pinned

    def families(self, counts: t.Sequence[int]) -> list[_Family]:
        """The requests by profile name, for these counts."""
        totals: dict[str, int] = {}
        pinned: dict[str, dict[str, int]] = {}
        for request, name, count in zip(self.requests, self.names, counts):
            if count:
                totals[name] = totals.get(name, 0) + count
                if request.model:
                    pinned.setdefault(name, {})[request.model] = count + pinned.get(name, {}).get(request.model, 0)
        return [_Family(name, total, pinned.get(name, {})) for name, total in totals.items()]

    def kinds(self, name: str) -> list[tuple[str, str]]:
        """A profile on each model of the fleet that has it."""
        return [(name, which) for which in dict.fromkeys(gpu.model.name for gpu in self.gpus if name in shape_of(gpu.model).by_name)]

    def short(self, counts: t.Mapping[tuple[str, str], int]) -> tuple[int, ...]:
        """How many each request lacks, given what exists: requests for one model are served first, then by their order."""
        left = dict(counts)
        short = [request.count for request in self.requests]
        order = sorted(range(len(short)), key=lambda at: self.requests[at].model is None)
        for at in order:
            request, name = self.requests[at], self.names[at]
            for kind in [(name, request.model)] if request.model else self.kinds(name):
                taken = min(short[at], left.get(kind, 0))
                short[at] -= taken
                left[kind] = left.get(kind, 0) - taken
        return tuple(short)

    def alike(self, frozen: bool) -> dict[tuple[Model, _State], list[int]]:
        """The GPUs that can change, by what matters of them."""
        found: dict[tuple[Model, _State], list[int]] = {}
        for at in self.open:
            gpu = self.gpus[at]
            if gpu.mig_enabled or not frozen:
                found.setdefault((gpu.model, self.state(gpu, frozen)), []).append(at)
        return found

    def state(self, gpu: Gpu, frozen: bool) -> _State:
        """What matters of an open GPU; ``frozen`` lets idle instances stay, too."""
        shape = shape_of(gpu.model)
        mask = used = compute = 0
        idle = []
        for instance in gpu.instances:
            if frozen or self.stays(instance):
                profile = shape.by_name[instance.profile]
                mask |= ((1 << profile.slots) - 1) << instance.start
                used += shape.use[instance.profile]
                compute += profile.compute
            else:
                idle.append((instance.profile, instance.start))
        return _State(gpu.mig_enabled, mask, used, compute, tuple(idle))

    def frozen_case(self, families: t.Sequence[_Family]) -> _Case:
        """The rules where nothing is destroyed: what is lacking is created, and no more."""
        most: dict[str, int] = {}
        most_on: dict[tuple[str, str], int] = {}
        creatable: set[tuple[str, str]] = set()
        for family in families:
            kinds = self.kinds(family.name)
            if family.total > sum(max(self.existing.get(kind, 0), family.pinned.get(kind[1], 0)) for kind in kinds):
                most[family.name] = family.total
                creatable.update(kinds)
                continue
            for kind in kinds:
                wanted = family.pinned.get(kind[1], 0)
                if wanted > self.existing.get(kind, 0):
                    most_on[kind] = wanted
                    creatable.add(kind)
        return _Case(most, most_on, frozenset(creatable))

    def cases(self, families: t.Sequence[_Family]) -> list[_Case]:
        """The rules of which every plan without useless instances follows at least one.

        Such a plan either has no more of a profile than is wanted, or it has more, and then it creates this profile only on models
        where exactly the number pinned to it exists. The second way exists only where there is more than is wanted already.
        """
        ways: list[list[_Case]] = []
        for family in families:
            kinds = self.kinds(family.name)
            counts = [(kind, self.existing.get(kind, 0), family.pinned.get(kind[1], 0)) for kind in kinds]
            have, kept = sum(number for _, number, _ in counts), sum(self.protected.get(kind, 0) for kind in kinds)
            options = []
            if kept <= family.total:
                options.append(_Case({family.name: family.total}, {}, frozenset(kinds), max(0, have - family.total)))
            if sum(max(number, wanted) for _, number, wanted in counts) > family.total:
                choices: list[list[tuple[tuple[str, str], int | None, int]]] = []
                for kind, number, wanted in counts:
                    exact = (kind, wanted, max(0, number - wanted))
                    if not wanted or self.protected.get(kind, 0) > wanted:
                        choices.append([(kind, None, 0)])
                    else:
                        choices.append([exact] if number <= wanted else [(kind, None, 0), exact])
                for chosen in itertools.product(*choices):
                    limits = {kind: limit for kind, limit, _ in chosen if limit is not None}
                    options.append(_Case({}, limits, frozenset(limits), sum(destroyed for _, _, destroyed in chosen)))
            ways.append(options)
        found = []
        for combined in itertools.product(*ways):
            most = {name: limit for case in combined for name, limit in case.most.items()}
            most_on = {kind: limit for case in combined for kind, limit in case.most_on.items()}
            creatable = frozenset(kind for case in combined for kind in case.creatable)
            found.append(_Case(most, most_on, creatable, sum(case.destroyed for case in combined)))
        return sorted(found, key=lambda case: case.destroyed)

    def solve(
        self,
        counts: tuple[int, ...],
        case: _Case,
        *,
        frozen: bool = False,
        may_lack: bool = False,
        given_up: tuple[int, ...] | None = None,
        below: tuple[int, ...] | None = None,
    ) -> Choice | None:
        """The best plan by the rules of a case, None where there is none (cheaper than ``below``).

        ``counts`` are what is wanted of each request, less what is ``given_up`` because it cannot be there. ``frozen`` allows neither
        to destroy nor to switch a mode, ``may_lack`` allows to lack some, which costs most. Raises _OutOfTimeError where the time was
        up before there was a plan or a proof that there is none.
        """
        families = self.families(counts)
        names = [family.name for family in families]
        program = _Rows(self, families, case, self.existing if frozen else self.protected)
        given = given_up or (0,) * len(counts)
        program.base[0] += sum(given)
        members: dict[_Group, list[tuple[int, tuple[_Option, ...]]]] = {}
        for (which, state), alike in self.alike(frozen).items():
            shape = shape_of(which)
            counted = tuple(name for name in names if name in shape.by_name)
            creatable = frozenset(name for name in counted if (name, which.name) in case.creatable)
            options = _options(shape, state, counted, creatable)
            group = _grouped(which.name, counted, options, frozen or not self.idle)
            members.setdefault(group, []).extend((at, options) for at in alike)
            program.rest(group, options[0], len(alike))
        for group, gpus in members.items():
            program.group(group, len(gpus))
        if may_lack:
            for at, (request, count) in enumerate(zip(self.requests, counts)):
                if count:
                    program.lack(at, self.names[at], request.model, count)
        known = program.nothing(_as_they_are(members)) if may_lack else None
        solution = integer_program.solve(program.program(), self.late, known, below)
        if solution.values is None:
            if not solution.optimal:
                assert solution.bound is not None
                raise _OutOfTimeError(solution.bound)
            return None
        assert solution.cost is not None and solution.bound is not None
        amounts = iter(solution.values)
        places: dict[int, tuple[tuple[str, int], ...]] = {}
        for group, gpus in members.items():
            chosen = [next(amounts) for _ in group.steps]
            ends = [number for number, amount in enumerate(chosen, 1) for _ in range(amount)]
            # The first GPUs are changed, the last stay.
            ends += [0] * (len(gpus) - len(ends))
            for (at, options), end in zip(gpus, ends):
                still = [(each.profile, each.start) for each in self.gpus[at].instances if frozen or self.stays(each)]
                places[at] = (*still, *options[end].places)
        lacking = list(given)
        for at, count in enumerate(counts):
            if count and may_lack:
                lacking[at] += next(amounts)
        return Choice(places, tuple(lacking), solution.cost, solution.bound, solution.optimal)

    def unavoidable(self) -> tuple[tuple[int, ...], bool, int]:
        """The fewest instances that have to be missing, by request, whether that is proven, and how many are at least.

        As few as possible in all; among such, as few as possible of the first request, then of the second, and so on.
        """
        counts = tuple(request.count for request in self.requests)
        families = self.families(counts)
        names = [family.name for family in families]
        everywhere = frozenset(kind for name in names for kind in self.kinds(name))
        program = _Rows(self, families, _Case({}, {}, everywhere), self.protected, len(counts) + 1)
        members: dict[_Group, int] = {}
        free = (0,) * (len(counts) + 1)
        for (which, state), alike in self.alike(False).items():
            shape = shape_of(which)
            counted = tuple(name for name in names if name in shape.by_name)
            most = _largest({option.counts for option in _options(shape, state, counted, frozenset(counted))})
            steps = tuple((tuple(a - b for a, b in zip(each, most[0])), free) for each in most[1:])
            group = _Group(which.name, counted, steps)
            program.rest(group, _Option(most[0], free, ()), len(alike))
            members[group] = members.get(group, 0) + len(alike)
        for group, size in members.items():
            program.group(group, size)
        for at, (request, count) in enumerate(zip(self.requests, counts)):
            if count:
                program.lack(at, self.names[at], request.model, count, at + 1)
        ends = [0 for group in members for _ in group.steps]
        solution = integer_program.solve(program.program((sum(counts), *counts)), self.late, program.nothing(ends))
        assert solution.cost is not None and solution.bound is not None
        return solution.cost[1:], solution.optimal, solution.bound[0]


def _largest(counts: t.Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The counts that no others reach in every profile."""
    found: list[tuple[int, ...]] = []
    for each in sorted(counts, key=lambda each: (-sum(each), each)):
        if not any(all(a <= b for a, b in zip(each, other)) for other in found):
            found.append(each)
    return tuple(found)


def _as_they_are(members: t.Mapping[_Group, t.Sequence[tuple[int, tuple[_Option, ...]]]]) -> list[int]:
    """How many GPUs of each group take each end beside the cheapest when none of them changes."""
    amounts: list[int] = []
    for group, gpus in members.items():
        taken = [0] * (len(group.steps) + 1)
        for _, options in gpus:
            taken[next(at for at, option in enumerate(options) if not option.cost[_DESTROYED] and not option.cost[_CREATED])] += 1
        amounts += taken[1:]
    return amounts


def _grouped(which: str, counted: tuple[str, ...], options: tuple[_Option, ...], as_wanted: bool) -> _Group:
    """``as_wanted``: nothing is destroyed, so that how many are created is no choice and need not be compared."""
    rest = options[0]
    compared = len(LEVELS) - int(as_wanted)
    return _Group(
        which,
        counted,
        tuple(
            (
                tuple(a - b for a, b in zip(option.counts, rest.counts)),
                tuple(a - b if level < compared else 0 for level, (a, b) in enumerate(zip(option.cost, rest.cost))),
            )
            for option in options[1:]
        ),
    )


class _Rows:
    """An integer program under construction: how many GPUs of a group take which end, and how many instances are lacking."""

    def __init__(
        self, fleet: Fleet, families: t.Sequence[_Family], case: _Case, stay: t.Mapping[tuple[str, str], int], levels: int = len(LEVELS)
    ) -> None:
        self.fleet = fleet
        self.columns: list[integer_program.Column] = []
        self.base = [0] * levels
        self.levels = levels
        # Each row: the profile, and a model where it is for those pinned to it; what is wanted, the most, what is there at rest.
        self.of: dict[tuple[str, str | None], int] = {}
        self.low: list[int] = []
        self.high: list[int | None] = []
        for family in families:
            there = {kind[1]: stay.get(kind, 0) for kind in fleet.kinds(family.name)}
            self._row((family.name, None), family.total, case.most.get(family.name), sum(there.values()))
            for which, number in there.items():
                wanted, most = family.pinned.get(which, 0), case.most_on.get((family.name, which))
                if wanted or most is not None:
                    self._row((family.name, which), wanted, most, number)
        self.sizes: list[int] = []
        # Column, most, row, and whether it is for those pinned to a model.
        self.lacking: list[tuple[int, int, int, bool]] = []

    def _row(self, of: tuple[str, str | None], low: int, high: int | None, there: int) -> None:
        self.of[of] = len(self.low)
        self.low.append(low - there)
        self.high.append(None if high is None else high - there)

    def _factors(self, which: str | None, counted: t.Sequence[str], counts: t.Sequence[int]) -> dict[int, int]:
        factors = {}
        for name, count in zip(counted, counts):
            if count:
                for of in ((name, None), (name, which)) if which else ((name, None),):
                    if of in self.of:
                        factors[self.of[of]] = count
        return factors

    def rest(self, group: _Group, option: _Option, size: int) -> None:
        """Count GPUs as being in their cheapest end."""
        for row, count in self._factors(group.model, group.counted, option.counts).items():
            self.low[row] -= count * size
            high = self.high[row]
            self.high[row] = None if high is None else high - count * size
        for level, number in enumerate(option.cost):
            self.base[level] += number * size

    def group(self, group: _Group, size: int) -> None:
        """Add the other ends of GPUs that are alike."""
        if not group.steps:
            return
        row = len(self.of) + len(self.sizes)
        self.sizes.append(size)
        for counts, cost in group.steps:
            self.columns.append(integer_program.Column(cost, {**self._factors(group.model, group.counted, counts), row: 1}))

    def lack(self, at: int, name: str, which: str | None, count: int, level: int | None = None) -> None:
        """Allow a request to be short."""
        cost = tuple(int(each == 0 or each == level) for each in range(self.levels))
        self.lacking.append((len(self.columns), count, self.of[name, which], which is not None))
        self.columns.append(integer_program.Column(cost, self._factors(which, (name,), (1,)), count))

    def nothing(self, ends: t.Sequence[int]) -> list[int] | None:
        """A solution with these ends of GPUs and whatever is lacking then, where the rules allow that."""
        values = [*ends, *[0] * len(self.lacking)]
        need = list(self.low)
        for column, amount in zip(self.columns, ends):
            for row, factor in column.factors.items():
                if amount and row < len(need):
                    need[row] -= amount * factor
        room = [None if high is None else high - low + left for low, high, left in zip(self.low, self.high, need)]
        # What is on the model that a request names is its own before others may count it.
        for at, count, row, _ in sorted(self.lacking, key=lambda each: not each[3]):
            values[at] = amount = max(0, min(count, need[row]))
            for other in self.columns[at].factors:
                need[other] -= amount
                limit = room[other]
                room[other] = None if limit is None else limit - amount
        feasible = all(number <= 0 for number in need) and all(limit is None or limit >= 0 for limit in room)
        return values if feasible else None

    def program(self, most: tuple[int, ...] | None = None) -> integer_program.Program:
        """The program."""
        rows = [integer_program.Row(low, high) for low, high in zip(self.low, self.high)]
        rows += [integer_program.Row(None, size) for size in self.sizes]
        return integer_program.Program(self.columns, rows, tuple(self.base), most or self.fleet.most)


def _canonical(request: Request, gpus: t.Sequence[Gpu]) -> str:
    """The name that the GPUs' tables have for a request's profile. Raises ValueError where no GPU can have it."""
    if not gpus:
        return request.profile
    models = list(dict.fromkeys(gpu.model for gpu in gpus))
    if request.model:
        matching = [each for each in models if each.name == request.model]
        if not matching:
            there = ", ".join(dict.fromkeys(each.name for each in models))
            raise ValueError(f"wanted: {request.key} is pinned to {request.model}, and the GPUs here are {there}")
        models = matching
    if any(profile.name == request.profile for each in models for profile in each.profiles):
        return request.profile
    found = set()
    problem: ValueError | None = None
    for each in models:
        try:
            found.add(each.profile(request.profile).name)
        except ValueError as error:
            problem = problem or error
    if not found:
        raise ValueError(f"wanted: {request.key}: {problem}") from problem
    if len(found) > 1:
        raise ValueError(f"wanted: {request.key} is what some drivers call {' and '.join(sorted(found))}; write the one that is meant")
    return found.pop()


def best(fleet: Fleet) -> Choice:
    """The best choice: without destroying anything or switching a mode, if that can be; else of all cases."""
    counts = tuple(request.count for request in fleet.requests)
    # Without time for that: it is among the plans of the cases.
    with contextlib.suppress(_OutOfTimeError):
        choice = fleet.solve(counts, fleet.frozen_case(fleet.families(counts)), frozen=True)
        if choice is not None:
            return choice
    short, proven, least = fleet.unavoidable()
    counts = tuple(count - number for count, number in zip(counts, short))
    other = _over_cases(fleet, counts, short)
    return other if proven else dataclasses.replace(other, optimal=False, bound=(least, *(0,) * (len(LEVELS) - 1)))


def _over_cases(fleet: Fleet, counts: tuple[int, ...], given_up: tuple[int, ...]) -> Choice:
    best: Choice | None = None
    optimal = True
    bounds = []
    cases = fleet.cases(fleet.families(counts))
    for case in cases:
        # No mode is switched in the best so far, and this case destroys more.
        if best is not None and best.cost[1] == 0 and best.cost[2] < case.destroyed:
            break
        try:
            choice = fleet.solve(counts, case, given_up=given_up, below=None if best is None else best.cost)
        except _OutOfTimeError as error:
            optimal = False
            bounds.append(error.bound)
            continue
        if choice is not None:
            best = choice
            optimal = optimal and choice.optimal
            bounds.append(choice.bound)
    if best is None:
        # Without time for a plan that has everything: one that lacks as much as it must to be found at once.
        best = next(filter(None, (_lacking(fleet, counts, case, given_up) for case in cases)))
        return dataclasses.replace(best, optimal=False, bound=(sum(given_up), *(0,) * (len(LEVELS) - 1)))
    return dataclasses.replace(best, optimal=optimal, bound=best.cost if optimal else min(bounds))


def _lacking(fleet: Fleet, counts: tuple[int, ...], case: _Case, given_up: tuple[int, ...]) -> Choice | None:
    """A plan by a case's rules that may lack more, None where they forbid to leave everything as it is."""
    try:
        return fleet.solve(counts, case, may_lack=True, given_up=given_up)
    except _OutOfTimeError:
        return None
