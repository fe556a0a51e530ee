"""The platform under test, from the outside: its inventory, its hosts over SSH, and clients of its hub."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import BrowserContext, Page  # noqa: E402

from demo.client import Hub, ProofError  # noqa: E402
from plugins.module_utils.names import home_name  # noqa: E402
from testbed import testbed  # noqa: E402

INVENTORY = os.environ.get("METALHUB_INVENTORY", "inventories/demo").split()

T = t.TypeVar("T")


def wait(what: str, look: Callable[[], T], seconds: float, every: float = 0.1) -> T:
    """Look until the answer is true and return it; an AssertionError names what did not come, and the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s; last: {answer!r}"
        time.sleep(every)


@dataclasses.dataclass(frozen=True)
class Host:
    """A host of the inventory: its name, its variables that matter here, its groups."""

    name: str
    address: str
    ssh_options: tuple[str, ...]
    groups: frozenset[str]
    domain: str
    storage_path: str


def read_inventory(sources: list[str]) -> dict[str, Host]:
    """Read the hosts that are reached by SSH, as Ansible sees them. (`ansible-inventory --list` leaves templates as they are.)"""
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.template import Templar
    from ansible.vars.manager import VariableManager

    init_plugin_loader()
    loader = DataLoader()
    inventory = InventoryManager(loader, sources=[str(ROOT / source) for source in sources])
    manager = VariableManager(loader, inventory)
    hosts = {}
    for record in inventory.get_hosts():
        variables = manager.get_vars(host=record)
        templar = Templar(loader, variables=variables)

        def value(name: str, variables: t.Any = variables, templar: t.Any = templar) -> str:
            return str(templar.template(variables.get(name, "")))

        if value("ansible_connection") == "local":
            continue
        options = ["-i", value("ansible_ssh_private_key_file"), *shlex.split(value("ansible_ssh_common_args"))]
        options += ["-o", "BatchMode=yes", "-l", value("ansible_user") or "root"]
        groups = frozenset(variables["group_names"])
        hosts[record.name] = Host(record.name, value("ansible_host"), tuple(options), groups, value("metalhub_domain"), value("storage_path"))
    return hosts


