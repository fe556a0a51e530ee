"""The best MIG layout of a fleet of GPUs for what is wanted, and the ordered actions that lead there.

A GPU has few states. For each kind of GPU (model, mode, and what is on it) all layouts that it could end in are enumerated, and of
those with the same numbers of wanted instances only the cheapest is kept. How many GPUs end in which layout is a small integer
program with the objective in the order of ``LEVELS``, which ``integer_program`` solves exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing as t

from . import integer_program
from .mig_geometry import Model, Placement, Profile, model, why_illegal

# What a plan minimises, most important first. Busy and pinned instances are no level: no plan touches them.
LEVELS = ("missing", "mode_changes", "destroyed", "partitioned", "wasted_compute", "wasted_memory", "fragmentation", "created")

Clock = t.Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Instance:
    """A GPU instance that exists: profile, the memory slot it starts at, the UUID of its MIG device, and whether something runs on it."""

    profile: str
    start: int
    uuid: str
    busy: bool = False

    @property
    def placement(self) -> Placement:
        """Where it is."""
        return Placement(self.start, self.profile)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as it is. ``busy`` says that something runs on the whole GPU, so that its mode cannot be switched."""

    uuid: str
    index: int
    model: Model
    mig_enabled: bool
    instances: tuple[Instance, ...] = ()
    busy: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    """So many instances of a profile that have to exist in all, on any model that has the profile or on the named one."""

    profile: str
    count: int
    model: str | None = None

    @property
    def key(self) -> str:
        """``1g.10gb``, or ``H100-80GB:1g.10gb``."""
        return f"{self.model}:{self.profile}" if self.model else self.profile


@dataclasses.dataclass(frozen=True)
class Change:
    """What becomes of a GPU. ``layout`` is all that is on it at the end, ``mig_enabled`` its mode then."""

    gpu: Gpu
    layout: tuple[Placement, ...]
    keep: tuple[Instance, ...]
    destroy: tuple[Instance, ...]
    create: tuple[Placement, ...]
    mig_enabled: bool

    @property
    def mode_change(self) -> bool:
        """Whether the MIG mode is switched."""
        return self.mig_enabled != self.gpu.mig_enabled

    @property
    def reset(self) -> bool:
        """Whether the GPU has to be reset for it."""
        return self.mode_change and self.gpu.model.needs_reset


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a request is short by ``missing``, and the nearest layout that has one more of it: ``layout`` on the GPU ``uuid``."""

    request: str
    missing: int
    reason: str
    uuid: str | None = None
    layout: tuple[Placement, ...] = ()

    def as_dict(self) -> dict[str, t.Any]:
        """Plain data."""
        nearest = {"uuid": self.uuid, "layout": _plain(self.layout)} if self.uuid else None
        return {"profile": self.request, "missing": self.missing, "reason": self.reason, "nearest": nearest}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The result. ``objective`` has a number for each of LEVELS; ``bound`` is what no plan can be below, equal where ``optimal``."""

    optimal: bool
    missing: t.Mapping[str, int]
    reasons: tuple[Reason, ...]
    changes: tuple[Change, ...]
    objective: tuple[int, ...]
    bound: tuple[int, ...]

    @property
    def satisfied(self) -> bool:
        """Whether everything wanted is there at the end."""
        return not self.missing

    def actions(self) -> list[dict[str, t.Any]]:
        """What to do, in this order: GPU by GPU, destroy before the mode is switched, create last."""
        steps: list[dict[str, t.Any]] = []
        for change in self.changes:
            gpu = {"gpu": change.gpu.uuid}
            steps += [{"action": "destroy", **gpu, "profile": i.profile, "start": i.start, "uuid": i.uuid} for i in change.destroy]
            if change.mode_change:
                steps.append({"action": "mode", **gpu, "enabled": change.mig_enabled})
            if change.reset:
                steps.append({"action": "reset", **gpu})
            steps += [{"action": "create", **gpu, "profile": place.profile, "start": place.start} for place in change.create]
        return steps

    def as_dict(self) -> dict[str, t.Any]:
        """Plain data, the form that the filter returns."""
        objective, bound = dict(zip(LEVELS, self.objective, strict=True)), dict(zip(LEVELS, self.bound, strict=True))
        return {
            "satisfied": self.satisfied,
            "optimal": self.optimal,
            "missing": dict(self.missing),
            "reasons": [reason.as_dict() for reason in self.reasons],
            "gpus": [
                {
                    "uuid": change.gpu.uuid,
                    "layout": _plain(change.layout),
                    "keep": _plain_instances(change.keep),
                    "destroy": _plain_instances(change.destroy),
                    "create": _plain(change.create),
                    "mode_change": change.mode_change,
                    "reset": change.reset,
                }
                for change in self.changes
            ],
            "actions": self.actions(),
            "waste": {"compute": objective["wasted_compute"], "memory": objective["wasted_memory"]},
            "fragmentation": objective["fragmentation"],
            "objective": objective,
            "bound": bound,
        }


