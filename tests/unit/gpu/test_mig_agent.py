"""The boot unit's program: what a boot takes away is made again, and Docker is told what is there, whatever failed."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.metalhub.platform.plugins.module_utils.docker_config import merge_fragments
from gpu_simulator import simulator
from gpu_simulator.host import Host

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "roles/mig/files/opt/metalhub/mig/agent"
PROGRAMS = Path(simulator.__file__).parent


class Machine(Host):
    """A simulated machine with the agent, whose files lie in a directory of their own."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *models: str, **settings: Any) -> None:
        super().__init__(directory, *models, **settings)
        self.root = directory
        self.monkeypatch = monkeypatch
        (directory / "bin").mkdir()
        # As the real one: it reads the file and refuses what it does not know.
        self.program("dockerd", 'grep -q nonsense "$3" && { echo "unknown key nonsense" >&2; exit 1; }; exit 0')
        self.program("nvidia-ctk", f'exec {PROGRAMS}/nvidia-ctk "$@"')
        monkeypatch.setenv("PATH", f"{directory}/bin:{PROGRAMS}:/usr/bin:/bin")
        monkeypatch.setenv("GPU_SIMULATOR", self.path)
        names = ("layout", "docker", "cdi", "stamp")
        self.places = {name: str(directory / "host" / name) for name in names}
        (directory / "settings").write_text(json.dumps({"whole_gpus": True, "places": self.places}))
        self.daemon = directory / "daemon.json"

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @functools.cached_property
    def agent(self) -> ModuleType:
        loader = importlib.machinery.SourceFileLoader("metalhub_mig_agent", str(PROGRAM))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        programs = module.mig_host.run
        # The other programs are real; so is nvidia-smi in test_mig_layout.py, and here it only costs time.
        module.mig_host.run = lambda argv: self.run(argv) if argv[0] == "nvidia-smi" else programs(argv)
        module.SETTINGS, module.DAEMON, module.ENGINE_PID = str(self.root / "settings"), str(self.daemon), str(self.root / "no.pid")
        return module

    def want(self, **gpus: str) -> None:
        """Keep a layout: `g0="1g.10gb@0 …"` or `off`."""
        layout = {
            self.uuid(int(name[1:])): None
            if text == "off"
            else [{"profile": word.split("@")[0], "start": int(word.split("@")[1])} for word in text.split()]
            for name, text in gpus.items()
        }
        Path(self.places["layout"]).parent.mkdir(exist_ok=True)
        Path(self.places["layout"]).write_text(json.dumps({"version": 1, "gpus": layout, "asked": {"layout": {}, "wanted": None}}))

    def fragment(self) -> dict[str, list[str]]:
        return json.loads(Path(self.places["docker"]).read_text())

    def converge(self) -> None:
        """What the docker role makes of the fragments, in the bytes that it writes."""
        own = {"icc": False, "node-generic-resources": ["FPGA=1"]}
        merged = merge_fragments({"docker": own, "mig": self.fragment()})
        self.daemon.write_text(json.dumps(merged, indent=2, sort_keys=True) + "\n")

    def check(self, capsys: pytest.CaptureFixture[str]) -> str:
        capsys.readouterr()
        assert self.agent.check() == 0
        return capsys.readouterr().out.split("state=")[1].split("\n")[0]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch, "H100-80GB", "A100-40GB", uuids="fresh")


