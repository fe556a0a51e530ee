"""Preflight and plan as an operator runs them, on inventories whose hosts do not exist: nothing is connected to."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parents[3]
# No facts are asked for, so the connection that would fail is never made.
PLAY = [{"hosts": "all", "gather_facts": False, "tasks": [{"metalhub.platform.preflight": {}, "run_once": True}]}]


class SiteDir:
    """A copy of the example's inventory, to be spoiled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(ROOT / "inventories/example", path, symlinks=True)
        link = path / "group_vars/all/00-metalhub"
        link.unlink()
        link.symlink_to(ROOT / "group_vars/all")
        path.with_name("play.yml").write_text(yaml.safe_dump(PLAY))

    def append(self, text: str, name: str = "group_vars/all/site.yml") -> SiteDir:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text((file.read_text() if file.exists() else "---\n") + text)
        return self

    def run(self, playbook: Path | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(self.path),
            str(playbook or self.path.with_name("play.yml")),
            *arguments,
        ]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "120"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def message(self, *arguments: str) -> str:
        done = self.run(None, *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> SiteDir:
    return SiteDir(tmp_path / "site")


def test_the_example_is_right(site: SiteDir) -> None:
    done = site.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(p.parent.name for p in ROOT.glob("inventories/*/hosts.yml")))
def test_the_inventories_are_right(name: str, tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", f"inventories/{name}", str(tmp_path / "play.yml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_many_mistakes_come_together_with_their_places(site: SiteDir) -> None:
    site.append("metalhub_domian: x\ndocker_live_restore: perhaps\nmetalhub_home_size: lots\nsession_agent_hibernate_largest: 10\n")
    site.append("metalhub_pool: tpu\nbase_sysctl: '{{ nothing }}'\n", "host_vars/cpu1.yml")
    text = site.message("-e", "metalhub_admin=7", "-e", '{"metalhub_quotas": {"defaults": "x"}}')
    assert "Nothing was changed." in text
    for words in (
        "Metalhub has no such variable. Did you mean metalhub_domain?",
        'metalhub_home_size = "lots"',
        "session_agent_hibernate_largest = 10",
        'metalhub_pool = "tpu" on cpu1',
        "base_sysctl on cpu1",
        "'nothing' is undefined",
        "Did you mean default?",
        "site/group_vars/all/site.yml:",
        "site/host_vars/cpu1.yml:2",
    ):
        assert words in text, words
    assert "unreachable=0" in text


def test_profile_written_twice(site: SiteDir) -> None:
    file = site.path / "group_vars/all/site.yml"
    file.write_text(file.read_text().replace("  notebook-cpu-large:\n", "  notebook-cpu-small:\n"))
    text = site.message()
    assert "metalhub_profiles.notebook-cpu-small" in text
    assert "A duplicate profile: it is written twice, in lines" in text


def test_egress_class_written_twice(site: SiteDir) -> None:
    file = site.path / "group_vars/all/site.yml"
    file.write_text(file.read_text().replace("  open: {deny_lists", "  clinic: {subnet: 10.231.80.0/20}\n  open: {deny_lists"))
    text = site.message()
    assert "metalhub_egress_classes.clinic" in text
    assert "written twice, in lines" in text


def test_deny_list_that_is_not_there(site: SiteDir) -> None:
    (site.path / "files/egress/mining.txt").unlink()
    text = site.message()
    assert "metalhub_egress_deny_lists.mining" in text
    assert "The list cannot be read: No such file or directory." in text


def test_bad_egress_is_told_with_its_place(site: SiteDir) -> None:
    (site.path / "files/egress/mining.txt").write_text("pool..example.net\n")
    file = site.path / "group_vars/all/site.yml"
    file.write_text(file.read_text().replace("metalhub_egress_packages: [mirror.example.org]", 'metalhub_egress_packages: ["*.github.io"]'))
    text = site.message()
    for words in (
        "This is not a host name.",
        "Below github.io anybody can have a name",
        "site/group_vars/all/site.yml:",
        "There are 2 problems",
    ):
        assert words in text, words


def test_host_in_two_pool_groups(site: SiteDir) -> None:
    file = site.path / "hosts.yml"
    file.write_text(
        file.read_text().replace(
            "            gpu1: {ansible_host: 10.20.0.31}\n", "            gpu1: {ansible_host: 10.20.0.31}\n            cpu2: {}\n"
        )
    )
    assert "Two pools on one node: cpu_nodes says cpu, gpu_nodes says gpu." in site.message()
    # A word of the host itself decides.
    site.append("metalhub_pool: cpu\n", "host_vars/cpu2.yml")
    assert site.run().returncode == 0


def test_defaults_not_loaded(site: SiteDir) -> None:
    (site.path / "group_vars/all/00-metalhub").unlink()
    text = site.message()
    assert "The platform's defaults were not loaded" in text
    assert "There is one problem" in text


def test_secrets_are_not_shown(site: SiteDir) -> None:
    site.append("metalhub_admin_pasword: hunter2\n")
    assert "hunter2" not in site.message()


def make_certificate(folder: Path, name: str, days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "notebooks.example.org")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, end - datetime.timedelta(days=400), end)
    (folder / f"{name}.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(private)


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("none.crt", "good.key", "The certificate cannot be read: No such file or directory."),
        ("good.key", "good.key", "There is no certificate in the file."),
        ("old.crt", "old.key", "The certificate ended on"),
        ("good.crt", "old.key", "The key is not that of the certificate"),
        ("good.crt", "good.crt", "There is no key without a passphrase in the file."),
        ("good.crt", "none.key", "The key cannot be read"),
        ("good.crt", "", "its key is not"),
        ("good.crt", "good.key", ""),
    ],
)
def test_certificates(tmp_path: Path, certificate: str, key: str, words: str) -> None:
    from ansible_collections.metalhub.platform.plugins.plugin_utils.site import _check_certificate

    make_certificate(tmp_path, "good", 90)
    make_certificate(tmp_path, "old", -1)
    key_path = str(tmp_path / key) if key else ""
    problems = list(_check_certificate("traefik_certificate", str(tmp_path / certificate), "traefik_key", key_path))
    assert [p for p in problems if words and words in p.message] == problems
    assert bool(problems) == bool(words)


