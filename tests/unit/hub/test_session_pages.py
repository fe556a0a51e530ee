"""Sessions on the real hub: who sees and touches them, their end with its cause in words, and what a killed hub knows."""

from __future__ import annotations

import html
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from aiohttp import web
from conftest import FakeEngine, FakeSession, Served
from test_hub import PASSWORD, TOKEN, Hub, eventually, log_in

READER, OPERATOR = "d" * 40, "e" * 40
Act = Callable[[], Any]


class Site:
    """A hub with two users and a session of each, and the ways to come in."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.jars: dict[str, requests.Session] = {}

    def cookies(self, name: str) -> requests.Session:
        if name not in self.jars:
            self.jars[name] = log_in(self.hub, name, PASSWORD)
        return self.jars[name]

    def token(self, name: str) -> str:
        made = self.hub.api("POST", f"/users/{name}/tokens", json={"note": "test"})
        return str(made.json()["token"])

    def forgery(self, name: str) -> dict[str, str]:
        page = self.cookies(name).get(f"{self.hub.url}/home", timeout=10).text
        return {"X-XSRFToken": page.split('xsrf_token: "')[1].split('"')[0]}

    def audit(self, state: str) -> list[dict[str, Any]]:
        lines = (self.hub.directory / "audit.jsonl").read_text().splitlines()
        events = [event for event in map(json.loads, lines) if event["kind"] == f"session.{state}"]
        return [{**event["facts"], "at": event["at"]} for event in events]

    def view(self, user: str) -> dict[str, Any]:
        headers = {"Authorization": f"token {READER}"}
        answer = requests.get(f"{self.hub.url}/metalhub/api/users/{user}/sessions", headers=headers, timeout=10)
        found: dict[str, Any] = next(session for session in answer.json()["sessions"] if session["name"] == "")
        return found


@pytest.fixture(scope="module")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def site(module_path: Path) -> Iterator[Site]:
    async def traefik(request: web.Request) -> web.Response:
        return web.json_response({"status": "enabled"})

    engine, session = FakeEngine(str(module_path / "engine.sock")), FakeSession()
    with engine.served, session.served, Served(traefik) as served:
        engine.port = session.served.port
        hub = Hub(module_path, served.port)
        raw = yaml.safe_load((module_path / "hub.yml").read_text())
        raw["cull_every"] = "1s"
        raw["session"]["stop_notice"] = "2s"
        raw["profiles"]["small"] |= {"extension": "90m"}
        raw["profiles"]["brief"] = raw["profiles"]["small"] | {"title": "Brief", "idle_stop": "4s", "default": False, "extension": "0s"}
        (module_path / "hub.yml").write_text(yaml.safe_dump(raw, sort_keys=False))
        config = module_path / "config.py"
        config.write_text(
            config.read_text()
            .replace("'admin:groups']}]", "'admin:groups', 'tokens', 'admin:users', 'read:roles']}, ROLES]")
            .replace("ROLES", "{'name': 'reader', 'services': ['reader'], 'scopes': ['read:servers']}, "
                     "{'name': 'operator', 'services': ['operator'], 'scopes': ['servers']}")
            .replace("'api_token': '" + TOKEN + "'}]", "'api_token': '" + TOKEN + "'}, "
                     f"{{'name': 'reader', 'api_token': '{READER}'}}, {{'name': 'operator', 'api_token': '{OPERATOR}'}}]")
        )  # fmt: skip
        hub.start()
        for name in ("ann", "bob"):
            hub.api("POST", f"/users/{name}")
            jar = requests.Session()
            token = jar.get(f"{hub.url}/signup", timeout=10).text.split('name="_xsrf" value="')[1].split('"')[0]
            fields = {"username": name, "signup_password": PASSWORD, "signup_password_confirmation": PASSWORD, "_xsrf": token}
            jar.post(f"{hub.url}/signup", data=fields, timeout=10)
        one = Site(hub)
        for name in ("ann", "bob"):
            one.cookies("admin").get(f"{hub.url}/authorize/{name}", headers={"Sec-Fetch-Site": "same-origin"}, timeout=10)
            assert hub.spawn(name, profile="small").status_code in (201, 202)
            eventually(lambda name=name: (hub.server(name) or {}).get("ready"))
        yield one
        if hub.process and hub.process.poll() is None:
            hub.kill(signal.SIGTERM)


CASES = [
    # who, method, path, status
    ("nobody", "GET", "api/users/ann/sessions", 403),
    ("cookie ann", "GET", "api/users/ann/sessions", 200),
    ("cookie bob", "GET", "api/users/ann/sessions", 404),
    ("cookie admin", "GET", "api/users/ann/sessions", 200),
    ("token ann", "GET", "api/users/ann/sessions", 200),
    ("token bob", "GET", "api/users/ann/sessions", 404),
    ("reader", "GET", "api/users/ann/sessions", 200),
    ("reader", "GET", "api/users/zoe/sessions", 404),
    ("wrong token", "GET", "api/users/ann/sessions", 403),
    ("nobody", "POST", "api/users/ann/session/extend", 403),
    ("cookie ann", "POST", "api/users/ann/session/extend", 200),
    ("cookie ann, forged", "POST", "api/users/ann/session/extend", 403),
    ("cookie bob", "POST", "api/users/ann/session/extend", 404),
    ("token bob", "POST", "api/users/ann/session/extend", 404),
    ("token bob", "POST", "api/users/ann/sessions/other/extend", 404),
    ("token ann", "POST", "api/users/ann/sessions/other/extend", 404),
    ("reader", "POST", "api/users/ann/session/extend", 403),
    ("operator", "POST", "api/users/bob/session/extend", 200),
    ("nobody", "GET", "notice/ann", 403),
    ("cookie ann", "GET", "notice/ann", 200),
    ("cookie bob", "GET", "notice/ann", 403),
    ("cookie admin", "GET", "notice/ann", 403),
    ("token ann", "GET", "notice/ann", 403),
    ("reader", "GET", "notice/ann", 403),
    ("cookie ann", "GET", "notice/ann/other", 404),
    ("cookie ann", "POST", "notice/ann", 403),
    ("cookie bob", "POST", "notice/ann", 403),
]


@pytest.mark.parametrize(("who", "method", "path", "status"), CASES)
def test_who_may_see_and_touch_what(site: Site, who: str, method: str, path: str, status: int) -> None:
    client, headers = requests.Session(), {"Content-Type": "application/json"}
    kind, _, name = who.partition(" ")
    if kind == "cookie":
        name, _, forged = name.partition(", ")
        client = site.cookies(name)
        headers |= {} if forged else site.forgery(name)
    elif kind == "token":
        headers["Authorization"] = f"token {site.token(name)}"
    elif kind != "nobody":
        headers["Authorization"] = "token " + {"reader": READER, "operator": OPERATOR}.get(kind, "f" * 40)
    data = json.dumps({"by": "1m"}) if method == "POST" and "notice" not in path else None
    answer = client.request(method, f"{site.hub.url}/metalhub/{path}", data=data, headers=headers, timeout=10, allow_redirects=False)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert "Small" not in answer.text and "extended" not in answer.text


def test_a_session_says_what_comes_next_and_a_ticket_extends_it(site: Site) -> None:
    ann, bob = site.cookies("ann"), site.cookies("bob")
    where = f"{site.hub.url}/metalhub/notice"
    told = ann.get(f"{where}/ann", timeout=10).json()
    assert (told["state"], told["next"], told["does"]) in [("running", "stop", "running"), ("idle", "stop", "idle for 1 minute")]
    before = told["extension_left"]
    other = bob.get(f"{where}/bob", timeout=10).json()["ticket"]
    assert ann.post(f"{where}/ann", data={"ticket": other}, timeout=10).status_code == 403
    done = ann.post(f"{where}/ann", data={"ticket": told["ticket"]}, timeout=10).json()
    assert done["message"] == "The session was extended by 1 hour." and done["extended"] == 3600
    assert done["extension_left"] == before - 3600 and done["left"] > 3500
    ann.post(f"{where}/ann", data={"ticket": told["ticket"]}, timeout=10)
    refused = ann.post(f"{where}/ann", data={"ticket": told["ticket"]}, timeout=10)
    assert refused.status_code == 409 and "used up" in refused.json()["message"]
    assert site.audit("extended")[-1]["actor"] == "user:ann"


@pytest.mark.parametrize("body", ['{"by": 30}', '{"by": "soon"}', '{"by": "0s"}', '{"for": "1h"}', "[1]", '"1h"', "{"])
def test_bad_input_extends_nothing(site: Site, body: str) -> None:
    before = site.view("bob")["extension_left"]
    headers = {"Authorization": f"token {OPERATOR}"}
    answer = requests.post(f"{site.hub.url}/metalhub/api/users/bob/session/extend", data=body, headers=headers, timeout=10)
    assert answer.status_code == 400 and answer.json()["message"]
    assert site.view("bob")["extension_left"] == before


def test_an_idle_session_is_announced_stopped_and_told_in_words(site: Site) -> None:
    hub, headers = site.hub, {"Authorization": f"token {OPERATOR}"}
    assert hub.api("POST", "/users/bob/servers/brief", json={"profile": "brief"}).status_code in (201, 202)
    eventually(lambda: hub.server("bob", "brief"))
    answer = requests.post(f"{hub.url}/metalhub/api/users/bob/sessions/brief/extend", headers=headers, timeout=10)
    assert answer.status_code == 409 and "cannot be extended" in answer.json()["message"]
    eventually(lambda: not hub.server("bob", "brief"), 20)
    (warned,) = [line for line in site.audit("warned") if line["server"] == "brief"]
    (ended,) = [line for line in site.audit("stopped") if line["server"] == "brief"]
    assert (warned["cause"], ended["cause"], ended["actor"]) == ("idle", "idle", "hub") and warned["at"] < ended["at"]
    page = html.unescape(hub.page("/home", site.cookies("bob")))
    assert "stopped because nothing ran in it for 4 seconds" in page


def test_who_stops_a_session_knows_why(site: Site) -> None:
    tokens = {"user": site.token("ann"), "admin": OPERATOR}
    for cause, token in tokens.items():
        site.hub.api("POST", f"/users/ann/servers/{cause}", json={"profile": "small"})
        eventually(lambda name=cause: (site.hub.server("ann", name) or {}).get("ready"))
        headers = {"Authorization": f"token {token}"}
        requests.delete(f"{site.hub.url}/api/users/ann/servers/{cause}", headers=headers, timeout=10)
        ended = eventually(lambda name=cause: [line for line in site.audit("stopped") if line["server"] == name])
        assert [line["cause"] for line in ended] == [cause]


def test_a_killed_hub_keeps_what_was_extended(site: Site) -> None:
    headers = {"Authorization": f"token {OPERATOR}"}
    requests.post(f"{site.hub.url}/metalhub/api/users/bob/session/extend", json={"by": "10m"}, headers=headers, timeout=10)
    before = site.view("bob")
    site.hub.kill()
    time.sleep(1)
    site.hub.start()
    eventually(lambda: (site.hub.server("bob") or {}).get("ready"))
    after = eventually(lambda: (view := site.view("bob")).get("known") and view)
    assert after["extension_left"] == before["extension_left"] < 5400
    assert before["left"] - 15 <= after["left"] <= before["left"]
