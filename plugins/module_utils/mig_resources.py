"""GPUs and MIG instances as Swarm's generic resources, so that a lease is a reservation."""

from __future__ import annotations

import re
import typing as t

from .mig_fleet import Gpu
from .names import mig_resource

WHOLE = "GPU"

_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9/._-]*", re.ASCII)


def generic_resources(gpus: t.Iterable[Gpu]) -> list[str]:
    """The engine's ``node-generic-resources``: ``GPU=<uuid>`` for a GPU without MIG, ``MIG_1G_10GB=<uuid>`` for an instance.

    A GPU with MIG switched on and no instance is none. Raises ValueError for a UUID that would read as something else there.
    """
    found = []
    for gpu in gpus:
        named = [(mig_resource(each.profile), each.uuid) for each in gpu.instances] if gpu.mig_enabled else [(WHOLE, gpu.uuid)]
        for kind, uuid in named:
            if not _UUID.fullmatch(uuid):
                raise ValueError(f"{uuid!r} is not the UUID of a GPU or an instance: letters, digits, '/', '.', '_' and '-'")
            found.append(f"{kind}={uuid}")
    return found


def swarm_resource(resources: t.Iterable[str]) -> str:
    """The NVIDIA toolkit's ``swarm-resource`` for such resources: the variables in which Swarm hands a task what it reserved."""
    kinds = dict.fromkeys(resource.partition("=")[0] for resource in resources)
    return ",".join(f"DOCKER_RESOURCE_{kind}" for kind in sorted(kinds, key=lambda kind: (kind != WHOLE, kind)))
