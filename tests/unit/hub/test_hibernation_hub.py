"""Hibernation on the real hub: who wakes a session by a visit and who does not, through its API, and across a killed hub."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from aiohttp import web
from conftest import FakeAgent, usage
from test_hub import PASSWORD, TOKEN, eventually, log_in, routes
from test_session_pages import OPERATOR, Site
from world import world

PAGE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
OLD_PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class Night(Site):
    """A hub with two users, a session of each, and an agent of their node."""

    agent: FakeAgent

    async def traefik(self, request: web.Request) -> web.Response:
        """What it says of a route is what stands in its file."""
        if "/services/" not in request.path:
            return await super().traefik(request)
        data = json.loads((self.directory / "routes.yml").read_text())
        found = data["http"].get("services", {}).get(request.path.rpartition("/")[2].removesuffix("@file"))
        return web.json_response(found or {}, status=200 if found else 404)

    def container(self, user: str, name: str = "") -> str:
        found = [task["Status"]["ContainerStatus"]["ContainerID"] for task in self.engine.tasks if self._is(task, user, name)]
        return str(found[-1])

    @staticmethod
    def _is(task: dict[str, Any], user: str, name: str) -> bool:
        labels = task["Spec"]["ContainerSpec"]["Labels"]
        return (labels["metalhub.user"], labels["metalhub.server"]) == (user, name)

    def paused(self, user: str, name: str = "") -> bool:
        return self.container(user, name) in self.engine.paused

    def post(self, user: str, act: str, name: str = "", token: str = OPERATOR) -> requests.Response:
        below = f"sessions/{name}" if name else "session"
        return self.ask(token, f"/metalhub/api/users/{user}/{below}/{act}", "POST")

    def led(self, user: str, name: str = "") -> str:
        """Where a session's route leads."""
        found = routes(self.hub)[f"/user/{user}/{name}/" if name else f"/user/{user}/"]
        return {f"http://127.0.0.1:{self.hub.port}": "hub", f"http://127.0.0.1:{self.engine.port}": "session"}[found]

    def visit(self, client: requests.Session, path: str, headers: dict[str, str], method: str = "GET") -> requests.Response:
        """A request for a session whose route leads to the hub, as a browser sends it on within the hub."""
        root = self.hub.url.removesuffix("/hub")
        for _ in range(3):
            answer = client.request(method, root + path, headers=headers, timeout=20, allow_redirects=False)
            place = urlsplit(answer.headers.get("Location", ""))
            path = place.path + (f"?{place.query}" if place.query else "")
            if not path.startswith("/hub/user/"):
                break
        return answer

    def told(self, user: str, name: str) -> list[tuple[str, str]]:
        """What became of a session, and the causes."""
        found = [event for event in self.events() if event["kind"].startswith("session.")]
        mine = [event for event in found if (event["facts"].get("user"), event["facts"].get("server")) == (user, name)]
        return [(event["kind"].removeprefix("session."), event["facts"].get("cause", "")) for event in mine]

    def asleep(self, user: str, name: str = "") -> None:
        answer = self.post(user, "hibernate", name)
        assert answer.status_code == 200, answer.text
        assert self.paused(user, name) and self.led(user, name) == "hub"

    def awake(self, user: str, name: str = "") -> None:
        assert self.post(user, "wake", name).status_code == 200
        assert not self.paused(user, name) and self.led(user, name) == "session"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> Iterator[Night]:
    agent = FakeAgent(pki, "127.0.0.1")

    def edit(raw: dict[str, Any]) -> None:
        raw |= {"agent_port": agent.port, "quotas": {"default": "sessions=9, workspace=10G"}}
        raw["engine"] |= {"ca": str(pki / "ca.crt"), "cert": str(pki / "hub-client.crt"), "key": str(pki / "hub-client.key"), "timeout": 3}
        raw["profiles"]["brief"] = raw["profiles"]["small"] | {"title": "Brief", "hibernate_after": "3s", "idle_stop": "12s", "default": False}

    def prepare(made: Night) -> None:
        made.agent = agent
        made.engine.nodes.pop()
        made.engine.nodes[0]["Description"]["Resources"] = {"NanoCPUs": 64 * 10**9, "MemoryBytes": 2**40}
        made.change(edit)
        made.configure("from metalhub_hub import agents", "agents.LOOK_EVERY = 1")
        made.configure("c.JupyterHub.load_roles += [{'name': 'scraper', 'services': ['test'], 'scopes': ['read:metrics']}]")

    with world(tmp_path_factory.mktemp("hub"), prepare, Night) as made:
        made.people()
        yield made
    agent.close()


