"""Quotas that hold: starts that race, what runs is warned and cut, clocks that jump, hubs that restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
from conftest import FakeEngine, FakeSession, document
from jupyterhub import orm
from metalhub_hub import config, ledger, platform, quota
from metalhub_hub.core.quotas import Override, Span
from metalhub_hub.ledger import LedgerError
from metalhub_hub.policy import Refused
from metalhub_hub.quota import Clock, Quota
from metalhub_hub.sessions import Sessions
from metalhub_hub.spawner import cards as profile_cards
from sqlalchemy import Engine, event, text
from test_spawner import Here, Routes

HOUR = 3600
NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC, a Thursday


class Person:
    """A user as the hub has one, with groups and sessions."""

    def __init__(self, name: str, *groups: str) -> None:
        self.name, self.groups = name, set(groups)
        self.spawners: dict[str, Any] = {}
        self.stopped: list[str] = []

    async def stop(self, server: str) -> None:
        spawner = self.spawners[server]
        self.stopped.append(spawner.stop_detail)
        spawner.platform.quota.end(spawner)
        spawner.service_name, spawner.active = "", False


class Running(SimpleNamespace):
    """A spawner, as far as quotas look at one."""

    @property
    def pending(self) -> str | None:
        return "stop" if self._stop_pending else None


class Site:
    """A platform without cluster and hub around its quotas, and its clocks."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        raw = document(directory, quotas={"default": "sessions=3"})
        raw["flavors"]["whole"] = {"cpus": 7.5, "memory": "64G", "gpu": {"model": "a100", "count": 2}}
        raw["profiles"]["whole"] = {"image": "lab", "flavor": "whole", "pool": "gpu", "egress": "packages"}
        self.raw = {**raw, **changes}
        self.wall, self.steady = NOON, 1000.0
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.people: dict[str, Person] = {}
        self.directory = directory
        self.db = orm.new_session_factory("sqlite:///:memory:")()
        self.restart()

    def restart(self) -> None:
        users = SimpleNamespace(values=self.people.values)
        proxy = SimpleNamespace(app=SimpleNamespace(users=users, db=self.db), delete_user=self._delete)
        audit = SimpleNamespace(write=lambda state, **facts: self.lines.append((state, facts)))
        self.host: Any = SimpleNamespace(document=config.parse(self.raw), proxy=proxy, audit=audit)
        self.quota = self.host.quota = Quota(
            self.host, f"sqlite:///{self.directory}/ledger.sqlite", Clock(lambda: self.wall, lambda: self.steady)
        )
        self.host.sessions = Sessions(self.host)
        for person in self.people.values():
            for spawner in person.spawners.values():
                spawner.platform = self.host

    async def _delete(self, user: Any, server: str) -> None:
        await asyncio.sleep(0)

    def person(self, name: str, *groups: str) -> Person:
        return self.people.setdefault(name, Person(name, *groups))

    def spawner(self, user: str = "ann", server: str = "", *groups: str) -> Any:
        person = self.person(user, *groups)
        return person.spawners.setdefault(
            server,
            Running(
                user=person, name=server, groups=person.groups, platform=self.host, service_name="", active=False, ready=True,
                _stop_pending=False, stop_reason="", stop_detail="", profile=None,
            ),
        )  # fmt: skip

    def start(self, user: str = "ann", server: str = "", profile: str = "small") -> Any:
        one = self.spawner(user, server)
        one.profile = self.host.document.profiles[profile]
        self.quota.admit(one, one.profile)
        one.service_name, one.active = f"mh-{user}-{server or 'default'}", True
        self.quota.begin(one)
        return one

    def run(self, seconds: int, step: int = 10) -> None:
        for _ in range(0, seconds, step):
            self.wall += step
            self.steady += step
            self.quota.tick()

    def used(self, resource: str, user: str = "ann", window: str = "day") -> int:
        return self.quota.usage(user).of(resource, window)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def build(quotas: str = "sessions=3", **changes: Any) -> Site:
        made.append(Site(tmp_path, quotas={"default": quotas}, **changes))
        return made[-1]

    yield build
    for site in made:
        site.quota.close()


