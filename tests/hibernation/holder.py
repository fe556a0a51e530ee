"""A session that holds memory and answers questions about it, as a kernel does. Runs in a session's container.

    python3 -m hibernation.holder MIB

A line in, a line of JSON out: `small` counts and looks at a few variables, `all` reads every byte, `grow` takes memory until it is killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys

PORT = 8888


def _block() -> bytes:
    """A MiB."""
    return b"".join(os.urandom(2048) + bytes(2048) for _ in range(256))


class Holder:
    """What it has in memory: data of which each page compresses to half, and variables as a notebook has them."""

    def __init__(self, mib: int) -> None:
        self.blocks = [_block() for _ in range(mib)]
        self.table = {number: f"row {number}" for number in range(20000)}
        self.count = 0

    def answer(self, question: str) -> dict[str, object]:
        if question == "all":
            digest = hashlib.blake2b()
            for block in self.blocks:
                digest.update(block)
            return {"digest": digest.hexdigest(), "count": self.count}
        if question == "grow":
            while True:
                self.blocks.append(_block())
        self.count += 1
        return {"count": self.count, "sum": sum(len(self.table[number]) for number in range(0, 20000, 100))}


async def serve(holder: Holder) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(holder.answer(line.decode().strip())).encode() + b"\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "0.0.0.0", PORT)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Holder(int(sys.argv[1]))))
