"""Everything an operator can get wrong has one clear message, and a right site has none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.metalhub.platform.plugins.module_utils.model import Host, Problem, Site, check_site, quota_faults
from ansible_collections.metalhub.platform.plugins.module_utils.specs import check_value
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]
SPECS = yaml.safe_load((ROOT / "roles/preflight/meta/argument_specs.yml").read_text())["argument_specs"]["metalhub"]["options"]
SPECS = {**SPECS, "docker_log_size": {"type": "str"}, "docker_live_restore": {"type": "bool"}}

FACTS: dict[str, Any] = {
    "os_id": "debian",
    "os_version": "13",
    "os_major": 13,
    "os_name": "Debian GNU/Linux 13 (trixie)",
    "arch": "x86_64",
    "systemd": True,
    "cpus": 16,
    "memory": 64 << 30,
    "gpus": 0,
    "skew": 0,
    "disk_free": 100 << 30,
    "networks": [{"network": "10.20.0.0/24", "interface": "eth0", "connected": True}],
}
SITE: dict[str, Any] = {
    "metalhub_defaults_loaded": True,
    "metalhub_domain": "notebooks.example.org",
    "metalhub_pools": {"cpu": {"sandbox": "gvisor"}, "gpu": {"sandbox": "nvidia"}},
    "metalhub_flavors": {
        "std-2x8": {"cpus": 2, "memory": "8G"},
        "mig-1g10": {"cpus": 4, "memory": "32G", "gpu": {"profile": "1g.10gb", "count": 1}},
    },
    "metalhub_images": {"lab": {"title": "JupyterLab", "build": "lab"}},
    "metalhub_profiles": {
        "small": {
            "title": "Small",
            "image": "lab",
            "flavor": "std-2x8",
            "pool": "cpu",
            "egress": "internal",
            "idle_stop": "30m",
            "max_session": "8h",
        },
        "slice": {"title": "GPU slice", "image": "lab", "flavor": "mig-1g10", "pool": "gpu", "egress": "packages"},
    },
    "metalhub_egress_classes": {
        "internal": {"subnet": "10.231.0.0/20", "public_internet": False, "allow": ["10.0.0.5:443"]},
        "packages": {"subnet": "10.231.16.0/20", "public_internet": True},
    },
    "metalhub_egress_deny_lists": {"mining": "/site/files/egress/mining.txt"},
    "metalhub_quotas": {"default": "sessions=2, workspace=100G", "groups": {"research": "gpu-1g.10gb=8h/day"}},
}
HOSTS = {
    "control": (["metalhub_control", "metalhub_managers", "metalhub_storage", "metalhub_registry", "metalhub_builders"], None),
    "compute1": (["metalhub_compute"], "cpu"),
    "gpu1": (["metalhub_compute"], "gpu"),
}


class Draft:
    """A right site, to be spoiled."""

    def __init__(self) -> None:
        self.site = copy.deepcopy(SITE)
        self.groups = {name: list(groups) for name, (groups, _) in HOSTS.items()}
        self.own: dict[str, dict[str, Any]] = {name: {"metalhub_pool": pool} if pool else {} for name, (_, pool) in HOSTS.items()}
        for number, own in enumerate(self.own.values()):
            own["metalhub_address"] = f"10.20.0.1{number}"
        self.facts: dict[str, dict[str, Any]] = {name: copy.deepcopy(FACTS) for name in HOSTS}
        self.facts["gpu1"]["gpus"] = 8
        self.own["gpu1"]["mig_wanted"] = {"H100-80GB:1g.10gb": 7}
        for number, facts in enumerate(self.facts.values()):
            facts["addresses"] = [{"interface": "eth0", "address": f"10.20.0.1{number}/24"}]
        self.group_pools: dict[str, tuple[tuple[str, str], ...]] = {}
        self.broken: dict[str, str] = {}
        self.deny_lists = {"mining": "pool.example.net  # the big one\n"}

    def check(self, facts: bool = True) -> list[Problem]:
        hosts = tuple(
            Host(
                name,
                frozenset(groups),
                {**self.site, **self.own[name]},
                broken=self.broken,
                facts=self.facts[name] if facts else None,
                group_pools=self.group_pools.get(name, ()),
            )
            for name, groups in self.groups.items()
        )
        return check_site(
            Site(
                hosts,
                SPECS,
                ("docker", "preflight"),
                ("docker_compose_*",),
                deny_lists=self.deny_lists,
                is_public_suffix={"org", "uk", "co.uk"}.__contains__,
            )
        )


def set_in(path: str, value: object) -> Callable[[Draft], None]:
    """Set a value by keys joined by blanks; the site's by default, a host's after its name and a colon."""

    def spoil(draft: Draft) -> None:
        host, _, rest = path.rpartition(":")
        target = draft.own[host] if host in draft.own else draft.facts[host[1:]] if host else draft.site
        *keys, last = rest.split()
        for key in keys:
            target = target[key]
        target[last] = value

    return spoil


def two(*spoilers: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        for each in spoilers:
            each(draft)

    return spoil


def group(name: str, *hosts: str) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        for host, groups in draft.groups.items():
            if name in groups:
                groups.remove(name)
            if host in hosts:
                groups.append(name)

    return spoil


def drop(*keys: str) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        target = draft.site
        for key in keys[:-1]:
            target = target[key]
        del target[keys[-1]]

    return spoil


def two_group_pools(draft: Draft) -> None:
    draft.group_pools["gpu1"] = (("cpu_nodes", "cpu"), ("gpu_nodes", "gpu"))


def deny_list(draft: Draft) -> None:
    draft.deny_lists["mining"] = "pool.example.net\npool..example.net # oops\n"


def unused(draft: Draft) -> None:
    """That a class is not used any more is a warning, and not what these cases are about."""
    draft.site["metalhub_profiles"]["slice"]["egress"] = "internal"
    del draft.site["metalhub_egress_classes"]["packages"]


def broken(draft: Draft) -> None:
    draft.broken = {"docker_log_size": "'nothing' is undefined"}


SMALL = SITE["metalhub_profiles"]["small"]

# What is spoiled; the variable, host and words of the one message that follows.
BAD: list[tuple[str, Callable[[Draft], None], str, str | None, str]] = [
    ("unknown variable", set_in("metalhub_domian", "x"), "metalhub_domian", None, "no such variable. Did you mean metalhub_domain?"),
    ("unknown role variable", set_in("compute1:docker_log_sise", "1"), "docker_log_sise", "compute1", "Did you mean docker_log_size?"),
    ("missing variable", drop("metalhub_domain"), "metalhub_domain", None, "A value is needed"),
    ("template", broken, "docker_log_size", None, "cannot be evaluated: 'nothing' is undefined"),
    ("wrong type", set_in("docker_live_restore", "perhaps"), "docker_live_restore", None, "found text, wanted true or false"),
    ("number for text", set_in("metalhub_admin", 10), "metalhub_admin", None, "found a number, wanted text"),
    ("wrong type of a table", set_in("metalhub_pools", ["cpu"]), "metalhub_pools", None, "found a list, wanted a mapping"),
    ("wrong type of an entry", set_in("metalhub_images lab", "lab"), "metalhub_images.lab", None, "found text, wanted a mapping"),
    ("wrong type of a field", set_in("metalhub_flavors std-2x8 cpus", "two"), "metalhub_flavors.std-2x8.cpus", None, "wanted a number"),
    ("unknown field", set_in("metalhub_flavors std-2x8 memmory", "8G"), "metalhub_flavors.std-2x8.memmory", None, "Did you mean memory?"),
    ("missing field", drop("metalhub_flavors", "std-2x8", "memory"), "metalhub_flavors.std-2x8.memory", None, "A value is needed"),
    ("bad name", set_in("metalhub_pools Cpu!", {"sandbox": "runc"}), "metalhub_pools", None, "not a name"),
    (
        "differs",
        set_in("compute1:metalhub_domain", "other.example.org"),
        "metalhub_domain",
        "compute1",
        "differs from its value on control",
    ),
    ("unknown profile key", set_in("metalhub_profiles small egres", "x"), "metalhub_profiles.small.egres", None, "Did you mean egress?"),
    (
        "unknown image",
        set_in("metalhub_profiles small image", "labb"),
        "metalhub_profiles.small.image",
        None,
        "no such image. Did you mean lab?",
    ),
    (
        "unknown flavor",
        set_in("metalhub_profiles small flavor", "std-2x9"),
        "metalhub_profiles.small.flavor",
        None,
        "Did you mean std-2x8?",
    ),
    ("unknown pool", set_in("metalhub_profiles small pool", "tpu"), "metalhub_profiles.small.pool", None, "no such pool"),
    (
        "unknown egress",
        set_in("metalhub_profiles small egress", "intrenal"),
        "metalhub_profiles.small.egress",
        None,
        "Did you mean internal?",
    ),
    ("unknown pool of a host", set_in("compute1:metalhub_pool", "cpus"), "metalhub_pool", "compute1", "no such pool. Did you mean cpu?"),
    ("unknown sandbox", set_in("metalhub_pools cpu sandbox", "gviser"), "metalhub_pools.cpu.sandbox", None, "Did you mean gvisor?"),
    (
        "overlapping subnets",
        set_in("metalhub_egress_classes packages subnet", "10.231.8.0/21"),
        "metalhub_egress_classes.packages.subnet",
        None,
        "overlaps the subnet 10.231.0.0/20 of class internal",
    ),
    (
        "subnet on a host's network",
        set_in("metalhub_egress_classes internal subnet", "10.20.0.0/20"),
        "metalhub_egress_classes.internal.subnet",
        None,
        "the host's own network 10.20.0.0/24 (eth0)",
    ),
    (
        "subnet on one host's network",
        set_in("@gpu1:networks", [{"network": "10.231.4.0/24", "interface": "ib0", "connected": True}]),
        "metalhub_egress_classes.internal.subnet",
        "gpu1",
        "10.231.4.0/24 (ib0)",
    ),
    (
        "subnet on a host's address",
        set_in("@gpu1:addresses", [{"interface": "eth0", "address": "10.20.0.12/24"}, {"interface": "wg0", "address": "10.231.0.9/32"}]),
        "metalhub_egress_classes.internal.subnet",
        "gpu1",
        "own address 10.231.0.9",
    ),
    (
        "no subnet",
        set_in("metalhub_egress_classes internal subnet", "10.231.0.1/20"),
        "metalhub_egress_classes.internal.subnet",
        None,
        "not an IPv4 network",
    ),
    (
        "tiny subnet",
        set_in("metalhub_egress_classes internal subnet", "10.231.0.0/30"),
        "metalhub_egress_classes.internal.subnet",
        None,
        "A /30 does not fit",
    ),
    (
        "host name",
        set_in("metalhub_egress_classes internal allow", ["data..example.org:443"]),
        "metalhub_egress_classes.internal.allow",
        None,
        "This is not a host name",
    ),
    (
        "wildcard over a public suffix",
        set_in("metalhub_egress_internal", ["*.co.uk"]),
        "metalhub_egress_internal",
        None,
        "Below co.uk anybody can have a name",
    ),
    (
        "allowed and denied",
        set_in("metalhub_egress_classes internal deny", ["10.0.0.5:443"]),
        "metalhub_egress_classes.internal.deny",
        None,
        "Allow has the same",
    ),
    (
        "unknown option of a class",
        set_in("metalhub_egress_classes internal denny", ["10.0.0.5:443"]),
        "metalhub_egress_classes.internal.denny",
        None,
        "Did you mean deny?",
    ),
    (
        "unknown deny list",
        set_in("metalhub_egress_classes internal deny_lists", ["minig"]),
        "metalhub_egress_classes.internal.deny_lists",
        None,
        "Did you mean mining?",
    ),
    ("bad line of a deny list", deny_list, "metalhub_egress_deny_lists.mining", None, "This is not a host name"),
    (
        "bandwidth",
        set_in("metalhub_egress_classes internal bandwidth", "100"),
        "metalhub_egress_classes.internal.bandwidth",
        None,
        "This is not a bandwidth",
    ),
    (
        "connections",
        set_in("metalhub_egress_classes internal connections", 0),
        "metalhub_egress_classes.internal.connections",
        None,
        "not a number of connections",
    ),
    ("log", set_in("metalhub_egress_classes internal log", "none"), "metalhub_egress_classes.internal.log", None, "not one of the choices"),
    ("nameserver", set_in("metalhub_nameservers", ["dns.example.org"]), "metalhub_nameservers", None, "This is not an IP address"),
    ("site network", set_in("metalhub_site_networks", ["10.20.0.1/16"]), "metalhub_site_networks", None, "has host bits set"),
    ("egress list", set_in("metalhub_egress_packages", "pypi.example.org"), "metalhub_egress_packages", None, "wanted a list"),
    ("profile without a class", drop("metalhub_profiles", "small", "egress"), "metalhub_profiles.small.egress", None, "A value is needed"),
    (
        "built-in subnet taken",
        two(set_in("metalhub_profiles small egress", "open"), set_in("metalhub_egress_classes internal subnet", "10.231.40.0/24"), unused),
        "metalhub_egress_classes.open.subnet",
        None,
        "overlaps the subnet 10.231.40.0/24 of class internal",
    ),
    (
        "bad port",
        set_in("metalhub_egress_classes internal allow", ["10.0.0.5:0"]),
        "metalhub_egress_classes.internal.allow",
        None,
        "0 is not a port",
    ),
    (
        "long class",
        set_in("metalhub_egress_classes abcdefghijklm", {"subnet": "10.9.0.0/24"}),
        "metalhub_egress_classes",
        None,
        "cannot name",
    ),
    ("no control host", group("metalhub_control"), "metalhub_control", None, "There is no control host"),
    ("two control hosts", group("metalhub_control", "control", "compute1"), "metalhub_control", None, "There are 2 control hosts"),
    ("no storage", group("metalhub_storage"), "metalhub_storage", None, "There is no storage host"),
    ("no registry", group("metalhub_registry"), "metalhub_registry", None, "There is no registry host"),
    ("no builder", group("metalhub_builders"), "metalhub_builders", None, "no host that builds"),
    (
        "two managers",
        group("metalhub_managers", "control", "gpu1"),
        "metalhub_managers",
        None,
        "There are 2 Swarm managers. An even number",
    ),
    ("foreign manager", group("metalhub_managers", "gpu1"), "metalhub_managers", None, "control host control is not a manager"),
    ("two pools in a list", set_in("gpu1:metalhub_pool", ["cpu", "gpu"]), "metalhub_pool", "gpu1", "Two pools on one node"),
    ("two pools by groups", two_group_pools, "metalhub_pool", "gpu1", "cpu_nodes says cpu, gpu_nodes says gpu"),
    ("no pool", set_in("gpu1:metalhub_pool", None), "metalhub_pool", "gpu1", "A compute host needs a pool"),
    ("pool of no compute host", set_in("control:metalhub_pool", "cpu"), "metalhub_pool", "control", "not in metalhub_compute"),
    (
        "big flavor, memory",
        set_in("metalhub_flavors std-2x8 memory", "65G"),
        "metalhub_profiles.small.flavor",
        None,
        "bigger than every node of pool cpu: compute1 has 16 CPUs, 64G",
    ),
    ("big flavor, cpus", set_in("metalhub_flavors std-2x8 cpus", 17), "metalhub_profiles.small.flavor", None, "bigger than every node"),
    ("no cpu", set_in("metalhub_flavors std-2x8 cpus", 0), "metalhub_flavors.std-2x8.cpus", None, "needs a part of a CPU"),
    ("no memory", set_in("metalhub_flavors std-2x8 memory", "0G"), "metalhub_flavors.std-2x8.memory", None, "needs memory"),
    (
        "duplicate profile",
        set_in("metalhub_profiles again", {**SMALL, "title": "small "}),
        "metalhub_profiles.again.title",
        None,
        "A duplicate profile: small",
    ),
    (
        "two defaults",
        lambda d: [p.update(default=True) for p in d.site["metalhub_profiles"].values()] and None,
        "metalhub_profiles",
        None,
        "More than one",
    ),
    ("no profile", set_in("metalhub_profiles", {}), "metalhub_profiles", None, "There is no profile"),
    (
        "bad duration",
        set_in("metalhub_profiles small idle_stop", "30"),
        "metalhub_profiles.small.idle_stop",
        None,
        "This is not a duration",
    ),
    *[
        (
            f"bad {key}",
            set_in(f"metalhub_profiles small {key}", "soon"),
            f"metalhub_profiles.small.{key}",
            None,
            "This is not a duration",
        )
        for key in ("extension", "background_limit", "hibernate_after")
    ],
    (
        "bad variable",
        set_in("metalhub_profiles small environment", {"MY-VAR": "x"}),
        "metalhub_profiles.small.environment",
        None,
        "names no variable",
    ),
    (
        "variable that is no text",
        set_in("metalhub_profiles small environment", {"THREADS": 4}),
        "metalhub_profiles.small.environment.THREADS",
        None,
        "value is text",
    ),
    (
        "number as duration",
        set_in("metalhub_profiles small idle_stop", 30),
        "metalhub_profiles.small.idle_stop",
        None,
        "found a number, wanted numbers with units",
    ),
    ("bad size", set_in("metalhub_flavors std-2x8 memory", "8X"), "metalhub_flavors.std-2x8.memory", None, "This is not a size"),
    ("bad home size", set_in("metalhub_home_size", "lots"), "metalhub_home_size", None, "This is not a size"),
    (
        "image twice",
        set_in("metalhub_images lab reference", f"r.example.org/lab@sha256:{'0' * 64}"),
        "metalhub_images.lab",
        None,
        "built, referred to, or in an archive",
    ),
    (
        "image by tag",
        set_in("metalhub_images lab", {"title": "x", "reference": "r.example.org/lab:1"}),
        "metalhub_images.lab.reference",
        None,
        "not pinned by digest",
    ),
    (
        "MIG in gvisor",
        set_in("metalhub_profiles slice pool", "cpu"),
        "metalhub_profiles.slice.flavor",
        None,
        "MIG slices do not work in the sandbox gvisor",
    ),
    (
        "MIG in kata",
        two(set_in("metalhub_pools gpu sandbox", "kata"), set_in("gpu1:metalhub_pool", "cpu")),
        "metalhub_profiles.slice.flavor",
        None,
        "MIG slices do not work in the sandbox kata",
    ),
    ("hosts for kata", set_in("metalhub_pools cpu sandbox", "kata"), "metalhub_pool", "compute1", "this version does not install"),
    ("GPU without GPUs", set_in("metalhub_pools gpu sandbox", "runc"), "metalhub_profiles.slice.flavor", None, "offers no GPU"),
    (
        "bad MIG",
        set_in("metalhub_flavors mig-1g10 gpu profile", "small"),
        "metalhub_flavors.mig-1g10.gpu.profile",
        None,
        "not a MIG profile",
    ),
    ("no GPU", set_in("metalhub_flavors mig-1g10 gpu count", 0), "metalhub_flavors.mig-1g10.gpu.count", None, "at least one"),
    ("address", set_in("gpu1:metalhub_address", "gpu1.example.org"), "metalhub_address", "gpu1", "not an IP address"),
    ("loopback", set_in("gpu1:metalhub_address", "127.0.0.1"), "metalhub_address", "gpu1", "loopback"),
    ("distribution", lambda d: d.facts["gpu1"].update(os_version="11", os_major=11), "metalhub_host.os_name", "gpu1", "not supported"),
    ("architecture", set_in("@gpu1:arch", "riscv64"), "metalhub_host.arch", "gpu1", "not supported"),
    ("no systemd", set_in("@gpu1:systemd", False), "metalhub_host.systemd", "gpu1", "systemd"),
    ("skew", set_in("@gpu1:skew", -400), "metalhub_host.skew", "gpu1", "400 seconds behind"),
    ("quota", set_in("metalhub_quotas default", "sessions"), "metalhub_quotas.default", None, "not a limit"),
    (
        "quota period",
        set_in("metalhub_quotas groups research", "gpu-a100=8h/year"),
        "metalhub_quotas.groups.research",
        None,
        "no such period",
    ),
    ("quota resource", set_in("metalhub_quotas default", "session=2"), "metalhub_quotas.default", None, "Did you mean sessions?"),
    ("quota number", set_in("metalhub_quotas users", {"eve": "sessions=8G"}), "metalhub_quotas.users.eve", None, "not a number of sessions"),
    ("quota size", set_in("metalhub_quotas default", "memory=64"), "metalhub_quotas.default", None, "64 is not a size"),
    ("quota time", set_in("metalhub_quotas default", "gpu-a100=8h"), "metalhub_quotas.default", None, "needs a period"),
    ("quota twice", set_in("metalhub_quotas default", "sessions=2, sessions=3"), "metalhub_quotas.default", None, "once more"),
    ("time zone", set_in("metalhub_time_zone", "Europe/Berln"), "metalhub_time_zone", None, "Did you mean Europe/Berlin?"),
    ("rates", set_in("metalhub_rates", {"currency": "EUR", "disk": 1}), "metalhub_rates.disk", None, "no resource disk"),
    ("rates without currency", set_in("metalhub_rates", {"cpu": 1}), "metalhub_rates.currency", None, "no currency"),
    ("quota notice", set_in("metalhub_quota_notice", "soon"), "metalhub_quota_notice", None, "duration"),
    ("queue patience", set_in("metalhub_queue_patience", "long"), "metalhub_queue_patience", None, "duration"),
    ("queue priority", set_in("metalhub_queue_priorities", {"clinical": "high"}), "metalhub_queue_priorities.clinical", None, "'high'"),
    ("queue priority range", set_in("metalhub_queue_priorities", {"clinical": 101}), "metalhub_queue_priorities.clinical", None, "101"),
    ("gpu model", set_in("metalhub_flavors mig-1g10 gpu model", "A100 PCIe"), "metalhub_flavors.mig-1g10.gpu.model", None, "not a model"),
    ("quota key", set_in("metalhub_quotas defaults", "sessions=1"), "metalhub_quotas.defaults", None, "Did you mean default?"),
]


@pytest.mark.parametrize(("spoil", "variable", "host", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_has_one_message(spoil: Callable[[Draft], None], variable: str, host: str | None, words: str) -> None:
    draft = Draft()
    spoil(draft)
    problems = [p for p in draft.check() if not p.warning]
    found = [p for p in problems if p.variable == variable and words in p.message]
    assert len(found) == 1, problems
    assert found[0].host == host
    # One mistake has one message, unless it breaks what refers to it.
    assert len(problems) == 1 or variable in {"metalhub_pools", "metalhub_images.lab"}, problems


def test_a_right_site_has_no_problem() -> None:
    draft = Draft()
    assert draft.check() == []
    assert draft.check(facts=False) == []


def test_a_slice_by_its_place_is_one() -> None:
    draft = Draft()
    draft.own["gpu1"].update(mig_wanted={}, mig_layout={0: [{"profile": "1g.10gb", "start": 0}]})
    assert draft.check() == []


WARNINGS: list[tuple[Callable[[Draft], None], str, str]] = [
    (set_in("metalhub_pools spare", {"sandbox": "kata"}), "metalhub_pools.spare", "No host serves this pool"),
    (set_in("@gpu1:gpus", 0), "metalhub_profiles.slice.flavor", "No NVIDIA GPU was found"),
    (set_in("gpu1:mig_wanted", {"3g.40gb": 1}), "metalhub_profiles.slice.flavor", "is to have a slice 1g.10gb"),
    (
        two(set_in("gpu1:mig_wanted", {}), set_in("gpu1:mig_layout", {0: False, 1: [{"profile": "3g.40gb", "start": 0}]})),
        "metalhub_profiles.slice.flavor",
        "is to have a slice 1g.10gb",
    ),
    (set_in("metalhub_egress_classes spare", {"subnet": "10.9.0.0/24"}), "metalhub_egress_classes.spare", "No profile uses this class"),
    (
        set_in("metalhub_egress_classes internal allow", ["10.0.0.0/24", "10.0.0.5:443"]),
        "metalhub_egress_classes.internal",
        "is covered by 10.0.0.0/24",
    ),
    (
        set_in("metalhub_egress_classes internal allow", [f"10.0.0.{n}" for n in range(200)]),
        "metalhub_egress_classes",
        "There are 180 more entries that add nothing",
    ),
    (set_in("@gpu1:skew", 40), "metalhub_host.skew", "40 seconds ahead"),
    (set_in("@gpu1:disk_free", 2**30), "metalhub_host.disk_free", "little space"),
    (set_in("metalhub_profiles small idle_stop", "9h"), "metalhub_profiles.small.idle_stop", "ends after max_session"),
    (set_in("metalhub_profiles small hibernate_after", "30m"), "metalhub_profiles.small.hibernate_after", "before it could be hibernated"),
    (set_in("metalhub_profiles slice hibernate_after", "10m"), "metalhub_profiles.slice.hibernate_after", "no effect: a session with a GPU"),
    (set_in("gpu1:metalhub_address", "10.20.0.99"), "metalhub_address", "no such address itself"),
    (
        set_in("@gpu1:networks", [{"network": "10.0.0.0/8", "interface": "eth0", "connected": False}]),
        "metalhub_egress_classes.internal.subnet",
        "a route to, 10.0.0.0/8",
    ),
]


@pytest.mark.parametrize(("spoil", "variable", "words"), WARNINGS)
def test_warnings(spoil: Callable[[Draft], None], variable: str, words: str) -> None:
    draft = Draft()
    spoil(draft)
    problems = draft.check()
    assert [p for p in problems if not p.warning] == []
    assert [p for p in problems if p.variable == variable and words in p.message]


def test_defaults_not_loaded_is_the_only_message() -> None:
    draft = Draft()
    draft.site.clear()
    problems = draft.check()
    assert [p.variable for p in problems] == ["metalhub_defaults_loaded"]
    assert "00-metalhub" in problems[0].legal


def test_bridges_of_a_former_run_are_no_overlap() -> None:
    draft = Draft()
    draft.facts["gpu1"]["networks"] = [{"network": "10.231.0.0/20", "interface": "mh-internal", "connected": True}]
    draft.facts["gpu1"]["addresses"].append({"interface": "mh-internal", "address": "10.231.0.1/20"})
    assert draft.check() == []


def test_problems_of_all_hosts_come_together() -> None:
    draft = Draft()
    draft.facts["compute1"]["os_version"] = draft.facts["gpu1"]["os_version"] = "11"
    draft.facts["compute1"]["os_major"] = draft.facts["gpu1"]["os_major"] = 11
    draft.site["metalhub_home_size"] = "lots"
    draft.own["gpu1"]["metalhub_pool"] = "tpu"
    assert {(p.variable, p.host) for p in draft.check() if not p.warning} == {
        ("metalhub_host.os_name", "compute1, gpu1"),
        ("metalhub_home_size", None),
        ("metalhub_pool", "gpu1"),
    }


def test_a_machine_that_only_builds_is_no_part_of_the_platform() -> None:
    draft = Draft()
    draft.groups["control"].remove("metalhub_builders")
    draft.groups["laptop"] = ["metalhub_builders"]
    draft.own["laptop"] = {"metalhub_address": "localhost"}
    draft.facts["laptop"] = {**FACTS, "os_id": "gentoo", "systemd": False, "addresses": [{"interface": "x", "address": "10.231.0.1/24"}]}
    assert draft.check() == []


def test_variables_of_others_can_be_listed() -> None:
    draft = Draft()
    draft.site["docker_compose_version"] = "2"
    assert draft.check() == []


@pytest.mark.parametrize(
    "good",
    [
        "",
        "sessions=2",
        "sessions=2, workspace=100G",
        "gpu-a100=8h/day, gpu-a100=40h/month",
        "gpu-a100=8h/day, 40h/month",
        "gpu-a100=deny",
        "memory=unlimited",
        "unlimited",
        "deny",
    ],
)
def test_quotas(good: str) -> None:
    assert list(quota_faults("q", good)) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["cpu", "sandbox", "image", "subnet", "allow"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(SPECS)), values, max_size=4))
def test_no_value_breaks_the_check(variables: dict[str, Any]) -> None:
    draft = Draft()
    draft.site.update(variables)
    for problem in draft.check():
        assert problem.message


@given(values, st.sampled_from(["str", "int", "float", "bool", "list", "dict", "path", "raw", "size", "duration"]))
def test_types_agree_with_themselves(value: Any, kind: str) -> None:
    wrong = list(check_value("x", value, {"type": kind}))
    natural = {str: {"str", "path", "raw"}, bool: {"bool", "raw"}, list: {"list", "raw"}, dict: {"dict", "raw"}}
    if kind in natural.get(type(value), set()):
        assert not wrong


def test_a_limit_of_gpus_that_no_flavor_gives_is_told() -> None:
    draft = Draft()
    draft.site["metalhub_quotas"]["users"] = {"eve": "gpu-h100=8h/day, gpu=40h/month", "bob": "gpu-a100=deny"}
    draft.site["metalhub_flavors"]["whole"] = {"cpus": 1, "memory": "1G", "gpu": {"model": "a100"}}
    (told,) = [p for p in draft.check() if p.variable.startswith("metalhub_quotas")]
    assert (told.variable, told.value, told.warning) == ("metalhub_quotas.users.eve", "gpu-h100", True)
    assert told.message == "No flavor gives gpu-h100, so nothing counts against it." and "gpu-1g.10gb, gpu-a100" in told.legal
