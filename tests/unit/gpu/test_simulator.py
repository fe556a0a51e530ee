"""The simulated driver against public captures of the real one, and against the platform's own table."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import mig_geometry
from captures import INSTANCES
from gpu_simulator import geometry, simulator
from gpu_simulator.host import Host

PROGRAM = Path(simulator.__file__).with_name("nvidia-smi")


@pytest.fixture
def h100(tmp_path: Path) -> Host:
    host = Host(tmp_path, "H100-80GB")
    host.smi("-i 0 -mig 1")
    return host


# starkdrift/prickle-exporter, internal/collector/gpu/testdata/h100-default-20260729 and h100-mig-mixed-20260729.
PROFILES = """\
+-------------------------------------------------------------------------------+
| GPU instance profiles:                                                        |
| GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC  |
|                                Free/Total   GiB              CE    JPEG  OFA  |
|===============================================================================|
|   0  MIG 1g.10gb         19     1/7        9.75       No     16     1     0   |
|                                                               1     1     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 1g.10gb+me      20     0/1        9.75       No     16     1     0   |
|                                                               1     1     1   |
+-------------------------------------------------------------------------------+
|   0  MIG 1g.20gb         15     0/4        19.62      No     26     1     0   |
|                                                               1     1     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 2g.20gb         14     0/3        19.62      No     32     2     0   |
|                                                               2     2     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 3g.40gb          9     0/2        39.50      No     60     3     0   |
|                                                               3     3     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 4g.40gb          5     0/1        39.50      No     64     4     0   |
|                                                               4     4     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 7g.80gb          0     0/1        79.25      No     132    7     0   |
|                                                               8     7     1   |
+-------------------------------------------------------------------------------+
"""
COMPUTES = """\
+--------------------------------------------------------------------+
| Compute instances:                                                 |
| GPU     GPU       Name             Profile   Instance   Placement  |
|       Instance                       ID        ID       Start:Size |
|         ID                                                         |
|====================================================================|
|   0     11       MIG 1g.10gb          0         0          0:1     |
+--------------------------------------------------------------------+
|   0     13       MIG 1g.10gb          0         0          0:1     |
+--------------------------------------------------------------------+
"""


def test_the_tables_of_a_real_h100(h100: Host) -> None:
    assert h100.smi("mig -cgi 19,19 -C").splitlines()[0] == (
        "Successfully created GPU instance ID 13 on GPU  0 using profile MIG 1g.10gb (ID 19)"
    )
    assert h100.smi("mig -lci") == COMPUTES
    h100.smi("mig -gi 11 -dci")
    h100.smi("mig -gi 11 -dgi")
    h100.smi("mig -cgi 3g.40gb:0,1g.10gb+me:4 -C")
    assert h100.smi("mig -lgi") == INSTANCES
    assert h100.smi("mig -lgip") == PROFILES
    names = [line.split("Device")[0] for line in h100.smi("-L").splitlines()[1:]]
    assert names == ["  MIG 3g.40gb     ", "  MIG 1g.10gb     ", "  MIG 1g.10gb     "]


def test_the_tables_without_instances(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB")
    assert host.smi("mig -lgi", 6) == "No MIG-enabled devices found.\n"
    assert "7/7        9.75" in host.smi("mig -lgip")
    host.smi("-i 0 -mig 1")
    assert host.smi("mig -lgi", 6) == "No GPU instances found: Not Found\n"


def test_the_placements_of_the_user_guide(tmp_path: Path) -> None:
    a100 = Host(tmp_path, "A100-40GB")
    lines = [line for line in a100.smi("mig -lgipp").splitlines() if " ID 20 " not in line and " ID 15 " not in line]
    assert lines == [
        "GPU  0 Profile ID 19 Placements: {0,1,2,3,4,5,6}:1",
        "GPU  0 Profile ID 14 Placements: {0,2,4}:2",
        "GPU  0 Profile ID  9 Placements: {0,4}:4",
        "GPU  0 Profile ID  5 Placement : {0}:4",
        "GPU  0 Profile ID  0 Placement : {0}:8",
    ]


def test_the_driver_places_by_the_order_of_creation(tmp_path: Path) -> None:
    """The user guide's example: 3-2-1-1 only works with the 3g first."""
    a100 = Host(tmp_path, "A100-40GB")
    a100.smi("-mig 1")
    text = a100.smi("mig -cgi 19,19,14,9", 255)
    assert text.splitlines() == [
        "Successfully created GPU instance ID 13 on GPU  0 using profile MIG 1g.5gb (ID 19)",
        "Successfully created GPU instance ID 11 on GPU  0 using profile MIG 1g.5gb (ID 19)",
        "Successfully created GPU instance ID  3 on GPU  0 using profile MIG 2g.10gb (ID 14)",
        "Unable to create a GPU instance on GPU  0 using profile 9: Insufficient Resources",
        "Failed to create GPU instances: Insufficient Resources",
    ]
    a100.smi("mig -dgi")
    ids = [int(line.split("ID")[1].split()[0]) for line in a100.smi("mig -cgi 9,19,14,19").splitlines()]
    assert ids == [2, 7, 4, 8]


