"""Whose an address is: the labels of the container that has it on a session bridge."""

from __future__ import annotations

import time
import typing as t
import urllib.parse

Describe = t.Mapping[str, str]


class Sessions:
    """Looks containers up by address. A list is used for `age` seconds, so a session that has just begun is known after that."""

    def __init__(self, engine: t.Any, node: str, age: float = 2, clock: t.Callable[[], float] = time.monotonic) -> None:
        self._engine, self._node, self._age, self._clock = engine, node, age, clock
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
                        "user": labels.get("metalhub.user", ""),
                        "session": labels["metalhub.session"],
                        "profile": labels.get("metalhub.profile", ""),
                    }
        self._known = found

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
