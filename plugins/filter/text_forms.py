"""Sizes, durations and names in templates. Documentation is in the YAML file of each filter."""

from __future__ import annotations

import typing as t

from ansible_collections.metalhub.platform.plugins.module_utils import durations, names, sizes
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name, without the collection's."""
        functions = (
            sizes.parse_size,
            sizes.format_size,
            durations.parse_duration,
            durations.format_duration,
            names.home_name,
            names.network_name,
            names.mig_resource,
        )
        return {function.__name__: refusing(function) for function in functions}
