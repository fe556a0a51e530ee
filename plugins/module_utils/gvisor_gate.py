"""Which gVisor releases cannot work on which kernels."""

from __future__ import annotations

import dataclasses
import re

_RELEASE = re.compile(r"(?:release-)?(\d{8})(?:\.\d+)?", re.ASCII)
_KERNEL = re.compile(r"(\d+)\.(\d+)")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Releases before ``fixed`` (a date, YYYYMMDD) fail on kernels from ``kernel`` on, for ``reason``; ``platform`` limits it."""

    fixed: int
    kernel: tuple[int, int]
    reason: str
    platform: str | None = None


# Facts about upstream, each with where it can be read.
RULES = (
    # google/gvisor#10704: from Linux 6.11 on net.core.rmem_default is there in every network namespace; runsc took its
    # presence for the sign of the root namespace until release-20240807.
    Rule(
        20240807,
        (6, 11),
        "it takes every network namespace of this kernel for the root one, and refuses to run (fixed in release-20240807)",
    ),
)

# gvisor.dev, "Installation": Linux 4.14.77 or newer; a number of two parts cannot say .77, so the next one.
OLDEST_KERNEL = (4, 15)


def release_date(version: str) -> int:
    """Date of a gVisor release as the number YYYYMMDD, from ``release-20240729.0`` or ``20240729.0-1``.

    Raises ValueError where there is no date in it.
    """
    found = _RELEASE.search(version)
    if not found:
        raise ValueError(f"{version!r} does not hold the date of a gVisor release, such as release-20250106.0")
    return int(found.group(1))


def kernel_number(kernel: str) -> tuple[int, int]:
    """Major and minor number of ``uname -r``. Raises ValueError where it does not begin with them."""
    found = _KERNEL.match(kernel)
    if not found:
        raise ValueError(f"{kernel!r} is not a kernel release, such as 6.1.0-18-amd64")
    return int(found.group(1)), int(found.group(2))


def refusal(version: str, kernel: str, platform: str) -> str | None:
    """Say why a gVisor release cannot work on a kernel with a platform; None where nothing is known against it.

    Raises ValueError for a version or kernel that cannot be read.
    """
    date, number = release_date(version), kernel_number(kernel)
    if number < OLDEST_KERNEL:
        return f"gVisor needs Linux {OLDEST_KERNEL[0]}.{OLDEST_KERNEL[1]} or newer, and the host runs {kernel}"
    for rule in RULES:
        if date < rule.fixed and number >= rule.kernel and rule.platform in (None, platform):
            return f"gVisor release {date} cannot work on kernel {kernel}: {rule.reason}"
    return None
