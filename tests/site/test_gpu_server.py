"""One GPU server is a whole platform: a node of the demo becomes one by the site's own playbook, with GPUs and a driver that are simulated
(tests/gpu_simulator), packages of NVIDIA's names, and plain runc behind NVIDIA's runtime. All else is real.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from cluster import ROOT, Cluster, Hub, wait
from runner import play

Guest = Callable[[str], Hub]
Note = Callable[[str, object], None]
SLICES, ASKING = 7, 50
KIND = "DOCKER_RESOURCE_MIG_1G_10GB"
SIMULATOR = "/usr/local/lib/gpu-simulator"


def send(cluster: Cluster, host: str, directory: Path, target: str) -> None:
    """Copy a directory of plain files to a host."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(directory.iterdir()):
            if path.is_file():
                archive.add(path, path.name)
    text = base64.b64encode(packed.getvalue()).decode()
    cluster.ssh(host, f"mkdir -p {target} && echo {text} | base64 -d | tar -xzC {target}")


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """The node that has become a GPU server with seven slices; at the end it is what it was."""
    node = cluster.compute[-1]
    send(cluster, node, ROOT / "tests/gpu_simulator", SIMULATOR)
    send(cluster, node, ROOT / "molecule/engine/files", "/root/gpu-machine")
    make = f"sh /root/gpu-machine/gpu-machine.sh && sh {SIMULATOR}/install.sh && gpu-simulator make H100-80GB"
    cluster.ssh(node, make, timeout=120)

    offer = yaml.safe_load((ROOT / "inventories/demo/group_vars/all/10-platform.yml").read_text(encoding="utf-8"))
    flavor = {"cpus": 0.25, "memory": "512M"}
    profile = {"image": "lab", "pool": "gpu", "egress": "internal", "idle_stop": "30m", "max_session": "8h"}
    plan = "__nvidia_driver_probe.facts | metalhub.platform.nvidia_driver_plan(__nvidia_driver_wish | combine({'source': 'nvidia'}), inventory_hostname)"
    variables = {
        "metalhub_pools": offer["metalhub_pools"] | {"gpu": {"sandbox": "nvidia"}},
        "metalhub_flavors": offer["metalhub_flavors"] | {"tiny": flavor, "slice": flavor | {"gpu": {"profile": "1g.10gb"}}},
        "metalhub_profiles": offer["metalhub_profiles"]
        | {"beside": profile | {"title": "Beside", "flavor": "tiny"}, "slice": profile | {"title": "Slice", "flavor": "slice"}},
        "nvidia_driver_branch": "580",
        # Nobody may raise a limit on these hosts, and gVisor keeps its own.
        "hub_session_files": 1024,
        # Docker cannot give what is not there.
        "nvidia_container_toolkit_selftest": False,
        "__nvidia_driver_sys": "/opt/gpu-machine/sys",
        "__nvidia_container_toolkit_sys": "/opt/gpu-machine/sys",
        # The packages come from the machine's own repository, so the names are NVIDIA's.
        "__nvidia_driver_plan": "{{ " + plan + " }}",
    }
    (tmp_path / "variables.json").write_text(json.dumps(variables), encoding="utf-8")
    hosts = {"all": {"hosts": {node: {"metalhub_pool": "gpu", "mig_wanted": {"1g.10gb": SLICES}}}}}
    (tmp_path / "gpus.yml").write_text(json.dumps(hosts), encoding="utf-8")
    options = (f"--inventory={tmp_path}/gpus.yml", "-e", f"@{tmp_path}/variables.json")
    run = play("site.yml", *options)
    assert run.status == 0, run.tail()
    again = play("site.yml", *options)
    assert again.status == 0 and again.changed == 0, again.tail(80)
    settled = play("site.yml", *options)
    assert "Every host answers as in the last run" in settled.output, "a GPU server's second run is free as any other's"
    yield node
    run = play("site.yml")
    assert run.status == 0, run.tail()
    left = cluster.ssh(node, "ls /etc/metalhub/docker.d; grep -l -e MIG_ -e nvidia /etc/docker/daemon.json || true")
    assert "mig.json" not in left and "nvidia" not in left and "daemon.json" not in left, "a node that has left the pool offers no GPU"


