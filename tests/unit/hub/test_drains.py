"""Nodes that are taken out of service: cordoned at once, announced, drained; by the API, the command line and a hub that restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from conftest import FakeEngine, FakeSession, document, make_node
from jupyterhub import orm
from metalhub_hub import config, drains, platform, quota
from metalhub_hub.core.swarm_plan import HELD, Host, Node, availability, plan
from metalhub_hub.engine import EngineUnknown
from metalhub_hub.people import Impossible
from test_audit_hub import Site
from test_hub import eventually
from test_spawner import Routes, make
from world import CLI_TOKEN, world


class Time:
    """A wall clock and a steady one."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_767_268_800.0, 1000.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def times() -> Time:
    return Time()


@pytest.fixture
async def host(tmp_path: Path, engine: FakeEngine, session: FakeSession, times: Time) -> AsyncIterator[platform.Platform]:
    made = started(tmp_path, times)
    yield made
    await made.engine.close()
    await made.homes.close()
    made.quota.close()


def started(tmp_path: Path, times: Time) -> platform.Platform:
    made = platform.use(platform.Platform(config.parse(document(tmp_path, session={"stop_notice": "5m"}))))
    made.quota.clock = quota.Clock(lambda: times.wall, lambda: times.steady)
    made.drains.steady = lambda: times.steady
    made.proxy = Routes()
    made.proxy.app = SimpleNamespace(users={}, db=orm.new_session_factory("sqlite:///:memory:")())
    return made


def state(engine: FakeEngine, number: int = 0) -> tuple[str, bool]:
    spec = engine.nodes[number]["Spec"]
    return spec["Availability"], HELD in spec["Labels"]


async def test_a_node_is_cordoned_announced_and_drained(host: platform.Platform, engine: FakeEngine, times: Time) -> None:
    engine.races = 2
    await host.drains.begin("compute1", 1800, "new memory", "admin")
    assert state(engine) == ("pause", True) and state(engine, 1) == ("active", False)
    assert engine.nodes[0]["Spec"]["Labels"]["metalhub.pool"] == "cpu"
    notice = host.drains.notice("compute1")
    assert notice and "compute1, is taken out of service at 12:30 (new memory)" in notice["text"] and host.drains.notice("compute2") is None
    await host.drains.tick()
    times.go(1799)
    await host.drains.tick()
    assert state(engine) == ("pause", True)
    times.go(1)
    await host.drains.tick()
    assert state(engine) == ("drain", True) and host.drains.notice("compute1") is None
    assert host.drains.shown("id-compute1") == {"reason": "new memory", "by": "admin", "until": "2026-01-01T12:30:00+00:00", "done": True}
    await host.drains.end("compute1", "admin")
    assert state(engine) == ("active", False) and not host.drains.known()
    with pytest.raises(Impossible, match="takes sessions already"):
        await host.drains.end("compute1", "admin")


async def test_a_restarted_hub_announces_again_before_it_drains(
    tmp_path: Path, host: platform.Platform, engine: FakeEngine, times: Time
) -> None:
    await host.drains.begin("compute1", 1800, "", "admin")
    await host.drains.tick()
    times.go(3600)  # nobody was there in the meantime
    second = started(tmp_path, times)
    try:
        await second.drains.tick()
        assert state(engine) == ("pause", True), "nobody was told by this hub"
        times.go(299)
        await second.drains.tick()
        assert state(engine) == ("pause", True)
        times.go(1)
        await second.drains.tick()
        assert state(engine) == ("drain", True)
    finally:
        await second.engine.close()
        second.quota.close()


async def test_a_clock_that_jumps_shortens_no_announcement(host: platform.Platform, engine: FakeEngine, times: Time) -> None:
    await host.drains.begin("compute1", 1800, "", "admin")
    await host.drains.tick()
    times.wall += 86400
    host.quota.clock.adjust()
    await host.drains.tick()
    assert state(engine) == ("pause", True)
    times.go(300)
    await host.drains.tick()
    assert state(engine) == ("drain", True)


