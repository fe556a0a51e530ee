"""What a host keeps of its layout, and what it tells Swarm and the toolkit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import mig_host, mig_smi
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import Placement
from gpu_simulator.host import Host


@pytest.fixture
def gpus(tmp_path: Path) -> tuple[mig_smi.Gpu, ...]:
    host = Host(tmp_path, "H100-80GB", "A100-40GB", "L4-24GB", "H100-80GB", auto_reset=False)
    host.fill(0, "3g.40gb@0 1g.10gb+me@4 1g.10gb@5!")
    host.smi("-i 1 -mig 1")
    return mig_smi.read(lambda argv: tuple(word.replace("3g.40gb", "3g.39gb") if isinstance(word, str) else word for word in host.run(argv)))


def test_what_is_offered(gpus: tuple[mig_smi.Gpu, ...]) -> None:
    """The name as the table has it, no instance without a device, and no GPU that is about to switch."""
    large, media, _ = gpus[0].instances
    assert large.profile == "3g.39gb"
    slices = [f"MIG_3G_40GB={large.uuid}", f"MIG_1G_10GB_ME={media.uuid}"]
    assert mig_host.resources(gpus) == [*slices, f"GPU={gpus[2].uuid}", f"GPU={gpus[3].uuid}"]
    assert mig_host.resources(gpus, whole=False) == slices
    assert mig_host.docker_fragment(slices) == {"node-generic-resources": slices} and mig_host.docker_fragment([]) == {}


def test_a_layout_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "layout.json")
    assert mig_host.read_layout(path) is None
    layout = {"GPU-1": (Placement(0, "1g.10gb"), Placement(4, "3g.40gb")), "GPU-2": None, "GPU-3": ()}
    document = mig_host.text(mig_host.layout_document(layout, {"wanted": None}))
    assert mig_host.write(path, document, check_mode=True) and not Path(path).exists()
    assert mig_host.write(path, document) and not mig_host.write(path, document)
    assert mig_host.read_layout(path) == (layout, {"wanted": None})
    assert Path(path).stat().st_mode & 0o777 == 0o644
    for broken in ("", "[]", '{"version": 1}', '{"version": 1, "gpus": {"a": [{"profile": "x"}]}, "asked": 1}', '{"version": 2, "gpus": {}, "asked": 1}'):
        Path(path).write_text(broken)
        with pytest.raises(ValueError, match="layout"):
            mig_host.read_layout(path)


@pytest.mark.parametrize(
    ("unit", "status", "argv", "stale", "words"),
    [
        (True, 0, ["systemctl", "restart", "nvidia-cdi-refresh.service"], False, ""),
        (False, 0, ["nvidia-ctk", "cdi", "generate", "--output=CDI"], False, ""),
        (False, 127, ["nvidia-ctk", "cdi", "generate", "--output=CDI"], True, ""),
        (True, 1, ["systemctl", "restart", "nvidia-cdi-refresh.service"], True, "the CDI specification could not be made: said"),
    ],
    ids=["the toolkit's unit", "the toolkit's command", "no toolkit", "a failure"],
)
def test_cdi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[mig_smi.Gpu, ...], unit: bool, status: int, argv: list[str], stale: bool, words: str
) -> None:
    monkeypatch.setattr(mig_host, "_UNIT_DIRECTORIES", (str(tmp_path),))
    if unit:
        (tmp_path / "nvidia-cdi-refresh.service").touch()
    places = mig_host.Places(cdi=str(tmp_path / "cdi"), stamp=str(tmp_path / "run" / "stamp"))
    asked = []

    def run(given: Sequence[str]) -> tuple[int, str]:
        asked.append([word.replace(places.cdi, "CDI") for word in given])
        Path(places.cdi).touch()
        return status, "said\n"

    assert mig_host.cdi_stale(gpus, places)
    assert mig_host.refresh_cdi(gpus, places, run) == words
    assert asked == [argv]
    assert mig_host.cdi_stale(gpus, places) is stale
    assert mig_host.cdi_stale(gpus[:1], places), "other devices"


def test_a_command_may_print_any_bytes() -> None:
    assert mig_host.run(["printf", r"a\377b"]) == (0, "a\N{REPLACEMENT CHARACTER}b")


def test_a_command_that_is_not_there_has_a_status() -> None:
    assert mig_host.run(["/nowhere/nvidia-smi"]) == (127, "/nowhere/nvidia-smi: not found")
