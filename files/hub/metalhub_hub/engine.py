"""A client of the Swarm managers' engine API which knows three answers: yes, no, and "nobody could tell".

A manager without a leader, one that answers 5xx, hangs or refuses the connection says nothing about a session. Such
answers become EngineUnknown once every manager was tried, and callers must never read it as "gone".
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from . import config
from .core.swarm_plan import merge_labels

# What this code was written against. A newer engine still speaks it; an older one has no NoNewPrivileges for services.
API_NEWEST = (1, 47)
API_OLDEST = (1, 41)
UPDATES = 20


class EngineUnknown(Exception):
    """No manager gave a usable answer: the state of the cluster is not known."""


class EngineRefused(Exception):
    """A manager understood and refused (4xx)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


class Tls:
    """A client's TLS context which follows renewed certificates: read again when a file's time changes."""

    def __init__(self, ca: str, cert: str, key: str) -> None:
        self.files = (ca, cert, key)
        self._stamp: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError is one) where a file is missing or is no certificate."""
        stamp = tuple(os.stat(path).st_mtime_ns for path in self.files)
        if self._context is None or stamp != self._stamp:
            ca, cert, key = self.files
            context = ssl.create_default_context(cafile=ca)
            context.load_cert_chain(cert, key)
            self._context, self._stamp = context, stamp
        return self._context


class Engine:
    """The managers as one API. Requests go to the manager that answered last; the others are tried in turn."""

    def __init__(self, settings: config.Engine, registry: config.Registry) -> None:
        self.settings, self.registry = settings, registry
        self.managers = list(settings.managers)
        self.tls = Tls(settings.ca, settings.cert, settings.key)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._versions: dict[str, str] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, manager: str) -> aiohttp.ClientSession:
        if manager not in self._sessions:
            connector = aiohttp.UnixConnector(manager.removeprefix("unix://")) if manager.startswith("unix:") else None
            self._sessions[manager] = aiohttp.ClientSession(connector=connector)
        return self._sessions[manager]

    async def _ask(self, manager: str, method: str, path: str, **arguments: Any) -> tuple[int, Any, Any]:
        local = manager.startswith("unix:")
        async with self._session(manager).request(
            method,
            ("http://engine" if local else manager) + path,
            ssl=True if local else self.tls.context(),
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout, sock_connect=min(2, self.settings.timeout)),
            **arguments,
        ) as response:
            body = await response.read()
            try:
                data = json.loads(body) if body else None
            except ValueError:
                data = {"message": body[:200].decode("utf-8", "replace")}
            return response.status, data, response.headers

    async def _version(self, manager: str) -> str:
        if manager not in self._versions:
            status, data, headers = await self._ask(manager, "GET", "/_ping")
            if status != 200:
                raise EngineUnknown(f"{manager} answers {status} to a ping")
            told = tuple(int(part) for part in headers.get("Api-Version", "1.41").split("."))
            if told < API_OLDEST:
                raise EngineUnknown(f"{manager} speaks API {told}, older than {API_OLDEST}")
            self._versions[manager] = "v" + ".".join(map(str, min(told, API_NEWEST)))
        return self._versions[manager]

    async def request(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON answer. Raises EngineRefused for 4xx, EngineUnknown when no manager gave a usable answer."""
        troubles = []
        for manager in list(self.managers):
            try:
                version = await self._version(manager)
                status, data, _ = await self._ask(manager, method, f"/{version}{path}", **arguments)
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, EngineUnknown, ValueError) as error:
                troubles.append(f"{manager}: {type(error).__name__} {error}".strip())
                self._versions.pop(manager, None)
                continue
            message = str(data.get("message", "")) if isinstance(data, dict) else ""
            if status >= 500:
                troubles.append(f"{manager}: {status} {message}")
                continue
            if manager != self.managers[0]:
                self.managers.remove(manager)
                self.managers.insert(0, manager)
            if status >= 400:
                raise EngineRefused(status, message)
            return data
        raise EngineUnknown("; ".join(troubles))

    async def tasks(self, **filters: str) -> list[dict[str, Any]]:
        """Tasks, the whole cluster's without a filter."""
        query = {"filters": json.dumps({key: [value] for key, value in filters.items()})} if filters else {}
        return await self.request("GET", "/tasks", params=query) or []

    async def nodes(self) -> list[dict[str, Any]]:
        return await self.request("GET", "/nodes") or []

    async def _find(self, path: str) -> dict[str, Any] | None:
        """An object of the engine's; None says for certain that there is none."""
        try:
            found: dict[str, Any] = await self.request("GET", path)
        except EngineRefused as refused:
            if refused.status == 404:
                return None
            raise
        return found

    async def node(self, identifier: str) -> dict[str, Any] | None:
        """A node's entry; None says for certain that there is none."""
        return await self._find(f"/nodes/{identifier}")

    async def update_node(self, identifier: str, availability: str, labels: Mapping[str, str | None]) -> None:
        """Set whether a node takes tasks, and labels, where None removes one. An entry changes by itself, so a lost race is run again."""
        for attempt in range(UPDATES):
            node = await self.node(identifier)
            if node is None:
                raise EngineUnknown(f"node {identifier} is gone")
            spec = {**node["Spec"], "Availability": availability, "Labels": merge_labels(node["Spec"].get("Labels") or {}, labels)}
            if spec == node["Spec"]:
                return
            try:
                await self.request("POST", f"/nodes/{identifier}/update", params={"version": str(node["Version"]["Index"])}, json=spec)
                return
            except (EngineRefused, EngineUnknown) as error:
                if "out of sequence" not in str(error) or attempt == UPDATES - 1:
                    raise
            await asyncio.sleep(0.1)

    async def services(self, label: str) -> list[dict[str, Any]]:
        return await self.request("GET", "/services", params={"filters": json.dumps({"label": [label]})}) or []

    async def service(self, name: str) -> dict[str, Any] | None:
        """A service by id or name; None says for certain that there is none."""
        return await self._find(f"/services/{name}")

    async def create_service(self, spec: dict[str, Any]) -> str:
        """The id of the created service. Its name is unique, so a repeated request cannot make two."""
        try:
            made = await self.request("POST", "/services/create", json=spec, headers=self._registry_auth())
            return str(made["ID"])
        except EngineRefused as refused:
            if refused.status != 409:
                raise
        # The first try was heard although its answer was lost.
        found = await self.service(spec["Name"])
        if found is None:
            raise EngineUnknown(f"service {spec['Name']} is said to exist and is not found")
        return str(found["ID"])

    async def label_service(self, name: str, changes: Mapping[str, str | None]) -> None:
        """Change labels of a service, which touches none of its tasks; None takes one away."""
        found = await self.service(name)
        if found is None:
            return
        labels = {**(found["Spec"].get("Labels") or {}), **changes}
        body = {**found["Spec"], "Labels": {key: value for key, value in labels.items() if value is not None}}
        await self.request("POST", f"/services/{found['ID']}/update", params={"version": found["Version"]["Index"]}, json=body)

    async def remove_service(self, name: str) -> None:
        """Remove a service by id or name; one that is not there is no error."""
        try:
            await self.request("DELETE", f"/services/{name}")
        except EngineRefused as refused:
            if refused.status != 404:
                raise

    async def stop_container(self, address: str, container: str) -> bool:
        """End a container by its own node's engine, as `docker stop` does. Whether it has ended within a few seconds.

        Swarm ends a removed service's container only after two seconds
        that it leaves its load balancer to forget it (moby's defaultGossipConvergeDelay), and sessions have none.
        """
        status, _ = await self._ask_node(address, "POST", f"/containers/{container}/stop")
        return status in (204, 304)

    async def kill_container(self, address: str, container: str) -> bool:
        """End a container at once, as `docker kill` does. Whether it was told to."""
        status, _ = await self._ask_node(address, "POST", f"/containers/{container}/kill")
        return status == 204

    async def pause_container(self, address: str, container: str) -> bool | None:
        """Freeze a container by its own node's engine. Whether it is frozen now; None where nobody can tell."""
        status, _ = await self._ask_node(address, "POST", f"/containers/{container}/pause")
        # Engines answer in several ways that it was so already, and an answer may be lost on the way.
        return True if status == 204 else await self.is_paused(address, container)

    async def unpause_container(self, address: str, container: str) -> bool | None:
        """Let a frozen container go on. Whether it does now; None where nobody can tell."""
        status, _ = await self._ask_node(address, "POST", f"/containers/{container}/unpause")
        if status == 204:
            return True
        paused = await self.is_paused(address, container)
        return None if paused is None else not paused

    async def is_paused(self, address: str, container: str) -> bool | None:
        """Whether a container is frozen; None where nobody can tell, or where it does not run at all."""
        status, data = await self._ask_node(address, "GET", f"/containers/{container}/json")
        state = data.get("State") if status == 200 and isinstance(data, dict) else None
        return bool(state.get("Paused")) if isinstance(state, dict) and state.get("Running") else None

    async def _ask_node(self, address: str, method: str, path: str) -> tuple[int, Any]:
        """The status and JSON of a node's own engine, which listens at the same port everywhere; status 0 where there is no answer."""
        first = self.settings.managers[0]
        node = first if first.startswith("unix:") else f"https://{address}:{urlsplit(first).port}"
        try:
            version = await self._version(node)
            status, data, _ = await self._ask(node, method, f"/{version}{path}")
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, EngineUnknown, ValueError):
            self._versions.pop(node, None)
            return 0, None
        return status, data

    def _registry_auth(self) -> dict[str, str]:
        if not self.registry.user:
            return {}
        password = Path(self.registry.password_file).read_text(encoding="utf-8").strip()
        account = {"username": self.registry.user, "password": password, "serveraddress": self.registry.server}
        return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(account).encode()).decode()}
