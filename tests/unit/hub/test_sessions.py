"""The look at running sessions: what their servers say, and what is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import FakeSession, document
from metalhub_hub import config, platform, sessions
from metalhub_hub.core import lifecycle
from metalhub_hub.core.lifecycle import Moment, Record

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def kernel(state: str, seconds: float) -> dict[str, str]:
    return {"execution_state": state, "last_activity": stamp(seconds)}


def stamp(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def test_what_a_server_says() -> None:
    nothing = sessions.understand(NOW, [], [])
    assert (nothing.busy, nothing.idle, nothing.mark) == (False, None, "")
    found = sessions.understand(NOW, [kernel("idle", 100), kernel("idle", 60)], [{"last_activity": stamp(80)}], started=stamp(900))
    assert (found.busy, found.idle, found.age) == (False, 60, 900)
    assert (
        found.mark
        == sessions.understand(NOW + timedelta(1), [kernel("idle", 100), kernel("idle", 60)], [{"last_activity": stamp(80)}]).mark
    )
    assert found.mark != sessions.understand(NOW, [kernel("idle", 100), kernel("idle", 60)], [{"last_activity": stamp(79)}]).mark
    # What a cell prints is no activity of its own.
    printing = [sessions.understand(NOW, [kernel("busy", age)], []) for age in (1, 2)]
    assert printing[0] == printing[1] and printing[0].busy
    assert sessions.understand(NOW, [], [], stamp(5)).idle == 5


@dataclass
class Spawner:
    """As much of a spawner as the look needs."""

    url: str
    profile: Any
    service_name: str = "mh-ann-default-1"
    name: str = ""
    node: str = "compute1"
    profile_name: str = "small"
    ready: bool = True
    pending: str = ""
    step: str = ""
    ended: Any = None
    life: Record | None = None
    stop_reason: str = ""
    said: list[dict[str, Any]] = field(default_factory=list)
    saved: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self.kept: Any = None  # the record that a restarted hub finds
        self.groups: set[str] = set()
        self.server = SimpleNamespace(base_url="/user/ann/")
        self.orm_spawner = SimpleNamespace(started=None, state={})
        self.user = SimpleNamespace(name="ann", stop=self.stop)

    async def stop(self, name: str) -> None:
        self.stopped, self.service_name = True, ""

    def troubles(self) -> list[dict[str, str]]:
        return [{"key": "drain 1", "text": "The machine is taken out of service."}]

    def _audit(self, state: str, **facts: Any) -> None:
        self.said.append({"state": state, **facts})

    def _save(self) -> None:
        self.saved += 1
        self.kept = lifecycle.plain(self.life) if self.life else None

    def get_state(self) -> dict[str, Any]:
        return {}

    def ended_ago(self) -> float | None:
        return None

    def ending(self) -> str:
        return ""

    def way_out(self) -> str:
        return ""


class World:
    """Sessions with time in hand."""

    def __init__(self, tmp_path: Path, url: str, **changes: Any) -> None:
        self.seconds = 1000.0
        raw = document(tmp_path, **changes)
        raw["profiles"]["small"] |= {"idle_stop": "30m", "max_session": "8h", "extension": "90m", "hibernate_after": "10m"}
        host = platform.Platform(config.parse(raw))
        self.routes: list[str] = []

        async def delete_user(user: Any, name: str) -> None:
            self.routes.append(user.name)

        database = SimpleNamespace(commit=lambda: None)
        host.proxy = SimpleNamespace(delete_user=delete_user, app=SimpleNamespace(db=database, users={}))
        self.host = host
        self.sessions = host.sessions = sessions.Sessions(host, self.now)
        self.sessions.servers.token = "t" * 64
        self.spawner = Spawner(url, host.document.profiles["small"])

    def now(self) -> Moment:
        return Moment(1e9 + self.seconds, self.seconds, "boot")

    async def look(self, seconds: float = 30) -> dict[str, Any]:
        self.seconds += seconds
        await self.sessions.look([self.spawner])
        return self.sessions.view(self.spawner)


@pytest.fixture
async def world(tmp_path: Path, session: FakeSession) -> AsyncIterator[World]:
    one = World(tmp_path, f"http://127.0.0.1:{session.served.port}")
    yield one
    await one.sessions.servers.close()


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat()


def test_the_unit_tells_which_boot_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its /proc shows processes only."""
    monkeypatch.setenv("METALHUB_BOOT_ID", "b" * 32)
    assert sessions.clocks()().boot == "b" * 32
    unit = (Path(__file__).parents[3] / "roles/hub/templates/etc/systemd/system/metalhub-hub.service.j2").read_text()
    assert "\nEnvironment=METALHUB_BOOT_ID=%b\n" in unit and "\nProcSubset=pid\n" in unit


async def test_what_is_asked_is_no_activity(world: World, session: FakeSession) -> None:
    session.kernels = [ago(3)]
    view = await world.look()
    assert view["state"] == "running" and view["next"] == "stop" and view["because"] == "unless something runs in it"
    assert [path.split("?")[0] for path in session.asked] == [
        "/user/ann/api/kernels", "/user/ann/api/terminals", "/user/ann/server-proxy/servers-info",
    ]  # fmt: skip
    assert all("no_track_activity=1" in path for path in session.asked if "/api/" in path)
    session.asked.clear()
    await world.look()
    assert len(session.asked) == 2


