"""The end of the platform: everything of ours is gone, homes and secrets are there. Last, for it leaves nothing to test."""

from __future__ import annotations

import subprocess
from pathlib import Path

from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = ROOT / "molecule" / "network"
LOOK = """
systemctl list-unit-files --no-legend 'metalhub*' | awk '{print $1}'
systemctl list-units --plain --no-legend 'metalhub*' | awk '$3 == "active" {print $1}'
nft list tables | grep metalhub
find /opt/metalhub /etc/systemd -name '*metalhub*' 2>/dev/null
docker network ls --format '{{.Name}}' | grep ^mh-
docker info --format '{{.Swarm.LocalNodeState}}' | grep -v inactive
"""


def teardown(*extra: str) -> str:
    inventories = (ROOT / "molecule/shared/inventory", ROOT / ".cache/testbed/mol-network/inventory.yml", SCENARIO / "inventory")
    done = subprocess.run(
        ["ansible-playbook", *(f"--inventory={path}" for path in inventories), ROOT / "playbooks/teardown.yml", *extra],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode == 0) or extra, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_homes_are_deleted_only_by_name(hosts: dict[str, Host]) -> None:
    control = hosts["control"]
    assert control.run("mkdir -p /srv/metalhub/homes/ada && echo thesis > /srv/metalhub/homes/ada/file").rc == 0
    refused = teardown("-e", "metalhub_teardown_delete_homes=yes")
    assert 'metalhub_teardown_delete_homes: "yes" is not legal' in refused
    assert control.service("metalhub-traefik").is_running


def test_teardown(hosts: dict[str, Host]) -> None:
    platform = {name: host for name, host in hosts.items() if name != "outside"}
    assert all(host.run(LOOK).stdout.strip() for host in platform.values())
    teardown()
    for name, host in platform.items():
        assert host.run(LOOK).stdout.strip() == "", name
        assert host.file("/etc/metalhub/pki/node.key").exists, name
    control = platform["control"]
    assert control.file("/srv/metalhub/homes/ada/file").content_string == "thesis\n"
    assert control.file("/etc/metalhub/ca").exists
    assert "changed=0" in teardown() and "changed=1" not in teardown()


def test_homes_and_secrets_go_where_they_are_named(hosts: dict[str, Host]) -> None:
    teardown("-e", "metalhub_teardown_delete_homes=/srv/metalhub/homes", "-e", "metalhub_teardown_delete_secrets=true")
    control = hosts["control"]
    assert not control.file("/srv/metalhub/homes/ada").exists
    assert not control.file("/etc/metalhub/ca").exists
