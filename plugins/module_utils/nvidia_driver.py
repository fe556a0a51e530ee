"""Which NVIDIA driver a host needs, decided by what is on its PCI bus, before there is a driver."""

from __future__ import annotations

import dataclasses
import re
import typing as t

# Architectures by ranges of PCI device ids, first match wins; the ids are those of the list in NVIDIA/open-gpu-kernel-modules
# (src/nvidia/generated/g_nv_name_released.h). GP100 and GA100 lie among their neighbours; what is newer than this table counts as
# Blackwell or later, which is how NVIDIA has treated new ids since.
_RANGES = (
    (0x0000, 0x133F, "Kepler or older"),
    (0x15F0, 0x15FF, "Pascal"),
    (0x1340, 0x17FF, "Maxwell"),
    (0x1B00, 0x1D7F, "Pascal"),
    (0x1D80, 0x1DFF, "Volta"),
    (0x2080, 0x20FF, "Ampere"),
    (0x1E00, 0x21FF, "Turing"),
    (0x2300, 0x23FF, "Hopper"),
    (0x2200, 0x25FF, "Ampere"),
    (0x2600, 0x28FF, "Ada"),
    (0x2900, 0xFFFF, "Blackwell"),
)
# Have no GSP for the open modules, and no driver after the 580 branch (NVIDIA driver installation guide, "Kernel Modules").
OLD = ("Maxwell", "Pascal", "Volta")
LAST_BRANCH_OF_OLD = 580
# The first branch that knows the architecture (release notes of the data center drivers).
FIRST_BRANCH = {"Hopper": 525, "Ada": 525, "Blackwell": 570}
# GH200: Grace Hopper has no proprietary modules.
_GRACE_HOPPER = (0x2342, 0x2345, 0x2348)
# HGX boards whose NVLink switches are no PCI devices of NVIDIA's: they show as a management port of Mellanox's.
_NVLINK5 = (0x2901, 0x3182)

# How NVIDIA's repository names distributions and machines in its paths.
_REPOSITORIES = {"debian": "debian{major}", "ubuntu": "ubuntu{compact}", "redhat": "rhel{major}"}
_MACHINES = {"x86_64": "x86_64", "aarch64": "sbsa"}


class DriverRefusal(ValueError):
    """The driver that is wanted cannot work here; the message names the variable, its value, and what is legal."""


@dataclasses.dataclass(frozen=True)
class Device:
    """A PCI device of NVIDIA's: its class (0x030200) and device id (0x2330)."""

    kind: int
    id: int

    @property
    def gpu(self) -> bool:
        """Whether it is a display controller, with or without a display."""
        return self.kind >> 16 == 0x03

    @property
    def switch(self) -> bool:
        """Whether it is an NVSwitch, which calls itself a bridge."""
        return self.kind >> 8 == 0x0680


@dataclasses.dataclass(frozen=True)
class Host:
    """What a look at a host without a driver shows. ``family`` is debian or redhat, ``id`` the distribution.

    ``switch_manager`` is whether a Mellanox port manages NVLink switches, ``secure_boot`` whether the firmware only loads signed
    modules, ``runfile`` whether a driver lies there that no package manager knows.
    """

    name: str
    id: str
    family: str
    version: str
    machine: str
    kernel: str
    devices: tuple[Device, ...]
    switch_manager: bool = False
    secure_boot: bool = False
    runfile: bool = False


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the operator wants: ``support`` is auto, on or off, ``source`` distribution or nvidia, ``flavor`` auto, open or
    proprietary; ``branch`` is such as 580, or empty."""

    support: str = "auto"
    source: str = "distribution"
    flavor: str = "auto"
    branch: str = ""
    secure_boot_ready: bool = False
    packages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do: nothing where ``install`` is False. ``fabric`` is the Fabric Manager's package, empty where there is no switch;
    it has to have the driver's very version. ``repository`` is the distribution's part of NVIDIA's repository's path."""

    install: bool
    flavor: str = ""
    branch: str = ""
    packages: tuple[str, ...] = ()
    fabric: str = ""
    fabric_extra: tuple[str, ...] = ()
    module_stream: str = ""
    repository: str = ""
    key: str = ""


def architecture(device: int) -> str:
    """The architecture of a GPU by its PCI device id."""
    return next((name for low, high, name in _RANGES if low <= device <= high), "unknown")


def parse_devices(text: str) -> tuple[Device, ...]:
    """Devices of ``0x030200:0x2330 0x068000:0x22a3``, as the role's probe prints them. Raises ValueError for anything else."""
    found = []
    for word in text.split():
        match = re.fullmatch(r"0x([0-9a-f]{6}):0x([0-9a-f]{4})", word, re.ASCII | re.IGNORECASE)
        if match is None:
            raise ValueError(f"{word!r} is not class and device of a PCI device, such as 0x030200:0x2330")
        found.append(Device(int(match[1], 16), int(match[2], 16)))
    return tuple(found)


