"""What the roles base, pki, docker and gvisor promise, looked at on the hosts."""

from __future__ import annotations

import json
import re

import pytest

MANAGER, WORKER, OTHER = "control", "compute1", "compute2"


@pytest.mark.parametrize("name", [MANAGER, WORKER])
def test_time_is_kept_and_the_clock_left_to_the_machine(hosts, name):
    assert hosts[name].service("chrony").is_running
    assert hosts[name].service("chrony").is_enabled
    assert "-x" in hosts[name].check_output("tr '\\0' ' ' < /proc/$(pgrep -o chronyd)/cmdline")


def test_kernel_settings_are_in_force(hosts):
    assert hosts[WORKER].sysctl("net.ipv4.tcp_keepalive_time") == 600


@pytest.mark.parametrize("name", [MANAGER, WORKER])
def test_keys_are_for_their_readers_alone(hosts, name):
    assert (hosts[name].file("/etc/metalhub/pki/node.key").mode, hosts[name].file("/etc/metalhub/pki/node.key").group) == (0o600, "root")
    output = hosts[name].check_output("openssl verify -CAfile /etc/metalhub/pki/ca.crt /etc/metalhub/pki/node.crt")
    assert output.endswith("OK")


def test_the_authority_is_on_the_control_host_alone(hosts):
    assert hosts[MANAGER].file("/etc/metalhub/ca").mode == 0o700
    assert hosts[MANAGER].file("/etc/metalhub/ca/ca.key").mode == 0o600
    assert not hosts[WORKER].file("/etc/metalhub/ca").exists
    key = hosts[MANAGER].file("/etc/metalhub/pki/hub-client.key")
    assert (key.mode, key.group) == (0o640, "metalhub-hub")


def test_every_host_has_a_key_of_its_own(hosts):
    digests = {hosts[name].check_output("sha256sum < /etc/metalhub/pki/node.key") for name in (MANAGER, WORKER)}
    assert len(digests) == 2


def _api(hosts, *options: str, to: str = WORKER):
    return hosts[MANAGER].run(f"curl -sS -m 5 {' '.join(options)} https://{hosts.addresses[to]}:2376/info")


def test_the_engine_answers_the_hub_and_nobody_else(hosts):
    pki = "/etc/metalhub/pki"
    with_certificate = _api(hosts, f"--cacert {pki}/ca.crt --cert {pki}/hub-client.crt --key {pki}/hub-client.key")
    assert with_certificate.rc == 0 and json.loads(with_certificate.stdout)["Name"] == WORKER
    assert _api(hosts, f"--cacert {pki}/ca.crt").rc != 0
    # A host's own certificate is of the same authority, and for serving alone.
    assert _api(hosts, f"--cacert {pki}/ca.crt --cert {pki}/node.crt --key {pki}/node.key").rc != 0
    hosts[MANAGER].check_output(
        "cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=hub-client"
        " -keyout s.key -out s.crt -days 1"
    )
    assert _api(hosts, f"--cacert {pki}/ca.crt --cert /tmp/s.crt --key /tmp/s.key").rc != 0


def test_the_engine_is_as_configured(hosts):
    info = json.loads(hosts[WORKER].check_output("docker info --format '{{json .}}'"))
    assert info["DefaultRuntime"] == "runsc"
    assert not info["LiveRestoreEnabled"]
    assert info["LoggingDriver"] == "json-file"
    assert hosts[WORKER].service("docker").is_enabled
    assert not re.search(r"docker-proxy", hosts[WORKER].check_output("ps -eo args"))


def test_the_swarm_has_its_nodes_and_labels(hosts):
    nodes = json.loads(hosts[MANAGER].check_output("docker node inspect $(docker node ls -q)"))
    seen = {n["Description"]["Hostname"]: (n["Spec"]["Role"], n["Status"]["State"], n["Spec"]["Labels"]) for n in nodes}
    worker = ("worker", "ready", {"metalhub.pool": "cpu"})
    assert seen == {MANAGER: ("manager", "ready", {}), WORKER: worker, OTHER: worker}


def test_the_join_token_is_in_no_log(hosts):
    tokens = hosts[MANAGER].check_output("docker swarm join-token -q worker; docker swarm join-token -q manager").split()
    assert len(tokens) == 2
    for name in (MANAGER, WORKER):
        for token in tokens:
            found = hosts[name].run(f"journalctl --no-pager -q | grep -cF {token}; grep -rlF {token} /var/log /tmp /root /etc")
            assert found.stdout.strip() == "0", (name, found.stdout)


