"""Sessions that are kept ready: made, handed out, and given up for whoever needs their room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import FakeEngine, FakeNode, FakeSession, document
from metalhub_hub import config, platform, service, spawner, warm
from metalhub_hub.core import node_service, warm_pool
from test_spawner import Routes, make, restarted, start


class Agent(FakeNode):
    """A node's agent, as far as it has to do with ready sessions."""

    def __init__(self, pki: Path) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuses = ""
        super().__init__(pki, "127.0.0.1")

    def answer(self, method: str, path: str, body: bytes) -> Any:
        assert method == "PUT"
        self.calls.append((path, json.loads(body)))
        if self.refuses and path.endswith(self.refuses):
            raise node_service.Refusal(409, "the home is not there")
        return {}


@pytest.fixture
def agent(pki: Path) -> Iterator[Agent]:
    fake = Agent(pki)
    yield fake
    fake.close()


class WarmSession(FakeSession):
    """A session that waits for its claim, and is a session's server afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.ready = True
        self.refuses = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            return web.json_response({"warm": True}, status=200 if self.ready else 503)
        if request.path == "/claim":
            self.tokens.append(request.headers.get("Authorization", ""))
            self.claims.append(await request.json())
            return web.json_response({}, status=403 if self.refuses else 200)
        return await super().handle(request)


@pytest.fixture
def session(engine: FakeEngine) -> Iterator[WarmSession]:
    fake = WarmSession()
    with fake.served:
        engine.port = fake.served.port
        yield fake


@pytest.fixture
async def world(tmp_path: Path, engine: FakeEngine, session: WarmSession, agent: Agent, pki: Path) -> AsyncIterator[platform.Platform]:
    base = document(tmp_path)
    base["profiles"]["small"]["warm"] = 2
    base["agent_port"] = agent.port
    base["session"] = {"start_timeout": "6s"}
    base["engine"] |= {"ca": f"{pki}/ca.crt", "cert": f"{pki}/hub-client.crt", "key": f"{pki}/hub-client.key"}
    host = platform.use(platform.Platform(config.parse(base)))
    host.proxy = Routes()
    yield host
    await host.warm.close()
    await host.agents.close()
    await host.engine.close()
    await host.homes.close()
    host.quota.close()


async def filled(host: platform.Platform, number: int = 1) -> list[str]:
    """The names of the ready sessions, once there are so many."""
    async with asyncio.timeout(10):
        while sum(warm.ready for warm in host.warm.there.values()) < number:
            await asyncio.sleep(0.05)
            await host.warm.tick()
    return sorted(host.warm.names())


async def test_one_waits_and_becomes_somebodys(world: platform.Platform, engine: FakeEngine, session: WarmSession, agent: Agent) -> None:
    (name,) = await filled(world)
    spec = next(iter(engine.services.values()))["Spec"]
    container = spec["TaskTemplate"]["ContainerSpec"]
    environment = dict(entry.split("=", 1) for entry in container["Env"])
    assert "metalhub.user" not in spec["Labels"] and "JUPYTERHUB_API_TOKEN" not in environment
    home = {"Type": "bind", "Source": f"{warm_pool.ROOT}/{name}", "Target": "/home", "BindOptions": {"Propagation": "rslave"}}
    assert home in container["Mounts"] and not any("homes" in mount.get("Source", "") for mount in container["Mounts"])
    assert agent.calls == [(f"/warm/{name}", {})]

    ann = make(world)
    url = await start(ann)
    assert url == f"http://127.0.0.1:{engine.port}" and ann.service_name == name and len(engine.services) == 1
    assert agent.calls[1:] == [(f"/warm/{name}/home", {"home": "ann", "user": "ann", "profile": "small"})]
    assert session.claims == [{"JUPYTERHUB_API_TOKEN": "token"}] and session.tokens == [f"token {environment['METALHUB_WARM']}"]
    assert world.warm.names() == set(), "it is nobody else's"
    assert await ann.poll() is None
    assert await restarted(ann).poll() is None, "a hub that comes up knows it as any other"
    assert [row.session for row in world.quota.ledger.held()] == [name] * 2, "it is metered like any other"
    async with asyncio.timeout(5):
        while "metalhub.user" not in next(iter(engine.services.values()))["Spec"]["Labels"]:
            await asyncio.sleep(0.05)
    labels = next(iter(engine.services.values()))["Spec"]["Labels"]
    assert labels["metalhub.user"] == "ann" and "metalhub.warm" not in labels
    await ann.stop()
    assert engine.services == {}


async def test_the_sweep_spares_those_that_wait(world: platform.Platform, engine: FakeEngine) -> None:
    await filled(world)
    assert await world.sweep(world.warm.names()) == []
    assert len(await world.sweep(set())) == 1, "those of a hub that is gone it takes"


@pytest.mark.parametrize("trouble", ["agent", "claim", "died"])
async def test_what_goes_wrong_ends_in_an_ordinary_start(
    world: platform.Platform, engine: FakeEngine, session: WarmSession, agent: Agent, trouble: str
) -> None:
    (name,) = await filled(world)
    if trouble == "agent":
        agent.refuses = "/home"
    elif trouble == "claim":
        session.refuses = True
    else:
        engine.tasks[0]["Status"]["State"] = "failed"
        await world.cluster.snapshot(0.0)
        await world.warm.tick()
        assert name not in world.warm.names()
    ann = make(world)
    await start(ann)
    assert ann.service_name.startswith("mh-ann-default-")
    names = {service["Spec"]["Name"] for service in engine.services.values()}
    assert name not in names, "what was handed out half-way is gone"
    labels = next(service["Spec"]["Labels"] for service in engine.services.values() if service["Spec"]["Name"] == ann.service_name)
    assert labels["metalhub.user"] == "ann"


async def test_it_yields_its_room(world: platform.Platform, engine: FakeEngine) -> None:
    engine.nodes = engine.nodes[:1]  # two places for a processor each
    (name,) = await filled(world)
    flavor = world.document.flavors["small"]
    assert (await world.cluster.snapshot(0.0)).room("cpu", flavor).places == 1
    assert (await world.snapshot_for_starts()).room("cpu", flavor).places == 2
    for number in range(2):
        one = make(world)
        one.user.groups = [type("Group", (), {"name": "clinical"})]
        one.user.name = f"user{number}"
        await start(one, profile="pii")
        assert one.service_name.startswith(f"mh-user{number}-")
    assert name not in {service["Spec"]["Name"] for service in engine.services.values()} and world.warm.names() == set()
    await world.cluster.snapshot(0.0)
    await world.warm.tick()
    assert world.warm.names() == set(), "there is no room to spare"


async def test_the_last_place_is_left_free(world: platform.Platform, engine: FakeEngine) -> None:
    engine.nodes = engine.nodes[:1]
    engine.nodes[0]["Description"]["Resources"]["NanoCPUs"] = 10**9
    await world.warm.tick()
    assert world.warm.names() == set() and engine.services == {}


async def test_after_a_change_of_the_image_it_is_made_anew(world: platform.Platform, engine: FakeEngine, tmp_path: Path) -> None:
    (old,) = await filled(world)
    (tmp_path / "images.json").write_text(json.dumps({"lab": "10.0.0.1:5000/lab@sha256:" + "b" * 64}))
    ann = make(world)
    await start(ann)
    assert ann.service_name != old, "nobody gets the old one"
    await world.cluster.snapshot(0.0)
    await world.warm.tick()
    assert old not in world.warm.names()


async def test_what_they_are_made_from_is_worked_out_again_where_it_changed_only(
    world: platform.Platform, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = await filled(world)
    looks: list[str] = []
    spec = service.warm_spec

    def watched(*arguments: Any, **facts: Any) -> dict[str, Any]:
        looks.append(facts["name"])
        return spec(*arguments, **facts)

    monkeypatch.setattr(service, "warm_spec", watched)
    for _ in range(3):
        await world.warm.tick()
    assert looks == [] and world.warm.names() == {old}
    world.profiles.change("small", {"environment": {"GREETING": "hello"}}, "change", "admin")
    await world.warm.tick()
    assert old not in world.warm.names(), "nobody gets one without it"
    (new,) = await filled(world)
    assert looks == ["", new]


async def test_one_that_does_not_become_ready_is_not_tried_for_ever(
    world: platform.Platform, engine: FakeEngine, session: WarmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "PATIENCE", 0.5)
    session.ready = False
    await world.warm.tick()
    assert len(world.warm.names()) == 1
    async with asyncio.timeout(20):
        while world.warm.names() or engine.services:
            await asyncio.sleep(0.05)
    await world.warm.tick()
    assert world.warm.names() == set()


async def test_cards_count_them_as_room(world: platform.Platform, engine: FakeEngine) -> None:
    engine.nodes = engine.nodes[:1]
    await filled(world)
    await world.cluster.snapshot(0.0)
    small = next(card for card in await spawner.cards(world, set()) if card["name"] == "small")
    assert small["places"] == 2
