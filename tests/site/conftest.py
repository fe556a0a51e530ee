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

from demo import hosts as demo_hosts


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the tests measured."""
    lines = [f"{name}: {value}" for report in terminalreporter.getreports("passed") for name, value in report.user_properties]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
