"""Sessions on the real hub: who sees and touches them, their end with its cause in words, and what a killed hub knows."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from test_audit_hub import Site as Commanded
from test_hub import eventually
from world import world

READER, OPERATOR = "f" * 40, "e" * 40


class Site(Commanded):
    """A hub with two users and a session of each."""

    def __init__(self, directory: Path, traefik: int) -> None:
        super().__init__(directory, traefik)
        self.change(lambda raw: raw.update(cull_every="1s"))
        self.change(lambda raw: raw["session"].update(stop_notice="2s"))
        self.service("reader", READER, "read:servers")
        self.service("operator", OPERATOR, "servers")
        self.mint()

    def people(self) -> None:
        """Have the users and their sessions."""
        for name in ("ann", "bob"):
            self.hub.api("POST", f"/users/{name}")
            self.sign_up(name)
            self.approve(name)
            self.running(name, profile="small")

    def caller(self, who: str) -> tuple[requests.Session, dict[str, str]]:
        """Whoever a line of a table names, as a client and its headers."""
        client, headers = requests.Session(), {"Content-Type": "application/json"}
        kind, _, name = who.partition(" ")
        if kind == "cookie":
            name, _, forged = name.partition(", ")
            client = self.cookies(name)
            headers |= {} if forged else self.forgery(name)
        elif kind == "token":
            headers["Authorization"] = f"token {self.token(name)}"
        elif kind != "nobody":
            headers["Authorization"] = "token " + {"reader": READER, "operator": OPERATOR}.get(kind, "0" * 40)
        return client, headers

    def audit(self, state: str) -> list[dict[str, Any]]:
        return [{**event["facts"], "at": event["at"]} for event in self.events() if event["kind"] == f"session.{state}"]

    def view(self, user: str) -> dict[str, Any]:
        answer = self.ask(READER, f"/metalhub/api/users/{user}/sessions")
        found: dict[str, Any] = next(session for session in answer.json()["sessions"] if session["name"] == "")
        return found


def prepare(made: Site) -> None:
    def edit(raw: dict[str, Any]) -> None:
        raw["profiles"]["small"] |= {"extension": "90m"}
        raw["profiles"]["brief"] = raw["profiles"]["small"] | {"title": "Brief", "idle_stop": "4s", "default": False, "extension": "0s"}

    made.change(edit)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with world(tmp_path_factory.mktemp("hub"), prepare, Site) as made:
        made.people()
        yield made


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
    client, headers = site.caller(who)
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
