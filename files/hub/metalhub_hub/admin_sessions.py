"""All sessions, for administrators: a page and the same as JSON. Filtered, sorted and cut here, so that a thousand are as quick as ten."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from . import openapi, platform
from .core import durations, lifecycle
from .ledger import LedgerError
from .openapi import array, fields, integer, mapping, named, number, text, truth
from .session_pages import Quiet
from .sessions import Sessions

STATES = Sessions.STATES
PAGE = 100
MOST = 1000
# So many rows are made before other requests have their turn.
AT_ONCE = 50

Row = dict[str, Any]

SORTS: dict[str, Callable[[Row], Any]] = {
    "user": lambda row: (row["user"], row["name"]),
    "state": lambda row: STATES.index(row["state"]),
    "profile": lambda row: row["title"],
    "node": lambda row: row["node"],
    "cpu": lambda row: row["cpu"],
    "memory": lambda row: row["memory"],
    "idle": lambda row: row["idle"],
    "left": lambda row: row["left"],
    "age": lambda row: row["age"],
    "cost": lambda row: row["cost"],
}


@dataclass(frozen=True)
class Choice:
    """Which sessions, in which order (``-`` before it: the largest first), and how many after ``offset``."""

    user: str = ""
    profile: str = ""
    node: str = ""
    state: str = ""
    sort: str = "user"
    offset: int = 0
    limit: int = PAGE

    def query(self, **changes: Any) -> str:
        """The choice as a query, with changes; what says nothing is left out."""
        default = asdict(Choice())
        return urlencode({key: value for key, value in asdict(replace(self, **changes)).items() if value != default[key]})


def read_choice(ask: Callable[[str], str]) -> Choice:
    """The choice of a request's query. Raises ValueError with a sentence."""
    given: dict[str, Any] = {name: value for name in asdict(Choice()) if (value := ask(name))}
    for name, least, most in (("offset", 0, 10**6), ("limit", 1, MOST)):
        if name in given:
            if not (given[name].isascii() and given[name].isdigit() and least <= int(given[name][:9]) <= most):
                raise ValueError(f"{name}: {given[name][:20]!r} is not legal: give a number from {least} to {most}")
            given[name] = int(given[name])
    for name, legal in (("state", STATES), ("sort", tuple(SORTS))):
        if name in given and given[name].removeprefix("-" if name == "sort" else "") not in legal:
            raise ValueError(f"{name}: {given[name][:20]!r} is not legal: give one of {', '.join(legal)}")
    return Choice(**given)


def select(rows: Sequence[Row], choice: Choice) -> list[Row]:
    """The rows of a choice, all of them, in its order. ``user`` is a part of a name. What is not known comes last either way."""
    exact = {name: value for name in ("profile", "node", "state") if (value := getattr(choice, name))}
    found = [row for row in rows if choice.user in row["user"] and all(row[name] == value for name, value in exact.items())]
    key = SORTS[choice.sort.removeprefix("-")]
    found.sort(key=SORTS["user"])
    known = sorted((row for row in found if key(row) is not None), key=key, reverse=choice.sort.startswith("-"))
    return known + [row for row in found if key(row) is None]


def figures(host: platform.Platform, session: str) -> tuple[float | None, int | None]:
    """Processors and bytes of memory that a session uses now, None where its node does not tell."""
    known = host.agents.figures(session) if session else None
    return (None, None) if known is None or known.ended else (known.cpu, known.memory)


def row(host: platform.Platform, spawner: Any, state: str, costs: Mapping[str, float]) -> Row:
    """What there is to say of a session."""
    view, now = host.sessions.view(spawner), host.sessions.now()
    profile = spawner.profile
    gpu = profile.flavor.gpu if profile else None
    cpu, memory = figures(host, spawner.service_name)
    runs = host.sessions.runs(spawner)
    return {
        "user": spawner.user.name,
        "name": view["name"],
        "state": state,
        "position": view["queue"]["position"] if "queue" in view else None,
        "does": view.get("does", ""),
        "known": view.get("known", True),
        "profile": view["profile"],
        "title": view["title"] or view["profile"],
        "node": view["node"],
        "gpu": f"{gpu.count} × {gpu.profile or gpu.model or 'GPU'}" if gpu else "",
        "cpu": cpu,
        "cpus": profile.flavor.cpus if profile else None,
        "memory": memory,
        "memory_limit": profile.flavor.memory if profile else None,
        "next": view.get("next", ""),
        "left": view.get("left"),
        "because": view.get("because", ""),
        "warned": view.get("warned", False),
        "idle": view.get("idle"),
        "age": round(lifecycle.elapsed(host.sessions.record(spawner, now).started, now)) if runs else None,
        "extend": view.get("extend"),
        "hibernates": view.get("hibernates", False),
        "cost": costs.get(spawner.service_name),
        "service": spawner.service_name,
    }


