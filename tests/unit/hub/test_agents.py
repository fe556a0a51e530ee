"""The nodes' session agents as the hub asks them, over real TLS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import GIB, FakeAgent, FakeEngine, usage
from metalhub_hub import agents
from metalhub_hub.cluster import Cluster
from world import Pair


class World(Pair):
    one: FakeAgent
    two: FakeAgent

    def __init__(self, pki: Path, engine: FakeEngine, tmp_path: Path) -> None:
        super().__init__(pki, engine, tmp_path, FakeAgent)
        self.hub: agents.Agents = agents.Agents(self.one.port, Cluster(self.api), self.tls(), self.clock)


@pytest.fixture
async def world(pki: Path, engine: FakeEngine, tmp_path: Path) -> AsyncIterator[World]:
    made = World(pki, engine, tmp_path)
    yield made
    await made.close()


async def test_one_request_a_node_tells_all_sessions(world: World) -> None:
    world.one.sessions = {f"mh-{n}": usage(f"mh-{n}", memory=n * GIB, cpu=5.0, at=50.0) for n in range(40)}
    world.two.sessions = {"mh-b": usage("mh-b", "reclaimed", given_back=3 * GIB, seconds=2.5)}
    await world.hub.look()
    assert [world.one.asked, world.two.asked] == [["/status"], ["/status"]]
    found = world.hub.figures("mh-3")
    assert found is not None and (found.node, found.memory, found.limit, found.cpu) == ("compute1", 3 * GIB, 4 * GIB, None)
    other = world.hub.figures("mh-b")
    assert other is not None and (other.frozen, other.given_back, other.seconds) == (True, 3 * GIB, 2.5)
    assert world.hub.figures("mh-nobody") is None
    node = world.hub.node("compute1")
    assert node is not None and node.hibernates and node.largest == 10 * GIB


async def test_processors_in_use_are_what_passed_between_two_samples(world: World) -> None:
    shares = []
    for cpu, at, container in ((5.0, 50.0, "c"), (20.0, 60.0, "c"), (20.0, 60.0, "c"), (20.0, 70.0, "c"), (1.0, 80.0, "d")):
        world.one.sessions = {"mh-a": usage("mh-a", cpu=cpu, at=at, container=container)}
        await world.hub.look()
        found = world.hub.figures("mh-a")
        assert found is not None
        shares.append(found.cpu)
    assert shares == [None, 1.5, 1.5, 0.0, None]


async def test_a_silent_node_is_not_known_and_its_sessions_are_not_gone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.one.sessions, world.two.sessions = {"mh-a": usage("mh-a")}, {"mh-b": usage("mh-b")}
    await world.hub.look()
    world.one.close()
    await world.hub.close()  # or the connection from before would go on
    world.hub._http = None
    for _ in range(3):
        world.seconds += 10
        await world.hub.look()
    assert world.hub.figures("mh-a") is not None, "of half a minute ago"
    assert list(world.hub.silent) == ["compute1"]
    assert sum("compute1 gives no answer" in line for line in caplog.messages) == 1
    world.seconds += 10
    assert world.hub.figures("mh-a") is None and world.hub.node("compute1") is None
    assert world.hub.container("mh-a") == "container2"
    world.seconds -= 10
    assert world.hub.figures("mh-b") is not None


async def test_what_ended_keeps_its_last_figures(world: World) -> None:
    world.one.sessions = {"mh-a": usage("mh-a", "ended", memory=0, peak=4 * GIB, oom=2)}
    await world.hub.look()
    found = world.hub.figures("mh-a")
    assert found is not None and (found.ended, found.frozen, found.peak, found.oom) == (True, False, 4 * GIB, 2)
    world.one.sessions = {}
    await world.hub.look()
    assert world.hub.figures("mh-a") is None


@pytest.mark.parametrize(
    "answer",
    ["[]", "{", "{}", {"node": {}, "sessions": []}, {"node": None}, {"sessions": [{}]}, {"node": 1, "sessions": 2}, "[" * 20000],
)  # fmt: skip
async def test_nonsense_is_no_answer(world: World, answer: Any) -> None:
    world.one.answers["/status"] = answer
    await world.hub.look()
    assert "compute1" in world.hub.silent and "compute2" not in world.hub.silent


@pytest.mark.parametrize("change", [{"state": "asleep"}, {"memory": "much"}, {"cpu": None}, {"at": []}, {"limit": {}}])
async def test_a_session_with_nonsense_spoils_its_node_only(world: World, change: dict[str, Any]) -> None:
    world.one.sessions = {"mh-a": usage("mh-a") | change}
    world.two.sessions = {"mh-b": usage("mh-b")}
    await world.hub.look()
    assert world.hub.figures("mh-a") is None and world.hub.figures("mh-b") is not None


async def test_a_cluster_that_does_not_answer_leaves_what_was_seen(world: World, engine: FakeEngine) -> None:
    world.one.sessions = {"mh-a": usage("mh-a")}
    await world.hub.look()
    engine.mode = "500"
    world.hub._cluster._taken = float("-inf")
    world.seconds += 10
    await world.hub.look()
    assert world.hub.figures("mh-a") is not None


async def test_who_may_be_hibernated(world: World, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    node = engine.nodes[0]
    assert await world.hub.check(node, "mh-a/b") == ""
    assert world.one.asked == ["/check/mh-a%2Fb"]
    world.one.why = "It holds 12 GiB, and this machine takes at most 10 GiB."
    assert await world.hub.check(node, "mh-a") == world.one.why
    for nonsense in ("[]", "{", {"hibernates": "yes"}):
        world.one.answers["/check/mh-a"] = nonsense
        assert await world.hub.check(node, "mh-a") == agents.UNTOLD
    monkeypatch.setattr(agents, "PATIENCE", 0.2)
    world.one.answers["/check/mh-a"] = lambda: time.sleep(1)
    assert await world.hub.check(node, "mh-a") == agents.UNTOLD


async def test_what_the_nodes_own_agent_answers_is_understood(world: World, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "roles/session_agent/files/opt/metalhub/session-agent"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "agent"))
    from test_session_agent import Machine

    machine = Machine()
    machine.run("c1", mib=300)
    world.one.answer = world.one.server.answer = machine.agent.answer  # type: ignore[method-assign]
    machine.agent.look()
    assert await world.hub.check(engine.nodes[0], "session-c1") == ""
    machine.run("c2", mib=12 * 1024, state="paused")
    machine.agent.look()
    await world.hub.look()
    found = [world.hub.figures(f"session-{one}") for one in ("c1", "c2")]
    assert [(one.container, one.memory, one.frozen) for one in found if one] == [("c1", 300 * 2**20, False), ("c2", 12 * GIB, True)]
    node = world.hub.node("compute1")
    assert node is not None and (node.hibernates, node.largest) == (True, 10 * GIB)
    assert "12G" in await world.hub.check(engine.nodes[0], "session-c2")
    assert "does not run on this node" in await world.hub.check(engine.nodes[0], "nobody")


async def test_without_a_port_nobody_is_asked(world: World) -> None:
    nobody = agents.Agents(0, world.hub._cluster, world.hub.tls)
    await asyncio.wait_for(nobody.watch(), 5)
    assert nobody.figures("mh-a") is None and not world.one.asked
