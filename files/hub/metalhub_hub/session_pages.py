"""What pages and programs ask about sessions, and how a session is extended, hibernated and woken.

Two ways in. The API is JupyterHub's own kind: a token or the page's cookie, its scopes, its check against forged requests. The notice is
for a page of the session itself, which has the hub's cookie but not the hub's token against forgery, and must not get it: everything
that runs in a session could use it. It gets a ticket that is good for extending and waking that one session.
"""

from __future__ import annotations

from typing import Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from tornado import web

from . import diagnose, hibernation, openapi, platform
from .core import durations, lifecycle
from .core.diagnosis import STEPS
from .openapi import array, fields, integer, named, text, truth

TICKET = "metalhub-extend"

# What Sessions.view says of one.
_ALWAYS = {
    "name": text("empty for the default session"),
    "state": text("what it is now", enum=list(lifecycle.STATES)),
    "pending": text("what is under way: spawn, stop, check, or nothing"),
    "profile": text("the profile's name, empty before the first start"),
    "title": text("the profile's title"),
    "node": text("the machine that runs it"),
    "ended": text("how the last one ended, in words"),
    "way_out": text("why its way out is closed, in words; empty where it is not"),
    "troubles": array(text(), "what its user has to know of it, such as that its machine is taken out of service"),
}
_PLACE = {
    "position": integer("its place among the starts that wait in the same pool, from 1"),
    "since": text("since when it waits"),
    "estimate": integer("seconds until its turn, as far as that can be foreseen", null=True),
    "basis": text("how that is known: history, idle, latest, now, or nothing"),
    "message": text("all that in words"),
}
_OTHERS = array(fields({"name": text(), "title": text()}), "the user's other profiles that would start at once")
_RUNNING = {
    "queue": fields({**_PLACE, "alternatives": _OTHERS}, "only while its start waits for a place"),
    "next": text("what happens next: stop, hibernate, or nothing"),
    "why": text("of what happens next: idle or max_session"),
    "left": integer("seconds until then", null=True),
    "idle": integer("seconds since something ran in it"),
    "busy": integer("seconds that a cell runs by now", null=True),
    "known": truth("whether its server says what it does"),
    "warned": truth("whether its stop is being announced"),
    "extension_left": integer("seconds by which it may still be extended"),
    "extend": {**fields({"seconds": integer(), "words": text()}, "one step of an extension"), "type": ["object", "null"]},
    "does": text("what it does now, in words"),
    "because": text("the end of a countdown's sentence"),
    "hibernates": truth("whether it can be hibernated"),
    "stays": text("why it was to be hibernated and was not, in words"),
    "notices": array(fields({"key": text(), "text": text()}), "what its user is told of quotas"),
}
WAITING = named(
    "Waiting",
    fields(
        {
            "user": text(),
            "name": text("the session's name, empty for the default one"),
            "profile": text(),
            "title": text("the profile's title"),
            "pool": text(),
            "waited": integer("seconds"),
            "priority": integer("of its user"),
            "sessions": integer("how many its user has"),
            **_PLACE,
        }
    ),
)
SESSION = named("Session", fields(_ALWAYS, "While it runs, all keys are there.", **_RUNNING))
TURNED = named("Turned", fields({"message": text("a sentence"), **_ALWAYS}, **_RUNNING))
FAULTS = {409: "It cannot be; the message says why.", 503: "Not now; the message says why."}
EXTENDED = named("Extended", fields({"extended": integer("seconds that it got"), "message": text("a sentence"), **_ALWAYS}, **_RUNNING))


DIAGNOSIS = named(
    "Diagnosis",
    fields(
        {
            "user": text(),
            "name": text("empty for the default session"),
            "cause": text("the one cause", enum=sorted(STEPS)),
            "sentence": text("what happened, for people"),
            "evidence": array(fields({"what": text(), "text": text()}), "numbers, the machine; for administrators also the engine's words"),
            "step": text("what its user can do"),
            "administrators": text("what an administrator can do; empty for others"),
            "node": text("the machine"),
            "at": text("when it happened, empty where it is so now", null=True),
            "now": truth("whether it still is so, as far as anybody can tell"),
        }
    ),
)


