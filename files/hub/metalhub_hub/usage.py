"""Usage and quotas on the pages and in the API: each user's own, and for administrators everybody's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from jupyterhub import orm
from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from . import openapi, platform
from .core import durations, quotas, showback, sizes
from .core.quotas import Meter, Override, Span, window_span
from .core.showback import EVERYBODY, MEMORY, SESSION, Only
from .ledger import Granted, LedgerError
from .openapi import array, fields, integer, mapping, named, text
from .quota import Quota, instant

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)
MONTHS = 12
OVERRIDE = ("user", "resource", "extra", "until", "for", "reason")
NO_LEDGER = "The ledger does not answer right now"

LIMIT = named(
    "Limit",
    fields(
        {
            "resource": text(),
            "window": text("day, week or month; null without a period", null=True),
            "unit": text("sessions, bytes or seconds"),
            "used": integer(),
            "limit": integer("with what overrides add"),
            "left": integer(),
            "extra": integer("what overrides add"),
            "source": text("whose limit it is"),
            "renews": integer("when its period ends, in seconds since the epoch", null=True),
            "sentence": text("all that in words"),
        }
    ),
)
USED = named(
    "Usage",
    fields(
        {
            "user": text(),
            "time_zone": text("in which periods are counted"),
            "limits": array(LIMIT),
            "used": array(fields({"resource": text(), "window": text(), "seconds": integer()})),
            "notices": array(text(), "what the user is told now"),
        }
    ),
)
_HOURS = mapping(openapi.number(), "hours of allocation; of memory GiB hours")
_SUM = fields({"name": text(), "hours": _HOURS, "cost": openapi.number("by the rate card")})
REPORT_QUERY = {
    "month": text("such as 2026-01; this month where it is missing"),
    "user": text("only this user's"),
    "group": text("only what counts for this group"),
    "profile": text("only of this profile"),
}
REPORT = named(
    "UsageReport",
    fields(
        {
            "month": text(),
            "currency": text("empty without a rate card"),
            "resources": array(text()),
            "users": array(_SUM),
            "groups": array(_SUM, "who is in several counts in each"),
            "profiles": array(_SUM),
            "total": _SUM,
        }
    ),
)
GIVEN = named(
    "Override",
    fields(
        {
            "id": integer(),
            "user": text(),
            "resource": text(),
            "extra": integer("seconds more in each period"),
            "until": text("when it ends"),
            "reason": text(),
            "by": text("who gave it"),
            "at": text("when"),
        }
    ),
)


def title(resource: str) -> str:
    """A resource for people: ``GPU a100``."""
    if resource == "gpu":
        return "GPU"
    if resource.startswith("gpu-"):
        return f"GPU {resource[4:]}"
    return {"cpu": "CPU", SESSION: "Sessions", "sessions": "Sessions", MEMORY: "Memory"}.get(resource, resource)


def amount(resource: str, number: int) -> str:
    """An amount of a resource for people."""
    kind = quotas.unit(resource)
    if kind == "bytes":
        return sizes.format_size(number)
    if kind != "seconds":
        return str(number)
    if number < 60:
        return f"{number} s"
    # Days are no unit here: a quota of 40 hours is read as such.
    return " ".join(f"{part} {word}" for part, word in ((number // 3600, "h"), (number // 60 % 60, "min")) if part)


def bars(meters: Iterable[Meter]) -> list[dict[str, Any]]:
    """Meters as a page draws them."""
    period = {"day": "today", "week": "this week", "month": "this month", "": ""}
    return [
        {
            "title": title(meter.resource),
            "period": period[meter.window],
            "used": amount(meter.resource, meter.used),
            "limit": amount(meter.resource, meter.limit),
            "left": amount(meter.resource, meter.left) if meter.left else "nothing",
            "percent": 100 if meter.full else min(99, meter.used * 100 // meter.limit),
            # All sessions that one may have is nothing to warn of.
            "state": "full" if meter.full and meter.window else "near" if meter.warning and meter.window else "",
            "sentence": meter.sentence,
        }
        for meter in meters
    ]


def plain(meter: Meter) -> dict[str, Any]:
    """A meter for the API, in the resource's unit; instants are seconds since the epoch."""
    return {
        "resource": meter.resource,
        "window": meter.window or None,
        "unit": quotas.unit(meter.resource),
        "used": meter.used,
        "limit": meter.limit,
        "left": meter.left,
        "extra": meter.extra,
        "source": meter.source,
        "renews": meter.span.end if meter.span else None,
        "sentence": meter.sentence,
    }


def shown(each: Granted) -> dict[str, Any]:
    """An override for the API and the page."""
    return {
        "id": each.number,
        "user": each.user,
        "resource": each.override.resource,
        "extra": each.override.extra,
        "until": instant(each.override.until),
        "reason": each.override.reason,
        "by": each.by,
        "at": instant(each.at),
    }


