"""The session agent: it hears of paused sessions, gives their memory back, and answers the hub.

It reads and reclaims. It never pauses, stops or ends a session, so that one which it leaves half-way is a paused session, and no more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
import time
import typing as t
import urllib.parse
from collections import Counter

from .cgroups import Cgroups, Gone
from .engine_api import Engine, EngineError
from .hibernation import (
    ENDED,
    FROZEN,
    RECLAIMED,
    RECLAIMING,
    REMEMBERED,
    RUNNING,
    STATES,
    Figures,
    Node,
    Progress,
    node_refusal,
    read_node,
    refusal,
)
from .node_service import Refusal, Server, notify
from .warm_homes import ask
from .warm_pool import ROOT, is_name

SETTINGS = "/etc/metalhub/session-agent.json"
LABEL = "metalhub.session"
EVENTS = ("start", "pause", "unpause", "oom", "die", "destroy")
# How often figures are taken of which the last are told of a session that has ended.
SAMPLE = 5.0
# The directory of a ready session whose container is not there (yet) is left alone for so long.
UNUSED = 60.0


@dataclasses.dataclass
class Session:
    """One session's container, by what is known of it."""

    session: str
    container: str
    state: str
    figures: Figures = dataclasses.field(default_factory=Figures)
    at: float = 0.0
    killed: int = 0
    # Paused, and found to be one that may not hibernate.
    stays: bool = False
    given_back: int | None = None
    seconds: float | None = None
    ended: float | None = None

    def document(self) -> dict[str, t.Any]:
        """As the hub reads it."""
        figures = self.figures
        return {
            "session": self.session,
            "container": self.container,
            "state": self.state,
            "memory": figures.memory,
            "peak": figures.peak,
            "limit": figures.limit,
            "swap": figures.swap,
            "cpu": round(figures.cpu, 3),
            "oom": max(figures.oom, self.killed),
            "given_back": self.given_back,
            "seconds": self.seconds,
            "at": self.at,
        }


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_ctime
    except OSError:
        return time.time()


def node_now() -> Node:
    """This node's memory and swap."""
    with open("/proc/meminfo", encoding="ascii") as stream:
        return read_node(stream.read())


