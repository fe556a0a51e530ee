"""A herd: many starts in a few seconds at a real hub with a fake engine that has room for few.

    python3 tests/bench/start_queue.py [--starts 500] [--seconds 10] [--places 20] [--admit 100]

The hub is a process of its own with its own configuration; engine, sessions and proxy are servers on the loopback in this one. Printed are
the answers that were no success, whether starts went in the order of the queue, the requests to the engine a second while all wait, the
lag of the hub's event loop while the herd comes and while it waits, and the time of a page of the queue meanwhile. Goals: no errors, all in
order, at most 2 requests a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "files/hub"), str(ROOT / "tests/unit/hub"), str(ROOT / "tests/unit")]

import aiohttp  # noqa: E402
import yaml  # noqa: E402
from aiohttp import web  # noqa: E402
from conftest import FakeEngine, FakeSession, Served, make_node  # noqa: E402
from test_hub import TOKEN, Hub  # noqa: E402

AUDITOR = "d" * 40
GIB = 2**30
# Runs in the hub: how late a timer of 50 ms is, a line each.
PROBE = """
import asyncio, time
from metalhub_hub import platform
def probe(host, attach=platform.Platform.attach):
    def attached(proxy):
        attach(host, proxy)
        async def look():
            with open({path!r}, "a", buffering=1) as file:
                while True:
                    began = time.monotonic()
                    await asyncio.sleep(0.05)
                    file.write(f"{{time.time()}} {{time.monotonic() - began - 0.05}}\\n")
        host._tasks.append(asyncio.ensure_future(look()))
    host.attach = attached
