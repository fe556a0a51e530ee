"""Who asked for which profile, and what administrators said. A file that cannot be read approves nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from . import durable
from .audit import Audit
from .config import Profile
from .core import approvals as rules
from .core.approvals import APPROVED, DENIED, ENDED, PENDING, Approval
from .policy import Refused
from .quota import instant

FILE = "approvals.json"

# What a card says, and what its button does.
WORDS = {
    rules.NONE: ("An administrator has to let you use this.", "Ask for it"),
    PENDING: ("You asked for it on {asked}; an administrator has yet to decide.", ""),
    DENIED: ("An administrator said no on {at}{answer}.", "Ask again"),
    ENDED: ("Your approval ended on {until}.", "Ask again"),
}
TAGS = {rules.NONE: "needs approval", PENDING: "asked for", DENIED: "denied", ENDED: "approval ended"}

Place = tuple[str, str]  # user, profile


class Approvals:
    """One a process."""

    def __init__(self, host: Any, clock: Callable[[], float] = time.time) -> None:
        self.host, self.clock = host, clock
        self.path = Path(host.document.state) / FILE
        self._known: dict[Place, Approval] = durable.read(self.path, self._understand, {})

    @staticmethod
    def _understand(data: dict[str, Any]) -> dict[Place, Approval]:
        return {(str(row["user"]), str(row["profile"])): rules.read(row["approval"]) for row in data["approvals"]}

    @property
    def audit(self) -> Audit:
        return self.host.audit  # type: ignore[no-any-return]

    def now(self) -> int:
        return int(self.clock())

    def _keep(self, known: dict[Place, Approval]) -> None:
        """Write all down, and let it hold. Raises OSError, and then all is as it was."""
        rows = [{"user": user, "profile": name, "approval": rules.plain(each)} for (user, name), each in sorted(known.items())]
        durable.write(self.path, approvals=rows)
        self._known = known

    def of(self, user: str, profile: str) -> str:
        """Where a user stands with a profile that needs approval."""
        return rules.standing(self._known.get((user, profile)), self.now())

    def why_not(self, user: str, profile: Profile) -> tuple[str, str, str]:
        """Why a user may not start a profile yet, in a sentence, in a word or two, and what a button says. Empty where they may."""
        if not profile.approval or (state := self.of(user, profile.name)) == APPROVED:
            return "", "", ""
        found = self._known.get((user, profile.name), Approval(""))
        sentence, button = WORDS[state]
        answer = f": {found.answer.rstrip('.')}" if found.answer else ""
        days = {"asked": self._day(found.asked), "at": self._day(found.at), "until": self._day(found.until)}
        return sentence.format(answer=answer, **days), TAGS[state], button

    def _day(self, seconds: int) -> str:
        day = datetime.fromtimestamp(seconds, self.host.document.time_zone)
        return f"{day.day} {day:%B %Y}"

    def admit(self, user: str, profile: Profile) -> None:
        """Raises Refused for somebody who is not approved for a profile that needs it."""
        why, _, button = self.why_not(user, profile)
        if why:
            more = " Ask for it on the start page." if button else ""
            raise Refused(f"“{profile.title}” needs an administrator's approval. {why}{more}", reason="approval", status=403)

    def ask(self, user: str, profile: str, reason: str) -> None:
        """A user asks. Raises ValueError with a sentence, and OSError."""
        found = rules.ask(self._known.get((user, profile)), reason, self.now())
        self._keep({**self._known, (user, profile): found})
        self.audit.write("profile.asked", user=user, profile=profile, reason=found.reason)

    def decide(self, user: str, profile: str, approve: bool, by: str, answer: str, until: int) -> None:
        """An administrator decides. Raises ValueError with a sentence, and OSError."""
        found = rules.decide(self._known.get((user, profile)), approve, by, answer, until, self.now())
        self._keep({**self._known, (user, profile): found})
        facts: dict[str, Any] = {"until": instant(until)} if until else {}
        kind = "profile.approved" if approve else "profile.denied"
        self.audit.write(kind, user=user, profile=profile, by=by, reason=found.answer, **facts)

    def forget(self, user: str) -> None:
        """A user is gone: who comes under the same name later is somebody else. Raises OSError."""
        left = {place: each for place, each in self._known.items() if place[0] != user}
        if left != self._known:
            # Whether or not the disk takes it, nobody is approved by it from now on.
            self._known = left
            self._keep(left)

    def forget_profile(self, profile: str) -> None:
        """A profile is gone for good: one of the same name later is another. Raises OSError."""
        self._keep({place: each for place, each in self._known.items() if place[1] != profile})

    def waiting(self) -> int:
        """How many requests wait for an administrator."""
        return sum(each.state == PENDING for each in self._known.values())

    def rows(self) -> list[dict[str, Any]]:
        """All requests and decisions for the API, those that wait first, the newest first."""
        found = [
            {
                "user": user,
                "profile": name,
                "title": profile.title if (profile := self.host.document.profiles.get(name)) else "",
                "state": rules.standing(each, self.now()),
                "asked": instant(each.asked) if each.asked else None,
                "reason": each.reason,
                "by": each.by,
                "at": instant(each.at) if each.at else None,
                "until": instant(each.until) if each.until else None,
                "answer": each.answer,
            }
            for (user, name), each in self._known.items()
        ]
        return sorted(sorted(found, key=lambda row: row["at"] or row["asked"] or "", reverse=True), key=lambda row: row["state"] != PENDING)
