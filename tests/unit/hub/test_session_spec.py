"""A session's service, who may start it, and what its user is told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from conftest import GIB, IMAGE, FakeEngine, document, make_node
from metalhub_hub import cluster, config, homes, platform, policy, service
from metalhub_hub.engine import Tls
from metalhub_hub.spawner import cards

OTHER = IMAGE.replace("a" * 64, "b" * 64)


@contextlib.contextmanager
def refused(words: str) -> Iterator[None]:
    """Something is refused, and these words are in what the user reads."""
    with pytest.raises(policy.Refused) as caught:
        yield
    assert words in caught.value.jupyterhub_message


def spec(doc: config.Document, profile: str = "small", **environment: str) -> dict[str, Any]:
    return service.spec(
        doc,
        doc.profiles[profile],
        name="mh-ann-default-abc123",
        user="ann",
        server="",
        home="ann",
        image=IMAGE,
        environment=environment,
        command=["jupyterhub-singleuser"],
    )


def test_the_sandbox_is_closed(doc: config.Document) -> None:
    task = spec(doc)["TaskTemplate"]
    container = task["ContainerSpec"]
    assert container["CapabilityDrop"] == ["ALL"] and "CapabilityAdd" not in container
    assert container["Privileges"]["NoNewPrivileges"] is True
    assert container["ReadOnly"] is True and container["User"] == "1000:1000"
    assert {"Name": "nofile", "Soft": 65536, "Hard": 65536} in container["Ulimits"]
    assert {"Name": "nproc", "Soft": 1024, "Hard": 1024} in container["Ulimits"]
    assert container["DNSConfig"]["Nameservers"] == ["192.0.2.1"], "Docker's resolver has nobody to ask"
    assert "@sha256:" in container["Image"]
    limits, reserved = task["Resources"]["Limits"], task["Resources"]["Reservations"]
    assert limits == {"NanoCPUs": 10**9, "MemoryBytes": 2 * GIB, "Pids": 1024 * 3 + 256}
    assert reserved == {"NanoCPUs": 10**9, "MemoryBytes": 2 * GIB}
    assert task["RestartPolicy"]["Condition"] == "none"
    assert task["Placement"]["Constraints"] == ["node.labels.metalhub.pool==cpu", "node.labels.metalhub.network==ready"]
    assert task["Networks"] == [{"Target": "mh-packages"}]


def test_processes_are_counted_by_the_control_group_where_the_sandbox_sees_it(doc: config.Document) -> None:
    """Under runc a count of a user's processes would be one for all sessions of a node."""
    plain = dataclasses.replace(doc.profiles["small"], sandbox="runc")
    task = spec(dataclasses.replace(doc, profiles={**doc.profiles, "small": plain}))["TaskTemplate"]
    assert task["Resources"]["Limits"]["Pids"] == 1024
    assert "nproc" not in {limit["Name"] for limit in task["ContainerSpec"]["Ulimits"]}


def test_the_port_is_the_hosts_and_dynamic(doc: config.Document) -> None:
    endpoint = spec(doc)["EndpointSpec"]
    assert endpoint == {"Mode": "dnsrr", "Ports": [{"Protocol": "tcp", "TargetPort": 8888, "PublishMode": "host"}]}


def test_mounts(doc: config.Document) -> None:
    mounts = {mount["Target"]: mount for mount in spec(doc)["TaskTemplate"]["ContainerSpec"]["Mounts"]}
    assert mounts["/home/user"] == {"Type": "bind", "Source": "/srv/metalhub/homes/ann", "Target": "/home/user"}
    assert mounts["/mnt/shared"]["Source"] == "/srv/metalhub/shared"
    assert mounts["/data"] == {"Type": "volume", "Target": "/data"}, "without a name it is removed with the container"
    assert mounts["/etc/resolv.conf"]["Source"] == "/etc/metalhub/session/packages/resolv.conf"
    assert mounts["/etc/resolv.conf"]["ReadOnly"] is True
    assert mounts["/dev/shm"]["TmpfsOptions"] == {"SizeBytes": GIB, "Mode": 0o1777}


