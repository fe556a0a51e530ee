"""How many sessions of a profile are kept ready for whoever comes next, and where such a session waits for its home.

A ready ("warm") session is one of the profile that has nobody's home and nobody's token yet. It reserves what any session of its profile
does, so it is made only where room is left over, and it is the first to go when somebody needs the room.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# On a node, each ready session has a directory of its own name here, whose ``user`` becomes the home. Names are never used again, so that
# nobody can find a home there that somebody had before.
ROOT = "/run/metalhub/warm"
INNER = "user"
# And here stands whose each one has become, for those on the node who have to tell.
CLAIMS = "/run/metalhub/claims"

# Starts so close together find what was ready before them: about the time that it takes to make one anew, with some waiting in line.
BUCKET = 60.0
# What is looked back on, in seconds, and the share of it that shall be met.
WINDOW = 86400.0
SHARE = 0.95

_NAME = re.compile(r"mh--warm-[0-9a-f]{12}", re.ASCII)


def name(token: str) -> str:
    """The service of a ready session: ``mh--warm-<token>``, twelve hexadecimal digits. No user's session can have such a name, because
    a home's never begins with ``-``. Raises ValueError for another token."""
    made = f"mh--warm-{token}"
    if not _NAME.fullmatch(made):
        raise ValueError(f"{token!r} is not a token: twelve hexadecimal digits")
    return made


def is_name(text: str) -> bool:
    """Whether this is the name of a session that was made ready in advance."""
    return _NAME.fullmatch(text) is not None


def wanted(ages: Iterable[float], most: int) -> int:
    """How many to keep ready, at most ``most``, after starts that were so many seconds ago.

    When somebody starts a session, how many do within a minute? What was enough for 95 % of those minutes of the last day (nearest rank),
    and one where there were none: a first click of the day is a click.
    """
    buckets: dict[int, int] = {}
    for age in ages:
        if 0 <= age < WINDOW:
            buckets[int(age // BUCKET)] = buckets.get(int(age // BUCKET), 0) + 1
    counts = sorted(buckets.values())
    enough = counts[math.ceil(SHARE * len(counts)) - 1] if counts else 1
    return min(most, enough)


@dataclass(frozen=True)
class Shelf:
    """The ready sessions of one profile: how many are there (those being made with them), how many are wanted, and for how many more the
    nodes have room beside all that is reserved."""

    there: int
    wanted: int
    places: int


def changes(shelves: Mapping[str, Shelf], waiting: bool) -> dict[str, int]:
    """Of each profile how many to make (or, negative, to remove) now; profiles with nothing to do are left out.

    Nothing is made while somebody waits for room, and the last place of a profile is never taken: whoever comes next should not have to
    wait for one to be removed. At most one of a profile is made at a time, so that room which they share is counted anew.
    """
    found = {}
    for profile, shelf in shelves.items():
        if shelf.there > shelf.wanted:
            found[profile] = shelf.wanted - shelf.there
        elif shelf.there < shelf.wanted and shelf.places > 1 and not waiting:
            found[profile] = 1
    return found


def fullest(rooms: Sequence[tuple[str, int]]) -> str:
    """Of nodes with their places, the one with most: the first such. Empty where none has any."""
    best = max(rooms, key=lambda pair: pair[1], default=("", 0))
    return best[0] if best[1] > 0 else ""
