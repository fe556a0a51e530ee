"""What the pages ask for besides themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from . import (
    __version__,
    admin_sessions,
    audit_pages,
    egress,
    nodes,
    openapi,
    people_pages,
    platform,
    profile_pages,
    session_pages,
    snapshot_pages,
    spawner,
    usage,
)
from .core import durations
from .core.egress_report import plain
from .core.start_queue import about
from .engine import EngineRefused, EngineUnknown
from .ledger import LedgerError
from .openapi import anything, array, fields, integer, mapping, named, number, text, truth
from .session_pages import WAITING

STATIC = Path(__file__).parent / "static"


NO_CLUSTER = "The cluster does not answer right now."
_HAVE = fields({"total": number(), "free": number()})
NODE = named(
    "Node",
    fields(
        {
            "name": text(),
            "address": text("where the hub reaches it"),
            "pool": text("empty where it runs no sessions"),
            "state": text("Swarm's word for it: ready, down, unknown"),
            "availability": text("active, pause or drain"),
            "drain": anything("what an administrator decided of it: reason, by, until, done; or null"),
            "manager": truth("whether it is a manager of the swarm"),
            "network": truth("whether the networks of sessions are up"),
            "sessions": integer("how many it has"),
            "cpus": _HAVE,
            "memory": _HAVE,
            "gpus": mapping(_HAVE, "GPUs or slices by the name that Swarm has for them"),
        }
    ),
)
REFUSALS_QUERY = {
    "span": text("within the last", enum=list(egress.SPANS), default="day"),
    "user": text("only this user's"),
    "class": text("only this egress class's"),
}
REFUSALS = named(
    "Refusals",
    fields(
        {
            **{name: text() for name in REFUSALS_QUERY},
            "since": text("from then on"),
            "rows": array({"type": "object"}, "destination, who, how often, when last, and the line that would allow it"),
            "nodes": mapping(text(), "how well the way out of each node is, in words"),
            "silent": mapping(text(), "nodes that did not answer, with the reason"),
            "cut": mapping(text(), "nodes with more than they tell at once, with the time from which on they counted"),
        }
    ),
)


class RoomHandler(BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/room/<user>: a user's profiles and whether there is room for them now. Without a user the caller's."""

    def _record_activity(self, obj: Any, timestamp: Any = None) -> bool:
        return False  # an open page is no sign of somebody at work

    @web.authenticated
    async def get(self, user_name: str = "") -> None:
        await self._get(user_name or self.current_user.name)

    # As for the start page itself.
    @needs_scope("servers")
    async def _get(self, user_name: str) -> None:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "There is no such user.")
        found = await spawner.cards(platform.current(), {group.name for group in user.groups}, user.name)
        self.set_header("Cache-Control", "no-store")
        told = ("places", "state", "why", "tag", "ask", "gpu", "waiting")
        self.finish({card["name"]: {key: card[key] for key in told} for card in found})


class _Refusals:
    """What both views of refusals have in common: the choice, which is in the query, and the report."""

    TOP = 200

    async def view(self) -> dict[str, Any]:
        ask: Any = self
        chosen = {name: ask.get_argument(name, default) for name, default in (("span", "day"), ("user", ""), ("class", ""))}
        if chosen["span"] not in egress.SPANS:
            raise web.HTTPError(400, f"span: {chosen['span'][:20]!r} is not legal: give one of {', '.join(egress.SPANS)}")
        nodes = platform.current().egress
        try:
            report = await nodes.report(chosen["span"])
        except EngineUnknown:
            raise web.HTTPError(503, "The cluster does not answer right now, so its nodes are not known; try again in a minute.") from None
        return {
            "chosen": chosen,
            "report": report,
            "rows": report.top(chosen["user"], chosen["class"], self.TOP),
            "health": dict(sorted(nodes.health.items())),
        }


class EgressHandler(_Refusals, BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/egress: what sessions were refused, for administrators."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        view = await self.view()
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template("egress.html", titles=platform.current().document.egress, limit=self.TOP, **view))


