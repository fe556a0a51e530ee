"""Releases of gVisor against kernels."""

from __future__ import annotations

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.gvisor_gate import RULES, kernel_number, refusal, release_date
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("version", "kernel", "refused"),
    [
        ("20240729.0-1", "6.18.44", True),
        ("release-20240729.0", "6.11.0-rc1+", True),
        ("release-20240729.0", "6.6.0", False),
        ("release-20240807.0", "6.18.0", False),
        ("release-20250106.0", "6.12.30-amd64", False),
        ("release-20250106.0", "4.4.0-generic", True),
        ("20240729.0-1", "5.14.0-503.el9.x86_64", False),
    ],
)
def test_known_cases(version, kernel, refused):
    words = refusal(version, kernel, "systrap")
    assert bool(words) is refused
    assert not refused or kernel in words


def test_a_refusal_names_release_and_kernel():
    assert "20240729" in refusal("20240729.0-1", "6.18.44", "kvm")


@given(st.integers(20190101, 20991231), st.integers(4, 9), st.integers(0, 40))
def test_a_newer_release_is_never_worse(date, major, minor):
    kernel = f"{major}.{minor}.1"
    if refusal(f"release-{date}.0", kernel, "systrap") is None:
        assert refusal(f"release-{date + 10000}.0", kernel, "systrap") is None


@given(st.integers(20190101, 20991231), st.integers(5, 9), st.integers(0, 40))
def test_a_refusal_is_always_because_of_a_rule(date, major, minor):
    refused = refusal(str(date), f"{major}.{minor}", "systrap")
    assert bool(refused) == any(date < rule.fixed and (major, minor) >= rule.kernel for rule in RULES)


@pytest.mark.parametrize("version", ["", "1.2.3", "HEAD"])
def test_a_version_that_cannot_be_read_is_an_error(version):
    with pytest.raises(ValueError, match="date of a gVisor release"):
        release_date(version)


def test_a_kernel_that_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match="not a kernel release"):
        kernel_number("linux")
