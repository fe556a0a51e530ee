"""Traefik by its file provider, without the waits: a route is in in milliseconds where upstream takes most of a second."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import time
from typing import Any

from jupyterhub_traefik_proxy.fileprovider import TraefikFileProviderProxy
from jupyterhub_traefik_proxy.traefik_utils import generate_alias
from tornado.httpclient import HTTPClientError
from traitlets import default, observe

from . import platform


class RoutesFile:
    """The file of routes: JSON, which is YAML to Traefik, replaced at once, readable by its directory's group."""

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> dict[str, Any]:
        with open(self.path, encoding="utf-8") as file:
            data: dict[str, Any] = json.load(file)
        return data

    def atomic_dump(self, data: dict[str, Any]) -> None:
        # No suffix that Traefik would read.
        temporary = f"{self.path}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(data))  # json.dump takes three times as long, and each route writes all of them
        os.chmod(temporary, 0o640)
        os.replace(temporary, self.path)


class MetalhubProxy(TraefikFileProviderProxy):  # type: ignore[misc]
    """Traefik is a service of its own; the hub writes the routes and asks Traefik's API whether they are in."""

    # A route that was confirmed this recently is not written again: the spawner adds it before the hub does.
    fresh = 60.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._adding: dict[str, tuple[Any, asyncio.Task[None]]] = {}
        self._confirmed: dict[str, tuple[Any, float]] = {}
        platform.current().attach(self)

    @default("dynamic_config_handler")
    def _routes_file(self) -> RoutesFile:
        return RoutesFile(self.dynamic_config_file)

    @observe("dynamic_config_file")
    def _set_dynamic_config_file(self, change: Any) -> None:
        self.dynamic_config_handler = RoutesFile(change["new"])

    @default("traefik_api_hashed_password")
    def _hash_password(self) -> str:
        # Traefik checks it at each request. bcrypt, upstream's choice, takes a quarter of a second each time; the
        # password is 256 random bits, for which one round of anything is as good.
        digest = hashlib.sha1(self.traefik_api_password.encode(), usedforsecurity=False).digest()
        return "{SHA}" + base64.b64encode(digest).decode()

    async def _wait_for_route(self, routespec: str) -> None:
        deadline = time.monotonic() + self.check_route_timeout
        wait = 0.01
        while True:
            try:
                if await self._serves(routespec):
                    return
            except (OSError, HTTPClientError) as error:
                self.log.warning("Traefik's API does not answer: %s", error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"Traefik has no route for {routespec} after {self.check_route_timeout} s")
            await asyncio.sleep(wait)
            wait = min(wait * 1.3, 0.25)

    async def _serves(self, routespec: str) -> bool:
        """Whether Traefik has a route as it is in the file now. A file is loaded as a whole: with its service its router is in, too."""
        route = self.dynamic_config["jupyterhub"]["routes"].get(generate_alias(routespec, "router"))
        if route is None:
            return True  # deleted in the meantime
        try:
            answer = await self._traefik_api_request(f"/api/http/services/{route['service']}@{self.provider_name}")
            servers = json.loads(answer.body).get("loadBalancer", {}).get("servers")
        except HTTPClientError as error:
            if error.code == 404:
                return False
            raise
        # A route that is replaced is there all the time: what counts is where it leads.
        return servers is None or [server.get("url") for server in servers] == [route["target"]]

    def _asleep(self) -> set[str]:
        """The routes of hibernated sessions, which lead to the hub: it wakes them for a person, and no program waits for an answer."""
        spawners = [spawner for user in list(self.app.users.values()) for spawner in list(user.spawners.values())]
        return {spawner.proxy_spec for spawner in spawners if spawner.life is not None and spawner.life.frozen}

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        if routespec in self._asleep():
            target, data = self.app.hub.host, {**data, "asleep": target}
        routespec = self.validate_routespec(routespec)
        wanted = (target, data)
        known = self._confirmed.get(routespec)
        if known and known[0] == wanted and time.monotonic() - known[1] < self.fresh:
            return
        adding = self._adding.get(routespec)
        # Upstream merges a route into the one that was there.
        self.dynamic_config["jupyterhub"]["routes"].pop(generate_alias(routespec, "router"), None)
        if adding is None or adding[0] != wanted:
            task = asyncio.ensure_future(super().add_route(routespec, target, data))
            adding = self._adding[routespec] = (wanted, task)
        try:
            await asyncio.shield(adding[1])
            self._confirmed[routespec] = (wanted, time.monotonic())
        finally:
            if self._adding.get(routespec) is adding and adding[1].done():
                del self._adding[routespec]

    async def delete_route(self, routespec: str) -> None:
        routespec = self.validate_routespec(routespec)
        self._confirmed.pop(routespec, None)
        route = await self.get_route(routespec)
        if route is None:
            return
        await super().delete_route(routespec)
        if route["data"].get("server_name"):
            # A named session's address lies below that of its user's first one, which would answer for it with a page of
            # its own, "not found". The hub has a better one.
            await super().add_route(routespec, self.app.hub.host, {"ended": True})

    async def forget_route(self, routespec: str) -> None:
        """Delete a route whose session will not come back."""
        if await self.get_route(self.validate_routespec(routespec)) is not None:
            await super().delete_route(routespec)

    async def get_all_routes(self) -> dict[str, Any]:
        asleep, found = self._asleep(), {}
        for spec, route in (await super().get_all_routes()).items():
            # The hub's regular check would delete what it does not know,
            if route["data"].get("ended"):
                continue
            # and mends what leads elsewhere than it thinks.
            there = route["data"].get("asleep", "")
            if spec in asleep:
                route = {**route, "target": there if route["target"] == self.app.hub.host else ""}
            elif there:
                route = {**route, "target": ""}
            found[spec] = route
        return found
