"""A run is left out only when nothing that it depends on differs: each input is changed once, and must be noticed.

Real runs of ansible-playbook over a local connection; `asked.log` shows whether the playbook's own question was asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
CONFIG = f"""
[defaults]
collections_path = {ROOT}/collections
gathering = explicit
callbacks_enabled = metalhub.platform.settled
interpreter_python = /usr/bin/python3
[connection]
pipelining = true
"""
SITE = """
- hosts: all
  gather_facts: false
  tasks:
    - metalhub.platform.settled:
      register: answer
    - ansible.builtin.set_fact:
        settled: "{{ ansible_play_hosts_all | map('extract', hostvars, ['answer', 'settled']) | map('default', false) | min }}"
      run_once: true
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.meta: end_play
      when: settled | default(false)
    - ansible.builtin.assert: {that: true, quiet: true}
      tags: [some]
    - metalhub.platform.probe:
        script: |
          echo "said=$(cat %(base)s/on-the-host)"
          echo "given={{ word }}"
          echo "read={{ lookup('ansible.builtin.file', '%(base)s/elsewhere') }}"
          echo "found={{ query('ansible.builtin.fileglob', '%(base)s/directory/*') | length }}"
      register: facts
    - ansible.builtin.debug: {msg: "asked {{ facts.facts }}"}
%(more)s
"""


class Site:
    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "directory").mkdir()
        (base / "host_vars").mkdir()
        for name, text in {"ansible.cfg": CONFIG, "on-the-host": "hunter2", "elsewhere": "one", "directory/a": ""}.items():
            (base / name).write_text(text)
        (base / "hosts.yml").write_text("all: {hosts: {here: {ansible_connection: local}}, vars: {word: hello}}")
        self.write()

    def write(self, more: str = "") -> None:
        (self.base / "site.yml").write_text(SITE % {"base": self.base, "more": more})

    def run(self, *options: str, env: dict[str, str] | None = None, ok: bool = True) -> str:
        """Run the site; says whether its question was "asked", or the site left as "settled"."""
        argv = [str(PLAYBOOK), "-i", str(self.base / "hosts.yml"), str(self.base / "site.yml"), *options]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(self.base / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **(env or {})}
        done = subprocess.run(argv, cwd=self.base, env=environment, capture_output=True, text=True, timeout=60)
        self.output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, self.output
        settled = "Every host answers as in the last run that changed nothing" in self.output
        assert settled != ("asked " in self.output), self.output
        return "settled" if settled else "asked"

    def record(self) -> str:
        return "".join(path.read_text() for path in (self.base / ".cache/settled").glob("*.json"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_second_run_asks_at_once_and_the_record_holds_no_answer(site: Site) -> None:
    assert [site.run(), site.run(), site.run("--check")] == ["asked", "settled", "settled"]
    assert "hunter2" not in site.record() and "on-the-host" in site.record()
    assert [path.stat().st_mode & 0o777 for path in (site.base / ".cache/settled").glob("*")] == [0o600]


CHANGES: dict[str, Callable[[Path], object]] = {
    "answer": lambda base: (base / "on-the-host").write_text("else"),
    "no answer": lambda base: (base / "on-the-host").unlink(),
    "file of a lookup": lambda base: (base / "elsewhere").write_text("two"),
    "directory of a lookup": lambda base: (base / "directory/b").write_text(""),
    "host_vars": lambda base: (base / "host_vars/here.yml").write_text("word: bye"),
    "inventory": lambda base: replace(base / "hosts.yml", "hello", "bye"),
    "one more host": lambda base: replace(base / "hosts.yml", "{here:", "{there: {ansible_connection: local}, here:"),
    "playbook": lambda base: replace(base / "site.yml", "quiet: true", "quiet: false"),
}


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_whatever_differs_is_noticed(site: Site) -> None:
    site.run()
    found = {}
    for name, change in CHANGES.items():
        assert site.run() == "settled", f"the run before the change of {name}"
        change(site.base)
        found[name] = site.run()
    assert found == dict.fromkeys(CHANGES, "asked")


def test_variables_environment_and_age_count(site: Site) -> None:
    assert [site.run(), site.run()] == ["asked", "settled"]
    assert site.run("-e", "word=bye") == "asked"
    assert site.run(env={"SOMETHING": "new"}) == "asked"
    assert [site.run(), site.run()] == ["asked", "settled"]
    for path in (site.base / ".cache/settled").glob("*.json"):
        path.write_text(path.read_text().replace('"made": 1', '"made": 0.1'))
    assert site.run() == "asked"


@pytest.mark.parametrize(
    "options", [["--check"], ["--limit", "here"], ["--tags", "all,some"], ["--skip-tags", "other"]], ids=lambda options: options[0]
)
def test_only_a_whole_run_is_kept(site: Site, options: list[str]) -> None:
    assert [site.run(*options), site.run()] == ["asked", "asked"]


@pytest.mark.parametrize("options", [["--limit", "here"], ["--skip-tags", "other"]], ids=lambda options: options[0])
def test_a_partial_run_is_never_left_out(site: Site, options: list[str]) -> None:
    assert [site.run(), site.run(), site.run(*options)] == ["asked", "settled", "asked"]


@pytest.mark.parametrize(
    "more",
    [
        "    - ansible.builtin.command: 'true'\n      changed_when: false",
        "    - ansible.builtin.command: 'true'",
        "    - ansible.builtin.debug: {msg: \"{{ lookup('ansible.builtin.pipe', 'date') }}\"}",
    ],
    ids=["a module", "a change", "a program on the controller"],
)
def test_a_run_that_did_more_than_ask_is_not_kept(site: Site, more: str) -> None:
    site.write(more)
    assert [site.run(), site.run()] == ["asked", "asked"]


def test_a_run_that_failed_is_not_kept(site: Site) -> None:
    site.write("    - metalhub.platform.probe: {script: exit 1}")
    assert [site.run(ok=False), site.run(ok=False)] == ["asked", "asked"]
