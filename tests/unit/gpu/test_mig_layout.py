"""The modules from end to end: real processes, the simulated `nvidia-smi` as a program, and a Docker engine of our own."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import signal
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.metalhub.platform.plugins.module_utils import mig_apply, mig_fleet, mig_host, mig_smi
from ansible_collections.metalhub.platform.plugins.module_utils.mig_apply import Refusal
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import Placement
from ansible_collections.metalhub.platform.plugins.modules import mig_info, mig_layout
from gpu_simulator import simulator
from gpu_simulator.host import Host

PROGRAMS = str(Path(simulator.__file__).parent)


class Machine(Host):
    """A simulated machine on which modules run."""

    def __init__(self, directory: Path, *models: str, **settings: Any) -> None:
        super().__init__(directory, *models, **settings)
        self.directory = directory
        self.socket = str(directory / "docker.sock")
        self.files = {name: str(directory / "etc" / f"{name}.json") for name in ("layout_file", "docker_fragment")}

    def module(self, main: Callable[[], None], check: bool = False, **arguments: Any) -> dict[str, Any] | None:
        """Run a module in a process of its own, as Ansible does; None where it was killed."""
        out = self.directory / "out"
        pid = os.fork()
        if pid == 0:
            os.environ.update(PATH=f"{PROGRAMS}:{os.environ['PATH']}", GPU_SIMULATOR=self.path)
            sys.stdout = out.open("w", encoding="utf-8")
            given = {"engine_socket": self.socket, **arguments, "_ansible_check_mode": check, "_ansible_diff": True}
            with patch_module_args(given):
                try:
                    main()
                except SystemExit:
                    sys.stdout.flush()
                    os._exit(0)
                except BaseException as error:
                    os.write(2, repr(error).encode())
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return None
        assert os.WEXITSTATUS(status) == 0
        return json.loads(out.read_text(encoding="utf-8"))

    def apply(self, check: bool = False, **arguments: Any) -> dict[str, Any] | None:
        return self.module(mig_layout.main, check, **{**self.files, "refresh_cdi": False, **arguments})

    def kept(self, name: str) -> Any:
        path = Path(self.files[name])
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def places(*words: str) -> list[dict[str, Any]]:
    return [{"profile": profile, "start": int(start)} for profile, start in (word.split("@") for word in words)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    host = Machine(tmp_path, "H100-80GB", "H100-80GB", "L4-24GB", uuids="fresh")
    host.fill(0, "7g.80gb@0")
    return host


LAYOUT = {"0": places("1g.10gb@0", "1g.10gb@1", "1g.10gb@2", "1g.10gb@3", "3g.40gb@4")}


def test_it_changes_what_it_says_and_nothing_twice(machine: Machine) -> None:
    said = machine.apply(check=True, layout=LAYOUT)
    assert said["changed"] and said["engine_restart"] and said["destroyed"] == ["7g.80gb@0 on GPU 0"]
    assert said["diff"] == {"before": "", "after": "GPU 0: 7g.80gb → 3g.40gb@4 + 4×1g.10gb@0-3\n"}
    assert said["actions"][0] == "destroy 7g.80gb@0 on GPU 0" and len(said["actions"]) == 6
    assert machine.writes() == [] and not Path(machine.files["layout_file"]).exists()
    assert said["drawing"].splitlines()[1:3] == [
        f"  now     [{'7g.80gb':102}]",
        f"  planned {'[1g.10gb    ]' * 4}[{'3g.40gb':50}]",
    ]

    done = machine.apply(layout=LAYOUT)
    assert done["changed"] and not done["reboot_required"] and machine.layout(0).endswith("3g.40gb@4")
    uuids = [each["uuid"] for each in done["gpus"][0]["instances"]]
    assert done["resources"] == [*(f"MIG_1G_10GB={uuid}" for uuid in uuids[:4]), f"MIG_3G_40GB={uuids[4]}", f"GPU={machine.uuid(1)}", f"GPU={machine.uuid(2)}"]
    assert machine.kept("docker_fragment") == {"node-generic-resources": done["resources"]}
    assert machine.kept("layout_file") == {
        "version": 1,
        "gpus": {machine.uuid(0): LAYOUT["0"]},
        "asked": {"layout": LAYOUT, "wanted": None},
    }

    writes = len(machine.writes())
    for check in (True, False):
        again = machine.apply(check=check, layout=LAYOUT)
        assert not again["changed"] and again["changes"] == "" and not again["engine_restart"]
    assert len(machine.writes()) == writes


def test_counts_are_planned_around_what_is_in_use(machine: Machine) -> None:
    machine.hold(0, 0, os.getpid())
    wanted = {"3g.40gb": 1, "1g.10gb": 4, "7g.80gb": 1}
    done = machine.apply(wanted=wanted)
    assert done["optimal"] and machine.layout(0) == "7g.80gb@0" and machine.layout(1) == "1g.10gb@0 1g.10gb@1 1g.10gb@2 1g.10gb@3 3g.40gb@4"
    assert machine.kept("layout_file")["asked"] == {"layout": None, "wanted": wanted}
    writes = len(machine.writes())
    assert not machine.apply(wanted=wanted)["changed"] and len(machine.writes()) == writes
    assert "in use by" not in str(machine.apply(check=True, wanted={"H100-80GB:1g.10gb": 4})["changes"])

    pin = machine.gpus[1]["instances"][0]["compute"][0]["uuid"]
    for bad, words in (
        ({"7g.80gb": 2}, "wanted: 1 of 7g.80gb cannot be had"),
        ({"1g.5gb": 1}, "'1g.5gb' is not a profile of H100-80GB"),
        ({"1g.10gb": -1}, "wanted: 1g.10gb: -1 is not a count"),
    ):
        assert words in machine.apply(wanted=bad, pinned=[pin])["msg"]
    assert len(machine.writes()) == writes


def test_counts_in_the_tables_names_where_the_driver_rounds_otherwise(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB")

    def run(argv: list[str]) -> tuple[int, str]:
        status, text = host.run(argv)
        return status, text.replace("3g.40gb", "3g.39gb")

    gpus = mig_smi.read(run)
    layout, _ = mig_layout.target({"wanted": {"3g.40gb": 1}, "pinned": [], "force_busy": []}, gpus, mig_smi.models(run, gpus))
    assert [place.profile for place in layout[host.uuid(0)]] == ["3g.39gb"]


def test_an_explicit_layout_is_kept_in_the_drivers_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In which the agent compares it: in others it would find something to do in every run."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(f'#!/bin/sh\nsaid=$({PROGRAMS}/nvidia-smi "$@"); status=$?; echo "$said" | sed s/3g.40gb/3g.39gb/; exit $status\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setitem(globals(), "PROGRAMS", str(program.parent))
    machine = Machine(tmp_path, "H100-80GB")
    layout = {"0": places("3g.40gb@4")}
    done = machine.apply(layout=layout)
    assert done["layout"] == {machine.uuid(0): places("3g.39gb@4")} and done["resources"][0].startswith("MIG_3G_40GB=")
    kept, asked = mig_host.read_layout(machine.files["layout_file"])
    assert asked["layout"] == layout

    def run(argv: Sequence[str]) -> tuple[int, str]:
        status, text = machine.run(argv)
        return status, text.replace("3g.40gb", "3g.39gb")

    assert mig_apply.settled(mig_smi.read(run), kept)
    assert not machine.apply(layout=layout)["changed"]


def test_an_instance_with_several_devices_is_named_by_any(tmp_path: Path) -> None:
    host = Host(tmp_path, "H100-80GB", "L4-24GB")
    host.fill(0, "3g.40gb@4")
    gpus = mig_smi.read(host.run)
    models = mig_smi.models(host.run, gpus)
    (instance,) = gpus[0].instances
    split = dataclasses.replace(instance, uuids=("MIG-a", "MIG-b"), pids=(4711,))
    gpus = (dataclasses.replace(gpus[0], instances=(split,)), gpus[1])
    asked = {"wanted": {"7g.80gb": 1}, "pinned": [], "force_busy": ["MIG-b"]}
    layout, _ = mig_layout.target(asked, gpus, models)
    assert layout == {gpus[0].uuid: (Placement(0, "7g.80gb"),)}
    # A GPU without MIG has nothing that a plan could take.
    idle = (dataclasses.replace(gpus[0], instances=(dataclasses.replace(split, pids=()),)), gpus[1])
    for pins in (["MIG-b"], [gpus[1].uuid, "MIG-a"]):
        with pytest.raises(Refusal, match=r"it is 3g.40gb@4 \(MIG-a, pinned\)"):
            mig_layout.target({**asked, "pinned": pins, "force_busy": []}, idle, models)
    with pytest.raises(Refusal, match="pinned: 'MIG-c' is neither a GPU here nor an instance on one"):
        mig_layout.target({**asked, "pinned": ["MIG-c"]}, gpus, models)


def test_what_is_read_is_what_the_planner_takes(machine: Machine) -> None:
    machine.fill(1, "1g.10gb+me@0!")
    fleet = mig_fleet.gpus_from(machine.module(mig_info.main)["fleet"])
    assert [(gpu.uuid, gpu.model.name, len(gpu.instances)) for gpu in fleet] == [(machine.uuid(gpu), "H100-80GB", 1) for gpu in (0, 1)]


def test_a_kill_at_any_write_is_mended(tmp_path: Path) -> None:
    """In real processes; every kind of interruption of a longer change is in test_mig_apply.py."""
    layout = {"0": places("1g.10gb@0", "3g.40gb@4")}
    number = 3
    for nth in range(1, number + 1):
        machine = Machine(tmp_path, "H100-80GB", uuids="fresh")
        for name in machine.files.values():
            Path(name).unlink(missing_ok=True)
        simulator.fail(machine.path, nth, "kill-after")
        assert machine.apply(layout=layout) is None
        assert machine.kept("layout_file"), "a boot in between would go on from it"
        mended = machine.apply(layout=layout)
        assert len(machine.writes()) == number and machine.layout(0) == "1g.10gb@0 3g.40gb@4"
        assert machine.kept("docker_fragment") == {"node-generic-resources": mended["resources"]}
    assert not machine.apply(layout=layout)["changed"]
    assert len(machine.writes()) == number


def test_a_failure_says_where_and_what_docker_is_told_is_there(machine: Machine) -> None:
    simulator.fail(machine.path, 5, "half")
    said = machine.apply(layout=LAYOUT)
    assert said["failed"] and "creating 1g.10gb@2 on GPU 0 failed: " in said["msg"] and "Unknown Error" in said["msg"]
    assert said["done"] == ["destroyed 7g.80gb@0 on GPU 0", "created 1g.10gb@0 on GPU 0", "created 1g.10gb@1 on GPU 0"]
    assert len(machine.kept("docker_fragment")["node-generic-resources"]) == 4
    assert machine.layout(0) == "1g.10gb@0 1g.10gb@1 1g.10gb@2!"
    assert machine.apply(layout=LAYOUT)["actions"][-1] == "created the device of 1g.10gb@2 on GPU 0"
    assert not machine.apply(layout=LAYOUT)["changed"]


def test_a_refusal_leaves_all_as_it_was(machine: Machine) -> None:
    machine.hold(0, 0, os.getpid())
    said = machine.apply(layout=LAYOUT)
    assert said["failed"] and f"7g.80gb@0 (MIG-{machine.gpus[0]['instances'][0]['compute'][0]['uuid'][4:]}) is in use by process" in said["msg"]
    assert machine.writes() == [] and machine.kept("layout_file") is None
    assert machine.module(mig_info.main)["gpus"][0]["instances"][0]["busy"]


def test_a_mode_that_waits_for_a_reboot(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "A100-40GB", reset=False)
    done = machine.apply(layout={"0": places("7g.40gb@0")})
    assert done["reboot_required"] and done["changed"] and done["resources"] == []
    assert done["reboot_reasons"] == [f"GPU 0: the reset did not work: Resetting GPU {machine.gpus[0]['bus_id']} is not supported."]
    again = machine.apply(layout={"0": places("7g.40gb@0")})
    assert again["reboot_required"] and not again["changed"]
    simulator.reboot(machine.path)
    done = machine.apply(layout={"0": places("7g.40gb@0")})
    assert not done["reboot_required"] and machine.layout(0) == "7g.40gb@0"


def test_no_driver(machine: Machine) -> None:
    with simulator.change(machine.path) as state:
        state["loaded"] = False
    for main, more in ((mig_info.main, {}), (mig_layout.main, {"layout": LAYOUT})):
        assert "nvidia-smi -q -x failed: NVIDIA-SMI has failed because it couldn't" in machine.module(main, **more)["msg"]


class Engine(socketserver.UnixStreamServer):
    """The Docker engine's answers about containers; `stopped` are those that were asked to stop."""

    def __init__(self, path: str, containers: list[dict[str, Any]]) -> None:
        self.stopped: list[str] = []
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, status: int, document: Any = None) -> None:
                body = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                if self.path == "/containers/json":
                    self.answer(200, [{"Id": each["Id"]} for each in containers] + [{"Id": "gone"}])
                elif "gone" in self.path:
                    self.answer(404, {"message": "No such container"})
                elif "broken" in self.path:
                    self.answer(500, {"message": "layer does not exist"})
                else:
                    self.answer(200, next(each for each in containers if each["Id"] in self.path))

            def do_POST(self) -> None:
                engine.stopped.append(self.path)
                status = 500 if "stuck" in self.path else 404 if "left" in self.path else 204
                self.answer(status, {"message": "tried to kill container"} if status != 204 else None)

            def log_message(self, *_: Any) -> None:
                pass

            def address_string(self) -> str:
                return ""

        super().__init__(path, Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def engine(machine: Machine) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(*containers: dict[str, Any]) -> Engine:
        made.append(Engine(machine.socket, list(containers)))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()
        each.server_close()


def session(name: str, uuid: str) -> dict[str, Any]:
    config = {"Env": [f"DOCKER_RESOURCE_MIG_7G_80GB={uuid}"], "Labels": {"metalhub.session": "abc"}}
    return {"Id": name, "Name": f"/{name}", "Config": config, "HostConfig": {"Runtime": "nvidia"}}


def test_a_container_holds_what_swarm_gave_it(machine: Machine, engine: Callable[..., Engine]) -> None:
    """Also while nothing runs in it: a notebook that is idle has its slice."""
    uuid = machine.gpus[0]["instances"][0]["compute"][0]["uuid"]
    docker = engine(session("mh-ada", uuid))
    seen = machine.module(mig_info.main)
    assert seen["sessions"] == ["mh-ada"]
    assert seen["gpus"][0]["instances"][0]["users"] == "container mh-ada"
    assert "in use by container mh-ada" in machine.apply(layout=LAYOUT)["msg"]
    assert machine.writes() == []
    done = machine.apply(layout=LAYOUT, force_busy=[uuid])
    assert docker.stopped == ["/containers/mh-ada/stop?t=10"]
    assert done["actions"][0] == "ended container mh-ada on 7g.80gb@0 of GPU 0"


def test_a_client_that_does_not_end_stops_the_rest(machine: Machine, engine: Callable[..., Engine]) -> None:
    """After what was done before; and one that has left by itself is no problem."""
    machine.fill(1, "1g.10gb@0 1g.10gb@6")
    uuids = [each["compute"][0]["uuid"] for each in machine.gpus[1]["instances"]]
    engine(session("mh-left", uuids[0]), session("mh-stuck", uuids[1]))
    said = machine.apply(layout={"1": []}, force_busy=uuids)
    assert "ending container mh-stuck on 1g.10gb@6 of GPU 1 failed: the Docker engine refused POST /containers/mh-stuck/stop" in said["msg"]
    assert said["done"] == ["ended container mh-left on 1g.10gb@0 of GPU 1", "destroyed 1g.10gb@0 on GPU 1"]
    assert uuids[0] not in str(machine.kept("docker_fragment")) and uuids[1] in str(machine.kept("docker_fragment"))


def test_what_docker_is_told_is_there_also_when_the_driver_did_not_do_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands succeed, and one of them did nothing."""
    run = mig_host.run
    monkeypatch.setattr(mig_host, "run", lambda argv: (0, "") if "9:4" in argv else run(argv))
    said = machine.apply(layout=LAYOUT)
    assert said["failed"] and "the driver took every command, and this is still to be done: GPU 0: 4×1g.10gb@0-3 → 3g.40gb@4" in said["msg"]
    assert [item.split("=")[0] for item in machine.kept("docker_fragment")["node-generic-resources"]] == ["MIG_1G_10GB"] * 4 + ["GPU"] * 2


def test_a_plan_for_when_the_sessions_have_ended(machine: Machine, engine: Callable[..., Engine]) -> None:
    """What a drain brings about must not stand in the way of it; whoever is no session does, and to apply it is to ask again."""
    uuid = machine.gpus[0]["instances"][0]["compute"][0]["uuid"]
    engine(session("mh-ada", uuid))
    machine.hold(0, 0, os.getpid())
    assert "in use by container mh-ada" in machine.apply(check=True, layout=LAYOUT)["msg"]
    for given in ({"layout": LAYOUT}, {"wanted": {"3g.40gb": 2, "1g.10gb": 8}}):
        said = machine.apply(check=True, without_sessions=True, **given)
        assert said["destroyed"] == ["7g.80gb@0 on GPU 0"] and said["sessions"] == ["mh-ada"] and said["engine_restart"]
        assert "[7g.80gb*" in said["drawing"]
    assert "in use by container mh-ada" in machine.apply(without_sessions=True, layout=LAYOUT)["msg"]
    assert machine.writes() == []


def test_only_what_sessions_alone_have_is_free_without_them(machine: Machine) -> None:
    machine.hold(0, 0, 4711)
    gpus = mig_smi.read(machine.run)
    (instance,) = gpus[0].instances
    for names, left in ((["mh-ada"], ()), (["mh-ada", "exporter"], (4711,))):
        held = mig_smi.with_containers(gpus, {name: frozenset(instance.uuids) for name in names})
        assert mig_smi.without_containers(held, ["mh-ada"])[0].instances[0].pids == left
    assert mig_smi.without_containers(gpus, ["mh-ada"]) == gpus


def test_an_engine_that_does_not_know_is_no_proof(machine: Machine, engine: Callable[..., Engine]) -> None:
    engine({"Id": "broken"})
    assert "layer does not exist" in machine.apply(layout=LAYOUT)["msg"]
    assert machine.writes() == []


def test_a_process_that_is_named_is_ended(machine: Machine) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    machine.hold(0, 0, pid)
    # The simulated driver does not see that a process ends.
    waiter = threading.Thread(target=lambda: (os.waitpid(pid, 0), simulator.release(machine.path, pid)))
    waiter.start()
    uuid = machine.gpus[0]["instances"][0]["compute"][0]["uuid"]
    done = machine.apply(layout=LAYOUT, force_busy=[uuid])
    waiter.join()
    assert done["actions"][0] == f"ended process {pid} on 7g.80gb@0 of GPU 0"
