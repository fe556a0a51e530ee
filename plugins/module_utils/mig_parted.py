"""NVIDIA mig-parted's configuration format, read and written.

The format is that of github.com/NVIDIA/mig-parted, ``api/spec/v1``: named configurations, each a list of entries (devices, an
optional filter of device ids, the mode, and how many of each profile), which are applied one after the other.
"""

from __future__ import annotations

import collections
import functools
import typing as t

from .mig_fleet import Gpu
from .mig_geometry import NVIDIA_VENDOR, Model, all_layouts, device_id

VERSION = "v1"

_FIELDS = {"devices", "device-filter", "mig-enabled", "mig-devices"}


def configurations(document: t.Any) -> dict[str, list[t.Mapping[str, t.Any]]]:
    """The configurations of a document, checked. Raises ValueError with the place, the value and what is legal."""
    if not isinstance(document, t.Mapping) or document.get("version") != VERSION:
        version = document.get("version") if isinstance(document, t.Mapping) else document
        raise ValueError(f"mig-parted: version {version!r} is not known; a document of version {VERSION} has mig-configs")
    configs = document.get("mig-configs")
    if not isinstance(configs, t.Mapping) or not configs or set(document) - {"version", "mig-configs"}:
        raise ValueError("mig-parted: mig-configs has to be a mapping of names to lists, and nothing else beside the version")
    return {
        str(name): [_entry(each, f"mig-parted: {name}[{at}]") for at, each in enumerate(_list(entries, name))]
        for name, entries in configs.items()
    }


def _whole(value: t.Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list(entries: t.Any, name: t.Any) -> t.Sequence[t.Any]:
    if not isinstance(entries, (list, tuple)) or not entries:
        raise ValueError(f"mig-parted: {name} has to be a list with at least one entry")
    return entries


def _entry(entry: t.Any, where: str) -> t.Mapping[str, t.Any]:
    if not isinstance(entry, t.Mapping) or set(entry) - _FIELDS:
        raise ValueError(f"{where}: an entry has devices, mig-enabled, mig-devices and device-filter, and no other field")
    devices, enabled = entry.get("devices"), entry.get("mig-enabled")
    if devices != "all" and not (isinstance(devices, (list, tuple)) and all(_whole(each) for each in devices)):
        raise ValueError(f"{where}.devices: {devices!r} is neither all nor a list of GPU numbers")
    if not isinstance(enabled, bool):
        raise ValueError(f"{where}.mig-enabled: {enabled!r} is neither true nor false")
    counts = entry.get("mig-devices")
    if enabled and not isinstance(counts, t.Mapping):
        raise ValueError(f"{where}.mig-devices: it has to be a mapping of profiles to counts where mig-enabled is true")
    if not enabled and counts:
        raise ValueError(f"{where}.mig-devices: {dict(counts)!r} cannot be where mig-enabled is false")
    for profile, count in (counts or {}).items():
        if not _whole(count) or count < 0:
            raise ValueError(f"{where}.mig-devices: {count!r} of {profile} is not a count: 0 or more")
        if "c." in str(profile):
            raise ValueError(f"{where}.mig-devices: {profile!r} divides an instance into compute instances, which is not supported")
    _filters(entry.get("device-filter"), where)
    return entry


def _filters(value: t.Any, where: str) -> list[int]:
    """The device ids of a filter; a part after a colon, for one board of a GPU, says nothing of its geometry and is left out."""
    values = [value] if isinstance(value, str) and value else [] if value in (None, "") else value
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{where}.device-filter: {value!r} is neither a device id such as 0x233010DE nor a list of them")
    found = []
    for each in values:
        number = device_id(str(each).partition(":")[0])
        if number is None:
            raise ValueError(f"{where}.device-filter: {each!r} is not a device id such as 0x233010DE")
        found.append(number)
    return found


@functools.lru_cache(maxsize=64)
def _possible(which: Model) -> frozenset[frozenset[tuple[str, int]]]:
    """How many of each profile a GPU can have at once."""
    return frozenset(frozenset(collections.Counter(place.profile for place in layout).items()) for layout in all_layouts(which))


def layouts(document: t.Any, gpus: t.Sequence[Gpu], config: str) -> dict[str, dict[str, int] | None]:
    """What a named configuration wants of GPUs: by UUID the number of each profile, None where MIG is to be off.

    A GPU that no entry names is not in the result. Of several entries that name a GPU the last one counts, as it does for
    mig-parted, which applies them in turn. Raises ValueError for an unknown configuration, a bad document, or counts that do not fit.
    """
    configs = configurations(document)
    if config not in configs:
        raise ValueError(f"mig-parted: there is no configuration {config!r}; there are {', '.join(configs)}")
    found: dict[str, dict[str, int] | None] = {}
    for at, entry in enumerate(configs[config]):
        where = f"mig-parted: {config}[{at}]"
        only = _filters(entry.get("device-filter"), where)
        for gpu in gpus:
            if only and not set(only) & set(gpu.model.device_ids):
                continue
            if entry["devices"] != "all" and gpu.index not in entry["devices"]:
                continue
            if not entry["mig-enabled"]:
                found[gpu.uuid] = None
                continue
            counts: dict[str, int] = {}
            for name, count in entry["mig-devices"].items():
                try:
                    profile = gpu.model.profile(str(name))
                except ValueError as error:
                    raise ValueError(f"{where}: GPU {gpu.index}: {error}") from error
                if count:
                    counts[profile.name] = counts.get(profile.name, 0) + count
            for name, count in counts.items():
                most = gpu.model.profile(name).max_count
                if count > most:
                    raise ValueError(f"{where}: GPU {gpu.index}: {count} of {name} are more than the {most} that {gpu.model.name} can have")
            if frozenset(counts.items()) not in _possible(gpu.model):
                raise ValueError(f"{where}: GPU {gpu.index}: {dict(counts)} do not fit on one {gpu.model.name} together")
            found[gpu.uuid] = counts
    return found


def document(gpus: t.Sequence[Gpu], ends: t.Mapping[str, t.Sequence[str] | None], config: str) -> dict[str, t.Any]:
    """A document with one configuration: ``ends`` are the profiles on each GPU by UUID, None where MIG is off.

    GPUs that end alike share an entry; a filter by device id is written where the models differ. Raises ValueError where two models
    share numbers, which the GPUs of several hosts do: a document describes one host.
    """
    numbers = [gpu.index for gpu in gpus]
    for number in numbers:
        if numbers.count(number) > 1:
            raise ValueError(f"mig-parted: two GPUs have the number {number}; a document describes the GPUs of one host")
    alike: dict[tuple[tuple[int, ...], tuple[str, ...] | None], list[Gpu]] = {}
    for gpu in gpus:
        profiles = ends[gpu.uuid]
        alike.setdefault((gpu.model.device_ids, None if profiles is None else tuple(sorted(profiles))), []).append(gpu)
    several = len({gpu.model.device_ids for gpu in gpus}) > 1
    entries = []
    for (devices, profiles), members in alike.items():
        whole = sum(gpu.model.device_ids == devices for gpu in gpus) == len(members)
        entry: dict[str, t.Any] = {}
        if several and devices:
            entry["device-filter"] = [f"0x{device:04X}{NVIDIA_VENDOR:04X}" for device in devices]
        entry["devices"] = "all" if whole and (not several or devices) else sorted(gpu.index for gpu in members)
        entry["mig-enabled"] = profiles is not None
        if profiles is not None:
            entry["mig-devices"] = {name: profiles.count(name) for name in dict.fromkeys(profiles)}
        entries.append(entry)
    return {"version": VERSION, "mig-configs": {config: entries}}
