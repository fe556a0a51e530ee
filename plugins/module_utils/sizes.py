"""Sizes as text: ``8G`` outside, bytes inside. Units are binary, as in Docker and systemd."""

from __future__ import annotations

import re

_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s?(?:(B)|([KMGTP])(?:i?B)?)", re.IGNORECASE | re.ASCII)

LEGAL = "a number and a unit: 512M, 8G, 1.5T (binary units K, M, G, T; GiB and GB mean the same)"


def parse_size(text: object) -> int:
    """Bytes of a size such as ``8G``, ``512M``, ``1.5T``, ``8GiB``. Raises ValueError for anything else.

    A bare number is refused: ``memory: 8`` would be eight bytes, and never is what was meant.
    """
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a size: write {LEGAL}")
    whole, fraction, byte, unit = match.groups()
    factor = _UNITS[(byte or unit).upper()]
    value, rest = divmod(int(whole + (fraction or "")) * factor, int("1" + "0" * len(fraction or "")))
    if rest and factor == 1:
        raise ValueError(f"{text!r} is not a size: there is no part of a byte")
    return value


def format_size(size: int) -> str:
    """A size in bytes for people: the largest unit that fits, with at most one decimal, rounded down (``1.5G``)."""
    if size < 0:
        raise ValueError(f"a size is not negative: {size}")
    unit, factor = max(((u, f) for u, f in _UNITS.items() if f <= max(size, 1)), key=lambda item: item[1])
    tenths = size * 10 // factor
    return f"{tenths // 10}{'.' + str(tenths % 10) if tenths % 10 else ''}{unit}"


def exact_size(size: int) -> str:
    """A size in bytes as text that ``parse_size`` reads back unchanged: a whole number of the largest unit that allows one (``1536M``)."""
    if size < 0:
        raise ValueError(f"a size is not negative: {size}")
    unit, factor = max(((u, f) for u, f in _UNITS.items() if not size % f and f <= max(size, 1)), key=lambda item: item[1])
    return f"{size // factor}{unit}"
