"""Hibernating and waking: with a fake engine and a fake agent, one step of it failing, late, or the hub killed in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from conftest import FakeAgent, FakeEngine, FakeSession, usage
from metalhub_hub import config, hibernation, sessions
from metalhub_hub.core import lifecycle
from metalhub_hub.hibernation import GONE, NOT_NOW, Unchanged
from test_sessions import Spawner, World

NAME = "mh-ann-default-1"


class Killed(BaseException):
    """The hub ends here."""


class Night(World):
    """A session on a node with an agent. ``routes`` are where its route led: to the hub or to it."""

    def __init__(self, tmp_path: Path, url: str, engine: FakeEngine, agent: FakeAgent, pki: Path) -> None:
        names = {"ca": "ca.crt", "cert": "hub-client.crt", "key": "hub-client.key"}
        own = {"managers": [f"unix://{tmp_path}/engine.sock"], "timeout": 0.5, **{key: str(pki / name) for key, name in names.items()}}
        super().__init__(tmp_path, url, engine=own, agent_port=agent.port)
        self.engine, self.agent = engine, agent
        engine.create({"Name": NAME, "TaskTemplate": {"ContainerSpec": {"Labels": {"metalhub.session": NAME}}}})
        self.container = engine.tasks[0]["Status"]["ContainerStatus"]["ContainerID"]
        self.host.proxy.add_user = self.add_user
        self.led: list[str] = []
        self.route_takes = 0.0
        self.clock = 0.0
        self.host.agents.clock = self.host.hibernation.clock = self.ticking
        self.tell()
        self.quota = self.host.quota
        self.quota.admit(self.spawner, self.spawner.profile)
        self.quota.begin(self.spawner)

    def ticking(self) -> float:
        self.clock += 0.001
        return self.clock

    def tell(self, state: str = "running", **more: Any) -> None:
        """What the agent says from now on."""
        self.agent.sessions = {NAME: usage(NAME, state, container=self.container, **more)}

    async def add_user(self, user: Any, name: str) -> None:
        await asyncio.sleep(self.route_takes)
        self.led.append("hub" if self.frozen else "session")

    @property
    def frozen(self) -> bool:
        return bool(self.spawner.life and self.spawner.life.frozen)

    @property
    def paused(self) -> bool:
        return self.container in self.engine.paused

    @property
    def metered(self) -> bool:
        """Whether its processors cost something."""
        return any(row.resource == "cpu" for row in self.quota.ledger.held())

    async def idle(self, seconds: float = 700) -> dict[str, Any]:
        for _ in range(int(seconds // 30)):
            view = await self.look()
        return view

    def restart(self) -> None:
        """Another hub process that finds what the first one wrote down."""
        self.host.hibernation = hibernation.Hibernation(self.host, self.ticking)
        self.sessions = self.host.sessions = sessions.Sessions(self.host, self.now)
        self.spawner.life = lifecycle.read(self.spawner.kept)
        self.host.agents._figures.clear()

    def said(self) -> list[tuple[str, str]]:
        return [(event["state"], event["cause"]) for event in self.spawner.said]

    def whole(self) -> None:
        """Nobody is stuck: a session that stands still is led to the hub and known to, and one that goes on is reached and paid for."""
        assert self.frozen == self.paused == (not self.metered)
        assert not self.led or self.led[-1] == ("hub" if self.paused else "session")


@pytest.fixture
async def night(tmp_path: Path, session: FakeSession, engine: FakeEngine, pki: Path) -> AsyncIterator[Night]:
    agent = FakeAgent(pki, "127.0.0.1")
    engine.nodes.pop()
    one = Night(tmp_path, f"http://127.0.0.1:{session.served.port}", engine, agent, pki)
    yield one
    await one.sessions.servers.close()
    await one.host.agents.close()
    await one.host.engine.close()
    agent.close()


def count(metric: str, act: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(metric, {"act": act}) or 0.0


async def test_an_idle_session_is_hibernated_and_woken(night: Night, session: FakeSession) -> None:
    before = [count("metalhub_hibernation_seconds_count", act) for act in ("hibernate", "wake")]
    view = await night.idle(90)
    assert (view["next"], view["because"], view["hibernates"]) == ("hibernate", "unless something runs in it", True)
    view = await night.idle()
    assert (view["state"], view["next"], view["because"]) == ("hibernated", "stop", "unless somebody wakes it")
    assert night.paused and night.led == ["hub"] and night.said() == [("hibernated", "idle")]
    assert lifecycle.read(night.spawner.kept).frozen  # type: ignore[union-attr]
    night.whole()
    session.asked.clear()
    night.tell("reclaimed")
    await night.host.agents.look()
    view = await night.idle(120)
    assert view["state"] == "hibernated" and not session.asked, "a frozen session is not asked"
    await night.host.hibernation.wake(night.spawner, "visit")
    night.whole()
    assert night.led[-1] == "session" and night.said()[-1] == ("woken", "visit")
    assert not lifecycle.read(night.spawner.kept).frozen  # type: ignore[union-attr]
    night.tell()
    await night.host.agents.look()
    view = await night.look()
    assert view["state"] == "running" and view["idle"] < 60, "that somebody came is activity"
    assert [count("metalhub_hibernation_seconds_count", act) for act in ("hibernate", "wake")] == [before[0] + 1, before[1] + 1]


async def test_the_next_idle_night_is_another_one(night: Night) -> None:
    await night.idle()
    await night.host.hibernation.wake(night.spawner)
    await night.idle()
    assert night.said() == [("hibernated", "idle"), ("woken", "user"), ("hibernated", "idle")]
    night.whole()


def change(spawner: Spawner, **flavor: Any) -> None:
    profile = spawner.profile
    spawner.profile = config.Profile(**{**vars(profile), "sandbox": flavor.get("sandbox", "gvisor"),
                                        "flavor": config.Flavor("f", 1, 1, flavor.get("gpu"))})  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda n: setattr(n.agent, "why", "It holds 12 GiB, and this machine takes at most 10 GiB."), "It holds 12 GiB, and this machine"),
        (lambda n: n.agent.answers.update({f"/check/{NAME}": "[]"}), "Its machine does not say right now"),
        (lambda n: n.engine.deaf.add("pause"), "did not hibernate it; nothing of it is lost"),
        (lambda n: n.engine.tasks[0]["Status"].pop("ContainerStatus"), NOT_NOW),
    ],
)
async def test_what_cannot_be_hibernated_goes_on_and_is_stopped_when_its_time_has_come(
    night: Night, spoil: Callable[[Night], Any], why: str
) -> None:
    spoil(night)
    view = await night.idle()
    assert view["state"] == "idle" and why in view["stays"] and view["next"] == "stop"
    night.whole()
    view = await night.idle(1200)
    assert night.said() == [("warned", "idle")], "it is announced as ever"
    assert night.spawner.stopped


async def test_what_could_not_be_hibernated_is_asked_again(night: Night) -> None:
    night.agent.why = "There is no room for it."
    await night.idle()
    asked = night.agent.asked.count(f"/check/{NAME}")
    await night.idle(120)
    assert night.agent.asked.count(f"/check/{NAME}") == asked == 1
    night.agent.why, night.clock = "", night.clock + hibernation.AGAIN
    view = await night.look()
    assert view["state"] == "hibernated" and view["stays"] == ""
    night.whole()


@pytest.mark.parametrize("kind", [{"gpu": config.Gpu("GPU", 1)}, {"sandbox": "kata"}])
async def test_gpus_and_virtual_machines_are_not_hibernated(night: Night, kind: dict[str, Any]) -> None:
    change(night.spawner, **kind)
    view = await night.idle()
    assert (view["state"], view["next"], view["hibernates"]) == ("idle", "stop", False)
    with pytest.raises(Unchanged, match="not hibernated") as caught:
        await night.host.hibernation.hibernate(night.spawner)
    assert not caught.value.trouble and not night.agent.asked and not night.paused


async def test_a_node_without_swap_promises_nothing(night: Night) -> None:
    night.agent.never = "this machine has no swap"
    await night.host.agents.look()
    view = await night.idle(90)
    assert (view["next"], view["hibernates"], view["stays"]) == ("stop", False, "")
    view = await night.idle()
    assert (view["state"], view["next"], view["hibernates"], view["stays"]) == ("idle", "stop", False, "This machine has no swap.")
    assert not any(path.startswith("/check/") for path in night.agent.asked)
    # Whoever asks for it all the same is told.
    with pytest.raises(Unchanged, match="This machine has no swap."):
        await night.host.hibernation.hibernate(night.spawner)
    # One that stands still already stays it, although its own memory may have filled the swap.
    night.agent.never = ""
    await night.host.agents.look()
    await night.host.hibernation.hibernate(night.spawner)
    night.agent.never = "no swap is free on this machine"
    await night.host.agents.look()
    view = await night.idle(60)
    assert (view["state"], view["hibernates"]) == ("hibernated", False)
    night.whole()


async def test_without_agents_nobody_is_hibernated(night: Night) -> None:
    night.host.agents.port = 0
    view = await night.idle()
    assert (view["state"], view["next"], view["hibernates"], view["stays"]) == ("idle", "stop", False, "")
    assert not night.agent.asked


async def test_an_answer_that_is_lost_changes_nothing_that_is_done(night: Night) -> None:
    night.engine.lost = {"pause", "unpause"}
    await night.host.hibernation.hibernate(night.spawner)
    night.whole()
    assert night.paused
    await night.host.hibernation.wake(night.spawner)
    night.whole()
    assert not night.paused


async def test_a_pause_that_nobody_can_tell_of_is_taken_back(night: Night) -> None:
    before = count("metalhub_hibernation_failures_total", "hibernate")

    async def nobody(*_: Any) -> None:
        await type(night.host.engine).pause_container(night.host.engine, *_)

    night.host.engine.pause_container = nobody  # type: ignore[method-assign]
    with pytest.raises(Unchanged, match="nothing of it is lost"):
        await night.host.hibernation.hibernate(night.spawner)
    night.whole()
    assert not night.paused and count("metalhub_hibernation_failures_total", "hibernate") == before + 1


async def test_a_wake_that_fails_leaves_it_hibernated_and_works_the_next_time(night: Night) -> None:
    await night.idle()
    kept = night.spawner.kept
    night.engine.deaf.add("unpause")
    with pytest.raises(Unchanged, match="try again in a minute") as caught:
        await night.host.hibernation.wake(night.spawner)
    assert caught.value.trouble and night.spawner.kept == kept
    night.whole()
    night.engine.deaf.clear()
    await night.host.hibernation.wake(night.spawner)
    night.whole()


async def test_managers_that_do_not_answer_keep_nobody_from_waking(night: Night) -> None:
    night.spawner.url = "http://127.0.0.1:1"
    await night.host.agents.look()
    await night.host.hibernation.hibernate(night.spawner)
    night.host.cluster._trouble = "no leader"
    await night.host.hibernation.wake(night.spawner)
    night.whole()
    with pytest.raises(Unchanged, match="does not answer"):
        await night.host.hibernation.hibernate(night.spawner)
    night.whole()


# The hub is killed between the steps. What was written down and what is then are brought together at a look.

HIBERNATING = ["check", "write", "route", "pause", "meter"]
WAKING = ["place", "route", "unpause", "write", "meter"]


def kill(night: Night, monkeypatch: pytest.MonkeyPatch, step: str, after: bool) -> None:
    """Have the hub end before or after a step."""
    where: dict[str, tuple[Any, str]] = {
        "check": (night.host.agents, "check"),
        "place": (night.host.hibernation, "_place"),
        "write": (night.spawner, "_save"),
        "route": (night.host.proxy, "add_user"),
        "pause": (night.host.engine, "pause_container"),
        "unpause": (night.host.engine, "unpause_container"),
        "meter": (night.host.hibernation, "meter"),
    }
    owner, name = where[step]
    works = getattr(owner, name)

    def dies(*arguments: Any, **more: Any) -> Any:
        if after:
            works(*arguments, **more)
        raise Killed

    async def dies_later(*arguments: Any, **more: Any) -> Any:
        if after:
            await works(*arguments, **more)
        raise Killed

    monkeypatch.setattr(owner, name, dies_later if asyncio.iscoroutinefunction(works) else dies)


async def killed(night: Night, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, act: Callable[[Any], Any]) -> None:
    """Do something in a hub that ends in the middle, and start the next one."""
    with monkeypatch.context() as patch:
        kill(night, patch, step, after)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - also what gather makes of it
            await act(night.spawner)
        await asyncio.sleep(0.05)
    night.restart()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", HIBERNATING)
async def test_killed_while_it_hibernates(night: Night, monkeypatch: pytest.MonkeyPatch, step: str, after: bool) -> None:
    await night.look()
    night.spawner._save()
    await killed(night, monkeypatch, step, after, night.host.hibernation.hibernate)
    if night.paused:
        assert night.frozen, "nobody is led to a session that stands still"
    night.tell("frozen" if night.paused else "running")
    await night.host.agents.look()
    await night.look()
    await night.host.proxy.add_user(None, "")  # what the hub's check of all routes does at its start
    night.whole()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", HIBERNATING)
async def test_killed_while_it_hibernates_and_visited_at_once(
    night: Night, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    """No agent has to say anything before a visit gets through."""
    await night.look()
    night.spawner._save()
    await killed(night, monkeypatch, step, after, night.host.hibernation.hibernate)
    await night.host.hibernation.wake(night.spawner, "visit")
    assert not night.paused and not night.frozen


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", WAKING)
async def test_killed_while_it_wakes(night: Night, monkeypatch: pytest.MonkeyPatch, step: str, after: bool) -> None:
    await night.look()
    await night.host.hibernation.hibernate(night.spawner)
    await killed(night, monkeypatch, step, after, night.host.hibernation.wake)
    if night.paused:
        assert night.frozen
    night.tell("reclaimed" if night.paused else "running")
    await night.host.agents.look()
    await night.look()
    await night.host.proxy.add_user(None, "")
    night.whole()


async def test_what_somebody_does_by_hand_is_found(night: Night) -> None:
    await night.look()
    night.engine.paused.add(night.container)
    night.tell("frozen")
    await night.host.agents.look()
    view = await night.look()
    assert view["state"] == "hibernated" and night.said() == [("hibernated", "found")]
    night.whole()
    night.engine.paused.clear()
    night.tell("running")
    await night.host.agents.look()
    view = await night.look()
    assert view["state"] == "running" and night.said()[-1] == ("woken", "found")
    night.whole()


async def test_what_an_agent_said_before_a_change_changes_nothing(night: Night) -> None:
    await night.look()
    await night.host.agents.look()
    await night.host.hibernation.hibernate(night.spawner)
    await night.look()
    night.whole()
    assert night.paused
    # And an agent that is wrong does not either: the engine is asked.
    await night.host.agents.look()
    await night.look()
    assert night.paused and night.said() == [("hibernated", "user")]


# Two at once.


async def test_two_wakes_are_one(night: Night) -> None:
    await night.idle()
    night.engine.slow = 0.1
    await asyncio.gather(*(night.host.hibernation.wake(night.spawner, "visit") for _ in range(3)))
    assert night.said().count(("woken", "visit")) == 1
    assert sum(path.endswith("/unpause") for path in night.engine.requests) == 1
    night.whole()


async def test_a_visit_while_it_hibernates_wakes_it(night: Night) -> None:
    night.engine.slow = 0.1
    going = asyncio.ensure_future(night.host.hibernation.hibernate(night.spawner))
    while not night.frozen:
        await asyncio.sleep(0.01)
    await night.host.hibernation.wake(night.spawner, "visit")
    await going
    assert night.said() == [("hibernated", "user"), ("woken", "visit")]
    night.whole()


async def test_a_stop_while_it_wakes(night: Night) -> None:
    await night.idle()
    night.engine.slow = night.route_takes = 0.1
    going = asyncio.ensure_future(night.host.hibernation.wake(night.spawner, "visit"))
    await asyncio.sleep(0.03)
    night.spawner.pending = "stop"
    await night.host.hibernation.release(night.spawner, "127.0.0.1", night.container)
    with pytest.raises(Unchanged, match=GONE):
        await going
    assert not night.paused and ("woken", "visit") not in night.said()
    assert night.routes, "a stop deletes the route, and the wake does not bring it back"


async def test_a_stop_of_a_frozen_session_lets_it_go_on_first(night: Night) -> None:
    await night.idle()
    night.spawner.pending = "stop"
    await night.host.hibernation.release(night.spawner, "127.0.0.1", night.container)
    assert not night.paused


async def test_a_stop_while_it_hibernates_waits_for_that(night: Night) -> None:
    night.engine.slow = 0.1
    going = asyncio.ensure_future(night.host.hibernation.hibernate(night.spawner))
    while not night.frozen:
        await asyncio.sleep(0.01)
    night.spawner.pending = "stop"
    await night.host.hibernation.release(night.spawner, "127.0.0.1", night.container)
    await going
    assert not night.paused


async def test_a_frozen_session_has_a_longest_time_too(night: Night) -> None:
    night.spawner.profile = config.Profile(**{**vars(night.spawner.profile), "idle_stop": 0})
    view = await night.idle()
    assert (view["state"], view["next"], view["why"]) == ("hibernated", "stop", "max_session")
    await night.idle(8 * 3600)
    assert night.spawner.stopped and night.spawner.stop_reason == "max_session"
    assert night.said()[-1] == ("warned", "max_session")


async def test_who_is_gone_is_neither_hibernated_nor_woken(night: Night) -> None:
    night.spawner.ready = False
    for act in (night.host.hibernation.hibernate, night.host.hibernation.wake):
        with pytest.raises(Unchanged, match=GONE):
            await act(night.spawner)
    assert not night.agent.asked and not night.led


async def test_a_route_that_is_not_there_in_time_is_left_to_the_hub(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hibernation, "ROUTE", 0.05)

    async def hang(*_: Any) -> None:
        await asyncio.sleep(60)

    night.host.proxy.add_user = hang
    await night.host.hibernation.hibernate(night.spawner)
    assert night.paused and night.frozen
    await night.host.hibernation.wake(night.spawner)
    assert not night.paused and not night.frozen


async def test_a_ledger_that_is_locked_is_told_later(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(_: Any) -> None:
        raise hibernation.LedgerError("database is locked")

    await night.look()
    with monkeypatch.context() as patch:
        patch.setattr(night.quota, "pause", locked)
        await night.host.hibernation.hibernate(night.spawner)
    assert night.paused and night.metered
    await night.look()
    night.whole()