def _plain(layout: t.Iterable[Placement]) -> list[dict[str, t.Any]]:
    return [{"profile": place.profile, "start": place.start} for place in layout]


def _plain_instances(instances: t.Iterable[Instance]) -> list[dict[str, t.Any]]:
    return [{"profile": each.profile, "start": each.start, "uuid": each.uuid} for each in instances]


# --- what is given ---------------------------------------------------------------------------------------------------


def gpus_from(data: t.Any) -> tuple[Gpu, ...]:
    """GPUs from plain data: ``[{uuid, index, device_id | model, mig_enabled, instances: [{profile, start, uuid, busy}]}]``.

    ``profiles: [{name, id, max, starts, size}]`` is the driver's own list, which then wins over the table, and ``busy`` says that
    something runs on the whole GPU. Raises ValueError for the first thing that is wrong: where, the value, and what is legal.
    """
    if not isinstance(data, (list, tuple)):
        raise ValueError(f"gpus: {data!r} is not a list of GPUs")
    found: list[Gpu] = []
    seen: dict[str, str] = {}
    for number, item in enumerate(data):
        where = f"gpus[{number}]"
        if not isinstance(item, t.Mapping):
            raise ValueError(f"{where}: {item!r} is not a GPU: give uuid, index, device_id or model, mig_enabled and instances")
        unknown = sorted(set(item) - {"uuid", "index", "device_id", "model", "mig_enabled", "instances", "profiles", "busy"})
        if unknown:
            raise ValueError(f"{where}.{unknown[0]}: a GPU has uuid, index, device_id, model, mig_enabled, busy, instances and profiles")
        uuid = _text(item, "uuid", where)
        which = _model_of(item, where)
        enabled = _flag(item, "mig_enabled", where)
        instances = tuple(
            _instance(each, which, f"{where}.instances[{at}]") for at, each in enumerate(_items(item.get("instances"), f"{where}.instances"))
        )
        if instances and not enabled:
            raise ValueError(f"{where}.instances: GPU {uuid} has instances and its MIG mode is off; only one of them can be true")
        problem = why_illegal(which, [each.placement for each in instances])
        if problem:
            raise ValueError(f"{where}.instances: GPU {uuid} cannot have what it is said to have: {problem}")
        for name in (uuid, *(each.uuid for each in instances)):
            if name in seen:
                raise ValueError(f"{where}: the UUID {name} is also that of {seen[name]}")
            seen[name] = where
        index = item.get("index", number)
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ValueError(f"{where}.index: {index!r} is not a GPU's number: 0 or more")
        busy = _flag(item, "busy", where, False)
        found.append(Gpu(uuid, index, which, enabled, tuple(sorted(instances, key=lambda each: each.start)), busy))
    return tuple(found)


def _items(value: t.Any, where: str) -> t.Sequence[t.Any]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where}: {value!r} is not a list")
    return value


def _text(item: t.Mapping[str, t.Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}.{name}: {value!r} is not a name")
    return str(value)


def _flag(item: t.Mapping[str, t.Any], name: str, where: str, default: bool | None = None) -> bool:
    value = item.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{where}.{name}: {value!r} is neither true nor false")
    return value


def _number(item: t.Mapping[str, t.Any], name: str, where: str, least: int) -> int:
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}.{name}: {value!r} is not a number: {least} or more")
    return int(value)


