#!/usr/bin/python
"""Documentation of the action `metalhub.platform.settled`."""

DOCUMENTATION = r"""
module: settled
short_description: Say whether a host answers as in the last run that changed nothing
version_added: 0.1.0
description:
  - What a run decides follows from the files and variables on the controller and from the answers of the hosts. When a run changed
    nothing, the callback P(metalhub.platform.settled#callback) keeps what it asked each host and a digest of each answer.
  - This asks all of it again in one round trip. Where the controller's side is the same too, and every host answers the same, the
    rest of the playbook would change nothing, and can be left out.
  - Anything that is not certain counts as different. So do limits, tags, and a record older than a day.
attributes:
  check_mode:
    description: Asks as usual.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Ask every host what the last run asked
  metalhub.platform.settled:
  register: __settled

- name: Take note when nothing differs on any host
  ansible.builtin.set_fact:
    metalhub_settled: "{{ ansible_play_hosts_all | map('extract', hostvars, ['__settled', 'settled']) | min }}"
  run_once: true
"""

RETURN = r"""
settled:
  description: Whether there is a record that holds on the controller's side, and the host's answers are the same.
  returned: success
  type: bool
differs:
  description: The names of the tasks whose question had another answer.
  returned: success
  type: list
  elements: str
"""
