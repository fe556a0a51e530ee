"""What a user feels and what the platform costs, on a running cluster (the demo's, or METALHUB_INVENTORY's).

    .venv/bin/python tests/bench/sessions.py [--starts 10] [--cells 300]

    click to lab   from the request to start a session until its lab page has been delivered, the image being present; where the default
                   profile keeps sessions ready (`warm`), in turns with one of those and without
    cell           an executed `pass`: through Traefik, and straight to the session's port, in turns from the control host,
                   so that a busy moment hits both; the platform's overhead is the difference
    idle memory    proportional set size of each service of the control host, with no session running
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "site"))

from cluster import INVENTORY, Cluster  # noqa: E402

USER = "bench"
READY = "mh--warm-"

# Runs on the control host with the hub's own Python: both ways begin at the same place and take turns.
CELLS = r"""
import asyncio, json, ssl, sys, time, uuid
import aiohttp

async def run(channel):
    identity = uuid.uuid4().hex
    header = {"msg_id": identity, "msg_type": "execute_request", "username": "", "session": identity, "version": "5.3"}
    content = {"code": "pass", "silent": False, "store_history": False, "allow_stdin": False}
    begin = time.perf_counter()
    await channel.send_str(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}))
    while True:
        message = json.loads((await channel.receive()).data)
        if message.get("parent_header", {}).get("msg_id") == identity and message["header"]["msg_type"] == "execute_reply":
            return time.perf_counter() - begin

async def main(job):
    tls = ssl.create_default_context(cafile="/etc/metalhub/pki/ca.crt")
    headers = {"Authorization": "token " + job["token"]}
    path = f"/user/{job['user']}/api/kernels/{job['kernel']}/channels"
    async with aiohttp.ClientSession(headers=headers) as http:
        edge = await http.ws_connect(f"wss://127.0.0.1{path}", ssl=tls, server_hostname=job["domain"], headers={"Host": job["domain"]})
        direct = await http.ws_connect(f"ws://{job['place']}{path}")
        times = {"traefik": [], "direct": []}
        for number in range(job["cells"] + 20):
            for name, channel in (("traefik", edge), ("direct", direct)):
                seconds = await run(channel)
                if number >= 20:
                    times[name].append(seconds)
        await edge.close()
        await direct.close()
    print(json.dumps(times))

asyncio.run(main(json.load(sys.stdin)))
"""

MEMORY = r"""
for unit in metalhub-hub metalhub-traefik metalhub-registry metalhub-registry-push metalhub-storage docker containerd; do
  total=0
  for file in $(find /sys/fs/cgroup -path "*/$unit.service/cgroup.procs" 2>/dev/null); do
    for pid in $(cat "$file"); do
      total=$((total + $(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$pid/smaps_rollup" 2>/dev/null || echo 0) + 0))
    done
    [ "$total" -gt 0 ] && break
  done
  echo "$unit $total"
done
"""


def milliseconds(times: list[float]) -> str:
    """Median and 99th percentile."""
    ordered = sorted(times)
    return f"p50 {statistics.median(ordered) * 1000:6.1f} ms   p99 {ordered[int(len(ordered) * 0.99)] * 1000:6.1f} ms"


def wait_for_ready(cluster: Cluster) -> None:
    """Wait until a session is ready, where the platform keeps any: its service is there, and its server had the time to load."""
    find = "docker service ls --filter label=metalhub.warm --format '{{.Replicas}}' | grep -c ^1"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and 'warm: ' in cluster.ssh(cluster.control, "cat /etc/metalhub/hub.yml"):
        if cluster.ssh(cluster.control, f"{find} || true").strip() != "0":
            time.sleep(5)
            return
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--cells", type=int, default=300)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mh-"))
    cluster = Cluster(INVENTORY, directory)
    try:
        cluster.admin.request("POST", f"/hub/api/users/{USER}")
        cluster.stop_all(USER)
        memory = dict(line.split() for line in cluster.ssh(cluster.control, MEMORY).splitlines())
        print(f"idle memory of the control host: {sum(map(int, memory.values())) / 1024:.0f} MiB")
        for unit, kilobytes in memory.items():
            print(f"    {unit:24} {int(kilobytes) / 1024:6.1f} MiB")

        guest = cluster.admin.as_user(USER)
        starts: dict[bool, list[float]] = {True: [], False: []}
        for number in range(options.starts):
            if number % 2 == 0:
                wait_for_ready(cluster)
            seconds = guest.start(USER, None)
            ready = cluster.services(USER)[0].startswith(READY)
            starts[ready].append(seconds)
            print(f"    start {number + 1}: {seconds:.2f} s{', one that was ready' if ready else ''}", flush=True)
            if number < options.starts - 1:
                guest.stop(USER)
        for ready, goal in ((True, "1 s at p95"), (False, "2.5 s")):
            if times := starts[ready]:
                what = "click to lab, one ready" if ready else "click to lab"
                print(f"{what}: p50 {statistics.median(times):.2f} s   worst of {len(times)} {max(times):.2f} s   (goal {goal})")
        if starts[True] and starts[False]:
            print(f"ready ones are {statistics.median(starts[False]) / statistics.median(starts[True]):.1f} times as fast")

        (service,) = cluster.services(USER)
        find = "docker inspect $(docker service ps -q --filter desired-state=running {0})"
        task = json.loads(cluster.ssh(cluster.control, find.format(service)))[0]
        port = task["Status"]["PortStatus"]["Ports"][0]["PublishedPort"]
        node = json.loads(cluster.ssh(cluster.control, f"docker node inspect {task['NodeID']}"))[0]
        place = f"{node['Status']['Addr']}:{port}"
        with guest.kernel(USER) as kernel:
            kernel.run("pass")
            job = {"user": USER, "token": guest.token, "kernel": kernel.id, "domain": cluster.domain, "place": place, "cells": options.cells}
            script = f"cat > /run/bench-cells.py <<'END'\n{CELLS}\nEND\n/opt/metalhub/hub/venv/bin/python /run/bench-cells.py <<'END'\n{json.dumps(job)}\nEND"
            times = json.loads(cluster.ssh(cluster.control, script, timeout=300))
        cluster.ssh(cluster.control, "rm -f /run/bench-cells.py")
        print(f"cell through Traefik: {milliseconds(times['traefik'])}")
        print(f"cell directly:        {milliseconds(times['direct'])}")
        p99 = [sorted(values)[int(len(values) * 0.99)] for values in (times["traefik"], times["direct"])]
        print(f"overhead: {(p99[0] - p99[1]) * 1000:.1f} ms at p99 (goal under 15 ms); ratio of medians "
              f"{statistics.median(times['traefik']) / statistics.median(times['direct']):.2f}")
        cluster.stop_all(USER)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