def read_override(body: Any, now: int) -> tuple[str, Override]:
    """The user and the override of a request. Raises ValueError with a sentence that names what is wrong and what is legal."""
    if not isinstance(body, dict):
        raise ValueError(f"the body is {body!r}; legal is an object with {', '.join(OVERRIDE)}")
    for key in body:
        if key not in OVERRIDE:
            raise ValueError(f"{key} is not known; legal are {', '.join(OVERRIDE)}")
    for key in ("user", "resource", "extra", "reason"):
        if not isinstance(body.get(key), str) or not body[key].strip():
            raise ValueError(f"{key} is {body.get(key)!r}; legal is text that says it")
    if ("until" in body) == ("for" in body):
        raise ValueError("the override needs an end; legal is one of until: 2026-01-31T18:00:00+01:00 and for: 2d")
    until = read_end(body, now)
    if until <= now:
        raise ValueError("the override would have ended already; legal is an end in the future")
    return body["user"], Override(body["resource"], durations.parse_duration(body["extra"]), until, body["reason"].strip())


def read_end(body: dict[str, Any], now: int) -> int:
    """When something ends that a request gives for a while (``for``) or until a time (``until``). Raises ValueError."""
    if "for" in body:
        return now + durations.parse_duration(body["for"])
    try:
        moment = datetime.fromisoformat(body["until"])
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"until is {body['until']!r}; legal is a time with its zone: 2026-01-31T18:00:00+01:00")
    return int(moment.timestamp())


def months(now: int, zone: Any) -> list[str]:
    """This month and those before it, as ``2026-01``."""
    day = datetime.fromtimestamp(now, zone).date().replace(day=1)
    found = []
    for _ in range(MONTHS):
        found.append(f"{day:%Y-%m}")
        day = (day - timedelta(days=1)).replace(day=1)
    return found


def month_span(text: str, zone: Any) -> Span:
    """A month in a time zone. Raises ValueError for what is none."""
    match = _MONTH.fullmatch(text)
    if match is None or int(match[1]) < 2000:
        raise ValueError(f"month: {text[:20]!r} is not legal: give one such as 2026-01")
    return window_span("month", int(datetime(int(match[1]), int(match[2]), 15, tzinfo=zone).timestamp()), zone)


class _Report:
    """What the views of everybody's usage have in common: the month and whose it is, which are in the query, and its report."""

    async def view(self) -> tuple[str, Only, showback.Showback]:
        ask: Any = self
        quota = platform.current().quota
        month = ask.get_argument("month", months(quota.clock.now(), quota.zone)[0])
        try:
            span = month_span(month, quota.zone)
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None
        only = Only(**{name: ask.get_argument(name, "") for name in asdict(EVERYBODY)})
        try:
            # Of many rows it takes longer than the loop may wait.
            return month, only, await asyncio.to_thread(quota.report, span, only)
        except LedgerError as error:
            raise no_ledger(ask, error) from None


def no_ledger(handler: Any, error: LedgerError, changed: str = "") -> web.HTTPError:
    """What a request gets while the ledger does not answer; ``changed`` is what of it was not done."""
    handler.log.error("The ledger does not answer: %s", error)
    return web.HTTPError(503, f"{NO_LEDGER}{changed}; try again in a minute.")


def charts(report: showback.Showback) -> list[dict[str, Any]]:
    """Hours a day of CPUs and of GPUs, as bars of at most 100; the kinds of GPUs are stacked."""
    found = []
    for name, kinds in (
        ("GPU", [each for each in report.resources if quotas.covers("gpu", each)]),
        ("CPU", [each for each in report.resources if each == "cpu"]),
    ):
        most = max((sum(hours.get(kind, 0.0) for kind in kinds) for _, hours in report.days), default=0.0)
        if not kinds or not most:
            continue
        days = []
        for day, hours in report.days:
            top, parts = 0.0, []
            for number, kind in enumerate(kinds):
                high = hours.get(kind, 0.0) * 100 / most
                parts.append({"shade": number % 4, "bottom": top, "high": high})
                top += high
            told = ", ".join(f"{hours.get(kind, 0.0):.1f} h {title(kind)}" for kind in kinds)
            days.append({"day": day, "parts": parts, "told": f"{day}: {told}"})
        found.append({"title": f"{name} hours a day", "most": most, "kinds": [title(kind) for kind in kinds], "days": days})
    return found


