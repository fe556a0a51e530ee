"""Filters of the network role: adapters on module_utils/nft_rules.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.metalhub.platform.plugins.module_utils import nft_rules
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing


@refusing
def nft_ruleset(variables: Mapping[str, Any]) -> str:
    """Render the packet filter of a host."""
    return nft_rules.ruleset(variables)


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Name to function."""
        return {"nft_ruleset": nft_ruleset}
