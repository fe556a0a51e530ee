"""The playbook that reports refusals, run for real over a local connection, in check mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


def line(age: float = 60, **more: Any) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
    fields = {
        "time": stamp, "node": "n1", "user": "ann", "session": "s", "profile": "pii", "class": "clinic", "source": "10.231.64.2",
        "destination": "data.example.org", "port": 443, "protocol": "tcp", "via": "proxy-connect", "verdict": "refused",
        "reason": "not in the class's list", "count": 2, **more,
    }  # fmt: skip
    return json.dumps(fields, sort_keys=True) + "\n"


def run(directory: Path, *options: str, status: int = 0) -> str:
    hosts = {
        "n0": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_retries": 0},
        **{name: {"ansible_connection": "local", "egress_report_log": f"{directory}/{name}/refusals.jsonl"} for name in ("n1", "n2", "n3")},
    }
    common = {"ansible_python_interpreter": sys.executable}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"metalhub_compute": {"hosts": hosts, "vars": common}}))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", f"{directory}/hosts.yml", "playbooks/egress_report.yml", *options],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "n1").mkdir()
    (tmp_path / "n2").mkdir()
    # Each file of the journal may begin or end within a line that is being written, or was cut off by the limit.
    (tmp_path / "n1/refusals.jsonl").write_text(line() + line(verdict="allowed", reason="") + line(destination="{{ 1 }}", port=80) + '{"half')
    (tmp_path / "n1/refusals.jsonl.1").write_text('nd"}\n' + line(age=3600) + line(age=90000))
    (tmp_path / "n2/refusals.jsonl").write_text(line(node="n2", user="bob", **{"class": "internal"}))
    return tmp_path


def test_what_was_refused(logs: Path) -> None:
    output = run(logs, "--check", "-e", "egress_report_top=3")
    said = [text.strip() for text in output.partition("msg: |-")[2].partition("PLAY RECAP")[0].strip().splitlines()]
    assert said[:2] == ["n0 did not answer, so what it refused is missing here", "n3 has no log of refusals"]
    table = [" ".join(text.split()) for text in said[3:]]
    assert [text.split(" ", 1)[0] for text in table] == ["4", "-", "2", "2", "-"]
    assert table[0].endswith("ann clinic data.example.org:443 n1 The class does not list this destination.")
    assert table[1] == "- data.example.org:443 # metalhub_egress_classes.clinic.allow"
    assert "ann clinic {{ 1 }}:80 n1" in table[2]
    assert table[4] == "- data.example.org:443 # metalhub_egress_internal"
    assert "changed=0" in output and "changed=1" not in output


def test_choices(logs: Path) -> None:
    options = ["--limit", "n1,n2", "-e", "egress_report_class=internal"]
    assert "msg: Nothing was refused within 5s." in run(logs, *options, "-e", "egress_report_since=5s")
    refused = run(logs, *options, "-e", "egress_report_since=soon", status=2)
    assert "egress_report_since: soon" in refused and "90m, 24h or 7d" in refused
