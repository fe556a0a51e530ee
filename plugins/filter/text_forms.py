"""Sizes, durations and names in templates. Documentation is in the YAML file of each filter."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.metalhub.platform.plugins.module_utils import durations, names, sizes


def _filter(function: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
    """The function with its ValueError in Ansible's words."""

    def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise AnsibleFilterError(str(error)) from error

    return call


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
        return {function.__name__: _filter(function) for function in functions}