async def test_without_grace_it_is_drained_at_the_next_look(host: platform.Platform, engine: FakeEngine) -> None:
    await host.drains.begin("compute1", 0, "", "admin")
    await host.drains.tick()
    assert state(engine) == ("drain", True)
    # Once more is no way back.
    await host.drains.begin("compute1", 600, "", "admin")
    assert state(engine) == ("drain", True)


async def test_an_entry_that_was_changed_in_the_swarm_is_left_alone(host: platform.Platform, engine: FakeEngine, times: Time) -> None:
    await host.drains.begin("compute1", 60, "", "admin")
    del engine.nodes[0]["Spec"]["Labels"][HELD]
    await host.drains.tick()
    times.go(60)
    await host.drains.tick()
    assert state(engine) == ("pause", False) and not host.drains.known()
    await host.drains.begin("compute2", 0, "", "admin")
    del engine.nodes[1]
    await host.drains.tick()
    assert not host.drains.known()


async def test_names_that_no_node_or_several_have(host: platform.Platform, engine: FakeEngine) -> None:
    with pytest.raises(Impossible, match="There is no node 'compute9'"):
        await host.drains.begin("compute9", 0, "", "admin")
    engine.nodes.append({**make_node("compute1"), "ID": "twin"})
    with pytest.raises(Impossible, match="There are 2 nodes that are called 'compute1'"):
        await host.drains.begin("compute1", 0, "", "admin")
    # The entry of a host that was set up anew.
    engine.nodes[0]["Status"] = {"State": "down"}
    assert (await host.drains.begin("compute1", 0, "", "admin")).node == "twin"


async def test_a_cluster_that_does_not_answer_changes_nothing(host: platform.Platform, engine: FakeEngine) -> None:
    engine.mode = "500"
    with pytest.raises(EngineUnknown):
        await host.drains.begin("compute1", 0, "", "admin")
    assert not host.drains.known()


async def test_its_sessions_end_first_and_for_that_cause(host: platform.Platform, engine: FakeEngine, times: Time) -> None:
    spawner = make(host)
    stopped: list[tuple[str, str]] = []
    host.sessions.stop = lambda each, cause: stopped.append((cause, each.stop_detail))  # type: ignore[method-assign,assignment]
    host.proxy.app.users = {1: spawner.user}
    spawner.clear_state()
    await spawner.apply_options({})
    await spawner.start()
    assert spawner.node == "compute1"
    await host.drains.begin("compute1", 60, "new memory", "admin")
    assert [notice["key"].split()[0] for notice in spawner.troubles()] == ["drain"]
    await host.drains.tick()
    times.go(60)
    await host.drains.tick()
    assert stopped == [("drain", "The reason: new memory.")] and state(engine) == ("pause", True)
    # One that does not end is left to Swarm.
    times.go(drains.ENDING)
    await host.drains.tick()
    assert state(engine) == ("drain", True)


@pytest.mark.parametrize(
    ("wanted", "now", "held", "after"),
    [
        ("active", "drain", True, "drain"), ("active", "pause", True, "pause"), ("active", "drain", False, "active"),
        ("drain", "active", True, "drain"), ("pause", "drain", True, "pause"), ("active", "active", False, "active"),
    ],
)  # fmt: skip
def test_a_playbook_leaves_a_drained_node_as_it_is(wanted: str, now: str, held: bool, after: str) -> None:
    labels = {HELD: "admin"} if held else {}
    assert availability(wanted, now, labels) == after
    entry = Node("n1", "compute1", "10.0.0.2", "worker", "ready", now, labels)
    wanting = Host("compute1", "compute1", "10.0.0.2", "active", "n1", False, "worker", wanted)
    assert plan(wanting, [entry]).update is (after != now)


# On a real hub


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    def prepare(made: Site) -> None:
        made.change(lambda raw: raw["session"].update(stop_notice="4s"))
        made.configure("from metalhub_hub import drains", "drains.TICK = 0.3")
        made.mint()

    with world(tmp_path_factory.mktemp("hub"), prepare, Site) as made:
        yield made


