"""What has to happen so that a host is the Swarm node that the inventory wants."""

from __future__ import annotations

import dataclasses
import typing as t

# The label of a node that an administrator took out of service by hand, with who it was.
HELD = "metalhub.drain"


class SwarmRefusal(ValueError):
    """The wanted state would put a running cluster at risk; the message says what to do instead."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node as a manager knows it. ``state`` is ready, down, unknown or disconnected."""

    id: str
    hostname: str
    address: str
    role: str
    state: str
    availability: str
    labels: t.Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Host:
    """A host's own view: the engine's LocalNodeState, its node id, whether it manages, and what the inventory wants of it.

    A label that is wanted as None has to go; labels that are not named are left alone, other roles may own them.
    """

    name: str
    hostname: str
    address: str
    local_state: str
    node_id: str
    manages: bool
    role: str
    availability: str
    labels: t.Mapping[str, str | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do about a host.

    ``membership`` is keep, join or rejoin (leave the old swarm first; the first member of a new swarm makes it), ``update`` asks
    for a change of the node's entry, ``stale`` are the ids of dead entries that bear the host's name.
    """

    membership: str
    update: bool
    stale: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether anything has to be done."""
        return self.membership != "keep" or self.update or bool(self.stale)


def quorum_problem(managers: t.Sequence[str]) -> str | None:
    """Say what is wrong with a list of managers; None for 1, 3 or 5 different ones."""
    if len(set(managers)) != len(managers):
        return f"a manager is named twice in {list(managers)}"
    if len(managers) not in (1, 3, 5):
        return f"a Swarm needs 1, 3 or 5 managers to have a clear majority, and there are {len(managers)}: {list(managers)}"
    return None


def merge_labels(known: t.Mapping[str, str], wanted: t.Mapping[str, str | None]) -> dict[str, str]:
    """The labels of a node once the wanted ones are set and those wanted as None are gone."""
    merged = {key: value for key, value in known.items() if wanted.get(key, "") is not None}
    return merged | {key: value for key, value in wanted.items() if value is not None}


def availability(wanted: str, now: str, labels: t.Mapping[str, str]) -> str:
    """What a node's availability is to be: one that an administrator took out of service is not put back by the way."""
    return now if wanted == "active" and HELD in labels else wanted


def plan(host: Host, nodes: t.Sequence[Node] | None, replace: bool = False) -> Plan:
    """Decide what a host needs, given the nodes of the cluster (None: no manager answers, so there is no cluster to see).

    ``replace`` allows a host that manages another swarm to leave it. Raises SwarmRefusal where that would destroy one.
    """
    member = host.local_state != "inactive"
    if nodes is None:
        if member and not replace:
            raise SwarmRefusal(
                f"{host.name} belongs to a swarm (node {host.node_id or 'unknown'}, state {host.local_state}) none of whose managers "
                "in the inventory answers; a new swarm would end what runs there. Bring a majority of the managers back, or recover "
                "on one of them with `docker swarm init --force-new-cluster`, or set docker_swarm_replace to true"
            )
        return Plan("rejoin" if member else "join", True, ())
    entry = next((node for node in nodes if node.id == host.node_id), None) if host.node_id else None
    if entry is None and member and host.manages and not replace:
        raise SwarmRefusal(
            f"{host.name} manages another swarm (the managers of this one do not know its node {host.node_id}); set "
            "docker_swarm_replace to true to make it leave that swarm, which ends what runs there"
        )
    keeps = entry is not None and host.local_state in ("active", "pending")
    # The cluster keeps the entry of a node that was reinstalled or has left. Only a dead one may go, or one at this very
    # address, where no second node can be.
    stale = tuple(
        sorted(
            node.id
            for node in nodes
            if node.hostname == host.hostname
            and not (keeps and node.id == host.node_id)
            and (node.state == "down" or (not keeps and node.address == host.address))
        )
    )
    if not keeps:
        return Plan("rejoin" if member else "join", True, stale)
    assert entry is not None
    update = (
        entry.role != host.role
        or entry.availability != availability(host.availability, entry.availability, entry.labels)
        or merge_labels(entry.labels, host.labels) != dict(entry.labels)
    )
    return Plan("keep", update, stale)
