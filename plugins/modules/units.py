#!/usr/bin/python
"""Documentation of the action `metalhub.platform.units`."""

DOCUMENTATION = r"""
module: units
short_description: Bring systemd units to a state, and restart those whose files changed since they started
version_added: 0.1.0
description:
  - Looks at all units in one shell round trip and changes only what differs.
  - A unit named in O(restart_on) or O(reload_on) is restarted or reloaded when one of its files was changed after it had
    started. This is held against the files on the host, not against what the run changed, so that a run which was
    killed between a file and its restart is mended by the next.
options:
  enabled:
    description: Units to enable and start.
    type: list
    elements: str
    default: []
  stopped:
    description: Units to stop and disable. One that the host does not have is fine.
    type: list
    elements: str
    default: []
  restart_on:
    description: Unit to the files, directories and globs on the host that it reads when it starts.
    type: dict
    default: {}
  reload_on:
    description: Unit to those that it reads again when it is reloaded.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says what it would do.
    support: full
  diff_mode:
    description: Lists the actions.
    support: full
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Run Traefik
  metalhub.platform.units:
    enabled: [metalhub-traefik.service]
    restart_on:
      metalhub-traefik.service: [/etc/metalhub/traefik/traefik.yml, /etc/systemd/system/metalhub-traefik.service]
"""

RETURN = r"""
actions:
  description: What was done (or would be), in order.
  returned: success
  type: list
  elements: str
  sample: [daemon-reload, restart metalhub-traefik.service]
"""
