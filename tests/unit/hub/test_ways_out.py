"""The nodes' egress services as the hub asks them: over real TLS, with nodes that are sick in every way."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import FakeEngine, FakeNode, make_node, refusal
from metalhub_hub import config, egress, node_client
from metalhub_hub.cluster import Cluster
from world import Pair

SQUID, RESOLVER = "metalhub-squid@packages.service", "metalhub-resolver@_node.service"
NOW = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


class World(Pair):
    def __init__(self, pki: Path, engine: FakeEngine, tmp_path: Path) -> None:
        super().__init__(pki, engine, tmp_path)
        self.hub: egress.Nodes = self.client("hub-client")

    def client(self, name: str) -> egress.Nodes:
        """The hub's client with a certificate."""
        return egress.Nodes(self.one.port, Cluster(self.api), self.tls(name), self.clock, lambda: NOW)


@pytest.fixture
async def world(pki: Path, engine: FakeEngine, tmp_path: Path) -> AsyncIterator[World]:
    made = World(pki, engine, tmp_path)
    yield made
    await made.close()


PROXY = config.Egress(proxy="http://10.231.16.1:3128")


@pytest.mark.parametrize(
    ("health", "klass", "offer", "words"),
    [
        (egress.Health(), "packages", PROXY, ""),
        (None, "packages", PROXY, ""),
        (egress.Health(down=(SQUID,)), "packages", PROXY, "the proxy on node n1 does not run"),
        (egress.Health(down=(RESOLVER, SQUID)), "packages", PROXY, "the resolver and the proxy on node n1 do not run"),
        (egress.Health(down=("metalhub-resolver@packages.service",)), "packages", PROXY, "the resolver on node n1 does not run"),
        (egress.Health(down=("metalhub-resolver@packages.service", RESOLVER)), "packages", PROXY, "the resolver on node n1 does not run"),
        # What another class needs is no business of this session, and a class without names needs none of it.
        (egress.Health(down=("metalhub-resolver@open.service", "metalhub-squid@open.service")), "packages", PROXY, ""),
        (egress.Health(down=(SQUID,)), "none", config.Egress(), ""),
        # Nothing listens: the service that decides is not there, and without it nothing passes.
        (egress.Health(trouble="nothing listens there", dead=True), "packages", PROXY, "the egress service on node n1 does not run"),
        # Nobody can tell: what the hub cannot reach may do its work.
        (egress.Health(trouble="it took more than 3 s"), "packages", PROXY, ""),
    ],
)
def test_what_a_user_is_told(health: egress.Health | None, klass: str, offer: config.Egress, words: str) -> None:
    sentence = egress.way_out(health, "n1", klass, offer)
    assert sentence == (f"Your session's way out is closed: {words}; administrators see it too." if words else "")


def test_what_administrators_are_told() -> None:
    assert egress.Health().words() == "runs"
    assert egress.Health(down=("metalhub-resolver@open.service", SQUID)).words() == "the resolver of class open and the proxy of class packages do not run"
    assert egress.Health(trouble="it took more than 3 s").words() == "does not answer: it took more than 3 s"
    assert egress.Health(trouble="nothing listens there", dead=True).words() == "the egress service does not run"


async def test_each_node_is_asked_once_and_all_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "HEALTH_PATIENCE", 20)
    together = threading.Barrier(2, timeout=10)  # neither answers before both are asked
    for node in (world.one, world.two):
        node.answers["/health"] = lambda: {"down": [together.wait()][1:]}
    await world.hub.look()
    assert world.one.asked == world.two.asked == ["/health"]
    assert world.hub.health == {"compute1": egress.Health(), "compute2": egress.Health()}
    assert not world.hub.alarms()


