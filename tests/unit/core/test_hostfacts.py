"""Facts from a transcript of the script on a Debian 13 host, and the script itself on this machine."""

from __future__ import annotations

import subprocess
import time

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.hostfacts import SCRIPT, parse_host

TRANSCRIPT = """\
os_id=debian
os_version=13
os_codename=trixie
os_like=
os_name=Debian GNU/Linux 13 (trixie)
skew=-2
hostname=compute1
kernel=6.12.48+deb13-amd64
arch=x86_64
python=Python 3.13.5
cpus=64
memory_kib=527829544
cgroup=2
systemd=1
disk_free_kib=104857600
gpus=8
route=Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
route=eth0\t00000000\t010A140A\t0003\t0\t0\t0\t00000000\t0\t0\t0
route=eth0\t000A140A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
route=eth0\t00001EAC\t010A140A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0
route=*\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF\t0\t0\t0
address=lo 127.0.0.1/8
address=eth0 10.20.10.11/24
address=veth1 fe80::1/64
"""


def test_transcript() -> None:
    host = parse_host(TRANSCRIPT)
    assert host["os_family"] == "debian"
    assert (host["os_major"], host["os_version"], host["python"], host["deb_arch"]) == (13, "13", "3.13.5", "amd64")
    assert (host["cpus"], host["memory"], host["disk_free"], host["gpus"]) == (64, 527829544 * 1024, 100 << 30, 8)
    assert (host["skew"], host["cgroup"], host["systemd"]) == (-2, 2, True)
    # The default route and the blackhole are no networks of the host.
    assert host["networks"] == [
        {"network": "10.20.10.0/24", "interface": "eth0", "connected": True},
        {"network": "172.30.0.0/16", "interface": "eth0", "connected": False},
    ]
    assert host["primary_address"] == "10.20.10.11"
    assert [a["address"] for a in host["addresses"]] == ["127.0.0.1/8", "10.20.10.11/24"]


@pytest.mark.parametrize(
    ("os_id", "like", "family"),
    [
        ("ubuntu", "debian", "debian"),
        ("rocky", "rhel centos fedora", "redhat"),
        ("linuxmint", "ubuntu debian", "debian"),
        ("alpine", "", "unknown"),
    ],
)
def test_family(os_id: str, like: str, family: str) -> None:
    assert parse_host(f"os_id={os_id}\nos_like={like}\n")["os_family"] == family


def test_nothing_is_known_of_a_silent_host() -> None:
    assert parse_host("")["cpus"] == 0


def test_script_runs_here() -> None:
    script = SCRIPT.replace("@NOW@", str(int(time.time())))
    host = parse_host(subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, text=True).stdout)
    assert host["cpus"] > 0
    assert host["memory"] > 2**28
    assert abs(host["skew"]) < 5
    assert host["kernel"]
