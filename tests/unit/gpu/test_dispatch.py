"""The dispatching OCI runtime: the real scripts, with programs in place of the runtimes that write down how they were called."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "roles/docker/files/usr/local/lib/metalhub"
ID = "4f1c" * 16
# What containerd's shim puts before each command.
GLOBAL = ["--root", "/run/docker/runtime-runc/moby", "--log", "{log}", "--log-format", "json", "--systemd-cgroup"]

# Notes its arguments; has the containers it created until they are deleted; `fail` in its directory makes it fail.
RUNTIME = """#!/bin/sh
here={here}
for argument; do printf '%s\\n' "$argument"; done > "$here/arguments.$$"
mv "$here/arguments.$$" "$here/arguments"
cat > "$here/stdin"
[ ! -e "$here/fail" ] || exit 7
for argument; do id=$argument; done
case " $* " in
  *" create "*) : > "$here/has.$id" ;;
  *" state "*) [ -e "$here/has.$id" ] || {{ echo "container does not exist" >&2; exit 1; }} ;;
  *" delete "*) rm -f "$here/has.$id" ;;
esac
"""


@dataclass
class Node:
    """A directory in which everything lies that the dispatcher looks at."""

    root: Path
    shell: str

    def __post_init__(self) -> None:
        self.log, self.bundle, self.state = self.root / "log.json", self.root / "bundle", self.root / "run/oci"
        self.bundle.mkdir()
        lib = self.root / "lib"
        lib.mkdir()
        shutil.copy(SOURCE / "oci-choose", lib)
        script = (SOURCE / "oci-dispatch").read_text()
        for place in ("/etc/metalhub", "/run/metalhub", "/usr/local/lib/metalhub"):
            assert place in script
            script = script.replace(place, str({"/etc": self.root, "/run": self.root / "run", "/usr": lib}[place[:4]]))
        (lib / "oci-dispatch").write_text(script)
        lines = []
        for choice, arguments in {"gvisor": " --platform=systrap --ignore-cgroups=false", "nvidia": "", "runc": ""}.items():
            here = self.root / choice
            here.mkdir()
            (here / "program").write_text(RUNTIME.format(here=here))
            (here / "program").chmod(0o755)
            lines.append(f"{choice} {here}/program{arguments}\n")
        self.configuration = self.root / "oci-dispatch.conf"
        self.configuration.write_text("".join(lines))

    def call(self, *arguments: str, options: list[str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        options = [option.format(log=self.log) for option in (GLOBAL if options is None else options)]
        script = [*self.shell.split(), str(self.root / "lib/oci-dispatch")]
        return subprocess.run([*script, *options, *arguments], input=stdin, capture_output=True, text=True, timeout=20, check=False)

    def create(self, *env: str, id_: str = ID, **kinds: Any) -> subprocess.CompletedProcess[str]:
        spec = {"ociVersion": "1.1.0", "process": {"args": ["sh"], "env": ["PATH=/bin", *env]}} if not kinds else kinds["spec"]
        (self.bundle / "config.json").write_bytes(spec if isinstance(spec, bytes) else json.dumps(spec).encode())
        return self.call("create", "--bundle", str(self.bundle), "--pid-file", f"{self.bundle}/init.pid", id_)

    def called(self) -> str:
        """Which runtimes have been called since the last look, and forget it."""
        found = [choice for choice in ("gvisor", "nvidia", "runc") if (self.root / choice / "arguments").exists()]
        for choice in found:
            (self.root / choice / "arguments").unlink()
        return " ".join(found)

    def arguments(self, choice: str) -> list[str]:
        return (self.root / choice / "arguments").read_text().splitlines()

    def reason(self) -> str:
        """The last error in the log, read as containerd's shim does."""
        last = json.loads(self.log.read_text().splitlines()[-1])
        assert last["level"] == "error" and last["time"].endswith("Z")
        return str(last["msg"])


SHELLS = [shell for shell in ("dash", "bash --posix") if shutil.which(shell.split()[0])]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, SHELLS[0])


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_goes_to_the_runtime_of_its_container_unchanged(tmp_path: Path, shell: str) -> None:
    node = Node(tmp_path, shell)
    assert node.create("METALHUB_SANDBOX=nvidia").returncode == 0
    given = [option.format(log=node.log) for option in GLOBAL]
    assert node.arguments("nvidia") == [*given, "create", "--bundle", str(node.bundle), "--pid-file", f"{node.bundle}/init.pid", ID]
    node.called()
    for command in (
        ["start", ID],
        ["state", ID],
        ["exec", "--process", "/tmp/a b.json", "--console-socket", "/s", "--detach", "--pid-file", "/p", ID],
        ["exec", "-t", "-u", "1000", ID, "sh", "-c", "echo --force *"],
        ["pause", ID],
        ["resume", ID],
        ["ps", "--format", "json", ID],
        ["ps", "--format", "table", ID, "-ef"],
        ["events", "--stats", ID],
        ["events", "--interval=5s", ID],
        ["update", "--resources=-", ID],
        ["kill", ID, "15"],
        ["kill", "--all", ID, "9"],
        ["delete", ID],
    ):
        assert node.call(*command, stdin="resources").returncode == 0, command
        assert node.arguments("nvidia") == [*given, *command]
        assert (node.root / "nvidia/stdin").read_text() == "resources"
        assert node.called() == "nvidia", command
    assert not list(node.state.rglob(ID)), "deleted is forgotten"


