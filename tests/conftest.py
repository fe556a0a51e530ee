"""Which tests run beside each other: `make test` starts two processes, one for what needs hosts and one for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

# One after the other, in the order in which they are found: some share hosts, some measure, and the browser gives a page up when hosts
# come and go beside it.
ON_HOSTS = ("site", "roles", "testbed")


# First: xdist reads the marks in this same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all tests on hosts in one process. Every other test is a group of its own."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in ON_HOSTS:
            item.add_marker(pytest.mark.xdist_group("hosts"))
