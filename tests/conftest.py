"""Which tests run beside each other: `make test` starts as many processes as the machine has cores, and each takes groups."""

from __future__ import annotations

from pathlib import Path

import pytest

# Tests that work on the same hosts, in the order in which they are found.
TOGETHER = ("site", "testbed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of one set of hosts in one process. Every other test is a group of its own."""
    here = Path(__file__).parent
    for item in items:
        group = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
        if group in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(group))
