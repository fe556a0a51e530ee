"""What is asked of accounts: a list of people to add, an invitation, and how hard a password of words is to guess. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .durations import parse_duration
from .quotas import format_quota, parse_quota
from .specs import listed

MOST = 500
NAME_LEGAL = "a name of at most 64 characters without spaces, commas and slashes"
GROUP_LEGAL = "letters, digits, '-', '_' and '.', at most 63"
INVITATION = ("email", "name", "groups", "quota", "profiles", "expires")
EXPIRES, LONGEST = "7d", 365 * 86400

_NAME = re.compile(r"[^\s,/\x00-\x1f\x7f]{1,64}")
_GROUP = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_EMAIL = re.compile(r"[^\s@<>,;:\"()\[\]\\\x00-\x20\x7f]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Person:
    """Somebody to add: a name, and the groups that the account is to be in."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Invitation:
    """What whoever takes an invitation gets. ``name`` is empty where they pick one; ``quota`` is canonical text, ``expires`` seconds."""

    email: str = ""
    name: str = ""
    groups: tuple[str, ...] = ()
    quota: str = ""
    profiles: tuple[str, ...] = ()
    expires: int = 7 * 86400


def person(name: object, groups: object) -> Person:
    """One entry of a list of people. Raises ValueError with a sentence."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: legal is {NAME_LEGAL}")
    return Person(name.lower(), read_groups(groups))


def read_groups(groups: object) -> tuple[str, ...]:
    """Names of groups, each once. Raises ValueError with a sentence."""
    if not isinstance(groups, (list, tuple)):
        raise ValueError(f"groups is {groups!r}; legal is a list of names")
    for group in groups:
        if not isinstance(group, str) or not _GROUP.fullmatch(group):
            raise ValueError(f"{group!r} is not a group's name: legal are {GROUP_LEGAL}")
    return tuple(dict.fromkeys(groups))


def read_batch(text: str) -> tuple[Person, ...]:
    """People, one a line: a name, and after commas the groups. Empty lines and those that begin with ``#`` are passed over.

    Raises ValueError with one message that names every line that is wrong.
    """
    found: dict[str, Person] = {}
    lines: dict[str, int] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        words = [word.strip() for word in line.split(",")]
        if not line.strip() or words[0].startswith("#"):
            continue
        try:
            one = person(words[0], words[1:])
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if one.name in found:
            problems.append(f"line {number}: {one.name!r} is in line {lines[one.name]} already")
        found[one.name], lines[one.name] = one, number
    if problems:
        raise ValueError("; ".join(problems))
    if not found:
        raise ValueError("there is no name in it")
    if len(found) > MOST:
        raise ValueError(f"there are {len(found)} names in it; legal are at most {MOST} at once")
    return tuple(found.values())


def read_people(data: object) -> tuple[Person, ...]:
    """The same from a list of ``{"name": …, "groups": […]}``. Raises ValueError."""
    if not isinstance(data, list) or not 0 < len(data) <= MOST:
        raise ValueError(f"users is no list of 1 to {MOST} objects with name and groups")
    found = []
    for each in data:
        if not isinstance(each, Mapping) or set(each) - {"name", "groups"}:
            raise ValueError(f"{each!r} is not a user; legal is an object with name and groups")
        found.append(person(each.get("name"), each.get("groups", [])))
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]!r} is there twice; legal is each name once")
    return tuple(found)


def read_invitation(data: object, groups: Collection[str], profiles: Collection[str]) -> Invitation:
    """An invitation as a program asks for one, where ``groups`` and ``profiles`` are those that there are.

    Raises ValueError with a sentence that names what is wrong and what is legal.
    """
    if not isinstance(data, Mapping) or set(data) - set(INVITATION):
        raise ValueError(f"the body is {data!r}; legal is an object with {', '.join(INVITATION)}")
    texts = {key: data.get(key, "") for key in ("email", "name", "quota")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{key} is {value!r}; legal is text")
    if texts["email"] and not _EMAIL.fullmatch(texts["email"]):
        raise ValueError(f"email: {texts['email']!r} is not an address; legal is one such as ann@example.org")
    name = person(texts["name"], []).name if texts["name"] else ""
    joined = read_groups(data.get("groups", []))
    wanted = data.get("profiles", [])
    if not isinstance(wanted, (list, tuple)):
        raise ValueError(f"profiles is {wanted!r}; legal is a list of names")
    for kind, given, known in (("groups", joined, groups), ("profiles", wanted, profiles)):
        for each in given:
            if each not in known:
                raise ValueError(f"{kind}: there is no {each!r}; legal are {listed(sorted(known)) or 'none: the inventory has none'}")
    try:
        quota = format_quota(parse_quota(texts["quota"]))
    except ValueError as error:
        raise ValueError(f"quota: {error}") from None
    try:
        expires = parse_duration(data.get("expires", EXPIRES))
    except ValueError as error:
        raise ValueError(f"expires: {error}") from None
    if not 0 < expires <= LONGEST:
        raise ValueError(f"expires: {data.get('expires')!r} is not legal: give more than 0s and at most {LONGEST // 86400}d")
    return Invitation(texts["email"], name, joined, quota, tuple(dict.fromkeys(wanted)), expires)


def bits(words: int, of: int) -> float:
    """How many bits somebody has to guess who knows that a password is ``words`` words out of a list of ``of``, each drawn alike."""
    return words * math.log2(of)
