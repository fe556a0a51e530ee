"""From the MIG instances that are there to those that are wanted, by `nvidia-smi`, touching nothing else.

What computes is pure; ``apply`` runs commands through the runner that it is given, so the module, the boot unit and the tests share it.
"""

from __future__ import annotations

import dataclasses
import typing as t

from .mig_geometry import Model, Placement, why_illegal
from .mig_smi import SMI, Gpu, Instance, Runner, SmiError, read

# What is wanted of a GPU: its instances, or None for MIG off. A GPU that is not named is left alone.
Layout = t.Mapping[str, "t.Sequence[Placement] | None"]

_IN_USE = "In use by another client"
# The driver may call an instance in use for a moment after its last client has gone (NVIDIA/go-nvml#146).
_TRIES = 5


class Refusal(ValueError):
    """The layout is not possible, or would take something from somebody. Nothing was changed."""


class Stopped(Exception):
    """A command failed half way. ``done`` says in words what was done before it."""

    def __init__(self, message: str, done: t.Sequence[str]) -> None:
        super().__init__(message)
        self.done = tuple(done)


@dataclasses.dataclass(frozen=True)
class Work:
    """What has to be done on one GPU. ``mode`` is the MIG mode to set, None to leave it; ``mend`` are instances without a whole device."""

    gpu: Gpu
    mode: bool | None
    keep: tuple[Instance, ...]
    destroy: tuple[Instance, ...]
    create: tuple[Placement, ...]
    mend: tuple[Instance, ...]
    wanted: tuple[Placement, ...] | None

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return self.mode is not None or bool(self.destroy or self.create or self.mend)


def placed(gpu: Gpu) -> tuple[Placement, ...]:
    """The instances of a GPU as a layout."""
    return tuple(Placement(instance.start, instance.profile) for instance in gpu.instances)


def find(gpus: t.Iterable[Gpu], name: str) -> Gpu:
    """The GPU of a UUID, an index or a PCI bus id. Raises Refusal with what there is."""
    listed = list(gpus)
    for gpu in listed:
        if name in (gpu.uuid, str(gpu.index)) or name.lower() in (gpu.bus_id.lower(), gpu.bus_id.lower().removeprefix("0000")):
            return gpu
    have = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in listed) or "none"
    raise Refusal(f"layout: {name!r} is not a GPU of this host, which has {have}")


def parse_layout(given: t.Mapping[t.Any, t.Any], gpus: t.Sequence[Gpu]) -> dict[str, tuple[Placement, ...] | None]:
    """Read a layout as people write it: by UUID, index or bus id a list of ``{profile, start}``, or false for MIG off.

    Raises Refusal for what has not that form, an unknown GPU, and one that is named twice.
    """
    found: dict[str, tuple[Placement, ...] | None] = {}
    for name, value in given.items():
        gpu = find(gpus, str(name))
        if gpu.uuid in found:
            raise Refusal(f"layout: GPU {gpu.index} is named twice, the second time as {name!r}")
        if value is False:
            found[gpu.uuid] = None
            continue
        if not isinstance(value, (list, tuple)):
            raise Refusal(f"layout[{name}] is {value!r}; legal is a list of profile and start, or false for MIG off")
        placements = []
        for item in value:
            start = item.get("start") if isinstance(item, t.Mapping) else None
            if not isinstance(item, t.Mapping) or set(item) != {"profile", "start"} or not str(start).isdecimal():
                raise Refusal(f"layout[{name}] has {item!r}; legal is a profile and its first memory slot: {{profile: 1g.10gb, start: 0}}")
            placements.append(Placement(int(str(start)), str(item["profile"])))
        found[gpu.uuid] = tuple(sorted(placements))
    return found


