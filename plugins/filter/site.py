"""What a role needs to know of the site. Documentation is in the YAML file of each filter."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.metalhub.platform.plugins.module_utils.egress import parse_class


def site_images(profiles: Mapping[str, Mapping[str, t.Any]], pool: str) -> list[str]:
    """Names of the images that the profiles of a pool use."""
    return sorted({str(profile["image"]) for profile in profiles.values() if profile.get("pool") == pool})


def site_egress(classes: Mapping[str, Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Egress classes with everything a node renders from them."""
    found = []
    for name, value in classes.items():
        try:
            egress = parse_class(name, value)
        except ValueError as error:
            raise AnsibleFilterError(f"metalhub_egress_classes.{name}: {error}") from error
        allow = [{"network": str(d.network), "version": d.network.version, "port": d.port} for d in egress.allow]
        found.append(
            {
                "name": egress.name,
                "network": egress.network,
                "subnet": str(egress.subnet),
                "gateway": egress.gateway,
                "public_internet": egress.public_internet,
                "allow": allow,
            }
        )
    return found


def site_node_labels(pool: str) -> dict[str, str]:
    """Labels that a node carries for its pool."""
    return {"metalhub.pool": pool}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name, without the collection's."""
        return {"site_images": site_images, "site_egress": site_egress, "site_node_labels": site_node_labels}