class Quiet:
    """An open page is no sign of somebody at work."""

    def _record_activity(self, obj: Any, timestamp: Any = None) -> bool:
        return False


def _server(user: Any, name: str) -> Any:
    """A user's session. Raises 404 for one that there is not."""
    if user is None or name not in user.spawners:
        raise web.HTTPError(404, "There is no such session.")
    return user.spawners[name]


def _extend(spawner: Any, seconds: int) -> dict[str, Any]:
    try:
        granted = platform.current().sessions.extend(spawner, seconds)
    except lifecycle.NoExtension as error:
        raise web.HTTPError(409, str(error)) from None
    message = f"The session was extended by {durations.format_duration(granted)}."
    return {"extended": granted, "message": message, **platform.current().sessions.view(spawner)}


async def _turn(spawner: Any, wake: bool) -> dict[str, Any]:
    """Wake or hibernate a session."""
    act = platform.current().hibernation
    try:
        await (act.wake(spawner) if wake else act.hibernate(spawner))
    except hibernation.Unchanged as unchanged:
        raise web.HTTPError(503 if unchanged.trouble else 409, str(unchanged)) from None
    message = "The session is awake." if wake else "The session is hibernated. Whoever opens it wakes it."
    return {"message": message, **platform.current().sessions.view(spawner)}


class SessionsAPIHandler(Quiet, APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/users/<user>/sessions: the user's sessions."""

    @openapi.operation("A user's sessions", "read:servers", answer=fields({"sessions": array(SESSION)}))
    async def get(self, user_name: str) -> None:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "There is no such user.")
        self.set_header("Cache-Control", "no-store")
        view = platform.current().sessions.view
        self.finish({"sessions": [view(spawner) for _, spawner in sorted(user.spawners.items())]})


class ExtendAPIHandler(Quiet, APIHandler):  # type: ignore[misc]
    """POST /hub/metalhub/api/users/<user>/session/extend, or …/sessions/<name>/extend, with ``{"by": "30m"}`` or nothing."""

    # Administrators' tools need not be able to start sessions for that.
    @openapi.operation(
        "Extend a session, at most by what its profile allows",
        "servers",
        "admin-ui",
        body=fields(by=text("how long, such as 30m; an hour where it is missing")),
        body_needed=False,
        answer=EXTENDED,
        faults={400: "The body is not legal.", 409: "It cannot be extended; the message says why."},
    )
    async def post(self, user_name: str, server_name: str = "") -> None:
        body = self.get_json_body()
        by = body.get("by") if isinstance(body, dict) else body
        try:
            seconds = lifecycle.STEP if by is None else durations.parse_duration(by)
            if not seconds or not isinstance(body or {}, dict) or set(body or {}) - {"by"}:
                raise ValueError('the body is not legal: give {"by": "30m"}, more than 0, or nothing')
        except ValueError as error:
            raise web.HTTPError(400, f"by: {error}") from None
        self.finish(_extend(_server(self.find_user(user_name), server_name), seconds))