def test_what_the_hub_has_not_committed_yet_does_not_lock_the_ledger(make: Callable[..., Site]) -> None:
    site = make()
    event.listen(Engine, "connect", platform.write_ahead)
    try:
        site.db = orm.new_session_factory(site.quota._url)()
        site.restart()
        for number in range(3):
            # Another start is halfway: JupyterHub flushes and goes on to wait for something.
            site.db.add(orm.User(name=f"user{number}"))
            site.db.flush()
            one = site.start(f"user{number}")
        assert [hold.user for hold in site.quota.ledger.held() if hold.resource == "cpu"] == ["user0", "user1", "user2"]
        site.db.add(orm.User(name="user3"))
        site.db.flush()
        site.quota.end(one)
        assert site.db.query(orm.User).count() == 4 and not site.quota._unwritten
        assert site.db.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    finally:
        event.remove(Engine, "connect", platform.write_ahead)
        site.db.close()


def test_what_a_profile_is_metered_for(make: Callable[..., Site]) -> None:
    profiles = make().host.document.profiles
    assert quota.resources(profiles["small"]) == {"cpu": 1}
    assert quota.resources(profiles["slice"]) == {"cpu": 4, "gpu-1g.10gb": 1}
    assert quota.resources(profiles["whole"]) == {"cpu": 8, "gpu-a100": 2}, "half a CPU counts as one"


@pytest.mark.parametrize(
    ("quotas", "first", "second", "words"),
    [
        ("sessions=1", "small", "small", "You have 1 session and may have 1"),
        ("memory=33G", "slice", "small", "Your sessions hold 32G of memory"),
        ("memory=1G", None, "small", "and you may have 1G"),
        ("cpu=0h/day", None, "small", "of cpu today"),
        ("gpu-a100=deny", None, "whole", "The use of gpu-a100 is denied to everybody"),
        ("gpu=deny", None, "slice", "The use of gpu-1g.10gb is denied"),
        ("workspace=deny", None, "small", "may not have a home"),
        ("deny", None, "small", "Starting sessions is denied"),
    ],
)
def test_a_start_over_a_limit_is_refused_in_words(
    make: Callable[..., Site], quotas: str, first: str | None, second: str, words: str
) -> None:
    site = make(quotas)
    if first:
        site.start(profile=first)
    with pytest.raises(Refused) as caught:
        site.start(server="two", profile=second)
    assert words in caught.value.jupyterhub_message and caught.value.status_code == 403


def test_what_others_or_another_period_hold_is_no_reason(make: Callable[..., Site]) -> None:
    site = make("gpu-a100=1h/day")
    site.start("bob", profile="whole")
    site.run(1700)
    site.start("ann", profile="slice")
    assert site.used("gpu", "bob") == 3400


