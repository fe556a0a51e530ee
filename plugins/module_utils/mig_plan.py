"""The best MIG layout of a fleet of GPUs for what is wanted, and the ordered actions that lead there."""

from __future__ import annotations

import dataclasses
import typing as t

from .mig_fleet import Gpu, Instance, Request
from .mig_geometry import Placement, why_illegal
from .mig_search import LEVELS, Fleet, best, shape_of

Clock = t.Callable[[], float]


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
    """Why a request is short by ``missing``, and the nearest layout that has one more of it: ``layout`` on the GPU ``uuid``.

    There is no such layout, and no UUID, where every GPU has as many as fit.
    """

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
        objective, bound = dict(zip(LEVELS, self.objective)), dict(zip(LEVELS, self.bound))
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


def _check_pins(gpus: t.Sequence[Gpu], pinned: t.Iterable[str]) -> frozenset[str]:
    known = {gpu.uuid for gpu in gpus} | {instance.uuid for gpu in gpus for instance in gpu.instances}
    for name in pinned:
        if name not in known:
            raise ValueError(f"pinned: {name!r} is neither a GPU here nor an instance on one")
    return frozenset(pinned)


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
    if time_limit is not None and (isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0):
        raise ValueError(f"time_limit: {time_limit!r} is not a number of seconds above 0")
    if time_limit is not None and clock is None:
        raise ValueError("time_limit: it needs a clock")
    end = None if time_limit is None or clock is None else clock() + time_limit
    fleet = Fleet(gpus, wanted, pins, lambda: end is not None and clock is not None and clock() >= end)
    if not any(fleet.short(fleet.existing)):
        # Nothing is missing, and doing nothing is the only plan that neither switches, destroys nor creates anything.
        same = tuple(_change(gpu, [instance.placement for instance in gpu.instances]) for gpu in gpus)
        objective = _objective(same, 0)
        return Plan(True, {}, (), same, objective, objective)
    choice = best(fleet)
    changes = []
    for at, gpu in enumerate(gpus):
        places = choice.places.get(at)
        there = [each.placement for each in gpu.instances]
        changes.append(_change(gpu, there if places is None else [Placement(start, name) for name, start in places]))
    objective = _objective(changes, sum(choice.missing))
    # GPUs that could not be changed are not in the costs that were compared.
    bound = tuple(total - cost + least for total, cost, least in zip(objective, choice.cost, choice.bound))
    missing = {request.key: number for request, number in zip(wanted, choice.missing) if number}
    reasons = tuple(_reason(fleet, changes, at, number) for at, number in enumerate(choice.missing) if number)
    return Plan(choice.optimal, missing, reasons, tuple(changes), objective, objective if choice.optimal else bound)


def _change(gpu: Gpu, layout: t.Sequence[Placement]) -> Change:
    wanted = set(layout)
    keep = tuple(instance for instance in gpu.instances if instance.placement in wanted)
    destroy = tuple(instance for instance in gpu.instances if instance.placement not in wanted)
    there = {instance.placement for instance in keep}
    size = shape_of(gpu.model).by_name
    create = sorted(wanted - there, key=lambda place: (-size[place.profile].slots, place))
    return Change(gpu, tuple(sorted(wanted)), keep, destroy, tuple(create), gpu.mig_enabled or bool(wanted))


def _objective(changes: t.Sequence[Change], missing: int) -> tuple[int, ...]:
    """What a plan costs, by LEVELS."""
    total = [missing, 0, 0, 0, 0, 0, 0, 0]
    for change in changes:
        total[1] += int(change.mode_change)
        total[2] += len(change.destroy)
        total[7] += len(change.create)
        if change.layout:
            shape = shape_of(change.gpu.model)
            profiles = [shape.by_name[place.profile] for place in change.layout]
            mask = sum(((1 << profile.slots) - 1) << place.start for profile, place in zip(profiles, change.layout))
            compute, memory, fragmentation = shape.lost(mask, sum(shape.use[profile.name] for profile in profiles))
            total[3] += 1
            total[4] += change.gpu.model.compute - sum(profile.compute for profile in profiles) - compute
            total[5] += shape.slots - bin(mask).count("1") - memory
            total[6] += fragmentation
    return tuple(total)


def _number(layout: t.Iterable[Placement], name: str) -> int:
    return sum(place.profile == name for place in layout)


def _reason(fleet: Fleet, changes: t.Sequence[Change], at: int, missing: int) -> Reason:
    """Why a request is short, by the place where the least stands in the way of one more."""
    request, name = fleet.requests[at], fleet.names[at]
    able = [change for change in changes if name in shape_of(change.gpu.model).by_name and request.model in (None, change.gpu.model.name)]
    if not able:
        return Reason(request.key, missing, "there is no GPU")
    found: list[tuple[tuple[int, ...], Change, tuple[Placement, ...], list[Instance], int]] = []
    for number, change in enumerate(able):
        gpu = change.gpu
        fixed = [each for each in gpu.instances if fleet.settled(gpu) or fleet.stays(each)]
        for start in shape_of(gpu.model).by_name[name].starts:
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
            if _number(layout, name) <= _number(change.layout, name):
                continue
            cost = (int(fleet.settled(gpu)), len(blocking), displaced, number, start)
            found.append((cost, change, tuple(sorted(layout)), blocking, displaced))
    if not found:
        most: dict[str, int] = {}
        for change in able:
            most[change.gpu.model.name] = max(most.get(change.gpu.model.name, 0), _number(change.layout, name))
        full = ", ".join(f"{count} on one {which}" for which, count in most.items())
        return Reason(request.key, missing, f"each GPU that can have it has as many as fit: {full}")
    _, change, nearest, blocking, displaced = min(found, key=lambda each: each[0])
    gpu = change.gpu
    if fleet.settled(gpu):
        why = f"GPU {gpu.uuid} would have to change, and it is {'pinned' if gpu.uuid in fleet.pinned else 'busy with its MIG mode off'}"
    elif blocking:
        names = ", ".join(f"{each.placement} ({each.uuid}, {'busy' if each.busy else 'pinned'})" for each in blocking)
        why = f"on GPU {gpu.uuid}, where the least stands in the way, it is {names}"
    else:
        why = (
            f"each GPU that can have it is full with what is wanted or stays; on GPU {gpu.uuid}, where the least stands in the way, "
            f"it would displace {displaced} of that"
        )
    return Reason(request.key, missing, why, gpu.uuid, nearest)
