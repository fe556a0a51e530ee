"""References of images. Documentation is in the YAML file of each filter."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping


def image_references(digests: Mapping[str, str], registry: str) -> dict[str, str]:
    """References in a registry, pinned by digest, by the images' names."""
    return {name: f"{registry}/{name}@{digest}" for name, digest in sorted(digests.items())}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name, without the collection's."""
        return {"image_references": image_references}
