"""What the roles around NVIDIA's GPUs compute: adapters on the pure core."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.metalhub.platform.plugins.module_utils import nvidia_driver, nvidia_toolkit, sandboxes
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing


@refusing
def gpu_resources(flavors: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """The Swarm resources that flavors ask for."""
    return sandboxes.gpu_resources(flavors.values())


@refusing
def nvidia_toolkit_refusal(version: str, mode: str, cgroup_driver: str) -> str:
    """Why a release of the toolkit cannot serve sessions, empty where it can."""
    return nvidia_toolkit.refusal(version, mode, cgroup_driver) or ""


@refusing
def nvidia_driver_plan(facts: t.Mapping[str, t.Any], wish: t.Mapping[str, t.Any], name: str) -> dict[str, t.Any]:
    """What driver a host needs, by what its probe saw; an error says what cannot work."""
    debian = facts["id"] in ("debian", "ubuntu")
    host = nvidia_driver.Host(
        name=name,
        id=facts["id"],
        family="debian" if debian else "redhat",
        version=facts["version"],
        machine=facts["machine"],
        kernel=facts["kernel"],
        devices=nvidia_driver.parse_devices(facts["devices"]),
        switch_manager=facts["switch_manager"] == "true",
        secure_boot=facts["secure_boot"] == "true",
        runfile=facts["runfile"] == "true",
    )
    plan = nvidia_driver.plan(host, nvidia_driver.Wish(**{**wish, "packages": tuple(wish["packages"])}))
    return {**dataclasses.asdict(plan), "packages": list(plan.packages), "fabric_extra": list(plan.fabric_extra)}


@refusing
def nvidia_fabric_package(package: str, driver: str) -> str:
    """The Fabric Manager of a driver's version, with its pin."""
    return nvidia_driver.fabric_package(package, driver)


def nvidia_activation(installed: str, loaded: str, nouveau: bool) -> str:
    """What brings an installed module into use: empty, load or reboot."""
    return nvidia_driver.activation(loaded, installed, nouveau)


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Name the filters."""
        return {
            "gpu_resources": gpu_resources,
            "nvidia_activation": nvidia_activation,
            "nvidia_driver_plan": nvidia_driver_plan,
            "nvidia_fabric_package": nvidia_fabric_package,
            "nvidia_toolkit_refusal": nvidia_toolkit_refusal,
        }