@pytest.mark.parametrize("headers", [PAGE, OLD_PAGE], ids=["browser", "old browser"])
def test_opening_the_lab_wakes_it(night: Night, headers: dict[str, str]) -> None:
    night.asleep("ann")
    answer = night.visit(night.cookies("ann"), "/user/ann/lab/tree/a%20b.ipynb?reset", headers)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/user/ann/lab/tree/a%20b.ipynb?reset")
    assert not night.paused("ann") and night.led("ann") == "session", "it is there when the browser comes back"
    woken = night.audit("woken")[-1]
    assert (woken["cause"], woken["actor"], woken["user"]) == ("visit", "user:ann", "ann") and woken["seconds"] < 5
    hibernated = night.audit("hibernated")[-1]
    assert (hibernated["cause"], hibernated["actor"]) == ("admin", "service:operator")


POLLS = [
    ("GET", "/user/ann/api/kernels?1", {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}),
    ("GET", "/user/ann/api/kernels?1", {"Accept": "*/*"}),
    ("GET", "/user/ann/lab", {"Accept": "text/html", "X-Requested-With": "XMLHttpRequest"}),
    ("GET", "/user/ann/files/a.html", {**PAGE, "Sec-Fetch-Dest": "iframe"}),
    ("GET", "/user/ann/lab", {**PAGE, "Sec-Purpose": "prefetch;prerender"}),
    ("GET", "/user/ann/static/lab.js", {"Accept": "*/*", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}),
    ("GET", "/user/ann/api/kernels/1/channels", {**PAGE, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"}),
    ("PUT", "/user/ann/api/contents/a.ipynb", {"Accept": "*/*"}),
    ("POST", "/user/ann/api/kernels", {"Accept": "*/*"}),
    ("PATCH", "/user/ann/api/sessions/1", {"Accept": "*/*"}),
    ("DELETE", "/user/ann/api/kernels/1", {"Accept": "*/*"}),
]


@pytest.mark.parametrize(("method", "path", "headers"), POLLS)
def test_what_a_forgotten_tab_asks_wakes_nobody(night: Night, method: str, path: str, headers: dict[str, str]) -> None:
    night.asleep("ann")
    before = night.hub.server("ann")
    answer = night.visit(night.cookies("ann"), path, headers, method)
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert "hibernated" in answer.json()["message"]
    assert night.paused("ann") and night.hub.server("ann") == before, "and it is no activity"


@pytest.mark.parametrize("token", [True, False], ids=["token", "no cookie"])
def test_a_program_is_told_how_to_wake_it(night: Night, token: bool) -> None:
    night.asleep("ann")
    headers = {**OLD_PAGE, **({"Authorization": f"token {night.token('ann')}"} if token else {})}
    answer = night.visit(requests.Session(), "/user/ann/api/kernels", headers)
    if token:
        assert answer.status_code == 503 and "/hub/metalhub/api/users/ann/session/wake" in answer.json()["message"]
    else:
        assert answer.status_code == 302 and "/hub/login" in answer.headers["Location"]
    assert night.paused("ann")


def test_an_administrator_hibernates_and_wakes_from_the_page_of_all_sessions(night: Night) -> None:
    night.awake("ann")
    admin, headers = night.cookies("admin"), {**night.forgery("admin"), "Content-Type": "application/json"}

    def buttons(user: str = "ann") -> tuple[str, list[str]]:
        """The state in a session's row, and what its buttons do."""
        rows = re.findall(r'<tr data-user="([^"]*)" data-name="" data-state="([^"]*)"(.*?)</tr>', night.hub.page("/metalhub/sessions", admin), re.S)
        ((state, row),) = [(state, row) for name, state, row in rows if name == user]
        return state, re.findall(r'data-do="(\w+)"', row)

    def press(act: str) -> requests.Response:
        return admin.post(f"{night.hub.url}/metalhub/api/users/ann/session/{act}", data="{}", headers=headers, timeout=20)

    state, offered = buttons()
    assert state in ("running", "idle") and "hibernate" in offered and "wake" not in offered
    assert press("hibernate").status_code == 200 and night.paused("ann")
    state, offered = buttons()
    assert state == "hibernated" and "wake" in offered and "hibernate" not in offered
    assert press("wake").status_code == 200 and not night.paused("ann")
    assert "hibernate" in buttons()[1]
    assert [night.audit(kind)[-1]["actor"] for kind in ("hibernated", "woken")] == ["user:admin", "user:admin"]


VISITORS = [("nobody", 302, True), ("bob", 404, True), ("admin", 302, False), ("ann", 302, False)]


@pytest.mark.parametrize(("who", "status", "sleeps"), VISITORS)
def test_who_wakes_a_session_by_a_visit(night: Night, who: str, status: int, sleeps: bool) -> None:
    night.asleep("ann")
    client = requests.Session() if who == "nobody" else night.cookies(who)
    answer = night.visit(client, "/user/ann/lab", PAGE)
    assert (answer.status_code, night.paused("ann")) == (status, sleeps)
    if who == "nobody":
        assert "/hub/login" in answer.headers["Location"]
    night.awake("ann")


CASES = [
    ("nobody", "ann", "", 403),
    ("cookie ann", "ann", "", 200),
    ("cookie ann, forged", "ann", "", 403),
    ("cookie bob", "ann", "", 404),
    ("cookie admin", "ann", "", 200),
    ("token ann", "ann", "", 200),
    ("token bob", "ann", "", 404),
    ("token ann", "ann", "other", 404),
    ("token ann", "bob", "", 404),
    ("reader", "ann", "", 403),
    ("operator", "ann", "", 200),
    ("operator", "zoe", "", 404),
    ("wrong token", "ann", "", 403),
]


@pytest.mark.parametrize(("who", "user", "name", "status"), CASES)
@pytest.mark.parametrize("act", ["hibernate", "wake"])
def test_who_may_hibernate_and_wake(night: Night, act: str, who: str, user: str, name: str, status: int) -> None:
    (night.awake if act == "hibernate" else night.asleep)("ann")
    client, headers = night.caller(who)
    below = f"sessions/{name}" if name else "session"
    answer = client.post(f"{night.hub.url}/metalhub/api/users/{user}/{below}/{act}", headers=headers, timeout=20, allow_redirects=False)
    assert answer.status_code == status, answer.text
    assert night.paused("ann") == ((act == "hibernate") == (status == 200))
    if status == 200:
        assert answer.json()["state"] == ("hibernated" if act == "hibernate" else "running") and answer.json()["message"]
    else:
        assert "Small" not in answer.text


def test_the_tab_of_a_hibernated_session_wakes_it_with_its_ticket(night: Night) -> None:
    night.asleep("ann")
    where = f"{night.hub.url}/metalhub/notice/ann"
    ann, bob = night.cookies("ann"), night.cookies("bob")
    told = ann.get(where, timeout=10).json()
    assert (told["state"], told["does"]) == ("hibernated", "hibernated")
    other = bob.get(f"{night.hub.url}/metalhub/notice/bob", timeout=10).json()["ticket"]
    for client, ticket in ((ann, other), (ann, ""), (bob, told["ticket"])):
        assert client.post(where, data={"ticket": ticket, "wake": "1"}, timeout=10).status_code == 403
    assert night.paused("ann")
    done = ann.post(where, data={"ticket": told["ticket"], "wake": "1"}, timeout=10).json()
    assert (done["state"], done["message"]) == ("running", "The session is awake.") and not night.paused("ann")
    again = ann.post(where, data={"ticket": told["ticket"], "wake": "1"}, timeout=10)
    assert again.status_code == 200, "one that is awake stays it"


def test_what_cannot_be_is_said(night: Night) -> None:
    night.awake("ann")
    night.agent.why = "It holds 12 GiB, and this machine takes at most 10 GiB."
    answer = night.post("ann", "hibernate")
    assert (answer.status_code, answer.json()["message"]) == (409, night.agent.why)
    assert night.view("ann")["stays"] == night.agent.why
    night.agent.why = ""
    answer = night.post("ann", "hibernate", "nothing")
    assert answer.status_code == 404
    night.asleep("ann")
    night.engine.deaf.add("unpause")
    answer = night.visit(night.cookies("ann"), "/user/ann/lab", PAGE)
    assert answer.status_code == 503 and "did not wake it; try again in a minute" in answer.text
    night.engine.deaf.clear()
    assert night.paused("ann") and night.led("ann") == "hub"
    night.awake("ann")


def test_an_idle_session_is_hibernated_announced_and_stopped(night: Night) -> None:
    hub = night.hub
    hub.api("POST", "/users/bob/servers/brief", json={"profile": "brief"})
    eventually(lambda: (hub.server("bob", "brief") or {}).get("ready"))
    eventually(lambda: night.paused("bob", "brief"), 20)
    assert night.led("bob", "brief") == "hub"
    container = night.container("bob", "brief")
    eventually(lambda: not hub.server("bob", "brief"), 40)
    assert night.told("bob", "brief") == [("queued", ""), ("running", ""), ("hibernated", "idle"), ("warned", "idle"), ("stopped", "idle")]
    acts = [line.rpartition("/")[2] for line in night.engine.requests if f"/{container}/" in line]
    assert acts[-2:] == ["unpause", "stop"], "it gets the chance to end by itself"


def test_a_restarted_hub_keeps_it_asleep_and_a_visit_wakes_it(night: Night) -> None:
    night.asleep("bob")
    services = set(night.engine.services)
    night.hub.kill()
    # What a hub that is killed in the middle leaves: the route still leads to the session.
    file = night.hub.directory / "routes.yml"
    data = json.loads(file.read_text())
    (route,) = [route for route in data["jupyterhub"]["routes"].values() if route["routespec"] == "/user/bob/"]
    route["target"] = route["data"].pop("asleep")
    data["http"]["services"][route["service"]]["loadBalancer"]["servers"] = [{"url": route["target"]}]
    file.write_text(json.dumps(data))
    night.hub.start()
    eventually(lambda: (night.hub.server("bob") or {}).get("ready"))
    eventually(lambda: night.led("bob") == "hub")
    assert night.paused("bob") and night.view("bob")["state"] == "hibernated"
    time.sleep(4)
    assert set(night.engine.services) == services and night.hub.server("bob"), "one that stands still is not dead"
    answer = night.visit(log_in(night.hub, "bob", PASSWORD), "/user/bob/lab", PAGE)
    assert answer.status_code == 302 and not night.paused("bob") and night.led("bob") == "session"


def test_a_hub_killed_between_the_steps_learns_it_from_the_agent(night: Night) -> None:
    name = night.engine.tasks[0]["Spec"]["ContainerSpec"]["Labels"]["metalhub.session"]
    night.awake("ann")
    night.engine.paused.add(night.container("ann"))
    night.agent.sessions = {name: usage(name, "frozen", container=night.container("ann"))}
    eventually(lambda: night.view("ann")["state"] == "hibernated")
    assert eventually(lambda: night.led("ann") == "hub") and night.audit("hibernated")[-1]["cause"] == "found"
    night.engine.paused.discard(night.container("ann"))
    night.agent.sessions = {name: usage(name, "running", container=night.container("ann"))}
    eventually(lambda: night.view("ann")["state"] in ("running", "idle"))
    assert eventually(lambda: night.led("ann") == "session") and night.audit("woken")[-1]["cause"] == "found"
    night.agent.sessions = {}


def test_the_command_line(night: Night) -> None:
    def cli(*arguments: str) -> tuple[int, str]:
        done = night.cli("session", *arguments)
        return done.returncode, done.stdout + done.stderr

    night.awake("ann")
    assert cli("hibernate", "ann") == (0, "The session is hibernated. Whoever opens it wakes it.\n")
    assert night.paused("ann") and "hibernated" in cli("show", "ann")[1]
    facts = night.audit("hibernated")[-1]
    assert (facts["cause"], facts["actor"], facts["operator"]) == ("admin", "service:metalhub-cli", "olga")
    assert cli("wake", "ann") == (0, "The session is awake.\n") and not night.paused("ann")
    night.agent.why = "It is larger than this machine takes."
    code, words = cli("hibernate", "ann")
    assert code == 1 and night.agent.why.rstrip(".") in words
    night.agent.why = ""
    assert cli("wake", "ann/nothing")[0] == 1


def test_the_metrics_and_the_log(night: Night) -> None:
    night.asleep("ann")
    night.awake("ann")
    log = (night.hub.directory / "hub.log").read_text()
    assert re.search(r"is awake \(admin\) after \d+\.\d{3} s: unpaused=\d+\.\d{3} route=\d+\.\d{3}", log)
    text = night.ask(TOKEN, "/metrics").text
    for act in ("hibernate", "wake"):
        assert f'metalhub_hibernation_seconds_count{{act="{act}"}}' in text
        assert f'metalhub_hibernation_failures_total{{act="{act}"}}' in text


def test_a_node_that_is_lost_takes_its_hibernated_session(night: Night) -> None:
    night.asleep("bob")
    night.engine.nodes[0]["Status"]["State"] = "down"
    eventually(lambda: not night.hub.server("bob"))
    assert night.audit("stopped")[-1]["cause"] == "lost"
    answer = night.visit(log_in(night.hub, "bob", PASSWORD), "/user/bob/lab", PAGE)
    assert answer.status_code == 424 and "stopped answering" in answer.text