@pytest.mark.parametrize("shell", SHELLS)
def test_arguments_of_the_configuration_come_first(tmp_path: Path, shell: str) -> None:
    node = Node(tmp_path, shell)
    assert node.create("METALHUB_SANDBOX=gvisor").returncode == 0
    assert node.arguments("gvisor")[:3] == ["--platform=systrap", "--ignore-cgroups=false", "--root"]


@pytest.mark.parametrize(
    ("env", "choice"),
    [
        (["METALHUB_SANDBOX=gvisor"], "gvisor"),
        (["METALHUB_SANDBOX=nvidia"], "nvidia"),
        (["METALHUB_SANDBOX=runc"], "runc"),
        ([], "gvisor"),
        (["METALHUB_SANDBOX="], "gvisor"),
        (["METALHUB_SANDBOX"], "gvisor"),
        (["METALHUB_SANDBOX=kata"], "gvisor"),
        (["METALHUB_SANDBOX=NVIDIA"], "gvisor"),
        (["METALHUB_SANDBOX=nvidia "], "gvisor"),
        (["METALHUB_SANDBOX=nvidia\n"], "gvisor"),
        (["METALHUB_SANDBOX=../nvidia"], "gvisor"),
        (["METALHUB_SANDBOX=*"], "gvisor"),
        (["METALHUB_SANDBOX=nvidia", "METALHUB_SANDBOX=gvisor"], "gvisor"),
        (["METALHUB_SANDBOX=gvisor", "METALHUB_SANDBOX=nvidia"], "gvisor"),
        (["METALHUB_SANDBOX=nvidia", "METALHUB_SANDBOX=nvidia"], "gvisor"),
        (["METALHUB_SANDBOX=nvidia", "METALHUB_SANDBOX"], "gvisor"),
        (["metalhub_sandbox=nvidia", "XMETALHUB_SANDBOX=nvidia", "A=METALHUB_SANDBOX=nvidia"], "gvisor"),
    ],
)
def test_without_one_clear_wish_it_is_the_strictest(node: Node, env: list[str], choice: str) -> None:
    assert node.create(*env).returncode == 0
    assert node.called() == choice
    assert node.call("start", ID).returncode == 0
    assert node.called() == choice


@pytest.mark.parametrize(
    "spec",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"process": {}}',
        b'{"process": {"env": "METALHUB_SANDBOX=nvidia"}}',
        b'{"process": {"env": ["A=1", 2]}}',
        b"[" * 100_000,
        b'{"process": {"env": []}}' + b" " * (4 << 20),
        b'{"process": {"env": ["A=\xff"]}}',
    ],
    ids=["empty", "half", "list", "null", "no env", "text", "number", "deep", "huge", "no UTF-8"],
)
def test_a_configuration_that_cannot_be_read_starts_nothing(node: Node, spec: bytes) -> None:
    done = node.create(spec=spec)
    assert done.returncode == 1 and node.called() == ""
    assert "cannot tell what the container asks for" in node.reason()
    assert node.reason() == done.stderr.strip(), "the log is for containerd, standard error for who calls by hand"
    assert not list(node.root.rglob(ID))


def test_no_bundle_starts_nothing(node: Node) -> None:
    assert node.call("create", "--bundle", str(node.root / "none"), ID).returncode == 1
    assert "none/config.json" in node.reason() and node.called() == ""


def test_an_unknown_container_is_nobodys(node: Node) -> None:
    for command in (["start", ID], ["state", ID], ["kill", ID, "9"], ["delete", ID], ["exec", "--process", "/p", ID], ["pause", ID]):
        done = node.call(*command)
        # These words tell containerd that there is nothing left to kill or delete.
        assert done.returncode == 1 and "does not exist" in done.stderr
        assert "does not exist" in node.reason()
    node.called()
    assert node.call("delete", "--force", ID).returncode == 0, "with runc that is no error"
    assert node.called() == "gvisor nvidia runc", "and none of them may keep it"
    (node.root / "nvidia/fail").touch()
    assert node.call("delete", "--force", ID).returncode == 7


def test_a_lost_record_is_found_again_by_asking(node: Node) -> None:
    """The directory of records was emptied under a running container."""
    assert node.create("METALHUB_SANDBOX=nvidia").returncode == 0
    shutil.rmtree(node.state)
    node.called()
    assert node.call("kill", ID, "15", stdin="").returncode == 0
    assert node.arguments("nvidia")[-3:] == ["kill", ID, "15"]
    node.called()
    assert node.call("start", ID).returncode == 0
    assert node.called() == "nvidia", "once asked, it is remembered"


