"""Which sandbox a session gets, how its node is told, and which GPUs it may see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .names import mig_resource

SANDBOXES = ("gvisor", "kata", "nvidia", "runc")

# What the dispatching OCI runtime reads in a container's environment (roles/docker, oci-choose).
WISH = "METALHUB_SANDBOX"


def session_sandbox(pool: str, gpu: bool) -> str:
    """The sandbox of a session in a pool with the sandbox ``pool``: without a GPU, one of an nvidia pool is in gVisor.

    So one GPU server serves both kinds, and whoever needs no GPU is as well enclosed as elsewhere. Raises ValueError for an
    unknown sandbox.
    """
    if pool not in SANDBOXES:
        raise ValueError(f"{pool!r} is not a sandbox: one of {', '.join(SANDBOXES)}")
    return "gvisor" if pool == "nvidia" and not gpu else pool


def gpu_refusal(pool: str, profile: str) -> str | None:
    """Why a pool with the sandbox ``pool`` cannot give a MIG ``profile`` (empty: a whole GPU); None where it can.

    gVisor's nvproxy knows no MIG devices, and Kata passes whole devices through.
    """
    if pool == "nvidia":
        return None
    if profile and pool in ("gvisor", "kata"):
        return f"MIG slices do not work in the sandbox {pool}"
    return f"the sandbox {pool} offers no GPU"


def hibernation_refusal(sandbox: str, gpu: bool) -> str | None:
    """Why a session in a sandbox is never hibernated; None where it can be.

    A frozen program's memory goes to swap, page by page. What it has on a GPU stays there, pinned, and the driver does not expect it to be
    stopped in the middle of that; and a virtual machine's memory is no program's.
    """
    if gpu:
        return "a session with a GPU is not hibernated, because what it keeps on the GPU cannot be swapped"
    if sandbox == "kata":
        return "the sandbox kata is a machine of its own, which is not hibernated"
    return None


def gpu_resources(flavors: Iterable[Mapping[str, object]]) -> list[str]:
    """The Swarm resources that flavors ask for, GPU for whole ones, sorted. Raises ValueError for a bad MIG profile."""
    found = set()
    for flavor in flavors:
        gpu = flavor.get("gpu")
        if isinstance(gpu, Mapping):
            found.add(mig_resource(str(gpu["profile"])) if gpu.get("profile") else "GPU")
    return sorted(found)
