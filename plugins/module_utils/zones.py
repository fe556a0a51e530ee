"""Time zones by their IANA names, as this machine's database has them."""

from __future__ import annotations

import zoneinfo
from datetime import timezone, tzinfo

from .specs import nearest

LEGAL = "an IANA name: UTC, Europe/Berlin, America/New_York"


def read_zone(name: object) -> tzinfo:
    """The time zone of a name. Raises ValueError for a name that the database does not have."""
    if name == "UTC":
        return timezone.utc  # also where the machine has no database
    try:
        if isinstance(name, str):
            return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    hint = nearest(name, zoneinfo.available_timezones()) if isinstance(name, str) else ""
    raise ValueError(f"There is no such time zone. {hint}".strip())