def test_a_delete_that_fails_forgets_nothing(node: Node) -> None:
    assert node.create("METALHUB_SANDBOX=nvidia").returncode == 0
    (node.root / "nvidia/fail").touch()
    assert node.call("delete", ID).returncode == 7
    assert [path.parent.name for path in node.state.rglob(ID)] == ["nvidia"]


def test_a_container_does_not_change_its_runtime(node: Node) -> None:
    assert node.create("METALHUB_SANDBOX=gvisor").returncode == 0
    node.called()
    assert node.create("METALHUB_SANDBOX=nvidia").returncode == 1
    assert "already exists" in node.reason() and node.called() == ""
    # A start that failed leaves its record; the next of the same container is welcome.
    assert node.create("METALHUB_SANDBOX=gvisor").returncode == 0


def test_records_are_roots_alone(node: Node) -> None:
    node.create("METALHUB_SANDBOX=nvidia")
    assert node.state.stat().st_mode & 0o777 == 0o700


def test_many_creates_at_once(node: Node) -> None:
    (node.bundle / "config.json").write_text(json.dumps({"process": {"env": ["METALHUB_SANDBOX=nvidia"]}}))
    other = node.root / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"process": {"env": []}}))
    codes: dict[str, int] = {}

    def create(number: int) -> None:
        bundle = [node.bundle, other][number % 2]
        codes[f"c{number}"] = node.call("create", "--bundle", str(bundle), f"c{number}").returncode

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes.values()) == {0}
    assert sorted(path.name for path in (node.state / "nvidia").iterdir()) == ["c0", "c2", "c4", "c6"]
    assert sorted(path.name for path in (node.state / "gvisor").iterdir()) == ["c1", "c3", "c5", "c7"]


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "a b", "a\nb", "$(id)", "*", "ü"])
@pytest.mark.parametrize("command", ["create", "state", "delete"])
def test_ids_that_could_be_paths_are_refused(node: Node, bad: str, command: str) -> None:
    options = ["--bundle", str(node.bundle)] if command == "create" else []
    assert node.call(command, *options, bad).returncode == 1
    assert "illegal container id" in node.reason() and node.called() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a command is needed"),
        (["run", "--bundle", "/b", ID], "unknown command run"),
        (["restore", ID], "unknown command restore"),
        (["checkpoint", ID], "unknown command checkpoint"),
        (["list"], "unknown command list"),
        (["create", "--bundle"], "option --bundle of create needs a value"),
        (["create", "--keep", ID], "unknown option --keep of create"),
        (["create", "--no-pivot=false", ID], "unknown option --no-pivot of create"),
        (["create", "--bundle -b", ID], "unknown option --bundle -b of create"),
        (["create", "--", ID], "unknown option -- of create"),
        (["create", ID, "--bundle", "/b"], "create takes one container"),
        (["delete", ID, "other"], "delete takes one container"),
        (["state", "--format", "json", ID], "unknown option --format of state"),
        (["delete", '"}\\', ID], "illegal container id ??"),
    ],
)
def test_what_is_not_understood_is_refused(node: Node, arguments: list[str], words: str) -> None:
    assert node.call(*arguments).returncode == 1
    assert words in node.reason().replace('"', "?") and node.called() == ""


@pytest.mark.parametrize("options", [["--cgroup-manager", "x"], ["--root"], ["-x"], ["--rootless-all=1"], ["--", "state"]])
def test_unknown_global_options_are_refused(node: Node, options: list[str]) -> None:
    node.create()
    node.called()
    done = node.call(*(["state", ID] if options != ["--root"] else []), options=options)
    assert done.returncode == 1 and "option" in done.stderr and node.called() == ""


def test_a_value_is_not_a_command(node: Node) -> None:
    node.create()
    node.called()
    assert node.call("state", ID, options=["--root", "create", "--log", "{log}", "--rootless=true", "--debug"]).returncode == 0
    assert node.called() == "gvisor"


@pytest.mark.parametrize("arguments", [["--version"], ["-v"], ["features"], ["--root", "/r", "features"]])
def test_questions_about_the_runtime_are_for_the_strictest(node: Node, arguments: list[str]) -> None:
    assert node.call(*arguments, options=[]).returncode == 0
    assert node.called() == "gvisor"


def test_forms_of_the_bundle(node: Node) -> None:
    (node.bundle / "config.json").write_text(json.dumps({"process": {"env": ["METALHUB_SANDBOX=nvidia"]}}))
    wrong = str(node.root / "none")
    for number, form in enumerate((["-b", str(node.bundle)], [f"--bundle={node.bundle}"], ["--bundle", wrong, "-b", str(node.bundle)])):
        assert node.call("create", *form, f"c{number}").returncode == 0
        assert node.called() == "nvidia"


def test_a_node_without_its_configuration_starts_nothing(node: Node) -> None:
    node.configuration.unlink()
    assert node.create("METALHUB_SANDBOX=gvisor").returncode == 1
    assert "no runtime in" in node.reason() and node.called() == ""


def test_a_runtime_that_is_not_there(node: Node) -> None:
    (node.root / "nvidia/program").unlink()
    assert node.create("METALHUB_SANDBOX=nvidia").returncode == 1
    assert "program for nvidia" in node.reason() and node.called() == ""
