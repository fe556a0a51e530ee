"""What the roles registry and images promise, looked at on the hosts."""

from __future__ import annotations

import json

import pytest

CONTROL, NODE = "control", "compute1"


@pytest.fixture(scope="module")
def manifest(hosts):
    return json.loads(hosts[CONTROL].file("/etc/metalhub/images.json").content_string)


def answer(hosts, account, port, path="", method="GET", options=""):
    """Status with which the registry answers an account, by its password on the control host."""
    host = hosts[CONTROL]
    password = host.file(f"/etc/metalhub/secrets/registry-{account}-password").content_string.strip() if account else ""
    user = f"-u {account}:{password}" if account else ""
    url = f"https://127.0.0.1:{port}/v2/{path}"
    return host.check_output(f"curl -s -o /dev/null -w '%{{http_code}}' --cacert /etc/metalhub/pki/ca.crt {user} -X {method} {options} {url}")


@pytest.mark.parametrize(
    ("account", "port", "path", "method", "status"),
    [
        ("", 5000, "", "GET", "401"),
        ("", 5001, "", "GET", "401"),
        ("pull", 5000, "", "GET", "200"),
        ("push", 5000, "", "GET", "200"),
        ("pull", 5001, "", "GET", "401"),
        ("push", 5001, "", "GET", "200"),
        ("pull", 5001, "x/blobs/uploads/", "POST", "401"),
        ("pull", 5000, "x/blobs/uploads/", "POST", "405"),
        ("push", 5000, "x/blobs/uploads/", "POST", "405"),
        ("push", 5001, "x/blobs/uploads/", "POST", "202"),
    ],
)
def test_rights_to_pull_and_to_push_are_apart(hosts, account, port, path, method, status):
    assert answer(hosts, account, port, path, method) == status


def test_nothing_is_told_without_tls(hosts):
    assert hosts[CONTROL].check_output("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:5000/v2/") in ("400", "000")


@pytest.mark.parametrize("name", ["registry-push-password", "registry-pull-password"])
def test_passwords_are_roots_alone(hosts, name):
    file = hosts[CONTROL].file(f"/etc/metalhub/secrets/{name}")
    assert (file.mode, file.user) == (0o600, "root")
    assert len(file.content_string.strip()) == 32
    assert hosts[CONTROL].run(f"grep -rqF {file.content_string.strip()} /var/log /var/lib/metalhub/tree /etc/metalhub/registry").rc == 1


@pytest.mark.parametrize("unit", ["metalhub-registry", "metalhub-registry-push", "metalhub-registry-gc"])
def test_services_are_hardened(hosts, unit):
    line = hosts[CONTROL].check_output(f"systemd-analyze security --no-pager {unit}.service | grep 'Overall exposure'")
    assert float(line.split(": ")[1].split()[0]) <= 1.5


def test_images_are_pinned_and_on_the_node(hosts, manifest):
    assert set(manifest) == {"above", "saved", "tiny"}
    address = hosts.addresses[CONTROL]
    for name, reference in manifest.items():
        assert reference.startswith(f"{address}:5000/{name}@sha256:")
    hosts[NODE].check_output(f"docker image inspect {manifest['above']}")
    assert hosts[NODE].run(f"docker image inspect {manifest['tiny']}").rc != 0


def test_a_change_below_is_in_what_is_built_on_it(hosts, manifest):
    before = json.loads(hosts[CONTROL].file("/root/images-before.json").content_string)
    assert before["above"] != manifest["above"]
    container = hosts[NODE].check_output(f"docker create {manifest['above']}")
    assert "second" in hosts[NODE].check_output(f"docker cp {container}:/word - | tar xO")
    assert "above" in hosts[NODE].check_output(f"docker cp {container}:/above - | tar xO")


def test_one_image_before_is_kept_and_garbage_goes(hosts, manifest):
    before = json.loads(hosts[CONTROL].file("/root/images-before.json").content_string)
    accept = "-H 'Accept: application/vnd.docker.distribution.manifest.v2+json'"

    def known(reference):
        name, digest = reference.partition("/")[2].split("@")
        return answer(hosts, "pull", 5000, f"{name}/manifests/{digest}", options=accept) == "200"

    assert all(known(reference) for reference in manifest.values())
    assert not known(before["above"]), "the image before the one before"
    blobs = "find /var/lib/metalhub/registry/docker/registry/v2/blobs -name data | wc -l"
    count = int(hosts[CONTROL].check_output(blobs))
    hosts[CONTROL].check_output("systemctl start metalhub-registry-gc.service")
    assert int(hosts[CONTROL].check_output(blobs)) < count
    assert all(known(reference) for reference in manifest.values())
    hosts[CONTROL].check_output("/usr/local/lib/metalhub/registry-health 5001")


def test_garbage_is_collected_by_the_clock(hosts):
    assert hosts[CONTROL].service("metalhub-registry-gc.timer").is_enabled
    assert hosts[CONTROL].service("metalhub-registry-gc.timer").is_running


def test_health_check_tells_a_dead_registry(hosts):
    assert hosts[CONTROL].run("MAINPID=999999 /usr/local/lib/metalhub/registry-health 9").rc == 1


def test_the_packages_own_registry_is_off(hosts):
    assert not hosts[CONTROL].service("docker-registry").is_running
    assert not hosts[CONTROL].service("docker-registry").is_enabled
