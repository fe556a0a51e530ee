"""The benchmark's fake Swarm speaks to both clients: the hub's own, and the one that dockerspawner uses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest
from docker.types import ContainerSpec, TaskTemplate
from metalhub_hub import cluster, config
from metalhub_hub.engine import Engine

from tests.bench import fake_swarm

SPEC: dict[str, Any] = {
    "Name": "mh-ann",
    "Labels": {"metalhub.session": "mh-ann"},
    "TaskTemplate": {"ContainerSpec": {"Env": ["JUPYTERHUB_SERVICE_PREFIX=/user/ann/"], "Labels": {"metalhub.session": "mh-ann"}}},
    "EndpointSpec": {"Ports": [{"TargetPort": 8888, "PublishMode": "host"}]},
}


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[fake_swarm.FakeSwarm]:
    for name in ("READ", "CHANGE", "SERVER_UP"):
        monkeypatch.setattr(fake_swarm, name, 0)
    made = fake_swarm.FakeSwarm(0, nodes=2)
    await made.serve(str(tmp_path / "engine.sock"))
    yield made
    await made.close()


async def test_the_hubs_own_client(world: fake_swarm.FakeSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(config.Engine((f"unix://{tmp_path}/engine.sock",), "", "", "", 5), config.Registry("", "", ""))
    await engine.create_service(SPEC)
    (task,) = await engine.tasks(label="metalhub.session=mh-ann")
    assert cluster.task_state(task) == "new" and cluster.published_port(task, 8888) is None
    assert await engine.tasks(label="metalhub.session=mh-bob") == []
    monkeypatch.setattr(fake_swarm, "STATES", ((0.0, "running"),))
    snapshot = await cluster.Cluster(engine).snapshot()
    (task,) = snapshot.of("mh-ann")
    assert cluster.judge([task], snapshot.nodes).alive and cluster.published_port(task, 8888) == world.port
    async with aiohttp.ClientSession() as http:
        address = f"http://{cluster.node_address(snapshot.nodes[task['NodeID']])}:{world.port}/user/ann/api/kernels"
        async with http.get(address) as response:
            assert (await response.json())[0]["execution_state"] == "idle"
    assert await engine.stop_container("", cluster.container(task))
    (task,) = await engine.tasks()
    assert cluster.judge([task], {}).cause == "exited"
    assert [one["Spec"]["Name"] for one in await engine.services("metalhub.session")] == ["mh-ann"]
    await engine.remove_service("mh-ann")
    assert await engine.tasks() == [] and await engine.service("mh-ann") is None
    assert world.counts["POST services/create"] == 1 and world.counts["GET tasks"] == 5
    await engine.close()


async def test_dockerspawners_client(world: fake_swarm.FakeSwarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_swarm, "STATES", ((0.0, "running"),))

    def talk() -> None:
        client = docker.APIClient(f"unix://{tmp_path}/engine.sock", version="auto")
        made = client.create_service(TaskTemplate(ContainerSpec("lab", env={"A": "b"}), networks=["sessions"]), name="jupyter-ann")
        assert client.inspect_service("jupyter-ann")["ID"] == made["ID"]
        for filters in ({"service": "jupyter-ann", "desired-state": "running"}, {"service": "jupyter-ann"}):
            (task,) = client.tasks(filters=filters)
            assert task["Status"]["State"] == "running"
        client.remove_service(made["ID"])
        with pytest.raises(docker.errors.NotFound):
            client.inspect_service("jupyter-ann")
        client.close()

    await asyncio.to_thread(talk)


async def test_the_proxy_of_the_opponent(world: fake_swarm.FakeSwarm) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{world.port}") as http:
        await http.post("/chp/api/routes/user/ann", json={"target": "http://127.0.0.1:1"})
        assert json.loads(await (await http.get("/chp/api/routes")).read()) == {"/user/ann": {"target": "http://127.0.0.1:1"}}
        assert (await http.delete("/chp/api/routes/user/ann")).status == 204
        assert (await (await http.get("/chp/api/routes")).json()) == {}
