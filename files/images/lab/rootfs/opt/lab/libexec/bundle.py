"""Imports from one file: what a session always loads, as code objects in one archive beside the environment.

An import costs some twenty file-system calls, a thousand imports cost seconds where each call goes through a
sandbox. The finder here answers for the modules that `bake.py` recorded; all others, and all data files, are
found in the usual way. Modules keep their `__file__`, `__path__`, sources and resources.

The archive is ignored when packages were added to the environment after it was made (the directories' times
differ): an image built on this one runs `python /opt/lab/libexec/bake.py` at its end to have its own.
"""

from __future__ import annotations

import importlib.machinery as machinery
import marshal
import os
import sys
from types import CodeType, ModuleType
from typing import Any

ARCHIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "modules.bin")
MAGIC = f"metalhub-1 {sys.version}".encode()

# name: (sys.path entry or package directory it is found in, file, is it a package, offset, size); no size: a shared library
Index = dict[str, tuple[str, str, bool, int, int]]


class BundledLoader(machinery.SourceFileLoader):
    """Takes the code from the archive and everything else from the file beside which it was compiled."""

    def __init__(self, name: str, path: str, code: memoryview) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return marshal.loads(self._code)  # type: ignore[no-any-return]


class BundleFinder:
    """A `sys.meta_path` finder over the archive; what stands earlier on `sys.path` still goes first."""

    def __init__(self, index: Index, data: memoryview) -> None:
        self._index = index
        self._data = data
        self._roots = {entry[0] for entry in index.values()}

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> machinery.ModuleSpec | None:
        entry = self._index.get(name)
        if entry is None:
            return None
        root, file, is_package, offset, size = entry
        if path is None:
            if root not in sys.path:
                return None
            earlier = [item for item in sys.path[: sys.path.index(root)] if item not in self._roots]
            if earlier:
                shadow = machinery.PathFinder.find_spec(name, earlier)
                if shadow is not None and shadow.loader is not None:
                    return shadow
        elif root not in path:
            return None
        loader: Any
        if size:
            loader = BundledLoader(name, file, self._data[offset : offset + size])
        else:
            loader = machinery.ExtensionFileLoader(name, file)
        spec = machinery.ModuleSpec(name, loader, origin=file, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec


def stamp(directories: list[str]) -> list[tuple[str, int]]:
    """Return the directories' times in whole seconds (image layers keep no finer ones)."""
    return [(item, int(os.stat(item).st_mtime)) for item in directories]


def install() -> bool:
    """Put the finder first; return False where there is no archive for this interpreter and these packages."""
    try:
        with open(ARCHIVE, "rb") as stream:
            data = stream.read()
    except OSError:
        return False
    if not data.startswith(MAGIC):
        return False
    start = len(MAGIC)
    header_size = int.from_bytes(data[start : start + 8], "little")
    times, index = marshal.loads(memoryview(data)[start + 8 : start + 8 + header_size])
    if stamp([item for item, _ in times]) != times:
        return False
    sys.meta_path.insert(0, BundleFinder(index, memoryview(data)[start + 8 + header_size :]))  # type: ignore[arg-type]
    return True
