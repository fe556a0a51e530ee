"""When a running session is stopped for its idleness or its age: the idle culler's hook."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import aiohttp

Busy = Callable[[str], Awaitable[bool]]


async def kernels_are_busy(url: str) -> bool:
    """Whether a session computes. Its last activity says nothing of a cell that runs for hours and prints nothing."""
    hub = os.environ["JUPYTERHUB_API_URL"].removesuffix("/hub/api")
    headers = {"Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}"}
    address = url if url.startswith("http") else hub + url
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http,
            http.get(address.rstrip("/") + "/api/kernels", headers=headers) as response,
        ):
            if response.status != 200:
                return False
            kernels = await response.json()
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False
    return any(kernel.get("execution_state") == "busy" for kernel in kernels)


async def should_stop(
    server: Mapping[str, Any], inactive: timedelta | None, now: datetime, busy: Busy = kernels_are_busy
) -> bool:
    """Whether a session is over its profile's limits, which its state holds in seconds (0: without limit)."""
    state = server.get("state") or {}
    longest, idle = int(state.get("max_session", 0)), int(state.get("idle_stop", 0))
    if longest and server.get("started"):
        started = datetime.fromisoformat(str(server["started"]).replace("Z", "+00:00"))
        if (now - started).total_seconds() >= longest:
            return True
    if not idle or inactive is None or inactive.total_seconds() < idle:
        return False
    url = str(state.get("url", ""))
    return not await busy(url + str(server.get("url", "")))


async def hook(inactive: timedelta | None, inactive_limit: int, server: Mapping[str, Any]) -> bool:
    """For ``IdleCuller.cull_arbiter_hook``."""
    return await should_stop(server, inactive, datetime.now(timezone.utc))