async def test_a_part_that_is_down_and_comes_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "metalhub")
    world.two.down = [SQUID]
    for _ in range(3):
        await world.hub.look()
    assert world.hub.alarms() == ["compute2: the proxy of class packages does not run"]
    assert world.hub.way_out("compute2", "packages", PROXY)
    assert not world.hub.way_out("compute1", "packages", PROXY)
    assert not world.hub.way_out("a node", "packages", PROXY)
    world.two.down = []
    await world.hub.look()
    assert not world.hub.alarms()
    said = [record.getMessage() for record in caplog.records if "way out" in record.getMessage()]
    assert said == ["The way out of node compute2: the proxy of class packages does not run", "The way out of node compute2: runs"], "once each"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("nothing", "does not answer: it answers something else than its health"),
        ({"status": "ok"}, "does not answer: it answers something else than its health"),
        ({"down": 3}, "does not answer: it answers something else than its health"),
        (lambda: (_ for _ in ()).throw(OSError(5, "Input/output error", "disk")), "does not answer: it answers 500"),
    ],
)
async def test_a_node_that_answers_nonsense(world: World, answer: Any, words: str) -> None:
    world.one.answers["/health"] = answer
    await world.hub.look()
    assert world.hub.health["compute1"].words().startswith(words)
    assert world.hub.health["compute2"].well


async def test_a_node_that_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "HEALTH_PATIENCE", 0.2)
    end = threading.Event()
    world.one.answers["/health"] = lambda: {"down": [end.wait(10)][1:]}
    await world.hub.look()
    end.set()
    assert world.hub.health["compute1"].words() == "does not answer: it took more than 0.2 s"


async def test_nodes_that_are_not_there(world: World, engine: FakeEngine) -> None:
    world.two.close()
    engine.nodes += [
        make_node("lost", Status={"State": "down", "Addr": "192.0.2.1"}),
        make_node("manager", Spec={"Availability": "drain", "Labels": {}}),
    ]
    await world.hub.look()
    assert {name: health.words() for name, health in world.hub.health.items()} == {
        "compute1": "runs",
        "compute2": "the egress service does not run",
        "lost": "does not answer: the node is down",
    }, "and a host without a pool is not asked"


async def test_a_cluster_that_does_not_answer_takes_nothing_back(world: World, engine: FakeEngine) -> None:
    world.one.down = [SQUID]
    await world.hub.look()
    engine.mode = "500"
    world.hub._cluster._taken = float("-inf")
    await world.hub.look()
    assert world.hub.alarms() == ["compute1: the proxy of class packages does not run"]


async def test_only_the_hub_is_answered_and_only_the_node_is_believed(world: World, pki: Path) -> None:
    somebody = world.client("somebody")
    await somebody.look()
    assert "answers 403" in somebody.health["compute1"].words()
    await somebody.close()
    # The certificate is for 127.0.0.1 and 127.0.0.2.
    elsewhere = FakeNode(pki, "127.0.0.3", world.one.port)
    world.engine.nodes[0]["Status"]["Addr"] = "127.0.0.3"
    world.hub._cluster._taken = float("-inf")
    await world.hub.look()
    assert "Certificate" in world.hub.health["compute1"].words() and not elsewhere.asked
    elsewhere.close()


async def test_the_refusals_of_all_nodes_in_one_list(world: World) -> None:
    world.one.lines = [refusal(), refusal("old.example.org", time="2026-01-02T10:59:59Z"), refusal(time="2026-01-02T11:30:00Z", count=2)]
    world.two.lines = [
        refusal(time="2026-01-02T11:40:00Z", node="compute2", count=5),
        refusal(time="2026-01-02T11:40:00Z", node="compute2", user="bob", **{"class": "internal"}),
        refusal(time="2026-01-02T11:40:00Z", node="compute2", verdict="allowed", reason=""),
    ]
    report = await world.hub.report("hour")
    assert world.one.asked == ["/refusals?since=2026-01-02T11:00:00Z"]
    assert [(row.count, row.user, row.klass, row.nodes, row.last) for row in report.rows] == [
        (7, "ann", "packages", ("compute1", "compute2"), "2026-01-02T11:40:00Z"),
        (1, "bob", "internal", ("compute2",), "2026-01-02T11:40:00Z"),
    ]
    assert (report.users(), report.classes()) == (["ann", "bob"], ["internal", "packages"])
    assert [row.user for row in report.top("bob", "", 10)] == [row.user for row in report.top("", "internal", 10)] == ["bob"]
    assert report.top("bob", "packages", 10) == [] and len(report.top("", "", 1)) == 1
    assert not report.silent and not report.cut
    assert report.rows[0].allow_line == "- data.example.org:443  # metalhub_egress_packages"


