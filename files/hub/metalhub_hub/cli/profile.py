"""``metalhub profile``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..core.durations import parse_duration
from ..core.profiles import PROFILE
from ..core.specs import nearest
from .api import part
from .frame import Argument, Ask, Column, Noun, Usage, Verb, legal

NAME = Argument("profile", "its name", {"metavar": "PROFILE"})
FIELDS = Argument(
    "field",
    "FIELD=VALUE; groups are joined by commas, environment is a JSON object, startup=@FILE reads a file, FIELD= drops a change",
    {"metavar": "FIELD=VALUE", "nargs": "+"},
)
REASON = Argument("--reason", "why, for the audit log; who is denied is told it", {"metavar": "TEXT", "default": ""})


def value(key: str, text: str) -> Any:
    """A field's value. None, which drops a change, for no text. Raises Usage."""
    if key not in PROFILE:
        raise Usage(f"there is no field {key!r}; {nearest(key, PROFILE)} legal are {', '.join(PROFILE)}".replace("  ", " "))
    kind = PROFILE[key]["type"]
    if not text:
        return None
    if kind == "bool":
        if text not in ("true", "false"):
            raise Usage(f"{key} is {text!r}; legal are true and false")
        return text == "true"
    if kind == "list":
        return [item.strip() for item in text.split(",") if item.strip()]
    if kind == "dict":
        try:
            return json.loads(text)
        except ValueError:
            raise Usage(f'{key} is {text[:80]!r}; legal is a JSON object: {{"OMP_NUM_THREADS": "4"}}') from None
    if key == "startup" and text.startswith("@"):
        try:
            return Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Usage(f"{text[1:]} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    return text


def fields(words: list[str]) -> dict[str, Any]:
    """The fields of a command. Raises Usage."""
    found = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            raise Usage(f"{word!r} is no field with a value: write FIELD=VALUE")
        if key in found:
            raise Usage(f"{key} is given twice")
        found[key] = value(key, text)
    return found


def shown(what: Any) -> str:
    """A field's value in a table."""
    if isinstance(what, str):
        return what if "\n" not in what else "\n".join(["", *(f"    {line}" for line in what.splitlines())])
    if isinstance(what, bool):
        return "true" if what else "false"
    if isinstance(what, list) and all(isinstance(item, str) and "\n" not in item and "," not in item for item in what):
        return ", ".join(what)
    return json.dumps(what, ensure_ascii=False)


def _from(row: Mapping[str, Any]) -> str:
    changes = len(row["changes"])
    if not row["inventory"]:
        return "runtime"
    return "inventory" + (f", {changes} change{'' if changes == 1 else 's'}" if changes else "")


LIST: list[Column] = [
    ("PROFILE", lambda row: row["name"]),
    ("FROM", _from),
    *((key.upper(), lambda row, key=key: shown(row["fields"].get(key, "-"))) for key in ("image", "flavor", "pool", "egress")),
    ("GROUPS", lambda row: shown(row["fields"].get("groups") or "everybody")),
    ("APPROVAL", lambda row: "needed" if row["fields"].get("approval") else "-"),
    ("STATE", lambda row: "broken" if row["broken"] else "ok"),
]


def list_all(ask: Ask) -> None:
    ask.table(ask.hub.ask("GET", "/metalhub/api/profiles")["profiles"], LIST)


def tell(ask: Ask, row: Mapping[str, Any]) -> None:
    """Print a profile with what was changed at runtime."""
    for doubt in row.get("doubts", []):
        print(f"note: {doubt}", file=sys.stderr)
    if ask.options.json:
        ask.json(row)
        return
    changes = {each["field"]: each for each in row["changes"]}

    def line(key: str) -> str:
        text = shown(row["fields"][key])
        if key not in changes:
            return text
        each = changes[key]
        day = datetime.fromtimestamp(each["at"], timezone.utc).isoformat(timespec="minutes")
        own = "" if each["inventory"] is None else f", the inventory says {shown(each['inventory'])}"
        end = "" if each["stays"] else ", until the next converge"
        return f"{text}   ({each['by']}, {day}{own}{end})"

    rows: list[Column] = [("profile", lambda row: row["name"]), ("from", _from)]
    rows += [(key, lambda row, key=key: line(key)) for key in PROFILE if key in row["fields"]]
    if row["broken"]:
        rows.append(("broken", lambda row: row["broken"]))
    ask.one(row, rows)


def show(ask: Ask) -> None:
    tell(ask, ask.hub.ask("GET", f"/metalhub/api/profiles/{part(ask.options.profile)}"))


def create(ask: Ask) -> None:
    body = {**fields(ask.options.field), "name": ask.options.profile}
    tell(ask, ask.hub.ask("POST", "/metalhub/api/profiles", body))


def change(ask: Ask) -> None:
    body = fields(ask.options.field)
    tell(ask, ask.hub.ask("PATCH", f"/metalhub/api/profiles/{part(ask.options.profile)}", body))


def delete(ask: Ask) -> None:
    ask.hub.ask("DELETE", f"/metalhub/api/profiles/{part(ask.options.profile)}")
    ask.done({"name": ask.options.profile, "deleted": True}, f"deleted {ask.options.profile}")


def converge(ask: Ask) -> None:
    dropped = ask.hub.ask("POST", "/metalhub/api/profiles-converge")["dropped"]
    ask.done(dropped, "\n".join(f"dropped {each['profile']}.{each['field']}" for each in dropped) or "nothing to drop")


REQUESTS: list[Column] = [
    ("USER", lambda row: row["user"]),
    ("PROFILE", lambda row: row["profile"]),
    ("STATE", lambda row: row["state"]),
    ("ASKED", lambda row: row["asked"] or "-"),
    ("ASKED FOR", lambda row: row["reason"] or "-"),
    ("BY", lambda row: row["by"] or "-"),
    ("UNTIL", lambda row: row["until"] or "-"),
    ("REASON", lambda row: row["answer"] or "-"),
]


def requests(ask: Ask) -> None:
    rows = ask.hub.ask("GET", "/metalhub/api/profile-requests")["requests"]
    ask.table([row for row in rows if ask.options.all or row["state"] == "pending"], REQUESTS)


def _decide(ask: Ask, **body: str) -> None:
    path = f"/metalhub/api/profile-requests/{part(ask.options.user)}/{part(ask.options.profile)}"
    ask.one(ask.hub.ask("PUT", path, {**body, "reason": ask.options.reason}), REQUESTS)


def approve(ask: Ask) -> None:
    given = ask.options
    if given.for_ is not None and given.until is not None:
        raise Usage("an approval has one end: give one of --for 30d and --until 2026-01-31T18:00:00+01:00, or none")
    if given.for_ is not None:
        legal("--for", parse_duration, given.for_)
    ends = {"for": given.for_, "until": given.until}
    _decide(ask, decision="approve", **{key: text for key, text in ends.items() if text is not None})


def deny(ask: Ask) -> None:
    _decide(ask, decision="deny")


USER = Argument("user", "whom", {"metavar": "USER"})
NOUN = Noun(
    "profile",
    "what users choose from; changes hold until the next converge where the inventory sets the field itself",
    (
        Verb("list", "list them", list_all),
        Verb("show", "show one, with what was changed at runtime", show, (NAME,)),
        Verb("create", "make one, which is there until it is deleted", create, (NAME, FIELDS)),
        Verb("set", "change fields of one, for sessions that start from now on", change, (NAME, FIELDS)),
        Verb("delete", "delete one that was made at runtime", delete, (NAME,)),
        Verb("converge", "let the inventory's own fields win, as each run of the site's playbook does", converge),
        Verb("requests", "list who waits for approval", requests, (Argument("--all", "decided ones, too", {"action": "store_true"}),)),
        Verb(
            "approve",
            "let a user start a profile that needs approval",
            approve,
            (
                USER,
                NAME,
                Argument("--for", "for how long, such as 30d, if not for good", {"metavar": "TIME", "dest": "for_"}),
                Argument("--until", "or until when, with its zone: 2026-01-31T18:00:00+01:00", {"metavar": "TIME"}),
                REASON,
            ),
        ),
        Verb("deny", "refuse a request, or take an approval back", deny, (USER, NAME, REASON)),
    ),
)
