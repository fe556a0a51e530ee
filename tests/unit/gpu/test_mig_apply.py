"""From one layout to another on the simulated driver: nothing more than is wanted, and whole again after any interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import mig_apply, mig_geometry, mig_smi
from ansible_collections.metalhub.platform.plugins.module_utils.mig_apply import Outcome, Refusal, Stopped
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import Placement
from gpu_simulator import simulator
from gpu_simulator.host import Host, Killed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def wanted(text: str) -> list[dict[str, Any]] | bool:
    """``3g.40gb@4 1g.10gb@0`` as an operator writes it, ``off`` for MIG off."""
    if text == "off":
        return False
    return [{"profile": profile, "start": int(start)} for profile, start in (word.split("@") for word in text.split())]


def prepare(host: Host, layout: dict[int, str], forced: tuple[str, ...] = ()) -> tuple[tuple[mig_apply.Work, ...], dict[str, Any]]:
    gpus = mig_smi.read(host.run)
    models = mig_smi.models(host.run, gpus)
    return mig_apply.work(gpus, mig_apply.parse_layout({gpu: wanted(text) for gpu, text in layout.items()}, gpus), models, forced), models


def bring(host: Host, layout: dict[int, str], **more: Any) -> Outcome:
    items, models = prepare(host, layout, more.pop("forced", ()))
    return mig_apply.apply(host.run, items, models, lambda seconds: None, **more)


def test_only_what_differs_is_touched(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB", "H100-80GB")
    host.fill(0, "7g.80gb@0")
    host.fill(1, "3g.40gb@0 1g.10gb@4 1g.10gb@6")
    kept = {each["id"]: each["compute"] for each in host.gpus[1]["instances"] if each["start"] != 6}
    layout = {0: "1g.10gb@0 1g.10gb@1 1g.10gb@2 1g.10gb@3 3g.40gb@4", 1: "3g.40gb@0 1g.10gb@4 1g.20gb@6"}
    items, models = prepare(host, layout)
    assert mig_apply.difference(items, models) == (
        "GPU 0: 7g.80gb → 3g.40gb@4 + 4×1g.10gb@0-3\nGPU 1: 3g.40gb@0 + 2×1g.10gb@4,6 → 3g.40gb@0 + 1g.10gb@4 + 1g.20gb@6\n"
    )
    outcome = mig_apply.apply(host.run, items, models, lambda seconds: None)
    assert (host.layout(0), host.layout(1)) == tuple(layout.values())
    assert {each["id"]: each["compute"] for each in host.gpus[1]["instances"] if each["start"] != 6} == kept
    assert host.writes() == [
        *(f"mig -i {host.uuid(0)} -gi 0 {verb}" for verb in ("-dci", "-dgi")),
        *(f"mig -i {host.uuid(0)} -cgi {what} -C" for what in ("19:0", "19:1", "19:2", "19:3", "9:4")),
        *(f"mig -i {host.uuid(1)} -gi 13 {verb}" for verb in ("-dci", "-dgi")),
        f"mig -i {host.uuid(1)} -cgi 15:6 -C",
    ]
    assert outcome.done[:2] == ("destroyed 7g.80gb@0 on GPU 0", "created 1g.10gb@0 on GPU 0")
    before = len(host.writes())
    assert bring(host, layout) == Outcome((), {})
    assert len(host.writes()) == before


def test_the_order_of_creation_does_not_matter(tmp_path: Path) -> None:
    """The driver's own placement cannot do 1-1-2-3 in this order; explicit starts can."""
    host = Host(tmp_path, "A100-40GB")
    bring(host, {0: "1g.5gb@0 1g.5gb@1 2g.10gb@2 3g.20gb@4"})
    assert host.layout(0) == "1g.5gb@0 1g.5gb@1 2g.10gb@2 3g.20gb@4"