def _model_of(item: t.Mapping[str, t.Any], where: str) -> Model:
    """The model that a GPU's name or device id says, with the driver's own profiles where they are given."""
    names = [item[name] for name in ("model", "device_id") if item.get(name) is not None]
    if not names:
        raise ValueError(f"{where}: give device_id (such as 0x2330) or model (such as H100-80GB)")
    listed = _items(item.get("profiles"), f"{where}.profiles")
    found: list[Model] = []
    for name in names:
        try:
            found.append(model(name))
        except ValueError as error:
            if not listed:
                raise ValueError(f"{where}: {error}") from error
    if len({each.name for each in found}) > 1:
        raise ValueError(f"{where}: model {names[0]} and device_id {names[1]} contradict each other: the latter is {found[1].name}")
    if not listed:
        return found[0]
    profiles = []
    for number, each in enumerate(listed):
        at = f"{where}.profiles[{number}]"
        if not isinstance(each, t.Mapping):
            raise ValueError(f"{at}: {each!r} is not a profile: give name, id, max, starts and size")
        starts = [_number({"start": start}, "start", at, 0) for start in _items(each.get("starts"), f"{at}.starts")]
        try:
            profiles.append(
                Profile.from_driver(_text(each, "name", at), _number(each, "id", at, 0), _number(each, "max", at, 1), starts, _number(each, "size", at, 1))
            )
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(at) else f"{at}: {error}") from error
    try:
        if found:
            return Model.from_driver(found[0].name, profiles, found[0].device_ids, found[0].needs_reset)
        return Model.from_driver(str(names[0]), profiles)
    except ValueError as error:
        raise ValueError(f"{where}.profiles: {error}") from error


def _instance(item: t.Any, which: Model, where: str) -> Instance:
    if not isinstance(item, t.Mapping):
        raise ValueError(f"{where}: {item!r} is not an instance: give profile, start, uuid and busy")
    try:
        profile = which.profile(_text(item, "profile", where)).name
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}.profile: {error}") from error
    return Instance(profile, _number(item, "start", where, 0), _text(item, "uuid", where), _flag(item, "busy", where, False))


def requests_from(data: t.Any) -> tuple[Request, ...]:
    """Requests from plain data: ``{"1g.10gb": 4, "H100-80GB:3g.40gb": 1, "2g.20gb": {count: 2, model: H100-80GB}}``.

    Raises ValueError for what is not a count, an unknown model, a model that is named in both ways, or the same request twice.
    """
    if not isinstance(data, t.Mapping):
        raise ValueError(f"wanted: {data!r} is not a mapping of profiles to counts")
    found: list[Request] = []
    for key, value in data.items():
        where = f"wanted: {key}"
        if not isinstance(key, str) or not key:
            raise ValueError(f"wanted: {key!r} is not a profile: write it as nvidia-smi does, such as 1g.10gb")
        pin, _, profile = key.rpartition(":")
        count, named = value, None
        if isinstance(value, t.Mapping):
            if set(value) - {"count", "model"} or "count" not in value:
                raise ValueError(f"{where}: {dict(value)!r} is not a request: give a count, or count and model")
            count, named = value["count"], value.get("model")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"{where}: {count!r} is not a count: 0 or more")
        pins = []
        for name in (pin or None, named):
            if name is not None:
                try:
                    pins.append(model(name).name)
                except ValueError as error:
                    # A driver's own list can be for a model that no table has.
                    if not isinstance(name, str) or ":" in name:
                        raise ValueError(f"{where}: {error}") from error
                    pins.append(name)
        if len(set(pins)) > 1:
            raise ValueError(f"{where}: it is pinned to {pins[0]} and to {pins[1]}; name one model")
        request = Request(profile, int(count), pins[0] if pins else None)
        if any(request.key == other.key for other in found):
            raise ValueError(f"{where}: {request.key} is asked for twice; name it once with the sum")
        found.append(request)
    return tuple(found)


def pins_from(data: t.Any) -> tuple[str, ...]:
    """UUIDs of instances and GPUs that stay as they are. Raises ValueError for what is not a list of names."""
    names = _items(data, "pinned")
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise ValueError(f"pinned[{number}]: {name!r} is not the UUID of an instance or a GPU")
    return tuple(str(name) for name in names)


# --- the geometry, made fast -----------------------------------------------------------------------------------------


class _Shape:
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
            profile.name: sum(weights.get(profile.name, 0) << (8 * at) for at, (weights, _) in enumerate(limits)) for profile in which.profiles
        }
        self.by_name = {profile.name: profile for profile in which.profiles}
        self.places = tuple(
            sorted(
                (start, -profile.compute, profile.name, ((1 << profile.slots) - 1) << start) for profile in which.profiles for start in profile.starts
            )
        )
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
            free = self.slots - mask.bit_count()
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
def _shape(which: Model) -> _Shape:
    return _Shape(which)


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


