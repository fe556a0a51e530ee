"""What the egress control costs, beside an open bridge on the same node, in one run.

    python3 tests/bench/egress.py TESTBED [--repeats 5] [--sandbox gvisor]

Hosts as molecule/egress makes them, with the control on. A session of the class `listed` (by its proxy variables, and without them)
and a container on Docker's own bridge fetch the same from the fake internet, taking turns. Printed: the median throughput of a large
download and its ratio to the open bridge's, as fast as it goes and over a link of 1 Gbit/s, and the median of a small request with what
is added to it. Everything shares the cores of one machine here, the server too, so without the link the ratio is one of processor time.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from egress.control import gateway  # noqa: E402
from egress.hosts import Machine  # noqa: E402
from egress.places import ADDRESSES  # noqa: E402
from egress.suite import SANDBOXES, Suite  # noqa: E402

LARGE, SMALL, GIGABIT = 300_000_000, 50, 125_000_000
RUNTIMES = {"runc": "runc", "gvisor": "runsc"}
MOUNTS = ("-v /usr:/usr:ro -v /opt/egress-test:/egress:ro -v /opt/egress-test/ca.crt:/etc/ssl/certs/ca-certificates.crt:ro "
          "-v /opt/egress-test/resolv-bench:/etc/resolv.conf:ro --tmpfs /tmp")  # fmt: skip


def _inside(host: Machine, container: str, environment: str, command: str) -> str:
    options = f"-e PATH=/usr/bin -e PYTHONPATH=/egress -e SSL_CERT_FILE=/egress/ca.crt {environment}"
    return host.run(f"timeout 120 docker exec {options} {container} sh -c {shlex.quote(command)}", timeout=150).strip()


def measure(suite: Suite, sandbox: str, repeats: int) -> None:
    """Print the numbers of one sandbox."""
    node = suite.world.node
    node.run(f"echo 'nameserver {ADDRESSES['nameserver']}' > /opt/egress-test/resolv-bench; docker rm -f egress-bench > /dev/null 2>&1; "
             f"docker run -d --name egress-bench --runtime {RUNTIMES[sandbox]} --cap-drop ALL --network bridge {MOUNTS} egress-attacker:2 sleep 36000")  # fmt: skip
    proxy = f"http://{gateway('listed')}:3128"
    session = suite.attackers[sandbox, "listed"].container
    ways = {
        "open bridge": ("egress-bench", ""),
        "control, proxy variables": (session, f"-e https_proxy={proxy} -e http_proxy={proxy}"),
        "control, none": (session, ""),
    }
    for title, url in (("TLS", "https://files.pkg.example"), ("plain HTTP", "http://files.pkg.example")):
        speed: dict[str, list[float]] = {way: [] for way in ways}
        linked: dict[str, list[float]] = {way: [] for way in ways}
        small: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(repeats + 1):
            for way, (container, environment) in ways.items():
                fetch = f"curl -s -o /dev/null -w '%{{speed_download}}' {url}/large/"
                rate = float(_inside(node, container, environment, f"{fetch}{LARGE}"))
                link = float(_inside(node, container, environment, f"{fetch}{LARGE}?rate={GIGABIT}"))
                times = [float(t) for t in _inside(node, container, environment, f"python3 -m egress.attacker.errands small {SMALL} {url}/").split()]
                if turn:  # the first warms up
                    speed[way].append(rate / 1e6)
                    linked[way].append(link / 1e6)
                    small[way] += times
        first = statistics.median(small["open bridge"])
        for way in ways:
            p50 = statistics.median(small[way])
            rates = "   ".join(f"{name} {statistics.median(of[way]):5.0f} MB/s, ratio {statistics.median(of[way]) / statistics.median(of['open bridge']):4.2f}"
                               for name, of in (("no limit", speed), ("1 Gbit/s", linked)))  # fmt: skip
            print(f"{sandbox:7} {title:11} {way:25} {rates}   small request p50 {p50 * 1e3:6.2f} ms  added {(p50 - first) * 1e3:6.2f} ms",
                  flush=True)  # fmt: skip
    node.run("docker rm -f egress-bench > /dev/null")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testbed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sandbox", action="append", choices=SANDBOXES)
    options = parser.parse_args()
    suite = Suite(options.testbed)
    suite.up(options.sandbox or SANDBOXES)
    # What looks at each packet would be measured as well.
    for host in suite.world.hosts.values():
        host.run("systemctl stop egress-sniff 'egress-watch-*' 2>/dev/null", check=False)
    for sandbox in options.sandbox or SANDBOXES:
        measure(suite, sandbox, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