async def test_a_forgotten_tab_is_stopped_with_its_cause(world: World, session: FakeSession) -> None:
    session.kernels = [ago(0)]
    views = []
    while not world.spawner.stopped and world.seconds < 4000:
        views.append(await world.look())
    assert [one["state"] for one in world.spawner.said] == ["warned"]
    assert views[-2]["warned"] and world.spawner.stop_reason == "idle" and world.routes == ["ann"]
    assert 1800 <= world.seconds - 1000 <= 1900
    assert world.spawner.saved == 0, "the state is written with the look's, not one by one"


async def test_a_computing_kernel_is_no_idle_one(world: World, session: FakeSession) -> None:
    session.kernels, session.busy = [ago(0)], True
    for _ in range(100):
        view = await world.look()
    assert not world.spawner.said and view["does"] == "computing for 49 minutes" and view["why"] == "max_session"


@pytest.mark.parametrize(
    "says", ["text", {"a": 1}, [1], [{"execution_state": "idle"}], [{"execution_state": "idle", "last_activity": "x"}], ["x" * 2**19]]
)
async def test_nonsense_is_no_idleness(world: World, session: FakeSession, says: Any) -> None:
    session.says = says
    for _ in range(100):
        view = await world.look()
    assert not world.spawner.said and not view["known"] and view["does"] == "running, and not known what it does right now"


async def test_a_session_that_hangs_is_given_up_and_not_idle(world: World, session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PATIENCE", 0.1)
    await world.look()
    session.answering = False
    assert not (await world.look(4000))["known"]
    assert not world.spawner.said


async def test_one_session_that_cannot_be_looked_at_spares_the_others(world: World) -> None:
    bad = Spawner(world.spawner.url, world.spawner.profile)
    bad.server = None
    world.seconds += 30
    await world.sessions.look([bad, world.spawner])
    assert world.spawner.life is not None and world.spawner.life.looked is not None


async def test_vscode_counts_by_what_passes_to_its_tab(world: World, session: FakeSession) -> None:
    session.vscode = ago(0)
    await world.look()
    for _ in range(70):
        session.vscode = ago(0)
        view = await world.look()
    assert view["state"] == "running" and not world.spawner.said
    for _ in range(10):
        view = await world.look()
    assert view["state"] == "idle"


async def test_extending(world: World, session: FakeSession) -> None:
    view = await world.look()
    assert view["extend"] == {"seconds": 3600, "words": "1 hour"}
    assert world.sessions.extend(world.spawner, 3600) == 3600
    view = await world.look()
    assert view["left"] == pytest.approx(3570) and view["extend"]["words"] == "30 minutes"
    assert world.spawner.said[-1] == {"state": "extended", "seconds": 3600} and world.spawner.saved == 1
    world.sessions.extend(world.spawner, 3600)
    assert (await world.look())["extend"] is None
    with pytest.raises(lifecycle.NoExtension, match="used up"):
        world.sessions.extend(world.spawner, 60)
    world.spawner.ready = False
    with pytest.raises(lifecycle.NoExtension, match="does not run"):
        world.sessions.extend(world.spawner, 60)


async def test_state_is_written_when_it_changes_and_not_at_each_look(world: World, session: FakeSession) -> None:
    session.kernels = [ago(0)]
    written = []
    for _ in range(10):
        world.seconds += 30
        written.append(await world.sessions.look([world.spawner]))
    # When it came up, and when it became idle.
    assert written == [True, False, True] + [False] * 7


async def test_a_restarted_hub_goes_on_counting(world: World, session: FakeSession) -> None:
    session.kernels = [ago(0)]
    for _ in range(20):
        await world.look()
    assert world.spawner.life is not None
    kept = lifecycle.plain(world.spawner.life)
    other = sessions.Sessions(world.sessions.host, world.now)
    world.spawner.life = lifecycle.read(kept)
    world.seconds += 600
    await other.look([world.spawner])
    assert other.view(world.spawner)["idle"] >= 1170
    await other.servers.close()


async def test_a_stop_that_fails_leaves_no_cause_and_is_tried_again(world: World, session: FakeSession) -> None:
    async def fail(user: Any, name: str) -> None:
        raise RuntimeError("the proxy is away")

    works, world.sessions.host.proxy.delete_user = world.sessions.host.proxy.delete_user, fail
    world.sessions.stop(world.spawner, "idle")
    assert world.spawner.stop_reason == "idle"
    await asyncio.gather(*world.sessions._stopping)
    assert world.spawner.stop_reason == "" and not world.spawner.stopped
    world.sessions.host.proxy.delete_user = works
    world.sessions.stop(world.spawner, "max_session")
    await asyncio.gather(*world.sessions._stopping)
    assert world.spawner.stopped and world.spawner.stop_reason == "max_session"
