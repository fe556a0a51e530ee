"""Names of a home's snapshots, and which of them go. Role storage ships this file with its service, so it stays within Python 3.9."""

from __future__ import annotations

import calendar
import re
import time
import typing as t
from dataclasses import dataclass

# The snapshot that a restore makes of what it replaces. Nobody may ask for one by this cause.
BEFORE_RESTORE = "before_restore"
# So long what a restore replaced stays at least, in seconds, and so many of them a home may have in that time.
HOLD = 7 * 86400
MOST_HELD = 20
MOST_KEPT = 100

CAUSE = re.compile(r"[a-z][a-z_]{0,19}", re.ASCII)
_NAME = re.compile(r"(\d{8}T\d{6}Z)-([a-z][a-z_]{0,19})", re.ASCII)
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, order=True)
class Snapshot:
    """``at`` is seconds since the epoch, ``cause`` one word: why it was taken."""

    at: int
    cause: str

    @property
    def name(self) -> str:
        """``20260131T180000Z-idle``, in UTC."""
        return f"{time.strftime(_TIME, time.gmtime(self.at))}-{self.cause}"


def read(name: str) -> Snapshot | None:
    """The snapshot of this name, or None where no snapshot is called so."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        found = Snapshot(calendar.timegm(time.strptime(match[1], _TIME)), match[2])
    except (ValueError, OverflowError):
        return None
    # What is no date, such as the 61st second, reads as another one.
    return found if found.name == name else None


def read_all(names: t.Iterable[str]) -> list[Snapshot]:
    """The snapshots among these names, the newest first."""
    return sorted((found for name in names if (found := read(name)) is not None), reverse=True)


def following(names: t.Iterable[str], now: float, cause: str) -> Snapshot:
    """The next snapshot of a home that has these. Raises ValueError for a cause that is none.

    It is later than all others by a second at least, also after a clock that jumped back: the order of the names is the order in
    which they were taken.
    """
    if not CAUSE.fullmatch(cause):
        raise ValueError(f"cause is {cause!r}; legal is a word of a-z and _, at most 20 long")
    newest = read_all(names)
    return Snapshot(max([int(now), *(one.at + 1 for one in newest[:1])]), cause)


def held(names: t.Iterable[str], now: float) -> int:
    """How many snapshots of what a restore replaced are too young to go."""
    return sum(one.cause == BEFORE_RESTORE and now - one.at < HOLD for one in read_all(names))


def retire(names: t.Iterable[str], keep: int, now: float) -> list[str]:
    """Names of the snapshots of a home that go, the oldest first. With ``keep`` 0 none goes: nothing takes their place.

    The newest ``keep`` stay. What restores replaced is counted on its own, and stays as long as it is younger than HOLD besides.
    """
    if keep <= 0:
        return []
    every = read_all(names)
    usual = [one for one in every if one.cause != BEFORE_RESTORE][keep:]
    replaced = [one for one in every if one.cause == BEFORE_RESTORE][keep:]
    return [one.name for one in sorted([*usual, *(one for one in replaced if now - one.at >= HOLD)])]


def check_keep(value: object) -> int:
    """``storage_snapshots_keep``. Raises ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_KEPT:
        raise ValueError(f"storage_snapshots_keep is {value!r}; legal is a whole number from 0 (no snapshots) to {MOST_KEPT}")
    return value


def check_free(value: object) -> int:
    """``storage_snapshots_free``. Raises ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 90:
        raise ValueError(f"storage_snapshots_free is {value!r}; legal is a percentage from 0 to 90, as a whole number")
    return value
