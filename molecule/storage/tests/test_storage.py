"""What the roles storage and storage_mount promise, looked at on the hosts."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import jinja2
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "collections"))
PKI = "/etc/metalhub/pki"
MIB = 2**20


def ask(hosts, method: str, path: str, limit: int = 0, certificate: str = "hub-client", **fields: object):
    body = fields | ({"limit_bytes": limit} if limit else {})
    body = f"-d '{json.dumps(body)}'" if body else ""
    tls = f"--cacert {PKI}/ca.crt --cert {PKI}/{certificate}.crt --key {PKI}/{certificate}.key"
    answer = hosts["control"].run(f"curl -sS -m 20 -w '\\n%{{http_code}}' {tls} -X {method} {body} https://127.0.0.1:8700{path}")
    assert answer.rc == 0, answer.stderr
    text, _, status = answer.stdout.rpartition("\n")
    return int(status), json.loads(text)


# Restores a home by the service's own code, in a process that is killed before its n-th step.
KILLED = """
import importlib.machinery, importlib.util, os, signal, sys
loader = importlib.machinery.SourceFileLoader("metalhub_storage", "/opt/metalhub/storage/metalhub-storage")
service = importlib.util.module_from_spec(importlib.util.spec_from_loader("metalhub_storage", loader))
loader.exec_module(service)
left = int(sys.argv[3])
def step(act, *arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return act(*arguments)
swap = service.exchange
service.exchange = lambda one, other: step(swap, one, other)
changes = lambda argv: argv[1:3] in (["subvolume", "snapshot"], ["qgroup", "limit"], ["property", "set"])
run = lambda argv: step(service.run, argv) if changes(argv) else service.run(argv)
service.Homes("/mnt/testbed/homes", "/srv/metalhub", run, keep=5).restore(sys.argv[1], sys.argv[2])
"""


def as_user(host, command: str):
    return host.run(f"setpriv --reuid 1000 --regid 1000 --clear-groups sh -c '{command}'")


def common_name(hosts) -> str:
    return hosts["control"].check_output(f"openssl x509 -in {PKI}/hub-client.crt -noout -subject")


def test_the_hubs_certificate_has_the_name_that_is_let_in(hosts):
    document = json.loads(hosts["control"].file("/etc/metalhub/storage.json").content_string)
    assert any(name in common_name(hosts) for name in document["clients"]), (common_name(hosts), document["clients"])


def test_a_limit_cuts_on_the_node_and_a_larger_one_lets_through(hosts):
    status, home = ask(hosts, "PUT", "/homes/limited", 20 * MIB)
    assert (status, home["path"], home["limit_bytes"]) == (200, "/srv/metalhub/homes/limited", 20 * MIB)
    node = hosts["compute1"]
    write = f"dd if=/dev/urandom of={home['path']}/file bs=1M count=40 conv=fsync 2>&1"
    cut = as_user(node, write)
    assert cut.rc != 0 and ("quota exceeded" in cut.stdout or "No space left" in cut.stdout)
    assert node.file(f"{home['path']}/file").size <= 20 * MIB
    assert ask(hosts, "PUT", "/homes/limited", 80 * MIB)[0] == 200
    assert as_user(node, write).rc == 0
    assert node.file(f"{home['path']}/file").size == 40 * MIB
    hosts["control"].check_output("sync -f /mnt/testbed/homes")
    assert ask(hosts, "GET", "/homes/limited")[1]["used_bytes"] >= 40 * MIB


def test_a_home_is_its_users_alone(hosts):
    ask(hosts, "PUT", "/homes/private", 20 * MIB)
    home = hosts["compute1"].file("/srv/metalhub/homes/private")
    assert (home.uid, home.gid, home.mode) == (1000, 1000, 0o700)
    assert hosts["compute1"].run("setpriv --reuid 1001 --regid 1001 --clear-groups ls /srv/metalhub/homes/private").rc != 0
    shared = hosts["compute1"].file("/srv/metalhub/shared")
    assert (shared.uid, shared.gid, shared.mode) == (1000, 1000, 0o775)


def test_only_the_hub_may_ask(hosts):
    assert ask(hosts, "GET", "/health", certificate="hub-client")[0] == 200
    control = hosts["control"]
    # A certificate of our own authority, for a client, of another name.
    control.check_output(
        f"cd {PKI} && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=stranger -keyout stranger.key -out /tmp/s.csr"
        " && echo extendedKeyUsage=clientAuth > /tmp/s.ext && openssl x509 -req -in /tmp/s.csr -CA ca.crt -CAkey /etc/metalhub/ca/ca.key"
        " -days 1 -extfile /tmp/s.ext -out stranger.crt"
    )
    status, answer = ask(hosts, "PUT", "/homes/intruder", 20 * MIB, certificate="stranger")
    control.check_output(f"rm {PKI}/stranger.*")
    assert status == 403 and "may not use" in answer["error"]
    # A host's own certificate is for serving alone.
    for client in ("", f"--cert {PKI}/node.crt --key {PKI}/node.key"):
        assert control.run(f"curl -sS -m 5 --cacert {PKI}/ca.crt {client} https://127.0.0.1:8700/health").rc != 0
    assert ask(hosts, "GET", "/homes/intruder")[0] == 404


def test_many_at_once_and_a_kill_leave_whole_homes(hosts):
    """Killed while it makes homes, the service comes back, and asking again finishes what was begun."""
    control = hosts["control"]
    tls = f"--cacert {PKI}/ca.crt --cert {PKI}/hub-client.crt --key {PKI}/hub-client.key"
    put = f"curl -s -o /dev/null -m 20 {tls} -X PUT -d '{{\"limit_bytes\": {20 * MIB}}}' https://127.0.0.1:8700/homes/many-$i"
    control.check_output(f"for i in $(seq 8); do {put} & done; sleep 0.05; systemctl kill -s KILL metalhub-storage; wait")
    control.check_output("timeout 20 sh -c 'until systemctl is-active -q metalhub-storage; do sleep 0.2; done'")
    for number in range(1, 9):
        status, home = ask(hosts, "PUT", f"/homes/many-{number}", 20 * MIB)
        assert (status, home["limit_bytes"]) == (200, 20 * MIB)
    owners = control.check_output("stat -c '%u %a' /mnt/testbed/homes/homes/many-*").splitlines()
    assert owners == ["1000 700"] * 8


def names(hosts, home: str) -> list[str]:
    status, found = ask(hosts, "GET", f"/homes/{home}/snapshots")
    assert status == 200, found
    return [one["name"] for one in found["snapshots"]]


def test_a_restore_brings_back_files_and_keeps_what_was(hosts):
    node, limit = hosts["compute1"], 60 * MIB
    path = ask(hosts, "PUT", "/homes/restored", limit)[1]["path"]
    write = "head -c 10M /dev/urandom > {0}/lost; mkdir -p {0}/deep/er; echo one > {0}/deep/er/file; chmod 0640 {0}/deep/er/file; ln -sf deep {0}/link"
    assert as_user(node, write.format(path)).rc == 0
    look = f"cd {path} && find . -printf '%p %y %m %U %T@ %l\\n' | sort && cat lost deep/er/file | sha256sum"
    was = node.check_output(look)
    status, taken = ask(hosts, "PUT", "/homes/restored/snapshots", cause="idle")
    assert (status, taken["cause"], taken["retired"]) == (200, "idle", []), taken
    assert taken["used_bytes"] >= 10 * MIB
    assert as_user(node, f"rm -r {path}/lost {path}/deep; head -c 20M /dev/urandom > {path}/newer").rc == 0
    status, done = ask(hosts, "PUT", "/homes/restored/restore", snapshot=taken["name"])
    assert (status, done["limit_bytes"], done["settle_seconds"]) == (200, limit, 0), done
    assert node.check_output(look) == was
    assert not node.file(f"{path}/newer").exists
    # The limit holds for what is restored, and snapshots take nothing of it.
    fits, cut = (as_user(node, f"dd if=/dev/urandom of={path}/more bs=1M count={size} conv=fsync 2>&1") for size in (40, 80))
    assert fits.rc == 0, fits.stdout
    assert cut.rc != 0 and "quota exceeded" in cut.stdout
    # What was replaced is a snapshot, and that can be undone.
    assert names(hosts, "restored") == [done["before"], taken["name"]]
    assert ask(hosts, "PUT", "/homes/restored/restore", snapshot=done["before"])[0] == 200
    assert node.file(f"{path}/newer").size == 20 * MIB and not node.file(f"{path}/lost").exists


def test_the_last_snapshots_are_kept(hosts):
    control = hosts["control"]
    ask(hosts, "PUT", "/homes/often", 60 * MIB)
    taken = []
    for number in range(7):
        control.check_output(f"echo {number} > /mnt/testbed/homes/homes/often/file")
        taken.append(ask(hosts, "PUT", "/homes/often/snapshots", cause="idle")[1]["name"])
    keep = json.loads(control.file("/etc/metalhub/storage.json").content_string)["snapshots_keep"]
    assert names(hosts, "often") == taken[: -keep - 1 : -1]
    texts = [control.check_output(f"cat /mnt/testbed/homes/.snapshots/often/{name}/file") for name in names(hosts, "often")]
    assert texts == ["6", "5", "4", "3", "2"]
    assert control.run(f"touch /mnt/testbed/homes/.snapshots/often/{taken[-1]}/file").rc != 0
    # The kernel drops the counts of what went, at the latest when the service starts anew.
    control.check_output("btrfs subvolume sync /mnt/testbed/homes && systemctl restart metalhub-storage")
    assert "stale" not in control.check_output("btrfs qgroup show /mnt/testbed/homes")


def test_snapshots_are_out_of_reach_of_users_and_of_other_homes(hosts):
    ask(hosts, "PUT", "/homes/mine", 20 * MIB)
    name = ask(hosts, "PUT", "/homes/mine/snapshots", cause="idle")[1]["name"]
    ask(hosts, "PUT", "/homes/theirs", 20 * MIB)
    for snapshot, status in ((name, 404), (f"../mine/{name}", 400), ("../../homes/mine", 400)):
        assert ask(hosts, "PUT", "/homes/theirs/restore", snapshot=snapshot)[0] == status
    node = hosts["compute1"]
    assert node.run(f"ls /srv/metalhub/.snapshots/mine/{name}").rc == 0
    assert as_user(node, "ls /srv/metalhub/.snapshots").rc != 0
    assert as_user(node, f"ls /srv/metalhub/.snapshots/mine/{name}").rc != 0


@pytest.mark.parametrize("step", range(5))
def test_killed_in_a_restore_it_leaves_a_whole_home(hosts, step):
    """Four steps change something: the copy, its limit, the exchange, the seal. The fifth process comes to its end."""
    control, home = hosts["control"], f"killed-{step}"
    place = f"/mnt/testbed/homes/homes/{home}"
    ask(hosts, "PUT", f"/homes/{home}", 20 * MIB)
    control.check_output(f"echo first > {place}/file")
    name = ask(hosts, "PUT", f"/homes/{home}/snapshots", cause="idle")[1]["name"]
    control.check_output(f"echo second > {place}/file")
    # Without the exit the shell would become the process, and SSH has no status for one that was killed.
    done = control.run(f"cat > /tmp/killed.py <<'EOF'\n{KILLED}\nEOF\npython3 /tmp/killed.py {home} {name} {step}; exit $?")
    assert done.rc == (0 if step == 4 else 137), (done.rc, done.stderr)
    assert control.check_output(f"cat {place}/file") == ("first" if step >= 3 else "second")
    status, found = ask(hosts, "PUT", f"/homes/{home}", 20 * MIB)
    assert (status, found["limit_bytes"]) == (200, 20 * MIB)
    store = f"/mnt/testbed/homes/.snapshots/{home}"
    texts = {control.check_output(f"cat {store}/{one}/file") for one in names(hosts, home)} | {control.check_output(f"cat {place}/file")}
    assert texts == {"first", "second"}
    for one in names(hosts, home):
        assert control.check_output(f"btrfs property get -t subvol {store}/{one} ro") == "ro=true"
    status, found = ask(hosts, "PUT", f"/homes/{home}/restore", snapshot=name)
    assert (status, found["limit_bytes"], control.check_output(f"cat {place}/file")) == (200, 20 * MIB, "first")


def test_a_service_killed_while_it_restores_and_takes_snapshots_comes_back(hosts):
    control = hosts["control"]
    ask(hosts, "PUT", "/homes/busy", 20 * MIB)
    control.check_output("echo kept > /mnt/testbed/homes/homes/busy/file")
    name = ask(hosts, "PUT", "/homes/busy/snapshots", cause="idle")[1]["name"]
    tls = f"--cacert {PKI}/ca.crt --cert {PKI}/hub-client.crt --key {PKI}/hub-client.key"
    put = f"curl -s -o /dev/null -m 20 {tls} -X PUT https://127.0.0.1:8700/homes/busy"
    restore, take = f"""{put}/restore -d '{{"snapshot": "{name}"}}'""", f"""{put}/snapshots -d '{{"cause": "user"}}'"""
    for delay in ("0.02", "0.05", "0.1"):
        control.check_output(f"{restore} & {take} & {restore} & sleep {delay}; systemctl kill -s KILL metalhub-storage; wait")
        control.check_output("timeout 20 sh -c 'until systemctl is-active -q metalhub-storage; do sleep 0.2; done'")
        status, found = ask(hosts, "PUT", "/homes/busy", 20 * MIB)
        assert (status, found["limit_bytes"]) == (200, 20 * MIB), found
        assert control.check_output("cat /mnt/testbed/homes/homes/busy/file") == "kept"
        assert names(hosts, "busy")


def test_the_service_is_confined(hosts):
    words = hosts["control"].run("systemd-analyze security --no-pager metalhub-storage.service").stdout
    exposure = re.search(r"exposure level for metalhub-storage.service: ([0-9.]+)", words)
    assert exposure and float(exposure[1]) <= 2.5, words[-500:]


def test_the_file_system_grew(hosts):
    assert ask(hosts, "GET", "/health")[1]["total_bytes"] == 1536 * MIB


def test_what_was_refused_was_not_formatted(hosts):
    assert hosts["control"].check_output("blkid -p -s LABEL -o value /var/tmp/ext4.img") == "precious"
    assert hosts["control"].check_output("blkid -p -s LABEL -o value /var/tmp/foreign.img") == "somebodys"
    assert "no signature" in hosts["control"].check_output("head -c 2M /var/tmp/raw.img | tr -d '\\0'")


def test_nothing_is_written_below_a_mount_that_is_away(hosts):
    node = hosts["compute1"]
    node.check_output("systemctl stop srv-metalhub.mount")
    try:
        away = node.run("touch /srv/metalhub/lost && mkdir -p /srv/metalhub/homes/lost")
        assert away.rc != 0
        assert node.check_output("ls -A /srv/metalhub") == ""
    finally:
        node.check_output("systemctl start srv-metalhub.mount")
    assert node.run("test -d /srv/metalhub/homes").rc == 0


def test_a_bind_waits_for_its_source_to_be_a_mount(hosts):
    node = hosts["compute1"]
    unit = "sed 's,^Where=.*,Where=/srv/other,; s,{0},{1},' /etc/systemd/system/srv-metalhub.mount > /run/systemd/system/srv-other.mount"
    for source, works in (("/var/tmp", False), ("/mnt/testbed/homes", True)):
        node.check_output(unit.format("/mnt/testbed/homes", source) + "; systemctl daemon-reload")
        assert (node.run("systemctl start srv-other.mount").rc == 0) == works
    node.check_output("systemctl stop srv-other.mount; rm /run/systemd/system/srv-other.mount; systemctl daemon-reload")


@pytest.mark.parametrize(
    "mount",
    [
        {"path": "/srv/metalhub", "source": "storage:/srv/metalhub", "type": "nfs"},
        {"path": "/srv/a-b", "source": "//files/share", "type": "cifs", "credentials": {"username": "u", "password": "p"}},
        {"path": "/srv/x", "source": "homes@storage:/srv", "type": "fuse"},
    ],
    ids=["nfs", "cifs", "fuse"],
)
def test_systemd_accepts_the_units_of_what_this_kernel_cannot_mount(hosts, mount):
    storage_plan = importlib.import_module("ansible_collections.metalhub.platform.plugins.module_utils.storage_plan")
    plan = storage_plan.plan_mount(mount)
    text = jinja2.Template((ROOT / "roles/storage_mount/templates/_/storage.mount.j2").read_text(encoding="utf-8")).render(vars(plan))
    node, path = hosts["compute1"], f"/run/verify/{plan.unit}"
    node.check_output(f"mkdir -p /run/verify && cat > '{path}' <<'EOF'\n{text}\nEOF")
    verified = node.run(f"systemd-analyze verify '{path}'")
    assert verified.rc == 0 and not verified.stderr, verified.stderr