class Agent:
    """All that is known of the node's sessions."""

    def __init__(
        self,
        settings: t.Mapping[str, t.Any],
        engine: t.Any,
        cgroups: t.Any,
        node: t.Callable[[], Node] = node_now,
        wall: t.Callable[[], float] = time.time,
        clock: t.Callable[[], float] = time.monotonic,
        homes: t.Callable[[t.Mapping[str, object]], dict[str, t.Any]] = ask,
    ) -> None:
        self._homes = homes
        self._largest = int(settings["largest"])
        self._engine, self._cgroups, self._node, self._wall, self._clock = engine, cgroups, node, wall, clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.RLock()
        self._paused: queue.Queue[str] = queue.Queue()
        self._listening = False
        self._counts: Counter[str] = Counter()

    # -- what the engine says ------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Hear the engine's events for ever, and list its containers whenever there is a gap in them."""
        while True:
            try:
                self.follow()
            except EngineError as error:
                print(error, flush=True)
            except Exception as error:  # noqa: BLE001 - whatever an engine says, this is the one thread that hears it
                print(f"the engine's events: {type(error).__name__}: {error}", flush=True)
            self._listening = False
            time.sleep(1)

    def follow(self) -> None:
        """List the containers, then hear events, those since before the list too, so that none is missed, until the engine ends them."""
        since = self._wall()
        self.look()
        filters = {"type": ["container"], "label": [LABEL], "event": list(EVENTS)}
        query = urllib.parse.urlencode({"since": f"{since:.9f}", "filters": json.dumps(filters)})
        self._listening = True
        for event in self._engine.stream(f"/events?{query}"):
            self.event(event)

    def look(self) -> None:
        """Take over what the engine has: sessions that began, were paused, went on or ended while nobody listened."""
        query = urllib.parse.urlencode({"filters": json.dumps({"label": [LABEL], "status": ["running", "paused"]})})
        found = {one["Id"]: one for one in self._engine.request("GET", f"/containers/json?{query}")}
        for container, one in found.items():
            self._is(container, one["Labels"][LABEL], one["State"] == "paused")
        for container in [one.container for one in self._all() if one.state != ENDED and one.container not in found]:
            self._end(container)

    def event(self, event: t.Mapping[str, t.Any]) -> None:
        """Take one of the engine's events in."""
        container, name, what = event["Actor"]["ID"], event["Actor"]["Attributes"].get(LABEL, ""), event["Action"]
        if what in ("start", "pause", "unpause"):
            self._is(container, name, what == "pause")
        elif what in ("die", "destroy"):
            self._end(container)
            if is_name(name):
                self._warm({"do": "end", "name": name})
        elif what == "oom":
            with self._lock:
                if one := self._sessions.get(container):
                    one.killed += 1
            self.sample([container])

    def _is(self, container: str, name: str, paused: bool) -> None:
        with self._lock:
            one = self._sessions.setdefault(container, Session(name, container, RUNNING))
            if one.state == ENDED:
                return
            if paused and one.state == RUNNING:
                one.state, one.stays, one.given_back, one.seconds = FROZEN, False, None, None
                self._paused.put(container)
            elif not paused:
                one.state = RUNNING
        self.sample([container])

    def _end(self, container: str) -> None:
        with self._lock:
            one = self._sessions.get(container)
            if one is None or one.state == ENDED:
                return
            one.state, one.ended = ENDED, self._wall()
        try:
            state = self._engine.request("GET", f"/containers/{container}/json")["State"]
        except EngineError:
            return  # it is gone already, and what was heard of it stays
        if state.get("OOMKilled"):
            one.killed = max(one.killed, 1)

    # -- sessions that were made ready ------------------------------------------------------------------------------------------

    def _warm(self, asked: t.Mapping[str, object]) -> dict[str, t.Any]:
        """Have homes put in or taken out of their place. ``error`` in the answer tells what went wrong."""
        try:
            found = self._homes(asked)
        except (OSError, ValueError) as error:
            found = {"error": f"metalhub-warm-homes does not answer: {error}"}
        if "error" in found:
            print(found["error"], flush=True)
        return found

    def tidy(self) -> None:
        """Take away what was made ready for sessions that are not there: they ended while nobody listened, or never began."""
        here = {one.session for one in self._all() if one.state != ENDED}
        for name in self._warm({"do": "list"}).get("names", []):
            if name not in here and self._wall() - _changed(os.path.join(ROOT, name)) > UNUSED:
                self._warm({"do": "end", "name": name})

    def make_ready(self, name: str, body: bytes, home: bool) -> dict[str, t.Any]:
        """A directory for a session that is to be made ready, or ``home``: its user's home in it. Raises Refusal."""
        try:
            about = json.loads(body) if body else {}
            if not isinstance(about, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise Refusal(400, f"the body is not what it should be: {error}") from None
        asked = {**about, "do": "give", "name": name} if home else {"do": "make", "name": name}
        if error := self._warm(asked).get("error"):
            raise Refusal(409, error)
        return {}

    # -- memory --------------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Hibernate one paused session after the other, for ever: together they would only wait for the same disk."""
        while True:
            container = self._paused.get()
            try:
                self.hibernate(container)
            except Exception as error:  # noqa: BLE001 - the next one has a right to its turn
                print(f"{container[:12]}: {type(error).__name__}: {error}", flush=True)

    def hibernate(self, container: str) -> None:
        """Give back the memory of a paused session, unless it goes on or may not hibernate."""
        one = self._sessions.get(container)
        if one is None or one.state != FROZEN:
            return
        try:
            figures = self._cgroups.figures(container)
            if reason := refusal(figures, self._node(), self._largest):
                one.stays = True
                self._counts["refused"] += 1
                print(f"{one.session}: stays in memory: {reason}", flush=True)
                return
            with self._lock:
                if one.state != FROZEN:
                    return
                one.state = RECLAIMING
            progress = Progress.start(figures.memory, self._clock())

            def wanted() -> bool:
                return one.state == RECLAIMING and not progress.ended(self._clock())

            while wanted():
                progress = progress.after(self._cgroups.reclaim(container, wanted))
        except Gone:
            return
        with self._lock:
            if one.state != RECLAIMING:
                self._counts["interrupted"] += 1
                return
            one.state, one.given_back, one.seconds = RECLAIMED, progress.given_back, round(self._clock() - progress.began, 3)
        self._counts["hibernated"] += 1
        self._counts["given_back"] += progress.given_back
        self._counts["milliseconds"] += round(one.seconds * 1000)
        print(f"{one.session}: gave back {progress.given_back >> 20} of {progress.first >> 20} MiB in {one.seconds:.1f} s", flush=True)
        self.sample([container])

    def watch(self) -> None:
        """Take figures for ever."""
        while True:
            time.sleep(SAMPLE)
            self.sample()
            if self._listening:
                self.tidy()

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())

    def sample(self, containers: t.Collection[str] | None = None) -> None:
        """Take the figures of all sessions, or of these, and forget those that ended long ago."""
        for one in self._all():
            if one.state == ENDED:
                if one.ended is not None and self._wall() - one.ended > REMEMBERED:
                    with self._lock:
                        self._sessions.pop(one.container, None)
            elif containers is None or one.container in containers:
                try:
                    figures = self._cgroups.figures(one.container)
                except (Gone, ValueError, OSError):
                    continue  # it ends: what is known of it stays
                one.figures, one.at = dataclasses.replace(figures, peak=max(figures.peak, one.figures.peak)), self._wall()

    # -- what the hub asks ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: bytes) -> t.Mapping[str, t.Any] | str:
        """GET /status, /check/<session>, /health, /metrics; PUT /warm/<session> and /warm/<session>/home."""
        if method == "PUT" and path.startswith("/warm/"):
            name, _, what = path[len("/warm/") :].partition("/")
            if what in ("", "home") and is_name(name):
                return self.make_ready(name, body, what == "home")
            raise Refusal(404, "there are /warm/<session> and /warm/<session>/home")
        if method != "GET" or body:
            raise Refusal(400, "only GET is answered")
        if path == "/status":
            return self.status()
        if path.startswith("/check/"):
            why = self.check(urllib.parse.unquote(path[len("/check/") :]))
            return {"hibernates": not why, "why": why}
        if path == "/health":
            return self.health()
        if path == "/metrics":
            return self.metrics()
        raise Refusal(404, "there are /status, /check/<session>, /health and /metrics")

    def status(self) -> dict[str, t.Any]:
        """The node, and all its sessions by figures of this moment."""
        self.sample()
        node = self._node()
        why = node_refusal(node)
        return {
            "node": {
                "hibernates": not why,
                "why": why,
                "swap": {"total": node.swap_total, "free": node.swap_free},
                "memory": {"total": node.total, "available": node.available},
                "largest": self._largest,
            },
            "sessions": [one.document() for one in self._all()],
        }

    def check(self, name: str) -> str:
        """Why a session cannot hibernate now; empty where it can."""
        self.sample()
        here = [one for one in self._all() if one.state != ENDED]
        one = next((one for one in here if one.session == name), None)
        if one is None:
            return "This session does not run on this node."
        on_their_way = [other for other in here if other is not one and other.state in (FROZEN, RECLAIMING) and not other.stays]
        return refusal(one.figures, self._node(), self._largest, sum(other.figures.pageable for other in on_their_way))

    def health(self) -> dict[str, t.Any]:
        """Which parts are there."""
        parts = {"the engine's events": self._listening, "the control groups of memory": self._cgroups.usable()}
        down = [name for name, there in parts.items() if not there]
        return {"status": "down" if down else "ok", "down": down}

    def metrics(self) -> str:
        """Counters in Prometheus's text format."""
        self.sample()
        node, states = self._node(), Counter(one.state for one in self._all())
        lines = ["# HELP metalhub_agent_sessions Sessions of the node.", "# TYPE metalhub_agent_sessions gauge"]
        lines += [f'metalhub_agent_sessions{{state="{state}"}} {states[state]}' for state in STATES]
        for name, kind, text, value in (
            ("hibernated_total", "counter", "Paused sessions whose memory was given back.", self._counts["hibernated"]),
            ("interrupted_total", "counter", "Sessions that went on or ended before it was.", self._counts["interrupted"]),
            ("refused_total", "counter", "Paused sessions whose memory stayed: too large, or no swap for them.", self._counts["refused"]),
            ("given_back_bytes_total", "counter", "Memory that was given back.", self._counts["given_back"]),
            ("hibernating_seconds_total", "counter", "Time that it took.", self._counts["milliseconds"] / 1000),
            ("swap_total_bytes", "gauge", "Swap of the node.", node.swap_total),
            ("swap_free_bytes", "gauge", "Swap that is free.", node.swap_free),
            ("up", "gauge", "Whether the agent hears the engine and can give memory back.", int(not self.health()["down"])),
        ):
            lines += [f"# HELP metalhub_agent_{name} {text}", f"# TYPE metalhub_agent_{name} {kind}", f"metalhub_agent_{name} {value}"]
        return "\n".join(lines) + "\n"


def main() -> int:
    """Serve until killed; what stops it from starting is one line and exit status 1."""
    try:
        with open(SETTINGS, encoding="utf-8") as stream:
            settings = json.load(stream)
        agent = Agent(settings, Engine(timeout=10), Cgroups())
        server = Server((settings["listen"], settings["port"]), agent.answer, settings["clients"])
    except (OSError, ValueError, KeyError) as error:
        print(f"metalhub-session-agent: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for loop in (agent.listen, agent.work, agent.watch):
        threading.Thread(target=loop, daemon=True).start()
    notify("READY=1")
    server.serve_forever()
    return 0
