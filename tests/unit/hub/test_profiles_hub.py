"""Profiles at runtime and requests for them, on the real hub: who may do what, what a start obeys, and what a killed hub knows."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from test_audit_hub import Site as Commanded
from test_hub import PASSWORD, eventually, log_in
from world import CLI_TOKEN, world

NOBODY, BOB, ANN = "e" * 40, "bob", "ann"
API = "/metalhub/api/profiles"
LARGE = {"title": "Large", "image": "lab", "flavor": "small", "pool": "cpu", "egress": "internal"}


class Site(Commanded):
    """A hub with profiles that need an approval, and two users."""

    def __init__(self, directory: Path, traefik: int) -> None:
        super().__init__(directory, traefik)
        self.tokens = {"": "", "cli": CLI_TOKEN, "nobody": NOBODY}
        self.change(self.fill)
        self.service("nobody", NOBODY)
        self.mint()

    @staticmethod
    def fill(raw: dict[str, Any]) -> None:
        raw["time_zone"] = "Europe/Berlin"
        raw["profiles"]["guarded"] = raw["profiles"]["small"] | {"title": "Guarded", "default": False, "approval": True}
        raw["profiles"]["secret"] = raw["profiles"]["guarded"] | {"title": "Secret", "groups": ["clinical"]}
        raw["profiles"]["small"] |= {"max_session": "8h", "idle_stop": "30m"}

    def restart(self) -> None:
        self.hub.kill()
        self.hub.start()

    def by(self, who: str, method: str, path: str, **arguments: Any) -> requests.Response:
        """A request of one of those who have tokens; "" has none."""
        return self.ask(self.tokens[who], path, method, **arguments)

    def fields(self, name: str) -> dict[str, Any]:
        return dict(self.by("cli", "GET", f"{API}/{name}").json()["fields"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with world(tmp_path_factory.mktemp("hub"), kind=Site) as made:
        for name in (ANN, BOB):
            made.hub.api("POST", f"/users/{name}")
            made.tokens[name] = made.token(name)
        made.hub.api("POST", "/groups/clinical", json={"users": ["ann"]})
        made.hub.api("POST", "/groups/clinical/users", json={"users": ["ann"]})
        made.by("cli", "POST", API, json={**LARGE, "name": "made"})
        yield made


@pytest.fixture(scope="module")
def admin(site: Site) -> requests.Session:
    return log_in(site.hub, "admin", PASSWORD)


CASES = [
    # who, method, path, body, status
    ("", "GET", API, None, 403),
    ("", "POST", API, {}, 403),
    ("", "GET", f"{API}/small", None, 403),
    ("", "PUT", f"{API}/small", {}, 403),
    ("", "PATCH", f"{API}/small", {}, 403),
    ("", "DELETE", f"{API}/made", None, 403),
    ("", "POST", f"{API}-converge", {}, 403),
    ("", "GET", "/metalhub/api/profile-requests", None, 403),
    ("", "PUT", "/metalhub/api/profile-requests/bob/guarded", {"decision": "approve"}, 403),
    ("", "POST", "/metalhub/api/users/bob/profile-requests", {"profile": "guarded"}, 403),
    ("", "GET", "/metalhub/requests", None, 302),
    (BOB, "GET", API, None, 403),
    (BOB, "POST", API, {**LARGE, "name": "mine"}, 403),
    (BOB, "GET", f"{API}/small", None, 403),
    (BOB, "PUT", f"{API}/small", {}, 403),
    (BOB, "PATCH", f"{API}/small", {"groups": []}, 403),
    (BOB, "DELETE", f"{API}/made", None, 403),
    (BOB, "POST", f"{API}-converge", {}, 403),
    (BOB, "GET", "/metalhub/api/profile-requests", None, 403),
    (BOB, "PUT", "/metalhub/api/profile-requests/bob/guarded", {"decision": "approve"}, 403),
    (BOB, "POST", "/metalhub/api/users/ann/profile-requests", {"profile": "guarded"}, 404),
    (BOB, "POST", "/metalhub/api/users/bob/profile-requests", {"profile": "secret"}, 404),
    (BOB, "GET", "/metalhub/requests", None, 302),
    ("nobody", "GET", API, None, 403),
    ("nobody", "PATCH", f"{API}/small", {"groups": []}, 403),
    ("nobody", "PUT", "/metalhub/api/profile-requests/bob/guarded", {"decision": "approve"}, 403),
    ("nobody", "POST", "/metalhub/api/users/bob/profile-requests", {"profile": "guarded"}, 403),
    # It decides for others, and does not ask in their name.
    ("cli", "POST", "/metalhub/api/users/bob/profile-requests", {"profile": "guarded"}, 403),
    ("cli", "GET", API, None, 200),
    ("cli", "GET", f"{API}/small", None, 200),
    ("cli", "GET", f"{API}/none", None, 404),
    ("cli", "PATCH", f"{API}/none", {"title": "x"}, 404),
    ("cli", "DELETE", f"{API}/none", None, 404),
    ("cli", "DELETE", f"{API}/small", None, 409),
    ("cli", "POST", API, {**LARGE, "title": "Other", "name": "small"}, 409),
    ("cli", "GET", "/metalhub/api/profile-requests", None, 200),
    ("cli", "PUT", "/metalhub/api/profile-requests/zoe/guarded", {"decision": "approve"}, 404),
    ("cli", "PUT", "/metalhub/api/profile-requests/bob/none", {"decision": "approve"}, 404),
    ("cli", "GET", "/metalhub/requests", None, 302),
]


@pytest.mark.parametrize(("who", "method", "path", "body", "status"), CASES)
def test_who_may_see_and_change_what(site: Site, who: str, method: str, path: str, body: Any, status: int) -> None:
    before = (site.directory / "profiles.json").read_bytes()
    answer = site.by(who, method, path, json=body)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert "Small" not in answer.text and "Secret" not in answer.text
        assert (site.directory / "profiles.json").read_bytes() == before and not (site.directory / "approvals.json").exists()


def test_a_page_of_another_site_changes_nothing(site: Site, admin: requests.Session) -> None:
    for method, path, body in (
        ("PATCH", f"{API}/small", {"max_session": "9h"}),
        ("PUT", "/metalhub/api/profile-requests/bob/guarded", {"decision": "approve"}),
    ):
        forged = admin.request(method, f"{site.hub.url}{path}", json=body, timeout=10)
        assert forged.status_code == 403 and "_xsrf" in forged.json()["message"]
    assert site.fields("small")["max_session"] == "8h"


BAD = [
    # method, name, fields, words
    ("PATCH", "small", {"max_session": "8"}, ["profiles.small.max_session", "'8'", "not a duration", "30m"]),
    ("PATCH", "small", {"max_session": 8}, ["profiles.small.max_session", "8", "found a number"]),
    ("PATCH", "small", {"flavor": "smal"}, ["profiles.small.flavor", "'smal'", "Did you mean small?", "slice, small"]),
    ("PATCH", "small", {"image": "nope"}, ["profiles.small.image", "'nope'", "gone, lab"]),
    ("PATCH", "small", {"pool": "fast"}, ["profiles.small.pool", "'fast'", "cpu, gpu"]),
    ("PATCH", "small", {"egress": "open"}, ["profiles.small.egress", "'open'", "internal, packages"]),
    ("PATCH", "small", {"flavor": "slice"}, ["profiles.small.flavor", "MIG", "sandbox: nvidia"]),
    ("PATCH", "small", {"approval": "yes"}, ["profiles.small.approval", "'yes'", "true, false"]),
    ("PATCH", "small", {"groups": "research"}, ["profiles.small.groups", "'research'", "wanted a list"]),
    ("PATCH", "small", {"groups": [1]}, ["profiles.small.groups[0]", "1", "wanted text"]),
    ("PATCH", "small", {"environment": {"A-B": "1"}}, ["profiles.small.environment", "'A-B'", "no digit first"]),
    ("PATCH", "small", {"environment": {"A": 1}}, ["profiles.small.environment.A", "1", "text in quotes"]),
    ("PATCH", "small", {"startup": ["a", 1]}, ["profiles.small.startup", "text", "16 KiB"]),
    ("PATCH", "small", {"startup": "x" * 20000}, ["profiles.small.startup", "20000 bytes", "16 KiB"]),
    ("PATCH", "small", {"title": "\ud800"}, ["profiles.small", "no Unicode"]),
    ("PATCH", "small", {"title": "Slice"}, ["profiles.small.title", "'Slice'", "slice has the same title"]),
    ("PATCH", "small", {"colour": "100% blue"}, ["profiles.small.colour", "'100% blue'", "no such key"]),
    ("PATCH", "small", {"colour": None}, ["profiles.small.colour", "no such key"]),
    ("PATCH", "slice", {"default": True}, ["profiles.slice.default", "small is the default", "default: false on small"]),
    ("PATCH", "made", {"image": None}, ["profiles.made.image", "value is needed"]),
    ("PUT", "made", {}, ["profiles.made.image", "profiles.made.flavor", "profiles.made.pool", "profiles.made.egress"]),
    ("PUT", "Made!", LARGE, ["'Made!'", "not a name", "a-z, 0-9"]),
    ("PATCH", "small", ["a"], ["JSON object"]),
    ("PATCH", "small", {"description": "x" * 70000}, ["profiles.small", "64 KiB"]),
]


@pytest.mark.parametrize(("method", "name", "body", "words"), BAD)
def test_a_bad_value_has_one_message_and_changes_nothing(site: Site, method: str, name: str, body: Any, words: list[str]) -> None:
    before = (site.directory / "profiles.json").read_bytes(), site.by("cli", "GET", API).json()
    answer = site.by("cli", method, f"{API}/{name}", data=json.dumps(body))
    assert answer.status_code == 400, answer.text
    message = answer.json()["message"]
    assert "\n" not in message and all(word in message for word in words), message
    assert before == ((site.directory / "profiles.json").read_bytes(), site.by("cli", "GET", API).json())


def test_a_change_holds_at_once_for_new_starts_and_outlives_a_killed_hub(site: Site) -> None:
    changed = site.by("cli", "PATCH", f"{API}/small", json={"max_session": "10h", "environment": {"SITE": "here"}, "startup": ["echo hi"]})
    assert changed.status_code == 200
    (own,) = [each for each in changed.json()["changes"] if each["field"] == "max_session"]
    assert (own["by"], own["inventory"], own["stays"]) == ("metalhub-cli", "8h", False)
    assert {each["field"]: each["stays"] for each in changed.json()["changes"]} == {"environment": True, "max_session": False, "startup": True}
    site.hub.spawn(ANN, profile="small")
    (service,) = site.engine.services.values()
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert {"SITE=here", "METALHUB_STARTUP=echo hi"} <= set(container["Env"]) and container["Args"][0] == "/bin/sh"
    eventually(lambda: (site.hub.server(ANN) or {}).get("ready"))
    (told,) = site.found("profile.changed", profile="small")
    assert told["set"] == {"max_session": "10h"} and told["also"] == ["environment", "startup"] and told["actor"] == "service:metalhub-cli"
    site.restart()
    assert site.fields("small")["max_session"] == "10h" and site.found("profile.converged") == []
    # Limits are read live, by sessions that run, too.
    view = site.by(ANN, "GET", "/metalhub/api/users/ann/sessions")
    before = eventually(lambda: site.by(ANN, "GET", "/metalhub/api/users/ann/sessions").json()["sessions"][0].get("left"))
    assert view.ok and before > 0
    site.by("cli", "PATCH", f"{API}/small", json={"idle_stop": "0s", "max_session": "1h"})
    eventually(lambda: site.by(ANN, "GET", "/metalhub/api/users/ann/sessions").json()["sessions"][0].get("left", 9999) <= 3600)
    site.hub.api("DELETE", "/users/ann/server")
    eventually(lambda: not site.engine.services)


def test_a_profile_made_at_runtime_is_there_until_it_is_deleted(site: Site) -> None:
    made = site.by("cli", "POST", API, json={**LARGE, "name": "brief", "title": "Brief", "max_session": "1h", "idle_stop": "2h"})
    assert made.status_code == 201 and "before it can be idle that long" in made.json()["doubts"][0]
    assert site.by("cli", "POST", API, json={**LARGE, "name": "brief", "title": "Brief 2"}).status_code == 409
    site.hub.spawn(ANN, profile="brief")
    eventually(lambda: (site.hub.server(ANN) or {}).get("ready"))
    refused = site.by("cli", "DELETE", f"{API}/brief")
    assert refused.status_code == 409 and "Sessions of brief run: ann" in refused.json()["message"]
    site.hub.api("DELETE", "/users/ann/server")
    eventually(lambda: site.hub.server(ANN) is None)
    assert site.by("cli", "DELETE", f"{API}/brief").status_code == 204
    refused = site.hub.spawn(ANN, profile="brief")
    assert refused.status_code == 403 and "no profile 'brief'" in refused.json()["message"]
    assert len(site.found("profile.created", profile="brief")) == len(site.found("profile.deleted", profile="brief")) == 1


def change_on(site: Site, asked: list[int], answered: list[int]) -> None:
    """Change a profile again and again, until the hub is gone."""
    with contextlib.suppress(requests.RequestException):
        for number in range(1, 10_000):
            asked.append(number)
            site.by("cli", "PATCH", f"{API}/made", json={"max_session": f"{number}m"}).raise_for_status()
            answered.append(number)


@pytest.mark.parametrize("later", [0.0, 0.01])
def test_a_hub_killed_at_a_write_knows_what_it_had_answered(site: Site, later: float) -> None:
    asked: list[int] = []
    answered: list[int] = []
    thread = threading.Thread(target=change_on, args=(site, asked, answered))
    thread.start()
    eventually(lambda: len(answered) > 3)
    time.sleep(later)
    site.hub.kill()
    thread.join(30)
    site.hub.start()
    now = int(site.fields("made")["max_session"][:-1])
    assert answered[-1] <= now <= asked[-1], (answered[-1], now, asked[-1])


def test_who_is_not_approved_starts_nothing_whichever_way(site: Site, admin: requests.Session) -> None:
    refused = site.hub.spawn(BOB, profile="guarded")
    assert refused.status_code == 403
    assert refused.json()["message"].startswith("“Guarded” needs an administrator's approval.") and "on the start page" in refused.json()["message"]
    asked = site.by(BOB, "POST", "/metalhub/api/users/bob/profile-requests", json={"profile": "guarded", "reason": "a <b>paper</b>\nis due"})
    assert asked.status_code == 201 and asked.json() == {"profile": "guarded", "state": "pending"}
    again = site.by(BOB, "POST", "/metalhub/api/users/bob/profile-requests", json={"profile": "guarded"})
    assert again.status_code == 400 and "already" in again.json()["message"]
    assert "has yet to decide" in site.hub.spawn(BOB, profile="guarded").json()["message"]
    page = site.hub.page("/metalhub/requests", admin)
    assert "a &lt;b&gt;paper&lt;/b&gt; is due" in page and '<span class="mh-count">1</span>' in page
    # It survives a killed hub.
    site.restart()
    (row,) = site.by("cli", "GET", "/metalhub/api/profile-requests").json()["requests"]
    assert (row["user"], row["profile"], row["state"], row["reason"]) == ("bob", "guarded", "pending", "a <b>paper</b> is due")
    site.json("profile", "approve", "bob", "guarded", "--for", "3s", "--reason", "welcome")
    assert site.hub.spawn(BOB, profile="guarded").status_code in (201, 202)
    eventually(lambda: (site.hub.server(BOB) or {}).get("ready"))
    # What runs goes on when the approval ends.
    eventually(lambda: site.by("cli", "GET", "/metalhub/api/profile-requests").json()["requests"][0]["state"] == "ended")
    assert site.hub.server(BOB)
    site.hub.api("DELETE", "/users/bob/server")
    eventually(lambda: site.hub.server(BOB) is None)
    assert "Your approval ended on" in site.hub.spawn(BOB, profile="guarded").json()["message"]
    site.json("profile", "approve", "bob", "guarded")
    site.json("profile", "deny", "bob", "guarded", "--reason", "the term is over.")
    assert "said no on" in (message := site.hub.spawn(BOB, profile="guarded").json()["message"]) and ": the term is over." in message
    told = [(site.found(f"profile.{kind}", user="bob")[-1]["actor"]) for kind in ("asked", "approved", "denied")]
    assert told == ["user:bob", "service:metalhub-cli", "service:metalhub-cli"]
    assert site.found("profile.denied", user="bob")[-1]["reason"] == "the term is over."


def test_nobody_inherits_an_approval_with_a_name(site: Site) -> None:
    site.hub.api("POST", "/users/carol")
    site.json("profile", "approve", "carol", "guarded")
    site.hub.api("DELETE", "/users/carol")
    site.hub.api("POST", "/users/carol")
    refused = site.hub.spawn("carol", profile="guarded")
    assert refused.status_code == 403 and "needs an administrator's approval" in refused.json()["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "decision is None"),
        ({"decision": "perhaps"}, "decision is 'perhaps'"),
        ({"decision": "approve", "for": "soon"}, "'soon' is not a duration"),
        ({"decision": "approve", "for": "0s"}, "ended already"),
        ({"decision": "approve", "until": "2030-01-01"}, "a time with its zone"),
        ({"decision": "approve", "for": "1d", "until": "2030-01-01T00:00:00Z"}, "one end"),
        ({"decision": "deny", "for": "1d"}, "a denial has no end"),
        ({"decision": "deny", "reason": 1}, "reason is 1"),
        ({"decision": "deny", "reason": "x" * 501}, "501 characters"),
        ({"decision": "deny", "colour": "blue"}, "colour is not known"),
    ],
)
def test_a_bad_decision_has_one_message(site: Site, body: dict[str, Any], words: str) -> None:
    before = site.by("cli", "GET", "/metalhub/api/profile-requests").json()
    answer = site.by("cli", "PUT", "/metalhub/api/profile-requests/bob/guarded", json=body)
    assert answer.status_code == 400 and words in answer.json()["message"], answer.text
    assert site.by("cli", "GET", "/metalhub/api/profile-requests").json() == before


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"profile": "small"}, 400, "needs no approval"),
        ({"profile": "none"}, 404, "for you"),
        ({"profile": 1}, 400, "not legal"),
        ({"profile": "guarded", "reason": "x" * 501}, 400, "501 characters"),
        ({"profile": "guarded", "user": "ann"}, 400, "not legal"),
        ([], 400, "JSON object"),
    ],
)
def test_a_bad_request_has_one_message(site: Site, body: Any, status: int, words: str) -> None:
    answer = site.by(ANN, "POST", "/metalhub/api/users/ann/profile-requests", json=body)
    assert answer.status_code == status and words in answer.json()["message"], answer.text


def test_the_start_page_says_why(site: Site, admin: requests.Session) -> None:
    rooms = admin.get(f"{site.hub.url}/metalhub/room", timeout=10).json()
    assert (rooms["small"]["state"], rooms["small"]["tag"], rooms["small"]["ask"]) == ("free", "", "")
    assert (rooms["guarded"]["state"], rooms["guarded"]["tag"], rooms["guarded"]["ask"]) == ("none", "needs approval", "Ask for it")
    assert (rooms["ghost"]["state"], rooms["ghost"]["tag"]) == ("none", "not ready") and "missing" in rooms["ghost"]["why"]
    assert "secret" not in rooms, "it is another group's"
    assert "needs approval" in site.hub.page("/spawn/admin", admin)


def test_the_start_page_that_is_opened_for_somebody_else_follows_that_user(site: Site, admin: requests.Session) -> None:
    site.json("profile", "deny", "bob", "guarded", "--reason", "the term is over")
    rooms = {name: admin.get(f"{site.hub.url}/metalhub/room/{name}", timeout=10).json() for name in ("admin", ANN, BOB)}
    assert {name: "secret" in found for name, found in rooms.items()} == {"admin": False, ANN: True, BOB: False}
    assert rooms[BOB]["guarded"]["tag"] == "denied" and "the term is over" in rooms[BOB]["guarded"]["why"]
    assert rooms["admin"]["guarded"]["tag"] == rooms[ANN]["guarded"]["tag"] == "needs approval"
    assert admin.get(f"{site.hub.url}/metalhub/room/zoe", timeout=10).status_code == 404
    for name in (ANN, BOB):
        asks = re.search(r'fetch\("/hub/(metalhub/room[^"]*)"\)', site.hub.page(f"/spawn/{name}", admin))
        assert asks and asks[1] == f"metalhub/room/{name}"


# The command line


def test_profiles_on_the_command_line(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "startup.sh"
    script.write_text("git config --global init.defaultBranch main\necho done\n")
    made = site.json(
        "profile", "create", "typed", "title=Typed", "image=lab", "flavor=small", "pool=cpu", "egress=internal", "groups=research, clinical",
        "approval=true", 'environment={"A": "1"}', f"startup=@{script}",
    )  # fmt: skip
    assert made["fields"] == {
        "title": "Typed", "image": "lab", "flavor": "small", "pool": "cpu", "egress": "internal", "groups": ["research", "clinical"],
        "approval": True, "environment": {"A": "1"}, "startup": script.read_text(),
    }  # fmt: skip
    assert {each["by"] for each in made["changes"]} == {"olga"}
    lines = site.cli("profile", "list").stdout.splitlines()
    assert lines[0].split()[:3] == ["PROFILE", "FROM", "IMAGE"]
    (line,) = [line for line in lines if line.startswith("typed ")]
    assert line.split() == ["typed", "runtime", "lab", "small", "cpu", "internal", "research,", "clinical", "needed", "ok"]
    done = site.cli("profile", "set", "small", "max_session=11h", "idle_stop=12h")
    assert "note: profiles.small.idle_stop" in done.stderr and done.returncode == 0
    text = site.cli("profile", "show", "small").stdout
    assert "max_session  11h   (olga, " in text and "the inventory says 8h, until the next converge)" in text
    assert site.json("profile", "set", "small", "max_session=", "idle_stop=")["fields"]["max_session"] == "8h"
    assert site.cli("profile", "delete", "typed").stdout == "deleted typed\n"
    site.json("profile", "set", "small", "max_session=11h")
    assert '"pending": true' in (site.directory / "profiles.json").read_text()
    assert site.cli("profile", "converge").stdout == "dropped small.max_session\n"
    assert '"pending": false' in (site.directory / "profiles.json").read_text()
    assert site.cli("profile", "converge").stdout == "nothing to drop\n"
    assert site.found("profile.converged")[-1]["dropped"] == ["small.max_session"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("set", "small", "max_session=long"), 1, "profiles.small.max_session is 'long': This is not a duration."),
        (("set", "nope", "title=A"), 1, "There is no profile nope; there is "),
        (("show", "nope"), 1, "There is no such profile."),
        (("create", "half", "image=lab"), 1, "profiles.half.flavor: A value is needed here."),
        (("delete", "small"), 1, "small is in the inventory, so it cannot be deleted at runtime"),
        (("approve", "zoe", "guarded"), 1, "There is no such user."),
        (("set", "small", "title=A", "title=B"), 2, "title is given twice"),
    ],
)
def test_bad_input_is_one_message_and_changes_nothing(site: Site, arguments: tuple[str, ...], code: int, message: str) -> None:
    before = (site.directory / "profiles.json").read_bytes(), (site.directory / "approvals.json").read_bytes()
    done = site.cli("profile", *arguments)
    assert (done.returncode, done.stdout) == (code, "") and len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert before == ((site.directory / "profiles.json").read_bytes(), (site.directory / "approvals.json").read_bytes())


# What a converge does


def test_the_inventory_wins_at_the_next_converge_and_what_is_no_longer_there_is_broken(site: Site, admin: requests.Session) -> None:
    site.json("profile", "set", "small", "max_session=12h", "background_limit=1h", "groups=")
    site.json("profile", "set", "made", "egress=packages", "max_session=3h")
    site.restart()
    assert site.fields("small")["max_session"] == "12h", "the same document: nobody converged"

    def edit(raw: dict[str, Any]) -> None:
        raw["quota_notice"] = "6m"
        raw["images"]["lab2"] = {}
        raw["profiles"] = {name: {**each, "egress": "internal"} for name, each in raw["profiles"].items()}
        del raw["egress_classes"]["packages"]

    site.hub.kill()
    site.change(edit)
    site.hub.start()
    small = site.fields("small")
    assert (small["max_session"], small["background_limit"]) == ("8h", "1h")
    assert site.found("profile.converged")[-1] == {"actor": "hub", "dropped": ["small.max_session"]}
    assert "The inventory wins over profiles.small.max_session, which olga had changed" in (site.directory / "hub.log").read_text()
    made = site.by("cli", "GET", f"{API}/made").json()
    assert "profiles.made.egress" in made["broken"] and "'packages'" in made["broken"] and made["fields"]["max_session"] == "3h"
    assert "broken" in next(line for line in site.cli("profile", "list").stdout.splitlines() if line.startswith("made "))
    room = admin.get(f"{site.hub.url}/metalhub/room", timeout=10).json()["made"]
    assert (room["state"], room["tag"]) == ("none", "broken") and "tell an administrator" in room["why"]
    assert "Something that this profile needs is no longer there" in site.hub.page("/spawn/admin", admin)
    assert site.hub.spawn(ANN, profile="made").status_code == 403
    assert site.json("profile", "set", "made", "egress=internal")["broken"] == ""
    assert admin.get(f"{site.hub.url}/metalhub/room", timeout=10).json()["made"]["state"] == "free"


def test_a_file_that_nobody_understands_is_set_aside(site: Site) -> None:
    site.hub.kill()
    for name in ("profiles.json", "approvals.json"):
        (site.directory / name).write_text("{ half")
    site.hub.start()
    assert "made" not in [row["name"] for row in site.json("profile", "list")]
    assert site.by("cli", "GET", "/metalhub/api/profile-requests").json() == {"requests": []}
    for name in ("profiles.json", "approvals.json"):
        assert (site.directory / f"{name}.unreadable").read_text() == "{ half"


def test_a_disk_that_takes_nothing_changes_nothing(site: Site) -> None:
    # A directory of the name of the new file, since root writes where nobody may.
    block = site.directory / ".profiles.json.new"
    block.mkdir()
    try:
        refused = site.cli("profile", "set", "small", "max_session=13h")
        assert refused.returncode == 3 and "nothing was changed" in refused.stderr
        assert site.fields("small")["max_session"] == "8h"
    finally:
        block.rmdir()
    assert site.json("profile", "set", "small", "max_session=13h")["fields"]["max_session"] == "13h"