def environment(doc: config.Document, profile: str, **own: str) -> dict[str, str]:
    lines = spec(doc, profile, **own)["TaskTemplate"]["ContainerSpec"]["Env"]
    assert len({line.partition("=")[0] for line in lines}) == len(lines), "the dispatcher takes a repeated wish for none"
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


def test_gpus_are_hidden_and_a_reservation_is_what_shows_one(tmp_path: Path) -> None:
    """The toolkit reads Swarm's own variable first; an image's ENV is outranked by each variable that the service sets."""
    raw = document(tmp_path)
    raw["flavors"]["whole"] = {"cpus": 8, "memory": "64G", "gpu": {}}
    raw["profiles"]["whole"] = {"image": "lab", "flavor": "whole", "pool": "gpu", "egress": "packages"}
    doc = config.parse(raw)
    assert environment(doc, "small")["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert not any(name.startswith("DOCKER_RESOURCE_") for name in environment(doc, "small"))
    slice_, whole = environment(doc, "slice"), environment(doc, "whole")
    assert slice_["NVIDIA_VISIBLE_DEVICES"] == whole["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert slice_["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    # Swarm sets the variable of what it reserved, and adds it to what the service says: that one must not be here.
    assert slice_["DOCKER_RESOURCE_GPU"] == "" and "DOCKER_RESOURCE_MIG_1G_10GB" not in slice_
    assert whole["DOCKER_RESOURCE_MIG_1G_10GB"] == "" and "DOCKER_RESOURCE_GPU" not in whole
    reserved = {name: spec(doc, name)["TaskTemplate"]["Resources"]["Reservations"]["GenericResources"] for name in ("slice", "whole")}
    assert reserved["slice"] == [{"DiscreteResourceSpec": {"Kind": "MIG_1G_10GB", "Value": 1}}]
    assert reserved["whole"] == [{"DiscreteResourceSpec": {"Kind": "GPU", "Value": 1}}]


def test_the_sandbox_follows_from_pool_and_gpu(tmp_path: Path) -> None:
    """One GPU server is a whole platform: whoever needs no GPU is in gVisor there."""
    raw = document(tmp_path)
    raw["profiles"]["near"] = {"image": "lab", "flavor": "small", "pool": "gpu", "egress": "packages"}
    doc = config.parse(raw)
    assert environment(doc, "small")["METALHUB_SANDBOX"] == "gvisor"
    assert environment(doc, "slice")["METALHUB_SANDBOX"] == "nvidia"
    assert environment(doc, "near")["METALHUB_SANDBOX"] == "gvisor"
    # What the sandbox cannot count itself goes with the sandbox, not with the pool.
    near, slice_ = spec(doc, "near")["TaskTemplate"], spec(doc, "slice")["TaskTemplate"]
    assert {"Name": "nproc", "Soft": 1024, "Hard": 1024} in near["ContainerSpec"]["Ulimits"]
    assert near["Resources"]["Limits"]["Pids"] == 1024 * 3 + 256 and slice_["Resources"]["Limits"]["Pids"] == 1024


def test_nothing_else_decides_over_sandbox_and_gpus(tmp_path: Path) -> None:
    own = {"METALHUB_SANDBOX": "nvidia", "NVIDIA_VISIBLE_DEVICES": "all"}
    raw = document(tmp_path, session={"environment": {**own, "NVIDIA_DRIVER_CAPABILITIES": "all"}})
    doc = config.parse(raw)
    found = environment(doc, "small", **own)
    assert (found["METALHUB_SANDBOX"], found["NVIDIA_VISIBLE_DEVICES"]) == ("gvisor", "void")
    assert environment(doc, "slice", **own)["NVIDIA_DRIVER_CAPABILITIES"] == "all", "this one is the operator's"


def test_labels_say_whose_it_is(doc: config.Document) -> None:
    body = spec(doc)
    labels = {"metalhub.user": "ann", "metalhub.server": "", "metalhub.profile": "small", "metalhub.egress": "packages"}
    assert labels.items() <= body["Labels"].items()
    assert body["TaskTemplate"]["ContainerSpec"]["Labels"] == body["Labels"]
    assert body["Labels"]["metalhub.session"] == body["Name"]


# Who may start what


@pytest.mark.parametrize(
    ("groups", "options", "outcome"),
    [
        (set(), {}, "small"),
        (set(), {"profile": "slice"}, "slice"),
        ({"clinical"}, {"profile": "pii"}, "pii"),
        (set(), {"profile": "pii"}, 403),
        (set(), {"profile": "none"}, 403),
        (set(), {"profile": ["small"]}, 403),
        (set(), {"profile": {"a": 1}}, 403),
        (set(), {"profile": "small", "image": "evil"}, 400),
        (set(), {"egress": "internal"}, 400),
    ],
)
def test_options_are_checked_wherever_they_come_from(doc: config.Document, groups: set[str], options: Any, outcome: Any) -> None:
    if isinstance(outcome, str):
        assert policy.choose(doc, groups, options).name == outcome
    else:
        with pytest.raises(policy.Refused) as caught:
            policy.choose(doc, groups, options)
        assert caught.value.status_code == outcome
        assert "pii" not in caught.value.jupyterhub_message.replace(repr(options.get("profile")), "")


@pytest.mark.parametrize(
    ("detail", "cause", "reason", "word"),
    [
        ("No such image: 10.0.0.1:5000/lab@sha256:aa", "rejected", "image", "missing"),
        ('invalid mount config for type "bind": bind source path does not exist: /srv/metalhub/homes/ann', "rejected", "home", "offline"),
        ("write /var/lib/docker: no space left on device", "rejected", "disk", "full disk"),
        ("task: non-zero exit (3)", "failed", "failed", "exit code 3"),
        ("node compute1 is down", "lost", "lost", "went away"),
    ],
)
def test_a_start_that_fails_says_why_in_one_sentence(doc: config.Document, detail: str, cause: str, reason: str, word: str) -> None:
    refused = policy.start_failure(doc.profiles["small"], cause, detail, 3, "/srv/metalhub/homes")
    assert refused.reason == reason and word in refused.jupyterhub_message
    assert len(re.findall(r"\.(?:\s|$)", refused.jupyterhub_message)) == 1
    assert detail in refused.log_message and detail not in refused.jupyterhub_message


def test_no_room_says_what_is_known(doc: config.Document) -> None:
    small = doc.profiles["small"]
    assert "no machine of its pool “cpu” is up" in policy.no_room(small, cluster.Room(0, 0, 0)).jupyterhub_message
    assert "large enough" in policy.no_room(small, cluster.Room(0, 2, 0)).jupyterhub_message
    assert "try again later" in policy.no_room(small, cluster.Room(0, 2, 2)).jupyterhub_message


# Images


def test_the_manifest_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    images = platform.Images(str(path))
    with refused("missing"):
        images.reference("lab")
    path.write_text(json.dumps({"lab": IMAGE, "loose": "lab:latest"}))
    assert images.reference("lab") == IMAGE
    with refused("missing"):
        images.reference("loose")  # a tag is pulled again at each start, and says nothing
    path.write_text("{ half")
    assert images.reference("lab") == IMAGE
    newer = tmp_path / "new"
    newer.write_text(json.dumps({"lab": OTHER}))
    newer.replace(path)
    assert images.reference("lab") == OTHER


# Homes


async def test_a_home_that_is_offline(tmp_path: Path) -> None:
    offline = homes.Homes(config.Storage("http://127.0.0.1:1", 0.5), Tls("", "", ""))
    with refused("offline"):
        await offline.ensure("ann", GIB)
    await offline.close()


NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def test_too_little_memory_names_the_next_profile_that_one_may_start(tmp_path: Path) -> None:
    raw = document(tmp_path)
    base = raw["profiles"]["small"] | {"default": False}
    raw["flavors"] |= {name: {"cpus": 4, "memory": memory} for name, memory in (("mid", "8G"), ("large", "32G"), ("huge", "99G"))}
    raw["profiles"] |= {
        "large": base | {"flavor": "large", "title": "Large"},
        "mine": base | {"flavor": "mid", "title": "Mine", "groups": ["team"]},
        "elsewhere": base | {"flavor": "mid", "egress": "internal"},
    }
    doc = config.parse(raw)
    small = doc.profiles["small"]
    assert policy.larger(doc, set(), small) == "Start “Large”, which has 32G"
    assert policy.larger(doc, {"team"}, small) == "Start “Mine”, which has 8G"
    assert policy.larger(doc, {"team"}, doc.profiles["large"]) == policy.larger(doc, set(), None) == "Ask an administrator for a profile with more memory"
    assert policy.exit_code(3) == "exit code 3" and policy.exit_code(139).startswith("exit code 139, segmentation fault")


def test_every_ending_says_what_is_with_the_home() -> None:
    assert all("home is intact" in sentence for sentence in policy.ENDINGS.values())


# What nobody owns


async def test_the_sweep_removes_only_old_services_that_nobody_claims(tmp_path: Path, engine: FakeEngine) -> None:
    host = platform.Platform(config.parse(document(tmp_path)))
    for name in ("mine", "orphan", "young"):
        labels = {"ContainerSpec": {"Labels": {"metalhub.session": name}}}
        engine.create({"Name": name, "TaskTemplate": labels})
    young = next(s for s in engine.services.values() if s["Spec"]["Name"] == "young")
    young["CreatedAt"] = NOW.isoformat()
    assert await host.sweep({"mine"}, NOW) == ["orphan"]
    assert sorted(s["Spec"]["Name"] for s in engine.services.values()) == ["mine", "young"]
    assert '"cause":"orphan"' in (tmp_path / "audit.jsonl").read_text()
    await host.engine.close()


async def test_cards_show_what_is_left_of_a_slice(tmp_path: Path, engine: FakeEngine) -> None:
    host = platform.Platform(config.parse(document(tmp_path)))
    slices = [{"DiscreteResourceSpec": {"Kind": "MIG_1G_10GB", "Value": 7}}]
    resources = {"NanoCPUs": 64 * 10**9, "MemoryBytes": 512 * GIB, "GenericResources": slices}
    labels = {"metalhub.pool": "gpu", "metalhub.network": "ready"}
    node = make_node(Spec={"Availability": "active", "Labels": labels}, Description={"Hostname": "gpu1", "Resources": resources})
    reserved = {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "MIG_1G_10GB", "Value": 1}}]}
    task = {"NodeID": node["ID"], "Spec": {"Resources": {"Reservations": reserved}}, "Status": {"State": "running"}}

    async def snapshot(max_age: float) -> cluster.Snapshot:
        return cluster.Snapshot({node["ID"]: node}, [task, task])

    host.cluster.snapshot = snapshot  # type: ignore[method-assign]
    shown = {card["name"]: card for card in await cards(host, set())}
    assert (shown["slice"]["gpu"], shown["slice"]["places"], shown["slice"]["sandbox"]) == ("1 × 1g.10gb, 5 of 7 free", 5, "nvidia")
    assert shown["small"]["gpu"] == ""
    await host.engine.close()