def test_a_container_is_in_gvisor_by_default_and_not_when_it_is_told_otherwise(hosts):
    """The self-test's own way of seeing it, with the sandbox on and off."""
    hosts[WORKER].check_output(
        "d=$(command -v dmesg); tar -C / -chf - ${d#/} $(ldd $d | grep -o '/[^ ]*' | sed 's,^/,,') | docker import - mol-test:1"
    )
    run = "timeout 60 docker run --rm --network none --cap-add SYSLOG {} mol-test:1 /usr/bin/dmesg"
    assert "gVisor" in hosts[WORKER].run(run.format("")).stdout
    assert "gVisor" not in hosts[WORKER].run(run.format("--runtime runc")).stdout
    hosts[WORKER].check_output("docker image rm mol-test:1")


def test_a_fast_series_of_restarts_leaves_the_engine_running(hosts):
    hosts[WORKER].check_output("for i in 1 2 3 4 5 6; do systemctl kill -s KILL docker.service; sleep 0.3; done")
    hosts[WORKER].check_output("timeout 60 sh -c 'until docker info >/dev/null 2>&1; do sleep 0.2; done'")


def test_the_sites_own_authority_is_trusted(hosts):
    verify = "openssl verify -no-CAstore -no-CApath -CAfile {} /usr/local/share/ca-certificates/metalhub-extra.crt"
    assert hosts[WORKER].check_output(verify.format("/etc/ssl/certs/ca-certificates.crt")).endswith("OK")
    assert hosts[WORKER].run(verify.format("/etc/metalhub/pki/ca.crt")).rc != 0


KERNEL = "docker exec {} /usr/bin/dmesg | head -n 1"


@pytest.fixture
def pair(hosts):
    """On a node with the dispatcher, a container that asks for nothing and one that asks for the runtime of GPU sessions."""
    host = hosts[OTHER]
    host.check_output(
        "p='dmesg sleep'; for i in $p; do f=\"$f $(command -v $i)\"; done; tar -C / -chf - $(for f in $f; do echo ${f#/}; ldd $f"
        " | grep -o '/[^ ]*' | sed 's,^/,,'; done | sort -u) | docker import -c 'ENV METALHUB_SANDBOX=nvidia' - mol-test:2"
    )
    run = "timeout 60 docker run -d --network none --cap-add SYSLOG --name {} -e METALHUB_SANDBOX={} mol-test:2 /usr/bin/sleep 600"
    host.check_output(run.format("plain", "gvisor"))
    host.check_output(run.format("gpu", "nvidia"))
    yield host
    host.run("docker rm -f plain gpu; docker image rm mol-test:2")


def kernels(host):
    return ["gVisor" in host.check_output(KERNEL.format(name)) for name in ("plain", "gpu")]


def test_one_node_runs_both_kinds(pair):
    """The image asks for the GPU sessions' runtime, and the service's own word outranks it."""
    assert json.loads(pair.check_output("docker info --format '{{json .DefaultRuntime}}'")) == "metalhub"
    assert kernels(pair) == [True, False]
    for name in ("plain", "gpu"):
        pair.check_output(f"docker pause {name}")
        assert pair.check_output(f"docker inspect -f '{{{{.State.Status}}}}' {name}") == "paused"
        pair.check_output(f"docker unpause {name}")
    pair.check_output("rm -r /run/metalhub/oci")
    assert kernels(pair) == [True, False], "a lost record is found again"
    pair.check_output("systemctl restart docker && docker start plain gpu")
    assert kernels(pair) == [True, False]
    pair.check_output("docker kill plain gpu && docker rm plain gpu")
    assert pair.check_output("timeout 10 sh -c 'while find /run/metalhub/oci -type f | grep .; do sleep 0.2; done'") == ""


def test_a_start_that_cannot_be_judged_is_refused_in_words(pair):
    place = "/usr/local/lib/metalhub/oci-choose"
    said = pair.run(f"mv {place} /root/; timeout 60 docker run --rm --network none mol-test:2 /usr/bin/sleep 0; mv /root/oci-choose {place}")
    assert "cannot tell what the container asks for" in said.stderr


def test_the_gpu_roles_left_what_a_gpu_node_needs(hosts):
    host = hosts[OTHER]
    config = host.file("/etc/nvidia-container-runtime/config.toml").content_string
    assert 'swarm-resource = "DOCKER_RESOURCE_GPU,DOCKER_RESOURCE_MIG_1G_10GB"' in config and 'mode = "auto"' in config
    read = "import sys, tomllib; print(tomllib.load(sys.stdin.buffer)['nvidia-container-runtime']['runtimes'])"
    assert host.check_output(f'python3 -c "{read}" < /etc/nvidia-container-runtime/config.toml') == "['runc']"
    versions = host.check_output("dpkg-query -W -f='${Package} ${Version}\\n' nvidia-open nvidia-fabricmanager")
    assert versions.splitlines() == ["nvidia-fabricmanager 580.95.05-1", "nvidia-open 580.95.05-1"], "on the branch, and of one version"
    assert "blacklist nouveau" in host.file("/etc/modprobe.d/metalhub-nvidia.conf").content_string
    host.check_output("systemd-analyze verify /etc/systemd/system/metalhub-nvidia-devices.service")
