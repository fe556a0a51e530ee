"""Puts homes in their place for sessions that were made before they were anybody's.

A service of its own, because what it mounts has to be seen by the engine: it lives in the host's mount namespace, which a service that is
shut off from the host's files does not. So it does nothing else: one line of JSON on a socket that only root may use, names that cannot
be paths, and no file of a home is ever opened or removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import socket
import sys
import typing as t

from .node_service import notify
from .warm_pool import CLAIMS, INNER, ROOT, is_name

SOCKET = "/run/metalhub/warm.sock"
SETTINGS = "/etc/metalhub/session-agent.json"
LONGEST = 4096

# mount(2), umount2(2)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SHARED = 2, 4, 4096, 16384, 1 << 20
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

_HOME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError."""
    if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def umount(target: str) -> bool:
    """Take the uppermost mount away from a directory, also one that is in use. Whether there was any. Raises OSError."""
    if _libc.umount2(target.encode(), MNT_DETACH | UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        if number == 22:  # EINVAL: not a mount point
            return False
        raise OSError(number, os.strerror(number), target)
    return True


class Refused(Exception):
    """What was asked for is not done; the text says why."""


class Homes:
    """The directories of ready sessions below ``root``, and who was given one, below ``claims``."""

    def __init__(self, homes: str, root: str = ROOT, claims: str = CLAIMS) -> None:
        self.homes, self.root, self.claims = homes, root, claims

    def prepare(self) -> None:
        """Make the place whose mounts are seen in sessions. Raises OSError."""
        os.makedirs(self.root, mode=0o711, exist_ok=True)
        os.makedirs(self.claims, mode=0o755, exist_ok=True)
        if not os.path.ismount(self.root):
            mount("metalhub-warm", self.root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=711,size=1m")
        mount("none", self.root, "none", MS_SHARED)

    def _place(self, name: object) -> str:
        if not isinstance(name, str) or not is_name(name):
            raise Refused(f"{name!r} is no session that was made ready")
        return os.path.join(self.root, name)

    def make(self, name: object) -> None:
        """Make a session's directory, in which the home will be. It is root's, so that nothing can be written before the home is there."""
        place = self._place(name)
        os.mkdir(place, 0o755)
        os.mkdir(os.path.join(place, INNER), 0o755)

    def give(self, name: object, home: object, about: t.Mapping[str, object]) -> None:
        """Put a home into a session's directory, once. ``about`` is what others on this node are told of whom it is."""
        place = self._place(name)
        if not isinstance(home, str) or not _HOME.fullmatch(home):
            raise Refused(f"{home!r} is no home")
        if not os.path.isdir(place):
            raise Refused(f"{name} has no directory here")
        claim = os.path.join(self.claims, os.path.basename(place))
        try:
            note = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            raise Refused(f"{name} is somebody's already") from None
        with open(note, "w", encoding="utf-8") as stream:
            json.dump({"user": str(about.get("user", "")), "profile": str(about.get("profile", ""))}, stream)
        # What is mounted is what was looked at, whatever happens to the name meanwhile.
        try:
            source = os.open(os.path.join(self.homes, home), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise Refused(f"the home {home} is not there: {error.strerror}") from None
        try:
            mount(f"/proc/self/fd/{source}", os.path.join(place, INNER), "none", MS_BIND | MS_REC)
        finally:
            os.close(source)

    def end(self, name: object) -> None:
        """Take a session's home out of its place, and the empty directory away."""
        place = self._place(name)
        inner = os.path.join(place, INNER)
        while os.path.isdir(inner) and umount(inner):
            pass
        # rmdir takes empty directories only: a home that could not be unmounted is safe from it.
        for directory in (inner, place):
            if os.path.isdir(directory):
                os.rmdir(directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.claims, os.path.basename(place)))

    def list(self) -> list[str]:
        """The sessions that have a directory here."""
        return sorted(filter(is_name, os.listdir(self.root)))

    def answer(self, line: bytes) -> dict[str, t.Any]:
        """Do what one line asks for. ``error`` is in the answer where it could not be done."""
        try:
            asked = json.loads(line)
            what, name = asked["do"], asked.get("name")
            if what == "make":
                self.make(name)
            elif what == "give":
                self.give(name, asked.get("home"), asked)
            elif what == "end":
                self.end(name)
            elif what == "list":
                return {"names": self.list()}
            else:
                raise Refused(f"{what!r} is none of make, give, end and list")
        except Refused as error:
            return {"error": str(error)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return {}


def ask(asked: t.Mapping[str, object], path: str = SOCKET) -> dict[str, t.Any]:
    """Have the service do something. Raises OSError, and ValueError for no answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(5)
        channel.connect(path)
        channel.sendall(json.dumps(asked).encode() + b"\n")
        with channel.makefile("rb") as stream:
            found = json.loads(stream.readline(LONGEST * 16))
    if not isinstance(found, dict):
        raise ValueError("the answer is none")
    return found


def serve(homes: Homes, channel: socket.socket) -> None:
    """Answer one request after the other, for ever."""
    while True:
        connection, _ = channel.accept()
        with connection:
            try:
                connection.settimeout(2)
                with connection.makefile("rb") as stream:
                    line = stream.readline(LONGEST)
                answer = homes.answer(line)
                if "error" in answer:
                    print(answer["error"], flush=True)
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError as error:
                print(f"{type(error).__name__}: {error}", flush=True)


def main() -> int:
    """Serve until killed; what stops it from starting is one line and exit status 1. What is mounted stays when it ends."""
    os.umask(0o022)
    try:
        with open(SETTINGS, encoding="utf-8") as stream:
            homes = Homes(json.load(stream)["homes"])
        homes.prepare()
        if os.path.exists(SOCKET):
            os.unlink(SOCKET)
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        channel.bind(SOCKET)
        os.umask(before)
        channel.listen(16)
    except (OSError, ValueError, KeyError) as error:
        print(f"metalhub-warm-homes: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    notify("READY=1")
    serve(homes, channel)
    return 0
