"""Snapshots on a real hub with a fake storage: taken at a session's end, listed, restored, and who may do that."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml
from aiohttp import web
from conftest import Served
from metalhub_hub.core import snapshot_plan
from metalhub_hub.snapshots import WHY
from test_audit_hub import Site as Commanded
from test_hub import TOKEN, eventually
from world import world

READER, OPERATOR = "e" * 40, "f" * 40
NEVER = "20260131T180000Z-idle"


class FakeStorage:
    """The homes service as its docstring has it. ``refuse`` is a status for all that concerns snapshots, ``hold`` keeps restores waiting."""

    def __init__(self) -> None:
        self.keep, self.settle, self.refuse = 3, 0, 0
        self.hold = False
        self.homes: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.served = Served(self.handle)

    def add(self, home: str, cause: str) -> dict[str, Any]:
        had = self.homes[home]
        one = snapshot_plan.following([each["name"] for each in had], time.time(), cause)
        made = {"name": one.name, "at": one.at, "cause": cause, "used_bytes": 3 * 2**30, "own_bytes": 2**20}
        had.insert(0, made)
        return made

    async def handle(self, request: web.Request) -> web.StreamResponse:
        _, _, home, *below = request.path.split("/")
        what = below[0] if below else ""
        body = await request.json() if request.method == "PUT" else {}
        self.asked.append((request.method, request.path))
        if what and self.refuse:
            return web.json_response({"error": "this is what the storage says"}, status=self.refuse)
        if not what:
            self.homes.setdefault(home, [])
            return web.json_response({"home": home, "path": f"/srv/metalhub/homes/{home}", **body, "used_bytes": 0})
        if request.method == "GET":
            return web.json_response({"home": home, "keep": self.keep, "snapshots": self.homes.get(home, [])})
        if home not in self.homes:
            return web.json_response({"error": f"there is no home {home}"}, status=404)
        if what == "snapshots" and not self.keep:
            return web.json_response({"error": "no snapshots are kept here"}, status=501)
        if what == "snapshots":
            return web.json_response({**self.add(home, body["cause"]), "home": home, "retired": []})
        while self.hold:
            await asyncio.sleep(0.05)
        if body["snapshot"] not in [each["name"] for each in self.homes[home]]:
            return web.json_response({"error": f"{home} has no snapshot {body['snapshot']}"}, status=404)
        before = self.add(home, snapshot_plan.BEFORE_RESTORE)["name"]
        return web.json_response({"home": home, "restored": body["snapshot"], "before": before, "settle_seconds": self.settle})


class Site(Commanded):
    """A hub with its storage."""

    storage: FakeStorage

    def call(self, method: str, path: str, token: str = OPERATOR, **more: Any) -> requests.Response:
        return self.ask(token, f"/metalhub/api/users/{path}", method, **more)

    def listed(self, user: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"{user}/snapshots", READER).json()
        return found

    def causes(self, user: str) -> list[str]:
        return [one["cause"] for one in self.listed(user)["snapshots"]]

    def run(self, user: str, name: str = "", profile: str = "small") -> None:
        path = f"/users/{user}/servers/{name}" if name else f"/users/{user}/server"
        assert self.hub.api("POST", path, json={"profile": profile}).status_code in (201, 202)
        eventually(lambda: (self.hub.server(user, name) or {}).get("ready"))

    def stop(self, user: str, token: str = TOKEN) -> None:
        headers = {"Authorization": f"token {token}"}
        assert requests.delete(f"{self.hub.url}/api/users/{user}/server", headers=headers, timeout=30).ok
        eventually(lambda: self.hub.server(user) is None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    storage = FakeStorage()

    def edit(raw: dict[str, Any]) -> None:
        raw |= {"cull_every": "1s", "storage": {"url": f"http://127.0.0.1:{storage.served.port}"}}
        raw["session"]["stop_notice"] = "1s"
        raw["profiles"]["brief"] = raw["profiles"]["small"] | {"title": "Brief", "idle_stop": "2s", "default": False}

    def prepare(made: Site) -> None:
        made.storage = storage
        made.change(edit)
        made.service("reader", READER, "read:servers")
        made.service("operator", OPERATOR, "servers")
        made.mint()

    with storage.served, world(tmp_path_factory.mktemp("hub"), prepare, Site) as made:
        for name in ("ann", "bob", "cleo", "dan", "eli", "fay"):
            made.hub.api("POST", f"/users/{name}")
        yield made


@pytest.fixture(autouse=True)
def healthy(site: Site) -> Iterator[None]:
    yield
    site.storage.keep, site.storage.settle, site.storage.refuse, site.storage.hold = 3, 0, 0, False


@pytest.mark.parametrize(
    ("who", "method", "path", "status"),
    [
        ("nobody", "GET", "ann/snapshots", 403),
        ("nobody", "POST", "ann/snapshots", 403),
        ("nobody", "POST", f"ann/snapshots/{NEVER}/restore", 403),
        ("ann", "GET", "ann/snapshots", 200),
        ("ann", "POST", "ann/snapshots", 201),
        ("ann", "POST", f"ann/snapshots/{NEVER}/restore", 404),
        ("ann", "POST", "ann/snapshots/..%2Fbob/restore", 404),
        ("bob", "GET", "ann/snapshots", 404),
        ("bob", "POST", "ann/snapshots", 404),
        ("bob", "POST", f"ann/snapshots/{NEVER}/restore", 404),
        ("admin", "GET", "ann/snapshots", 200),
        ("admin", "POST", "ann/snapshots", 201),
        ("admin", "POST", f"ann/snapshots/{NEVER}/restore", 404),
        ("admin", "GET", "zoe/snapshots", 404),
        ("reader", "GET", "ann/snapshots", 200),
        ("reader", "POST", "ann/snapshots", 403),
        ("reader", "POST", f"ann/snapshots/{NEVER}/restore", 403),
        ("operator", "POST", "ann/snapshots", 201),
        ("session", "GET", "ann/snapshots", 403),
        ("session", "POST", "ann/snapshots", 403),
        ("session", "POST", f"ann/snapshots/{NEVER}/restore", 403),
    ],
)
def test_who_may_see_take_and_restore(site: Site, who: str, method: str, path: str, status: int) -> None:
    site.storage.homes.setdefault("ann", [])
    if who == "session":
        # What a session is given.
        scopes = ["users:activity!user", "access:servers!user"]
        given = str(site.hub.api("POST", "/users/ann/tokens", json={"scopes": scopes}).json()["token"])
    else:
        given = {"nobody": "", "reader": READER, "operator": OPERATOR}.get(who) or (site.token(who) if who != "nobody" else "")
    before = len(site.storage.asked)
    answer = site.call(method, path, given, **({"json": {}} if method == "POST" else {}))
    assert answer.status_code == status, answer.text
    if status == 403 or who == "bob":
        assert len(site.storage.asked) == before and "time" not in answer.text


def test_the_page_of_the_user_is_not_forged(site: Site) -> None:
    jar, address = site.cookies("admin"), f"{site.hub.url}/metalhub/api/users/admin/snapshots"
    site.storage.homes.setdefault("admin", [])
    page = site.hub.page("/home", jar)
    assert 'id="snapshots"' in page
    assert jar.post(address, json={}, timeout=10).status_code == 403
    forgery = page.split('xsrf_token: "')[1].split('"')[0]
    assert jar.post(address, json={}, headers={"X-XSRFToken": forgery}, timeout=10).status_code == 201


@pytest.mark.parametrize("body", [{"cause": "idle"}, [1], "x"])
def test_there_is_nothing_to_choose(site: Site, body: object) -> None:
    answer = site.call("POST", "ann/snapshots", json=body)
    assert answer.status_code == 400 and answer.json()["message"]


def test_an_idle_session_leaves_a_snapshot(site: Site) -> None:
    site.run("cleo", profile="brief")
    eventually(lambda: site.hub.server("cleo") is None)
    eventually(lambda: site.causes("cleo") == ["idle"])
    (found,) = site.listed("cleo")["snapshots"]
    assert found["why"] == WHY["idle"] and found["size"] == "3G" and found["time"].endswith("Z")
    (facts,) = site.found("snapshot.taken", user="cleo")
    assert (facts["cause"], facts["actor"], facts["snapshot"]) == ("idle", "hub", found["name"])
    # The files are at rest by then.
    assert not site.engine.services


def test_each_end_leaves_one_and_a_start_that_fails_none(site: Site) -> None:
    for asked, cause in ((site.token("dan"), "user"), (OPERATOR, "admin")):
        site.run("dan")
        site.stop("dan", asked)
        eventually(lambda cause=cause: site.causes("dan")[:1] == [cause])
    site.run("dan")
    for task in site.engine.tasks:
        task["Status"] |= {"State": "failed", "ContainerStatus": {"ContainerID": "x", "ExitCode": 137}}
    eventually(lambda: site.causes("dan") == ["memory", "admin", "user"])
    site.engine.fate = {"State": "rejected", "Err": "no such thing"}
    site.hub.api("POST", "/users/dan/server", json={})
    eventually(lambda: site.hub.server("dan") is None and not (site.hub.api("GET", "/users/dan").json()["pending"]))
    site.engine.fate = {"State": "running"}
    time.sleep(1)
    assert len(site.causes("dan")) == 3


@pytest.mark.parametrize("status", [500, 507])
def test_a_snapshot_that_fails_blocks_nothing_and_is_told(site: Site, status: int) -> None:
    site.run("eli")
    site.storage.refuse, before = status, len(site.found("snapshot.failed", user="eli"))
    site.stop("eli")
    eventually(lambda: len(site.found("snapshot.failed", user="eli")) > before)
    site.storage.refuse = 0
    missed = eventually(lambda: site.listed("eli")["missed"])
    assert missed.startswith("No snapshot could be taken when your last session ended. The storage ")
    assert ("too full (this is what the storage says); tell an administrator" in missed) == (status == 507)
    assert "this is what the storage says" in site.found("snapshot.failed", user="eli")[-1]["detail"]
    site.run("eli")
    site.stop("eli")
    eventually(lambda: site.listed("eli")["missed"] == "")


def test_a_home_is_restored_only_while_no_session_uses_it(site: Site) -> None:
    site.run("bob")
    site.run("bob", "two")
    name = site.call("POST", "bob/snapshots", json={}).json()["name"]
    address = f"bob/snapshots/{name}/restore"
    restored = lambda: [path for _, path in site.storage.asked if path == "/homes/bob/restore"]  # noqa: E731
    assert site.listed("bob")["busy"]
    for _ in range(2):
        answer = site.call("POST", address, json={})
        assert answer.status_code == 409 and "stop all sessions first" in answer.json()["message"]
        assert not restored()
        if site.hub.server("bob"):
            site.stop("bob")
    assert site.hub.api("DELETE", "/users/bob/servers/two").ok
    eventually(lambda: site.hub.server("bob", "two") is None)
    done = site.call("POST", address, json={})
    assert done.status_code == 200 and "kept as a snapshot" in done.json()["message"]
    assert len(restored()) == 1 and not site.listed("bob")["busy"]
    (facts,) = site.found("snapshot.restored", user="bob")
    assert (facts["actor"], facts["snapshot"], facts["before"]) == ("service:operator", name, done.json()["before"])
    assert site.causes("bob")[0] == snapshot_plan.BEFORE_RESTORE


@pytest.mark.parametrize("wait", ["under way", "settling"])
def test_a_start_waits_until_a_home_is_restored(site: Site, wait: str) -> None:
    site.storage.homes.setdefault("fay", [])
    name = site.call("POST", "fay/snapshots", json={}).json()["name"]
    site.storage.hold, site.storage.settle = wait == "under way", 3 if wait == "settling" else 0
    address = f"{site.hub.url}/metalhub/api/users/fay/snapshots/{name}/restore"
    with subprocess.Popen(["curl", "-sS", "-X", "POST", "-H", f"Authorization: token {OPERATOR}", address], stdout=subprocess.PIPE) as asking:
        eventually(lambda: ("PUT", "/homes/fay/restore") in site.storage.asked)
        if wait == "settling":
            asking.wait(10)
        site.storage.asked.clear()
        assert site.hub.spawn("fay").status_code in (201, 202)
        again = site.call("POST", f"fay/snapshots/{name}/restore", json={})
        assert again.status_code == 409 and "just now" in again.json()["message"]
        time.sleep(0.5)
        assert ("PUT", "/homes/fay") not in site.storage.asked
        site.storage.hold = False
        eventually(lambda: (site.hub.server("fay") or {}).get("ready"))
        assert ("PUT", "/homes/fay") in site.storage.asked
        assert asking.stdout and "kept as a snapshot" in asking.stdout.read().decode()
    site.stop("fay")


def test_a_restore_that_fails_is_told_and_leaves_the_home_open(site: Site) -> None:
    for status, code, words in ((500, 503, "does not answer"), (507, 503, "too full"), (409, 409, "tell an administrator")):
        site.storage.refuse = status
        answer = site.call("POST", f"cleo/snapshots/{NEVER}/restore", json={})
        assert answer.status_code == code and words in answer.json()["message"], answer.text
    site.storage.refuse = 0
    assert site.found("snapshot.failed", user="cleo", cause="restore")
    site.run("cleo")
    site.stop("cleo")


def test_where_none_are_kept_the_reason_is_said(site: Site) -> None:
    site.storage.keep = 0
    found = site.listed("ann")
    assert not found["offered"] and "an administrator has turned them off" in found["reason"]
    answer = site.call("POST", "ann/snapshots", json={})
    assert answer.status_code == 409 and "turned them off" in answer.json()["message"]
    site.run("ann")
    site.stop("ann")
    time.sleep(0.5)
    assert site.listed("ann")["missed"] == "" and not site.found("snapshot.failed", user="ann", cause="admin")


def test_the_command_line(site: Site) -> None:
    site.storage.homes["ann"] = []
    assert site.cli("snapshot", "list", "ann").stdout.split() == ["SNAPSHOT", "TAKEN", "SIZE", "ITS", "OWN", "CAUSE"]
    taken = json.loads(site.cli("snapshot", "take", "ann", "--json").stdout)
    assert taken["cause"] == "asked"
    assert taken["name"] in site.cli("snapshot", "list", "ann").stdout
    done = site.cli("snapshot", "restore", "ann", taken["name"])
    assert done.returncode == 0 and done.stdout.startswith(f"restored {taken['name']}; what was there until now is 2"), done
    (facts,) = site.found("snapshot.restored", user="ann")
    assert (facts["actor"], facts["operator"]) == ("service:metalhub-cli", "olga")
    for arguments, words in (
        (("list", "zoe"), "there is no user 'zoe'"),
        (("take", "zoe"), "there is no user 'zoe'"),
        (("restore", "ann", "yesterday"), "There is no such snapshot."),
        (("restore", "ann", NEVER), "has no snapshot"),
    ):
        done = site.cli("snapshot", *arguments)
        assert done.returncode == 1 and words in done.stderr, done
    site.storage.keep, site.storage.homes["ann"] = 0, []
    done = site.cli("snapshot", "list", "ann")
    assert done.returncode == 1 and "turned them off" in done.stderr


def test_without_a_storage_service_there_are_none(site: Site) -> None:
    """The last one: it starts the hub anew."""
    document = site.directory / "hub.yml"
    raw = yaml.safe_load(document.read_text())
    del raw["storage"]
    document.write_text(yaml.safe_dump(raw, sort_keys=False))
    site.hub.kill()
    site.hub.start()
    found = site.listed("ann")
    assert not found["offered"] and "does not manage" in found["reason"] and found["snapshots"] == []
    for path in ("ann/snapshots", f"ann/snapshots/{NEVER}/restore"):
        answer = site.call("POST", path, json={})
        assert answer.status_code == 409 and "does not manage" in answer.json()["message"]