class _Sessions:
    """What the page and its JSON have in common: the choice, which is in the query, and the rows."""

    async def view(self) -> dict[str, Any]:
        ask: Any = self
        try:
            choice = read_choice(lambda name: ask.get_argument(name, ""))
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None
        host = platform.current()
        costs: Mapping[str, float] = {}
        try:
            if host.document.rates.currency:
                costs = await asyncio.to_thread(host.quota.costs)
        except LedgerError as error:
            # What it costs is not what an administrator needs most in that moment.
            ask.log.error("The ledger does not answer: %s", error)
        rows = []
        for spawner, state in host.sessions.states():
            rows.append(row(host, spawner, state, costs))
            if len(rows) % AT_ONCE == 0:
                await asyncio.sleep(0)  # others have their turn
        found = select(rows, choice)
        return {
            "choice": choice,
            "currency": host.document.rates.currency,
            "all": len(rows),
            "total": len(found),
            "states": Counter(each["state"] for each in rows),
            "sessions": found[choice.offset : choice.offset + choice.limit],
            "nodes": sorted({each["node"] for each in rows} - {""}),
            "profiles": sorted({(each["profile"], each["title"]) for each in rows} - {("", "")}),
        }


class SessionsHandler(_Sessions, Quiet, BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/sessions: all sessions, for administrators."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        view = await self.view()
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template("sessions.html", all_states=STATES, duration=durations.format_duration, **view))


class AllSessionsAPIHandler(_Sessions, Quiet, APIHandler):  # type: ignore[misc]
    @openapi.operation(
        "All sessions that start, run or stop",
        "admin-ui",
        query={
            "user": text("only of users with this in their name"),
            "profile": text("only of this profile"),
            "node": text("only on this machine"),
            "state": text("only in this state", enum=list(STATES)),
            "sort": text(f"by one of {', '.join(SORTS)}; with - before it the largest first", default="user"),
            "offset": integer("leave out so many", default=0),
            "limit": integer("at most so many", default=PAGE, minimum=1, maximum=MOST),
        },
        answer=fields(
            {
                "currency": text("empty without a rate card"),
                "all": integer("how many there are"),
                "total": integer("how many of them are asked for"),
                "states": mapping(integer(), "how many of all are in each state"),
                "sessions": array(
                    named(
                        "SessionRow",
                        fields(
                            {
                                "user": text(),
                                "name": text("empty for the default session"),
                                "state": text(enum=list(STATES)),
                                "position": integer("its place in the queue while it waits in one, from 1", null=True),
                                "does": text("what it does now, in words"),
                                "known": truth("whether its server says what it does"),
                                "profile": text(),
                                "title": text("the profile's title"),
                                "node": text(),
                                "gpu": text("GPUs or slices, in words"),
                                "cpu": number("processors used now", null=True),
                                "cpus": number("processors that it may use", null=True),
                                "memory": integer("bytes used now", null=True),
                                "memory_limit": integer("bytes that it may use", null=True),
                                "next": text("what happens next: stop, hibernate, or nothing"),
                                "left": integer("seconds until then", null=True),
                                "because": text("the end of a countdown's sentence"),
                                "warned": truth("whether its stop is being announced"),
                                "idle": integer("seconds since something ran in it", null=True),
                                "age": integer("seconds since its start", null=True),
                                "extend": {
                                    **fields({"seconds": integer(), "words": text()}, "one step of an extension"),
                                    "type": ["object", "null"],
                                },
                                "hibernates": truth("whether it can be hibernated now"),
                                "cost": number("what it has cost by the rate card; null where that is not known", null=True),
                                "service": text("its Swarm service"),
                            }
                        ),
                    )
                ),
            }
        ),
        faults={400: "The query is not legal."},
    )
    async def get(self) -> None:
        view = await self.view()
        self.set_header("Cache-Control", "no-store")
        self.finish({key: view[key] for key in ("currency", "all", "total", "states", "sessions")})


HANDLERS = [
    (r"/metalhub/sessions", SessionsHandler),
    (r"/metalhub/api/sessions", AllSessionsAPIHandler),
]
