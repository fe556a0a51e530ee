"""Invitations, accounts in a batch and accounts that are disabled, on a real hub and by its command line."""

from __future__ import annotations

import html
import re
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from conftest import document
from jupyterhub import orm
from metalhub_hub import auth, config, people, platform, records
from metalhub_hub.core import quotas
from metalhub_hub.core.accounts import Invitation
from metalhub_hub.ledger import LedgerError
from test_audit_hub import Site
from test_hub import PASSWORD, eventually, log_in
from world import CLI_TOKEN, world

SECRET = "my-own-long-password"


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that takes everything, or nothing."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[str] = []
        self.refuses = False
        super().__init__(("127.0.0.1", 0), _Mail)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Mail(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self.wfile.write(b"220 mail.test\r\n")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b""
                while not text.endswith(b"\r\n.\r\n"):
                    text += self.rfile.readline()
                self.server.mails.append(text.decode())
                self.wfile.write(b"250 taken\r\n")
            elif verb == b"RCPT" and self.server.refuses:
                self.wfile.write(b"550 no such user here\r\n")
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 mail.test\r\n")


class Town(Site):
    """The site of the audit log's tests, with a mail server and with groups of the inventory."""

    def __init__(self, directory: Path, traefik: int) -> None:
        super().__init__(directory, traefik)
        self.mailbox = Mailbox()
        smtp = {"host": "127.0.0.1", "port": self.mailbox.server_address[1], "tls": "none", "from": "hub@example.org"}

        def change(raw: dict[str, Any]) -> None:
            raw.update(smtp=smtp, groups={"clinical": ["ingrid"]})
            raw["profiles"]["guarded"] = raw["profiles"]["pii"] | {"approval": True}

        self.change(change)
        self.mint()

    def api(self, method: str, path: str, token: str = CLI_TOKEN, **arguments: Any) -> requests.Response:
        headers = {"Authorization": f"token {token}"} if token else {}
        return requests.request(method, f"{self.hub.url}/metalhub/{path}", headers=headers, timeout=30, **arguments)

    def invite(self, *arguments: str) -> str:
        """The token of a new invitation."""
        made = self.json("user", "invite", *arguments)
        return str(made["link"].partition("?token=")[2])

    def take(self, token: str, name: str, password: str = SECRET, again: str | None = None, jar: requests.Session | None = None) -> requests.Response:
        jar = jar or requests.Session()
        page = jar.get(f"{self.hub.url}/metalhub/invite", params={"token": token}, timeout=10).text
        xsrf = page.split('name="_xsrf" value="')[1].split('"')[0] if 'name="_xsrf"' in page else jar.cookies.get("_xsrf", "")
        fields = {"token": token, "username": name, "password": password, "confirmation": password if again is None else again, "_xsrf": xsrf}
        return jar.post(f"{self.hub.url}/metalhub/invite", data=fields, timeout=30, allow_redirects=False)

    def logs_in(self, name: str, password: str) -> bool:
        return bool(log_in(self.hub, name, password).last.status_code == 302)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with world(tmp_path_factory.mktemp("hub"), kind=Town) as made:
        yield made


@pytest.fixture(scope="module")
def ann(town: Town) -> str:
    """A token of a user who is no administrator."""
    town.hub.api("POST", "/users/ann")
    return town.token("ann")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "api/invites"), ("POST", "api/invites"), ("DELETE", "api/invites/1"), ("GET", "api/accounts"), ("POST", "api/accounts"),
        ("POST", "api/accounts/admin/disable"), ("POST", "api/accounts/ann/disable"), ("POST", "api/accounts/ann/enable"),
    ],
)  # fmt: skip
def test_only_administrators_come_by(town: Town, ann: str, method: str, path: str) -> None:
    before = len(town.found("invite.made")) + len(town.found("account.disabled"))
    for token in ("", ann, "f" * 40):
        answer = town.api(method, path, token, **({"json": {}} if method == "POST" else {}))
        assert answer.status_code == 403, (token, answer.text)
    allowed = town.api(method, path, **({"json": {"unknown": 1}} if method == "POST" else {}))
    assert allowed.status_code in ({"GET": 200, "DELETE": 404}.get(method, 400),), allowed.text
    assert len(town.found("invite.made")) + len(town.found("account.disabled")) == before


