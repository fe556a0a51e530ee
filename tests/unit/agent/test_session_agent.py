"""The session agent: what the engine says, what is reclaimed and when not, what it answers, and its edges over real files and a real socket."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROLE = Path(__file__).parents[3] / "roles/session_agent/files/opt/metalhub/session-agent"
sys.path.insert(0, str(ROLE))

from metalhub_session_agent.cgroups import Cgroups, Gone  # noqa: E402
from metalhub_session_agent.engine_api import Engine, EngineError  # noqa: E402
from metalhub_session_agent.hibernation import MIB, REMEMBERED, STATES, Figures, Node  # noqa: E402
from metalhub_session_agent.node_service import Refusal  # noqa: E402
from metalhub_session_agent.service import Agent, Session  # noqa: E402

GIB = 1 << 30
LARGEST = 10 * GIB


class FakeEngine:
    """Containers by id: name and state (`running`, `paused`, `exited`); and what it is asked."""

    def __init__(self) -> None:
        self.containers: dict[str, list[str]] = {}
        self.killed: set[str] = set()
        self.asked: list[str] = []
        self.events: list[dict[str, Any]] = []

    def request(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append(f"{method} {path}")
        assert (method, body) == ("GET", None), "the agent only reads"
        if path.startswith("/containers/json?"):
            return [
                {"Id": one, "Labels": {"metalhub.session": name}, "State": state}
                for one, (name, state) in self.containers.items()
                if state != "exited"
            ]
        one = path.split("/")[2]
        if one not in self.containers:
            raise EngineError("no such container", 404)
        return {"State": {"OOMKilled": one in self.killed}}

    def stream(self, path: str) -> Iterator[Any]:
        self.asked.append(f"GET {path}")
        yield from self.events


class FakeCgroups:
    """Memory in MiB by container, with the passes that a reclaim of each takes."""

    def __init__(self) -> None:
        self.memory: dict[str, int] = {}
        self.passes: dict[str, list[int]] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.there = True

    def usable(self) -> bool:
        return self.there

    def figures(self, container: str) -> Figures:
        if container not in self.memory:
            raise Gone(container)
        memory = self.memory[container] * MIB
        return Figures(memory=memory, peak=memory, limit=GIB, pageable=memory, cpu=1.5)

    def reclaim(self, container: str, wanted: Callable[[], bool]) -> int:
        self.meanwhile()
        if container not in self.memory:
            raise Gone(container)
        if wanted() and self.passes.get(container):
            self.memory[container] = self.passes[container].pop(0)
        return self.memory[container] * MIB


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """An agent on a node of ours."""

    def __init__(self) -> None:
        self.engine, self.cgroups, self.clock = FakeEngine(), FakeCgroups(), Clock()
        self.node = Node(32 * GIB, 16 * GIB, 8 * GIB, 8 * GIB)
        self.agent = Agent({"largest": LARGEST}, self.engine, self.cgroups, lambda: self.node, self.clock, self.clock)

    def run(self, container: str, mib: int = 100, state: str = "running", passes: tuple[int, ...] = (50, 2)) -> None:
        self.engine.containers[container] = [f"session-{container}", state]
        self.cgroups.memory[container] = mib
        self.cgroups.passes[container] = list(passes)

    def event(self, container: str, what: str) -> None:
        self.agent.event({"Action": what, "Actor": {"ID": container, "Attributes": {"metalhub.session": f"session-{container}"}}})

    def work(self) -> None:
        """What the one worker does until nothing is left to do."""
        while not self.agent._paused.empty():
            self.agent.hibernate(self.agent._paused.get())

    def told(self, container: str = "a") -> Any:
        answer = self.agent.answer("GET", "/status", b"")
        assert not isinstance(answer, str)
        return next((one for one in answer["sessions"] if one["container"] == container), None)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_paused_session_gives_its_memory_back(machine: Machine) -> None:
    machine.run("a")
    machine.event("a", "start")
    assert machine.told() == {
        "session": "session-a", "container": "a", "state": "running", "memory": 100 * MIB, "peak": 100 * MIB, "limit": GIB, "swap": 0,
        "cpu": 1.5, "oom": 0, "given_back": None, "seconds": None, "at": 1000.0,
    }  # fmt: skip
    machine.event("a", "pause")
    assert machine.told()["state"] == "frozen"
    machine.cgroups.meanwhile = lambda: setattr(machine.clock, "now", machine.clock.now + 1)
    machine.work()
    told = machine.told()
    assert (told["state"], told["given_back"], told["memory"], told["peak"]) == ("reclaimed", 98 * MIB, 2 * MIB, 100 * MIB)
    assert told["seconds"] == 5.0  # two passes that gave something, and three that did not
    machine.event("a", "unpause")
    machine.cgroups.memory["a"] = 7
    told = machine.told()
    assert (told["state"], told["given_back"], told["memory"]) == ("running", 98 * MIB, 7 * MIB)


def test_one_that_goes_on_meanwhile_is_left_alone(machine: Machine) -> None:
    machine.run("a", passes=(50, 25, 2))
    machine.event("a", "start")
    machine.event("a", "pause")
    calls = []

    def meanwhile() -> None:
        calls.append(1)
        if len(calls) == 2:
            machine.event("a", "unpause")

    machine.cgroups.meanwhile = meanwhile
    machine.work()
    told = machine.told()
    assert (len(calls), told["state"], told["given_back"], told["memory"]) == (2, "running", None, 50 * MIB)
    # It was woken before its turn came.
    machine.event("a", "pause")
    machine.event("a", "unpause")
    machine.work()
    assert len(calls) == 2


def test_one_that_ends_meanwhile_is_no_error(machine: Machine) -> None:
    machine.run("a")
    machine.event("a", "start")
    machine.event("a", "pause")

    def meanwhile() -> None:
        machine.cgroups.memory.pop("a", None)
        machine.event("a", "die")

    machine.cgroups.meanwhile = meanwhile
    machine.work()
    assert machine.told()["state"] == "ended"


@pytest.mark.parametrize(
    ("mib", "node", "words"),
    [
        (11 << 10, Node(GIB, GIB, 64 * GIB, 64 * GIB), "at most 10G can hibernate"),
        (100, Node(GIB, GIB, 0, 0), "no swap"),
        (100, Node(GIB, GIB, GIB, 50 * MIB), "room for 50M"),
    ],
)
def test_one_that_may_not_hibernate_stays_in_memory(machine: Machine, mib: int, node: Node, words: str) -> None:
    machine.run("a", mib)
    machine.node = node
    machine.event("a", "start")
    answer = machine.agent.answer("GET", "/check/session-a", b"")
    assert isinstance(answer, dict) and answer["hibernates"] is False and words in answer["why"]
    machine.event("a", "pause")
    machine.work()
    assert (machine.told()["state"], machine.told()["memory"], machine.told()["given_back"]) == ("frozen", mib * MIB, None)
    assert "metalhub_agent_refused_total 1\n" in machine.agent.metrics()


def test_check_counts_what_others_have_yet_to_put_into_swap(machine: Machine) -> None:
    machine.node = Node(GIB, GIB, GIB, 150 * MIB)
    for one in "ab":
        machine.run(one)
        machine.event(one, "start")
    assert machine.agent.answer("GET", "/check/session-b", b"") == {"hibernates": True, "why": ""}
    machine.event("a", "pause")
    assert "room for 50M" in machine.agent.answer("GET", "/check/session-b", b"")["why"]  # type: ignore[index]
    # One that was refused will put nothing there.
    machine.node = Node(GIB, GIB, GIB, 100 * MIB - 1)
    machine.work()
    machine.node = Node(GIB, GIB, GIB, 150 * MIB)
    assert machine.agent.answer("GET", "/check/session-b", b"") == {"hibernates": True, "why": ""}
    assert "does not run on this node" in machine.agent.answer("GET", "/check/session-c", b"")["why"]  # type: ignore[index]


def test_an_agent_that_starts_takes_over_what_is_paused(machine: Machine) -> None:
    """As after it was killed in mid-reclaim."""
    machine.run("a", 60, "paused")
    machine.run("b")
    machine.agent.follow()
    assert {one["state"] for one in machine.agent.status()["sessions"]} == {"frozen", "running"}
    machine.work()
    assert machine.told("a")["state"] == "reclaimed" and machine.told("b")["memory"] == 100 * MIB


def test_events_since_before_the_list_are_heard(machine: Machine) -> None:
    machine.run("a")
    machine.engine.events = [{"Action": "pause", "Actor": {"ID": "a", "Attributes": {"metalhub.session": "session-a"}}}]
    machine.agent.follow()
    assert machine.told()["state"] == "frozen"
    assert [path.partition("?")[0] for path in machine.engine.asked] == ["GET /containers/json", "GET /events"]
    assert "since=1000.000000000&" in machine.engine.asked[1]


def test_what_ended_while_nobody_listened_has_ended(machine: Machine) -> None:
    machine.run("a")
    machine.agent.look()
    machine.engine.containers["a"][1] = "exited"
    del machine.cgroups.memory["a"]
    machine.agent.look()
    assert machine.told()["state"] == "ended"


def test_out_of_memory_is_told_for_fifteen_minutes(machine: Machine) -> None:
    machine.run("a", 1000)
    machine.event("a", "start")
    machine.event("a", "oom")
    machine.engine.killed.add("a")
    del machine.cgroups.memory["a"]
    machine.event("a", "die")
    told = machine.told()
    assert (told["state"], told["oom"], told["memory"], told["peak"], told["at"]) == ("ended", 1, 1000 * MIB, 1000 * MIB, 1000.0)
    machine.clock.now += REMEMBERED
    assert machine.told()["at"] == 1000.0
    machine.clock.now += 1
    assert machine.told() is None


def test_the_engine_tells_what_the_kernel_killed_when_no_event_did(machine: Machine) -> None:
    machine.run("a")
    machine.event("a", "start")
    machine.engine.killed.add("a")
    machine.event("a", "die")
    machine.event("a", "destroy")
    assert machine.told()["oom"] == 1
    assert [path for path in machine.engine.asked if path == "GET /containers/a/json"] == ["GET /containers/a/json"]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["start", "pause", "unpause", "oom", "die", "destroy", "work", "look"]))))
def test_whatever_comes_in_whatever_order(steps: list[tuple[str, str]]) -> None:
    """An ended session stays ended, only a paused one loses memory, and each is in a known state."""
    machine = Machine()
    paused: dict[str, bool] = {}
    ended: set[str] = set()
    once: set[str] = set()
    for one in "ab":
        machine.run(one)
        machine.agent.look()
    for one, what in steps:
        if what == "work":
            machine.work()
        elif what == "look":
            for each in "ab":
                machine.engine.containers[each][1] = "exited" if each in ended else "paused" if paused.get(each) else "running"
            machine.agent.look()
        else:
            machine.event(one, what)
            if what in ("die", "destroy"):
                ended.add(one)
            elif what != "oom":
                paused[one] = what == "pause"
                once |= {one} if what == "pause" else set()
        for each in machine.agent.status()["sessions"]:
            name, state = each["container"], each["state"]
            assert state in STATES
            assert (state == "ended") == (name in ended)
            if name not in ended:
                assert (state != "running") == bool(paused.get(name))
                assert paused.get(name) or name in once or machine.cgroups.memory[name] == 100
            assert each["memory"] == machine.cgroups.memory[name] * MIB or state == "ended"


def test_answers(machine: Machine) -> None:
    machine.run("a")
    machine.agent.look()
    status = machine.agent.status()
    assert status["node"] == {
        "hibernates": True, "why": "", "swap": {"total": 8 * GIB, "free": 8 * GIB}, "memory": {"total": 32 * GIB, "available": 16 * GIB},
        "largest": LARGEST,
    }  # fmt: skip
    assert json.loads(json.dumps(status)) == status
    machine.node = Node(GIB, GIB, 0, 0)
    assert machine.agent.status()["node"]["hibernates"] is False and "no swap" in machine.agent.status()["node"]["why"]
    assert machine.agent.health() == {"status": "down", "down": ["the engine's events"]}
    machine.agent.follow()
    assert machine.agent.health() == {"status": "ok", "down": []}
    machine.cgroups.there = False
    assert machine.agent.health()["down"] == ["the control groups of memory"]
    assert 'metalhub_agent_sessions{state="running"} 1\n' in machine.agent.metrics()
    for method, path, body, status_code in (("GET", "/", b"", 404), ("PUT", "/status", b"", 400), ("GET", "/status", b"x", 400)):
        with pytest.raises(Refusal) as caught:
            machine.agent.answer(method, path, body)
        assert caught.value.status == status_code


def test_a_session_with_a_strange_name_is_found(machine: Machine) -> None:
    machine.agent._sessions["a"] = Session("jupyter-ann--b c", "a", "running")
    machine.cgroups.memory["a"] = 1
    assert machine.agent.answer("GET", "/check/jupyter-ann--b%20c", b"") == {"hibernates": True, "why": ""}


# -- the control groups' files ---------------------------------------------------------------------------------------------------


def write(place: Path, files: dict[str, str]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name).write_text(text)


def tree(root: Path, version: int, container: str = "c" * 64) -> Path:
    """The files of one container below `root`; gives the one that reclaims."""
    if version == 2:
        write(root, {"cgroup.controllers": "cpu memory\n"})
        write(root / f"system.slice/docker-{container}.scope", {"memory.current": "4194304\n", "memory.stat": "anon 4000000\n", "memory.reclaim": ""})
        return root / f"system.slice/docker-{container}.scope/memory.reclaim"
    write(root / f"memory/docker/{container}", {"memory.usage_in_bytes": "4194304\n", "memory.stat": "total_rss 4000000\n", "memory.force_empty": ""})
    write(root / f"cpuacct/docker/{container}", {"cpuacct.usage": "2000000000\n"})
    return root / f"memory/docker/{container}/memory.force_empty"


@pytest.mark.parametrize("version", [1, 2])
def test_figures_and_reclaim_of_both_versions(tmp_path: Path, version: int) -> None:
    file = tree(tmp_path, version)
    cgroups = Cgroups(str(tmp_path))
    assert (cgroups.version, cgroups.usable()) == (version, True)
    figures = cgroups.figures("c" * 64)
    assert (figures.memory, figures.pageable) == (4194304, 4000000)
    assert cgroups.reclaim("c" * 64, lambda: True) == 4194304
    assert file.read_text() == {1: "0", 2: "4194304"}[version]
    with pytest.raises(Gone):
        cgroups.figures("d" * 64)
    with pytest.raises(Gone):
        cgroups.reclaim("d" * 64, lambda: True)


@pytest.mark.parametrize("version", [1, 2])
def test_a_reclaim_that_hangs_in_the_kernel_is_given_up_at_once(tmp_path: Path, version: int) -> None:
    file = tree(tmp_path, version)
    file.unlink()
    os.mkfifo(file)  # its writer waits, as one does in the kernel
    start, left = time.monotonic(), [True, True, False]
    assert Cgroups(str(tmp_path)).reclaim("c" * 64, lambda: left.pop(0) if left else False) == 4194304
    assert time.monotonic() - start < 5


def test_a_machine_without_the_memory_controller_says_so(tmp_path: Path) -> None:
    assert not Cgroups(str(tmp_path)).usable()


# -- the engine's events over a socket --------------------------------------------------------------------------------------------


class EventsHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/events?x=1":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for text in (b'{"Action":"pause"}\n', b'{"Action"', b':"die"}\n'):
            self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
            self.wfile.flush()
            time.sleep(0.05)
        self.server.release.wait(20)  # type: ignore[attr-defined]
        self.wfile.write(b"0\r\n\r\n")

    def address_string(self) -> str:
        return "-"

    def log_message(self, *_: Any) -> None:
        pass


def test_the_engine_streams(tmp_path: Path) -> None:
    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, EventsHandler) as server:
        server.daemon_threads = True
        server.release = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stream = Engine(path, timeout=5).stream("/events?x=1")
        # Each is there before the stream ends.
        assert [next(stream)["Action"], next(stream)["Action"]] == ["pause", "die"]
        server.release.set()  # type: ignore[attr-defined]
        assert list(stream) == []
        with pytest.raises(EngineError, match="404"):
            list(Engine(path, timeout=5).stream("/other"))
        server.shutdown()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with pytest.raises(EngineError, match="did not answer"):
        list(Engine(path, timeout=5).stream("/events?x=1"))


# -- sessions that were made ready in advance ---------------------------------------------------------------------------------


class FakeHomes:
    """The service that mounts: what it is asked, and what it says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.error = ""

    def __call__(self, asked: Any) -> dict[str, Any]:
        self.asked.append(dict(asked))
        if self.error:
            raise OSError(self.error)
        return {"names": list(self.names)} if asked["do"] == "list" else {}