def test_unreadable_bundle(site: SiteDir) -> None:
    site.append("metalhub_extra_ca_bundle: /nowhere/ca.pem\n")
    assert "The certificate cannot be read: No such file or directory." in site.message()


def test_certificate_files_are_read_where_they_are_used(site: SiteDir) -> None:
    site.append("traefik_certificate: /nowhere/site.crt\n")
    assert site.run().returncode == 0
    site.append("traefik_tls: files\n")
    text = site.message()
    assert 'traefik_certificate = "/nowhere/site.crt"' in text
    assert "The certificate cannot be read" in text


def test_plan_is_words_and_a_page(site: SiteDir, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    site.append("metalhub_pools: {cpu: {sandbox: gviser}, gpu: {sandbox: nvidia}}\n", "group_vars/all/zz.yml")
    done = site.run(ROOT / "playbooks/plan.yml", "-e", f"preflight_page={page}", "-e", "preflight_runtime=false")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "Metalhub at notebooks.example.org",
        "3 Swarm managers survive the loss of 1.",
        "idle for 30 minutes",
        "built from lab",
        "research",
        "*.imaging.clinic.example.org:443",
        "Of the private networks, names may lead to 10.20.0.0/16.",
    ):
        assert words in done.stdout, words
    assert "Did you mean gvisor?" in done.stdout
    assert "unreachable=0" in done.stdout
    text = page.read_text()
    assert "<h2>Profiles</h2>" in text
    assert "notebook-gpu-slice" in text
    assert "changed=0" in site.run(ROOT / "playbooks/plan.yml", "-e", f"preflight_page={page}", "-e", "preflight_runtime=false").stdout


