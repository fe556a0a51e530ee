"""The audit log for administrators: searched from its end on, exported, and how well its chain is. What reads files does so in threads."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import iostream, web

from . import audit_search, openapi, platform
from .core import audit_chain
from .core.audit_query import Query
from .openapi import array, fields, integer, named, text, truth
from .session_pages import Quiet

FIELDS = ("since", "until", "user", "kind", "cause", "actor")
PAGE = 50
MOST = 1000
# So many lines of an export are read before other requests have their turn.
LINES = 2000


class _Log:
    """What the page, its JSON and the export have in common: what is asked for, which is in the query."""

    def asked(self) -> dict[str, str]:
        ask: Any = self
        return {name: ask.get_argument(name, "") for name in FIELDS}

    def query(self) -> Query:
        given, now = self.asked(), datetime.now(timezone.utc)
        for name in ("since", "until"):
            if given[name]:
                try:
                    given[name] = audit_chain.moment(given[name], now)
                except ValueError as error:
                    raise web.HTTPError(400, f"{name}: {error}") from None
        if given["until"] and given["since"] > given["until"]:
            raise web.HTTPError(400, "until: it is before since")
        return Query(**given)

    async def found(self, limit: int) -> audit_search.Found:
        ask: Any = self
        cursor = ask.get_argument("cursor", "")
        try:
            return await asyncio.to_thread(audit_search.search, _directory(), self.query(), limit, cursor)
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None
        except OSError as error:
            ask.log.error("The audit log cannot be read: %s", error)
            raise web.HTTPError(503, "The audit log cannot be read right now; the hub's log says why.") from None


def _directory() -> Path:
    return Path(platform.current().document.state)


def chain() -> dict[str, Any]:
    """How well the log is."""
    host = platform.current()
    log, checked = host.audit, host.audit_check.last
    head = {"seq": log.head.seq, "sha256": log.head.sha256}
    return {"head": head, "lag": log.lag, "failed": log.failed, "lost": log.lost, "checked": asdict(checked) if checked else None}


# Of an event's facts these have a place of their own.
_PLACED = ("actor", "operator", "address", "user", "server", "session", "cause")


def shown(event: dict[str, Any]) -> dict[str, Any]:
    """An event as the page has it."""
    facts = event["facts"]
    rest = {name.replace("_", " "): _words(value) for name, value in facts.items() if name not in _PLACED and value not in (None, "", [])}
    return {**event, **{name: facts.get(name) or "" for name in _PLACED}, "rest": rest}


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class AuditHandler(_Log, Quiet, BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/audit: events, the newest first, for administrators."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        asked = self.asked()
        trouble, found = "", audit_search.Found((), "", 0)
        try:
            found = await self.found(PAGE)
        except web.HTTPError as error:
            # What was typed stays in its field, with what is wrong with it.
            trouble = str(error.log_message)
            self.set_status(error.status_code)
        self.set_header("Cache-Control", "no-store")
        page = {
            "asked": asked,
            "trouble": trouble,
            "events": [shown(event) for event in found.events],
            "found": found,
            "chain": chain(),
            "later": bool(self.get_argument("cursor", "")),
            "moment_legal": audit_chain.MOMENT_LEGAL,
            "link": lambda **changes: urlencode({key: value for key, value in {**asked, **changes}.items() if value}),
        }
        self.finish(await self.render_template("audit.html", **page))


class AuditExportHandler(_Log, BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/audit.jsonl: the lines of a query as they stand in the log, the oldest first."""

    _accept_token_auth = True

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        lines = audit_search.lines(_directory(), self.query())
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "application/jsonl; charset=utf-8")
        self.set_header("Content-Disposition", 'attachment; filename="metalhub-audit.jsonl"')
        while some := await asyncio.to_thread(lambda: list(itertools.islice(lines, LINES))):
            self.write(b"".join(some))
            try:
                await self.flush()
            except iostream.StreamClosedError:
                return


CHAIN = named(
    "AuditChain",
    fields(
        {
            "head": fields({"seq": integer(), "sha256": text()}, "the newest line"),
            "lag": integer("events that are not on the disk yet"),
            "failed": integer("writes that the disk refused since the hub's start"),
            "lost": integer("events that are gone since the hub's start"),
            "checked": {
                **fields(
                    {
                        "good": truth("whether all lines are as they were written"),
                        "at": text("when it was checked"),
                        "first": integer("the first line that was there"),
                        "last": integer("the last line that was looked at"),
                        "sha256": text("of that line"),
                        "words": text("where it is not as it was written, and why"),
                    },
                    "the last check; null before the first one",
                ),
                "type": ["object", "null"],
            },
        }
    ),
)
FILTER = {
    "since": text(f"from then on: {audit_chain.MOMENT_LEGAL}"),
    "until": text("before then"),
    "user": text("who did it, or whom it was done to"),
    "kind": text("how the kind begins, such as session or login.failed"),
    "cause": text("such as idle or quota"),
    "actor": text("who did it: user:ann, service:x, hub, anonymous, a name alone, or who sat at the command line"),
}


class AuditAPIHandler(_Log, Quiet, APIHandler):  # type: ignore[misc]
    @openapi.operation(
        "Events of the audit log, the newest first",
        "admin-ui",
        query={
            **FILTER,
            "limit": integer("at most so many", default=PAGE, minimum=1, maximum=MOST),
            "cursor": text("what an answer gave to go on after it"),
        },
        answer=fields(
            {
                "events": array(
                    named(
                        "Event", fields({"seq": integer(), "at": text(), "kind": text(), "facts": {"type": "object"}, "prev": text()})
                    )
                ),
                "cursor": text("to go on; empty at the log's begin. There may be one with no events: one request reads 64 MiB at most"),
                "odd": integer("lines among them that are no events"),
                "chain": CHAIN,
            }
        ),
        faults={400: "A time, the limit or the cursor is not legal.", 503: "The log cannot be read."},
    )
    async def get(self) -> None:
        limit = self.get_argument("limit", str(PAGE))
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST):
            raise web.HTTPError(400, f"limit: {limit[:20]!r} is not legal: give a number from 1 to {MOST}")
        found = await self.found(int(limit))
        self.set_header("Cache-Control", "no-store")
        self.finish({"events": list(found.events), "cursor": found.cursor, "odd": found.odd, "chain": chain()})


class AuditVerifyHandler(APIHandler):  # type: ignore[misc]
    @openapi.operation(
        "Check the audit log's chain now", "admin-ui", answer=CHAIN, faults={503: "It could not be checked; the hub's log says why."}
    )
    async def post(self) -> None:
        if await platform.current().audit_check.run() is None:
            raise web.HTTPError(503, "The audit log could not be checked; the hub's log says why.")
        self.finish(chain())


HANDLERS = [
    (r"/metalhub/audit", AuditHandler),
    (r"/metalhub/audit\.jsonl", AuditExportHandler),
    (r"/metalhub/api/audit", AuditAPIHandler),
    (r"/metalhub/api/audit/verify", AuditVerifyHandler),
]