def test_programs_find_the_proxy_of_the_class_and_reach_the_hub_without_it(doc: config.Document) -> None:
    def environment(profile: str) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in spec(doc, profile)["TaskTemplate"]["ContainerSpec"]["Env"])

    found = environment("small")
    hub = urlparse(doc.connect_url).hostname
    assert found["https_proxy"] == found["HTTPS_PROXY"] == found["http_proxy"] == "http://10.231.16.1:3128"
    assert found["no_proxy"] == found["NO_PROXY"] == f"localhost,127.0.0.1,{hub},10.0.0.5"
    assert not {name for name in environment("pii") if "proxy" in name.lower()}


def test_a_profile_brings_variables_and_outranks_nothing_of_the_platform(tmp_path: Path) -> None:
    raw = document(tmp_path)
    raw["profiles"]["small"]["environment"] = {"OMP_NUM_THREADS": "1", "METALHUB_SANDBOX": "runc", "NVIDIA_VISIBLE_DEVICES": "all"}
    raw["session"]["environment"] = {"OMP_NUM_THREADS": "8", "SITE": "here"}
    found = spec(config.parse(raw), "small")["TaskTemplate"]["ContainerSpec"]["Env"]
    assert {"OMP_NUM_THREADS=1", "SITE=here", "METALHUB_SANDBOX=gvisor", "NVIDIA_VISIBLE_DEVICES=void"} <= set(found)