class Cluster:
    """A converged platform. `admin` is a client with an administrator's token; `as_user` makes clients for others."""

    def __init__(self, sources: list[str], directory: Path) -> None:
        self.hosts = read_inventory(sources)
        self.directory = directory
        self.control = self._only("metalhub_control")
        self.registry = self._only("metalhub_registry")
        self.storage = self._only("metalhub_storage")
        self.compute = sorted(name for name, host in self.hosts.items() if "metalhub_compute" in host.groups)
        self.domain, self.address = self.hosts[self.control].domain, self.hosts[self.control].address
        self._admin: Hub | None = None

    def _only(self, group: str) -> str:
        (name,) = (name for name, host in self.hosts.items() if group in host.groups)
        return name

    def ssh(self, host: str, script: str, *, check: bool = True, timeout: float = 60) -> str:
        """Run a shell script as root on a host; returns what it printed. With check, an exit status is an AssertionError."""
        one = self.hosts[host]
        # One connection a host is kept open: a new one costs more than most scripts.
        path = self.directory / f"ssh-{host}"
        share = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", f"ControlPath={path}", "-o", "ConnectTimeout=5"]
        argv = ["ssh", *one.ssh_options, *share, one.address, script]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"{host}: {script}\nexit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def hang_up(self, host: str) -> None:
        """Close the connection that is kept open to a host."""
        path = self.directory / f"ssh-{host}"
        subprocess.run(["ssh", "-o", f"ControlPath={path}", "-O", "exit", "-q", "x"], check=False, stderr=subprocess.DEVNULL, timeout=10)
        path.unlink(missing_ok=True)

    def installed(self) -> bool:
        """Whether a converge came to its end here at some time: the hub's unit runs."""
        return self.ssh(self.control, "systemctl is-active metalhub-hub", check=False) == "active"

    def hub(self) -> Hub:
        """Give a client that is not logged in."""
        ca = self.directory / "ca.crt"
        if not ca.exists():
            ca.write_text(self.ssh(self.control, "cat /etc/metalhub/pki/ca.crt"), encoding="ascii")
        return Hub(self.domain, self.address, ca)

    @property
    def password(self) -> str:
        """The first administrator's password."""
        return self.ssh(self.control, "cat /etc/metalhub/secrets/admin-password")

    @property
    def admin(self) -> Hub:
        if self._admin is None:
            hub = self.hub()
            hub.login("admin", self.password)
            self._admin = hub
        return self._admin

    # Sessions as the hub and as Swarm see them.

    def server(self, user: str, name: str = "") -> dict[str, t.Any]:
        """The hub's record of a session; empty where there is none."""
        found: dict[str, t.Any] = self.admin.request("GET", f"/hub/api/users/{user}").json().get("servers", {}).get(name, {})
        return found

    def diagnosis(self, user: str, name: str = "") -> dict[str, t.Any]:
        """What the command line says of why a session does not run."""
        session = f"{user}/{name}" if name else user
        found: dict[str, t.Any] = json.loads(self.ssh(self.control, f"metalhub session diagnose {session} --json"))
        return {**found, "facts": {each["what"]: each["text"] for each in found["evidence"]}}

    def services(self, user: str) -> list[str]:
        """Names of a user's Swarm services."""
        return self.ssh(self.control, f"docker service ls --format '{{{{.Name}}}}' --filter label=metalhub.user={user}").split()

    def containers(self, host: str, user: str) -> list[str]:
        """Ids of a user's containers on a host, in any state."""
        return self.ssh(host, f"docker ps -aq --filter label=metalhub.user={user}").split()

    def node_of(self, user: str) -> str:
        """Name of the node on which a user's only session runs."""
        (service,) = self.services(user)
        return self.ssh(self.control, f"docker service ps --filter desired-state=running --format '{{{{.Node}}}}' {service}")

    def nodes(self) -> dict[str, dict[str, t.Any]]:
        """Swarm's nodes: host name to status and availability."""
        lines = self.ssh(self.control, "docker node ls --format '{{json .}}'").splitlines()
        return {node["Hostname"]: node for node in map(json.loads, lines)}

    def stop_all(self, user: str) -> None:
        """Stop a user's sessions, also those that are just starting, and wait until they are gone."""

        def gone() -> bool:
            servers = self.admin.request("GET", f"/hub/api/users/{user}").json().get("servers", {})
            for name, server in servers.items():
                if server["pending"] != "stop" and not server.get("stopped"):
                    path = f"/hub/api/users/{user}/servers/{name}" if name else f"/hub/api/users/{user}/server"
                    self.admin.request("DELETE", path, {"remove": True} if name else None)
            return all(server.get("stopped") for server in servers.values())

        wait(f"no session of {user}", gone, 60, 0.3)

    def only(self, *hosts: str) -> None:
        """Let new sessions start on these nodes alone; those that run elsewhere stay."""
        nodes = self.nodes()
        for name in self.compute:
            wanted = "active" if name in hosts else "pause"
            if nodes[name]["Availability"].lower() != wanted:
                self.ssh(self.control, f"docker node update --availability {wanted} {name}")

    def home(self, user: str) -> str:
        """Path of a user's home on the storage host."""
        return f"{self.hosts[self.storage].storage_path or '/srv/metalhub'}/homes/{home_name(user)}"

    def nothing_left(self, user: str) -> None:
        """Wait until neither Swarm nor any node has anything of this user's sessions."""
        wait(f"no service of {user}", lambda: not self.services(user), 10)
        for host in self.compute:
            wait(f"no container of {user} on {host}", lambda host=host: not self.containers(host, user), 20, 0.3)  # type: ignore[misc]

    # Power, where the hosts are ours.

    def power(self, host: str, verb: str) -> None:
        """Kill or start a test host."""
        address = self.hosts[host].address
        names = testbed.run("docker", "ps", "-aq", "--filter", f"label={testbed.LABEL}.address={address}").stdout.split()
        assert len(names) == 1, f"{host} ({address}) is no test host of this machine"
        net = testbed.run("docker", "inspect", "-f", f'{{{{index .Config.Labels "{testbed.LABEL}"}}}}', names[0]).stdout.strip()
        argv = [sys.executable, str(ROOT / "testbed" / "testbed.py"), verb, net, host]
        subprocess.run(argv, check=True, timeout=120)
        self.hang_up(host)


def picture(page: Page, name: str) -> None:
    """Keep a picture of a page in tests/e2e-screenshots."""
    directory = ROOT / "tests" / "e2e-screenshots"
    directory.mkdir(exist_ok=True)
    page.screenshot(path=directory / f"{name}.png", full_page="lab" not in name)


def log_in(context: BrowserContext, cluster: Cluster, user: str, password: str) -> Page:
    """Log in by the form."""
    page = context.new_page()
    page.goto(f"https://{cluster.domain}/")
    page.fill("#username_input", user)
    page.fill("#password_input", password)
    page.click("#login_submit")
    return page


__all__ = ["INVENTORY", "ROOT", "Cluster", "Host", "Hub", "ProofError", "log_in", "picture", "wait"]
