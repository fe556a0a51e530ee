"""What a role needs to know of the site. Documentation is in the YAML file of each filter."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping


def site_images(profiles: Mapping[str, Mapping[str, t.Any]], pool: str) -> list[str]:
    """Names of the images that the profiles of a pool use."""
    return sorted({str(profile["image"]) for profile in profiles.values() if profile.get("pool") == pool})


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name, without the collection's."""
        return {"site_images": site_images}
