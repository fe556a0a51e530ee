"""Durations as text: ``1h30m`` outside, seconds inside."""

from __future__ import annotations

import re

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_WORDS = {"w": "week", "d": "day", "h": "hour", "m": "minute", "s": "second"}
_DURATION = re.compile("".join(rf"(?:(\d{{1,9}}){unit}\s?)?" for unit in _UNITS), re.ASCII)

LEGAL = "numbers with units, largest first: 90s, 30m, 8h, 1h30m, 2d, 1w"


def parse_duration(text: object) -> int:
    """Seconds of a duration such as ``30m``, ``1h30m``, ``2d``. Raises ValueError for anything else.

    A bare number is refused, since nobody can tell seconds from minutes in it.
    """
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) and text.strip() else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write {LEGAL}")
    return sum(int(number or 0) * factor for number, factor in zip(match.groups(), _UNITS.values()))


def format_duration(seconds: int, parts: int = 2) -> str:
    """A duration in seconds in words, by its ``parts`` largest units (``1 hour 30 minutes``), rounded down."""
    if seconds < 0:
        raise ValueError(f"a duration is not negative: {seconds}")
    words: list[str] = []
    # Weeks are left out: people say "10 days", not "1 week 3 days".
    for unit, factor in list(_UNITS.items())[1:]:
        number, seconds = divmod(seconds, factor)
        if words and len(words) < parts and not number:
            break  # "2 days 5 seconds" would pretend to an exactness nobody reads
        if number and len(words) < parts:
            words.append(f"{number} {_WORDS[unit]}{'' if number == 1 else 's'}")
    return " ".join(words) or "0 seconds"


def exact_duration(seconds: int) -> str:
    """A duration in seconds as text that ``parse_duration`` reads back unchanged, in hours, minutes and seconds (``40h``, ``1h30m``)."""
    if seconds < 0:
        raise ValueError(f"a duration is not negative: {seconds}")
    numbers = zip((seconds // 3600, seconds // 60 % 60, seconds % 60), "hms")
    return "".join(f"{number}{unit}" for number, unit in numbers if number) or "0s"
