"""Which sandbox a session gets, and which resources the toolkit has to know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import sandboxes

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("pool", "gpu", "sandbox"),
    [
        ("gvisor", False, "gvisor"),
        ("nvidia", False, "gvisor"),
        ("nvidia", True, "nvidia"),
        ("runc", False, "runc"),
        ("kata", False, "kata"),
    ],
)
def test_session_sandbox(pool: str, gpu: bool, sandbox: str) -> None:
    assert sandboxes.session_sandbox(pool, gpu) == sandbox


def test_an_unknown_sandbox_is_none() -> None:
    with pytest.raises(ValueError, match="'chroot' is not a sandbox: one of gvisor, kata, nvidia, runc"):
        sandboxes.session_sandbox("chroot", False)


@pytest.mark.parametrize(
    ("pool", "profile", "words"),
    [
        ("nvidia", "", None),
        ("nvidia", "1g.10gb", None),
        ("gvisor", "1g.10gb", "MIG slices do not work in the sandbox gvisor"),
        ("kata", "1g.10gb", "MIG slices do not work in the sandbox kata"),
        ("gvisor", "", "the sandbox gvisor offers no GPU"),
        ("runc", "1g.10gb", "the sandbox runc offers no GPU"),
    ],
)
def test_gpu_refusal(pool: str, profile: str, words: str | None) -> None:
    assert sandboxes.gpu_refusal(pool, profile) == words


def test_resources_of_flavors() -> None:
    flavors = [{"cpus": 1}, {"gpu": {"profile": "1g.10gb", "count": 2}}, {"gpu": {}}, {"gpu": {"profile": "1g.10gb"}}]
    assert sandboxes.gpu_resources(flavors) == ["GPU", "MIG_1G_10GB"]
    assert sandboxes.gpu_resources([{"cpus": 1}]) == []
    with pytest.raises(ValueError, match="is not a MIG profile"):
        sandboxes.gpu_resources([{"gpu": {"profile": "small"}}])


def test_the_dispatcher_reads_the_variable_that_the_hub_sets() -> None:
    chooser = (ROOT / "roles/docker/files/usr/local/lib/metalhub/oci-choose").read_text()
    assert re.search(r'^NAME = "(.*)"$', chooser, re.M)[1] == sandboxes.WISH  # type: ignore[index]


@pytest.mark.parametrize(
    ("sandbox", "gpu", "words"),
    [("gvisor", False, ""), ("runc", False, ""), ("nvidia", True, "GPU"), ("gvisor", True, "GPU"), ("runc", True, "GPU"), ("kata", False, "kata")],
)
def test_who_is_hibernated(sandbox: str, gpu: bool, words: str) -> None:
    refusal = sandboxes.hibernation_refusal(sandbox, gpu)
    assert (words in refusal) if words and refusal else refusal is None and not words