async def test_50_starts_at_once_against_a_limit_of_3(tmp_path: Path, engine: FakeEngine, session: FakeSession) -> None:
    """Real spawners on a fake engine, of two users, with all that can go wrong in between."""
    host = platform.use(platform.Platform(config.parse(document(tmp_path, quotas={"default": "sessions=3"}))))
    database = orm.new_session_factory("sqlite:///:memory:")()
    host.proxy = Routes()
    host.proxy.app.db = database
    for node in engine.nodes:
        node["Description"]["Resources"] = {"NanoCPUs": 10**12, "MemoryBytes": 2**50}
    spawners, most = [], {"ann": 0, "bob": 0}
    for name in most:
        owner = orm.User(name=name)
        user = SimpleNamespace(name=name, groups=[], spawners={}, escaped_name=name, database=database)
        for number in range(50):
            server = f"s{number}"
            record = orm.Spawner(user=owner, name=server, server=orm.Server(base_url=f"/user/{name}/{server}/"), state={})
            database.add_all([owner, record])
            database.commit()
            user.spawners[server] = Here(user=user, orm_spawner=record, proxy_spec=f"/user/{name}/{server}/")
            spawners.append(user.spawners[server])

    async def begin(spawner: Here) -> bool:
        spawner.clear_state()
        try:
            await spawner.apply_options({})
            await asyncio.sleep(0)
            await spawner.start()
        except Refused as refused:
            assert refused.reason == "quota", refused
            return False
        return True

    async def count() -> None:
        while True:
            for name in most:
                running = [s for s in engine.services.values() if s["Spec"]["Labels"]["metalhub.user"] == name]
                most[name] = max(most[name], len(running))
            await asyncio.sleep(0.005)

    counting = asyncio.ensure_future(count())
    started = await asyncio.gather(*(begin(spawner) for spawner in spawners))
    assert sum(started[:50]) == sum(started[50:]) == 3
    # Two-phase: some of those that ran end just while all others try again.
    ending = [spawner for spawner, ok in zip(spawners, started, strict=True) if ok][:4]
    for one in ending:
        one.orm_spawner.started = one.orm_spawner.last_activity = None
    again = [spawner for spawner, ok in zip(spawners, started, strict=True) if not ok]
    await asyncio.gather(*(one.stop() for one in ending), *(begin(spawner) for spawner in again))
    await asyncio.gather(*(begin(spawner) for spawner in again if not spawner.service_name))
    counting.cancel()
    assert most == {"ann": 3, "bob": 3}
    sessions = {row.session for row in host.quota.ledger.held()}
    assert sessions == {s["Spec"]["Name"] for s in engine.services.values()} and len(sessions) == 6
    await host.engine.close()
    await host.homes.close()
    host.quota.close()


def test_a_reservation_that_comes_to_nothing_is_given_back(make: Callable[..., Site]) -> None:
    site = make("sessions=1")
    one = site.spawner()
    site.quota.admit(one, site.host.document.profiles["small"])
    site.quota.admit(one, site.host.document.profiles["small"])  # the same session once more is no second one
    with pytest.raises(Refused):
        site.quota.admit(site.spawner(server="two"), site.host.document.profiles["small"])
    site.quota.end(one)
    site.quota.admit(site.spawner(server="two"), site.host.document.profiles["small"])


async def test_warned_noticed_and_cut_while_it_runs(make: Callable[..., Site]) -> None:
    site = make("gpu-a100=2h/day")  # two GPUs: one hour
    site.start(profile="whole")
    cpu = site.start(server="cpu", profile="small")
    site.run(47 * 60)
    assert site.quota.notices("ann") == []
    site.run(2 * 60)
    (told,) = site.quota.notices("ann")
    assert told.startswith("You have used 1 hour 38 minutes of 2 hours of gpu-a100 today")
    assert site.quota.notices("ann", "cpu") == [], "the other session holds none of it"
    site.run(6 * 60)
    (told,) = site.quota.notices("ann")
    assert "will be stopped in about 5 minutes" in told
    assert not site.people["ann"].stopped
    site.run(5 * 60)
    await asyncio.sleep(0.01)
    assert len(site.people["ann"].stopped) == 1 and cpu.active
    assert "You have used 2 hours of 2 hours of gpu-a100 today (everybody's limit)" in site.people["ann"].stopped[0]
    assert site.used("gpu-a100") == 2 * HOUR
    assert [state for state, _ in site.lines] == ["warned", "noticed", "cut"]
    assert site.lines[-1][1] == {
        "user": "ann", "server": "", "session": "mh-ann-default", "cause": "quota", "resource": "gpu-a100", "window": "day",
        "used": 7200, "limit": 7200,
    }  # fmt: skip
    with pytest.raises(Refused, match="begins anew on 2026-01-02 at 00:00"):
        site.start(profile="whole")
    site.run(12 * HOUR, 600)
    site.start(profile="whole")


