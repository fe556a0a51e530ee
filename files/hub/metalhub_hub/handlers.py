"""What the pages ask for besides themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyterhub.handlers import BaseHandler
from tornado import web

from . import platform, spawner

STATIC = Path(__file__).parent / "static"


class RoomHandler(BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/room: the caller's profiles and whether there is room for them now."""

    def _record_activity(self, obj: Any, timestamp: Any = None) -> bool:
        return False  # an open page is no sign of somebody at work

    @web.authenticated
    async def get(self) -> None:
        groups = {group.name for group in self.current_user.groups}
        found = await spawner.cards(platform.current(), groups)
        self.set_header("Cache-Control", "no-store")
        self.finish({card["name"]: {key: card[key] for key in ("places", "state", "why", "gpu")} for card in found})


HANDLERS = [
    (r"/metalhub/room", RoomHandler),
    (r"/metalhub/static/(.*)", web.StaticFileHandler, {"path": str(STATIC)}),
]
