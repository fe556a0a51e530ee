"""What a run asked the hosts and read on the controller, so that the next can see whether anything differs.

The decisions of a run follow from the files and variables on the controller and from what the hosts answer. When a run
changed nothing, its questions and a digest of each answer are kept, together with a digest of all that went in. The next run
asks the same again, all questions of a host in one round trip: where all is equal, it would decide the same, and is done.

While a run is recorded, an audit hook of Python notes each file that is read, and whatever else could bring something in from
outside: a program that is started or a connection that is opened other than to ask a host. Such a run is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Iterator

# Handed from the main process to its workers.
NOTES_VARIABLE = "METALHUB_SETTLED_NOTES"  # the open file that notes go to
RECORD_VARIABLE = "METALHUB_SETTLED_RECORD"  # the record that may be asked again; unset where there is none

_asking = 0


def note(entry: dict[str, t.Any]) -> None:
    """Append a note of any process of this run. Without a recording callback nothing is written."""
    if handle := os.environ.get(NOTES_VARIABLE):
        # One write to a file opened for appending is not torn by another process.
        os.write(int(handle), json.dumps(entry).encode() + b"\n")


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Mark that programs started now (ssh) only carry a question to a host."""
    global _asking
    _asking += 1
    try:
        yield
    finally:
        _asking -= 1


def digest(output: str) -> str:
    """The digest of a script's standard output and its exit status 0, as `replay` computes it on the host."""
    return hashlib.sha256((output + "\nrc=0\n").encode(errors="surrogateescape")).hexdigest()


def watch(ignored: tuple[str, ...]) -> None:
    """Note from now on, in this process and those it forks, what comes in from outside; files below `ignored` do not count."""
    seen: set[str] = set()
    ignored = tuple(os.path.realpath(path) + "/" for path in ignored)

    def hook(event: str, args: tuple[t.Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            if not isinstance(path, str) or path in seen:
                return
            seen.add(path)
            if (flags or 0) & (os.O_WRONLY | os.O_RDWR) or (mode and not set("wax+").isdisjoint(mode)):
                return
            path = os.path.realpath(path)
            if not path.startswith(ignored) and not path.endswith(".pyc"):
                note({"file": path})
        elif event in ("os.listdir", "os.scandir"):
            # A directory changes when a file in it comes or goes.
            if isinstance(args[0], str) and args[0] not in seen:
                seen.add(args[0])
                if not (path := os.path.realpath(args[0])).startswith(ignored):
                    note({"file": path})
        elif _asking:
            return
        elif event in ("subprocess.Popen", "os.system", "os.posix_spawn"):
            note({"outside": f"the controller ran {args[0]}"})
        elif event == "socket.connect" and isinstance(args[1], tuple):
            note({"outside": f"the controller connected to {args[1][0]}"})

    sys.addaudithook(hook)


def file_state(path: str) -> list[int] | None:
    """What changes about a file when its content or place does; None where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def tree_state(roots: t.Iterable[str], skipped: tuple[str, ...]) -> Iterator[tuple[str, list[int] | None]]:
    """Yield every file below `roots` (links to directories followed once) with its state, in a stable order."""
    done: set[str] = set()
    for root in roots:
        if os.path.isfile(root):
            yield root, file_state(root)
        for current, subdirs, names in os.walk(root, followlinks=True):
            real = os.path.realpath(current)
            if real in done:
                subdirs[:] = []
                continue
            done.add(real)
            subdirs[:] = sorted(name for name in subdirs if name not in skipped)
            for name in sorted(names):
                if not name.endswith(".pyc"):
                    yield os.path.join(current, name), file_state(os.path.join(current, name))


def replay(looks: list[dict[str, str]]) -> str:
    """The shell script that asks all `looks` at once and prints the number of each whose answer differs."""
    parts = []
    for number, look in enumerate(looks):
        end = "__METALHUB_" + hashlib.sha256(look["script"].encode()).hexdigest()[:16]
        parts.append(
            f"""( answer=$( {{ /bin/sh; status=$?; echo; echo "rc=$status"; }} 2>/dev/null <<'{end}' | sha256sum
{look["script"]}
{end}
)
[ "$answer" = '{look["digest"]}  -' ] || echo differs={number} ) &
"""
        )
    return "".join(parts) + "wait\necho answered\n"