def plan(host: Host, wish: Wish) -> Plan:
    """Decide what a host needs. Raises DriverRefusal, before anything is changed, for what cannot work."""
    gpus = [device for device in host.devices if device.gpu]
    if wish.support == "off" or (wish.support == "auto" and not gpus):
        return Plan(False)
    if not gpus:
        raise DriverRefusal(
            f"nvidia_driver_support is on, and {host.name} has no NVIDIA GPU on its PCI bus; legal is a host with one, or auto or off"
        )
    if host.runfile:
        raise DriverRefusal(
            f"{host.name} has a driver from NVIDIA's .run file, over which packages would be installed; remove it with nvidia-uninstall"
        )
    flavor, branch = _flavor(host, wish, gpus)
    branch = _branch(host, wish, gpus, branch)
    if host.secure_boot and not wish.secure_boot_ready:
        raise DriverRefusal(
            f"{host.name} boots with Secure Boot, and its kernel would not load a driver that is built there. Turn it off in the "
            "firmware; or enrol the key that signs the modules (mokutil --import /var/lib/dkms/mok.pub, then a reboot at the console), "
            "and set nvidia_driver_secure_boot_ready to true"
        )
    nvlink5 = host.switch_manager and any(gpu.id in _NVLINK5 for gpu in gpus)
    switches = nvlink5 or any(device.switch for device in host.devices)
    # Their subnet manager speaks to the switches over InfiniBand's management datagrams.
    extra = ("nvlsm", "infiniband-diags") if nvlink5 else ()
    return Plan(
        install=True,
        flavor=flavor,
        branch=branch,
        packages=wish.packages or _on_branch(_packages(host, wish.source, flavor, branch), branch),
        fabric=_fabric(host, wish.source, branch) if switches else "",
        fabric_extra=extra if switches else (),
        module_stream=_stream(flavor, branch) if wish.source == "nvidia" and host.family == "redhat" else "",
        repository=_repository(host) if wish.source == "nvidia" else "",
        key=_key(host) if wish.source == "nvidia" else "",
    )


def _named(gpu: Device) -> str:
    return f"0x{gpu.id:04x} ({architecture(gpu.id)})"


def _flavor(host: Host, wish: Wish, gpus: t.Sequence[Device]) -> tuple[str, str]:
    """Open or proprietary modules, and the branch that old GPUs need; refuses what the GPUs do not have."""
    ancient = [gpu for gpu in gpus if architecture(gpu.id) == "Kepler or older"]
    old = [gpu for gpu in gpus if architecture(gpu.id) in OLD]
    only_open = [gpu for gpu in gpus if architecture(gpu.id) == "Blackwell" or gpu.id in _GRACE_HOPPER]
    if ancient:
        raise DriverRefusal(
            f"{host.name} has the GPU {_named(ancient[0])}, which no driver of today knows; take it out, or set nvidia_driver_support: off"
        )
    if old and only_open:
        raise DriverRefusal(
            f"{host.name} has the GPUs {_named(old[0])}, which needs the proprietary driver, and {_named(only_open[0])}, which needs "
            "the open one; one host can have one of them"
        )
    if wish.flavor == "open" and old:
        raise DriverRefusal(
            f"nvidia_driver_flavor is open, and {host.name} has the GPU {_named(old[0])}, which needs the proprietary driver; legal are "
            "auto and proprietary"
        )
    if wish.flavor == "proprietary" and only_open:
        raise DriverRefusal(
            f"nvidia_driver_flavor is proprietary, and {host.name} has the GPU {_named(only_open[0])}, which needs the open driver; "
            "legal are auto and open"
        )
    if wish.flavor != "auto":
        return wish.flavor, str(LAST_BRANCH_OF_OLD) if old else ""
    return ("proprietary", str(LAST_BRANCH_OF_OLD)) if old else ("open", "")


