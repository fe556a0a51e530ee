"""A thousand sessions, ours beside JupyterHub with SwarmSpawner and its idle culler: the same JupyterHub, the same fake Swarm, in turns.

    .venv/bin/python tests/bench/scale.py [--herd 200] [--sessions 100,500,1000] [--steady 60] [--repeats 3] [--json FILE]

Both hubs are real processes with their real configuration. What is around them is tests/bench/fake_swarm.py, one for each: the engine, the
sessions' servers and the API of the proxy. No session runs, so this measures what a hub costs, not what Swarm does. While one hub is measured,
the other and its world are stopped (SIGSTOP). The opponent gets a virtual environment below .cache, from upstream/requirements-scale.txt.

herd     so many users start a session at once; then all of them are stopped
steady   so many sessions run (most of them copied into the hubs' databases) and nobody does anything, but that each server reports its activity every five minutes
pages    what a page or an answer of the API takes, asked one after the other, with all sessions running
restart  the hub is killed: until it answers, and until it knows all its sessions to be ready
idle     a part of the sessions falls idle: until those are stopped, and how many others were

The lag of the event loop is the lateness of a task that wakes each 50 ms. One late wake stands for all that would have been late with it:
one of 0.5 s counts as ten, of 0.5, 0.45 ... 0.05 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "files/hub"), str(ROOT / "tests/unit/hub"), str(ROOT / "tests/unit")]

import aiohttp  # noqa: E402
import fake_swarm  # noqa: E402
import sqlalchemy  # noqa: E402
import yaml  # noqa: E402
from conftest import document  # noqa: E402
from jupyterhub import orm  # noqa: E402

STOCK = ROOT / ".cache" / "bench-scale"
PASSWORD = "correct-horse-battery"
# How long a session may be idle, and how often the hubs look.
USUAL = (12 * 3600, 30)
# The same in the last phase.
IDLE, IDLE_LOOK = 60, 10
EVERY = 0.05
OURS, THEIRS = "Metalhub", "stock"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def processes(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for one in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents.setdefault(int(Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[1]), []).append(int(one))
    found = [root]
    for number in found:
        found += parents.get(number, [])
    return found


def cpu_seconds(root: int) -> float:
    total = 0
    for one in processes(root):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory(root: int) -> dict[str, float]:
    """RSS and PSS in MiB of a process and all below it."""
    sums = {"Rss": 0.0, "Pss": 0.0}
    for one in processes(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()[1:]:
                name, _, value = line.partition(":")
                if name in sums:
                    sums[name] += int(value.split()[0]) / 1024
    return sums


def stock_python() -> Path:
    """The opponent's interpreter; its environment is made where it is missing or another than pinned."""
    pins, python, stamp = HERE / "upstream/requirements-scale.txt", STOCK / "bin/python", STOCK / "pins"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(STOCK, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", STOCK], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--require-hashes", "-r", pins], check=True)
        stamp.write_text(wanted)
    return python


