"""Which driver a host needs, from a fake /sys to the packages, and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import jinja2
import pytest
from ansible_collections.metalhub.platform.plugins.filter import nvidia as filters
from ansible_collections.metalhub.platform.plugins.module_utils import nvidia_driver
from ansible_collections.metalhub.platform.plugins.module_utils.nvidia_driver import Device, DriverRefusal, Host, Wish

ROLE = Path(__file__).parents[3] / "roles/nvidia_driver"
NO_DISPLAY, SWITCH, AUDIO = 0x030200, 0x068000, 0x040300


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (0x102D, "Kepler or older"),  # Tesla K80
        (0x1340, "Maxwell"),
        (0x13F2, "Maxwell"),  # Tesla M60
        (0x17FD, "Maxwell"),  # Tesla M40
        (0x15F8, "Pascal"),  # Tesla P100
        (0x1B38, "Pascal"),  # Tesla P40
        (0x1D01, "Pascal"),  # GeForce GT 1030
        (0x1DB4, "Volta"),  # Tesla V100
        (0x1DF6, "Volta"),  # Tesla V100S
        (0x1E30, "Turing"),  # Quadro RTX 6000
        (0x1EB8, "Turing"),  # Tesla T4
        (0x2182, "Turing"),  # GeForce GTX 1660 Ti
        (0x20B0, "Ampere"),  # A100
        (0x20B7, "Ampere"),  # A30
        (0x20F6, "Ampere"),  # A800
        (0x2235, "Ampere"),  # A40
        (0x25B6, "Ampere"),  # A16, A2
        (0x2330, "Hopper"),  # H100 SXM
        (0x2342, "Hopper"),  # GH200
        (0x2335, "Hopper"),  # H200
        (0x26B9, "Ada"),  # L40S
        (0x27B8, "Ada"),  # L4
        (0x2901, "Blackwell"),  # B200
        (0x2941, "Blackwell"),  # GB200
        (0x2BB5, "Blackwell"),  # RTX PRO 6000
        (0x3182, "Blackwell"),  # B300
    ],
)
def test_architecture(device: int, name: str) -> None:
    assert nvidia_driver.architecture(device) == name


def host(*gpus: int, **changes: object) -> Host:
    devices = tuple(Device(NO_DISPLAY, gpu) for gpu in gpus)
    base = Host("gpu1", "debian", "debian", "13", "x86_64", "6.12.48+deb13-amd64", devices)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


UBUNTU = {"id": "ubuntu", "version": "24.04", "kernel": "6.8.0-60-generic"}
ROCKY = {"id": "rocky", "family": "redhat", "version": "9.4", "kernel": "5.14.0-427.el9.x86_64"}
HEADERS, UBUNTU_HEADERS = "linux-headers-6.12.48+deb13-amd64", "linux-headers-6.8.0-60-generic"


@pytest.mark.parametrize(
    ("seen", "wish", "flavor", "branch", "packages"),
    [
        (
            host(0x2330),
            Wish(),
            "open",
            "",
            (HEADERS, "nvidia-open-kernel-dkms", "firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1", "nvidia-smi", "nvidia-persistenced"),
        ),
        (host(0x2330), Wish(source="nvidia", branch="580"), "open", "580", (HEADERS, "nvidia-open=580.*", "nvidia-persistenced=580.*")),
        (host(0x1DB4), Wish(source="nvidia"), "proprietary", "580", (HEADERS, "cuda-drivers=580.*", "nvidia-persistenced=580.*")),
        (host(0x20B0), Wish(source="nvidia", flavor="proprietary"), "proprietary", "", (HEADERS, "cuda-drivers", "nvidia-persistenced")),
        (
            host(0x20B0, **UBUNTU),
            Wish(branch="580"),
            "open",
            "580",
            (UBUNTU_HEADERS, "nvidia-headless-580-server-open=580.*", "nvidia-utils-580-server=580.*", "nvidia-compute-utils-580-server=580.*"),
        ),
        (
            host(0x1B38, **UBUNTU),
            Wish(),
            "proprietary",
            "580",
            (UBUNTU_HEADERS, "nvidia-headless-580-server=580.*", "nvidia-utils-580-server=580.*", "nvidia-compute-utils-580-server=580.*"),
        ),
        (host(0x2330, **UBUNTU), Wish(source="nvidia"), "open", "", (UBUNTU_HEADERS, "nvidia-open")),
        (
            host(0x2901, **ROCKY),
            Wish(source="nvidia", branch="580"),
            "open",
            "580",
            ("kernel-devel-5.14.0-427.el9.x86_64", "nvidia-open=580.*", "nvidia-persistenced=580.*"),
        ),
        (host(0x2330, **ROCKY), Wish(packages=("site-driver",)), "open", "", ("site-driver",)),
        (host(0x1EB8, 0x20B7, 0x2330), Wish(packages=("x",)), "open", "", ("x",)),
        (host(0x1DB4, 0x2330), Wish(packages=("x",)), "proprietary", "580", ("x",)),
    ],
)
def test_packages(seen: Host, wish: Wish, flavor: str, branch: str, packages: tuple[str, ...]) -> None:
    plan = nvidia_driver.plan(seen, wish)
    assert plan.install and (plan.flavor, plan.branch, plan.packages) == (flavor, branch, packages)
    assert plan.fabric == "" and plan.fabric_extra == ()


@pytest.mark.parametrize("support", ["auto", "off"])
def test_a_host_without_a_gpu_gets_nothing(support: str) -> None:
    assert nvidia_driver.plan(host(), Wish(support=support)) == nvidia_driver.Plan(False)
    sound = host(devices=(Device(AUDIO, 0x10F7),), secure_boot=True, runfile=True)
    assert not nvidia_driver.plan(sound, Wish(support=support)).install


def test_off_is_off() -> None:
    assert not nvidia_driver.plan(host(0x102D, secure_boot=True), Wish(support="off")).install


def switched(*gpus: int, **changes: object) -> Host:
    return host(devices=(*host(*gpus).devices, Device(SWITCH, 0x22A3)), **changes)


@pytest.mark.parametrize(
    ("seen", "wish", "fabric", "extra"),
    [
        (switched(0x2330), Wish(source="nvidia"), "nvidia-fabricmanager", ()),
        (switched(0x20B2, **UBUNTU), Wish(branch="580"), "nvidia-fabricmanager-580", ()),
        (host(0x2901, switch_manager=True), Wish(source="nvidia"), "nvidia-fabricmanager", ("nvlsm", "infiniband-diags")),
        (host(0x2901), Wish(source="nvidia"), "", ()),  # passed into a virtual machine, without the board
        (host(0x2330, switch_manager=True), Wish(source="nvidia"), "", ()),  # InfiniBand switches are none of ours
        (host(0x2941, switch_manager=False), Wish(source="nvidia"), "", ()),
    ],
)
def test_fabric_manager(seen: Host, wish: Wish, fabric: str, extra: tuple[str, ...]) -> None:
    plan = nvidia_driver.plan(seen, wish)
    assert (plan.fabric, plan.fabric_extra) == (fabric, extra)


@pytest.mark.parametrize(
    ("seen", "stream", "repository", "key"),
    [
        (host(0x2330), "", "debian13/x86_64", "8793F200.pub"),
        (host(0x2330, version="12"), "", "debian12/x86_64", "3bf863cc.pub"),
        (host(0x2342, machine="aarch64", **UBUNTU), "", "ubuntu2404/sbsa", "3bf863cc.pub"),
        (host(0x2330, **ROCKY), "open-dkms", "rhel9/x86_64", "D42D0685.pub"),
        (host(0x1DB4, **ROCKY), "580-dkms", "rhel9/x86_64", "D42D0685.pub"),
    ],
)
def test_nvidias_repository(seen: Host, stream: str, repository: str, key: str) -> None:
    plan = nvidia_driver.plan(seen, Wish(source="nvidia"))
    assert (plan.module_stream, plan.repository, plan.key) == (stream, repository, key)


@pytest.mark.parametrize(
    ("seen", "wish", "words"),
    [
        (host(), Wish(support="on"), "nvidia_driver_support is on, and gpu1 has no NVIDIA GPU"),
        (host(0x102D), Wish(), "gpu1 has the GPU 0x102d (Kepler or older), which no driver of today knows"),
        (host(0x1DB4), Wish(flavor="open"), "nvidia_driver_flavor is open, and gpu1 has the GPU 0x1db4 (Volta), which needs the proprietary"),
        (host(0x2901), Wish(flavor="proprietary"), "nvidia_driver_flavor is proprietary, and gpu1 has the GPU 0x2901 (Blackwell)"),
        (host(0x2342), Wish(flavor="proprietary"), "0x2342 (Hopper), which needs the open driver"),
        (host(0x1DB4, 0x2BB5), Wish(), "0x1db4 (Volta), which needs the proprietary driver, and 0x2bb5 (Blackwell)"),
        (host(0x2330), Wish(branch="R580"), "nvidia_driver_branch is 'R580'; legal is the number of a driver branch"),
        (host(0x2330), Wish(branch="580.95"), "nvidia_driver_branch is '580.95'"),
        (host(0x2901), Wish(branch="550"), "nvidia_driver_branch is 550, and gpu1 has the GPU 0x2901 (Blackwell); legal is 570 or newer"),
        (host(0x1DB4), Wish(branch="590"), "nvidia_driver_branch is 590, and gpu1 has the GPU 0x1db4 (Volta), whose last branch is 580"),
        (host(0x2330, **UBUNTU), Wish(), "nvidia_driver_branch is empty on gpu1, and Ubuntu's packages are named by it"),
        (host(0x2330, **ROCKY), Wish(), "nvidia_driver_source is distribution, and gpu1 is rocky, which has no NVIDIA driver"),
        (switched(0x2330), Wish(), "gpu1 has NVSwitches, for which debian has no Fabric Manager; legal is nvidia"),
        (host(0x2330, secure_boot=True), Wish(), "mokutil --import"),
        (host(0x2330, runfile=True), Wish(), "remove it with nvidia-uninstall"),
    ],
)
def test_what_cannot_work_is_refused(seen: Host, wish: Wish, words: str) -> None:
    with pytest.raises(DriverRefusal) as caught:
        nvidia_driver.plan(seen, wish)
    assert words in str(caught.value)


def test_a_trusted_key_makes_secure_boot_legal() -> None:
    assert nvidia_driver.plan(host(0x2330, secure_boot=True), Wish(secure_boot_ready=True)).install


@pytest.mark.parametrize(
    ("loaded", "installed", "nouveau", "what"),
    [
        ("", "", False, ""),
        ("", "", True, ""),
        ("", "580.95.05", False, "load"),
        ("", "580.95.05", True, "reboot"),
        ("570.86.15", "580.95.05", False, "reboot"),
        ("580.95.05", "580.95.05", False, ""),
        ("580.95.05", "", False, ""),
    ],
)
def test_activation(loaded: str, installed: str, nouveau: bool, what: str) -> None:
    assert nvidia_driver.activation(loaded, installed, nouveau) == what


def test_fabric_manager_has_the_drivers_version() -> None:
    assert nvidia_driver.fabric_package("nvidia-fabricmanager", "580.95.05") == "nvidia-fabricmanager=580.95.05-*"
    for bad in ("", "580", "latest", "580.95.05 x"):
        with pytest.raises(ValueError, match="is not a version of the NVIDIA driver"):
            nvidia_driver.fabric_package("nvidia-fabricmanager", bad)


@pytest.mark.parametrize("bad", ["0x2330", "0x030200:2330", "0x0302:0x2330", "030200:0x2330"])
def test_bad_devices(bad: str) -> None:
    with pytest.raises(ValueError, match="is not class and device of a PCI device"):
        nvidia_driver.parse_devices(bad)


# From a fake /sys by the role's own probe to the plan.


def machine(sys: Path, *devices: tuple[str, str, str]) -> None:
    for number, (vendor, kind, device) in enumerate(devices):
        here = sys / f"bus/pci/devices/0000:{number:02x}:00.0"
        here.mkdir(parents=True)
        for name, value in {"vendor": vendor, "class": kind, "device": device}.items():
            (here / name).write_text(f"{value}\n")


def probe(sys: Path, **variables: object) -> dict[str, str]:
    template = jinja2.Environment(trim_blocks=True).from_string((ROLE / "templates/_/probe.sh.j2").read_text())
    settings = {"nvidia_driver_source": "distribution", "nvidia_driver_repository_key_checksum": "", **variables}
    script = template.render(__nvidia_driver_sys=str(sys), **settings)
    done = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, timeout=10, check=True)
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


def planned(facts: dict[str, str], **wish: object) -> dict[str, object]:
    base = {"support": "auto", "source": "nvidia", "flavor": "auto", "branch": "580", "secure_boot_ready": False, "packages": []}
    known = {"id": "debian", "version": "13", "machine": "x86_64", "kernel": "6.12.0-amd64"}
    return filters.nvidia_driver_plan({**facts, **known}, {**base, **wish}, "gpu1")


def test_a_machine_with_eight_gpus_and_switches(tmp_path: Path) -> None:
    machine(
        tmp_path,
        ("0x8086", "0x060000", "0x09a2"),
        *[("0x10de", "0x030200", "0x2330")] * 8,
        *[("0x10de", "0x068000", "0x22a3")] * 4,
        ("0x10de", "0x040300", "0x10f7"),
        ("0x1a03", "0x030000", "0x2000"),
    )
    (tmp_path / "module/nouveau").mkdir(parents=True)
    facts = probe(tmp_path)
    assert facts["devices"].split().count("0x030200:0x2330") == 8
    assert (facts["nouveau"], facts["secure_boot"], facts["switch_manager"], facts["loaded"]) == ("true", "false", "false", "")
    plan = planned(facts)
    assert (plan["install"], plan["flavor"], plan["fabric"]) == (True, "open", "nvidia-fabricmanager")


def test_a_board_with_nvlink_5(tmp_path: Path) -> None:
    machine(tmp_path, *[("0x10de", "0x030200", "0x2901")] * 8)
    port = tmp_path / "class/infiniband/mlx5_0/device"
    port.mkdir(parents=True)
    (port / "vpd").write_bytes(b"\x82\x00 \x00V3SW_MNG\x00")
    assert planned(probe(tmp_path))["fabric_extra"] == ["nvlsm", "infiniband-diags"]


@pytest.mark.parametrize(("state", "secure"), [(b"\x06\0\0\0\x01", "true"), (b"\x06\0\0\0\x00", "false"), (b"", "false")])
def test_secure_boot(tmp_path: Path, state: bytes, secure: str) -> None:
    machine(tmp_path, ("0x10de", "0x030000", "0x20b0"))
    (tmp_path / "firmware/efi/efivars").mkdir(parents=True)
    (tmp_path / "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(state)
    facts = probe(tmp_path, nvidia_driver_source="nvidia", nvidia_driver_repository_key_checksum="sha256:00")
    assert facts["secure_boot"] == secure and facts["key"] == ""
    if secure == "true":
        with pytest.raises(Exception, match="gpu1 boots with Secure Boot"):
            planned(facts)


def test_a_machine_without_a_bus(tmp_path: Path) -> None:
    facts = probe(tmp_path)
    assert (facts["devices"], facts["installed"]) == ("", "")
    assert planned(facts)["install"] is False


# Rendered files.


def test_the_pin_and_the_blacklist() -> None:
    render = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
    pin = render.from_string((ROLE / "templates/etc/apt/preferences.d/metalhub-nvidia.j2").read_text())
    text = pin.render(__nvidia_driver_plan={"branch": "580"})
    assert "Pin: version 580.*\nPin-Priority: 1001\n" in text
    assert "blacklist nouveau\n" in (ROLE / "templates/etc/modprobe.d/metalhub-nvidia.conf.j2").read_text()
