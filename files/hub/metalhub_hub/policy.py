"""Who may start what. Pure, and asked at each start: the REST API does not pass by the form."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jupyterhub.spawner import SpawnException

from .cluster import Room
from .config import Document, Profile
from .core import sizes


class Refused(SpawnException):
    """A start that will not be: one sentence for the user, one word for the metrics.

    ``jupyterhub_message`` is what the hub's pages show; a plain SpawnException's text is lost on the way there.
    """

    def __init__(self, sentence: str, *, reason: str, status: int = 400, log: str = "") -> None:
        super().__init__(sentence, reason=reason, log_message=log or sentence, status_code=status)
        self.jupyterhub_message = sentence


def allowed_profiles(document: Document, groups: Collection[str], granted: Collection[str] = ()) -> list[Profile]:
    """The profiles a member of ``groups`` may start who was ``granted`` some by name, the default one first."""
    mine = [p for p in document.profiles.values() if not p.groups or p.groups & set(groups) or p.name in granted]
    return sorted(mine, key=lambda profile: not profile.default)


def choose(document: Document, groups: Collection[str], options: Mapping[str, Any], granted: Collection[str] = ()) -> Profile:
    """The profile of a start with these options, which may be anything a client sent. Raises Refused."""
    unknown = sorted(str(key) for key in options if key != "profile")
    if unknown:
        raise Refused(f"A session is chosen by its profile alone; {unknown[0]!r} is no option.", reason="options")
    mine = allowed_profiles(document, groups, granted)
    if not mine:
        raise Refused("No profile is open to you yet; ask an administrator.", reason="profile", status=403)
    wanted = options.get("profile")
    if wanted is None:
        return mine[0]
    for profile in mine:
        if profile.name == wanted:
            return profile
    # The same words for a profile that is not there and one of another group: its name may be telling.
    names = ", ".join(profile.name for profile in mine)
    raise Refused(f"There is no profile {str(wanted)[:64]!r} for you; there is {names}.", reason="profile", status=403)


def no_room(profile: Profile, room: Room | None, waited: str = "") -> Refused:
    """Why ``profile`` has no place now, as well as it is known. ``waited``: for how long it was waited for, in words."""
    if room and not room.nodes:
        sentence = f"There is no room for “{profile.title}”: no machine of its pool “{profile.pool}” is up right now."
    elif room and not room.able:
        sentence = f"There is no room for “{profile.title}”: no machine that is up now is large enough for it."
    elif waited:
        sentence = f"No place for “{profile.title}” came free in {waited}, so your start was given up; try again or pick another profile."
    else:
        sentence = (
            f"There is no room for “{profile.title}” right now: others hold all of its places, "
            "so try again later or pick a smaller profile."
        )
    return Refused(sentence, reason="room", status=503)


# What exit codes of programs mean: 128 and a signal's number, or the shell's own.
EXITS = {
    126: "its program cannot be run: tell an administrator that the image is broken",
    127: "its program is not there: tell an administrator that the image is broken",
    132: "illegal instruction: a library was built for another processor",
    134: "aborted: a library gave up on an error of its own",
    137: "killed",
    139: "segmentation fault: a library crashed",
    143: "terminated",
}


def exit_code(code: int) -> str:
    """An exit code with its meaning, where it has one."""
    return f"exit code {code}" + (f", {EXITS[code]}" if code in EXITS else "")


def larger(document: Document, groups: Collection[str], profile: Profile | None, granted: Collection[str] = ()) -> str:
    """What to do about too little memory: the next profile of the same kind that a user may start."""
    more = [
        other
        for other in allowed_profiles(document, groups, granted)
        if profile
        and other.flavor.memory > profile.flavor.memory
        and (other.egress, bool(other.flavor.gpu)) == (profile.egress, bool(profile.flavor.gpu))
    ]
    if not more:
        return "Ask an administrator for a profile with more memory"
    best = min(more, key=lambda other: other.flavor.memory)
    return f"Start “{best.title}”, which has {sizes.format_size(best.flavor.memory)}"


# How a session can end without its user's doing, in the words of its page. {limit} is the profile's memory.
ENDINGS = {
    "lost": "The machine that ran your session stopped answering. Your home is intact; what was in memory is lost.",
    "drain": "The machine that ran your session was taken out of service by an administrator. "
    "{why} Your home is intact; what was in memory is lost.",
    "removed": "Your session was removed by an administrator. Your home is intact; what was in memory is lost.",
    "admin": "Your session was stopped by an administrator. Your home is intact; what was in memory is lost.",
    "disabled": "Your session was stopped because an administrator disabled your account. Your home is intact; what was in memory is lost.",
    "memory": "Your session was killed, most likely because it ran out of memory: it went over its memory limit of {limit}. "
    "Your home is intact; what was in memory is lost. {larger}, or hold less data at a time.",
    "idle": "Your session was stopped because nothing ran in it for {idle}. Your home is intact.",
    "max_session": "Your session was stopped because it reached its longest time, {longest}. Your home is intact.",
    "quota": "Your session was stopped because your quota is used up. {why} Your home is intact; what was in memory is lost.",
    "exited": "Your session ended: it was shut down from inside, or its machine was restarted. Your home is intact.",
    "failed": "Your session ended unexpectedly ({code}). Your home is intact; what was in memory is lost.",
    "rejected": "The machine could not run your session. Your home is intact.",
}


# The same where the session's machine told what it held.
OUT_OF_MEMORY = (
    "Your session was ended by its machine: out of memory at {memory}. Your home is intact; what was in memory is lost. "
    "{larger}, or hold less data at a time."
)


def start_failure(profile: Profile, cause: str, detail: str, code: int, homes_root: str) -> Refused:
    """Why a task ended while it started, told from the engine's words."""
    log = f"{cause}: {detail}" + (f" (exit code {code})" if code else "")
    lower = detail.lower()
    if "no such image" in lower or "pull" in lower or "manifest" in lower or "reference does not exist" in lower:
        return Refused(
            f"The image “{profile.image}” is missing on the machine and could not be fetched; tell an administrator.",
            reason="image",
            status=503,
            log=log,
        )
    if homes_root.lower() in lower or "stale file handle" in lower or "transport endpoint" in lower:
        return Refused(
            "Your home is offline on the machine that was to run your session; try again in a few minutes.",
            reason="home",
            status=503,
            log=log,
        )
    if "no space left" in lower:
        return Refused(
            "The machine that was to run your session has a full disk; tell an administrator.",
            reason="disk",
            status=503,
            log=log,
        )
    if cause in ("lost", "drain"):
        sentence = "The machine that was to run your session went away while it started; start it again."
    elif cause == "rejected":
        sentence = "The machine could not run your session; tell an administrator (the hub's log says why)."
    else:
        sentence = f"Your session ended while it started ({exit_code(code)}); try again, or tell an administrator."
    return Refused(sentence, reason=cause, status=503, log=log)