class Side:
    """One hub with the world around it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        self.port, self.world_port, self.token = free_port(), free_port(), secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self.port}/hub"
        self.world = f"http://127.0.0.1:{self.world_port}"
        self.roots: list[subprocess.Popen[bytes]] = []
        self.hub: subprocess.Popen[bytes] | None = None
        self.ours = name == OURS
        self.http: aiohttp.ClientSession
        directory.mkdir()

    @property
    def pid(self) -> int:
        assert self.hub
        return self.hub.pid

    def _popen(self, argv: list[Any], log: str, **environment: str) -> subprocess.Popen[bytes]:
        with open(self.directory / log, "ab") as file:
            process = subprocess.Popen(
                [str(word) for word in argv],
                cwd=self.directory,
                env={**os.environ, **environment},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.roots.append(process)
        return process

    async def begin(self) -> None:
        self._popen([sys.executable, HERE / "fake_swarm.py", "--socket", "engine.sock", "--port", self.world_port], "world.log")
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=300),
            headers={"Authorization": f"token {self.token}"},
        )
        await until(lambda: self.control("counts"), 30)
        await self.start_hub(*USUAL)

    async def start_hub(self, idle: int, look: int) -> float:
        """Start the hub and wait until it answers. Returns after how many seconds it did."""
        common = {"BENCH_TOKEN": self.token, "BENCH_LAG": "lag", "BENCH_PROBE": str(HERE / "upstream/scale_probe.py")}
        begun = time.monotonic()
        if self.ours:
            self._write_document(idle, look)
            more = {"METALHUB_HUB_CONFIG": str(self.directory / "hub.yml"), "PYTHONPATH": str(ROOT / "files/hub")}
            argv = [sys.executable, "-m", "metalhub_hub", "run", "-f", self.directory / "config.py"]
        else:
            more = {
                "BENCH_HUB": f"http://127.0.0.1:{self.port}",
                "BENCH_PORT": str(self.world_port),
                "BENCH_IDLE": str(idle),
                "BENCH_LOOK": str(look),
                "DOCKER_HOST": f"unix://{self.directory}/engine.sock",
            }
            argv = [stock_python(), "-m", "jupyterhub", "-f", HERE / "upstream/scale_config.py"]
        self.hub = self._popen(argv, "hub.log", **common, **more)
        await until(self.answers, 180)
        return time.monotonic() - begun

    def _write_document(self, idle: int, look: int) -> None:
        raw = document(
            self.directory,
            public_url="http://127.0.0.1:1",
            listen=f"http://127.0.0.1:{self.port}",
            connect_url=f"http://127.0.0.1:{self.port}",
            session={"stop_notice": f"{IDLE // 2}s"},
            cull_every=f"{look}s",
        )
        raw["engine"]["timeout"] = 30
        raw["traefik"]["api_url"] = f"{self.world}/traefik"
        profile = raw["profiles"]["small"]
        raw["profiles"] = {"small": {**profile, "idle_stop": f"{idle}s", "max_session": "12h"}}
        (self.directory / "hub.yml").write_text(yaml.safe_dump(raw, sort_keys=False))
        for name, text in (("cookie", "b" * 64), ("traefik", "c" * 64), ("admin", PASSWORD)):
            (self.directory / name).write_text(text)
            (self.directory / name).chmod(0o600)
        (self.directory / "config.py").write_text(
            f"import os\nload_subconfig({str(ROOT / 'files/hub/metalhub_hub/jupyterhub_config.py')!r})\n"
            "load_subconfig(os.environ['BENCH_PROBE'])\n"
        )

    async def answers(self) -> bool:
        if self.hub is None or self.hub.poll() is not None:
            raise RuntimeError(f"{self.name}: " + (self.directory / "hub.log").read_text()[-3000:])
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with self.http.get(f"{self.url}/health") as response:
                return response.status == 200
        return False

    def signal(self, which: signal.Signals) -> None:
        """To all processes of this side."""
        for root in self.roots:
            if root.poll() is None:
                for one in processes(root.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, which)

    def kill_hub(self) -> None:
        assert self.hub
        # The opponent's culler ends with its hub, as it does below systemd.
        for one in processes(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self.hub.wait(20)

    async def close(self) -> None:
        self.signal(signal.SIGKILL)
        for root in self.roots:
            root.wait(20)
        await self.http.close()

    # What is asked

    async def control(self, what: str, **changes: Any) -> Any:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with self.http.request("POST" if changes else "GET", f"{self.world}/control/{what}", json=changes or None) as response:
                return await response.json()
        return None

    async def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.http.request(method, f"{self.url}/api{path}", json=body) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def with_servers(self, state: str) -> list[str]:
        """The users who have a session in a state, by pages."""
        found: list[str] = []
        for offset in range(0, 100_000, 200):
            status, page = await self.api("GET", f"/users?state={state}&limit=200&offset={offset}")
            assert status == 200, page
            found += [user["name"] for user in page]
            if not page:  # "ready" is told from "active" only after the page was cut
                return found
        return found

    async def start(self, user: str) -> float | str:
        """Start a session as a program or a page does. Returns the seconds until it was ready, or what went wrong."""
        begun, said = time.monotonic(), "no word"
        try:
            async with asyncio.timeout(180):
                status, answer = await self.api("POST", f"/users/{user}/server", {})
                if status == 201:
                    return time.monotonic() - begun
                if status != 202:
                    return f"{status} {answer}"
                async with self.http.get(f"{self.url}/api/users/{user}/server/progress") as response:
                    async for line in response.content:
                        if line.startswith(b"data:"):
                            event = json.loads(line[5:])
                            said = str(event.get("message"))
                            if event.get("ready"):
                                return time.monotonic() - begun
                            if event.get("failed"):
                                return said
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"{type(error).__name__} {error}"
        return f"the progress ended: {said}"

    async def stop(self, users: Iterable[str]) -> float:
        """Stop sessions. Returns the seconds until none of them is left."""
        begun = time.monotonic()
        await asyncio.gather(*(self.api("DELETE", f"/users/{user}/server") for user in users))

        async def gone() -> bool:
            return not set(users) & set(await self.with_servers("active"))

        await until(gone, 300, 0.5)
        return time.monotonic() - begun

    def lags(self, since: float, until: float) -> list[float]:
        """How late the loop was in a span of the steady clock."""
        found = []
        for line in (self.directory / "lag").read_text().splitlines():
            at, _, late = line.partition(" ")
            if since <= float(at) <= until and late:
                found += [max(0.0, float(late))]
                found += [float(late) - step * EVERY for step in range(1, int(float(late) / EVERY) + 1)]
        return found


async def until(check: Callable[[], Awaitable[Any]], seconds: float, every: float = 0.1) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = await check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        await asyncio.sleep(every)


class Watch:
    """What a hub does meanwhile: its engine's and proxy's requests, its loop's lag, the CPU it takes."""

    def __init__(self, side: Side) -> None:
        self.side = side

    async def __aenter__(self) -> Watch:
        self.before = Counter((await self.side.control("counts"))["counts"])
        self.cpu, self.begun = cpu_seconds(self.side.pid), time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ended = time.monotonic()
        self.seconds = self.ended - self.begun
        self.cpu_minute = (cpu_seconds(self.side.pid) - self.cpu) * 60 / self.seconds
        after = Counter((await self.side.control("counts"))["counts"])
        self.requests = {kind: count / self.seconds for kind, count in sorted((after - self.before).items())}
        await asyncio.sleep(1)  # the probe writes each half second
        lags = self.side.lags(self.begun, self.ended)
        self.lag = {"p50": percentile(lags, 0.5), "p99": percentile(lags, 0.99), "max": max(lags, default=float("nan"))}

    def engine(self) -> float:
        """Requests to the engine a second."""
        return sum(rate for kind, rate in self.requests.items() if kind.split()[0] not in ("traefik", "chp", "hub"))