WARM = "mh--warm-0123456789ab"


def test_a_home_is_asked_for_in_its_name(machine: Machine) -> None:
    homes = FakeHomes()
    machine.agent._homes = homes
    assert machine.agent.answer("PUT", f"/warm/{WARM}", b"{}") == {}
    # What names the session is the path, whatever the body says.
    assert machine.agent.answer("PUT", f"/warm/{WARM}/home", b'{"home": "ann", "name": "other", "do": "end"}') == {}
    assert homes.asked == [{"do": "make", "name": WARM}, {"home": "ann", "name": WARM, "do": "give"}]
    for path in ("/warm/mh-ann", f"/warm/{WARM}/other", f"/warm/../{WARM}"):
        with pytest.raises(Refusal):
            machine.agent.answer("PUT", path, b"")
    with pytest.raises(Refusal, match="not what it should be"):
        machine.agent.answer("PUT", f"/warm/{WARM}/home", b"[]")
    homes.error = "away"
    with pytest.raises(Refusal, match="does not answer: away"):
        machine.agent.answer("PUT", f"/warm/{WARM}", b"")


def test_what_was_made_ready_goes_with_its_session(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = FakeHomes()
    machine.agent._homes = homes
    actor = {"ID": "c9", "Attributes": {"metalhub.session": WARM}}
    machine.engine.containers["c9"] = [WARM, "running"]
    machine.agent.event({"Action": "start", "Actor": actor})
    homes.names = [WARM]
    now = machine.agent._wall()
    monkeypatch.setattr("metalhub_session_agent.service._changed", lambda _: now - 3600)
    machine.agent.tidy()
    assert homes.asked == [{"do": "list"}], "it lives"
    machine.agent.event({"Action": "die", "Actor": actor})
    assert homes.asked[1:] == [{"do": "end", "name": WARM}]
    # One that ended while nobody listened, and one whose container is still to come.
    machine.agent.tidy()
    assert homes.asked[2:] == [{"do": "list"}, {"do": "end", "name": WARM}]
    monkeypatch.setattr("metalhub_session_agent.service._changed", lambda _: now - 5)
    machine.agent.tidy()
    assert homes.asked[4:] == [{"do": "list"}]
