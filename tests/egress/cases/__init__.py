"""All attacks, as tables."""

from __future__ import annotations

from . import direct, frames, inside, names, proxy, tls
from .table import Case


def every() -> list[Case]:
    """All cases in a fixed order."""
    return [case for module in (direct, names, tls, proxy, frames, inside) for case in module.cases()]


__all__ = ["Case", "every"]
