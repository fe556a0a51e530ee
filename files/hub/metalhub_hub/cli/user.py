"""``metalhub user``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.accounts import EXPIRES, read_batch
from ..core.durations import parse_duration
from ..core.quotas import parse_quota
from .api import part
from .frame import Argument, Ask, Column, Noun, Usage, Verb, legal
from .session import ago

# Each password takes the hub a good part of a second.
BATCH_WITHIN = 600.0

NAME = Argument("name", "whom", {"metavar": "NAME"})
AGAIN: dict[str, Any] = {"action": "append", "default": []}


def list_all(ask: Ask) -> None:
    accounts = {each["name"]: each for each in ask.hub.ask("GET", "/metalhub/api/accounts")["accounts"]}
    users = {user["name"]: user for user in ask.hub.pages("/api/users")}
    rows = []
    for name in sorted(accounts.keys() | users.keys()):
        user, account = users.get(name, {}), accounts.get(name, {})
        rows.append(
            {
                "name": name,
                "state": account.get("state", "active"),
                "reason": account.get("reason", ""),
                "admin": bool(user.get("admin")),
                "groups": sorted(user.get("groups", [])),
                "profiles": account.get("profiles", []),
                "sessions": len(user.get("servers", {})),
                "created": user.get("created"),
                "last_activity": user.get("last_activity"),
            }
        )
    ask.table(
        rows,
        [
            ("USER", lambda row: row["name"]),
            ("STATE", lambda row: row["state"]),
            ("ADMIN", lambda row: "yes" if row["admin"] else "no"),
            ("GROUPS", lambda row: ", ".join(row["groups"]) or "-"),
            ("GIVEN PROFILES", lambda row: ", ".join(row["profiles"]) or "-"),
            ("SESSIONS", lambda row: row["sessions"]),
            ("ACTIVE BEFORE", lambda row: ago(row["last_activity"])),
        ],
    )


def invite(ask: Ask) -> None:
    given = ask.options
    legal("--expires", parse_duration, given.expires)
    legal("--quota", parse_quota, given.quota)
    body = {
        "email": given.email,
        "name": given.name,
        "groups": given.group,
        "profiles": given.profile,
        "quota": given.quota,
        "expires": given.expires,
    }
    made = ask.hub.ask("POST", "/metalhub/api/invites", body)
    if ask.options.json:
        ask.json(made)
        return
    if made["mailed"]:
        print(f"mailed invitation {made['id']} to {made['email']}; it ends {made['until']}")
        return
    if made["why"]:
        print(f"{given.prog}: not mailed: {made['why']}; give them this link yourself", file=sys.stderr)
    print(made["link"])


INVITES: list[Column] = [
    ("ID", lambda row: row["id"]),
    ("FOR", lambda row: row["email"] or row["name"] or "-"),
    ("GROUPS", lambda row: ", ".join(row["groups"]) or "-"),
    ("QUOTA", lambda row: row["quota"] or "-"),
    ("PROFILES", lambda row: ", ".join(row["profiles"]) or "-"),
    ("UNTIL", lambda row: row["until"]),
    ("BY", lambda row: row["by"]),
]


def invites(ask: Ask) -> None:
    ask.table(ask.hub.ask("GET", "/metalhub/api/invites")["invites"], INVITES)


def uninvite(ask: Ask) -> None:
    number = legal("id", int, ask.options.id)
    ask.hub.ask("DELETE", f"/metalhub/api/invites/{part(str(number))}")
    ask.done({"id": number, "withdrawn": True}, f"took back invitation {number}")


def _batch(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise Usage(f"--batch: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Usage(f"--batch: {path} is not text") from None


def _new(path: str) -> int:
    """A file of one's own that was not there before."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Usage(f"--output: {path} cannot be made: {error.strerror}") from None


MADE: list[Column] = [
    ("USER", lambda row: row["name"]),
    ("PASSWORD", lambda row: row["password"]),
    ("GROUPS", lambda row: ", ".join(row["groups"]) or "-"),
]


def _told(rows: list[Mapping[str, Any]]) -> str:
    return "".join(",".join([row["name"], row["password"], *row["groups"]]) + "\n" for row in rows)


def add(ask: Ask) -> None:
    path = ask.options.output
    people = legal("--batch", read_batch, _batch(ask.options.batch))
    hub = replace(ask.hub, timeout=BATCH_WITHIN)
    # Before anything is made: passwords that cannot be kept are lost.
    file = _new(path) if path else -1
    try:
        answer = hub.ask("POST", "/metalhub/api/accounts", {"users": [{"name": one.name, "groups": one.groups} for one in people]})
    except BaseException:
        if path:
            os.close(file)
            os.unlink(path)
        raise
    made, kept = answer["made"], answer["kept"]
    if path:
        with open(file, "w", encoding="utf-8") as kept_file:
            kept_file.write(_told(made))
        told = {"made": [row["name"] for row in made], "kept": kept, "output": path}
        ask.done(told, f"made {len(made)} accounts; their passwords are in {path}")
    elif ask.options.json:
        ask.json(answer)
    else:
        ask.table(made, MADE)
    if kept and not ask.options.json:
        print(f"{ask.options.prog}: have an account already and were left alone: {', '.join(kept)}", file=sys.stderr)


def disable(ask: Ask) -> None:
    answer = ask.hub.ask("POST", f"/metalhub/api/accounts/{part(ask.options.name)}/disable", {"reason": ask.options.reason})
    ends = f"; {answer['stopping']} sessions end" if answer["stopping"] else ""
    ask.done(answer, f"disabled {answer['name']}{ends}; the home stays")


def enable(ask: Ask) -> None:
    answer = ask.hub.ask("POST", f"/metalhub/api/accounts/{part(ask.options.name)}/enable", {})
    ask.done(answer, f"enabled {answer['name']}")


NOUN = Noun(
    "user",
    "people with an account",
    (
        Verb("list", "list them", list_all),
        Verb(
            "invite",
            "make a link that lets somebody make an account, once; it is mailed where an address is given, else printed",
            invite,
            (
                Argument("--email", "where to mail it", {"metavar": "ADDRESS", "default": ""}),
                Argument("--name", "the name that the account gets, if they are not to pick one", {"metavar": "NAME", "default": ""}),
                Argument("--group", "a group that they are put into; may be given again", {"metavar": "GROUP", **AGAIN}),
                Argument("--quota", "a quota of their own, such as sessions=3, gpu=8h/day", {"metavar": "QUOTA", "default": ""}),
                Argument("--profile", "a profile that they may start beyond those of their groups", {"metavar": "PROFILE", **AGAIN}),
                Argument("--expires", f"for how long it can be used, if not {EXPIRES}", {"metavar": "TIME", "default": EXPIRES}),
            ),
        ),
        Verb("invites", "list the invitations that can still be used", invites),
        Verb("uninvite", "take an invitation back", uninvite, (Argument("id", "its number", {"metavar": "ID"}),)),
        Verb(
            "add",
            "make accounts with passwords of words, which are told once; all of them or none",
            add,
            (
                Argument("--batch", "a file (- is standard input) with lines NAME or NAME,GROUP,…", {"metavar": "FILE", "required": True}),
                Argument("--output", "write name, password and groups into a new file that only you can read", {"metavar": "FILE"}),
            ),
        ),
        Verb(
            "disable",
            "let somebody in no more, and end their sessions; no cookie or token of theirs is good meanwhile, and the home stays",
            disable,
            (NAME, Argument("--reason", "why, for the audit log", {"metavar": "TEXT", "default": ""})),
        ),
        Verb("enable", "let somebody in again", enable, (NAME,)),
    ),
)
