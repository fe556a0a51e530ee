"""What the pages ask for besides themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from . import egress, nodes, platform, session_pages, snapshot_pages, spawner, usage
from .core.egress_report import plain
from .engine import EngineUnknown

STATIC = Path(__file__).parent / "static"


class RoomHandler(BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/room: the caller's profiles and whether there is room for them now."""

    def _record_activity(self, obj: Any, timestamp: Any = None) -> bool:
        return False  # an open page is no sign of somebody at work

    @web.authenticated
    async def get(self) -> None:
        groups = {group.name for group in self.current_user.groups}
        found = await spawner.cards(platform.current(), groups, self.current_user.name)
        self.set_header("Cache-Control", "no-store")
        self.finish({card["name"]: {key: card[key] for key in ("places", "state", "why", "gpu")} for card in found})


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

    @needs_scope("admin-ui")
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


class NodesAPIHandler(APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/nodes: the swarm's nodes with what is free on each, for administrators."""

    @needs_scope("admin-ui")
    async def get(self) -> None:
        try:
            snapshot = await platform.current().cluster.snapshot(1.0)
        except EngineUnknown:
            raise web.HTTPError(503, "The cluster does not answer right now; try again in a minute.") from None
        self.set_header("Cache-Control", "no-store")
        self.finish({"nodes": nodes.rows(snapshot)})


HANDLERS = [
    *session_pages.HANDLERS,
    *snapshot_pages.HANDLERS,
    (r"/metalhub/room", RoomHandler),
    (r"/metalhub/egress", EgressHandler),
    (r"/metalhub/api/egress", EgressAPIHandler),
    (r"/metalhub/api/nodes", NodesAPIHandler),
    *usage.HANDLERS,
    (r"/metalhub/static/(.*)", web.StaticFileHandler, {"path": str(STATIC)}),
]
