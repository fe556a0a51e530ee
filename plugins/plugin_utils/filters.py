"""What filters share."""

from __future__ import annotations

import functools
import typing as t

from ansible.errors import AnsibleFilterError


def refusing(function: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
    """The function as a filter: its ValueError in Ansible's words."""

    @functools.wraps(function)
    def call(*args: t.Any, **kwargs: t.Any) -> t.Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise AnsibleFilterError(str(error)) from error

    return call