async def test_an_answer_is_kept_for_a_while_whoever_asks(world: World) -> None:
    await asyncio.gather(*(world.hub.report("day") for _ in range(20)))
    world.seconds += egress.REPORT_AGE - 1
    await world.hub.report("day")
    assert len(world.one.asked) == 1
    await world.hub.report("week")
    assert len(world.one.asked) == 2, "another span is another question"
    world.seconds += 2
    await world.hub.report("day")
    assert len(world.one.asked) == 3


async def test_nodes_that_tell_no_refusals_are_named(world: World, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    world.one.answers["/refusals"] = {"lines": [3]}
    world.two.close()
    engine.nodes.append(make_node("lost", Status={"State": "down", "Addr": "192.0.2.1"}))
    report = await world.hub.report("day")
    assert dict(report.silent) == {
        "compute1": "its answer cannot be read: it answers something else than lines",
        "compute2": "nothing listens there",
        "lost": "the node is down",
    }
    assert report.rows == ()
    monkeypatch.setattr(node_client, "NODE_BYTES", 2**20)
    world.one.answers["/refusals"] = {"lines": [refusal("x" * 2**20)]}
    world.seconds += 60
    assert (await world.hub.report("day")).silent["compute1"] == "its answer is larger than 1 MiB"


async def test_a_node_that_has_more_to_tell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "NODE_LINES", 2)
    world.one.lines = [refusal(time="2026-01-02T11:30:00Z"), refusal(time="2026-01-02T11:20:00Z")]
    assert dict((await world.hub.report("day")).cut) == {"compute1": "2026-01-02T11:20:00Z"}


async def test_what_the_nodes_own_service_answers_is_understood(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    role = Path(__file__).parents[3] / "roles/egress/files/opt/metalhub/egress"
    monkeypatch.syspath_prepend(str(role))
    from metalhub_egress import service as module
    from metalhub_egress.refusals import Journal

    journal = Journal(str(tmp_path / "journal"), lambda source: {"user": "ann", "session": "s", "profile": "small", "node": "compute1"})
    service = module.Service({"control": []}, journal, lambda *argv: "inactive\n")
    service.plain = {"classes": {}}
    fields = {"source": "10.231.16.2", "class": "packages", "destination": "data.example.org", "protocol": "tcp", "via": "proxy-connect"}
    for verdict in ("refused", "allowed", "refused"):
        journal.note(verdict=verdict, port=443, reason="not in the class's list", **fields)
    journal.note(verdict="refused", port=53, reason="not in the class's list", **{**fields, "via": "dns", "protocol": "TXT"})
    journal.write(final=True)
    world.one.answer = world.one.server.answer = service.answer  # type: ignore[method-assign]
    await world.hub.look()
    assert world.hub.health["compute1"].words() == "the resolver does not run"
    world.hub.now = lambda: datetime.now(timezone.utc)
    rows = (await world.hub.report("hour")).rows
    assert [(row.count, row.place) for row in rows] == [(2, "data.example.org:443"), (1, "data.example.org (TXT)")]
    assert sys.modules["metalhub_egress"].__file__ == str(role / "metalhub_egress/__init__.py")
    assert len(json.dumps(service.answer("GET", "/refusals?since=9", b""))) < 100
