#!/usr/bin/python
"""Documentation of the action `metalhub.platform.packages`."""

DOCUMENTATION = r"""
module: packages
short_description: Make distribution packages present, at the cost of one look when they are
version_added: 0.1.0
description:
  - Looks with C(dpkg-query) or C(rpm) in one shell round trip, and runs M(ansible.builtin.apt) or M(ansible.builtin.dnf) only for
    what is missing. Recommended packages are not installed.
options:
  name:
    description: Names of real packages (not virtual ones), each with C(=version) where it is pinned; the version may be a glob.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Says what it would install.
    support: full
  diff_mode:
    description: The package manager's own.
    support: partial
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Install the tools
  metalhub.platform.packages:
    name: [nftables, btrfs-progs]
"""

RETURN = r"""
missing:
  description: The packages that were not there.
  returned: success
  type: list
  elements: str
"""
