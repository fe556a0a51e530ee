"""The control groups of containers, of both versions: what they say, and how their memory is reclaimed."""

from __future__ import annotations

import contextlib
import glob
import os
import subprocess
import typing as t

from .hibernation import FILES_V1, FILES_V2, Figures, read_figures

# The engine's two ways to name them: systemd's, and the plain one. One directory is above them, whichever.
PLACES = ("{root}/*/docker-{container}.scope", "{root}/*/{container}")


class Gone(Exception):
    """The container has no control group: it has ended."""


class Cgroups:
    """All control groups below `root`."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        self._root = root
        self.version = 2 if os.path.exists(f"{root}/cgroup.controllers") else 1
        self._files = {".": FILES_V2} if self.version == 2 else FILES_V1

    def usable(self) -> bool:
        """Whether memory is counted here at all."""
        return self.version == 2 or os.path.isdir(f"{self._root}/memory")

    def _place(self, container: str, hierarchy: str) -> str:
        for place in PLACES:
            if found := glob.glob(place.format(root=os.path.join(self._root, hierarchy), container=container)):
                return found[0]
        raise Gone(container)

    def figures(self, container: str) -> Figures:
        """What a container uses now. Raises Gone."""
        texts = {}
        for hierarchy, names in self._files.items():
            place = self._place(container, hierarchy)
            for name in names:
                try:
                    with open(f"{place}/{name}", encoding="ascii") as stream:
                        texts[name] = stream.read()
                except OSError:
                    if not os.path.isdir(place):
                        raise Gone(container) from None
        return read_figures(texts)

    def reclaim(self, container: str, wanted: t.Callable[[], bool]) -> int:
        """Let the kernel take what it can of a container's memory, while `wanted()`. Returns what is left. Raises Gone.

        Another process does it: the kernel goes on until it is done or the writer is killed, and who wakes a session may not wait for that.
        """
        if self.version == 2:
            file, text = f"{self._place(container, '.')}/memory.reclaim", str(self.figures(container).memory)
        else:
            file, text = f"{self._place(container, 'memory')}/memory.force_empty", "0"
        # It fails where not all could be had, and what was had is what counts.
        argv, nowhere = ["/bin/sh", "-c", 'printf %s "$1" > "$2"', "sh", text, file], subprocess.DEVNULL
        writer = subprocess.Popen(argv, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        try:
            while writer.poll() is None and wanted():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    writer.wait(0.01)
        finally:
            writer.kill()
            writer.wait()
        return self.figures(container).memory
