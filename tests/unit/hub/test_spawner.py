"""The spawner against a fake engine: what it starts, what it leaves, and what it believes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from conftest import GIB, FakeEngine, FakeSession, Served, document, make_node
from jupyterhub import orm
from metalhub_hub import admission, config, egress, platform
from metalhub_hub.core.accounts import Invitation
from metalhub_hub.policy import Refused
from metalhub_hub.records import Block
from metalhub_hub.spawner import MetalhubSpawner


class Routes:
    """The proxy, as far as a spawner knows it."""

    def __init__(self) -> None:
        self.routes: dict[str, str] = {}
        self.app: Any = SimpleNamespace(db=SimpleNamespace(commit=lambda: None), users={})

    async def add_route(self, spec: str, target: str, data: Any) -> None:
        self.routes[spec] = target

    async def delete_route(self, spec: str) -> None:
        self.routes.pop(spec, None)


class Here(MetalhubSpawner):
    """Without the hub's environment around it."""

    def get_env(self) -> dict[str, str]:
        return {"JUPYTERHUB_API_TOKEN": "token"}


@pytest.fixture
async def spawner(tmp_path: Path, engine: FakeEngine, session: FakeSession) -> AsyncIterator[Here]:
    host = platform.use(platform.Platform(config.parse(document(tmp_path, session={"start_timeout": "4s"}))))
    host.proxy = Routes()
    yield make(host)
    await host.engine.close()
    await host.homes.close()
    host.quota.close()


def make(host: platform.Platform, state: dict[str, Any] | None = None) -> Here:
    database = orm.new_session_factory("sqlite:///:memory:")()
    owner = orm.User(name="ann")
    record = orm.Spawner(user=owner, name="", server=orm.Server(base_url="/user/ann/"), state=state or {})
    database.add_all([owner, record])
    database.commit()
    user = SimpleNamespace(name="ann", groups=[], spawners={}, escaped_name="ann", database=database)
    one = Here(user=user, orm_spawner=record, proxy_spec="/user/ann/")
    user.spawners[""] = one
    one.load_state(record.state)
    return one


async def start(spawner: Here, **options: str) -> str:
    spawner.clear_state()
    await spawner.apply_options(options)
    return await spawner.start()


def restarted(spawner: Here) -> Here:
    """The session as another hub finds it, which knows only what the database holds."""
    return make(spawner.platform, json.loads(json.dumps(spawner.get_state())))


async def test_start_poll_stop(spawner: Here, engine: FakeEngine) -> None:
    url = await start(spawner)
    assert url == f"http://127.0.0.1:{engine.port}"
    assert spawner.platform.proxy.routes == {"/user/ann/": url}
    assert await spawner.poll() is None
    assert await restarted(spawner).poll() is None
    (service,) = engine.services.values()
    assert service["Spec"]["Name"].startswith("mh-ann-default-")
    await stop(spawner)
    assert not engine.services
    assert spawner.ending() == "", "who stopped it knows"
    kinds = [json.loads(line)["kind"] for line in Path(spawner.platform.audit.path).read_text().splitlines()]
    assert kinds == ["audit.begin", "session.queued", "session.running", "session.stopped"]


async def test_a_start_on_a_node_whose_way_out_is_closed_says_so(spawner: Here) -> None:
    await start(spawner)
    assert not any("warning" in event for event in spawner._events) and spawner.way_out() == ""
    await stop(spawner)
    spawner.platform.egress.health = {"compute1": egress.Health(down=("metalhub-squid@packages.service",))}
    assert spawner.way_out() == "", "nothing runs"
    await start(spawner)
    (told,) = [event for event in spawner._events if "warning" in event]
    assert told["message"] == told["warning"] == spawner.way_out()
    assert "the proxy on node compute1 does not run" in told["warning"]
    # An administrator may change the profile's class meanwhile; the session is in the one that it started in.
    spawner.platform.profiles.change("small", {"egress": "internal"}, "change", "olga")
    assert restarted(spawner).way_out() == spawner.way_out() == told["warning"]
    # A class without names has no proxy that could be missed.
    spawner.placed["egress"] = "internal"
    assert spawner.way_out() == ""