def work(
    gpus: t.Sequence[Gpu],
    layout: Layout,
    models: t.Mapping[str, Model],
    forced: t.Collection[str] = (),
    pinned: t.Collection[str] = (),
) -> tuple[Work, ...]:
    """What has to be done for a layout, for each GPU that it names, in the order of their indexes.

    ``forced`` are the UUIDs of busy instances that may be destroyed, ``pinned`` those of instances and GPUs that must not be touched.
    Raises Refusal with everything that stands in the way.
    """
    problems = []
    known = {uuid for gpu in gpus for instance in gpu.instances for uuid in instance.uuids}
    for name, uuids, there in (("force_busy", forced, known), ("pinned", pinned, known | {gpu.uuid for gpu in gpus})):
        for uuid in sorted(set(uuids) - there):
            problems.append(f"{name}: {uuid} is not a device of this host, which has {', '.join(sorted(there)) or 'none'}")
    for uuid in sorted(set(forced) & set(pinned)):
        problems.append(f"{uuid} is in force_busy and in pinned; it cannot be in both")
    found = []
    for gpu in gpus:
        if gpu.uuid not in layout:
            continue
        try:
            item = _work(gpu, layout[gpu.uuid], models.get(gpu.uuid))
        except Refusal as refusal:
            problems.append(str(refusal))
            continue
        problems += [*_taken(item, forced), *_pinned(item, pinned)]
        found.append(item)
    if problems:
        raise Refusal("; ".join(problems))
    return tuple(found)


def settled(gpus: t.Iterable[Gpu], layout: Layout) -> bool:
    """Whether a layout, in the driver's own names, is there to the last device. Asks for no model."""
    there = {gpu.uuid: gpu for gpu in gpus}
    for uuid, places in layout.items():
        gpu = there.get(uuid)
        if gpu is None or (places is None and (gpu.mode or gpu.pending)):
            return False
        if places is not None:
            on = bool(gpu.mode and gpu.pending) or not places
            if not on or set(places) != set(placed(gpu)) or not all(instance.whole for instance in gpu.instances):
                return False
    return True


def _work(gpu: Gpu, wanted: t.Sequence[Placement] | None, model: Model | None) -> Work:
    if model is None:
        if not wanted:
            return Work(gpu, None, (), (), (), (), None)
        raise Refusal(f"GPU {gpu.index} ({gpu.name}) has no MIG, and {describe(wanted)} is wanted on it")
    targets = None
    if wanted is not None:
        if problem := why_illegal(model, wanted):
            raise Refusal(f"GPU {gpu.index}: {problem}")
        targets = tuple(sorted(Placement(each.start, model.profile(each.profile).name) for each in wanted))
    left = set(targets or ())
    keep, destroy = [], []
    for instance in gpu.instances:
        here = Placement(instance.start, _canonical(model, instance.profile))
        if here in left:
            left.discard(here)
            keep.append(instance)
        else:
            destroy.append(instance)
    mode = None
    if targets is None:
        mode = False if gpu.mode or gpu.pending else None
    elif targets and not (gpu.mode and gpu.pending):
        mode = True
    mend = tuple(instance for instance in keep if not instance.whole)
    return Work(gpu, mode, tuple(keep), tuple(destroy), tuple(sorted(left)), mend, targets)


def _canonical(model: Model, name: str) -> str:
    try:
        return model.profile(name).name
    except ValueError:
        # The table stands in for the driver's list and does not have this one: it is there all the same.
        return name


def _taken(item: Work, forced: t.Collection[str]) -> t.Iterator[str]:
    """What somebody would lose."""
    gpu = item.gpu
    for instance in (*item.destroy, *item.mend):
        if instance.busy and not set(instance.uuids) & set(forced):
            yield (
                f"GPU {gpu.index}: {instance} ({', '.join(instance.uuids) or 'no device'}) is in use by {users(instance)} and would be "
                "destroyed; end them, or name it in force_busy"
            )
    if item.mode is not None and (gpu.pids or gpu.containers):
        yield f"GPU {gpu.index} is in use by {users(gpu)}, and its MIG mode would be switched; end them first"


def _pinned(item: Work, pinned: t.Collection[str]) -> t.Iterator[str]:
    if item.needed and item.gpu.uuid in pinned:
        yield f"GPU {item.gpu.index} is pinned, and the layout differs from what is there"
    for instance in (*item.destroy, *item.mend):
        if set(instance.uuids) & set(pinned):
            yield f"GPU {item.gpu.index}: {instance} ({', '.join(instance.uuids)}) is pinned and would be destroyed"


