"""A client of a service that each compute node has for the hub: HTTP over TLS, asked with the hub's certificate."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import aiohttp

from . import cluster
from .engine import Tls

NODE_BYTES = 32 * 2**20


class Silent(Exception):
    """A node gave no usable answer. ``dead``: nothing listens there."""

    def __init__(self, why: str, dead: bool = False) -> None:
        super().__init__(why)
        self.dead = dead


class NodeClient:
    """One such service, on all nodes at the same port."""

    def __init__(self, port: int, snapshots: cluster.Cluster, tls: Tls) -> None:
        self.port, self.tls = port, tls
        self._cluster = snapshots
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End the connections."""
        if self._http:
            await self._http.close()

    async def nodes(self, max_age: float) -> dict[str, cluster.Json]:
        """Nodes that run sessions, by host name. Raises EngineUnknown."""
        nodes = (await self._cluster.snapshot(max_age)).nodes.values()
        return {cluster.hostname(node): node for node in nodes if (node.get("Spec", {}).get("Labels") or {}).get("metalhub.pool")}

    async def get(self, node: cluster.Json, path: str, seconds: float) -> bytes:
        """The body of a node's answer. Raises Silent."""
        return await self._ask("GET", node, path, seconds)

    async def put(self, node: cluster.Json, path: str, body: Mapping[str, str], seconds: float) -> bytes:
        """The same for something that the node is to do. Raises Silent, after which it may be done or not."""
        return await self._ask("PUT", node, path, seconds, body)

    async def _ask(self, method: str, node: cluster.Json, path: str, seconds: float, said: Mapping[str, str] | None = None) -> bytes:
        if str(node.get("Status", {}).get("State", "")).lower() == "down":
            raise Silent("the node is down")
        self._http = self._http or aiohttp.ClientSession()
        address = cluster.node_address(node)
        url = f"https://{f'[{address}]' if ':' in address else address}:{self.port}{path}"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=2)
        body = bytearray()
        try:
            async with self._http.request(method, url, json=said, ssl=self.tls.context(), timeout=timeout) as response:
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > NODE_BYTES:
                        raise Silent(f"its answer is larger than {NODE_BYTES // 2**20} MiB")
        except TimeoutError:
            raise Silent(f"it took more than {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            dead = isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == errno.ECONNREFUSED
            raise Silent("nothing listens there" if dead else f"{type(error).__name__} {error}".strip(), dead) from None
        if response.status != 200:
            raise Silent(f"it answers {response.status} {bytes(body[:200]).decode('utf-8', 'replace')}")
        return bytes(body)
