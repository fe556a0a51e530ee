#!/usr/bin/python
"""A host's GPUs and their MIG instances."""

DOCUMENTATION = r"""
module: mig_info
short_description: Read the GPUs of a host, their MIG instances, and who has them
version_added: 0.1.0
description:
  - Reads C(nvidia-smi) and the Docker engine. Changes nothing.
  - An instance is busy while a process runs on it or a container was given it.
options:
  whole_gpus:
    description: Whether a GPU without MIG is a resource of Swarm too.
    type: bool
    default: true
  engine_socket:
    description: The Docker engine's socket.
    type: path
    default: /run/docker.sock
attributes:
  check_mode:
    description: Reads as always.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Look at the GPUs
  metalhub.platform.mig_info:
  register: mig

- name: Show them
  ansible.builtin.debug:
    msg: "{{ mig.drawing }}"
"""

RETURN = r"""
fleet:
  description: The GPUs with MIG, and the profiles that their drivers list, as the filter P(metalhub.platform.mig_plan#filter) takes them.
  returned: success
  type: list
  elements: dict
gpus:
  description:
    - Each GPU with C(uuid), C(index), C(name), C(device_id) (such as C(0x2330)), C(mig_capable), C(mig_enabled), C(mig_pending), C(busy),
      C(users), and C(instances), each of them with C(profile), C(start), C(uuid), C(busy) and C(users).
  returned: success
  type: list
  elements: dict
drawing:
  description: The GPUs' memory slots and what is in them, as text.
  returned: success
  type: str
resources:
  description: What Swarm can reserve here, each C(KIND=uuid).
  returned: success
  type: list
  elements: str
sessions:
  description: The running containers that are sessions.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils import mig_apply, mig_host, mig_smi  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.engine_api import Engine, EngineError  # noqa: E402


def main() -> None:
    """Parse, read, exit."""
    module = AnsibleModule(
        argument_spec={
            "whole_gpus": {"type": "bool", "default": True},
            "engine_socket": {"type": "path", "default": "/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    try:
        gpus = mig_smi.read(mig_host.run)
        models = mig_smi.models(mig_host.run, gpus)
        held, sessions = mig_host.containers(Engine(module.params["engine_socket"]))
    except (mig_smi.SmiError, EngineError) as error:
        module.fail_json(msg=str(error))
    gpus = mig_smi.with_containers(gpus, held)
    module.exit_json(
        changed=False,
        fleet=mig_apply.fleet(gpus, models),
        gpus=[mig_apply.as_dict(gpu) for gpu in gpus],
        drawing="".join(mig_apply.draw(gpu, models.get(gpu.uuid)) for gpu in gpus),
        resources=mig_host.resources(gpus, module.params["whole_gpus"]),
        sessions=sessions,
    )


if __name__ == "__main__":
    main()