probe(platform.current())
"""


def percentile(numbers: list[float], share: float) -> float:
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Bench:
    def __init__(self, options: argparse.Namespace, directory: Path, hub: Hub, engine: FakeEngine) -> None:
        self.options, self.directory, self.hub, self.engine = options, directory, hub, engine
        self.users = [f"user{number:03}" for number in range(options.starts)]
        self.statuses: Counter[str] = Counter()

    def lag(self, since: float, until: float) -> str:
        lines = [line.split() for line in (self.directory / "lag").read_text().splitlines()]
        late = [float(lag) * 1000 for at, lag in lines if since <= float(at) <= until]
        return f"p50 {percentile(late, 0.5):6.1f} ms   p99 {percentile(late, 0.99):6.1f} ms   worst {max(late, default=0):6.1f} ms"

    async def ask(self, http: aiohttp.ClientSession, user: str, after: float) -> None:
        await asyncio.sleep(after)
        headers = {"Authorization": f"token {TOKEN}"}
        try:
            async with http.post(f"{self.hub.url}/api/users/{user}/server", json={"profile": "small"}, headers=headers) as answer:
                self.statuses[str(answer.status)] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self.statuses[type(error).__name__] += 1

    async def queue(self, http: aiohttp.ClientSession) -> list[dict[str, Any]]:
        async with http.get(f"{self.hub.url}/metalhub/api/queue", headers={"Authorization": f"token {AUDITOR}"}) as answer:
            found: list[dict[str, Any]] = (await answer.json())["queue"]
            return found

    def started(self) -> list[str]:
        """Users in the order in which their sessions were created."""
        return [spec["Labels"]["metalhub.user"] for spec in self.specs]

    async def run(self) -> None:
        options = self.options
        self.specs: list[dict[str, Any]] = []
        create = self.engine.create

        def creating(spec: dict[str, Any]) -> Any:
            self.specs.append(spec)
            return create(spec)

        self.engine.create = creating  # type: ignore[method-assign]
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
            headers = {"Authorization": f"token {TOKEN}"}
            async with http.post(f"{self.hub.url}/api/users", json={"usernames": self.users}, headers=headers) as answer:
                assert answer.status == 201, await answer.text()
            await asyncio.sleep(0.5)  # the hub was late for as long as it made them
            began = time.time()
            step = options.seconds / options.starts
            await asyncio.gather(*(self.ask(http, user, number * step) for number, user in enumerate(self.users)))
            while len(line := await self.queue(http)) < options.starts - options.places:
                await asyncio.sleep(0.5)
                assert time.time() - began < options.seconds + options.patience, (len(line), len(self.specs), self.statuses)
            came = time.time()
            print(f"{options.starts} starts in {options.seconds:g} s for {options.places} places: {dict(self.statuses)}, {len(line)} wait", flush=True)
            print(f"    loop lag while they come   {self.lag(began, came)}")

            before, begin, took = len(self.engine.requests), time.time(), []
            while time.time() - begin < 20:
                asked = time.monotonic()
                await self.queue(http)
                took.append((time.monotonic() - asked) * 1000)
                await asyncio.sleep(1)
            waited = time.time()
            asked = Counter(request.rpartition("/")[2] for request in self.engine.requests[before:])
            print(f"    engine while {len(line)} wait: {sum(asked.values()) / (waited - begin):.2f} requests a second ({dict(asked)})")
            print(f"    loop lag while they wait   {self.lag(begin, waited)}")
            print(f"    GET api/queue              p50 {percentile(took, 0.5):6.1f} ms   worst {max(took):6.1f} ms", flush=True)

            order, first, begin = [row["user"] for row in line], len(self.specs), time.time()
            while len(self.specs) - first < options.admit:
                for task in list(self.engine.tasks):
                    task["Status"]["State"] = "complete"
                await asyncio.sleep(1)
                assert time.time() - begin < 600, len(self.specs)
            gone = self.started()[first:]
            # Those that go in the same look set off together, and the engine hears of them in any order.
            late = [user for number, user in enumerate(gone) if abs(order.index(user) - number) > options.places]
            behind = [user for number, user in enumerate(sorted(gone, key=order.index)) if order.index(user) != number]
            print(f"    order: {len(gone)} went, {len(behind)} before somebody who waits still, {len(late)} out of their batch")
            print(f"    loop lag while they go     {self.lag(begin, time.time())}")
        log = (self.directory / "hub.log").read_text()
        print(f"    tracebacks in the hub's log: {log.count('Traceback')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--places", type=int, default=20)
    parser.add_argument("--admit", type=int, default=100)
    parser.add_argument("--patience", type=float, default=60, help="so many seconds after the last start they have to be there")
    options = parser.parse_args()

    async def traefik(request: web.Request) -> web.Response:
        return web.json_response({"status": "enabled"})

    with tempfile.TemporaryDirectory(prefix="mh-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        engine, session = FakeEngine(str(directory / "engine.sock")), FakeSession()
        resources = {"NanoCPUs": options.places * 10**9, "MemoryBytes": 4096 * GIB}
        engine.nodes = [make_node(Description={"Hostname": "compute1", "Resources": resources})]
        served = Served(traefik)
        for each in (engine.served, session.served, served):
            stack.enter_context(each)
        engine.port = session.served.port
        hub = Hub(directory, served.port)
        raw = yaml.safe_load((directory / "hub.yml").read_text())
        raw["profiles"]["small"]["max_session"] = "8h"
        raw["engine"]["timeout"] = 4  # as shipped
        (directory / "hub.yml").write_text(yaml.safe_dump(raw, sort_keys=False))
        with (directory / "config.py").open("a") as file:
            file.write(
                f"c.JupyterHub.services += [{{'name': 'auditor', 'api_token': {AUDITOR!r}}}]\n"
                "c.JupyterHub.load_roles += [{'name': 'auditor', 'services': ['auditor'], 'scopes': ['admin-ui']}]\n"
                "c.JupyterHub.tornado_settings['slow_spawn_timeout'] = 10\n" + PROBE.format(path=str(directory / "lag"))
            )
        hub.start()
        try:
            asyncio.run(Bench(options, directory, hub, engine).run())
        except BaseException:
            print((directory / "hub.log").read_text()[-300000:], file=sys.stderr)
            raise
        finally:
            hub.kill()


if __name__ == "__main__":
    main()