async def test_a_change_of_the_profile_changes_no_session_that_runs(spawner: Here, engine: FakeEngine) -> None:
    profiles = spawner.platform.profiles
    tiny = config.Flavor("tiny", 1, 2**30)
    profiles.written = dataclasses.replace(profiles.written, flavors={**profiles.written.flavors, "tiny": tiny})
    await start(spawner)
    profiles.change("small", {"flavor": "tiny", "egress": "internal"}, "change", "olga")
    engine.tasks[0]["Status"] |= {"State": "failed", "ContainerStatus": {"ExitCode": 137}}
    other = restarted(spawner)
    await other.platform.cluster.snapshot(0)
    assert await other.poll() == 137
    other.clear_state()
    assert "it went over its memory limit of 2G" in other.ending()
    before = list(engine.services)
    await start(other)
    (service,) = [each for key, each in engine.services.items() if key not in before]
    task = service["Spec"]["TaskTemplate"]
    assert task["Resources"]["Limits"]["MemoryBytes"] == 2**30 and task["Networks"] == [{"Target": "mh-internal"}]


async def stop(spawner: Here) -> None:
    spawner.orm_spawner.started = spawner.orm_spawner.last_activity = datetime.now(timezone.utc).replace(tzinfo=None)
    await spawner.stop()
    spawner.clear_state()


async def test_the_container_is_stopped_before_its_service_is_removed(spawner: Here, engine: FakeEngine) -> None:
    await start(spawner)
    engine.requests.clear()
    await stop(spawner)
    asked = [request for request in engine.requests if not request.startswith("GET")]
    assert re.fullmatch(r"POST /v[\d.]+/containers/container\d+/stop", asked[0])
    assert re.fullmatch(r"DELETE /v[\d.]+/services/mh-ann-default-.*", asked[1])


async def test_a_node_that_does_not_stop_a_container_is_left_to_swarm(spawner: Here, engine: FakeEngine) -> None:
    await start(spawner)
    engine.tasks[0]["Status"]["ContainerStatus"]["ContainerID"] = "unknown there"
    await stop(spawner)
    assert not engine.services


@pytest.mark.parametrize("mode", ["500", "hang", "no leader"])
async def test_an_engine_that_cannot_tell_ends_nothing(spawner: Here, engine: FakeEngine, mode: str) -> None:
    await start(spawner)
    engine.mode = mode
    await asyncio.sleep(0.1)
    spawner.platform.cluster._taken = float("-inf")  # what was seen before is too old
    assert await spawner.poll() is None
    assert await restarted(spawner).poll() is None
    engine.mode = "ok"
    assert len(engine.services) == 1


async def test_certainly_gone(spawner: Here, engine: FakeEngine) -> None:
    await start(spawner)
    engine.services.clear()
    engine.tasks.clear()
    spawner.platform.cluster._taken = float("-inf")
    assert await spawner.poll() is not None
    assert spawner.ended and spawner.ended["cause"] == "removed"


def drain(task: dict[str, Any], node: dict[str, Any]) -> None:
    node["Spec"].update(Availability="drain")
    task.update(DesiredState="shutdown")


@pytest.mark.parametrize(
    ("change", "cause", "words"),
    [
        (lambda task, node: task["Status"].update(State="failed", ContainerStatus={"ExitCode": 137}), "memory", "memory limit of 2G"),
        (lambda task, node: task["Status"].update(State="failed", ContainerStatus={"ExitCode": 137}), "memory", "Ask an administrator for a profile with more memory, or"),
        (lambda task, node: task["Status"].update(State="failed", ContainerStatus={"ExitCode": 139}), "failed", "(exit code 139, segmentation fault:"),
        (lambda task, node: task["Status"].update(State="failed", ContainerStatus={"ExitCode": 2}), "failed", "exit code 2"),
        (lambda task, node: task["Status"].update(State="complete"), "exited", "shut down from inside"),
        (lambda task, node: node["Status"].update(State="down"), "lost", "The machine that ran your session stopped answering"),
        (drain, "drain", "taken out of service"),
    ],
)
async def test_a_dead_session_is_removed_and_its_page_says_why(
    spawner: Here, engine: FakeEngine, change: Any, cause: str, words: str
) -> None:
    await start(spawner)
    change(engine.tasks[0], engine.nodes[0])
    spawner.platform.cluster._taken = float("-inf")
    assert await spawner.poll() is not None
    assert not engine.services, "a dead service holds its place and its GPU"
    assert spawner.ended and spawner.ended["cause"] == cause
    spawner.clear_state()
    later = restarted(spawner)
    assert words in later.ending() and "home is intact" in later.ending()
    assert await later.poll() == 0