def _options(shape: _Shape, state: _State, counted: tuple[str, ...], creatable: frozenset[str]) -> tuple[_Option, ...]:
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
                    cost = (best[0] + kept_less, best[1] + compute, best[2] + created)
                    other = reached[end].get(after)
                    if other is None or cost < other[:3]:
                        reached[end][after] = (*cost, (best[3], place))
    cheapest: dict[int, tuple[tuple[int, ...], t.Any]] = {}
    capacity = shape.model.compute
    for code, (kept_less, compute, created, chain) in reached[slots].items():
        mask, used = code & shape.full, code >> slots & (1 << width) - 1
        if any(shape.fits(name, start, mask, used) for name, start in state.idle):
            continue
        if mask:
            more_compute, more_memory, fragmentation = shape.lost(mask, used)
            waste = capacity - state.compute + compute - more_compute, slots - mask.bit_count() - more_memory
            cost = (0, int(not state.enabled), len(idle) + kept_less, 1, *waste, fragmentation, created)
        else:
            cost = (0, 0, len(idle), 0, 0, 0, 0, 0)
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
    shape.options[key] = tuple(found)
    return shape.options[key]


# --- what has to be decided ------------------------------------------------------------------------------------------


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
class _Choice:
    """A solution: what each open GPU gets, what is missing of each request, and what was proven."""

    places: t.Mapping[int, tuple[tuple[str, int], ...]]
    missing: tuple[int, ...]
    cost: tuple[int, ...]
    bound: tuple[int, ...]
    optimal: bool


class _Fleet:
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
        for request, name, count in zip(self.requests, self.names, counts, strict=True):
            if count:
                totals[name] = totals.get(name, 0) + count
                if request.model:
                    pinned.setdefault(name, {})[request.model] = count + pinned.get(name, {}).get(request.model, 0)
        return [_Family(name, total, pinned.get(name, {})) for name, total in totals.items()]

    def kinds(self, name: str) -> list[tuple[str, str]]:
        """A profile on each model of the fleet that has it."""
        return [(name, which) for which in dict.fromkeys(gpu.model.name for gpu in self.gpus if name in _shape(gpu.model).by_name)]

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

    def state(self, gpu: Gpu, frozen: bool) -> _State:
        """What matters of an open GPU; ``frozen`` lets idle instances stay, too."""
        shape = _shape(gpu.model)
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
        given_up: tuple[int, ...] | None = None,
        below: tuple[int, ...] | None = None,
    ) -> _Choice | None:
        """The best plan by the rules of a case, None where there is none (cheaper than ``below``).

        ``counts`` are what is wanted of each request. ``frozen`` allows neither to destroy nor to switch a mode, and everything has to
        be there. ``given_up`` are instances that cannot be there, already subtracted from ``counts``; without it a plan may lack some.
        """
        families = self.families(counts)
        names = [family.name for family in families]
        may_lack = not frozen and given_up is None
        program = _Rows(self, families, case, self.existing if frozen else self.protected)
        given = given_up or (0,) * len(counts)
        program.base[0] += sum(given)
        members: dict[_Group, list[tuple[int, tuple[_Option, ...]]]] = {}
        for at in self.open:
            gpu = self.gpus[at]
            if frozen and not gpu.mig_enabled:
                continue
            which = gpu.model.name
            counted = tuple(name for name in names if name in _shape(gpu.model).by_name)
            creatable = frozenset(name for name in counted if (name, which) in case.creatable)
            options = _options(_shape(gpu.model), self.state(gpu, frozen), counted, creatable)
            group = _grouped(which, counted, options, frozen or not self.idle)
            members.setdefault(group, []).append((at, options))
            program.rest(which, counted, options[0])
        for group, gpus in members.items():
            program.group(group, len(gpus))
        if may_lack:
            for at, (request, count) in enumerate(zip(self.requests, counts, strict=True)):
                if count:
                    program.lack(at, self.names[at], request.model, count)
        solution = integer_program.solve(program.program(), self.late, program.nothing() if may_lack else None, below)
        if solution.values is None:
            return None
        assert solution.cost is not None and solution.bound is not None
        amounts = iter(solution.values)
        places: dict[int, tuple[tuple[str, int], ...]] = {}
        for group, gpus in members.items():
            chosen = [next(amounts) for _ in group.steps]
            ends = [number for number, amount in enumerate(chosen, 1) for _ in range(amount)]
            # The first GPUs are changed, the last stay.
            ends += [0] * (len(gpus) - len(ends))
            for (at, options), end in zip(gpus, ends, strict=True):
                still = [(each.profile, each.start) for each in self.gpus[at].instances if frozen or self.stays(each)]
                places[at] = (*still, *options[end].places)
        lacking = list(given)
        for at, count in enumerate(counts):
            if may_lack and count:
                lacking[at] += next(amounts)
        return _Choice(places, tuple(lacking), solution.cost, solution.bound, solution.optimal)

    def unavoidable(self) -> tuple[tuple[int, ...], bool]:
        """The fewest instances that have to be missing, by request, and whether that is proven.

        As few as possible in all; among such, as few as possible of the first request, then of the second, and so on.
        """
        counts = tuple(request.count for request in self.requests)
        families = self.families(counts)
        names = [family.name for family in families]
        everywhere = frozenset(kind for name in names for kind in self.kinds(name))
        program = _Rows(self, families, _Case({}, {}, everywhere), self.protected, len(counts) + 1)
        members: dict[_Group, int] = {}
        free = (0,) * (len(counts) + 1)
        for at in self.open:
            gpu = self.gpus[at]
            counted = tuple(name for name in names if name in _shape(gpu.model).by_name)
            options = _options(_shape(gpu.model), self.state(gpu, False), counted, frozenset(counted))
            most = _largest({option.counts for option in options})
            program.rest(gpu.model.name, counted, _Option(most[0], free, ()))
            steps = tuple((tuple(a - b for a, b in zip(each, most[0], strict=True)), free) for each in most[1:])
            group = _Group(gpu.model.name, counted, steps)
            members[group] = members.get(group, 0) + 1
        for group, size in members.items():
            program.group(group, size)
        for at, (request, count) in enumerate(zip(self.requests, counts, strict=True)):
            if count:
                program.lack(at, self.names[at], request.model, count, at + 1)
        solution = integer_program.solve(program.program((sum(counts), *counts)), self.late, program.nothing())
        assert solution.cost is not None
        return solution.cost[1:], solution.optimal