def test_whoever_is_invited_is_in_with_all_that_came_with_it(town: Town) -> None:
    token = town.invite("--group", "research", "--quota", "sessions=7, cpu=9h/day", "--profile", "pii")
    jar = requests.Session()
    answer = town.take(token, "dora", jar=jar)
    assert answer.status_code == 302, answer.text
    # Logged in, approved, and in the group.
    assert "Sessions" in jar.get(f"{town.hub.url}/home", timeout=10).text
    assert town.logs_in("dora", SECRET)
    assert town.hub.api("GET", "/users/dora").json()["groups"] == ["research"]
    limits = {row["resource"]: row for row in town.json("quota", "show", "dora")["limits"]}
    assert (limits["sessions"]["limit"], limits["sessions"]["source"]) == (7, "invite")
    assert limits["cpu"]["limit"] == 9 * 3600 and "invite" in town.cli("quota", "show", "dora").stdout
    # A profile of a group that dora is not in.
    assert "pii" in town.hub.page("/spawn/dora", jar)
    assert town.hub.spawn("dora", profile="pii").status_code in (201, 202)
    town.hub.api("DELETE", "/users/dora/server")
    eventually(lambda: not town.hub.server("dora"))
    (row,) = [row for row in town.json("user", "list") if row["name"] == "dora"]
    assert (row["state"], row["profiles"], row["groups"]) == ("active", ["pii"], ["research"])
    (facts,) = town.found("invite.taken", user="dora")
    (made,) = town.found("invite.made", number=facts["number"])
    assert made["operator"] == "olga" and made["quota"] == "sessions=7, cpu=9h/day"
    # It is used up, and it was written down nowhere.
    assert town.take(token, "dora2").status_code == 410
    log = (town.directory / "hub.log").read_text()
    assert token not in log and token not in str(town.events())
    assert token.encode() not in (town.directory / "jupyterhub.sqlite").read_bytes()


def test_whoever_was_given_a_profile_that_needs_approval_can_ask_for_it(town: Town) -> None:
    assert town.take(town.invite("--profile", "guarded"), "olaf").status_code == 302
    token = town.hub.api("POST", "/users/olaf/tokens", json={"note": "test"}).json()["token"]
    asked = town.api("POST", "api/users/olaf/profile-requests", token, json={"profile": "guarded"})
    assert (asked.status_code, asked.json()) == (201, {"profile": "guarded", "state": "pending"})


def test_what_came_with_an_invitation_outlives_the_hub_but_not_its_user(town: Town) -> None:
    assert town.take(town.invite("--quota", "sessions=8"), "emil").status_code == 302
    town.hub.kill()
    town.hub.start()

    def sessions() -> tuple[int, str]:
        (row,) = [row for row in town.json("quota", "show", "emil")["limits"] if row["resource"] == "sessions"]
        return row["limit"], row["source"]

    assert sessions() == (8, "invite")
    more = {"user": "emil", "resource": "cpu", "extra": "2h", "for": "1d", "reason": "a paper"}
    assert town.api("POST", "api/quota/overrides", json=more).status_code == 201
    assert town.hub.api("DELETE", "/users/emil").status_code == 204
    town.hub.api("POST", "/users/emil")
    assert sessions() == (2, "default")
    assert "emil" not in [each["user"] for each in town.api("GET", "api/quota/overrides").json()["overrides"]]
    assert town.found("override.ended", user="emil")


def test_nobody_is_renamed(town: Town, ann: str) -> None:
    town.hub.api("POST", "/users/nora")
    for name in ("nina", "ann", 7):
        refused = town.hub.api("PATCH", "/users/nora", json={"name": name})
        assert refused.status_code == 409 and refused.json()["message"] == people.NO_RENAME
    assert town.hub.api("GET", "/users/nora").ok and town.hub.api("GET", "/users/nina").status_code == 404
    assert not town.found("user.rename")
    # What else JupyterHub's page sends along with the name works.
    changed = town.hub.api("PATCH", "/users/nora", json={"name": "nora", "admin": False})
    assert changed.ok and changed.json()["name"] == "nora" and town.hub.api("GET", "/users/nora").ok
    headers = {"Authorization": f"token {ann}"}
    assert requests.patch(f"{town.hub.url}/api/users/nora", json={"name": "nina"}, headers=headers, timeout=10).status_code == 403


