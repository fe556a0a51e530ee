"""``metalhub session``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..core.durations import format_duration, parse_duration
from .api import HubRefused, part
from .frame import Argument, Ask, Column, Noun, Stop, Usage, Verb, legal

STOP_WITHIN = 60.0

SESSION = Argument("session", "USER for the default session, or USER/NAME", {"metavar": "SESSION"})


def state(server: Mapping[str, Any]) -> str:
    """A session's state in one word."""
    pending = {"spawn": "starting", "stop": "stopping"}
    life = (server.get("state") or {}).get("life") or {}
    return pending.get(str(server["pending"]), ("hibernated" if life.get("frozen") else "running") if server["ready"] else "stopped")


def places(ask: Ask) -> dict[tuple[str, str], int]:
    """The place in the queue of each session that waits in one, by user and name."""
    return {(row["user"], row["name"]): row["position"] for row in ask.hub.ask("GET", "/metalhub/api/queue")["queue"]}


def ago(moment: str | None) -> str:
    """How long ago a time of the hub's is, in words."""
    if not moment:
        return "-"
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(moment)).total_seconds()
    return format_duration(max(0, int(seconds)), 1)


def _row(user: str, server: Mapping[str, Any], queue: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    inner = server.get("state") or {}
    # JupyterHub does not know of the queue: for it such a session just starts.
    position = queue.get((user, server["name"])) if server["pending"] == "spawn" else None
    return {
        "user": user,
        "name": server["name"],
        "state": state(server) if position is None else "queued",
        "position": position,
        "profile": inner.get("profile_name", ""),
        "node": inner.get("node", ""),
        "started": server["started"],
        "last_activity": server["last_activity"],
        "service": inner.get("service_name", ""),
    }


COLUMNS: list[Column] = [
    ("SESSION", lambda row: row["user"] + (f"/{row['name']}" if row["name"] else "")),
    ("STATE", lambda row: row["state"] + (f", number {row['position']}" if row["position"] else "")),
    ("PROFILE", lambda row: row["profile"] or "-"),
    ("NODE", lambda row: row["node"] or "-"),
    ("RUNS FOR", lambda row: "-" if row["position"] else ago(row["started"])),
    ("ACTIVE BEFORE", lambda row: ago(row["last_activity"])),
]


def named(text: str) -> tuple[str, str]:
    """A session's user and name. Raises Usage."""
    user, slash, name = text.partition("/")
    if not user or (slash and not name) or "/" in name:
        raise Usage(f"session: {text!r} is no session: write USER or USER/NAME")
    return user, name


def find(ask: Ask) -> dict[str, Any]:
    """The session that the argument names, with its row. Raises Stop where there is none."""
    user, name = named(ask.options.session)
    try:
        model = ask.hub.ask("GET", f"/api/users/{part(user)}")
    except HubRefused as refused:
        if refused.status == 404:
            raise Stop(f"there is no user {user!r}") from None
        raise
    server = (model.get("servers") or {}).get(name)
    if server is None:
        raise Stop(f"{user!r} has no session {name!r} now" if name else f"{user!r} has no default session now")
    return _row(user, server, places(ask) if server["pending"] == "spawn" else {})


def list_all(ask: Ask) -> None:
    queue = places(ask)
    rows = [
        _row(user["name"], server, queue)
        for user in ask.hub.pages("/api/users", state="active")
        for server in user.get("servers", {}).values()
        if ask.options.user in (None, user["name"])
    ]
    ask.table(sorted(rows, key=lambda row: (row["user"], row["name"])), COLUMNS)


def show(ask: Ask) -> None:
    ask.one(find(ask), [*COLUMNS, ("SERVICE", lambda row: row["service"] or "-")])


def stop(ask: Ask) -> None:
    found = find(ask)
    path = f"/api/users/{part(found['user'])}/" + (f"servers/{part(found['name'])}" if found["name"] else "server")
    ask.hub.ask("DELETE", path)
    deadline = time.monotonic() + STOP_WITHIN
    while True:
        try:
            found = find(ask)
        except Stop:
            break
        if time.monotonic() > deadline:
            raise Stop(f"the hub was told to stop {ask.options.session!r}, and it still runs after {STOP_WITHIN:g} s")
        time.sleep(0.3)
    ask.done({**found, "state": "stopped"}, f"stopped {ask.options.session}")


def extend(ask: Ask) -> None:
    if ask.options.by is not None:
        legal("--by", parse_duration, ask.options.by)
    _post(ask, "extend", {} if ask.options.by is None else {"by": ask.options.by})


def hibernate(ask: Ask) -> None:
    _post(ask, "hibernate")


def wake(ask: Ask) -> None:
    _post(ask, "wake")


def _post(ask: Ask, what: str, body: Any = None) -> None:
    found = find(ask)
    below = f"sessions/{part(found['name'])}" if found["name"] else "session"
    answer = ask.hub.ask("POST", f"/metalhub/api/users/{part(found['user'])}/{below}/{what}", body)
    ask.done(answer, answer["message"])


DIAGNOSIS: list[Column] = [
    ("SESSION", lambda row: row["user"] + (f"/{row['name']}" if row["name"] else "")),
    ("CAUSE", lambda row: row["cause"] + ("" if row["now"] else ", over by now")),
    ("WHAT", lambda row: row["sentence"]),
    ("WHEN", lambda row: f"{row['at']}, {ago(row['at'])} ago" if row["at"] else "now"),
]


def diagnose(ask: Ask) -> None:
    user, name = named(ask.options.session)
    below = f"sessions/{part(name)}" if name else "session"
    found = ask.hub.ask("GET", f"/metalhub/api/users/{part(user)}/{below}/diagnosis")
    evidence: list[Column] = [(each["what"].upper(), lambda row, text=each["text"]: text) for each in found["evidence"]]
    steps: list[Column] = [("THE USER", lambda row: row["step"])]
    if found["administrators"]:
        steps.append(("YOU", lambda row: row["administrators"]))
    ask.one(found, [*DIAGNOSIS, *evidence, *steps])


NOUN = Noun(
    "session",
    "sessions that run now",
    (
        Verb("list", "list them", list_all, (Argument("--user", "only this user's", {"metavar": "USER"}),)),
        Verb("show", "show one", show, (SESSION,)),
        Verb(
            "extend",
            "let one run longer, within its profile's limit",
            extend,
            (SESSION, Argument("--by", "by how much, such as 30m, if not by an hour", {"metavar": "TIME"})),
        ),
        Verb("diagnose", "say why one does not run, or what is wrong with it, with evidence and the next step", diagnose, (SESSION,)),
        Verb("hibernate", "freeze one where it is and give its memory back; opening it wakes it", hibernate, (SESSION,)),
        Verb("wake", "let a hibernated one go on", wake, (SESSION,)),
        Verb("stop", "stop one, and wait until it has ended; homes stay", stop, (SESSION,)),
    ),
)
