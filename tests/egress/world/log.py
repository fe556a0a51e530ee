"""One log of what arrived where, and the answers' secret."""

from __future__ import annotations

import json
import sys
import threading

from ..places import TOKEN

_lock = threading.Lock()
SECRET = "SECRET-7f3a"


def seen(data: bytes, **facts: object) -> None:
    """Write a line for each token in the data."""
    for token in set(TOKEN.findall(data.lower())):
        with _lock:
            sys.stdout.write(json.dumps({"token": token.decode(), **facts}) + "\n")
            sys.stdout.flush()


def answer(facts: dict[str, object]) -> str:
    """What a server answers: its secret and the facts that decide whether the session may have it."""
    return f"{SECRET} {json.dumps(facts)}\n"
