"""What is to be built, in which order, and under which tag.

An image's tag is a digest of all that goes into it: the files of its build context, the build arguments, the image it is built on. An
image with that tag in the registry needs no build.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass

_BASE = re.compile(r"^ARG\s+BASE_IMAGE=(?:[\"']?)metalhub/([a-z0-9][a-z0-9._-]*)(?:[\"']?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ContextFile:
    """A file of a build context: its bytes, or where the link points, and whether it can be executed."""

    content: bytes = b""
    executable: bool = False
    link: str = ""


@dataclass(frozen=True)
class Plan:
    """An image to have in the registry: ``base`` is another image of the site that it is built on, empty for none."""

    name: str
    tag: str
    kind: str
    base: str = ""


def pack(files: Mapping[str, ContextFile]) -> bytes:
    """A tar archive of the files by their relative paths; the same files give the same bytes, whenever and by whomever made."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(files):
            file = files[path]
            member = tarfile.TarInfo(path)
            if file.link:
                member.type, member.linkname = tarfile.SYMTYPE, file.link
            else:
                member.size = len(file.content)
            member.mode = 0o755 if file.executable else 0o644
            archive.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()


def base_of(dockerfile: str) -> str:
    """Name of the site's image that a Dockerfile builds on, by its line ``ARG BASE_IMAGE=metalhub/<name>``; empty without one."""
    found = _BASE.search(dockerfile)
    return found[1] if found else ""


def tag_of(**parts: t.Any) -> str:
    """A tag (33 characters) that is the same for the same parts: bytes, or what JSON can write."""
    digest = hashlib.sha256()
    for key in sorted(parts):
        value = parts[key]
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        digest.update(f"{key}:{len(data)}:".encode() + data)
    return "m" + digest.hexdigest()[:32]


def build_order(bases: Mapping[str, str]) -> list[str]:
    """Names so that each comes after the one it is built on, otherwise sorted.

    Raises ValueError for an image built on one that is not there, or on itself by way of others.
    """
    order: list[str] = []
    for name in sorted(bases):
        chain: list[str] = []
        while name and name not in order:
            if name in chain:
                raise ValueError(f"{' -> '.join([*chain[chain.index(name) :], name])}: images are built on each other in a circle")
            chain.append(name)
            base = bases[name]
            if base and base not in bases:
                known = ", ".join(sorted(bases))
                raise ValueError(f"{name}: it is built on metalhub/{base}, and there is no image {base}; there are {known}")
            name = base
        order += reversed(chain)
    return order