def users(holder: Gpu | Instance) -> str:
    """Who has an instance, or a GPU itself, in words; empty where nobody does."""
    words = [f"container {name}" for name in holder.containers]
    if holder.pids:
        words.append(f"process{'es' if len(holder.pids) > 1 else ''} {', '.join(str(pid) for pid in holder.pids)}")
    return " and ".join(words)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What ``apply`` did, in words, and the GPUs (by UUID, with the reason) whose mode takes a reboot."""

    done: tuple[str, ...]
    reboot: t.Mapping[str, str]


def apply(
    run: Runner,
    items: t.Sequence[Work],
    models: t.Mapping[str, Model],
    sleep: t.Callable[[float], None],
    end_clients: t.Callable[[Instance], str] | None = None,
) -> Outcome:
    """Do the work. Nothing is destroyed, reset or switched but what it names, and each instance starts where it is wanted.

    ``end_clients`` ends who has a busy instance that is to go, and returns what went wrong, empty where nothing did. A GPU whose mode
    stays pending gets no instances and is in ``reboot``. Raises Stopped where a command fails or a client stays: what is there then is
    where the next run begins.
    """
    done: list[str] = []
    reboot: dict[str, str] = {}
    for item in items:
        if not item.needed:
            continue
        gpu, prefix = item.gpu, [SMI, "mig", "-i", item.gpu.uuid]
        for instance in item.destroy:
            _clear(run, item, instance, done, sleep, end_clients)
            _must(run, [*prefix, "-gi", str(instance.id), "-dgi"], f"destroying {instance} on GPU {gpu.index}", done, sleep)
            done.append(f"destroyed {instance} on GPU {gpu.index}")
        if item.mode is not None:
            if reason := _switch(run, gpu, item.mode, done, sleep):
                reboot[gpu.uuid] = reason
                if gpu.pending is not item.mode:
                    done.append(f"set MIG {'on' if item.mode else 'off'} for the next reboot on GPU {gpu.index}")
                continue
            done.append(f"switched MIG {'on' if item.mode else 'off'} on GPU {gpu.index}")
        model = models.get(gpu.uuid)
        for placement in item.create:
            assert model is not None, "_work refuses instances without a model"
            number = model.profile(placement.profile).driver_id
            # By the driver's number where it listed one: a name has to be exactly its own.
            word = f"{placement.profile if number is None else number}:{placement.start}"
            _must(run, [*prefix, "-cgi", word, "-C"], f"creating {placement} on GPU {gpu.index}", done, sleep)
            done.append(f"created {placement} on GPU {gpu.index}")
        for instance in item.mend:
            _clear(run, item, instance, done, sleep, end_clients)
            _must(run, [*prefix, "-gi", str(instance.id), "-cci"], f"creating the device of {instance} on GPU {gpu.index}", done, sleep)
            done.append(f"created the device of {instance} on GPU {gpu.index}")
    return Outcome(tuple(done), reboot)


def _clear(
    run: Runner,
    item: Work,
    instance: Instance,
    done: list[str],
    sleep: t.Callable[[float], None],
    end_clients: t.Callable[[Instance], str] | None,
) -> None:
    """Take the compute instances out of a GPU instance."""
    if instance.busy and end_clients:
        who = f"{users(instance)} on {instance} of GPU {item.gpu.index}"
        if problem := end_clients(instance):
            raise _stopped(f"ending {who} failed: {problem}", done)
        done.append(f"ended {who}")
    argv = [SMI, "mig", "-i", item.gpu.uuid, "-gi", str(instance.id), "-dci"]
    if instance.uuids:
        _must(run, argv, f"destroying the device of {instance} on GPU {item.gpu.index}", done, sleep)


def _must(run: Runner, argv: t.Sequence[str], what: str, done: t.Sequence[str], sleep: t.Callable[[float], None]) -> None:
    for left in reversed(range(_TRIES)):
        status, text = run(argv)
        if status == 0:
            return
        if left == 0 or _IN_USE not in text or not {"-dgi", "-dci"} & set(argv):
            break
        sleep(1)
    raise _stopped(f"{what} failed: {' '.join(text.split()) or f'exit status {status}'} ({' '.join(argv)})", done)


def _stopped(problem: str, done: t.Sequence[str]) -> Stopped:
    """Where it stopped, for whoever goes on from there."""
    before = f"Done before it: {', '.join(done)}" if done else "Nothing was changed before it"
    return Stopped(f"{problem}. {before}; the next run goes on", done)


def _switch(run: Runner, gpu: Gpu, mode: bool, done: list[str], sleep: t.Callable[[float], None]) -> str:
    """Switch the mode of one GPU; why it takes a reboot, empty where it is switched.

    `nvidia-smi` calls a mode that is only pending done, so what counts is what is read afterwards.
    """
    what = f"switching MIG {'on' if mode else 'off'} on GPU {gpu.index}"
    if gpu.pending is not mode:
        _must(run, [SMI, "-i", gpu.uuid, "-mig", str(int(mode))], what, done, sleep)
    now = _again(run, gpu, what, done)
    if now.mode is mode:
        return ""
    if now.pending is not mode:
        raise _stopped(f"{what}: the driver left it as it was, MIG {'on' if now.mode else 'off'} and not pending", done)
    if not gpu.needs_reset:
        return f"GPU {gpu.index}: the driver keeps the MIG mode pending"
    if now.busy:
        return f"GPU {gpu.index}: in use by {users(now) or 'somebody'}, so it was not reset"
    status, text = run([SMI, "--gpu-reset", "-i", gpu.uuid])
    now = _again(run, gpu, what, done)
    if now.mode is mode:
        return ""
    return f"GPU {gpu.index}: the reset did not work: {' '.join(text.split()) if status else 'the mode is still pending'}"


def _again(run: Runner, gpu: Gpu, what: str, done: t.Sequence[str]) -> Gpu:
    try:
        return next(now for now in read(run) if now.uuid == gpu.uuid)
    except (SmiError, StopIteration) as error:
        raise _stopped(f"{what}: the GPU cannot be read again: {error or 'it is gone'}", done) from error


# In words


def describe(placements: t.Iterable[Placement] | None, model: Model | None = None) -> str:
    """A layout in a few words: ``3g.40gb@4 + 4×1g.10gb@0-3``. With a model, a start that has no alternative is left out."""
    if placements is None:
        return "MIG off"
    starts: dict[str, list[int]] = {}
    for placement in sorted(placements):
        starts.setdefault(placement.profile, []).append(placement.start)
    words = []
    for profile, places in sorted(starts.items(), key=lambda item: (-int(item[0].split("g.")[0]), item[0])):
        count = f"{len(places)}×" if len(places) > 1 else ""
        only = model is not None and _only_start(model, profile)
        words.append(f"{count}{profile}" + ("" if only else f"@{_ranges(places)}"))
    return " + ".join(words) or "no instances"


def _only_start(model: Model, profile: str) -> bool:
    return any(profile in (each.name, *each.aliases) and len(each.starts) == 1 for each in model.profiles)


def _ranges(places: t.Sequence[int]) -> str:
    if len(places) > 2 and list(places) == list(range(places[0], places[-1] + 1)):
        return f"{places[0]}-{places[-1]}"
    return ",".join(str(place) for place in places)


def intentions(item: Work) -> list[str]:
    """What is to be done on a GPU, in words and in order."""
    on = f"on GPU {item.gpu.index}"
    return [
        *(f"destroy {each} {on}" for each in item.destroy),
        *([f"switch MIG {'on' if item.mode else 'off'} {on}"] if item.mode is not None else []),
        *(f"create {each} {on}" for each in item.create),
        *(f"create the device of {each} {on}" for each in item.mend),
    ]


def as_dict(gpu: Gpu) -> dict[str, t.Any]:
    """A GPU for people and playbooks."""
    instances = [
        {"profile": each.profile, "start": each.start, "uuid": each.uuid, "busy": each.busy, "users": users(each)} for each in gpu.instances
    ]
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "name": gpu.name,
        "device_id": f"0x{gpu.device_id:04X}",
        "mig_capable": gpu.mode is not None,
        "mig_enabled": bool(gpu.mode),
        "mig_pending": bool(gpu.pending) is not bool(gpu.mode),
        "busy": gpu.busy,
        "users": users(gpu),
        "instances": instances,
    }


def fleet(gpus: t.Iterable[Gpu], models: t.Mapping[str, Model], forced: t.Collection[str] = ()) -> list[dict[str, t.Any]]:
    """The GPUs with MIG as the planner takes them, with the profiles that their drivers list; what is ``forced`` counts as idle.

    An instance without a device has no UUID, and gets a name that is none.
    """
    return [
        {
            "uuid": gpu.uuid,
            "index": gpu.index,
            "device_id": f"0x{gpu.device_id:04X}",
            "model": models[gpu.uuid].name,
            "mig_enabled": bool(gpu.mode),
            "busy": bool(gpu.pids or gpu.containers),
            "profiles": [
                {"name": each.name, "id": each.driver_id, "max": each.max_count, "starts": list(each.starts), "size": each.slots}
                for each in models[gpu.uuid].profiles
            ],
            "instances": [
                {
                    "profile": _canonical(models[gpu.uuid], each.profile),
                    "start": each.start,
                    "uuid": _planned_name(gpu, each),
                    "busy": each.busy and not set(each.uuids) & set(forced),
                }
                for each in gpu.instances
            ],
        }
        for gpu in gpus
        if gpu.uuid in models
    ]


def fleet_pins(gpus: t.Iterable[Gpu], models: t.Mapping[str, Model], pinned: t.Iterable[str]) -> list[str]:
    """What is pinned in the names of ``fleet``, which has one for an instance with several devices, and no GPU without MIG."""
    known = {uuid: _planned_name(gpu, each) for gpu in gpus for each in gpu.instances for uuid in each.uuids}
    outside = {gpu.uuid for gpu in gpus} - set(models)
    return [known.get(uuid, uuid) for uuid in pinned if uuid not in outside]


def _planned_name(gpu: Gpu, instance: Instance) -> str:
    return instance.uuid or f"{gpu.uuid}/{instance.id}"


def now(gpu: Gpu) -> tuple[Placement, ...] | None:
    """What is on a GPU, None where MIG is off."""
    return placed(gpu) if gpu.mode else None


def difference(items: t.Sequence[Work], models: t.Mapping[str, Model]) -> str:
    """The changes in human terms, a line a GPU: ``GPU 0: 7g.80gb → 3g.40gb@4 + 4×1g.10gb@0-3``."""
    lines = []
    for item in items:
        if item.needed:
            model = models.get(item.gpu.uuid)
            mended = f" (new device for {', '.join(str(instance) for instance in item.mend)})" if item.mend else ""
            lines.append(f"GPU {item.gpu.index}: {describe(now(item.gpu), model)} → {describe(item.wanted, model)}{mended}\n")
    return "".join(lines)


def draw(gpu: Gpu, model: Model | None, wanted: t.Sequence[Placement] | None | t.Literal["same"] = "same") -> str:
    """A GPU's memory slots as they are and, where that differs, as they are wanted; a busy instance has a star."""
    title = f"GPU {gpu.index}  {gpu.name}  {gpu.uuid}"
    if model is None:
        return f"{title}\n  no MIG\n"
    before = now(gpu)
    busy = {instance.start for instance in gpu.instances if instance.busy}
    lines = [title, f"  now     {_bar(model, before, busy)}"]
    if wanted != "same" and (None if wanted is None else tuple(sorted(wanted))) != (None if before is None else tuple(sorted(before))):
        kept = {each.start for each in set(wanted or ()) & set(before or ())}
        lines.append(f"  planned {_bar(model, wanted, busy & kept)}")
    return "\n".join(lines) + "\n"


def _bar(model: Model, placements: t.Sequence[Placement] | None, busy: t.Collection[int]) -> str:
    if placements is None:
        return "MIG off" if not busy else "MIG off *"
    # Wide enough for the longest name in its slots.
    width = max(-(-(len(profile.name) + 3) // profile.slots) for profile in model.profiles)
    text, slot = "", 0
    for placement in sorted(placements):
        text += "".join(f"[{'·' * (width - 2)}]" for _ in range(slot, placement.start))
        slots = model.profile(placement.profile).slots
        text += "[" + (placement.profile + ("*" if placement.start in busy else "")).ljust(width * slots - 2) + "]"
        slot = placement.start + slots
    return text + "".join(f"[{'·' * (width - 2)}]" for _ in range(slot, model.slots))
