"""The API of snapshots, which the *Sessions* page and the command line use."""

from __future__ import annotations

from typing import Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from . import platform
from .snapshots import SnapshotError


class _Snapshots(APIHandler):  # type: ignore[misc]
    def _record_activity(self, obj: Any, timestamp: Any = None) -> bool:
        return False  # an open page is no sign of somebody at work

    def of(self, user_name: str) -> Any:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "There is no such user.")
        self.set_header("Cache-Control", "no-store")
        return user

    def nothing_said(self) -> None:
        """Raises 400 for a body: there is nothing to choose."""
        if self.get_json_body():
            raise web.HTTPError(400, "the body is not legal: give {} or nothing")


class SnapshotsHandler(_Snapshots):
    """GET, POST /hub/metalhub/api/users/<user>/snapshots: those there are, and one more."""

    @needs_scope("read:servers")
    async def get(self, user_name: str) -> None:
        try:
            self.finish(await platform.current().snapshots.listed(self.of(user_name)))
        except SnapshotError as error:
            raise web.HTTPError(error.status, str(error)) from None

    @needs_scope("servers", "admin-ui")
    async def post(self, user_name: str) -> None:
        user = self.of(user_name)
        self.nothing_said()
        try:
            taken = await platform.current().snapshots.take(user.name)
        except SnapshotError as error:
            raise web.HTTPError(error.status, str(error)) from None
        self.set_status(201)
        self.finish({**taken, "message": "A snapshot of the home was taken."})


class RestoreHandler(_Snapshots):
    """POST /hub/metalhub/api/users/<user>/snapshots/<name>/restore: make the home what it was."""

    @needs_scope("servers", "admin-ui")
    async def post(self, user_name: str, name: str) -> None:
        user = self.of(user_name)
        self.nothing_said()
        try:
            self.finish(await platform.current().snapshots.restore(user, name))
        except SnapshotError as error:
            raise web.HTTPError(error.status, str(error)) from None


HANDLERS = [
    (r"/metalhub/api/users/([^/]+)/snapshots", SnapshotsHandler),
    (r"/metalhub/api/users/([^/]+)/snapshots/([^/]+)/restore", RestoreHandler),
]
