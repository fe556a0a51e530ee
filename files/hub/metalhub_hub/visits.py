"""Requests for a hibernated session, whose route leads to the hub meanwhile: a person who opens a page wakes it, a program does not.

A forgotten tab asks on for ever. It gets a short answer, which costs nobody anything and is no activity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jupyterhub import handlers
from jupyterhub.handlers.base import PrefixRedirectHandler, UserUrlHandler
from jupyterhub.utils import url_path_join
from tornado import web

from . import hibernation, platform

# A tab that asks again later than that is early enough: its page says when the session is awake.
RETRY_AFTER = 30
ASLEEP = "This session is hibernated. Open its page to wake it; a program does it by POST to {wake}."
NOBODY = "No session answers here right now. If yours is hibernated, open its page to wake it."


def navigates(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is a person's for a page of its own, rather than a page's or a program's.

    Browsers say so (https://www.w3.org/TR/fetch-metadata), except over plain HTTP and except old ones. Those ask for HTML by its name
    when they open a page, and not for what a script fetches.
    """
    if method != "GET" or headers.get("Authorization") or headers.get("Upgrade"):
        return False
    if headers.get("Sec-Purpose") or headers.get("Purpose"):
        return False  # to have it at hand, should somebody open it
    mode = headers.get("Sec-Fetch-Mode")
    if mode is not None:
        return mode == "navigate" and headers.get("Sec-Fetch-Dest", "document") == "document"
    return "text/html" in headers.get("Accept", "") and headers.get("X-Requested-With") is None


def _refuse(handler: Any, message: str) -> None:
    handler.set_status(503)
    handler.set_header("Content-Type", "application/json")
    handler.set_header("Cache-Control", "no-store")
    handler.set_header("Retry-After", str(RETRY_AFTER))
    handler.finish(json.dumps({"message": message}))


class VisitHandler(UserUrlHandler):  # type: ignore[misc]
    """/hub/user/<name>/…: where the proxy sends what it has no session for."""

    def _asleep(self, user_name: str, user_path: str) -> Any:
        """The hibernated session that is asked for by somebody who has access to it, or None."""
        user = self.find_user(user_name) if self.current_user is not None else None
        if user is None:
            return None
        name = (user_path or "").lstrip("/").split("/", 1)[0]
        if not name or name not in user.orm_user.orm_spawners or not self.allow_named_servers:
            name = ""
        if not self.has_scope(f"access:servers!server={user_name}/{name}"):
            return None
        spawner = user.spawners[name]
        asleep = platform.current().sessions.runs(spawner) and spawner.life is not None and spawner.life.frozen
        return spawner if asleep else None

    async def get(self, user_name: str, user_path: str) -> None:
        spawner = self._asleep(user_name, user_path)
        if spawner is None:
            await super().get(user_name, user_path)
        elif navigates(self.request.method, self.request.headers):
            try:
                await platform.current().hibernation.wake(spawner, hibernation.VISIT)
            except hibernation.Unchanged as unchanged:
                raise web.HTTPError(503, str(unchanged)) from None
            self.redirect(url_path_join(self.base_url, self.request.uri[len(self.hub.base_url) :]))
        else:
            below = f"sessions/{spawner.name}" if spawner.name else "session"
            _refuse(self, ASLEEP.format(wake=f"{self.hub.base_url}metalhub/api/users/{user_name}/{below}/wake"))


class NobodyHandler(PrefixRedirectHandler):  # type: ignore[misc]
    """Everything outside of the hub's own addresses that the proxy has nobody for: pages go to the hub's handlers.

    What else a page does to a session that is not there, such as saving a file, cannot be sent on. Nobody is logged in here, so the
    answer is the same for all sessions.
    """

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here."""

    def _nobody(self) -> None:
        if self.request.path.startswith(f"{self.base_url}user/"):
            _refuse(self, NOBODY)
        else:
            raise web.HTTPError(405)

    put = post = patch = delete = _nobody


def install() -> None:
    """JupyterHub has no setting for who answers for a session that is not reached. Called once, by jupyterhub_config.py."""
    ours = {UserUrlHandler: VisitHandler}
    handlers.default_handlers[:] = [(path, ours.get(handler, handler), *rest) for path, handler, *rest in handlers.default_handlers]
    handlers.PrefixRedirectHandler = NobodyHandler
