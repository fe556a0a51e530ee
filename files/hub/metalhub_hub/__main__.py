"""``python -m metalhub_hub``: small commands around the hub's process.

    check FILE       is this document one the hub can start with? Prints each problem on a line.
    wait URL         until the hub answers there, at most 100 seconds
    run ARGUMENT…    the hub itself: JupyterHub with these arguments
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request

from .config import DocumentError, load

# What JupyterHub's packages load where it is installed, and no schema of the hub's uses: it builds a grammar, for as long as all else
# of the start takes.
MISSING = ("rfc3987_syntax",)


def run(arguments: list[str]) -> int:
    """Be the hub until it ends."""
    sys.modules.update(dict.fromkeys(MISSING))
    from jupyterhub.app import JupyterHub

    JupyterHub.launch_instance(arguments)
    return 0


def wait(url: str, seconds: float = 100) -> int:
    """0 when ``url`` answers with 200, 1 when it has not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return 0
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    print(f"{url} does not answer after {seconds:g} s", file=sys.stderr)
    return 1


def main(arguments: list[str]) -> int:
    """0: fine. 1: not, and standard error says why. 2: wrong usage."""
    if arguments[:1] == ["run"]:
        return run(arguments[1:])
    if len(arguments) != 2 or arguments[0] not in ("check", "wait"):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments[0] == "wait":
        return wait(arguments[1])
    try:
        load(arguments[1])
    except DocumentError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