async def test_an_override_holds_until_its_end(make: Callable[..., Site]) -> None:
    site = make("cpu=1h/day")
    one = site.start()
    site.run(56 * 60)
    assert "will be stopped" in site.quota.notices("ann")[0]
    until = int(site.wall) + 2 * HOUR
    given = site.quota.grant("ann", Override("cpu", HOUR, until, "a paper is due"), "boss")
    site.quota.grant("bob", Override("cpu", HOUR, until, "nobody asked"), "boss")
    site.run(10 * 60)
    assert one.active and site.quota.notices("ann") == []
    assert ("override", {"user": "ann", "by": "boss", "number": 1, "resource": "cpu", "extra": 3600,
                         "until": "2026-01-01T14:56:00+00:00", "reason": "a paper is due"}) in site.lines  # fmt: skip
    site.restart()
    site.spawner().service_name = "mh-ann-default"
    site.quota.confirm(one)
    site.run(60)
    assert site.quota.notices("ann") == [], "the next hub knows it, too"
    assert site.quota.revoke(given.number, "boss") and not site.quota.revoke(given.number, "boss")
    site.run(4 * 60)
    assert one.active, "notice first"
    site.run(2 * 60)
    await asyncio.sleep(0.01)
    assert not one.active


@pytest.mark.parametrize("jump", [-30 * 86400, -7200, -40, 40, 7200, 11 * HOUR])
async def test_a_clock_that_is_set_cuts_nobody_and_charges_what_was_held(make: Callable[..., Site], jump: int) -> None:
    site = make("cpu=2h/day")
    one = site.start()
    site.run(600)
    site.wall += jump
    site.run(600)
    await asyncio.sleep(0)
    assert one.active and site.quota.notices("ann") == []
    total = sum(each.end - each.start for each in site.quota.ledger.intervals(Span(0, 2 * int(NOON))) if each.resource == "cpu")
    assert total == 1200


async def test_ticks_that_were_missed_cut_nobody_without_notice(make: Callable[..., Site]) -> None:
    site = make("cpu=1h/day")
    one = site.start()
    site.run(60)
    site.run(2 * HOUR, 2 * HOUR)  # the machine slept; the session was held all the same
    await asyncio.sleep(0)
    assert one.active and "will be stopped in about 5 minutes" in site.quota.notices("ann")[0]
    site.run(HOUR, HOUR)
    await asyncio.sleep(0)
    assert one.active, "a look that comes an hour late takes a minute off the notice"
    site.run(4 * 60)
    await asyncio.sleep(0.01)
    assert not one.active


def test_a_hub_that_was_away(make: Callable[..., Site]) -> None:
    site = make("sessions=2")
    stays, gone = site.start(), site.start("bob")
    site.run(60)
    site.wall += 4  # not yet seen by a heartbeat
    site.steady += 4
    site.restart()
    site.wall += 3000
    site.steady += 3000
    record = orm.Spawner(user=orm.User(name="ann"), name="", server=orm.Server(base_url="/"), state={"service_name": stays.service_name})
    site.db.add(record)
    site.db.commit()
    gone.active = stays.active = False
    with pytest.raises(Refused):  # as long as nobody knows, both of his count
        site.start("ann", "two"), site.start("ann", "three")
    site.quota.tick()
    assert site.used("cpu", "bob") == 60, "closed at the last heartbeat"
    assert site.used("cpu", "ann") == 60, "not yet known to run"
    site.quota.confirm(stays)
    assert site.used("cpu", "ann") == 3064, "it was held all the time"
    assert {row.session for row in site.quota.ledger.held()} == {"mh-ann-default", "mh-ann-two"}


def test_a_session_that_ended_while_the_hub_was_away_ends_at_the_last_heartbeat(make: Callable[..., Site]) -> None:
    site = make()
    one = site.start()
    site.run(60)
    site.restart()
    site.wall, site.steady = site.wall + 500, site.steady + 500
    site.quota.end(one)
    assert site.used("cpu") == 60
    site.restart()
    assert site.used("cpu") == 60


