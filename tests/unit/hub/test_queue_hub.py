"""The queue of starts on a real hub: who waits, who goes, who may see it, what a killed hub keeps, and a herd."""

from __future__ import annotations

import html
import json
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import FakeEngine, make_node
from test_audit_hub import Site as Commanded
from test_hub import PASSWORD, clear, eventually, log_in
from world import world

AUDITOR, READER = "f" * 40, "e" * 40
GIB = 2**30
HERD = 60


def scheduled(engine: FakeEngine) -> None:
    """Have the fake engine place tasks as Swarm does: where there is room by the reservations, else nowhere."""
    add = engine.add_task

    def add_task(service: dict[str, Any], **status: Any) -> dict[str, Any]:
        task = add(service, **status)
        wanted = service["Spec"]["TaskTemplate"]["Resources"]["Reservations"]
        constraints = service["Spec"]["TaskTemplate"]["Placement"]["Constraints"]
        task["NodeID"] = ""
        for node in engine.nodes:
            has = node["Description"]["Resources"]
            others = [t["Spec"]["Resources"]["Reservations"] for t in engine.tasks if t is not task and t["NodeID"] == node["ID"]]
            pool = f"node.labels.metalhub.pool=={node['Spec']['Labels']['metalhub.pool']}"
            if pool in constraints and f"node.id!={node['ID']}" not in constraints and all(
                sum(other[kind] for other in others) + wanted[kind] <= has[kind] for kind in ("NanoCPUs", "MemoryBytes")
            ):
                task["NodeID"] = node["ID"]
                return task
        task["Status"].update(State="pending", Err="no suitable node (insufficient resources)")
        engine.unplaced += 1
        return task

    engine.unplaced = 0  # type: ignore[attr-defined]
    engine.add_task = add_task  # type: ignore[method-assign]


