"""What the roles around NVIDIA's GPUs compute: adapters on the pure core."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.metalhub.platform.plugins.module_utils import nvidia_toolkit, sandboxes


def gpu_resources(flavors: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """The Swarm resources that flavors ask for."""
    try:
        return sandboxes.gpu_resources(flavors.values())
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def nvidia_toolkit_refusal(version: str, mode: str, cgroup_driver: str) -> str:
    """Why a release of the toolkit cannot serve sessions, empty where it can."""
    try:
        return nvidia_toolkit.refusal(version, mode, cgroup_driver) or ""
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Name the filters."""
        return {
            "gpu_resources": gpu_resources,
            "nvidia_toolkit_refusal": nvidia_toolkit_refusal,
        }
