"""The profiles and approvals of a hub without a hub: files, the start-up script in a real shell, and the command line's own mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from conftest import document
from metalhub_hub import approvals, audit, config, durable, policy, profiles, service
from metalhub_hub.cli.__main__ import main as command
from metalhub_hub.core import profiles as rules
from test_hub import PACKAGE
from test_session_spec import spec


def made(tmp_path: Path, **changes: Any) -> profiles.Profiles:
    return profiles.Profiles(config.parse(document(tmp_path, **changes)), audit.Audit(str(tmp_path / "audit.jsonl")), lambda: 1000.0)


# The file


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 9, "document": "x", "profiles": {}}', '{"version": 1}', '{"version": 1, "document": "x", "profiles": {"small": 1}}',
     '{"version": 1, "document": "x", "profiles": {"small": {"created": false, "fields": {"title": {"value": "x"}}}}}'],
)  # fmt: skip
def test_a_file_that_nobody_understands_is_set_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / profiles.FILE).write_text(text)
    found = made(tmp_path)
    assert found.runtime == {} and set(found.document.profiles) == {"small", "slice", "pii", "ghost"}
    assert (tmp_path / f"{profiles.FILE}.unreadable").read_text() == text and not (tmp_path / profiles.FILE).exists()


def test_a_write_that_is_cut_short_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(tmp_path)
    one.change("small", {"title": "First"}, "change", "ann")
    before = (tmp_path / profiles.FILE).read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(durable.os, name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                one.change("small", {"title": "Second"}, "change", "ann")
        assert (tmp_path / profiles.FILE).read_bytes() == before
        assert one.document.profiles["small"].title == "First"
    assert made(tmp_path).document.profiles["small"].title == "First"


def test_nobody_else_reads_the_files(tmp_path: Path) -> None:
    made(tmp_path).change("small", {"title": "First"}, "change", "ann")
    assert (tmp_path / profiles.FILE).stat().st_mode & 0o007 == 0


def test_a_change_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.change("small", {"title": "Small", "groups": None}, "change", "ann")
    assert not (tmp_path / profiles.FILE).exists() and '"profile.changed"' not in (tmp_path / "audit.jsonl").read_text()


def test_secrets_of_an_environment_are_in_no_log(tmp_path: Path) -> None:
    made(tmp_path).change("small", {"environment": {"TOKEN": "hush"}, "startup": "echo hush"}, "change", "ann")
    assert "hush" not in (tmp_path / "audit.jsonl").read_text()


def test_a_profile_that_is_gone_from_the_inventory_takes_its_changes_along(tmp_path: Path) -> None:
    made(tmp_path).change("slice", {"description": "gone soon"}, "change", "ann")
    raw = document(tmp_path)
    del raw["profiles"]["slice"]
    after = profiles.Profiles(config.parse(raw), audit.Audit(str(tmp_path / "audit2.jsonl")))
    assert after.runtime == {} and "slice" not in after.document.profiles and after.broken == {}


def test_one_that_the_inventory_takes_over_is_the_inventorys(tmp_path: Path) -> None:
    fields = {"image": "lab", "flavor": "small", "pool": "cpu", "egress": "internal", "max_session": "3h", "description": "mine"}
    made(tmp_path).change("next", fields, "create", "ann")
    raw = document(tmp_path)
    raw["profiles"]["next"] = {"image": "lab", "flavor": "small", "pool": "cpu", "egress": "packages", "max_session": "9h"}
    after = profiles.Profiles(config.parse(raw), audit.Audit(str(tmp_path / "audit2.jsonl")))
    found = after.document.profiles["next"]
    assert (found.egress, found.max_session, found.description) == ("packages", 9 * 3600, "mine")
    with pytest.raises(rules.ProfileRefused, match="is in the inventory"):
        after.delete("next", "ann")


def probe(tmp_path: Path) -> list[str]:
    """What the role's probe of the control host says of profiles."""
    template = jinja2.Environment().from_string((PACKAGE.parents[1] / "roles/hub/templates/_/probe.sh.j2").read_text().replace(" | quote", ""))
    script = template.render(__hub_state=str(tmp_path), __hub_venv="/nowhere", __hub_secrets="/nowhere", hub_traefik_group="none")
    done = subprocess.run(["/bin/sh"], input=script, capture_output=True, text=True, timeout=30, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("profiles")]


def test_the_role_sees_what_a_converge_would_drop_and_nothing_else(tmp_path: Path) -> None:
    assert probe(tmp_path) == []
    one = made(tmp_path)
    one.change("small", {"environment": {"A": '"pending": true'}, "description": '\n "pending": true'}, "change", "ann")
    assert probe(tmp_path) == [], "the inventory leaves these open"
    one.change("small", {"title": "Other"}, "change", "ann")
    assert probe(tmp_path) == ["profiles=pending"]
    assert [each.field for each in one.converge("a test")] == ["title"]
    assert probe(tmp_path) == []


# Approvals


