"""A session: one Swarm service with one task.

This is a Spawner of its own rather than a subclass of dockerspawner's SwarmSpawner, whose poll reads a pending task as
dead, takes any of a service's tasks for the current one, lets Swarm revive failed tasks, and asks the engine twice a
session and poll.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime, timezone
from typing import Any, TypeVar

import aiohttp
from jupyterhub import __version__ as hub_version
from jupyterhub.spawner import Spawner
from sqlalchemy.orm import object_session
from traitlets import default

from . import acting, cluster, metrics, platform, policy, service, usage
from .admission import NO_ANSWER
from .config import Profile
from .core import diagnosis, durations, lifecycle, names, sizes
from .core.diagnosis import Memory
from .engine import EngineRefused, EngineUnknown
from .ledger import LedgerError
from .policy import Refused
from .quota import NO_LEDGER
from .warm import Gone

One, Other = TypeVar("One"), TypeVar("Other")

# Swarm says "no suitable node" a moment too early when a place is just being freed.
ROOM_PATIENCE = 1.5

# So long what a session's memory led to is told while it goes on, and after its end its node's last figures are waited for.
KILLED_TOLD, LAST_FIGURES = 900.0, 15.0

# Ends that need no explanation on the page, since who wanted them knows.
ORDINARY = {"user": "The session was stopped by its user."}

# What an older hub wrote of a session's end, by its names of today.
RENAMED = {"memory": "memory_limit", "held": "memory_figures"}

# So often a start goes back to the queue because the engine did not answer.
ENGINE_TRIES = 2

# What one machine may fail with and another not. Swarm would place the next start on the same machine again, since it is
# the emptiest, so such a start is tried once more elsewhere.
ELSEWHERE = ("rejected", "home", "image", "disk", "lost", "drain")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class _Trusted:
    """Stands for the answer of a session that did not answer while the hub started."""

    headers = {"X-JupyterHub-Version": hub_version}


class MetalhubSpawner(Spawner):  # type: ignore[misc]
    """Starts, watches and ends sessions on the platform's Swarm."""

    def __init__(self, **kwargs: Any) -> None:
        # load_state is called after this, and the start page asks a spawner that never started.
        self.service_name = ""
        self.task_id = ""
        self.url = ""
        self.node = ""
        self.profile_name = ""
        self.ended: dict[str, Any] | None = None
        # What it has of its profile as that was at its start: the egress class and the bytes of memory.
        self.placed: dict[str, Any] = {}
        # Why the last start came to nothing, until one does not.
        self.refused: dict[str, Any] | None = None
        self.kills = 0  # for memory, while it ran
        # Why it is being stopped, set by who does it before the stop (empty: its user wants it), and a sentence for its page.
        self.stop_reason = ""
        self.stop_detail = ""
        self.life: lifecycle.Record | None = None
        self._node_id = ""
        self._starting = False
        self._stopping = False
        self._doomed: cluster.Verdict | None = None
        self._restored = False
        self._killed = -math.inf
        self._events: list[dict[str, Any]] = []
        self._event = asyncio.Event()
        # Nodes that are kept for others, and when its turn came.
        self._avoid: tuple[str, ...] = ()
        self._turned = 0.0
        super().__init__(**kwargs)

    @default("ip")
    def _ip(self) -> str:
        return "0.0.0.0"

    @default("port")
    def _port(self) -> int:
        return service.PORT

    @default("poll_interval")
    def _poll_interval(self) -> int:
        return 3  # with Swarm's 21 s until a node counts as down, a loss is told within 30 s

    @default("start_timeout")
    def _start_timeout(self) -> int:
        # start() keeps its own, shorter times, because this one ends without a word to the user. Swarm may send it back to the queue
        # as its patience ends.
        document = self.platform.document
        return document.queue_patience + 2 * document.session.start_timeout + 60

    @default("options_form")
    def _options_form(self) -> str:
        return "profiles"  # the page draws them itself; this only says that there is a choice

    @default("options_from_form")
    def _from_form(self) -> Any:
        return lambda form: {"profile": form["profile"][0]} if form.get("profile") else {}

    @default("post_stop_hook")
    def _post_stop_hook(self) -> Any:
        return self.platform.snapshots.session_ended

    @default("server_token_scopes")
    def _token_scopes(self) -> Any:
        return MetalhubSpawner.take_turn

    def take_turn(self) -> Awaitable[list[str]]:
        """JupyterHub asks for the scopes of a session's token just before it writes all that a start needs. They are its default ones."""
        # It has just given the session its server. What is not written before anything else runs, the end of any other request rolls back:
        # so this is not left to a coroutine, which JupyterHub begins only after all that waits already.
        self._commit()

        async def default_scopes() -> list[str]:
            await self.platform.turn()
            return []

        return default_scopes()

    @default("apply_user_options")
    def _apply(self) -> Any:
        return MetalhubSpawner.apply_options

    @property
    def platform(self) -> platform.Platform:
        return platform.current()

    @property
    def groups(self) -> set[str]:
        return {group.name for group in self.user.groups}

    @property
    def granted(self) -> frozenset[str]:
        """The profiles that this user was given beyond those of their groups."""
        return self.platform.people.granted_profiles(self.user.name)

    @property
    def profile(self) -> Profile | None:
        return self.platform.document.profiles.get(self.profile_name)

    # What a start must pass. The form, the REST API and links all come by here.

    async def apply_options(self, options: dict[str, Any]) -> None:
        """Choose the profile, or refuse."""
        try:
            self._choose(options)
        except Refused as refused:
            self._refused(refused, str(options.get("profile") or ""))
            self._save()
            raise

    def permit(self, options: dict[str, Any]) -> Profile:
        """The profile of a start with these options, for a user who may start it now. Raises Refused.

        Asked again when the turn of a start that waited comes: meanwhile groups, grants and approvals may have changed.
        """
        try:
            disabled = self.platform.people.disabled(self.user.name)
        except LedgerError as error:
            raise Refused(NO_LEDGER, reason="ledger", status=503, log=f"ledger: {error}") from None
        if disabled:
            raise Refused(f"The account {self.user.name} is disabled.", reason="disabled", status=403)
        profile = policy.choose(self.platform.document, self.groups, options, self.granted)
        self.platform.approvals.admit(self.user.name, profile)
        return profile

    def _choose(self, options: dict[str, Any]) -> None:
        profile = self.permit(options)
        # What it holds counts from its turn on, when this is checked again.
        self.platform.quota.check(self, profile)
        self.profile_name = profile.name
        self.mem_limit = profile.flavor.memory
        self.cpu_limit = profile.flavor.cpus

    # Start

    def _tell(self, progress: int, step: str, message: str, **more: str) -> None:
        self._events.append({"progress": progress, "step": step, "message": message, **more})
        self._event.set()

    def tell(self) -> None:
        """Have the waiting page look at the place in the queue."""
        self._event.set()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What happens, in human words."""
        seen, told = 0, ()
        while True:
            while seen < len(self._events):
                yield self._events[seen]
                seen += 1
            place = self.platform.admission.view(self)
            if place and told != (told := (place["message"], place["alternatives"])):
                yield {"progress": 5, "step": "queue", "message": place["message"], "queue": place}
            self._event.clear()
            await self._event.wait()

    async def start(self) -> str:
        """Start the session and return its URL once it answers. Raises Refused, and then nothing is left running."""
        profile = self.profile
        if profile is None:
            raise Refused("No profile was chosen.", reason="profile")
        home = names.home_name(self.user.name)
        self.service_name = names.service_name(home, self.name, secrets.token_hex(3))
        self.task_id = self.url = self.node = ""
        self.ended = self._doomed = None
        self.stop_reason = self.stop_detail = ""
        self._starting, self._stopping, self.kills = True, False, 0
        self._events, begun = [], time.monotonic()
        seconds = self.platform.document.session.start_timeout
        self._audit("queued", profile=profile.name)
        waits, tries = True, 0
        try:
            self._tell(5, "queue", "Opening your home and looking for a place")
            # Where the home does not open, nobody waits for a place in vain.
            size = self.platform.quota.home_size(self.user.name, self.groups)
            image = self.platform.images.reference(profile.image)
            _, self._avoid = await _both(self._open_home(home, size), self._turn(profile))
            while True:
                waits = False
                try:
                    async with asyncio.timeout(seconds):
                        url = await self._start(profile, home, image)
                    self.refused = None
                    return url
                except (Refused, EngineUnknown) as error:
                    # Swarm has the last word, and the books of a moment ago are not it. An engine that did not answer may the next time.
                    tries += isinstance(error, EngineUnknown)
                    if tries > ENGINE_TRIES or (isinstance(error, Refused) and error.reason != "room"):
                        raise
                    self.log.warning("%s waits on: %s", self.service_name, getattr(error, "log_message", error))
                    await self._remove()
                    self.platform.quota.end(self)
                    self.service_name = names.service_name(home, self.name, secrets.token_hex(3))
                    waits = True
                    self._avoid = await self._turn(profile, again="room" if isinstance(error, Refused) else "engine")
        except BaseException as error:
            if not waits:
                await self._undo()
            self.platform.quota.end(self)
            refused = self._refusal(error, profile)
            # How the wait ended, the queue has written down.
            if not waits or isinstance(refused, Refused):
                reason = getattr(refused, "reason", "error")
                self._audit("stopped", cause=reason, detail=getattr(refused, "log_message", ""))
                metrics.start_ended(profile.name, time.monotonic() - (begun if waits else self._turned), reason)
            self._refused(refused, profile.name)
            self.service_name = ""
            self._save()
            if refused is error:
                raise
            raise refused from error
        finally:
            self._starting = False
            self.platform.admission.done(self)

    def _tell_restore(self) -> None:
        self._tell(5, "queue", "Waiting until your home is restored")

    async def _open_home(self, home: str, size: int) -> None:
        await self.platform.snapshots.ready(home, self._tell_restore)
        await self.platform.homes.ensure(home, size)

    async def _turn(self, profile: Profile, again: str = "") -> tuple[str, ...]:
        """Wait for a place. Returns nodes to avoid. Raises Refused."""
        avoid = await self.platform.admission.turn(self, profile, again)
        self._turned = time.monotonic()
        # What it may run for counts from now.
        self.orm_spawner.started = self.orm_spawner.last_activity = datetime.now(timezone.utc).replace(tzinfo=None)
        self._commit()
        return avoid

    def _refused(self, error: BaseException, profile: str) -> None:
        """Keep why a start came to nothing."""
        self.refused = {
            "reason": getattr(error, "reason", "error"),
            "sentence": getattr(error, "jupyterhub_message", "Something unexpected happened while the session started."),
            "words": str(getattr(error, "log_message", "") or f"{type(error).__name__} {error}")[:1000],
            "profile": profile[:64],
            "node": self.node,
            "at": _now(),
        }

    def _refusal(self, error: BaseException, profile: Profile) -> BaseException:
        if isinstance(error, EngineUnknown):
            return Refused(NO_ANSWER, reason="engine", status=503, log=f"engine: {error}")
        if isinstance(error, LedgerError):
            return Refused(NO_LEDGER, reason="ledger", status=503, log=f"ledger: {error}")
        if isinstance(error, EngineRefused):
            sentence = "The cluster refused to start your session; tell an administrator (the hub's log says why)."
            return Refused(sentence, reason="engine", status=503, log=f"engine: {error}")
        if isinstance(error, TimeoutError):
            longest = durations.format_duration(self.platform.document.session.start_timeout)
            step = self.step or "queue"
            return Refused(
                f"Your session did not start within {longest}, so it was given up; try again.",
                reason="timeout",
                status=504,
                log=f"no start within {longest}, at step {step}",
            )
        return error

    async def _start(self, profile: Profile, home: str, image: str) -> str:
        host = self.platform
        marks: dict[str, float] = {}

        def mark(step: str) -> None:
            marks[step] = time.monotonic() - self._turned

        await host.snapshots.ready(home, self._tell_restore)
        mark("home")
        self._tell(25, "placing", "Finding a machine with room")
        host.warm.started(profile)
        try:
            address, port = await self._take_ready(profile, home) or await self._place(profile, home, image)
        except Refused as refused:
            if refused.reason not in ELSEWHERE or not await self._room_without(self._node_id, profile):
                raise
            self.log.warning("Trying %s again without node %s: %s", self.service_name, self._node_id, refused.log_message)
            await self._remove()
            self.service_name = names.service_name(home, self.name, secrets.token_hex(3))
            address, port = await self._place(profile, home, image, self._node_id)
        mark("task")
        self.url = f"http://{address}:{port}"
        if closed := self.way_out():
            self._tell(75, "opening", closed, warning=closed)
        self._tell(75, "opening", "Opening your workspace")
        route = None
        if host.proxy is not None:
            # Traefik learns the route while the session still imports its modules.
            data = {"user": self.user.name, "server_name": self.name}
            route = asyncio.ensure_future(host.proxy.add_route(self.proxy_spec, self.url, data))
            route.add_done_callback(lambda task: task.cancelled() or task.exception())
        await self._wait_for_http(profile)
        mark("http")
        if route is not None:
            await asyncio.wait([route])
        mark("route")
        self._audit("running", node=self.node, seconds=round(marks["route"], 3))
        metrics.start_ended(profile.name, marks["route"])
        steps = " ".join(f"{step}={seconds:.3f}" for step, seconds in marks.items())
        self.log.info("Session %s is up on %s: %s", self.service_name, self.node, steps)
        return self.url

    async def _take_ready(self, profile: Profile, home: str) -> tuple[str, int] | None:
        """Take over a session that is ready. Returns its address and port, or None where an ordinary start has to do it."""
        warm = None if self.get_args() else self.platform.warm.take(profile)
        if warm is None:
            return None
        self.service_name, self.task_id, self._node_id, self.node = warm.name, warm.task, warm.node_id, warm.node
        self.placed = {"egress": profile.egress, "memory": profile.flavor.memory}
        self.platform.quota.begin(self)
        self._save()
        environment = {key: str(value) for key, value in self.get_env().items()}
        try:
            await self.platform.warm.hand_out(warm, home, self.user.name, environment)
        except Gone as error:
            self.log.warning("%s could not be handed to %s: %s", warm.name, self.user.name, error)
            await self._remove()
            self.service_name = names.service_name(home, self.name, secrets.token_hex(3))
            self.task_id = self._node_id = self.node = ""
            return None
        labels = {"metalhub.user": self.user.name, "metalhub.server": self.name, "metalhub.warm": None}
        self.platform.warm.later(self.platform.engine.label_service(warm.name, labels))
        return warm.address, warm.port

    async def _place(self, profile: Profile, home: str, image: str, *avoid: str) -> tuple[str, int]:
        """Create the service and wait until its container runs. Returns its address and port."""
        session = self.platform.document.session
        spec = service.spec(
            self.platform.document,
            profile,
            name=self.service_name,
            user=self.user.name,
            server=self.name,
            home=home,
            image=image,
            environment={key: str(value) for key, value in self.get_env().items()},
            command=[*session.command, *self.get_args()],
            avoid=(*self._avoid, *avoid),
        )
        await self.platform.turn()
        self.placed = {"egress": profile.egress, "memory": profile.flavor.memory}
        self.platform.quota.begin(self)
        await self.platform.warm.make_room(profile)
        await self.platform.engine.create_service(spec)
        # Before anything else can happen: a hub that is killed now finds its session again.
        self._save()
        return await self._wait_for_task(profile)

    async def _room_without(self, node_id: str, profile: Profile) -> bool:
        """Whether another node than this has a place."""
        try:
            snapshot = await self.platform.cluster.snapshot(0.0)
        except EngineUnknown:
            return False
        others = [node for key, node in snapshot.nodes.items() if key != node_id]
        return bool(node_id) and cluster.room(others, snapshot.tasks, profile.pool, profile.flavor).places > 0

    async def _wait_for_task(self, profile: Profile) -> tuple[str, int]:
        """Wait until the session's container runs. Returns its node's address and port."""
        host = self.platform
        waiting_since, wait, state_told = 0.0, 0.04, ""
        while True:
            await asyncio.sleep(wait)
            try:
                tasks = await host.engine.tasks(label=f"metalhub.session={self.service_name}")
            except EngineUnknown as error:
                self.log.warning("Start of %s: %s", self.service_name, error)
                wait = 0.5
                continue
            wait = min(wait * 1.1, 0.25)
            if self._stopping:
                raise Refused("The start was stopped.", reason="stopped")
            task = cluster.newest(tasks)
            if task is None:
                continue
            self.task_id, self._node_id = str(task["ID"]), str(task.get("NodeID", ""))
            state = cluster.task_state(task)
            verdict = cluster.judge(tasks, {}, self.task_id)
            if not verdict.alive:
                if self._node_id:
                    await self._learn_node(self._node_id)
                root = host.document.session.homes_root
                raise policy.start_failure(profile, verdict.cause, verdict.detail, verdict.exit_code, root)
            if state == "pending" and "no suitable node" in cluster.task_error(task):
                waiting_since = waiting_since or time.monotonic()
                if time.monotonic() - waiting_since > ROOM_PATIENCE:
                    try:
                        room = (await host.cluster.snapshot(0)).room(profile.pool, profile.flavor)
                    except EngineUnknown:
                        room = None
                    refused = policy.no_room(profile, room)
                    refused.log_message += " [" + cluster.task_error(task) + "]"
                    raise refused
                continue
            if state not in ("new", "pending"):
                await self._learn_node(self._node_id)
            if state == "preparing" and state_told != state:
                self._tell(40, "starting", f"Starting your sandbox on {self.node or 'a machine'}")
                state_told = state
            port = cluster.published_port(task, service.PORT)
            if state == "running" and port:
                nodes = (await self._nodes()).get(str(task["NodeID"]))
                if nodes is None:
                    raise EngineUnknown(f"node {task['NodeID']} is not in the list of nodes")
                return cluster.node_address(nodes), port

    async def _nodes(self) -> dict[str, Any]:
        return dict((await self.platform.cluster.snapshot(30.0)).nodes)

    async def _learn_node(self, node_id: str) -> None:
        try:
            self.node = cluster.hostname((await self._nodes()).get(node_id))
        except EngineUnknown:
            self.node = ""

    async def _wait_for_http(self, profile: Profile) -> None:
        """Ask the session's server until it answers, and look now and then whether its task still lives."""
        host = self.platform
        target = f"{self.url}{self.server.base_url}api"
        looked = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            while True:
                try:
                    async with http.get(target, allow_redirects=False) as response:
                        if response.status < 500:
                            return
                except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
                    pass
                if self._stopping:
                    raise Refused("The start was stopped.", reason="stopped")
                if time.monotonic() - looked > 1.0:
                    looked = time.monotonic()
                    try:
                        snapshot = await host.cluster.snapshot(0.5)
                    except EngineUnknown:
                        continue
                    verdict = cluster.judge(snapshot.of(self.service_name), snapshot.nodes, self.task_id)
                    if not verdict.alive:
                        root = host.document.session.homes_root
                        raise policy.start_failure(profile, verdict.cause, verdict.detail, verdict.exit_code, root)
                await asyncio.sleep(0.03)

    async def _undo(self) -> None:
        """Leave nothing of a start that failed."""
        if self.platform.proxy is not None and self.url:
            try:
                await self.platform.proxy.delete_route(self.proxy_spec)
            except Exception as error:
                self.log.warning("The route of %s is left to the hub's own check: %s", self.service_name, error)
        await self._remove()

    async def _remove(self) -> None:
        """Remove the service. What the engine does not hear now is swept up later."""
        for attempt in range(3):
            try:
                await self.platform.engine.remove_service(self.service_name)
                return
            except EngineUnknown as error:
                self.log.warning("Cannot remove %s yet: %s", self.service_name, error)
                await asyncio.sleep(0.2 * (attempt + 1))
            except EngineRefused as error:
                self.log.error("The engine refuses to remove %s: %s", self.service_name, error)
                return

    # Watch

    async def poll(self) -> int | None:
        """None: it runs, or nobody can tell. A number: it certainly does not."""
        if not self.service_name:
            return 0
        if self._starting:
            return None
        try:
            snapshot = await self.platform.cluster.snapshot(2.0)
            tasks = snapshot.of(self.service_name)
            if self._doomed:
                verdict = self._doomed
            elif tasks:
                verdict = cluster.judge(tasks, snapshot.nodes, self.task_id)
            elif await self.platform.engine.service(self.service_name) is None:
                verdict = cluster.Verdict(False, "removed", "the service is gone")
            else:
                return None
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("The state of %s is not known: %s", self.service_name, error)
            return None
        if verdict.alive:
            self.platform.quota.confirm(self)
            return None
        memory = self.platform.figures(self.service_name)
        killed = verdict.exit_code == 137 or (memory is not None and memory.kills > self.kills)
        cause = "memory" if verdict.cause == "failed" and killed else verdict.cause
        self._end(cause, verdict.detail, verdict.exit_code)
        self.platform.quota.end(self)
        await self._remove()
        self.platform.admission.freed()
        return verdict.exit_code or (0 if cause == "exited" else 1)

    def _end(self, cause: str, detail: str = "", code: int = 0) -> None:
        if self.ended and self.ended.get("session") == self.service_name:
            return  # the hub polls once more while it cleans up
        self.ended = {
            "session": self.service_name,
            "cause": cause,
            "code": code,
            "profile": self.profile_name,
            "memory_limit": self.placed.get("memory", 0),
            "why": self.stop_detail,
            "node": self.node,
            "words": detail[:1000],
            "at": _now(),
        }
        self._learn_memory()
        if cause == "memory":
            # What a node tells of it may be some seconds old, and its last figures come with the next look.
            asyncio.get_running_loop().call_later(LAST_FIGURES, self._learn_memory, True)
        self._audit("stopped", cause=cause, detail=detail, node=self.node)

    def _learn_memory(self, late: bool = False) -> None:
        """Take what the last session's node says of its memory into the record of its end."""
        if self.ended is None:
            return
        memory = self.platform.figures(str(self.ended["session"]))
        if memory is not None:
            self.ended["memory_figures"] = [memory.peak, memory.limit, memory.kills]
        if late and memory is not None:
            self._save()

    def _audit(self, state: str, **facts: Any) -> None:
        self.platform.audit.write(state, user=self.user.name, server=self.name, session=self.service_name, **facts)

    # End

    async def stop(self, now: bool = False) -> None:
        """Remove the service and wait until its task has ended, at most a little longer than Swarm gives it."""
        self._stopping = True
        if not self._starting:
            self._end(self.stop_reason or ("admin" if acting.other_than(self.user.name) else "user"))
        await self._stop_container()
        await self._remove()
        await self._wait_for_end(12)
        self.platform.quota.end(self)
        self.platform.admission.freed()

    def give_up(self) -> None:
        """Let a start that is under way come to nothing."""
        self._stopping = True
        self.platform.admission.ask_again(self)

    async def _stop_container(self) -> None:
        """End the session's container by its node's engine, which is faster. What does not work out is left to Swarm."""
        try:
            snapshot = await self.platform.cluster.snapshot(0.0)
        except EngineUnknown:
            return
        task = cluster.newest(snapshot.of(self.service_name))
        node = snapshot.nodes.get(str((task or {}).get("NodeID", "")))
        if task is None or node is None or not cluster.container(task) or not cluster.judge([task], snapshot.nodes).alive:
            return
        await self.platform.hibernation.release(self, cluster.node_address(node), cluster.container(task))
        if await self.platform.engine.stop_container(cluster.node_address(node), cluster.container(task)):
            # A task that Swarm has seen to end is removed at once.
            await self._wait_for_end(1)

    async def _wait_for_end(self, seconds: float) -> None:
        """Wait until Swarm says that the session's task has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                snapshot = await self.platform.cluster.snapshot(0.1)
            except EngineUnknown:
                return
            if not any(
                cluster.task_state(task) not in cluster.ENDED
                and cluster.judge([task], snapshot.nodes).cause != "lost"
                for task in snapshot.of(self.service_name)
            ):
                return
            await asyncio.sleep(0.1)

    async def delete_forever(self) -> None:
        """A named session, or its user, is removed for good. Homes stay."""
        self.platform.admission.forget(self)
        if self.platform.proxy is not None:
            await self.platform.proxy.forget_route(self.proxy_spec)

    # State

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        for key in ("service_name", "task_id", "url", "node", "profile_name", "placed", "ended", "refused", "kills"):
            if value := getattr(self, key):
                state[key] = value
        if self.service_name and self.life:
            state["life"] = lifecycle.plain(self.life)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        for key in ("service_name", "task_id", "url", "node", "profile_name"):
            setattr(self, key, str(state.get(key, "")))
        self.placed = dict(state.get("placed") or {})
        ended, self.refused = state.get("ended"), state.get("refused")
        self.ended = ended and {RENAMED.get(key, key): value for key, value in ended.items()}
        self.kills = int(state.get("kills", 0))
        self.life = lifecycle.read(state.get("life"))
        self._restored = bool(self.service_name)

    def clear_state(self) -> None:
        """Forget the session. How the last one ended stays, for the page that says so."""
        super().clear_state()
        self.platform.admission.left(self)
        self.platform.quota.end(self)
        self.service_name = self.task_id = self.url = self.node = self.profile_name = ""
        self.placed = {}
        self._restored = False
        self._doomed = self.life = None
        self.kills = 0

    def _save(self) -> None:
        self.orm_spawner.state = self.get_state()
        self._commit()

    def _commit(self) -> None:
        database = object_session(self.orm_spawner)
        if database is not None:
            database.commit()

    # The hub's own start

    async def get_url(self) -> str:
        """Where the session is. The hub asks for it when it starts and finds a session in its database."""
        if self._restored and not self.url and self.profile:
            # The hub was killed while this session started.
            try:
                async with asyncio.timeout(30):
                    address, port = await self._wait_for_task(self.profile)
                self.url = f"http://{address}:{port}"
                self._save()
            except (TimeoutError, EngineUnknown, EngineRefused, Refused) as error:
                self._doomed = cluster.Verdict(False, "failed", f"did not come up while the hub restarted: {error}")
        return self.url + self.server.base_url if self.url else self.server.url

    @property
    def server(self) -> Any:
        """The hub's record of where the session listens."""
        server = Spawner.server.fget(self)
        if server is not None:
            if self._restored:
                server.wait_up = self._trust
            else:
                server.__dict__.pop("wait_up", None)
        return server

    @server.setter
    def server(self, value: Any) -> None:
        Spawner.server.fset(self, value)

    async def _trust(self, **_: Any) -> Any:
        """Stands in for Server.wait_up while the hub starts.

        Upstream shuts a session down that does not answer its first request then, and a paused one or a slow network
        is no reason to. Whether it lives is for Swarm to say.
        """
        self._restored = False
        if self.life and self.life.frozen:
            return _Trusted()
        target = f"{Spawner.server.fget(self).url}api"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as http,
                http.get(target, allow_redirects=False) as response,
            ):
                return response
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            self.log.warning("Session %s does not answer yet (%s); Swarm says it runs", self.service_name, error)
            return _Trusted()

    # For the pages

    @property
    def step(self) -> str:
        """The last step of the start, empty before the first one."""
        return str(self._events[-1]["step"]) if self._events else ""

    def ended_ago(self) -> float | None:
        """Seconds since the last session's end; None where one runs or none ever did."""
        if not self.ended or self.service_name:
            return None
        return (datetime.now(timezone.utc) - datetime.fromisoformat(str(self.ended["at"]))).total_seconds()

    def ending(self) -> str:
        """Why the last session ended, in one or two sentences; empty where there is nothing to tell."""
        ago = self.ended_ago()
        return "" if ago is None or ago > lifecycle.REMEMBERED else self._end_told()

    def _end_told(self) -> str:
        """The same of a session that is just being cleared away, too, and however long ago."""
        if self.ended is None:
            return ""
        profile = self.platform.document.profiles.get(str(self.ended.get("profile", "")))
        limit = int(self.ended.get("memory_limit") or (profile.flavor.memory if profile else 0))
        sentence = policy.ENDINGS.get(str(self.ended.get("cause", "")), "")
        memory = self.last_memory()
        if self.ended.get("cause") == "memory" and memory is not None:
            sentence = policy.OUT_OF_MEMORY
        told = sentence.format(
            code=policy.exit_code(int(self.ended.get("code", 0))),
            larger=policy.larger(self.platform.document, self.groups, profile, self.granted),
            limit=sizes.format_size(limit) if limit else "",
            idle=durations.format_duration(profile.idle_stop) if profile else "a while",
            longest=durations.format_duration(profile.max_session) if profile else "",
            why=self.ended.get("why", ""),
            memory=memory.words if memory else "",
        )
        return " ".join(told.split())

    def last_memory(self) -> Memory | None:
        """What the last session held at most, where its node told."""
        kept = (self.ended or {}).get("memory_figures")
        return Memory(*kept) if kept else None

    def event(self) -> diagnosis.Event | None:
        """How the last session ended or the last start was refused, whichever is newer; None where neither is known."""
        found = [
            diagnosis.Event(
                ended=which is self.ended,
                reason=str(which.get("cause", which.get("reason", ""))),
                sentence=str(which.get("sentence", ""))
                or self._end_told()
                or ORDINARY.get(str(which.get("cause", "")), "The session ended."),
                at=datetime.fromisoformat(str(which["at"])).timestamp(),
                node=str(which.get("node", "")),
                words=str(which.get("words", "")),
                memory=self.last_memory() if which is self.ended else None,
            )
            for which in (self.ended, self.refused)
            if which is not None
        ]
        return max(found, key=lambda event: event.at, default=None)

    def queued(self) -> str:
        """The place of its start in the queue, in words; empty where it does not wait."""
        place = self.platform.admission.view(self)
        return f"waiting for a place, number {place['position']} in the queue" if place else ""

    def way_out(self) -> str:
        """Why this session gets nowhere, in a sentence; empty where it does, or nobody can tell."""
        name = str(self.placed.get("egress") or (self.profile.egress if self.profile else ""))
        offer = self.platform.document.egress.get(name)
        if not self.service_name or not self.node or offer is None:
            return ""
        return self.platform.egress.way_out(self.node, name, offer)

    def troubles(self) -> list[dict[str, str]]:
        """What its user has to know of the running session: sentences, each with a key that stays while it is about the same."""
        if not self.service_name or not self.node:
            return []
        return [notice for notice in (self._memory_notice(), self.platform.drains.notice(self.node)) if notice]

    def _memory_notice(self) -> dict[str, str] | None:
        """What is said when the kernel ended something in the running session for memory, such as a notebook's kernel."""
        memory = self.platform.figures(self.service_name)
        if memory is None:
            return None
        if memory.kills > self.kills:
            self.kills, self._killed = memory.kills, time.monotonic()
        if not self.kills or time.monotonic() - self._killed > KILLED_TOLD:
            return None
        larger = policy.larger(self.platform.document, self.groups, self.profile, self.granted)
        text = (
            f"Something in this session was ended because its memory was full ({memory.words}), most likely a notebook's kernel: "
            f"restart it. {larger}, or hold less data at a time."
        )
        return {"key": f"memory {self.kills}", "text": text}

    def usage(self) -> dict[str, Any]:
        """What its user is told of quotas: sentences of what runs out, and the limits with what is used of them."""
        quota = self.platform.quota
        try:
            return {"notices": quota.notices(self.user.name), "bars": usage.bars(quota.meters(self.user.name, self.groups))}
        except LedgerError as error:
            self.log.error("The ledger does not answer: %s", error)
            return {"notices": [], "bars": []}

    async def cards(self) -> list[dict[str, Any]]:
        """The start page's profiles."""
        return await cards(self.platform, self.groups, self.user.name, self.name)


