"""The audit log's files: what writes them, and what reads them without a hub. The chain itself is core.audit_chain.

    audit.jsonl               the newest lines
    audit-000000000001.jsonl  older ones, named by the number of their first line
    audit-head.json           the newest line's number and SHA-256, at most a second old
    audit-policy.json         digests of the document that the hub last started with
    audit-checked.json        what the hub's last check of the chain found
    audit-torn-*              what was set aside of a line that was cut off
    audit-unchained*.jsonl    the log of releases without a chain
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import acting, durable
from .core import audit_chain
from .core.audit_chain import Link

log = logging.getLogger("metalhub")

VERSION = 1
SEGMENT = 64 * 2**20
# While a disk is full: some hours of a busy site, 10 MB of memory.
WAITING = 10_000
SETTLE_AFTER = 1.0
RETRY_AFTER = 5.0
TAIL = 2**20
JOURNAL = "/run/systemd/journal/socket"

_SEGMENT = re.compile(r"audit-\d{12}\.jsonl")


def segments(directory: Path) -> list[Path]:
    """The log's files in their order."""
    older = sorted(path for path in directory.iterdir() if _SEGMENT.fullmatch(path.name))
    newest = directory / "audit.jsonl"
    return [*older, newest] if newest.exists() else older


def lines(paths: list[Path]) -> Iterator[bytes]:
    """All lines of these files, each with its newline."""
    for path in paths:
        with path.open("rb") as file:
            yield from file