@pytest.mark.parametrize("how", ["kill-before", "kill-after", "fail", "half"])
@pytest.mark.parametrize("uuids", ["stable", "fresh"])
def test_any_interruption_is_mended(tmp_path: Path, how: str, uuids: str) -> None:
    """At every writing call of a long change: the next run brings the layout about, and the one after it writes nothing."""
    layout = {0: "3g.40gb@0 1g.10gb+me@4 1g.10gb@5 1g.20gb@6", 1: "2g.10gb@0 2g.10gb@2", 2: "off"}

    def begin() -> Host:
        host = Host(tmp_path, "H100-80GB", "A100-40GB", "H200-141GB", uuids=uuids, auto_reset=False)
        host.fill(0, "7g.80gb@0")
        host.fill(2, "1g.18gb@0 1g.18gb@1!")
        return host

    host = begin()
    bring(host, layout)
    number = len(host.writes())
    assert number == 2 + 4 + 2 + 2 + 3 + 1
    for nth in range(1, number + 1):
        host = begin()
        simulator.fail(host.path, nth, how)
        if how.startswith("kill"):
            with pytest.raises(Killed):
                bring(host, layout)
        else:
            try:
                assert bring(host, layout).reboot or how == "half", "a reset that fails is reported"
            except Stopped as stopped:
                assert "Unknown Error" in str(stopped) and "the next run goes on" in str(stopped)
                assert len(stopped.done) <= nth
        assert not bring(host, layout).reboot
        assert [host.layout(gpu) for gpu in range(3)] == list(layout.values()), nth
        before = len(host.writes())
        assert bring(host, layout) == Outcome((), {})
        assert len(host.writes()) == before