async def _both(one: Awaitable[One], other: Awaitable[Other]) -> tuple[One, Other]:
    """Both answers. Where one fails the other ends as well."""
    tasks = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _over_quota(host: platform.Platform, user: str, server: str, groups: set[str], profile: Profile) -> str:
    """Why a user's quota has no place for a session of a profile; empty where it has, or nobody can tell."""
    try:
        return " ".join(host.quota.refusals(user, server, groups, profile)) if user else ""
    except LedgerError:
        return ""


async def cards(host: platform.Platform, groups: set[str], user: str = "", server: str = "") -> list[dict[str, Any]]:
    """The profiles open to a member of ``groups``, with what they have and whether there is room for them and quota left now."""
    try:
        snapshot = await host.snapshot_for_starts(2.0)
    except EngineUnknown:
        snapshot = None
    found = []
    for profile in policy.allowed_profiles(host.document, groups, host.people.granted_profiles(user) if user else ()):
        flavor = profile.flavor
        room = snapshot.room(profile.pool, flavor) if snapshot else None
        why, tag, ask = host.approvals.why_not(user, profile)
        state = "none" if why else "free"
        try:
            host.images.reference(profile.image)
        except Refused as refused:
            if not why:
                why, state, tag = refused.jupyterhub_message, "none", "not ready"
        if not why and room is None:
            why, state = "The cluster does not answer right now.", "unknown"
        elif not why and room is not None and not room.able:
            why, state = policy.no_room(profile, room).jupyterhub_message, "none"
        if not why and (refusal := _over_quota(host, user, server, groups, profile)):
            why, state, tag = refusal, "none", "over your quota"
        at_once = host.admission.open(profile)
        if not why and room is not None and not (room.places if at_once is None else at_once):
            why, state = "All of its places are taken. You can wait in the queue for one.", "full"
            if not host.document.queue_patience:
                why, state = policy.no_room(profile, room).jupyterhub_message, "none"
        gpu = ""
        if flavor.gpu:
            gpu = f"{flavor.gpu.count} × {flavor.gpu.profile or 'GPU'}"
            if room is not None:
                gpu += f", {room.free} of {room.total} free"
        found.append(
            {
                "name": profile.name,
                "title": profile.title,
                "description": profile.description,
                "cpus": f"{flavor.cpus:g}",
                "memory": sizes.format_size(flavor.memory),
                "gpu": gpu,
                "image": host.document.images[profile.image],
                "sandbox": profile.sandbox,
                "egress": host.document.egress[profile.egress],
                "idle_stop": durations.format_duration(profile.idle_stop) if profile.idle_stop else "",
                "max_session": durations.format_duration(profile.max_session) if profile.max_session else "",
                "extension": durations.format_duration(profile.extension) if profile.extension and profile.max_session else "",
                "places": room.places if room else None,
                "waiting": host.admission.waiting(profile),
                "state": state,
                "why": why,
                "tag": tag,
                "ask": ask,
            }
        )
    return found + [_broken(name, entry) for name, entry in host.profiles.entries().items() if _shows_broken(host, name, entry, groups)]


def _shows_broken(host: platform.Platform, name: str, entry: dict[str, Any], groups: set[str]) -> bool:
    mine = entry.get("groups") or []
    return name in host.profiles.broken and (not mine or (isinstance(mine, list) and bool(groups.intersection(map(str, mine)))))


def _broken(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The card of a profile that names what is no longer there. Why is for administrators."""
    return {
        "name": name,
        "title": str(entry.get("title") or name),
        "description": str(entry.get("description") or ""),
        "state": "none",
        "places": None,
        "waiting": 0,
        "gpu": "",
        "tag": "broken",
        "ask": "",
        "why": "Something that this profile needs is no longer there; tell an administrator.",
    }
