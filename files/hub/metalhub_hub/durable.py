"""Files of the hub's own that are whole at any moment, whatever is killed or loses its power."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Read = TypeVar("Read")

log = logging.getLogger("metalhub")

VERSION = 1


def replace(path: Path, text: str) -> None:
    """Give a file a new content, on the disk when this returns. Raises OSError, and then the file is as it was."""
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write(path: Path, **facts: Any) -> None:
    """Keep facts in a file. Raises OSError."""
    # A line each, as the role reads them, and no indents below: Python makes those several times as slowly, and the hub's loop waits.
    lines = [f" {json.dumps(name)}: {json.dumps(fact, sort_keys=True)}" for name, fact in sorted({"version": VERSION, **facts}.items())]
    replace(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read(path: Path, understand: Callable[[dict[str, Any]], Read], nothing: Read) -> Read:
    """What ``understand`` makes of a kept file, ``nothing`` where there is none.

    One that cannot be understood, which is by no crash, is set aside for an administrator.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        # The queue of starts was kept without one at first.
        version = data.get("version", VERSION)
        if version != VERSION:
            raise ValueError(f"it is of version {version!r}")
        return understand(data)
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        aside = path.with_name(f"{path.name}.unreadable")
        log.error("%s cannot be read and is set aside as %s: %r", path, aside.name, error)
        try:
            os.replace(path, aside)
        except OSError as trouble:
            log.error("%s cannot be set aside: %s", path, trouble)
        return nothing
