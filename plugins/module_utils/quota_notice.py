"""What happens to a running session whose quota runs out: a warning, then notice, then the cut. Pure, with injected time.

Nothing is cut without notice, and notice counts only time in which somebody looked: a tick that comes late, or a machine that slept,
takes no more than LONGEST_STEP off it. So neither missed ticks nor a hub that was away cut a session that nobody warned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .durations import format_duration
from .quotas import Forecast, covers

FINE, WARNED, NOTICE, CUT = "fine", "warned", "notice", "cut"
LONGEST_STEP = 60


@dataclass(frozen=True)
class Standing:
    """Where a session stands. ``left`` is what is left of its notice in seconds, None without one; ``forecast`` is the limit meant."""

    state: str = FINE
    left: int | None = None
    forecast: Forecast | None = None

    def sentence(self, now: int) -> str:
        """For the user of a running session; empty where there is nothing to tell."""
        if self.forecast is None:
            return ""
        if self.left is None:
            return self.forecast.meter.sentence
        cut = self.forecast.cut_at
        seconds = max(self.left, cut - now if cut is not None else 0)
        return f"This session will be stopped in about {_about(seconds)}, save your work. {self.forecast.meter.sentence}"


def _about(seconds: int) -> str:
    return format_duration((seconds + 59) // 60 * 60) if seconds > 60 else "a minute"


def of_session(found: Iterable[Forecast], resources: Collection[str]) -> tuple[Forecast, ...]:
    """Those of a user's forecasts that concern a session holding these resources."""
    return tuple(each for each in found if any(covers(each.meter.resource, name) for name in resources))


def step(before: Standing, found: Collection[Forecast], now: int, elapsed: int, notice: int) -> Standing:
    """Where a session stands now.

    ``found`` are the forecasts of its resources, ``elapsed`` the seconds since the last look by a clock that never jumps, ``notice``
    the seconds of notice. Its state is CUT when a limit is used up and the notice is over.
    """
    soon = [each for each in found if each.cut_at is not None and (each.meter.full or each.cut_at - now <= notice)]
    if soon:
        first = min(soon, key=lambda each: each.cut_at or 0)
        left = notice if before.left is None else max(0, before.left - min(max(0, elapsed), LONGEST_STEP))
        return Standing(CUT if left == 0 and first.meter.full else NOTICE, left, first)
    near = [each for each in found if each.meter.warning]
    if near:
        return Standing(WARNED, None, max(near, key=lambda each: each.meter.used / max(1, each.meter.limit)))
    return Standing()
