"""Why a session does not run, or does not do what its user expects: one cause, with evidence and the next step. Pure.

In this order:

1. A session that runs: its way out is closed, its home is offline or full, it ran out of memory, its server says nothing; else it is
   healthy.
2. A session that starts: there is no room for it; else it is healthy.
3. A session that does not run: its user is disabled; else what its last start was refused for, or its last session ended by, whichever is
   newer, where that names a cause; else what would keep it from starting now: the cluster, the home, the image, quota, room; else
   it crashed, if its last session did; else nothing keeps it from starting.

Sizes are bytes, instants are seconds since the epoch. What nobody could tell is None and never a cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

QUOTA, ROOM, IMAGE, HOME_OFFLINE, HOME_FULL, EGRESS = "quota", "no room", "image", "home offline", "home full", "egress"
MEMORY, LOST, DRAIN, IDLE, MAX_SESSION = "out of memory", "node lost", "drain", "idle", "max age"
STOPPED, DISABLED, CRASHED, DISK, CLUSTER, SILENT = "stopped", "disabled", "crashed", "disk full", "cluster", "silent"
PROFILE, HEALTHY = "profile", "healthy"

# What the hub writes down of a refused start or an end, in one word, and the cause that this is. All other words name none.
REASONS = {
    "quota": QUOTA,
    "room": ROOM,
    "image": IMAGE,
    "home": HOME_OFFLINE,
    "full": HOME_FULL,
    "disk": DISK,
    "memory": MEMORY,
    "lost": LOST,
    "drain": DRAIN,
    "idle": IDLE,
    "max_session": MAX_SESSION,
    "user": STOPPED,
    "admin": STOPPED,
    "removed": STOPPED,
    "stopped": STOPPED,
    "disabled": DISABLED,
    "profile": PROFILE,
    "options": PROFILE,
}
# Those that pass by themselves: what is so now outranks what was so then.
_TRANSIENT = ("engine", "ledger", "timeout")

# For whom it is: what they can do about it. The second is for administrators, after what the user can do.
STEPS = {
    QUOTA: (
        "Stop another session, wait until the limit begins anew, or ask an administrator for more.",
        "metalhub quota show USER has all limits; metalhub quota override gives more until an end.",
    ),
    ROOM: (
        "Try again later, or pick a smaller profile.",
        "metalhub node list shows what is free on each machine, and whether one is drained.",
    ),
    IMAGE: (
        "Tell an administrator; until then start a profile with another image.",
        "Run the role images (playbooks/site.yml): it pushes and pulls what is missing. Look whether the registry runs.",
    ),
    HOME_OFFLINE: (
        "Try again in a few minutes. Nothing in your home is lost.",
        "Look at metalhub-storage on the storage host, and at the mount of the homes on the session's machine.",
    ),
    HOME_FULL: (
        "Delete what you do not need in your home, such as caches and checkpoints, or ask an administrator for more space.",
        "A quota (workspace=…) makes the home larger at the next start.",
    ),
    EGRESS: (
        "Wait: administrators see it too. What runs goes on, but reaches nothing outside.",
        "Look at the units metalhub-squid@ and metalhub-resolver@ on that machine; the page Refused lists all machines.",
    ),
    MEMORY: (
        "Hold less data at a time, or start a profile with more memory.",
        "A flavor with more memory; what the session held is in its evidence.",
    ),
    LOST: (
        "Start the session again: it gets another machine. The home is intact, what was in memory is lost.",
        "Look at the machine: metalhub node list says whether it is back.",
    ),
    DRAIN: (
        "Start the session again: it gets another machine.",
        "metalhub node undrain lets the machine take sessions again.",
    ),
    IDLE: (
        "Start the session again. Work that runs is never idle, and a session can be extended.",
        "The profile's idle_stop says after how long.",
    ),
    MAX_SESSION: ("Start the session again.", "The profile's max_session and extension say how long one may be."),
    STOPPED: ("Start the session again.", "metalhub audit export --kind session.stopped --user USER says who it was."),
    DISABLED: ("Ask an administrator.", "metalhub user enable NAME lets them in again."),
    CRASHED: (
        "Start it again. If that happens each time, tell an administrator what you did last.",
        "The hub's log and the machine's say more.",
    ),
    DISK: ("Tell an administrator.", "Free space on that machine: docker system df, and the rest of its disk."),
    CLUSTER: ("Try again in a minute.", "Look at Docker on the managers: is there a majority of them?"),
    SILENT: (
        "Wait a moment: a computation can keep its server busy. Else restart the session; what is in memory is lost then.",
        "docker logs of its container, on its machine.",
    ),
    PROFILE: ("Pick a profile from the start page.", "The profile's groups, and those of the user: metalhub user list."),
    HEALTHY: ("Nothing has to be done.", ""),
}
_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
AGAIN = "That is over: start the session again."


@dataclass(frozen=True)
class Event:
    """How the last start was refused, or the last session ended (``ended``): one word for it, the sentence that its user was told,
    when, where, in the engine's words, and what it held of its memory's limit."""

    ended: bool
    reason: str
    sentence: str
    at: float
    node: str = ""
    words: str = ""
    memory: Memory | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes that a session held at most, the limit (None: none), and how often the kernel ended something in it for memory."""

    peak: int
    limit: int | None
    kills: int = 0

    @property
    def words(self) -> str:
        """``7.8 of 8 GiB``."""
        return of(self.peak, self.limit)


