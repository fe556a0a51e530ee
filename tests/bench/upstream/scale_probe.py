"""Loaded by both hubs of tests/bench/scale.py: who asks them, and a task that writes down by how much it wakes too late."""

import asyncio
import os
import time

c = get_config()  # noqa: F821
c.JupyterHub.services.append({"name": "bench", "api_token": os.environ["BENCH_TOKEN"]})
c.JupyterHub.load_roles.append(
    {"name": "bench", "services": ["bench"], "scopes": ["admin:users", "admin:servers", "admin:server_state", "read:metrics"]}
)


async def probe(every: float) -> None:
    """Lines of the steady clock's time and the lateness then, both in seconds."""
    with open(os.environ["BENCH_LAG"], "a") as file:
        lines = []
        while True:
            due = time.monotonic() + every
            await asyncio.sleep(every)
            now = time.monotonic()
            lines.append(f"{now:.4f} {now - due:.5f}\n")
            if len(lines) >= 10:
                file.writelines(lines)
                file.flush()
                lines.clear()


# The loop keeps no more than a weak reference to a task. JupyterHub reads its configuration in the loop that it runs in.
asyncio.get_running_loop()._bench_probe = asyncio.ensure_future(probe(0.05))