def _branch(host: Host, wish: Wish, gpus: t.Sequence[Device], needed: str) -> str:
    """The branch to stay on; refuses one that does not know the GPUs, and its lack where package names hold it."""
    if wish.branch:
        if not re.fullmatch(r"[1-9][0-9]{2}", wish.branch, re.ASCII):
            raise DriverRefusal(f"nvidia_driver_branch is {wish.branch!r}; legal is the number of a driver branch, such as 580, or nothing")
        for gpu in gpus:
            kind = architecture(gpu.id)
            if kind in OLD and int(wish.branch) > LAST_BRANCH_OF_OLD:
                raise DriverRefusal(
                    f"nvidia_driver_branch is {wish.branch}, and {host.name} has the GPU {_named(gpu)}, whose last branch is "
                    f"{LAST_BRANCH_OF_OLD}"
                )
            if int(wish.branch) < FIRST_BRANCH.get(kind, 0):
                raise DriverRefusal(
                    f"nvidia_driver_branch is {wish.branch}, and {host.name} has the GPU {_named(gpu)}; legal is {FIRST_BRANCH[kind]} "
                    "or newer"
                )
    branch = wish.branch or needed
    if wish.source == "distribution" and host.id == "ubuntu" and not branch and not wish.packages:
        raise DriverRefusal(
            f"nvidia_driver_branch is empty on {host.name}, and Ubuntu's packages are named by it; legal is a branch, such as 580"
        )
    return branch


def _packages(host: Host, source: str, flavor: str, branch: str) -> tuple[str, ...]:
    """The driver, and what builds it for the running kernel."""
    opened = flavor == "open"
    if host.family == "redhat":
        if source == "distribution":
            raise DriverRefusal(
                f"nvidia_driver_source is distribution, and {host.name} is {host.id}, which has no NVIDIA driver; legal are nvidia, or "
                "nvidia_driver_packages from a repository of the site"
            )
        return (f"kernel-devel-{host.kernel}", "nvidia-open" if opened else "cuda-drivers", "nvidia-persistenced")
    headers = f"linux-headers-{host.kernel}"
    if source == "nvidia":
        # On Ubuntu the persistence daemon comes with the driver's own utilities.
        persistence = () if host.id == "ubuntu" else ("nvidia-persistenced",)
        return (headers, "nvidia-open" if opened else "cuda-drivers", *persistence)
    if host.id == "ubuntu":
        suffix = f"{branch}-server"
        kernel = f"nvidia-headless-{suffix}-open" if opened else f"nvidia-headless-{suffix}"
        return (headers, kernel, f"nvidia-utils-{suffix}", f"nvidia-compute-utils-{suffix}")
    kernel = "nvidia-open-kernel-dkms" if opened else "nvidia-kernel-dkms"
    return (headers, kernel, "firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1", "nvidia-smi", "nvidia-persistenced")


def _on_branch(packages: tuple[str, ...], branch: str) -> tuple[str, ...]:
    """The packages with a pin on their branch, but for the kernel's headers, which are the kernel's."""
    return tuple(f"{name}={branch}.*" if branch and not name.startswith(("linux-", "kernel-")) else name for name in packages)


def _fabric(host: Host, source: str, branch: str) -> str:
    if source == "nvidia":
        return "nvidia-fabricmanager"
    if host.id == "ubuntu":
        return f"nvidia-fabricmanager-{branch}"
    raise DriverRefusal(
        f"nvidia_driver_source is distribution, and {host.name} has NVSwitches, for which {host.id} has no Fabric Manager; legal is nvidia"
    )


def _stream(flavor: str, branch: str) -> str:
    """The module stream of NVIDIA's repository for RHEL 9."""
    if flavor == "open":
        return f"{branch}-open" if branch else "open-dkms"
    return f"{branch}-dkms" if branch else "latest-dkms"


def _repository(host: Host) -> str:
    pattern = _REPOSITORIES["redhat" if host.family == "redhat" else host.id]
    name = pattern.format(major=host.version.split(".")[0], compact=host.version.replace(".", ""))
    return f"{name}/{_MACHINES[host.machine]}"


def _key(host: Host) -> str:
    """The file of the repository's key: Debian 13 does not take the older one, which is signed with SHA-1."""
    if host.family == "redhat":
        return "D42D0685.pub"
    return "8793F200.pub" if host.id == "debian" and host.version.split(".")[0] == "13" else "3bf863cc.pub"


def fabric_package(package: str, driver: str) -> str:
    """The Fabric Manager of a driver's very version (another one refuses to start), as the packages action pins it.

    Raises ValueError where the version is none.
    """
    if not re.fullmatch(r"\d+(?:\.\d+)+", driver, re.ASCII):
        raise ValueError(f"{driver!r} is not a version of the NVIDIA driver, such as 580.95.05")
    return f"{package}={driver}-*"


def activation(loaded: str, installed: str, nouveau: bool) -> str:
    """What brings the installed module into use: nothing (empty), ``load`` it, or ``reboot``.

    ``loaded`` and ``installed`` are versions, empty for none. A module in use is not replaced under running sessions.
    """
    if not installed or loaded == installed:
        return ""
    return "reboot" if loaded or nouveau else "load"