@dataclass(frozen=True)
class Home:
    """What the storage says: ``trouble`` why it says nothing, else bytes used and the limit (None: none)."""

    trouble: str = ""
    used: int = 0
    limit: int | None = None

    @property
    def full(self) -> bool:
        """Whether what a session needs to start hardly fits: less than a hundredth is left, and less than 64 MiB."""
        return self.limit is not None and self.limit - self.used < min(self.limit // 100, 64 * 2**20)


@dataclass(frozen=True)
class Places:
    """Room for the session's profile: places now, machines that serve it, and those that are large enough."""

    places: int
    nodes: int
    able: int


@dataclass(frozen=True)
class Evidence:
    """All that is known of a session. ``title`` is its profile's, ``node`` where it runs, ``answers`` whether its server does; ``quota``,
    ``image``, ``egress`` and ``cluster`` are why not, in words, and empty where that is in order."""

    title: str = ""
    running: bool = False
    starting: bool = False
    node: str = ""
    answers: bool | None = None
    event: Event | None = None
    disabled: bool = False
    quota: str = ""
    room: Places | None = None
    image: str = ""
    home: Home | None = None
    egress: str = ""
    cluster: str = ""
    memory: Memory | None = None


@dataclass(frozen=True)
class Diagnosis:
    """One cause: a sentence, the evidence as titles and texts, and what to do. ``at`` is when it happened (None: it is so now), ``now``
    whether it still is so, as far as anybody can tell."""

    cause: str
    sentence: str
    evidence: tuple[tuple[str, str], ...]
    step: str
    administrators: str
    at: float | None = None
    node: str = ""
    now: bool = True


def of(number: int, limit: int | None) -> str:
    """Bytes in use of a limit, in its unit: ``7.8 of 8 GiB``."""
    unit, factor = next(((u, f) for u, f in _UNITS if f <= (number if limit is None else limit)), ("B", 1))
    texts = [f"{value * 10 // factor / 10:g}" for value in (number, limit) if value is not None]
    return f"{' of '.join(texts)} {unit}"


def decide(found: Evidence) -> Diagnosis:
    """The one cause. See the top of this file for the order."""
    if found.running:
        well = "The session runs, and nothing is wrong with its server, its home and its way out."
        return next(_running(found), _plain(found, HEALTHY, well))
    if found.starting:
        if found.room is not None and not found.room.places:
            return _plain(found, ROOM, "The session waits for a place: others hold all that there are for its profile.")
        return _plain(found, HEALTHY, "The session is starting.")
    if found.disabled:
        return _plain(found, DISABLED, "The user's account is disabled.")
    event = found.event
    if event is not None and event.reason in REASONS:
        return _told(found, event, REASONS[event.reason])
    keeps = next(_keeps(found), None)
    if keeps is not None:
        return keeps
    if event is not None and event.reason in _TRANSIENT:
        cause = CLUSTER if event.reason == "engine" else CRASHED
        return _told(found, event, cause)
    if event is not None:
        return _told(found, event, CRASHED)
    return _plain(found, HEALTHY, "No session runs, and nothing keeps one from starting.")


def _running(found: Evidence) -> Iterator[Diagnosis]:
    if found.egress:
        yield _plain(found, EGRESS, found.egress)
    yield from _home(found)
    if found.memory is not None and found.memory.kills:
        yield _plain(found, MEMORY, f"Something in the session was ended for memory: it held {found.memory.words}.")
    if found.answers is False:
        if found.cluster:
            yield _plain(found, CLUSTER, "The cluster does not answer, so nobody can tell whether the session lives.")
        yield _plain(found, SILENT, "The session's container runs, and its server does not answer.")


def _keeps(found: Evidence) -> Iterator[Diagnosis]:
    """What would keep a session from starting now."""
    if found.cluster:
        yield _plain(found, CLUSTER, "The cluster does not answer right now.")
    yield from _home(found)
    if found.image:
        yield _plain(found, IMAGE, found.image)
    if found.quota:
        yield _plain(found, QUOTA, found.quota)
    if found.room is not None and not found.room.places:
        yield _plain(found, ROOM, f"There is no room for “{found.title}” right now.")


def _home(found: Evidence) -> Iterator[Diagnosis]:
    if found.home is not None and found.home.trouble:
        yield _plain(found, HOME_OFFLINE, "The home is offline: the storage does not answer.")
    elif found.home is not None and found.home.full:
        yield _plain(found, HOME_FULL, f"The home is full: {of(found.home.used, found.home.limit)} are used.")


def _plain(found: Evidence, cause: str, sentence: str) -> Diagnosis:
    """What is so now."""
    step, administrators = STEPS[cause]
    if cause == HEALTHY and not (found.running or found.starting):
        step = "Start a session."
    return Diagnosis(cause, sentence, _evidence(found, cause), step, administrators, None, found.node)


def _told(found: Evidence, event: Event, cause: str) -> Diagnosis:
    """What was so when a start was refused or a session ended."""
    step, administrators = STEPS[cause]
    now = _still(found, cause)
    if now is False:
        step = AGAIN
    return Diagnosis(cause, event.sentence, _evidence(found, cause, event), step, administrators, event.at, event.node, now is not False)


def _still(found: Evidence, cause: str) -> bool | None:
    """Whether a cause is there now; None where nobody can tell, or where that means nothing."""
    if cause == QUOTA:
        return bool(found.quota)
    if cause == ROOM:
        return None if found.room is None else not found.room.places
    if cause == HOME_OFFLINE:
        return None if found.home is None else bool(found.home.trouble)
    if cause == HOME_FULL:
        return None if found.home is None or found.home.trouble else found.home.full
    if cause == CLUSTER:
        return bool(found.cluster)
    if cause in (DRAIN, LOST) and found.room is not None and found.room.places:
        return False
    if cause == DISABLED:
        return found.disabled
    return None


def _evidence(found: Evidence, cause: str, event: Event | None = None) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, str]] = []
    if event is not None and event.node:
        facts.append(("machine", event.node))
    elif found.node:
        facts.append(("machine", found.node))
    if event is not None and event.words and event.words != event.sentence:
        facts.append(("engine", event.words))
    if cause == MEMORY:
        memory = (event.memory if event is not None else None) or found.memory
        if memory is not None:
            facts.append(("memory", memory.words))
        if memory is not None and memory.kills:
            facts.append(("killed for memory", str(memory.kills)))
    if cause == QUOTA and found.quota and (event is None or found.quota != event.sentence):
        facts.append(("quota now", found.quota))
    if cause in (ROOM, LOST, DRAIN) and found.room is not None:
        machines = "machine" if found.room.nodes == 1 else "machines"
        facts.append(("room now", f"{found.room.places} places on {found.room.nodes} {machines}, {found.room.able} of them large enough"))
    if cause in (HOME_OFFLINE, HOME_FULL) and found.home is not None:
        facts.append(("home now", found.home.trouble or of(found.home.used, found.home.limit)))
    if cause == IMAGE:
        facts.append(("image now", found.image or "its pinned reference is known to the platform"))
    if cause == CLUSTER and found.cluster:
        facts.append(("cluster", found.cluster))
    if cause == HEALTHY:
        if found.room is not None and not found.running:
            facts.append(("room now", f"{found.room.places} places"))
        if found.home is not None and not found.home.trouble and found.home.used:
            facts.append(("home", of(found.home.used, found.home.limit)))
        if found.memory is not None:
            facts.append(("memory", found.memory.words))
    return tuple(facts)
