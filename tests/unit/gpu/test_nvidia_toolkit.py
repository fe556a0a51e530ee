"""Which releases and modes of the toolkit are refused, and its self-test with a false engine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.metalhub.platform.plugins.module_utils import nvidia_toolkit

ROLE = Path(__file__).parents[3] / "roles/nvidia_container_toolkit"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("1.19.0-1", (1, 19, 0)),
        ("1.20.3", (1, 20, 3)),
        ("1.19", (1, 19, 0)),
        ("1:1.19.1-1", (1, 19, 1)),
        ("1.19.0~rc.2-1", (1, 19, -1)),
        ("1.19.0-rc.2", (1, 19, -1)),
        ("1.9.0-1", (1, 9, 0)),
    ],
)
def test_release(version: str, numbers: tuple[int, int, int]) -> None:
    assert nvidia_toolkit.release(version) == numbers


@pytest.mark.parametrize("bad", ["", "latest", "v1", "(none)"])
def test_no_release(bad: str) -> None:
    with pytest.raises(ValueError, match="is not a version of the NVIDIA container toolkit"):
        nvidia_toolkit.release(bad)


@pytest.mark.parametrize(
    ("version", "mode", "driver", "words"),
    [
        ("1.19.0-1", "auto", "systemd", None),
        ("1.20.0-1", "cdi", "systemd", None),
        ("1.19.0-1", "jit-cdi", "systemd", None),
        ("1.19.0-1", "legacy", "cgroupfs", None),
        ("1.19.0-1", "legacy", "", None),
        ("1.18.2-1", "auto", "systemd", "is 1.18.2-1, wanted is 1.19.0 or newer"),
        ("1.19.0~rc.7-1", "auto", "systemd", "is 1.19.0~rc.7-1, wanted is 1.19.0"),
        ("1.19.0-1", "legacy", "systemd", "daemon-reload would take the GPU from running sessions"),
    ],
)
def test_refusal(version: str, mode: str, driver: str, words: str | None) -> None:
    said = nvidia_toolkit.refusal(version, mode, driver)
    assert said is None if words is None else words in str(said)


@pytest.mark.parametrize(
    ("change", "untested"),
    [
        ({}, True),
        ({"nvidia_container_toolkit_selftest": False}, False),
        # No flavor asks for a GPU yet: nothing could be tried, however often.
        ({"nvidia_container_toolkit_resources": []}, False),
        ({"driver": ""}, False),
        ({"tested": "{{ __nvidia_container_toolkit_tested }}"}, False),
    ],
)
def test_what_is_still_to_be_tried(change: dict[str, object], untested: bool) -> None:
    """It decides whether a run does anything, so it has to end."""
    loader = DataLoader()
    variables = {}
    for name in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / name / "main.yml"), trusted_as_template=True)
    digest = {"release": "1.19.0-1", "driver": "580.95.05"}
    facts = {**digest, "tested": "", **{name: value for name, value in change.items() if name in ("driver", "tested")}}
    if facts["tested"]:
        variables["__nvidia_container_toolkit_probe"] = {"facts": digest}
        facts["tested"] = Templar(loader=loader, variables=variables).template(variables["__nvidia_container_toolkit_tested"])
    variables |= {name: value for name, value in change.items() if name in variables} | {"__nvidia_container_toolkit_probe": {"facts": facts}}
    assert Templar(loader=loader, variables=variables).template(variables["__nvidia_container_toolkit_untested"]) is untested


# The self-test. The false engine notes its calls and answers as a node would; FAULT makes it answer as a broken one.
DOCKER = """#!/bin/sh
printf '%s\\n' "$*" >> {here}/calls
case "$*" in
  image*|rm*|import*) cat > /dev/null; exit 0 ;;
  run*-d*) exit 0 ;;
  exec*) [ "$FAULT" = reload ] && exit 255; echo "GPU 0: NVIDIA (UUID: GPU-1)" ;;
  run*DOCKER_RESOURCE_GPU=GPU-1*) [ "$FAULT" = swarm ] && exit 127; echo "GPU 0: NVIDIA (UUID: GPU-1)" ;;
  run*) [ "$FAULT" = leak ] || exit 127; echo "GPU 0: NVIDIA (UUID: GPU-1)" ;;
esac
"""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("", "GPU-1"),
        ("swarm", "did not see the GPU that was reserved"),
        ("leak", "sees a GPU without a reservation"),
        ("reload", "lost its GPU at a daemon-reload"),
    ],
)
def test_the_self_test_tells_what_is_wrong(tmp_path: Path, fault: str, words: str) -> None:
    text = (ROLE / "templates/usr/local/lib/metalhub/nvidia-selftest.j2").read_text()
    script = text.replace("{{ nvidia_container_toolkit_selftest_timeout }}", "20").replace("/var/lib/metalhub", str(tmp_path / "var"))
    script = script.replace('{{ nvidia_container_toolkit_resources | first | default("GPU") }}', "GPU")
    assert "{{" not in script and "{%" not in script
    smi = "#!/bin/sh\ncase $1 in -L) echo 'GPU 0: NVIDIA (UUID: GPU-0)' ;; *) printf 'GPU-0, Enabled\\nGPU-1, [N/A]\\n' ;; esac\n"
    for name, body in {"docker": DOCKER.format(here=tmp_path), "systemctl": "#!/bin/sh\n", "nvidia-smi": smi}.items():
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    # The program in the image is copied with its libraries, so ldd has to find some.
    (tmp_path / "ldd").write_text("#!/bin/sh\necho '/bin/true'\n")
    (tmp_path / "ldd").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAULT": fault}
    done = subprocess.run(["sh", "-c", script, "sh", "digest"], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode == 0) is (fault == "")
    assert words in done.stdout + done.stderr
    tested = tmp_path / "var/nvidia_container_toolkit/tested"
    assert tested.exists() is (fault == "")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all("NVIDIA_VISIBLE_DEVICES=void" in call for call in calls if call.startswith("run"))
    assert calls[-1].startswith("image rm"), "nothing is left behind"
