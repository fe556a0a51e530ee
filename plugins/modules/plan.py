#!/usr/bin/python
"""Documentation of the action `metalhub.platform.plan`."""

DOCUMENTATION = r"""
module: plan
short_description: Say in words what the inventory means
version_added: 0.1.0
description:
  - Prints hosts and what each does, pools, profiles and where they can run, networks, images and quotas, and what is wrong as far
    as that can be known without asking a host.
  - Runs on the controller and connects to nothing, unless O(runtime) names a file. Use it with C(run_once).
options:
  ignore:
    description: Patterns of variables that look like the platform's and belong to something else.
    type: list
    elements: str
    default: []
  page:
    description: A file on the controller to which the plan is also written, as an HTML page; empty for none.
    type: path
    default: ""
  runtime:
    description:
      - The file on the task's host, which is the control host, in which the hub keeps what administrators changed of profiles at runtime;
        empty for none. What the next converge does with each change is told, and where a host does not answer, that.
    type: path
    default: ""
attributes:
  check_mode:
    description: Prints as ever and writes no page.
    support: full
  diff_mode:
    description: Shows no difference.
    support: none
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Say what the inventory means
  metalhub.platform.plan:
    page: plan.html
  run_once: true
"""

RETURN = r""" # """
