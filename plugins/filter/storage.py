"""What the storage roles compute: adapters on the pure core."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.metalhub.platform.plugins.module_utils import storage_plan
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing


def systemd_unit_name(path: str, suffix: str = "mount") -> str:
    """Name of the unit of a path."""
    return storage_plan.unit_name(path, suffix)


def storage_refusal(settings: t.Mapping[str, t.Any], facts: t.Mapping[str, str]) -> str:
    """Why a storage host cannot be set up so, empty where it can."""
    return storage_plan.storage_refusal(settings, facts)


@refusing
def storage_mount_plan(mounts: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """The mount units of storage_mount_mounts; also lists the packages by distribution family in each."""
    plans = storage_plan.plan_mounts(mounts)
    return [
        {**dataclasses.asdict(plan), "packages": {family: storage_plan.packages([plan], family) for family in ("debian", "redhat")}}
        for plan in plans
    ]


class FilterModule:
    """Ansible's entry."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Filters by name."""
        return {
            "storage_mount_plan": storage_mount_plan,
            "storage_refusal": storage_refusal,
            "systemd_unit_name": systemd_unit_name,
        }