def test_one_invitation_makes_one_account_however_many_race_for_it(town: Town) -> None:
    token = town.invite()
    jars = [requests.Session() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda n: town.take(token, f"racer{n}", jar=jars[n]).status_code, range(6)))
    assert sorted(codes) == [302] + [410] * 5
    names = [row["name"] for row in town.api("GET", "api/accounts").json()["accounts"]]
    assert len([name for name in names if name.startswith("racer")]) == 1


@pytest.mark.parametrize(
    ("name", "password", "again", "words"),
    [
        ("", SECRET, SECRET, "is not a name for an account"),
        ("a b", SECRET, SECRET, "is not a name for an account"),
        ("x" * 65, SECRET, SECRET, "is not a name for an account"),
        ("admin", SECRET, SECRET, "The name admin is taken"),
        ("eve", SECRET, SECRET, "The name eve is taken"),  # the inventory has a quota for eve
        ("ingrid", SECRET, SECRET, "The name ingrid is taken"),  # and a group with ingrid in it
        ("fred", "short", "short", "Pick a password of 10 to 72 characters"),
        ("fred", "1234567890", "1234567890", "Pick a password of 10 to 72 characters"),
        ("fred", "x" * 73, "x" * 73, "Pick a password of 10 to 72 characters"),
        ("fred", "ü" * 37, "ü" * 37, "Pick a password of 10 to 72 characters"),
        ("fred", SECRET, SECRET + "x", "The two passwords are not the same"),
    ],
)
def test_what_is_wrong_is_told_and_the_invitation_stays_good(town: Town, name: str, password: str, again: str, words: str) -> None:
    token = town.invite()
    answer = town.take(token, name, password, again)
    assert answer.status_code == 400 and words in html.unescape(answer.text), answer.text
    assert password not in answer.text
    unique = f"fine{time.monotonic_ns()}"
    assert town.take(token, unique).status_code == 302


def test_an_invitation_can_be_for_somebody_whom_the_inventory_names(town: Town) -> None:
    token = town.invite("--name", "ingrid")
    assert 'value="ingrid"' in requests.get(f"{town.hub.url}/metalhub/invite", params={"token": token}, timeout=10).text
    assert town.take(token, "mallory").status_code == 302
    assert town.logs_in("ingrid", SECRET) and not town.logs_in("mallory", SECRET)
    assert town.hub.api("GET", "/users/ingrid").json()["groups"] == ["clinical"]


def test_a_link_that_is_over_or_forged_says_so(town: Town) -> None:
    brief, withdrawn, good = town.invite("--expires", "1s"), town.invite(), town.invite()
    (row,) = town.json("user", "invites")[-2:-1]
    assert town.cli("user", "uninvite", str(row["id"])).stdout == f"took back invitation {row['id']}\n"
    time.sleep(2.1)
    nonce, _, signature = good.partition(".")
    for token in (brief, withdrawn, "", "x", f"{nonce}.{'0' * 32}", f"{nonce}x.{signature}", "\udcff", "ü.ü"):
        answer = requests.get(f"{town.hub.url}/metalhub/invite", params={"token": token.encode("utf-8", "replace")}, timeout=10)
        assert answer.status_code == 410 and "This invitation cannot be used" in answer.text, token
    page = requests.get(f"{town.hub.url}/metalhub/invite", params={"token": good}, timeout=10)
    assert page.status_code == 200 and page.headers["Referrer-Policy"] == "no-referrer" and page.headers["Cache-Control"] == "no-store"
    # Not without the page's own token against forged requests, and not for somebody who is logged in.
    fields = {"token": good, "username": "fred", "password": SECRET, "confirmation": SECRET}
    assert requests.post(f"{town.hub.url}/metalhub/invite", data=fields, timeout=10).status_code == 403
    jar = log_in(town.hub, "admin", PASSWORD)
    assert "You are logged in as" in jar.get(f"{town.hub.url}/metalhub/invite", params={"token": good}, timeout=10).text
    assert town.take(good, "frieda").status_code == 302


