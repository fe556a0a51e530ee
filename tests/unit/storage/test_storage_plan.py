"""What is formatted, what is refused, and what the mount units hold."""

from __future__ import annotations

import shutil
import string
import subprocess
from pathlib import Path

import pytest
from ansible.plugins.loader import filter_loader
from ansible_collections.metalhub.platform.plugins.module_utils import storage_plan
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = {
    "device": "loop",
    "loop_file": "/var/lib/homes.img",
    "loop_size": "10G",
    "path": "/srv/metalhub",
    "node_path": "/srv/metalhub",
    "snapshots_keep": 5,
    "snapshots_free": 10,
}
EMPTY = {
    "mounted": "",
    "label": "",
    "quota": "off",
    "inside": "",
    "exists": "yes",
    "bytes": "0",
    "ours": "no",
    "signatures": "",
    "zeros": "yes",
}
OURS = EMPTY | {"mounted": "btrfs", "label": "metalhub-homes", "quota": "on", "ours": "yes", "bytes": str(10 * 2**30), "zeros": "no"}


def refusal(facts: dict[str, str], **changes: object) -> str:
    return storage_plan.storage_refusal(SETTINGS | changes, facts)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/", "-.mount"),
        ("/srv/metalhub", "srv-metalhub.mount"),
        ("/srv//metalhub/", "srv-metalhub.mount"),
        ("/srv/a-b", r"srv-a\x2db.mount"),
        ("/.hidden/x.y", r"\x2ehidden-x.y.mount"),
        ("/a/.b", "a-.b.mount"),
        ("/./a/.", "a.mount"),
        ("/é", r"\xc3\xa9.mount"),
    ],
)
def test_unit_names(path: str, unit: str) -> None:
    assert storage_plan.unit_name(path) == unit


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="no systemd-escape here")
@settings(max_examples=30, deadline=None)
@given(st.text(string.ascii_letters + string.digits + "-_.:@+/ ", min_size=1).map(lambda t: "/" + t))
def test_unit_names_are_systemds_own(path: str) -> None:
    done = subprocess.run(["systemd-escape", "--path", "--suffix=mount", path], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert storage_plan.unit_name(path) == done.stdout.strip()


def test_an_empty_device_and_our_own_are_taken() -> None:
    assert refusal(EMPTY) == ""
    assert refusal({**EMPTY, "exists": "no"}) == ""
    assert refusal(OURS) == ""
    assert refusal(EMPTY, device="/dev/sdb") == ""
    assert refusal(OURS, device="existing") == ""


@pytest.mark.parametrize("device", ["loop", "/dev/sdb"])
@given(signatures=st.lists(st.sampled_from(["ext4", "gpt", "crypto_LUKS", "btrfs", "swap", "LVM2_member"])), zeros=st.booleans())
def test_nothing_that_holds_data_is_formatted(device: str, signatures: list[str], zeros: bool) -> None:
    facts = EMPTY | {"signatures": " ".join(signatures), "zeros": "yes" if zeros else "no"}
    assert (refusal(facts, device=device) == "") == (not signatures and zeros)


@pytest.mark.parametrize(
    ("changes", "facts", "words"),
    [
        ({"device": "/dev/sdb"}, {"signatures": "ext4"}, "/dev/sdb holds data (ext4) and is not formatted"),
        ({}, {"zeros": "no"}, "holds data (no known signature, but not zeros)"),
        ({"device": "/dev/sdb"}, {"exists": "no"}, "there is no such block device"),
        ({"device": "sdb"}, {}, "storage_device is 'sdb'; legal are 'loop', 'existing'"),
        ({"device": "existing"}, {}, "it is not a mount point"),
        ({"device": "existing"}, {"mounted": "ext4"}, "it is a mount of ext4"),
        ({"device": "existing"}, {"mounted": "btrfs"}, "btrfs quota enable /srv/metalhub"),
        ({}, {"mounted": "ext4"}, "/srv/metalhub is a mount of something else (ext4)"),
        ({}, {"inside": "old"}, "holds 'old', which a mount would hide"),
        ({"loop_size": "10"}, {}, "storage_loop_size: '10' is not a size"),
        ({"loop_size": "100M"}, {}, "legal is 256M and more"),
        ({"loop_size": "1G"}, OURS, "never made smaller"),
        ({"path": "/srv/../etc"}, {}, "storage_path is '/srv/../etc'"),
        ({"path": "srv"}, {}, "storage_path is 'srv'; legal is an absolute path"),
        ({"node_path": "/a b"}, {}, "storage_node_path is '/a b'"),
        ({"snapshots_keep": -1}, {}, "storage_snapshots_keep is -1; legal is a whole number from 0 (no snapshots) to 100"),
        ({"snapshots_free": 99}, {}, "storage_snapshots_free is 99; legal is a percentage from 0 to 90"),
    ],
)
def test_refusals(changes: dict[str, object], facts: dict[str, str], words: str) -> None:
    assert words in refusal(EMPTY | facts, **changes)


def test_the_role_probes_for_the_label_that_the_core_knows() -> None:
    text = (Path(__file__).parents[3] / "roles/storage/vars/main.yml").read_text(encoding="utf-8")
    assert f"__storage_label: {storage_plan.LABEL}\n" in text


def test_mount_of_nfs() -> None:
    plan = storage_plan.plan_mount({"path": "/srv/metalhub", "source": "storage:/srv/metalhub", "type": "nfs"})
    assert (plan.unit, plan.fstype, plan.network) == ("srv-metalhub.mount", "nfs4", True)
    assert plan.options == "vers=4.2,hard,nosuid,nodev,noatime,_netdev"
    old = storage_plan.plan_mount({"path": "/x", "source": "[fd00::1]:/x", "type": "nfs", "options": "vers=3,soft,timeo=100"})
    assert (old.fstype, old.options) == ("nfs", "nosuid,nodev,noatime,_netdev,vers=3,soft,timeo=100")


def test_mount_of_cifs_keeps_its_secrets_out_of_the_unit() -> None:
    credentials = {"username": "hub", "password": "s3cret,=x", "domain": "CORP"}
    plan = storage_plan.plan_mount({"path": "/srv/a-b", "source": "//files/share$", "type": "cifs", "credentials": credentials})
    assert plan.secrets == {r"/etc/metalhub/mounts/srv-a\x2db.credentials": "username=hub\npassword=s3cret,=x\ndomain=CORP\n"}
    assert "s3cret" not in plan.options
    assert plan.options.endswith(r"credentials=/etc/metalhub/mounts/srv-a\x2db.credentials")
    assert "seal" in plan.options.split(",")


def test_mount_by_sshfs() -> None:
    mount = {
        "path": "/srv/x",
        "source": "homes@storage:/srv",
        "type": "fuse",
        "credentials": {"private_key": "KEY", "known_hosts": "HOSTS\n"},
    }
    plan = storage_plan.plan_mount(mount)
    assert plan.fstype == "fuse.sshfs"
    assert plan.secrets == {"/etc/metalhub/mounts/srv-x.private_key": "KEY\n", "/etc/metalhub/mounts/srv-x.known_hosts": "HOSTS\n"}
    assert "StrictHostKeyChecking=yes" in plan.options


def test_bind() -> None:
    plan = storage_plan.plan_mount({"path": "/srv/metalhub", "source": "/mnt/homes", "type": "bind", "source_is_mount": True})
    assert (plan.fstype, plan.options, plan.network, plan.assert_mount) == ("none", "bind,nosuid,nodev", False, True)


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"path": "srv", "source": "a:/b", "type": "nfs"}, "path is 'srv'; legal is an absolute path"),
        ({"path": "/srv", "source": "/b", "type": "nfs"}, "source is '/b'; legal for nfs is server:/path"),
        ({"path": "/srv", "source": "srv/share", "type": "cifs"}, "legal for cifs is //server/share"),
        ({"path": "/srv", "source": "a:/b", "type": "nfs4"}, "type is 'nfs4'; legal are bind, cifs, fuse, nfs"),
        ({"path": "/srv", "source": "a:/b", "type": "nfs", "sauce": 1}, "unknown key 'sauce'"),
        ({"path": "/srv", "source": "a:/b", "type": "nfs", "options": "a b"}, "options is 'a b'"),
        ({"path": "/srv", "source": "a:/b", "type": "nfs", "options": "rw\nWhat=/etc"}, "options is"),
        ({"path": "/srv", "source": "//a/b", "type": "cifs", "options": "password=x"}, "it belongs in credentials"),
        ({"path": "/srv", "source": "//a/b", "type": "cifs", "credentials": {"username": "x"}}, "need username and password"),
        ({"path": "/srv", "source": "//a/b", "type": "cifs", "credentials": {"username": "x\ny", "password": "z"}}, "line breaks"),
        ({"path": "/srv", "source": "a:/b", "type": "nfs", "credentials": {"username": "x"}}, "credentials of nfs take nothing"),
        ({"path": "/srv", "source": "a:/b", "type": "fuse", "program": "../sh"}, "program is '../sh'"),
        ({"path": "/srv", "source": "/a/../b", "type": "bind"}, "legal for bind is an absolute path"),
    ],
)
def test_bad_mounts(mount: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match="storage_mount_mounts") as error:
        storage_plan.plan_mount(mount)
    assert words in str(error.value)


def test_a_secret_is_never_in_a_message() -> None:
    for credentials in ({"username": "x", "password": "hunter2\n"}, {"password": "hunter2"}, {"password": ["hunter2"]}):
        with pytest.raises(ValueError) as error:
            storage_plan.plan_mount({"path": "/srv", "source": "//a/b", "type": "cifs", "credentials": credentials})
        assert "hunter2" not in str(error.value)


def test_two_mounts_at_one_path() -> None:
    mount = {"path": "/srv", "source": "a:/b", "type": "nfs"}
    with pytest.raises(ValueError, match="two entries with path '/srv/'|two entries with path '/srv'"):
        storage_plan.plan_mounts([mount, dict(mount)])


def test_filters_and_packages() -> None:
    plans = filter_loader.get("metalhub.platform.storage_mount_plan").j2_function(
        [{"path": "/a", "source": "a:/b", "type": "nfs"}, {"path": "/b", "source": "a:/b", "type": "fuse"}]
    )
    assert [plan["packages"] for plan in plans] == [
        {"debian": ["nfs-common"], "redhat": ["nfs-utils"]},
        {"debian": ["sshfs"], "redhat": ["fuse-sshfs"]},
    ]
