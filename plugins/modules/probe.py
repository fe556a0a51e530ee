#!/usr/bin/python
"""Documentation of the action `metalhub.platform.probe`."""

DOCUMENTATION = r"""
module: probe
short_description: Read cheap facts off a host with a shell script
version_added: 0.1.0
description:
  - Runs a POSIX shell script on the host in one round trip, without starting Python there, and returns the C(key=value)
    lines that it printed. A role guards its rare work with it.
  - The script must only read. It runs in check mode too.
options:
  script:
    description: The script. Each line that it prints is C(key=value).
    type: str
    required: true
  sensitive:
    description: Whether what it prints is secret and must be kept out of the logs.
    type: bool
    default: false
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
- name: See whether the host is in the swarm
  metalhub.platform.probe:
    script: |
      echo "state=$(docker info --format '{{ '{{' }}.Swarm.LocalNodeState{{ '}}' }}' 2>/dev/null)"
  register: __docker_state
"""

RETURN = r"""
facts:
  description: The lines, by key; every value is text.
  returned: success
  type: dict
  sample: {state: active}
"""
