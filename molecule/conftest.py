"""Test hosts for testinfra: `hosts["control"]` runs commands there, over the testbed's own SSH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import testinfra
import yaml

ROOT = Path(__file__).resolve().parent.parent


class Hosts(dict[str, testinfra.host.Host]):
    """The hosts of the running scenario by name."""

    def __init__(self) -> None:
        directory = ROOT / ".cache" / "testbed" / f"mol-{os.environ['MOLECULE_SCENARIO_NAME']}"
        inventory = yaml.safe_load((directory / "inventory.yml").read_text(encoding="utf-8"))["all"]
        self.addresses = {name: host["ansible_host"] for name, host in inventory["hosts"].items()}
        config = directory / "ssh_config"
        config.write_text(f"Host *\n  UserKnownHostsFile {directory}/known_hosts\n  ServerAliveInterval 5\n", encoding="utf-8")
        for name, address in self.addresses.items():
            self[name] = testinfra.get_host(
                f"ssh://root@{address}?controlpersist=60", ssh_config=str(config), ssh_identity_file=str(directory / "id_ed25519")
            )


@pytest.fixture(scope="session")
def hosts() -> Hosts:
    """Give the hosts of the running scenario."""
    return Hosts()
