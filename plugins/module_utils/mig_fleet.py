"""GPUs, the instances on them, and what is wanted: as plain data comes in, checked."""

from __future__ import annotations

import dataclasses
import typing as t

from .mig_geometry import Model, Placement, Profile, model, why_illegal


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
        listed = _items(item.get("instances"), f"{where}.instances")
        instances = tuple(_instance(each, which, f"{where}.instances[{at}]") for at, each in enumerate(listed))
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
    value = item.get(name)
    if value is None and default is not None:
        return default
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
            number_of, most, size = (_number(each, name, at, least) for name, least in (("id", 0), ("max", 1), ("size", 1)))
            profiles.append(Profile.from_driver(_text(each, "name", at), number_of, most, starts, size))
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
