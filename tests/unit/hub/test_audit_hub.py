"""What the real hub records of logins, accounts, tokens and sessions, and the command line against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from aiohttp import web
from conftest import FakeEngine, Served
from metalhub_hub import audit
from metalhub_hub.core import audit_chain
from test_hub import PACKAGE, PASSWORD, TOKEN, eventually, log_in
from world import CLI_TOKEN, World, world


class Site(World):
    """A hub with its log and its command line."""

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in audit.lines(audit.segments(self.directory))]

    def found(self, kind: str, **facts: Any) -> list[dict[str, Any]]:
        """Facts of the events of a kind which say this among others."""
        return [e["facts"] for e in self.events() if e["kind"] == kind and facts.items() <= e["facts"].items()]

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {"METALHUB_HUB_CONFIG": str(self.document), "PYTHONPATH": str(PACKAGE), "SUDO_USER": "olga", **environment}
        return subprocess.run(
            [sys.executable, "-P", "-m", "metalhub_hub.cli", *arguments],
            env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with world(tmp_path_factory.mktemp("hub"), kind=Site) as made:
        yield made


def press(jar: requests.Session, url: str) -> None:
    assert jar.get(url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=10).ok


def test_logins(site: Site) -> None:
    jar = log_in(site.hub, "admin", PASSWORD)
    assert jar.last.status_code == 302  # type: ignore[attr-defined]
    (facts,) = site.found("login.ok", user="admin")
    assert facts == {"actor": "user:admin", "user": "admin", "address": "127.0.0.1"}
    log_in(site.hub, "admin", "wrong-" + PASSWORD)
    log_in(site.hub, PASSWORD, "typed into the wrong field")
    failed = eventually(lambda: site.found("login.failed")[1:] and site.found("login.failed"))
    assert [(facts["user"], facts["actor"], facts["status"]) for facts in failed] == [("admin", "anonymous", 403), (None, "anonymous", 403)]
    # A token for somebody who gives a password instead of one.
    answer = requests.post(f"{site.hub.url}/api/users/admin/tokens", json={"auth": {"username": "admin", "password": "x"}}, timeout=10)
    assert answer.status_code == 403
    eventually(lambda: len(site.found("login.failed")) == 3)
    assert jar.get(f"{site.hub.url}/logout", timeout=10).ok
    (facts,) = site.found("logout.ok")
    assert (facts["user"], facts["actor"]) == ("admin", "user:admin")


def test_accounts(site: Site) -> None:
    site.sign_up("bob", PASSWORD + "2")
    boss = log_in(site.hub, "admin", PASSWORD)
    press(boss, f"{site.hub.url}/authorize/bob")
    site.sign_up("mallory", PASSWORD + "2")
    press(boss, f"{site.hub.url}/discard/mallory")
    (facts,) = site.found("account.authorised", user="bob")
    assert facts["actor"] == "user:admin"
    (facts,) = site.found("account.add", user="bob")
    assert (facts["actor"], facts["authorised"]) == ("anonymous", False)
    (facts,) = site.found("account.discarded", user="mallory")
    assert facts["actor"] == "user:admin"
    bob = log_in(site.hub, "bob", PASSWORD + "2")
    page = bob.get(f"{site.hub.url}/change-password", timeout=10).text
    fields = {"old_password": PASSWORD + "2", "new_password": PASSWORD + "3", "new_password_confirmation": PASSWORD + "3"}
    fields["_xsrf"] = page.split('name="_xsrf" value="')[1].split('"')[0]
    assert bob.post(f"{site.hub.url}/change-password", data=fields, timeout=10).ok
    assert [facts["actor"] for facts in site.found("account.password", user="bob")] == ["user:bob"]


def test_users_groups_and_tokens(site: Site) -> None:
    hub = site.hub
    assert hub.api("POST", "/users/carol").ok
    assert site.found("user.add", user="carol", admin=False, actor="service:test")
    assert hub.api("POST", "/groups/clinical").ok
    assert hub.api("POST", "/groups/clinical/users", json={"users": ["carol"]}).ok
    assert hub.api("DELETE", "/groups/clinical/users", json={"users": ["carol"]}).ok
    for kind in ("group.join", "group.leave"):
        (facts,) = site.found(kind)
        assert (facts["group"], facts["user"], facts["actor"]) == ("clinical", "carol", "service:test")
    jar = log_in(hub, "admin", PASSWORD)
    xsrf = jar.get(f"{hub.url}/token", timeout=10).text.split('xsrf_token: "')[1].split('"')[0]
    headers = {"X-XSRFToken": xsrf, "Referer": f"{hub.url}/token"}
    for admin in (True, False):
        assert jar.patch(f"{hub.url}/api/users/carol", json={"admin": admin}, headers=headers, timeout=10).ok
    assert [facts["admin"] for facts in site.found("user.admin", user="carol", actor="user:admin")] == [True, False]
    made = jar.post(f"{hub.url}/api/users/admin/tokens", json={"expires_in": 3600, "note": "n"}, headers=headers, timeout=10).json()
    (facts,) = site.found("token.made", id=made["id"])
    assert (facts["actor"], facts["owner"]) == ("user:admin", "user:admin") and facts["expires"].endswith("Z")
    assert jar.delete(f"{hub.url}/api/users/admin/tokens/{made['id']}", headers=headers, timeout=10).status_code == 204
    (facts,) = site.found("token.revoked", id=made["id"])
    assert facts["actor"] == "user:admin"
    assert hub.api("DELETE", "/users/carol").ok
    assert site.found("user.delete", user="carol", actor="service:test")
    assert made["token"] not in "".join(map(str, site.events()))


def test_sessions_of_others(site: Site) -> None:
    site.running("dora")
    (facts,) = site.found("session.running", user="dora")
    assert facts["actor"] == "service:test"
    # An administrator's browser gets a token for her session.
    jar = log_in(site.hub, "admin", PASSWORD)
    asked = {"client_id": "jupyterhub-user-dora", "redirect_uri": "/user/dora/oauth_callback", "response_type": "code", "state": "s"}
    answer = jar.get(f"{site.hub.url}/api/oauth2/authorize", params=asked, timeout=10, allow_redirects=False)
    if answer.status_code == 200:
        fields = {"_xsrf": answer.text.split('name="_xsrf" value="')[1].split('"')[0], "scopes": "access:servers!server=dora/"}
        answer = jar.post(answer.request.url, data=fields, headers={"Referer": answer.request.url}, timeout=10, allow_redirects=False)
    assert answer.status_code == 302, answer.text
    code = answer.headers["Location"].split("code=")[1].split("&")[0]
    (service,) = site.engine.services.values()
    env = dict(item.split("=", 1) for item in service["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"])
    form = {
        "client_id": asked["client_id"], "client_secret": env["JUPYTERHUB_API_TOKEN"], "grant_type": "authorization_code",
        "code": code, "redirect_uri": asked["redirect_uri"],
    }  # fmt: skip
    assert requests.post(f"{site.hub.url}/api/oauth2/token", data=form, timeout=10).ok
    (facts,) = site.found("access")
    assert (facts["user"], facts["by"]) == ("dora", "user:admin")
    assert site.hub.api("DELETE", "/users/dora/server").ok
    eventually(lambda: site.found("session.stopped", user="dora"))
    (facts,) = site.found("session.stopped", user="dora")
    assert (facts["cause"], facts["actor"]) == ("admin", "service:test")


def test_a_session_that_dies_was_stopped_by_nobody(site: Site) -> None:
    site.running("emil")
    site.engine.tasks[-1]["Status"] |= {"State": "failed", "ContainerStatus": {"ExitCode": 137}}
    (facts,) = eventually(lambda: site.found("session.stopped", user="emil"))
    assert (facts["cause"], facts["actor"]) == ("memory", "hub")


# The command line


def test_sessions_on_the_command_line(site: Site) -> None:
    site.running("fay")
    site.running("fay", "two")
    found = {f"{row['user']}/{row['name']}": row for row in site.json("session", "list", "--user", "fay")}
    assert sorted(found) == ["fay/", "fay/two"]
    assert (found["fay/"]["state"], found["fay/"]["profile"], found["fay/"]["node"]) == ("running", "small", "compute1")
    assert site.json("session", "show", "fay/two") == found["fay/two"]
    done = site.cli("session", "list")
    assert done.stdout.splitlines()[0].split()[:4] == ["SESSION", "STATE", "PROFILE", "NODE"] and "fay/two  running  small" in done.stdout
    assert site.cli("session", "stop", "fay/two").stdout == "stopped fay/two\n"
    (facts,) = site.found("session.stopped", user="fay")
    assert (facts["server"], facts["cause"], facts["actor"], facts["operator"]) == ("two", "admin", "service:metalhub-cli", "olga")
    assert [row["name"] for row in site.json("session", "list", "--user", "fay")] == [""]
    assert site.json("session", "stop", "fay")["state"] == "stopped"


def test_users_and_nodes_on_the_command_line(site: Site) -> None:
    users = {row["name"]: row for row in site.json("user", "list")}
    assert users["admin"]["admin"] and not users["ann" if "ann" in users else "fay"]["admin"]
    site.running("fay")
    nodes = eventually(lambda: (found := site.json("node", "list"))[0]["sessions"] and found)
    assert [(row["name"], row["pool"], row["state"], row["availability"], row["sessions"]) for row in nodes] == [
        ("compute1", "cpu", "ready", "active", 1), ("compute2", "cpu", "ready", "active", 0),
    ]  # fmt: skip
    assert nodes[0]["cpus"] == {"total": 2, "free": 1} and nodes[0]["memory"]["free"] == 6 * 2**30
    assert "1 of 2" in site.cli("node", "list").stdout
    site.json("session", "stop", "fay")


def test_quotas_usage_and_more_time_on_the_command_line(site: Site) -> None:
    site.running("fay")
    (limit,) = [row for row in site.json("quota", "show", "fay")["limits"] if row["resource"] == "sessions"]
    assert limit["used"] == 1 and "sessions" in site.cli("quota", "show", "fay").stdout
    given = site.json("quota", "override", "fay", "cpu", "8h", "--for", "2d", "--reason", "the paper is due")
    assert (given["user"], given["resource"], given["extra"], given["reason"]) == ("fay", "cpu", 28800, "the paper is due")
    (facts,) = site.found("override", user="fay")
    assert (facts["operator"], facts["reason"]) == ("olga", "the paper is due")
    assert [row["id"] for row in site.json("quota", "overrides")] == [given["id"]]
    assert site.cli("quota", "revoke", str(given["id"])).stdout == f"ended override {given['id']}\n"
    assert site.json("quota", "overrides") == []
    assert site.json("session", "extend", "fay", "--by", "30m")["extended"] == 1800
    assert "extended by 1 hour" in site.cli("session", "extend", "fay").stdout
    found = site.json("usage", "show", "--by", "user")
    assert "fay" in [row["name"] for row in found["users"]] and "cpu" in found["resources"]
    assert [row["name"] for row in site.json("usage", "show", "--user", "fay", "--profile", "small")["users"]] == ["fay"]
    assert site.json("usage", "show", "--user", "fay", "--group", "none")["users"] == []
    table = site.cli("usage", "show", "--by", "user").stdout.splitlines()
    assert table[0].split()[:2] == ["KIND", "NAME"] and table[-1].startswith("all")
    site.json("session", "stop", "fay")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("quota", "show", "nobody"), 1, "metalhub quota show: there is no user 'nobody'"),
        (("quota", "override", "admin", "cpu", "8h", "--reason", "x"), 2, "an override needs an end"),
        (("quota", "override", "admin", "cpu", "much", "--for", "2d", "--reason", "x"), 2, "more: 'much' is not a duration"),
        (("quota", "override", "admin", "sessions", "8h", "--for", "2d", "--reason", "x"), 1, "metalhub quota override: "),
        (("quota", "override", "nobody", "cpu", "8h", "--for", "2d", "--reason", "x"), 1, "whom nobody knows"),
        (("quota", "revoke", "999"), 1, "There is no override 999 that holds."),
        (("quota", "revoke", "one"), 2, "id: "),
        (("usage", "show", "--month", "soon"), 1, "month: 'soon' is not legal"),
        (("session", "extend", "admin"), 1, "'admin' has no default session now"),
        (("session", "show", "nobody"), 1, "metalhub session show: there is no user 'nobody'"),
        (("session", "stop", "admin/none"), 1, "metalhub session stop: 'admin' has no session 'none' now"),
        (("session", "stop", "admin"), 1, "metalhub session stop: 'admin' has no default session now"),
        (("session", "stop", "a/b/c"), 2, "metalhub session stop: session: 'a/b/c' is no session: write USER or USER/NAME"),
        (("session", "stop", "../../shutdown"), 2, "is no session"),
        (("session", "stop", "%2e%2e"), 1, "there is no user '%2e%2e'"),
        (("session", "fly"), 2, "invalid choice: 'fly'"),
        (("session", "list", "--us", "x"), 2, "unrecognized arguments: --us x"),
        (("audit", "export", "--since", "soon"), 2, "--since: 'soon' is no time: write a date"),
        (("audit", "export", "--since", "1h", "--until", "2h"), 2, "--until: '2h' is before --since '1h'"),
        (("audit", "verify", "--head", "7"), 2, "--head: '7' is no place in the log: write SEQ:SHA256"),
        (("audit", "verify", "--directory", "/nowhere"), 3, "/nowhere cannot be read: No such file or directory"),
    ],
)
def test_bad_input_is_one_message_and_changes_nothing(site: Site, arguments: tuple[str, ...], code: int, message: str) -> None:
    before = len(site.events())
    done = site.cli(*arguments)
    assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout, done
    assert len(site.events()) == before


def test_the_command_lines_token_can_do_no_more_than_it_needs(site: Site) -> None:
    site.hub.api("POST", "/users/gus")
    for method, path, allowed in (
        ("GET", "/api/users", True),
        ("GET", "/metalhub/api/nodes", True),
        ("POST", "/api/users/gus/server", False),
        ("POST", "/api/users/gus/tokens", False),
        ("DELETE", "/api/users/gus", False),
        ("POST", "/api/users/other", False),
        ("PATCH", "/api/users/gus", False),
        ("POST", "/api/groups/new", False),
        ("POST", "/api/shutdown", False),
    ):
        answer = requests.request(method, f"{site.hub.url}{path}", headers={"Authorization": f"token {CLI_TOKEN}"}, json={}, timeout=10)
        assert answer.ok is allowed, (method, path, answer.status_code)
        if not allowed:
            assert answer.status_code == 403
    answer = requests.get(f"{site.hub.url}/metalhub/api/nodes", headers={"Authorization": f"token {TOKEN}"}, timeout=10)
    assert answer.status_code == 403, "admin-ui is needed"


def test_without_the_cluster_nodes_are_not_known(site: Site) -> None:
    site.engine.mode = "500"
    try:
        done = eventually(lambda: (done := site.cli("node", "list")).returncode and done)
        assert done.returncode == 3 and "The cluster does not answer right now" in done.stderr
    finally:
        site.engine.mode = "ok"


def test_export_and_verify_work_while_the_hub_is_down_and_its_next_start_names_what_changed(site: Site, tmp_path: Path) -> None:
    (started,) = site.found("hub.started")
    assert "profiles" in started["changed"]
    site.hub.kill()
    try:
        done = site.cli("session", "list")
        assert done.returncode == 3 and "the hub does not answer at http://127.0.0.1:" in done.stderr
        exported = site.cli("audit", "export", "--since", "1h", "--user", "fay")
        kinds = [json.loads(line)["kind"] for line in exported.stdout.splitlines()]
        assert {"user.add", "session.running", "session.stopped"} <= set(kinds) and "login.ok" not in kinds
        assert site.cli("audit", "export", "--until", "1h").stdout == ""
        whole = site.cli("audit", "export").stdout.encode()
        assert whole == b"".join(audit.lines(audit.segments(site.directory)))
        good = site.json("audit", "verify")
        assert good["good"] and good["lines"] == whole.count(b"\n")
        changed = tmp_path / "audit.jsonl"
        changed.write_bytes(whole.replace(b'"user":"fay"', b'"user":"eve"', 1))
        line = whole[: whole.index(b'"user":"fay"')].count(b"\n") + 1
        done = site.cli("audit", "verify", "--directory", str(tmp_path), "--head", good["head"])
        assert done.returncode == 1 and done.stderr.startswith(f"{changed}:{line}: ")
    finally:
        raw = yaml.safe_load(site.document.read_text())
        raw["quotas"]["default"] = "sessions=3"
        site.document.write_text(yaml.safe_dump(raw, sort_keys=False))
        site.hub.start()
    assert site.found("hub.started")[-1]["changed"] == ["quotas"]


def test_completion_in_a_real_bash(site: Site) -> None:
    script = site.cli("completion", "bash").stdout
    for words, wanted in (
        (["metalhub", "se"], ["session"]),
        (["metalhub", "session", "s"], ["show", "stop"]),
        (["metalhub", "audit", "verify", "--h"], ["--head", "--help"]),
        (["metalhub", "audit", "export", "--since", "1h", "--un"], ["--until"]),
    ):
        ask = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _metalhub; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, timeout=10, check=True)
        assert done.stdout.split() == wanted


def test_it_is_a_chain_without_a_secret(site: Site) -> None:
    files = audit.segments(site.directory)
    assert audit_chain.verify(audit.lines(files)).problem is None
    text = b"".join(audit.lines(files)).decode()
    for secret in (PASSWORD, TOKEN, CLI_TOKEN, "b" * 64, "c" * 64):
        assert secret not in text


def test_logins_by_openid_connect(tmp_path: Path) -> None:
    async def provider(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"access_token": "provider-token", "token_type": "bearer"})
        if request.path == "/userinfo":
            return web.json_response({"preferred_username": "olga", "groups": ["team"]})
        return web.json_response({"status": "enabled"})

    with Served(provider) as served, FakeEngine(str(tmp_path / "engine.sock")).served:
        site = Site(tmp_path, served.port)
        raw = yaml.safe_load(site.document.read_text())
        (tmp_path / "oidc").write_text("client-" + "s" * 30)
        urls = {f"{name}_url": f"http://127.0.0.1:{served.port}/{name}" for name in ("authorize", "token")}
        raw["auth"] |= {"kind": "oidc", "oidc": {
            **urls, "userdata_url": f"http://127.0.0.1:{served.port}/userinfo", "client_id": "metalhub", "client_secret_file": str(tmp_path / "oidc"),
            "groups_claim": "groups", "allowed_groups": ["team"],
        }}  # fmt: skip
        site.document.write_text(yaml.safe_dump(raw, sort_keys=False))
        site.hub.start()
        try:
            jar = requests.Session()
            jar.trust_env = False

            def back(**query: str) -> int:
                away = jar.get(f"{site.hub.url}/oauth_login", timeout=10, allow_redirects=False).headers["Location"]
                state = dict(part.split("=", 1) for part in away.split("?")[1].split("&"))["state"]
                url = f"{site.hub.url}/oauth_callback?state={state}"
                return jar.get(url, params=query, timeout=10, allow_redirects=False).status_code

            # Nobody has a password here, and the database no table of them.
            assert requests.post(f"{site.hub.url}/login", data={"username": "admin", "password": "x"}, timeout=10).status_code == 403
            assert back(error="access_denied") == 400
            assert back(code="c0de") == 302
            assert jar.get(f"{site.hub.url}/logout", timeout=10).ok
            kinds = [event["kind"] for event in eventually(lambda: site.found("logout.ok") and site.events())]
            told = [kind for kind in kinds if kind.startswith(("log", "user", "group"))]
            assert told == ["user.add", "login.failed", "login.failed", "login.ok", "user.add", "group.join", "logout.ok"]
            assert [facts["user"] for facts in site.found("login.failed")] == ["admin", None]
            for kind in told[3:]:
                assert site.found(kind, user="olga", actor="user:olga")
            assert not any(secret in str(site.events()) for secret in ("provider-token", "c0de", "client-s"))
        finally:
            site.hub.kill()