# The phases


async def herd(side: Side, users: list[str]) -> dict[str, float]:
    async with Watch(side) as watch:
        begun = time.monotonic()
        found = await asyncio.gather(*map(side.start, users))
        wall = time.monotonic() - begun
    wrong = [one for one in found if isinstance(one, str)]
    good = [one for one in found if isinstance(one, float)]
    for text, count in Counter(wrong).most_common(5):
        print(f"    {side.name}: {count} starts failed: {text[:200]}", flush=True)
    stopped = await side.stop(users)
    return {
        "errors": len(wrong),
        "all ready, s": wall,
        "start p50, s": percentile(good, 0.5),
        "start p99, s": percentile(good, 0.99),
        "engine requests a start": watch.engine() * watch.seconds / len(users),
        "loop lag p99, ms": watch.lag["p99"] * 1000,
        "loop lag max, ms": watch.lag["max"] * 1000,
        "all stopped, s": stopped,
    }


async def fill(side: Side, like: str, users: list[str]) -> None:
    """Have sessions of users who never started one: each is a copy of that of ``like``, in the world and in the database of the hub, which is
    stopped for it. A thousand real starts take some minutes, and what they cost is known from the herd."""
    if like not in await side.with_servers("ready"):
        started = await side.start(like)
        assert isinstance(started, float), started
    found = await side.control(f"session?user={like}")
    text = json.dumps(found["spec"])
    own = next(line for line in found["spec"]["TaskTemplate"]["ContainerSpec"]["Env"] if line.startswith("JUPYTERHUB_API_TOKEN="))
    tokens = {user: secrets.token_hex(16) for user in users}
    specs = [json.loads(text.replace(own.partition("=")[2], tokens[user]).replace(like, user)) for user in users]
    side.kill_hub()
    numbers = await side.control("copy", specs=specs) if specs else []
    database = orm.new_session_factory(f"sqlite:///{side.directory}/jupyterhub.sqlite")()
    database.execute(sqlalchemy.text("PRAGMA synchronous=OFF"))
    template = database.query(orm.Spawner).join(orm.User).filter(orm.User.name == like, orm.Spawner.server_id.is_not(None)).one()
    owners = {owner.name: owner for owner in database.query(orm.User)}
    everybody = list(owners[like].roles)
    for user, number in zip(users, numbers, strict=True):
        state = json.dumps(template.state)
        for name in (fake_swarm.service_id, fake_swarm.task_id):
            state = state.replace(name(found["number"]), name(number))
        owner = owners.get(user) or orm.User(name=user, roles=everybody)
        spawner = next(iter(owner.orm_spawners.values()), None) or orm.Spawner(user=owner, name="")
        server = template.server
        spawner.server = orm.Server(proto=server.proto, ip=server.ip, port=server.port, base_url=f"/user/{user}/", cookie_name=f"user-{user}")
        spawner.state = json.loads(state.replace(like, user))
        spawner.user_options, spawner.started, spawner.last_activity = template.user_options, template.started, template.last_activity
        scopes = [f"users:activity!user={user}", f"access:servers!server={user}/"]
        token = orm.APIToken(generated=True, note="copied", client_id="jupyterhub", scopes=scopes)
        token.token, token.user = tokens[user], owner
        database.add_all([owner, spawner, token])
    database.commit()
    database.close()
    await side.start_hub(*USUAL)
    await until(lambda: known(side, users), 300, 0.5)
    await asyncio.sleep(10)  # it tells the proxy


