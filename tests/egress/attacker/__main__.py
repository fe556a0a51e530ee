"""Run attacks inside of a session: cases as JSON on standard input (or in the file that is named), results as JSON lines on standard output.

Each case runs in a thread of its own and every step of it has a time-out; what is still running at the end of the time is given up. With
`loop` in the job all cases are tried over and over until then, and the first answer with a secret is what is kept.
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


def _over_and_over(case: dict[str, object], job: dict[str, object], until: float) -> dict[str, object]:
    last: dict[str, object] = {"token": case["token"], "got": "", "error": "never tried"}
    tries = 0
    while time.monotonic() < until:
        now = _one(case, job)
        tries += 1
        if "SECRET" not in str(last["got"]):
            last = now
        time.sleep(0.02)
    return {**last, "tries": tries}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") if sys.argv[1:] else sys.stdin as stream:
        job = json.load(stream)
    deadline = time.monotonic() + float(job["seconds"])
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
            done.put(_over_and_over(case, job, deadline - 3) if job.get("loop") else _one(case, job))

    for _ in range(THREADS):
        threading.Thread(target=work, daemon=True).start()
    for _ in job["cases"]:
        try:
            print(json.dumps(done.get(timeout=max(0.1, deadline - time.monotonic()))), flush=True)
        except queue.Empty:
            break
    os._exit(0)


if __name__ == "__main__":
    main()
