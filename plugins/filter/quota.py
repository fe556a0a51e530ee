"""Quotas in templates. Documentation is in the YAML file of the filter."""

from __future__ import annotations

import typing as t

from ansible_collections.metalhub.platform.plugins.module_utils import quotas
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing


@refusing
def quota(text: object) -> dict[str, t.Any]:
    """A quota's text as plain data."""
    return quotas.quota_data(quotas.parse_quota(text))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name, without the collection's."""
        return {"quota": quota}
