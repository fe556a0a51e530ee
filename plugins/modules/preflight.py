#!/usr/bin/python
"""Documentation of the action `metalhub.platform.preflight`."""

DOCUMENTATION = r"""
module: preflight
short_description: Check what the inventory says, for all hosts at once
version_added: 0.1.0
description:
  - Reads the platform's variables of all hosts of the inventory, and the facts that C(metalhub.platform.host_facts) left in
    C(metalhub_host), and fails with one message that lists all that is wrong.
  - Runs on the controller, connects to nothing and changes nothing. Use it with C(run_once).
options:
  ignore:
    description: Patterns of variables that look like the platform's and belong to something else.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Runs in check mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Check what the inventory says, for all hosts
  metalhub.platform.preflight:
  run_once: true
"""

RETURN = r"""
msg:
  description: All that is wrong, each with its variable, value, host, what is legal, and where it is written.
  returned: always
  type: str
  sample: Nothing is wrong with 3 host(s).
"""