def test_plan_shows_what_was_changed_at_runtime(site: SiteDir, tmp_path: Path) -> None:
    """The control host is this machine, with the hub's own file as the hub writes it."""
    by = {"by": "olga", "at": 1767225600}
    created = {"image": "lab", "flavor": "std-2x8", "pool": "cpu", "egress": "open", "environment": {"TOKEN": "hush"}}
    state = {
        "notebook-cpu-small": {"created": False, "fields": {"max_session": {"value": "10h", **by}, "background_limit": {"value": "2h", **by}, "startup": {"value": "echo hush", **by}}},
        "course": {"created": True, "fields": {key: {"value": value, **by} for key, value in created.items()}},
        "gone": {"created": False, "fields": {"title": {"value": "Old", **by}}},
    }
    kept = tmp_path / "profiles.json"
    kept.write_text(json.dumps({"version": 1, "document": "x", "pending": True, "profiles": state}))
    task = {"metalhub.platform.plan": {"runtime": str(kept), "page": str(tmp_path / "plan.html")}, "run_once": True, "delegate_to": "control1"}
    play = tmp_path / "runtime.yml"
    play.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    site.append("ansible_connection: local\n", "host_vars/control1.yml")
    done = site.run(play)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "plan.html").read_text()
    part = text.partition("<h2>Profiles, changed at runtime</h2>")[2].partition("<h2>")[0]
    found = [re.findall("<td>([^<]*)</td>", row) for row in part.split("</tr>")]
    who = "olga, 2026-01-01"
    assert [row for row in found if row] == [
        ["course", "all of it", "lab, std-2x8, cpu, open", "not there", who, "stays"],
        ["gone", "title", "Old", "no profile", who, "goes with its profile"],
        ["notebook-cpu-small", "max_session", "10h", "8h", who, "the inventory wins"],
        ["notebook-cpu-small", "background_limit", "2h", "4h", who, "the inventory wins"],
        ["notebook-cpu-small", "startup", "its own", "nothing", who, "stays"],
    ]
    assert "drops 3 of these changes: to keep one, write it into the inventory" in part and "hush" not in done.stdout + text
    assert "Profiles, changed at runtime" in done.stdout and "the inventory" in done.stdout
    for broken, words in (("{", "cannot be read"), (json.dumps({"profiles": 1}), "cannot be read")):
        kept.write_text(broken)
        # A long path breaks the line somewhere else.
        assert words in " ".join(site.run(play).stdout.split())
    kept.unlink()
    done = site.run(play)
    assert done.returncode == 0 and "Profiles, changed at runtime" in done.stdout and "cannot be read" not in done.stdout


def test_plan_does_without_a_control_host_that_does_not_answer(site: SiteDir) -> None:
    site.append("ansible_host: 127.0.0.1\nansible_port: 1\n", "host_vars/control1.yml")
    done = site.run(ROOT / "playbooks/plan.yml")
    assert done.returncode == 0 and "unreachable=0" in done.stdout, done.stdout + done.stderr
    assert "They are left out: the control host did not answer." in done.stdout and "Quotas" in done.stdout


def test_a_site_without_profiles_of_its_own_gets_those_that_it_can_run(site: SiteDir) -> None:
    file = site.path / "group_vars/all/site.yml"
    before, rest = file.read_text().split("# What users choose from.\n")
    after = rest[rest.index("# Limits:") :]
    file.write_text(before + after)

    def offered(*more: str) -> set[str]:
        done = site.run(ROOT / "playbooks/plan.yml", "-e", "preflight_runtime=false", *more)
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"^  (notebook-\S+)", done.stdout.partition("\nProfiles\n")[2].partition("\n\n")[0], re.MULTILINE))

    gpus = {"notebook-gpu-slice"}
    assert offered() == {"notebook-cpu-small", "notebook-cpu-large", "notebook-pii"} | gpus, "it has no flavor gpu-full"
    file.write_text(re.sub("metalhub_flavors:.*?\n\n", "", before + after, flags=re.DOTALL))
    assert offered() == {"notebook-cpu-small", "notebook-cpu-large", "notebook-pii", "notebook-gpu-full"} | gpus
    assert offered("-e", '{"metalhub_pools": {"cpu": {"sandbox": "gvisor"}}}') == {"notebook-cpu-small", "notebook-cpu-large", "notebook-pii"}
