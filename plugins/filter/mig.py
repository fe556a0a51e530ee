"""MIG in templates: plans, layouts, mig-parted's format and Swarm's resources. Documentation is in the YAML file of each filter."""

from __future__ import annotations

import time
import typing as t

import yaml
from ansible_collections.metalhub.platform.plugins.module_utils import mig_fleet, mig_geometry, mig_parted, mig_resources, mig_search
from ansible_collections.metalhub.platform.plugins.module_utils import mig_plan as planner
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing


def mig_plan(gpus: t.Any, wanted: t.Any, pinned: t.Any = (), time_limit: float | None = None) -> dict[str, t.Any]:
    """The best plan for GPUs, as plain data."""
    fleet, requests, pins = mig_fleet.gpus_from(gpus), mig_fleet.requests_from(wanted), mig_fleet.pins_from(pinned)
    return planner.plan(fleet, requests, pins, time_limit, time.monotonic).as_dict()


def mig_layouts(model: t.Any) -> list[dict[str, t.Any]]:
    """All layouts of a model to which nothing can be added."""
    which = mig_geometry.model(model)
    shape = mig_search.shape_of(which)
    found = []
    for layout in mig_geometry.maximal_layouts(which):
        names = [place.profile for place in layout]
        profiles = [shape.by_name[name] for name in names]
        found.append(
            {
                "layout": [{"profile": place.profile, "start": place.start} for place in layout],
                "profiles": {name: names.count(name) for name in dict.fromkeys(names)},
                "waste": {
                    "compute": which.compute - sum(profile.compute for profile in profiles),
                    "memory": which.slots - sum(profile.slots for profile in profiles),
                },
            }
        )
    return found


def mig_parted_document(data: t.Any, gpus: t.Any = None, config: str = "current") -> dict[str, t.Any]:
    """Read a document of mig-parted (text, or a mapping with a version), or write one from GPUs or a plan."""
    text = isinstance(data, str)
    if text:
        try:
            data = yaml.safe_load(data)
        except yaml.YAMLError as error:
            raise ValueError(f"mig-parted: this is not YAML: {error}") from error
    if text or (isinstance(data, t.Mapping) and "gpus" not in data):
        return dict(mig_parted.layouts(data, mig_fleet.gpus_from(gpus), config))
    if not isinstance(data, t.Mapping):
        fleet = mig_fleet.gpus_from(data)
        ends = {gpu.uuid: [each.profile for each in gpu.instances] if gpu.mig_enabled else None for gpu in fleet}
        return mig_parted.document(fleet, ends, config)
    fleet = mig_fleet.gpus_from(gpus)
    planned = {each["uuid"]: each for each in data["gpus"]}
    for gpu in fleet:
        if gpu.uuid not in planned:
            raise ValueError(f"gpus: GPU {gpu.uuid} is not in the plan; give the GPUs that were planned")
    ends = {
        gpu.uuid: [place["profile"] for place in planned[gpu.uuid]["layout"]]
        if gpu.mig_enabled != planned[gpu.uuid]["mode_change"]
        else None
        for gpu in fleet
    }
    return mig_parted.document(fleet, ends, config)


def swarm_gpu_resources(gpus: t.Any) -> dict[str, t.Any]:
    """What the engine and the NVIDIA toolkit have to be told of GPUs and instances."""
    resources = mig_resources.generic_resources(mig_fleet.gpus_from(gpus))
    return {"node_generic_resources": resources, "swarm_resource": mig_resources.swarm_resource(resources)}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name, without the collection's."""
        return {
            "mig_layouts": refusing(mig_layouts),
            "mig_parted": refusing(mig_parted_document),
            "mig_plan": refusing(mig_plan),
            "swarm_gpu_resources": refusing(swarm_gpu_resources),
        }