def test_an_approval_has_an_end_and_a_file_that_cannot_be_read_approves_nobody(tmp_path: Path) -> None:
    raw = document(tmp_path)
    raw["profiles"]["small"]["approval"] = True
    clock = [1000.0]

    class Host:
        document = config.parse(raw)
        audit = audit.Audit(str(tmp_path / "audit.jsonl"))

    one, small = approvals.Approvals(Host, lambda: clock[0]), Host.document.profiles["small"]
    with pytest.raises(policy.Refused, match="needs an administrator's approval"):
        one.admit("ann", small)
    one.decide("ann", "small", True, "admin", "", 2000)
    one.admit("ann", small)
    assert one.why_not("ann", small) == ("", "", "")
    approvals.Approvals(Host, lambda: 1999.0).admit("ann", small)
    clock[0] = 2000
    with pytest.raises(policy.Refused, match="Your approval ended on 1 January 1970"):
        one.admit("ann", small)
    one.decide("ann", "small", True, "admin", "", 0)
    text = (tmp_path / approvals.FILE).read_text()
    for broken in (text.replace('"until": 0', '"until": "later"'), text.replace('"approved"', '"yes"'), text[:-9]):
        (tmp_path / approvals.FILE).write_text(broken)
        with pytest.raises(policy.Refused):
            approvals.Approvals(Host, lambda: clock[0]).admit("ann", small)


# The start-up script, in a real shell


def start(tmp_path: Path, doc: config.Document, script: object, **environment: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run a session's command with /tmp elsewhere. Returns what became of it and the log that its user finds."""
    raw = document(tmp_path)
    raw["profiles"]["small"]["startup"] = script
    container = spec(config.parse(raw))["TaskTemplate"]["ContainerSpec"]
    log = tmp_path / "startup.log"
    shell, option, text, *rest = container["Args"]
    assert (shell, option, rest) == ("/bin/sh", "-c", ["metalhub-startup", "jupyterhub-singleuser"])
    variables = dict(line.split("=", 1) for line in container["Env"])
    done = subprocess.run(
        [shell, option, text.replace(service.STARTUP_LOG, str(log)), "metalhub-startup", sys.executable, "-c", "import os; print('server', dict(os.environ))"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), service.STARTUP: variables[service.STARTUP], **environment},
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done, log.read_text()


def test_the_script_runs_before_the_server(tmp_path: Path, doc: config.Document) -> None:
    done, log = start(tmp_path, doc, ["echo one > made", 'echo "two  words \\$HOME"', "printf '%s\\n' \"$0\""])
    assert done.returncode == 0 and done.stdout.startswith("server ") and service.STARTUP not in done.stdout
    assert (tmp_path / "made").read_text() == "one\n" and "two  words $HOME" in log and "two  words $HOME" in done.stderr
    assert "metalhub:" not in log


@pytest.mark.parametrize("script", ["exit 3", "if then", "kill -9 $$", "no-such-command", "false\n"])
def test_a_script_that_fails_is_told_and_locks_nobody_out(tmp_path: Path, doc: config.Document, script: str) -> None:
    done, log = start(tmp_path, doc, script)
    assert done.returncode == 0 and done.stdout.startswith("server ")
    for text in (done.stderr, log):
        assert "metalhub: the profile's start-up script failed with exit code" in text, text


def test_a_script_that_does_not_end_is_ended(tmp_path: Path, doc: config.Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_RUN_STARTUP", service._RUN_STARTUP.replace(f"-k 2 {service.STARTUP_SECONDS}", "-k 2 1"))
    done, log = start(tmp_path, doc, "echo begun; sleep 50")
    assert done.stdout.startswith("server ") and "begun" in log and "exit code 124" in log


def test_a_program_that_it_leaves_behind_holds_nothing_up(tmp_path: Path, doc: config.Document) -> None:
    done, _ = start(tmp_path, doc, "sleep 3 &")
    assert done.stdout.startswith("server ") and done.returncode == 0


def test_a_profile_without_a_script_starts_as_ever(doc: config.Document) -> None:
    container = spec(doc)["TaskTemplate"]["ContainerSpec"]
    assert container["Args"] == ["jupyterhub-singleuser"] and not [line for line in container["Env"] if "STARTUP" in line]


# The command line's own mistakes, of which the hub hears nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "small", "max_sesion=8h"), "there is no field 'max_sesion'; Did you mean max_session? legal are title"),
        (("set", "small", "max_session"), "'max_session' is no field with a value"),
        (("set", "small", "approval=maybe"), "approval is 'maybe'; legal are true and false"),
        (("set", "small", "environment=A=1"), "environment is 'A=1'; legal is a JSON object"),
        (("set", "small", "startup=@/nowhere"), "/nowhere cannot be read: No such file or directory"),
        (("approve", "bob", "guarded", "--for", "1d", "--until", "2030-01-01T00:00:00Z"), "an approval has one end"),
        (("approve", "bob", "guarded", "--for", "soon"), "--for: 'soon' is not a duration"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("METALHUB_HUB_CONFIG", str(tmp_path / "no-hub-here"))
    assert command(["profile", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and message in said.err
