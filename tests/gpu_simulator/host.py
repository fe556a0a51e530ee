"""A simulated machine as tests see it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import simulator


class Killed(BaseException):
    """The caller of `nvidia-smi` was killed."""


class Host:
    """A machine with one GPU for each model; ``settings`` as `simulator.make` takes them."""

    def __init__(self, directory: Path, *models: str, **settings: Any) -> None:
        self.path = str(directory / "gpus.json")
        simulator.make(self.path, models, **settings)

    def smi(self, line: str, status: int = 0) -> str:
        """Run `nvidia-smi` with a line of words and hold its exit status against what is expected."""
        got, text = simulator.run(self.path, line.split())
        assert got == status, text
        return text

    def run(self, argv: Sequence[str]) -> tuple[int, str]:
        """The runner for the code under test: a fault that kills raises Killed."""
        assert argv[0] == "nvidia-smi"

        def kill() -> None:
            raise Killed

        return simulator.run(self.path, list(argv[1:]), kill)

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """The state of each GPU."""
        return simulator.load(self.path)["gpus"]

    def uuid(self, gpu: int) -> str:
        """A GPU's UUID."""
        return self.gpus[gpu]["uuid"]

    def writes(self) -> list[str]:
        """The writing calls so far, without the selection of a GPU."""
        return [" ".join(argv) for argv in simulator.calls(self.path, writes_only=True)]

    def layout(self, gpu: int) -> str:
        """What is on a GPU: `off`, or each instance with its start, and `!` behind one without a device."""
        state = self.gpus[gpu]
        if not state["current"]:
            return "off"
        rows = {row.id: row.name for row in simulator.geometry.MODELS[state["model"]].rows}
        instances = sorted(state["instances"], key=lambda each: each["start"])
        return " ".join(f"{rows[each['profile']]}@{each['start']}{'' if each['compute'] else '!'}" for each in instances)

    def fill(self, gpu: int, layout: str) -> None:
        """Bring about a layout in the form of ``layout``, without a trace in the log."""
        with open(self.path + ".log", encoding="utf-8") as stream:
            log = stream.read()
        self.smi(f"-i {gpu} -mig 1")
        for word in layout.split():
            profile, start = word.removesuffix("!").split("@")
            self.smi(f"mig -i {gpu} -cgi {profile}:{start}" + ("" if word.endswith("!") else " -C"))
        with open(self.path + ".log", "w", encoding="utf-8") as stream:
            stream.write(log)

    def hold(self, gpu: int, start: int | None, pid: int) -> None:
        """Let a process run on the instance that starts there, or on the GPU itself."""
        number = next((each["id"] for each in self.gpus[gpu]["instances"] if each["start"] == start), None)
        simulator.hold(self.path, gpu, number, pid)
