"""What is known of a session and its user, gathered for core.diagnosis: the hub's record, and a look at what a session needs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from . import policy
from .config import Profile
from .core import diagnosis, names
from .core.diagnosis import Diagnosis, Evidence, Places
from .engine import EngineUnknown
from .ledger import LedgerError
from .policy import Refused

if TYPE_CHECKING:
    from .platform import Platform

# What of the evidence is for administrators alone.
INNER = ("engine", "cluster", "image now")


def _profile(host: Platform, spawner: Any) -> Profile | None:
    """The profile that it is about: of the session, of the last one or the last try, or what its user would get."""
    last = sorted((spawner.ended or {}, spawner.refused or {}), key=lambda each: str(each.get("at", "")), reverse=True)
    told = [spawner.profile_name, *(str(each.get("profile", "")) for each in last)]
    found = (host.document.profiles.get(name) for name in told)
    mine = policy.allowed_profiles(host.document, spawner.groups, spawner.granted)
    return next((profile for profile in found if profile is not None), mine[0] if mine else None)


async def _cluster(host: Platform, profile: Profile | None) -> tuple[Places | None, str]:
    try:
        snapshot = await host.snapshot_for_starts()
    except EngineUnknown as error:
        return None, str(error)
    if profile is None:
        return None, ""
    room = snapshot.room(profile.pool, profile.flavor)
    return Places(room.places, room.nodes, room.able), ""


async def _answers(host: Platform, spawner: Any) -> bool | None:
    """Whether the session's server answers; a hibernated one is not asked."""
    if not host.sessions.runs(spawner) or (spawner.life is not None and spawner.life.frozen):
        return None
    session = spawner.service_name
    return await host.sessions.servers.read(session, spawner.url + spawner.server.base_url, False) is not None


async def diagnose(host: Platform, spawner: Any) -> Diagnosis:
    """The one cause of a session's state."""
    profile, user = _profile(host, spawner), spawner.user.name
    (room, cluster), home, answers = await asyncio.gather(
        _cluster(host, profile), host.homes.look(names.home_name(user)), _answers(host, spawner)
    )
    quota = image = ""
    if profile is not None:
        with contextlib.suppress(LedgerError):  # then nobody can tell
            quota = " ".join(host.quota.refusals(user, spawner.name, spawner.groups, profile))
        try:
            host.images.reference(profile.image)
        except Refused as refused:
            image = refused.jupyterhub_message
    disabled = False
    with contextlib.suppress(LedgerError):
        disabled = host.people.disabled(user) is not None
    running = host.sessions.runs(spawner)
    return diagnosis.decide(
        Evidence(
            title=profile.title if profile else "",
            running=running,
            starting=spawner.pending == "spawn",
            node=spawner.node,
            answers=answers,
            event=None if running else spawner.event(),
            disabled=disabled,
            quota=quota,
            room=room,
            image=image,
            home=home,
            egress=spawner.way_out(),
            cluster=cluster,
            memory=host.figures(spawner.service_name) if spawner.service_name else None,
        )
    )


def plain(user: str, server: str, found: Diagnosis, everything: bool) -> dict[str, Any]:
    """A diagnosis for the API. Not ``everything``: what its user may see."""
    shown = found
    if not everything:
        own = tuple(each for each in found.evidence if each[0] not in INNER)
        shown = replace(found, evidence=own, administrators="")
    return {
        "user": user,
        "name": server,
        "cause": shown.cause,
        "sentence": shown.sentence,
        "evidence": [{"what": what, "text": text} for what, text in shown.evidence],
        "step": shown.step,
        "administrators": shown.administrators,
        "node": shown.node,
        "at": None if shown.at is None else datetime.fromtimestamp(shown.at, timezone.utc).isoformat(timespec="seconds"),
        "now": shown.now,
    }
