"""Profiles and requests for them, in the API and on the page of requests. Administrators change profiles and decide; users ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from . import acting, openapi, platform, policy, usage
from .core.profiles import PROFILE, ProfileRefused
from .openapi import anything, array, fields, integer, mapping, named, text, truth

STATUS = {"bad": 400, "missing": 404, "there": 409}
DECISION = ("decision", "for", "until", "reason")

# docs/profiles.md says what each is.
_KINDS = {
    "bool": truth,
    "list": lambda: array(text()),
    "dict": lambda: mapping(text()),
    "raw": lambda: anything("a text, or a list of lines"),
}
_FIELDS = {key: _KINDS.get(str(spec["type"]), text)() for key, spec in PROFILE.items()}
FIELDS = named("ProfileFields", fields({}, "As the inventory writes them.", **_FIELDS))
_OR_NULL = {key: {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema for key, schema in _FIELDS.items()}
CHANGES = named("ProfileChanges", fields({}, "null drops the change of its field.", **_OR_NULL))
_CHANGE = {
    "field": text(),
    "by": text(),
    "at": integer("since the epoch"),
    "inventory": anything("what the inventory says instead; null where it leaves the field open"),
    "stays": truth("whether the next converge leaves it"),
}
_PROFILE = {
    "name": text(),
    "inventory": truth("whether it is the inventory's"),
    "broken": text("why nobody can start it"),
    "fields": FIELDS,
    "changes": array(fields(_CHANGE)),
}
TOLD = named("ToldProfile", fields({**_PROFILE, "doubts": array(text(), "times that never come")}))
_REQUEST = {
    "user": text(),
    "profile": text(),
    "title": text("empty where the profile is no longer there"),
    "state": text(enum=["pending", "approved", "denied", "ended"]),
    "asked": text(null=True),
    "reason": text("the user's"),
    "by": text("who decided"),
    "at": text(null=True),
    "until": text(null=True),
    "answer": text("the administrator's reason"),
}
REQUEST = named("ProfileRequest", fields(_REQUEST))
_BAD = {400: "The body is not legal, and the message says what is.", 503: "The disk takes nothing, and nothing was changed."}


@contextmanager
def _answered(handler: Any) -> Iterator[None]:
    """Turn refusals into answers, and a disk that takes nothing, too."""
    try:
        yield
    except ProfileRefused as refused:
        raise web.HTTPError(STATUS[refused.why], str(refused)) from None
    except ValueError as error:
        raise web.HTTPError(400, str(error)) from None
    except OSError as error:
        handler.log.error("The hub's state cannot be written: %s", error)
        raise web.HTTPError(503, "The hub cannot write this down right now, so nothing was changed; look at its disk.") from None


def _object(handler: Any) -> dict[str, Any]:
    body = handler.get_json_body()
    if not isinstance(body, dict):
        raise web.HTTPError(400, "The body is not legal: give a JSON object.")
    return body


class _Profiles(APIHandler):  # type: ignore[misc]
    def who(self) -> str:
        """Who makes a change, for those who read it later."""
        now = acting.request.get()
        return (now.operator if now else "") or str(self.current_user.name)

    def tell(self, name: str, doubts: list[str]) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish({**platform.current().profiles.view(name), "doubts": doubts})


class ProfilesHandler(_Profiles):
    """/hub/metalhub/api/profiles. GET: all of them. POST: one more, with ``name`` and its fields."""

    @openapi.operation("All profiles", "admin-ui", answer=fields({"profiles": array(fields(_PROFILE))}))
    async def get(self) -> None:
        profiles = platform.current().profiles
        self.set_header("Cache-Control", "no-store")
        self.finish({"profiles": [profiles.view(name) for name in profiles.entries()]})

    @openapi.operation(
        "Make a profile",
        "admin-ui",
        body=fields({"name": text()}, **_FIELDS),
        answer=TOLD,
        status=201,
        faults={**_BAD, 409: "There is a profile of this name."},
    )
    async def post(self) -> None:
        fields = dict(_object(self))
        name = str(fields.pop("name", ""))
        with _answered(self):
            doubts = platform.current().profiles.change(name, fields, "create", self.who())
        self.set_status(201)
        self.tell(name, doubts)


class ProfileHandler(_Profiles):
    """/hub/metalhub/api/profiles/<name>: GET, PATCH (the fields given), PUT (these fields and no other change), DELETE."""

    @openapi.operation("A profile", "admin-ui", answer=TOLD)
    async def get(self, name: str) -> None:
        if name not in platform.current().profiles.entries():
            raise web.HTTPError(404, "There is no such profile.")
        self.tell(name, [])

    @openapi.operation("Change fields of a profile", "admin-ui", body=CHANGES, answer=TOLD, faults=_BAD)
    async def patch(self, name: str) -> None:
        self._change(name, "change")

    @openapi.operation("Change these fields of a profile and no others, or make it", "admin-ui", body=CHANGES, answer=TOLD, faults=_BAD)
    async def put(self, name: str) -> None:
        self._change(name, "replace")

    def _change(self, name: str, how: str) -> None:
        body = _object(self)
        with _answered(self):
            doubts = platform.current().profiles.change(name, body, how, self.who())
        self.tell(name, doubts)

    @openapi.operation(
        "Delete a profile that was made at runtime",
        "admin-ui",
        status=204,
        faults={409: "It is the inventory's, or sessions of it run.", 503: _BAD[503]},
    )
    async def delete(self, name: str) -> None:
        host = platform.current()
        running = sorted(
            "/".join(filter(None, (user.name, spawner.name)))
            for user in list(self.users.values())
            for spawner in list(user.spawners.values())
            if spawner.active and spawner.profile_name == name
        )
        if running and name not in host.document.inventory:
            # Its limits would go with it.
            raise web.HTTPError(409, f"Sessions of {name} run: {', '.join(running[:10])}. Stop them first.")
        with _answered(self):
            host.profiles.delete(name, self.who())
            host.approvals.forget_profile(name)
        self.set_status(204)


class ConvergeHandler(_Profiles):
    """POST /hub/metalhub/api/profiles-converge: the inventory's own fields win, as each run of the site's playbook has it."""

    @openapi.operation(
        "Let the inventory's own fields win now",
        "admin-ui",
        answer=fields({"dropped": array(fields({"profile": text(), "field": text()}))}),
    )
    async def post(self) -> None:
        dropped = platform.current().profiles.converge("a converge asked for it")
        self.finish({"dropped": [{"profile": each.profile, "field": each.field} for each in dropped]})


class RequestsAPIHandler(_Profiles):
    """GET /hub/metalhub/api/profile-requests: who asked for what, and what was said."""

    @openapi.operation("Requests for profiles that need approval, and decisions", "admin-ui", answer=fields({"requests": array(REQUEST)}))
    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish({"requests": platform.current().approvals.rows()})


class DecisionHandler(_Profiles):
    """PUT /hub/metalhub/api/profile-requests/<user>/<profile>: ``decision`` is ``approve`` or ``deny``; ``reason``, ``for``, ``until``."""

    @openapi.operation(
        "Approve a user for a profile, or deny",
        "admin-ui",
        body=fields(
            {"decision": text(enum=["approve", "deny"])},
            "Of an approval, for or until is its end, if it has one.",
            **{"reason": text(), "for": text("how long from now on: 30d"), "until": text("with its zone: 2026-01-31T18:00:00+01:00")},
        ),
        answer=REQUEST,
        faults=_BAD,
    )
    async def put(self, user_name: str, profile: str) -> None:
        host, body = platform.current(), _object(self)
        with _answered(self):
            for key in body:
                if key not in DECISION:
                    raise ValueError(f"{key} is not known; legal are {', '.join(DECISION)}")
            if body.get("decision") not in ("approve", "deny"):
                raise ValueError(f"decision is {body.get('decision')!r}; legal are approve and deny")
            if not isinstance(body.get("reason", ""), str):
                raise ValueError(f"reason is {body['reason']!r}; legal is text")
            if "for" in body and "until" in body:
                raise ValueError("an approval has one end; legal is one of until: 2026-01-31T18:00:00+01:00 and for: 30d")
            until = usage.read_end(body, host.approvals.now()) if "for" in body or "until" in body else 0
            if orm.User.find(self.db, user_name) is None:
                raise web.HTTPError(404, "There is no such user.")
            if profile not in host.profiles.entries():
                raise web.HTTPError(404, "There is no such profile.")
            host.approvals.decide(user_name, profile, body["decision"] == "approve", self.who(), body.get("reason", ""), until)
        self.set_header("Cache-Control", "no-store")
        self.finish(next(row for row in host.approvals.rows() if (row["user"], row["profile"]) == (user_name, profile)))


class AskHandler(APIHandler):  # type: ignore[misc]
    """POST /hub/metalhub/api/users/<user>/profile-requests with ``profile`` and, if wanted, ``reason``."""

    @openapi.operation(
        "Ask for a profile that needs approval",
        "servers",
        body=fields({"profile": text()}, reason=text()),
        answer=fields({"profile": text(), "state": text()}),
        status=201,
        faults=_BAD,
    )
    async def post(self, user_name: str) -> None:
        host, body, user = platform.current(), _object(self), self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "There is no such user.")
        groups = {group.name for group in user.groups}
        name, reason = body.get("profile"), body.get("reason", "")
        with _answered(self):
            if set(body) - {"profile", "reason"} or not isinstance(name, str) or not isinstance(reason, str):
                raise ValueError('the body is not legal: give {"profile": "…", "reason": "…"}, the reason only if wanted')
            # Of a profile of another group nobody learns that it is there.
            granted = host.people.granted_profiles(user.name)
            profile = next((each for each in policy.allowed_profiles(host.document, groups, granted) if each.name == name), None)
            if profile is None:
                raise web.HTTPError(404, "There is no such profile for you.")
            if not profile.approval:
                raise ValueError(f"“{profile.title}” needs no approval; start it.")
            host.approvals.ask(user.name, name, reason)
        self.set_status(201)
        self.finish({"profile": name, "state": host.approvals.of(user.name, name)})


class RequestsHandler(BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/requests: requests and decisions, for administrators."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        rows = platform.current().approvals.rows()
        waiting = [row for row in rows if row["state"] == "pending"]
        decided = [row for row in rows if row["state"] != "pending"]
        self.finish(await self.render_template("requests.html", waiting=waiting, decided=decided))


HANDLERS = [
    (r"/metalhub/api/profiles", ProfilesHandler),
    (r"/metalhub/api/profiles/([^/]+)", ProfileHandler),
    (r"/metalhub/api/profiles-converge", ConvergeHandler),
    (r"/metalhub/api/profile-requests", RequestsAPIHandler),
    (r"/metalhub/api/profile-requests/([^/]+)/([^/]+)", DecisionHandler),
    (r"/metalhub/api/users/([^/]+)/profile-requests", AskHandler),
    (r"/metalhub/requests", RequestsHandler),
]