class DiagnosisHandler(Quiet, APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/users/<user>/session/diagnosis, or …/sessions/<name>/diagnosis: why it does not run, or nothing is wrong."""

    @openapi.operation("Why a session does not run, or that nothing is wrong with it", "read:servers", answer=DIAGNOSIS)
    async def get(self, user_name: str, server_name: str = "") -> None:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "There is no such user.")
        if server_name and server_name not in user.orm_spawners:
            raise web.HTTPError(404, "There is no such session.")
        found = await diagnose.diagnose(platform.current(), user.spawners[server_name])
        # Users get what concerns them; addresses and the engine's words are for administrators.
        self.set_header("Cache-Control", "no-store")
        self.finish(diagnose.plain(user_name, server_name, found, "admin-ui" in self.parsed_scopes))


class HibernateAPIHandler(Quiet, APIHandler):  # type: ignore[misc]
    """POST /hub/metalhub/api/users/<user>/session/hibernate, or …/sessions/<name>/hibernate, without a body."""

    @openapi.operation(
        "Hibernate a session: it stands still, and its machine takes its memory back", "servers", "admin-ui", answer=TURNED, faults=FAULTS
    )
    async def post(self, user_name: str, server_name: str = "") -> None:
        self.finish(await _turn(_server(self.find_user(user_name), server_name), wake=False))


class WakeAPIHandler(Quiet, APIHandler):  # type: ignore[misc]
    """POST /hub/metalhub/api/users/<user>/session/wake, or …/sessions/<name>/wake, without a body."""

    @openapi.operation("Wake a hibernated session; one that is awake stays it", "servers", "admin-ui", answer=TURNED, faults=FAULTS)
    async def post(self, user_name: str, server_name: str = "") -> None:
        self.finish(await _turn(_server(self.find_user(user_name), server_name), wake=True))


class NoticeHandler(Quiet, BaseHandler):  # type: ignore[misc]
    """/hub/metalhub/notice/<user>, or …/<user>/<name>: for a page of that session, opened by its owner.

    GET is what happens next, with a ticket; POST with ``{"ticket": …}`` extends the session by one step, and with ``wake`` wakes it.
    """

    def check_xsrf_cookie(self) -> None:
        """The ticket stands for it, and a page of another site cannot read one."""

    def _own(self, user_name: str, server_name: str) -> Any:
        user = self.current_user
        if user is None or user.kind != "user" or user.name != user_name:
            raise web.HTTPError(403, "This is for the session's owner.")
        return _server(user, server_name)

    def _subject(self, spawner: Any) -> str:
        return f"{self.current_user.id} {spawner.service_name}"

    async def get(self, user_name: str, server_name: str = "") -> None:
        spawner = self._own(user_name, server_name)
        ticket = self.create_signed_value(TICKET, self._subject(spawner)).decode()
        self.set_header("Cache-Control", "no-store")
        self.finish({**platform.current().sessions.view(spawner), "ticket": ticket})

    async def post(self, user_name: str, server_name: str = "") -> None:
        spawner = self._own(user_name, server_name)
        ticket = self.get_signed_cookie(TICKET, value=self.get_argument("ticket", ""), max_age_days=1)
        if ticket is None or ticket.decode() != self._subject(spawner):
            raise web.HTTPError(403, "This page is too old; load it again.")
        self.finish(await _turn(spawner, True) if self.get_argument("wake", "") else _extend(spawner, lifecycle.STEP))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A sentence as JSON rather than a page."""
        error = kwargs.get("exc_info", (None, None))[1]
        self.set_header("Content-Type", "application/json")
        self.finish({"message": getattr(error, "log_message", None) or "Something unexpected happened."})


HANDLERS = [
    (r"/metalhub/api/users/([^/]+)/sessions", SessionsAPIHandler),
    (r"/metalhub/api/users/([^/]+)/session/extend", ExtendAPIHandler),
    (r"/metalhub/api/users/([^/]+)/sessions/([^/]+)/extend", ExtendAPIHandler),
    (r"/metalhub/api/users/([^/]+)/session/diagnosis", DiagnosisHandler),
    (r"/metalhub/api/users/([^/]+)/sessions/([^/]+)/diagnosis", DiagnosisHandler),
    (r"/metalhub/api/users/([^/]+)/session/hibernate", HibernateAPIHandler),
    (r"/metalhub/api/users/([^/]+)/sessions/([^/]+)/hibernate", HibernateAPIHandler),
    (r"/metalhub/api/users/([^/]+)/session/wake", WakeAPIHandler),
    (r"/metalhub/api/users/([^/]+)/sessions/([^/]+)/wake", WakeAPIHandler),
    (r"/metalhub/notice/([^/]+)", NoticeHandler),
    (r"/metalhub/notice/([^/]+)/([^/]+)", NoticeHandler),
]
