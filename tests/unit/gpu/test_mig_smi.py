"""What nvidia-smi prints, read: transcripts of the real one, and the simulated one where states have to change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import mig_smi
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import MODELS, Model
from ansible_collections.metalhub.platform.plugins.module_utils.mig_smi import Instance, SmiError
from captures import INSTANCES
from gpu_simulator import simulator

# An H100 of driver 580.173.02 with a subdivided 3g.40gb, a 1g.10gb+me and a 1g.10gb, three processes on the first: the listings as
# captured (starkdrift/prickle-exporter, h100-mig-mixed-20260729), the XML as a document of the same driver has these elements.
LIST = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0d0831da-0c98-2717-6446-8acd91d39b65)
  MIG 1c.3g.40gb  Device  0: (UUID: MIG-5ff0d535-9a82-5af6-80df-768b9d3ac092)
  MIG 1g.10gb     Device  1: (UUID: MIG-8443519f-66f7-5962-8955-60dba0866f3a)
  MIG 1g.10gb     Device  2: (UUID: MIG-ee6996fb-86fb-5405-83f0-b20887da1bb3)
"""
DEVICE = """
			<mig_device>
				<index>{}</index>
				<gpu_instance_id>{}</gpu_instance_id>
				<compute_instance_id>0</compute_instance_id>
				<device_attributes><shared><multiprocessor_count>16</multiprocessor_count></shared></device_attributes>
			</mig_device>"""
PROCESS = """
			<process_info>
				<gpu_instance_id>{}</gpu_instance_id>
				<compute_instance_id>0</compute_instance_id>
				<pid>{}</pid>
				<type>C</type>
				<process_name>/tmp/loadgen</process_name>
				<used_memory>4188 MiB</used_memory>
			</process_info>"""
XML = f"""<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">
<nvidia_smi_log>
	<timestamp>Wed Jul 29 18:52:50 2026</timestamp>
	<driver_version>580.173.02</driver_version>
	<attached_gpus>1</attached_gpus>
	<gpu id="00000000:00:09.0">
		<product_name>NVIDIA H100 80GB HBM3</product_name>
		<product_architecture>Hopper</product_architecture>
		<mig_mode>
			<current_mig>Enabled</current_mig>
			<pending_mig>Enabled</pending_mig>
		</mig_mode>
		<mig_devices>{"".join(DEVICE.format(*pair) for pair in ((0, 1), (1, 11), (2, 13)))}
		</mig_devices>
		<uuid>GPU-0d0831da-0c98-2717-6446-8acd91d39b65</uuid>
		<pci>
			<pci_device_id>233010DE</pci_device_id>
			<pci_bus_id>00000000:00:09.0</pci_bus_id>
		</pci>
		<processes>{"".join(PROCESS.format(1, pid) for pid in (23804, 23806, 23808))}
		</processes>
	</gpu>
</nvidia_smi_log>
"""


def transcript(**answers: tuple[int, str] | str) -> mig_smi.Runner:
    """A runner of what was recorded, by the command's words."""
    table = {name.replace("_", " "): answer if isinstance(answer, tuple) else (0, answer) for name, answer in answers.items()}

    def run(argv: Sequence[str]) -> tuple[int, str]:
        assert argv[0] == "nvidia-smi"
        return table[" ".join(word.removeprefix("-") for word in argv[1:])]

    return run


