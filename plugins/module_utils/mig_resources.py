"""GPUs and MIG instances as Swarm's generic resources, so that a lease is a reservation."""

from __future__ import annotations

import re
import typing as t

from .mig_fleet import Gpu
from .mig_geometry import table_name
from .names import mig_resource, resource_variable

WHOLE = "GPU"

_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9/._-]*", re.ASCII)


def resource(profile: str | None, uuid: str) -> str:
    """A MIG device as its profile's kind, ``MIG_1G_10GB=<uuid>``, or without a profile a whole GPU, ``GPU=<uuid>``.

    Raises ValueError for a UUID that would read as something else there.
    """
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"{uuid!r} is not the UUID of a GPU or an instance: letters, digits, '/', '.', '_' and '-'")
    return f"{WHOLE if profile is None else mig_resource(profile)}={uuid}"


def generic_resources(gpus: t.Iterable[Gpu]) -> list[str]:
    """The engine's ``node-generic-resources``: GPUs without MIG, and instances. A GPU with MIG switched on and no instance is none.

    The kind is that of the table's name, so that drivers which round it otherwise offer the same.

    Raises ValueError as ``resource``.
    """
    found = []
    for gpu in gpus:
        if gpu.mig_enabled:
            found += [resource(table_name(gpu.model.device_ids, each.profile), each.uuid) for each in gpu.instances]
        else:
            found.append(resource(None, gpu.uuid))
    return found


def swarm_resource(resources: t.Iterable[str]) -> str:
    """The NVIDIA toolkit's ``swarm-resource`` for such resources: the variables in which Swarm hands a task what it reserved."""
    kinds = dict.fromkeys(resource.partition("=")[0] for resource in resources)
    return ",".join(resource_variable(kind) for kind in sorted(kinds, key=lambda kind: (kind != WHOLE, kind)))
