"""The few facts of a host that the platform decides by, read from the output of one shell script."""

from __future__ import annotations

import ipaddress
import re

# Reads only, starts no Python, and needs nothing that a bare Debian, Ubuntu or RHEL does not have. `@NOW@` is the
# controller's clock in seconds since the epoch.
SCRIPT = r"""
( . /etc/os-release 2>/dev/null
  echo "os_id=$ID"; echo "os_version=$VERSION_ID"; echo "os_codename=$VERSION_CODENAME"
  echo "os_like=$ID_LIKE"; echo "os_name=$PRETTY_NAME" )
echo "skew=$(( $(date +%s) - @NOW@ ))"
echo "hostname=$(uname -n)"; echo "kernel=$(uname -r)"; echo "arch=$(uname -m)"
echo "python=$(/usr/bin/python3 -V 2>/dev/null)"
echo "cpus=$(getconf _NPROCESSORS_ONLN)"
while read -r key value unit; do
  case $key in MemTotal:) echo "memory_kib=$value"; break;; esac
done < /proc/meminfo
cgroup=1; [ -e /sys/fs/cgroup/cgroup.controllers ] && cgroup=2
echo "cgroup=$cgroup"
systemd=0; [ -d /run/systemd/system ] && systemd=1
echo "systemd=$systemd"
df -Pk /var | while read -r fs size used free rest; do echo "disk_free_kib=$free"; done
gpus=0
for device in /sys/bus/pci/devices/*; do
  [ -e "$device/vendor" ] || continue
  read -r vendor < "$device/vendor"; read -r class < "$device/class"
  case $vendor$class in 0x10de0x03*) gpus=$((gpus + 1));; esac
done
echo "gpus=$gpus"
while read -r line; do echo "route=$line"; done < /proc/net/route
ip -o address show 2>/dev/null | while read -r n name family address rest; do echo "address=$name $address"; done
"""

_FAMILIES = {"debian": "debian", "ubuntu": "debian", "rhel": "redhat", "centos": "redhat", "fedora": "redhat"}
_DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d+", text.strip()) else 0


def _os_family(os_id: str, like: str) -> str:
    return next((_FAMILIES[word] for word in [os_id, *like.split()] if word in _FAMILIES), "unknown")


def _routes(lines: list[str]) -> list[dict[str, object]]:
    """Networks of /proc/net/route: its numbers are in the host's byte order (little endian on what we support)."""
    networks: list[dict[str, object]] = []
    for line in lines:
        fields = line.split()
        # "*" is a blackhole, which holds no host; a mask of 0 is the default route.
        if len(fields) < 8 or fields[0] in ("Iface", "*") or fields[7] == "00000000":
            continue
        address, gateway, mask = (bytes.fromhex(fields[i])[::-1] for i in (1, 2, 7))
        network = ipaddress.ip_network((address, bin(int.from_bytes(mask, "big")).count("1")))
        networks.append({"network": str(network), "interface": fields[0], "connected": not any(gateway)})
    return networks


def _primary_address(routes: list[str], addresses: list[list[str]]) -> str:
    """The IPv4 address on the interface of the default route; without one, the first that is not loopback."""
    default = next((f[0] for f in map(str.split, routes) if len(f) > 7 and f[1] == f[7] == "00000000" and f[0] != "*"), "")
    plain = [(name, address.split("/")[0]) for name, address in addresses if ":" not in address]
    outer = [(name, address) for name, address in plain if not ipaddress.ip_address(address).is_loopback]
    return next((a for name, a in outer if name == default), outer[0][1] if outer else "127.0.0.1")


def parse_host(output: str) -> dict[str, object]:
    """The facts of a host from SCRIPT's output: sizes in bytes, ``skew`` in seconds (host minus controller)."""
    values: dict[str, list[str]] = {}
    for line in output.splitlines():
        key, _, value = line.partition("=")
        values.setdefault(key, []).append(value.strip())

    def first(key: str) -> str:
        return values.get(key, [""])[0]

    # A compute node has a veth for every session; their link-local addresses say nothing.
    addresses = [a.split() for a in values.get("address", []) if not a.startswith("veth") and len(a.split()) == 2]
    arch = first("arch")
    return {
        "os_id": first("os_id"),
        "os_version": first("os_version"),
        "os_major": _number(first("os_version").split(".")[0]),
        "os_codename": first("os_codename"),
        "os_name": first("os_name"),
        "os_family": _os_family(first("os_id"), first("os_like")),
        "hostname": first("hostname"),
        "arch": arch,
        "deb_arch": _DEB_ARCHITECTURES.get(arch, arch),
        "kernel": first("kernel"),
        "python": first("python").removeprefix("Python "),
        "cpus": _number(first("cpus")),
        "memory": _number(first("memory_kib")) * 1024,
        "disk_free": _number((values.get("disk_free_kib") or [""])[-1]) * 1024,
        "cgroup": _number(first("cgroup")),
        "systemd": first("systemd") == "1",
        "gpus": _number(first("gpus")),
        "skew": _number(first("skew")),
        "primary_address": _primary_address(values.get("route", []), addresses),
        "networks": _routes(values.get("route", [])),
        "addresses": [{"interface": name, "address": address} for name, address in addresses],
    }