def test_what_a_start_may_be(h100: Host) -> None:
    h100.smi("mig -cgi 9:4 -C")
    assert "Insufficient Resources" in h100.smi("mig -cgi 9:4 -C", 255)
    assert "Insufficient Resources" in h100.smi("mig -cgi 19:5 -C", 255)
    assert "Invalid Argument" in h100.smi("mig -cgi 9:1", 2)
    assert "Invalid Argument" in h100.smi("mig -cgi 1g.5gb:0", 2)
    h100.smi("mig -cgi 20:0 -C")
    assert "Insufficient Resources" in h100.smi("mig -cgi 20:1 -C", 255)


def test_no_layout_has_more_than_the_compute_slices(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB")
    host.smi("-mig 1")
    for start in range(7):
        host.smi(f"mig -cgi 19:{start}")
    assert "Insufficient Resources" in host.smi("mig -cgi 19", 255)


def test_what_is_in_use_stays(h100: Host) -> None:
    h100.smi("mig -cgi 19:0 -C")
    assert h100.smi("mig -i 0 -dgi", 255).splitlines() == [
        "Unable to destroy GPU instance ID  7 from GPU  0: In use by another client",
        "Failed to destroy GPU instances: In use by another client",
    ]
    simulator.hold(h100.path, 0, 7, 4711)
    assert "In use by another client" in h100.smi("mig -gi 7 -dci", 255)
    assert f"{h100.gpus[0]['uuid']}, 4711" in h100.smi("--query-compute-apps=gpu_uuid,pid --format=csv,noheader")
    simulator.release(h100.path, 4711)
    h100.smi("mig -gi 7 -dci")
    h100.smi("mig -gi 7 -dgi")
    assert h100.gpus[0]["instances"] == []


@pytest.mark.parametrize("uuids", ["stable", "fresh"])
def test_uuids(tmp_path: Path, uuids: str) -> None:
    host = Host(tmp_path, "H100-80GB", uuids=uuids)
    host.smi("-mig 1")
    seen = []
    for profile in ("19:4", "20:4"):
        host.smi(f"mig -cgi {profile} -C")
        seen.append(host.smi("-L").splitlines()[1].split()[-1])
        host.smi("mig -dci")
        host.smi("mig -dgi")
    assert (seen[0] == seen[1]) is (uuids == "stable")


def test_modes_of_hopper(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB")
    assert host.smi("-i 0 -mig 1") == "Enabled MIG Mode for GPU 00000000:17:00.0\nAll done.\n"
    host.smi("mig -cgi 0 -C")
    simulator.reboot(host.path)
    assert not host.gpus[0]["current"] and not host.gpus[0]["instances"]


def test_modes_of_ampere(tmp_path: Path) -> None:
    host = Host(tmp_path, "A100-80GB", auto_reset=False)
    assert "pending enable state for GPU 00000000:17:00.0:Not Supported" in host.smi("-i 0 -mig 1")
    assert host.smi("--query-gpu=mig.mode.current,mig.mode.pending --format=csv,noheader") == "Disabled, Enabled\n"
    simulator.hold(host.path, 0, None, 1)
    assert "In use by another client" in host.smi("--gpu-reset -i 0", 255)
    simulator.release(host.path, 1)
    assert host.smi("--gpu-reset -i 0") == "GPU 00000000:17:00.0 was successfully reset.\nAll done.\n"
    host.smi("mig -cgi 0 -C")
    simulator.reboot(host.path)
    assert host.gpus[0]["current"] and not host.gpus[0]["instances"]


def test_a_mode_that_stays_pending(tmp_path: Path) -> None:
    host = Host(tmp_path, "A100-80GB", reset=False)
    host.smi("-i 0 -mig 1")
    assert host.smi("--gpu-reset -i 0", 3) == "Resetting GPU 00000000:17:00.0 is not supported.\n"
    assert not host.gpus[0]["current"]
    simulator.reboot(host.path)
    assert host.gpus[0]["current"]


def test_a_gpu_without_mig(tmp_path: Path) -> None:
    host = Host(tmp_path, "L4-24GB")
    assert "Not Supported" in host.smi("-mig 1")
    assert host.smi("--query-gpu=mig.mode.current --format=csv,noheader") == "[N/A]\n"


def test_faults(h100: Host) -> None:
    simulator.fail(h100.path, 2)
    h100.smi("mig -cgi 19:0 -C")
    assert h100.smi("mig -cgi 19:1 -C", 255) == "Unknown Error\n"
    simulator.fail(h100.path, 1, "half")
    h100.smi("mig -cgi 19:1 -C", 255)
    assert [bool(instance["compute"]) for instance in h100.gpus[0]["instances"]] == [True, False]
    h100.smi("mig -gi 8 -cci")
    killed = []
    simulator.fail(h100.path, 1, "kill-after")
    simulator.run(h100.path, ["mig", "-cgi", "19:2", "-C"], kill=lambda: killed.append(len(h100.gpus[0]["instances"])))
    assert killed == [3]


def test_the_log_tells_what_writes(h100: Host) -> None:
    before = len(simulator.calls(h100.path))
    h100.smi("-q -x")
    h100.smi("mig -lgi", 6)
    h100.smi("mig -cgi=19 -C")
    assert len(simulator.calls(h100.path)) == before + 3
    assert simulator.calls(h100.path, writes_only=True) == [["-i", "0", "-mig", "1"], ["mig", "-cgi=19", "-C"]]


def test_the_program(h100: Host) -> None:
    done = subprocess.run([PROGRAM, "-L"], env={**os.environ, "GPU_SIMULATOR": h100.path}, capture_output=True, text=True, check=True)
    assert done.stdout == h100.smi("-L")
    with simulator.change(h100.path) as state:
        state["loaded"] = False
    done = subprocess.run([PROGRAM, "-L"], env={**os.environ, "GPU_SIMULATOR": h100.path}, capture_output=True, text=True, check=False)
    assert done.returncode == 9


@pytest.mark.parametrize("name", [name for name in geometry.MODELS if geometry.MODELS[name].rows])
def test_two_tables_agree(name: str) -> None:
    theirs, ours = geometry.MODELS[name], mig_geometry.model(name)
    assert {int(device, 16) for device in theirs.devices} <= set(ours.device_ids)
    assert (theirs.slots, theirs.slices, theirs.architecture == "Ampere") == (ours.slots, ours.compute, ours.needs_reset)
    table = {row.name: (row.id, row.most, row.starts, row.size, geometry.slices(row)) for row in theirs.rows}
    for profile in ours.profiles:
        assert table[profile.name] == (profile.driver_id, profile.max_count, profile.starts, profile.slots, profile.compute)
