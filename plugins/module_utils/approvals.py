"""An administrator's approval of a user for a profile that needs one: what it says at an instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NONE, PENDING, APPROVED, DENIED, ENDED = "none", "pending", "approved", "denied", "ended"

# Of what a user or an administrator writes, in characters.
REASON_LIMIT = 500


@dataclass(frozen=True)
class Approval:
    """A user's request for a profile and what became of it. Instants are seconds since the epoch, 0 is never.

    ``state`` is pending, approved or denied. ``asked`` is when the user asked and ``reason`` why; ``by`` decided it at ``at``, until
    ``until``, and ``answer`` is what the user is told.
    """

    state: str
    asked: int = 0
    reason: str = ""
    by: str = ""
    at: int = 0
    until: int = 0
    answer: str = ""


def standing(approval: Approval | None, now: int) -> str:
    """Where somebody stands: none, pending, approved, denied, or ended where an approval has run out."""
    if approval is None:
        return NONE
    if approval.state == APPROVED and approval.until and now >= approval.until:
        return ENDED
    return approval.state


def ask(approval: Approval | None, reason: str, now: int) -> Approval:
    """A user asks. Raises ValueError with a sentence for the user where there is nothing to ask for."""
    state = standing(approval, now)
    if state == PENDING:
        raise ValueError("You have asked for it already; an administrator has yet to decide.")
    if state == APPROVED:
        raise ValueError("You are approved for it already; start it.")
    return Approval(PENDING, asked=now, reason=_checked(reason))


def decide(approval: Approval | None, approve: bool, by: str, answer: str, until: int, now: int) -> Approval:
    """An administrator approves, or denies, which also takes an approval back. Raises ValueError.

    It needs no request: a user may be approved ahead.
    """
    if until and until <= now:
        raise ValueError("the approval would have ended already; legal is an end in the future")
    if until and not approve:
        raise ValueError("a denial has no end; legal is an end of an approval")
    asked, reason = (approval.asked, approval.reason) if approval else (0, "")
    return Approval(APPROVED if approve else DENIED, asked, reason, by, now, until, _checked(answer))


def _checked(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > REASON_LIMIT:
        raise ValueError(f"the reason has {len(text)} characters; legal are at most {REASON_LIMIT}")
    return text


def plain(approval: Approval) -> dict[str, object]:
    """As JSON takes it."""
    return dict(vars(approval))


def read(data: Mapping[str, object]) -> Approval:
    """Out of what ``plain`` gave. Raises ValueError for anything else."""
    try:
        found = Approval(**data)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"this is no approval: {error}") from None
    for key, value in vars(found).items():
        if type(value) is not type(getattr(Approval(""), key)):
            raise ValueError(f"this is no approval: {key} is {value!r}")
    if found.state not in (PENDING, APPROVED, DENIED):
        raise ValueError(f"this is no approval: its state is {found.state!r}")
    return found
