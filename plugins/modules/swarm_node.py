#!/usr/bin/python
"""One node's entry in a swarm, seen from a manager."""

DOCUMENTATION = r"""
module: swarm_node
short_description: Set a swarm node's role, availability and labels, or remove its entry
version_added: 0.1.0
description:
  - Runs on a manager. Labels that are not named stay; one with the value null is removed.
options:
  id:
    description: The node's id.
    type: str
    required: true
  state:
    description: Whether the entry is there. A manager is demoted before its entry is removed.
    type: str
    choices: [present, absent]
    default: present
  role:
    description: What the node is.
    type: str
    choices: [manager, worker]
  availability:
    description: >-
      Whether it takes tasks. A node that C(metalhub node drain) took out of service has the label C(metalhub.drain) and is not made
      active; C(metalhub node undrain) does that.
    type: str
    choices: [active, pause, drain]
  labels:
    description: Labels to set, by name.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says what it would do.
    support: full
  diff_mode:
    description: Shows the entry before and after.
    support: full
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Say what the node is for
  metalhub.platform.swarm_node:
    id: "{{ node_id }}"
    role: worker
    labels: {metalhub.pool: cpu}
"""

RETURN = r"""
spec:
  description: The entry's settings afterwards.
  returned: when the entry is present
  type: dict
"""

import time  # noqa: E402
import typing as t  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.engine_api import Engine, EngineError  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.swarm_plan import availability, merge_labels  # noqa: E402

_TRIES = 20


def update(engine: Engine, identifier: str, check_mode: bool, **wanted: t.Any) -> dict[str, t.Any]:
    """Bring a node's settings about. A node's entry changes by itself (heartbeats, status), so a lost race is tried again."""
    labels = {key: None if value is None else str(value) for key, value in wanted.pop("Labels", {}).items()}
    for attempt in range(_TRIES):
        node = engine.request("GET", f"/nodes/{identifier}")
        spec = node["Spec"]
        after = {**spec, **{key: value for key, value in wanted.items() if value is not None}}
        after["Availability"] = availability(after["Availability"], spec["Availability"], spec.get("Labels") or {})
        after["Labels"] = merge_labels(spec.get("Labels") or {}, labels)
        if after == {**spec, "Labels": spec.get("Labels") or {}}:
            return {"changed": False, "spec": spec}
        result = {"changed": True, "spec": after, "diff": {"before": spec, "after": after}}
        if check_mode:
            return result
        try:
            engine.request("POST", f"/nodes/{identifier}/update?version={node['Version']['Index']}", after)
            return result
        except EngineError as error:
            # The managers' quorum settles a moment after each of them that comes or goes.
            if not ("out of sequence" in str(error) or "loss of quorum" in str(error)) or attempt == _TRIES - 1:
                raise
            time.sleep(0.3)
    raise AssertionError("unreachable")


def remove(engine: Engine, identifier: str, check_mode: bool) -> dict[str, t.Any]:
    """Remove a node's entry; one that is not there is fine."""
    try:
        node = engine.request("GET", f"/nodes/{identifier}")
    except EngineError as error:
        if error.status == 404:
            return {"changed": False}
        raise
    before = {"hostname": node["Description"]["Hostname"], "state": node["Status"]["State"], "role": node["Spec"]["Role"]}
    result = {"changed": True, "diff": {"before": before, "after": {}}}
    if check_mode:
        return result
    if node["Spec"]["Role"] == "manager":
        update(engine, identifier, False, Role="worker")
    for attempt in range(_TRIES):
        try:
            engine.request("DELETE", f"/nodes/{identifier}?force=true")
            return result
        except EngineError as error:
            # A demoted manager is a member of the raft cluster for a moment longer.
            if error.status == 404:
                return result
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.5)
    raise AssertionError("unreachable")


def main() -> None:
    """Parse, do, exit."""
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "role": {"type": "str", "choices": ["manager", "worker"]},
            "availability": {"type": "str", "choices": ["active", "pause", "drain"]},
            "labels": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    engine = Engine()
    try:
        if parameters["state"] == "absent":
            result = remove(engine, parameters["id"], module.check_mode)
        else:
            result = update(
                engine,
                parameters["id"],
                module.check_mode,
                Role=parameters["role"],
                Availability=parameters["availability"],
                Labels=parameters["labels"],
            )
    except EngineError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
