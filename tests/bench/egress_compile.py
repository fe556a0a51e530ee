"""How long a policy of 5,000 entries takes to compile: the median of several runs, in milliseconds.

.venv/bin/python tests/bench/egress_compile.py [entries] [runs]
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "collections"))

from ansible_collections.metalhub.platform.plugins.module_utils import egress  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.egress_decide import Policy, Request  # noqa: E402


def entries(count: int, seed: int) -> list[str]:
    """Names, wildcards, addresses and networks as a big site has them; a tenth adds nothing to the others."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        domain = f"s{chance.randrange(count // 4 + 1)}.example{number % 7}.org"
        network = chance.randrange(0x0A000000, 0x0AE00000)
        found.append(
            chance.choice(
                [
                    f"www{number}.{domain}", f"*.{domain}:443", f"git{number}.{domain}:22,8000-8100", f"{domain}:443",
                    f"{network >> 24}.{network >> 16 & 255}.{network >> 8 & 255}.{network & 255}:443",
                    f"10.{network >> 16 & 127}.{network >> 8 & 255}.0/24", f"10.{network >> 16 & 127}.{network >> 8 & 254}.0/23:{number % 900 + 1}",
                ]
            )
        )  # fmt: skip
    return found


def measure(runs: int, work: Any) -> float:
    """The median of several runs, in milliseconds."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def main() -> int:
    """Compile, render, read and decide."""
    count, runs = (int(argument) for argument in [*sys.argv[1:], "5000", "9"][:2])
    allow, deny = entries(count * 4 // 5, 1), [entry for entry in entries(count // 5, 2) if not entry.startswith("*.s1.")]
    both = {egress.parse_destination(entry).place for entry in allow}
    deny = [entry for entry in deny if egress.parse_destination(entry, deny=True).place not in both]
    plain = {"subnet": "10.231.64.0/20", "allow": allow}
    inputs: dict[str, dict[str, Any]] = {
        f"{len(allow)} allowed, {len(deny)} denied": {"classes": {"big": {**plain, "deny": deny}}},
        f"the public internet, {len(allow)} allowed, {len(deny)} of a list denied": {
            "classes": {"big": {**plain, "public_internet": True, "deny_lists": ["list"]}},
            "deny_lists": {"list": "\n".join(deny)},
        },
        f"{count} denied by a list": {
            "classes": {"big": {"subnet": "10.231.64.0/20", "public_internet": True, "deny_lists": ["list"]}},
            "deny_lists": {"list": "\n".join(f"pool{number}.example.net" for number in range(count))},
        },
    }
    for title, given in inputs.items():
        began = time.perf_counter()
        policy = egress.compile_policy(**given)
        first = (time.perf_counter() - began) * 1000
        text = json.dumps(policy, sort_keys=True)
        ready = Policy.from_plain(json.loads(text))
        request = Request("big", "proxy-connect", f"www1.{allow[1].partition('.')[2]}", 443)
        print(title)
        again = measure(runs, lambda given=given: egress.compile_policy(**given))
        print(f"  compile  {again:8.1f} ms, {first:.1f} ms the first time, {len(text) / 1024:.0f} KiB of JSON")
        print(f"  resolver {measure(runs, lambda policy=policy: egress.resolver_config(policy, 'big')):8.1f} ms")
        print(f"  read     {measure(runs, lambda text=text: Policy.from_plain(json.loads(text))):8.1f} ms on the node")
        print(f"  decide   {measure(runs, lambda ready=ready, request=request: [ready.decide(request) for _ in range(100)]) * 10:8.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