def test_it_says_where_it_stopped(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB")
    host.fill(0, "7g.80gb@0")
    simulator.fail(host.path, 4, text="Unable to create a GPU instance on GPU  0 using profile 9: Insufficient Resources")
    with pytest.raises(Stopped) as caught:
        bring(host, {0: "1g.10gb@0 3g.40gb@4"})
    assert str(caught.value) == (
        "creating 3g.40gb@4 on GPU 0 failed: Unable to create a GPU instance on GPU 0 using profile 9: Insufficient Resources "
        f"(nvidia-smi mig -i {host.uuid(0)} -cgi 9:4 -C). Done before it: destroyed 7g.80gb@0 on GPU 0, created 1g.10gb@0 on GPU 0; "
        "the next run goes on"
    )


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({0: "3g.40gb@4"}, r"GPU 0: 1g.10gb@4 \(MIG-[0-9a-f-]+\) is in use by process 4711 and would be destroyed; end them, or name it"),
        ({0: "off"}, "GPU 0: 1g.10gb@4 .* is in use by process 4711"),
        ({1: "7g.80gb@0"}, "GPU 1 is in use by process 4712, and its MIG mode would be switched"),
        ({2: "1g.10gb@0"}, r"GPU 2 \(NVIDIA L4\) has no MIG, and 1g.10gb@0 is wanted on it"),
        ({0: "3g.40gb@2"}, "GPU 0: 3g.40gb cannot start at 2"),
        ({0: "3g.40gb@0 1g.10gb@3"}, "overlap in memory slot 3"),
        ({0: "1g.5gb@0"}, "'1g.5gb' is not a profile of H100-80GB"),
        ({0: "1g.10gb+me@0 1g.10gb+me@1"}, "2 of 1g.10gb.me are more than the 1"),
        ({3: ""}, "layout: '3' is not a GPU of this host, which has 0 .*, 1 .*, 2"),
    ],
)
def test_what_is_refused_changes_nothing(tmp_path: Path, layout: dict[int, str], words: str) -> None:
    host = Host(tmp_path, "H100-80GB", "H100-80GB", "L4-24GB")
    host.fill(0, "1g.10gb@4 1g.10gb@6")
    host.hold(0, 4, 4711)
    host.hold(1, None, 4712)
    with pytest.raises(Refusal, match=words):
        bring(host, layout)
    assert host.writes() == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"0": [{"profile": "1g.10gb"}]}, r"layout\[0\] has \{'profile': '1g.10gb'\}; legal is a profile and its first memory slot"),
        ({"0": [{"profile": "1g.10gb", "start": True}]}, "legal is a profile and its first"),
        ({"0": [{"profile": "1g.10gb", "start": "²"}]}, "legal is a profile and its first"),
        ({"0": "1g.10gb"}, r"layout\[0\] is '1g.10gb'; legal is a list"),
        ({"0": True}, r"layout\[0\] is True"),
        ({"0": [], "00000000:17:00.0": []}, "GPU 0 is named twice, the second time as '00000000:17:00.0'"),
        ({"GPU-x": []}, "layout: 'GPU-x' is not a GPU of this host"),
    ],
)
def test_a_layout_that_cannot_be_read(tmp_path: Path, given: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        mig_apply.parse_layout(given, mig_smi.read(Host(tmp_path, "H100-80GB").run))


def test_gpus_by_their_names(tmp_path: Path) -> None:
    gpus = mig_smi.read(Host(tmp_path, "H100-80GB", "H100-80GB").run)
    for name in (1, "1", gpus[1].uuid, "00000000:2A:00.0", "0000:2a:00.0"):
        assert list(mig_apply.parse_layout({name: []}, gpus)) == [gpus[1].uuid]


def test_a_busy_instance_goes_when_it_is_named(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB")
    host.fill(0, "1g.10gb@4 1g.10gb@6")
    host.hold(0, 4, 4711)
    host.hold(0, 6, 4712)
    uuid = host.gpus[0]["instances"][0]["compute"][0]["uuid"]
    with pytest.raises(Refusal, match="force_busy: MIG-x is not a device of this host, which has MIG-"):
        bring(host, {0: "1g.20gb@4 1g.10gb@6"}, forced=("MIG-x",))
    ended = []

    def end(instance: mig_smi.Instance) -> str:
        ended.extend(instance.pids)
        for pid in instance.pids:
            simulator.release(host.path, pid)
        return ""

    outcome = bring(host, {0: "1g.20gb@4 1g.10gb@6"}, forced=(uuid,), end_clients=end)
    assert ended == [4711] and host.layout(0) == "1g.20gb@4 1g.10gb@6"
    assert outcome.done[0] == "ended process 4711 on 1g.10gb@4 of GPU 0"


def test_what_is_pinned_stays(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB", "H100-80GB")
    host.fill(0, "1g.10gb@4 1g.10gb@6")
    uuid = host.gpus[0]["instances"][1]["compute"][0]["uuid"]
    gpus = mig_smi.read(host.run)
    models = mig_smi.models(host.run, gpus)

    def refused(layout: dict[int, str], **more: Any) -> str:
        with pytest.raises(Refusal) as caught:
            mig_apply.work(gpus, mig_apply.parse_layout({gpu: wanted(text) for gpu, text in layout.items()}, gpus), models, **more)
        return str(caught.value)

    assert refused({0: "1g.10gb@4"}, pinned=[uuid]) == f"GPU 0: 1g.10gb@6 ({uuid}) is pinned and would be destroyed"
    assert refused({1: "7g.80gb@0"}, pinned=[host.uuid(1)]) == "GPU 1 is pinned, and the layout differs from what is there"
    assert refused({}, pinned=[uuid], forced=[uuid]) == f"{uuid} is in force_busy and in pinned; it cannot be in both"
    assert refused({}, pinned=["MIG-x"]).startswith("pinned: MIG-x is not a device of this host, which has GPU-")
    mig_apply.work(gpus, {gpus[0].uuid: [Placement(6, "1g.10gb")]}, models, pinned=[uuid, host.uuid(1)])


def test_a_client_that_lingers_is_waited_for(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB")
    host.fill(0, "1g.10gb@4")
    items, models = prepare(host, {0: ""})
    host.hold(0, 4, 1)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            simulator.release(host.path, 1)

    mig_apply.apply(host.run, items, models, sleep)
    assert (host.layout(0), waits) == ("", [1, 1])


class TestModes:
    def test_hopper_switches_at_once(self, tmp_path: Path) -> None:
        host = Host(tmp_path, "H100-80GB")
        bring(host, {0: "7g.80gb@0"})
        assert host.writes() == [f"-i {host.uuid(0)} -mig 1", f"mig -i {host.uuid(0)} -cgi 0:0 -C"]

    @pytest.mark.parametrize("auto", [True, False])
    def test_ampere_is_reset_only_when_it_has_to_be(self, tmp_path: Path, auto: bool) -> None:
        host = Host(tmp_path, "A100-80GB", "A100-80GB", auto_reset=auto)
        bring(host, {1: "7g.80gb@0"})
        uuid = host.uuid(1)
        assert host.writes() == [f"-i {uuid} -mig 1", *([] if auto else [f"--gpu-reset -i {uuid}"]), f"mig -i {uuid} -cgi 0:0 -C"]
        assert host.layout(0) == "off"

    def test_a_mode_that_stays_pending_takes_a_reboot(self, tmp_path: Path) -> None:
        host = Host(tmp_path, "A100-80GB", "H100-80GB")
        with simulator.change(host.path) as state:
            state["gpus"][0]["reset"] = False
        layout = {0: "7g.80gb@0", 1: "7g.80gb@0"}
        outcome = bring(host, layout)
        assert outcome.reboot == {host.uuid(0): f"GPU 0: the reset did not work: Resetting GPU {host.gpus[0]['bus_id']} is not supported."}
        assert outcome.done[0] == "set MIG on for the next reboot on GPU 0"
        assert host.layout(1) == "7g.80gb@0", "the other GPUs go on"
        before = len(host.writes())
        again = bring(host, layout)
        assert (list(again.reboot), again.done) == ([host.uuid(0)], ())
        assert not any("-mig" in line for line in host.writes()[before:]), "a pending mode is not set again"
        simulator.reboot(host.path)
        assert not bring(host, layout).reboot and host.layout(0) == host.layout(1) == "7g.80gb@0"

    def test_a_client_that_came_meanwhile_is_not_reset(self, tmp_path: Path) -> None:
        host = Host(tmp_path, "A100-80GB")
        items, models = prepare(host, {0: "7g.80gb@0"})
        host.hold(0, None, 4711)
        outcome = mig_apply.apply(host.run, items, models, lambda seconds: None)
        assert list(outcome.reboot.values()) == ["GPU 0: in use by process 4711, so it was not reset"]
        assert not any("reset" in line for line in host.writes())

    def test_off(self, tmp_path: Path) -> None:
        host = Host(tmp_path, "H100-80GB")
        host.fill(0, "1g.10gb@0")
        bring(host, {0: "off"})
        assert host.layout(0) == "off"
        assert bring(host, {0: "off"}) == Outcome((), {})


@pytest.mark.parametrize("listed", [True, False], ids=["by the driver", "by the table"])
@pytest.mark.parametrize("name", ["3g.40gb", "3g.39gb"])
def test_a_name_that_the_driver_rounds_otherwise(tmp_path: Path, name: str, listed: bool) -> None:
    """The driver says 3g.39gb, the table 3g.40gb: one profile, whatever the layout calls it."""
    host = Host(tmp_path, "H100-80GB")
    host.fill(0, "3g.40gb@0")

    def run(argv: list[str]) -> tuple[int, str]:
        status, text = host.run(argv)
        return (6, "") if "-lgip" in argv and not listed else (status, text.replace("3g.40gb", "3g.39gb"))

    gpus = mig_smi.read(run)
    models = mig_smi.models(run, gpus)
    assert gpus[0].instances[0].profile == "3g.39gb"
    (item,) = mig_apply.work(gpus, {gpus[0].uuid: [Placement(0, name)]}, models)
    assert not item.needed


LAYOUTS = mig_geometry.all_layouts(mig_geometry.model("A30-24GB"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.booleans())
def test_from_any_layout_to_any_other(tmp_path: Path, before: Any, after: Any, incomplete: bool) -> None:
    """Each write is one of: destroy what is not wanted, create what is missing; what is in both stays as it is."""
    host = Host(tmp_path, "A30-24GB")
    host.fill(0, " ".join(f"{each}{'!' if incomplete and not index else ''}" for index, each in enumerate(before)))
    bring(host, {0: " ".join(map(str, after))})
    assert host.layout(0) == " ".join(map(str, after))
    destroyed = sum("-dgi" in line for line in host.writes())
    created = sum("-cgi" in line for line in host.writes())
    assert (destroyed, created) == (len(set(before) - set(after)), len(set(after) - set(before)))
    total = len(host.writes())
    bring(host, {0: " ".join(map(str, after))})
    assert len(host.writes()) == total


def test_the_drawing(tmp_path: Path) -> None:
    host = Host(tmp_path, "A30-24GB", "L4-24GB")
    host.fill(0, "1g.6gb@0 2g.12gb@2")
    host.hold(0, 2, 1)
    gpus = mig_smi.read(host.run)
    (model,) = mig_smi.models(host.run, gpus).values()
    assert mig_apply.draw(gpus[0], model, [Placement(2, "2g.12gb"), Placement(0, "1g.6gb+me")]) == (
        f"GPU 0  NVIDIA A30  {host.uuid(0)}\n"
        "  now     [1g.6gb    ][··········][2g.12gb*              ]\n"
        "  planned [1g.6gb+me ][··········][2g.12gb*              ]\n"
    )
    assert mig_apply.draw(gpus[0], model, None).splitlines()[2] == "  planned MIG off"
    assert mig_apply.draw(gpus[1], None) == f"GPU 1  NVIDIA L4  {host.uuid(1)}\n  no MIG\n"