def test_a_session_that_an_older_hub_started_is_metered_from_when_it_is_found(make: Callable[..., Site]) -> None:
    site = make()
    one = site.spawner()
    one.service_name, one.active, one.profile = "mh-old", True, site.host.document.profiles["slice"]
    site.quota.confirm(one)
    site.run(100)
    assert site.used("gpu-1g.10gb") == 100 and site.quota.usage("ann").memory == 32 * 2**30


def test_a_hibernated_session_pays_its_gpu_only(make: Callable[..., Site]) -> None:
    site = make()
    one = site.start(profile="slice")
    site.run(100)
    site.quota.pause(one)
    site.run(1000)
    assert (site.used("cpu"), site.used("gpu")) == (400, 1100)
    site.restart()
    site.quota.confirm(one)  # is hibernated still
    site.run(100)
    assert (site.used("cpu"), site.used("gpu")) == (400, 1200)
    site.quota.resume(one)
    site.quota.resume(one)
    site.run(100)
    assert (site.used("cpu"), site.used("gpu")) == (800, 1300)


def test_a_database_that_is_locked(make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    site = make("sessions=1")
    one = site.start()
    site.run(10)

    def locked(*_: Any) -> None:
        raise LedgerError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "do", locked)
        site.wall, site.steady = site.wall + 5, site.steady + 5
        site.quota.end(one)
        with pytest.raises(Refused) as caught:
            site.start()
        assert "cannot write down" in caught.value.jupyterhub_message
        site.quota.end(one)
        with pytest.raises(LedgerError):
            site.quota.tick()
    site.run(50)
    assert site.used("cpu") == 15, "its end is written later, with its time"
    site.restart()
    assert site.used("cpu") == 15


def test_the_ledgers_document_values(tmp_path: Path) -> None:
    doc = config.parse(document(tmp_path, time_zone="Europe/Berlin", quota_notice="90s", rates={"currency": "EUR", "cpu": 0.02}))
    assert (str(doc.time_zone), doc.quota_notice, doc.rates.price("cpu"), doc.rates.price("gpu-a100")) == ("Europe/Berlin", 90, 0.02, 0)


async def test_the_metric_of_gpu_hours(make: Callable[..., Site]) -> None:
    site = make()
    site.quota.end(site.start("bob", profile="whole"))
    site.start(profile="whole")
    site.run(1800)
    await site.quota.count_hours()
    assert prometheus_client.REGISTRY.get_sample_value("metalhub_gpu_hours_month_to_date", {"resource": "gpu-a100"}) == 1.0
    site.quota.end(site.people["ann"].spawners[""])
    site.wall, site.steady = site.wall + 40 * 86400, site.steady + 40 * 86400
    await site.quota.count_hours()
    assert prometheus_client.REGISTRY.get_sample_value("metalhub_gpu_hours_month_to_date", {"resource": "gpu-a100"}) is None


async def test_a_profile_without_quota_is_grey_with_the_reason(tmp_path: Path, engine: FakeEngine) -> None:
    host = platform.Platform(config.parse(document(tmp_path, quotas={"default": "memory=8G"})))
    cards = {card["name"]: card for card in await profile_cards(host, {"clinical"}, "ann")}
    assert (cards["pii"]["state"], cards["pii"]["why"]) == ("free", "")
    (node,) = engine.nodes[:1]
    node["Spec"]["Labels"]["metalhub.pool"] = "gpu"
    node["Description"]["Resources"] = {
        "NanoCPUs": 10**12, "MemoryBytes": 2**50, "GenericResources": [{"NamedResourceSpec": {"Kind": "MIG_1G_10GB", "Value": "MIG-1"}}],
    }  # fmt: skip
    host.cluster = type(host.cluster)(host.engine)
    cards = {card["name"]: card for card in await profile_cards(host, {"clinical"}, "ann")}
    assert cards["slice"]["state"] == "none" and "this one needs 32G, and you may have 8G" in cards["slice"]["why"]
    await host.engine.close()
    host.quota.close()