def ask(site: Site, path: str, token: str = CLI_TOKEN, **body: Any) -> requests.Response:
    headers = {"Authorization": f"token {token}"} if token else {}
    return requests.post(f"{site.hub.url}/metalhub/api/nodes/{path}", headers=headers, json=body, timeout=10)


def test_drain_and_undrain_on_the_command_line(site: Site) -> None:
    site.engine.nodes.reverse()  # compute2 first
    site.running("fay")
    done = site.cli("node", "drain", "compute2", "--grace", "6s", "--reason", "a fan")
    assert done.returncode == 0 and "compute2 takes no new sessions; its 1 sessions are told, and end at 20" in done.stdout, done
    headers = {"Authorization": f"token {CLI_TOKEN}"}

    def view() -> dict[str, Any]:
        found = requests.get(f"{site.hub.url}/metalhub/api/users/fay/sessions", headers=headers, timeout=10).json()["sessions"]
        return dict(found[0])

    (told,) = view()["troubles"]
    assert "compute2, is taken out of service" in told and "(a fan)" in told and told in [each["text"] for each in view()["notices"]]
    assert "pause by olga, drained at" in site.cli("node", "list").stdout
    assert site.json("node", "drain", "compute2", "--grace", "1s", "--reason", "a fan", "--wait")["availability"] == "drain"
    (facts,) = eventually(lambda: site.found("session.stopped", user="fay"))
    assert (facts["cause"], facts["actor"]) == ("drain", "hub")
    stopped = site.hub.api("GET", "/users/fay?include_stopped_servers=1").json()["servers"][""]
    assert (stopped["state"]["ended"]["cause"], stopped["state"]["ended"]["why"]) == ("drain", "The reason: a fan.")
    assert site.found("node.drained", node="compute2", reason="a fan") and site.found("node.cordoned", node="compute2")[0]["operator"] == "olga"
    assert site.cli("node", "undrain", "compute2").stdout == "compute2 takes sessions again\n"
    assert site.found("node.undrained", node="compute2")
    assert {row["availability"] for row in site.json("node", "list")} == {"active"}


def test_a_killed_hub_drains_what_was_to_be_drained(site: Site) -> None:
    assert ask(site, "compute1/drain", grace="3s").status_code == 200
    site.hub.kill()
    site.hub.start()
    node = next(node for node in site.engine.nodes if node["ID"] == "id-compute1")
    eventually(lambda: node["Spec"]["Availability"] == "drain")
    assert ask(site, "compute1/undrain").status_code == 200 and node["Spec"]["Availability"] == "active"


@pytest.mark.parametrize("what", ["drain", "undrain"])
def test_only_administrators_drain(site: Site, what: str) -> None:
    site.hub.api("POST", "/users/gus")
    token = site.token("gus")
    for who in ("", token, "f" * 40):
        assert ask(site, f"compute1/{what}", who).status_code == 403
    assert {node["Spec"]["Availability"] for node in site.engine.nodes} == {"active"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("node", "drain", "compute9"), 1, "There is no node 'compute9'."),
        (("node", "drain", "compute1", "--grace", "soon"), 2, "--grace: 'soon' is not a duration"),
        (("node", "drain", "compute1", "--reason", "x" * 501), 1, "legal is text of at most 500 characters"),
        (("node", "undrain", "compute9"), 1, "There is no node 'compute9'."),
        (("node", "undrain", "compute1"), 1, "Node 'compute1' takes sessions already."),
        (("node", "drain", "../users"), 1, "There is no node"),
    ],
)
def test_bad_input_drains_nothing(site: Site, arguments: tuple[str, ...], code: int, message: str) -> None:
    before = len(site.events())
    done = site.cli(*arguments)
    assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout, done
    assert len(site.events()) == before and {node["Spec"]["Availability"] for node in site.engine.nodes} == {"active"}
    assert ask(site, "compute1/drain", unknown=1).status_code == 400 and ask(site, "compute1/undrain", reason="x").status_code == 400
