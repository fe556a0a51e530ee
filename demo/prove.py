"""Prove a running platform from the outside: log in over TLS, start sessions, run cells in them.

The sessions it starts belong to users of its own and are stopped at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from pathlib import Path

# A script's own directory comes first, and in it `demo` would be demo.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.client import Hub, ProofError  # noqa: E402

MAX_SESSIONS = 6

CELL = "import platform; print('2 ** 10 =', 2 ** 10, 'on Python', platform.python_version(), 'kernel', platform.release())"

# The sandbox's own kernel log. gVisor has no /dev/kmsg; dmesg(1) falls back to syslog(2), and so does this.
DMESG = """
import ctypes
size = 1 << 16
buffer = ctypes.create_string_buffer(size)
length = ctypes.CDLL(None, use_errno=True).klogctl(3, buffer, size)
print(buffer.raw[:max(length, 0)].decode(errors="replace"))
"""


def node_of(command: str, user: str) -> str:
    """Ask the operator's side on which node a user's session runs; `command` has {user} in it and prints the node's name."""
    done = subprocess.run(command.replace("{user}", user), shell=True, check=False, capture_output=True, text=True, timeout=30)
    words = done.stdout.split()
    if done.returncode != 0 or not words:
        raise ProofError(f"no node for {user}: {done.stderr.strip()[:300]}")
    return words[0]


def prove(options: argparse.Namespace) -> dict[str, str]:
    """Do it all; returns the rows of the table."""
    hub = Hub(options.domain, options.address, options.ca)
    hub.login(options.user, options.password_file.read_text(encoding="utf-8").strip())
    print(f"logged in as {options.user} at https://{options.domain}/ (TLS, the platform's own authority)", flush=True)
    wanted, starts, cells, started = set(options.nodes), [], [], []
    try:
        for number in range(1, MAX_SESSIONS + 1):
            if not wanted:
                break
            user = f"demo-{number}"
            hub.request("POST", f"/hub/api/users/{user}")
            guest = hub.as_user(user)
            if hub.request("GET", f"/hub/api/users/{user}").json().get("servers"):
                hub.stop(user)
            started.append(user)
            starts.append(guest.start(user, options.profile))
            with guest.kernel(user) as kernel:
                node = node_of(options.locate, user)
                print(f"{user}: a session on {node}, {starts[-1]:.2f} s from the click to the lab page", flush=True)
                print("   a cell:", kernel.run(CELL).strip())
                words = kernel.run(DMESG).strip()
                print("   the sandbox kernel's own words (dmesg):", *words.splitlines()[:6], sep="\n      ", flush=True)
                if "gVisor" not in words:
                    raise ProofError(f"the kernel under {user}'s session does not say that it is gVisor: {words[:200]!r}")
                for _ in range(50):
                    begin = time.perf_counter()
                    kernel.run("pass")
                    cells.append(time.perf_counter() - begin)
            wanted.discard(node)
        if wanted:
            raise ProofError(f"{MAX_SESSIONS} sessions ran, none of them on {', '.join(sorted(wanted))}")
    finally:
        for user in started:
            with contextlib.suppress(ProofError):
                hub.stop(user)
    cells.sort()
    return {
        "click to lab": ", ".join(f"{s:.2f} s" for s in starts),
        "cell `pass`": f"median {statistics.median(cells) * 1000:.1f} ms, p99 {cells[int(len(cells) * 0.99)] * 1000:.1f} ms",
    }


def main() -> int:
    """Read the command line, prove, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="address of the control host")
    parser.add_argument("--domain", required=True, help="the platform's host name")
    parser.add_argument("--ca", type=Path, required=True, help="PEM of the platform's authority")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--profile", help="profile to start; the platform's default where it is not given")
    parser.add_argument("--nodes", nargs="+", required=True, help="nodes that must each have run a session")
    parser.add_argument("--locate", required=True, help="a shell command that prints the node of a {user}'s session")
    parser.add_argument("--timings", nargs="*", default=[], metavar="NAME=SECONDS", help="rows to add to the table")
    options = parser.parse_args()
    try:
        rows = {row.partition("=")[0]: row.partition("=")[2] + " s" for row in options.timings} | prove(options)
    except ProofError as error:
        print(f"proof failed: {error}", file=sys.stderr)
        return 1
    width = max(map(len, rows))
    print("\n" + "\n".join(f"  {name:{width}}  {value}" for name, value in rows.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
