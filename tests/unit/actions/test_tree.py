"""The `tree` action, run for real by ansible-playbook over a local connection.

Its manifest lies under /var/lib/metalhub, so each run has a mount namespace of its own with an empty /var/lib.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="tree sets owners, and the namespace needs root")


class Site:
    """A source tree, a target directory, and a way to run `tree` from the one to the other."""

    def __init__(self, base: Path) -> None:
        self.src, self.out, self.state = base / "src", base / "out", base / "state"
        for directory in (self.src / "templates" / "_", self.src / "files", self.out, self.state):
            directory.mkdir(parents=True)
        self.playbook = base / "play.yml"

    def template(self, name: str, text: str, kind: str = "templates") -> Path:
        path = self.src / kind / str(self.out / name).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *options: str, variables: dict | None = None, ok: bool = True, **args: object) -> dict:
        """Run the action once and return its result; with `ok=False` it must fail."""
        task = {"metalhub.platform.tree": {"name": "under-test", "src": str(self.src), **args}, "register": "result"}
        report = {
            "ansible.builtin.copy": {"content": "{{ result | to_json }}", "dest": str(self.state / "result.json"), "mode": "0600"},
            "check_mode": False,
            "diff": False,
        }
        play = {"hosts": "localhost", "gather_facts": False, "vars": variables or {}}
        play["tasks"] = [{"block": [task], "always": [report]}]
        self.playbook.write_text(yaml.safe_dump([play]))
        (self.state / "lib").mkdir(exist_ok=True)
        (self.state / "result.json").unlink(missing_ok=True)
        script = f"mount --bind {self.state}/lib /var/lib && exec {PLAYBOOK} -i localhost, -c local {self.playbook} {' '.join(options)}"
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
        self.output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, self.output
        return json.loads((self.state / "result.json").read_text())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o7777)


def test_installs_renders_and_is_free_the_second_time(site: Site) -> None:
    site.template("a.conf.j2", "hello {{ who }}\n")
    script = site.template("tool", "#!/bin/sh\n", kind="files")
    script.chmod(0o755)
    first = site.run(variables={"who": "world"}, directories=[{"path": str(site.out / "d"), "mode": "0700"}])
    assert first["changed"]
    assert first["paths"] == [str(site.out / name) for name in ("a.conf", "d", "tool")]
    assert (site.out / "a.conf").read_text() == "hello world\n"
    assert (mode(site.out / "a.conf"), mode(site.out / "tool"), mode(site.out / "d")) == ("0o644", "0o755", "0o700")
    second = site.run(variables={"who": "world"}, directories=[{"path": str(site.out / "d"), "mode": "0700"}])
    assert (second["changed"], second["paths"]) == (False, [])


def test_check_mode_tells_the_truth_and_changes_nothing(site: Site) -> None:
    site.template("a.conf.j2", "one\n")
    told = site.run("--check", "--diff")
    assert told["changed"] and told["paths"] == [str(site.out / "a.conf")]
    assert "+one" in site.output
    assert not (site.out / "a.conf").exists()
    assert site.run("--diff")["paths"] == told["paths"]


@pytest.mark.parametrize("drift", ["content", "mode", "gone"])
def test_mends_drift(site: Site, drift: str) -> None:
    site.template("a.conf.j2", "one\n")
    site.run()
    target = site.out / "a.conf"
    if drift == "content":
        target.write_text("two\n")
    elif drift == "mode":
        target.chmod(0o666)
    else:
        target.unlink()
    assert site.run()["paths"] == [str(target)]
    assert target.read_text() == "one\n" and mode(target) == "0o644"


def test_removes_what_it_no_longer_owns_and_nothing_else(site: Site) -> None:
    source = site.template("a.conf.j2", "one\n")
    site.template("b.conf.j2", "two\n")
    (site.out / "stranger.conf").write_text("not ours\n")
    site.run()
    source.unlink()
    result = site.run(rules=[{"path": "*/b.conf", "when": False}])
    assert result["paths"] == [str(site.out / name) for name in ("a.conf", "b.conf")]
    assert sorted(path.name for path in site.out.iterdir()) == ["stranger.conf"]
    assert not site.run(rules=[{"path": "*/b.conf", "when": False}])["changed"]


def test_keeps_a_backup_of_a_file_it_did_not_make(site: Site) -> None:
    site.template("a.conf.j2", "ours\n")
    (site.out / "a.conf").write_text("the site's own\n")
    site.run()
    backup = site.state / "lib/metalhub/tree/backup" / str(site.out / "a.conf").lstrip("/")
    assert backup.read_text() == "the site's own\n"
    (site.out / "a.conf").write_text("drift\n")
    site.run()
    assert backup.read_text() == "the site's own\n"


def test_a_refused_file_stops_all_of_them(site: Site) -> None:
    site.template("a.conf.j2", "new\n")
    site.template("b.conf.j2", "bad\n")
    (site.out / "a.conf").write_text("old\n")
    result = site.run(rules=[{"path": "*/b.conf", "validate": "grep -q good %s"}], ok=False)
    assert "b.conf is refused by its own program" in result["msg"]
    assert (site.out / "a.conf").read_text() == "old\n" and not (site.out / "b.conf").exists()
    assert [path.name for path in site.out.iterdir()] == ["a.conf"], "a temporary file was left behind"


def test_a_secret_shows_nowhere(site: Site) -> None:
    item = {"path": str(site.out / "s"), "content": "hunter2-{{ n }}", "sensitive": True, "mode": "0600"}
    for n in (1, 2):
        site.run("--diff", "-vvv", contents=[item], variables={"n": n})
        assert "hunter2" not in site.output.replace("hunter2-{{ n }}", "")
    assert (site.out / "s").read_text() == "hunter2-2" and mode(site.out / "s") == "0o600"


def test_contents_by_template_with_variables_and_as_json(site: Site) -> None:
    (site.src / "templates/_/unit.j2").write_text("where={{ item.where }}\n")
    site.run(
        contents=[
            {"path": str(site.out / "u"), "template": "unit.j2", "vars": {"item": {"where": "/x"}}},
            {"path": str(site.out / "j"), "content": {"b": 1, "a": [2]}},
        ]
    )
    assert (site.out / "u").read_text() == "where=/x\n"
    assert json.loads((site.out / "j").read_text()) == {"a": [2], "b": 1}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"contents": [{"path": "relative", "content": ""}]}, "not an absolute path"),
        ({"contents": [{"path": "/x/y z", "content": ""}]}, "not an absolute path"),
        ({"contents": [{"path": "/x", "content": "", "mode": 416}]}, "quoted octal"),
        ({"contents": [{"path": "/x"}]}, "either `content` or `template`"),
        ({"contents": [{"path": "/x", "content": ""}, {"path": "/x", "content": ""}]}, "given twice"),
        ({"contents": [{"path": "/x", "content": "", "chmod": "1"}]}, "unknown"),
        ({"rules": [{"path": "/x", "validate": "true"}], "contents": [{"path": "/x", "content": ""}]}, "%s"),
        ({"name": "Bad Name"}, "lower-case"),
        ({"contents": [{"path": "/tmp/no-such-owner", "content": "", "owner": "no-such-user"}]}, "no owner 'no-such-user'"),
    ],
)
def test_bad_input_is_one_clear_message(site: Site, args: dict, said: str) -> None:
    assert said in site.run(ok=False, **args)["msg"]
    assert not Path("/tmp/no-such-owner").exists()
