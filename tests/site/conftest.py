"""One converged cluster for all tests of this directory, and users who leave nothing behind.

METALHUB_INVENTORY names other inventories than the demo's, with blanks between them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import INVENTORY, Cluster, Hub, ProofError
from runner import play

from demo import demo


@pytest.fixture(scope="session")
def site() -> Iterator[Cluster]:
    """Hosts that answer; what is on them may be anything."""
    if INVENTORY == ["inventories/demo"]:
        demo.prepare()
        demo.hosts()
    directory = Path(tempfile.mkdtemp(prefix="mh-"))  # a short path: SSH puts sockets in it
    cluster = Cluster(INVENTORY, directory)
    try:
        yield cluster
    finally:
        for host in cluster.hosts:
            cluster.hang_up(host)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(site: Cluster) -> Cluster:
    """A converged platform whose nodes all take sessions."""
    if not site.installed():
        run = play("site.yml")
        assert run.status == 0, run.tail()
    site.only(*site.compute)
    return site


@pytest.fixture
def guest(cluster: Cluster) -> Iterator[Callable[[str], Hub]]:
    """Give a client of a user of this name. In the end their sessions are stopped and all nodes take sessions again."""
    users = []

    def make(user: str) -> Hub:
        with contextlib.suppress(ProofError):
            cluster.admin.request("POST", f"/hub/api/users/{user}")
        users.append(user)
        cluster.stop_all(user)
        return cluster.admin.as_user(user)

    yield make
    cluster.only(*cluster.compute)
    for user in users:
        cluster.stop_all(user)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the tests measured."""
    lines = [f"{name}: {value}" for report in terminalreporter.getreports("passed") for name, value in report.user_properties]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
