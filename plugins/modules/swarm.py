#!/usr/bin/python
"""Membership of an engine in a swarm, and the swarm's own settings."""

DOCUMENTATION = r"""
module: swarm
short_description: Make a Docker swarm, join it, leave it, or set its settings
version_added: 0.1.0
description:
  - Talks to the engine's local socket with Python's standard library alone. The join token travels in the body of a request,
    never in an argument list.
options:
  state:
    description:
      - C(initialized) makes a swarm of one manager unless the host is in a swarm.
      - C(joined) joins one unless the host is in a swarm, and waits until it is taken in.
      - C(absent) leaves, by force, which ends the sessions there.
      - C(configured) brings O(spec) about; the host must be a manager.
    type: str
    choices: [initialized, joined, absent, configured]
    required: true
  advertise_address:
    description: The address at which the other nodes reach this one.
    type: str
  data_path_address:
    description: The address for the overlay networks' traffic. Default is O(advertise_address).
    type: str
  listen_address:
    description: Address and port on which a manager listens.
    type: str
    default: 0.0.0.0:2377
  remote_addresses:
    description: Managers to join, each an address with a port.
    type: list
    elements: str
    default: []
  join_token:
    description: The token to join with.
    type: str
  address_pools:
    description: Networks of which overlay networks are cut, for a new swarm.
    type: list
    elements: str
    default: []
  spec:
    description: Settings of the swarm as the engine's API names them; what is not named stays.
    type: dict
    default: {}
  timeout:
    description: Seconds to wait for a node to be taken in.
    type: int
    default: 60
attributes:
  check_mode:
    description: Says what it would do.
    support: full
  diff_mode:
    description: Shows the state or the settings before and after.
    support: full
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Make the swarm
  metalhub.platform.swarm:
    state: initialized
    advertise_address: 10.0.0.5
"""

RETURN = r"""
node_id:
  description: The id of the host's node, empty outside a swarm.
  returned: success
  type: str
"""

import time  # noqa: E402
import typing as t  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.engine_api import Engine, EngineError  # noqa: E402


def merged(known: t.Any, wanted: t.Any) -> t.Any:
    """``known`` with the values of ``wanted``, mapping by mapping."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        return {**known, **{key: merged(known.get(key), value) for key, value in wanted.items()}}
    return wanted


def wait_until_taken_in(engine: Engine, seconds: float) -> dict[str, t.Any]:
    """Return the engine's swarm state once it is active. Raises EngineError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        swarm: dict[str, t.Any] = engine.request("GET", "/info")["Swarm"]
        if swarm["LocalNodeState"] == "active":
            return swarm
        if time.monotonic() > deadline:
            raise EngineError(
                f"the node is still {swarm['LocalNodeState']} after {seconds:.0f} s: {swarm.get('Error') or 'no reason given'}; "
                "look at ports 2377/tcp and 7946 between the hosts, and at their clocks"
            )
        time.sleep(0.2)


def configure(engine: Engine, module: AnsibleModule) -> dict[str, t.Any]:
    """Bring the swarm's settings about; several tries, since a cluster may change in between."""
    for attempt in range(5):
        cluster = engine.request("GET", "/swarm")
        wanted = merged(cluster["Spec"], module.params["spec"])
        if wanted == cluster["Spec"]:
            return {"changed": False}
        result = {"changed": True, "diff": {"before": cluster["Spec"], "after": wanted}}
        if module.check_mode:
            return result
        try:
            engine.request("POST", f"/swarm/update?version={cluster['Version']['Index']}", wanted)
            return result
        except EngineError as error:
            if "out of sequence" not in str(error) or attempt == 4:
                raise
            time.sleep(0.2)
    raise AssertionError("unreachable")


def membership(engine: Engine, module: AnsibleModule) -> dict[str, t.Any]:
    """Bring membership about."""
    parameters = module.params
    try:
        swarm = engine.request("GET", "/info")["Swarm"]
    except EngineError as error:
        if not module.check_mode or error.status:
            raise
        # A check of a host that has no engine yet.
        swarm = {"LocalNodeState": "inactive", "NodeID": ""}
    inside = swarm["LocalNodeState"] != "inactive"
    if inside == (parameters["state"] != "absent"):
        return {"changed": False, "node_id": swarm["NodeID"]}
    result = {
        "changed": True,
        "node_id": "",
        "diff": {"before": {"state": swarm["LocalNodeState"]}, "after": {"state": "inactive" if inside else "active"}},
    }
    if module.check_mode:
        return result
    body = {
        "ListenAddr": parameters["listen_address"],
        "AdvertiseAddr": parameters["advertise_address"],
        "DataPathAddr": parameters["data_path_address"] or parameters["advertise_address"],
    }
    if parameters["state"] == "absent":
        engine.request("POST", "/swarm/leave?force=true")
        return result
    if parameters["state"] == "initialized":
        pools = {"DefaultAddrPool": parameters["address_pools"], "SubnetSize": 24} if parameters["address_pools"] else {}
        engine.request("POST", "/swarm/init", {**body, **pools, "Spec": parameters["spec"]})
    else:
        try:
            engine.request(
                "POST",
                "/swarm/join",
                {**body, "RemoteAddrs": parameters["remote_addresses"], "JoinToken": parameters["join_token"]},
            )
        except EngineError as error:
            # The engine gives up waiting after 20 s but goes on trying in the background.
            if "Timeout was reached" not in str(error):
                raise
    result["node_id"] = wait_until_taken_in(engine, parameters["timeout"])["NodeID"]
    return result


def main() -> None:
    """Parse, do, exit."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["initialized", "joined", "absent", "configured"], "required": True},
            "advertise_address": {"type": "str"},
            "data_path_address": {"type": "str"},
            "listen_address": {"type": "str", "default": "0.0.0.0:2377"},
            "remote_addresses": {"type": "list", "elements": "str", "default": []},
            "join_token": {"type": "str", "no_log": True},
            "address_pools": {"type": "list", "elements": "str", "default": []},
            "spec": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 60},
        },
        required_if=[
            ("state", "initialized", ["advertise_address"]),
            ("state", "joined", ["advertise_address", "remote_addresses", "join_token"]),
        ],
        supports_check_mode=True,
    )
    engine = Engine(timeout=90)
    try:
        result = configure(engine, module) if module.params["state"] == "configured" else membership(engine, module)
    except EngineError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
