"""A host with slices, after it has been through everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host


@pytest.fixture(scope="module")
def control(hosts: dict[str, Host]) -> Host:
    return hosts["control"]


def run(host: Host, command: str) -> str:
    done = host.run(command)
    assert done.rc == 0, f"{command}\n{done.stdout}{done.stderr}"
    return str(done.stdout).strip()


def devices(host: Host) -> set[str]:
    return set(run(host, "nvidia-smi -L | grep -o 'MIG-[0-9a-f-]*'").split())


def test_swarm_offers_what_is_there(control: Host) -> None:
    node: dict[str, Any] = json.loads(run(control, "docker node inspect self"))[0]
    offered = [item["NamedResourceSpec"] for item in node["Description"]["Resources"]["GenericResources"]]
    assert {item["Value"] for item in offered} == devices(control)
    kinds = [item["Kind"] for item in offered]
    assert {kind: kinds.count(kind) for kind in kinds} == {"MIG_1G_10GB": 4, "MIG_3G_40GB": 1, "MIG_7G_40GB": 1}
    fragment = json.loads(run(control, "cat /etc/metalhub/docker.d/mig.json"))
    daemon = json.loads(run(control, "cat /etc/docker/daemon.json"))
    assert fragment["node-generic-resources"] == daemon["node-generic-resources"]


def test_cdi_is_for_them(control: Host) -> None:
    assert set(run(control, "grep -o 'MIG-[0-9a-f-]*' /run/cdi/nvidia.yaml").split()) == devices(control)


def test_nothing_is_to_be_done(control: Host) -> None:
    before = run(control, "gpu-simulator writes")
    assert run(control, "/opt/metalhub/mig/agent check").splitlines()[0] == "state=ok"
    run(control, "systemctl restart metalhub-mig.service")
    assert run(control, "gpu-simulator writes") == before


def test_docker_waits_for_it(control: Host) -> None:
    assert run(control, "systemctl is-enabled metalhub-mig.service") == "enabled"
    assert "metalhub-mig.service" in run(control, "systemctl show -p After --value docker.service")
    assert "docker.service" not in run(control, "systemctl show -p RequiredBy --value metalhub-mig.service")


def test_a_boot_without_a_driver_offers_nothing_and_docker_runs(control: Host) -> None:
    run(control, "systemctl stop docker.socket docker.service metalhub-mig.service; gpu-simulator unload")
    run(control, "systemctl start docker.socket docker.service")
    try:
        assert "node-generic-resources" not in json.loads(run(control, "cat /etc/docker/daemon.json"))
        assert run(control, "systemctl is-failed metalhub-mig.service; true") == "failed"
        assert "couldn't communicate with the NVIDIA driver" in run(control, "journalctl -u metalhub-mig.service -n 20 -o cat")
    finally:
        run(control, "gpu-simulator load; systemctl start metalhub-mig.service && systemctl restart docker.service")
    assert len(json.loads(run(control, "cat /etc/docker/daemon.json"))["node-generic-resources"]) == len(devices(control)) == 6


@pytest.mark.parametrize(("setting", "opens"), [("", False), ("DevicePolicy=auto\nDeviceAllow=", True)], ids=["as it is", "without its policy"])
def test_the_unit_can_open_no_other_device(control: Host, setting: str, opens: bool) -> None:
    """It is root with CAP_SYS_ADMIN, and the machine's disks are in the same /dev."""
    attack = "/bin/sh -c '(: < /dev/loop-control) && echo opened; mknod /tmp/d c 10 237 && echo made; true'"
    directory = "/run/systemd/system/metalhub-mig.service.d"
    run(control, f"mkdir -p {directory} && cat > {directory}/attack.conf <<'X'\n[Service]\n{setting}\nExecStart=\nExecStart={attack}\nX")
    try:
        run(control, "systemctl daemon-reload; systemctl restart metalhub-mig.service")
        said = run(control, "journalctl -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value metalhub-mig.service)")
    finally:
        run(control, f"rm -r {directory}; systemctl daemon-reload; systemctl restart metalhub-mig.service")
    assert ("opened" in said, "made" in said) == (opens, opens), said


@pytest.mark.parametrize("unit", ["metalhub-mig.service", "metalhub-mig-wait.service"])
def test_exposure(control: Host, unit: str) -> None:
    assert float(run(control, f"systemd-analyze security --no-pager {unit} | tail -1 | grep -o '[0-9.]* [A-Z]' | cut -d' ' -f1")) <= 1.5