def told(hub: Hub, user: str, profile: str) -> dict[str, str]:
    """Start a session and return what it sees: its kernel's release and its environment."""
    hub.start(user, profile)
    with hub.kernel(user) as kernel:
        seen: dict[str, str] = json.loads(
            kernel.run("import json, os, platform; print(json.dumps({'release': platform.release(), **os.environ}))")
        )
    return seen


def queue(cluster: Cluster) -> list[str]:
    """The users whose starts wait, the next one first."""
    return [row["user"] for row in cluster.admin.request("GET", "/hub/metalhub/api/queue").json()["queue"]]


def leases(cluster: Cluster, node: str) -> list[str]:
    """The slices that the sessions on a node hold, by the engine's word."""
    look = "docker ps -q --filter label=metalhub.session | xargs -r docker inspect -f '{{json .Config.Env}}'"
    found = [entry for line in cluster.ssh(node, look).splitlines() for entry in json.loads(line)]
    return sorted(entry.partition("=")[2] for entry in found if entry.startswith(f"{KIND}=") and entry != f"{KIND}=")


def test_one_gpu_server_is_a_whole_platform(cluster: Cluster, guest: Guest, server: str, record_property: Note) -> None:
    slices = sorted(cluster.ssh(server, "nvidia-smi -L | grep -o 'MIG-[0-9a-f-]*'").split())
    assert len(slices) == SLICES

    with_slice, without = guest("t-slice"), guest("t-beside")
    seen = told(with_slice, "t-slice", "slice")
    assert seen["release"] == cluster.ssh(server, "uname -r"), "a slice is given by runc with NVIDIA's runtime"
    assert seen[KIND] in slices and seen["NVIDIA_VISIBLE_DEVICES"] == "void"
    seen = told(without, "t-beside", "beside")
    assert seen["release"] == "4.4.0", "gVisor"
    assert seen["NVIDIA_VISIBLE_DEVICES"] == "void" and not seen.get(KIND)
    assert cluster.node_of("t-slice") == cluster.node_of("t-beside") == server
    cards = cluster.admin.request("GET", "/hub/metalhub/room/t-slice").json()
    assert cards["slice"]["gpu"] == f"1 × 1g.10gb, {SLICES - 1} of {SLICES} free"
    cluster.stop_all("t-slice")
    cluster.stop_all("t-beside")

    users = [f"t-lease-{number}" for number in range(ASKING)]
    for user in users:
        cluster.admin.request("POST", f"/hub/api/users/{user}")
    try:
        hubs = [cluster.admin.as_user(user) for user in users]

        def ask(hub: Hub, user: str) -> int:
            return hub.request("POST", f"/hub/api/users/{user}/server", {"profile": "slice"}).status

        with ThreadPoolExecutor(ASKING) as pool:
            answers = list(pool.map(ask, hubs, users))
        assert set(answers) <= {201, 202}, answers
        wait("the others in the queue", lambda: len(queue(cluster)) == ASKING - SLICES, 60, 0.5)
        line = queue(cluster)
        have = [user for user in users if user not in line]
        for user in have:
            wait(f"the session of {user}", lambda user=user: cluster.server(user).get("ready"), 120, 0.5)  # type: ignore[misc]
        assert leases(cluster, server) == slices, "each slice once"
        # A slice that is given back goes to the next one.
        cluster.stop_all(have[0])
        wait("the next one's session", lambda: cluster.server(line[0]).get("ready"), 120, 0.5)
        assert queue(cluster) == line[1:] and leases(cluster, server) == slices
        record_property("GPU server", f"{ASKING} asked at once for {SLICES} slices, {len(have)} have one each, {len(line)} wait")
    finally:
        # Those who wait first: what the others give back would be theirs.
        for user in [*queue(cluster), *users]:
            cluster.admin.request("DELETE", f"/hub/api/users/{user}")
        wait("no session on the node", lambda: not leases(cluster, server), 60, 0.5)