def _largest(counts: t.Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The counts that no others reach in every profile."""
    found: list[tuple[int, ...]] = []
    for each in sorted(counts, key=lambda each: (-sum(each), each)):
        if not any(all(a <= b for a, b in zip(each, other, strict=True)) for other in found):
            found.append(each)
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def _grouped(which: str, counted: tuple[str, ...], options: tuple[_Option, ...], as_wanted: bool) -> _Group:
    """``as_wanted``: nothing is destroyed, so that how many are created is no choice and need not be compared."""
    rest = options[0]
    compared = len(LEVELS) - int(as_wanted)
    return _Group(
        which,
        counted,
        tuple(
            (
                tuple(a - b for a, b in zip(option.counts, rest.counts, strict=True)),
                tuple(a - b if level < compared else 0 for level, (a, b) in enumerate(zip(option.cost, rest.cost, strict=True))),
            )
            for option in options[1:]
        ),
    )


class _Rows:
    """An integer program under construction: how many GPUs of a group take which end, and how many instances are lacking."""

    def __init__(
        self, fleet: _Fleet, families: t.Sequence[_Family], case: _Case, stay: t.Mapping[tuple[str, str], int], levels: int = len(LEVELS)
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
        self.lacking: list[tuple[int, int]] = []

    def _row(self, of: tuple[str, str | None], low: int, high: int | None, there: int) -> None:
        self.of[of] = len(self.low)
        self.low.append(low - there)
        self.high.append(None if high is None else high - there)

    def _factors(self, which: str | None, counted: t.Sequence[str], counts: t.Sequence[int]) -> dict[int, int]:
        factors = {}
        for name, count in zip(counted, counts, strict=True):
            if count:
                for of in ((name, None), (name, which)) if which else ((name, None),):
                    if of in self.of:
                        factors[self.of[of]] = count
        return factors

    def rest(self, which: str, counted: t.Sequence[str], option: _Option) -> None:
        """Count one GPU as being in its cheapest end."""
        for row, count in self._factors(which, counted, option.counts).items():
            self.low[row] -= count
            high = self.high[row]
            self.high[row] = None if high is None else high - count
        for level, number in enumerate(option.cost):
            self.base[level] += number

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
        self.lacking.append((len(self.columns), count))
        self.columns.append(integer_program.Column(cost, self._factors(which, (name,), (1,)), count))

    def nothing(self) -> list[int] | None:
        """A solution without any change, where the rules allow that."""
        values = [0] * len(self.columns)
        room = list(self.high)
        need = list(self.low)
        for column, count in self.lacking:
            rows = self.columns[column].factors
            amount = max(0, min(count, max(need[row] for row in rows)))
            values[column] = amount
            for row in rows:
                need[row] -= amount
                limit = room[row]
                room[row] = None if limit is None else limit - amount
        feasible = all(number <= 0 for number in need) and all(limit is None or limit >= 0 for limit in room)
        return values if feasible else None

    def program(self, most: tuple[int, ...] | None = None) -> integer_program.Program:
        """The program."""
        rows = [integer_program.Row(low, high) for low, high in zip(self.low, self.high, strict=True)]
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


def _check_pins(gpus: t.Sequence[Gpu], pinned: t.Iterable[str]) -> frozenset[str]:
    known = {gpu.uuid for gpu in gpus} | {instance.uuid for gpu in gpus for instance in gpu.instances}
    for name in pinned:
        if name not in known:
            raise ValueError(f"pinned: {name!r} is neither a GPU here nor an instance on one")
    return frozenset(pinned)


# --- the plan --------------------------------------------------------------------------------------------------------


def plan(
    gpus: t.Sequence[Gpu],
    wanted: t.Sequence[Request],
    pinned: t.Iterable[str] = (),
    time_limit: float | None = None,
    clock: Clock | None = None,
) -> Plan:
    """The best plan for a fleet, in the order of LEVELS.

    ``wanted`` are the numbers that have to exist at the end, idle and busy instances that exist included; a request for a model is
    served by its own instances and not by those that another request counts. What exists beyond it stays unless its room is needed.
    No busy instance, no instance in ``pinned`` and nothing on a GPU in ``pinned`` is touched. ``time_limit`` is in seconds of
    ``clock``; when they are over, the best plan so far is returned, and ``bound`` says what none can be below.

    Raises ValueError for pins and profiles that are not there.
    """
    pins = _check_pins(gpus, pinned)
    for request in wanted:
        if any(other is not request and other.key == request.key for other in wanted):
            raise ValueError(f"wanted: {request.key} is asked for twice; name it once with the sum")
    if time_limit is not None and (isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or time_limit <= 0):
        raise ValueError(f"time_limit: {time_limit!r} is not a number of seconds above 0")
    if time_limit is not None and clock is None:
        raise ValueError("time_limit: it needs a clock")
    end = None if time_limit is None or clock is None else clock() + time_limit
    fleet = _Fleet(gpus, wanted, pins, lambda: end is not None and clock is not None and clock() >= end)
    if not any(fleet.short(fleet.existing)):
        # Nothing is missing, and doing nothing is the only plan that neither switches, destroys nor creates anything.
        changes = tuple(_change(gpu, [instance.placement for instance in gpu.instances]) for gpu in gpus)
        objective = _objective(changes, 0)
        return Plan(True, {}, (), changes, objective, objective)
    choice = _best(fleet)
    changes = []
    for at, gpu in enumerate(gpus):
        places = choice.places.get(at)
        changes.append(_change(gpu, [each.placement for each in gpu.instances] if places is None else [Placement(start, name) for name, start in places]))
    objective = _objective(changes, sum(choice.missing))
    # GPUs that could not be changed are not in the costs that were compared.
    bound = tuple(total - cost + least for total, cost, least in zip(objective, choice.cost, choice.bound, strict=True))
    missing = {request.key: number for request, number in zip(wanted, choice.missing, strict=True) if number}
    reasons = tuple(_reason(fleet, changes, at, number) for at, number in enumerate(choice.missing) if number)
    return Plan(choice.optimal, missing, reasons, tuple(changes), objective, objective if choice.optimal else bound)


def _best(fleet: _Fleet) -> _Choice:
    """The best choice: without destroying anything or switching a mode, if that can be; else over all cases."""
    counts = tuple(request.count for request in fleet.requests)
    choice = fleet.solve(counts, fleet.frozen_case(fleet.families(counts)), frozen=True)
    if choice is not None and choice.optimal:
        return choice
    first = _over_cases(fleet, counts, None)
    if not any(first.missing) or not first.optimal:
        return first if choice is None else choice
    short, proven = fleet.unavoidable()
    rest = tuple(count - number for count, number in zip(counts, short, strict=True))
    choice = _over_cases(fleet, rest, short)
    return dataclasses.replace(choice, optimal=choice.optimal and proven)


def _over_cases(fleet: _Fleet, counts: tuple[int, ...], given_up: tuple[int, ...] | None) -> _Choice:
    best: _Choice | None = None
    optimal = True
    bounds = []
    for case in fleet.cases(fleet.families(counts)):
        # Nothing is missing and no mode is switched in the best so far, and this case destroys more.
        if best is not None and best.cost[1] == 0 and best.cost[0] == sum(given_up or ()) and best.cost[2] < case.destroyed:
            break
        choice = fleet.solve(counts, case, given_up=given_up, below=None if best is None else best.cost)
        if choice is not None:
            best = choice
            optimal = optimal and choice.optimal
            bounds.append(choice.bound)
    assert best is not None
    return dataclasses.replace(best, optimal=optimal, bound=best.cost if optimal else min(bounds))


def _change(gpu: Gpu, layout: t.Sequence[Placement], enabled: bool | None = None) -> Change:
    wanted = set(layout)
    keep = tuple(instance for instance in gpu.instances if instance.placement in wanted)
    destroy = tuple(instance for instance in gpu.instances if instance.placement not in wanted)
    there = {instance.placement for instance in keep}
    size = _shape(gpu.model).by_name
    create = sorted(wanted - there, key=lambda place: (-size[place.profile].slots, place))
    if enabled is None:
        enabled = gpu.mig_enabled or bool(wanted)
    return Change(gpu, tuple(sorted(wanted)), keep, destroy, tuple(create), enabled)


def _objective(changes: t.Sequence[Change], missing: int) -> tuple[int, ...]:
    """What a plan costs, by LEVELS."""
    total = [missing, 0, 0, 0, 0, 0, 0, 0]
    for change in changes:
        total[1] += int(change.mode_change)
        total[2] += len(change.destroy)
        total[7] += len(change.create)
        if change.layout:
            shape = _shape(change.gpu.model)
            profiles = [shape.by_name[place.profile] for place in change.layout]
            mask = sum(((1 << profile.slots) - 1) << place.start for profile, place in zip(profiles, change.layout, strict=True))
            compute, memory, fragmentation = shape.lost(mask, sum(shape.use[profile.name] for profile in profiles))
            total[3] += 1
            total[4] += change.gpu.model.compute - sum(profile.compute for profile in profiles) - compute
            total[5] += shape.slots - mask.bit_count() - memory
            total[6] += fragmentation
    return tuple(total)


def _reason(fleet: _Fleet, changes: t.Sequence[Change], at: int, missing: int) -> Reason:
    """Why a request is short, by the place where the least stands in the way of one more."""
    request, name = fleet.requests[at], fleet.names[at]
    able = [change for change in changes if name in _shape(change.gpu.model).by_name and request.model in (None, change.gpu.model.name)]
    if not able:
        return Reason(request.key, missing, "there is no GPU")
    found: list[tuple[tuple[int, ...], Change, tuple[Placement, ...], list[Instance], int]] = []
    for number, change in enumerate(able):
        gpu = change.gpu
        fixed = [each for each in gpu.instances if fleet.settled(gpu) or fleet.stays(each)]
        for start in _shape(gpu.model).by_name[name].starts:
            layout = [Placement(start, name)]
            blocking = [each for each in fixed if why_illegal(gpu.model, [*layout, each.placement])]
            layout += [each.placement for each in fixed if each not in blocking]
            if why_illegal(gpu.model, layout):
                continue
            displaced = 0
            for place in change.layout:
                if place not in layout and all(place != each.placement for each in blocking):
                    if why_illegal(gpu.model, [*layout, place]):
                        displaced += 1
                    else:
                        layout.append(place)
            cost = (int(fleet.settled(gpu)), len(blocking), displaced, number, start)
            found.append((cost, change, tuple(sorted(layout)), blocking, displaced))
    _, change, nearest, blocking, displaced = min(found, key=lambda each: each[0])
    gpu = change.gpu
    if fleet.settled(gpu):
        why = f"GPU {gpu.uuid} would have to change, and it is {'pinned' if gpu.uuid in fleet.pinned else 'busy with its MIG mode off'}"
    elif blocking:
        names = ", ".join(f"{each.placement} ({each.uuid}, {'busy' if each.busy else 'pinned'})" for each in blocking)
        why = f"on GPU {gpu.uuid}, where the least stands in the way, it is {names}"
    else:
        why = f"all {len(able)} GPUs that can have it are needed for the rest of what is wanted; on GPU {gpu.uuid} it would displace {displaced}"
    return Reason(request.key, missing, why, gpu.uuid, nearest)


def plan_layouts(
    gpus: t.Sequence[Gpu],
    layouts: t.Mapping[str, t.Sequence[tuple[str, int | None]] | None],
    pinned: t.Iterable[str] = (),
    release: t.Iterable[str] = (),
) -> Plan:
    """The plan that gives GPUs exactly the layouts that are named, by UUID: ``[(profile, start)]``, None for MIG switched off.

    A start of None lets the planner choose it, so that the fewest instances are destroyed. GPUs that are not named stay as they are.
    A busy instance goes only if ``release`` names it. Raises ValueError for an unknown UUID, a layout that the GPU cannot have, and
    one that leaves out what is busy or pinned.
    """
    pins = _check_pins(gpus, pinned)
    released = frozenset(release)
    known = {gpu.uuid: gpu for gpu in gpus}
    for name in layouts:
        if name not in known:
            raise ValueError(f"layouts: {name!r} is not a GPU here: {', '.join(known) or 'there is none'}")
    instances = {instance.uuid for gpu in gpus for instance in gpu.instances}
    for name in released:
        if name not in instances:
            raise ValueError(f"release: {name!r} is not an instance here")
        if name in pins:
            raise ValueError(f"release: {name} is pinned; it cannot be both")
    changes = []
    for gpu in gpus:
        if gpu.uuid not in layouts:
            changes.append(_change(gpu, [instance.placement for instance in gpu.instances]))
            continue
        asked = layouts[gpu.uuid]
        layout = _placed(gpu, asked or (), pins, released)
        change = _change(gpu, layout, asked is not None)
        if gpu.uuid in pins and (change.destroy or change.create or change.mode_change):
            raise ValueError(f"layouts: GPU {gpu.uuid} is pinned, and its layout differs from what is there")
        for instance in change.destroy:
            if instance.uuid in pins:
                raise ValueError(f"layouts: {instance.placement} ({instance.uuid}) on GPU {gpu.uuid} is pinned, and the layout leaves it out")
            if instance.busy and instance.uuid not in released:
                raise ValueError(
                    f"layouts: {instance.placement} ({instance.uuid}) on GPU {gpu.uuid} is busy, and the layout leaves it out; "
                    "end what runs there, or name it to be released"
                )
        if change.mode_change and gpu.busy:
            raise ValueError(f"layouts: GPU {gpu.uuid} is busy, so that its MIG mode cannot be switched")
        changes.append(change)
    objective = _objective(changes, 0)
    return Plan(True, {}, (), tuple(changes), objective, objective)


def _placed(gpu: Gpu, asked: t.Sequence[tuple[str, int | None]], pins: frozenset[str], released: frozenset[str]) -> list[Placement]:
    """An explicit layout with a start for each instance: nothing busy or pinned lost, then the fewest destroyed, then the least lost."""
    try:
        profiles = [(gpu.model.profile(name), start) for name, start in asked]
    except ValueError as error:
        raise ValueError(f"layouts: GPU {gpu.uuid}: {error}") from error
    fixed = [Placement(start, profile.name) for profile, start in profiles if start is not None]
    problem = why_illegal(gpu.model, fixed)
    if problem:
        raise ValueError(f"layouts: GPU {gpu.uuid} cannot have this layout: {problem}")
    free = sorted((profile for profile, start in profiles if start is None), key=lambda profile: (-profile.slots, profile.name))
    ways = [fixed]
    for profile in free:
        larger = ([*way, Placement(start, profile.name)] for way in ways for start in profile.starts)
        ways = [list(way) for way in {tuple(sorted(way)) for way in larger if not why_illegal(gpu.model, way)}]
    if not ways:
        names = ", ".join(f"{sum(profile == other for other, _ in profiles)} of {profile.name}" for profile in dict.fromkeys(p for p, _ in profiles))
        raise ValueError(f"layouts: GPU {gpu.uuid}: {names} do not fit on {gpu.model.name} together")

    def cost(way: list[Placement]) -> tuple[t.Any, ...]:
        change = _change(gpu, way)
        lost = sum((each.busy and each.uuid not in released) or each.uuid in pins for each in change.destroy)
        return (lost, len(change.destroy), *_objective([change], 0), way)

    return min((sorted(way) for way in ways), key=cost)
