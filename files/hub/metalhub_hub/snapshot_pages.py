"""The API of snapshots, which the *Sessions* page and the command line use."""

from __future__ import annotations

from typing import Any

from jupyterhub.apihandlers import APIHandler
from tornado import web

from . import openapi, platform
from .openapi import array, fields, integer, named, text, truth
from .snapshots import SnapshotError

_PARTS = {
    "name": text(),
    "time": text(format="date-time"),
    "cause": text("in one word"),
    "why": text("why it was taken, for its user"),
    "used_bytes": integer("what is in it"),
    "own_bytes": integer("what only it has"),
    "size": text("what is in it, for people"),
}
SNAPSHOT = named("Snapshot", fields(_PARTS))
LIST = fields(
    {
        "offered": truth(),
        "reason": text("why none are"),
        "keep": integer("how many are kept"),
        "busy": text("why none can be restored just now"),
        "missed": text("why there is none of the last session's end"),
        "snapshots": array(SNAPSHOT, "the newest first"),
    }
)
TAKEN = fields({**_PARTS, "message": text()})
RESTORED = fields({"restored": text("the snapshot"), "before": text("the snapshot of what was there until then"), "message": text()})
FAULTS = {400: "The body is not legal.", 409: "It cannot be done; the message says why.", 503: "The storage does not answer."}


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

    @openapi.operation("A user's snapshots", "read:servers", answer=LIST, faults={503: FAULTS[503]})
    async def get(self, user_name: str) -> None:
        try:
            self.finish(await platform.current().snapshots.listed(self.of(user_name)))
        except SnapshotError as error:
            raise web.HTTPError(error.status, str(error)) from None

    @openapi.operation(
        "Take a snapshot of a user's home", "servers", "admin-ui", body=fields(), body_needed=False, answer=TAKEN, status=201, faults=FAULTS
    )
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

    @openapi.operation(
        "Make a home what it was", "servers", "admin-ui", body=fields(), body_needed=False, answer=RESTORED, faults=FAULTS
    )
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