async def known(side: Side, users: list[str]) -> bool:
    return set(await side.with_servers("ready")) >= set(users)


async def steady(side: Side, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """What a hub costs, and its requests a second by kind."""
    async with Watch(side) as watch:
        await asyncio.sleep(seconds)
    mib = memory(side.pid)
    return {
        "engine requests a second": watch.engine(),
        "loop lag p50, ms": watch.lag["p50"] * 1000,
        "loop lag p99, ms": watch.lag["p99"] * 1000,
        "loop lag max, ms": watch.lag["max"] * 1000,
        "CPU seconds a minute": watch.cpu_minute,
        "RSS, MiB": mib["Rss"],
        "PSS, MiB": mib["Pss"],
    }, watch.requests


async def pages(side: Side, user: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each page and answer, of each repeat."""
    found: dict[str, list[float]] = {}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(f"{side.url}/login") as response:
            text = await response.text()
        token = text.split('name="_xsrf" value="')[1].split('"')[0]
        form = {"username": "admin", "password": PASSWORD, "_xsrf": token}
        async with browser.post(f"{side.url}/login", data=form, allow_redirects=False) as response:
            assert response.status == 302, await response.text()
        asked = {
            "home page": (browser, "/home"),
            "choice of a profile": (browser, "/spawn/admin"),
            "admin page": (browser, "/admin"),
            "API: a page of 50 users": (side.http, "/api/users?limit=50&include_stopped_servers=1"),
            "API: a user": (side.http, f"/api/users/{user}"),
            "API: metrics": (side.http, "/metrics"),
        }
        if side.ours:
            asked["API: a user's sessions"] = (side.http, f"/metalhub/api/users/{user}/sessions")
            asked["API: nodes"] = (browser, "/metalhub/api/nodes")
        else:
            del asked["choice of a profile"]  # there it starts the session
        for _ in range(repeats):
            for what, (client, path) in asked.items():
                begun = time.monotonic()
                async with client.get(side.url + path) as response:
                    await response.read()
                    assert response.status == 200, (side.name, path, response.status, await response.text())
                found.setdefault(what, []).append((time.monotonic() - begun) * 1000)
                await asyncio.sleep(0.05)
    return found


async def restart(side: Side, users: list[str], idle: int = USUAL[0], look: int = USUAL[1]) -> dict[str, float]:
    side.kill_hub()
    begun = time.monotonic()
    answered = await side.start_hub(idle, look)

    lost = 0
    try:
        await until(lambda: known(side, users), 120, 0.5)
    except TimeoutError:
        lost = len(set(users) - set(await side.with_servers("ready")))
    return {"until it answers, s": answered, "until all are ready, s": time.monotonic() - begun, "sessions lost": lost}


async def idleness(side: Side, users: list[str], share: float) -> dict[str, float]:
    """Let some sessions fall idle under a hub with a short limit, and see which ones it stops."""
    idle = set(random.Random(1).sample(users, max(1, int(len(users) * share))))
    await side.control("set", activity=IDLE / 4)
    await asyncio.sleep(IDLE / 4 + 5)
    await side.control("set", idle=[f"/user/{user}/" for user in idle])
    begun = time.monotonic()
    await restart(side, [], IDLE, IDLE_LOOK)

    async def stopped() -> bool:
        return not idle & set(await side.with_servers("active"))

    left = 0
    try:
        await until(stopped, IDLE * 5, 2)
    except TimeoutError:
        left = len(idle & set(await side.with_servers("active")))
    taken = time.monotonic() - begun
    await asyncio.sleep(IDLE / 2)
    alive = set(await side.with_servers("ready"))
    return {"idle ones stopped after, s": taken, "idle ones left": left, "others stopped": len(set(users) - idle - alive)}


# The whole


def word(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


class Table:
    """The measures in the order in which they came, by side; several of one are its repeats."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, phase: str, side: str, found: dict[str, float]) -> None:
        for what, value in found.items():
            self.values.setdefault(f"{phase}: {what}", {}).setdefault(side, []).append(value)

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            what: {side: (max if "error" in what else statistics.median)(values) for side, values in by.items()}
            for what, by in self.values.items()
        }

    def print(self) -> None:
        width = max(map(len, self.values), default=0)
        print(f"{'':{width}} {OURS:>10} {THEIRS:>10} {'ratio':>8}")
        for what, by in self.medians().items():
            ours, theirs = by.get(OURS), by.get(THEIRS)
            ratio = f"{theirs / ours:.1f}x" if ours and theirs else ""
            print(f"{what:{width}} {'' if ours is None else word(ours):>10} {'' if theirs is None else word(theirs):>10} {ratio:>8}")


async def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    table, rates = Table(), {}
    sizes = [int(text) for text in options.sessions.split(",")]
    users = [f"user{number:04}" for number in range(max(*sizes, options.herd))]
    sides = [Side(name, directory / name) for name in options.sides.split(",")]

    async def turn(side: Side, what: str, work: Awaitable[Any]) -> Any:
        """Measure one side while the others stand still."""
        for other in sides:
            other.signal(signal.SIGCONT if other is side else signal.SIGSTOP)
        await asyncio.sleep(2)  # what was due meanwhile
        begun = time.monotonic()
        found = await work
        print(f"    {side.name}: {what}: {time.monotonic() - begun:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
        return found

    try:
        for side in sides:
            await side.begin()
            status, answer = await side.api("POST", "/users", {"usernames": users[: options.herd]})
            assert status == 201, answer
        for _ in range(options.repeats if "herd" in options.phases else 0):
            for side in sides:
                table.add(f"herd of {options.herd}", side.name, await turn(side, "herd", herd(side, users[: options.herd])))
        before = 0
        for size in sizes:
            for side in sides:
                await turn(side, f"fill to {size}", fill(side, users[0], users[max(1, before) : size]))
            for side in sides if "steady" in options.phases else ():
                found, by_kind = await turn(side, f"steady with {size}", steady(side, options.steady))
                table.add(f"steady with {size}", side.name, found)
                rates.setdefault(side.name, {})[size] = by_kind
            before = size
        running = users[:before]
        for _ in range(options.repeats if "pages" in options.phases else 0):
            for side in sides:
                found = await turn(side, "pages", pages(side, users[0], 10))
                for what, values in found.items():
                    for value in values:
                        table.add("ms", side.name, {what: value})
        for side in sides if "restart" in options.phases else ():
            table.add("restart", side.name, await turn(side, "restart", restart(side, running)))
        for side in sides if "idle" in options.phases else ():
            table.add("idle", side.name, await turn(side, "idle", idleness(side, running, 0.1)))
    finally:
        for side in sides:
            side.signal(signal.SIGCONT)
            await side.close()
        # What was measured before something went wrong, too.
        table.print()
        for name, by_size in rates.items():
            print(f"requests a second by kind, {name}")
            for size, by_kind in by_size.items():
                print(f"{size:>6}  " + "  ".join(f"{kind} {rate:.2f}" for kind, rate in by_kind.items()))
    return {"medians": table.medians(), "all": table.values, "requests": rates}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--herd", type=int, default=200)
    parser.add_argument("--sessions", default="100,500,1000")
    parser.add_argument("--steady", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--phases", default="herd,steady,pages,restart,idle", help="which of them")
    parser.add_argument("--sides", default=f"{OURS},{THEIRS}")
    parser.add_argument("--json", type=Path, help="a file for all values")
    parser.add_argument("--keep", action="store_true", help="keep the hubs' logs and databases")
    options = parser.parse_args()
    if THEIRS in options.sides:
        stock_python()
    directory = Path(tempfile.mkdtemp(prefix="mh-scale-"))
    load = os.getloadavg()
    print(f"{os.cpu_count()} CPUs, load before {load[0]:.1f} {load[1]:.1f} {load[2]:.1f}", flush=True)
    try:
        found = asyncio.run(measure(options, directory))
    finally:
        if options.keep:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps({"load": load, "options": vars(options), **found}, indent=1, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