def test_listings_of_different_order_are_joined_by_id() -> None:
    (gpu,) = mig_smi.read(transcript(q_x=XML, mig_lgi=INSTANCES, L=LIST))
    assert (gpu.uuid, gpu.device_id, gpu.bus_id) == ("GPU-0d0831da-0c98-2717-6446-8acd91d39b65", 0x2330, "00000000:00:09.0")
    assert (gpu.mode, gpu.pending, gpu.needs_reset, gpu.pids, gpu.busy) == (True, True, False, (), True)
    assert gpu.instances == (
        Instance(1, "3g.40gb", 0, 4, ("MIG-5ff0d535-9a82-5af6-80df-768b9d3ac092",), (0,), False, (23804, 23806, 23808)),
        Instance(11, "1g.10gb+me", 4, 1, ("MIG-8443519f-66f7-5962-8955-60dba0866f3a",), (1,), True),
        Instance(13, "1g.10gb", 6, 1, ("MIG-ee6996fb-86fb-5405-83f0-b20887da1bb3",), (2,), True),
    )
    assert [str(instance) for instance in gpu.instances if instance.busy] == ["3g.40gb@0"]


def test_mig_off_asks_no_more_than_once() -> None:
    (gpu,) = mig_smi.read(transcript(q_x=XML.replace("Enabled", "Disabled").split("<mig_devices>")[0] + "<mig_devices>None" + XML.split("</mig_device>\n\t\t")[-1]))
    assert gpu.mode is False and gpu.instances == ()


def test_an_older_layout_of_the_tables() -> None:
    """Driver 450 and its narrower tables, of the MIG user guide."""
    text = """\
+----------------------------------------------------+
| GPU instances:                                     |
| GPU   Name          Profile  Instance   Placement  |
|                       ID       ID       Start:Size |
|====================================================|
|   0  MIG 3g.20gb       9        1          4:4     |
+----------------------------------------------------+
|   7  MIG 3g.20gb       9        2          0:4     |
+----------------------------------------------------+
"""
    assert mig_smi.parse_instances(text) == {0: [Instance(1, "3g.20gb", 4, 4)], 7: [Instance(2, "3g.20gb", 0, 4)]}
    listed = "GPU 0: A (UUID: GPU-1)\n  MIG 1g.24gb Device 0: (UUID: MIG-0)\n"
    assert mig_smi.parse_list(listed) == {"GPU-1": {0: ("MIG-0", "1g.24gb")}}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"q_x": (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")}, "-q -x failed: NVIDIA-SMI has failed"),
        ({"q_x": "GPU 0"}, "printed no XML"),
        ({"q_x": XML.replace("<uuid>GPU-0d0831da-0c98-2717-6446-8acd91d39b65</uuid>", "")}, "no UUID"),
        ({"q_x": XML.replace("580.173.02", "460.32.03")}, "driver is 460.32.03; .* need 470 or newer"),
        ({"q_x": XML.replace("580.173.02", "N/A")}, "no UUID, PCI device id or driver version"),
        ({"q_x": XML.replace("<gpu_instance_id>11<", "<gpu_instance_id>N/A<")}, "has a MIG device whose gpu_instance_id is 'N/A'"),
        ({"q_x": XML, "mig_lgi": (4, "Insufficient Permissions")}, "mig -lgi failed: Insufficient Permissions"),
        ({"q_x": XML, "mig_lgi": "| GPU instances |"}, "no table of instances"),
        ({"q_x": XML, "mig_lgi": (6, "No GPU instances found: Not Found")}, r"GPU instances \[1, 11, 13\] on GPU 0"),
    ],
)
def test_half_a_view_is_none(answers: dict, words: str) -> None:
    with pytest.raises(SmiError, match=words):
        mig_smi.read(transcript(**answers))


@pytest.mark.parametrize("name", ["a&b <c>", "\x01\N{REPLACEMENT CHARACTER}", "two\nlines", "</process_name>", "<supported_clocks>"])
def test_a_process_is_called_what_its_user_likes(name: str) -> None:
    """And the clocks of some drivers are not XML at all."""
    clocks = "<supported_clocks><supported_mem_clock><value>2619 MHz</value></supported_clocks>"
    text = XML.replace("/tmp/loadgen", name).replace("<processes>", f"{clocks}<processes>")
    assert mig_smi.read(transcript(q_x=text, mig_lgi=INSTANCES, L=LIST)) == mig_smi.read(transcript(q_x=XML, mig_lgi=INSTANCES, L=LIST))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("uuids", ["stable", "fresh"])
