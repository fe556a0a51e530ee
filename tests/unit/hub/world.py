"""What several tests begin with: the real hub between fakes and the ways to come in, and two nodes with a service for the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import requests
import yaml
from aiohttp import web
from conftest import FakeEngine, FakeNode, FakeSession, Served
from metalhub_hub import config
from metalhub_hub.engine import Engine, Tls
from metalhub_hub.node_client import NodeClient
from test_hub import PASSWORD, Hub, eventually, log_in

CLI_TOKEN = "d" * 40


class World:
    """A hub that is not started yet, its fakes, and the command line's token."""

    def __init__(self, directory: Path, traefik: int) -> None:
        self.directory, self.document = directory, directory / "hub.yml"
        self.engine, self.session = FakeEngine(str(directory / "engine.sock")), FakeSession()
        self.hub = Hub(directory, traefik)
        self._jars: dict[str, requests.Session] = {}
        (directory / "cli").write_text(CLI_TOKEN)
        self.change(lambda raw: raw.update(cli_token_file=str(directory / "cli")))
        # The hub's own configuration has services and roles, too.
        config = directory / "config.py"
        text = config.read_text().replace("c.JupyterHub.services = ", "c.JupyterHub.services += ")
        config.write_text(text.replace("c.JupyterHub.load_roles = ", "c.JupyterHub.load_roles += "))

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change the hub's document."""
        raw = yaml.safe_load(self.document.read_text())
        edit(raw)
        self.document.write_text(yaml.safe_dump(raw, sort_keys=False))

    def configure(self, *lines: str) -> None:
        """Add lines to the hub's configuration."""
        with (self.directory / "config.py").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def service(self, name: str, token: str, *scopes: str) -> None:
        """Have a service with a token and scopes."""
        self.configure(
            f"c.JupyterHub.services += [{{'name': {name!r}, 'api_token': {token!r}}}]",
            f"c.JupyterHub.load_roles += [{{'name': {name!r}, 'services': [{name!r}], 'scopes': {list(scopes)!r}}}]",
        )

    def mint(self) -> None:
        """Let ``token`` make tokens."""
        self.configure("c.JupyterHub.load_roles += [{'name': 'minter', 'services': ['test'], 'scopes': ['tokens']}]")

    def token(self, user: str) -> str:
        """A new token of a user's own."""
        return str(self.hub.api("POST", f"/users/{user}/tokens", json={"note": "test"}).json()["token"])

    async def traefik(self, request: web.Request) -> web.Response:
        """What Traefik's API answers the hub."""
        return web.json_response({"status": "enabled"})

    def sign_up(self, name: str, password: str = PASSWORD) -> None:
        """Ask for a native account."""
        jar = requests.Session()
        token = jar.get(f"{self.hub.url}/signup", timeout=20).text.split('name="_xsrf" value="')[1].split('"')[0]
        fields = {"username": name, "signup_password": password, "signup_password_confirmation": password, "_xsrf": token}
        assert jar.post(f"{self.hub.url}/signup", data=fields, timeout=20).ok

    def approve(self, name: str) -> None:
        headers = {"Sec-Fetch-Site": "same-origin"}
        assert self.cookies("admin").get(f"{self.hub.url}/authorize/{name}", headers=headers, timeout=20).ok

    def cookies(self, name: str) -> requests.Session:
        """Somebody's browser, logged in."""
        if name not in self._jars:
            self._jars[name] = log_in(self.hub, name, PASSWORD)
        return self._jars[name]

    def forgery(self, name: str) -> dict[str, str]:
        """What a page of the hub sends against forged requests."""
        page = self.cookies(name).get(f"{self.hub.url}/home", timeout=20).text
        return {"X-XSRFToken": page.split('xsrf_token: "')[1].split('"')[0]}

    def ask(self, token: str, path: str, method: str = "GET", **arguments: Any) -> requests.Response:
        """A request with a token, or without one."""
        headers: Mapping[str, str] = {"Authorization": f"token {token}"} if token else {}
        return requests.request(method, f"{self.hub.url}{path}", headers=headers, allow_redirects=False, timeout=20, **arguments)

    def running(self, user: str, name: str = "", **options: Any) -> None:
        """Have a session that is up."""
        assert self.hub.api("POST", f"/users/{user}").status_code in (201, 409)
        answer = self.hub.api("POST", f"/users/{user}/{f'servers/{name}' if name else 'server'}", json=options)
        assert answer.status_code in (201, 202), answer.text
        eventually(lambda: (self.hub.server(user, name) or {}).get("ready"))


Kind = TypeVar("Kind", bound=World)


@contextlib.contextmanager
def world(directory: Path, prepare: Callable[[Kind], None] = lambda made: None, kind: type[Kind] = World) -> Iterator[Kind]:  # type: ignore[assignment]
    """A hub that runs. ``prepare`` has it before its start."""

    async def traefik(request: web.Request) -> web.Response:
        return await made.traefik(request)

    with Served(traefik) as served:
        made = kind(directory, served.port)
        with made.engine.served, made.session.served:
            made.engine.port = made.session.served.port
            prepare(made)
            made.hub.start()
            try:
                yield made
            finally:
                if made.hub.process and made.hub.process.poll() is None:
                    made.hub.kill()


class Pair:
    """Two nodes with a service of theirs, and the engine that lists them. ``hub`` is the hub's client of it."""

    hub: NodeClient

    def __init__(self, pki: Path, engine: FakeEngine, directory: Path, node: type[FakeNode] = FakeNode) -> None:
        self.engine, self._pki = engine, pki
        self.one = node(pki, "127.0.0.1")
        self.two = node(pki, "127.0.0.2", self.one.port)
        engine.nodes[1]["Status"]["Addr"] = "127.0.0.2"
        self.seconds = 100.0
        self.api = Engine(config.Engine((f"unix://{directory}/engine.sock",), "", "", "", 0.3), config.Registry("", "", ""))

    def clock(self) -> float:
        return self.seconds

    def tls(self, name: str = "hub-client") -> Tls:
        return Tls(str(self._pki / "ca.crt"), str(self._pki / f"{name}.crt"), str(self._pki / f"{name}.key"))

    async def close(self) -> None:
        await self.hub.close()
        await self.api.close()
        self.one.close()
        self.two.close()
