"""What a release of the NVIDIA container toolkit can do for sessions that Swarm placed."""

from __future__ import annotations

import re

# 1.18 made just-in-time CDI the default, which did not read `swarm-resource` before 1.19.0 (its changelog, "Add docker swarm support
# to jit-cdi mode"): a session with a reservation would see no GPU.
OLDEST = (1, 19, 0)

_VERSION = re.compile(r"(?:\d+:)?(\d+)\.(\d+)(?:\.(\d+))?(~|[-.]?rc)?")


def release(version: str) -> tuple[int, int, int]:
    """The numbers of ``1.19.0-1`` or ``1.19.0~rc.2-1``; a candidate counts as the release before its own.

    Raises ValueError where there are none.
    """
    match = _VERSION.match(version)
    if match is None:
        raise ValueError(f"{version!r} is not a version of the NVIDIA container toolkit, such as 1.19.0-1")
    major, minor, patch, candidate = match.groups()
    numbers = (int(major), int(minor), int(patch or 0))
    return (numbers[0], numbers[1], numbers[2] - 1) if candidate else numbers


def refusal(version: str, mode: str, cgroup_driver: str) -> str | None:
    """Say why a release in a mode cannot serve sessions on an engine with a cgroup driver (empty: not known); None where it can.

    In legacy mode a hook opens devices behind systemd's back, and systemd closes them at its next daemon-reload, which every
    change of a unit brings (NVIDIA/nvidia-container-toolkit#48). The other modes put them into the container's own configuration.
    Raises ValueError for a version that cannot be read.
    """
    if release(version) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return f"the NVIDIA container toolkit is {version}, wanted is {wanted} or newer, which gives a session what Swarm reserved for it"
    if mode == "legacy" and cgroup_driver == "systemd":
        return (
            "nvidia_container_toolkit_mode is legacy and the engine's cgroup driver is systemd, whose next daemon-reload would take "
            "the GPU from running sessions; legal are auto, cdi and jit-cdi"
        )
    return None