class UsageHandler(_Report, BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/usage: what everybody used in a month, for administrators."""

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        month, only, report = await self.view()
        quota = platform.current().quota

        def query(**changes: str) -> str:
            """What was asked for as a query, with changes."""
            return urlencode({key: value for key, value in ({"month": month} | asdict(only) | changes).items() if value})

        self.set_header("Cache-Control", "no-store")
        given = [{**shown(each), "extra": durations.format_duration(each.override.extra)} for each in quota.overrides(only.user)]
        page = {
            "month": month,
            "only": only,
            "query": query,
            "months": months(quota.clock.now(), quota.zone),
            "report": report,
            "charts": charts(report),
            "overrides": given,
            "titles": {name: title(name) for name in report.resources},
            "zone": str(quota.zone),
        }
        self.finish(await self.render_template("usage.html", **page))


class UsageTableHandler(_Report, BaseHandler):  # type: ignore[misc]
    """GET /hub/metalhub/usage.csv: the same as CSV."""

    _accept_token_auth = True

    @web.authenticated
    @needs_scope("admin-ui")
    async def get(self) -> None:
        month, _, report = await self.view()
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", f'attachment; filename="metalhub-usage-{month}.csv"')
        self.finish(showback.table(report))


class UsageAPIHandler(_Report, APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/usage/report: the same as JSON."""

    @openapi.operation(
        "What everybody used in a month, by user, group and profile",
        "admin-ui",
        query=REPORT_QUERY,
        answer=REPORT,
        faults={400: "The month is not legal.", 503: f"{NO_LEDGER}."},
    )
    async def get(self) -> None:
        month, _, report = await self.view()
        self.set_header("Cache-Control", "no-store")
        self.finish(
            {
                "month": month,
                "currency": report.currency,
                "resources": list(report.resources),
                **{f"{kind}s": [asdict(each) for each in sums] for kind, sums in report.kinds.items()},
                "total": asdict(report.total),
            }
        )


class OwnUsageHandler(APIHandler):  # type: ignore[misc]
    """GET /hub/metalhub/api/usage: what the caller used and has left; with ``user`` of somebody whom the caller may read."""

    @openapi.operation(
        "What a user used and has left",
        "read:users",
        query={"user": text("whose; the caller's where it is missing")},
        whose="user",
        answer=USED,
        faults={503: f"{NO_LEDGER}."},
    )
    async def get(self, user_name: str) -> None:
        user = orm.User.find(self.db, user_name)
        if user is None:
            raise web.HTTPError(404)
        quota = platform.current().quota
        try:
            meters = quota.meters(user_name, {group.name for group in user.groups})
            seconds = quota.usage(user_name).seconds
        except LedgerError as error:
            raise no_ledger(self, error) from None
        self.set_header("Cache-Control", "no-store")
        self.finish(
            {
                "user": user_name,
                "time_zone": str(quota.zone),
                "limits": [plain(meter) for meter in meters],
                "used": [{"resource": name, "window": window, "seconds": number} for (name, window), number in sorted(seconds.items())],
                "notices": quota.notices(user_name),
            }
        )


class _Admin(APIHandler):  # type: ignore[misc]
    def quota(self) -> Quota:
        return platform.current().quota

    def trouble(self, error: LedgerError) -> web.HTTPError:
        return no_ledger(self, error, ", so nothing was changed")


class OverridesHandler(_Admin):
    """GET, POST /hub/metalhub/api/quota/overrides: those that hold, and one more."""

    @openapi.operation(
        "The exceptions from quotas that hold", "admin-ui", answer=fields({"overrides": array(GIVEN)}), faults={503: f"{NO_LEDGER}."}
    )
    async def get(self) -> None:
        try:
            self.finish({"overrides": [shown(each) for each in self.quota().overrides()]})
        except LedgerError as error:
            raise self.trouble(error) from None

    @openapi.operation(
        "Give a user more of a metered resource, until an instant and for a reason",
        "admin-ui",
        body=fields(
            {
                "user": text(),
                "resource": text("cpu, gpu, or a kind of GPU such as gpu-a100"),
                "extra": text("how much more in each period, such as 8h"),
                "reason": text(),
            },
            "Either until or for.",
            **{"until": text("its end, with its zone: 2026-01-31T18:00:00+01:00"), "for": text("how long from now on: 2d")},
        ),
        answer=GIVEN,
        status=201,
        faults={400: "The body is not legal.", 503: f"{NO_LEDGER}, so nothing was changed."},
    )
    async def post(self) -> None:
        quota = self.quota()
        try:
            user, override = read_override(self.get_json_body(), quota.clock.now())
            if orm.User.find(self.db, user) is None:
                raise ValueError(f"user is {user!r}, whom nobody knows; legal is the name of a user")
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None
        try:
            given = quota.grant(user, override, self.current_user.name)
        except LedgerError as error:
            raise self.trouble(error) from None
        self.set_status(201)
        self.finish(shown(given))


class OverrideHandler(_Admin):
    """DELETE /hub/metalhub/api/quota/overrides/<id>: end an override now."""

    @openapi.operation("End an exception from a quota now", "admin-ui", status=204, faults={503: f"{NO_LEDGER}, so nothing was changed."})
    async def delete(self, number: str) -> None:
        try:
            found = self.quota().revoke(int(number), self.current_user.name)
        except LedgerError as error:
            raise self.trouble(error) from None
        if not found:
            raise web.HTTPError(404, f"There is no override {number} that holds.")
        self.set_status(204)


HANDLERS = [
    (r"/metalhub/usage", UsageHandler),
    (r"/metalhub/usage\.csv", UsageTableHandler),
    (r"/metalhub/api/usage", OwnUsageHandler),
    (r"/metalhub/api/usage/report", UsageAPIHandler),
    (r"/metalhub/api/quota/overrides", OverridesHandler),
    (r"/metalhub/api/quota/overrides/(\d{1,9})", OverrideHandler),
]