async def test_what_an_older_hub_wrote_of_a_sessions_end_is_told(spawner: Here) -> None:
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    written = {"session": "mh-ann-default-1", "cause": "memory", "code": 137, "profile": "gone", "memory": 3 * GIB, "at": at}
    assert "its memory limit of 3G" in make(spawner.platform, {"ended": written}).ending()
    found = make(spawner.platform, {"ended": {**written, "held": [2 * GIB, 3 * GIB, 1]}})
    assert "out of memory at 2 of 3 GiB" in found.ending()
    assert restarted(found).ending() == found.ending()


async def test_a_replaced_task_is_another_session(spawner: Here, engine: FakeEngine) -> None:
    await start(spawner)
    engine.add_task(next(iter(engine.services.values())))
    spawner.platform.cluster._taken = float("-inf")
    assert await spawner.poll() is not None
    assert not engine.services


async def refused(spawner: Here, **options: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await start(spawner, **options)
    return caught.value


async def test_no_room_by_the_books(spawner: Here, engine: FakeEngine) -> None:
    engine.nodes = [make_node(Description={"Resources": {"NanoCPUs": 10**9, "MemoryBytes": 10**9}})]
    assert "no room" in (await refused(spawner)).jupyterhub_message
    assert not engine.services and not spawner.platform.proxy.routes


async def test_no_room_as_swarm_sees_it(spawner: Here, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swarm has the last word: where it has no room, the start waits on with its old place, and holds nothing meanwhile."""
    monkeypatch.setattr(admission, "LATER", 0.2)
    engine.fate = {"State": "pending", "Err": "no suitable node (insufficient resources on 2 nodes)"}
    spawner._spawn_pending = True
    starting = asyncio.ensure_future(start(spawner))
    while not engine.services:
        await asyncio.sleep(0.01)
    since = spawner.platform.admission._gone["ann", ""].since
    while spawner.platform.admission.view(spawner) is None:
        await asyncio.sleep(0.01)
    assert not engine.services and spawner.platform.quota.usage("ann").sessions == 0
    assert spawner.platform.sessions.state(spawner) == "queued"
    assert spawner.platform.admission._entries["ann", ""].waiter.since == since
    engine.fate = {"State": "running"}
    await starting
    assert len(engine.services) == 1
    await stop(spawner)


def _block(host: platform.Platform) -> None:
    host.people.records.block(Block("ann", "", "admin", 1))
    host.people._read(host.people.records)


def _take_grants(host: platform.Platform) -> None:
    host.people.records.forget("ann")
    host.people._read(host.people.records)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda host: host.profiles.change("typed", {"approval": True}, "change", "olga"), "needs an administrator's approval"),
        (lambda host: host.profiles.delete("typed", "olga"), "There is no profile 'typed' for you"),
        (_take_grants, "There is no profile 'typed' for you"),
        (_block, "The account ann is disabled."),
    ],
)
async def test_what_was_taken_away_while_a_start_waited_is_seen_at_its_turn(
    spawner: Here, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, change: Any, words: str
) -> None:
    monkeypatch.setattr(admission, "LATER", 0.2)
    host, book = spawner.platform, spawner.platform.people.records
    typed = {"image": "lab", "flavor": "small", "pool": "cpu", "egress": "packages", "groups": ["clinical"]}
    host.profiles.change("typed", typed, "create", "olga")
    book.take(book.invite("token", Invitation(profiles=("typed",)), "admin", 0), "ann", "invite", 1)
    host.people._read(book)
    engine.fate = {"State": "pending", "Err": "no suitable node (insufficient resources on 2 nodes)"}
    starting = asyncio.ensure_future(refused(spawner, profile="typed"))
    while host.admission.view(spawner) is None:
        await asyncio.sleep(0.01)
    created = len(engine.headers)
    change(host)
    engine.fate = {"State": "running"}
    told = (await starting).jupyterhub_message
    assert words in told and len(engine.headers) == created and host.quota.usage("ann").sessions == 0
    assert spawner.refused and spawner.refused["sentence"] == told
    with pytest.raises(Refused) as fresh:
        await spawner.apply_options({"profile": "typed"})
    assert fresh.value.jupyterhub_message == told, "a new start is told the same"


async def test_a_start_that_waits_for_a_disabled_user_ends_at_once(spawner: Here, engine: FakeEngine) -> None:
    engine.fate = {"State": "pending", "Err": "no suitable node (insufficient resources on 2 nodes)"}
    starting = asyncio.ensure_future(refused(spawner))
    while spawner.platform.admission.view(spawner) is None:
        await asyncio.sleep(0.01)
    _block(spawner.platform)
    spawner.give_up()
    assert spawner.platform.admission.view(spawner) is None and not spawner.platform.admission.rows()
    assert (await starting).reason == "disabled"


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ({"State": "rejected", "Err": "No such image: x@sha256:1"}, "image “lab” is missing"),
        ({"State": "rejected", "Err": "bind source path does not exist: /srv/metalhub/homes/ann"}, "home is offline"),
        ({"State": "failed", "Err": "task: non-zero exit (1)", "ContainerStatus": {"ExitCode": 1}}, "exit code 1"),
        ({"State": "preparing"}, "did not start within 4 seconds"),
    ],
)
async def test_a_failed_start_leaves_nothing(spawner: Here, engine: FakeEngine, fate: dict[str, Any], words: str) -> None:
    engine.fate = fate
    assert words in (await refused(spawner)).jupyterhub_message
    assert not engine.services and not spawner.platform.proxy.routes
    assert await spawner.poll() == 0


async def test_a_machine_that_cannot_is_avoided_once(spawner: Here, engine: FakeEngine) -> None:
    engine.broken["id-compute1"] = {"State": "rejected", "Err": "network abc exists"}
    await start(spawner)
    (service,) = engine.services.values()
    assert "node.id!=id-compute1" in service["Spec"]["TaskTemplate"]["Placement"]["Constraints"]
    assert spawner.service_name == service["Spec"]["Name"] and spawner.node == "compute2"
    await stop(spawner)
    engine.broken["id-compute2"] = engine.broken["id-compute1"]
    assert "could not run" in (await refused(spawner)).jupyterhub_message
    assert not engine.services and len(engine.headers) == 4


async def test_a_session_that_never_answers(spawner: Here, engine: FakeEngine, session: FakeSession) -> None:
    session.answering = False
    assert "did not start" in (await refused(spawner)).jupyterhub_message
    assert not engine.services and not spawner.platform.proxy.routes


async def test_a_session_that_dies_while_it_opens(spawner: Here, engine: FakeEngine, session: FakeSession) -> None:
    session.answering = False

    async def die() -> None:
        await asyncio.sleep(0.3)
        engine.tasks[0]["Status"].update(State="failed", Err="task: non-zero exit (1)", ContainerStatus={"ExitCode": 1})

    dying = asyncio.ensure_future(die())
    assert "exit code 1" in (await refused(spawner)).jupyterhub_message
    await dying
    assert not engine.services


async def test_a_missing_image_starts_nothing(spawner: Here, engine: FakeEngine) -> None:
    assert "“gone”" in (await refused(spawner, profile="ghost")).jupyterhub_message
    assert not engine.headers, "nothing was created"


async def test_quota_counts_other_sessions(spawner: Here, engine: FakeEngine) -> None:
    for name in ("a", "b"):
        other = SimpleNamespace(user=spawner.user, name=name, groups=set())
        spawner.platform.quota.admit(other, spawner.platform.document.profiles["small"])
    assert "may have 2" in (await refused(spawner)).jupyterhub_message
    assert not engine.headers


@pytest.mark.parametrize("mode", ["500", "no leader"])
async def test_a_start_without_an_engine(spawner: Here, engine: FakeEngine, mode: str) -> None:
    engine.mode = mode
    assert "cluster does not answer" in (await refused(spawner)).jupyterhub_message


async def test_a_start_that_is_cancelled_leaves_nothing(spawner: Here, engine: FakeEngine) -> None:
    engine.fate = {"State": "preparing"}
    starting = asyncio.ensure_future(start(spawner))
    while not engine.services:
        await asyncio.sleep(0.01)
    assert await spawner.poll() is None, "a start in progress is no dead session"
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not engine.services


async def test_progress_in_words(spawner: Here, engine: FakeEngine) -> None:
    heard: list[str] = []

    async def listen() -> None:
        async for event in spawner.progress():
            heard.append(event["step"])

    listening = asyncio.ensure_future(listen())
    await start(spawner)
    await asyncio.sleep(0)
    listening.cancel()
    assert heard == ["queue", "placing", "opening"]


async def test_the_home_is_asked_for_first(spawner: Here, engine: FakeEngine) -> None:
    asked: list[Any] = []
    status = 200

    async def storage(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, await request.json()))
        return web.json_response({}, status=status)

    with Served(storage) as served:
        spawner.platform.homes.settings = config.Storage(f"http://127.0.0.1:{served.port}", 1)
        await start(spawner)
        assert asked == [("PUT", "/homes/ann", {"limit_bytes": 10 * 2**30})]
        engine.services.clear()
        status = 500
        error = await refused(spawner)
    assert "home is offline" in error.jupyterhub_message
    assert not engine.services


async def test_a_hub_that_was_killed_while_a_session_started_finds_it(spawner: Here, engine: FakeEngine) -> None:
    await start(spawner)
    state = spawner.get_state()
    del state["url"]
    later = make(spawner.platform, state)
    assert await later.poll() is None
    assert await later.get_url() == f"http://127.0.0.1:{engine.port}/user/ann/"


async def test_a_session_that_does_not_answer_a_starting_hub_lives_on(spawner: Here, session: FakeSession) -> None:
    url = await start(spawner)
    later = restarted(spawner)
    later.orm_spawner.server.ip, later.orm_spawner.server.port = "127.0.0.1", int(url.rpartition(":")[2])
    session.answering = False
    answer = await later.server.wait_up(http=True, timeout=1)
    assert answer.headers["X-JupyterHub-Version"]
    assert later.server.wait_up.__name__ == "wait_up", "only once: what starts later has to answer"


async def test_what_is_held_is_metered_from_before_the_service_to_after_it(
    spawner: Here, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = spawner.platform.quota.ledger
    seen: list[list[str]] = []
    create, remove = spawner.platform.engine.create_service, spawner.platform.engine.remove_service

    async def creating(spec: dict[str, Any]) -> Any:
        seen.append([row.session for row in book.held()])
        return await create(spec)

    async def removing(name: str) -> Any:
        await remove(name)
        seen.append([row.session for row in book.held()])

    monkeypatch.setattr(spawner.platform.engine, "create_service", creating)
    monkeypatch.setattr(spawner.platform.engine, "remove_service", removing)
    await start(spawner)
    name = spawner.service_name
    await stop(spawner)
    assert seen == [[name] * 2, [name] * 2] and book.held() == [], "of CPUs and of the session itself"
    engine.fate = {"State": "failed", "Err": "task: non-zero exit (1)"}
    await refused(spawner)
    assert book.held() == [] and spawner.platform.quota.usage("ann").sessions == 0
    engine.fate = {"State": "running"}
    await start(spawner)
    engine.tasks[-1]["Status"]["State"] = "complete"
    await spawner.platform.cluster.snapshot(0.0)
    assert await spawner.poll() is not None
    assert book.held() == []


async def test_each_start_of_a_herd_has_a_turn_of_the_loop() -> None:
    turn, passed, now = platform.Turn(), [], 0

    async def start() -> None:
        await turn()
        passed.append(now)

    herd = [asyncio.ensure_future(start()) for _ in range(50)]
    while not all(one.done() for one in herd):
        await asyncio.sleep(0)
        now += 1
    assert len(set(passed)) == 50 and passed == sorted(passed)


async def test_a_start_keeps_its_server_whatever_ends_before_its_turn(spawner: Here) -> None:
    """JupyterHub asks for the scopes with the server not written yet, and the end of any request rolls back."""
    spawner.orm_spawner.server = orm.Server(base_url="/user/ann/new/")
    waiting = asyncio.ensure_future(spawner.server_token_scopes(spawner))
    spawner.user.database.rollback()  # before a coroutine would have begun
    assert await waiting == []
    assert spawner.orm_spawner.server.base_url == "/user/ann/new/"
