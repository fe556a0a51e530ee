"""The storage host's homes service: a home is made, or its limit set, before each start; snapshots of it are taken and restored."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp

from .config import Storage
from .core import diagnosis
from .engine import Tls
from .policy import Refused

OFFLINE = "Your home is offline: the storage does not answer, so nothing was started; try again in a few minutes."
# A snapshot waits until what was written before it is on the disk.
LONG = 30.0


class HomesError(Exception):
    """What the storage did not do. ``status`` is HTTP's, 0 where nothing answered; ``reason`` is its own sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"storage: {status or ''} {reason}".replace("  ", " "))
        self.status, self.reason = status, reason


class Homes:
    """A client with the hub's certificate. Without a url homes are made by other means, and there is nobody to ask."""

    def __init__(self, settings: Storage, tls: Tls) -> None:
        self.settings, self.tls = settings, tls
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, least: float = 0) -> dict[str, Any]:
        """The answer, within ``least`` seconds or what the document allows. Raises HomesError."""
        self._session = self._session or aiohttp.ClientSession()
        secure = self.settings.url.startswith("https:")
        try:
            async with self._session.request(
                method,
                f"{self.settings.url}/homes/{path}",
                json=body,
                ssl=self.tls.context() if secure else True,
                timeout=aiohttp.ClientTimeout(total=max(self.settings.timeout, least), sock_connect=2),
            ) as response:
                answer = await response.json(content_type=None)
                if response.status < 300:
                    return dict(answer)
                raise HomesError(response.status, str(answer["error"])[:300])
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise HomesError(0, f"{type(error).__name__} {error}") from None
        except (ValueError, TypeError, KeyError):
            raise HomesError(response.status, "it answers what is no JSON of its own") from None

    async def look(self, home: str) -> diagnosis.Home | None:
        """What the storage says of a home; None where there is none yet, or homes are made by other means."""
        if not self.settings.url:
            return None
        try:
            found = await self._ask("GET", quote(home))
            limit = found["limit_bytes"]
            return diagnosis.Home("", int(found["used_bytes"]), None if limit is None else int(limit))
        except HomesError as error:
            return None if error.status == 404 else diagnosis.Home(str(error))
        except (ValueError, KeyError, TypeError):
            return diagnosis.Home("it answers something else than a home")

    async def ensure(self, home: str, limit: int) -> None:
        """Make ``home`` with ``limit`` bytes where it is not there yet. Raises Refused with the reason."""
        if not self.settings.url:
            return
        try:
            await self._ask("PUT", quote(home), {"limit_bytes": limit})
        except HomesError as error:
            sentence, reason = OFFLINE, "home"
            if error.status == 507:
                sentence, reason = "The storage is full, so your home could not be made; tell an administrator.", "full"
            raise Refused(sentence, reason=reason, status=503, log=str(error)) from None

    async def snapshots(self, home: str) -> dict[str, Any]:
        """``snapshots`` of a home, the newest first, and how many it may ``keep``. Raises HomesError."""
        return await self._ask("GET", f"{quote(home)}/snapshots")

    async def take(self, home: str, cause: str) -> dict[str, Any]:
        """Take a snapshot. Raises HomesError; its status is 501 where none are kept."""
        return await self._ask("PUT", f"{quote(home)}/snapshots", {"cause": cause}, LONG)

    async def restore(self, home: str, snapshot: str) -> dict[str, Any]:
        """Make a home what it was. ``before`` is the snapshot of what it was until now. Raises HomesError."""
        return await self._ask("PUT", f"{quote(home)}/restore", {"snapshot": snapshot}, LONG)
