"""Whose an address is: the labels of the container that has it on a session bridge, or the claim of one that was made ready in advance."""

from __future__ import annotations

import json
import os
import time
import typing as t
import urllib.parse

from .warm_pool import CLAIMS, is_name

Describe = t.Mapping[str, str]


class Sessions:
    """Looks containers up by address. A list is used for `age` seconds, so a session that has just begun is known after that."""

    def __init__(
        self, engine: t.Any, node: str, age: float = 2, clock: t.Callable[[], float] = time.monotonic, claims: str = CLAIMS
    ) -> None:
        self._engine, self._node, self._age, self._clock, self._claims = engine, node, age, clock, claims
        self._read: float | None = None
        self._known: dict[str, dict[str, str]] = {}

    def _look(self) -> None:
        query = urllib.parse.urlencode({"filters": '{"label":["metalhub.session"]}'})
        found = {}
        for container in self._engine.request("GET", f"/containers/json?{query}"):
            labels = container["Labels"]
            for network in container["NetworkSettings"]["Networks"].values():
                if network.get("IPAddress"):
                    found[network["IPAddress"]] = {
                        "user": labels.get("metalhub.user") or self._claimed(labels["metalhub.session"]),
                        "session": labels["metalhub.session"],
                        "profile": labels.get("metalhub.profile", ""),
                    }
        self._known = found

    def _claimed(self, session: str) -> str:
        """Whose a session has become that was nobody's when its container was made."""
        if not is_name(session):
            return ""
        try:
            with open(os.path.join(self._claims, session), encoding="utf-8") as stream:
                return str(json.load(stream)["user"])
        except (OSError, ValueError, KeyError):
            return ""

    def __call__(self, address: str) -> Describe:
        """`user`, `session`, `profile` and `node`; empty texts where nobody has the address (any more), or the engine is away."""
        now = self._clock()
        if self._read is None or now - self._read > self._age:
            self._read = now
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - whatever the engine says, a refusal has to be written
                print(f"sessions are not known: {error}", flush=True)
        return {"node": self._node, **self._known.get(address, {"user": "", "session": "", "profile": ""})}