def test_a_boot_brings_everything_back(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.want(g0="1g.10gb@0 3g.40gb@4", g1="7g.40gb@0")
    assert machine.agent.boot() == 0
    machine.converge()
    first = machine.fragment()["node-generic-resources"]
    assert [item.split("=")[0] for item in first] == ["MIG_1G_10GB", "MIG_3G_40GB", "MIG_7G_40GB"]
    assert machine.check(capsys) == "ok"

    simulator.reboot(machine.path)
    for name in ("stamp", "cdi"):
        Path(machine.places[name]).unlink()
    assert machine.check(capsys) == "layout"
    assert machine.agent.boot() == 0
    assert (machine.layout(0), machine.layout(1)) == ("1g.10gb@0 3g.40gb@4", "7g.40gb@0")
    second = machine.fragment()["node-generic-resources"]
    assert not set(first) & set(second), "the UUIDs are others"
    # What the next run would write is there already, so it does not restart the engine.
    there = machine.daemon.read_bytes()
    machine.converge()
    assert machine.daemon.read_bytes() == there
    assert set(Path(machine.places["cdi"]).read_text().split()) >= {item.split("=")[1] for item in second}
    assert machine.check(capsys) == "ok"


def test_a_second_start_writes_nothing(machine: Machine) -> None:
    machine.want(g0="1g.10gb@0", g1="off")
    machine.agent.boot()
    machine.converge()
    before = [len(machine.writes()), machine.daemon.stat().st_mtime_ns, Path(machine.places["docker"]).stat().st_mtime_ns]
    assert machine.agent.boot() == 0
    assert [len(machine.writes()), machine.daemon.stat().st_mtime_ns, Path(machine.places["docker"]).stat().st_mtime_ns] == before


def test_without_a_layout_the_whole_gpus_are_offered(machine: Machine) -> None:
    assert machine.agent.boot() == 0
    assert machine.fragment() == {"node-generic-resources": [f"GPU={machine.uuid(0)}", f"GPU={machine.uuid(1)}"]}
    assert machine.writes() == []


@pytest.mark.parametrize("kind", ["no driver", "another gpu", "a refused layout", "a command that fails", "a broken layout"])
def test_what_fails_is_said_and_not_offered(machine: Machine, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    machine.want(g0="1g.10gb@0", g1="1g.5gb@0")
    machine.agent.boot()
    machine.converge()
    simulator.reboot(machine.path)
    if kind == "no driver":
        with simulator.change(machine.path) as state:
            state["loaded"] = False
        kinds, words = [], "couldn't communicate with the NVIDIA driver"
    elif kind == "another gpu":
        with simulator.change(machine.path) as state:
            state["gpus"][0]["uuid"] = "GPU-new"
        kinds, words = ["GPU", "MIG_1G_5GB"], "which is not a GPU of this host"
    elif kind == "a refused layout":
        machine.hold(0, None, 4711)
        kinds, words = ["GPU", "MIG_1G_5GB"], "GPU 0 is in use by process 4711"
    elif kind == "a command that fails":
        simulator.fail(machine.path, 2)
        kinds, words = ["MIG_1G_5GB"], "creating 1g.10gb@0 on GPU 0 failed: Unknown Error"
    else:
        Path(machine.places["layout"]).write_text("[]")
        kinds, words = [], "is not a layout"
    assert machine.agent.boot() == 1
    assert words in capsys.readouterr().err
    offered = json.loads(machine.daemon.read_text())["node-generic-resources"]
    assert [item.split("=")[0] for item in offered] == ["FPGA", *kinds]
    assert not [item for item in offered[1:] if item.split("=")[1] not in str(machine.gpus)]


def test_a_daemon_json_that_docker_refuses_stays(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.daemon.write_text('{"nonsense": 1}')
    assert machine.agent.boot() == 1
    assert "Docker refuses the new one: unknown key nonsense" in capsys.readouterr().err
    assert machine.daemon.read_text() == '{"nonsense": 1}'


def test_a_run_killed_between_the_fragment_and_daemon_json(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.want(g0="1g.10gb@0", g1="off")
    machine.agent.boot()
    machine.converge()
    # The module made another layout and its fragment, and was killed before the engine was told.
    kept = machine.daemon.read_bytes()
    machine.want(g0="1g.10gb@0 3g.40gb@4", g1="off")
    machine.agent.boot()
    machine.daemon.write_bytes(kept)
    assert machine.check(capsys) == "daemon"
    machine.agent.boot()
    there = machine.daemon.read_bytes()
    machine.converge()
    assert machine.daemon.read_bytes() == there and there != kept


def test_devices_that_changed_by_hand_are_seen(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.want(g0="1g.10gb@0", g1="off")
    machine.agent.boot()
    machine.converge()
    assert machine.check(capsys) == "ok"
    machine.fill(1, "")
    assert machine.check(capsys) == "layout"
    machine.agent.boot()
    assert machine.check(capsys) == "ok"
    os.unlink(machine.places["docker"])
    assert machine.check(capsys) == "fragment"


@pytest.mark.parametrize(
    ("state", "asked", "changed", "due"),
    [
        ("ok", {"layout": {"0": []}, "wanted": None}, False, False),
        ("ok", {"layout": {"0": []}, "wanted": None}, True, True),
        ("ok", {"layout": None, "wanted": {"1g.10gb": 1}}, False, True),
        ("cdi", {"layout": {"0": []}, "wanted": None}, False, True),
        ("none", None, True, True),
    ],
)
def test_what_the_role_makes_of_it(state: str, asked: Any, changed: bool, due: bool) -> None:
    """An index of a GPU is text in what is kept, and a changed setting is due in the run that brings it."""
    loader = DataLoader()
    variables = loader.load_from_file(str(ROOT / "roles/mig/vars/main.yml"), trusted_as_template=True)
    facts = {"state": state, "asked": json.dumps(asked)}
    variables |= {"mig_layout": {0: []}, "mig_wanted": {}, "__mig_probe": {"facts": facts}, "__mig_tree": {"changed": changed}}
    assert Templar(loader=loader, variables=variables).template(variables["__mig_due"]) is due


def test_the_program_as_it_is_installed() -> None:
    """The parts are links to the platform's own, all of them."""
    package = PROGRAM.parent / "metalhub_mig"
    for path in package.glob("[a-z]*.py"):
        assert path.is_symlink() and path.resolve() == ROOT / "plugins/module_utils" / path.name
    names = {path.stem for path in package.glob("*.py")}
    for path in package.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("from ."):
                assert line.split()[1].lstrip(".").split(".")[0] in names, f"{path.name}: {line}"
