#!/usr/bin/python
"""Have images on a host before a session needs them."""

DOCUMENTATION = r"""
module: image_pull
short_description: Pull images that a host does not have
version_added: 0.1.0
description:
  - Pulls by the engine's API. Images pinned by digest that are there are not asked for again, so a registry that is down does no harm.
options:
  references:
    description: The images, pinned by their digests, all of one registry.
    type: list
    elements: str
    required: true
  username:
    description: Account that may pull.
    type: str
    default: pull
  password:
    description: Its password.
    type: str
    required: true
attributes:
  check_mode:
    description: Says what it would pull.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Pull
  metalhub.platform.image_pull:
    references: ["10.0.0.5:5000/lab@sha256:…"]
    password: "{{ password }}"
"""

RETURN = r"""
pulled:
  description: The images that were not there.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.engine_api import EngineError  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.image_engine import ImageEngine  # noqa: E402


def main():
    module = AnsibleModule(
        argument_spec={
            "references": {"type": "list", "elements": "str", "required": True},
            "username": {"type": "str", "default": "pull"},
            "password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    references = module.params["references"]
    registry = references[0].partition("/")[0] if references else ""
    engine = ImageEngine(registry, module.params["username"], module.params["password"])
    try:
        missing = [reference for reference in references if not engine.has(reference)]
        if not module.check_mode:
            for reference in missing:
                engine.pull(reference)
    except EngineError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(missing), pulled=missing)


if __name__ == "__main__":
    main()
