#!/usr/bin/python
"""Documentation of the action `metalhub.platform.host_facts`."""

DOCUMENTATION = r"""
module: host_facts
short_description: Read the few facts that the platform decides by
version_added: 0.1.0
description:
  - Reads distribution, kernel, size, networks and clock of a host in one round trip, without starting Python's facts there.
  - Register it as C(metalhub_host), once at the start of a playbook; the roles of the platform read that.
options: {}
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
- name: Look at the host
  metalhub.platform.host_facts:
  register: metalhub_host
"""

RETURN = r"""
os_id:
  description: Distribution, as C(ID) of C(/etc/os-release).
  returned: success
  type: str
  sample: debian
os_version:
  description: Version of the distribution, as C(VERSION_ID); empty where the release has none.
  returned: success
  type: str
  sample: "13"
os_major:
  description: First number of the version.
  returned: success
  type: int
  sample: 13
os_codename:
  description: Code name of the release.
  returned: success
  type: str
  sample: trixie
os_name:
  description: The distribution's name for people.
  returned: success
  type: str
  sample: Debian GNU/Linux 13 (trixie)
os_family:
  description: C(debian), C(redhat) or C(unknown).
  returned: success
  type: str
  sample: debian
hostname:
  description: Node name of the host.
  returned: success
  type: str
  sample: compute1
arch:
  description: Machine, as C(uname -m).
  returned: success
  type: str
  sample: x86_64
deb_arch:
  description: Architecture in the words of Debian, Docker and Go.
  returned: success
  type: str
  sample: amd64
kernel:
  description: Release of the running kernel.
  returned: success
  type: str
  sample: 6.12.48+deb13-amd64
python:
  description: Version of C(/usr/bin/python3); empty where there is none.
  returned: success
  type: str
  sample: 3.13.5
cpus:
  description: Processors online.
  returned: success
  type: int
  sample: 64
memory:
  description: Memory in bytes.
  returned: success
  type: int
  sample: 540977594368
disk_free:
  description: Free bytes under C(/var).
  returned: success
  type: int
  sample: 107374182400
cgroup:
  description: Version of the control groups, 1 or 2.
  returned: success
  type: int
  sample: 2
systemd:
  description: Whether systemd is PID 1.
  returned: success
  type: bool
  sample: true
gpus:
  description: NVIDIA devices of the display class on the PCI bus.
  returned: success
  type: int
  sample: 0
skew:
  description: Seconds by which the host's clock is ahead of the controller's.
  returned: success
  type: int
  sample: 0
primary_address:
  description: The IPv4 address on the interface of the default route.
  returned: success
  type: str
  sample: 10.20.0.11
networks:
  description: IPv4 networks of the main routing table without the default route; C(connected) ones have no gateway.
  returned: success
  type: list
  elements: dict
  sample: [{network: 10.20.0.0/24, interface: eth0, connected: true}]
addresses:
  description: Addresses with their prefix lengths, by interface.
  returned: success
  type: list
  elements: dict
  sample: [{interface: eth0, address: 10.20.0.11/24}]
"""
