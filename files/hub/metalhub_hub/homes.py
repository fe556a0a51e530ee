"""The storage host's homes service: a home is made, or its limit set, before each start."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import aiohttp

from .config import Storage
from .engine import Tls
from .policy import Refused

OFFLINE = "Your home is offline: the storage does not answer, so nothing was started; try again in a few minutes."


class Homes:
    """A client with the hub's certificate. Without a url it does nothing: homes are then made by other means."""

    def __init__(self, settings: Storage, tls: Tls) -> None:
        self.settings, self.tls = settings, tls
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def ensure(self, home: str, limit: int) -> None:
        """Make ``home`` with ``limit`` bytes where it is not there yet. Raises Refused with the reason."""
        if not self.settings.url:
            return
        self._session = self._session or aiohttp.ClientSession()
        secure = self.settings.url.startswith("https:")
        try:
            async with self._session.put(
                f"{self.settings.url}/homes/{quote(home)}",
                json={"limit_bytes": limit},
                ssl=self.tls.context() if secure else True,
                timeout=aiohttp.ClientTimeout(total=self.settings.timeout, sock_connect=2),
            ) as response:
                if response.status < 300:
                    return
                detail = f"{response.status} {(await response.text())[:300]}"
                full = response.status == 507
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise Refused(OFFLINE, reason="home", status=503, log=f"storage: {type(error).__name__} {error}") from None
        if full:
            raise Refused(
                "The storage is full, so your home could not be made; tell an administrator.",
                reason="home",
                status=503,
                log=f"storage: {detail}",
            )
        raise Refused(OFFLINE, reason="home", status=503, log=f"storage: {detail}")