def test_invitations_by_mail(town: Town) -> None:
    done = town.cli("user", "invite", "--email", "gerd@example.org", "--expires", "2d")
    assert re.fullmatch(r"mailed invitation \d+ to gerd@example.org; it ends .*\n", done.stdout) and not done.stderr
    mail = eventually(lambda: town.mailbox.mails and town.mailbox.mails[-1])
    assert "To: gerd@example.org" in mail and "From: hub@example.org" in mail and "for 2 days" in mail
    token = re.sub(r"=\r?\n", "", mail).replace("=3D", "=").split("?token=")[1].split()[0]
    assert town.take(token, "gerd").status_code == 302
    town.mailbox.refuses = True
    try:
        done = town.cli("user", "invite", "--email", "gerda@example.org")
        assert done.returncode == 0 and "not mailed: the mail server did not take it" in done.stderr and "no such user here" in done.stderr
        assert town.take(done.stdout.strip().split("?token=")[1], "gerda").status_code == 302
    finally:
        town.mailbox.refuses = False


def test_accounts_in_a_batch(town: Town, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("hans,course\nhanna,course,lab\nadmin\n")
    out = tmp_path / "passwords.csv"
    done = town.cli("user", "add", "--batch", str(file), "--output", str(out))
    assert done.returncode == 0 and done.stdout == f"made 2 accounts; their passwords are in {out}\n", done.stderr
    assert "left alone: admin" in done.stderr and "course" not in done.stdout
    assert out.stat().st_mode & 0o777 == 0o600
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert [(row[0], row[2:]) for row in rows] == [("hans", ["course"]), ("hanna", ["course", "lab"])]
    for name, password, *_ in rows:
        assert len(password) >= 15 and town.logs_in(name, password)
        assert password not in (town.directory / "hub.log").read_text() and password not in str(town.events())
    assert sorted(town.hub.api("GET", "/users/hanna").json()["groups"]) == ["course", "lab"]
    # Once more: nobody is touched.
    answer = town.json("user", "add", "--batch", str(file))
    assert answer == {"made": [], "kept": ["hans", "hanna", "admin"]}
    assert town.logs_in(rows[0][0], rows[0][1]) and town.logs_in("admin", PASSWORD)


@pytest.mark.parametrize(
    ("arguments", "text", "code", "message"),
    [
        (("user", "add", "--batch", "-"), "ivan\na b\n", 2, "--batch: line 2: 'a b' is not a name"),
        (("user", "add", "--batch", "-"), "", 2, "--batch: there is no name in it"),
        (("user", "add", "--batch", "/nowhere"), "", 2, "--batch: /nowhere cannot be read"),
        (("user", "add", "--batch", "-", "--output", "/etc/passwd"), "ivan\n", 2, "--output: /etc/passwd cannot be made: File exists"),
        (("user", "invite", "--quota", "lots"), "", 2, "--quota: 'lots' is not a quota"),
        (("user", "invite", "--expires", "soon"), "", 2, "--expires: 'soon' is not a duration"),
        (("user", "invite", "--expires", "0s"), "", 1, "expires: '0s' is not legal"),
        (("user", "invite", "--profile", "none"), "", 1, "profiles: there is no 'none'; legal are"),
        (("user", "invite", "--group", "none"), "", 1, "groups: there is no 'none'; legal are"),
        (("user", "invite", "--email", "nobody"), "", 1, "email: 'nobody' is not an address"),
        (("user", "invite", "--name", "admin"), "", 1, "'admin' has an account already."),
        (("user", "uninvite", "99999"), "", 1, "There is no invitation 99999"),
        (("user", "uninvite", "one"), "", 2, "id: "),
        (("user", "disable", "nobody"), "", 1, "There is no user 'nobody'."),
        (("user", "disable", "admin"), "", 1, "'admin' is the administrator that the inventory names"),
        (("user", "enable", "ann"), "", 1, "'ann' is not disabled."),
    ],
)
def test_bad_input_changes_nothing(town: Town, arguments: tuple[str, ...], text: str, code: int, message: str) -> None:
    before = len(town.events()), town.api("GET", "api/accounts").json()
    with pytest.MonkeyPatch.context() as patch:
        real = subprocess.run
        patch.setattr(subprocess, "run", lambda *a, **k: real(*a, **k, input=text))
        done = town.cli(*arguments)
    assert done.returncode == code and message in done.stderr, done
    assert done.stderr.count("\n") == 1 and not done.stdout
    assert (len(town.events()), town.api("GET", "api/accounts").json()) == before


def test_a_disabled_user_is_out_and_comes_back_with_everything(town: Town) -> None:
    assert town.take(town.invite(), "karla").status_code == 302
    jar = log_in(town.hub, "karla", SECRET)
    token = town.hub.api("POST", "/users/karla/tokens", json={"note": "test"}).json()["token"]
    mine = {"headers": {"Authorization": f"token {token}"}, "timeout": 10}
    assert requests.get(f"{town.hub.url}/api/user", **mine).ok
    assert town.hub.spawn("karla").status_code in (201, 202)
    eventually(lambda: (town.hub.server("karla") or {}).get("ready"))
    done = town.cli("user", "disable", "karla", "--reason", "left the institute")
    assert done.stdout == "disabled karla; 1 sessions end; the home stays\n", done.stderr
    eventually(lambda: not town.hub.server("karla"))
    # Neither an old token nor one that is made now is good, and both stay.
    made = town.hub.api("POST", "/users/karla/tokens", json={"note": "made meanwhile"})
    assert made.status_code == 201
    tokens = {"headers": {"Authorization": f"token {made.json()['token']}"}, "timeout": 10}
    for path in ("/api/user", "/api/users/karla", "/metalhub/api/usage", "/metalhub/api/users/karla/sessions"):
        for who in (mine, tokens):
            answer = requests.get(town.hub.url + path, **who)
            assert answer.status_code == 403 and answer.json()["message"] == people.DISABLED, (path, answer.text)
    asked = town.hub.api("GET", f"/authorizations/token/{token}")
    assert asked.status_code == 403 and asked.json()["message"] == people.DISABLED
    assert jar.get(f"{town.hub.url}/home", timeout=10, allow_redirects=False).status_code == 302, "the cookie is no good any more"
    refused = log_in(town.hub, "karla", SECRET)
    assert "Your account is disabled; ask an administrator." in refused.last.text  # type: ignore[attr-defined]
    assert "disabled" not in log_in(town.hub, "karla", "wrong-" + SECRET).last.text  # type: ignore[attr-defined]
    # Nor does somebody else start a session for her.
    answer = town.hub.spawn("karla")
    assert answer.status_code == 403 and "disabled" in answer.json()["message"]
    (ended,) = town.found("session.stopped", user="karla", cause="disabled")
    assert ended["operator"] == "olga"
    assert town.found("account.disabled", user="karla", reason="left the institute")
    assert [row["state"] for row in town.json("user", "list") if row["name"] == "karla"] == ["disabled"]
    # The hub's restart changes nothing of it.
    town.hub.kill()
    town.hub.start()
    assert not town.logs_in("karla", SECRET)
    assert requests.get(f"{town.hub.url}/api/user", **mine).status_code == 403
    assert town.cli("user", "enable", "karla").stdout == "enabled karla\n"
    for who in (mine, tokens):
        assert requests.get(f"{town.hub.url}/api/user", **who).json()["name"] == "karla"
    assert town.hub.api("GET", f"/authorizations/token/{token}").json()["name"] == "karla"
    assert town.logs_in("karla", SECRET) and town.found("account.enabled", user="karla")


def test_a_disabled_user_whose_session_just_starts(town: Town) -> None:
    assert town.take(town.invite(), "mila").status_code == 302
    town.engine.fate = {"State": "preparing"}
    try:
        assert town.hub.spawn("mila").status_code in (201, 202)
        eventually(lambda: any("mila" in s["Spec"]["Name"] for s in town.engine.services.values()))
        assert town.json("user", "disable", "mila")["stopping"] == 1
        eventually(lambda: not any("mila" in s["Spec"]["Name"] for s in town.engine.services.values()))
    finally:
        town.engine.fate = {"State": "running"}


def test_passwords_of_words() -> None:
    known = people.words()
    assert len(known) == len(set(known)) == 7776
    made = people.passwords(200)
    assert len(set(made)) == 200 and all(len(password.encode()) <= 72 for password in made)
    # Words of the list may have a dash themselves.
    assert all(password.count("-") >= people.WORDS - 1 for password in made)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[platform.Platform]:
    made = platform.use(platform.Platform(config.parse(document(tmp_path))))
    (tmp_path / "cookie").write_text("b" * 64)
    yield made
    made.quota.close()


def test_an_invitation_is_taken_once_and_comes_back_when_the_account_cannot_be_made(host: platform.Platform) -> None:
    book = host.people.records
    made = book.invite("token", Invitation(quota="sessions=9", profiles=("pii",)), "admin", 1000)
    assert book.invites(1000, "token") == [made] and not book.invites(1000, "other")
    assert book.take(made, "ann", quotas.INVITE, 1001) and not book.take(made, "bob", quotas.INVITE, 1001)
    assert [(grant.user, grant.quota, grant.profiles) for grant in book.grants()] == [("ann", "sessions=9", ("pii",))]
    book.give_back(made, "ann", 1001)
    assert not book.grants() and book.take(made, "bob", quotas.INVITE, 1002)
    late = book.invite("late", Invitation(expires=10), "admin", 1000)
    assert not book.take(late, "ann", quotas.INVITE, 1010) and not book.withdraw(late.number, 1010)


def test_grants_merge_as_the_inventorys(host: platform.Platform) -> None:
    assert host.quota.home_size("ann", ()) == 10 * 2**30
    made = host.people.records.invite("t", Invitation(quota="workspace=1T"), "admin", 0)
    host.people.records.take(made, "ann", quotas.INVITE, 1)
    host.people._read(host.people.records)
    assert host.quota.home_size("ann", ()) == 2**40 and host.quota.home_size("bob", ()) == 10 * 2**30
    sources = {bound.resource: bound.source for bound in host.quota.allowance("ann", ["research"]).bounds}
    assert sources == {"sessions": "group research", "workspace": "invite"}


def test_the_last_administrator_who_can_log_in_stays(host: platform.Platform) -> None:
    database = orm.new_session_factory("sqlite:///:memory:")()
    database.add_all([orm.User(name="zoe", admin=True), orm.User(name="yan", admin=True), orm.User(name="xia")])
    database.commit()
    app = SimpleNamespace(db=database, users={})
    cookie = orm.User.find(database, "yan").cookie_id
    assert host.people.disable(app, "yan", "", "zoe") == [] and host.people.disabled("yan")
    assert orm.User.find(database, "yan").cookie_id != cookie
    with pytest.raises(people.Impossible, match="'zoe' is the last administrator who can log in"):
        host.people.disable(app, "zoe", "", "yan")
    assert not host.people.disabled("zoe")
    host.people.enable("yan", "zoe")
    host.people.disable(app, "zoe", "", "yan")


async def test_with_a_provider_nobody_is_invited_or_added_and_the_hub_keeps_out(tmp_path: Path) -> None:
    urls = {f"{name}_url": f"https://id.example.org/{name}" for name in ("authorize", "token", "userdata")}
    provider = {"kind": "oidc", "admins": ["admin"], "oidc": {**urls, "client_id": "metalhub", "client_secret_file": "/secret"}}
    host = platform.use(platform.Platform(config.parse(document(tmp_path, auth=provider))))
    try:
        with pytest.raises(people.Impossible, match="Accounts are the identity provider's here"):
            host.people.invite(set(), None, {}, "admin")
        with pytest.raises(people.Impossible, match="Accounts are the identity provider's here"):
            await host.people.add(None, ())
        assert host.people.find("anything") is None
        door = auth.MetalhubOAuthenticator()
        assert await door.check_blocked_users("zoe") is True
        host.people.records.block(records.Block("zoe", "", "admin", 1))
        host.people._read(host.people.records)
        assert await door.check_blocked_users("zoe") is False and await door.check_blocked_users("yan") is True
    finally:
        host.quota.close()


def test_tables_of_a_newer_release_are_left_alone(host: platform.Platform) -> None:
    book = host.people.records
    host.quota.ledger.change(lambda connection: connection.execute(records._schema.insert().values(version=99)))
    with pytest.raises(LedgerError, match="the records' tables are of version 99, .*: install the newer one"):
        book.create()
