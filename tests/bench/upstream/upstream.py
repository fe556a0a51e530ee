"""Click to lab, ours beside dockerspawner's SwarmSpawner: the same nodes, the same image, the same sandbox, in turns.

    .venv/bin/python tests/bench/upstream/upstream.py [--starts 10]

The opponent is JupyterHub with SwarmSpawner and configurable-http-proxy in a container of the control host (jupyterhub_config.py). It mounts
no home and limits nothing but memory and processors, so it has less to do. Everything it needed is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "site"))

from cluster import INVENTORY, Cluster, wait  # noqa: E402

NAME, USER = "bench-upstream", "bench"

# Runs on the control host: asks the opponent as demo/client.py asks us, and prints the seconds from the click to the page.
START = r"""
import json, sys, time, urllib.error, urllib.request
token, user = sys.stdin.read().split()

def ask(method, path, body=None):
    request = urllib.request.Request("http://127.0.0.1:18000" + path, body, {"Authorization": "token " + token}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()

begin = time.monotonic()
status, text = ask("POST", f"/hub/api/users/{user}/server", b"{}")
assert status in (201, 202), text
while True:
    server = json.loads(ask("GET", f"/hub/api/users/{user}")[1]).get("servers", {}).get("", {})
    if server.get("ready"):
        status, page = ask("GET", f"/user/{user}/lab")
        if status == 200 and "jupyter" in page.lower():
            break
    assert server.get("ready") or server.get("pending"), "the start failed"
    assert time.monotonic() - begin < 120, "not within 120 s"
    time.sleep(0.05)
print(time.monotonic() - begin)
ask("DELETE", f"/hub/api/users/{user}/server")
while json.loads(ask("GET", f"/hub/api/users/{user}")[1]).get("servers"):
    time.sleep(0.2)
"""


def build(cluster: Cluster, image: str) -> None:
    """Build the opponent on the platform's notebook image, on the control host, which can reach what it installs."""
    archive = subprocess.run(["tar", "-C", str(HERE), "-c", "."], check=True, capture_output=True).stdout
    host = cluster.hosts[cluster.control]
    registry = shlex.quote(image.partition("/")[0])
    script = f"""
    export DOCKER_CONFIG=$(mktemp -d) && trap 'rm -rf "$DOCKER_CONFIG"' EXIT
    docker login -u pull --password-stdin {registry} < /etc/metalhub/secrets/registry-pull-password
    docker build -q --network host -t {NAME} --build-arg BASE_IMAGE={shlex.quote(image)} -"""
    subprocess.run(["ssh", *host.ssh_options, host.address, script], check=True, input=archive, timeout=900)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mh-"))
    cluster = Cluster(INVENTORY, directory)
    try:
        image = json.loads(cluster.ssh(cluster.control, "cat /etc/metalhub/images.json"))["lab"]
        pool = cluster.ssh(cluster.control, f"docker node inspect -f '{{{{index .Spec.Labels \"metalhub.pool\"}}}}' {cluster.compute[0]}")
        build(cluster, image)
        token = secrets.token_hex(16)
        # In the environment of a container that lives for minutes and guards nothing but itself.
        variables = {"BENCH_TOKEN": token, "BENCH_IMAGE": image, "BENCH_NETWORK": NAME, "BENCH_POOL": pool}
        cluster.ssh(
            cluster.control,
            f"docker network create -d overlay --attachable {NAME} && "
            f"docker run -d --name {NAME} --runtime runc --network {NAME} -p 127.0.0.1:18000:8000 -v /run/docker.sock:/var/run/docker.sock "
            + " ".join(f"-e {key}={shlex.quote(value)}" for key, value in variables.items())
            + f" {NAME}",
        )
        wait("the opponent answers", lambda: cluster.ssh(cluster.control, "curl -sf http://127.0.0.1:18000/hub/api/", check=False), 60)
        cluster.ssh(cluster.control, f"curl -sf -X POST -H 'Authorization: token {token}' http://127.0.0.1:18000/hub/api/users/{USER}")

        cluster.admin.request("POST", f"/hub/api/users/{USER}")
        cluster.stop_all(USER)
        guest = cluster.admin.as_user(USER)
        times: dict[str, list[float]] = {"Metalhub": [], "SwarmSpawner": []}
        for number in range(options.starts + 1):
            ours = guest.start(USER, None)
            guest.stop(USER)
            script = f"cat > /run/{NAME}.py <<'END'\n{START}\nEND\npython3 /run/{NAME}.py <<< '{token} {USER}'"
            theirs = float(cluster.ssh(cluster.control, script, timeout=200))
            if number:  # the first turn warms the page cache
                times["Metalhub"].append(ours)
                times["SwarmSpawner"].append(theirs)
                print(f"    turn {number:2}: Metalhub {ours:5.2f} s   SwarmSpawner {theirs:5.2f} s", flush=True)
        for name, values in times.items():
            print(f"{name:14} click to lab: p50 {statistics.median(values):5.2f} s   worst of {len(values)} {max(values):5.2f} s")
        print(f"SwarmSpawner / Metalhub: {statistics.median(times['SwarmSpawner']) / statistics.median(times['Metalhub']):.1f}x")
    finally:
        cluster.ssh(
            cluster.control,
            f"docker service ls -q --filter name=jupyter-{USER} | xargs -r docker service rm; docker rm -f {NAME}; sleep 3; "
            f"docker network rm {NAME}; docker rmi {NAME}; rm -f /run/{NAME}.py",
            check=False,
        )
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
