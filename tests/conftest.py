"""Which tests run beside each other: `make test` starts two processes, one for what needs hosts and one for the rest."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# One after the other, in the order in which they are found: some share hosts, some measure, and the browser gives a page up when hosts
# come and go beside it.
ON_HOSTS = ("tests/site/", "tests/roles/", "tests/testbed/")


class HostsApart(LoadScopeScheduling):
    """Gives all tests on hosts to one process, and the others one by one to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return "hosts" if nodeid.startswith(ON_HOSTS) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return HostsApart(config, log)
