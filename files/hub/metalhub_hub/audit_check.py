"""The hub's own look at its audit log's chain: once a day and when an administrator asks, by the command that an operator runs.

It is a process of its own, since a long log would hold up the hub's loop from within any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import audit, durable
from .core import audit_chain

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

FIRST = 60.0
EVERY = 86400.0
PATIENCE = 600.0
MEMORY = "audit-checked.json"


@dataclass(frozen=True)
class Checked:
    """What a check found: whether lines ``first`` to ``last`` are as they were written, else ``words`` say where not and why.

    ``last`` is the last line that was looked at, with its ``sha256``. ``first`` is above 1 where older files were moved away. ``at`` is a
    time as the log writes it.
    """

    good: bool
    at: str
    first: int
    last: int
    sha256: str
    words: str = ""

    @property
    def seconds(self) -> float:
        """``at`` in seconds since the epoch."""
        return datetime.fromisoformat(self.at.replace("Z", "+00:00")).timestamp()


class AuditCheck:
    """The last check, which outlives the hub's process, and the next one."""

    def __init__(self, host: Platform) -> None:
        self.host, self.directory = host, Path(host.document.state)
        self._running: asyncio.Task[Checked | None] | None = None
        self.last: Checked | None = None
        with contextlib.suppress(OSError, ValueError, TypeError):  # none was made yet
            self.last = Checked(**json.loads((self.directory / MEMORY).read_text()))

    async def watch(self) -> None:
        """Check for ever; the body of a task."""
        await asyncio.sleep(FIRST)
        while True:
            try:
                await self.run()
            except Exception:
                log.exception("The check of the audit log failed")
            await asyncio.sleep(EVERY)

    async def run(self) -> Checked | None:
        """Check now, or wait for the check that runs. None: it could not be done, and the hub's log says why."""
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._run())
        return await asyncio.shield(self._running)

    async def _run(self) -> Checked | None:
        found = await self._ask()
        if found is None:
            return None
        self.last = found
        if not found.good:
            log.error("The audit log is not as it was written: %s", found.words)
            self.host.audit.write("audit.broken", actor="hub", words=found.words)
        try:
            durable.replace(self.directory / MEMORY, json.dumps(asdict(found)))
        except OSError as error:
            log.error("Cannot write %s: %s", self.directory / MEMORY, error)
        return found

    async def _ask(self) -> Checked | None:
        first = await asyncio.to_thread(self._first)
        anchor = ["--anchor", f"{first['seq'] - 1}:{first['prev']}"] if first and first["seq"] > 1 else []
        command = [sys.executable, "-P", "-m", "metalhub_hub.cli", "audit", "verify", "--json", "--directory", str(self.directory), *anchor]
        # Of the hub's environment nothing that it holds for itself.
        environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": os.environ.get("PATH", ""), "PYTHONDONTWRITEBYTECODE": "1"}
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
            told: dict[str, Any] = json.loads(out)
            head = audit_chain.parse_link(told["head"])
            problem = told.get("problem")
            words = f"{Path(problem['file']).name}:{problem['line']}: {problem['words']}" if problem else ""
            now = audit_chain.stamp(datetime.now(timezone.utc))
            return Checked(bool(told["good"]), now, int(first["seq"]) if first else 1, head.seq, head.sha256, words)
        except (TimeoutError, ValueError, KeyError) as error:
            log.error("The audit log could not be checked: %s", error if isinstance(error, TimeoutError) else err.decode(errors="replace"))
            return None
        finally:
            if process.returncode is None:
                process.kill()

    def _first(self) -> dict[str, Any] | None:
        files = audit.segments(self.directory)
        if not files:
            return None
        with files[0].open("rb") as file:
            return audit_chain.read(file.readline())
