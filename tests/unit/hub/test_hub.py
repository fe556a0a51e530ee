"""The real hub as a process of its own, with its real configuration, killed and started over between fakes."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
import yaml
from aiohttp import web
from conftest import FakeEngine, FakeSession, Served, document, session_of

PACKAGE = Path(__file__).parents[3] / "files" / "hub"
TOKEN = "a" * 40
PASSWORD = "correct-horse-battery"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def eventually(check: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found or time.monotonic() > deadline:
            assert found
            return found
        time.sleep(0.1)


class Hub:
    def __init__(self, directory: Path, traefik: int) -> None:
        self.directory, self.port = directory, free_port()
        self.url = f"http://127.0.0.1:{self.port}/hub"
        raw = document(
            directory,
            public_url="http://127.0.0.1:1",
            listen=f"http://127.0.0.1:{self.port}",
            connect_url=f"http://127.0.0.1:{self.port}",
            session={"start_timeout": "1m"},
        )
        raw["auth"]["signup"] = True
        raw["traefik"]["api_url"] = f"http://127.0.0.1:{traefik}"
        (directory / "hub.yml").write_text(yaml.safe_dump(raw, sort_keys=False))
        for name, text in (("cookie", "b" * 64), ("traefik", "c" * 64), ("admin", PASSWORD)):
            (directory / name).write_text(text)
            (directory / name).chmod(0o600)
        (directory / "config.py").write_text(
            # A quarter of a second a password otherwise.
            "import bcrypt\n"
            "gensalt = bcrypt.gensalt\n"
            "bcrypt.gensalt = lambda: gensalt(4)\n"
            f"load_subconfig({str(PACKAGE / 'metalhub_hub' / 'jupyterhub_config.py')!r})\n"
            f"c.JupyterHub.services = [{{'name': 'test', 'api_token': {TOKEN!r}}}]\n"
            "c.JupyterHub.load_roles = [{'name': 'test', 'services': ['test'], 'scopes': "
            "['admin:users', 'admin:servers', 'admin:server_state', 'admin:groups']}]\n"
            "c.Spawner.poll_interval = 1\n"
            "c.JupyterHub.tornado_settings['slow_spawn_timeout'] = 1\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "METALHUB_HUB_CONFIG": str(self.directory / "hub.yml"), "PYTHONPATH": str(PACKAGE)}
        with open(self.directory / "hub.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "metalhub_hub", "run", "-f", str(self.directory / "config.py")],
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=log,
            )
        eventually(self.answers, 180)

    def answers(self) -> bool:
        assert self.process and self.process.poll() is None, (self.directory / "hub.log").read_text()[-3000:]
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/health", timeout=5).ok
        return False

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self.process
        self.process.send_signal(how)
        self.process.wait(20)

    def api(self, method: str, path: str, **arguments: Any) -> requests.Response:
        headers = {"Authorization": f"token {TOKEN}"}
        return requests.request(method, f"{self.url}/api{path}", headers=headers, timeout=30, **arguments)

    def server(self, user: str = "ann", name: str = "") -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.api("GET", f"/users/{user}").json()["servers"].get(name)
        return found

    def spawn(self, user: str = "ann", **options: Any) -> requests.Response:
        return self.api("POST", f"/users/{user}/server", json=options)

    def page(self, path: str, jar: requests.Session) -> str:
        return jar.get(f"{self.url}{path}", timeout=10).text


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    fake = FakeEngine(str(tmp_path_factory.mktemp("hub") / "engine.sock"))
    with fake.served:
        yield fake


@pytest.fixture(scope="module")
def session(engine: FakeEngine) -> Iterator[FakeSession]:
    yield from session_of(engine)


@pytest.fixture(scope="module")
def started(engine: FakeEngine, session: FakeSession) -> Iterator[Hub]:
    async def traefik(request: web.Request) -> web.Response:
        return web.json_response({"status": "enabled"})

    with Served(traefik) as served:
        one = Hub(Path(engine.served.path).parent, served.port)
        with (one.directory / "config.py").open("a") as file:
            file.write("import sys\nopen('modules', 'w').write('\\n'.join(sys.modules))\n")
        one.start()
        yield one
        if one.process and one.process.poll() is None:
            one.kill(signal.SIGTERM)


@pytest.fixture
def hub(started: Hub, engine: FakeEngine, session: FakeSession) -> Hub:
    """The hub with ann, who has no session; nobody else has one, and what is around it is well."""
    engine.mode, engine.fate, session.answering = "ok", {"State": "running"}, True
    for node in engine.nodes:
        node["Status"]["State"] = "ready"
    if started.process is None or started.process.poll() is not None:
        started.start()
    clear(started)
    eventually(lambda: not engine.services)
    started.api("POST", "/users/ann")
    return started


def clear(hub: Hub) -> None:
    """Have no session, no group, and no user but the administrator."""

    def empty() -> bool:
        users = hub.api("GET", "/users").json()
        for user in users:
            # Where something is under way this is refused, and comes again.
            for name in user["servers"]:
                path = f"servers/{name}" if name else "server"
                hub.api("DELETE", f"/users/{user['name']}/{path}", json={"remove": bool(name)})
            if user["name"] != "admin" and not user["servers"]:
                hub.api("DELETE", f"/users/{user['name']}")
        return all(user["name"] == "admin" and not user["servers"] for user in users)

    eventually(empty, 60)
    for group in hub.api("GET", "/groups").json():
        hub.api("DELETE", f"/groups/{group['name']}")


def ready(hub: Hub) -> Callable[[], Any]:
    return lambda: (hub.server() or {}).get("ready")


def log_in(hub: Hub, name: str, password: str) -> requests.Session:
    jar = requests.Session()
    jar.trust_env = False
    page = jar.get(f"{hub.url}/login", timeout=10).text
    token = page.split('name="_xsrf" value="')[1].split('"')[0]
    fields = {"username": name, "password": password, "_xsrf": token}
    jar.last = jar.post(f"{hub.url}/login", data=fields, allow_redirects=False, timeout=10)  # type: ignore[attr-defined]
    return jar


@pytest.mark.parametrize("mode", ["ok", "500", "hang", "no leader"])
def test_sessions_outlive_a_killed_hub(hub: Hub, engine: FakeEngine, session: FakeSession, mode: str) -> None:
    assert hub.spawn().status_code in (201, 202)
    eventually(ready(hub))
    (before,) = engine.services
    hub.kill()
    # The engine is sick and the session silent just while the new hub looks for what it had.
    engine.mode, session.answering = mode, mode == "ok"
    hub.start()
    time.sleep(4)
    engine.mode, session.answering = "ok", True
    eventually(ready(hub))
    assert list(engine.services) == [before]
    assert hub.api("DELETE", "/users/ann/server").status_code in (202, 204)
    eventually(lambda: not engine.services)


def test_a_hub_killed_while_a_session_starts_finds_it(hub: Hub, engine: FakeEngine) -> None:
    engine.fate = {"State": "preparing"}
    assert hub.spawn().status_code in (201, 202)
    eventually(lambda: engine.services)
    time.sleep(0.3)
    hub.kill()
    engine.tasks[0]["Status"]["State"] = "running"
    hub.start()
    eventually(ready(hub))
    assert len(engine.services) == 1


def test_a_node_that_dies_is_told_and_one_click_starts_again(hub: Hub, engine: FakeEngine) -> None:
    hub.api("POST", "/users/admin")
    hub.spawn("admin", profile="small")
    eventually(lambda: (hub.server("admin") or {}).get("ready"))
    jar = log_in(hub, "admin", PASSWORD)
    engine.nodes[0]["Status"]["State"] = "down"
    eventually(lambda: not engine.services)
    eventually(lambda: "stopped answering" in hub.page("/user/admin/lab", jar))
    page = hub.page("/user/admin/lab", jar)
    assert "Your home is intact" in page
    click = re.search(r'id="start"[^>]*href="([^"]+)"', page)
    assert click is not None
    engine.tasks.clear()
    engine.fate = {"State": "running"}
    engine.nodes[0]["Status"]["State"] = "ready"
    jar.get(urljoin(f"{hub.url}/", html.unescape(click[1])), timeout=10, allow_redirects=False)
    eventually(lambda: (hub.server("admin") or {}).get("ready"))


def test_the_rest_api_passes_no_policy_by(hub: Hub, engine: FakeEngine) -> None:
    for options in ({"profile": "pii"}, {"profile": "small", "image": "evil"}, {"profile": "ghost"}):
        answer = hub.spawn(**options)
        assert 400 <= answer.status_code < 600 and answer.json()["message"], options
    assert not engine.services
    hub.api("POST", "/groups/clinical")
    hub.api("POST", "/groups/clinical/users", json={"users": ["ann"]})
    assert hub.spawn(profile="pii").status_code in (201, 202)
    eventually(ready(hub))
    (service,) = engine.services.values()
    assert service["Spec"]["TaskTemplate"]["Networks"] == [{"Target": "mh-internal"}]


def test_the_third_session_is_over_the_quota(hub: Hub, engine: FakeEngine) -> None:
    for name in ("server", "servers/two"):
        assert hub.api("POST", f"/users/ann/{name}", json={}).status_code in (201, 202)
    refused = hub.api("POST", "/users/ann/servers/three", json={})
    assert refused.status_code == 403 and "may have 2" in refused.json()["message"]


def routes(hub: Hub) -> dict[str, str]:
    data = json.loads((hub.directory / "routes.yml").read_text())
    services, routers = data["http"]["services"], data["http"]["routers"]
    return {
        route["routespec"]: services[routers[name]["service"]]["loadBalancer"]["servers"][0]["url"]
        for name, route in data["jupyterhub"]["routes"].items()
    }


def test_a_named_session_that_ended_has_the_hubs_page(hub: Hub, engine: FakeEngine) -> None:
    for name in ("server", "servers/two"):
        hub.api("POST", f"/users/ann/{name}", json={})
    eventually(lambda: (hub.server("ann", "two") or {}).get("ready"))
    session, here = f"http://127.0.0.1:{engine.port}", f"http://127.0.0.1:{hub.port}"
    assert routes(hub) == {"/": here, "/user/ann/": session, "/user/ann/two/": session}
    assert (hub.directory / "routes.yml").stat().st_mode & 0o777 == 0o640
    hub.api("DELETE", "/users/ann/servers/two")
    # Traefik would send /user/ann/two/ to the other session, which knows nothing of it.
    eventually(lambda: routes(hub) == {"/": here, "/user/ann/": session, "/user/ann/two/": here})
    hub.api("POST", "/users/ann/servers/two", json={})
    eventually(lambda: (hub.server("ann", "two") or {}).get("ready"))
    assert routes(hub)["/user/ann/two/"] == session
    hub.api("DELETE", "/users/ann/servers/two", json={"remove": True})
    eventually(lambda: routes(hub) == {"/": here, "/user/ann/": session})


def test_a_refusal_is_on_the_page_in_words(hub: Hub, engine: FakeEngine) -> None:
    jar = log_in(hub, "admin", PASSWORD)
    page = hub.page("/spawn/admin", jar)
    for words in ("Small", "/home/user", "does not persist", "12 hours"):
        assert words in page, words
    assert ">pii<" not in page
    engine.fate = {"State": "rejected", "Err": "bind source path does not exist: /srv/metalhub/homes/admin"}
    page = jar.get(f"{hub.url}/spawn/admin?opt-profile=small", timeout=20).text
    assert "Your home is offline" in page
    told = {"places": 4, "state": "free", "why": "", "tag": "", "ask": "", "gpu": "", "waiting": 0}
    eventually(lambda: jar.get(f"{hub.url}/metalhub/room", timeout=10).json()["small"] == told)
    assert "There is nothing here" in hub.page("/nonsense", jar)


def test_accounts(hub: Hub) -> None:
    assert log_in(hub, "admin", PASSWORD).last.status_code == 302  # type: ignore[attr-defined]
    wrong = log_in(hub, "admin", "x" * 100).last  # type: ignore[attr-defined]
    assert wrong.status_code == 403 and "Invalid username or password" in wrong.text

    def sign_up(name: str) -> str:
        jar = requests.Session()
        token = jar.get(f"{hub.url}/signup", timeout=10).text.split('name="_xsrf" value="')[1].split('"')[0]
        fields = {"username": name, "signup_password": PASSWORD + "2", "signup_password_confirmation": PASSWORD + "2", "_xsrf": token}
        return jar.post(f"{hub.url}/signup", data=fields, timeout=10).text

    assert "approval" in sign_up("bob")
    waiting = log_in(hub, "bob", PASSWORD + "2").last  # type: ignore[attr-defined]
    assert waiting.status_code == 403 and "waiting for an administrator" in waiting.text
    # Somebody who guesses the password is told no more than anybody.
    assert "waiting" not in log_in(hub, "bob", "something else").last.text  # type: ignore[attr-defined]
    boss = log_in(hub, "admin", PASSWORD)
    elsewhere = boss.get(f"{hub.url}/authorize/bob", headers={"Sec-Fetch-Site": "cross-site"}, timeout=10)
    assert elsewhere.status_code == 403, "a link on another page approves nobody"
    boss.get(f"{hub.url}/authorize/bob", headers={"Sec-Fetch-Site": "same-origin"}, timeout=10)
    assert log_in(hub, "bob", PASSWORD + "2").last.status_code == 302  # type: ignore[attr-defined]


def test_the_hub_is_there_without_what_takes_long_to_load_and_is_not_used(hub: Hub) -> None:
    loaded = (hub.directory / "modules").read_text().split()
    assert "jupyterhub.app" in loaded and "jsonschema" in loaded and "lark" not in loaded


def test_a_document_that_is_wrong_stops_the_hub_with_its_words(tmp_path: Path) -> None:
    raw = document(tmp_path)
    raw["profiles"]["small"]["flavor"] = "huge"
    (tmp_path / "hub.yml").write_text(yaml.safe_dump(raw))
    done = subprocess.run(
        [sys.executable, "-m", "metalhub_hub", "check", str(tmp_path / "hub.yml")],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == "profiles.small.flavor: 'huge' is not legal: give one of slice, small\n"