class Site(Commanded):
    def __init__(self, directory: Path, traefik: int) -> None:
        super().__init__(directory, traefik)
        scheduled(self.engine)
        self.few()
        self.change(self.fill)
        self.service("auditor", AUDITOR, "admin-ui", "read:users:name", "read:users", "read:metrics")
        self.service("reader", READER, "read:servers")
        self.mint()

    @staticmethod
    def fill(raw: dict[str, Any]) -> None:
        raw["pools"]["spare"] = {"sandbox": "gvisor"}
        raw["flavors"]["huge"] = {"cpus": 64, "memory": "1T"}
        raw["profiles"]["small"] |= {"max_session": "8h"}
        raw["profiles"]["spare"] = raw["profiles"]["small"] | {"title": "Spare", "pool": "spare", "default": False}
        raw["profiles"]["huge"] = raw["profiles"]["small"] | {"title": "Huge", "flavor": "huge", "default": False}
        raw["quotas"] = {"default": "sessions=3"}
        raw["queue_priorities"] = {"urgent": 5}

    def few(self) -> None:
        """Have one place for "small" in the pool cpu, and two in the pool spare."""
        self.engine.nodes = [self.node("compute1", "cpu", 1), self.node("compute2", "spare", 2)]

    def reset(self) -> None:
        """Have no user but the administrator, and nobody who has a session or waits."""
        self.few()
        if self.hub.process is None or self.hub.process.poll() is not None:
            self.hub.start()
        clear(self.hub)
        eventually(lambda: not self.engine.services and not self.queue())
        self.engine.unplaced = 0  # type: ignore[attr-defined]
        self.before = len(self.lines())

    @staticmethod
    def node(name: str, pool: str, cpus: int) -> dict[str, Any]:
        resources = {"NanoCPUs": cpus * 10**9, "MemoryBytes": 1024 * GIB}
        labels = {"metalhub.pool": pool, "metalhub.network": "ready"}
        return make_node(name, Spec={"Availability": "active", "Labels": labels}, Description={"Hostname": name, "Resources": resources})

    def queue(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", "/metalhub/api/queue").json()["queue"]
        return found

    def ask(self, method: str, path: str, token: str = AUDITOR) -> requests.Response:
        headers = {"Authorization": f"token {token}"} if token else {}
        return requests.request(method, f"{self.hub.url}{path}", headers=headers, timeout=30, allow_redirects=False)

    def view(self, user: str, name: str = "") -> dict[str, Any]:
        sessions = self.ask("GET", f"/metalhub/api/users/{user}/sessions", READER).json()["sessions"]
        found: dict[str, Any] = next(each for each in sessions if each["name"] == name)
        return found

    def start(self, user: str, profile: str = "small", name: str = "") -> requests.Response:
        self.hub.api("POST", f"/users/{user}")
        return self.hub.api("POST", f"/users/{user}/" + (f"servers/{name}" if name else "server"), json={"profile": profile})

    def wait(self, user: str, profile: str = "small", name: str = "") -> None:
        """Start a session and see it wait."""
        assert self.start(user, profile, name).status_code == 202
        eventually(lambda: any((row["user"], row["name"]) == (user, name) for row in self.queue()))

    def runs(self, user: str, name: str = "") -> bool:
        return bool((self.hub.server(user, name) or {}).get("ready"))

    def stop(self, user: str, name: str = "") -> None:
        self.hub.api("DELETE", f"/users/{user}/" + (f"servers/{name}" if name else "server"))

    def lines(self) -> list[str]:
        return (self.hub.directory / "audit.jsonl").read_text().splitlines()

    def audit(self, user: str) -> list[tuple[str, str]]:
        """What became of a user's sessions in this test."""
        told = map(json.loads, self.lines()[self.before :])
        events = [event for event in told if event["facts"].get("user") == user and event["kind"].startswith("session.")]
        return [(event["kind"].partition(".")[2], event["facts"].get("cause", "")) for event in events]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with world(tmp_path_factory.mktemp("hub"), kind=Site) as made:
        yield made


@pytest.fixture
def site(started: Site) -> Site:
    started.reset()
    return started


def waited(site: Site) -> dict[str, float]:
    """How many ended their wait, and how, since the hub was started."""
    text = site.ask("GET", "/metrics").text
    return {end: float(count) for end, count in re.findall(r'metalhub_queue_wait_seconds_count{end="(\w+)"} (\S+)', text)}


def test_a_start_waits_sees_its_place_and_goes_when_one_is_free(site: Site) -> None:
    before = waited(site)
    assert site.start("ann").status_code in (201, 202)
    eventually(lambda: site.runs("ann"))
    site.wait("bob")
    site.wait("cat")
    told = site.view("cat")
    assert (told["state"], told["pending"], told["queue"]["position"]) == ("queued", "spawn", 2)
    assert "1 start is before yours." in told["queue"]["message"]
    assert told["queue"]["basis"] == "latest" and told["queue"]["estimate"] > 8 * 3600
    assert "about 8 hours at the latest, when a session reaches its longest time" in eventually(lambda: site.view("bob")["queue"])["message"]
    # Administrators see the same of all, on each of their ways.
    wanted = {"bob": ("queued", 1), "cat": ("queued", 2)}
    listed = site.ask("GET", "/metalhub/api/sessions").json()
    assert {row["user"]: (row["state"], row["position"]) for row in listed["sessions"] if row["user"] != "ann"} == wanted
    assert listed["states"]["queued"] == 2 and "starting" not in listed["states"]
    typed = {row["user"]: (row["state"], row["position"]) for row in site.json("session", "list")}
    assert typed == {"ann": ("running", None), **wanted}
    assert "queued, number 2" in site.cli("session", "show", "cat").stdout
    # What has room now is offered, and nothing is started instead.
    assert told["queue"]["alternatives"] == [{"name": "spare", "title": "Spare"}]
    assert len(site.engine.services) == 1 and not site.runs("cat")
    # Neither does it hold quota while it waits.
    used = site.ask("GET", "/metalhub/api/usage?user=bob").json()["limits"]
    assert [limit["used"] for limit in used] == [0]
    site.stop("ann")
    eventually(lambda: site.runs("bob"))
    eventually(lambda: site.view("cat")["queue"]["position"] == 1)
    assert site.audit("bob") == [("queued", ""), ("admitted", ""), ("running", "")]
    # It leaves: whoever may stop a session may do that.
    site.stop("cat")
    eventually(lambda: not site.queue())
    assert site.audit("cat") == [("queued", ""), ("left", "admin")]
    after = waited(site)
    assert {end: after.get(end, 0) - before.get(end, 0) for end in ("admitted", "user")} == {"admitted": 2, "user": 1}
    assert 'metalhub_queue_length{pool="cpu"} 0.0' in site.ask("GET", "/metrics").text
    assert site.engine.unplaced == 0, "none was sent where there was no room"  # type: ignore[attr-defined]


def test_what_can_never_run_is_refused_at_once(site: Site) -> None:
    refused = site.start("ann", "huge")
    assert refused.status_code == 503 and "large enough" in refused.json()["message"]
    assert site.queue() == []


def test_a_machine_that_has_just_come_back_is_seen(site: Site) -> None:
    """What was looked at for one start serves the next for a second, but not to refuse it."""
    node = site.engine.nodes[0]["Spec"]
    site.hub.api("POST", "/users/ann")
    node["Availability"] = "pause"
    time.sleep(1.1)  # until nobody takes a look from before for the present
    refused = site.start("ann")
    assert refused.status_code == 503 and "no machine of its pool" in refused.json()["message"]
    node["Availability"] = "active"
    assert site.start("ann").status_code in (201, 202)
    eventually(lambda: site.runs("ann"))


def test_priority_and_fair_share_make_the_order(site: Site) -> None:
    site.start("ann")
    eventually(lambda: site.runs("ann"))
    site.wait("bob")
    site.wait("bob", name="two")
    site.wait("cat")
    site.hub.api("POST", "/users/eve")
    site.hub.api("POST", "/groups/urgent")
    site.hub.api("POST", "/groups/urgent/users", json={"users": ["eve"]})
    site.wait("eve")
    site.wait("ann", name="more")
    order = [(row["user"], row["name"]) for row in site.queue()]
    assert order == [("eve", ""), ("bob", ""), ("cat", ""), ("bob", "two"), ("ann", "more")]
    assert [row["priority"] for row in site.queue()] == [5, 0, 0, 0, 0]
    assert site.queue()[-1]["sessions"] == 1


def test_a_quota_that_is_gone_when_the_turn_comes_refuses_in_words(site: Site) -> None:
    site.engine.nodes[0] = site.node("compute1", "cpu", 1)
    site.start("ann")
    eventually(lambda: site.runs("ann"))
    for name in ("", "a", "b", "c"):
        site.wait("bob", name=name)
    site.engine.nodes[0] = site.node("compute1", "cpu", 8)
    for name in ("", "a", "b"):
        eventually(lambda name=name: site.runs("bob", name))
    eventually(lambda: not site.queue())
    assert len(site.engine.services) == 4 and ("stopped", "quota") in site.audit("bob")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_who_waited_keeps_the_place_when_the_hub_is_started_anew(site: Site, how: signal.Signals) -> None:
    site.start("ann")
    eventually(lambda: site.runs("ann"))
    for user in ("bob", "cat", "dan"):
        site.wait(user)
    site.stop("cat")
    eventually(lambda: len(site.queue()) == 2)
    before = site.queue()
    site.hub.kill(how)
    (kept,) = site.hub.directory.glob("queue.json")
    assert [row["user"] for row in json.loads(kept.read_text())["waiting"]] == ["bob", "dan"] and not kept.stat().st_mode & 0o007
    if how == signal.SIGTERM:  # a hub of the first release wrote no version
        kept.write_text(json.dumps({"waiting": json.loads(kept.read_text())["waiting"]}))
    time.sleep(1)
    site.hub.start()
    eventually(lambda: len(site.queue()) == 2)
    site.wait("late")
    after = site.queue()
    assert [row["user"] for row in after] == ["bob", "dan", "late"]
    assert [row["since"] for row in after[:2]] == [row["since"] for row in before]
    site.stop("ann")
    eventually(lambda: site.runs("bob"))
    site.stop("bob")
    eventually(lambda: site.runs("dan"))
    assert site.hub.server("cat") is None and site.audit("cat")[-1] == ("left", "admin")
    # A session that the hub itself started is watched as any other.
    site.engine.tasks[-1]["Status"]["State"] = "complete"
    eventually(lambda: site.hub.server("dan") is None)
    assert [row["user"] for row in json.loads(kept.read_text())["waiting"]] in ([], ["late"])


def test_a_user_who_is_removed_waits_no_more(site: Site) -> None:
    site.start("ann")
    eventually(lambda: site.runs("ann"))
    site.wait("bob")
    assert site.hub.api("DELETE", "/users/bob").status_code == 204
    eventually(lambda: not site.queue())
    site.stop("ann")
    eventually(lambda: not site.engine.services)
    time.sleep(1)
    assert not site.engine.services and site.hub.answers()


CASES = [
    # who, path, status
    ("", "/metalhub/api/queue", 403),
    ("user", "/metalhub/api/queue", 403),
    (READER, "/metalhub/api/queue", 403),
    (AUDITOR, "/metalhub/api/queue", 200),
    ("", "/metalhub/api/users/bob/sessions", 403),
    ("user", "/metalhub/api/users/bob/sessions", 200),
    ("user", "/metalhub/api/users/cat/sessions", 404),
    ("", "/metalhub/queue", 302),
]


def test_who_may_see_what_and_the_pages(site: Site) -> None:
    site.start("ann")
    eventually(lambda: site.runs("ann"))
    site.wait("bob")
    site.wait("cat")
    token = site.hub.api("POST", "/users/bob/tokens", json={"note": "a test"}).json()["token"]
    for who, path, status in CASES:
        answer = site.ask("GET", path, token if who == "user" else who)
        assert answer.status_code == status, (who, path, answer.text)
        if status != 200 or who == "user":
            assert "cat" not in answer.text, (who, path)
    site.hub.api("POST", "/users/admin")
    admin = log_in(site.hub, "admin", PASSWORD)
    page = site.hub.page("/metalhub/queue", admin)
    assert "bob" in page and "Small" in page and 'href="/hub/metalhub/queue"' in page
    assert "number 2 in the queue" in site.hub.page("/metalhub/sessions", admin)
    room = admin.get(f"{site.hub.url}/metalhub/room", timeout=10).json()
    assert (room["small"]["state"], room["small"]["waiting"], room["spare"]["state"], room["huge"]["state"]) == ("full", 2, "free", "none")
    page = admin.get(f"{site.hub.url}/spawn/admin?opt-profile=small", timeout=20).content.decode()
    assert "Leave the queue" in page and "Waiting for “Small”" in page
    assert "number 3 in the queue" in html.unescape(site.hub.page("/home", admin))
    events = admin.get(f"{site.hub.url}/api/users/admin/server/progress", timeout=10, stream=True, headers={"Referer": f"{site.hub.url}/home"})
    for line in events.iter_lines():
        if b'"queue":' in line:
            told = json.loads(line.partition(b":")[2])
            assert told["queue"]["position"] == 3 and told["queue"]["alternatives"] and told["message"] == told["queue"]["message"]
            break


def test_a_herd_waits_in_order_and_none_gets_an_error(site: Site) -> None:
    """All at once for one place; each goes as the one before ends."""
    users = [f"user{number:02}" for number in range(HERD)]
    for user in users:
        site.hub.api("POST", f"/users/{user}")
    with ThreadPoolExecutor(HERD) as pool:
        answers = list(pool.map(lambda user: site.start(user).status_code, users))
    assert set(answers) <= {201, 202}, answers
    eventually(lambda: len(site.queue()) == HERD - 1, 120)
    order = [row["user"] for row in site.queue()]
    assert len(site.engine.services) == 1 and site.engine.unplaced == 0  # type: ignore[attr-defined]
    site.engine.requests.clear()
    time.sleep(6)
    assert len(site.engine.requests) <= 16, "what the queue asks does not grow with those who wait"
    (first,) = set(users) - set(order)
    for before, user in zip([first, *order[:4]], order[:5], strict=True):
        eventually(lambda before=before: site.runs(before), 120)
        site.stop(before)
        eventually(lambda user=user: site.runs(user), 120)
    assert [row["user"] for row in site.queue()] == order[5:]