def kept_head(directory: Path) -> Link | None:
    """The head that the hub keeps beside the log, or None where there is none."""
    try:
        data = json.loads((directory / "audit-head.json").read_text())
        return audit_chain.parse_link(f"{data['seq']}:{data['sha256']}")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Journal:
    """journald by its own datagrams, because its fields can be searched for: ``journalctl METALHUB_AUDIT=1``."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def send(self, message: str, **fields: str) -> bool:
        """Whether journald took it. It is never waited for."""
        pairs = {
            "MESSAGE": message, "PRIORITY": "5", "SYSLOG_IDENTIFIER": "metalhub-audit", "METALHUB_AUDIT": "1", **fields,
        }  # fmt: skip
        # A value with a newline would need the binary form. JSON has none.
        data = "".join(f"{key}={value}\n" for key, value in pairs.items())
        try:
            self._socket.sendto(data.encode(errors="replace"), self.path)
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class _Event:
    at: str
    kind: str
    facts: Mapping[str, Any]


class Audit:
    """Appends events. It never raises and never waits: what the disk does not take stays in memory and is tried again.

    ``failed`` counts writes that the disk refused, ``lag`` events that are not on it yet, ``lost`` those that are gone.
    """

    def __init__(
        self,
        path: str,
        *,
        segment: int = SEGMENT,
        journal: str = JOURNAL,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.path = path
        self.failed = self.lost = 0
        self._directory, self._segment, self._clock = Path(path).parent, segment, clock
        self._journal = Journal(journal)
        self._waiting: deque[_Event] = deque()
        self._late = self._lost_told = 0
        self._descriptor = self._lock = -1
        self._size = 0
        self._first = 1  # number of the current file's first line
        self._last = audit_chain.START
        self._timer: asyncio.TimerHandle | None = None
        self._settling = threading.Lock()
        self._drain()
        self.settle()

    @property
    def lag(self) -> int:
        return len(self._waiting)

    @property
    def head(self) -> Link:
        return self._last

    def write(self, state: str, **facts: Any) -> None:
        """Record an event: the ``state`` of a session where the facts name one, else its kind."""
        if "actor" not in facts:
            facts |= acting.facts(str(facts.get("cause", "")))
        self._record(f"session.{state}" if "session" in facts else state, facts)

    def start(self, document: Path) -> None:
        """Record the hub's start and what of the document, which holds no secret, changed since the last one."""
        import yaml  # the command line reads the log without it

        try:
            data = document.read_bytes()
            parts = yaml.safe_load(data)
            now = {str(key): hashlib.sha256(json.dumps(parts[key], sort_keys=True, default=str).encode()).hexdigest() for key in parts}
        except (OSError, yaml.YAMLError, TypeError) as error:
            log.error("Cannot read %s for the audit log: %s", document, error)
            return
        memory = self._directory / "audit-policy.json"
        try:
            before = dict(json.loads(memory.read_text()))
        except (OSError, ValueError, TypeError):
            before = {}
        changed = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
        self.write("hub.started", document=str(document), sha256=hashlib.sha256(data).hexdigest(), changed=changed)
        if changed:
            try:
                durable.replace(memory, json.dumps(now))
            except OSError as error:
                log.error("Cannot write %s: %s", memory, error)

    def close(self) -> None:
        """Bring all to the disk."""
        self._drain()
        self.settle()
        self._shut()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Events to lines

    def _record(self, kind: str, facts: Mapping[str, Any]) -> None:
        event = _Event(audit_chain.stamp(self._clock()), kind, facts)
        if len(self._waiting) < WAITING:
            self._waiting.append(event)
        else:
            self.lost += 1
        self._drain()
        if self._waiting:
            # The journal has at once what the disk does not take.
            self._journal.send(audit_chain.seal(0, event.at, event.kind, event.facts, "").decode().rstrip("\n"), METALHUB_AUDIT_KIND=kind)
        self._schedule(RETRY_AFTER if self._waiting else SETTLE_AFTER)

    def _drain(self) -> None:
        """Write what waits, in its order."""
        if not self._is_ours():
            self._shut()
            self._open()
        while self._waiting:
            event = self._waiting[0]
            line = audit_chain.seal(self._last.seq + 1, event.at, event.kind, event.facts, self._last.sha256)
            try:
                self._append(line)
            except OSError as error:
                if not self._late:
                    log.error("Cannot write the audit log %s, events wait in memory: %s", self.path, error)
                self.failed += 1
                self._late = max(self._late, len(self._waiting))
                return
            self._waiting.popleft()
            if event.kind == "audit.torn":
                self._torn_is_told(event.facts["file"])
            self._last = Link(self._last.seq + 1, audit_chain.digest(line))
            self._journal.send(
                line.decode().rstrip("\n"),
                METALHUB_AUDIT_KIND=event.kind,
                METALHUB_AUDIT_SEQ=str(self._last.seq),
                METALHUB_AUDIT_SHA256=self._last.sha256,
            )
            self._rotate()
            if not self._waiting and self._late:
                late, self._late = self._late, 0
                lost, self._lost_told = self.lost - self._lost_told, self.lost
                log.warning("The audit log is written again: %d events came late, %d are lost", late, lost)
                facts = {"actor": acting.HUB, "late": late, "lost": lost, "failed": self.failed}
                self._waiting.append(_Event(audit_chain.stamp(self._clock()), "audit.late", facts))

    def _append(self, line: bytes) -> None:
        """Write a line whole or not at all. Raises OSError."""
        if self._descriptor < 0:
            raise OSError("it cannot be opened")
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:
                self._shut()  # the next attempt opens it again, and sets aside what is torn
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        if self._size < self._segment:
            return
        try:
            os.fsync(self._descriptor)
            os.rename(self.path, self._directory / f"audit-{self._first:012}.jsonl")
            self._shut()
            self._open_newest()
        except OSError as error:
            log.error("Cannot begin a new file of the audit log: %s", error)

    def _is_ours(self) -> bool:
        """Whether what is open is what has the name: somebody may have moved it away, and what is written then is seen by nobody."""
        try:
            return self._descriptor >= 0 and os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        except OSError:
            return False

    def _shut(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # To the disk

    def _schedule(self, seconds: float) -> None:
        if self._timer is None:
            with contextlib.suppress(RuntimeError):  # without a loop, close() does it
                self._timer = asyncio.get_running_loop().call_later(seconds, self._tend)

    def _tend(self) -> None:
        self._timer = None
        self._drain()
        if self._waiting:
            self._schedule(RETRY_AFTER)
        if self._descriptor >= 0:
            # A disk may take its time, which the hub's loop has not.
            asyncio.get_running_loop().run_in_executor(None, self._settle, os.dup(self._descriptor), self._last)

    def settle(self) -> None:
        """Bring what was written to the disk, and then say how far that is."""
        if self._descriptor >= 0:
            self._settle(os.dup(self._descriptor), self._last)

    def _settle(self, descriptor: int, last: Link) -> None:
        try:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with self._settling:
                durable.replace(self._directory / "audit-head.json", json.dumps({"seq": last.seq, "sha256": last.sha256}) + "\n")
        except OSError as error:
            log.error("Cannot bring the audit log %s to the disk: %s", self.path, error)

    # At the start

    def _open(self) -> None:
        """Find the chain's end, set aside what is torn, and note what is wrong."""
        found: list[tuple[str, dict[str, Any]]] = []
        written = self._last
        try:
            self._be_the_only_one()
            self._keep_unchained()
            torn = self._set_torn_aside()
            files = segments(self._directory)
            self._last = self._find_last(files)
            self._open_newest()
            if self._last == audit_chain.START:
                old = sorted(self._directory.glob("audit-unchained*.jsonl"))
                unchained = [{"file": path.name, "bytes": path.stat().st_size, "sha256": _file_digest(path)} for path in old]
                found.append(("audit.begin", {"version": VERSION, "unchained": unchained}))
            # What this process wrote last is known, whatever became of the files since.
            head = max(kept_head(self._directory) or written, written, key=lambda link: link.seq)
            if head.seq > self._last.seq:
                found.append(("audit.truncated", {"ends_at": self._last.seq, "written": head.seq, "sha256": head.sha256}))
            found += [("audit.torn", facts) for facts in torn]
            for kind, facts in reversed(found):
                event = _Event(audit_chain.stamp(self._clock()), kind, {"actor": acting.HUB, **facts})
                self._waiting.appendleft(event)
            for kind, facts in found:
                if kind != "audit.begin":
                    log.error("The audit log %s is not as it was left: %s %s", self.path, kind, facts)
        except OSError as error:
            if not self._late:  # once, not at each attempt
                log.error("Cannot open the audit log %s: %s", self.path, error)
            self._shut()

    def _be_the_only_one(self) -> None:
        """Two writers would make two chains: another process with this configuration, such as ``jupyterhub token``, writes nothing."""
        if self._lock < 0:
            lock = os.open(self._directory / ".audit-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise
            self._lock = lock

    def _open_newest(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._descriptor).st_size
        self._first = self._last.seq + 1
        if self._size:
            with open(self.path, "rb") as file:
                event = audit_chain.read(file.readline())
            self._first = event["seq"] if event else self._first

    def _keep_unchained(self) -> None:
        """Put a log of a release without a chain out of the way, under a name that says so."""
        path = Path(self.path)
        if not path.exists():
            return
        with path.open("rb") as file:
            first = file.readline()
        if not first.endswith(b"\n") or b'"prev":' in first:
            return
        name, number = self._directory / "audit-unchained.jsonl", 1
        while name.exists():
            number += 1
            name = self._directory / f"audit-unchained-{number}.jsonl"
        os.rename(path, name)

    @property
    def _torn(self) -> Path:
        return self._directory / ".audit-torn"

    def _set_torn_aside(self) -> list[dict[str, Any]]:
        """What comes after the last newline goes to a file of its own, before it is cut off here.

        That file has its final name only when the log has the event, so that a hub which is killed in between still tells.
        """
        found = []
        path = Path(self.path)
        if path.exists():
            with path.open("r+b") as file:
                whole, rest = _after_last_newline(file)
                if rest:
                    if self._torn.exists() and self._torn.read_bytes() != rest:
                        found.append(self._torn_facts())
                        self._torn_is_told(found[0]["file"])
                    with open(os.open(self._torn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as kept:
                        kept.write(rest)
                        kept.flush()
                        os.fsync(kept.fileno())
                    file.truncate(whole)
        if self._torn.exists():
            found.append(self._torn_facts())
        return found

    def _torn_facts(self) -> dict[str, Any]:
        sha256 = _file_digest(self._torn)
        return {"file": f"audit-torn-{sha256[:16]}", "bytes": self._torn.stat().st_size, "sha256": sha256}

    def _torn_is_told(self, name: str) -> None:
        with contextlib.suppress(OSError):
            if self._torn_facts()["file"] == name:
                os.replace(self._torn, self._directory / name)

    def _find_last(self, files: list[Path]) -> Link:
        """The last line, or START where there is none. What no hub wrote is gone on from as it is: verifying names it."""
        for path in reversed(files):
            size = path.stat().st_size
            for begin in (max(0, size - TAIL), 0):
                with path.open("rb") as file:
                    file.seek(begin)
                    ends = file.read().splitlines(keepends=True)[1 if begin else 0 :]
                for after, line in enumerate(reversed(ends)):
                    if event := audit_chain.read(line):
                        return Link(event["seq"] + after, audit_chain.digest(ends[-1]))
        return audit_chain.START


def _after_last_newline(file: Any) -> tuple[int, bytes]:
    """Where the last whole line ends, and what comes after it."""
    size = end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - 65536)
        file.seek(begin)
        at = file.read(end - begin).rfind(b"\n")
        if at >= 0:
            end = begin + at + 1
            break
        end = begin
    file.seek(end)
    return end, file.read(size - end)
