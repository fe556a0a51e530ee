"""Imports from one file: what a session always loads, as code objects in one archive beside the environment.

An import costs some twenty file-system calls, a thousand imports cost seconds where each call goes through a sandbox. The finder here
answers for the modules that `bake.py` recorded; all others, and all data files, are found in the usual way. Modules keep their
`__file__`, `__path__`, sources and resources. The archive also has the regular expressions that these modules compile, which took a
fifth of what was left.

The archive is ignored when packages were added to the environment after it was made (the directories' times differ): an image built
on this one runs `python /opt/lab/libexec/bake.py` at its end to have its own.
"""

from __future__ import annotations

import _sre
import importlib.machinery as machinery
import marshal
import os
import re._compiler as compiler
import sys
from types import CodeType, ModuleType
from typing import Any

ARCHIVE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "modules.bin")
MAGIC = f"metalhub-2 {sys.version}".encode()

# name: (sys.path entry or package directory it is found in, file, is it a package, offset, size); no size: a shared library
Index = dict[str, tuple[str, str, bool, int, int]]
# (pattern, flags): the arguments of _sre.compile, as marshal writes them
Patterns = dict[tuple[str | bytes, int], bytes]


class BundledLoader(machinery.SourceFileLoader):
    """Takes the code from the archive and everything else from the file beside which it was compiled."""

    def __init__(self, name: str, path: str, archive: int, offset: int, size: int) -> None:
        super().__init__(name, path)
        self._place = archive, size, offset

    def get_code(self, fullname: str) -> CodeType:
        return marshal.loads(os.pread(*self._place))  # type: ignore[no-any-return]


class BundleFinder:
    """A `sys.meta_path` finder over the archive; what stands earlier on `sys.path` still goes first."""

    def __init__(self, archive: int, index: Index, start: int) -> None:
        self._archive = archive
        self._index = index
        self._start = start
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
        place = self._archive, self._start + offset, size
        loader = BundledLoader(name, file, *place) if size else machinery.ExtensionFileLoader(name, file)
        spec = machinery.ModuleSpec(name, loader, origin=file, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec


def use_patterns(patterns: Patterns) -> None:
    """Have `re` take what it would compile from the archive."""
    compile_anew = compiler.compile

    def compile_pattern(pattern: Any, flags: int = 0) -> Any:
        known = patterns.get((pattern, int(flags))) if isinstance(pattern, str | bytes) else None
        return _sre.compile(*marshal.loads(known)) if known else compile_anew(pattern, flags)

    compiler.compile = compile_pattern


def record_patterns(path: str) -> None:
    """Write down what `re` compiles, one pattern a line, for `bake.py`."""
    compile_anew = compiler.compile
    with open(path, "a", encoding="utf-8") as stream:
        number = os.dup(stream.fileno())

    def compile_pattern(pattern: Any, flags: int = 0) -> Any:
        if isinstance(pattern, str | bytes):
            os.write(number, f"{(pattern, int(flags))!a}\n".encode())
        return compile_anew(pattern, flags)

    compiler.compile = compile_pattern


def stamp(directories: list[str]) -> list[tuple[str, int]]:
    """Return the directories' times in whole seconds (image layers keep no finer ones)."""
    return [(item, int(os.stat(item).st_mtime)) for item in directories]


def install() -> None:
    """Put the finder first, unless the archive is for another interpreter or other packages, or is being made."""
    if record := os.environ.get("METALHUB_BAKE"):
        record_patterns(record)
        return
    try:
        archive = os.open(ARCHIVE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    head = os.read(archive, len(MAGIC) + 8)
    size = int.from_bytes(head[-8:], "little")
    if head[:-8] == MAGIC:
        times, index, patterns = marshal.loads(os.read(archive, size))
        if stamp([item for item, _ in times]) == times:
            sys.meta_path.insert(0, BundleFinder(archive, index, len(head) + size))
            use_patterns(patterns)
            return
    os.close(archive)
