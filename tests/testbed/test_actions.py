"""The actions `units`, `packages`, `probe` and `settled` on a host with a real systemd, started for this file alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
TESTBED = [sys.executable, str(ROOT / "testbed/testbed.py")]
NET = "actions"


class Host:
    """A test host, and the way to run one task on it."""

    def __init__(self, inventory: Path, base: Path) -> None:
        self.inventory, self.base = inventory, base
        self.output = ""

    def sh(self, script: str, check: bool = True) -> str:
        """Run a shell script in the host and return what it printed."""
        argv = [*TESTBED, "exec", NET, "h1", "--", "sh", "-c", script]
        return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=60).stdout.strip()

    def run(self, action: str, *options: str, ok: bool = True, **args: object) -> dict:
        """Run metalhub.platform.<action> once and return its result; with `ok=False` it must fail."""
        report = self.base / "result.json"
        report.unlink(missing_ok=True)
        copy = {"content": "{{ result | to_json }}", "dest": str(report), "mode": "0600"}
        task = {f"metalhub.platform.{action}": args, "register": "result"}
        after = {"ansible.builtin.copy": copy, "delegate_to": "localhost", "connection": "local", "check_mode": False, "diff": False}
        playbook = self.base / "play.yml"
        playbook.write_text(yaml.safe_dump([{"hosts": "h1", "gather_facts": False, "tasks": [{"block": [task], "always": [after]}]}]))
        argv = [str(PLAYBOOK), "-i", str(self.inventory), str(playbook), *options]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)
        self.output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, self.output
        return json.loads(report.read_text())

    def unit(self, text: str) -> str:
        """Put a new service on the host and return its name."""
        name = f"t-{uuid.uuid4().hex[:8]}.service"
        self.sh(f"cat > /etc/systemd/system/{name} <<'X'\n{text}\nX\nsystemctl daemon-reload")
        return name

    def started(self, unit: str) -> str:
        return self.sh(f"systemctl show -p ExecMainStartTimestampMonotonic --value {unit}")


SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n{more}\n[Install]\nWantedBy=multi-user.target"


@pytest.fixture(scope="module")
def machine() -> Iterator[Path]:
    subprocess.run([*TESTBED, "up", "--name", NET, "h1"], check=True, timeout=900)
    yield ROOT / f".cache/testbed/{NET}/inventory.yml"
    subprocess.run([*TESTBED, "down", NET], check=True, timeout=120)


@pytest.fixture
def host(machine: Path, tmp_path: Path) -> Host:
    return Host(machine, tmp_path)


@pytest.fixture
def unit(host: Host) -> Iterator[str]:
    name = host.unit(SLEEPER.format(more="ExecReload=/bin/true"))
    yield name
    host.sh(f"systemctl unmask {name}; systemctl disable --now {name}; rm -f /etc/systemd/system/{name}", check=False)


# -- units -----------------------------------------------------------------------------------------------------------


def test_enables_and_starts_then_is_free(host: Host, unit: str) -> None:
    assert host.run("units", enabled=[unit])["actions"] == [f"enable {unit}", f"start {unit}"]
    assert host.sh(f"systemctl is-enabled {unit}; systemctl is-active {unit}") == "enabled\nactive"
    second = host.run("units", enabled=[unit])
    assert (second["changed"], second["actions"]) == (False, [])


def test_check_mode_tells_and_does_nothing(host: Host, unit: str) -> None:
    told = host.run("units", "--check", "--diff", enabled=[unit])
    assert told["changed"] and told["actions"] == [f"enable {unit}", f"start {unit}"]
    assert f"+start {unit}" in host.output
    assert host.sh(f"systemctl is-enabled {unit}; systemctl is-active {unit}", check=False) == "disabled\ninactive"


def test_stops_what_runs_and_does_not_miss_what_is_not_there(host: Host, unit: str) -> None:
    host.sh(f"systemctl enable --now {unit}")
    assert host.run("units", stopped=[unit, "no-such-unit.service"])["actions"] == [f"stop {unit}", f"disable {unit}"]
    assert not host.run("units", stopped=[unit, "no-such-unit.service"])["changed"]


def test_unmasks(host: Host) -> None:
    unit = host.sh("systemctl list-unit-files --state=disabled --type=service --no-legend | grep -o '^dnsmasq.service'")
    host.sh(f"systemctl mask {unit}")
    assert host.run("units", "--check", enabled=[unit])["actions"][0] == f"unmask {unit}"
    host.run("units", ok=True, enabled=[unit])
    assert host.sh(f"systemctl is-enabled {unit}") == "enabled"
    host.sh(f"systemctl disable --now {unit}")


@pytest.mark.parametrize("what", ["{d}", "{d}/a.conf", "{d}/*.conf"])
def test_restarts_when_a_file_is_newer_and_only_then(host: Host, unit: str, what: str) -> None:
    directory = f"/etc/t-{unit}"
    host.sh(f"mkdir -p {directory}; echo 1 > {directory}/a.conf; touch {directory}/b.other; systemctl enable --now {unit}")
    watch = {unit: [what.format(d=directory), "/etc/no-such-file"]}
    before = host.started(unit)
    assert not host.run("units", enabled=[unit], restart_on=watch)["changed"]
    host.sh(f"echo 2 > {directory}/a.conf")
    assert host.run("units", "--check", enabled=[unit], restart_on=watch)["actions"] == [f"restart {unit}"]
    assert host.started(unit) == before
    # What a run that was killed between the file and the restart leaves behind looks exactly so: the next run mends it.
    assert host.run("units", enabled=[unit], restart_on=watch)["actions"] == [f"restart {unit}"]
    assert host.started(unit) != before
    assert not host.run("units", enabled=[unit], restart_on=watch)["changed"]


def test_a_file_with_an_old_date_that_came_later_counts(host: Host, unit: str) -> None:
    host.sh(f"systemctl enable --now {unit}; sleep 0.1; echo 1 > /etc/{unit}.conf; touch -d 2001-01-01 /etc/{unit}.conf")
    assert host.run("units", enabled=[unit], restart_on={unit: [f"/etc/{unit}.conf"]})["actions"] == [f"restart {unit}"]


def test_reloads_once_and_a_restart_covers_a_reload(host: Host, unit: str) -> None:
    host.sh(f"echo 1 > /etc/{unit}.a; echo 1 > /etc/{unit}.b; systemctl enable --now {unit}; sleep 0.1; echo 2 > /etc/{unit}.a")
    args = {"enabled": [unit], "reload_on": {unit: [f"/etc/{unit}.a"]}, "restart_on": {unit: [f"/etc/{unit}.b"]}}
    before = host.started(unit)
    assert host.run("units", **args)["actions"] == [f"reload-or-restart {unit}"]
    assert host.started(unit) == before
    assert not host.run("units", **args)["changed"]
    host.sh(f"echo 3 > /etc/{unit}.a; echo 3 > /etc/{unit}.b")
    assert host.run("units", **args)["actions"] == [f"restart {unit}"]
    assert not host.run("units", **args)["changed"]


def test_a_stopped_unit_is_not_restarted_for_its_files(host: Host, unit: str) -> None:
    host.sh(f"echo 1 > /etc/{unit}.conf")
    assert not host.run("units", stopped=[unit], restart_on={unit: [f"/etc/{unit}.conf"]})["changed"]


def test_reloads_systemd_when_a_unit_file_changed(host: Host, unit: str) -> None:
    host.sh(f"systemctl enable --now {unit}; sleep 0.1; echo '# more' >> /etc/systemd/system/{unit}")
    watch = {unit: [f"/etc/systemd/system/{unit}"]}
    assert host.run("units", enabled=[unit], restart_on=watch)["actions"] == ["daemon-reload", f"restart {unit}"]
    assert not host.run("units", enabled=[unit], restart_on=watch)["changed"]


def test_an_escaped_name_works(host: Host) -> None:
    name = r"t-with\x2ddash.service"
    host.sh(f"printf '[Service]\\nExecStart=/bin/sleep infinity\\n' > '/etc/systemd/system/{name}'; systemctl daemon-reload")
    assert host.run("units", enabled=[name], restart_on={name: ["/etc/hostname"]})["actions"] == [f"start {name}"]
    host.sh("sleep 0.1; touch /etc/hostname")
    assert host.run("units", enabled=[name], restart_on={name: ["/etc/hostname"]})["actions"] == [f"restart {name}"]
    host.sh(f"systemctl stop '{name}'; rm '/etc/systemd/system/{name}'")


def test_a_unit_that_fails_says_why(host: Host) -> None:
    name = host.unit(
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo the disk is on fire; exit 3'\n[Install]\nWantedBy=multi-user.target"
    )
    message = host.run("units", ok=False, enabled=[name])["msg"]
    assert f"systemctl start {name}" in message and "the disk is on fire" in message


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"enabled": ["nginx"]}, "is not a unit's full name"),
        ({"enabled": ["$(reboot).service"]}, "is not a unit's full name"),
        ({"enabled": ["no-such-unit.service"]}, "the host has no unit no-such-unit.service"),
        ({"enabled": ["cron.service"], "stopped": ["cron.service"]}, "both `enabled` and `stopped`"),
        ({"restart_on": {"cron.service": ["etc/x"]}}, "not an absolute path or glob"),
        ({"restart_on": {"cron.service": ["/etc/$(reboot)"]}}, "not an absolute path or glob"),
        ({"reload_on": {"cron.service": ["/etc/a b"]}}, "not an absolute path or glob"),
        ({"restarted": ["cron.service"]}, "Unsupported parameters"),
    ],
)
def test_units_refuses_bad_input(host: Host, args: dict, said: str) -> None:
    assert said in host.run("units", ok=False, **args)["msg"]


# -- packages --------------------------------------------------------------------------------------------------------


def test_packages_present_missing_and_pinned(host: Host) -> None:
    assert host.run("packages", name=["jq", "curl"]) | {"failed": False} == {"changed": False, "missing": [], "failed": False}
    version = host.sh("dpkg-query -W -f='${Version}' jq")
    assert not host.run("packages", name=[f"jq={version}"])["changed"]
    assert not host.run("packages", name=[f"jq={version[:2]}*"])["changed"]
    assert host.run("packages", "--check", name=["curl", "jq=0.0*"], ok=False)["missing"] == ["jq=0.0*"]


def test_packages_installs_what_is_missing(host: Host) -> None:
    host.sh("dpkg --purge hello >/dev/null 2>&1", check=False)
    told = host.run("packages", "--check", name=["jq", "hello"])
    assert told["changed"] and told["missing"] == ["hello"]
    assert host.sh("dpkg-query -W hello 2>/dev/null", check=False) == ""
    assert host.run("packages", name=["jq", "hello"])["missing"] == ["hello"]
    assert "hello" in host.sh("dpkg-query -W hello")
    assert not host.run("packages", name=["jq", "hello"])["changed"]
    # Removed, but with its configuration: not there.
    host.sh("dpkg --remove hello")
    assert host.run("packages", "--check", name=["hello"])["missing"] == ["hello"]


def test_a_package_that_does_not_exist_is_named(host: Host) -> None:
    assert "no-such-package" in host.run("packages", ok=False, name=["no-such-package"])["msg"]


# -- probe -----------------------------------------------------------------------------------------------------------


def test_probe_returns_pairs_also_in_check_mode(host: Host) -> None:
    result = host.run("probe", "--check", script="echo a=1\necho 'b_2=x = y'\nexit 0")
    assert (result["changed"], result["facts"]) == (False, {"a": "1", "b_2": "x = y"})


def test_probe_hides_what_is_sensitive(host: Host) -> None:
    assert host.run("probe", "-vvv", script="printf 's=hun'; echo ter2", sensitive=True)["facts"] == {"s": "hunter2"}
    assert "hunter2" not in host.output


@pytest.mark.parametrize(
    ("script", "said"), [("echo nonsense", "not key=value"), ("echo bad >&2; exit 7", "status 7: bad"), ("exit 3", "status 3")]
)
def test_probe_fails_clearly(host: Host, script: str, said: str) -> None:
    assert said in host.run("probe", ok=False, script=script)["msg"]


if os.geteuid() != 0:
    pytest.skip("the test hosts need root", allow_module_level=True)