def test_each_uuid_belongs_to_its_place(tmp_path: Path, swapped: bool, uuids: str) -> None:
    path = str(tmp_path / "gpus.json")
    simulator.make(path, ["A100-40GB", "H100-80GB"], swapped=swapped, uuids=uuids)

    def run(argv: Sequence[str]) -> tuple[int, str]:
        return simulator.run(path, list(argv[1:]))

    for words in ("-mig 1", "mig -i 1 -cgi 3g.40gb:4,1g.10gb+me:0,2g.20gb:2 -C", "mig -i 0 -cgi 19:1 -C", "mig -i 1 -cgi 19:1"):
        assert run(["", *words.split()])[0] == 0
    simulator.hold(path, 1, next(each["id"] for each in simulator.load(path)["gpus"][1]["instances"] if each["start"] == 2), 99)
    gpus = mig_smi.read(run)
    for gpu, known in zip(gpus, simulator.load(path)["gpus"], strict=True):
        truth = {each["start"]: tuple(compute["uuid"] for compute in each["compute"]) for each in known["instances"]}
        assert {instance.start: instance.uuids for instance in gpu.instances} == truth
    assert [(str(each), each.whole, each.pids) for each in gpus[1].instances] == [
        ("1g.10gb+me@0", True, ()),
        ("1g.10gb@1", False, ()),
        ("2g.20gb@2", True, (99,)),
        ("3g.40gb@4", True, ()),
    ]
    assert simulator.calls(path)[-3:] == [["-q", "-x"], ["mig", "-lgi"], ["-L"]]


@pytest.mark.parametrize("name", ["A30-24GB", "H100-80GB", "GB200-186GB", "RTX-PRO-6000-96GB"])
def test_models_as_the_driver_lists_them(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "gpus.json")
    simulator.make(path, [name, "L4-24GB"])

    def run(argv: Sequence[str]) -> tuple[int, str]:
        return simulator.run(path, list(argv[1:]))

    gpus = mig_smi.read(run)
    (model,) = mig_smi.models(run, gpus).values()
    table = next(each for each in MODELS if each.name == name)
    assert (model.slots, model.compute, model.needs_reset) == (table.slots, table.compute, table.needs_reset)
    for profile in table.profiles:
        listed = model.profile(profile.name)
        assert (listed.starts, listed.slots, listed.max_count, listed.driver_id) == (
            profile.starts, profile.slots, profile.max_count, profile.driver_id
        )  # fmt: skip


def test_the_table_stands_in_where_the_driver_lists_nothing() -> None:
    gpus = mig_smi.read(transcript(q_x=XML, mig_lgi=INSTANCES, L=LIST))
    silent = transcript(mig_lgip=(6, "No MIG-enabled devices found."), mig_lgipp=(6, "No MIG-enabled devices found."))
    (model,) = mig_smi.models(silent, gpus).values()
    assert isinstance(model, Model) and model.name == "H100-80GB"
    unknown = mig_smi.read(transcript(q_x=XML.replace("233010DE", "FFFF10DE"), mig_lgi=INSTANCES, L=LIST))
    with pytest.raises(SmiError, match=r"GPU 0 \(NVIDIA H100 80GB HBM3\): device id 0xFFFF"):
        mig_smi.models(silent, unknown)


def test_a_gpu_with_mig_off_is_as_another_of_its_kind(tmp_path: Path) -> None:
    """Where a driver lists the profiles of those with MIG on only, one profile would have two names on one host."""
    path = str(tmp_path / "gpus.json")
    simulator.make(path, ["H100-80GB", "H100-80GB", "A100-80GB"])

    def run(argv: Sequence[str]) -> tuple[int, str]:
        status, text = simulator.run(path, [*argv[1:], *(["-i", "1"] if {"-lgip", "-lgipp"} & set(argv) else [])])
        return status, text.replace("7g.80gb", "7g.79gb")

    run(["", "-i", "1", "-mig", "1"])
    first, second, ampere = mig_smi.models(run, mig_smi.read(run)).values()
    assert first == second and first.profile("7g.80gb").name == first.profile("7g.79gb").name == "7g.79gb"
    assert ampere.profile("7g.79gb").name == "7g.80gb"