class EgressAPIHandler(_Refusals, APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/egress: the same as JSON."""

    @openapi.operation(
        "What sessions were refused on their way out, the most frequent first",
        "admin-ui",
        query=REFUSALS_QUERY,
        answer=REFUSALS,
        faults={400: "The span is not legal.", 503: NO_CLUSTER},
    )
    async def get(self) -> None:
        view = await self.view()
        report = view["report"]
        self.set_header("Cache-Control", "no-store")
        self.finish(
            {
                **view["chosen"],
                "since": report.since,
                "rows": [plain(row) for row in view["rows"]],
                "nodes": {name: health.words() for name, health in view["health"].items()},
                "silent": report.silent,
                "cut": report.cut,
            }
        )


class QueueHandler(BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/queue: who waits for a place, for administrators."""

    def _record_activity(self, obj: Any, timestamp: Any = None) -> bool:
        return False  # the page looks again by itself

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        admission = platform.current().admission
        self.set_header("Cache-Control", "no-store")
        page = {"rows": admission.rows(), "starting": admission.starting, "patience": platform.current().document.queue_patience}
        self.finish(await self.render_template("queue.html", words=durations.format_duration, about=about, **page))


class QueueAPIHandler(APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/queue: the same as JSON."""

    @openapi.operation(
        "The starts that wait for a place, the next one first",
        "admin-ui",
        answer=fields({"queue": array(WAITING), "starting": integer("how many have their place and are under way")}),
    )
    async def get(self) -> None:
        admission = platform.current().admission
        self.set_header("Cache-Control", "no-store")
        self.finish({"queue": admission.rows(), "starting": admission.starting})


class NodesAPIHandler(APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/nodes: the swarm's nodes with what is free on each, for administrators."""

    @openapi.operation(
        "The cluster's nodes, with what is free on each", "admin-ui", answer=fields({"nodes": array(NODE)}), faults={503: NO_CLUSTER}
    )
    async def get(self) -> None:
        host = platform.current()
        try:
            snapshot = await host.cluster.snapshot(1.0)
        except EngineUnknown:
            raise web.HTTPError(503, f"{NO_CLUSTER[:-1]}; try again in a minute.") from None
        self.set_header("Cache-Control", "no-store")
        try:
            self.finish({"nodes": nodes.rows(snapshot, host.drains.shown)})
        except LedgerError:
            self.finish({"nodes": nodes.rows(snapshot)})


class DrainHandler(people_pages.Admin):
    """POST /hub/metalhub/api/nodes/<name>/drain, with ``{"reason": …, "grace": "30m"}`` or nothing, and …/undrain."""

    @openapi.operation(
        "Take a node out of service, or let it take sessions again",
        "admin-ui",
        body=fields(reason=text("why, for its users and the audit log"), grace=text("how long until its sessions end, such as 30m")),
        body_needed=False,
        answer=NODE,
        faults={400: "The body is not legal.", 409: "It cannot be done; the message says why.", 503: "The cluster does not answer."},
    )
    async def post(self, name: str, what: str) -> None:
        host, by = platform.current(), self.who
        body = self.body("reason", "grace") if what == "drain" else self.body()
        try:
            grace = durations.parse_duration(body["grace"]) if "grace" in body else host.document.session.stop_notice
        except ValueError as error:
            raise web.HTTPError(400, f"grace: {error}") from None
        reason = self.text(body, "reason")
        try:
            if what == "drain":
                await host.drains.begin(name, grace, reason, by)
            else:
                await host.drains.end(name, by)
            snapshot = await host.cluster.snapshot(0.0)
        except EngineUnknown as error:
            self.log.error("%s of %s: %s", what, name, error)
            raise web.HTTPError(503, "The cluster does not answer right now; say it again in a minute.") from None
        except EngineRefused as error:
            raise web.HTTPError(409, f"The cluster refuses that: {error.message}".replace("%", "%%")) from None
        (row,) = [row for row in nodes.rows(snapshot, host.drains.shown) if row["name"] == name][-1:]
        self.answer(row)


HANDLERS = [
    *session_pages.HANDLERS,
    *snapshot_pages.HANDLERS,
    (r"/metalhub/room", RoomHandler),
    (r"/metalhub/room/([^/]+)", RoomHandler),
    (r"/metalhub/egress", EgressHandler),
    (r"/metalhub/api/egress", EgressAPIHandler),
    (r"/metalhub/api/nodes", NodesAPIHandler),
    (r"/metalhub/api/nodes/([^/]+)/(drain|undrain)", DrainHandler),
    (r"/metalhub/queue", QueueHandler),
    (r"/metalhub/api/queue", QueueAPIHandler),
    *usage.HANDLERS,
    *people_pages.HANDLERS,
    *admin_sessions.HANDLERS,
    *audit_pages.HANDLERS,
    *profile_pages.HANDLERS,
    openapi.handler(lambda: HANDLERS, __version__),
    (r"/metalhub/static/(.*)", web.StaticFileHandler, {"path": str(STATIC)}),
]
