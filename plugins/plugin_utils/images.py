"""Reads on the controller what an image is made of."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleError
from ansible_collections.metalhub.platform.plugins.module_utils.image_plan import ContextFile, Plan, base_of, build_order, pack, tag_of

_OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "files", "images")
_SKIPPED = {"__pycache__", ".git", ".mypy_cache", ".ruff_cache"}
_EXTRA_CA = "extra-ca.crt"


def context_directory(build: str) -> str:
    """Where the build context is: a directory of files/images by its name, or an absolute path."""
    return build if os.path.isabs(build) else os.path.join(_OWN, build)


def read_context(build: str, extra_ca: str) -> tuple[bytes, str]:
    """Return an image's build context as a tar archive, and the site's image that it is built on (empty for none).

    Raises AnsibleError where there is no Dockerfile or a file cannot be read.
    """
    directory = context_directory(build)
    files: dict[str, ContextFile] = {}
    try:
        for current, subdirectories, names in os.walk(directory):
            subdirectories[:] = [name for name in subdirectories if name not in _SKIPPED]
            for name in names:
                path = os.path.join(current, name)
                if os.path.islink(path):
                    file = ContextFile(link=os.readlink(path))
                else:
                    with open(path, "rb") as stream:
                        file = ContextFile(stream.read(), os.access(path, os.X_OK))
                files[os.path.relpath(path, directory)] = file
        if extra_ca:
            with open(extra_ca, "rb") as stream:
                files[_EXTRA_CA] = ContextFile(stream.read())
    except OSError as error:
        raise AnsibleError(f"{error.filename}: {error.strerror}") from error
    if "Dockerfile" not in files:
        raise AnsibleError(f"{directory} has no Dockerfile")
    return pack(files), base_of(files["Dockerfile"].content.decode())


def read_plan(images: dict[str, dict[str, t.Any]], extra_ca: str, base_image: str, arguments: dict[str, str]) -> list[Plan]:
    """Return the images in the order in which they can be built, each with the tag of what it is made of. Raises AnsibleError."""
    contexts: dict[str, tuple[bytes, str]] = {}
    for name, image in images.items():
        kinds = [kind for kind in ("build", "reference", "archive") if image.get(kind)]
        if len(kinds) != 1:
            raise AnsibleError(f"images_images.{name}: it has {', '.join(kinds) or 'nothing'}; legal is one of build, reference, archive")
        if kinds == ["build"]:
            try:
                contexts[name] = read_context(image["build"], extra_ca)
            except AnsibleError as error:
                raise AnsibleError(f"images_images.{name}: {error}") from error
    try:
        order = build_order({name: contexts[name][1] if name in contexts else "" for name in images})
    except ValueError as error:
        raise AnsibleError(f"images_images.{error}") from error
    tags: dict[str, str] = {}
    plan = []
    for name in order:
        base = ""
        if name in contexts:
            context, base = contexts[name]
            tags[name] = tag_of(context=context, base=tags[base] if base else base_image, arguments=arguments)
            kind = "build"
        elif images[name].get("reference"):
            tags[name] = tag_of(reference=images[name]["reference"])
            kind = "reference"
        else:
            path = images[name]["archive"]
            try:
                status = os.stat(path)
            except OSError as error:
                raise AnsibleError(f"images_images.{name}: {path}: {error.strerror}") from error
            # Archives are large: their time and size stand for what is in them.
            tags[name] = tag_of(archive=path, size=status.st_size, changed=status.st_mtime_ns)
            kind = "archive"
        plan.append(Plan(name, tags[name], kind, base))
    return plan
