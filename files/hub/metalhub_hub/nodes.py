"""What an administrator is told of the nodes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import cluster


def rows(snapshot: cluster.Snapshot, drain: Callable[[str], object] = lambda node: None) -> list[dict[str, Any]]:
    """One a node, by name: its pool, whether it takes sessions, how many it has, and of each resource what is there and free.

    ``drain`` says of a node's id what an administrator decided of it.

    ``cpus`` count processors, ``memory`` bytes, ``gpus`` GPUs or slices by the kind that Swarm knows them by.
    """
    used = cluster.reservations(snapshot.tasks)
    found = []
    for key, node in snapshot.nodes.items():
        spec = node.get("Spec", {})
        labels = spec.get("Labels") or {}
        here = [task for task in snapshot.tasks if task.get("NodeID") == key and cluster.live(task)]
        have, taken = cluster.resources(node), used.get(key, {})
        free = {kind: max(0, amount - taken.get(kind, 0)) for kind, amount in have.items()}
        found.append(
            {
                "name": cluster.hostname(node),
                "address": cluster.node_address(node),
                "pool": str(labels.get("metalhub.pool", "")),
                "state": str(node.get("Status", {}).get("State", "unknown")),
                "availability": str(spec.get("Availability", "unknown")),
                "drain": drain(key),
                "manager": "ManagerStatus" in node,
                "network": labels.get("metalhub.network") == "ready",
                "sessions": sum("metalhub.session" in cluster.labels(task) for task in here),
                "cpus": {"total": have["cpu"] / 1e9, "free": round(free["cpu"] / 1e9, 3)},
                "memory": {"total": int(have["memory"]), "free": int(free["memory"])},
                "gpus": {kind: {"total": int(have[kind]), "free": int(free[kind])} for kind in sorted(have.keys() - {"cpu", "memory"})},
            }
        )
    return sorted(found, key=lambda row: str(row["name"]))
