"""What the hub role promises, looked at on the host."""

from __future__ import annotations

import json
import re
import time

import pytest

CURL = "curl -s --cacert /etc/metalhub/pki/ca.crt --resolve metalhub.test:443:127.0.0.1 "
SECRETS = "/etc/metalhub/secrets"


@pytest.fixture
def control(hosts):
    return hosts["control"]


def test_it_runs_without_privileges(control):
    hub = control.service("metalhub-hub")
    assert hub.is_running and hub.is_enabled
    said = control.check_output("systemd-analyze security metalhub-hub.service --no-pager")
    exposure = float(re.search(r"exposure level for metalhub-hub.service: ([0-9.]+)", said).group(1))
    assert exposure <= 1.5
    pid = control.check_output("systemctl show -p MainPID --value metalhub-hub")
    status = control.check_output(f"cat /proc/{pid}/status")
    assert re.search(r"CapBnd:\s0+\n", status) and re.search(r"NoNewPrivs:\s1", status)


def test_people_reach_it_over_tls(control):
    assert "Log in" in control.check_output(f"{CURL} -L https://metalhub.test/")
    headers = control.check_output(f"{CURL} -I -X GET https://metalhub.test/hub/login")
    assert re.search(r"(?im)^set-cookie: _xsrf=.*secure", headers), headers


def test_the_secrets_are_its_own(control):
    for name in ("admin-password", "hub-cookie-secret", "hub-traefik-api", "hub-cli"):
        file = control.file(f"{SECRETS}/{name}")
        assert (file.user, file.group, file.mode) == ("root", "metalhub-hub", 0o640), name
        assert len(file.content_string.strip()) >= 20
        # Neither in its configuration, nor in an argument, nor in a log.
        look = f"grep -rlF -f {SECRETS}/{name}"
        found = control.run(f"{look} /etc/metalhub/hub.yml /proc/[0-9]*/cmdline /proc/[0-9]*/environ /opt/metalhub/hub/app")
        assert found.stdout == "", name
        assert control.run(f"journalctl --no-pager | grep -cF -f {SECRETS}/{name}").stdout.strip() == "0", name
        assert control.run(f"{look} {SECRETS}").stdout, "the same look finds it where it is"
    assert control.file("/etc/metalhub/hub.yml").mode == 0o640


def test_the_admin_logs_in_and_sees_the_profiles(control):
    script = f"""
set -e; jar=$(mktemp); c="{CURL} -b $jar -c $jar"
x=$($c https://metalhub.test/hub/login | sed -n 's/.*name="_xsrf" value="\\([^"]*\\)".*/\\1/p' | head -1)
$c -o /dev/null -w '%{{http_code}}\\n' --data-urlencode username=admin --data-urlencode password@{SECRETS}/admin-password \
  --data-urlencode _xsrf=$x https://metalhub.test/hub/login
$c -L https://metalhub.test/hub/spawn/admin; echo; $c https://metalhub.test/hub/metalhub/room; rm $jar
"""
    # curl sends the file's last line feed along.
    control.check_output(f"tr -d '\\n' < {SECRETS}/admin-password > /run/admin-password && chmod 0600 /run/admin-password")
    said = control.check_output(script.replace(f"password@{SECRETS}/admin-password", "password@/run/admin-password"))
    control.check_output("rm /run/admin-password")
    assert said.startswith("302"), said[:300]
    for words in ("Small", "/home/user", "does not persist", "1 hour"):
        assert words in said
    assert json.loads(said.splitlines()[-1])["small"]["why"], "no image was built here, and the card says so"


def test_the_command_line_and_the_audit_log(control):
    assert json.loads(control.check_output("metalhub session list --json")) == []
    assert "admin" in control.check_output("metalhub user list")
    good = json.loads(control.check_output("metalhub audit verify --json"))
    assert good["good"] and good["compared"] == "kept"
    # By hand, and what the journal has of it.
    log = "/var/lib/metalhub/hub/audit.jsonl"
    seq, sha256 = good["head"].split(":")
    assert control.check_output(f"sed -n {seq}p {log} | sha256sum").split()[0] == sha256
    assert control.check_output(f"journalctl METALHUB_AUDIT=1 METALHUB_AUDIT_SHA256={sha256} -o cat").startswith("{")
    control.check_output(f"mkdir /run/changed && sed '2s/hub/hut/' {log} > /run/changed/audit.jsonl")
    changed = control.run("metalhub audit verify --directory /run/changed")
    control.check_output("rm -r /run/changed")
    assert changed.rc == 1 and changed.stderr.startswith("/run/changed/audit.jsonl:2: ")
    refused = control.run("runuser -u nobody -- metalhub session list")
    assert refused.rc == 3 and "run this as root" in refused.stderr
    completed = "COMP_WORDS=(metalhub au) COMP_CWORD=1; _metalhub; echo $COMPREPLY"
    assert control.check_output(f"bash -c '. /usr/share/bash-completion/completions/metalhub; {completed}'") == "audit"


def test_it_comes_back_by_itself(control):
    before = control.check_output("systemctl show -p MainPID --value metalhub-hub")
    control.check_output("systemctl kill -s KILL metalhub-hub.service")
    deadline = time.monotonic() + 60
    while control.run(f"{CURL} -f https://metalhub.test/hub/health").rc != 0:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert control.check_output("systemctl show -p MainPID --value metalhub-hub") != before
