"""Run attacks inside of a session: cases as JSON on standard input, results as JSON lines on standard output.

Each case runs in a thread of its own and every step of it has a time-out; what is still running at the end of the time is given up.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time

from .methods import Attack
from .packets import Frames

THREADS = 24


def _one(case: dict[str, object], job: dict[str, object]) -> dict[str, object]:
    got, error = "", ""
    try:
        token, arguments = str(case["token"]), dict(case["arguments"])  # type: ignore[call-overload]
        holder = Frames(str(job["gateway"]), token, job) if case["where"] != "inside" else Attack(str(job["gateway"]), token)
        got = getattr(holder, str(case["method"]))(**arguments) or ""
    except Exception as caught:  # noqa: BLE001 - whatever a broken connection raises is a result
        error = f"{type(caught).__name__}: {caught}"
    return {"token": case["token"], "got": got[:4096], "error": error[:200]}


def main() -> None:
    job = json.load(sys.stdin)
    todo: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
    done: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
    for case in job["cases"]:
        todo.put(case)

    def work() -> None:
        while True:
            try:
                case = todo.get_nowait()
            except queue.Empty:
                return
            done.put(_one(case, job))

    for _ in range(THREADS):
        threading.Thread(target=work, daemon=True).start()
    deadline = time.monotonic() + float(job["seconds"])
    for _ in job["cases"]:
        try:
            print(json.dumps(done.get(timeout=max(0.1, deadline - time.monotonic()))), flush=True)
        except queue.Empty:
            break
    os._exit(0)


if __name__ == "__main__":
    main()
