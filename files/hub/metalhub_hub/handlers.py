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
    platform,
    session_pages,
    snapshot_pages,
    spawner,
    usage,
)
from .core.durations import format_duration
from .core.egress_report import plain
from .core.start_queue import about
from .engine import EngineUnknown
from .openapi import array, fields, integer, mapping, named, number, text, truth
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
    """GET /hub/metalhub/room: the caller's profiles and whether there is room for them now."""

    def _record_activity(self, obj: Any, timestamp: Any = None) -> bool:
        return False  # an open page is no sign of somebody at work

    @web.authenticated
    async def get(self) -> None:
        groups = {group.name for group in self.current_user.groups}
        found = await spawner.cards(platform.current(), groups, self.current_user.name)
        self.set_header("Cache-Control", "no-store")
        self.finish({card["name"]: {key: card[key] for key in ("places", "state", "why", "gpu", "waiting")} for card in found})


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
        self.finish(await self.render_template("queue.html", words=format_duration, about=about, **page))


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
        try:
            snapshot = await platform.current().cluster.snapshot(1.0)
        except EngineUnknown:
            raise web.HTTPError(503, f"{NO_CLUSTER[:-1]}; try again in a minute.") from None
        self.set_header("Cache-Control", "no-store")
        self.finish({"nodes": nodes.rows(snapshot)})


HANDLERS = [
    *session_pages.HANDLERS,
    *snapshot_pages.HANDLERS,
    (r"/metalhub/room", RoomHandler),
    (r"/metalhub/egress", EgressHandler),
    (r"/metalhub/api/egress", EgressAPIHandler),
    (r"/metalhub/api/nodes", NodesAPIHandler),
    (r"/metalhub/queue", QueueHandler),
    (r"/metalhub/api/queue", QueueAPIHandler),
    *usage.HANDLERS,
    *admin_sessions.HANDLERS,
    *audit_pages.HANDLERS,
    openapi.handler(lambda: HANDLERS, __version__),
    (r"/metalhub/static/(.*)", web.StaticFileHandler, {"path": str(STATIC)}),
]