def test_a_list_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    gpus = mig_smi.read(transcript(q_x=XML, mig_lgi=INSTANCES, L=LIST))
    strange = transcript(mig_lgip="|   0  MIG seven           19     7/7        9.75       No     16     1     0   |\n", mig_lgipp="GPU  0 Profile ID 19 Placements: {0,1}:1\n")
    with pytest.raises(SmiError, match="mig -lgip cannot be read: 'seven' is not a MIG profile"):
        mig_smi.models(strange, gpus)


def container(env: Sequence[str] = (), runtime: str = "runc", requests: Sequence[dict] | None = None) -> dict:
    return {"Config": {"Env": list(env)}, "HostConfig": {"Runtime": runtime, "DeviceRequests": requests}}


@pytest.mark.parametrize(
    ("inspection", "held"),
    [
        (container(["PATH=/bin", "DOCKER_RESOURCE_MIG_1G_10GB=MIG-1,MIG-2"]), {"MIG-1", "MIG-2"}),
        (container(["NVIDIA_VISIBLE_DEVICES=void"], "nvidia"), set()),
        (container(["NVIDIA_VISIBLE_DEVICES=all"], "runsc"), set()),
        (container(["NVIDIA_VISIBLE_DEVICES=all"], "nvidia"), {"all"}),
        (container(["NVIDIA_VISIBLE_DEVICES=0:1,GPU-1"], "nvidia"), {"0:1", "GPU-1"}),
        (container(requests=[{"Driver": "nvidia", "Count": -1, "DeviceIDs": None}]), {"all"}),
        (container(requests=[{"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=MIG-3"]}]), {"MIG-3"}),
        (container(requests=[{"Driver": "", "Count": 2, "DeviceIDs": None, "Capabilities": [["gpu"]]}]), {"0", "1"}),
        (container(["NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0:1,nvidia.com/gpu=all"], "nvidia-cdi"), {"0:1", "all"}),
        (container(["NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=all"]), set()),
        # By the platform's dispatcher it is the sandbox that decides.
        (container(["NVIDIA_VISIBLE_DEVICES=all", "METALHUB_SANDBOX=nvidia"], "metalhub"), {"all"}),
        (container(["NVIDIA_VISIBLE_DEVICES=all", "METALHUB_SANDBOX=gvisor"], "metalhub"), set()),
        (container(["NVIDIA_VISIBLE_DEVICES=all"], "metalhub"), set()),
        ({}, set()),
    ],
)
def test_what_a_container_was_given(inspection: dict, held: set[str]) -> None:
    assert mig_smi.held_devices(inspection) == held


def test_who_has_what() -> None:
    gpus = mig_smi.read(transcript(q_x=XML, mig_lgi=INSTANCES, L=LIST))
    names = {"by-uuid": {"MIG-ee6996fb-86fb-5405-83f0-b20887da1bb3"}, "by-number": {"0:1"}, "gpu": {gpus[0].uuid}, "other": {"MIG-x"}}
    (gpu,) = mig_smi.with_containers(gpus, {name: frozenset(held) for name, held in names.items()})
    assert [instance.containers for instance in gpu.instances] == [("gpu",), ("by-number", "gpu"), ("by-uuid", "gpu")]
    assert gpu.containers == ("gpu",)
    (gpu,) = mig_smi.with_containers(gpus, {"greedy": frozenset({"all"})})
    assert all(instance.containers == ("greedy",) for instance in gpu.instances) and not gpu.containers
