"""Alive or not, where, and whether there is room: read from the engine's own JSON."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import GIB, FakeEngine, make_node
from metalhub_hub import cluster, config
from metalhub_hub.engine import Engine, EngineRefused, EngineUnknown


def task(state: str = "running", wanted: str = "running", **more: Any) -> dict[str, Any]:
    status = {"State": state, **more.pop("status", {})}
    return {"ID": "t1", "CreatedAt": "2026-01-01T00:00:01Z", "NodeID": "id-compute1", "DesiredState": wanted, "Status": status, **more}


NODES = {"id-compute1": make_node()}
DOWN = {"id-compute1": make_node(Status={"State": "down"})}
DRAINED = {"id-compute1": make_node(Spec={"Availability": "drain"})}


@pytest.mark.parametrize("state", cluster.BEFORE_RUNNING + ("running",))
def test_a_task_on_its_way_is_alive(state: str) -> None:
    # dockerspawner's SwarmSpawner takes new, assigned, accepted and ready for dead.
    assert cluster.judge([task(state)], NODES).alive


@pytest.mark.parametrize(
    ("one", "nodes", "cause"),
    [
        (task("complete"), NODES, "exited"),
        (task("failed"), NODES, "failed"),
        (task("rejected"), NODES, "rejected"),
        (task("orphaned"), NODES, "lost"),
        (task("running", "shutdown"), NODES, "lost"),
        (task("running", "shutdown"), DOWN, "lost"),
        (task("running", "running"), DOWN, "lost"),
        (task("running", "shutdown"), DRAINED, "drain"),
        (task("shutdown", "shutdown"), DRAINED, "drain"),
        (task("running", "remove"), NODES, "removed"),
    ],
)
def test_both_states_are_read(one: dict[str, Any], nodes: dict[str, Any], cause: str) -> None:
    verdict = cluster.judge([one], nodes)
    assert (verdict.alive, verdict.cause) == (False, cause)


def test_a_node_that_is_not_known_or_unknown_says_nothing() -> None:
    assert cluster.judge([task()], {}).alive
    assert cluster.judge([task()], {"id-compute1": make_node(Status={"State": "unknown"})}).alive


def test_the_newest_task_counts_whatever_the_order() -> None:
    old = task("failed", "shutdown", ID="t0", CreatedAt="2026-01-01T00:00:00Z")
    new = task()
    assert cluster.judge([old, new], NODES, "t1").alive
    assert cluster.judge([new, old], NODES, "t1").alive


def test_a_replaced_task_has_lost_the_users_memory() -> None:
    assert cluster.judge([task(ID="t2")], NODES, task_id="t1").cause == "lost"


def test_no_task_yet_is_alive() -> None:
    assert cluster.judge([], NODES).alive


def test_address_and_port_come_from_the_task_and_its_node() -> None:
    ports = {"Ports": [{"TargetPort": 22, "PublishedPort": 1}, {"TargetPort": 8888, "PublishedPort": 32768}]}
    assert cluster.published_port(task(status={"PortStatus": ports}), 8888) == 32768
    assert cluster.published_port(task(), 8888) is None
    assert cluster.node_address({"Status": {"Addr": "10.0.0.2"}}) == "10.0.0.2"
    # A lone manager sees itself at 0.0.0.0.
    assert cluster.node_address({"Status": {"Addr": "0.0.0.0"}, "ManagerStatus": {"Addr": "10.0.0.1:2377"}}) == "10.0.0.1"
    assert cluster.node_address({"Status": {"Addr": "10.0.0.2"}, "Spec": {"Labels": {"metalhub.address": "192.0.2.9"}}}) == "192.0.2.9"


def reserved(cpus: float, memory: int, state: str = "running", wanted: str = "running") -> dict[str, Any]:
    amounts = {"NanoCPUs": int(cpus * 1e9), "MemoryBytes": memory}
    return task(state, wanted, Spec={"Resources": {"Reservations": amounts}})


def placed(pool: str | None, network: bool, availability: str = "active") -> dict[str, Any]:
    return make_node(
        Spec={"Availability": availability, "Labels": {"metalhub.pool": pool, **({"metalhub.network": "ready"} if network else {})}}
    )


SMALL = config.Flavor("small", 1, 2 * GIB)


@pytest.mark.parametrize(
    ("nodes", "tasks", "expected"),
    [
        ([make_node()], [], cluster.Room(2, 1, 1)),
        ([make_node(), make_node("compute2")], [], cluster.Room(4, 2, 2)),
        ([make_node()], [reserved(1, GIB)], cluster.Room(1, 1, 1)),
        ([make_node()], [reserved(0.1, 7 * GIB)], cluster.Room(0, 1, 1)),
        ([make_node()], [reserved(2, GIB, "failed")], cluster.Room(2, 1, 1)),
        ([make_node()], [reserved(2, GIB, "running", "shutdown")], cluster.Room(2, 1, 1)),
        ([make_node(Status={"State": "down"})], [], cluster.Room(0, 0, 0)),
        ([placed("cpu", True, "drain")], [], cluster.Room(0, 0, 0)),
        ([placed("cpu", False)], [], cluster.Room(0, 0, 0)),
        ([placed("gpu", True)], [], cluster.Room(0, 0, 0)),
        ([make_node(Description={"Resources": {"NanoCPUs": 5 * 10**8, "MemoryBytes": 8 * GIB}})], [], cluster.Room(0, 1, 0)),
    ],
)
def test_room(nodes: list[Any], tasks: list[Any], expected: cluster.Room) -> None:
    assert cluster.room(nodes, tasks, "cpu", SMALL) == expected


def test_room_for_gpus_named_and_counted() -> None:
    named = [{"NamedResourceSpec": {"Kind": "GPU", "Value": f"GPU-{n}"}} for n in range(3)]
    node = make_node(Description={"Resources": {"NanoCPUs": 10**11, "MemoryBytes": 10**13, "GenericResources": named}})
    flavor = config.Flavor("gpu", 1, GIB, config.Gpu("GPU", 1))
    taken = {"Reservations": {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "GPU", "Value": 2}}]}}
    assert cluster.room([node], [], "cpu", flavor) == cluster.Room(3, 1, 1, 3, 3)
    assert cluster.room([node], [task(Spec={"Resources": taken})], "cpu", flavor) == cluster.Room(1, 1, 1, 1, 3)
    # Slices that are left do not help without memory.
    full = {"Reservations": {"MemoryBytes": 10**13}}
    assert cluster.room([node], [task(Spec={"Resources": full})], "cpu", flavor) == cluster.Room(0, 1, 1, 3, 3)
    assert cluster.room([make_node()], [], "cpu", flavor) == cluster.Room(0, 1, 0)


def client(tmp_path: Path, *managers: str, registry: config.Registry | None = None) -> Engine:
    settings = config.Engine(managers or (f"unix://{tmp_path}/engine.sock",), "", "", "", 0.3)
    return Engine(settings, registry or config.Registry("", "", ""))


@pytest.mark.parametrize("mode", ["500", "hang", "no leader"])
async def test_a_sick_engine_is_unknown(tmp_path: Path, engine: FakeEngine, mode: str) -> None:
    asked = client(tmp_path)
    assert len(await asked.nodes()) == 2
    engine.mode = mode
    with pytest.raises(EngineUnknown):
        await asked.tasks()
    with pytest.raises(EngineUnknown):
        await asked.service("x")
    engine.mode = "ok"
    assert await asked.service("x") is None
    await asked.close()


async def test_no_engine_is_unknown(tmp_path: Path) -> None:
    asked = client(tmp_path)
    with pytest.raises(EngineUnknown):
        await asked.nodes()
    # Certificates that are not there are no reason to end sessions either.
    with pytest.raises(EngineUnknown):
        await client(tmp_path, "https://127.0.0.1:1").nodes()


async def test_the_next_manager_is_asked(tmp_path: Path, engine: FakeEngine) -> None:
    sick = FakeEngine(str(tmp_path / "sick.sock"))
    sick.mode = "500"
    with sick.served:
        asked = client(tmp_path, f"unix://{tmp_path}/sick.sock", f"unix://{tmp_path}/engine.sock")
        assert len(await asked.nodes()) == 2
        before = len(sick.requests)
        await asked.nodes()
        assert len(sick.requests) == before, "the manager that answered last comes first"
    await asked.close()


async def test_a_lost_answer_makes_no_second_service(tmp_path: Path, engine: FakeEngine) -> None:
    (tmp_path / "other.sock").symlink_to(tmp_path / "engine.sock")
    asked = client(tmp_path, f"unix://{tmp_path}/engine.sock", f"unix://{tmp_path}/other.sock")
    engine.lose_answer = True
    spec = {"Name": "mh-a", "TaskTemplate": {"ContainerSpec": {"Labels": {"metalhub.session": "mh-a"}}}}
    assert await asked.create_service(spec) in engine.services
    assert len(engine.services) == 1
    await asked.close()


async def test_nodes_pull_with_the_registry_account(tmp_path: Path, engine: FakeEngine) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    asked = client(tmp_path, registry=config.Registry("r:5000", "pull", str(tmp_path / "password")))
    await asked.create_service({"Name": "mh-a", "TaskTemplate": {"ContainerSpec": {"Labels": {"metalhub.session": "mh-a"}}}})
    sent = json.loads(base64.urlsafe_b64decode(engine.headers[0]["X-Registry-Auth"]))
    assert sent == {"username": "pull", "password": "s3cret", "serveraddress": "r:5000"}
    with pytest.raises(EngineRefused):
        await asked.request("GET", "/services/none")
    await asked.remove_service("none")
    await asked.close()


def test_the_tasks_of_each_session() -> None:
    tasks = [{**task(), "ID": str(number), "Spec": {"ContainerSpec": {"Labels": {"metalhub.session": f"mh-{number % 3}"}}}} for number in range(9)]
    snapshot = cluster.Snapshot({}, [task(), *tasks])  # the first one is somebody else's
    assert [[one["ID"] for one in snapshot.of(f"mh-{number}")] for number in range(3)] == [["0", "3", "6"], ["1", "4", "7"], ["2", "5", "8"]]
    assert snapshot.of("mh-4") == []


async def test_one_list_serves_all_polls(tmp_path: Path, engine: FakeEngine) -> None:
    asked = client(tmp_path)
    seen = cluster.Cluster(asked)
    await asyncio.gather(*(seen.snapshot(5.0) for _ in range(50)))
    await seen.snapshot(5.0)
    assert sum(request.endswith("/tasks") for request in engine.requests) == 1
    await seen.snapshot(0)
    assert sum(request.endswith("/tasks") for request in engine.requests) == 2
    engine.mode = "hang"
    results = await asyncio.gather(*(seen.snapshot(0) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, EngineUnknown) for result in results)
    await asked.close()
